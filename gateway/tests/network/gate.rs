//! A gateway with listeners on free ports, and clients for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use config::Settings;
use endpoint::{Endpoint, Peer};
use gateway::listen::{Bounds, Listener, Mount, Mounts, On, Security};
use gateway::pool::Lane;
use gateway::tls::Tls;
use http::{Request, Response};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Nothing in these tests takes longer unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Gate {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) tls: Tls,
    pub(crate) mounts: Mounts,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) served: Vec<JoinHandle<()>>,
}

impl Gate {
    pub(crate) async fn open(settings: &Settings, mounts: Vec<Mount>) -> Self {
        let table = Mounts::default();
        table.replace(mounts);
        let tls = Tls::new(certified("gateway.test")).unwrap();
        let bounds = Bounds::new(settings);
        let (stop, stopped) = watch::channel(false);
        let mut addresses = Vec::new();
        let mut served = Vec::new();
        for security in [Security::Plain, Security::Tls(tls.clone())] {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            addresses.push(listener.address());
            served.push(tokio::spawn(listener.serve(security, table.clone(), Arc::clone(&bounds), stopped.clone())));
        }
        Self { http: addresses[0], https: addresses[1], tls, mounts: table, stop, served }
    }
}

pub(crate) fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings);
    settings
}

pub(crate) fn lane() -> Arc<Lane> {
    Lane::start("test", 2, 8).unwrap()
}

/// An endpoint on both listeners with room for 1000 octets of body.
pub(crate) fn mount(prefix: &str, endpoint: impl Endpoint + 'static) -> Mount {
    Mount::new(On::Both, prefix, Arc::new(endpoint), lane(), 1000)
}

/// An endpoint that is a closure.
pub(crate) struct Answering<F>(pub(crate) F);

impl<F: Fn(Request<Bytes>, &Peer) -> Response<Bytes> + Send + Sync> Endpoint for Answering<F> {
    fn handle(&self, request: Request<Bytes>, peer: &Peer) -> Response<Bytes> {
        self.0(request, peer)
    }
}

pub(crate) fn text(body: impl Into<String>) -> Response<Bytes> {
    Response::new(Bytes::from(body.into()))
}

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// Sends `request` as it is and returns all that comes until the server closes.
pub(crate) async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    rest(&mut stream).await
}

pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("the server closes in time").expect("readable");
    String::from_utf8(answer).unwrap()
}

/// Reads the next answer of a connection that stays open; its body must have a length.
pub(crate) async fn next_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).map_or("0", |rest| rest.split("\r\n").next().unwrap());
            if body.len() >= length.parse().unwrap() {
                return String::from_utf8(answer).unwrap();
            }
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await.expect("in time").unwrap();
        assert_ne!(read, 0, "the server closed after {text:?}");
    }
}

pub(crate) async fn get(address: SocketAddr, target: &str) -> String {
    exchange(address, &format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await
}

pub(crate) fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

pub(crate) fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

pub(crate) fn certificate(name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (made.cert.der().clone(), PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()))
}

pub(crate) fn certified(name: &str) -> Arc<CertifiedKey> {
    let (certificate, key) = certificate(name);
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Arc::new(CertifiedKey::from_der(vec![certificate], key, &provider).unwrap())
}
