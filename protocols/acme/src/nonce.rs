//! Anti-replay nonces (RFC 8555 section 6.5), which cost nothing to make and are good on every node that shares the store.
//!
//! A nonce is `expiry (8 octets) || random (16) || HMAC-SHA-256 of both (32)`. The key lies in the store. Only a nonce that was
//! used leaves a record, and only until it expires.

use std::cell::Cell;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ca_backend::Time;

use crate::error::{Problem, ProblemType};

/// How long a nonce may be used.
const LIFETIME_S: u64 = 3600;

const EXPIRY_BYTES: usize = 8;
const RANDOM_BYTES: usize = 16;

/// Octets of the key.
pub(crate) const NONCE_KEY_BYTES: usize = 32;

/// Octets of a nonce without its tag: unique, and sorted by expiry.
pub(crate) const NONCE_NAME_BYTES: usize = EXPIRY_BYTES + RANDOM_BYTES;

/// Makes and recognises nonces.
#[derive(Debug)]
pub(crate) struct Nonces(hmac::Key);

/// A nonce of ours that is not too old. Whether another request used it already, the store knows.
#[derive(Debug)]
pub(crate) struct Nonce {
    name: [u8; NONCE_NAME_BYTES],
    /// Whether this request has used it, so that its later commits need not.
    spent: Cell<bool>,
}

impl Nonces {
    pub(crate) fn new(key: &[u8; NONCE_KEY_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// A fresh nonce as it stands in `Replay-Nonce`.
    pub(crate) fn issue(&self, now: Time, random: [u8; RANDOM_BYTES]) -> String {
        let name = [now.plus_s(LIFETIME_S).unix().to_be_bytes().as_slice(), &random].concat();
        let tag = hmac::sign(&self.0, &name);
        BASE64_URL_SAFE_NO_PAD.encode([name.as_slice(), tag.as_ref()].concat())
    }

    /// Recognises a nonce.
    pub(crate) fn open(&self, text: &str, now: Time) -> Result<Nonce, Problem> {
        let octets = BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| Problem::malformed("the nonce is not base64url without padding"))?;
        let (name, tag) = octets.split_first_chunk::<NONCE_NAME_BYTES>().ok_or_else(bad_nonce)?;
        hmac::verify(&self.0, name, tag).map_err(|_| bad_nonce())?;
        let nonce = Nonce { name: *name, spent: Cell::new(false) };
        if nonce.expires() <= now { Err(bad_nonce()) } else { Ok(nonce) }
    }
}

impl Nonce {
    /// What a used nonce is recorded under.
    pub(crate) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Whether a commit of this request holds the nonce.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent.get()
    }

    /// Call this right after the commit that holds the nonce.
    pub(crate) fn mark_spent(&self) {
        self.spent.set(true);
    }

    fn expires(&self) -> Time {
        let expiry = self.name.first_chunk::<EXPIRY_BYTES>();
        Time::from_unix(expiry.map_or(0, |octets| u64::from_be_bytes(*octets)))
    }
}

/// The problem of a nonce that is not ours, too old, or used. Clients repeat the request with the nonce of this reply.
pub(crate) fn bad_nonce() -> Problem {
    Problem::new(
        ProblemType::BadNonce,
        "the nonce is unknown, too old or used; repeat the request with the one in this reply",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_767_830_400;

    #[test]
    fn s19_a_nonce_is_recognised_within_its_hour_and_by_its_own_key_only() {
        let nonces = Nonces::new(&[7; NONCE_KEY_BYTES]);
        let text = nonces.issue(Time::from_unix(NOW), [1; 16]);
        assert!(nonces.open(&text, Time::from_unix(NOW + LIFETIME_S - 1)).is_ok());
        assert_eq!(nonces.open(&text, Time::from_unix(NOW + LIFETIME_S)).unwrap_err().kind, ProblemType::BadNonce);
        assert_eq!(
            Nonces::new(&[8; NONCE_KEY_BYTES]).open(&text, Time::from_unix(NOW)).unwrap_err().kind,
            ProblemType::BadNonce
        );
    }

    #[test]
    fn s19_an_altered_or_truncated_nonce_is_not_ours() {
        let nonces = Nonces::new(&[7; NONCE_KEY_BYTES]);
        let text = nonces.issue(Time::from_unix(NOW), [1; 16]);
        let octets = BASE64_URL_SAFE_NO_PAD.decode(&text).unwrap();
        for position in 0..octets.len() {
            let mut altered = octets.clone();
            altered[position] ^= 1;
            let problem = nonces.open(&BASE64_URL_SAFE_NO_PAD.encode(&altered), Time::from_unix(NOW)).unwrap_err();
            assert_eq!(problem.kind, ProblemType::BadNonce, "octet {position}");
            let short = BASE64_URL_SAFE_NO_PAD.encode(&octets[..position]);
            assert_eq!(
                nonces.open(&short, Time::from_unix(NOW)).unwrap_err().kind,
                ProblemType::BadNonce,
                "{position} octets"
            );
        }
        assert_eq!(nonces.open(&format!("{text}="), Time::from_unix(NOW)).unwrap_err().kind, ProblemType::Malformed);
    }
}
