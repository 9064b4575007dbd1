//! The sections of `certgate.toml`. What each key means to an operator stands in the shipped file.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The header in which trusted proxies name the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The listener with TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpsSettings {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What clients call this listener, without a path and without a closing slash; ACME URLs begin with it.
    pub base_url: String,
    /// The certificate that clients see.
    pub certificate: ServerCertificateSettings,
}

impl Default for HttpsSettings {
    fn default() -> Self {
        Self {
            listen: everywhere(8443),
            base_url: "https://localhost:8443".to_owned(),
            certificate: ServerCertificateSettings::default(),
        }
    }
}

/// Where the server's TLS certificate comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerCertificateSettings {
    /// Issued here or read from files.
    pub source: CertificateSource,
    /// With `own`: the name of the authority that issues it; none means the first active issuing one.
    #[serde(with = "empty_is_none")]
    pub authority: Option<String>,
    /// With `own`: DNS names and IP addresses in it; none means the host of `base_url`.
    pub names: Vec<String>,
    /// With `files`: the certificate chain, PEM, leaf first.
    #[serde(with = "empty_is_none")]
    pub certificate_path: Option<PathBuf>,
    /// With `files`: the private key, PEM.
    #[serde(with = "empty_is_none")]
    pub key_path: Option<PathBuf>,
}

impl Default for ServerCertificateSettings {
    fn default() -> Self {
        Self {
            source: CertificateSource::Own,
            authority: None,
            names: Vec::new(),
            certificate_path: None,
            key_path: None,
        }
    }
}

/// Where the server's TLS certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateSource {
    /// One of this node's authorities issues and renews it.
    Own,
    /// It is read from PEM files.
    Files,
}

/// The listener without TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What clients call this listener; goes into certificates as CRL, OCSP and CA certificate URLs.
    pub base_url: String,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self { listen: everywhere(8080), base_url: "http://localhost:8080".to_owned() }
    }
}

/// The operators' API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OperatorSettings {
    /// The unix socket; none means `operator.sock` in the state directory.
    #[serde(with = "empty_is_none")]
    pub socket_path: Option<PathBuf>,
    /// The system group that may use the socket beside the daemon's own user.
    #[serde(with = "empty_is_none")]
    pub socket_group: Option<String>,
}

/// The database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// Which engine holds the records.
    pub engine: StoreEngine,
    /// Memory that the engine may use for pages, in bytes.
    pub cache_bytes: u64,
    /// How much is written to the journal before the engine gets it, in bytes. Up to four times as much is kept in memory.
    pub journal_bytes: u64,
    /// Free space below which issuing stops, so that revocation still has room, in bytes.
    pub reserve_bytes: u64,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { engine: StoreEngine::Sled, cache_bytes: 64 << 20, journal_bytes: 8 << 20, reserve_bytes: 256 << 20 }
    }
}

/// The database engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreEngine {
    /// Embedded, the default: fast at load.
    Sled,
    /// Embedded: smaller on disk, opens at once.
    Redb,
    /// Nothing survives the process.
    Memory,
}

/// The software key store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeysSettings {
    /// Where key files lie; none means `keys` in the state directory.
    #[serde(with = "empty_is_none")]
    pub directory: Option<PathBuf>,
    /// The file with the secret that encrypts them; see [`crate::Settings::keys_secret_path`].
    #[serde(with = "empty_is_none")]
    pub secret_path: Option<PathBuf>,
    /// The key store for new keys of authorities: `file`, or a name in `pkcs11`; none means files.
    #[serde(with = "empty_is_none")]
    pub authorities: Option<String>,
    /// The key store for new keys of OCSP responders; none means beside the key of the issuer.
    #[serde(with = "empty_is_none")]
    pub responders: Option<String>,
    /// The key store for the daemon's other new keys; none means the one for authorities.
    #[serde(with = "empty_is_none")]
    pub services: Option<String>,
    /// Tokens, by the name that operators call them.
    pub pkcs11: BTreeMap<String, TokenSettings>,
}

/// A PKCS#11 token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenSettings {
    /// The module: the shared library that the token's vendor gives out.
    pub module_path: PathBuf,
    /// The token: its label, or a PKCS#11 URI (RFC 7512).
    pub token: String,
    /// The file with its PIN; none means the systemd credential `NAME.pin` if there is one.
    #[serde(with = "empty_is_none")]
    pub pin_path: Option<PathBuf>,
    /// The environment variable with its PIN.
    #[serde(with = "empty_is_none")]
    pub pin_variable: Option<String>,
    /// Sessions, and so requests at a time.
    pub sessions: usize,
    /// Requests that may wait for a session.
    pub queue_max: usize,
    /// Longest time for a signature, with the wait for a session, in seconds.
    pub deadline_s: u64,
    /// Longest time for making a key, in seconds.
    pub generate_deadline_s: u64,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            module_path: PathBuf::new(),
            token: String::new(),
            pin_path: None,
            pin_variable: None,
            sessions: 4,
            queue_max: 256,
            deadline_s: 10,
            generate_deadline_s: 120,
        }
    }
}

/// Bounds on what clients may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSettings {
    /// Longest request body, in bytes, however it is framed; a mount may set less.
    pub body_bytes_max: usize,
    /// Memory for the bodies of all requests together, in bytes; beyond it requests are told to try later.
    pub bodies_bytes_max: usize,
    /// Longest request line and headers together, in bytes.
    pub header_bytes_max: usize,
    /// Time for a client to send its headers, in seconds.
    pub header_read_timeout_s: u64,
    /// Time for a client to send its body, in seconds.
    pub body_read_timeout_s: u64,
    /// Time a connection may be without a request, and without its client taking any of an answer, in seconds.
    pub idle_timeout_s: u64,
    /// Time for the TLS handshake, in seconds.
    pub handshake_timeout_s: u64,
    /// Most connections at a time, on each listener.
    pub connections_max: usize,
    /// Most connections at a time from one address (IPv6: one /64), on each listener. Trusted proxies are exempt.
    pub connections_per_address_max: usize,
    /// Most requests at a time on one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// Threads that answer enrollment requests.
    pub enroll_threads: usize,
    /// Enrollment requests that may wait for a thread.
    pub enroll_queue_max: usize,
    /// Threads that answer CRL and OCSP requests which are not in memory.
    pub status_threads: usize,
    /// Status requests that may wait for a thread.
    pub status_queue_max: usize,
    /// Threads for requests that wait on another host.
    pub remote_threads: usize,
    /// Such requests that may wait for a thread.
    pub remote_queue_max: usize,
    /// What `Retry-After` tells a client when a queue is full, in seconds.
    pub retry_after_s: u32,
    /// Time that running requests get to finish when the daemon stops, in seconds.
    pub shutdown_grace_s: u64,
    /// Certificates that one requester may get per second.
    pub issue_rate_per_requester_per_s: u32,
    /// Certificates that one requester may get at once after a pause.
    pub issue_burst_per_requester_max: u32,
    /// Wrong secrets that one address (IPv6: one /64) may present at one endpoint within a minute before it has to wait.
    pub wrong_secrets_per_peer_per_min_max: u32,
    /// Refusals of one endpoint that get an entry of their own in the audit log within a minute; more are counted.
    pub audited_refusals_per_endpoint_per_min_max: u32,
}

impl Default for LimitsSettings {
    fn default() -> Self {
        Self {
            body_bytes_max: 256 << 10,
            bodies_bytes_max: 64 << 20,
            header_bytes_max: 16 << 10,
            header_read_timeout_s: 10,
            body_read_timeout_s: 20,
            idle_timeout_s: 60,
            handshake_timeout_s: 10,
            connections_max: 4096,
            connections_per_address_max: 256,
            http2_streams_max: 64,
            enroll_threads: 16,
            enroll_queue_max: 256,
            status_threads: 2,
            status_queue_max: 256,
            remote_threads: 8,
            remote_queue_max: 64,
            retry_after_s: 5,
            shutdown_grace_s: 20,
            issue_rate_per_requester_per_s: 10,
            issue_burst_per_requester_max: 10,
            wrong_secrets_per_peer_per_min_max: 20,
            audited_refusals_per_endpoint_per_min_max: 60,
        }
    }
}

/// How certificates, CRLs and OCSP answers are issued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IssuingSettings {
    /// How far notBefore lies before the present, for clients whose clock is late, in seconds.
    pub backdate_s: u64,
    /// How long a repeated request gets the first answer instead of a second certificate, in seconds.
    pub repeat_window_s: u64,
    /// How far the clock may be behind the newest record before signing stops, in seconds.
    pub clock_backwards_max_s: u64,
    /// Longest time from a revocation to a CRL that names it, in seconds.
    pub crl_publish_delay_s: u64,
    /// Age at which a CRL is renewed though nothing changed, in seconds.
    pub crl_renew_s: u64,
    /// From thisUpdate to nextUpdate of a CRL, in seconds.
    pub crl_validity_s: u64,
    /// From thisUpdate to nextUpdate of an OCSP answer, in seconds.
    pub ocsp_validity_s: u64,
    /// Signed OCSP answers kept in memory.
    pub ocsp_cache_entries_max: usize,
    /// For how long the status of expired certificates is kept and told (archive cutoff), in days.
    pub status_retention_days: u32,
    /// After how many days a request is given up that waits for approval.
    pub ticket_waiting_days: u32,
    /// How long it is remembered how a request that waited for an operator was decided, in days.
    pub ticket_retention_days: u32,
}

impl Default for IssuingSettings {
    fn default() -> Self {
        Self {
            backdate_s: 300,
            repeat_window_s: 3600,
            clock_backwards_max_s: 60,
            crl_publish_delay_s: 60,
            crl_renew_s: 86_400,
            crl_validity_s: 604_800,
            ocsp_validity_s: 86_400,
            ocsp_cache_entries_max: 100_000,
            status_retention_days: 3650,
            ticket_waiting_days: 30,
            ticket_retention_days: 90,
        }
    }
}

/// Requests to other hosts that prove control over a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationSettings {
    /// DNS servers; none means those of the system, with its hosts file.
    pub resolvers: Vec<SocketAddr>,
    /// Zones that have DNS servers of their own; the smallest one that holds a name counts.
    pub zones: Vec<ZoneSettings>,
    /// Time for one TCP connection or TLS handshake, in seconds.
    pub connect_timeout_s: u64,
    /// Time for one DNS question, with its repeats, in seconds.
    pub dns_timeout_s: u64,
    /// Time for one validation as a whole, in seconds.
    pub timeout_s: u64,
    /// Redirects that are followed.
    pub redirects_max: u32,
    /// Bytes of an answer that are read; a longer one fails.
    pub body_bytes_max: usize,
    /// Validations at a time.
    pub concurrency_max: usize,
    /// Connections of validations to one address at a time.
    pub connections_per_address_max: usize,
    /// Time that a remote perspective gets for its answer, in seconds.
    pub perspective_timeout_s: u64,
    /// Remote perspectives by name, for the endpoints that name them.
    pub perspectives: BTreeMap<String, RemotePerspectiveSettings>,
}

/// A `certgate perspective` elsewhere, and how it is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemotePerspectiveSettings {
    /// Where it listens: `https://HOST:PORT`.
    pub url: String,
    /// A PEM file with the roots that its certificate must lead to.
    pub roots_path: PathBuf,
    /// The certificate chain that this node shows (PEM, leaf first).
    pub certificate_path: PathBuf,
    /// Its private key (PEM).
    pub key_path: PathBuf,
    /// The private or loopback ranges in which it may lie.
    pub reachable_networks: Vec<IpNet>,
}

/// What `certgate perspective` does for gateways that ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerspectiveSettings {
    /// A PEM file with the roots that the certificates of gateways must lead to.
    #[serde(with = "empty_is_none")]
    pub client_roots_path: Option<PathBuf>,
    /// DNS names of which a gateway's certificate must hold one; none means that every certificate under the roots will do.
    pub client_names: Vec<String>,
    /// The ports that may be asked on other hosts.
    pub ports: Vec<u16>,
    /// The private and loopback ranges that may be reached.
    pub reachable_networks: Vec<IpNet>,
}

impl Default for PerspectiveSettings {
    fn default() -> Self {
        Self { client_roots_path: None, client_names: Vec::new(), ports: vec![80, 443], reachable_networks: Vec::new() }
    }
}

/// The DNS servers of a zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneSettings {
    /// The zone: this name and everything below.
    pub name: String,
    /// Its DNS servers, at least one.
    pub resolvers: Vec<SocketAddr>,
}

impl Default for ValidationSettings {
    fn default() -> Self {
        Self {
            resolvers: Vec::new(),
            zones: Vec::new(),
            connect_timeout_s: 5,
            dns_timeout_s: 5,
            timeout_s: 10,
            redirects_max: 10,
            body_bytes_max: 4096,
            concurrency_max: 64,
            connections_per_address_max: 8,
            perspective_timeout_s: 15,
            perspectives: BTreeMap::new(),
        }
    }
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// What is logged, as filter directives: `info`, or `info,acme=debug`.
    pub level: String,
    /// For people or for programs.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Figures for Prometheus; always served on the operators' socket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSettings {
    /// A loopback address that serves `/metrics`, `/healthz` and `/readyz` too.
    #[serde(with = "empty_is_none")]
    pub listen: Option<SocketAddr>,
}

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

/// TOML has no null, so an optional key is written as an empty string.
mod empty_is_none {
    use std::borrow::Cow;

    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }

    pub(super) fn deserialize<'de, T: std::str::FromStr, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error>
    where
        T::Err: std::fmt::Display,
    {
        let text = Cow::<str>::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(serde::de::Error::custom)
    }
}
