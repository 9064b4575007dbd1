//! The only outbound network code: requests that prove control over a name, to hosts that a stranger chose, and (`remote`)
//! requests to services that the operator named.
//!
//! Nothing of the environment is used (no proxies), nothing is kept between requests (no cookies, no connections), every
//! address is judged right before it is dialled and dialled as judged, and every wait and every size has its bound.

mod address;
mod dns;
mod fetch;
mod remote;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ca_backend::Stopwatch;
use config::ValidationSettings;
use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use address::{AddressPolicy, Refusal};
pub use fetch::FetchedBody;
pub use remote::{Remote, Route};

use crate::telemetry;

/// A host to ask, as an ACME identifier names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name, A-labels only.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// As it stands in a URL: an IPv6 address in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Ip(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

/// Why another host gave no usable answer. The texts hold nothing that the host sent, so they may be shown to whoever
/// caused the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressError {
    /// The name has no such record, or no DNS server answered.
    Dns(String),
    /// No connection, or it broke.
    Connection(String),
    /// A time limit ran out while doing what is named.
    Timeout(&'static str),
    /// The address may not be reached from here.
    RefusedAddress {
        /// The address.
        address: IpAddr,
        /// Why.
        why: Refusal,
    },
    /// The host answered something else than was asked for.
    BadResponse(String),
    /// The TLS handshake failed.
    Tls(String),
}

impl fmt::Display for EgressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(why) => write!(f, "DNS: {why}"),
            Self::Connection(why) => write!(f, "connection: {why}"),
            Self::Timeout(doing) => write!(f, "time ran out while {doing}"),
            Self::RefusedAddress { address, why } => {
                write!(f, "{address} may not be reached: {why}")
            }
            Self::BadResponse(why) => write!(f, "bad response: {why}"),
            Self::Tls(why) => write!(f, "TLS: {why}"),
        }
    }
}

impl std::error::Error for EgressError {}

impl EgressError {
    /// One word for logs and figures.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Dns(_) => "dns",
            Self::Connection(_) => "connection",
            Self::Timeout(_) => "timeout",
            Self::RefusedAddress { .. } => "refused_address",
            Self::BadResponse(_) => "bad_response",
            Self::Tls(_) => "tls",
        }
    }
}

/// Where requests may go, beside public addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Private and loopback ranges that may be reached.
    pub networks: Vec<IpNet>,
    /// Where a redirect to `http` may lead.
    pub http_port: u16,
    /// Where a redirect to `https` may lead.
    pub https_port: u16,
}

/// Asks other hosts. Clones share the bound on requests at a time.
#[derive(Clone)]
pub struct Egress {
    settings: Arc<ValidationSettings>,
    reach: Arc<Reach>,
    policy: Arc<AddressPolicy>,
    dns: dns::Dns,
    tls: Arc<rustls::ClientConfig>,
    places: Arc<Semaphore>,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Egress {
    /// Asks as `settings` say, within `reach`, and never the sockets in `own`, which this node listens on.
    ///
    /// # Errors
    /// When the cryptographic provider offers no TLS version, or a DNS server cannot be used.
    pub fn new(settings: &ValidationSettings, reach: Reach, own: Vec<SocketAddr>) -> Result<Self, EgressError> {
        Ok(Self {
            policy: Arc::new(AddressPolicy::new(reach.networks.clone(), own)),
            dns: dns::Dns::new(settings)?,
            tls: fetch::tls_without_trust()?,
            places: Arc::new(Semaphore::new(settings.concurrency_max)),
            settings: Arc::new(settings.clone()),
            reach: Arc::new(reach),
        })
    }

    /// `GET http://host:port/path` for an http-01 challenge (RFC 8555 section 8.3), following redirects; `path` begins with
    /// a slash. Only an answer with status 200 is one.
    ///
    /// # Errors
    /// Whatever keeps the answer from us, see [`EgressError`].
    pub async fn fetch_challenge(&self, host: &Host, port: u16, path: &str) -> Result<FetchedBody, EgressError> {
        self.bounded("http-01", "fetching the challenge", fetch::challenge(self, host, port, path)).await
    }

    /// The TXT records at `name`, each joined from its strings, CNAMEs followed. `name` is taken as it is; no search domain
    /// is added.
    ///
    /// # Errors
    /// [`EgressError::Dns`] also when there is no such record; [`EgressError::Timeout`].
    pub async fn lookup_txt(&self, name: &str) -> Result<Vec<String>, EgressError> {
        self.bounded("txt", "looking up TXT records", self.dns.txt(name)).await
    }

    async fn bounded<T>(
        &self,
        kind: &'static str,
        doing: &'static str,
        asking: impl Future<Output = Result<T, EgressError>>,
    ) -> Result<T, EgressError> {
        let took = Stopwatch::start();
        let asked = async {
            // never closed, so this only waits
            let _place = self.places.acquire().await;
            asking.await
        };
        let limit = Duration::from_secs(self.settings.timeout_s);
        let answer = timeout(limit, asked).await.unwrap_or(Err(EgressError::Timeout(doing)));
        let outcome = answer.as_ref().map_or_else(EgressError::class, |_| "answered");
        metrics::histogram!(telemetry::EGRESS_SECONDS, "kind" => kind, "outcome" => outcome).record(took.elapsed());
        answer
    }
}
