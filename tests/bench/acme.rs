//! Complete ACME orders (eight requests, P-256 all through) at the endpoint's boundary, beside the bare cryptography that they cannot
//! do without: the verification of seven signed requests, of the CSR and of our own signature, and that signature.
//!
//! The clients run in the same process; what their threads use outside of the endpoint is taken off. HTTP and TLS are not in it, and
//! http-01 is answered where the validation would be asked.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_precision_loss)] // a benchmark that fails should be loud

#[allow(dead_code)] // each benchmark uses a part of it
mod measure;
#[allow(dead_code)] // each benchmark uses a part of it
mod node;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acme::{Acme, Validation};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use bytes::Bytes;
use clap::Parser;
use endpoint::{Endpoint as _, Peer};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tests::acme_client::{SubjectKeyPair, b64, csr, dns, put_endpoint, right_answer};

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

impl Server {
    fn start(engine: ca_backend::Engine) -> Self {
        let profile = "privatessl-tls-server";
        let limits = ["accounts_per_address_per_h", "orders_per_account_per_h", "orders_per_name_per_day"];
        let mut options =
            json!({ "limits": limits.map(|name| (name, 0)).into_iter().collect::<std::collections::BTreeMap<_, _>>() });
        options["limits"]["duplicates_per_week"] = json!(0);
        put_endpoint(
            &engine,
            &json!({
                "name": "bench", "protocol": "acme", "authority": tests::pki::ISSUING, "profiles": [profile],
                "rules": [{ "name": "all", "requesters": [{ "evidence": "challenges" }], "profiles": [profile],
                            "allow": { "dns": [".bench.example"] } }],
                "options": options,
            }),
        );
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

struct Client<'a> {
    server: &'a Server,
    key: EcdsaKeyPair,
    kid: String,
    nonce: String,
    certificate_key: SubjectKeyPair,
}

impl<'a> Client<'a> {
    fn new(server: &'a Server) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let certificate_key = SubjectKeyPair::generate();
        let mut client = Self { server, key, kid: String::new(), nonce: String::new(), certificate_key };
        client.fresh_nonce();
        let made = client.post(&format!("{BASE}/new-account"), "{}");
        client.kid = made.headers()["location"].to_str().unwrap().to_owned();
        client
    }

    fn fresh_nonce(&mut self) {
        let request = http::Request::head(format!("{BASE}/new-nonce")).body(Bytes::new()).unwrap();
        self.nonce = self.server.send(request).headers()["replay-nonce"].to_str().unwrap().to_owned();
    }

    fn post(&mut self, url: &str, payload: &str) -> http::Response<Bytes> {
        let mut protected = json!({ "alg": "ES256", "nonce": self.nonce, "url": url });
        if self.kid.is_empty() {
            let point = self.key.public_key().as_ref();
            protected["jwk"] = json!({ "kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..]) });
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
        let made = self.post(&format!("{BASE}/new-order"), &wish);
        let url = made.headers()["location"].to_str().unwrap().to_owned();
        let authorization = document(&made)["authorizations"][0].as_str().unwrap().to_owned();
        let shown = document(&self.post(&authorization, ""));
        let challenge = shown["challenges"].as_array().unwrap().iter().find(|each| each["type"] == "http-01").unwrap();
        self.post(challenge["url"].as_str().unwrap(), "{}");
        self.server.validate(challenge["token"].as_str().unwrap());
        assert_eq!(document(&self.post(&authorization, ""))["status"], "valid");
        let request = csr(&self.certificate_key, "", &dns(&[name]));
        let payload = json!({ "csr": b64(&request) }).to_string();
        assert_eq!(document(&self.post(&format!("{url}/finalize"), &payload))["status"], "valid");
        let order = document(&self.post(&url, ""));
        self.post(order["certificate"].as_str().unwrap(), "");
    }
}

fn document(reply: &http::Response<Bytes>) -> Value {
    serde_json::from_slice(reply.body()).unwrap()
}

fn main() {
    let arguments = Arguments::parse();
    let time = Duration::from_secs(arguments.seconds);
    println!("store  accounts  orders/s  server CPU us each  cryptography us  ratio (wanted 4.00 or less)");
    for accounts in &arguments.accounts {
        let directory = match &arguments.directory {
            Some(directory) => tempfile::tempdir_in(directory).unwrap(),
            None => tempfile::tempdir().unwrap(),
        };
        let engine = node::open(&node::settings(arguments.store, directory.path()));
        let server = Server::start(engine);
        let clients: Vec<_> = (0..*accounts).map(|_| Mutex::new(Client::new(&server))).collect();
        let outside_ns = AtomicU64::new(0);
        server.within_ns.store(0, Ordering::Relaxed);
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

        let key = BareKey::generate();
        let signature = key.sign();
        let threads = (*accounts).min(2);
        let sign_us = on_threads(threads, time / 5, |_, _| drop(key.sign())).cpu_us();
        let verify_us = on_threads(threads, time / 5, |_, _| key.verify(&signature)).cpu_us();
        let bare_us = sign_us + VERIFICATIONS * verify_us;
        println!(
            "{:<5}  {accounts:>8}  {:>8.0}  {each_us:>18.0}  {bare_us:>15.0}  {:>5.2}",
            format!("{:?}", arguments.store).to_lowercase(),
            orders.per_s(),
            each_us / bare_us,
        );
    }
}
