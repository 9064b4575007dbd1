//! Intune and webhooks for the endpoints that ask for them: their way out, their secrets, and the regular question to Intune for
//! what to revoke.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::endpoint::{Outbound, OutboundError, OutboundLimits};
use bytes::Bytes;
use ca_backend::{DeviceVerifier, EndpointName, Engine, Error, Reason, Refusal};
use config::ValidationSettings;
use http::{HeaderValue, Request, Response};
use mdm::{
    ClientCredential, Intune, IntuneOptions, OutboundOptions, SecretSource, Webhook, WebhookOptions, WebhookProof,
};
use tokio::runtime::Handle;

use crate::egress::{Remote, Route};
use crate::outside_secret;
use crate::pool::Lane;
use crate::tls::CertificateFiles;

/// One endpoint's Intune. Clones are one and the same.
#[derive(Clone)]
pub struct IntuneLink {
    intune: Arc<Intune>,
    engine: Engine,
    runtime: Handle,
    lane: Arc<Lane>,
    /// When to ask for revocations again, in Unix seconds; the greatest number while a question is on its way.
    due: Arc<AtomicU64>,
}

impl fmt::Debug for IntuneLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IntuneLink").field(&self.intune).finish()
    }
}

impl IntuneLink {
    /// Whether options could be used now: what they say, and the secret and the files that they name.
    ///
    /// # Errors
    /// A refusal that says what is wrong.
    pub fn check(options: &serde_json::Value) -> Result<(), Refusal> {
        let options = IntuneOptions::parse(options)?;
        credential(&options)?;
        route(&options.outbound)?.check()
    }

    /// Reads the secret and builds the way out. Nothing is asked yet.
    ///
    /// # Errors
    /// A refusal that says what is wrong with the options, the secret or the roots.
    pub fn new(
        engine: Engine,
        endpoint: EndpointName,
        options: &serde_json::Value,
        settings: &ValidationSettings,
        own: Vec<SocketAddr>,
        runtime: Handle,
        lane: Arc<Lane>,
    ) -> Result<Self, Error> {
        let options = IntuneOptions::parse(options)?;
        let credential = credential(&options)?;
        let outbound = Remote::new(settings, route(&options.outbound)?, own, runtime.clone())?;
        let intune = Arc::new(Intune::new(engine.clone(), endpoint, options, credential, Arc::new(outbound)));
        Ok(Self { intune, engine, runtime, lane, due: Arc::default() })
    }

    /// What judges the devices of the endpoint.
    #[must_use]
    pub fn verifier(&self) -> Arc<dyn DeviceVerifier> {
        self.intune.clone()
    }

    /// Asks what to revoke, if it is time, in the lane of remote work. Returns at once.
    pub fn poll(&self) {
        let Some(every_s) = self.intune.revocation_poll_s() else { return };
        let now = self.engine.now().unix();
        let due = self.due.load(Ordering::SeqCst);
        let taken = now >= due && self.due.compare_exchange(due, u64::MAX, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if !taken {
            return;
        }
        let this = self.clone();
        let asking = self.lane.run(move || {
            match this.intune.revoke_as_asked() {
                Ok(0) => {}
                Ok(revoked) => tracing::info!(endpoint = %this.intune.endpoint(), revoked, "revoked as Intune asked"),
                // Intune's part of it is in the log already.
                Err(error) => {
                    tracing::warn!(endpoint = %this.intune.endpoint(), ?error, "failed to revoke as Intune asked");
                }
            }
        });
        let (next, due) = (now.saturating_add(every_s), self.due.clone());
        match asking {
            Ok(asking) => {
                self.runtime.spawn(async move {
                    // A panic is in the log; the next question comes in its time.
                    let _ = asking.await;
                    due.store(next, Ordering::SeqCst);
                });
            }
            Err(_full) => due.store(now.saturating_add(1), Ordering::SeqCst),
        }
    }
}

fn credential(options: &IntuneOptions) -> Result<ClientCredential, Refusal> {
    match (&options.secret, &options.certificate, &options.key) {
        (Some(secret), None, None) => Ok(ClientCredential::Secret(outside_secret::read(secret)?)),
        (None, Some(certificate), Some(key)) => {
            let pem = std::fs::read(certificate).map_err(|error| {
                let text = format!("the certificate {} cannot be read: {}", certificate.display(), error.kind());
                Refusal::new(Reason::NotReady, text)
            })?;
            ClientCredential::certificate(&pem, outside_secret::read(key)?.as_bytes())
        }
        _ => Err(Refusal::new(Reason::Malformed, "intune wants either a secret, or a certificate and its key")),
    }
}

fn route(options: &OutboundOptions) -> Result<Route, Refusal> {
    Ok(Route {
        networks: options.reachable_networks.clone(),
        roots: options.roots.clone(),
        proxy: options.proxy.clone(),
        identity: None,
        proxy_authorization: options.proxy_authorization.as_ref().map(proxy_authorization).transpose()?,
    })
}

/// The value of `Proxy-Authorization`.
fn proxy_authorization(source: &SecretSource) -> Result<HeaderValue, Refusal> {
    let mut value = HeaderValue::from_str(&outside_secret::read(source)?)
        .map_err(|_| Refusal::new(Reason::Malformed, "proxy_authorization is no text of a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether the options of a webhook could be used now: what they say, and the secrets and the files that they name.
///
/// # Errors
/// A refusal that says what is wrong.
pub fn check_webhook(options: &serde_json::Value) -> Result<(), Refusal> {
    let options = WebhookOptions::parse(options)?;
    webhook_proofs(&options)?;
    webhook_route(&options)?.check()
}

/// The webhook of an endpoint. Its secrets are read; nothing is asked yet.
///
/// # Errors
/// A refusal that says what is wrong with the options, the secrets or the files.
pub fn webhook(
    engine: Engine,
    endpoint: EndpointName,
    options: WebhookOptions,
    settings: &ValidationSettings,
    own: Vec<SocketAddr>,
    runtime: Handle,
) -> Result<Arc<dyn DeviceVerifier>, Error> {
    let proofs = webhook_proofs(&options)?;
    let route = webhook_route(&options)?;
    let identity = route.identity.clone();
    let outbound = WebhookWay { identity, remote: Remote::new(settings, route, own, runtime)? };
    Ok(Arc::new(Webhook::new(engine, endpoint, options, proofs, Arc::new(outbound))))
}

fn webhook_route(options: &WebhookOptions) -> Result<Route, Refusal> {
    let identity = match (&options.certificate_path, &options.key_path) {
        (Some(certificate), Some(key)) => {
            let unusable = |why: String| Refusal::new(Reason::NotReady, format!("webhook.certificate_path: {why}"));
            let identity = CertificateFiles::read(certificate, key).map_err(|error| unusable(error.to_string()))?;
            Some(Arc::new(identity))
        }
        _ => None,
    };
    Ok(Route { identity, ..route(&options.outbound)? })
}

/// How questions are proved, and how notifications are.
fn webhook_proofs(options: &WebhookOptions) -> Result<(WebhookProof, WebhookProof), Refusal> {
    let read = |source: Option<&SecretSource>| source.map(outside_secret::read).transpose();
    let bearer = read(options.bearer.as_ref())?;
    let proof = |table: &str, signing: Option<&SecretSource>| {
        let signing = read(signing)?;
        WebhookProof::new(table, signing.as_ref().map(|text| text.as_str()), bearer.as_ref().map(|text| text.as_str()))
    };
    let questions = proof("webhook", options.signing_secret.as_ref())?;
    let own = options.notifications.as_ref().and_then(|notifications| notifications.signing_secret.as_ref());
    let notifications = match own {
        Some(own) => proof("webhook.notifications", Some(own))?,
        None => questions.clone(),
    };
    Ok((questions, notifications))
}

/// The way to a webhook. The certificate that is shown there is read again before each request, since somebody else renews it.
struct WebhookWay {
    remote: Remote,
    identity: Option<Arc<CertificateFiles>>,
}

impl Outbound for WebhookWay {
    fn ask(&self, request: Request<Bytes>, limits: OutboundLimits) -> Result<Response<Bytes>, OutboundError> {
        match self.identity.as_ref().map(|identity| identity.renew()) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(_))) => tracing::info!("shows a new certificate to a webhook"),
            Some(Err(error)) => tracing::warn!(%error, "failed to renew the certificate for a webhook"),
        }
        self.remote.ask(request, limits)
    }

    fn pause(&self, time: Duration) {
        self.remote.pause(time);
    }
}
