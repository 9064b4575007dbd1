//! Fetching an http-01 challenge.

use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;

use super::address::Refusal;
use super::dial::{Connection, connect};
use super::tls::shake_hands;
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
    for _ in 0..=egress.node.settings.redirects_max {
        if urls.iter().any(|asked| asked == url.as_str()) {
            return Err(bad("the redirects lead in a circle"));
        }
        urls.push(url.as_str().to_owned());
        let target_port = url.port_or_known_default().ok_or_else(|| bad("the URL has no port"))?;
        let Connection { stream, address, turn } = connect(egress, &host_of(&url)?, target_port).await?;
        let answer = if url.scheme() == "https" {
            let stream = shake_hands(egress, &egress.node.tls, server_name(&url)?, stream).await?;
            ask(egress, stream, &url).await?
        } else {
            ask(egress, stream, &url).await?
        };
        drop(turn);
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

fn host_of(url: &Url) -> Result<Host, EgressError> {
    let name = || url.host_str().map(|name| Host::Dns(name.to_owned()));
    literal(url).map(Host::Ip).or_else(name).ok_or_else(|| bad("the URL names no host"))
}

fn server_name(url: &Url) -> Result<ServerName<'static>, EgressError> {
    match literal(url) {
        Some(address) => Ok(ServerName::IpAddress(address.into())),
        None => ServerName::try_from(url.host_str().unwrap_or_default().to_owned())
            .map_err(|_| EgressError::Tls("the host has no name for TLS".to_owned())),
    }
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
        StatusCode::OK => read_body(response.into_body(), egress.node.settings.body_bytes_max).await.map(Answer::Body),
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
