//! Requests to the services: tokens, the addresses of services, repeats within a deadline.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ca_backend::{Fault, Stopwatch, Time};
use endpoint::{OutboundError, OutboundLimits};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::Intune;
use super::wire::{EndpointsAnswer, TokenAnswer, TokenRefusal};

/// Attempts at one request, the first included.
const ATTEMPTS_MAX: usize = 5;
/// The pause before the second attempt; it doubles from then on.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// A token is renewed this long before it ends, in seconds.
const TOKEN_MARGIN_S: u64 = 120;
/// How long the addresses of services are believed, in seconds.
const ADDRESSES_S: u64 = 86_400;
/// Octets of the longest answer: 500 revocation requests with long contexts.
const ANSWER_BYTES_MAX: usize = 2 << 20;
/// Characters of the other end's explanation that the log shows.
const EXPLANATION_CHARS: usize = 300;
/// When a device may come again after the services were not reachable, in seconds.
const TRY_LATER_S: u32 = 60;

/// What a token opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Graph,
    Services,
}

/// A service of Intune, as Graph lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Validation,
    Revocation,
}

impl Service {
    fn provider_name(self) -> &'static str {
        match self {
            Self::Validation => "ScepRequestValidationFEService",
            Self::Revocation => "PkiConnectorFEService",
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::Validation => "2018-02-20",
            Self::Revocation => "5019-05-05",
        }
    }
}

/// What is kept between requests; losing it costs a few requests.
#[derive(Default)]
pub(super) struct Memory(Mutex<Known>);

#[derive(Default)]
struct Known {
    graph_token: Option<Token>,
    services_token: Option<Token>,
    addresses: Option<(Vec<(String, String)>, Time)>,
}

#[derive(Clone)]
struct Token {
    text: Zeroizing<String>,
    until: Time,
}

impl Memory {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn token(&mut self, resource: Resource) -> &mut Option<Token> {
        match resource {
            Resource::Graph => &mut self.graph_token,
            Resource::Services => &mut self.services_token,
        }
    }
}

/// Why an attempt brought nothing.
enum Trouble {
    /// Another attempt may do better, after a pause at least this long.
    Again { why: String, after: Duration },
    /// The token does not count any more.
    Token { resource: Resource },
    /// It will be the same the next time.
    Final(String),
}

impl Trouble {
    fn again(why: impl Into<String>) -> Self {
        Self::Again { why: why.into(), after: Duration::ZERO }
    }
}

impl Intune {
    /// Sends one request to a service, as often as it takes, within the deadline.
    ///
    /// # Errors
    /// `Fault::TryLater`; why is in the log.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        service: Service,
        action: &str,
        body: &impl Serialize,
    ) -> Result<T, Fault> {
        let body = serde_json::to_vec(body).map_err(|error| Fault::Broken(error.to_string()))?;
        let body = Bytes::from(body);
        let deadline = Duration::from_secs(self.options.outbound.deadline_s);
        let took = Stopwatch::start();
        let mut paused = Duration::ZERO;
        let mut pause = PAUSE_MIN;
        let mut refreshed = false;
        let mut last = String::new();
        for attempt in 1..=ATTEMPTS_MAX {
            let left = deadline.saturating_sub(took.elapsed().max(paused));
            if left.is_zero() {
                break;
            }
            match self.attempt(service, action, body.clone(), left) {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Final(why)) => {
                    last = why;
                    break;
                }
                Err(Trouble::Token { resource }) if !refreshed => {
                    refreshed = true;
                    *self.memory.known().token(resource) = None;
                    "the token was refused".clone_into(&mut last);
                }
                Err(Trouble::Token { .. }) => {
                    "a new token was refused as well".clone_into(&mut last);
                    break;
                }
                Err(Trouble::Again { why, after }) => {
                    tracing::debug!(endpoint = %self.endpoint, action, attempt, why, "no answer from Intune yet");
                    last = why;
                    let next = pause.max(after);
                    if attempt == ATTEMPTS_MAX || took.elapsed().max(paused) + next >= deadline {
                        break;
                    }
                    self.outbound.pause(next);
                    paused += next;
                    pause = pause.saturating_mul(2);
                }
            }
        }
        tracing::error!(endpoint = %self.endpoint, action, why = last, "Intune did not answer");
        Err(Fault::TryLater { after_s: TRY_LATER_S })
    }

    fn attempt<T: DeserializeOwned>(
        &self,
        service: Service,
        action: &str,
        body: Bytes,
        left: Duration,
    ) -> Result<T, Trouble> {
        let took = Stopwatch::start();
        let remaining = || left.saturating_sub(took.elapsed());
        let address = self.address(service, &remaining)?;
        let token = self.token(Resource::Services, &remaining)?;
        let url = format!("{}/{action}", address.trim_end_matches('/'));
        let id = self.request_id();
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(AUTHORIZATION, bearer(&token)?)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .header("client-request-id", &id)
            .header("api-version", service.api_version())
            .body(body)
            .map_err(|_| Trouble::Final("the address of a service is no URL".to_owned()))?;
        let answer = self.send(request, remaining()).and_then(|answer| read(&answer, Resource::Services));
        if let Err(Trouble::Again { .. }) = &answer {
            // Services move: where it is will be asked again.
            self.memory.known().addresses = None;
        }
        if answer.is_err() {
            tracing::debug!(endpoint = %self.endpoint, action, client_request_id = id, "a request to Intune failed");
        }
        answer
    }

    /// Where a service is.
    fn address(&self, service: Service, remaining: &impl Fn() -> Duration) -> Result<String, Trouble> {
        let now = self.engine.now();
        let known = self.memory.known().addresses.clone().filter(|(_, until)| now < *until);
        let addresses = match known {
            Some((addresses, _)) => addresses,
            None => {
                let addresses = self.ask_addresses(remaining)?;
                self.memory.known().addresses = Some((addresses.clone(), now.plus_s(ADDRESSES_S)));
                addresses
            }
        };
        let found = addresses.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(service.provider_name()));
        found.map(|(_, uri)| uri).ok_or_else(|| {
            self.memory.known().addresses = None;
            Trouble::again(format!("Graph lists no service {}", service.provider_name()))
        })
    }

    fn ask_addresses(&self, remaining: &impl Fn() -> Duration) -> Result<Vec<(String, String)>, Trouble> {
        let token = self.token(Resource::Graph, remaining)?;
        let path = format!("servicePrincipals/appId={}/endpoints", self.options.service_app_id);
        let url = self.options.graph_url.join(&path).map_err(|_| Trouble::Final("graph_url is unusable".to_owned()))?;
        let request = Request::builder()
            .uri(url.as_str())
            .header(AUTHORIZATION, bearer(&token)?)
            .header(ACCEPT, "application/json")
            .header("client-request-id", self.request_id())
            .body(Bytes::new())
            .map_err(|_| Trouble::Final("graph_url is unusable".to_owned()))?;
        let answer: EndpointsAnswer = read(&self.send(request, remaining())?, Resource::Graph)?;
        Ok(answer.value.into_iter().filter_map(|found| Some((found.provider_name?, found.uri?))).collect())
    }

    fn token(&self, resource: Resource, remaining: &impl Fn() -> Duration) -> Result<Zeroizing<String>, Trouble> {
        let now = self.engine.now();
        let known = self.memory.known().token(resource).clone().filter(|token| now < token.until);
        if let Some(token) = known {
            return Ok(token.text);
        }
        let token = self.ask_token(resource, now, remaining)?;
        let text = token.text.clone();
        *self.memory.known().token(resource) = Some(token);
        Ok(text)
    }

    /// The client credentials grant (RFC 6749 section 4.4).
    fn ask_token(&self, resource: Resource, now: Time, remaining: &impl Fn() -> Duration) -> Result<Token, Trouble> {
        let options = &self.options;
        let unusable = |_| Trouble::Final("login_url is unusable".to_owned());
        let url = options.login_url.join(&format!("{}/oauth2/v2.0/token", options.tenant)).map_err(unusable)?;
        let scope = match resource {
            // Of the whole URL only the host is the resource.
            Resource::Graph => format!("{}/.default", options.graph_url.origin().ascii_serialization()),
            Resource::Services => format!("{}/.default", options.service_resource),
        };
        let proof = self
            .credential
            .fields(&options.client_id, url.as_str(), now, &self.request_id())
            .map_err(Trouble::Final)?;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        form.append_pair("client_id", &options.client_id).append_pair("scope", &scope);
        for (name, value) in &proof {
            form.append_pair(name, value);
        }
        let request = Request::builder()
            .method(Method::POST)
            .uri(url.as_str())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::from(form.finish()))
            .map_err(|_| Trouble::Final("login_url is unusable".to_owned()))?;
        let answer = self.send(request, remaining())?;
        if matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED)
            && let Ok(refusal) = serde_json::from_slice::<TokenRefusal>(answer.body())
        {
            let why = shown(&refusal.error_description);
            return Err(Trouble::Final(format!("no token was given: {:?} {why:?}", shown(&refusal.error))));
        }
        let answer: TokenAnswer = read(&answer, resource)?;
        Ok(Token {
            text: Zeroizing::new(answer.access_token),
            until: now.plus_s(answer.expires_in.saturating_sub(TOKEN_MARGIN_S)),
        })
    }

    fn send(&self, request: Request<Bytes>, left: Duration) -> Result<Response<Bytes>, Trouble> {
        let timeout = left.min(Duration::from_secs(self.options.outbound.attempt_timeout_s));
        let host = request.uri().host().unwrap_or_default().to_owned();
        let limits = OutboundLimits { timeout, body_bytes_max: ANSWER_BYTES_MAX };
        self.outbound.ask(request, limits).map_err(|error| match error {
            OutboundError::Refused(_) => Trouble::Final(format!("{host}: {error}")),
            OutboundError::Unreachable(_) | OutboundError::Timeout | OutboundError::BadAnswer(_) => {
                Trouble::again(format!("{host}: {error}"))
            }
        })
    }

    /// A random identifier in the form of a UUID (RFC 9562 section 5.4), by which Microsoft finds a request in its logs.
    fn request_id(&self) -> String {
        let random = u128::from_be_bytes(self.engine.random());
        let marked = random & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
        let digits = format!("{marked:032x}");
        let part = |from: usize, until: usize| digits.get(from..until).unwrap_or_default();
        [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
    }
}

/// The first characters of a text from elsewhere.
fn shown(text: &str) -> String {
    text.chars().take(EXPLANATION_CHARS).collect()
}

fn bearer(token: &str) -> Result<HeaderValue, Trouble> {
    let text = Zeroizing::new(format!("Bearer {token}"));
    let mut value = HeaderValue::from_str(&text).map_err(|_| Trouble::again("a token is no text of a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read<T: DeserializeOwned>(answer: &Response<Bytes>, resource: Resource) -> Result<T, Trouble> {
    let status = answer.status();
    if status.is_success() {
        return serde_json::from_slice(answer.body())
            .map_err(|error| Trouble::again(format!("the answer is not the JSON that was expected: {error}")));
    }
    let why = format!("status {}", status.as_u16());
    match status {
        StatusCode::UNAUTHORIZED => Err(Trouble::Token { resource }),
        StatusCode::FORBIDDEN => Err(Trouble::Final(format!(
            "{why}: the application lacks a permission, or an administrator's consent to it"
        ))),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::NOT_FOUND => {
            Err(Trouble::Again { why, after: retry_after(answer) })
        }
        _ if status.is_server_error() => Err(Trouble::Again { why, after: retry_after(answer) }),
        _ => Err(Trouble::Final(why)),
    }
}

/// Retry-After in seconds (RFC 9110 section 10.2.3). A date is as good as none: the next pause decides then.
fn retry_after(answer: &Response<Bytes>) -> Duration {
    let header = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    header.and_then(|text| text.trim().parse().ok()).map_or(Duration::ZERO, Duration::from_secs)
}
