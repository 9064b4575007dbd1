//! Where private keys live. Only `issue.rs` and the service keys sign, and only through [`KeyStore`].

#[cfg(test)]
mod conformance;
#[cfg(feature = "testing")]
pub(crate) mod faulty;
pub(crate) mod key_pair;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod memory;
pub(crate) mod rsa_decryption;
pub(crate) mod secret;
pub(crate) mod software;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::secret::Secret;
use crate::algorithm::KeyAlgorithm;
use crate::error::KeyFault;

/// Where a key is, as a URI: `file:NAME` for software keys, `pkcs11:token=..;object=..` (RFC 7512) for tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct KeyRef(pub(crate) String);

impl KeyRef {
    /// The reference of `name` in the key store of `scheme`.
    pub(crate) fn new(scheme: &str, name: &str) -> Self {
        Self(format!("{scheme}:{name}"))
    }

    /// The scheme, which names the key store.
    pub(crate) fn scheme(&self) -> &str {
        self.0.split_once(':').map_or("", |(scheme, _)| scheme)
    }

    /// What follows the scheme.
    pub(crate) fn name(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, name)| name)
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a key of the daemon's own services is: never an issuer's. Only such a key may decrypt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ServiceKeyRef(KeyRef);

impl ServiceKeyRef {
    /// The reference by which the key signs and is removed, like any other.
    pub(crate) fn reference(&self) -> &KeyRef {
        &self.0
    }
}

/// What a service key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyPurpose {
    /// Signing, as issuing keys do.
    Sign,
    /// Signing, and opening what others encrypted for it. RSA only.
    SignAndDecrypt,
}

/// How a short secret was encrypted for an RSA key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecryptionScheme {
    /// RSAES-PKCS1-v1_5 (RFC 8017 section 7.2).
    RsaPkcs1v15,
    /// RSAES-OAEP with SHA-1, MGF1 with SHA-1 and an empty label (RFC 8017 section 7.1).
    RsaOaepSha1,
    /// RSAES-OAEP with SHA-256, MGF1 with SHA-256 and an empty label (RFC 8017 section 7.1).
    RsaOaepSha256,
}

/// What a new key is called: lower-case letters, digits, `-` and `.`; unique within its key store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyLabel(pub(crate) String);

/// A key store's condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "why", rename_all = "kebab-case")]
pub enum KeyHealth {
    /// Not known yet.
    Probing,
    /// Keys can be used.
    Usable,
    /// Keys cannot be used, and why.
    Unusable(String),
}

/// A place that keeps private keys and uses them.
pub(crate) trait KeyStore: Send + Sync {
    /// The scheme of the references that this store gives out.
    fn scheme(&self) -> &'static str;

    /// Makes a key and keeps it durably before it returns.
    fn generate(&self, label: &KeyLabel, algorithm: KeyAlgorithm, purpose: KeyPurpose) -> Result<KeyRef, KeyFault>;

    /// The SubjectPublicKeyInfo of a key, DER.
    fn public_key(&self, key: &KeyRef) -> Result<Vec<u8>, KeyFault>;

    /// Signs `message` with the algorithm that belongs to the key ([`KeyAlgorithm::signature_algorithm`]). ECDSA signatures are
    /// DER, as certificates carry them.
    fn sign(&self, key: &KeyRef, message: &[u8]) -> Result<Vec<u8>, KeyFault>;

    /// Opens what was encrypted for a key. `Undecipherable` says that it was not, whatever the reason.
    fn decrypt(&self, key: &KeyRef, scheme: DecryptionScheme, ciphertext: &[u8]) -> Result<Secret, KeyFault>;

    /// Removes a key for good.
    fn destroy(&self, key: &KeyRef) -> Result<(), KeyFault>;

    /// Whether keys can be used now.
    fn health(&self) -> KeyHealth;
}

/// All key stores of this daemon: finds the one that a reference belongs to.
#[derive(Clone)]
pub(crate) struct KeyRing {
    stores: Arc<[Arc<dyn KeyStore>]>,
}

impl KeyRing {
    /// A ring in which new keys are made in `default`; references to the others stay usable.
    pub(crate) fn new(default: Arc<dyn KeyStore>, others: impl IntoIterator<Item = Arc<dyn KeyStore>>) -> Self {
        Self { stores: std::iter::once(default).chain(others).collect() }
    }

    /// Makes an issuer's key in the default store and keeps it durably before it returns.
    pub(crate) fn generate(&self, label: &KeyLabel, algorithm: KeyAlgorithm) -> Result<KeyRef, KeyFault> {
        self.default()?.generate(label, algorithm, KeyPurpose::Sign)
    }

    /// Makes a key for one of the daemon's own services in the default store and keeps it durably before it returns.
    pub(crate) fn generate_for_service(
        &self,
        label: &KeyLabel,
        algorithm: KeyAlgorithm,
        purpose: KeyPurpose,
    ) -> Result<ServiceKeyRef, KeyFault> {
        if purpose == KeyPurpose::SignAndDecrypt && !algorithm.is_rsa() {
            return Err(KeyFault::Unsupported(format!("a key for {algorithm} does not decrypt")));
        }
        self.default()?.generate(label, algorithm, purpose).map(ServiceKeyRef)
    }

    /// The SubjectPublicKeyInfo of a key, DER.
    pub(crate) fn public_key(&self, key: &KeyRef) -> Result<Vec<u8>, KeyFault> {
        self.store(key)?.public_key(key)
    }

    /// Signs `message` with the algorithm that belongs to the key.
    pub(crate) fn sign(&self, key: &KeyRef, message: &[u8]) -> Result<Vec<u8>, KeyFault> {
        self.store(key)?.sign(key, message)
    }

    /// Opens what was encrypted for a key. `Undecipherable` says that it was not, whatever the reason.
    pub(crate) fn decrypt(
        &self,
        key: &ServiceKeyRef,
        scheme: DecryptionScheme,
        ciphertext: &[u8],
    ) -> Result<Secret, KeyFault> {
        self.store(key.reference())?.decrypt(key.reference(), scheme, ciphertext)
    }

    /// Removes a key for good.
    pub(crate) fn destroy(&self, key: &KeyRef) -> Result<(), KeyFault> {
        self.store(key)?.destroy(key)
    }

    /// The condition of every store, by scheme; the default store comes first.
    pub(crate) fn health(&self) -> Vec<(&'static str, KeyHealth)> {
        self.stores.iter().map(|store| (store.scheme(), store.health())).collect()
    }

    fn default(&self) -> Result<&dyn KeyStore, KeyFault> {
        let default = self.stores.first().map(AsRef::as_ref);
        default.ok_or_else(|| KeyFault::Unavailable("no key store is configured".to_owned()))
    }

    fn store(&self, key: &KeyRef) -> Result<&dyn KeyStore, KeyFault> {
        let store = self.stores.iter().find(|store| store.scheme() == key.scheme());
        store.map(AsRef::as_ref).ok_or_else(|| KeyFault::Unsupported(format!("no key store is configured for {key}")))
    }
}

#[cfg(test)]
mod tests {
    use super::conformance::Subject;
    use super::memory::MemoryKeys;
    use super::*;
    use crate::algorithm::verify_signature;

    /// A store that is there but never works.
    struct Broken;

    impl KeyStore for Broken {
        fn scheme(&self) -> &'static str {
            "pkcs11"
        }

        fn generate(&self, _: &KeyLabel, _: KeyAlgorithm, _: KeyPurpose) -> Result<KeyRef, KeyFault> {
            Err(KeyFault::Unavailable("unplugged".to_owned()))
        }

        fn public_key(&self, _: &KeyRef) -> Result<Vec<u8>, KeyFault> {
            Err(KeyFault::Unavailable("unplugged".to_owned()))
        }

        fn sign(&self, _: &KeyRef, _: &[u8]) -> Result<Vec<u8>, KeyFault> {
            Err(KeyFault::Unavailable("unplugged".to_owned()))
        }

        fn decrypt(&self, _: &KeyRef, _: DecryptionScheme, _: &[u8]) -> Result<Secret, KeyFault> {
            Err(KeyFault::Unavailable("unplugged".to_owned()))
        }

        fn destroy(&self, _: &KeyRef) -> Result<(), KeyFault> {
            Err(KeyFault::Unavailable("unplugged".to_owned()))
        }

        fn health(&self) -> KeyHealth {
            KeyHealth::Unusable("unplugged".to_owned())
        }
    }

    fn label(name: &str) -> KeyLabel {
        KeyLabel(name.to_owned())
    }

    const EVERY_SCHEME: [DecryptionScheme; 3] =
        [DecryptionScheme::RsaPkcs1v15, DecryptionScheme::RsaOaepSha1, DecryptionScheme::RsaOaepSha256];

    #[test]
    fn keys_in_memory_do_what_every_key_store_must() {
        let store = MemoryKeys::default();
        conformance::check(&Subject { store: &store, algorithms: &KeyAlgorithm::ALL, decryption: &EVERY_SCHEME });
    }

    #[test]
    fn keys_in_files_do_what_every_key_store_must() {
        let directory = tempfile::TempDir::new().unwrap();
        let secret = secret::KeyEncryptionSecret::load_or_create(&directory.path().join("keystore.secret")).unwrap();
        let store = software::SoftwareKeys::open(&directory.path().join("keys"), secret).unwrap();
        conformance::check(&Subject { store: &store, algorithms: &KeyAlgorithm::ALL, decryption: &EVERY_SCHEME });
    }

    #[test]
    fn only_keys_of_services_decrypt_and_only_rsa_ones_are_made_for_it() {
        let ring = KeyRing::new(Arc::new(MemoryKeys::default()), []);
        let made = |algorithm| ring.generate_for_service(&label("scep"), algorithm, KeyPurpose::SignAndDecrypt);
        assert!(matches!(made(KeyAlgorithm::EcP256), Err(KeyFault::Unsupported(_))));
        // `KeyRing::decrypt` takes no other reference than this one, which `KeyRing::generate` does not give.
        let key: ServiceKeyRef = made(KeyAlgorithm::Rsa2048).unwrap();
        let opened = ring.decrypt(&key, DecryptionScheme::RsaOaepSha256, &[1; 256]);
        assert!(matches!(opened, Err(KeyFault::Undecipherable)));
    }

    #[test]
    fn a_dead_key_store_leaves_the_keys_of_the_others_usable() {
        let ring = KeyRing::new(Arc::new(MemoryKeys::default()), [Arc::new(Broken) as Arc<dyn KeyStore>]);
        let key = ring.generate(&label("root"), KeyAlgorithm::Ed25519).unwrap();
        assert_eq!(key.to_string(), "memory:root");
        let signature = ring.sign(&key, b"message").unwrap();
        let algorithm = KeyAlgorithm::Ed25519.signature_algorithm();
        verify_signature(&ring.public_key(&key).unwrap(), &algorithm, b"message", &signature).unwrap();

        let dead = KeyRef("pkcs11:token=a;object=b".to_owned());
        assert!(matches!(ring.sign(&dead, b"message"), Err(KeyFault::Unavailable(_))));
        let health = [("memory", KeyHealth::Usable), ("pkcs11", KeyHealth::Unusable("unplugged".to_owned()))];
        assert_eq!(ring.health(), health);
    }

    #[test]
    fn a_reference_without_a_store_is_refused() {
        let ring = KeyRing::new(Arc::new(MemoryKeys::default()), []);
        for reference in ["file:root", "root", ""] {
            let key = KeyRef(reference.to_owned());
            assert!(matches!(ring.sign(&key, b"message"), Err(KeyFault::Unsupported(_))), "{reference:?}");
        }
        assert!(matches!(ring.sign(&KeyRef::new("memory", "gone"), b""), Err(KeyFault::NotFound(_))));
    }

    #[test]
    fn a_key_in_memory_has_its_own_name_and_can_be_destroyed() {
        let ring = KeyRing::new(Arc::new(MemoryKeys::default()), []);
        let key = ring.generate(&label("root"), KeyAlgorithm::EcP256).unwrap();
        assert!(matches!(ring.generate(&label("root"), KeyAlgorithm::EcP256), Err(KeyFault::Unsupported(_))));
        ring.destroy(&key).unwrap();
        assert!(matches!(ring.public_key(&key), Err(KeyFault::NotFound(_))));
    }

    #[cfg(feature = "testing")]
    #[test]
    fn the_faulty_store_fails_at_the_signature_it_is_told_to_and_counts_all() {
        let faults = Arc::new(faulty::SignFaults::default());
        let store = faulty::FaultyKeys::around(Arc::new(MemoryKeys::default()), faults.clone());
        let ring = KeyRing::new(Arc::new(store), []);
        let key = ring.generate(&label("root"), KeyAlgorithm::EcP256).unwrap();
        ring.sign(&key, b"1").unwrap();
        faults.fail_before(2);
        let outcomes: Vec<_> = (0..3).map(|_| ring.sign(&key, b"message").is_ok()).collect();
        assert_eq!(outcomes, [true, false, true]);
        faults.fail_after(1);
        assert!(
            matches!(ring.sign(&key, b"message"), Err(KeyFault::Unavailable(why)) if why.contains("after signature 5"))
        );
        ring.sign(&key, b"message").unwrap();
        assert_eq!(faults.signs(), 6);
    }
}
