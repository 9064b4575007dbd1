//! The daemon as a process of its own that clients reach over HTTPS, with a web server on loopback that it fetches http-01 from.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use config::Settings;
use gateway::{RunOptions, run};
use hickory_resolver::proto::rr::RecordType;
use http::{HeaderName, HeaderValue, Request, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tests::daemon::free_port;
use tests::hosts::{TestHost, found};
use tests::names::{Answer, NameServer, address};

use crate::node::{self, Store};
use crate::process::cpu_of_s;

/// The settings of the daemon in a directory, as its process and the benchmark see them.
fn settings(store: Store, directory: &Path, port: u16, resolver: std::net::SocketAddr) -> Settings {
    let mut settings = node::settings(store, directory);
    settings.https.listen = ([127, 0, 0, 1], port).into();
    settings.https.base_url = format!("https://localhost:{port}");
    settings.http.listen = ([127, 0, 0, 1], 0).into();
    settings.validation.resolvers = vec![resolver];
    settings
}

/// Runs the daemon; prints a line when it is ready.
pub(crate) fn serve(store: Store, directory: &Path, port: u16, resolver: std::net::SocketAddr) {
    let settings = settings(store, directory, port, resolver);
    run(&settings, RunOptions { starter: true }, |_| println!("ready")).unwrap();
}

/// What the web server has at each path, and whether it was fetched.
type Files = Arc<Mutex<HashMap<String, (String, bool)>>>;

/// A running daemon, and the host whose control is shown to it.
pub(crate) struct Daemon {
    child: Child,
    port: u16,
    tls: Arc<ClientConfig>,
    files: Files,
    _names: NameServer,
}

impl Daemon {
    /// Starts one; `prepare` makes its endpoint, which fetches http-01 from the port that it is given.
    pub(crate) fn start(store: Store, directory: &Path, prepare: impl FnOnce(&ca_backend::Engine, u16)) -> Self {
        let names = NameServer::start(|_, kind, _| {
            let addresses = (kind == RecordType::A).then(|| address("127.0.0.1"));
            Answer::Records(addresses.into_iter().collect())
        });
        let files = Files::default();
        let served = Arc::clone(&files);
        let host = TestHost::web(move |head| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            served.lock().unwrap().get_mut(path).map_or_else(String::new, |(body, fetched)| {
                *fetched = true;
                found(body)
            })
        });
        let port = free_port();
        prepare(&node::open(&settings(store, directory, port, names.address)), host.port);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--serve", &port.to_string(), "--resolver", &names.address.to_string()])
            .args(["--store", &format!("{store:?}").to_lowercase(), "--directory"])
            .arg(directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(directory.join("root.pem")).unwrap()).unwrap();
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { child, port, tls: Arc::new(tls), files, _names: names }
    }

    /// Where the endpoint is.
    pub(crate) fn base(&self) -> String {
        format!("https://localhost:{}/acme/bench", self.port)
    }

    /// Puts the answer of a challenge where it is looked for.
    pub(crate) fn put(&self, token: &str, key_authorization: String) {
        self.files.lock().unwrap().insert(path_of(token), (key_authorization, false));
    }

    /// Whether the answer of a challenge was fetched. It stays: a daemon that could not record what it found fetches it again.
    pub(crate) fn was_fetched(&self, token: &str) -> bool {
        self.files.lock().unwrap().get(&path_of(token)).is_some_and(|(_, fetched)| *fetched)
    }

    /// Processor time of its process, seconds.
    pub(crate) fn cpu_s(&self) -> f64 {
        cpu_of_s(self.child.id())
    }

    pub(crate) fn connect(&self) -> Connection {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(Arc::clone(&self.tls), name).unwrap();
        Connection(BufReader::new(StreamOwned::new(session, stream)))
    }
}

fn path_of(token: &str) -> String {
    format!("/.well-known/acme-challenge/{token}")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A connection that a client keeps.
pub(crate) struct Connection(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Connection {
    pub(crate) fn send(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: localhost\r\n", request.method(), request.uri().path());
        for (name, value) in request.headers() {
            head.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", request.body().len()));
        let octets = [head.as_bytes(), request.body()].concat();
        self.0.get_mut().write_all(&octets).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let status: u16 = line.split(' ').nth(1).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        let mut response = Response::builder().status(status);
        let mut length = 0;
        loop {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().unwrap();
            }
            let name = HeaderName::try_from(name).unwrap();
            response.headers_mut().unwrap().append(name, HeaderValue::from_str(value).unwrap());
        }
        if request.method() == http::Method::HEAD {
            length = 0;
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        response.body(Bytes::from(body)).unwrap()
    }
}
