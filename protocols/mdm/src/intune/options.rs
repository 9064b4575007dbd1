//! What an operator states about a tenant: the table `intune` among the options of an endpoint.

use std::path::PathBuf;

use ca_backend::{Reason, Refusal};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use url::Url;

/// Where a secret lies. It is never among the options themselves, which everyone may read who may read endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretSource {
    /// A credential that systemd hands to the daemon, by name (`LoadCredential=`).
    Credential(String),
    /// A file that nobody but the daemon's user may read.
    File(PathBuf),
    /// A variable of the daemon's environment, by name.
    Environment(String),
}

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
    /// How long one request to these services may take as a whole, repeats included, in seconds.
    #[serde(default = "deadline_s")]
    pub deadline_s: u64,
    /// How long one attempt may take, in seconds.
    #[serde(default = "attempt_timeout_s")]
    pub attempt_timeout_s: u64,
    /// Whether certificates are revoked when Intune asks for it.
    #[serde(default = "yes")]
    pub revocation: bool,
    /// The time between two questions for what to revoke, in seconds.
    #[serde(default = "revocation_poll_s")]
    pub revocation_poll_s: u64,
    /// A PEM file with the roots that the services' certificates must lead to; those of the system if not stated.
    #[serde(default)]
    pub roots: Option<PathBuf>,
    /// A proxy, `http://HOST:PORT`.
    #[serde(default, deserialize_with = "read_some_url")]
    pub proxy: Option<Url>,
    /// The value of the header `Proxy-Authorization`, such as `Basic ...`.
    #[serde(default)]
    pub proxy_authorization: Option<SecretSource>,
    /// Private networks that may be reached, such as that of the proxy.
    #[serde(default)]
    pub reachable_networks: Vec<IpNet>,
}

fn url(text: &str) -> Url {
    // Constants of this file, which a test reads.
    #[allow(clippy::expect_used)]
    Url::parse(text).expect("a URL")
}

pub(crate) fn read_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    Url::parse(&text).map_err(|error| serde::de::Error::custom(format!("{text:?} is no URL: {error}")))
}

pub(crate) fn read_some_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    read_url(deserializer).map(Some)
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

fn deadline_s() -> u64 {
    25
}

fn attempt_timeout_s() -> u64 {
    10
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
        if self.attempt_timeout_s == 0 || self.attempt_timeout_s > self.deadline_s {
            return Err(malformed("intune.attempt_timeout_s is at least 1 and not more than intune.deadline_s"));
        }
        if self.deadline_s > 120 {
            return Err(malformed("intune.deadline_s is at most 120: no device waits longer"));
        }
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
