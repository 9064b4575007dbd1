//! A webhook as the judge of SCEP requests: a service of the operator's own says whether a request may have its certificate.
//!
//! What is sent has the shape of step-ca's SCEPCHALLENGE webhook, so that services written for that one serve here too. The service
//! is trusted with challenges, and with nothing else: the endpoint's rules still decide what a request that it allows may get.

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
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use options::WebhookOptions;

/// Attempts at one question, the first included.
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
    outbound: Arc<dyn Outbound>,
}

/// How the service knows that it is us who ask. One of the two is there at least.
pub struct WebhookProof {
    signing: Option<hmac::Key>,
    bearer: Option<HeaderValue>,
}

/// The question, in step-ca's words.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    timestamp: String,
    provisioner_name: &'a str,
    scep_challenge: &'a str,
    #[serde(rename = "scepTransactionID")]
    scep_transaction_id: &'a str,
    x509_certificate_request: Requested,
    /// The requester's address, which step-ca does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Requested {
    /// PKCS#10, base64.
    raw: String,
    /// SubjectPublicKeyInfo, base64.
    public_key: String,
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
    /// A secret to sign with, in base64 as step-ca shows it, a bearer token, or both.
    ///
    /// # Errors
    /// `Reason::Malformed` if a secret is unusable; no word of it is in it.
    pub fn new(signing: Option<&str>, bearer: Option<&str>) -> Result<Self, Refusal> {
        let malformed = |why: String| Refusal::new(Reason::Malformed, why);
        let key = |text: &str| {
            let octets = STANDARD.decode(text.trim()).map(Zeroizing::new).ok();
            octets.filter(|octets| octets.len() >= SECRET_OCTETS_MIN).ok_or_else(|| {
                malformed(format!("webhook.signing_secret is base64 of at least {SECRET_OCTETS_MIN} octets"))
            })
        };
        let header = |token: &str| {
            let text = Zeroizing::new(format!("Bearer {token}"));
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| malformed("webhook.bearer is no text of a header".to_owned()))?;
            value.set_sensitive(true);
            Ok(value)
        };
        Ok(Self {
            signing: signing.map(key).transpose()?.map(|octets| hmac::Key::new(hmac::HMAC_SHA256, &octets)),
            bearer: bearer.map(header).transpose()?,
        })
    }
}

impl Webhook {
    /// The service that `options` name, for an endpoint. Nothing is asked yet.
    #[must_use]
    pub fn new(
        engine: Engine,
        endpoint: EndpointName,
        options: WebhookOptions,
        proof: WebhookProof,
        outbound: Arc<dyn Outbound>,
    ) -> Self {
        Self { engine, endpoint, options, proof, outbound }
    }

    fn question(&self, claim: &DeviceClaim) -> Result<Bytes, Error> {
        let csr = CertificateRequest::open(&claim.csr)?;
        let question = Question {
            timestamp: self.engine.now().to_string(),
            provisioner_name: self.endpoint.as_str(),
            scep_challenge: csr.challenge_password().map(|challenge| challenge.reveal()).unwrap_or_default(),
            scep_transaction_id: &claim.transaction,
            x509_certificate_request: Requested {
                raw: STANDARD.encode(&claim.csr),
                public_key: STANDARD.encode(csr.key().subject_key().spki_der()),
            },
            peer: claim.peer.map(|peer| peer.to_string()),
        };
        let body = serde_json::to_vec(&question).map_err(|error| Fault::Broken(error.to_string()))?;
        Ok(Bytes::from(body))
    }

    /// Asks, as often as it takes, within the deadline.
    fn ask(&self, body: &Bytes) -> Result<Verdict, String> {
        let deadline = Duration::from_secs(self.options.outbound.deadline_s);
        let took = Stopwatch::start();
        let (mut pause, mut last) = (PAUSE_MIN, "the deadline is over".to_owned());
        for attempt in 1..=ATTEMPTS_MAX {
            let left = deadline.saturating_sub(took.elapsed());
            if left.is_zero() {
                break;
            }
            match self.attempt(body.clone(), left) {
                Ok(verdict) => return Ok(verdict),
                Err(Trouble::Final(why)) => return Err(why),
                Err(Trouble::Again(why)) => last = why,
            }
            if attempt < ATTEMPTS_MAX && took.elapsed() + pause < deadline {
                self.outbound.pause(pause);
                pause = pause.saturating_mul(2);
            }
        }
        Err(last)
    }

    fn attempt(&self, body: Bytes, left: Duration) -> Result<Verdict, Trouble> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.options.url.as_str())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .header("x-smallstep-webhook-id", self.options.id());
        if let Some(key) = &self.proof.signing {
            request = request.header("x-smallstep-signature", hex::encode(hmac::sign(key, &body)));
        }
        if let Some(bearer) = &self.proof.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        let request = request.body(body).map_err(|_| Trouble::Final("webhook.url is unusable".to_owned()))?;
        let timeout = left.min(Duration::from_secs(self.options.outbound.attempt_timeout_s));
        let limits = OutboundLimits { timeout, body_bytes_max: ANSWER_BYTES_MAX };
        let answer = self.outbound.ask(request, limits).map_err(|error| match error {
            OutboundError::Refused(_) | OutboundError::BadAnswer(_) => Trouble::Final(error.to_string()),
            OutboundError::Unreachable(_) | OutboundError::Timeout => Trouble::Again(error.to_string()),
        })?;
        read(&answer)
    }
}

fn read(answer: &Response<Bytes>) -> Result<Verdict, Trouble> {
    let status = answer.status();
    if status == StatusCode::OK {
        return serde_json::from_slice(answer.body())
            .map_err(|_| Trouble::Again("the answer is no JSON with a member \"allow\"".to_owned()));
    }
    let why = format!("it answered with status {}", status.as_u16());
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(Trouble::Again(why)),
        _ if status.is_server_error() => Err(Trouble::Again(why)),
        _ => Err(Trouble::Final(why)),
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

    /// Its word was about the request alone; nothing has to be told before the certificate may go.
    fn issued(&self, _claim: &DeviceClaim, _certificate: &IssuedCertificate) -> Result<(), Error> {
        Ok(())
    }

    fn refused(&self, _claim: &DeviceClaim, _refusal: &Refusal) {}
}
