//! The algorithms of messages, and which of them need a permission.

use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, Algorithm};
use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5911::{DES_EDE_3_CBC, ID_AES_128_CBC, ID_AES_192_CBC, ID_AES_256_CBC};
use const_oid::db::rfc5912::{
    ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ECDSA_WITH_SHA_512, ID_EC_PUBLIC_KEY, ID_MGF_1, ID_RSAES_OAEP,
    ID_RSASSA_PSS, ID_SHA_1, ID_SHA_256, ID_SHA_384, ID_SHA_512, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1,
    SECP_521_R_1, SHA_1_WITH_RSA_ENCRYPTION, SHA_256_WITH_RSA_ENCRYPTION, SHA_384_WITH_RSA_ENCRYPTION,
    SHA_512_WITH_RSA_ENCRYPTION,
};
use const_oid::db::rfc8410::ID_ED_25519;
use der::asn1::{AnyRef, OctetStringRef};
use der::{Decode, Encode, Sequence};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use crate::error::Error;

/// desCBC (OIW Security SIG), which the table of identifiers lacks.
const DES_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.7");

/// What is too weak today and taken only with permission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Legacy {
    /// SHA-1 in signatures.
    pub sha1: bool,
    /// 3DES.
    pub triple_des: bool,
    /// DES, which anybody who listens can break.
    pub des: bool,
}

/// A message digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Digest {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Digest {
    pub(crate) const fn oid(self) -> ObjectIdentifier {
        match self {
            Self::Sha1 => ID_SHA_1,
            Self::Sha256 => ID_SHA_256,
            Self::Sha384 => ID_SHA_384,
            Self::Sha512 => ID_SHA_512,
        }
    }

    fn of(oid: ObjectIdentifier) -> Result<Self, Error> {
        [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|digest| digest.oid() == oid)
            .ok_or_else(|| Error::Algorithm(format!("digest {oid}")))
    }

    /// Reads a digest's AlgorithmIdentifier, with NULL or without (RFC 5754 section 2).
    pub(crate) fn decode(algorithm: &[u8], legacy: Legacy) -> Result<Self, Error> {
        let digest = Self::of(AlgorithmIdentifierRef::from_der(algorithm)?.oid)?;
        if digest == Self::Sha1 && !legacy.sha1 {
            return Err(Error::Algorithm("SHA-1 is not permitted".to_owned()));
        }
        Ok(digest)
    }

    const fn octets(self) -> u32 {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of a message.
    #[must_use]
    pub fn of_message(self, message: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, message).as_ref().to_vec()
    }
}

/// Verifies a signer's signature.
///
/// `public_key` is a SubjectPublicKeyInfo. RSA has 2048 to 8192 bits, with PKCS#1 v1.5 or PSS (whose salt is as long as the
/// digest), and with a key for PSS alone (RFC 4055 section 1.2); with rsaEncryption the digest stands elsewhere.
pub(crate) fn verify(
    public_key: &[u8],
    signature_algorithm: &[u8],
    digest: Digest,
    message: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    let spki = SubjectPublicKeyInfoRef::from_der(public_key)?;
    let AlgorithmIdentifierRef { oid: signed_with, parameters } =
        AlgorithmIdentifierRef::from_der(signature_algorithm)?;
    if signed_with == ID_RSASSA_PSS {
        PssParameters::read(parameters)?.check_signature(digest)?;
    }
    let unfit =
        || Error::Algorithm(format!("signature {signed_with} with {digest:?} and a key of {}", spki.algorithm.oid));
    let algorithm: &'static dyn VerificationAlgorithm = match spki.algorithm.oid {
        RSA_ENCRYPTION => rsa(signed_with, digest).ok_or_else(unfit)?,
        ID_RSASSA_PSS if signed_with == ID_RSASSA_PSS => {
            if let Some(parameters) = spki.algorithm.parameters {
                PssParameters::read(Some(parameters))?.check_key(digest)?;
            }
            rsa(signed_with, digest).ok_or_else(unfit)?
        }
        ID_EC_PUBLIC_KEY => {
            let curve: ObjectIdentifier = spki.algorithm.parameters.ok_or_else(unfit)?.decode_as()?;
            ecdsa(curve, signed_with, digest).ok_or_else(unfit)?
        }
        ID_ED_25519 if signed_with == ID_ED_25519 => &ED25519,
        _ => return Err(unfit()),
    };
    let key = spki.subject_public_key.as_bytes().ok_or_else(|| Error::malformed("a key is not whole octets"))?;
    UnparsedPublicKey::new(algorithm, key).verify(message, signature).map_err(|_| Error::Signature)
}

/// RSASSA-PSS-params (RFC 4055 section 3.1). Every field has a default: SHA-1, MGF1 with SHA-1, a salt of 20 octets, 1.
#[derive(Sequence)]
struct PssParameters<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    salt_octets: Option<u32>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    trailer: Option<u32>,
}

impl<'a> PssParameters<'a> {
    fn read(parameters: Option<AnyRef<'a>>) -> Result<Self, Error> {
        // A signature has parameters (RFC 4055 section 3.1).
        let parameters = parameters.ok_or_else(|| Error::malformed("RSASSA-PSS without parameters"))?;
        Ok(parameters.decode_as()?)
    }

    /// Whether a signature over this digest may have these parameters: the digest itself (RFC 4056 section 3), the same one in MGF1,
    /// and a salt that is as long.
    fn check_signature(&self, digest: Digest) -> Result<(), Error> {
        self.check_digests(digest)?;
        let (salt, wanted) = (self.salt_octets.unwrap_or(20), digest.octets());
        if salt == wanted {
            return Ok(());
        }
        Err(Error::Algorithm(format!("RSASSA-PSS with a salt of {salt} octets in place of {wanted}")))
    }

    /// Whether a key with these parameters may sign this digest. Its salt is the least that may stand (RFC 4055 section 3.3).
    fn check_key(&self, digest: Digest) -> Result<(), Error> {
        self.check_digests(digest)?;
        match self.salt_octets.unwrap_or(20) {
            salt if salt <= digest.octets() => Ok(()),
            salt => Err(Error::Algorithm(format!("an RSASSA-PSS key for salts of at least {salt} octets"))),
        }
    }

    fn check_digests(&self, digest: Digest) -> Result<(), Error> {
        let hash = self.hash.as_ref().map_or(Ok(Digest::Sha1), |hash| Digest::of(hash.oid))?;
        let mask = mask_digest(self.mask.as_ref())?;
        if (hash, mask, self.trailer.unwrap_or(1)) == (digest, digest, 1) {
            return Ok(());
        }
        Err(Error::Algorithm(format!(
            "RSASSA-PSS with {hash:?} and MGF1 with {mask:?}, where the digest is {digest:?}"
        )))
    }
}

/// The digest in MGF1: SHA-1 if not stated (RFC 4055 section 2.2).
fn mask_digest(mask: Option<&AlgorithmIdentifierRef<'_>>) -> Result<Digest, Error> {
    match mask {
        None => Ok(Digest::Sha1),
        Some(AlgorithmIdentifierRef { oid: ID_MGF_1, parameters: Some(hash) }) => {
            Digest::of(hash.decode_as::<AlgorithmIdentifierRef<'_>>()?.oid)
        }
        Some(other) => Err(Error::Algorithm(format!("mask generation {}", other.oid))),
    }
}

fn rsa(signed_with: ObjectIdentifier, digest: Digest) -> Option<&'static dyn VerificationAlgorithm> {
    if signed_with == ID_RSASSA_PSS {
        return match digest {
            Digest::Sha1 => None,
            Digest::Sha256 => Some(&RSA_PSS_2048_8192_SHA256),
            Digest::Sha384 => Some(&RSA_PSS_2048_8192_SHA384),
            Digest::Sha512 => Some(&RSA_PSS_2048_8192_SHA512),
        };
    }
    let (named, algorithm): (_, &dyn VerificationAlgorithm) = match digest {
        Digest::Sha1 => (SHA_1_WITH_RSA_ENCRYPTION, &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY),
        Digest::Sha256 => (SHA_256_WITH_RSA_ENCRYPTION, &RSA_PKCS1_2048_8192_SHA256),
        Digest::Sha384 => (SHA_384_WITH_RSA_ENCRYPTION, &RSA_PKCS1_2048_8192_SHA384),
        Digest::Sha512 => (SHA_512_WITH_RSA_ENCRYPTION, &RSA_PKCS1_2048_8192_SHA512),
    };
    (signed_with == RSA_ENCRYPTION || signed_with == named).then_some(algorithm)
}

fn ecdsa(
    curve: ObjectIdentifier,
    signed_with: ObjectIdentifier,
    digest: Digest,
) -> Option<&'static dyn VerificationAlgorithm> {
    let (named, p256, p384, p521): (
        _,
        &dyn VerificationAlgorithm,
        &dyn VerificationAlgorithm,
        &dyn VerificationAlgorithm,
    ) = match digest {
        Digest::Sha1 => return None,
        Digest::Sha256 => {
            (ECDSA_WITH_SHA_256, &ECDSA_P256_SHA256_ASN1, &ECDSA_P384_SHA256_ASN1, &ECDSA_P521_SHA256_ASN1)
        }
        Digest::Sha384 => {
            (ECDSA_WITH_SHA_384, &ECDSA_P256_SHA384_ASN1, &ECDSA_P384_SHA384_ASN1, &ECDSA_P521_SHA384_ASN1)
        }
        Digest::Sha512 => {
            (ECDSA_WITH_SHA_512, &ECDSA_P256_SHA512_ASN1, &ECDSA_P384_SHA512_ASN1, &ECDSA_P521_SHA512_ASN1)
        }
    };
    let algorithm = match curve {
        SECP_256_R_1 => p256,
        SECP_384_R_1 => p384,
        SECP_521_R_1 => p521,
        _ => return None,
    };
    (signed_with == named).then_some(algorithm)
}

/// A cipher for contents, all of them in CBC mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Cipher {
    Aes128,
    Aes192,
    Aes256,
    TripleDes,
    Des,
}

impl Cipher {
    pub(crate) const fn oid(self) -> ObjectIdentifier {
        match self {
            Self::Aes128 => ID_AES_128_CBC,
            Self::Aes192 => ID_AES_192_CBC,
            Self::Aes256 => ID_AES_256_CBC,
            Self::TripleDes => DES_EDE_3_CBC,
            Self::Des => DES_CBC,
        }
    }

    /// Octets of a key.
    pub(crate) const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 | Self::TripleDes => 24,
            Self::Aes256 => 32,
            Self::Des => 8,
        }
    }

    #[expect(deprecated, reason = "DES and 3DES have permissions of their own")]
    pub(crate) fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128 => &AES_128,
            Self::Aes192 => &AES_192,
            Self::Aes256 => &AES_256,
            Self::TripleDes => &aws_lc_rs::cipher::DES_EDE3_FOR_LEGACY_USE_ONLY,
            Self::Des => &aws_lc_rs::cipher::DES_FOR_LEGACY_USE_ONLY,
        }
    }

    /// Reads an AlgorithmIdentifier and the initialization vector in it.
    pub(crate) fn decode(algorithm: &[u8], legacy: Legacy) -> Result<(Self, &[u8]), Error> {
        let algorithm = AlgorithmIdentifierRef::from_der(algorithm)?;
        let cipher = [Self::Aes128, Self::Aes192, Self::Aes256, Self::TripleDes, Self::Des]
            .into_iter()
            .find(|cipher| cipher.oid() == algorithm.oid)
            .ok_or_else(|| Error::Algorithm(format!("cipher {}", algorithm.oid)))?;
        if cipher == Self::TripleDes && !legacy.triple_des || cipher == Self::Des && !legacy.des {
            return Err(Error::Algorithm(format!("{cipher:?} is not permitted")));
        }
        let parameters = algorithm.parameters.ok_or_else(|| Error::malformed("no initialization vector"))?;
        let vector = parameters.decode_as::<&OctetStringRef>()?.as_bytes();
        if vector.len() != cipher.algorithm().block_len() {
            return Err(Error::malformed("the initialization vector is not as long as a block"));
        }
        Ok((cipher, vector))
    }
}

/// How a content key is encrypted with the recipient's RSA key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyTransport {
    /// RSAES-PKCS1-v1_5.
    Pkcs1v15,
    /// RSAES-OAEP with this digest for the label and in MGF1, and an empty label.
    Oaep(Digest),
}

/// RSAES-OAEP-params (RFC 4055 section 4.1). Every field has a default, which is SHA-1 and an empty label.
#[derive(Sequence)]
struct OaepParameters<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    label: Option<AlgorithmIdentifierRef<'a>>,
}

impl KeyTransport {
    pub(crate) fn decode(algorithm: &[u8]) -> Result<Self, Error> {
        let algorithm = AlgorithmIdentifierRef::from_der(algorithm)?;
        match algorithm.oid {
            RSA_ENCRYPTION => Ok(Self::Pkcs1v15),
            ID_RSAES_OAEP => Self::decode_oaep(algorithm.parameters),
            other => Err(Error::Algorithm(format!("key transport {other}"))),
        }
    }

    fn decode_oaep(parameters: Option<AnyRef<'_>>) -> Result<Self, Error> {
        let Some(parameters) = parameters.filter(|parameters| !parameters.is_null()) else {
            return Ok(Self::Oaep(Digest::Sha1));
        };
        let parameters = parameters.decode_as::<OaepParameters<'_>>()?;
        let hash = parameters.hash.map_or(Ok(Digest::Sha1), |hash| Digest::of(hash.oid))?;
        let mask = mask_digest(parameters.mask.as_ref())?;
        let empty = OctetStringRef::new(&[])?.to_der()?;
        let labelled =
            parameters.label.is_some_and(|label| label.parameters.is_none_or(|p| p.to_der().ok() != Some(empty)));
        if hash != mask || labelled {
            return Err(Error::Algorithm(format!("OAEP with {hash:?}, MGF1 with {mask:?}, labelled: {labelled}")));
        }
        Ok(Self::Oaep(hash))
    }

    /// Its AlgorithmIdentifier, DER.
    pub(crate) fn encode(self) -> Result<Vec<u8>, Error> {
        let digest = match self {
            Self::Pkcs1v15 => {
                let algorithm = AlgorithmIdentifierRef { oid: RSA_ENCRYPTION, parameters: Some(AnyRef::NULL) };
                return Ok(algorithm.to_der()?);
            }
            Self::Oaep(digest) => digest,
        };
        let hash = AlgorithmIdentifierRef { oid: digest.oid(), parameters: Some(AnyRef::NULL) };
        let hash_der = hash.to_der()?;
        let mask = AlgorithmIdentifierRef { oid: ID_MGF_1, parameters: Some(AnyRef::from_der(&hash_der)?) };
        // Fields that say the default are left out, as DER wants it.
        let stated = digest != Digest::Sha1;
        let parameters =
            OaepParameters { hash: stated.then_some(hash), mask: stated.then_some(mask), label: None }.to_der()?;
        let parameters = Some(AnyRef::from_der(&parameters)?);
        Ok(AlgorithmIdentifierRef { oid: ID_RSAES_OAEP, parameters }.to_der()?)
    }
}
