//! What an operator states about the way to a service outside: among the options of Intune and of a webhook alike.

use std::path::PathBuf;

use ca_backend::{Reason, Refusal};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use url::Url;

/// The longest deadline, in seconds.
const DEADLINE_S_MAX: u64 = 120;

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

/// How a service is reached, and how long it may take. The table around it takes these members as its own, and refuses what
/// neither knows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OutboundOptions {
    /// How long one request to the service may take as a whole, repeats included, in seconds.
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
    /// Private networks that may be reached, such as that of the proxy.
    #[serde(default)]
    pub reachable_networks: Vec<IpNet>,
}

fn deadline_s() -> u64 {
    25
}

fn attempt_timeout_s() -> u64 {
    10
}

impl OutboundOptions {
    /// Whether the times fit together. `table` is what operators know the table around it as.
    pub(crate) fn check(&self, table: &str) -> Result<(), Refusal> {
        let malformed = |why: String| Err(Refusal::new(Reason::Malformed, why));
        if self.attempt_timeout_s == 0 || self.attempt_timeout_s > self.deadline_s {
            return malformed(format!("{table}.attempt_timeout_s is at least 1 and not more than {table}.deadline_s"));
        }
        if self.deadline_s > DEADLINE_S_MAX {
            return malformed(format!("{table}.deadline_s is at most {DEADLINE_S_MAX}: no device waits longer"));
        }
        Ok(())
    }
}

pub(crate) fn read_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    Url::parse(&text).map_err(|error| serde::de::Error::custom(format!("{text:?} is no URL: {error}")))
}

fn read_some_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    read_url(deserializer).map(Some)
}
