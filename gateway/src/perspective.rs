//! `certgate perspective`: looks for gateways at what they look at themselves, from another place and with the same code.
//!
//! It keeps no state and holds no authority: a gateway shows a client certificate, asks, and judges the answer by itself. What may be
//! asked at all, where and at which ports, this side decides.

mod gateways;
mod run;
pub mod wire;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use acme::{Found, Question};
use bytes::Bytes;
use ca_backend::{Clock, Stopwatch, Time};
use config::PerspectiveSettings;
use endpoint::{Endpoint, Peer};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use tokio::runtime::Handle;

pub use run::{PerspectiveError, Serving, run};

use self::gateways::Gateways;
use self::wire::{Complaint, LookAnswer, LookRequest, PATH};
use crate::egress::NodeEgress;
use crate::validation::{Look, Ports};

/// Seconds between two lines in the log about strangers.
const STRANGERS_LOGGED_S: u64 = 60;

/// The answers of a perspective.
pub struct Perspective {
    gateways: Gateways,
    strangers: Strangers,
    clock: Arc<dyn Clock>,
    egress: NodeEgress,
    settings: PerspectiveSettings,
    retry_after_s: u32,
    runtime: Handle,
}

impl fmt::Debug for Perspective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Perspective").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Perspective {
    /// Answers the gateways that the settings admit, with the means of this node; `retry_after_s` is when to ask again if it is busy.
    ///
    /// # Errors
    /// Settings that name no usable roots or names of gateways.
    pub fn new(
        settings: &PerspectiveSettings,
        egress: NodeEgress,
        retry_after_s: u32,
        runtime: Handle,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PerspectiveError> {
        Ok(Self {
            gateways: Gateways::new(settings, Arc::clone(&clock))?,
            strangers: Strangers::default(),
            clock,
            egress,
            settings: settings.clone(),
            retry_after_s,
            runtime,
        })
    }

    fn answer(&self, request: &Request<Bytes>, peer: &Peer) -> Response<Bytes> {
        if request.uri().path() != PATH {
            return complain(
                StatusCode::NOT_FOUND,
                "there is nothing here; this perspective answers at ".to_owned() + PATH,
            );
        }
        if request.method() != Method::POST {
            let mut response = complain(StatusCode::METHOD_NOT_ALLOWED, "ask with POST".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        let gateway = match self.gateways.admit(peer) {
            Ok(gateway) => gateway,
            Err(why) => {
                if let Some(refused) = self.strangers.one_more(self.clock.now()) {
                    tracing::warn!(address = %peer.address, why, refused, "refused a stranger");
                }
                return complain(StatusCode::FORBIDDEN, "no gateway that may ask here".to_owned());
            }
        };
        let (question, ports) = match LookRequest::decode(request.body()).and_then(|asked| self.permit(asked)) {
            Ok(permitted) => permitted,
            Err(complaint) => {
                tracing::warn!(gateway, why = complaint.detail, "refused a question");
                return complain(StatusCode::UNPROCESSABLE_ENTITY, complaint.detail);
            }
        };
        let took = Stopwatch::start();
        let look = Look::within(&self.egress, self.settings.reachable_networks.clone(), ports);
        // This is a thread of a lane, so it may block.
        let found = self.runtime.block_on(look.at(&question));
        let (kind, about) = subject(&question);
        let took_ms = u64::try_from(took.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(gateway, kind, about, outcome = outcome(found.as_ref()), took_ms, "looked");
        let Some(found) = found else {
            let mut response = complain(StatusCode::SERVICE_UNAVAILABLE, "too busy, try later".to_owned());
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(self.retry_after_s));
            return response;
        };
        json(StatusCode::OK, &LookAnswer::new(found))
    }

    /// Only the ports that the question needs have to be permitted.
    fn permit(&self, (question, ports): (Question, Ports)) -> Result<(Question, Ports), Complaint> {
        let needed = match &question {
            Question::Http01 { .. } => vec![ports.http01, ports.https],
            Question::TlsAlpn01 { .. } => vec![ports.tls_alpn01],
            Question::Dns01 { .. } | Question::Caa { .. } => Vec::new(),
        };
        match needed.iter().find(|port| !self.settings.ports.contains(port)) {
            Some(port) => Err(Complaint { detail: format!("port {port} is not in perspective.ports") }),
            None => Ok((question, ports)),
        }
    }
}

/// How many strangers came since the log last spoke of one: nobody keeps them from coming, and they must not fill it.
#[derive(Default)]
struct Strangers(Mutex<(Option<Time>, u64)>);

impl Strangers {
    /// How many to log; `None` while the last line is young.
    fn one_more(&self, now: Time) -> Option<u64> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (logged, count) = &mut *seen;
        *count += 1;
        if logged.is_some_and(|logged| now < logged.plus_s(STRANGERS_LOGGED_S)) {
            return None;
        }
        *logged = Some(now);
        Some(std::mem::take(count))
    }
}

impl Endpoint for Perspective {
    fn handle(&self, request: Request<Bytes>, peer: &Peer) -> Response<Bytes> {
        self.answer(&request, peer)
    }
}

/// What a question is about, for the log.
fn subject(question: &Question) -> (&'static str, String) {
    match question {
        Question::Http01 { target, .. } => ("http-01", target.to_string()),
        Question::TlsAlpn01 { target, .. } => ("tls-alpn-01", target.to_string()),
        Question::Dns01 { name } => ("txt", name.clone()),
        Question::Caa { names } => ("caa", names.join(" ")),
    }
}

fn outcome(found: Option<&Found>) -> &'static str {
    match found {
        Some(Found::Failed { .. }) => "failed",
        Some(Found::Http { .. } | Found::Txt(_) | Found::Certificate { .. } | Found::Caa(_)) => "found",
        None => "busy",
    }
}

fn complain(status: StatusCode, detail: String) -> Response<Bytes> {
    json(status, &Complaint { detail })
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Response<Bytes> {
    let (status, body) = match serde_json::to_vec(body) {
        Ok(body) => (status, body),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
