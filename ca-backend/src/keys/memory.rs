//! Keys that live as long as the process: for an engine without a disk.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::key_pair::KeyPair;
use super::secret::Secret;
use super::{DecryptionScheme, KeyHealth, KeyLabel, KeyPurpose, KeyRef, KeyStore};
use crate::algorithm::KeyAlgorithm;
use crate::error::KeyFault;

/// Keys under `memory:NAME`.
#[derive(Default)]
pub(crate) struct MemoryKeys(RwLock<HashMap<KeyRef, Arc<KeyPair>>>);

impl MemoryKeys {
    pub(crate) const SCHEME: &'static str = "memory";

    fn key(&self, key: &KeyRef) -> Result<Arc<KeyPair>, KeyFault> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(key).cloned().ok_or_else(|| KeyFault::NotFound(key.to_string()))
    }
}

impl KeyStore for MemoryKeys {
    fn scheme(&self) -> &'static str {
        Self::SCHEME
    }

    fn generate(&self, label: &KeyLabel, algorithm: KeyAlgorithm, _: KeyPurpose) -> Result<KeyRef, KeyFault> {
        let key = KeyRef::new(Self::SCHEME, &label.0);
        let pair = Arc::new(KeyPair::generate(algorithm)?);
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if keys.contains_key(&key) {
            return Err(KeyFault::Unsupported(format!("there is a key at {key} already")));
        }
        keys.insert(key.clone(), pair);
        Ok(key)
    }

    fn public_key(&self, key: &KeyRef) -> Result<Vec<u8>, KeyFault> {
        self.key(key)?.public_key()
    }

    fn sign(&self, key: &KeyRef, message: &[u8]) -> Result<Vec<u8>, KeyFault> {
        self.key(key)?.sign(message)
    }

    fn decrypt(&self, key: &KeyRef, scheme: DecryptionScheme, ciphertext: &[u8]) -> Result<Secret, KeyFault> {
        self.key(key)?.decrypt(scheme, ciphertext)
    }

    fn destroy(&self, key: &KeyRef) -> Result<(), KeyFault> {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.remove(key).map(|_| ()).ok_or_else(|| KeyFault::NotFound(key.to_string()))
    }

    fn health(&self) -> KeyHealth {
        KeyHealth::Usable
    }
}
