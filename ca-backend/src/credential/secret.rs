//! What is done to secrets: made, digested, encrypted.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::{hmac, pbkdf2};
use zeroize::Zeroizing;

use super::{CredentialId, CredentialPurpose};
use crate::clock::{Rng, random};
use crate::error::Fault;
use crate::label::EndpointName;

/// PBKDF2 rounds for a secret that an operator chose; about a third of a second of processor time.
const ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(599_999);
/// Slow digests at a time.
const DERIVING_MAX: usize = 4;
/// Chosen secrets that need no second derivation, since they were right before.
const KNOWN_MAX: usize = 1_024;

/// The keys under which secrets are digested and encrypted, all of them derived from the node's key encryption secret. With the
/// store alone nobody can try secrets.
pub(crate) struct SecretKeys {
    lookup: hmac::Key,
    salt: hmac::Key,
    sealing: LessSafeKey,
    /// Digests of chosen secrets by their quick digest, so that a fleet which shares one does not pay for each request.
    known: Mutex<HashMap<SecretDigest, SecretDigest>>,
    /// Slow digests that are computed just now.
    deriving: AtomicUsize,
}

/// The digest under which a secret is found, bound to endpoint and purpose.
pub(crate) type SecretDigest = [u8; 32];

struct KeyOctets;

impl KeyType for KeyOctets {
    fn len(&self) -> usize {
        32
    }
}

impl SecretKeys {
    /// Derives the keys (HKDF-SHA256, RFC 5869).
    pub(crate) fn derive(key_encryption_secret: &[u8]) -> Result<Self, Fault> {
        let failed = |_| Fault::Broken("the keys of credentials cannot be derived".to_owned());
        let root = Salt::new(HKDF_SHA256, b"certgate credentials").extract(key_encryption_secret);
        let derive = |purpose: &'static str| {
            let mut key = Zeroizing::new([0; 32]);
            root.expand(&[purpose.as_bytes()], KeyOctets).and_then(|okm| okm.fill(key.as_mut())).map(|()| key)
        };
        let mac_key = |purpose| derive(purpose).map(|key| hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()));
        let sealing = derive("sealing").and_then(|key| UnboundKey::new(&AES_256_GCM, key.as_ref())).map_err(failed)?;
        Ok(Self {
            lookup: mac_key("lookup").map_err(failed)?,
            salt: mac_key("salt").map_err(failed)?,
            sealing: LessSafeKey::new(sealing),
            known: Mutex::default(),
            deriving: AtomicUsize::new(0),
        })
    }

    /// The digest of a secret that is random enough by itself.
    pub(crate) fn digest(&self, endpoint: &EndpointName, purpose: CredentialPurpose, secret: &[u8]) -> SecretDigest {
        self.keyed(b"random", endpoint, purpose, secret)
    }

    /// The digest of a secret that an operator chose and that may be weak: slow (PBKDF2-HMAC-SHA256), but for those that were
    /// found before. `Fault::TryLater` if too many are computed at the same time: guesses must not take every thread.
    pub(crate) fn slow_digest(
        &self,
        endpoint: &EndpointName,
        purpose: CredentialPurpose,
        secret: &[u8],
    ) -> Result<SecretDigest, Fault> {
        let quick = self.digest(endpoint, purpose, secret);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&quick).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let others = self.deriving.fetch_add(1, Ordering::SeqCst);
        let digest = if others < DERIVING_MAX {
            let salt = hmac::sign(&self.salt, &scope(endpoint, purpose));
            let mut derived = Zeroizing::new([0; 32]);
            pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt.as_ref(), secret, derived.as_mut());
            Ok(self.keyed(b"chosen", endpoint, purpose, derived.as_ref()))
        } else {
            Err(Fault::TryLater { after_s: 1 })
        };
        self.deriving.fetch_sub(1, Ordering::SeqCst);
        digest
    }

    /// Remembers that a chosen secret was right.
    pub(crate) fn remember(
        &self,
        endpoint: &EndpointName,
        purpose: CredentialPurpose,
        secret: &[u8],
        slow: SecretDigest,
    ) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(self.digest(endpoint, purpose, secret), slow);
    }

    fn keyed(&self, kind: &[u8], endpoint: &EndpointName, purpose: CredentialPurpose, secret: &[u8]) -> SecretDigest {
        let mut context = hmac::Context::with_key(&self.lookup);
        context.update(kind);
        context.update(&scope(endpoint, purpose));
        context.update(secret);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }

    /// Encrypts a MAC key (AES-256-GCM), bound to its credential: nonce, then ciphertext and tag.
    pub(crate) fn seal(&self, id: &CredentialId, key: &[u8], rng: &dyn Rng) -> Result<Vec<u8>, Fault> {
        let nonce = random::<NONCE_LEN>(rng);
        let mut sealed = key.to_vec();
        self.sealing
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(id.as_str().as_bytes()),
                &mut sealed,
            )
            .map_err(|_| Fault::Broken("a credential's key cannot be encrypted".to_owned()))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Decrypts what [`Self::seal`] encrypted.
    pub(crate) fn open(&self, id: &CredentialId, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let unusable = || {
            Fault::Broken(format!(
                "the key of credential {id} cannot be decrypted; was the secret of the software keys replaced?"
            ))
        };
        let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(unusable)?;
        let mut key = Zeroizing::new(ciphertext.to_vec());
        let length = self
            .sealing
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(id.as_str().as_bytes()), &mut key)
            .map_err(|_| unusable())?
            .len();
        key.truncate(length);
        Ok(key)
    }
}

/// Endpoint and purpose in one text. An endpoint's name has no zero octet.
pub(super) fn scope(endpoint: &EndpointName, purpose: CredentialPurpose) -> Vec<u8> {
    [endpoint.as_str().as_bytes(), &[0], purpose.name().as_bytes(), &[0]].concat()
}
