//! What an OCSP client is told when there is no answer.

use ca_backend::{Error, Fault, Reason};
use der::{Encode, Enumerated, Sequence};

/// The responseStatus of an answer without content (RFC 6960 section 4.2.1). It is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumerated)]
#[repr(u8)]
pub(crate) enum OcspError {
    MalformedRequest = 1,
    InternalError = 2,
    TryLater = 3,
    SigRequired = 5,
    Unauthorized = 6,
}

#[derive(Sequence)]
struct ErrorResponse {
    status: OcspError,
}

impl OcspError {
    /// A whole OCSPResponse of five octets.
    pub(crate) fn response(self) -> Vec<u8> {
        // A SEQUENCE of one octet of ENUMERATED always encodes.
        ErrorResponse { status: self }.to_der().unwrap_or_default()
    }
}

impl From<der::Error> for OcspError {
    fn from(_: der::Error) -> Self {
        Self::MalformedRequest
    }
}

/// `unauthorized` says that this responder does not speak for the certificate, which includes issuers that are not ours.
impl From<&Error> for OcspError {
    fn from(error: &Error) -> Self {
        match error {
            Error::Fault(Fault::Key(_) | Fault::Store(_) | Fault::TryLater { .. }) => Self::TryLater,
            Error::Fault(Fault::Broken(_)) => Self::InternalError,
            Error::Refused(refusal) => match refusal.reason() {
                Reason::Malformed => Self::MalformedRequest,
                Reason::NotReady | Reason::RateLimited => Self::TryLater,
                Reason::NotAuthenticated => Self::SigRequired,
                Reason::AlreadyRevoked
                | Reason::BadAlgorithm
                | Reason::BadKey
                | Reason::BadProof
                | Reason::BadTime
                | Reason::Conflict
                | Reason::NameNotAllowed
                | Reason::NotAuthorized
                | Reason::UnknownCertificate
                | Reason::UnknownProfile
                | Reason::Unsupported => Self::Unauthorized,
            },
        }
    }
}
