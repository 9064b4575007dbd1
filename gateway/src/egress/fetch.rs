//! Fetching an http-01 challenge.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

use super::address::Refusal;
use super::{Egress, EgressError, Host};

/// Longest URL that a redirect may lead to, in bytes.
const URL_BYTES_MAX: usize = 2048;

/// Longest headers of an answer, in bytes.
pub(super) const HEADER_BYTES_MAX: usize = 16 << 10;

/// What operators of the asked host see in their logs.
const AGENT: &str = concat!("certgate/", env!("CARGO_PKG_VERSION"), " (ACME validation)");

/// The answer to a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedBody {
    /// The whole body, at most `validation.body_bytes_max` long.
    pub body: Bytes,
    /// The address that answered.
    pub address: SocketAddr,
    /// Every URL that was asked, the first one first.
    pub urls: Vec<String>,
}

enum Answer {
    Body(Bytes),
    Redirect(String),
}

pub(super) async fn challenge(egress: &Egress, host: &Host, port: u16, path: &str) -> Result<FetchedBody, EgressError> {
    let mut url = Url::parse(&format!("http://{host}:{port}{path}"))
        .map_err(|_| EgressError::BadResponse("the host and path make no URL".to_owned()))?;
    let mut urls: Vec<String> = Vec::new();
    for _ in 0..=egress.settings.redirects_max {
        if urls.iter().any(|asked| asked == url.as_str()) {
            return Err(bad("the redirects lead in a circle"));
        }
        urls.push(url.as_str().to_owned());
        let (stream, address) = connect(egress, &url).await?;
        let answer = if url.scheme() == "https" {
            ask(egress, shake_hands(egress, &url, stream).await?, &url).await?
        } else {
            ask(egress, stream, &url).await?
        };
        match answer {
            Answer::Body(body) => {
                return Ok(FetchedBody { body, address, urls });
            }
            Answer::Redirect(target) => url = follow(egress, &url, &target)?,
        }
    }
    Err(bad("there are too many redirects"))
}

fn bad(why: &str) -> EgressError {
    EgressError::BadResponse(why.to_owned())
}

/// Where a redirect leads, if it may.
fn follow(egress: &Egress, from: &Url, target: &str) -> Result<Url, EgressError> {
    if target.len() > URL_BYTES_MAX {
        return Err(bad("a redirect is too long"));
    }
    let mut url = from.join(target).map_err(|_| bad("a redirect leads to no URL"))?;
    url.set_fragment(None);
    let port = match url.scheme() {
        "http" => egress.reach.http_port,
        "https" => egress.reach.https_port,
        _ => {
            return Err(bad("a redirect leads to something else than http and https"));
        }
    };
    if url.port_or_known_default() != Some(port) {
        return Err(bad("a redirect leads to another port than those of validation"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("a redirect holds a user name or a password"));
    }
    match literal(&url) {
        Some(address) if !egress.policy.lists(address) => {
            Err(EgressError::RefusedAddress { address, why: Refusal::LiteralInRedirect })
        }
        Some(_) | None => Ok(url),
    }
}

/// The address that a URL names in place of a host name.
fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        url::Host::Ipv4(address) => Some(address.into()),
        url::Host::Ipv6(address) => Some(address.into()),
        url::Host::Domain(_) => None,
    }
}

/// Connects to the first address that may be dialled and answers: IPv6, then IPv4.
async fn connect(egress: &Egress, url: &Url) -> Result<(TcpStream, SocketAddr), EgressError> {
    let port = url.port_or_known_default().ok_or_else(|| bad("the URL has no port"))?;
    let addresses = match literal(url) {
        Some(address) => vec![address],
        None => egress.dns.addresses(url.host_str().unwrap_or_default()).await?,
    };
    let mut failure = EgressError::Dns("the name has no address".to_owned());
    for address in addresses {
        match dial(egress, SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok((stream, SocketAddr::new(address, port))),
            Err(why) => failure = why,
        }
    }
    Err(failure)
}

/// Every connection of this module begins here, so every address is judged, and what is dialled is what was judged.
async fn dial(egress: &Egress, target: SocketAddr) -> Result<TcpStream, EgressError> {
    let refused = |why| EgressError::RefusedAddress { address: target.ip(), why };
    egress.policy.judge(target).map_err(refused)?;
    let limit = Duration::from_secs(egress.settings.connect_timeout_s);
    let lost = |why: std::io::Error| EgressError::Connection(format!("no connection to {target}: {}", why.kind()));
    let stream = timeout(limit, TcpStream::connect(target))
        .await
        .map_err(|_| EgressError::Timeout("connecting"))?
        .map_err(lost)?;
    let (local, peer) = (stream.local_addr().map_err(lost)?, stream.peer_addr().map_err(lost)?);
    egress.policy.judge_connection(local, peer).map_err(refused)?;
    Ok(stream)
}

async fn shake_hands(
    egress: &Egress,
    url: &Url,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, EgressError> {
    let name = match literal(url) {
        Some(address) => ServerName::IpAddress(address.into()),
        None => ServerName::try_from(url.host_str().unwrap_or_default().to_owned())
            .map_err(|_| EgressError::Tls("the host has no name for TLS".to_owned()))?,
    };
    let limit = Duration::from_secs(egress.settings.connect_timeout_s);
    timeout(limit, TlsConnector::from(Arc::clone(&egress.tls)).connect(name, stream))
        .await
        .map_err(|_| EgressError::Timeout("shaking hands"))?
        .map_err(|why| {
            tracing::debug!(%why, host = url.host_str(), "TLS of a redirect target failed");
            EgressError::Tls("the handshake failed".to_owned())
        })
}

/// One request on a connection of its own.
async fn ask<S>(egress: &Egress, stream: S, url: &Url) -> Result<Answer, EgressError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |why: hyper::Error| {
        tracing::debug!(%why, host = url.host_str(), "challenge not fetched");
        if why.is_parse() { bad("the answer is no HTTP") } else { EgressError::Connection("it broke".to_owned()) }
    };
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEADER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let answer = async {
        let response = sender.send_request(request(url)?).await.map_err(broken)?;
        read(egress, response).await
    };
    // the connection is driven here and not by a task of its own, so that it ends with this future
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

fn request(url: &Url) -> Result<Request<Empty<Bytes>>, EgressError> {
    let target = &url[url::Position::BeforePath..];
    // host and port as in the URL: url leaves out the port that the scheme implies
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    Request::get(target)
        .header(HOST, authority)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|_| bad("the URL cannot be asked for"))
}

async fn read(egress: &Egress, response: Response<Incoming>) -> Result<Answer, EgressError> {
    match response.status() {
        StatusCode::OK => read_body(response.into_body(), egress.settings.body_bytes_max).await.map(Answer::Body),
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => {
            let location = response.headers().get(LOCATION).and_then(|target| target.to_str().ok());
            location.map(|target| Answer::Redirect(target.to_owned())).ok_or_else(|| bad("a redirect leads nowhere"))
        }
        status => Err(EgressError::BadResponse(format!("status {}", status.as_u16()))),
    }
}

pub(super) async fn read_body(mut body: Incoming, bytes_max: usize) -> Result<Bytes, EgressError> {
    let mut whole = BytesMut::new();
    let too_long = || bad("the body is too long");
    if usize::try_from(body.size_hint().lower()).map_or(true, |bytes| bytes > bytes_max) {
        return Err(too_long());
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| EgressError::Connection("it broke within the body".to_owned()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.len() + data.len() > bytes_max {
            return Err(too_long());
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// TLS for redirect targets. Their certificates are not judged: a host that asks for its first certificate has none that
/// could be (RFC 8555 section 8.3).
pub(super) fn tls_without_trust() -> Result<Arc<ClientConfig>, EgressError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|why| EgressError::Tls(why.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Lets every certificate pass whose key signs the handshake.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, leaf, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
