//! A stand-in of the service behind a webhook, with TLS under a root of its own, and a proxy on the way to it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// What requests are signed with, in base64 as operators keep it.
pub const SIGNING_SECRET: &str = "c2l4dGVlbiBvY3RldHMgYW5kIHNvbWUgbW9yZQ==";
/// The token that requests carry.
pub const BEARER: &str = "token-of-the-webhook";
/// The challenge that is allowed.
pub const CHALLENGE: &str = "one-of-the-services-own";

/// What goes wrong with the next question.
#[derive(Clone, Debug)]
pub enum Mishap {
    /// This status.
    Status(u16),
    /// Status 200 and these octets.
    Says(&'static str),
    /// No answer at all.
    Silence,
    /// Elsewhere, where everything would be allowed.
    Redirect,
    /// More octets than anybody wants.
    Giant,
}

/// What was asked.
#[derive(Default)]
pub struct Seen {
    /// The questions that were signed and carried the token.
    pub questions: Vec<Value>,
    /// Requests of any kind.
    pub requests: usize,
    /// Targets that the proxy was asked for.
    pub tunnels: Vec<String>,
    mishaps: VecDeque<Mishap>,
}

/// The service, while this value lives.
pub struct Judge {
    /// Where it listens; its certificate is for `localhost`.
    pub address: SocketAddr,
    /// The proxy.
    pub proxy: SocketAddr,
    /// The root above its certificate, PEM.
    pub root_pem: String,
    seen: Arc<Mutex<Seen>>,
    _runtime: Runtime,
}

impl Judge {
    /// Starts on a free port.
    #[must_use]
    pub fn start() -> Self {
        let (acceptor, root_pem) = tls();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let proxy_listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (address, proxy) = (listener.local_addr().unwrap(), proxy_listener.local_addr().unwrap());
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let shared = seen.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, acceptor) = (shared.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let answer = hyper::service::service_fn(move |request| answer(request, seen.clone()));
                    let _client_left =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        let shared = seen.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = proxy_listener.accept().await {
                tokio::spawn(tunnel(stream, shared.clone()));
            }
        });
        Self { address, proxy, root_pem, seen, _runtime: runtime }
    }

    /// What happened so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// The next question goes wrong like this.
    pub fn next(&self, mishap: Mishap) {
        self.seen().mishaps.push_back(mishap);
    }

    /// Forgets what should go wrong with questions that were not asked.
    pub fn be_well(&self) {
        self.seen().mishaps.clear();
    }
}

fn tls() -> (TlsAcceptor, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let root = params.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(params, root_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), root.pem())
}

/// RFC 9110 section 9.3.6, for clients that send their whole request at once.
async fn tunnel(mut client: TcpStream, seen: Arc<Mutex<Seen>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        if client.read_exact(&mut octet).await.is_err() {
            return;
        }
        request.push(octet[0]);
    }
    let text = String::from_utf8(request).unwrap();
    let target = text.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    seen.lock().unwrap().tunnels.push(target.clone());
    let mut server = TcpStream::connect(target).await.unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let _ended = copy_bidirectional(&mut client, &mut server).await;
}

async fn answer(request: Request<Incoming>, seen: Arc<Mutex<Seen>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mishap = {
        let mut seen = seen.lock().unwrap();
        seen.requests += 1;
        seen.mishaps.pop_front()
    };
    let reply = |status: u16, body: Bytes| {
        Ok(Response::builder().status(status).header("location", "/allow").body(Full::new(body)).unwrap())
    };
    match mishap {
        Some(Mishap::Status(status)) => return reply(status, Bytes::new()),
        Some(Mishap::Says(text)) => return reply(200, Bytes::from_static(text.as_bytes())),
        Some(Mishap::Silence) => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            return reply(500, Bytes::new());
        }
        Some(Mishap::Redirect) => return reply(307, Bytes::new()),
        Some(Mishap::Giant) => {
            return reply(200, format!("{{\"allow\": true, \"data\": \"{}\"}}", "x".repeat(1 << 20)).into());
        }
        None => {}
    }
    if head.uri.path() == "/allow" {
        return reply(200, json!({"allow": true}).to_string().into());
    }
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(SIGNING_SECRET).unwrap());
    let signature = hex::decode(header("x-smallstep-signature")).unwrap_or_default();
    let is_ours = hmac::verify(&key, &body, &signature).is_ok()
        && header("authorization") == format!("Bearer {BEARER}")
        && header("x-smallstep-webhook-id") == "hook-1";
    if !is_ours {
        return reply(401, Bytes::new());
    }
    let question: Value = serde_json::from_slice(&body).unwrap();
    let allow = question["scepChallenge"] == CHALLENGE;
    seen.lock().unwrap().questions.push(question);
    reply(200, json!({"allow": allow, "data": null}).to_string().into())
}
