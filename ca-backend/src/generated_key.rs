//! Subject keys made here, for devices that cannot make their own.

use std::fmt;

use zeroize::Zeroizing;

use crate::algorithm::KeyAlgorithm;
use crate::engine::Engine;
use crate::error::{Error, Fault};
use crate::keys::key_pair::KeyPair;
use crate::subject_key::{ProvenKey, SubjectKey};

/// A subject's key pair, in memory only: whoever asked for it has to be given it now or never. It can be recovered only if it is
/// [archived](ProvenKey::archived_in).
pub struct GeneratedKey {
    proven: ProvenKey,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl GeneratedKey {
    /// The public half, ready to be enrolled.
    #[must_use]
    pub fn proven(&self) -> &ProvenKey {
        &self.proven
    }

    /// The private half: PrivateKeyInfo (RFC 5958), DER.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }
}

/// Nothing of the private half.
impl fmt::Debug for GeneratedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GeneratedKey").field(&self.proven).finish()
    }
}

impl Engine {
    /// Makes a key for a subject. RSA takes from a tenth of a second to several seconds.
    ///
    /// # Errors
    /// The fault of the cryptographic library.
    pub fn generate_subject_key(&self, algorithm: KeyAlgorithm) -> Result<GeneratedKey, Error> {
        let pair = KeyPair::generate(algorithm).map_err(Fault::from)?;
        let public = pair.public_key().map_err(Fault::from)?;
        let pkcs8 = pair.to_pkcs8().map_err(Fault::from)?;
        // Who makes a key possesses it.
        Ok(GeneratedKey { proven: ProvenKey::after_verified_signature(SubjectKey::accept(&public)?), pkcs8 })
    }
}
