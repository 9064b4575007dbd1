//! What an operator states about a webhook: the table `webhook` among the options of a SCEP endpoint.

use std::path::PathBuf;

use ca_backend::{Reason, Refusal};
use ipnet::IpNet;
use serde::Deserialize;
use url::Url;

use crate::SecretSource;
use crate::intune::options::{read_some_url, read_url};

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
    /// How long one question may take as a whole, repeats included, in seconds.
    #[serde(default = "deadline_s")]
    pub deadline_s: u64,
    /// How long one attempt may take, in seconds.
    #[serde(default = "attempt_timeout_s")]
    pub attempt_timeout_s: u64,
    /// A PEM file with the roots that the service's certificate must lead to; those of the system if not stated.
    #[serde(default)]
    pub roots: Option<PathBuf>,
    /// A proxy, `http://HOST:PORT`.
    #[serde(default, deserialize_with = "read_some_url")]
    pub proxy: Option<Url>,
    /// The value of the header `Proxy-Authorization`, such as `Basic ...`.
    #[serde(default)]
    pub proxy_authorization: Option<SecretSource>,
    /// Private networks that may be reached.
    #[serde(default)]
    pub reachable_networks: Vec<IpNet>,
}

fn deadline_s() -> u64 {
    20
}

fn attempt_timeout_s() -> u64 {
    8
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
        if options.attempt_timeout_s == 0 || options.attempt_timeout_s > options.deadline_s {
            return Err(malformed(
                "webhook.attempt_timeout_s is at least 1 and not more than webhook.deadline_s".to_owned(),
            ));
        }
        if options.deadline_s > 120 {
            return Err(malformed("webhook.deadline_s is at most 120: no device waits longer".to_owned()));
        }
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
        assert_eq!(WebhookOptions::parse(&base()).unwrap().deadline_s, 20);
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
