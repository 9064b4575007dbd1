//! What only the tests crate may use: an engine in memory whose store, keys, clock and faults the test holds in its hands.

mod load;

use std::path::Path;
use std::sync::Arc;

use crate::algorithm::{KeyAlgorithm, VerificationKey};
use crate::clock::Time;
use crate::credential::SecretKeys;
use crate::engine::{Engine, EngineSettings};
use crate::error::{Error, Fault};
use crate::keys::conformance::{self, Subject};
use crate::keys::memory::MemoryKeys;
use crate::keys::pkcs11::{TokenKeys, TokenSettings};
use crate::keys::{DecryptionScheme, KeyHomes, KeyLabel, KeyPurpose, KeyRef, KeyRing, KeyStore, faulty::FaultyKeys};
use crate::store::faulty::FaultyStore;
use crate::store::{self, Batch, CommitError, Space, Store};

pub use self::load::{load_certificates, load_revocations};
pub use crate::clock::{FakeClock, SeededRng};
pub use crate::keys::faulty::SignFaults;
pub use crate::store::{FailureMoment, Faults, StoreKind, StoreOptions, TortureReport, torture_check, torture_write};

/// A key in a token that signs as issuing keys do: every signature is verified before it is given out.
pub struct TokenSigner {
    store: TokenKeys,
    key: KeyRef,
    public_key: Vec<u8>,
    verification: VerificationKey,
}

impl TokenSigner {
    /// Makes the key under this label.
    ///
    /// # Errors
    /// The key store's fault.
    pub fn generate(settings: TokenSettings, label: &str, algorithm: KeyAlgorithm) -> Result<Self, Error> {
        let store = TokenKeys::open(settings).map_err(Fault::from)?;
        let key = store.generate(&KeyLabel(label.to_owned()), algorithm, KeyPurpose::Sign).map_err(Fault::from)?;
        let public_key = store.public_key(&key).map_err(Fault::from)?;
        let verification = VerificationKey::read(&public_key, &algorithm.signature_algorithm())?;
        Ok(Self { store, key, public_key, verification })
    }

    /// The SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Signs and verifies.
    ///
    /// # Errors
    /// The key store's fault, or a refusal of the signature.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.store.sign(&self.key, message).map_err(Fault::from)?;
        self.verification.verify(message, &signature)?;
        Ok(signature)
    }
}

/// Runs the conformance suite of key stores on a token that can do this much of what there is. Panics where it does not conform.
///
/// # Errors
/// If the settings do not name a token.
pub fn check_token(
    settings: TokenSettings,
    algorithms: &[KeyAlgorithm],
    decryption: &[DecryptionScheme],
) -> Result<(), Error> {
    let store = TokenKeys::open(settings).map_err(Fault::from)?;
    conformance::check(&Subject { store: &store, algorithms, decryption });
    Ok(())
}

/// 2026-06-01T12:00:00Z, when every test begins.
pub const NOON_S: u64 = 1_780_315_200;

/// Everything of an engine that outlives it: [`Bench::boot`] is a restart.
pub struct Bench {
    /// The clock of every engine booted here; it begins at [`NOON_S`].
    pub clock: Arc<FakeClock>,
    /// Where randomness comes from.
    pub rng: Arc<dyn crate::clock::Rng>,
    /// Faults of the store.
    pub store_faults: Arc<Faults>,
    /// Faults of the key store.
    pub sign_faults: Arc<SignFaults>,
    store: Arc<dyn Store>,
    keys: Arc<dyn KeyStore>,
}

impl Bench {
    /// An empty store and no keys, in memory.
    ///
    /// # Errors
    /// If the store's thread cannot be started.
    pub fn in_memory() -> Result<Self, Error> {
        Self::on(StoreKind::Memory, Path::new(""))
    }

    /// A store of this kind in a directory; keys in memory.
    ///
    /// # Errors
    /// If the store cannot be opened.
    pub fn on(kind: StoreKind, directory: &Path) -> Result<Self, Error> {
        let options = StoreOptions { cache_bytes: 64 << 20, journal_bytes: 256 << 10, reserve_bytes: 16 << 20 };
        Ok(Self {
            clock: Arc::new(FakeClock::at(Time::from_unix(NOON_S))),
            rng: Arc::new(crate::clock::SystemRng),
            store_faults: Faults::none(),
            sign_faults: Arc::new(SignFaults::default()),
            store: store::open(kind, directory, options)?,
            keys: Arc::new(MemoryKeys::default()),
        })
    }

    /// The same keys and clock over the store of this kind in another directory, into which it was imported.
    ///
    /// # Errors
    /// If the store cannot be opened.
    pub fn moved_to(&self, kind: StoreKind, directory: &Path) -> Result<Self, Error> {
        Ok(Self {
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            keys: self.keys.clone(),
            ..Self::on(kind, directory)?
        })
    }

    /// The same bench with its keys in a token, whatever the authorities made so far.
    ///
    /// # Errors
    /// If the settings do not name a token.
    pub fn with_token(self, settings: TokenSettings) -> Result<Self, Error> {
        Ok(Self { keys: Arc::new(TokenKeys::open(settings).map_err(Fault::from)?), ..self })
    }

    /// The stored octets of an audit entry.
    ///
    /// # Errors
    /// The store's fault.
    pub fn stored_audit_entry(&self, number: u64) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.store.get(Space::Audit, &number.to_be_bytes())?.map(|found| found.value))
    }

    /// Overwrites or removes an audit entry behind the engine's back, as somebody could who has the files.
    ///
    /// # Errors
    /// The store's fault.
    pub fn tamper_with_audit(&self, number: u64, entry: Option<Vec<u8>>) -> Result<(), Error> {
        let batch = match entry {
            Some(entry) => Batch::new().put(Space::Audit, number.to_be_bytes(), entry),
            None => Batch::new().delete(Space::Audit, number.to_be_bytes()),
        };
        match self.store.commit(batch) {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict) => Err(Fault::TryLater { after_s: 1 }.into()),
            Err(CommitError::Fault(fault)) => Err(fault.into()),
        }
    }

    /// Starts an engine over the same store and keys, as after a restart. Faults that were set before it go away.
    ///
    /// # Errors
    /// If the store holds something that cannot be read.
    pub fn boot(&mut self, settings: EngineSettings) -> Result<Engine, Error> {
        self.store_faults = Faults::none();
        self.sign_faults = Arc::new(SignFaults::default());
        let store = Arc::new(FaultyStore::new(self.store.clone(), self.store_faults.clone()));
        let keys = KeyRing::new(
            [Arc::new(FaultyKeys::around(self.keys.clone(), self.sign_faults.clone())) as Arc<dyn KeyStore>],
            KeyHomes::default(),
        )
        .map_err(Fault::from)?;
        let secret_keys = SecretKeys::derive(b"the secret of every bench")?;
        Engine::start(store, keys, secret_keys, self.clock.clone(), self.rng.clone(), settings)
    }
}
