//! Who asks, and how that was shown. A `Verified*` value exists only if this crate verified it.

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::name::AlternativeName;
use crate::serial::Serial;
use crate::ticket::Release;

/// What a requester showed.
#[derive(Clone, Debug)]
pub enum Evidence {
    /// Control of identifiers, shown to an account (ACME).
    Challenges(Challenges),
    /// The key of a certificate that one of our authorities issued (EST, SCEP renewal, CMP signature).
    Certificate(VerifiedCertificate),
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
#[derive(Clone, Debug)]
pub struct VerifiedCertificate {
    pub(crate) serial: Serial,
    pub(crate) requester: String,
}

impl VerifiedCertificate {
    /// The certificate's serial.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
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
    /// [`Evidence::Certificate`].
    Certificate,
    /// [`Evidence::Operator`].
    Operator,
}

/// What of the evidence is decided upon and kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceFacts {
    /// The kind of evidence.
    pub kind: EvidenceKind,
    /// Who asks: `account:..`, `certificate:..`, `operator:..`.
    pub requester: String,
    /// The identifiers whose control was shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identifiers: Vec<ValidatedIdentifier>,
    /// The operator who released the request, if it waited for approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
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
                };
            }
            Self::Operator(Approval { operator, released: Some(release), .. }) => {
                return EvidenceFacts { approved_by: Some(operator.clone()), ..release.facts().clone() };
            }
            Self::Certificate(certificate) => (EvidenceKind::Certificate, certificate.requester.clone()),
            Self::Operator(approval) => (EvidenceKind::Operator, format!("operator:{}", approval.operator)),
        };
        EvidenceFacts { kind, requester, identifiers: Vec::new(), approved_by: None }
    }
}
