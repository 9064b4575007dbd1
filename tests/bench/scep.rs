//! PKCSReq at the endpoint, from the body of the request to that of the answer, beside the bare cryptography that it cannot do
//! without, in the same run. With RSA 2048: a decryption of the content key, the signature of the answer, two verifications (of the
//! message and of the CSR) and the encryption of the answer's content key. With P-256, the authority's: a signature and its
//! verification.
//!
//! Only processor time and ratios mean anything on a machine that does other things as well.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_precision_loss, clippy::cast_possible_truncation)] // a benchmark that fails should be loud

#[allow(dead_code)] // each benchmark uses a part of it
mod measure;

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{Pkcs1PrivateDecryptingKey, Pkcs1PublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey};
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use clap::Parser;
use serde_json::{Value, json};

use measure::{BareKey, Cost, on_threads};
use tests::scep_client::{Device, Message, ScepBench, rules};

/// Measures SCEP enrollment.
#[derive(Parser)]
struct Arguments {
    /// Clients at once.
    #[arg(long, value_delimiter = ',', default_value = "1,16,128")]
    clients: Vec<u64>,
    /// Requests for each setting, each of another transaction.
    #[arg(long, default_value_t = 4_000)]
    requests: usize,
    /// Seconds for each setting at most.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

const SUBJECT: &str = "cn=device-1";

fn main() {
    let arguments = Arguments::parse();
    let time = Duration::from_secs(arguments.seconds);
    let bench = ScepBench::start(rules(), Value::Null);
    let challenge = bench.challenge(None, json!({}));
    let authority = bench.registration_authority();
    let device = Device::new(SUBJECT);
    let csr = device.csr(SUBJECT, Some(&challenge), &["device-1.example.org"]);
    let bare = Bare::new(&device);
    println!("clients  PKCSReq/s  CPU us each  ceiling us  ratio");
    for (round, &clients) in arguments.clients.iter().enumerate() {
        let messages: Vec<Vec<u8>> = (0..arguments.requests)
            .map(|number| device.seal(&Message::pkcs_req(&format!("{round}-{number}"), csr.clone()), &authority))
            .collect();
        let before = bare.cost(clients, time / 3);
        let next = AtomicUsize::new(0);
        let succeeded = AtomicUsize::new(0);
        let mut answered = on_threads(clients, time, |_, _| {
            // Those that come after the last message cost next to nothing.
            if let Some(message) = messages.get(next.fetch_add(1, Ordering::Relaxed)) {
                assert_eq!(bench.post(message).status(), 200);
                succeeded.fetch_add(1, Ordering::Relaxed);
            } else {
                std::thread::park_timeout(time);
            }
        });
        answered.times = succeeded.load(Ordering::Relaxed) as u64;
        assert_eq!(device.open(&bench.post(&messages[0]), &authority).word(), "SUCCESS");
        let ceiling = before.and(bare.cost(clients, time / 3));
        println!(
            "{clients:>7}  {:>9.0}  {:>11.1}  {:>10.1}  {:>5.2}",
            answered.per_s(),
            answered.cpu_us(),
            ceiling.cpu_us(),
            answered.cpu_us() / ceiling.cpu_us(),
        );
    }
}

/// The keys for bare cryptography.
struct Bare {
    ec: BareKey,
    rsa: RsaKeyPair,
    decrypting: Pkcs1PrivateDecryptingKey,
    encrypting: Pkcs1PublicEncryptingKey,
    encrypted: Vec<u8>,
    random: SystemRandom,
}

impl Bare {
    fn new(device: &Device) -> Self {
        let encrypting =
            Pkcs1PublicEncryptingKey::new(PublicEncryptingKey::from_der(&device.public_key()).unwrap()).unwrap();
        let mut encrypted = vec![0; 256];
        encrypting.encrypt(&[7; 16], &mut encrypted).unwrap();
        let decrypting = PrivateDecryptingKey::from_pkcs8(device.private_key()).unwrap();
        Self {
            ec: BareKey::generate(),
            rsa: RsaKeyPair::from_pkcs8(device.private_key()).unwrap(),
            decrypting: Pkcs1PrivateDecryptingKey::new(decrypting).unwrap(),
            encrypting,
            encrypted,
            random: SystemRandom::new(),
        }
    }

    fn cost(&self, threads: u64, time: Duration) -> Cost {
        on_threads(threads, time, |_, _| {
            let message = black_box([0x5a; 600]);
            let mut room = [0; 256];
            self.decrypting.decrypt(&self.encrypted, &mut room).unwrap();
            let mut signature = [0; 256];
            self.rsa.sign(&RSA_PKCS1_SHA256, &self.random, &message, &mut signature).unwrap();
            let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.rsa.public_key());
            key.verify(&message, &signature).unwrap();
            key.verify(&message, &signature).unwrap();
            self.encrypting.encrypt(&[7; 16], &mut room).unwrap();
            let signature = self.ec.sign();
            self.ec.verify(&signature);
        })
    }
}
