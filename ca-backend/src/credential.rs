//! Credentials: what operators hand to machines, so that these can show who they are. One concept for ACME external account
//! binding, SCEP challenges and API tokens.
//!
//! A credential belongs to one endpoint and serves one purpose. What it may be used for is its [`Binding`], which applies on top of
//! the endpoint's access rules: it narrows them and never widens them. Its secret is shown once, when it is made. The store holds a
//! keyed digest of it ([`CredentialPurpose::Challenge`], [`CredentialPurpose::Token`]), or the key encrypted where its value is
//! needed to verify a MAC ([`CredentialPurpose::ExternalAccount`]).

pub(crate) mod attempts;
mod binding;
mod keeping;
mod secret;
mod spending;
mod verifying;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::Time;
use crate::error::{Reason, Refusal};
use crate::holder::Holder;
use crate::label::{EndpointName, ProfileName};
use crate::name::{AlternativeName, DistinguishedName};
use crate::policy::NameRules;
use crate::subject_key::SubjectKeyKind;

pub(crate) use secret::SecretKeys;
pub(crate) use spending::Spending;
pub use verifying::{MacAlgorithm, SecretScope, VerifiedSecret};

/// Names a credential: letters, digits, `-`, `.`, `_`, at most 64, the first a letter or digit. Safe in URLs and as an argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CredentialId(Arc<str>);

impl CredentialId {
    /// Checks and wraps an identifier.
    ///
    /// # Errors
    /// `Reason::Malformed` that says which identifiers there may be.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        const OCTETS_MAX: usize = 64;
        let fits = text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet));
        if fits && text.len() <= OCTETS_MAX && text.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return Ok(Self(text.into()));
        }
        Err(Refusal::new(
            Reason::Malformed,
            "a credential is named by up to 64 letters, digits, and - . _ after the first of them",
        ))
    }

    /// The identifier.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for CredentialId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text).map_err(|refusal| refusal.public().to_owned())
    }
}

impl From<CredentialId> for String {
    fn from(id: CredentialId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl std::str::FromStr for CredentialId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.to_owned())
    }
}

/// What a credential is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialPurpose {
    /// A MAC key that ties an ACME account to what is known of its owner (RFC 8555 section 7.3.4).
    ExternalAccount,
    /// A text in a request for a certificate: challengePassword of SCEP. With `uses_max = 1` it is a one-time challenge.
    Challenge,
    /// A bearer token of a web service, with the rights in [`Binding::rights`].
    Token,
}

impl CredentialPurpose {
    /// Every purpose.
    pub const ALL: [Self; 3] = [Self::ExternalAccount, Self::Challenge, Self::Token];

    /// The purpose in kebab case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ExternalAccount => "external-account",
            Self::Challenge => "challenge",
            Self::Token => "token",
        }
    }
}

impl fmt::Display for CredentialPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for CredentialPurpose {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|purpose| purpose.name() == text);
        found.ok_or_else(|| format!("{text:?} is no purpose of a credential; choose one of {names}"))
    }
}

/// What the bearer of a token may do at its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    /// Obtain certificates, new ones and renewals.
    Issue,
    /// Revoke certificates that the endpoint issued.
    Revoke,
    /// Hold and release certificates that the endpoint issued.
    Hold,
    /// See certificates that the endpoint issued, and what can be had.
    List,
    /// Make, list and remove one-time challenges.
    CreateChallenges,
}

impl Right {
    /// Every right.
    pub const ALL: [Self; 5] = [Self::Issue, Self::Revoke, Self::Hold, Self::List, Self::CreateChallenges];

    /// The right in kebab case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Revoke => "revoke",
            Self::Hold => "hold",
            Self::List => "list",
            Self::CreateChallenges => "create-challenges",
        }
    }
}

impl std::str::FromStr for Right {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|right| right.name() == text);
        found.ok_or_else(|| format!("{text:?} is no right of a token; choose among {names}"))
    }
}

/// What a credential may be used for. What is not stated is left to the endpoint's rules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Binding {
    /// The names that may stand, each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<NameRules>,
    /// The one subject that a request may have: the same attributes with the same values, in any order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<DistinguishedName>,
    /// The alternative names that a request must have, all of them and no others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alternative_names: Option<Vec<AlternativeName>>,
    /// The profiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Vec<ProfileName>>,
    /// The kinds of subject keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<SubjectKeyKind>>,
    /// How many accounts may be made with it (external account only); no limit if not stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounts_max: Option<u32>,
    /// Names that need no challenge (external account only): an explicit grant. None if not stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_challenge: Option<NameRules>,
    /// What the bearer may do (token only). Nothing if not stated.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub rights: BTreeSet<Right>,
}

/// A wish for a credential.
#[derive(Clone, Debug)]
pub struct NewCredential {
    /// Its name; a random one if not stated.
    pub id: Option<CredentialId>,
    /// Where it may be presented.
    pub endpoint: EndpointName,
    /// What it is for.
    pub purpose: CredentialPurpose,
    /// A remark for people.
    pub comment: String,
    /// Whom the certificates are for that are asked for with it (challenge only).
    pub holder: Option<Holder>,
    /// A secret that an operator chose (challenge only), 8 to 256 octets; a random one if not stated.
    pub secret: Option<SecretText>,
    /// The last moment at which it may be presented.
    pub expires: Option<Time>,
    /// How many certificates it is good for (challenge, token); no limit if not stated.
    pub uses_max: Option<u32>,
    /// What it may be used for.
    pub binding: Binding,
}

/// A change of a credential; what is not stated stays.
#[derive(Clone, Debug, Default)]
pub struct CredentialChange {
    /// The remark.
    pub comment: Option<String>,
    /// The last moment at which it may be presented; `Some(None)` sets no limit.
    pub expires: Option<Option<Time>>,
    /// Whether nothing may be done with it.
    pub disabled: Option<bool>,
    /// Whether no new accounts may be made with it.
    pub accounts_disabled: Option<bool>,
}

/// A credential as operators see it: all but its secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    /// Its name.
    pub id: CredentialId,
    /// Where it may be presented.
    pub endpoint: EndpointName,
    /// What it is for.
    pub purpose: CredentialPurpose,
    /// A remark for people.
    pub comment: String,
    /// When it was made.
    pub created: Time,
    /// Who made it.
    pub created_by: String,
    /// The last moment at which it may be presented.
    pub expires: Option<Time>,
    /// How many certificates it is good for.
    pub uses_max: Option<u32>,
    /// How many certificates were asked for with it, those that wait for approval included; counted only under a limit.
    pub uses: u32,
    /// Requests made with it that wait for approval.
    pub waiting: u32,
    /// Accounts made with it; without a limit on them, 1 stands for any number.
    pub accounts: u32,
    /// Whether nothing may be done with it.
    pub disabled: bool,
    /// Whether no new accounts may be made with it.
    pub accounts_disabled: bool,
    /// Whether an operator chose the secret.
    pub chosen_secret: bool,
    /// Whom the certificates are for that are asked for with it.
    pub holder: Option<Box<Holder>>,
    /// What it may be used for.
    pub binding: Arc<Binding>,
}

impl Credential {
    /// Who asks, as access rules and records name it.
    #[must_use]
    pub fn requester(&self) -> String {
        requester(&self.id)
    }

    /// Whether all its uses are taken.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.uses_max.is_some_and(|max| self.uses >= max)
    }

    /// Whether it may not be presented any more.
    #[must_use]
    pub fn is_expired(&self, now: Time) -> bool {
        self.expires.is_some_and(|last| now > last)
    }
}

pub(crate) fn requester(id: &CredentialId) -> String {
    format!("credential:{id}")
}

/// A secret in the form in which clients are given it, wiped when dropped, never printed.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret. Of a MAC key this is base64url without padding, as ACME clients take it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// Which credentials to list.
#[derive(Clone, Debug, Default)]
pub struct CredentialQuery {
    /// Those of this endpoint.
    pub endpoint: Option<EndpointName>,
    /// Those for this purpose.
    pub purpose: Option<CredentialPurpose>,
    /// Where the last page ended.
    pub cursor: Option<String>,
    /// The most credentials of one page; at most 1,000.
    pub limit: usize,
}
