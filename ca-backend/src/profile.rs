//! What a certificate of one kind holds: the built-in profiles as data, and those of operators in the same format.

pub mod purpose;

use std::collections::HashSet;
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use const_oid::ObjectIdentifier;
use serde::{Deserialize, Serialize};

use crate::error::{Reason, Refusal};
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
    #[serde(default = "end_entity")]
    pub kind: ProfileKind,
    /// The bits of keyUsage, for a key that can do all of them; [`Profile::key_usage_for`] fits them to a key.
    pub key_usage: Vec<KeyUsageBit>,
    /// The extended key usage.
    pub extended_key_usage: ExtendedKeyUsage,
    /// Extensions that a request may bring.
    #[serde(default)]
    pub request_extensions: Vec<RequestExtension>,
    /// How long certificates are valid.
    #[serde(default = "three_years")]
    pub validity: ProfileValidity,
    /// pathLenConstraint of an authority's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_len: Option<u8>,
    /// Whether the certificate tells clients not to check the responder's own revocation (RFC 6960 section 4.2.2.2.1).
    #[serde(default)]
    pub ocsp_no_check: bool,
    /// The cRLDistributionPoints extension.
    #[serde(default = "always")]
    pub crl_distribution_points: Presence,
    /// The authorityInfoAccess extension: OCSP if it is on, and caIssuers.
    #[serde(default = "if_configured")]
    pub authority_information_access: Presence,
    /// Whether a subjectAltName is allowed.
    #[serde(default = "allowed")]
    pub alternative_names: bool,
}

fn end_entity() -> ProfileKind {
    ProfileKind::EndEntity
}

/// 3 years of 365 days.
fn three_years() -> ProfileValidity {
    ProfileValidity { default_s: 3 * 365 * 86_400, max_s: None }
}

fn always() -> Presence {
    Presence::Always
}

fn if_configured() -> Presence {
    Presence::IfConfigured
}

fn allowed() -> bool {
    true
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
    /// A registration authority, which reads and signs messages on behalf of an authority.
    RegistrationAuthority,
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

/// An extension that a request may bring, if the profile lists it: by the name below in kebab case, or by object identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

impl RequestExtension {
    const ALL: [Self; 6] = [
        Self::CertificatePolicies,
        Self::ApplicationPolicies,
        Self::SmimeCapabilities,
        Self::MicrosoftTemplate,
        Self::MicrosoftTemplateName,
        Self::SecurityIdentifier,
    ];

    /// The extension's object identifier.
    #[must_use]
    pub fn oid(self) -> ObjectIdentifier {
        const CERTIFICATE_POLICIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.32");
        const APPLICATION_POLICIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.21.10");
        const SMIME_CAPABILITIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.15");
        const TEMPLATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.21.7");
        const TEMPLATE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.20.2");
        const SECURITY_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.25.2");
        match self {
            Self::CertificatePolicies => CERTIFICATE_POLICIES,
            Self::ApplicationPolicies => APPLICATION_POLICIES,
            Self::SmimeCapabilities => SMIME_CAPABILITIES,
            Self::MicrosoftTemplate => TEMPLATE,
            Self::MicrosoftTemplateName => TEMPLATE_NAME,
            Self::SecurityIdentifier => SECURITY_IDENTIFIER,
        }
    }

    /// The extension of an object identifier, if requests may ever bring it.
    #[must_use]
    pub fn of(oid: &ObjectIdentifier) -> Option<Self> {
        Self::ALL.into_iter().find(|extension| extension.oid() == *oid)
    }

    /// The name in profiles.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CertificatePolicies => "certificate-policies",
            Self::ApplicationPolicies => "application-policies",
            Self::SmimeCapabilities => "smime-capabilities",
            Self::MicrosoftTemplate => "microsoft-template",
            Self::MicrosoftTemplateName => "microsoft-template-name",
            Self::SecurityIdentifier => "security-identifier",
        }
    }
}

impl From<RequestExtension> for String {
    fn from(extension: RequestExtension) -> Self {
        extension.name().to_owned()
    }
}

impl TryFrom<String> for RequestExtension {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|extension| extension.name() == text);
        named.or_else(|| Self::of(&ObjectIdentifier::new(&text).ok()?)).ok_or_else(|| {
            let choices = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is not an extension that requests may bring; choose among {choices}")
        })
    }
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

/// The file of the built-in profiles.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileFile {
    profile: Vec<Profile>,
}

#[allow(clippy::expect_used)] // compiled in, and read by the tests
static BUILT_IN: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    let file: ProfileFile =
        toml::from_str(include_str!("profiles.toml")).expect("the built-in profiles are well-formed");
    file.profile
});

/// Octets of the longest text of an operator's profile.
const TEXT_BYTES_MAX: usize = 65_536;
/// Octets of the longest id or library.
const ID_BYTES_MAX: usize = 64;
/// Octets of the longest title.
const TITLE_BYTES_MAX: usize = 200;
/// Purposes in the longest extended key usage.
const PURPOSES_MAX: usize = 32;
/// The longest validity of a profile: 100 years.
const VALIDITY_S_MAX: u64 = 100 * 365 * 86_400;

impl Profile {
    /// Every built-in profile, in the order of the file.
    #[must_use]
    pub fn built_in() -> &'static [Self] {
        &BUILT_IN
    }

    /// The built-in profile of this id.
    #[must_use]
    pub fn find(id: &str) -> Option<&'static Self> {
        Self::built_in().iter().find(|profile| profile.id == id)
    }

    /// Reads an operator's profile: one table in the format of the built-in ones.
    ///
    /// # Errors
    /// Refuses what does not follow the format, the id of a built-in profile, and profiles that contradict themselves.
    pub fn from_toml(text: &str) -> Result<Self, Refusal> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(malformed(format!("a profile has more than {TEXT_BYTES_MAX} octets")));
        }
        let profile: Self =
            toml::from_str(text).map_err(|error| malformed(format!("the profile cannot be read: {error}")))?;
        if Self::find(&profile.id).is_some() {
            return Err(Refusal::new(
                Reason::Conflict,
                format!("the profile {} is built in; choose another id", profile.id),
            ));
        }
        profile.check().map_err(|why| malformed(format!("the profile {:?} {why}", profile.id)))?;
        Ok(profile)
    }

    /// The profile in the format that [`Profile::from_toml`] reads.
    #[must_use]
    pub fn to_toml(&self) -> String {
        // Cannot fail: every number of a checked profile fits, and no field is a null.
        toml::to_string(self).unwrap_or_default()
    }

    /// What audit records call this state of the profile: 16 hexadecimal digits of the SHA-256 over its content. Costs a
    /// serialisation: compute it once for a loaded profile.
    #[must_use]
    pub fn snapshot_id(&self) -> String {
        let mut digits = hex::encode(digest(&SHA256, self.to_toml().as_bytes()));
        digits.truncate(16);
        digits
    }

    /// Whether the profile makes authorities.
    #[must_use]
    pub fn is_authority(&self) -> bool {
        matches!(self.kind, ProfileKind::Root | ProfileKind::Subordinate)
    }

    /// The bits of keyUsage for a key of this kind (RFC 8813 section 3, RFC 8410 section 5).
    ///
    /// # Errors
    /// `BadKey` if no bit is left.
    pub fn key_usage_for(&self, key: SubjectKeyKind) -> Result<Vec<KeyUsageBit>, Refusal> {
        let mut fitted = Vec::with_capacity(self.key_usage.len());
        for bit in &self.key_usage {
            if let Some(bit) = bit.for_key(key)
                && !fitted.contains(&bit)
            {
                fitted.push(bit);
            }
        }
        if fitted.is_empty() {
            let fitting = if self.key_usage.iter().any(|bit| bit.for_key(SubjectKeyKind::EcP256).is_some()) {
                "RSA and EC"
            } else {
                "RSA"
            };
            return Err(Refusal::new(
                Reason::BadKey,
                format!("the profile {} is for encryption, which {key} keys cannot do; {fitting} keys fit", self.id),
            ));
        }
        Ok(fitted)
    }

    /// The first contradiction in the profile.
    fn check(&self) -> Result<(), String> {
        for (what, text) in [("id", &self.id), ("library", &self.library)] {
            let fits = text.starts_with(|c: char| c.is_ascii_lowercase())
                && text.len() <= ID_BYTES_MAX
                && text.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-');
            if !fits {
                return Err(format!(
                    "has the {what} {text:?}, which is not a letter and at most 63 lower-case letters, digits and hyphens"
                ));
            }
        }
        if self.title.trim().is_empty()
            || self.title.len() > TITLE_BYTES_MAX
            || self.title.chars().any(char::is_control)
        {
            return Err(format!("needs a title of one line and at most {TITLE_BYTES_MAX} octets"));
        }
        let ProfileValidity { default_s, max_s } = self.validity;
        if default_s == 0
            || default_s > VALIDITY_S_MAX
            || max_s.is_some_and(|max_s| max_s < default_s || max_s > VALIDITY_S_MAX)
        {
            return Err("has a validity that is zero, above its own maximum, or longer than 100 years".to_owned());
        }
        self.check_key_usage()?;
        self.check_extended_key_usage()?;
        let distinct: HashSet<_> = self.request_extensions.iter().collect();
        if distinct.len() != self.request_extensions.len() {
            return Err("names a request extension twice".to_owned());
        }
        if self.is_authority() && !self.request_extensions.is_empty() {
            return Err("makes authorities, and lets requests bring extensions".to_owned());
        }
        if self.path_len.is_some() && !self.is_authority() {
            return Err("has a path_len, which only authorities have".to_owned());
        }
        if self.ocsp_no_check && self.kind != ProfileKind::Responder {
            return Err("has ocsp_no_check, which only responders have".to_owned());
        }
        let addresses = [self.crl_distribution_points, self.authority_information_access];
        if self.kind == ProfileKind::Root && addresses != [Presence::Never; 2] {
            return Err("makes roots, whose certificates name neither a CRL nor an issuer".to_owned());
        }
        Ok(())
    }

    fn check_key_usage(&self) -> Result<(), String> {
        let distinct: HashSet<_> = self.key_usage.iter().collect();
        if self.key_usage.is_empty() || distinct.len() != self.key_usage.len() {
            return Err("has an empty key_usage, or names a bit twice".to_owned());
        }
        let signs_certificates = self.key_usage.contains(&KeyUsageBit::KeyCertSign);
        let signs_crls = self.key_usage.contains(&KeyUsageBit::CrlSign);
        match self.is_authority() {
            true if !signs_certificates || !signs_crls => {
                Err("makes authorities without key-cert-sign and crl-sign".to_owned())
            }
            false if signs_certificates || signs_crls => {
                Err("gives key-cert-sign or crl-sign to somebody who is no authority".to_owned())
            }
            true | false => Ok(()),
        }
    }

    fn check_extended_key_usage(&self) -> Result<(), String> {
        let ExtendedKeyUsage { rule, values, critical } = &self.extended_key_usage;
        let distinct: HashSet<_> = values.iter().collect();
        if distinct.len() != values.len() || values.len() > PURPOSES_MAX {
            return Err(format!("names a purpose twice, or more than {PURPOSES_MAX}"));
        }
        match rule {
            ExtendedKeyUsageRule::Never if !values.is_empty() || *critical => {
                return Err("has purposes although extended_key_usage is never there".to_owned());
            }
            ExtendedKeyUsageRule::Fixed | ExtendedKeyUsageRule::FromRequest if values.is_empty() => {
                return Err("has an extended_key_usage without values".to_owned());
            }
            ExtendedKeyUsageRule::Never | ExtendedKeyUsageRule::Fixed | ExtendedKeyUsageRule::FromRequest => {}
        }
        if *critical && values.contains(&purpose::ANY) {
            return Err("has a critical extended_key_usage for any purpose".to_owned());
        }
        let signs_ocsp = values.contains(&purpose::OCSP_SIGNING);
        match self.kind {
            ProfileKind::Root if *rule != ExtendedKeyUsageRule::Never => {
                Err("makes roots with an extended_key_usage".to_owned())
            }
            ProfileKind::Subordinate if *rule == ExtendedKeyUsageRule::FromRequest => {
                Err("lets an authority choose its own purposes".to_owned())
            }
            ProfileKind::Responder if *rule != ExtendedKeyUsageRule::Fixed || *values != [purpose::OCSP_SIGNING] => {
                Err("makes responders, whose one purpose is ocsp-signing".to_owned())
            }
            ProfileKind::EndEntity | ProfileKind::RegistrationAuthority if signs_ocsp => {
                Err("names ocsp-signing without being of the kind responder".to_owned())
            }
            ProfileKind::Root
            | ProfileKind::Subordinate
            | ProfileKind::Responder
            | ProfileKind::RegistrationAuthority
            | ProfileKind::EndEntity => Ok(()),
        }
    }
}

impl KeyUsageBit {
    /// What stands for this bit in the certificate of a key of this kind.
    fn for_key(self, key: SubjectKeyKind) -> Option<Self> {
        let encrypts = matches!(self, Self::KeyEncipherment | Self::DataEncipherment | Self::KeyAgreement);
        match key {
            _ if !encrypts => Some(self),
            SubjectKeyKind::Rsa { .. } if self == Self::KeyAgreement => Some(Self::KeyEncipherment),
            SubjectKeyKind::Rsa { .. } => Some(self),
            SubjectKeyKind::EcP256 | SubjectKeyKind::EcP384 | SubjectKeyKind::EcP521 => {
                if self == Self::DataEncipherment { None } else { Some(Self::KeyAgreement) }
            }
            SubjectKeyKind::Ed25519 | SubjectKeyKind::MlDsa44 | SubjectKeyKind::MlDsa65 | SubjectKeyKind::MlDsa87 => {
                None
            }
        }
    }
}

fn malformed(why: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Malformed, why)
}
