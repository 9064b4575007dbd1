//! A webhook as the judge of SCEP requests: a service of the operator's own says whether a request may have its certificate.
//!
//! What is sent has the shape of step-ca's SCEPCHALLENGE and NOTIFYING webhooks, so that services written for those serve here too. The
//! service is trusted with challenges, and with nothing else: the endpoint's rules still decide what a request that it allows may get.

mod message;
mod options;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ca_backend::{
    CertificateRequest, DeviceClaim, DeviceVerifier, EndpointName, Engine, Error, Fault, IssuedCertificate, Reason,
    Refusal, Stopwatch,
};
use endpoint::{Outbound, OutboundError, OutboundLimits};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Deserialize;
use zeroize::Zeroizing;

pub use options::{NotificationOptions, WebhookOptions};

use message::{Issued, Message, Requested};

/// Attempts at one question, the first included, and at a notification without which no certificate is given out.
const ATTEMPTS_MAX: usize = 4;
/// The pause before the second attempt; it doubles from then on.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Octets of the longest answer, of which one member counts.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Octets of the shortest signing secret.
const SECRET_OCTETS_MIN: usize = 16;
/// What the names of devices that a webhook vouched for begin with, before a colon.
const SYSTEM: &str = "webhook";

/// One endpoint's webhook.
pub struct Webhook {
    engine: Engine,
    endpoint: EndpointName,
    options: WebhookOptions,
    proof: WebhookProof,
    /// The proof of notifications.
    notice_proof: WebhookProof,
    outbound: Arc<dyn Outbound>,
}

/// How the service knows that it is us who ask, where a client certificate does not tell it.
#[derive(Clone)]
pub struct WebhookProof {
    signing: Option<hmac::Key>,
    bearer: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct Verdict {
    allow: bool,
}

/// Why an attempt brought no verdict.
enum Trouble {
    /// Another attempt may do better.
    Again(String),
    /// It will be the same the next time.
    Final(String),
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Nothing of it may be printed.
impl fmt::Debug for WebhookProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookProof(..)")
    }
}

impl WebhookProof {
    /// A secret to sign with, in base64 as step-ca shows it, and a bearer token. `table` is what operators know them as part of.
    ///
    /// # Errors
    /// `Reason::Malformed` if a secret is unusable; no word of it is in it.
    pub fn new(table: &str, signing: Option<&str>, bearer: Option<&str>) -> Result<Self, Refusal> {
        let malformed = |why: String| Refusal::new(Reason::Malformed, why);
        let key = |text: &str| {
            let octets = STANDARD.decode(text.trim()).map(Zeroizing::new).ok();
            octets.filter(|octets| octets.len() >= SECRET_OCTETS_MIN).ok_or_else(|| {
                malformed(format!("{table}.signing_secret is base64 of at least {SECRET_OCTETS_MIN} octets"))
            })
        };
        let header = |token: &str| {
            let text = Zeroizing::new(format!("Bearer {token}"));
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| malformed(format!("{table}.bearer is no text of a header")))?;
            value.set_sensitive(true);
            Ok(value)
        };
        Ok(Self {
            signing: signing.map(key).transpose()?.map(|octets| hmac::Key::new(hmac::HMAC_SHA256, &octets)),
            bearer: bearer.map(header).transpose()?,
        })
    }

    /// The request that carries a message to a hook.
    fn request(&self, url: &str, id: &str, body: Bytes) -> Result<Request<Bytes>, Trouble> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .header("x-smallstep-webhook-id", id);
        if let Some(key) = &self.signing {
            request = request.header("x-smallstep-signature", hex::encode(hmac::sign(key, &body)));
        }
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        request.body(body).map_err(|_| Trouble::Final("the URL of the webhook is unusable".to_owned()))
    }
}

impl Webhook {
    /// The service that `options` name, for an endpoint. Nothing is asked yet.
    #[must_use]
    pub fn new(
        engine: Engine,
        endpoint: EndpointName,
        options: WebhookOptions,
        (proof, notice_proof): (WebhookProof, WebhookProof),
        outbound: Arc<dyn Outbound>,
    ) -> Self {
        Self { engine, endpoint, options, proof, notice_proof, outbound }
    }

    /// What every message says of a claim.
    fn message<'a>(&'a self, claim: &'a DeviceClaim, csr: &CertificateRequest) -> Message<'a> {
        Message {
            timestamp: self.engine.now().to_string(),
            provisioner_name: self.endpoint.as_str(),
            scep_transaction_id: &claim.transaction,
            x509_certificate_request: Requested::new(csr.key().subject_key(), &claim.csr),
            scep_challenge: None,
            x509_certificate: None,
            scep_error_description: None,
            reason: None,
            peer: claim.peer.map(|peer| peer.to_string()),
            renews: claim.renews.map(|serial| serial.to_string()),
        }
    }

    fn question(&self, claim: &DeviceClaim) -> Result<Bytes, Error> {
        let csr = CertificateRequest::open(&claim.csr)?;
        let challenge = csr.challenge_password().map(|challenge| challenge.reveal()).unwrap_or_default();
        encoded(&Message { scep_challenge: Some(challenge), ..self.message(claim, &csr) })
    }

    fn ask(&self, body: &Bytes) -> Result<Verdict, String> {
        let request = || self.proof.request(self.options.url.as_str(), &self.options.id, body.clone());
        self.insist(ATTEMPTS_MAX, request, verdict)
    }

    /// Tells of the end of a claim. A device need not wait long for what nothing depends on.
    fn tell(&self, hook: &NotificationOptions, body: &Bytes) -> Result<(), String> {
        let request = || self.notice_proof.request(hook.url.as_str(), &hook.id, body.clone());
        let taken = |answer: &Response<Bytes>| {
            let status = answer.status();
            if status.is_success() { Ok(()) } else { Err(trouble(status)) }
        };
        self.insist(if hook.required { ATTEMPTS_MAX } else { 1 }, request, taken)
    }

    /// Asks, as often as it takes, within the deadline.
    fn insist<T>(
        &self,
        attempts_max: usize,
        request: impl Fn() -> Result<Request<Bytes>, Trouble>,
        read: impl Fn(&Response<Bytes>) -> Result<T, Trouble>,
    ) -> Result<T, String> {
        let deadline = Duration::from_secs(self.options.outbound.deadline_s);
        let took = Stopwatch::start();
        let (mut pause, mut last) = (PAUSE_MIN, "the deadline is over".to_owned());
        for attempt in 1..=attempts_max {
            let left = deadline.saturating_sub(took.elapsed());
            if left.is_zero() {
                break;
            }
            match request().and_then(|request| self.attempt(request, left)).and_then(|answer| read(&answer)) {
                Ok(found) => return Ok(found),
                Err(Trouble::Final(why)) => return Err(why),
                Err(Trouble::Again(why)) => last = why,
            }
            if attempt < attempts_max && took.elapsed() + pause < deadline {
                self.outbound.pause(pause);
                pause = pause.saturating_mul(2);
            }
        }
        Err(last)
    }

    fn attempt(&self, request: Request<Bytes>, left: Duration) -> Result<Response<Bytes>, Trouble> {
        let timeout = left.min(Duration::from_secs(self.options.outbound.attempt_timeout_s));
        let limits = OutboundLimits { timeout, body_bytes_max: ANSWER_BYTES_MAX };
        self.outbound.ask(request, limits).map_err(|error| match error {
            OutboundError::Refused(_) | OutboundError::BadAnswer(_) => Trouble::Final(error.to_string()),
            OutboundError::Unreachable(_) | OutboundError::Timeout => Trouble::Again(error.to_string()),
        })
    }
}

fn encoded(message: &Message<'_>) -> Result<Bytes, Error> {
    Ok(serde_json::to_vec(message).map(Bytes::from).map_err(|error| Fault::Broken(error.to_string()))?)
}

fn verdict(answer: &Response<Bytes>) -> Result<Verdict, Trouble> {
    let status = answer.status();
    if status != StatusCode::OK {
        return Err(trouble(status));
    }
    serde_json::from_slice(answer.body())
        .map_err(|_| Trouble::Again("the answer is no JSON with a member \"allow\"".to_owned()))
}

/// What a status means that is not the one hoped for.
fn trouble(status: StatusCode) -> Trouble {
    let why = format!("it answered with status {}", status.as_u16());
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Trouble::Again(why),
        _ if status.is_server_error() => Trouble::Again(why),
        _ => Trouble::Final(why),
    }
}

impl DeviceVerifier for Webhook {
    fn verify(&self, claim: &DeviceClaim) -> Result<String, Error> {
        match self.ask(&self.question(claim)?) {
            Ok(Verdict { allow: true }) => Ok(format!("{SYSTEM}:{}", claim.transaction)),
            Ok(Verdict { allow: false }) => {
                tracing::info!(endpoint = %self.endpoint, transaction = claim.transaction, "the webhook refused a request");
                let refusal = Refusal::new(Reason::NotAuthenticated, "nobody vouches for this request");
                Err(refusal.with_private("the webhook refused").into())
            }
            // A client knows what to do with a failure, and little with a status: the request gets no certificate either way.
            Err(why) => {
                tracing::error!(endpoint = %self.endpoint, transaction = claim.transaction, why, "the webhook gave no verdict");
                let refusal = Refusal::new(Reason::NotReady, "nobody can judge this request now; try again later");
                Err(refusal.with_private(format!("the webhook gave no verdict: {why}")).into())
            }
        }
    }

    /// The device hears nothing of it where nothing depends on it.
    fn issued(&self, claim: &DeviceClaim, certificate: &IssuedCertificate) -> Result<(), Error> {
        let Some(hook) = &self.options.notifications else { return Ok(()) };
        let csr = CertificateRequest::open(&claim.csr)?;
        let issued = Issued::new(csr.key().subject_key(), certificate)?;
        let body = encoded(&Message { x509_certificate: Some(issued), ..self.message(claim, &csr) })?;
        let Err(why) = self.tell(hook, &body) else { return Ok(()) };
        let serial = &certificate.serial;
        tracing::error!(endpoint = %self.endpoint, transaction = claim.transaction, %serial, why, "the webhook could not be told of a certificate");
        if !hook.required {
            return Ok(());
        }
        let refusal = Refusal::new(Reason::NotReady, "the certificate cannot be given out now; try again later");
        Err(refusal.with_private(format!("the webhook could not be told of it: {why}")).into())
    }

    fn refused(&self, claim: &DeviceClaim, refusal: &Refusal) {
        let Some(hook) = &self.options.notifications else { return };
        let told = CertificateRequest::open(&claim.csr).map_err(Error::from).and_then(|csr| {
            let message = self.message(claim, &csr);
            encoded(&Message {
                scep_error_description: Some(refusal.public()),
                reason: Some(refusal.reason().name()),
                ..message
            })
        });
        let told = told.map_err(|error| format!("{error:?}")).and_then(|body| self.tell(hook, &body));
        if let Err(why) = told {
            tracing::warn!(endpoint = %self.endpoint, transaction = claim.transaction, why, "the webhook was not told of a refusal");
        }
    }
}
