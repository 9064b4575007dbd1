//! Opening with an RSA key in memory, through aws-lc-rs.

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey, Pkcs1PrivateDecryptingKey,
    PrivateDecryptingKey,
};
use zeroize::{Zeroize, Zeroizing};

use super::DecryptionScheme;
use super::secret::Secret;
use crate::error::KeyFault;

/// An RSA key as aws-lc wants it for decryption: one object for each padding. Making it checks the key, which takes longer than
/// using it.
pub(crate) struct RsaDecryption {
    pkcs1: Pkcs1PrivateDecryptingKey,
    oaep: OaepPrivateDecryptingKey,
}

impl RsaDecryption {
    /// Reads an RSA private key in PKCS#8.
    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, KeyFault> {
        let unusable = || KeyFault::Unusable("the private key cannot be used for decryption".to_owned());
        let read = || PrivateDecryptingKey::from_pkcs8(der).map_err(|_| unusable());
        Ok(Self {
            pkcs1: Pkcs1PrivateDecryptingKey::new(read()?).map_err(|_| unusable())?,
            oaep: OaepPrivateDecryptingKey::new(read()?).map_err(|_| unusable())?,
        })
    }

    /// Opens a ciphertext.
    pub(crate) fn open(&self, scheme: DecryptionScheme, ciphertext: &[u8]) -> Result<Secret, KeyFault> {
        let mut room = Zeroizing::new(vec![0; self.pkcs1.min_output_size()]);
        let oaep = |algorithm: &'static OaepAlgorithm, room: &mut [u8]| {
            self.oaep.decrypt(algorithm, ciphertext, room, None).map(|opened| opened.len())
        };
        let length = match scheme {
            DecryptionScheme::RsaPkcs1v15 => self.pkcs1.decrypt(ciphertext, &mut room).map(|opened| opened.len()),
            DecryptionScheme::RsaOaepSha1 => oaep(&OAEP_SHA1_MGF1SHA1, &mut room),
            DecryptionScheme::RsaOaepSha256 => oaep(&OAEP_SHA256_MGF1SHA256, &mut room),
        };
        let length = length.map_err(|_| KeyFault::Undecipherable)?;
        // In place: a shorter copy would leave the longer one to wipe anyway.
        let mut opened = std::mem::take(&mut *room);
        if let Some(rest) = opened.get_mut(length..) {
            rest.zeroize();
        }
        opened.truncate(length);
        Ok(Secret::new(opened))
    }
}
