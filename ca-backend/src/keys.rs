//! Where private keys live. Only `issue.rs` and the service keys sign, and only through [`KeyStore`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::algorithm::KeyAlgorithm;
use crate::error::KeyFault;

/// Where a key is, as a URI: `file:NAME` for software keys, `pkcs11:token=..;object=..` (RFC 7512) for tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct KeyRef(pub(crate) String);

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
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
    /// Makes a key and keeps it durably before it returns.
    fn generate(&self, label: &KeyLabel, algorithm: KeyAlgorithm) -> Result<KeyRef, KeyFault>;

    /// The SubjectPublicKeyInfo of a key, DER.
    fn public_key(&self, key: &KeyRef) -> Result<Vec<u8>, KeyFault>;

    /// Signs `message` with the algorithm that belongs to the key ([`KeyAlgorithm::signature_algorithm`]). ECDSA signatures are
    /// DER, as certificates carry them.
    fn sign(&self, key: &KeyRef, message: &[u8]) -> Result<Vec<u8>, KeyFault>;

    /// Removes a key for good.
    fn destroy(&self, key: &KeyRef) -> Result<(), KeyFault>;

    /// Whether keys can be used now.
    fn health(&self) -> KeyHealth;
}
