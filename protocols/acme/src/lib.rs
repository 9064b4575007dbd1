//! ACME (RFC 8555) on top of the engine.
//!
//! A request comes in at `Acme::handle`, is verified in `call`, and goes to the module of its resource; `order` is where a
//! certificate comes from. Nothing is kept between requests but what lies in the store (`ledger`, `record`).
//!
//! Deviations from RFC 8555, on purpose:
//! - Certificates that another endpoint or protocol issued cannot be revoked here, nor asked about (renewal information).
//! - `keyChange` to a key that has an account answers 409 with that account's address, also if the account is the caller's own.
//! - `ancestorDomain` (RFC 9444) is heeded for host names only, and shown by DNS only; a wildcard is shown by itself.
//! - A name that no access rule allows is refused at newOrder already, with a subproblem for each (section 7.4 leaves it open).
//! - `newAuthz` is offered only where authorizations are reused, since otherwise nothing comes of it.
//! - An order that fails for a name or a right ends as invalid; one that fails for its CSR, or for now, stays ready.

mod account;
pub mod attestation;
mod authorization;
mod caa;
mod call;
mod certificate_request;
mod challenge;
mod corroboration;
mod device_attest;
mod directory;
mod eab;
mod error;
mod id;
mod identifier;
mod issue_value;
mod jwk;
mod jws;
mod ledger;
mod limits;
mod nonce;
mod operators;
mod options;
mod order;
mod persistent;
mod pre_authorization;
mod record;
mod renewal_info;
mod reply;
mod resource;
mod revocation;
mod site;
mod tls_alpn;
mod validation;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ca_backend::{EndpointName, Engine, Error, Fault, Reason, Refusal};
use endpoint::Peer;
use http::header::{ALLOW, CACHE_CONTROL, HeaderName};
use http::{Method, Request, Response, StatusCode};

pub use caa::{CaaProperty, CaaSet};
pub use call::BODY_BYTES_MAX;
pub use challenge::ChallengeType;
pub use corroboration::Sighting;
pub use eab::ExternalAccount;
pub use error::ProblemType;
pub use limits::{LIMITED, LimitOverrides, Limits};
pub use operators::{AccountSummary, Accounts};
pub use options::{AttestationRoots, Options};
pub use renewal_info::EarlyRenewal;
pub use validation::{FailureClass, Found, LEASE_S, Question, Target, Validation};

use call::Call;
use error::{Attempt, Failure, Problem};
use ledger::Ledger;
use nonce::Nonces;
use order::{Order, OrderState};
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
    /// The options of these settings: they are read anew only when somebody changed them.
    read: Mutex<Option<(Arc<ca_backend::Endpoint>, Arc<Options>)>>,
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("name", &self.name).field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// How often a request is decided anew because records changed between reading and writing.
const ATTEMPTS_MAX: usize = 5;

/// How long an order that could not be finished waits for the next attempt.
const RESUMED_AFTER_S: u64 = 60;

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
        let (ledger, nonce_key) = Ledger::open(engine.clone(), &name)?;
        let nonces = Nonces::new(&nonce_key);
        Ok(Self { engine, name, base_url: base_url.to_owned(), ledger, nonces, start, read: Mutex::default() })
    }

    /// The endpoint's options as they are now.
    ///
    /// # Errors
    /// A refusal if they are wrong or the endpoint is gone or disabled.
    pub fn options(&self) -> Result<Arc<Options>, Refusal> {
        let settings = self.engine.endpoint(&self.name).filter(|settings| settings.enabled);
        let settings =
            settings.ok_or_else(|| Refusal::new(Reason::NotReady, format!("endpoint {} is not enabled", self.name)))?;
        self.options_of(&settings)
    }

    fn options_of(&self, settings: &Arc<ca_backend::Endpoint>) -> Result<Arc<Options>, Refusal> {
        // Nothing of others runs under this lock, so a poisoned one still holds a whole value.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, options)) = read.as_ref()
            && Arc::ptr_eq(of, settings)
        {
            return Ok(Arc::clone(options));
        }
        let options = Arc::new(Options::parse(&settings.options)?);
        *read = Some((Arc::clone(settings), Arc::clone(&options)));
        Ok(options)
    }

    /// Takes up to `limit` validations that are due: second tries, and those whose node died. They are due again after [`LEASE_S`]
    /// seconds unless [`Acme::judge`] was called. Call it every second or two.
    ///
    /// # Errors
    /// The store's fault.
    pub fn due_validations(&self, limit: usize) -> Result<Vec<Validation>, Error> {
        let Ok(options) = self.options() else { return Ok(Vec::new()) };
        let context = Context { base_url: &self.base_url, options: &options, now: self.engine.now() };
        validation::take_due(&self.ledger, &context, self.engine.now(), limit)
    }

    /// Records what a validation found here, and what the remote perspectives found that it names: control is shown, or not, or there
    /// will be another try.
    ///
    /// # Errors
    /// The store's fault; the validation is then due again.
    pub fn judge(&self, validation: &Validation, found: &Found, elsewhere: &[Sighting]) -> Result<(), Error> {
        // What a disabled endpoint asked for is still recorded.
        let options = self.options().unwrap_or_default();
        let verdict = validation.verdict(found, elsewhere);
        validation::settle(&self.ledger, &options, self.engine.now(), validation, &verdict)
    }

    /// Goes on with up to `limit` orders whose certificate was asked for a minute ago or more and is not there: after a crash, after
    /// a fault, and though their client never comes back. Call it every few seconds.
    ///
    /// # Errors
    /// The store's fault, or that of the settings.
    pub fn resume(&self, limit: usize) -> Result<(), Error> {
        let now = self.engine.now();
        let unfinished = self.ledger.unfinished(now, limit)?;
        let Some(settings) = self.engine.endpoint(&self.name).filter(|settings| settings.enabled) else {
            return Ok(());
        };
        let peer =
            Peer { address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), tls: None, request_id: "resume".to_owned() };
        for entry in unfinished {
            let site = self.site(settings.clone(), &peer)?;
            let order = entry.order.map(|id| self.ledger.order(&id)).transpose()?.flatten();
            let waits = |order: &Order| matches!(order.state, OrderState::Processing { ticket: None, .. });
            let attempt = match order.filter(|order| waits(&order.value)) {
                Some(order) => {
                    let again =
                        self.ledger.change().note_unfinished(&order.value, now.plus_s(RESUMED_AFTER_S)).commit();
                    again.and_then(|()| site.resume(order)).map(drop)
                }
                None => self.ledger.change().forget_unfinished(entry).commit(),
            };
            match attempt {
                // Somebody else goes on with it, or the engine refused it and the order says so.
                Ok(()) | Err(Failure::Conflict | Failure::Problem(_)) => {}
                Err(Failure::Fault(fault)) => return Err(fault.into()),
            }
        }
        Ok(())
    }

    /// Forgets what limits were used that are free again. Reads all of them, so call it once an hour.
    ///
    /// # Errors
    /// The store's fault.
    pub fn forget_limits(&self) -> Result<(), Error> {
        self.ledger.forget_limits(self.engine.now())
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

    /// The endpoint for one request.
    fn site<'a>(&'a self, settings: Arc<ca_backend::Endpoint>, peer: &'a Peer) -> Result<Site<'a>, Fault> {
        let options = self.options_of(&settings).map_err(|refusal| Fault::Broken(refusal.private()))?;
        Ok(Site {
            engine: &self.engine,
            ledger: &self.ledger,
            nonces: &self.nonces,
            start: &self.start,
            base_url: &self.base_url,
            settings,
            options,
            now: self.engine.now(),
            peer,
        })
    }

    fn answer(&self, request: &Request<Bytes>, resource: &Resource, peer: &Peer) -> Attempt<Reply> {
        let settings =
            self.engine.endpoint(&self.name).filter(|settings| settings.enabled).ok_or_else(Problem::not_found)?;
        let site = self.site(settings, peer)?;
        match (request.method(), resource) {
            (&Method::GET | &Method::HEAD, Resource::Directory) => return Ok(site.directory()),
            (&Method::GET | &Method::HEAD, Resource::NewNonce) => return Ok(new_nonce(request.method())),
            (&Method::GET | &Method::HEAD, Resource::RenewalInfo(certificate)) => {
                return site.renewal_info(certificate);
            }
            (&Method::POST, resource) if !matches!(resource, Resource::RenewalInfo(_)) => {}
            (_, resource) => {
                let read_by_get = matches!(resource, Resource::Directory | Resource::NewNonce);
                let is_public = matches!(resource, Resource::RenewalInfo(_));
                let allowed = if is_public {
                    "GET, HEAD"
                } else if read_by_get {
                    "GET, HEAD, POST"
                } else {
                    "POST"
                };
                let problem =
                    Problem::malformed(format!("allowed here: {allowed}")).with_status(StatusCode::METHOD_NOT_ALLOWED);
                return Ok(Reply::problem(&problem).header(ALLOW, allowed));
            }
        }
        let path_and_query = request.uri().path_and_query().map_or("", |all| all.as_str());
        let below_base = path_and_query.strip_prefix(path_of(&self.base_url)).unwrap_or_default();
        let call = site.open(request, &format!("{}{below_base}", self.base_url));
        let call = call.map_err(|failure| site.recorded(failure, below_base))?;
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
        Resource::NewOrder => {
            let call = call.by_account()?;
            let refused = |failure| site.recorded(failure, &format!("new-order {}", call.account.value.id));
            site.new_order(call).map_err(refused)
        }
        Resource::NewAuthorization => {
            let call = call.by_account()?;
            let refused = |failure| site.recorded(failure, &format!("new-authz {}", call.account.value.id));
            site.pre_authorize(call).map_err(refused)
        }
        Resource::RenewalInfo(certificate) => site.renewal_info(certificate),
        Resource::KeyChange => site.change_key(call.by_account()?),
        Resource::Account(id) => site.account(call.by_account()?, id),
        Resource::Orders { account, after } => site.orders(call.by_account()?, account, after.as_ref()),
        Resource::Order(id) => site.order(call.by_account()?, id),
        Resource::Finalize(id) => site.finalize(call.by_account()?, id),
        Resource::Authorization(id) => site.authorization(call.by_account()?, id),
        Resource::Challenge(id, kind) => site.challenge(call.by_account()?, id, *kind),
        Resource::Certificate(serial, chain) => site.certificate(call.by_account()?, serial, *chain, request.headers()),
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
