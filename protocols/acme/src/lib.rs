//! ACME (RFC 8555) on top of the engine.
//!
//! A request comes in at `Acme::handle`, is verified in `call`, and goes to the module of its resource; `order` is where a
//! certificate comes from. Nothing is kept between requests but what lies in the store (`ledger`, `record`).
//!
//! Deviations from RFC 8555, on purpose:
//! - The orders list leaves out invalid orders and does not sort by time.
//! - `keyChange` to a key that has an account answers 409 with that account's address, also if the account is the caller's own.
//! - An account that holds authorizations for every name in another account's certificate cannot revoke it (section 7.6).
//! - An order that fails for a name or a right ends as invalid; one that fails for its CSR, or for now, stays ready.

mod account;
pub mod attestation;
mod authorization;
mod caa;
mod call;
mod certificate_request;
mod challenge;
mod device_attest;
mod directory;
mod error;
mod id;
mod identifier;
mod issue_value;
mod jwk;
mod jws;
mod ledger;
mod nonce;
mod options;
mod order;
mod record;
mod reply;
mod resource;
mod revocation;
mod site;
mod tls_alpn;
mod validation;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ca_backend::{EndpointName, Engine, Error, Fault, Reason, Refusal};
use endpoint::Peer;
use http::header::{ALLOW, CACHE_CONTROL, HeaderName};
use http::{Method, Request, Response, StatusCode};

pub use caa::{CaaProperty, CaaSet};
pub use call::BODY_BYTES_MAX;
pub use challenge::ChallengeType;
pub use error::ProblemType;
pub use options::{AttestationRoots, Options};
pub use validation::{FailureClass, Found, LEASE_S, Question, Target, Validation};

use call::Call;
use error::{Attempt, Failure, Problem};
use ledger::Ledger;
use nonce::Nonces;
use reply::Reply;
use resource::Resource;
use site::Site;
use validation::Context;

/// Starts a validation. Called on a request's thread, so it only hands the work on; if it cannot, the work becomes due again after
/// [`LEASE_S`] seconds.
pub type Start = Arc<dyn Fn(Validation) + Send + Sync>;

/// One ACME endpoint.
pub struct Acme {
    engine: Engine,
    name: EndpointName,
    base_url: String,
    ledger: Ledger,
    nonces: Nonces,
    start: Start,
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("name", &self.name).field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// How often a request is decided anew because records changed between reading and writing.
const ATTEMPTS_MAX: usize = 5;

const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");

impl Acme {
    /// Mounts the endpoint of that name at `base_url` (`https://HOST:PORT/acme/NAME`, no slash at its end). `start` is called with each
    /// validation that a client asks for.
    ///
    /// # Errors
    /// A refusal if there is no such endpoint, its options are wrong or the URL is none; a fault if the store fails.
    pub fn mount(engine: Engine, name: EndpointName, base_url: &str, start: Start) -> Result<Self, Error> {
        let settings = engine.endpoint(&name);
        let settings =
            settings.ok_or_else(|| Refusal::new(Reason::NotReady, format!("there is no endpoint {name}")))?;
        Options::parse(&settings.options)?;
        let is_base = base_url
            .parse::<http::Uri>()
            .is_ok_and(|uri| uri.scheme().is_some() && uri.query().is_none() && uri.path() != "/");
        if !is_base || base_url.ends_with('/') {
            return Err(Refusal::new(
                Reason::Malformed,
                format!("{base_url:?} is not an address such as https://ca.example/acme/NAME"),
            )
            .into());
        }
        let ledger = Ledger::new(engine.clone(), &name);
        let nonces = Nonces::new(&ledger.nonce_key()?);
        Ok(Self { engine, name, base_url: base_url.to_owned(), ledger, nonces, start })
    }

    /// The endpoint's options as they are now.
    ///
    /// # Errors
    /// A refusal if they are wrong or the endpoint is gone or disabled.
    pub fn options(&self) -> Result<Options, Refusal> {
        let settings = self.engine.endpoint(&self.name).filter(|settings| settings.enabled);
        let settings =
            settings.ok_or_else(|| Refusal::new(Reason::NotReady, format!("endpoint {} is not enabled", self.name)))?;
        Options::parse(&settings.options)
    }

    /// Takes up to `limit` validations that are due: second tries, and those whose node died. They are due again after [`LEASE_S`]
    /// seconds unless [`Acme::judge`] was called. Call it every second or two.
    ///
    /// # Errors
    /// The store's fault.
    pub fn due_validations(&self, limit: usize) -> Result<Vec<Validation>, Error> {
        let Ok(options) = self.options() else { return Ok(Vec::new()) };
        let context = Context { base_url: &self.base_url, options: &options };
        validation::take_due(&self.ledger, &context, self.engine.now(), limit)
    }

    /// Records what a validation found: control is shown, or not, or there will be another try.
    ///
    /// # Errors
    /// The store's fault; the validation is then due again.
    pub fn judge(&self, validation: &Validation, found: &Found) -> Result<(), Error> {
        validation::settle(&self.ledger, self.engine.now(), validation, found)
    }

    /// Removes up to `limit` orders, authorizations and certificate owners whose time is over, and up to `limit` used nonces. Returns
    /// how many; call it again while that is not zero.
    ///
    /// # Errors
    /// The store's fault.
    pub fn expire(&self, limit: usize) -> Result<usize, Error> {
        self.ledger.expire(self.engine.now(), limit)
    }

    /// What stands at a request's address.
    fn resource(&self, uri: &http::Uri) -> Option<Resource> {
        Resource::at(uri.path().strip_prefix(path_of(&self.base_url))?, uri.query())
    }

    fn answer(&self, request: &Request<Bytes>, resource: &Resource, peer: &Peer) -> Attempt<Reply> {
        let settings =
            self.engine.endpoint(&self.name).filter(|settings| settings.enabled).ok_or_else(Problem::not_found)?;
        let options = Options::parse(&settings.options).map_err(|refusal| Fault::Broken(refusal.private()))?;
        let site = Site {
            engine: &self.engine,
            ledger: &self.ledger,
            nonces: &self.nonces,
            start: &self.start,
            base_url: &self.base_url,
            settings,
            options,
            now: self.engine.now(),
            peer,
        };
        match (request.method(), resource) {
            (&Method::GET | &Method::HEAD, Resource::Directory) => return Ok(site.directory()),
            (&Method::GET | &Method::HEAD, Resource::NewNonce) => return Ok(new_nonce(request.method())),
            (&Method::POST, _) => {}
            (_, resource) => {
                let read_by_get = matches!(resource, Resource::Directory | Resource::NewNonce);
                let allowed = if read_by_get { "GET, HEAD, POST" } else { "POST" };
                let problem =
                    Problem::malformed(format!("allowed here: {allowed}")).with_status(StatusCode::METHOD_NOT_ALLOWED);
                return Ok(Reply::problem(&problem).header(ALLOW, allowed));
            }
        }
        let path_and_query = request.uri().path_and_query().map_or("", |all| all.as_str());
        let below_base = path_and_query.strip_prefix(path_of(&self.base_url)).unwrap_or_default();
        let call = site.open(request, &format!("{}{below_base}", self.base_url));
        let call = call.map_err(|failure| site.unopened(failure, below_base))?;
        for _ in 0..ATTEMPTS_MAX {
            match signed(&site, resource, &call, request) {
                Err(Failure::Conflict) => {}
                Err(failure) => {
                    // A refused request has used its nonce all the same. That it cannot be recorded must not hide the refusal.
                    if let Err(failure) = site.ledger.change().spend(call.nonce()).commit() {
                        tracing::debug!(request_id = %peer.request_id, ?failure, "a refused request's nonce stays unused");
                    }
                    return Err(failure);
                }
                Ok(reply) => return Ok(reply),
            }
        }
        Err(Fault::TryLater { after_s: 1 }.into())
    }
}

/// The path of a URL, from the slash after the host on.
fn path_of(url: &str) -> &str {
    let after_scheme = url.find("://").map_or(0, |scheme| scheme + "://".len());
    let rest = url.get(after_scheme..).unwrap_or_default();
    rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or_default()
}

/// A nonce and nothing else (RFC 8555 section 7.2); the nonce itself is added to every reply that has one.
fn new_nonce(method: &Method) -> Reply {
    Reply::empty(if *method == Method::GET { StatusCode::NO_CONTENT } else { StatusCode::OK })
}

/// What a verified request asks for.
fn signed(site: &Site<'_>, resource: &Resource, call: &Call, request: &Request<Bytes>) -> Attempt<Reply> {
    match resource {
        Resource::Directory => {
            call.by_account()?.no_payload()?;
            site.ledger.change().spend(call.nonce()).commit()?;
            Ok(site.directory())
        }
        Resource::NewNonce => {
            call.by_account()?.no_payload()?;
            site.ledger.change().spend(call.nonce()).commit()?;
            Ok(new_nonce(request.method()))
        }
        Resource::NewAccount => site.new_account(call.by_key()?),
        Resource::RevokeCertificate => site.revoke_certificate(call),
        Resource::NewOrder => site.new_order(call.by_account()?),
        Resource::KeyChange => site.change_key(call.by_account()?),
        Resource::Account(id) => site.account(call.by_account()?, id),
        Resource::Orders { account, after } => site.orders(call.by_account()?, account, after.as_ref()),
        Resource::Order(id) => site.order(call.by_account()?, id),
        Resource::Finalize(id) => site.finalize(call.by_account()?, id),
        Resource::Authorization(id) => site.authorization(call.by_account()?, id),
        Resource::Challenge(id, kind) => site.challenge(call.by_account()?, id, *kind),
        Resource::Certificate(serial) => site.certificate(call.by_account()?, serial, request.headers()),
    }
}

impl endpoint::Endpoint for Acme {
    fn handle(&self, request: Request<Bytes>, peer: &Peer) -> Response<Bytes> {
        let resource = self.resource(request.uri());
        let answer = match &resource {
            Some(resource) => self.answer(&request, resource, peer),
            None => Err(Problem::not_found().into()),
        };
        let reply = answer.unwrap_or_else(|failure| {
            let problem = match failure {
                Failure::Problem(problem) => *problem,
                Failure::Conflict => Problem::from(&Fault::TryLater { after_s: 1 }),
                Failure::Fault(fault) => {
                    tracing::error!(request_id = %peer.request_id, endpoint = %self.name, error = %fault, "failed to answer an ACME request");
                    Problem::from(&fault)
                }
            };
            Reply::problem(&problem)
        });
        let is_directory = resource == Some(Resource::Directory);
        let is_nonce = resource == Some(Resource::NewNonce);
        let reply = reply.header(CACHE_CONTROL, if is_nonce { "no-store" } else { "public, max-age=0, no-cache" });
        let reply = if is_directory { reply } else { reply.link(&format!("{}/directory", self.base_url), "index") };
        let with_nonce = is_nonce || request.method() == Method::POST;
        let reply = if with_nonce {
            reply.header(REPLAY_NONCE, &self.nonces.issue(self.engine.now(), self.engine.random()))
        } else {
            reply
        };
        let mut response = reply.into_response();
        if request.method() == Method::HEAD {
            *response.body_mut() = Bytes::new();
        }
        response
    }
}
