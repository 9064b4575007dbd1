//! Public keys of subjects: which are accepted, and which are proven to be held by who presents them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, EcdsaVerificationAlgorithm, ML_DSA_44,
    ML_DSA_65, ML_DSA_87, ParsedPublicKey, PqdsaVerificationAlgorithm,
};
use der::asn1::UintRef;
use der::{Decode, Encode, Sequence};
use num_bigint::BigUint;
use serde::{Deserialize, Serialize};
use spki::SubjectPublicKeyInfoRef;

use crate::algorithm::KeyFamily;
use crate::error::{Reason, Refusal};
use crate::weak_key;

/// The least and the greatest length of an RSA modulus, in bits.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// The least public exponent of an RSA key: smaller ones fall to padding attacks.
const RSA_EXPONENT_MIN: u64 = 65537;

/// The greatest length of a public exponent, in bits. Longer ones only make verification expensive; aws-lc refuses them as well,
/// so possession of such a key could never be shown.
const RSA_EXPONENT_BITS_MAX: u32 = 33;

/// A public key that may stand in a certificate: well-formed, of an accepted kind and size, and not weak by construction.
///
/// Whether it is on a list of known keys is judged by `weak_key::BlockedKeys`, since that list can change.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SubjectKey {
    kind: SubjectKeyKind,
    spki_der: Vec<u8>,
    public_key: Vec<u8>,
}

impl SubjectKey {
    /// Accepts a SubjectPublicKeyInfo (DER, RFC 5280 section 4.1.2.7).
    ///
    /// RSA keys have NULL parameters, 2048 to 8192 bits and an odd exponent from 65537; elliptic curve keys a named curve (P-256,
    /// P-384 or P-521) and an uncompressed point on it; Ed25519 keys no parameters and no point of small order; ML-DSA keys no
    /// parameters.
    ///
    /// # Errors
    /// `BadKey` with what is wrong.
    pub fn accept(spki_der: &[u8]) -> Result<Self, Refusal> {
        let malformed =
            |error: der::Error| bad_key("the public key is not well-formed").with_private(error.to_string());
        let spki = SubjectPublicKeyInfoRef::from_der(spki_der).map_err(malformed)?;
        let public_key = spki
            .subject_public_key
            .as_bytes()
            .ok_or_else(|| bad_key("the public key is not a whole number of octets"))?;
        let kind = match KeyFamily::of(&spki.algorithm)? {
            KeyFamily::Rsa => accept_rsa(public_key)?,
            KeyFamily::P256 => accept_point(public_key, 32, &ECDSA_P256_SHA256_ASN1, SubjectKeyKind::EcP256)?,
            KeyFamily::P384 => accept_point(public_key, 48, &ECDSA_P384_SHA384_ASN1, SubjectKeyKind::EcP384)?,
            KeyFamily::P521 => accept_point(public_key, 66, &ECDSA_P521_SHA512_ASN1, SubjectKeyKind::EcP521)?,
            KeyFamily::Ed25519 => accept_ed25519(public_key)?,
            KeyFamily::MlDsa44 => accept_ml_dsa(public_key, &ML_DSA_44, SubjectKeyKind::MlDsa44)?,
            KeyFamily::MlDsa65 => accept_ml_dsa(public_key, &ML_DSA_65, SubjectKeyKind::MlDsa65)?,
            KeyFamily::MlDsa87 => accept_ml_dsa(public_key, &ML_DSA_87, SubjectKeyKind::MlDsa87)?,
        };
        // One key has one encoding, so that fingerprints can stand for keys.
        if spki.to_der().map_err(malformed)? != spki_der {
            return Err(bad_key("the public key is not in its canonical encoding"));
        }
        Ok(Self { kind, spki_der: spki_der.to_vec(), public_key: public_key.to_vec() })
    }

    /// What kind of key it is.
    #[must_use]
    pub fn kind(&self) -> SubjectKeyKind {
        self.kind
    }

    /// The SubjectPublicKeyInfo, DER, octet by octet as it was presented.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// SHA-256 of the SubjectPublicKeyInfo: the name of this key in indexes and lists.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        octets(digest(&SHA256, &self.spki_der).as_ref())
    }

    /// The subject key identifier: SHA-1 of the subjectPublicKey bits (RFC 5280 section 4.2.1.2, method 1).
    #[must_use]
    pub fn key_identifier(&self) -> [u8; 20] {
        octets(digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.public_key).as_ref())
    }
}

/// Kind and fingerprint, which tell keys apart without filling the log.
impl fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubjectKey({} {})", self.kind, hex::encode(self.fingerprint()))
    }
}

/// A subject key whose holder has shown possession of the private key: the holder signed, with that key, something that
/// only this request can contain (a PKCS#10 request, for one).
///
/// A value exists only where this crate has verified such a signature itself, so code that asks for a `ProvenKey` cannot be
/// given a key that somebody merely copied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProvenKey {
    key: SubjectKey,
    envelope: Option<Arc<[u8]>>,
}

impl ProvenKey {
    /// Call this only right after the signature of the key over the request was verified.
    pub(crate) fn after_verified_signature(key: SubjectKey) -> Self {
        Self { key, envelope: None }
    }

    /// The key itself.
    #[must_use]
    pub fn subject_key(&self) -> &SubjectKey {
        &self.key
    }

    /// The same key, with its private half in an envelope that only holders of recovery certificates can open. The envelope is stored
    /// in the commit that reserves the certificate's serial: there is no certificate without it.
    #[must_use]
    pub fn archived_in(self, envelope: Vec<u8>) -> Self {
        Self { envelope: Some(envelope.into()), ..self }
    }

    pub(crate) fn envelope(&self) -> Option<&[u8]> {
        self.envelope.as_deref()
    }
}

/// The kind of a subject key, as access rules name it: `rsa-3072`, `ec-p256`, `ed25519`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum SubjectKeyKind {
    /// RSA.
    Rsa {
        /// Length of the modulus in bits.
        bits: u32,
    },
    /// A point on P-256.
    EcP256,
    /// A point on P-384.
    EcP384,
    /// A point on P-521.
    EcP521,
    /// Ed25519 (RFC 8410).
    Ed25519,
    /// ML-DSA-44 (RFC 9881).
    MlDsa44,
    /// ML-DSA-65 (RFC 9881).
    MlDsa65,
    /// ML-DSA-87 (RFC 9881).
    MlDsa87,
}

impl fmt::Display for SubjectKeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa { bits } => write!(f, "rsa-{bits}"),
            Self::EcP256 => f.write_str("ec-p256"),
            Self::EcP384 => f.write_str("ec-p384"),
            Self::EcP521 => f.write_str("ec-p521"),
            Self::Ed25519 => f.write_str("ed25519"),
            Self::MlDsa44 => f.write_str("ml-dsa-44"),
            Self::MlDsa65 => f.write_str("ml-dsa-65"),
            Self::MlDsa87 => f.write_str("ml-dsa-87"),
        }
    }
}

/// Reads what `Display` writes; the error lists the choices.
impl FromStr for SubjectKeyKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ec-p256" => return Ok(Self::EcP256),
            "ec-p384" => return Ok(Self::EcP384),
            "ec-p521" => return Ok(Self::EcP521),
            "ed25519" => return Ok(Self::Ed25519),
            "ml-dsa-44" => return Ok(Self::MlDsa44),
            "ml-dsa-65" => return Ok(Self::MlDsa65),
            "ml-dsa-87" => return Ok(Self::MlDsa87),
            _ => {}
        }
        text.strip_prefix("rsa-")
            .and_then(|bits| bits.parse().ok())
            .filter(|bits| RSA_BITS.contains(bits))
            .map(|bits| Self::Rsa { bits })
            .ok_or_else(|| {
                let (min, max) = (RSA_BITS.start(), RSA_BITS.end());
                format!("{text:?} is not a kind of key; choose one of ec-p256, ec-p384, ec-p521, ed25519, ml-dsa-44, ml-dsa-65, ml-dsa-87, rsa-{min} to rsa-{max}")
            })
    }
}

impl From<SubjectKeyKind> for String {
    fn from(kind: SubjectKeyKind) -> Self {
        kind.to_string()
    }
}

impl TryFrom<String> for SubjectKeyKind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// RFC 8017 appendix A.1.1.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
}

fn accept_rsa(public_key: &[u8]) -> Result<SubjectKeyKind, Refusal> {
    let key = RsaPublicKey::from_der(public_key)
        .map_err(|error| bad_key("the RSA key is not well-formed").with_private(error.to_string()))?;

    let bits = bit_length(key.modulus.as_bytes());
    if !RSA_BITS.contains(&bits) {
        let (min, max) = (RSA_BITS.start(), RSA_BITS.end());
        return Err(bad_key(format!("the RSA key has {bits} bits; it must have {min} to {max}")));
    }

    let exponent = key.public_exponent.as_bytes();
    if bit_length(exponent) > RSA_EXPONENT_BITS_MAX {
        return Err(bad_key(format!("the RSA key's exponent has more than {RSA_EXPONENT_BITS_MAX} bits")));
    }
    let exponent = exponent.iter().fold(0, |value, octet| value << 8 | u64::from(*octet));
    if exponent < RSA_EXPONENT_MIN || exponent.is_multiple_of(2) {
        return Err(bad_key(format!(
            "the RSA key's exponent is {exponent}; it must be odd and at least {RSA_EXPONENT_MIN}"
        )));
    }

    weak_key::refuse_weak_modulus(&BigUint::from_bytes_be(key.modulus.as_bytes()))?;
    Ok(SubjectKeyKind::Rsa { bits })
}

/// Accepts an uncompressed point (SEC 1 section 2.3.3); aws-lc judges whether it lies on the curve.
fn accept_point(
    point: &[u8],
    coordinate_bytes: usize,
    algorithm: &'static EcdsaVerificationAlgorithm,
    kind: SubjectKeyKind,
) -> Result<SubjectKeyKind, Refusal> {
    match point.first() {
        Some(0x04) => {}
        Some(0x02 | 0x03) => {
            return Err(bad_key("the elliptic curve point is compressed; it must be uncompressed"));
        }
        _ => {
            return Err(bad_key("the elliptic curve point is not an uncompressed point"));
        }
    }
    if point.len() != 1 + 2 * coordinate_bytes {
        return Err(bad_key("the elliptic curve point does not have the length that its curve demands"));
    }
    match ParsedPublicKey::new(algorithm, point) {
        Ok(_) => Ok(kind),
        Err(_) => Err(bad_key("the elliptic curve point does not lie on its curve")),
    }
}

fn accept_ed25519(point: &[u8]) -> Result<SubjectKeyKind, Refusal> {
    let point = <[u8; 32]>::try_from(point).map_err(|_| bad_key("an Ed25519 key must have 32 octets"))?;
    weak_key::refuse_small_order(point)?;
    Ok(SubjectKeyKind::Ed25519)
}

/// aws-lc judges length and encoding: every string of the right length is a key (FIPS 204 section 4.3, `pkDecode`).
fn accept_ml_dsa(
    public_key: &[u8],
    parameters: &'static PqdsaVerificationAlgorithm,
    kind: SubjectKeyKind,
) -> Result<SubjectKeyKind, Refusal> {
    match ParsedPublicKey::new(parameters, public_key) {
        Ok(_) => Ok(kind),
        Err(_) => Err(bad_key("the ML-DSA key does not have the length that its parameters demand")),
    }
}

/// The length in bits of a number without leading zero octets, big endian.
fn bit_length(number: &[u8]) -> u32 {
    let leading_zeros = number.first().map_or(0, |octet| octet.leading_zeros());
    u32::try_from(number.len()).unwrap_or(u32::MAX).saturating_mul(8).saturating_sub(leading_zeros)
}

fn bad_key(public: impl Into<String>) -> Refusal {
    Refusal::new(Reason::BadKey, public)
}

fn octets<const N: usize>(digest: &[u8]) -> [u8; N] {
    let mut octets = [0; N];
    for (to, from) in octets.iter_mut().zip(digest) {
        *to = *from;
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weak_key::BlockedKeys;

    /// The base point of P-256: spec vectors need a key that everybody can write down. Its private key is 1.
    const BASE_POINT: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                              4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

    fn base_point() -> SubjectKey {
        SubjectKey::accept(&hex::decode(BASE_POINT).unwrap()).unwrap()
    }

    #[test]
    fn identifiers_are_those_of_the_vectors() {
        let key = base_point();
        assert_eq!(hex::encode(key.key_identifier()), "b467a3999eb5efa671de0032f08a9c9e5efda0e1");
        assert_eq!(hex::encode(key.fingerprint()), "5cd252fb0ce8932436faf8ccd1040981b89ee4ad6b9fe9e2a2b7e71aacb27cd3");
        assert_eq!(hex::encode(key.spki_der()), BASE_POINT.replace(' ', ""));
        assert_eq!(key.kind(), SubjectKeyKind::EcP256);
    }

    #[test]
    fn s06_published_and_blocked_keys_are_refused() {
        let key = base_point();
        assert_eq!(BlockedKeys::load([]).check(&key).unwrap_err().reason(), Reason::BadKey);

        let spki =
            std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../testvectors/ca-backend/csr/p256.der")).unwrap();
        let own = crate::csr::CertificateRequest::open(&spki).unwrap();
        let own = own.key().subject_key();
        BlockedKeys::load([]).check(own).unwrap();
        assert_eq!(BlockedKeys::load([own.fingerprint()]).check(own).unwrap_err().reason(), Reason::BadKey);
    }

    #[test]
    fn kinds_are_written_as_they_are_read() {
        for text in
            ["rsa-2048", "rsa-3071", "rsa-8192", "ec-p256", "ec-p384", "ec-p521", "ed25519", "ml-dsa-44", "ml-dsa-87"]
        {
            let kind: SubjectKeyKind = text.parse().unwrap();
            assert_eq!(kind.to_string(), text);
            assert_eq!(toml::Value::try_from(kind).unwrap().try_into(), Ok(kind));
        }
        for text in ["rsa-1024", "rsa-16384", "rsa-", "rsa", "p256", ""] {
            assert!(text.parse::<SubjectKeyKind>().unwrap_err().contains("ec-p256"), "{text:?}");
        }
    }

    #[test]
    fn octets_that_follow_the_key_are_refused() {
        let longer = hex::decode(format!("{BASE_POINT}00")).unwrap();
        assert_eq!(SubjectKey::accept(&longer).unwrap_err().reason(), Reason::BadKey);
    }
}
