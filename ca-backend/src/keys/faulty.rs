//! A key store that fails when it is told to, for the crash suite.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::secret::Secret;
use super::{DecryptionScheme, KeyHealth, KeyLabel, KeyPurpose, KeyRef, KeyStore, Sessions, StoredKey};
use crate::algorithm::KeyAlgorithm;
use crate::error::KeyFault;

/// Passes every call to another key store, and fails at the signature that [`SignFaults`] names.
pub(crate) struct FaultyKeys {
    inner: Arc<dyn KeyStore>,
    faults: Arc<SignFaults>,
}

impl FaultyKeys {
    pub(crate) fn around(inner: Arc<dyn KeyStore>, faults: Arc<SignFaults>) -> Self {
        Self { inner, faults }
    }
}

/// Says at which signature to fail, and counts.
#[derive(Debug, Default)]
pub struct SignFaults {
    signs: AtomicU64,
    fail_before: AtomicU64,
    fail_after: AtomicU64,
}

impl SignFaults {
    /// Fails the `n`th signature from now on (the next is 1) before the key is used.
    pub fn fail_before(&self, n: u64) {
        self.fail_before.store(self.signs() + n, Ordering::SeqCst);
    }

    /// Fails the `n`th signature from now on (the next is 1) after the key was used: the signature exists but is lost.
    pub fn fail_after(&self, n: u64) {
        self.fail_after.store(self.signs() + n, Ordering::SeqCst);
    }

    /// How many signatures were asked for so far.
    #[must_use]
    pub fn signs(&self) -> u64 {
        self.signs.load(Ordering::SeqCst)
    }
}

impl KeyStore for FaultyKeys {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn holds(&self, key: &KeyRef) -> bool {
        self.inner.holds(key)
    }

    fn label_in(&self, wanted: &KeyRef) -> Result<Option<KeyLabel>, KeyFault> {
        self.inner.label_in(wanted)
    }

    fn find(&self, wanted: &KeyRef) -> Result<Option<KeyRef>, KeyFault> {
        self.inner.find(wanted)
    }

    fn keys(&self) -> Result<Vec<StoredKey>, KeyFault> {
        self.inner.keys()
    }

    fn scheme(&self) -> &'static str {
        self.inner.scheme()
    }

    fn generate(&self, label: &KeyLabel, algorithm: KeyAlgorithm, purpose: KeyPurpose) -> Result<KeyRef, KeyFault> {
        self.inner.generate(label, algorithm, purpose)
    }

    fn public_key(&self, key: &KeyRef) -> Result<Vec<u8>, KeyFault> {
        self.inner.public_key(key)
    }

    fn sign(&self, key: &KeyRef, message: &[u8]) -> Result<Vec<u8>, KeyFault> {
        let n = self.faults.signs.fetch_add(1, Ordering::SeqCst) + 1;
        let fails_at = |when: &AtomicU64| when.load(Ordering::SeqCst) == n;
        if fails_at(&self.faults.fail_before) {
            return Err(KeyFault::Unavailable(format!("told to fail before signature {n}")));
        }
        let signature = self.inner.sign(key, message)?;
        if fails_at(&self.faults.fail_after) {
            return Err(KeyFault::Unavailable(format!("told to fail after signature {n}")));
        }
        Ok(signature)
    }

    fn decrypt(&self, key: &KeyRef, scheme: DecryptionScheme, ciphertext: &[u8]) -> Result<Secret, KeyFault> {
        self.inner.decrypt(key, scheme, ciphertext)
    }

    fn destroy(&self, key: &KeyRef) -> Result<(), KeyFault> {
        self.inner.destroy(key)
    }

    fn health(&self) -> KeyHealth {
        self.inner.health()
    }

    fn sessions(&self) -> Result<Option<Sessions>, KeyFault> {
        self.inner.sessions()
    }
}
