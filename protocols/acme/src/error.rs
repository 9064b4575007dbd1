//! Problem documents (RFC 7807 with the types of RFC 8555 section 6.7), and what becomes of the engine's errors.

use ca_backend::{Error, Fault, Reason, RecordError, Refusal};
use http::StatusCode;
use serde_json::{Value, json};

/// Why a request brought no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client's to fix, or to know.
    Problem(Box<Problem>),
    /// A record changed between reading and writing: the request is decided anew.
    Conflict,
    /// Ours to fix. The client learns only that the service is unavailable.
    Fault(Fault),
}

impl Failure {
    /// The error of work that no client waits for.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Problem(problem) => Fault::Broken(problem.detail).into(),
            Self::Conflict => Fault::TryLater { after_s: 1 }.into(),
            Self::Fault(fault) => fault.into(),
        }
    }
}

/// What a request brings.
pub(crate) type Attempt<T> = Result<T, Failure>;

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Problem::from(&refusal).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Fault(fault) => Self::Fault(fault),
            Error::Refused(refusal) => refusal.into(),
        }
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Conflict => Self::Conflict,
            RecordError::Fault(fault) => Self::Fault(Fault::Store(fault)),
        }
    }
}

/// The problem types that this server uses, each a name under `urn:ietf:params:acme:error:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are those of RFC 8555 section 6.7
pub enum ProblemType {
    AccountDoesNotExist,
    AlreadyReplaced,
    AlreadyRevoked,
    BadAttestationStatement,
    BadCsr,
    BadNonce,
    BadPublicKey,
    BadRevocationReason,
    BadSignatureAlgorithm,
    Caa,
    Compound,
    Connection,
    Dns,
    ExternalAccountRequired,
    IncorrectResponse,
    InvalidContact,
    InvalidProfile,
    Malformed,
    OrderNotReady,
    RateLimited,
    RejectedIdentifier,
    ServerInternal,
    Tls,
    Unauthorized,
    UnsupportedContact,
    UnsupportedIdentifier,
    UserActionRequired,
}

impl ProblemType {
    /// Every type, with its registered name and the status it is sent with unless the place says otherwise.
    const TABLE: &[(Self, &'static str, StatusCode)] = &[
        (Self::AccountDoesNotExist, "accountDoesNotExist", StatusCode::BAD_REQUEST),
        (Self::AlreadyReplaced, "alreadyReplaced", StatusCode::CONFLICT),
        (Self::AlreadyRevoked, "alreadyRevoked", StatusCode::BAD_REQUEST),
        (Self::BadAttestationStatement, "badAttestationStatement", StatusCode::BAD_REQUEST),
        (Self::BadCsr, "badCSR", StatusCode::BAD_REQUEST),
        (Self::BadNonce, "badNonce", StatusCode::BAD_REQUEST),
        (Self::BadPublicKey, "badPublicKey", StatusCode::BAD_REQUEST),
        (Self::BadRevocationReason, "badRevocationReason", StatusCode::BAD_REQUEST),
        (Self::BadSignatureAlgorithm, "badSignatureAlgorithm", StatusCode::BAD_REQUEST),
        (Self::Caa, "caa", StatusCode::FORBIDDEN),
        (Self::Compound, "compound", StatusCode::BAD_REQUEST),
        (Self::Connection, "connection", StatusCode::BAD_REQUEST),
        (Self::Dns, "dns", StatusCode::BAD_REQUEST),
        (Self::ExternalAccountRequired, "externalAccountRequired", StatusCode::FORBIDDEN),
        (Self::IncorrectResponse, "incorrectResponse", StatusCode::FORBIDDEN),
        (Self::InvalidContact, "invalidContact", StatusCode::BAD_REQUEST),
        (Self::InvalidProfile, "invalidProfile", StatusCode::BAD_REQUEST),
        (Self::Malformed, "malformed", StatusCode::BAD_REQUEST),
        (Self::OrderNotReady, "orderNotReady", StatusCode::FORBIDDEN),
        (Self::RateLimited, "rateLimited", StatusCode::TOO_MANY_REQUESTS),
        (Self::RejectedIdentifier, "rejectedIdentifier", StatusCode::BAD_REQUEST),
        (Self::ServerInternal, "serverInternal", StatusCode::INTERNAL_SERVER_ERROR),
        (Self::Tls, "tls", StatusCode::BAD_REQUEST),
        (Self::Unauthorized, "unauthorized", StatusCode::FORBIDDEN),
        (Self::UnsupportedContact, "unsupportedContact", StatusCode::BAD_REQUEST),
        (Self::UnsupportedIdentifier, "unsupportedIdentifier", StatusCode::BAD_REQUEST),
        (Self::UserActionRequired, "userActionRequired", StatusCode::FORBIDDEN),
    ];

    fn row(self) -> (&'static str, StatusCode) {
        Self::TABLE
            .iter()
            .find(|(kind, ..)| *kind == self)
            .map_or(("serverInternal", StatusCode::INTERNAL_SERVER_ERROR), |(_, name, status)| (*name, *status))
    }

    /// The name after `urn:ietf:params:acme:error:`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The type of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::TABLE.iter().find(|(_, known, _)| *known == name).map(|(kind, ..)| *kind)
    }
}

/// What is wrong with one identifier (RFC 8555 section 6.7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subproblem {
    /// The identifier as the client wrote it.
    pub(crate) identifier: Value,
    pub(crate) kind: ProblemType,
    pub(crate) detail: String,
}

/// A problem document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: ProblemType,
    pub(crate) status: StatusCode,
    /// Text for people.
    pub(crate) detail: String,
    /// The identifiers that are to blame, each with its own problem.
    pub(crate) subproblems: Vec<Subproblem>,
    /// The signature algorithms to use instead (RFC 8555 section 6.2).
    pub(crate) algorithms: &'static [&'static str],
    /// Where a person must act (RFC 8555 section 7.3.3).
    pub(crate) instance: Option<String>,
    /// When a new attempt makes sense.
    pub(crate) retry_after_s: Option<u32>,
}

impl Problem {
    pub(crate) fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self {
            kind,
            status: kind.row().1,
            detail: detail.into(),
            subproblems: Vec::new(),
            algorithms: &[],
            instance: None,
            retry_after_s: None,
        }
    }

    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::Malformed, detail)
    }

    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::Unauthorized, detail)
    }

    /// The one answer for what does not exist and for what belongs to somebody else.
    pub(crate) fn not_found() -> Self {
        Self::malformed("there is nothing at this address, or it belongs to another account")
            .with_status(StatusCode::NOT_FOUND)
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The document (RFC 8555 section 6.7, subproblems 6.7.1).
    pub(crate) fn document(&self) -> Value {
        let mut document = problem(self.kind, &self.detail);
        if let Some(members) = document.as_object_mut() {
            members.insert("status".into(), self.status.as_u16().into());
            if !self.subproblems.is_empty() {
                let each = self.subproblems.iter().map(|subproblem| {
                    let mut each = problem(subproblem.kind, &subproblem.detail);
                    if let Some(members) = each.as_object_mut() {
                        members.insert("identifier".into(), subproblem.identifier.clone());
                    }
                    each
                });
                members.insert("subproblems".into(), each.collect());
            }
            if !self.algorithms.is_empty() {
                members.insert("algorithms".into(), self.algorithms.into());
            }
            if let Some(instance) = &self.instance {
                members.insert("instance".into(), instance.as_str().into());
            }
        }
        document
    }
}

fn problem(kind: ProblemType, detail: &str) -> Value {
    json!({ "type": format!("urn:ietf:params:acme:error:{}", kind.name()), "detail": detail })
}

/// The one place where the engine's reasons become ACME's.
impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let kind = match refusal.reason() {
            Reason::AlreadyRevoked => ProblemType::AlreadyRevoked,
            Reason::BadAlgorithm => ProblemType::BadSignatureAlgorithm,
            Reason::BadKey => ProblemType::BadPublicKey,
            Reason::BadProof => ProblemType::BadCsr,
            Reason::BadTime | Reason::Malformed | Reason::Unsupported | Reason::Conflict => ProblemType::Malformed,
            Reason::NameNotAllowed => ProblemType::RejectedIdentifier,
            Reason::NotAuthenticated | Reason::NotAuthorized => ProblemType::Unauthorized,
            Reason::NotReady => ProblemType::OrderNotReady,
            Reason::RateLimited => ProblemType::RateLimited,
            Reason::UnknownCertificate => ProblemType::Malformed,
            Reason::UnknownProfile => ProblemType::InvalidProfile,
        };
        let mut problem = Self::new(kind, refusal.public());
        problem.retry_after_s = refusal.retry_after();
        if refusal.reason() == Reason::UnknownCertificate {
            problem.status = StatusCode::NOT_FOUND;
        }
        problem
    }
}

/// What a fault shows to the client: that it was not the client's doing, and when to come back.
impl From<&Fault> for Problem {
    fn from(fault: &Fault) -> Self {
        /// Long enough for a store or key store to be restarted, short enough for a person who waits.
        const RETRY_AFTER_S: u32 = 30;
        let retry_after_s = match fault {
            Fault::TryLater { after_s } => *after_s,
            Fault::Key(_) | Fault::Store(_) => RETRY_AFTER_S,
            Fault::Broken(_) => {
                return Self::new(ProblemType::ServerInternal, "the server failed; its log has the cause");
            }
        };
        let mut problem = Self::new(ProblemType::ServerInternal, "the server cannot do this now; try again later")
            .with_status(StatusCode::SERVICE_UNAVAILABLE);
        problem.retry_after_s = Some(retry_after_s);
        problem
    }
}
