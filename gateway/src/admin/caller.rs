//! Who calls, and the way of a call to the engine and back.

use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use aws_lc_rs::digest::{SHA256, digest};
use ca_backend::{Approval, Engine, Evidence, Fault, Origin, ProtocolName, Refusal, SystemRng, random};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::{Failure, Problem, malformed};
use super::{AdminState, Operator};

/// The operator behind a request, and what the request acts on.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) state: AdminState,
    operator: Operator,
    request_id: String,
}

impl FromRequestParts<AdminState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, Problem> {
        let operator = parts.extensions.get::<Operator>().cloned();
        let operator = operator.ok_or_else(|| {
            Problem::new(StatusCode::FORBIDDEN, "not-authenticated")
                .detail("the connection shows no operator")
                .hint("use the operators' socket")
        })?;
        Ok(Self { state: state.clone(), operator, request_id: hex::encode(random::<8>(&SystemRng)) })
    }
}

impl Caller {
    pub(super) fn engine(&self) -> &Engine {
        &self.state.engine
    }

    /// The operator's name in records.
    pub(super) fn operator(&self) -> &str {
        self.operator.name()
    }

    /// The operator's word.
    pub(super) fn evidence(&self) -> Evidence {
        let approval: Approval = self.engine().operator(self.operator());
        Evidence::Operator(approval)
    }

    /// Where the wish came from. The same operator, transaction and content are the same wish.
    pub(super) fn origin(&self, transaction: &str, content: &impl Serialize) -> Result<Origin, Failure> {
        let broken = |why: String| Fault::Broken(format!("an operator's wish has no origin: {why}"));
        let content = serde_json::to_vec(content).map_err(|why| broken(why.to_string()))?;
        let mut request_digest = [0; 32];
        request_digest.copy_from_slice(digest(&SHA256, &content).as_ref());
        Ok(Origin {
            protocol: ProtocolName::new("operator").map_err(|refusal: Refusal| broken(refusal.private()))?,
            endpoint: None,
            transaction: format!("{} {transaction}", self.operator()),
            request_digest,
            peer: None,
            request_id: self.request_id.clone(),
        })
    }

    /// Runs `work` on a thread that may block. A fault goes to the log, and what is told of it is that it happened.
    pub(super) async fn ask<T, W>(&self, work: W) -> Result<T, Problem>
    where
        T: Send + 'static,
        W: FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    {
        let caller = self.clone();
        let id = &self.request_id;
        let fault = match tokio::task::spawn_blocking(move || work(&caller)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Failure::Problem(problem))) => {
                tracing::debug!(id, operator = self.operator(), reason = problem.reason, "refused an operator's request");
                return Err(problem.request_id(id));
            }
            Ok(Err(Failure::Fault(fault))) => fault,
            Err(panicked) => Fault::Broken(panicked.to_string()),
        };
        tracing::error!(id, operator = self.operator(), %fault, "failed to answer an operator's request");
        Err(Problem::of_fault(&fault).request_id(id))
    }
}

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<AdminState> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AdminState) -> Result<Self, Problem> {
        match <axum::Json<T> as FromRequest<AdminState>>::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(unreadable(rejection.status(), rejection.body_text())),
        }
    }
}

/// A JSON body that may be left out.
impl<T: DeserializeOwned> OptionalFromRequest<AdminState> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AdminState) -> Result<Option<Self>, Problem> {
        match <axum::Json<T> as OptionalFromRequest<AdminState>>::from_request(request, state).await {
            Ok(value) => Ok(value.map(|axum::Json(value)| Self(value))),
            Err(rejection) => Err(unreadable(rejection.status(), rejection.body_text())),
        }
    }
}

/// A body of any type, whole.
pub(super) struct Octets(pub(super) axum::body::Bytes);

impl FromRequest<AdminState> for Octets {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AdminState) -> Result<Self, Problem> {
        match axum::body::Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) => Err(unreadable(rejection.status(), rejection.body_text())),
        }
    }
}

/// The parameters in a query string.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<AdminState> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(malformed(rejection.body_text())),
        }
    }
}

/// The one variable part of a path.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<AdminState> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(malformed(rejection.body_text())),
        }
    }
}

fn unreadable(status: StatusCode, why: String) -> Problem {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(status, "malformed")
            .detail(format!("the body has more than {} bytes", super::BODY_BYTES_MAX))
            .hint("send less"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(status, "malformed")
            .detail("the body is not announced as JSON")
            .hint("send it with content-type: application/json"),
        _ => malformed(why),
    }
}
