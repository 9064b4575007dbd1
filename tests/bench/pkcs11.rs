//! Signatures with a key in a SoftHSM token through the engine's key store, beside what the token does by itself with the same number
//! of sessions, and beside what is left of that when the same threads verify each signature once. The engine verifies them too, as it
//! does before one leaves; with a token that computes on this machine's own processors, that takes from what the token has. So there
//! are rows of a token as well that is as far away as one in a network, and leaves the processors to the engine.
//!
//! All are measured in short turns one after the other, since the machine may do other things as well; medians count. The processor
//! time of a signature, and of the token's with its verification, says the same on a machine that is busy with other things.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_precision_loss, clippy::cast_possible_truncation)] // a benchmark that fails should be loud

#[allow(dead_code)] // each benchmark uses a part of it
mod measure;

use std::sync::Mutex;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use ca_backend::testing::TokenSigner;
use ca_backend::{KeyAlgorithm, TokenSettings};
use clap::Parser;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use der::Decode;
use spki::SubjectPublicKeyInfoOwned;
use tests::token::SoftToken;

use measure::{Cost, on_threads};

/// Measures signatures in a token.
#[derive(Parser)]
struct Arguments {
    /// Sessions at once.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    sessions: Vec<usize>,
    /// Milliseconds for each turn.
    #[arg(long, default_value_t = 300)]
    turn_ms: u64,
    /// Turns of each kind.
    #[arg(long, default_value_t = 9)]
    turns: usize,
    /// Milliseconds that a signature of the far token takes longer.
    #[arg(long, default_value_t = 2)]
    far_ms: u32,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The octets of a usual TBSCertificate.
const MESSAGE: [u8; 600] = [0x5a; 600];

fn main() {
    let arguments = Arguments::parse();
    println!(
        "algorithm  token  sessions  token signs/s  token and verification  engine signs/s  of token  of token and verification  \
         processor us  with the engine"
    );
    let near = || SoftToken::softhsm("bench");
    let far = || SoftToken::softhsm_far_away("bench", arguments.far_ms);
    for algorithm in [KeyAlgorithm::EcP256, KeyAlgorithm::Rsa2048] {
        for &sessions in &arguments.sessions {
            compare(&arguments, algorithm, sessions, "near", &near());
        }
        for &sessions in &arguments.sessions {
            compare(&arguments, algorithm, sessions, "far", &far());
        }
    }
}

fn compare(arguments: &Arguments, algorithm: KeyAlgorithm, sessions: usize, place: &str, token: &SoftToken) {
    let turn = Duration::from_millis(arguments.turn_ms);
    let settings = TokenSettings { sessions, ..token.settings() };
    let signer = TokenSigner::generate(settings, "bench", algorithm).unwrap();
    let bare = Bare::open(token, sessions, algorithm, signer.public_key());
    let mut costs: [Vec<Cost>; 3] = Default::default();
    for _ in 0..arguments.turns {
        costs[0].push(bare.cost(turn, false));
        costs[1].push(bare.cost(turn, true));
        // As many again wait, so that no session does.
        costs[2].push(on_threads(2 * sessions as u64, turn, |_, _| drop(signer.sign(&MESSAGE).unwrap())));
    }
    let [of_token, of_both, of_engine] = costs.each_ref().map(|costs| median(costs.iter().map(Cost::per_s).collect()));
    let [_, both_us, engine_us] = costs.map(|costs| median(costs.iter().map(Cost::cpu_us).collect()));
    println!(
        "{:<9}  {place:<5}  {sessions:>8}  {of_token:>13.0}  {of_both:>22.0}  {of_engine:>14.0}  {:>8.2}  {:>25.2}  \
         {both_us:>12.0}  {engine_us:>15.0}",
        algorithm.to_string(),
        of_engine / of_token,
        of_engine / of_both
    );
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// The token without the engine.
struct Bare {
    sessions: Vec<Mutex<(Session, ObjectHandle)>>,
    algorithm: KeyAlgorithm,
    /// As aws-lc takes it: a point, or an RSAPublicKey.
    public_key: Vec<u8>,
}

impl Bare {
    /// The engine has logged in already, which counts for the whole process.
    fn open(token: &SoftToken, sessions: usize, algorithm: KeyAlgorithm, public_key: &[u8]) -> Self {
        let module = Pkcs11::new(token.module()).unwrap();
        let _the_engine_did = module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
        let slot = module.get_slots_with_initialized_token().unwrap()[0];
        let open = || {
            let session = module.open_ro_session(slot).unwrap();
            let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(b"bench".to_vec())];
            let key = session.find_objects(&wanted).unwrap()[0];
            Mutex::new((session, key))
        };
        let public_key = SubjectPublicKeyInfoOwned::from_der(public_key).unwrap().subject_public_key;
        let sessions = (0..sessions).map(|_| open()).collect();
        Self { sessions, algorithm, public_key: public_key.raw_bytes().to_vec() }
    }

    fn cost(&self, time: Duration, verify: bool) -> Cost {
        on_threads(self.sessions.len() as u64, time, |thread, _| {
            let own = self.sessions[thread as usize].lock().unwrap();
            let (session, key) = &*own;
            let (signature, verification): (_, &dyn VerificationAlgorithm) = if self.algorithm == KeyAlgorithm::EcP256 {
                let signature = session.sign(&Mechanism::Ecdsa, *key, digest(&SHA256, &MESSAGE).as_ref());
                (signature.unwrap(), &ECDSA_P256_SHA256_FIXED)
            } else {
                (session.sign(&Mechanism::Sha256RsaPkcs, *key, &MESSAGE).unwrap(), &RSA_PKCS1_2048_8192_SHA256)
            };
            if verify {
                UnparsedPublicKey::new(verification, &self.public_key).verify(&MESSAGE, &signature).unwrap();
            }
        })
    }
}
