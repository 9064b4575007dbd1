//! What a client is told when it gets no certificate: a failInfo in a CertRep, or an HTTP status where no CertRep can be made.

use ca_backend::{Error, Fault, Reason, RecordError, Refusal};
use http::StatusCode;

/// failInfo (RFC 8894 section 3.2.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(clippy::enum_variant_names, reason = "the names are those of the RFC")]
pub(crate) enum FailInfo {
    BadAlg = 0,
    BadMessageCheck = 1,
    BadRequest = 2,
    BadTime = 3,
    BadCertId = 4,
}

/// An answer without a CertRep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpError {
    pub(crate) status: StatusCode,
    /// Text for people.
    pub(crate) text: &'static str,
    pub(crate) retry_after_s: Option<u32>,
}

impl HttpError {
    pub(crate) fn bad_request(text: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text, retry_after_s: None }
    }

    pub(crate) fn not_found(text: &'static str) -> Self {
        Self { status: StatusCode::NOT_FOUND, text, retry_after_s: None }
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self { status: StatusCode::METHOD_NOT_ALLOWED, text: "GET and POST are allowed here", retry_after_s: None }
    }
}

/// What a fault shows to the client: that it was not the client's doing, and when to come back.
impl From<&Fault> for HttpError {
    fn from(fault: &Fault) -> Self {
        /// Long enough for a store or key store to be restarted, short enough for a person who waits.
        const RETRY_AFTER_S: u32 = 30;
        let retry_after_s = match fault {
            Fault::TryLater { after_s } => *after_s,
            Fault::Key(_) | Fault::Store(_) => RETRY_AFTER_S,
            Fault::Broken(_) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                return Self { status, text: "the server failed; its log has the cause", retry_after_s: None };
            }
        };
        let text = "the server cannot do this now; try again later";
        Self { status: StatusCode::SERVICE_UNAVAILABLE, text, retry_after_s: Some(retry_after_s) }
    }
}

/// Why a message gets no certificate.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client's to fix: a CertRep says so.
    Rejected(Rejection),
    /// No CertRep can be made.
    Http(HttpError),
    /// Ours to fix.
    Fault(Fault),
}

/// What a CertRep with the status FAILURE says, and what only the log does.
#[derive(Clone, Debug)]
pub(crate) struct Rejection {
    pub(crate) fail_info: FailInfo,
    /// failInfoText.
    pub(crate) public: String,
    pub(crate) private: String,
    /// Whether it is in the audit log already.
    pub(crate) audited: bool,
}

impl Rejection {
    pub(crate) fn new(fail_info: FailInfo, public: impl Into<String>) -> Self {
        Self { fail_info, public: public.into(), private: String::new(), audited: false }
    }

    pub(crate) fn with_private(self, private: impl Into<String>) -> Self {
        Self { private: private.into(), ..self }
    }

    /// The one answer to everything that goes wrong between the ciphertext and a request that proves possession of its key by the
    /// key that signed the message: nobody learns how far an altered message got (checklist S-09).
    pub(crate) fn unreadable(private: impl Into<String>) -> Self {
        let text = "the message cannot be decrypted or does not verify";
        Self::new(FailInfo::BadMessageCheck, text).with_private(private)
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Fault(fault) => Self::Fault(fault),
            Error::Refused(refusal) => Rejection::from(&refusal).into(),
        }
    }
}

/// A refusal of a value that is read here.
impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Rejection { audited: false, ..Rejection::from(&refusal) }.into()
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Error::from(error).into()
    }
}

/// What we make cannot be made: a certificate of ours, or a key, is not what it must be.
impl From<pkcs7::Error> for Failure {
    fn from(error: pkcs7::Error) -> Self {
        Self::Fault(Fault::Broken(error.to_string()))
    }
}

impl From<der::Error> for Failure {
    fn from(error: der::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// The one place where the engine's reasons become SCEP's. A wrong challenge and a refusal by the rules look the same; the audit log
/// tells them apart.
impl From<&Refusal> for Rejection {
    fn from(refusal: &Refusal) -> Self {
        const REFUSED: &str = "the request is refused";
        let (fail_info, public) = match refusal.reason() {
            Reason::BadAlgorithm => (FailInfo::BadAlg, refusal.public()),
            Reason::BadProof => (FailInfo::BadMessageCheck, refusal.public()),
            Reason::BadTime => (FailInfo::BadTime, refusal.public()),
            Reason::UnknownCertificate => (FailInfo::BadCertId, refusal.public()),
            Reason::BadKey | Reason::Malformed | Reason::Unsupported | Reason::RateLimited => {
                (FailInfo::BadRequest, refusal.public())
            }
            Reason::AlreadyRevoked
            | Reason::Conflict
            | Reason::NameNotAllowed
            | Reason::NotAuthenticated
            | Reason::NotAuthorized
            | Reason::NotReady
            | Reason::UnknownProfile => (FailInfo::BadRequest, REFUSED),
        };
        Self { audited: true, ..Self::new(fail_info, public).with_private(refusal.private()) }
    }
}
