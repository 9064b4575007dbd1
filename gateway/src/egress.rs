//! The only outbound network code: requests that prove control over a name, to hosts that a stranger chose, and (`remote`)
//! requests to services that the operator named.
//!
//! Nothing of the environment is used (no proxies), nothing is kept between requests (no cookies, no connections), every
//! address is judged right before it is dialled and dialled as judged, and every wait and every size has its bound.

mod address;
mod dial;
mod dns;
mod fetch;
mod places;
mod remote;
mod tls;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use acme::CaaSet;
use ca_backend::Stopwatch;
use config::ValidationSettings;
use ipnet::IpNet;
use tokio::time::timeout;

pub use address::{AddressPolicy, Refusal};
pub use fetch::FetchedBody;
pub use remote::{Remote, Route};
pub use tls::ShownCertificate;

use self::places::{Addresses, Places};
use crate::telemetry;

/// How long a request waits until others are done.
const PLACE_WAIT: Duration = Duration::from_secs(10);

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
    /// Nobody was asked: too many other requests went before.
    Busy,
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
            Self::Busy => f.write_str("too many other validations are under way"),
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
            Self::Busy => "busy",
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

/// What the endpoints of a node share when they ask other hosts: the DNS servers, and the bounds on requests at a time.
#[derive(Clone)]
pub struct NodeEgress {
    settings: Arc<ValidationSettings>,
    own: Arc<[SocketAddr]>,
    dns: dns::Dns,
    tls: Arc<rustls::ClientConfig>,
    acme_tls: Arc<rustls::ClientConfig>,
    places: Places,
    addresses: Addresses,
}

/// Asks other hosts for one endpoint.
#[derive(Clone)]
pub struct Egress {
    node: NodeEgress,
    reach: Arc<Reach>,
    policy: Arc<AddressPolicy>,
    queue: u64,
}

impl fmt::Debug for NodeEgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeEgress").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("reach", &self.reach).finish_non_exhaustive()
    }
}

impl NodeEgress {
    /// Asks as `settings` say, and never the sockets in `own`, which this node listens on.
    ///
    /// # Errors
    /// When the cryptographic provider offers no TLS version, or a DNS server cannot be used.
    pub fn new(settings: &ValidationSettings, own: Vec<SocketAddr>) -> Result<Self, EgressError> {
        Ok(Self {
            dns: dns::Dns::new(settings)?,
            tls: tls::without_trust()?,
            acme_tls: tls::acme_tls()?,
            places: Places::new(settings.concurrency_max),
            addresses: Addresses::new(settings.connections_per_address_max),
            settings: Arc::new(settings.clone()),
            own: own.into(),
        })
    }

    /// For an endpoint that may reach so far. Endpoints take turns where they wait for each other.
    #[must_use]
    pub fn within(&self, reach: Reach) -> Egress {
        Egress {
            policy: Arc::new(AddressPolicy::new(reach.networks.clone(), self.own.to_vec())),
            queue: self.places.new_queue(),
            node: self.clone(),
            reach: Arc::new(reach),
        }
    }
}

impl Egress {
    /// `GET http://host:port/path` for an http-01 challenge (RFC 8555 section 8.3), following redirects; `path` begins with
    /// a slash. Only an answer with status 200 is one.
    ///
    /// # Errors
    /// Whatever keeps the answer from us, see [`EgressError`].
    pub async fn fetch_challenge(&self, host: &Host, port: u16, path: &str) -> Result<FetchedBody, EgressError> {
        self.bounded("http-01", "fetching the challenge", fetch::challenge(self, host, port, path)).await
    }

    /// The certificate that a server shows for a tls-alpn-01 challenge (RFC 8737 section 3), once it agreed to `acme-tls/1`.
    ///
    /// # Errors
    /// Whatever keeps the certificate from us, see [`EgressError`].
    pub async fn shown_certificate(
        &self,
        host: &Host,
        port: u16,
        server_name: &str,
    ) -> Result<ShownCertificate, EgressError> {
        let asking = tls::shown_certificate(self, host, port, server_name);
        self.bounded("tls-alpn-01", "asking for the certificate", asking).await
    }

    /// The TXT records at `name`, each joined from its strings, CNAMEs followed. `name` is taken as it is; no search domain
    /// is added.
    ///
    /// # Errors
    /// [`EgressError::Dns`] also when there is no such record; [`EgressError::Timeout`].
    pub async fn lookup_txt(&self, name: &str) -> Result<Vec<String>, EgressError> {
        self.bounded("txt", "looking up TXT records", self.node.dns.txt(name)).await
    }

    /// The CAA records that hold for `name`, found there or above (RFC 8659 section 3). None is an answer too.
    ///
    /// # Errors
    /// When a DNS server does not answer or fails; that there are no records is no error.
    pub async fn lookup_caa(&self, name: &str) -> Result<CaaSet, EgressError> {
        self.bounded("caa", "looking up CAA records", self.node.dns.caa(name)).await
    }

    async fn bounded<T>(
        &self,
        kind: &'static str,
        doing: &'static str,
        asking: impl Future<Output = Result<T, EgressError>>,
    ) -> Result<T, EgressError> {
        let took = Stopwatch::start();
        let answer = match timeout(PLACE_WAIT, self.node.places.take(self.queue)).await {
            Err(_) => Err(EgressError::Busy),
            Ok(_place) => {
                let limit = Duration::from_secs(self.node.settings.timeout_s);
                timeout(limit, asking).await.unwrap_or(Err(EgressError::Timeout(doing)))
            }
        };
        let outcome = answer.as_ref().map_or_else(EgressError::class, |_| "answered");
        metrics::histogram!(telemetry::EGRESS_SECONDS, "kind" => kind, "outcome" => outcome).record(took.elapsed());
        answer
    }
}
