use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use config::Settings;
use endpoint::Peer;
use gateway::listen::{Mount, On};
use gateway::pool::Lane;
use gateway::{telemetry, tls};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::gate::{Answering, Gate, PATIENCE, body, certificate, certified, connect, mount, rest, settings, text};

/// Shows this certificate whatever the server asks for.
#[derive(Debug)]
struct Shows(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

fn client(version: &'static SupportedProtocolVersion, alpn: &str, shows: Option<Arc<CertifiedKey>>) -> TlsConnector {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(tls::PossessionOnly::new(&aws_lc_rs::default_provider())))
        .with_client_cert_resolver(Arc::new(Shows(shows)));
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn shake_hands(address: SocketAddr, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    client.connect(ServerName::try_from("pki.example").unwrap(), connect(address).await).await
}

async fn get(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time")?;
    Ok(body(&String::from_utf8(answer).unwrap()).to_owned())
}

/// Shows what the gateway knows of the client: name, number of certificates, length of the first, channel binding.
fn show_peer() -> Answering<impl Fn(Request<Bytes>, &Peer) -> Response<Bytes>> {
    Answering(|_, peer: &Peer| {
        let tls = peer.tls.as_ref().expect("the request came over TLS");
        let leaf = tls.client_certificates.first().map_or(0, Bytes::len);
        let name = tls.server_name.as_deref().unwrap_or("-");
        text(format!("{name} {} {leaf} {}", tls.client_certificates.len(), hex::encode(&tls.channel_binding)))
    })
}

async fn open() -> Gate {
    Gate::open(&Settings::default(), vec![mount("/a", show_peer())]).await
}

fn binding(stream: &TlsStream<TcpStream>) -> String {
    let exported = stream.get_ref().1.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[]));
    hex::encode(exported.unwrap())
}

/// A certificate that no rule of ours would take: signed by nobody known, and with a critical extension that nobody knows.
fn strange() -> Arc<CertifiedKey> {
    let mut params = CertificateParams::new(vec!["stranger.test".to_owned()]).unwrap();
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    params.custom_extensions.push(extension);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    // `from_der` would read the certificate and refuse it
    let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    Arc::new(CertifiedKey::new(vec![certificate], key))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_certificate_breaks_nothing_and_reaches_the_endpoint() {
    let gate = open().await;
    for version in [TLS12, TLS13] {
        for shown in [certified("client.test"), strange()] {
            let length = shown.cert[0].len();
            let mut stream = shake_hands(gate.https, &client(version, "http/1.1", Some(shown))).await.unwrap();
            let expected = format!("pki.example 1 {length} {}", binding(&stream));
            assert_eq!(get(&mut stream).await.unwrap(), expected, "{version:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_is_served() {
    let gate = open().await;
    for version in [TLS12, TLS13] {
        let mut stream = shake_hands(gate.https, &client(version, "http/1.1", None)).await.unwrap();
        let expected = format!("pki.example 0 0 {}", binding(&stream));
        assert_eq!(get(&mut stream).await.unwrap(), expected, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_its_key_ends_the_handshake() {
    let gate = open().await;
    let stolen = strange();
    for version in [TLS12, TLS13] {
        for other in [strange(), certified("other.test")] {
            let forged = Arc::new(CertifiedKey::new(stolen.cert.clone(), Arc::clone(&other.key)));
            let served = match shake_hands(gate.https, &client(version, "http/1.1", Some(forged))).await {
                Ok(mut stream) => get(&mut stream).await,
                Err(why) => Err(why),
            };
            assert!(served.is_err(), "{version:?}: {served:?}");
        }
    }
}

async fn ask_http2(
    sender: &mut hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> (Response<()>, Bytes) {
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    (Response::from_parts(parts, ()), body.collect().await.unwrap().to_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_where_both_sides_want_it() {
    let echo = Answering(|request: Request<Bytes>, _: &Peer| Response::new(request.into_body()));
    let gate = Gate::open(&Settings::default(), vec![mount("/a", echo)]).await;
    let stream = shake_hands(gate.https, &client(TLS13, "h2", None)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driven = tokio::spawn(connection);
    let to = |method: &str, body: &str| {
        Request::builder().method(method).uri("https://pki.example/a").body(Full::from(body.to_owned())).unwrap()
    };
    let (answer, body) = ask_http2(&mut sender, to("POST", "hello")).await;
    assert_eq!((answer.status().as_u16(), &body[..]), (200, &b"hello"[..]));
    let (head, body) = ask_http2(&mut sender, to("HEAD", "")).await;
    assert_eq!((head.status().as_u16(), body.len()), (200, 0));
    let (refused, _) = ask_http2(&mut sender, to("POST", &"x".repeat(1001))).await;
    assert_eq!(refused.status(), 413);
    let (absent, _) =
        ask_http2(&mut sender, Request::get("https://pki.example/b").body(Full::default()).unwrap()).await;
    assert_eq!(absent.status(), 404);
    gate.stop.send(true).unwrap();
    timeout(PATIENCE, driven).await.expect("the connection ends").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_http2_connection_is_closed() {
    let idle = settings(|settings| settings.limits.idle_timeout_s = 1);
    let gate = Gate::open(&idle, vec![mount("/a", show_peer())]).await;
    let stream = shake_hands(gate.https, &client(TLS13, "h2", None)).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    timeout(PATIENCE, connection).await.expect("the server closes").unwrap();
    assert!(sender.is_closed());
}

/// The preface of HTTP/2 with empty SETTINGS (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A PING (RFC 9113 section 6.7).
const HTTP2_PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0certgate";

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_that_only_pings_is_idle() {
    let idle = settings(|settings| settings.limits.idle_timeout_s = 1);
    let gate = Gate::open(&idle, vec![mount("/a", show_peer())]).await;
    let mut stream = shake_hands(gate.https, &client(TLS13, "h2", None)).await.unwrap();
    stream.write_all(HTTP2_PREFACE).await.unwrap();
    let (mut from, mut to) = tokio::io::split(stream);
    let pinging = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(50));
        while to.write_all(HTTP2_PING).await.is_ok() && to.flush().await.is_ok() {
            every.tick().await;
        }
    });
    let mut answers = Vec::new();
    let closed = async { while from.read_buf(&mut answers).await.is_ok_and(|bytes| bytes > 0) {} };
    timeout(PATIENCE, closed).await.expect("the server closes the connection");
    assert!(answers.windows(8).any(|octets| octets == b"certgate"), "pings are answered meanwhile");
    pinging.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_client_that_does_not_take_its_answer_is_idle() {
    let idle = settings(|settings| settings.limits.idle_timeout_s = 1);
    let long = Answering(|_, _: &Peer| Response::new(vec![b'x'; 16 << 20].into()));
    let gate = Gate::open(&idle, vec![mount("/a", long)]).await;
    let stream = shake_hands(gate.https, &client(TLS13, "h2", None)).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(Duration::from_millis(50)).keep_alive_while_idle(true);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    let driven = tokio::spawn(connection);
    let request = Request::get("https://pki.example/a").body(Full::<Bytes>::default()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    // its body is held and never read, so that the window stays full
    timeout(PATIENCE, driven).await.expect("the server closes the connection").unwrap().ok();
    assert!(answer.into_body().collect().await.is_err(), "the rest of the answer did not come");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_arrives_whole() {
    let long: Bytes = (0..1_000_000_u32).flat_map(u32::to_be_bytes).collect();
    let sent = long.clone();
    let gate =
        Gate::open(&Settings::default(), vec![mount("/a", Answering(move |_, _: &Peer| Response::new(sent.clone())))])
            .await;
    let stream = shake_hands(gate.https, &client(TLS13, "h2", None)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = || Request::get("https://pki.example/a").body(Full::<Bytes>::default()).unwrap();
    let (head, body) = ask_http2(&mut sender, request()).await;
    assert_eq!(head.headers()["content-length"], "4000000");
    assert_eq!(body, long);
    let stream = shake_hands(gate.https, &client(TLS13, "http/1.1", None)).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request()).await.unwrap();
    assert_eq!(answer.headers()["content-length"], "4000000");
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), long);
}

/// A lane of one thread, which is busy until told otherwise, and of one place in front of it; the paths that were handled.
struct Busy {
    figures: PrometheusHandle,
    release: mpsc::Sender<()>,
    handled: Arc<Mutex<Vec<String>>>,
}

impl Busy {
    fn start() -> (Self, Mount) {
        let recorder = PrometheusBuilder::new().build_recorder();
        let figures = recorder.handle();
        let lane = metrics::with_local_recorder(&recorder, || Lane::start("busy", 1, 1)).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let (begun, began) = mpsc::channel();
        let work = move || begun.send(()).is_ok() && held.recv().is_ok();
        tokio::spawn(lane.run(work).unwrap());
        began.recv_timeout(PATIENCE).unwrap();
        let handled = Arc::new(Mutex::new(Vec::new()));
        let paths = Arc::clone(&handled);
        let endpoint = Answering(move |request: Request<Bytes>, _: &Peer| {
            paths.lock().unwrap().push(request.uri().path().to_owned());
            text("done")
        });
        let mount = Mount::new(On::Tls, "/a", Arc::new(endpoint), lane, 1000);
        (Self { figures, release, handled }, mount)
    }

    /// Returns once this many requests wait.
    async fn waiting(&self, requests: u32) {
        let line = format!("{}{{lane=\"busy\"}} {requests}", telemetry::LANE_WAITING);
        let so = async {
            while !self.figures.render().lines().any(|found| found == line) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, so).await.unwrap_or_else(|_| panic!("{requests} should wait: {}", self.figures.render()));
    }

    /// The next client gets the place and its answer, and nothing else was done.
    async fn serves_only(&self, gate: &Gate) {
        self.waiting(0).await;
        let mut next = shake_hands(gate.https, &client(TLS13, "http/1.1", None)).await.unwrap();
        self.release.send(()).unwrap();
        assert!(get(&mut next).await.unwrap().contains("done"));
        assert_eq!(*self.handled.lock().unwrap(), ["/a"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_http2_stream_is_reset_leaves_the_queue() {
    let (busy, mount) = Busy::start();
    let gate = Gate::open(&Settings::default(), vec![mount]).await;
    let stream = shake_hands(gate.https, &client(TLS13, "h2", None)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://pki.example/a/reset").body(Full::<Bytes>::default()).unwrap();
    let asked = tokio::spawn(sender.send_request(request));
    busy.waiting(1).await;
    asked.abort();
    busy.serves_only(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_connection_is_closed_leaves_the_queue() {
    let (busy, mount) = Busy::start();
    let gate = Gate::open(&Settings::default(), vec![mount]).await;
    let mut stream = shake_hands(gate.https, &client(TLS13, "http/1.1", None)).await.unwrap();
    stream.write_all(b"GET /a/closed HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    busy.waiting(1).await;
    drop(stream);
    busy.serves_only(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_certificate_is_served_without_dropping_a_connection() {
    let gate = open().await;
    let connector = client(TLS13, "http/1.1", None);
    let mut before = shake_hands(gate.https, &connector).await.unwrap();
    let renewed = certified("renewed.test");
    gate.tls.replace(Arc::clone(&renewed)).unwrap();
    let mut after = shake_hands(gate.https, &connector).await.unwrap();
    assert_eq!(after.get_ref().1.peer_certificates().unwrap(), renewed.cert.as_slice());
    assert_ne!(before.get_ref().1.peer_certificates().unwrap(), renewed.cert.as_slice());
    assert!(get(&mut before).await.unwrap().starts_with("pki.example"));
    assert!(get(&mut after).await.unwrap().starts_with("pki.example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_finishes_its_handshake_is_cut() {
    let impatient = settings(|settings| settings.limits.handshake_timeout_s = 1);
    let gate = Gate::open(&impatient, vec![mount("/a", show_peer())]).await;
    assert_eq!(rest(&mut connect(gate.https).await).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_on_the_tls_listener_harms_nobody_else() {
    let gate = open().await;
    let mut plain = connect(gate.https).await;
    plain.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("the server closes").ok();
    assert!(!answer.starts_with(b"HTTP"));
    let mut stream = shake_hands(gate.https, &client(TLS13, "http/1.1", None)).await.unwrap();
    assert!(get(&mut stream).await.is_ok());
}

#[test]
fn a_certificate_and_its_key_are_read_from_pem_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let made = rcgen::generate_simple_self_signed(["files.test".to_owned()]).unwrap();
    std::fs::write(path("chain.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let read = tls::read_files(&path("chain.pem"), &path("key.pem")).unwrap();
    assert_eq!(read.cert, [made.cert.der().clone()]);

    let (_, other) = certificate("other.test");
    let other = KeyPair::try_from(other.secret_der()).unwrap().serialize_pem();
    std::fs::write(path("other.pem"), other).unwrap();
    for (chain, key, named) in [
        ("chain.pem", "other.pem", "cannot use the TLS key with its certificate"),
        ("key.pem", "key.pem", "key.pem: there is no certificate in it"),
        ("absent.pem", "key.pem", "absent.pem"),
        ("chain.pem", "chain.pem", "chain.pem"),
    ] {
        let error = tls::read_files(&path(chain), &path(key)).expect_err(key).to_string();
        assert!(error.contains(named), "{error}");
    }
}
