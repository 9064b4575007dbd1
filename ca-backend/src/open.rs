//! Putting an engine together: where its records and keys lie, and who tells the time.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::{SystemClock, SystemRng};
use crate::credential::SecretKeys;
use crate::engine::{Engine, EngineSettings};
use crate::error::{Error, Fault, KeyFault, Reason, Refusal};
use crate::keys::pkcs11::{TokenKeys, TokenSettings};
use crate::keys::software::SoftwareKeys;
use crate::keys::{KeyHomes, KeyRing, KeyStore, secret::KeyEncryptionSecret};
use crate::store::{self, StoreKind, StoreOptions, TransferError};

/// Where an engine keeps what it must not lose.
#[derive(Debug)]
pub struct EngineParts {
    /// Which storage engine.
    pub store: StoreKind,
    /// The directory of its files.
    pub store_directory: PathBuf,
    /// How much of the machine it may use.
    pub store_options: StoreOptions,
    /// The directory of the software keys.
    pub key_directory: PathBuf,
    /// What encrypts them.
    pub key_secret: KeyEncryptionSecret,
    /// The tokens that hold keys too.
    pub tokens: Vec<TokenSettings>,
    /// Where new keys are made.
    pub key_homes: KeyHomes,
    /// The rest.
    pub settings: EngineSettings,
}

impl Engine {
    /// Opens the store and the keys, or begins new ones.
    ///
    /// # Errors
    /// A fault that says which of them cannot be opened, and why.
    pub fn open(parts: EngineParts) -> Result<Self, Error> {
        let store = store::open(parts.store, &parts.store_directory, parts.store_options)?;
        let secret_keys = SecretKeys::derive(parts.key_secret.reveal())?;
        let keys = SoftwareKeys::open(&parts.key_directory, parts.key_secret).map_err(Fault::from)?;
        let mut stores: Vec<Arc<dyn KeyStore>> = vec![Arc::new(keys)];
        let mut tokens: Vec<Arc<TokenKeys>> = Vec::new();
        for settings in parts.tokens {
            let name = settings.name.clone();
            let opened = Arc::new(TokenKeys::open(settings).map_err(Fault::from)?);
            if let Some(other) = tokens.iter().find(|other| other.may_share_token_with(&opened)) {
                let why = format!(
                    "the key stores {name} and {} could be the same token: tell them apart by label or serial",
                    other.name()
                );
                return Err(Fault::from(KeyFault::Unsupported(why)).into());
            }
            tokens.push(opened.clone());
            stores.push(opened);
        }
        let keys = KeyRing::new(stores, parts.key_homes).map_err(Fault::from)?;
        Self::start(store, keys, secret_keys, Arc::new(SystemClock), Arc::new(SystemRng), parts.settings)
    }

    /// Reads an export into a new, empty store. Returns how many records there were.
    ///
    /// # Errors
    /// A refusal if the store is not empty (`Reason::Conflict`) or the export is damaged (`Reason::Malformed`; what was read of it
    /// makes the store unusable, and it says so), or the store's fault.
    pub fn import(
        kind: StoreKind,
        directory: &std::path::Path,
        options: StoreOptions,
        from: &mut dyn std::io::Read,
    ) -> Result<u64, Error> {
        let store = store::open(kind, directory, options)?;
        store::import(store.as_ref(), from).map_err(|error| match error {
            TransferError::Store(fault) => fault.into(),
            TransferError::State(why) => Refusal::new(Reason::Conflict, why).into(),
            TransferError::File(why) => Refusal::new(Reason::Malformed, why).into(),
        })
    }
}
