//! What a protocol asks of the engine.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::evidence::Evidence;
use crate::extension::RequestedExtensions;
use crate::holder::Holder;
use crate::label::{AuthorityName, EndpointName, ProfileName, ProtocolName};
use crate::name::{AlternativeName, DistinguishedName};
use crate::serial::Serial;
use crate::status::RevocationReason;
use crate::subject_key::ProvenKey;

/// A wish for one certificate.
#[derive(Clone, Debug)]
pub struct EnrollmentRequest {
    /// Who shall issue.
    pub authority: AuthorityName,
    /// What kind of certificate.
    pub profile: ProfileName,
    /// The names asked for; the rules decide whether they may stand.
    pub names: RequestedNames,
    /// The extensions asked for; only those that the profile allows may stand.
    pub extensions: RequestedExtensions,
    /// The subject's key, its possession shown.
    pub key: ProvenKey,
    /// A wish for the time of validity.
    pub validity: Option<RequestedValidity>,
    /// Who asks, and how that was shown.
    pub evidence: Evidence,
    /// Whom the certificate is for, as a management service keeps it; `None` leaves that to the challenge or to the certificate that is
    /// renewed.
    pub holder: Option<Holder>,
    /// Where the wish came from: for the audit record, and to know a repeat.
    pub origin: Origin,
}

/// The subject and the alternative names asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestedNames {
    /// The subject; may be empty if there is an alternative name.
    pub subject: DistinguishedName,
    /// The subject alternative names.
    pub alternative: Vec<AlternativeName>,
}

/// A wish for the time of validity. What is not stated is the profile's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestedValidity {
    /// Valid from.
    pub not_before: Option<Time>,
    /// Valid until, inclusive.
    pub not_after: Option<Time>,
}

/// Where a request came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The protocol that brought it.
    pub protocol: ProtocolName,
    /// The endpoint that received it; `None` for operators and the daemon itself, which no access rule binds.
    pub endpoint: Option<EndpointName>,
    /// The protocol's own name of the exchange: an order, a transactionID.
    pub transaction: String,
    /// SHA-256 of the CSR or what stands for it. Same protocol, endpoint, transaction and digest: the same request again.
    #[serde(with = "serde_bytes")]
    pub request_digest: [u8; 32],
    /// The client's address.
    pub peer: Option<IpAddr>,
    /// Names the request in the log.
    pub request_id: String,
}

/// A wish to change a certificate's status.
#[derive(Clone, Debug)]
pub struct RevocationRequest {
    /// Which certificate.
    pub serial: Serial,
    /// What shall happen.
    pub change: StatusChange,
    /// A remark for the audit record.
    pub comment: String,
    /// Who asks, and how that was shown.
    pub evidence: Evidence,
    /// Where the wish came from.
    pub origin: Origin,
}

/// A change of a certificate's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatusChange {
    /// For good.
    Revoke {
        /// Why.
        reason: RevocationReason,
        /// When the key is thought to have been compromised (invalidityDate).
        invalidity: Option<Time>,
    },
    /// Until it is lifted or becomes final.
    Hold,
    /// Lifts a hold.
    Unhold,
}
