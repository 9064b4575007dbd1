//! CRL, OCSP and CA certificates over plain HTTP.
//!
//! | path | what |
//! |---|---|
//! | `/crl/ISSUER.crl` | the issuer's CRL, DER |
//! | `/ocsp/ISSUER` | OCSP, the request in the body (POST) or behind the issuer in the path (GET) |
//! | `/ca/ISSUER.cer`, `/ca/ISSUER.pem` | the issuer's certificate, DER; its chain, PEM |
//!
//! Paths are taken raw: base64 holds slashes, two in a row among them, so nobody may have tidied them up before.

mod cache;
mod crl;
mod error;
mod ocsp;
mod route;

use std::sync::Arc;

use bytes::Bytes;
use ca_backend::clock::Time;
use ca_backend::error::Error;
use ca_backend::status::{OcspQuery, SignedCrl, SignedOcsp};
use endpoint::{Endpoint, Peer};
use http::header::{ALLOW, CACHE_CONTROL, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};

use crate::route::Route;

/// Seconds after which a client may ask again for what is not available now.
const RETRY_AFTER_S: u32 = 10;

/// How long caches may keep an issuer's certificate. It never changes: another generation has another path.
const CERTIFICATE_CACHE_CONTROL: &str = "max-age=86400, public, no-transform";

/// What is asked of the engine.
pub(crate) trait Issuers: Send + Sync {
    fn now(&self) -> Time;
    fn ocsp(&self, issuer: &str, query: &OcspQuery) -> Result<Arc<SignedOcsp>, Error>;
    fn ocsp_from_memory(&self, query: &OcspQuery) -> Option<Arc<SignedOcsp>>;
    fn crl(&self, issuer: &str) -> Result<Arc<SignedCrl>, Error>;
    fn crl_from_memory(&self, issuer: &str) -> Option<Arc<SignedCrl>>;
    fn issuer_certificate(&self, issuer: &str) -> Option<Bytes>;
    fn issuer_chain_pem(&self, issuer: &str) -> Option<String>;
}

/// Everything relying parties fetch.
pub struct Revocation<E> {
    engine: E,
}

impl<E> Revocation<E> {
    /// Serves what `engine` knows.
    pub fn new(engine: E) -> Self {
        Self { engine }
    }
}

impl<E: Issuers> Endpoint for Revocation<E> {
    fn handle(&self, request: Request<Bytes>, _peer: &Peer) -> Response<Bytes> {
        let Some(route) = Route::of(request.uri().path()) else {
            return plain(StatusCode::NOT_FOUND);
        };
        if !route.takes(request.method()) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static(route.methods()));
            return response;
        }
        match route {
            Route::Ocsp {
                issuer,
                request: path,
            } => match ocsp::query(&request, path) {
                Ok(query) => match self.engine.ocsp(issuer, &query) {
                    Ok(answer) => ocsp::reply(&request, &answer, self.engine.now()),
                    Err(error) => ocsp::failure_reply(&request, &error),
                },
                Err(error) => ocsp::error_reply(&request, error),
            },
            Route::Crl { issuer } => match self.engine.crl(issuer) {
                Ok(crl) => crl::reply(&request, &crl, self.engine.now()),
                Err(Error::Refused(_)) => plain(StatusCode::NOT_FOUND),
                Err(Error::Fault(_)) => unavailable(),
            },
            Route::Certificate { issuer } => certificate(
                &request,
                "application/pkix-cert",
                self.engine.issuer_certificate(issuer),
            ),
            Route::Chain { issuer } => {
                let chain = self.engine.issuer_chain_pem(issuer).map(Bytes::from);
                certificate(&request, "application/x-pem-file", chain)
            }
        }
    }

    fn from_memory(&self, request: &Request<Bytes>) -> Option<Response<Bytes>> {
        let route =
            Route::of(request.uri().path()).filter(|route| route.takes(request.method()))?;
        match route {
            Route::Ocsp { request: path, .. } => {
                let answer = self
                    .engine
                    .ocsp_from_memory(&ocsp::short_query(request, path)?)?;
                Some(ocsp::reply(request, &answer, self.engine.now()))
            }
            Route::Crl { issuer } => {
                let crl = self.engine.crl_from_memory(issuer)?;
                Some(crl::reply(request, &crl, self.engine.now()))
            }
            Route::Certificate { .. } | Route::Chain { .. } => None,
        }
    }
}

fn certificate(
    request: &Request<Bytes>,
    content_type: &'static str,
    body: Option<Bytes>,
) -> Response<Bytes> {
    let Some(body) = body else {
        return plain(StatusCode::NOT_FOUND);
    };
    let mut response = cache::reply(request, content_type, &body);
    response.headers_mut().insert(
        CACHE_CONTROL,
        HeaderValue::from_static(CERTIFICATE_CACHE_CONTROL),
    );
    response
}

fn unavailable() -> Response<Bytes> {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    response
}

/// A reply without a body that nobody keeps.
fn plain(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
