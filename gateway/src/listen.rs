//! Listeners: accept, TLS, limits of size and time, and the way of a request to its endpoint.
//!
//! A request is read whole before anything looks at it, so a slow client holds a task and never a thread. Then its mount's
//! endpoint is asked for an answer from memory, in place; what needs work goes to the mount's lane.

mod answer;
mod body;
mod mounts;
mod patience;
mod peer;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ca_backend::{Stopwatch, SystemRng, random};
use config::{LimitsSettings, Settings};
use endpoint::{Peer, TlsPeer};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;

pub use mounts::{Mount, Mounts, On};

use crate::telemetry;
use crate::tls::{self, Tls};
use answer::Answer;
use body::{BodyBudget, BodyRefused, Room};
use patience::{Patience, Pulse, Watched};
use peer::TrustedProxies;

/// How long the accept loop rests when the system gives it no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Flow control windows of HTTP/2: what a client may send before we have read it, in bytes.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 64 << 10;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 256 << 10;

/// What all listeners of a node share: limits, trusted proxies, and the memory for bodies.
#[derive(Debug)]
pub struct Bounds {
    limits: LimitsSettings,
    proxies: TrustedProxies,
    bodies: Arc<BodyBudget>,
}

impl Bounds {
    /// The bounds that the settings state.
    #[must_use]
    pub fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            limits: settings.limits.clone(),
            proxies: TrustedProxies::new(settings.trusted_proxies.clone(), settings.proxy_header),
            bodies: BodyBudget::new(settings.limits.bodies_bytes_max),
        })
    }
}

/// Whether a listener speaks TLS.
#[derive(Clone, Debug)]
pub enum Security {
    /// Plain HTTP/1.
    Plain,
    /// HTTP/1 and HTTP/2 over TLS.
    Tls(Tls),
}

/// A bound socket that does not serve yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds; port 0 takes a free one, see [`Listener::address`].
    ///
    /// # Errors
    /// When the address is taken, not ours, or not allowed to us.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// The address that it is bound to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` becomes true or its sender is gone; then lets running requests finish within
    /// `shutdown_grace_s` and cuts the rest.
    pub async fn serve(self, security: Security, mounts: Mounts, bounds: Arc<Bounds>, mut stop: watch::Receiver<bool>) {
        let name = match security {
            Security::Plain => "http",
            Security::Tls(_) => "https",
        };
        let open = metrics::gauge!(telemetry::CONNECTIONS, "listener" => name);
        let per_address = PerAddress::default();
        let mut connections = JoinSet::new();
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(why) if why.kind() == ErrorKind::ConnectionAborted => continue,
                Err(why) => {
                    // Said once, not ten times a second for as long as it lasts.
                    if !failing {
                        tracing::error!(%why, listener = name, open = connections.len(), "cannot accept connections");
                    }
                    failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if failing {
                tracing::info!(listener = name, "accepts connections again");
                failing = false;
            }
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            if connections.len() >= bounds.limits.connections_max {
                refuse_connection(name, "all");
                continue;
            }
            let Some(place) = per_address.enter(address.ip(), &bounds) else {
                refuse_connection(name, "address");
                continue;
            };
            let connection = Connection {
                address,
                tls: None,
                mounts: mounts.clone(),
                bounds: Arc::clone(&bounds),
                pulse: Arc::default(),
            };
            let (security, open, stop) = (security.clone(), open.clone(), stop.clone());
            connections.spawn(async move {
                open.increment(1.0);
                connection.attend(stream, security, stop).await;
                open.decrement(1.0);
                drop(place);
            });
        }
        drop(self.socket);
        let grace = Duration::from_secs(bounds.limits.shutdown_grace_s);
        let finished = async { while connections.join_next().await.is_some() {} };
        if timeout(grace, finished).await.is_err() {
            tracing::warn!(
                listener = name,
                cut = connections.len(),
                "requests were still running after the grace time"
            );
            connections.shutdown().await;
        }
    }
}

fn refuse_connection(listener: &'static str, bound: &'static str) {
    metrics::counter!(telemetry::CONNECTIONS_REFUSED, "listener" => listener, "bound" => bound).increment(1);
    tracing::debug!(listener, bound, "too many connections; one was closed");
}

/// How many connections each address has.
#[derive(Clone, Default)]
struct PerAddress(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place among those of its address.
struct Place(Option<(PerAddress, IpAddr)>);

impl PerAddress {
    /// Takes a place, or none if the address has all it may have.
    fn enter(&self, address: IpAddr, bounds: &Bounds) -> Option<Place> {
        if bounds.proxies.trusts(address) {
            return Some(Place(None));
        }
        let network = network_of_one(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= bounds.limits.connections_per_address_max {
            return None;
        }
        *count += 1;
        Some(Place(Some((self.clone(), network))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((places, network)) = self.0.take() else {
            return;
        };
        let mut counts = places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&network);
            }
        }
    }
}

/// What one subscriber has: an IPv4 address, or an IPv6 /64.
fn network_of_one(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

/// One connection: everything a request on it needs.
struct Connection {
    address: SocketAddr,
    tls: Option<Arc<TlsPeer>>,
    mounts: Mounts,
    bounds: Arc<Bounds>,
    pulse: Arc<Pulse>,
}

impl Connection {
    async fn attend(mut self, stream: TcpStream, security: Security, stop: watch::Receiver<bool>) {
        if let Err(why) = stream.set_nodelay(true) {
            tracing::debug!(%why, address = %self.address, "connection lost");
            return;
        }
        let Security::Tls(tls) = security else {
            return self.speak_http1(stream, stop).await;
        };
        let limit = Duration::from_secs(self.bounds.limits.handshake_timeout_s);
        let shaken = match timeout(limit, handshake(stream, &tls)).await {
            Ok(shaken) => shaken,
            Err(_) => Err(std::io::Error::from(ErrorKind::TimedOut)),
        };
        match shaken {
            Ok((stream, peer)) => {
                self.tls = Some(Arc::new(peer));
                match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => self.speak_http2(stream, stop).await,
                    Some(_) | None => self.speak_http1(stream, stop).await,
                }
            }
            Err(why) => {
                metrics::counter!(telemetry::HANDSHAKES_FAILED).increment(1);
                tracing::debug!(%why, address = %self.address, "TLS handshake failed");
            }
        }
    }

    async fn speak_http1<S: AsyncRead + AsyncWrite + Unpin + 'static>(self, stream: S, stop: watch::Receiver<bool>) {
        let limits = &self.bounds.limits;
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // Patience watches the headers of all requests with one timer for the connection; hyper arms one for each request
            .header_read_timeout(None)
            // Without TLS a client may close its half and wait. Over TLS none does; who closes is gone, and so is its request
            .half_close(self.tls.is_none())
            .max_header_size(limits.header_bytes_max)
            .max_buf_size(limits.header_bytes_max.max(BUFFER_BYTES_MIN));
        let patience = Patience::http1(limits, &self.pulse);
        let stream = TokioIo::new(Watched::new(stream, Arc::clone(&self.pulse)));
        let connection = Arc::new(self);
        let service = service_fn(|request| {
            let connection = Arc::clone(&connection);
            async move { Ok::<_, Infallible>(connection.respond(request).await) }
        });
        keep(builder.serve_connection(stream, service), patience, stop).await;
    }

    async fn speak_http2<S: AsyncRead + AsyncWrite + Unpin + 'static>(self, stream: S, stop: watch::Receiver<bool>) {
        let limits = &self.bounds.limits;
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.http2_streams_max)
            .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
            .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES);
        let patience = Patience::http2(limits, &self.pulse);
        let stream = TokioIo::new(Watched::new(stream, Arc::clone(&self.pulse)));
        let connection = Arc::new(self);
        let service = service_fn(move |request| {
            let connection = Arc::clone(&connection);
            async move { Ok::<_, Infallible>(connection.respond(request).await) }
        });
        keep(builder.serve_connection(stream, service), patience, stop).await;
    }

    /// The answer to a request, ready for the wire: with its length if it has no body of its own to show it.
    async fn respond(&self, request: Request<Incoming>) -> Response<Answer> {
        let _running = self.pulse.request();
        let head_only = request.method() == Method::HEAD;
        let mut response = self.answer(request).await;
        if head_only && response.body().is_empty() {
            // what GET would send is known to the endpoint alone, which may have stated it
        } else if head_only {
            let length = HeaderValue::from(response.body().len());
            response.headers_mut().insert(CONTENT_LENGTH, length);
            *response.body_mut() = Bytes::new();
        } else {
            // hyper states the length of the body that it sends
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        response.map(|octets| Answer::new(octets, &self.pulse))
    }

    /// The whole way of one request. What has to wait is boxed, so that what need not is not moved about with its state.
    async fn answer(&self, request: Request<Incoming>) -> Response<Bytes> {
        let Some(mount) = self.mounts.find(request.uri().path(), self.tls.is_some()) else {
            return refuse(StatusCode::NOT_FOUND, "not found");
        };
        let (parts, body) = request.into_parts();
        if !body.is_end_stream() {
            return Box::pin(self.answer_with_body(&mount, parts, body)).await;
        }
        let request = Request::from_parts(parts, Bytes::new());
        match at_once(&mount, &request) {
            Some(response) => response,
            None => Box::pin(self.answer_in_lane(&mount, request, None)).await,
        }
    }

    async fn answer_with_body(&self, mount: &Mount, parts: Parts, body: Incoming) -> Response<Bytes> {
        let (body, room) = match self.read_body(body, &parts.headers, mount.body_bytes_max()).await {
            Ok(read) => read,
            Err(refused) => return self.refuse_body(refused),
        };
        let request = Request::from_parts(parts, body);
        match at_once(mount, &request) {
            Some(response) => response,
            None => self.answer_in_lane(mount, request, Some(room)).await,
        }
    }

    async fn answer_in_lane(&self, mount: &Mount, request: Request<Bytes>, room: Option<Room>) -> Response<Bytes> {
        let peer = self.peer(request.headers());
        let request_id = peer.request_id.clone();
        let span = tracing::info_span!("request", id = request_id);
        let endpoint = Arc::clone(mount.endpoint());
        let took = Stopwatch::start();
        let running = mount.lane().run(move || {
            let _entered = span.enter();
            let response = endpoint.handle(request, &peer);
            drop(room);
            response
        });
        let response = match running {
            Ok(running) => running.await,
            Err(pool_full) => {
                tracing::debug!(?pool_full, mount = mount.prefix(), "refused a request");
                return self.try_later();
            }
        };
        match response {
            Ok(response) => {
                mount.count_answer(response.status(), took.elapsed());
                tracing::debug!(
                    id = request_id,
                    mount = mount.prefix(),
                    status = response.status().as_u16(),
                    "answered"
                );
                response
            }
            Err(panicked) => {
                tracing::error!(id = request_id, mount = mount.prefix(), ?panicked, "a request ended in a panic");
                let text = format!("internal error; ask the operator about request {request_id}");
                refuse(StatusCode::INTERNAL_SERVER_ERROR, &text)
            }
        }
    }

    async fn read_body(
        &self,
        body: Incoming,
        headers: &HeaderMap,
        bytes_max: usize,
    ) -> Result<(Bytes, Room), BodyRefused> {
        let limits = &self.bounds.limits;
        let reading = body::read(body, headers, bytes_max.min(limits.body_bytes_max), &self.bounds.bodies);
        timeout(Duration::from_secs(limits.body_read_timeout_s), reading).await.unwrap_or(Err(BodyRefused::TooSlow))
    }

    fn refuse_body(&self, refused: BodyRefused) -> Response<Bytes> {
        match refused {
            BodyRefused::TooLong => refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"),
            BodyRefused::TooSlow => refuse(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
            BodyRefused::Broken => refuse(StatusCode::BAD_REQUEST, "the body is broken"),
            BodyRefused::NoRoom => self.try_later(),
        }
    }

    fn try_later(&self) -> Response<Bytes> {
        let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, "too busy, try later");
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(self.bounds.limits.retry_after_s));
        response
    }

    fn peer(&self, headers: &HeaderMap) -> Peer {
        Peer {
            address: self.bounds.proxies.client(self.address, headers),
            tls: self.tls.clone(),
            request_id: hex::encode(random::<8>(&SystemRng)),
        }
    }
}

/// The least that hyper takes as size of its read buffer.
const BUFFER_BYTES_MIN: usize = 8 << 10;

async fn handshake(
    stream: TcpStream,
    tls: &Tls,
) -> std::io::Result<(tokio_rustls::server::TlsStream<TcpStream>, TlsPeer)> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let stream = hello.into_stream(tls.config()).await?;
    let peer = tls::peer(stream.get_ref().1).map_err(std::io::Error::other)?;
    Ok((stream, peer))
}

/// Drives a connection until it ends, patience ends, or the listener stops and its last request is answered.
async fn keep<C>(connection: C, mut patience: Patience, mut stop: watch::Receiver<bool>)
where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    let mut connection = pin!(connection);
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(why) = ended {
                    tracing::debug!(%why, "connection ended");
                }
                return;
            }
            () = patience.lost() => {
                if ending {
                    return;
                }
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = stop.wait_for(|stop| *stop), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The answer from memory, if there is one.
fn at_once(mount: &Mount, request: &Request<Bytes>) -> Option<Response<Bytes>> {
    // a panic here must end this request, not the others of its connection
    match catch_unwind(AssertUnwindSafe(|| mount.endpoint().answer_from_memory(request))) {
        Ok(Some(response)) => {
            mount.count_from_memory();
            Some(response)
        }
        Ok(None) => None,
        Err(_) => Some(refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal error")),
    }
}

/// An answer of the gateway itself.
fn refuse(status: StatusCode, text: &str) -> Response<Bytes> {
    metrics::counter!(telemetry::REQUESTS_REFUSED, "status" => status.as_str().to_owned()).increment(1);
    let mut response = Response::new(Bytes::from(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
