//! CRL, OCSP and CA certificates over plain HTTP.
//!
//! | path | what |
//! |---|---|
//! | `/crl/ISSUER.crl` | the issuer's CRL, DER |
//! | `/ocsp/ISSUER` | OCSP, the request in the body (POST) or behind the issuer in the path (GET); the CertID names the issuer |
//! | `/ca/ISSUER.cer`, `/ca/ISSUER.pem` | the issuer's certificate, DER; its chain, PEM |
//!
//! Paths are taken raw: base64 holds slashes, two in a row among them, so nobody may have tidied them up before.

mod asked;
mod cache;
mod crl;
mod error;
mod ocsp;
mod route;

use bytes::Bytes;
use ca_backend::{Engine, Error, Fault};
use der::pem::{self, LineEnding};
use endpoint::{Endpoint, Peer};
use http::header::{ALLOW, CACHE_CONTROL, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::asked::Asked;
use crate::route::Route;

/// Seconds after which a client may ask again for what is not available now, if the engine names no time.
const RETRY_AFTER_S: u32 = 10;

/// How long caches may keep an issuer's certificate. It never changes: another generation has another path.
const CERTIFICATE_CACHE_CONTROL: &str = "max-age=86400, public, no-transform";

/// Everything relying parties fetch.
pub struct Revocation {
    engine: Engine,
    asked: Asked,
}

impl Revocation {
    /// Serves what `engine` knows.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self { engine, asked: Asked::default() }
    }
}

impl Endpoint for Revocation {
    fn handle(&self, request: Request<Bytes>, _peer: &Peer) -> Response<Bytes> {
        let Some(route) = Route::of(request.uri().path()) else {
            return plain(StatusCode::NOT_FOUND);
        };
        if !route.takes(request.method()) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(route.methods()));
            return response;
        }
        match route {
            Route::Ocsp { request: path } => match ocsp::query(&request, path) {
                Ok(query) => match self.engine.ocsp(&query) {
                    Ok(answer) => ocsp::reply(&request, &answer, self.engine.now()),
                    Err(error) => ocsp::failure_reply(&request, &error),
                },
                Err(error) => ocsp::error_reply(&request, error),
            },
            Route::Crl { issuer } => match self.engine.crl(issuer) {
                Ok(crl) => crl::reply(&request, &crl, self.engine.now()),
                Err(Error::Refused(_)) => plain(StatusCode::NOT_FOUND),
                Err(Error::Fault(fault)) => unavailable(&fault),
            },
            Route::Certificate { issuer } => {
                let chain = self.engine.issuer_chain(issuer).unwrap_or_default();
                certificate(&request, "application/pkix-cert", chain.into_iter().next())
            }
            Route::Chain { issuer } => {
                let chain = self.engine.issuer_chain(issuer).and_then(|chain| pem_of(&chain));
                certificate(&request, "application/x-pem-file", chain)
            }
        }
    }

    fn answer_from_memory(&self, request: &Request<Bytes>) -> Option<Response<Bytes>> {
        let route = Route::of(request.uri().path()).filter(|route| route.takes(request.method()))?;
        match route {
            Route::Ocsp { request: path } => {
                let octets = if *request.method() == Method::POST { request.body() } else { path.as_bytes() };
                let question = self.asked.question(octets, || ocsp::short_query(request, path))?;
                let answer = self.engine.ocsp_from_memory(question.query())?;
                Some(question.reply(request, &answer, self.engine.now()))
            }
            // Published CRLs are always in memory.
            Route::Crl { issuer } => {
                let crl = self.engine.crl(issuer).ok()?;
                Some(crl::reply(request, &crl, self.engine.now()))
            }
            Route::Certificate { .. } | Route::Chain { .. } => None,
        }
    }
}

fn certificate(request: &Request<Bytes>, content_type: &'static str, body: Option<Bytes>) -> Response<Bytes> {
    let Some(body) = body else {
        return plain(StatusCode::NOT_FOUND);
    };
    let mut response = cache::reply(request, content_type, &body);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(CERTIFICATE_CACHE_CONTROL));
    response
}

/// The certificates one behind the other; `None` if there is none.
fn pem_of(chain: &[Bytes]) -> Option<Bytes> {
    let each = chain.iter().map(|der| pem::encode_string("CERTIFICATE", LineEnding::LF, der));
    let text: String = each.collect::<Result<_, _>>().ok()?;
    (!text.is_empty()).then(|| Bytes::from(text))
}

fn unavailable(fault: &Fault) -> Response<Bytes> {
    let after_s = match fault {
        Fault::TryLater { after_s } => *after_s,
        Fault::Key(_) | Fault::Store(_) | Fault::Broken(_) => RETRY_AFTER_S,
    };
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after_s));
    response
}

/// A reply without a body that nobody keeps.
fn plain(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
