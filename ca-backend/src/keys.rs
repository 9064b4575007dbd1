//! Where private keys live. Only `issue.rs` and the service keys sign, and only through [`KeyStore`].

#[cfg(any(test, feature = "testing"))]
pub(crate) mod conformance;
pub(crate) mod examination;
#[cfg(feature = "testing")]
pub(crate) mod faulty;
pub(crate) mod key_pair;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod memory;
pub(crate) mod pkcs11;
pub(crate) mod rsa_decryption;
pub(crate) mod secret;
pub(crate) mod software;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::pkcs11::TokenKeys;
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
    /// Keys can be used, but not as fast as the settings ask for, and why.
    Reduced(String),
    /// Keys cannot be used, and why.
    Unusable(String),
}

/// A key in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredKey {
    pub(crate) key: KeyRef,
    /// `None` for a kind of key that is not used here.
    pub(crate) algorithm: Option<KeyAlgorithm>,
}

/// How many calls at a time a token takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sessions {
    /// As the settings ask for.
    pub(crate) wanted: usize,
    /// As the token gives, up to `wanted`.
    pub(crate) given: usize,
}

/// A place that keeps private keys and uses them.
pub(crate) trait KeyStore: Send + Sync {
    /// What operators call this store.
    fn name(&self) -> &str;

    /// The scheme of the references that this store gives out.
    fn scheme(&self) -> &'static str;

    /// Whether a reference, or what an operator wrote as one, is for this store.
    fn holds(&self, key: &KeyRef) -> bool {
        key.scheme() == self.scheme()
    }

    /// What a key shall be called that an operator asked for by reference; `None` if that is left open.
    fn label_in(&self, wanted: &KeyRef) -> Result<Option<KeyLabel>, KeyFault>;

    /// The full reference of the one key that fits what an operator wrote; `None` if there is none, or nothing names a key.
    fn find(&self, wanted: &KeyRef) -> Result<Option<KeyRef>, KeyFault>;

    /// Every key.
    fn keys(&self) -> Result<Vec<StoredKey>, KeyFault>;

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

    /// How many sessions there are, in a store that needs them.
    fn sessions(&self) -> Result<Option<Sessions>, KeyFault> {
        Ok(None)
    }
}

/// All key stores of this daemon: finds the one that a reference belongs to.
#[derive(Clone)]
pub(crate) struct KeyRing {
    stores: Arc<[Arc<dyn KeyStore>]>,
    homes: KeyHomes,
}

/// Where new keys are made when nobody says so for one of them: key stores by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyHomes {
    /// Authorities' keys; `None`: the first store.
    pub authorities: Option<String>,
    /// Keys of OCSP responders; `None`: beside the key of their issuer.
    pub responders: Option<String>,
    /// The daemon's other keys; `None`: as `authorities`.
    pub services: Option<String>,
}

/// An issuer's new key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IssuingKey {
    pub(crate) key: KeyRef,
    /// It was there before, and is not ours to destroy.
    pub(crate) adopted: bool,
}

impl KeyRing {
    /// A ring of stores.
    pub(crate) fn new(stores: impl IntoIterator<Item = Arc<dyn KeyStore>>, homes: KeyHomes) -> Result<Self, KeyFault> {
        let ring = Self { stores: stores.into_iter().collect(), homes };
        for name in [&ring.homes.authorities, &ring.homes.responders, &ring.homes.services].into_iter().flatten() {
            ring.named(name)?;
        }
        Ok(ring)
    }

    /// Takes or makes an issuer's key. An operator may have said where: a store (by name, or `pkcs11:token=a`), or a key in it
    /// (`pkcs11:token=a;object=b`), which is taken if it is there, and made under this label if not.
    pub(crate) fn issuing_key(
        &self,
        wanted: Option<&KeyRef>,
        label: &KeyLabel,
        algorithm: KeyAlgorithm,
    ) -> Result<IssuingKey, KeyFault> {
        let Some(wanted) = wanted else {
            let key = self.home()?.generate(label, algorithm, KeyPurpose::Sign)?;
            return Ok(IssuingKey { key, adopted: false });
        };
        if let Ok(store) = self.named(&wanted.0) {
            return Ok(IssuingKey { key: store.generate(label, algorithm, KeyPurpose::Sign)?, adopted: false });
        }
        if wanted.scheme() == TokenKeys::SCHEME {
            TokenKeys::check_reference(wanted)?;
        }
        let store = self.store(wanted)?;
        if let Some(key) = store.find(wanted)? {
            let found = KeyAlgorithm::of_public_key(&store.public_key(&key)?)
                .map_err(|refusal| KeyFault::Unsupported(refusal.private()))?;
            if found != algorithm {
                return Err(KeyFault::Unsupported(format!("{key} is a key for {found}, not for {algorithm}")));
            }
            return Ok(IssuingKey { key, adopted: true });
        }
        let label = store.label_in(wanted)?.unwrap_or_else(|| label.clone());
        Ok(IssuingKey { key: store.generate(&label, algorithm, KeyPurpose::Sign)?, adopted: false })
    }

    /// Makes a key in the store that an operator named, or in the one for authorities.
    pub(crate) fn generate(
        &self,
        store: Option<&str>,
        label: &KeyLabel,
        algorithm: KeyAlgorithm,
    ) -> Result<KeyRef, KeyFault> {
        let store = store.map_or_else(|| self.home(), |name| self.named(name))?;
        store.generate(label, algorithm, KeyPurpose::Sign)
    }

    /// Makes the key of an OCSP responder for the issuer that has `issuing_key`.
    pub(crate) fn generate_for_responder(
        &self,
        issuing_key: &KeyRef,
        label: &KeyLabel,
        algorithm: KeyAlgorithm,
    ) -> Result<ServiceKeyRef, KeyFault> {
        let store = match &self.homes.responders {
            Some(name) => self.named(name)?,
            None => self.store(issuing_key)?,
        };
        store.generate(label, algorithm, KeyPurpose::Sign).map(ServiceKeyRef)
    }

    /// Makes a key for one of the daemon's own services and keeps it durably before it returns.
    pub(crate) fn generate_for_service(
        &self,
        label: &KeyLabel,
        algorithm: KeyAlgorithm,
        purpose: KeyPurpose,
    ) -> Result<ServiceKeyRef, KeyFault> {
        if purpose == KeyPurpose::SignAndDecrypt && !algorithm.is_rsa() {
            return Err(KeyFault::Unsupported(format!("a key for {algorithm} does not decrypt")));
        }
        let store = self.homes.services.as_deref().map_or_else(|| self.home(), |name| self.named(name))?;
        store.generate(label, algorithm, purpose).map(ServiceKeyRef)
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

    /// The condition of every store, by name.
    pub(crate) fn health(&self) -> Vec<(String, KeyHealth)> {
        self.stores.iter().map(|store| (store.name().to_owned(), store.health())).collect()
    }

    /// Every store.
    pub(crate) fn stores(&self) -> impl Iterator<Item = &dyn KeyStore> {
        self.stores.iter().map(AsRef::as_ref)
    }

    /// The store that operators call so.
    pub(crate) fn named(&self, name: &str) -> Result<&dyn KeyStore, KeyFault> {
        self.stores().find(|store| store.name() == name).ok_or_else(|| {
            let known: Vec<&str> = self.stores().map(KeyStore::name).collect();
            KeyFault::Unsupported(format!("there is no key store {name:?}; there are {}", known.join(", ")))
        })
    }

    /// Where authorities' keys are made.
    fn home(&self) -> Result<&dyn KeyStore, KeyFault> {
        match &self.homes.authorities {
            Some(name) => self.named(name),
            None => self.stores().next().ok_or_else(|| KeyFault::Unavailable("no key store is configured".to_owned())),
        }
    }

    fn store(&self, key: &KeyRef) -> Result<&dyn KeyStore, KeyFault> {
        let mut holding = self.stores().filter(|store| store.holds(key));
        match (holding.next(), holding.next()) {
            (Some(store), None) => Ok(store),
            // Only what an operator wrote can be so vague: references that were given out name their token.
            (Some(one), Some(other)) => Err(KeyFault::Unsupported(format!(
                "{key} could be in the key stores {} and {}: say which token it is",
                one.name(),
                other.name()
            ))),
            (None, _) => Err(KeyFault::Unsupported(format!("no key store is configured for {key}"))),
        }
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
        fn name(&self) -> &str {
            "pkcs11"
        }

        fn label_in(&self, _: &KeyRef) -> Result<Option<KeyLabel>, KeyFault> {
            Ok(None)
        }

        fn find(&self, _: &KeyRef) -> Result<Option<KeyRef>, KeyFault> {
            Err(KeyFault::Unavailable("unplugged".to_owned()))
        }

        fn keys(&self) -> Result<Vec<StoredKey>, KeyFault> {
            Err(KeyFault::Unavailable("unplugged".to_owned()))
        }

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

    fn ring_of<const N: usize>(stores: [Arc<dyn KeyStore>; N]) -> KeyRing {
        KeyRing::new(stores, KeyHomes::default()).unwrap()
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
        let ring = ring_of([Arc::new(MemoryKeys::default())]);
        let made = |algorithm| ring.generate_for_service(&label("scep"), algorithm, KeyPurpose::SignAndDecrypt);
        assert!(matches!(made(KeyAlgorithm::EcP256), Err(KeyFault::Unsupported(_))));
        // `KeyRing::decrypt` takes no other reference than this one, which `KeyRing::generate` does not give.
        let key: ServiceKeyRef = made(KeyAlgorithm::Rsa2048).unwrap();
        let opened = ring.decrypt(&key, DecryptionScheme::RsaOaepSha256, &[1; 256]);
        assert!(matches!(opened, Err(KeyFault::Undecipherable)));
    }

    #[test]
    fn a_dead_key_store_leaves_the_keys_of_the_others_usable() {
        let ring = ring_of([Arc::new(MemoryKeys::default()), Arc::new(Broken)]);
        let key = ring.generate(None, &label("root"), KeyAlgorithm::Ed25519).unwrap();
        assert_eq!(key.to_string(), "memory:root");
        let signature = ring.sign(&key, b"message").unwrap();
        let algorithm = KeyAlgorithm::Ed25519.signature_algorithm();
        verify_signature(&ring.public_key(&key).unwrap(), &algorithm, b"message", &signature).unwrap();

        let dead = KeyRef("pkcs11:token=a;object=b".to_owned());
        assert!(matches!(ring.sign(&dead, b"message"), Err(KeyFault::Unavailable(_))));
        let health = [
            ("memory".to_owned(), KeyHealth::Usable),
            ("pkcs11".to_owned(), KeyHealth::Unusable("unplugged".to_owned())),
        ];
        assert_eq!(ring.health(), health);
    }

    #[test]
    fn a_reference_without_a_store_is_refused() {
        let ring = ring_of([Arc::new(MemoryKeys::default())]);
        for reference in ["file:root", "root", ""] {
            let key = KeyRef(reference.to_owned());
            assert!(matches!(ring.sign(&key, b"message"), Err(KeyFault::Unsupported(_))), "{reference:?}");
        }
        assert!(matches!(ring.sign(&KeyRef::new("memory", "gone"), b""), Err(KeyFault::NotFound(_))));
    }

    fn token(name: &str, token: &str) -> Arc<dyn KeyStore> {
        let settings = pkcs11::TokenSettings {
            name: name.to_owned(),
            module_path: "/nonexistent/module.so".into(),
            token: token.to_owned(),
            pin: pkcs11::PinSource::None,
            sessions: 1,
            queue_max: 1,
            deadline: std::time::Duration::from_secs(1),
            generate_deadline: std::time::Duration::from_secs(1),
        };
        Arc::new(TokenKeys::open(settings).unwrap())
    }

    #[test]
    fn a_reference_that_fits_two_tokens_is_refused_and_names_both() {
        let ring = ring_of([token("here", "pkcs11:token=a"), token("there", "pkcs11:token=b")]);
        let made = ring.issuing_key(Some(&KeyRef("pkcs11:object=root".to_owned())), &label("x"), KeyAlgorithm::EcP256);
        assert!(
            matches!(&made, Err(KeyFault::Unsupported(why)) if why.contains("here") && why.contains("there")),
            "{made:?}"
        );
        let made = ring.issuing_key(Some(&KeyRef("pkcs11:token=b".to_owned())), &label("x"), KeyAlgorithm::EcP256);
        assert!(matches!(made, Err(KeyFault::Unavailable(_))), "{made:?}");
    }

    #[test]
    fn s47_a_pin_in_an_operators_reference_is_refused_and_not_repeated() {
        let ring = ring_of([token("here", "pkcs11:token=a")]);
        for text in ["pkcs11:token=a?pin-value=canary", "pkcs11:token=a;pin-value=canary", "pkcs11:?pin-value=canary"] {
            let made = ring.issuing_key(Some(&KeyRef(text.to_owned())), &label("x"), KeyAlgorithm::EcP256);
            assert!(matches!(&made, Err(KeyFault::Unsupported(why)) if !why.contains("canary")), "{made:?}");
        }
    }

    #[test]
    fn a_key_in_memory_has_its_own_name_and_can_be_destroyed() {
        let ring = ring_of([Arc::new(MemoryKeys::default())]);
        let key = ring.generate(None, &label("root"), KeyAlgorithm::EcP256).unwrap();
        assert!(matches!(ring.generate(None, &label("root"), KeyAlgorithm::EcP256), Err(KeyFault::Unsupported(_))));
        ring.destroy(&key).unwrap();
        assert!(matches!(ring.public_key(&key), Err(KeyFault::NotFound(_))));
    }

    #[cfg(feature = "testing")]
    #[test]
    fn the_faulty_store_fails_at_the_signature_it_is_told_to_and_counts_all() {
        let faults = Arc::new(faulty::SignFaults::default());
        let store = faulty::FaultyKeys::around(Arc::new(MemoryKeys::default()), faults.clone());
        let ring = ring_of([Arc::new(store)]);
        let key = ring.generate(None, &label("root"), KeyAlgorithm::EcP256).unwrap();
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
