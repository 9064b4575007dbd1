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
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// What requests are signed with, in base64 as operators keep it.
pub const SIGNING_SECRET: &str = "c2l4dGVlbiBvY3RldHMgYW5kIHNvbWUgbW9yZQ==";
/// The token that requests carry.
pub const BEARER: &str = "token-of-the-webhook";
/// What notifications are signed with.
pub const NOTICE_SECRET: &str = "YW5vdGhlciBzaXh0ZWVuIG9jdGV0cyBhbmQgbW9yZQ==";
/// The challenge that is allowed.
pub const CHALLENGE: &str = "one-of-the-services-own";

/// What goes wrong with the next question.
#[derive(Clone, Debug)]
pub enum Mishap {
    /// Nothing.
    None,
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
    /// The notifications that were signed, with their own secret, and carried the token.
    pub notices: Vec<Value>,
    /// Requests of any kind.
    pub requests: usize,
    /// The common name in the certificate that the last request came with, empty without one.
    pub client: String,
    /// Targets that the proxy was asked for, and whole requests that asked for something else.
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
    issuer: Arc<Issuer<'static, KeyPair>>,
    seen: Arc<Mutex<Seen>>,
    _runtime: Runtime,
}

impl Judge {
    /// Starts on a free port.
    #[must_use]
    pub fn start() -> Self {
        let (acceptor, issuer, root_pem) = tls();
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
                    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    seen.lock().unwrap().client = shown.map(|leaf| common_name(leaf)).unwrap_or_default();
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
        Self { address, proxy, root_pem, issuer, seen, _runtime: runtime }
    }

    /// What happened so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// A certificate that the service knows a client by, and its key, PEM.
    #[must_use]
    pub fn client(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// The next request goes wrong like this.
    pub fn next(&self, mishap: Mishap) {
        self.seen().mishaps.push_back(mishap);
    }

    /// Forgets what should go wrong with requests that did not come.
    pub fn be_well(&self) {
        self.seen().mishaps.clear();
    }
}

fn common_name(certificate: &[u8]) -> String {
    let certificate = <x509_cert::Certificate as der::Decode>::from_der(certificate).unwrap();
    certificate.tbs_certificate().subject().to_string().trim_start_matches("CN=").to_owned()
}

/// TLS that asks for a client certificate, and takes clients without.
fn tls() -> (TlsAcceptor, Arc<Issuer<'static, KeyPair>>, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let root = params.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(params, root_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.allow_unauthenticated().build().unwrap())
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), Arc::new(issuer), root.pem())
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
    let target = text.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or(&text).to_owned();
    seen.lock().unwrap().tunnels.push(target.clone());
    if !text.starts_with("CONNECT ") {
        return;
    }
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
        Some(Mishap::None) | None => {}
    }
    if head.uri.path() == "/allow" {
        return reply(200, json!({"allow": true}).to_string().into());
    }
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default();
    let is_notice = head.uri.path() == "/notice";
    let (secret, id) = if is_notice { (NOTICE_SECRET, "hook-2") } else { (SIGNING_SECRET, "hook-1") };
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(secret).unwrap());
    let signature = hex::decode(header("x-smallstep-signature")).unwrap_or_default();
    let is_ours = hmac::verify(&key, &body, &signature).is_ok()
        && header("authorization") == format!("Bearer {BEARER}")
        && header("x-smallstep-webhook-id") == id;
    if !is_ours {
        return reply(401, Bytes::new());
    }
    let question: Value = serde_json::from_slice(&body).unwrap();
    if is_notice {
        seen.lock().unwrap().notices.push(question);
        return reply(204, Bytes::new());
    }
    let allow = question["scepChallenge"] == CHALLENGE;
    seen.lock().unwrap().questions.push(question);
    reply(200, json!({"allow": allow, "data": null}).to_string().into())
}
