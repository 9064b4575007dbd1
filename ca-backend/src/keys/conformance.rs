//! What every key store must do. Each claim takes a store of its own choice of algorithms, and panics where it does not hold.
#![allow(clippy::unwrap_used, clippy::panic)] // a failing test should be loud

use super::examination::encrypt;
use super::{DecryptionScheme, KeyHealth, KeyLabel, KeyPurpose, KeyRef, KeyStore};
use crate::algorithm::{KeyAlgorithm, verify_signature};
use crate::error::KeyFault;

const SECRET: &[u8] = b"0123456789abcdef";

/// A key store and what it can do of all that one could.
pub(crate) struct Subject<'a> {
    /// The store, empty.
    pub(crate) store: &'a dyn KeyStore,
    /// The algorithms of its keys.
    pub(crate) algorithms: &'a [KeyAlgorithm],
    /// How its RSA keys decrypt.
    pub(crate) decryption: &'a [DecryptionScheme],
}

/// Every claim, one after the other.
pub(crate) fn check(subject: &Subject<'_>) {
    keys_of_every_algorithm_sign_what_their_public_key_verifies(subject);
    a_label_is_given_once(subject);
    an_unknown_key_is_not_found(subject);
    a_destroyed_key_is_gone_and_the_others_stay(subject);
    what_was_encrypted_for_a_key_is_opened(subject);
    what_was_not_encrypted_for_a_key_is_undecipherable(subject);
    only_rsa_keys_decrypt(subject);
    many_threads_sign_at_once(subject);
    assert_eq!(subject.store.health(), KeyHealth::Usable);
}

fn make(subject: &Subject<'_>, label: &str, algorithm: KeyAlgorithm, purpose: KeyPurpose) -> KeyRef {
    subject.store.generate(&KeyLabel(label.to_owned()), algorithm, purpose).unwrap()
}

fn signs(store: &dyn KeyStore, key: &KeyRef, algorithm: KeyAlgorithm, message: &[u8]) {
    let signature = store.sign(key, message).unwrap();
    verify_signature(&store.public_key(key).unwrap(), &algorithm.signature_algorithm(), message, &signature)
        .unwrap_or_else(|refusal| panic!("{algorithm}: {}", refusal.private()));
}

fn keys_of_every_algorithm_sign_what_their_public_key_verifies(subject: &Subject<'_>) {
    for &algorithm in subject.algorithms {
        let key = make(subject, &format!("signs-{algorithm}"), algorithm, KeyPurpose::Sign);
        assert_eq!(key.scheme(), subject.store.scheme());
        assert_eq!(KeyAlgorithm::of_public_key(&subject.store.public_key(&key).unwrap()).unwrap(), algorithm);
        for message in [b"".as_slice(), b"message", &[0xa5; 100_000]] {
            signs(subject.store, &key, algorithm, message);
        }
    }
}

fn a_label_is_given_once(subject: &Subject<'_>) {
    let key = make(subject, "once", KeyAlgorithm::EcP256, KeyPurpose::Sign);
    let public_key = subject.store.public_key(&key).unwrap();
    let again = subject.store.generate(&KeyLabel("once".to_owned()), KeyAlgorithm::EcP256, KeyPurpose::Sign);
    assert!(matches!(again, Err(KeyFault::Unsupported(_))), "{again:?}");
    assert_eq!(subject.store.public_key(&key).unwrap(), public_key);
}

fn an_unknown_key_is_not_found(subject: &Subject<'_>) {
    let key = make(subject, "forgotten", KeyAlgorithm::EcP256, KeyPurpose::Sign);
    subject.store.destroy(&key).unwrap();
    assert!(matches!(subject.store.public_key(&key), Err(KeyFault::NotFound(_))));
    assert!(matches!(subject.store.sign(&key, b"message"), Err(KeyFault::NotFound(_))));
    let opened = subject.store.decrypt(&key, DecryptionScheme::RsaPkcs1v15, &[1; 256]);
    assert!(matches!(opened, Err(KeyFault::NotFound(_))));
    assert!(matches!(subject.store.destroy(&key), Err(KeyFault::NotFound(_))));
}

fn a_destroyed_key_is_gone_and_the_others_stay(subject: &Subject<'_>) {
    let [stays, goes] = ["stays", "goes"].map(|label| make(subject, label, KeyAlgorithm::EcP256, KeyPurpose::Sign));
    signs(subject.store, &goes, KeyAlgorithm::EcP256, b"message");
    subject.store.destroy(&goes).unwrap();
    assert!(matches!(subject.store.sign(&goes, b"message"), Err(KeyFault::NotFound(_))));
    signs(subject.store, &stays, KeyAlgorithm::EcP256, b"message");
    // The label is free again, for a key that is another one.
    let successor = make(subject, "goes", KeyAlgorithm::EcP256, KeyPurpose::Sign);
    signs(subject.store, &successor, KeyAlgorithm::EcP256, b"message");
}

fn encrypted(public_key: &[u8], scheme: DecryptionScheme, plaintext: &[u8]) -> Vec<u8> {
    encrypt(public_key, scheme, plaintext).unwrap()
}

fn what_was_encrypted_for_a_key_is_opened(subject: &Subject<'_>) {
    for &algorithm in subject.algorithms.iter().filter(|algorithm| algorithm.is_rsa()) {
        let key = make(subject, &format!("opens-{algorithm}"), algorithm, KeyPurpose::SignAndDecrypt);
        let public_key = subject.store.public_key(&key).unwrap();
        for &scheme in subject.decryption {
            for plaintext in [b"0123456789abcdef".as_slice(), b"0123456789abcdef0123456789abcdef"] {
                let opened = subject.store.decrypt(&key, scheme, &encrypted(&public_key, scheme, plaintext)).unwrap();
                assert_eq!(opened.reveal(), plaintext, "{algorithm} {scheme:?}");
                assert!(!format!("{opened:?}").contains("012"), "a secret is printed");
            }
        }
        // It signs too: SCEP answers are signed and opened with the one key.
        signs(subject.store, &key, algorithm, b"message");
    }
}

fn what_was_not_encrypted_for_a_key_is_undecipherable(subject: &Subject<'_>) {
    if !subject.algorithms.contains(&KeyAlgorithm::Rsa2048) {
        return;
    }
    let key = make(subject, "mine", KeyAlgorithm::Rsa2048, KeyPurpose::SignAndDecrypt);
    let other = make(subject, "theirs", KeyAlgorithm::Rsa2048, KeyPurpose::SignAndDecrypt);
    let theirs = subject.store.public_key(&other).unwrap();
    for &scheme in subject.decryption {
        let foreign = encrypted(&theirs, scheme, SECRET);
        for ciphertext in [foreign.as_slice(), &[0x5a; 256], &[0; 256], &[0xff; 256], &[1; 255], &[1; 257], b""] {
            let opened = subject.store.decrypt(&key, scheme, ciphertext);
            match opened {
                Err(KeyFault::Undecipherable) => {}
                // Some tokens give random octets for bad padding, as TLS once taught them; that tells nobody anything either.
                Ok(random) if scheme == DecryptionScheme::RsaPkcs1v15 => assert_ne!(random.reveal(), SECRET),
                other => panic!("{scheme:?} {other:?}"),
            }
        }
    }
}

fn only_rsa_keys_decrypt(subject: &Subject<'_>) {
    let key = make(subject, "curve", KeyAlgorithm::EcP256, KeyPurpose::Sign);
    let opened = subject.store.decrypt(&key, DecryptionScheme::RsaPkcs1v15, &[1; 256]);
    assert!(matches!(opened, Err(KeyFault::Unsupported(_))), "{opened:?}");
}

fn many_threads_sign_at_once(subject: &Subject<'_>) {
    let key = &make(subject, "busy", KeyAlgorithm::EcP256, KeyPurpose::Sign);
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            scope.spawn(move || {
                for round in 0..20u8 {
                    signs(subject.store, key, KeyAlgorithm::EcP256, &[thread, round]);
                }
            });
        }
    });
}
