//! What an operator states about a webhook: the table `webhook` among the options of a SCEP endpoint.

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
    id: String,
    /// The secret, in base64, that requests are signed with (HMAC-SHA256 of the body in `X-Smallstep-Signature`).
    #[serde(default)]
    pub signing_secret: Option<SecretSource>,
    /// The token that requests carry (`Authorization: Bearer`).
    #[serde(default)]
    pub bearer: Option<SecretSource>,
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

impl WebhookOptions {
    /// Reads and checks the table.
    ///
    /// # Errors
    /// `Reason::Malformed` that says what is wrong.
    pub fn parse(options: &serde_json::Value) -> Result<Self, Refusal> {
        let malformed = |why: String| Refusal::new(Reason::Malformed, why);
        let options: Self = serde_json::from_value(options.clone())
            .map_err(|error| malformed(format!("the options of webhook are wrong: {error}")))?;
        let url = &options.url;
        if !matches!(url.scheme(), "https" | "http") || !url.username().is_empty() || url.password().is_some() {
            return Err(malformed("webhook.url is an https URL without user name and password".to_owned()));
        }
        if !options.id.bytes().all(|octet| octet.is_ascii_graphic()) {
            return Err(malformed("webhook.id is a word of ASCII".to_owned()));
        }
        if options.signing_secret.is_none() && options.bearer.is_none() {
            return Err(malformed("webhook wants a signing_secret, a bearer, or both".to_owned()));
        }
        options.outbound.check("webhook")?;
        Ok(options)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let base = || json!({"url": "https://judge.example/scep", "bearer": {"file": "/run/secret"}});
        assert_eq!(WebhookOptions::parse(&base()).unwrap().outbound.deadline_s, 25);
        for (key, value, word) in [
            ("url", json!("ftp://judge.example/"), "https"),
            ("url", json!("https://user:word@judge.example/"), "user name"),
            ("bearer", json!(null), "signing_secret"),
            ("bearer", json!("in plain"), "options of webhook"),
            ("id", json!("a\nb"), "word"),
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
