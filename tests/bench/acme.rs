//! Complete ACME orders (eight requests, P-256 all through), beside the bare cryptography that they cannot do without: the
//! verification of seven signed requests, of the CSR and of our own signature, and that signature.
//!
//! First at the endpoint's boundary: the clients run in the same process, what their threads use outside of the endpoint is taken
//! off, HTTP and TLS are not in it, and http-01 is answered where the validation would be asked. Then with the daemon as a process
//! of its own: TLS, HTTP, names looked up and http-01 fetched. A client asks again until its authorization is valid, once the answer
//! of its challenge was fetched, so requests may be more than eight.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::cast_precision_loss)] // a benchmark that fails should be loud

mod acme_daemon;
#[allow(dead_code)] // each benchmark uses a part of it
mod measure;
#[allow(dead_code)] // each benchmark uses a part of it
mod node;
#[allow(dead_code)] // each benchmark uses a part of it
mod process;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use acme::{Acme, Validation};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use bytes::Bytes;
use clap::Parser;
use endpoint::{Endpoint as _, Peer};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tests::acme_client::{SubjectKeyPair, b64, csr, dns, put_endpoint, right_answer, sha256};

use acme_daemon::{Connection, Daemon};
use measure::{BareKey, cpu, on_threads};
use node::Store;

/// Measures complete ACME orders.
#[derive(Parser)]
struct Arguments {
    /// The storage engine.
    #[arg(long, value_enum, default_value = "sled")]
    store: Store,
    /// Accounts at once.
    #[arg(long, value_delimiter = ',', default_value = "1,16,128")]
    accounts: Vec<u64>,
    /// Seconds for each setting.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Where the stores are made; they are removed afterwards.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Runs the daemon at this port: what the benchmark asks of its own child.
    #[arg(long, hide = true, requires = "directory", requires = "resolver")]
    serve: Option<u16>,
    /// The DNS server that the daemon asks.
    #[arg(long, hide = true)]
    resolver: Option<SocketAddr>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What an order costs in verifications: seven signed requests, the CSR, our own signature.
const VERIFICATIONS: f64 = 9.0;

const BASE: &str = "https://ca.example/acme/bench";

struct Server {
    acme: Acme,
    started: Arc<Mutex<Vec<Validation>>>,
    /// Processor time that client threads used within the endpoint, in nanoseconds.
    within_ns: AtomicU64,
}

/// Makes the endpoint, without limits; `options` come on top.
fn prepare(engine: &ca_backend::Engine, mut options: Value) {
    let profile = "privatessl-tls-server";
    options["limits"] = json!({
        "accounts_per_address_per_h": 0, "orders_per_account_per_h": 0, "orders_per_name_per_day": 0, "duplicates_per_week": 0,
    });
    put_endpoint(
        engine,
        &json!({
            "name": "bench", "protocol": "acme", "authority": tests::pki::ISSUING, "profiles": [profile],
            "rules": [{ "name": "all", "requesters": [{ "evidence": "challenges" }], "profiles": [profile],
                        "allow": { "dns": [".bench.example"] } }],
            "options": options,
        }),
    );
}

impl Server {
    fn start(engine: ca_backend::Engine) -> Self {
        prepare(&engine, json!({}));
        let started: Arc<Mutex<Vec<Validation>>> = Arc::default();
        let queue = started.clone();
        let start = Arc::new(move |validation| queue.lock().unwrap().push(validation));
        let acme = Acme::mount(engine, "bench".parse().unwrap(), BASE, start).unwrap();
        Self { acme, started, within_ns: AtomicU64::new(0) }
    }

    /// Work of the server on a client's thread.
    fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let begin = thread_cpu();
        let done = work();
        let used = thread_cpu().saturating_sub(begin).as_nanos();
        self.within_ns.fetch_add(u64::try_from(used).unwrap(), Ordering::Relaxed);
        done
    }

    fn send(&self, request: http::Request<Bytes>) -> http::Response<Bytes> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let peer = Peer { address, tls: None, request_id: "bench".to_owned() };
        self.within(|| self.acme.handle(request, &peer))
    }

    fn validate(&self, token: &str) {
        let validation = {
            let mut started = self.started.lock().unwrap();
            let mine = started.iter().position(|started| started.key_authorization().starts_with(token)).unwrap();
            started.swap_remove(mine)
        };
        let found = right_answer(&validation);
        self.within(|| self.acme.judge(&validation, &found, &[])).unwrap();
    }
}

fn thread_cpu() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap(), used.tv_nsec.try_into().unwrap())
}

/// How a client reaches the endpoint.
trait Reach {
    /// Where the endpoint is.
    fn base(&self) -> String;
    fn send(&mut self, request: http::Request<Bytes>) -> http::Response<Bytes>;
    /// Puts the answer of a challenge in its place.
    fn put(&mut self, token: &str, key_authorization: String);
    /// The client has said that the answer is there.
    fn validate(&mut self, token: &str);
}

impl Reach for &Server {
    fn base(&self) -> String {
        BASE.to_owned()
    }

    fn send(&mut self, request: http::Request<Bytes>) -> http::Response<Bytes> {
        Server::send(self, request)
    }

    fn put(&mut self, _: &str, _: String) {}

    fn validate(&mut self, token: &str) {
        Server::validate(self, token);
    }
}

/// A connection to the daemon.
struct Remote<'a> {
    daemon: &'a Daemon,
    connection: Connection,
    requests: &'a AtomicU64,
}

impl Reach for Remote<'_> {
    fn base(&self) -> String {
        self.daemon.base()
    }

    fn send(&mut self, request: http::Request<Bytes>) -> http::Response<Bytes> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.connection.send(&request)
    }

    fn put(&mut self, token: &str, key_authorization: String) {
        self.daemon.put(token, key_authorization);
    }

    /// Looking on does not cost the daemon anything, asking it would.
    fn validate(&mut self, token: &str) {
        while !self.daemon.was_fetched(token) {
            thread::park_timeout(POLL);
        }
    }
}

struct Client<R> {
    server: R,
    key: EcdsaKeyPair,
    kid: String,
    nonce: String,
    certificate_key: SubjectKeyPair,
}

/// How long a client waits before it looks at its authorization again.
const POLL: Duration = Duration::from_millis(10);

impl<R: Reach> Client<R> {
    fn new(server: R) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let certificate_key = SubjectKeyPair::generate();
        let mut client = Self { server, key, kid: String::new(), nonce: String::new(), certificate_key };
        client.fresh_nonce();
        let made = client.post(&format!("{}/new-account", client.server.base()), "{}");
        client.kid = made.headers()["location"].to_str().unwrap().to_owned();
        client
    }

    fn fresh_nonce(&mut self) {
        let request = http::Request::head(format!("{}/new-nonce", self.server.base())).body(Bytes::new()).unwrap();
        self.nonce = self.server.send(request).headers()["replay-nonce"].to_str().unwrap().to_owned();
    }

    fn jwk(&self) -> [String; 2] {
        let point = self.key.public_key().as_ref();
        [b64(&point[1..33]), b64(&point[33..])]
    }

    fn key_authorization(&self, token: &str) -> String {
        let [x, y] = self.jwk();
        format!("{token}.{}", b64(&sha256(format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#).as_bytes())))
    }

    fn post(&mut self, url: &str, payload: &str) -> http::Response<Bytes> {
        let mut protected = json!({ "alg": "ES256", "nonce": self.nonce, "url": url });
        if self.kid.is_empty() {
            let [x, y] = self.jwk();
            protected["jwk"] = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
        } else {
            protected["kid"] = self.kid.as_str().into();
        }
        let (protected, payload) = (b64(protected.to_string().as_bytes()), b64(payload.as_bytes()));
        let signature = self.key.sign(&SystemRandom::new(), format!("{protected}.{payload}").as_bytes()).unwrap();
        let body = json!({ "protected": protected, "payload": payload, "signature": b64(signature.as_ref()) });
        let request = http::Request::post(url).header("content-type", "application/jose+json");
        let reply = self.server.send(request.body(Bytes::from(body.to_string())).unwrap());
        assert!(reply.status().is_success(), "{}", String::from_utf8_lossy(reply.body()));
        self.nonce = reply.headers()["replay-nonce"].to_str().unwrap().to_owned();
        reply
    }

    /// One order from its beginning to the download: eight requests.
    fn order(&mut self, name: &str) {
        self.fresh_nonce();
        let wish = json!({ "identifiers": [{ "type": "dns", "value": name }] }).to_string();
        let made = self.post(&format!("{}/new-order", self.server.base()), &wish);
        let url = made.headers()["location"].to_str().unwrap().to_owned();
        let authorization = document(&made)["authorizations"][0].as_str().unwrap().to_owned();
        let shown = document(&self.post(&authorization, ""));
        let challenge = shown["challenges"].as_array().unwrap().iter().find(|each| each["type"] == "http-01").unwrap();
        let token = challenge["token"].as_str().unwrap();
        self.server.put(token, self.key_authorization(token));
        self.post(challenge["url"].as_str().unwrap(), "{}");
        self.server.validate(token);
        loop {
            let authorization = document(&self.post(&authorization, ""));
            match authorization["status"].as_str() {
                Some("valid") => break,
                Some("pending") => thread::park_timeout(POLL),
                _ => panic!("{authorization}"),
            }
        }
        let request = csr(&self.certificate_key, "", &dns(&[name]));
        let payload = json!({ "csr": b64(&request) }).to_string();
        assert_eq!(document(&self.post(&format!("{url}/finalize"), &payload))["status"], "valid");
        let order = document(&self.post(&url, ""));
        self.post(order["certificate"].as_str().unwrap(), "");
    }
}

/// What the cryptography of an order costs by itself, in microseconds of processor time.
fn bare_us(threads: u64, time: Duration) -> f64 {
    let key = BareKey::generate();
    let signature = key.sign();
    let sign_us = on_threads(threads, time, |_, _| drop(key.sign())).cpu_us();
    let verify_us = on_threads(threads, time, |_, _| key.verify(&signature)).cpu_us();
    sign_us + VERIFICATIONS * verify_us
}

fn document(reply: &http::Response<Bytes>) -> Value {
    serde_json::from_slice(reply.body()).unwrap()
}

fn main() {
    let arguments = Arguments::parse();
    if let (Some(port), Some(directory), Some(resolver)) = (arguments.serve, &arguments.directory, arguments.resolver) {
        acme_daemon::serve(arguments.store, directory, port, resolver);
        return;
    }
    at_the_boundary(&arguments);
    through_the_daemon(&arguments);
}

impl Arguments {
    fn place(&self) -> tempfile::TempDir {
        match &self.directory {
            Some(directory) => tempfile::tempdir_in(directory).unwrap(),
            None => tempfile::tempdir().unwrap(),
        }
    }
}

fn at_the_boundary(arguments: &Arguments) {
    let time = Duration::from_secs(arguments.seconds);
    println!("at the endpoint's boundary");
    println!("store  accounts  orders/s  server CPU us each  cryptography us  ratio (wanted 4.00 or less)");
    for accounts in &arguments.accounts {
        let directory = arguments.place();
        let server = Server::start(node::open(&node::settings(arguments.store, directory.path())));
        let clients: Vec<_> = (0..*accounts).map(|_| Client::new(&server)).collect();
        server.within_ns.store(0, Ordering::Relaxed);
        let outside_ns = AtomicU64::new(0);
        let clients: Vec<_> = clients.into_iter().map(Mutex::new).collect();
        let begin = cpu();
        let orders = on_threads(*accounts, time, |thread, number| {
            let used = thread_cpu();
            let mut client = clients[usize::try_from(thread).unwrap()].lock().unwrap();
            client.order(&format!("host-{thread}-{number}.bench.example"));
            let used = thread_cpu().saturating_sub(used).as_nanos();
            outside_ns.fetch_add(u64::try_from(used).unwrap(), Ordering::Relaxed);
        });
        // What client threads used in all, less what they used within the endpoint, is the clients' own.
        let clients_ns = outside_ns.load(Ordering::Relaxed).saturating_sub(server.within_ns.load(Ordering::Relaxed));
        let server_cpu = cpu().saturating_sub(begin).saturating_sub(Duration::from_nanos(clients_ns));
        let each_us = server_cpu.as_secs_f64() * 1e6 / orders.times as f64;
        let bare_us = bare_us((*accounts).min(2), time / 5);
        println!(
            "{:<5}  {accounts:>8}  {:>8.0}  {each_us:>18.0}  {bare_us:>15.0}  {:>5.2}",
            format!("{:?}", arguments.store).to_lowercase(),
            orders.per_s(),
            each_us / bare_us,
        );
    }
}

fn through_the_daemon(arguments: &Arguments) {
    let time = Duration::from_secs(arguments.seconds);
    println!("\nthrough the daemon, over HTTPS, http-01 fetched");
    println!("store  accounts  orders/s  server CPU us each  cryptography us  ratio  requests each");
    for accounts in &arguments.accounts {
        let directory = arguments.place();
        let daemon = Daemon::start(arguments.store, directory.path(), |engine, http01_port| {
            prepare(engine, json!({ "http01_port": http01_port, "reachable_networks": ["127.0.0.0/8"] }));
        });
        let requests = AtomicU64::new(0);
        let reach = || Remote { daemon: &daemon, connection: daemon.connect(), requests: &requests };
        let clients: Vec<_> = (0..*accounts).map(|_| Mutex::new(Client::new(reach()))).collect();
        requests.store(0, Ordering::Relaxed);
        let begin_s = daemon.cpu_s();
        let orders = on_threads(*accounts, time, |thread, number| {
            let mut client = clients[usize::try_from(thread).unwrap()].lock().unwrap();
            client.order(&format!("host-{thread}-{number}.bench.example"));
        });
        let each_us = (daemon.cpu_s() - begin_s) * 1e6 / orders.times as f64;
        let bare_us = bare_us((*accounts).min(2), time / 5);
        println!(
            "{:<5}  {accounts:>8}  {:>8.0}  {each_us:>18.0}  {bare_us:>15.0}  {:>5.2}  {:>13.1}",
            format!("{:?}", arguments.store).to_lowercase(),
            orders.per_s(),
            each_us / bare_us,
            requests.load(Ordering::Relaxed) as f64 / orders.times as f64,
        );
    }
}
