//! What a key store can do, found out by doing it with keys made for that and destroyed again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPublicEncryptingKey, Pkcs1PublicEncryptingKey,
    PublicEncryptingKey,
};
use serde::{Deserialize, Serialize};

use super::{DecryptionScheme, KeyLabel, KeyPurpose, KeyRef, KeyStore, Sessions};
use crate::algorithm::{KeyAlgorithm, verify_signature};
use crate::clock::{Stopwatch, SystemRng, random};
use crate::error::KeyFault;

/// One thing that authorities or services need, and whether the key store does it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ability {
    /// What: `open 4 sessions`, `make and sign ec-p256`, `decrypt rsa-2048 oaep-sha256`.
    pub what: String,
    /// Why not; `None` if it does.
    pub why_not: Option<String>,
}

/// How fast a key store signs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignRate {
    /// With keys of this algorithm.
    pub algorithm: KeyAlgorithm,
    /// Asked by so many at a time; a token answers no more at a time than it has sessions.
    pub at_a_time: usize,
    /// Signatures per second.
    pub per_s: u64,
}

/// The outcome of an examination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyStoreReport {
    /// The key store.
    pub store: String,
    /// What it can do and what not.
    pub abilities: Vec<Ability>,
    /// Its speed, for the algorithms that it has.
    pub rates: Vec<SignRate>,
}

const MEASURED: [KeyAlgorithm; 2] = [KeyAlgorithm::EcP256, KeyAlgorithm::Rsa2048];
const AT_A_TIME: [usize; 4] = [1, 2, 4, 8];
const SECRET: &[u8] = b"0123456789abcdef";
const MESSAGE: &[u8] = b"certgate key test";

/// Does everything once, then measures each rate for `measure`.
pub(crate) fn examine(store: &dyn KeyStore, measure: Duration) -> KeyStoreReport {
    let mut report = KeyStoreReport { store: store.name().to_owned(), abilities: Vec::new(), rates: Vec::new() };
    if let Some(ability) = sessions(store) {
        report.abilities.push(ability);
    }
    for algorithm in KeyAlgorithm::ALL {
        let what = format!("make and sign {algorithm}");
        let purpose = if algorithm.is_rsa() { KeyPurpose::SignAndDecrypt } else { KeyPurpose::Sign };
        let label = KeyLabel(format!("certgate-test-{}", hex::encode(random::<8>(&SystemRng))));
        let key = match store.generate(&label, algorithm, purpose) {
            Ok(key) => key,
            Err(fault) => {
                report.abilities.push(Ability { what, why_not: Some(fault.to_string()) });
                continue;
            }
        };
        let signs = signs(store, &key, algorithm);
        let works = signs.is_ok();
        report.abilities.push(Ability { what, why_not: signs.err() });
        if algorithm.is_rsa() {
            for (scheme, name) in [
                (DecryptionScheme::RsaPkcs1v15, "pkcs1-v1.5"),
                (DecryptionScheme::RsaOaepSha1, "oaep-sha1"),
                (DecryptionScheme::RsaOaepSha256, "oaep-sha256"),
            ] {
                let what = format!("decrypt {algorithm} {name}");
                report.abilities.push(Ability { what, why_not: decrypts(store, &key, scheme).err() });
            }
        }
        if works && MEASURED.contains(&algorithm) {
            for at_a_time in AT_A_TIME {
                let per_s = rate(store, &key, at_a_time, measure);
                report.rates.push(SignRate { algorithm, at_a_time, per_s });
            }
        }
        if let Err(fault) = store.destroy(&key) {
            let what = format!("destroy {algorithm}");
            report.abilities.push(Ability { what, why_not: Some(format!("{fault}; remove {key} by hand")) });
        }
    }
    report
}

fn sessions(store: &dyn KeyStore) -> Option<Ability> {
    // A store that does not answer says so to everything else as well.
    let Sessions { wanted, given } = store.sessions().ok()??;
    let why_not = (given < wanted).then(|| format!("the token gives {given}"));
    Some(Ability { what: format!("open {wanted} sessions"), why_not })
}

fn signs(store: &dyn KeyStore, key: &KeyRef, algorithm: KeyAlgorithm) -> Result<(), String> {
    let signature = store.sign(key, MESSAGE).map_err(|fault| fault.to_string())?;
    let public_key = store.public_key(key).map_err(|fault| fault.to_string())?;
    verify_signature(&public_key, &algorithm.signature_algorithm(), MESSAGE, &signature)
        .map_err(|refusal| refusal.private())
}

fn decrypts(store: &dyn KeyStore, key: &KeyRef, scheme: DecryptionScheme) -> Result<(), String> {
    let public_key = store.public_key(key).map_err(|fault| fault.to_string())?;
    let ciphertext = encrypt(&public_key, scheme, SECRET).ok_or("nothing can be encrypted for the public key")?;
    match store.decrypt(key, scheme, &ciphertext) {
        Ok(opened) if opened.reveal() == SECRET => Ok(()),
        Ok(_) => Err("it decrypts to something else".to_owned()),
        // The ciphertext is right: the token does not know this way of padding, and says so in its own words.
        Err(KeyFault::Undecipherable) => Err("not supported by the token".to_owned()),
        Err(fault) => Err(fault.to_string()),
    }
}

/// Encrypts as a client would.
pub(crate) fn encrypt(public_key: &[u8], scheme: DecryptionScheme, plaintext: &[u8]) -> Option<Vec<u8>> {
    let key = PublicEncryptingKey::from_der(public_key).ok()?;
    let mut room = vec![0; key.key_size_bytes()];
    let oaep = |key: PublicEncryptingKey, algorithm: &'static OaepAlgorithm, room: &mut [u8]| {
        let sealed = OaepPublicEncryptingKey::new(key).ok()?.encrypt(algorithm, plaintext, room, None).ok()?;
        Some(sealed.to_vec())
    };
    match scheme {
        DecryptionScheme::RsaPkcs1v15 => {
            Some(Pkcs1PublicEncryptingKey::new(key).ok()?.encrypt(plaintext, &mut room).ok()?.to_vec())
        }
        DecryptionScheme::RsaOaepSha1 => oaep(key, &OAEP_SHA1_MGF1SHA1, &mut room),
        DecryptionScheme::RsaOaepSha256 => oaep(key, &OAEP_SHA256_MGF1SHA256, &mut room),
    }
}

/// Signatures per second when so many ask at a time.
pub(crate) fn rate(store: &dyn KeyStore, key: &KeyRef, at_a_time: usize, measure: Duration) -> u64 {
    let (made, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let took = Stopwatch::start();
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if store.sign(key, MESSAGE).is_ok() {
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                    if took.elapsed() >= measure {
                        over.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let took_us = took.elapsed().as_micros().max(1);
    u64::try_from(u128::from(made.load(Ordering::Relaxed)) * 1_000_000 / took_us).unwrap_or(u64::MAX)
}
