//! What went wrong, as problem+json (RFC 9457).

use bytes::Bytes;
use ca_backend::{Error, Fault, Reason, Refusal};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

/// Why a request brought no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The class of the problem, for programs: `name-not-allowed`, `not-authenticated`, `unavailable`, ...
    pub reason: String,
    /// What is wrong, for people.
    pub detail: String,
    /// Seconds after which a new attempt makes sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
    /// The name of the request in the daemon's log.
    pub request_id: String,
}

/// Every reason has its status; a new one stops the build until someone decides.
pub(crate) fn status_of(reason: Reason) -> StatusCode {
    match reason {
        Reason::BadAlgorithm
        | Reason::BadKey
        | Reason::BadProof
        | Reason::BadTime
        | Reason::Malformed
        | Reason::UnknownProfile
        | Reason::Unsupported => StatusCode::BAD_REQUEST,
        Reason::NotAuthenticated => StatusCode::UNAUTHORIZED,
        Reason::NameNotAllowed | Reason::NotAuthorized => StatusCode::FORBIDDEN,
        Reason::UnknownCertificate => StatusCode::NOT_FOUND,
        Reason::AlreadyRevoked | Reason::Conflict | Reason::NotReady => StatusCode::CONFLICT,
        Reason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
    }
}

impl Problem {
    pub(crate) fn of(error: &Error, request_id: &str) -> Self {
        match error {
            Error::Refused(refusal) => Self::refused(refusal, request_id),
            Error::Fault(fault) => {
                tracing::error!(request_id, error = %fault, "failed to answer a request of device management");
                let retry_after_s = match fault {
                    Fault::TryLater { after_s } => *after_s,
                    Fault::Key(_) | Fault::Store(_) | Fault::Broken(_) => 60,
                };
                Self {
                    status: StatusCode::SERVICE_UNAVAILABLE.as_u16(),
                    reason: "unavailable".to_owned(),
                    detail: "the service is unavailable now".to_owned(),
                    retry_after_s: Some(retry_after_s),
                    request_id: request_id.to_owned(),
                }
            }
        }
    }

    fn refused(refusal: &Refusal, request_id: &str) -> Self {
        tracing::info!(request_id, why = refusal.private(), "refused a request of device management");
        Self {
            status: status_of(refusal.reason()).as_u16(),
            reason: refusal.reason().name().to_owned(),
            detail: refusal.public().to_owned(),
            retry_after_s: refusal.retry_after(),
            request_id: request_id.to_owned(),
        }
    }

    pub(crate) fn new(status: StatusCode, reason: &str, detail: &str, request_id: &str) -> Self {
        Self {
            status: status.as_u16(),
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            retry_after_s: None,
            request_id: request_id.to_owned(),
        }
    }

    pub(crate) fn response(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(serde_json::to_vec(self).unwrap_or_default()));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED.as_u16() {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"certgate\", charset=\"UTF-8\""));
        }
        response
    }
}
