//! OCSP: answers from memory through the daemon's listener beside a bare hyper server that sends the same octets, and freshly
//! signed answers through the engine beside the bare signature.
//!
//! Both servers run in child processes of this program, with the same number of threads, asked by the same client.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_precision_loss, clippy::cast_possible_truncation)] // a benchmark that fails should be loud

mod load;
#[allow(dead_code)] // each benchmark uses a part of it
mod measure;
#[allow(dead_code)] // each benchmark uses a part of it
mod node;
#[allow(dead_code)] // each benchmark uses a part of it
mod process;
mod serve;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ca_backend::{CertId, CertIdHash, OcspQuery, Serial};
use clap::{Parser, ValueEnum};
use der::asn1::{AnyRef, OctetStringRef};
use der::{Decode, Reader, SliceReader};
use tests::pki::ISSUING;
use tests::status::OcspClient;
use tests::wish::Wish;

use load::{Asked, ask};
use measure::{BareKey, Cost, on_threads};
use node::Store;

/// Measures OCSP.
#[derive(Parser)]
struct Arguments {
    /// Connections at once.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Seconds for each turn.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Turns; the servers take them one after the other.
    #[arg(long, default_value_t = 4)]
    turns: u32,
    /// Certificates whose status is asked for afresh.
    #[arg(long, default_value_t = 1_000)]
    certificates: u32,
    /// Runs a server: what the benchmark asks of its own children.
    #[arg(long, hide = true, requires = "directory")]
    serve: Option<Server>,
    /// Where its state or its response lies.
    #[arg(long, hide = true)]
    directory: Option<PathBuf>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Server {
    Gateway,
    Bare,
}

/// The file in which the bare server finds what it sends.
const RESPONSE: &str = "response";

fn main() {
    let arguments = Arguments::parse();
    match (arguments.serve, &arguments.directory) {
        (Some(Server::Gateway), Some(directory)) => serve::gateway(&node::settings(Store::Sled, directory)),
        (Some(Server::Bare), Some(directory)) => serve::bare(&directory.join(RESPONSE)),
        (_, _) => {
            from_memory(&arguments);
            fresh(&arguments);
        }
    }
}

fn from_memory(arguments: &Arguments) {
    let directory = tempfile::tempdir().unwrap();
    let path = {
        let engine = node::open(&node::settings(Store::Sled, directory.path()));
        let issued = Wish::for_host("host.example.org").issue(&engine).unwrap();
        let request = OcspClient::new(&engine, ISSUING, &issued).request(&[issued.serial], "-no_nonce");
        format!("/ocsp/{ISSUING}/{}", BASE64_STANDARD.encode(request).replace('+', "%2B").replace('/', "%2F"))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (gateway, gateway_port) = start(Server::Gateway, directory.path());
    let response = runtime.block_on(load::one(gateway_port, &path));
    std::fs::write(directory.path().join(RESPONSE), &response).unwrap();
    let (bare, bare_port) = start(Server::Bare, directory.path());

    let mut through = [Asked::default(), Asked::default()];
    for _ in 0..arguments.turns {
        for ((server, port), asked) in [(&gateway, gateway_port), (&bare, bare_port)].into_iter().zip(&mut through) {
            let cpu_s = process::cpu_of_s(server.id());
            let time = Duration::from_secs(arguments.seconds);
            let turn = runtime.block_on(ask(port, &path, arguments.connections, time));
            *asked = asked.and(turn, process::cpu_of_s(server.id()) - cpu_s);
        }
    }
    println!("cached GET, {} connections, {} octets with headers", arguments.connections, response.len());
    println!("server   requests/s  server CPU us each");
    let [gateway_asked, bare_asked] = through;
    for (server, asked) in [(Server::Gateway, gateway_asked), (Server::Bare, bare_asked)] {
        println!("{:<7}  {:>10.0}  {:>18.2}", format!("{server:?}").to_lowercase(), asked.per_s(), asked.cpu_us());
    }
    println!(
        "gateway : bare   requests/s {:.3} (wanted 0.8 or more)   by CPU {:.3}\n",
        gateway_asked.per_s() / bare_asked.per_s(),
        bare_asked.cpu_us() / gateway_asked.cpu_us(),
    );
    for mut server in [gateway, bare] {
        server.kill().unwrap();
        server.wait().unwrap();
    }
}

fn start(server: Server, directory: &Path) -> (Child, u16) {
    let name = format!("{server:?}").to_lowercase();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--serve", &name, "--directory"])
        .arg(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().unwrap())
}

fn fresh(arguments: &Arguments) {
    let directory = tempfile::tempdir().unwrap();
    let engine = node::open(&node::settings(Store::Sled, directory.path()));
    let issued: Vec<_> = (0..arguments.certificates)
        .map(|number| Wish::for_host(&format!("host-{number}.example.org")).issue(&engine).unwrap())
        .collect();
    let first = issued.first().unwrap();
    let request = OcspClient::new(&engine, ISSUING, first).request(&[first.serial], "-no_nonce");
    let queries: Vec<_> = issued.iter().map(|issued| query(&request, &first.serial, &issued.serial)).collect();
    let key = BareKey::generate();
    let time = Duration::from_secs(arguments.seconds);
    let zero = Cost { times: 0, cpu: Duration::ZERO, wall: Duration::ZERO };
    let (mut answers, mut bare) = (zero, zero);
    for _ in 0..arguments.turns {
        let next = AtomicU64::new(0);
        bare = bare.and(on_threads(2, time / 2, |_, _| drop(key.sign())));
        answers = answers.and(on_threads(2, time / 2, |_, _| {
            let number = next.fetch_add(1, Ordering::Relaxed) as usize % queries.len();
            drop(engine.ocsp(queries.get(number).unwrap()).unwrap());
        }));
    }
    println!("freshly signed answers, 2 threads, {} certificates", queries.len());
    println!(
        "engine {:.1} CPU us each   bare signature {:.1}   ratio {:.2} (wanted 2.0 or less)",
        answers.cpu_us(),
        bare.cpu_us(),
        answers.cpu_us() / bare.cpu_us()
    );
}

/// The question of a request, about another serial, with a nonce, so that the answer cannot come from memory.
fn query(request: &[u8], from: &Serial, to: &Serial) -> OcspQuery {
    let id = cert_id(request).unwrap();
    let at = id.windows(from.as_bytes().len()).position(|octets| octets == from.as_bytes()).unwrap();
    let der = [id.split_at(at).0, to.as_bytes()].concat();
    let (issuer_name_hash, issuer_key_hash) = hashes(&der).unwrap();
    let id = CertId { hash: CertIdHash::Sha1, issuer_name_hash, issuer_key_hash, serial: to.as_bytes().to_vec(), der };
    OcspQuery {
        certificates: vec![id],
        nonce: Some(vec![0x04, 0x10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
        signer: None,
        requestor: None,
    }
}

/// The CertID in a request for one certificate: OCSPRequest, TBSRequest, requestList, Request, reqCert.
fn cert_id(request: &[u8]) -> der::Result<Vec<u8>> {
    let mut content = request;
    for _ in 0..4 {
        content = AnyRef::from_der(content)?.value();
    }
    Ok(content.to_vec())
}

fn hashes(cert_id: &[u8]) -> der::Result<(Vec<u8>, Vec<u8>)> {
    let mut reader = SliceReader::new(AnyRef::from_der(cert_id)?.value())?;
    reader.tlv_bytes()?;
    let name = <&OctetStringRef>::decode(&mut reader)?;
    let key = <&OctetStringRef>::decode(&mut reader)?;
    Ok((name.as_bytes().to_vec(), key.as_bytes().to_vec()))
}
