//! What went wrong, in the one form of this API: problem+json (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ca_backend::{Error, Fault, Reason, Refusal, StoreFault};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a request brought no result, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The class of the problem, for programs: `name-not-allowed`, `not-found`, `unavailable`, ...
    pub reason: String,
    /// What is wrong.
    pub detail: String,
    /// What to do next.
    pub hint: String,
    /// Seconds after which a new attempt makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
    /// The name of the request in the daemon's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, reason: &str) -> Self {
        Self {
            status: status.as_u16(),
            reason: reason.to_owned(),
            detail: String::new(),
            hint: String::new(),
            retry_after_s: None,
            request_id: None,
        }
    }

    pub(super) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    pub(super) fn retry_after_s(mut self, seconds: Option<u32>) -> Self {
        self.retry_after_s = seconds;
        self
    }

    pub(super) fn request_id(mut self, id: &str) -> Self {
        self.request_id = Some(id.to_owned());
        self
    }

    /// What the daemon cannot do now. What is behind it stands in the log only.
    pub(super) fn of_fault(fault: &Fault) -> Self {
        let unavailable = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
        match fault {
            Fault::TryLater { after_s } => unavailable
                .detail("the daemon is busy or recovering")
                .hint(format!("try again in {after_s} s"))
                .retry_after_s(Some(*after_s)),
            Fault::Key(_) => unavailable
                .detail("a key store does not work")
                .hint("see /readyz for which one, and the daemon's log for why"),
            Fault::Store(StoreFault::Full(_)) => unavailable
                .detail("the store's disk is full")
                .hint("make room on the disk of the state directory; the daemon then goes on by itself"),
            Fault::Store(StoreFault::Unavailable(_)) => {
                unavailable.detail("the store does not work").hint("see /readyz, and the daemon's log for why")
            }
            Fault::Store(StoreFault::Corrupt(_)) | Fault::Broken(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal")
                    .detail("the daemon failed")
                    .hint("look for the request id in the daemon's log")
            }
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, hint) = status_and_hint(refusal.reason());
        Self::new(status, refusal.reason().name())
            .detail(refusal.public())
            .hint(hint)
            .retry_after_s(refusal.retry_after())
    }
}

/// What can be said of a malformed request if nothing more is known. The command line, which has no such document, says it otherwise.
pub(crate) const MALFORMED_HINT: &str = "correct the request; /openapi.json describes its form";

/// The status of each reason for a refusal, and what an operator can do about it.
fn status_and_hint(reason: Reason) -> (StatusCode, &'static str) {
    match reason {
        Reason::AlreadyRevoked => {
            (StatusCode::CONFLICT, "see the certificate's state with `certgate certificate show`")
        }
        Reason::BadAlgorithm => {
            (StatusCode::UNPROCESSABLE_ENTITY, "sign the request with SHA-256 or stronger, or Ed25519")
        }
        Reason::BadKey => {
            (StatusCode::UNPROCESSABLE_ENTITY, "make a new key of a kind that the profile and the authority take")
        }
        Reason::BadProof => {
            (StatusCode::UNPROCESSABLE_ENTITY, "make the request anew, signed with the key that it is for")
        }
        Reason::BadTime => (StatusCode::UNPROCESSABLE_ENTITY, "ask for a time within the validity of the issuer"),
        Reason::Conflict => (StatusCode::CONFLICT, "look at the present state, then try again or choose another name"),
        Reason::Malformed => (StatusCode::BAD_REQUEST, MALFORMED_HINT),
        Reason::NameNotAllowed => {
            (StatusCode::UNPROCESSABLE_ENTITY, "change the names, or the profile or access rules that forbid them")
        }
        Reason::NotAuthenticated => (StatusCode::FORBIDDEN, "show evidence that this daemon can verify"),
        Reason::NotAuthorized => {
            (StatusCode::FORBIDDEN, "choose a profile that allows this, or change the access rules")
        }
        Reason::NotReady => (
            StatusCode::CONFLICT,
            "see the state of things with `certgate authority list` and `certgate endpoint list`",
        ),
        Reason::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "wait, then try again"),
        Reason::UnknownCertificate => (StatusCode::NOT_FOUND, "find the serial with `certgate certificate list`"),
        Reason::UnknownProfile => {
            (StatusCode::UNPROCESSABLE_ENTITY, "see the profiles and their services with `certgate profile list`")
        }
        Reason::Unsupported => {
            (StatusCode::UNPROCESSABLE_ENTITY, "ask for it in another form; /openapi.json describes what is served")
        }
    }
}

/// Why a handler failed: the engine's word, or a thing that the path names and that does not exist.
pub(super) enum Failure {
    Problem(Problem),
    Fault(Fault),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) => refusal.into(),
            Error::Fault(fault) => Self::Fault(fault),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Problem(refusal.into())
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// The result of a call of the engine. `hint` says what to do about those refusals for which it knows more than their reason tells.
pub(super) fn advised<T>(result: Result<T, Error>, hint: impl Fn(Reason) -> Option<String>) -> Result<T, Failure> {
    result.map_err(|error| match error {
        Error::Refused(refusal) => {
            let advice = hint(refusal.reason());
            let problem = Problem::from(refusal);
            Failure::Problem(match advice {
                Some(advice) => problem.hint(advice),
                None => problem,
            })
        }
        Error::Fault(fault) => Failure::Fault(fault),
    })
}

/// The thing that the path names does not exist.
pub(super) fn missing(detail: impl Into<String>, hint: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found").detail(detail).hint(hint)
}

pub(super) fn malformed(detail: impl Into<String>) -> Problem {
    Refusal::new(Reason::Malformed, detail).into()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
