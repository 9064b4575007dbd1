//! `/healthz`, `/readyz`, `/metrics`: the condition of the daemon.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ca_backend::{AuthorityState, Engine, KeyHealth};
use endpoint::{Endpoint, Peer};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Problem;
use super::{AdminState, Moment};
use crate::server_certificate::HttpsCondition;
use crate::telemetry::Figures;
use crate::wiring::Unserved;

/// That the daemon runs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Alive {
    /// Always `alive`.
    pub status: String,
}

/// Whether the daemon can do its work, and if not, what keeps it from it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether every part is. An endpoint that is not served does not count: the others are.
    pub ready: bool,
    /// The parts: the store, each key store, HTTPS, the CRL of each issuer, and each endpoint with which something is wrong.
    pub parts: Vec<Part>,
}

/// A part that the daemon needs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Part {
    /// `store`, `keys:NAME`, `https`, `key:ISSUER` (only if it cannot be used), `crl:ISSUER`, or `endpoint:NAME` (only if
    /// something is wrong with it).
    pub name: String,
    /// Whether it works.
    pub ready: bool,
    /// What is wrong with it, for operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Until when the CRL counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_update: Option<Moment>,
    /// The age of the CRL, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
}

impl Part {
    fn new(name: String, why: Option<String>) -> Self {
        Self { name, ready: why.is_none(), why, next_update: None, age_s: None }
    }
}

/// Whether the daemon runs at all.
#[utoipa::path(get, path = "/healthz", tag = "status", responses((status = 200, body = Alive)))]
pub(super) async fn healthz() -> Answer<Alive> {
    Answer(Alive { status: "alive".to_owned() })
}

/// Whether the daemon can do its work.
#[utoipa::path(get, path = "/readyz", tag = "status",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness, description = "A part does not work")))]
pub(super) async fn readyz(State(state): State<AdminState>) -> Response {
    let AdminState { engine, https, unserved, .. } = state;
    match tokio::task::spawn_blocking(move || readiness(&engine, &https, &unserved)).await {
        Ok(readiness) => {
            let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, Answer(readiness)).into_response()
        }
        Err(why) => failed(&why),
    }
}

/// The figures of this process in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "status",
    responses((status = 200, body = String, content_type = "text/plain; version=0.0.4")))]
pub(super) async fn metrics(State(state): State<AdminState>) -> Response {
    let figures = state.figures;
    match tokio::task::spawn_blocking(move || figures.render()).await {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(why) => failed(&why),
    }
}

/// The same three pages for a listener that anybody on this machine may read.
#[derive(Debug)]
pub struct StatusPages {
    engine: Engine,
    figures: Figures,
    https: HttpsCondition,
    unserved: Unserved,
}

impl StatusPages {
    /// The paths that it serves.
    pub const PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

    /// Shows the condition of `engine`, of HTTPS and of endpoints, and `figures`.
    #[must_use]
    pub fn new(engine: Engine, figures: Figures, https: HttpsCondition, unserved: Unserved) -> Self {
        Self { engine, figures, https, unserved }
    }
}

impl Endpoint for StatusPages {
    fn handle(&self, request: Request<Bytes>, _peer: &Peer) -> http::Response<Bytes> {
        let page = |status, content_type: &'static str, body: Vec<u8>| {
            let mut response = http::Response::new(Bytes::from(body));
            *response.status_mut() = status;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            response
        };
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/healthz") => page(StatusCode::OK, "text/plain", b"alive\n".to_vec()),
            (&Method::GET | &Method::HEAD, "/metrics") => {
                page(StatusCode::OK, METRICS_TYPE, self.figures.render().into_bytes())
            }
            (&Method::GET | &Method::HEAD, "/readyz") => {
                let readiness = readiness(&self.engine, &self.https, &self.unserved);
                let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                page(status, "application/json", serde_json::to_vec(&readiness).unwrap_or_default())
            }
            (&Method::GET | &Method::HEAD, _) => page(StatusCode::NOT_FOUND, "text/plain", Vec::new()),
            _ => page(StatusCode::METHOD_NOT_ALLOWED, "text/plain", Vec::new()),
        }
    }
}

const METRICS_TYPE: &str = "text/plain; version=0.0.4";

fn failed(why: &tokio::task::JoinError) -> Response {
    tracing::error!(%why, "failed to look at the daemon's condition");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal")
        .detail("the daemon failed")
        .hint("look into the daemon's log")
        .into_response()
}

/// The condition of every part.
fn readiness(engine: &Engine, https: &HttpsCondition, unserved: &Unserved) -> Readiness {
    let mut parts = vec![Part::new("store".to_owned(), engine.store_health().err().map(|why| why.to_string()))];
    for (name, health) in engine.key_health() {
        let (ready, why) = match health {
            KeyHealth::Usable => (true, None),
            KeyHealth::Reduced(why) => (true, Some(why)),
            KeyHealth::Probing => (false, Some("not known yet".to_owned())),
            KeyHealth::Unusable(why) => (false, Some(why)),
        };
        parts.push(Part { ready, ..Part::new(format!("keys:{name}"), why) });
    }
    for (issuer, why) in engine.unusable_issuing_keys() {
        parts.push(Part::new(format!("key:{issuer}"), Some(why)));
    }
    let standing = https.standing();
    parts.push(Part { ready: standing.ready, ..Part::new("https".to_owned(), standing.why.clone()) });
    match crls(engine) {
        Ok(crls) => parts.extend(crls),
        Err(why) => parts.push(Part::new("authorities".to_owned(), Some(why))),
    }
    let ready = parts.iter().all(|part| part.ready);
    // If these counted, a balancer would take every node out of service for one spoilt file.
    parts.extend(unserved.all().into_iter().map(|(name, why)| Part::new(format!("endpoint:{name}"), Some(why))));
    Readiness { ready, parts }
}

/// The CRL of every authority that signs.
fn crls(engine: &Engine) -> Result<Vec<Part>, String> {
    let now = engine.now();
    let published = engine.crl_ages();
    let mut parts: Vec<Part> = published
        .iter()
        .map(|(issuer, crl)| Part {
            next_update: Some(crl.next_update.into()),
            age_s: Some(now.since_s(crl.this_update)),
            ..Part::new(format!("crl:{issuer}"), (crl.next_update <= now).then(|| "out of date".to_owned()))
        })
        .collect();
    parts.sort_by(|a, b| a.name.cmp(&b.name));
    let authorities = engine.authorities().map_err(|_| "the records of the authorities cannot be read".to_owned())?;
    for authority in authorities.iter().filter(|authority| authority.state == AuthorityState::Active) {
        let issuer = |path: &str| path.split('.').next() == Some(authority.name.as_str());
        if authority.crl_url.is_some() && !published.iter().any(|(path, _)| issuer(path)) {
            parts.push(Part::new(format!("crl:{}", authority.name), Some("not published yet".to_owned())));
        }
    }
    Ok(parts)
}
