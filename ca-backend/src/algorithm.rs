//! The algorithms of authorities and subjects: one list, so that a new one touches no protocol.
//!
//! [`KeyAlgorithm`] names what this daemon signs with; [`verify_signature`] judges signatures of others, which may combine curves
//! and digests more freely.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, ED25519, ML_DSA_44, ML_DSA_65, ML_DSA_87, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use const_oid::ObjectIdentifier;
use const_oid::db::fips204::{ID_ML_DSA_44, ID_ML_DSA_65, ID_ML_DSA_87};
use const_oid::db::rfc5912::{
    DSA_WITH_SHA_1, ECDSA_WITH_SHA_224, ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ECDSA_WITH_SHA_512, ID_EC_PUBLIC_KEY,
    ID_MGF_1, ID_RSASSA_PSS, ID_SHA_256, ID_SHA_384, ID_SHA_512, MD_2_WITH_RSA_ENCRYPTION, MD_5_WITH_RSA_ENCRYPTION,
    RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1, SECP_521_R_1, SHA_1_WITH_RSA_ENCRYPTION, SHA_224_WITH_RSA_ENCRYPTION,
    SHA_256_WITH_RSA_ENCRYPTION, SHA_384_WITH_RSA_ENCRYPTION, SHA_512_WITH_RSA_ENCRYPTION,
};
use const_oid::db::rfc8410::ID_ED_25519;
use der::asn1::Any;
use der::referenced::OwnedToRef;
use der::{Decode, Sequence, asn1::AnyRef};
use serde::{Deserialize, Serialize};
use spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use crate::error::{Reason, Refusal};
use crate::subject_key::{SubjectKey, SubjectKeyKind};

/// The algorithm of a key that this daemon makes and uses: authorities, responders, its own TLS certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256, signing with SHA-256.
    #[serde(rename = "ec-p256")]
    EcP256,
    /// ECDSA on P-384, signing with SHA-384.
    #[serde(rename = "ec-p384")]
    EcP384,
    /// ECDSA on P-521, signing with SHA-512.
    #[serde(rename = "ec-p521")]
    EcP521,
    /// RSA with 2048 bits, signing PKCS#1 v1.5 with SHA-256.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA with 3072 bits, signing PKCS#1 v1.5 with SHA-256.
    #[serde(rename = "rsa-3072")]
    Rsa3072,
    /// RSA with 4096 bits, signing PKCS#1 v1.5 with SHA-512.
    #[serde(rename = "rsa-4096")]
    Rsa4096,
    /// Ed25519 (RFC 8410).
    #[serde(rename = "ed25519")]
    Ed25519,
    /// ML-DSA-44 (FIPS 204, RFC 9881), against quantum computers.
    #[serde(rename = "ml-dsa-44")]
    MlDsa44,
    /// ML-DSA-65 (FIPS 204, RFC 9881).
    #[serde(rename = "ml-dsa-65")]
    MlDsa65,
    /// ML-DSA-87 (FIPS 204, RFC 9881).
    #[serde(rename = "ml-dsa-87")]
    MlDsa87,
}

impl KeyAlgorithm {
    /// Every algorithm, in the order in which an operator is offered them.
    pub const ALL: [Self; 10] = [
        Self::EcP256,
        Self::EcP384,
        Self::EcP521,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
        Self::Ed25519,
        Self::MlDsa44,
        Self::MlDsa65,
        Self::MlDsa87,
    ];

    /// The name that settings, the command line and stored records use: `ec-p256`, `rsa-2048`, `ed25519`, `ml-dsa-65`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::EcP521 => "ec-p521",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
            Self::Ed25519 => "ed25519",
            Self::MlDsa44 => "ml-dsa-44",
            Self::MlDsa65 => "ml-dsa-65",
            Self::MlDsa87 => "ml-dsa-87",
        }
    }

    /// Whether it is RSA: the one family whose keys decrypt too.
    #[must_use]
    pub fn is_rsa(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096)
    }

    /// The algorithm that a SubjectPublicKeyInfo is for.
    ///
    /// # Errors
    /// `BadKey` if it is malformed, weak, or of a kind and size that authorities do not use.
    pub fn of_public_key(spki_der: &[u8]) -> Result<Self, Refusal> {
        match SubjectKey::accept(spki_der)?.kind() {
            SubjectKeyKind::EcP256 => Ok(Self::EcP256),
            SubjectKeyKind::EcP384 => Ok(Self::EcP384),
            SubjectKeyKind::EcP521 => Ok(Self::EcP521),
            SubjectKeyKind::Ed25519 => Ok(Self::Ed25519),
            SubjectKeyKind::MlDsa44 => Ok(Self::MlDsa44),
            SubjectKeyKind::MlDsa65 => Ok(Self::MlDsa65),
            SubjectKeyKind::MlDsa87 => Ok(Self::MlDsa87),
            SubjectKeyKind::Rsa { bits: 2048 } => Ok(Self::Rsa2048),
            SubjectKeyKind::Rsa { bits: 3072 } => Ok(Self::Rsa3072),
            SubjectKeyKind::Rsa { bits: 4096 } => Ok(Self::Rsa4096),
            SubjectKeyKind::Rsa { bits } => {
                Err(Refusal::new(Reason::BadKey, format!("authorities do not use RSA keys of {bits} bits")))
            }
        }
    }

    /// The identifier that certificates, CRLs and OCSP answers signed with such a key carry.
    ///
    /// Parameters are absent for ECDSA (RFC 5758 section 3.2), Ed25519 (RFC 8410 section 3) and ML-DSA (RFC 9881 section 2), NULL
    /// for RSA (RFC 4055 section 5).
    #[must_use]
    pub fn signature_algorithm(self) -> AlgorithmIdentifierOwned {
        let (oid, parameters) = match self {
            Self::EcP256 => (ECDSA_WITH_SHA_256, None),
            Self::EcP384 => (ECDSA_WITH_SHA_384, None),
            Self::EcP521 => (ECDSA_WITH_SHA_512, None),
            Self::Rsa2048 | Self::Rsa3072 => (SHA_256_WITH_RSA_ENCRYPTION, Some(Any::null())),
            Self::Rsa4096 => (SHA_512_WITH_RSA_ENCRYPTION, Some(Any::null())),
            Self::Ed25519 => (ID_ED_25519, None),
            Self::MlDsa44 => (ID_ML_DSA_44, None),
            Self::MlDsa65 => (ID_ML_DSA_65, None),
            Self::MlDsa87 => (ID_ML_DSA_87, None),
        };
        AlgorithmIdentifierOwned { oid, parameters }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Reads [`KeyAlgorithm::name`]; the error lists the choices.
impl FromStr for KeyAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == text).ok_or_else(|| {
            let choices = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is not a key algorithm; choose one of {choices}")
        })
    }
}

/// Verifies a signature by any accepted algorithm over the raw bytes as received.
///
/// `spki_der` is the signer's SubjectPublicKeyInfo in DER; ECDSA signatures are DER (RFC 3279 section 2.2.3). Accepted are
/// SHA-256, SHA-384 and SHA-512 with ECDSA on P-256, P-384 and P-521 in any combination, the same digests with RSA PKCS#1 v1.5 and
/// PSS (the same digest in MGF1, a salt as long as the digest) and 2048 to 8192 bits, Ed25519, and ML-DSA with an empty context.
///
/// # Errors
/// `BadKey` for a key that is malformed or of no accepted kind, `BadAlgorithm` for a signature algorithm that is not accepted or
/// does not fit the key, `BadProof` for a signature that does not verify.
pub fn verify_signature(
    spki_der: &[u8],
    algorithm: &AlgorithmIdentifierOwned,
    message: &[u8],
    signature: &[u8],
) -> Result<(), Refusal> {
    let (verification, public_key) = verification_of(spki_der, algorithm)?;
    UnparsedPublicKey::new(verification, public_key).verify(message, signature).map_err(|_| does_not_verify())
}

/// A public key that is read once, and then verifies many signatures by one algorithm.
#[derive(Debug)]
pub(crate) struct VerificationKey(ParsedPublicKey);

impl VerificationKey {
    /// Keys and algorithms as [`verify_signature`] takes them, and its refusals.
    pub(crate) fn read(spki_der: &[u8], algorithm: &AlgorithmIdentifierOwned) -> Result<Self, Refusal> {
        let (verification, public_key) = verification_of(spki_der, algorithm)?;
        ParsedPublicKey::new(verification, public_key).map(Self).map_err(|error| {
            Refusal::new(Reason::BadKey, "the public key is not well-formed").with_private(error.to_string())
        })
    }

    /// `BadProof` for a signature that does not verify.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Refusal> {
        self.0.verify_sig(message, signature).map_err(|_| does_not_verify())
    }
}

/// How signatures by an algorithm are verified with a SubjectPublicKeyInfo, and the octets of the key in it.
fn verification_of<'a>(
    spki_der: &'a [u8],
    algorithm: &AlgorithmIdentifierOwned,
) -> Result<(&'static dyn VerificationAlgorithm, &'a [u8]), Refusal> {
    let spki = SubjectPublicKeyInfoRef::from_der(spki_der).map_err(|error| {
        Refusal::new(Reason::BadKey, "the public key is not well-formed").with_private(error.to_string())
    })?;
    let verification = verification(KeyFamily::of(&spki.algorithm)?, SignatureDigest::of(algorithm.owned_to_ref())?)?;
    let public_key = spki
        .subject_public_key
        .as_bytes()
        .ok_or_else(|| Refusal::new(Reason::BadKey, "the public key is not a whole number of octets"))?;
    Ok((verification, public_key))
}

fn does_not_verify() -> Refusal {
    Refusal::new(Reason::BadProof, "the signature does not verify with the public key")
}

/// What a SubjectPublicKeyInfo says that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyFamily {
    P256,
    P384,
    P521,
    Rsa,
    Ed25519,
    MlDsa44,
    MlDsa65,
    MlDsa87,
}

impl KeyFamily {
    /// Reads the AlgorithmIdentifier of a SubjectPublicKeyInfo; parameters must be exactly as their RFC has them.
    pub(crate) fn of(algorithm: &AlgorithmIdentifierRef<'_>) -> Result<Self, Refusal> {
        match (algorithm.oid, algorithm.parameters) {
            (ID_EC_PUBLIC_KEY, Some(parameters)) => Self::of_curve(parameters),
            (ID_EC_PUBLIC_KEY, None) => Err(Refusal::new(Reason::BadKey, "the elliptic curve key names no curve")),
            (RSA_ENCRYPTION, Some(parameters)) if parameters.is_null() => Ok(Self::Rsa),
            (RSA_ENCRYPTION, _) => Err(Refusal::new(Reason::BadKey, "the parameters of an RSA key must be NULL")),
            (ID_ED_25519, None) => Ok(Self::Ed25519),
            (ID_ED_25519, Some(_)) => Err(Refusal::new(Reason::BadKey, "an Ed25519 key must have no parameters")),
            (ID_ML_DSA_44, None) => Ok(Self::MlDsa44),
            (ID_ML_DSA_65, None) => Ok(Self::MlDsa65),
            (ID_ML_DSA_87, None) => Ok(Self::MlDsa87),
            (ID_ML_DSA_44 | ID_ML_DSA_65 | ID_ML_DSA_87, Some(_)) => {
                Err(Refusal::new(Reason::BadKey, "an ML-DSA key must have no parameters"))
            }
            // RFC 4055 section 1.2: it would limit what the certificate may sign, and nothing could be encrypted for it.
            (ID_RSASSA_PSS, _) => {
                let text = "a key for RSASSA-PSS alone is not accepted; write it as an RSA key (rsaEncryption)";
                Err(Refusal::new(Reason::BadKey, text))
            }
            (other, _) => Err(Refusal::new(Reason::BadKey, format!("keys of the kind {other} are not accepted"))),
        }
    }

    fn of_curve(parameters: AnyRef<'_>) -> Result<Self, Refusal> {
        let curve = parameters.decode_as::<ObjectIdentifier>().map_err(|_| {
            Refusal::new(Reason::BadKey, "the curve must be given by name; explicit parameters are not accepted")
        })?;
        match curve {
            SECP_256_R_1 => Ok(Self::P256),
            SECP_384_R_1 => Ok(Self::P384),
            SECP_521_R_1 => Ok(Self::P521),
            other => Err(Refusal::new(Reason::BadKey, format!("the curve {other} is not accepted"))),
        }
    }
}

/// What a signature AlgorithmIdentifier says, apart from the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SignatureDigest {
    EcdsaSha256,
    EcdsaSha384,
    EcdsaSha512,
    RsaSha256,
    RsaSha384,
    RsaSha512,
    RsaPssSha256,
    RsaPssSha384,
    RsaPssSha512,
    Ed25519,
    MlDsa44,
    MlDsa65,
    MlDsa87,
}

/// ecdsa-with-SHA1 (ANSI X9.62), which the table of identifiers lacks.
const ECDSA_WITH_SHA_1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.1");

impl SignatureDigest {
    fn of(algorithm: AlgorithmIdentifierRef<'_>) -> Result<Self, Refusal> {
        let digest = match algorithm.oid {
            ECDSA_WITH_SHA_256 => Self::EcdsaSha256,
            ECDSA_WITH_SHA_384 => Self::EcdsaSha384,
            ECDSA_WITH_SHA_512 => Self::EcdsaSha512,
            SHA_256_WITH_RSA_ENCRYPTION => Self::RsaSha256,
            SHA_384_WITH_RSA_ENCRYPTION => Self::RsaSha384,
            SHA_512_WITH_RSA_ENCRYPTION => Self::RsaSha512,
            ID_RSASSA_PSS => return Self::of_pss(algorithm.parameters),
            ID_ED_25519 => Self::Ed25519,
            ID_ML_DSA_44 => Self::MlDsa44,
            ID_ML_DSA_65 => Self::MlDsa65,
            ID_ML_DSA_87 => Self::MlDsa87,
            MD_2_WITH_RSA_ENCRYPTION
            | MD_5_WITH_RSA_ENCRYPTION
            | SHA_1_WITH_RSA_ENCRYPTION
            | SHA_224_WITH_RSA_ENCRYPTION
            | DSA_WITH_SHA_1
            | ECDSA_WITH_SHA_1
            | ECDSA_WITH_SHA_224 => {
                return Err(Refusal::new(
                    Reason::BadAlgorithm,
                    "the signature uses a digest that is too weak; sign with SHA-256 or better",
                ));
            }
            other => {
                return Err(Refusal::new(
                    Reason::BadAlgorithm,
                    format!("the signature algorithm {other} is not accepted"),
                ));
            }
        };
        let parameters_fit = match digest {
            // RFC 4055 section 5: NULL when written, absent must be accepted too.
            Self::RsaSha256 | Self::RsaSha384 | Self::RsaSha512 => algorithm.parameters.is_none_or(AnyRef::is_null),
            // Theirs were read before.
            Self::RsaPssSha256 | Self::RsaPssSha384 | Self::RsaPssSha512 => true,
            Self::EcdsaSha256
            | Self::EcdsaSha384
            | Self::EcdsaSha512
            | Self::Ed25519
            | Self::MlDsa44
            | Self::MlDsa65
            | Self::MlDsa87 => algorithm.parameters.is_none(),
        };
        if parameters_fit {
            Ok(digest)
        } else {
            Err(Refusal::new(Reason::BadAlgorithm, "the signature algorithm carries parameters that it must not have"))
        }
    }

    /// RSASSA-PSS (RFC 4055 section 3.1), as far as everybody uses it.
    fn of_pss(parameters: Option<AnyRef<'_>>) -> Result<Self, Refusal> {
        const SHA_1_SALT_OCTETS: u32 = 20;
        let refused = || {
            let text = "an RSASSA-PSS signature needs SHA-256, SHA-384 or SHA-512, the same digest in MGF1, and a salt as long as the digest";
            Refusal::new(Reason::BadAlgorithm, text)
        };
        let parameters = parameters.ok_or_else(refused)?.decode_as::<PssParameters<'_>>().map_err(|_| refused())?;
        // Every field has a default, which is that of SHA-1 and so is accepted nowhere but in the trailer.
        let hash = parameters.hash.and_then(digest_oid).ok_or_else(refused)?;
        let mask = parameters.mask.filter(|mask| mask.oid == ID_MGF_1).and_then(|mask| mask.parameters);
        let mask = mask.and_then(|mask| mask.decode_as().ok()).and_then(digest_oid).ok_or_else(refused)?;
        let salt_octets = parameters.salt_octets.unwrap_or(SHA_1_SALT_OCTETS);
        if hash != mask || parameters.trailer.unwrap_or(1) != 1 {
            return Err(refused());
        }
        match (hash, salt_octets) {
            (ID_SHA_256, 32) => Ok(Self::RsaPssSha256),
            (ID_SHA_384, 48) => Ok(Self::RsaPssSha384),
            (ID_SHA_512, 64) => Ok(Self::RsaPssSha512),
            _ => Err(refused()),
        }
    }
}

/// RSASSA-PSS-params (RFC 4055 section 3.1).
#[derive(Sequence)]
struct PssParameters<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    salt_octets: Option<u32>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    trailer: Option<u8>,
}

/// The identifier of a digest, whose parameters are NULL or absent (RFC 4055 section 2.1).
fn digest_oid(digest: AlgorithmIdentifierRef<'_>) -> Option<ObjectIdentifier> {
    digest.parameters.is_none_or(AnyRef::is_null).then_some(digest.oid)
}

/// The one verification for a key and a signature algorithm, if they fit each other.
fn verification(family: KeyFamily, digest: SignatureDigest) -> Result<&'static dyn VerificationAlgorithm, Refusal> {
    Ok(match (family, digest) {
        (KeyFamily::P256, SignatureDigest::EcdsaSha256) => &ECDSA_P256_SHA256_ASN1,
        (KeyFamily::P256, SignatureDigest::EcdsaSha384) => &ECDSA_P256_SHA384_ASN1,
        (KeyFamily::P256, SignatureDigest::EcdsaSha512) => &ECDSA_P256_SHA512_ASN1,
        (KeyFamily::P384, SignatureDigest::EcdsaSha256) => &ECDSA_P384_SHA256_ASN1,
        (KeyFamily::P384, SignatureDigest::EcdsaSha384) => &ECDSA_P384_SHA384_ASN1,
        (KeyFamily::P384, SignatureDigest::EcdsaSha512) => &ECDSA_P384_SHA512_ASN1,
        (KeyFamily::P521, SignatureDigest::EcdsaSha256) => &ECDSA_P521_SHA256_ASN1,
        (KeyFamily::P521, SignatureDigest::EcdsaSha384) => &ECDSA_P521_SHA384_ASN1,
        (KeyFamily::P521, SignatureDigest::EcdsaSha512) => &ECDSA_P521_SHA512_ASN1,
        (KeyFamily::Rsa, SignatureDigest::RsaSha256) => &RSA_PKCS1_2048_8192_SHA256,
        (KeyFamily::Rsa, SignatureDigest::RsaSha384) => &RSA_PKCS1_2048_8192_SHA384,
        (KeyFamily::Rsa, SignatureDigest::RsaSha512) => &RSA_PKCS1_2048_8192_SHA512,
        (KeyFamily::Rsa, SignatureDigest::RsaPssSha256) => &RSA_PSS_2048_8192_SHA256,
        (KeyFamily::Rsa, SignatureDigest::RsaPssSha384) => &RSA_PSS_2048_8192_SHA384,
        (KeyFamily::Rsa, SignatureDigest::RsaPssSha512) => &RSA_PSS_2048_8192_SHA512,
        (KeyFamily::Ed25519, SignatureDigest::Ed25519) => &ED25519,
        (KeyFamily::MlDsa44, SignatureDigest::MlDsa44) => &ML_DSA_44,
        (KeyFamily::MlDsa65, SignatureDigest::MlDsa65) => &ML_DSA_65,
        (KeyFamily::MlDsa87, SignatureDigest::MlDsa87) => &ML_DSA_87,
        (
            KeyFamily::P256
            | KeyFamily::P384
            | KeyFamily::P521
            | KeyFamily::Rsa
            | KeyFamily::Ed25519
            | KeyFamily::MlDsa44
            | KeyFamily::MlDsa65
            | KeyFamily::MlDsa87,
            _,
        ) => {
            return Err(Refusal::new(Reason::BadAlgorithm, "the signature algorithm does not fit the public key"));
        }
    })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P521_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    };

    use super::*;

    const MESSAGE: &[u8] = b"the bytes as received";

    fn identifier(oid: ObjectIdentifier, parameters: Option<Any>) -> AlgorithmIdentifierOwned {
        AlgorithmIdentifierOwned { oid, parameters }
    }

    fn p256_signature() -> (Vec<u8>, Vec<u8>) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let signature = pair.sign(&SystemRandom::new(), MESSAGE).unwrap();
        (pair.public_key().as_der().unwrap().as_ref().to_vec(), signature.as_ref().to_vec())
    }

    fn reason(result: Result<(), Refusal>) -> Reason {
        result.unwrap_err().reason()
    }

    #[test]
    fn every_algorithm_is_written_as_it_is_read() {
        for algorithm in KeyAlgorithm::ALL {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
            assert_eq!(toml::Value::try_from(algorithm).unwrap().as_str(), Some(algorithm.name()));
        }
    }

    #[test]
    fn an_unknown_algorithm_is_answered_with_the_choices() {
        let error = "rsa-1024".parse::<KeyAlgorithm>().unwrap_err();
        assert!(
            error.contains("rsa-1024") && error.contains("ec-p256, ec-p384") && error.contains("ed25519"),
            "{error}"
        );
    }

    #[test]
    fn a_good_signature_verifies_and_an_altered_message_does_not() {
        let (spki, signature) = p256_signature();
        let algorithm = KeyAlgorithm::EcP256.signature_algorithm();
        verify_signature(&spki, &algorithm, MESSAGE, &signature).unwrap();
        assert_eq!(reason(verify_signature(&spki, &algorithm, b"other bytes", &signature)), Reason::BadProof);
        let read = VerificationKey::read(&spki, &algorithm).unwrap();
        read.verify(MESSAGE, &signature).unwrap();
        assert_eq!(reason(read.verify(b"other bytes", &signature)), Reason::BadProof);
        assert_eq!(reason(read.verify(MESSAGE, &signature[..8])), Reason::BadProof);
        assert_eq!(reason(verify_signature(&spki, &algorithm, MESSAGE, &signature[..8])), Reason::BadProof);
    }

    #[test]
    fn a_curve_may_sign_with_another_digest_than_our_own_keys_do() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P521_SHA384_ASN1_SIGNING).unwrap();
        let signature = pair.sign(&SystemRandom::new(), MESSAGE).unwrap();
        let spki = pair.public_key().as_der().unwrap();
        verify_signature(spki.as_ref(), &identifier(ECDSA_WITH_SHA_384, None), MESSAGE, signature.as_ref()).unwrap();
    }

    #[test]
    fn a_signature_algorithm_that_does_not_fit_the_key_is_refused() {
        let (spki, signature) = p256_signature();
        for algorithm in [KeyAlgorithm::Rsa2048, KeyAlgorithm::Ed25519] {
            let refused = verify_signature(&spki, &algorithm.signature_algorithm(), MESSAGE, &signature);
            assert_eq!(reason(refused), Reason::BadAlgorithm);
        }
        let pair = Ed25519KeyPair::generate().unwrap();
        let spki = pair.public_key().as_der().unwrap();
        let ecdsa = KeyAlgorithm::EcP256.signature_algorithm();
        assert_eq!(reason(verify_signature(spki.as_ref(), &ecdsa, MESSAGE, &signature)), Reason::BadAlgorithm);
    }

    #[test]
    fn s24_weak_digests_are_refused_by_algorithm() {
        let (spki, signature) = p256_signature();
        for oid in [ECDSA_WITH_SHA_1, ECDSA_WITH_SHA_224, SHA_1_WITH_RSA_ENCRYPTION, MD_5_WITH_RSA_ENCRYPTION] {
            let refusal = verify_signature(&spki, &identifier(oid, None), MESSAGE, &signature).unwrap_err();
            assert_eq!(refusal.reason(), Reason::BadAlgorithm);
            assert!(refusal.public().contains("SHA-256 or better"), "{refusal:?}");
        }
    }

    #[test]
    fn parameters_where_none_belong_are_refused() {
        let (spki, signature) = p256_signature();
        let with_null = identifier(ECDSA_WITH_SHA_256, Some(Any::null()));
        assert_eq!(reason(verify_signature(&spki, &with_null, MESSAGE, &signature)), Reason::BadAlgorithm);
    }

    #[test]
    fn bytes_that_are_no_public_key_are_refused_by_key() {
        let (spki, signature) = p256_signature();
        let algorithm = KeyAlgorithm::EcP256.signature_algorithm();
        for bytes in [&spki[1..], &spki[..20], b"".as_slice(), &[spki.as_slice(), b"\0"].concat()] {
            assert_eq!(reason(verify_signature(bytes, &algorithm, MESSAGE, &signature)), Reason::BadKey);
        }
    }
}
