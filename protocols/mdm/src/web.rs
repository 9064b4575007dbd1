//! The web service of one endpoint: which resource a request is for, and who asks.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ca_backend::{
    Endpoint, EndpointName, Engine, Error, Origin, ProtocolName, Reason, Refusal, Right, Serial, StatusChange,
};
use endpoint::Peer;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::caller::Caller;
use crate::ledger::Ledger;
use crate::options::{Configuration, MdmOptions};
use crate::problem::Problem;
use crate::{certificate, challenge, page, sha256};

/// Octets of the longest request: fifty CSRs.
pub const BODY_BYTES_MAX: usize = 512 << 10;
/// Where the page of NDES stands for the endpoint that has it.
pub const NDES_PATH: &str = "/certsrv/mscep_admin";
/// Characters of an Idempotency-Key.
const IDEMPOTENCY_KEY_CHARS_MAX: usize = 128;

/// One endpoint of the protocol `mdm`.
pub struct Mdm {
    engine: Engine,
    name: EndpointName,
    base_url: String,
    /// The minute, and how many challenges were made in it.
    pub(crate) pace: Mutex<(u64, u32)>,
}

impl fmt::Debug for Mdm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mdm").field("name", &self.name).field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// A request on its way.
pub(crate) struct Call<'a> {
    pub(crate) mdm: &'a Mdm,
    pub(crate) engine: &'a Engine,
    pub(crate) settings: Arc<Endpoint>,
    pub(crate) options: MdmOptions,
    pub(crate) configurations: Vec<Configuration>,
    pub(crate) request: &'a Request<Bytes>,
    pub(crate) peer: &'a Peer,
}

/// What a route makes of a request.
pub(crate) type Attempt = Result<Response<Bytes>, Error>;

impl Mdm {
    /// Mounts the endpoint of that name at `base_url` (`https://HOST/mdm/NAME`, no slash at its end).
    ///
    /// # Errors
    /// A refusal if there is no such endpoint or its options are wrong.
    pub fn mount(engine: Engine, name: EndpointName, base_url: &str) -> Result<Self, Error> {
        let settings = engine
            .endpoint(&name)
            .ok_or_else(|| Refusal::new(Reason::NotReady, format!("there is no endpoint {name}")))?;
        MdmOptions::parse(&settings)?;
        Ok(Self { engine, name, base_url: base_url.to_owned(), pace: Mutex::default() })
    }

    /// Forgets what is too old to be repeated. Returns how much; call it again while that is not zero.
    ///
    /// # Errors
    /// The store's fault.
    pub fn expire(engine: &Engine) -> Result<usize, Error> {
        crate::ledger::forget_calls(engine)
    }

    fn answer(&self, request: &Request<Bytes>, peer: &Peer) -> Attempt {
        let settings = self.engine.endpoint(&self.name).filter(|settings| settings.enabled);
        let settings =
            settings.ok_or_else(|| Refusal::new(Reason::NotReady, format!("endpoint {} is not enabled", self.name)))?;
        let options = MdmOptions::parse(&settings)?;
        let configurations = options.read_configurations(&settings)?;
        let call = Call { mdm: self, engine: &self.engine, settings, options, configurations, request, peer };
        call.route()
    }

    /// Counts a challenge; refuses it if there were too many within this minute.
    pub(crate) fn keep_pace(&self, per_minute_max: u32) -> Result<(), Refusal> {
        let minute = self.engine.now().unix() / 60;
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if pace.0 != minute {
            *pace = (minute, 0);
        }
        if pace.1 >= per_minute_max {
            return Err(Refusal::new(Reason::RateLimited, "too many challenges in a minute").retry_after_s(60));
        }
        pace.1 += 1;
        Ok(())
    }
}

impl Call<'_> {
    fn route(&self) -> Attempt {
        let path = self.request.uri().path();
        // IIS does not mind the letter case of a path.
        let is_ndes = path.split_at_checked(NDES_PATH.len()).is_some_and(|(head, rest)| {
            head.eq_ignore_ascii_case(NDES_PATH) && (rest.is_empty() || rest.starts_with('/'))
        });
        if is_ndes {
            return match *self.request.method() {
                Method::GET | Method::HEAD => page::ndes(self),
                _ => Ok(self.not_allowed("GET")),
            };
        }
        let base = self.mdm.base_url.find("://").and_then(|at| self.mdm.base_url.get(at + 3..)).unwrap_or_default();
        let base = base.find('/').and_then(|at| base.get(at..)).unwrap_or_default();
        let rest = path.strip_prefix(base).unwrap_or_default();
        let segments: Vec<&str> = rest.split('/').filter(|segment| !segment.is_empty()).collect();
        let is = |method: Method| *self.request.method() == method;
        let (allowed, answer): (&str, fn(&Self) -> Attempt) = match segments.as_slice() {
            ["openapi.json"] => ("GET", |_| answer_json(StatusCode::OK, &crate::openapi::description())),
            ["configurations"] => ("GET", certificate::configurations),
            ["certificates"] if is(Method::GET) => ("GET", certificate::list),
            ["certificates"] => ("POST", certificate::issue),
            ["certificates", "bulk"] => ("POST", certificate::issue_bulk),
            ["certificates", "status"] => ("POST", certificate::status::change_status_bulk),
            ["certificates", _] => ("GET", certificate::show),
            ["certificates", _, "renew"] => ("POST", certificate::renew),
            ["certificates", _, "revoke"] => ("POST", certificate::status::revoke),
            ["certificates", _, "hold"] => ("POST", certificate::status::hold),
            ["certificates", _, "unhold"] => ("POST", certificate::status::unhold),
            ["challenges"] if is(Method::GET) => ("GET", challenge::list),
            ["challenges"] => ("POST", challenge::create),
            ["challenges", _] => ("DELETE", challenge::remove),
            ["jamf"] => ("POST", page::jamf),
            ["certsrv", "mscep_admin"] => ("GET", page::ndes),
            _ => return Ok(self.problem(StatusCode::NOT_FOUND, "not-found", "there is nothing at this address")),
        };
        let head_of_get = allowed == "GET" && is(Method::HEAD);
        if self.request.method().as_str() != allowed && !head_of_get {
            return Ok(self.not_allowed(allowed));
        }
        answer(self)
    }

    fn not_allowed(&self, allowed: &str) -> Response<Bytes> {
        let detail = format!("allowed here: {allowed}");
        let mut response = self.problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", &detail);
        if let Ok(allowed) = HeaderValue::from_str(allowed) {
            response.headers_mut().insert(ALLOW, allowed);
        }
        response
    }

    fn problem(&self, status: StatusCode, reason: &str, detail: &str) -> Response<Bytes> {
        Problem::new(status, reason, detail, &self.peer.request_id).response()
    }

    /// The caller, if it may do this.
    pub(crate) fn caller(&self, right: Right) -> Result<Caller, Error> {
        let caller = self.any_caller()?;
        caller.require(right)?;
        Ok(caller)
    }

    /// The caller, whatever it may do.
    pub(crate) fn any_caller(&self) -> Result<Caller, Error> {
        let origin = self.origin(&self.peer.request_id, [0; 32])?;
        Caller::of(self.engine, &self.mdm.name, &self.options, self.request.headers(), self.peer, &origin)
    }

    pub(crate) fn origin(&self, transaction: &str, request_digest: [u8; 32]) -> Result<Origin, Refusal> {
        Ok(Origin {
            protocol: ProtocolName::new("mdm")?,
            endpoint: Some(self.mdm.name.clone()),
            transaction: transaction.to_owned(),
            request_digest,
            peer: Some(self.peer.address.ip()),
            request_id: self.peer.request_id.clone(),
        })
    }

    pub(crate) fn ledger(&self) -> Ledger<'_> {
        Ledger { engine: self.engine, endpoint: &self.mdm.name }
    }

    /// The body as JSON.
    pub(crate) fn body<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(self.request.body()).map_err(|error| {
            Refusal::new(Reason::Malformed, format!("the body is not the JSON that is expected: {error}"))
        })
    }

    /// The key that makes a call safe to repeat.
    pub(crate) fn idempotency_key(&self) -> Result<Option<String>, Refusal> {
        let Some(header) = self.request.headers().get("idempotency-key") else { return Ok(None) };
        let text = header.to_str();
        let text = text.map_err(|_| Refusal::new(Reason::Malformed, "the Idempotency-Key is no text"))?;
        check_idempotency_key(text).map(Some)
    }

    /// The serial in the address.
    pub(crate) fn serial(&self) -> Result<Serial, Refusal> {
        let rest = self.request.uri().path().rsplit_once("/certificates/").map_or("", |(_, rest)| rest);
        let text = rest.split('/').next().unwrap_or_default();
        Serial::parse(text).map_err(|_| Refusal::new(Reason::UnknownCertificate, "there is no such certificate here"))
    }

    /// A parameter of the query, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let query = self.request.uri().query()?;
        url::form_urlencoded::parse(query.as_bytes()).find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    }

    pub(crate) fn configuration(&self, name: &str) -> Result<&Configuration, Refusal> {
        let found = self.configurations.iter().find(|configuration| configuration.name == name);
        found.ok_or_else(|| Refusal::new(Reason::UnknownProfile, format!("there is no configuration {name:?}")))
    }
}

/// Refuses a key that is too long or no text.
pub(crate) fn check_idempotency_key(text: &str) -> Result<String, Refusal> {
    let fits =
        !text.is_empty() && text.chars().count() <= IDEMPOTENCY_KEY_CHARS_MAX && !text.chars().any(char::is_control);
    if fits {
        Ok(text.to_owned())
    } else {
        let text = format!("an idempotency key has 1 to {IDEMPOTENCY_KEY_CHARS_MAX} characters");
        Err(Refusal::new(Reason::Malformed, text))
    }
}

/// A reply for a program, which nobody may keep.
pub(crate) fn answer_json(status: StatusCode, body: &impl Serialize) -> Attempt {
    let bytes = serde_json::to_vec(body).map_err(|error| ca_backend::Fault::Broken(error.to_string()))?;
    Ok(answer_bytes(status, "application/json", bytes))
}

/// A reply of any type, which nobody may keep.
pub(crate) fn answer_bytes(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The right that a change of status needs.
pub(crate) fn right_for(change: StatusChange) -> Right {
    match change {
        StatusChange::Revoke { .. } => Right::Revoke,
        StatusChange::Hold | StatusChange::Unhold => Right::Hold,
    }
}

/// SHA-256 of a wish without its secrets.
pub(crate) fn digest_of(wish: &impl Serialize) -> Result<[u8; 32], ca_backend::Fault> {
    let bytes = serde_json::to_vec(wish).map_err(|error| ca_backend::Fault::Broken(error.to_string()))?;
    Ok(sha256(&bytes))
}

impl endpoint::Endpoint for Mdm {
    fn handle(&self, request: Request<Bytes>, peer: &Peer) -> Response<Bytes> {
        self.answer(&request, peer).unwrap_or_else(|error| Problem::of(&error, &peer.request_id).response())
    }
}
