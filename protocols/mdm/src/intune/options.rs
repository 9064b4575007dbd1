//! What an operator states about a tenant: the table `intune` among the options of an endpoint.

use std::path::PathBuf;

use ca_backend::{Reason, Refusal};
use serde::Deserialize;
use url::Url;

use crate::outbound::{OutboundOptions, SecretSource, read_url};

/// How to reach a tenant's services, and as which application.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntuneOptions {
    /// The tenant: its identifier or one of its domains.
    pub tenant: String,
    /// The identifier of the application that the tenant's administrator registered for this authority.
    pub client_id: String,
    /// The application's client secret; or `certificate` and `key`.
    #[serde(default)]
    pub secret: Option<SecretSource>,
    /// A PEM file with the certificate that is registered with the application.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// The key of that certificate: RSA, PEM.
    #[serde(default)]
    pub key: Option<SecretSource>,
    /// Where tokens come from; sovereign clouds have their own.
    #[serde(default = "login_url", deserialize_with = "read_url")]
    pub login_url: Url,
    /// Where the addresses of the services are asked for.
    #[serde(default = "graph_url", deserialize_with = "read_url")]
    pub graph_url: Url,
    /// What tokens for the services are valid for. The scope is this, a slash and `.default`, two slashes in a row included.
    #[serde(default = "service_resource")]
    pub service_resource: String,
    /// Intune's own application, whose endpoints Graph lists.
    #[serde(default = "service_app_id")]
    pub service_app_id: String,
    /// Whether certificates are revoked when Intune asks for it.
    #[serde(default = "yes")]
    pub revocation: bool,
    /// The time between two questions for what to revoke, in seconds.
    #[serde(default = "revocation_poll_s")]
    pub revocation_poll_s: u64,
    /// The way to these services.
    #[serde(flatten)]
    pub outbound: OutboundOptions,
}

fn url(text: &str) -> Url {
    // Constants of this file, which a test reads.
    #[allow(clippy::expect_used)]
    Url::parse(text).expect("a URL")
}

fn login_url() -> Url {
    url("https://login.microsoftonline.com/")
}

fn graph_url() -> Url {
    url("https://graph.microsoft.com/v1.0/")
}

fn service_resource() -> String {
    "https://api.manage.microsoft.com/".to_owned()
}

fn service_app_id() -> String {
    "0000000a-0000-0000-c000-000000000000".to_owned()
}

fn revocation_poll_s() -> u64 {
    300
}

fn yes() -> bool {
    true
}

impl IntuneOptions {
    /// Reads and checks the table.
    ///
    /// # Errors
    /// `Reason::Malformed` that says what is wrong.
    pub fn parse(options: &serde_json::Value) -> Result<Self, Refusal> {
        let options: Self = serde_json::from_value(options.clone())
            .map_err(|error| malformed(format!("the options of intune are wrong: {error}")))?;
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), Refusal> {
        let names = |text: &str| {
            !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet))
        };
        for (key, text) in
            [("tenant", &self.tenant), ("client_id", &self.client_id), ("service_app_id", &self.service_app_id)]
        {
            if !names(text) {
                return Err(malformed(format!("intune.{key} is an identifier or a domain, not {text:?}")));
            }
        }
        match (&self.secret, &self.certificate, &self.key) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => {}
            _ => return Err(malformed("intune wants either a secret, or a certificate and its key")),
        }
        for (key, url) in [("login_url", &self.login_url), ("graph_url", &self.graph_url)] {
            if !matches!(url.scheme(), "https" | "http") || !url.path().ends_with('/') || url.query().is_some() {
                return Err(malformed(format!("intune.{key} is the URL of a service that ends in a slash, not {url}")));
            }
        }
        self.outbound.check("intune")?;
        if self.revocation_poll_s < 10 {
            return Err(malformed("intune.revocation_poll_s is at least 10"));
        }
        Ok(())
    }
}

fn malformed(why: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Malformed, why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn little_has_to_be_stated_and_the_rest_is_the_public_cloud() {
        let options = IntuneOptions::parse(
            &json!({"tenant": "contoso.example", "client_id": "a-b", "secret": {"credential": "intune"}}),
        )
        .unwrap();
        assert_eq!(options.login_url.as_str(), "https://login.microsoftonline.com/");
        assert_eq!(options.graph_url.as_str(), "https://graph.microsoft.com/v1.0/");
        assert_eq!(options.secret, Some(SecretSource::Credential("intune".to_owned())));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let base = || json!({"tenant": "t", "client_id": "c", "secret": {"file": "/run/secret"}});
        for (key, value, word) in [
            ("secret", json!(null), "either a secret"),
            ("secret", json!("in plain"), "options of intune"),
            ("certificate", json!("/run/c.pem"), "either a secret"),
            ("tenant", json!("../x"), "tenant"),
            ("login_url", json!("https://login.example/x"), "slash"),
            ("deadline_s", json!(5), "attempt_timeout_s"),
            ("unknown", json!(1), "unknown"),
        ] {
            let mut options = base();
            options[key] = value;
            let refusal = IntuneOptions::parse(&options).unwrap_err();
            assert!(refusal.public().contains(word), "{key}: {refusal:?}");
        }
    }
}
