//! Keys that live as long as the process: for an engine without a disk.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::key_pair::KeyPair;
use super::secret::Secret;
use super::{DecryptionScheme, KeyHealth, KeyLabel, KeyPurpose, KeyRef, KeyStore, StoredKey};
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
    fn name(&self) -> &str {
        Self::SCHEME
    }

    fn label_in(&self, wanted: &KeyRef) -> Result<Option<KeyLabel>, KeyFault> {
        let name = wanted.name();
        Ok((!name.is_empty()).then(|| KeyLabel(name.to_owned())))
    }

    fn find(&self, wanted: &KeyRef) -> Result<Option<KeyRef>, KeyFault> {
        if wanted.name().is_empty() {
            return Ok(None);
        }
        match self.key(wanted) {
            Ok(_) => Ok(Some(wanted.clone())),
            Err(KeyFault::NotFound(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn keys(&self) -> Result<Vec<StoredKey>, KeyFault> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let stored =
            |(key, pair): (&KeyRef, &Arc<KeyPair>)| StoredKey { key: key.clone(), algorithm: Some(pair.algorithm()) };
        Ok(keys.iter().map(stored).collect())
    }

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
