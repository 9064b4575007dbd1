//! Who asks, and how that was shown. A `Verified*` value exists only if this crate verified it.

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::credential::{self, CredentialId, VerifiedSecret};
use crate::device::VerifiedDevice;
use crate::holder::Holder;
use crate::label::ProfileName;
use crate::name::AlternativeName;
use crate::request::RequestedNames;
use crate::serial::Serial;
use crate::subject_key::ProvenKey;
use crate::ticket::Release;

/// What a requester showed.
#[derive(Clone, Debug)]
pub enum Evidence {
    /// Control of identifiers, shown to an account (ACME).
    Challenges(Challenges),
    /// The key of a certificate that one of our authorities issued (EST, SCEP renewal, CMP signature).
    Certificate(VerifiedCertificate),
    /// The secret of a credential (SCEP challenge, API token).
    Secret(VerifiedSecret),
    /// The word of a device management system.
    Device(VerifiedDevice),
    /// Nothing but possession of the key that shall be certified: an operator has to decide (SCEP without a challenge).
    KeyAlone(KeyAlone),
    /// The word of an operator, or of the daemon for its own needs.
    Operator(Approval),
}

/// Identifiers whose control an account has shown.
#[derive(Clone, Debug)]
pub struct Challenges {
    /// The account, unique within its protocol.
    pub account: String,
    /// What it controls.
    pub identifiers: Vec<ValidatedIdentifier>,
    /// The credential that the account was made with (external account binding). Its binding applies as it is now; while it is
    /// disabled, or when it is removed, the account gets nothing.
    pub credential: Option<CredentialId>,
}

/// One identifier whose control was shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatedIdentifier {
    /// The name, without a wildcard label.
    pub name: AlternativeName,
    /// Whether `*.` before the name was shown as well.
    pub wildcard: bool,
    /// How: `http-01`, `dns-01`, ...
    pub method: String,
    /// When.
    pub at: Time,
    /// What was seen: the address asked, the record found.
    pub detail: String,
}

/// A certificate of ours, byte for byte the stored one, neither revoked nor expired.
///
/// [`Engine::verify_certificate`](crate::Engine::verify_certificate) makes one that says who asks: for which names is up to the
/// access rules ([`EvidenceKind::Certificate`]). [`Engine::verify_renewal`](crate::Engine::verify_renewal) makes one that asks for
/// its successor: the same authority, the same subject, no other names ([`EvidenceKind::Renewal`]).
#[derive(Clone, Debug)]
pub struct VerifiedCertificate {
    pub(crate) serial: Serial,
    pub(crate) renewal: bool,
    pub(crate) names: RequestedNames,
    pub(crate) profile: ProfileName,
    pub(crate) holder: Option<Box<Holder>>,
    pub(crate) public_key: Vec<u8>,
    pub(crate) not_after: Time,
}

impl VerifiedCertificate {
    /// The certificate's serial.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Its subject and alternative names: what a renewal may ask for.
    #[must_use]
    pub fn names(&self) -> &RequestedNames {
        &self.names
    }

    /// The profile that it was issued under.
    #[must_use]
    pub fn profile(&self) -> &ProfileName {
        &self.profile
    }

    /// Whom it is for, if a management service asked for it.
    #[must_use]
    pub fn holder(&self) -> Option<&Holder> {
        self.holder.as_deref()
    }

    /// Its SubjectPublicKeyInfo, DER: to tell a renewal with the same key from one with a new key.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The last moment of its validity.
    #[must_use]
    pub fn not_after(&self) -> Time {
        self.not_after
    }
}

/// A requester of whom only the key is known.
#[derive(Clone, Debug)]
pub struct KeyAlone {
    fingerprint: [u8; 32],
}

impl KeyAlone {
    /// Whoever holds this key.
    #[must_use]
    pub fn of(key: &ProvenKey) -> Self {
        Self { fingerprint: key.subject_key().fingerprint() }
    }
}

/// The word of an operator.
#[derive(Clone, Debug)]
pub struct Approval {
    pub(crate) operator: String,
    /// The request that is released, if it waited for approval.
    pub(crate) released: Option<Box<Release>>,
    /// Whether the daemon itself asks, for its own needs.
    pub(crate) daemon: bool,
}

/// The kinds of evidence, as access rules and records name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceKind {
    /// [`Evidence::Challenges`].
    Challenges,
    /// [`Evidence::Certificate`] of a requester.
    Certificate,
    /// [`Evidence::Certificate`] that asks for its successor.
    Renewal,
    /// [`Evidence::Secret`].
    Secret,
    /// [`Evidence::Device`].
    Device,
    /// [`Evidence::KeyAlone`]. Whatever a rule says, an operator decides.
    KeyAlone,
    /// [`Evidence::Operator`].
    Operator,
}

/// What of the evidence is decided upon and kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceFacts {
    /// The kind of evidence.
    pub kind: EvidenceKind,
    /// Who asks: `account:..`, `certificate:..`, `credential:..`, `device:..`, `key:..`, `operator:..`.
    pub requester: String,
    /// The identifiers whose control was shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identifiers: Vec<ValidatedIdentifier>,
    /// The operator who released the request, if it waited for approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// The credential that the request rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialId>,
}

impl EvidenceFacts {
    /// Whether this is what anybody can have, in any number: keys, and accounts that no credential stands behind.
    pub(crate) fn is_anybody(&self) -> bool {
        matches!(self.kind, EvidenceKind::Challenges | EvidenceKind::KeyAlone)
            && self.credential.is_none()
            && self.approved_by.is_none()
    }
}

impl Evidence {
    pub(crate) fn facts(&self) -> EvidenceFacts {
        let (kind, requester) = match self {
            Self::Challenges(challenges) => {
                return EvidenceFacts {
                    kind: EvidenceKind::Challenges,
                    requester: format!("account:{}", challenges.account),
                    identifiers: challenges.identifiers.clone(),
                    approved_by: None,
                    credential: challenges.credential.clone(),
                };
            }
            Self::Secret(secret) => {
                return EvidenceFacts {
                    kind: EvidenceKind::Secret,
                    requester: credential::requester(secret.id()),
                    identifiers: Vec::new(),
                    approved_by: None,
                    credential: Some(secret.id().clone()),
                };
            }
            Self::Operator(Approval { operator, released: Some(release), .. }) => {
                return EvidenceFacts { approved_by: Some(operator.clone()), ..release.facts().clone() };
            }
            Self::Certificate(certificate) => {
                let kind = if certificate.renewal { EvidenceKind::Renewal } else { EvidenceKind::Certificate };
                (kind, format!("certificate:{}", certificate.serial))
            }
            Self::Device(device) => (EvidenceKind::Device, device.requester()),
            Self::KeyAlone(key) => (EvidenceKind::KeyAlone, format!("key:{}", hex::encode(key.fingerprint))),
            Self::Operator(approval) => (EvidenceKind::Operator, format!("operator:{}", approval.operator)),
        };
        EvidenceFacts { kind, requester, identifiers: Vec::new(), approved_by: None, credential: None }
    }
}
