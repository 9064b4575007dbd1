//! Names of accounts, orders and authorizations.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// Octets of an identifier: too many to guess, so a URL betrays nothing about other objects.
pub(crate) const ID_BYTES: usize = 16;

/// 128 random bits, written in base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(pub(crate) [u8; ID_BYTES]);

impl Id {
    /// Reads what `Display` writes; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::from_octets(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?)
    }

    pub(crate) fn from_octets(octets: &[u8]) -> Option<Self> {
        octets.try_into().ok().map(Self)
    }

    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}
