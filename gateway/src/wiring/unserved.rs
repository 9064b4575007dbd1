//! Endpoints that are enabled and cannot be served: which, why, and what their clients are told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ca_backend::EndpointName;
use endpoint::{Endpoint, Peer};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};

/// The enabled endpoints with which something is wrong, and what. Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Unserved(Arc<Mutex<BTreeMap<EndpointName, String>>>);

impl Unserved {
    /// Every one, by name, with the text for operators.
    #[must_use]
    pub fn all(&self) -> BTreeMap<EndpointName, String> {
        self.lock().clone()
    }

    /// Puts these in place of those before. The log hears of what is new, once.
    pub(super) fn replace(&self, now: BTreeMap<EndpointName, String>) {
        let mut known = self.lock();
        for (name, why) in now.iter().filter(|(name, why)| known.get(*name) != Some(why)) {
            tracing::error!(endpoint = %name, why, "an endpoint cannot be mounted; it is tried again until it can be");
        }
        for name in known.keys().filter(|name| !now.contains_key(*name)) {
            tracing::info!(endpoint = %name, "nothing is wrong with the endpoint any more");
        }
        *known = now;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointName, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stands at the paths of an endpoint that cannot be mounted.
#[derive(Debug)]
pub(super) struct Unavailable;

impl Endpoint for Unavailable {
    fn handle(&self, _request: Request<Bytes>, _peer: &Peer) -> Response<Bytes> {
        unavailable()
    }

    /// It takes no place in a lane.
    fn answer_from_memory(&self, _request: &Request<Bytes>) -> Option<Response<Bytes>> {
        Some(unavailable())
    }
}

fn unavailable() -> Response<Bytes> {
    /// The daemon tries again more often than that.
    const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("30");
    let text = "this endpoint cannot serve now: something that it needs on this server is missing or unusable. Its operators see \
                what it is; try again later\n";
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
    response
}
