//! Requests to hosts that the operator named: device management services, webhooks.
//!
//! The other end is known and its certificate is judged, so a request may carry secrets; that is also why no redirect is
//! followed. Which addresses may be dialled is judged as for every other request of this node.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::endpoint::{Outbound, OutboundError, OutboundLimits};
use ca_backend::{Reason, Refusal, Stopwatch};
use config::ValidationSettings;
use http::header::{CONNECTION, HOST, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

use super::address::AddressPolicy;
use super::fetch::{HEADER_BYTES_MAX, read_body};
use super::{EgressError, dns};
use crate::telemetry;
use crate::tls::{self, CertificateFiles};

/// What the other end sees in its logs.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("certgate/", env!("CARGO_PKG_VERSION")));

/// How requests leave this node.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// Private and loopback ranges that may be reached, and where `http` without TLS is accepted.
    pub networks: Vec<IpNet>,
    /// A PEM file with the roots that the other end's certificate must lead to; those of the system if not set.
    pub roots: Option<PathBuf>,
    /// A proxy, `http://HOST:PORT`, through which TLS connections go; directly if not set. The environment is never asked.
    pub proxy: Option<Url>,
    /// The value of `Proxy-Authorization`, if the proxy wants one.
    pub proxy_authorization: Option<HeaderValue>,
    /// What this node shows of itself to whoever asks for a client certificate.
    pub identity: Option<Arc<CertificateFiles>>,
}

impl Route {
    /// Whether it could be taken now: what it says, and the files that it names.
    ///
    /// # Errors
    /// As [`Remote::new`].
    pub fn check(&self) -> Result<(), Refusal> {
        self.tls().map(drop)
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, Refusal> {
        let refused = |why: String| Refusal::new(Reason::Malformed, why);
        if let Some(proxy) = &self.proxy
            && (proxy.scheme() != "http" || proxy.host_str().is_none() || proxy.path() != "/")
        {
            return Err(refused(format!("the proxy {proxy} is not written as http://HOST:PORT")));
        }
        trusting(self.roots.as_ref(), self.identity.clone()).map_err(refused)
    }
}

/// Asks hosts along one route.
pub struct Remote {
    dns: dns::Dns,
    policy: AddressPolicy,
    tls: Arc<ClientConfig>,
    route: Route,
    connect_timeout: Duration,
    runtime: Handle,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("networks", &self.route.networks).finish_non_exhaustive()
    }
}

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Remote {
    /// Asks along `route`, resolving names as `settings` say, and never the sockets in `own`, which this node listens on.
    ///
    /// # Errors
    /// A refusal if the roots cannot be read, there are none, or the proxy's URL is none.
    pub fn new(
        settings: &ValidationSettings,
        route: Route,
        own: Vec<SocketAddr>,
        runtime: Handle,
    ) -> Result<Self, Refusal> {
        let tls = route.tls()?;
        Ok(Self {
            dns: dns::Dns::new(settings).map_err(|error| Refusal::new(Reason::Malformed, error.to_string()))?,
            policy: AddressPolicy::new(route.networks.clone(), own),
            tls,
            connect_timeout: Duration::from_secs(settings.connect_timeout_s),
            route,
            runtime,
        })
    }

    async fn exchange(&self, request: Request<Bytes>, body_bytes_max: usize) -> Result<Response<Bytes>, OutboundError> {
        let url = request.uri().to_string().parse::<Url>().map_err(|_| refused("its address is no URL"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("its URL holds a user name or a password"));
        }
        let stream = match url.scheme() {
            "https" => {
                let plain: Box<dyn Stream> = match &self.route.proxy {
                    Some(proxy) => self.tunnel(proxy, &url).await?,
                    None => Box::new(self.connect(&url, false).await?),
                };
                self.shake_hands(&url, plain).await?
            }
            "http" => Box::new(self.connect(&url, true).await?),
            _ => return Err(refused("only https is spoken")),
        };
        let request = in_origin_form(request, &url)?;
        send(stream, request, body_bytes_max).await
    }

    /// Connects to the first address that may be dialled and answers. Without TLS only where the operator listed the address.
    async fn connect(&self, url: &Url, listed_only: bool) -> Result<TcpStream, OutboundError> {
        let port = url.port_or_known_default().ok_or_else(|| refused("its URL has no port"))?;
        let addresses: Vec<IpAddr> = match url.host() {
            Some(url::Host::Ipv4(address)) => vec![address.into()],
            Some(url::Host::Ipv6(address)) => vec![address.into()],
            Some(url::Host::Domain(name)) => self.dns.addresses(name).await.map_err(unreachable)?,
            None => return Err(refused("its URL has no host")),
        };
        let mut failure = OutboundError::Unreachable("the name has no address".to_owned());
        for address in addresses {
            if listed_only && !self.policy.lists(address) {
                failure = refused("http without TLS is spoken only with addresses among the reachable networks");
                continue;
            }
            match self.dial(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    async fn dial(&self, target: SocketAddr) -> Result<TcpStream, OutboundError> {
        let judged = |why| OutboundError::Refused(format!("{} may not be reached: {why}", target.ip()));
        let lost =
            |why: std::io::Error| OutboundError::Unreachable(format!("no connection to {target}: {}", why.kind()));
        self.policy.judge(target).map_err(judged)?;
        let stream = timeout(self.connect_timeout, TcpStream::connect(target))
            .await
            .map_err(|_| OutboundError::Timeout)?
            .map_err(lost)?;
        let (local, peer) = (stream.local_addr().map_err(lost)?, stream.peer_addr().map_err(lost)?);
        self.policy.judge_connection(local, peer).map_err(judged)?;
        Ok(stream)
    }

    /// A connection to the URL's host through the proxy (RFC 9110 section 9.3.6).
    async fn tunnel(&self, proxy: &Url, url: &Url) -> Result<Box<dyn Stream>, OutboundError> {
        let broken = |why: hyper::Error| {
            tracing::debug!(%why, "the proxy opened no tunnel");
            OutboundError::Unreachable("the proxy opened no tunnel".to_owned())
        };
        let stream = self.connect(proxy, false).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the tunnel, which ends with the exchange.
        self.runtime.spawn(connection.with_upgrades());
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        let mut connect = Request::builder().method(Method::CONNECT).uri(format!("{host}:{port}"));
        connect = connect.header(HOST, format!("{host}:{port}"));
        if let Some(authorization) = &self.route.proxy_authorization {
            connect = connect.header(PROXY_AUTHORIZATION, authorization);
        }
        let connect = connect.body(Full::<Bytes>::default()).map_err(|_| refused("its URL makes no request"))?;
        let response = sender.send_request(connect).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            let status = response.status().as_u16();
            return Err(OutboundError::Unreachable(format!("the proxy answered with status {status}")));
        }
        Ok(Box::new(TokioIo::new(hyper::upgrade::on(response).await.map_err(broken)?)))
    }

    async fn shake_hands(&self, url: &Url, stream: Box<dyn Stream>) -> Result<Box<dyn Stream>, OutboundError> {
        let name = match url.host() {
            Some(url::Host::Ipv4(address)) => ServerName::IpAddress(IpAddr::from(address).into()),
            Some(url::Host::Ipv6(address)) => ServerName::IpAddress(IpAddr::from(address).into()),
            Some(url::Host::Domain(name)) => {
                ServerName::try_from(name.to_owned()).map_err(|_| refused("its host has no name for TLS"))?
            }
            None => return Err(refused("its URL has no host")),
        };
        let shaken = timeout(self.connect_timeout, TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream));
        let stream = shaken.await.map_err(|_| OutboundError::Timeout)?.map_err(|why| {
            // This text is about the operator's own choice of host and roots, and helps nobody else.
            OutboundError::Unreachable(format!(
                "the TLS handshake with {} failed: {why}",
                url.host_str().unwrap_or_default()
            ))
        })?;
        Ok(Box::new(stream))
    }
}

impl Remote {
    /// As [`Outbound::ask`], without blocking.
    pub(crate) async fn answer_to(
        &self,
        request: Request<Bytes>,
        limits: OutboundLimits,
    ) -> Result<Response<Bytes>, OutboundError> {
        let took = Stopwatch::start();
        let exchange = self.exchange(request, limits.body_bytes_max);
        let answer = timeout(limits.timeout, exchange).await.unwrap_or(Err(OutboundError::Timeout));
        let outcome = match &answer {
            Ok(_) => "answered",
            Err(OutboundError::Refused(_)) => "refused",
            Err(OutboundError::Unreachable(_)) => "connection",
            Err(OutboundError::Timeout) => "timeout",
            Err(OutboundError::BadAnswer(_)) => "bad_response",
        };
        metrics::histogram!(telemetry::EGRESS_SECONDS, "kind" => "remote", "outcome" => outcome).record(took.elapsed());
        answer
    }
}

impl Outbound for Remote {
    fn ask(&self, request: Request<Bytes>, limits: OutboundLimits) -> Result<Response<Bytes>, OutboundError> {
        self.runtime.block_on(self.answer_to(request, limits))
    }

    fn pause(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }
}

fn refused(why: &str) -> OutboundError {
    OutboundError::Refused(why.to_owned())
}

fn unreachable(error: EgressError) -> OutboundError {
    if let EgressError::Timeout(_) = error {
        return OutboundError::Timeout;
    }
    OutboundError::Unreachable(error.to_string())
}

/// TLS that trusts the roots in a file, or those of the system.
fn trusting(roots: Option<&PathBuf>, identity: Option<Arc<CertificateFiles>>) -> Result<Arc<ClientConfig>, String> {
    let store = match roots {
        Some(path) => tls::read_roots(path).map_err(|why| why.to_string())?,
        None => {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err("the system has no trusted roots: install its CA certificates, or name a file with roots"
                    .to_owned());
            }
            store
        }
    };
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| why.to_string())?
        .with_root_certificates(store);
    Ok(Arc::new(match identity {
        Some(identity) => {
            let mut config = config.with_client_cert_resolver(identity);
            // A session that is resumed shows what the first handshake showed, also when that was replaced since.
            config.resumption = Resumption::disabled();
            config
        }
        None => config.with_no_client_auth(),
    }))
}

/// The request as it stands on a connection of its own to the host (RFC 9112 section 3.2.1).
fn in_origin_form(mut request: Request<Bytes>, url: &Url) -> Result<Request<Full<Bytes>>, OutboundError> {
    let unusable = || refused("its URL makes no request");
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let host = HeaderValue::from_str(authority).map_err(|_| unusable())?;
    *request.uri_mut() =
        url[url::Position::BeforePath..url::Position::AfterQuery].parse::<Uri>().map_err(|_| unusable())?;
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.entry(USER_AGENT).or_insert(AGENT);
    Ok(request.map(Full::new))
}

/// One request on a connection of its own, which ends with it.
async fn send(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
    body_bytes_max: usize,
) -> Result<Response<Bytes>, OutboundError> {
    let broken = |why: hyper::Error| {
        tracing::debug!(%why, "no answer from a remote host");
        if why.is_parse() {
            OutboundError::BadAnswer("it is no HTTP".to_owned())
        } else {
            OutboundError::Unreachable("the connection broke".to_owned())
        }
    };
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEADER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = read_body(body, body_bytes_max).await.map_err(|error| {
            if let EgressError::Connection(why) = error {
                return OutboundError::Unreachable(why);
            }
            OutboundError::BadAnswer(error.to_string())
        })?;
        Ok(Response::from_parts(head, body))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        driven = &mut connection => {
            driven.map_err(broken)?;
            answer.await
        }
    }
}
