//! What an operator states about a webhook: the table `webhook` among the options of a SCEP endpoint.

use std::path::PathBuf;

use ca_backend::{Reason, Refusal};
use serde::Deserialize;
use url::Url;

use crate::outbound::{OutboundOptions, SecretSource, read_url};

/// Whom to ask, about which requests, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookOptions {
    /// The service, `https`; `http` only with addresses among `reachable_networks`.
    #[serde(deserialize_with = "read_url")]
    pub url: Url,
    /// What the service knows this webhook as (`X-Smallstep-Webhook-ID`); nothing if not stated.
    #[serde(default)]
    pub(super) id: String,
    /// The secret, in base64, that requests are signed with (HMAC-SHA256 of the body in `X-Smallstep-Signature`).
    #[serde(default)]
    pub signing_secret: Option<SecretSource>,
    /// The token that requests carry (`Authorization: Bearer`).
    #[serde(default)]
    pub bearer: Option<SecretSource>,
    /// A PEM file with the certificate that is shown to a service which asks for one, and those above it. It may be replaced at any
    /// time.
    #[serde(default)]
    pub certificate_path: Option<PathBuf>,
    /// A PEM file with its key.
    #[serde(default)]
    pub key_path: Option<PathBuf>,
    /// Who is told what became of the requests that the service allowed; nobody if not stated.
    #[serde(default)]
    pub notifications: Option<NotificationOptions>,
    /// Whether renewals are asked about. If not, the certificate that is renewed proves enough.
    #[serde(default)]
    pub renewals: bool,
    /// Whether requests without a challenge are asked about. If not, the rules decide whether they wait for an operator.
    #[serde(default)]
    pub without_challenge: bool,
    /// The way to the service.
    #[serde(flatten)]
    pub outbound: OutboundOptions,
}

/// Where notifications go, on the same way as the questions. step-ca's services know two webhooks, each with an identifier and a secret
/// of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotificationOptions {
    /// The service, as `url` of the webhook.
    #[serde(deserialize_with = "read_url")]
    pub url: Url,
    /// What the service knows this webhook as; nothing if not stated.
    #[serde(default)]
    pub(super) id: String,
    /// The secret that notifications are signed with, in base64; that of the questions if not stated.
    #[serde(default)]
    pub signing_secret: Option<SecretSource>,
    /// Whether a certificate is revoked, and not given to the device, if the service cannot be told of it.
    #[serde(default)]
    pub required: bool,
}

fn check_hook(table: &str, url: &Url, id: &str) -> Result<(), Refusal> {
    let malformed = |why: &str| Err(Refusal::new(Reason::Malformed, format!("{table}.{why}")));
    if !matches!(url.scheme(), "https" | "http") || !url.username().is_empty() || url.password().is_some() {
        return malformed("url is an https URL without user name and password");
    }
    if !id.bytes().all(|octet| octet.is_ascii_graphic()) {
        return malformed("id is a word of ASCII");
    }
    Ok(())
}

impl WebhookOptions {
    /// Reads and checks the table.
    ///
    /// # Errors
    /// `Reason::Malformed` that says what is wrong.
    pub fn parse(options: &serde_json::Value) -> Result<Self, Refusal> {
        let malformed = |why: String| Refusal::new(Reason::Malformed, why);
        let options: Self = serde_json::from_value(options.clone())
            .map_err(|error| malformed(format!("the options of webhook are wrong: {error}")))?;
        check_hook("webhook", &options.url, &options.id)?;
        if let Some(notifications) = &options.notifications {
            check_hook("webhook.notifications", &notifications.url, &notifications.id)?;
        }
        if options.certificate_path.is_some() != options.key_path.is_some() {
            return Err(malformed("webhook.certificate_path and webhook.key_path go together".to_owned()));
        }
        if options.signing_secret.is_none() && options.bearer.is_none() && options.certificate_path.is_none() {
            return Err(malformed("webhook wants a signing_secret, a bearer, or a certificate_path".to_owned()));
        }
        options.outbound.check("webhook")?;
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let by_certificate = json!({"url": "https://judge.example/", "certificate_path": "/a", "key_path": "/b"});
        WebhookOptions::parse(&by_certificate).unwrap();
        let base = || json!({"url": "https://judge.example/scep", "bearer": {"file": "/run/secret"}});
        assert_eq!(WebhookOptions::parse(&base()).unwrap().outbound.deadline_s, 25);
        for (key, value, word) in [
            ("url", json!("ftp://judge.example/"), "https"),
            ("url", json!("https://user:word@judge.example/"), "user name"),
            ("bearer", json!(null), "signing_secret"),
            ("bearer", json!("in plain"), "options of webhook"),
            ("id", json!("a\nb"), "word"),
            ("certificate_path", json!("/etc/certgate/webhook.pem"), "key_path"),
            ("notifications", json!({"url": "ftp://judge.example/"}), "webhook.notifications.url"),
            ("notifications", json!({"url": "https://judge.example/", "id": "a b"}), "webhook.notifications.id"),
            ("notifications", json!({"url": "https://judge.example/", "require": true}), "require"),
            ("deadline_s", json!(3), "attempt_timeout_s"),
            ("deadline_s", json!(300), "120"),
            ("unknown", json!(1), "unknown"),
        ] {
            let mut options = base();
            options[key] = value;
            let refusal = WebhookOptions::parse(&options).unwrap_err();
            assert!(refusal.public().contains(word), "{key}: {refusal:?}");
        }
    }
}
