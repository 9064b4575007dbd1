//! Our algorithms in the words of PKCS#11: mechanisms, templates, and the encodings that differ.

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5912::{ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1, SECP_521_R_1};
use const_oid::db::rfc8410::ID_ED_25519;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use der::asn1::{Any, BitString, OctetString, PrintableString, UintRef};
use der::{Decode, Encode, Sequence};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::failure::Failure;
use crate::algorithm::KeyAlgorithm;
use crate::error::KeyFault;
use crate::keys::{DecryptionScheme, KeyPurpose};

/// The most octets that go to a token in one call: longer messages go in pieces.
const PIECE_BYTES: usize = 16 << 10;

/// A private key in a token.
#[derive(Clone, Debug)]
pub(crate) struct TokenKey {
    pub(crate) handle: ObjectHandle,
    pub(crate) algorithm: KeyAlgorithm,
    /// SubjectPublicKeyInfo, DER.
    pub(crate) public_key: Vec<u8>,
}

/// Makes a key that never leaves the token. The public key's object stays beside it, since tokens tell a private key's public half
/// in no common way.
pub(crate) fn generate(
    session: &Session,
    label: &[u8],
    id: &[u8],
    algorithm: KeyAlgorithm,
    purpose: KeyPurpose,
) -> Result<ObjectHandle, Failure> {
    let decrypts = purpose == KeyPurpose::SignAndDecrypt;
    let common = [Attribute::Token(true), Attribute::Label(label.to_vec()), Attribute::Id(id.to_vec())];
    let public = [common.as_slice(), &[Attribute::Verify(true), Attribute::Encrypt(decrypts)]].concat();
    let own = [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(decrypts),
    ];
    let private = [common.as_slice(), &own].concat();
    // What tokens allow unless they are told not to: unwrapping is decrypting by another name.
    let unwanted = [Attribute::Unwrap(false), Attribute::SignRecover(false), Attribute::Derive(false)];
    let attempt = |mechanism: &Mechanism<'_>, parameters: &[Attribute]| {
        let public = [public.as_slice(), parameters].concat();
        let pair = |private: &[Attribute]| session.generate_key_pair(mechanism, &public, private);
        let made = match pair(&[private.as_slice(), &unwanted].concat()) {
            // Some do not even know them. `is_as_wanted` looks at what came of it.
            Err(Error::Pkcs11(
                RvError::AttributeTypeInvalid | RvError::AttributeValueInvalid | RvError::TemplateInconsistent,
                _,
            )) => pair(&private),
            made => made,
        };
        made.map(|(_, private)| private).map_err(Failure::from)
    };
    let on_curve = |curve: ObjectIdentifier| {
        attempt(&Mechanism::EccKeyPairGen, &[Attribute::EcParams(curve.to_der().map_err(broken)?)])
    };
    let rsa = |bits: u32| {
        let parameters = [Attribute::ModulusBits(u64::from(bits).into()), Attribute::PublicExponent(vec![1, 0, 1])];
        attempt(&Mechanism::RsaPkcsKeyPairGen, &parameters)
    };
    match algorithm {
        KeyAlgorithm::EcP256 => on_curve(SECP_256_R_1),
        KeyAlgorithm::EcP384 => on_curve(SECP_384_R_1),
        KeyAlgorithm::EcP521 => on_curve(SECP_521_R_1),
        KeyAlgorithm::Rsa2048 => rsa(2048),
        KeyAlgorithm::Rsa3072 => rsa(3072),
        KeyAlgorithm::Rsa4096 => rsa(4096),
        KeyAlgorithm::MlDsa44 | KeyAlgorithm::MlDsa65 | KeyAlgorithm::MlDsa87 => Err(not_in_tokens(algorithm)),
        KeyAlgorithm::Ed25519 => {
            // PKCS#11 3.0 section 2.3.5 takes the name or the identifier; tokens take the one or the other.
            let name = PrintableString::new("edwards25519").and_then(|name| name.to_der()).map_err(broken)?;
            let identifier = ID_ED_25519.to_der().map_err(broken)?;
            attempt(&Mechanism::EccEdwardsKeyPairGen, &[Attribute::EcParams(identifier)])
                .or_else(|_| attempt(&Mechanism::EccEdwardsKeyPairGen, &[Attribute::EcParams(name)]))
        }
    }
}

/// Whether a key that was made never leaves the token, and decrypts only if it was made for that, whatever the token made of its
/// template.
pub(crate) fn is_as_wanted(session: &Session, private: ObjectHandle, purpose: KeyPurpose) -> Result<(), Failure> {
    let asked = [AttributeType::Sensitive, AttributeType::Extractable, AttributeType::Decrypt, AttributeType::Unwrap];
    for attribute in session.get_attributes(private, &asked)? {
        let leaves = matches!(attribute, Attribute::Sensitive(false) | Attribute::Extractable(true));
        let decrypts = matches!(attribute, Attribute::Decrypt(true) | Attribute::Unwrap(true));
        if leaves || (decrypts && purpose == KeyPurpose::Sign) {
            let why = format!("the token made a key with {attribute:?}, against its orders");
            return Err(KeyFault::Unsupported(why).into());
        }
    }
    Ok(())
}

/// Reads the public half of a private key.
pub(crate) fn read_key(session: &Session, handle: ObjectHandle) -> Result<TokenKey, Failure> {
    let public_key = read_public_key(session, handle)?;
    let algorithm =
        KeyAlgorithm::of_public_key(&public_key).map_err(|refusal| KeyFault::Unusable(refusal.private()))?;
    Ok(TokenKey { handle, algorithm, public_key })
}

fn read_public_key(session: &Session, private: ObjectHandle) -> Result<Vec<u8>, Failure> {
    let mut kind = None;
    let mut id = Vec::new();
    for attribute in session.get_attributes(private, &[AttributeType::KeyType, AttributeType::Id])? {
        if let Attribute::KeyType(found) = attribute {
            kind = Some(found);
        } else if let Attribute::Id(found) = attribute {
            id = found;
        }
    }
    let template = [Attribute::Token(true), Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Id(id.clone())];
    let beside = if id.is_empty() { None } else { session.find_objects(&template)?.first().copied() };
    let object = beside.unwrap_or(private);
    let missing = || {
        let id = hex::encode(&id);
        KeyFault::Unusable(format!("the token tells no public key for the private key with the id {id}"))
    };
    match kind {
        Some(KeyType::RSA) => {
            let (mut modulus, mut exponent) = (None, None);
            for attribute in session.get_attributes(object, &[AttributeType::Modulus, AttributeType::PublicExponent])? {
                if let Attribute::Modulus(octets) = attribute {
                    modulus = Some(octets);
                } else if let Attribute::PublicExponent(octets) = attribute {
                    exponent = Some(octets);
                }
            }
            let (modulus, exponent) = modulus.zip(exponent).ok_or_else(missing)?;
            rsa_public_key(&modulus, &exponent)
        }
        Some(KeyType::EC | KeyType::EC_EDWARDS) => {
            let (mut parameters, mut point) = (None, None);
            for attribute in session.get_attributes(object, &[AttributeType::EcParams, AttributeType::EcPoint])? {
                if let Attribute::EcParams(octets) = attribute {
                    parameters = Some(octets);
                } else if let Attribute::EcPoint(octets) = attribute {
                    point = Some(octets);
                }
            }
            let (parameters, point) = parameters.zip(point).ok_or_else(missing)?;
            ec_public_key(kind == Some(KeyType::EC_EDWARDS), &parameters, &point)
        }
        other => Err(KeyFault::Unsupported(format!("keys of the type {other:?} are not used here")).into()),
    }
}

#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Result<Vec<u8>, Failure> {
    let key = RsaPublicKey {
        modulus: UintRef::new(modulus).map_err(broken)?,
        exponent: UintRef::new(exponent).map_err(broken)?,
    };
    public_key_info(RSA_ENCRYPTION, Some(Any::null()), key.to_der().map_err(broken)?)
}

/// CKA_EC_POINT is an OCTET STRING around the point (PKCS#11 3.0 section 2.3.3); some modules leave it out.
fn ec_public_key(edwards: bool, parameters: &[u8], point: &[u8]) -> Result<Vec<u8>, Failure> {
    let point = OctetString::from_der(point).map_or_else(|_| point.to_vec(), |wrapped| wrapped.into_bytes().into());
    if edwards {
        return public_key_info(ID_ED_25519, None, point);
    }
    public_key_info(ID_EC_PUBLIC_KEY, Some(Any::from_der(parameters).map_err(broken)?), point)
}

fn public_key_info(oid: ObjectIdentifier, parameters: Option<Any>, key: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let info = SubjectPublicKeyInfoOwned {
        algorithm: AlgorithmIdentifierOwned { oid, parameters },
        subject_public_key: BitString::from_bytes(&key).map_err(broken)?,
    };
    info.to_der().map_err(broken)
}

/// Signs with the algorithm that belongs to the key.
pub(crate) fn sign(session: &Session, key: &TokenKey, message: &[u8]) -> Result<Vec<u8>, Failure> {
    let ecdsa = |digest: &'static digest::Algorithm| {
        let digest = digest::digest(digest, message);
        ecdsa_der(&session.sign(&Mechanism::Ecdsa, key.handle, digest.as_ref())?)
    };
    match key.algorithm {
        KeyAlgorithm::EcP256 => ecdsa(&SHA256),
        KeyAlgorithm::EcP384 => ecdsa(&SHA384),
        KeyAlgorithm::EcP521 => ecdsa(&SHA512),
        KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 => {
            sign_in_pieces(session, &Mechanism::Sha256RsaPkcs, key.handle, message)
        }
        KeyAlgorithm::Rsa4096 => sign_in_pieces(session, &Mechanism::Sha512RsaPkcs, key.handle, message),
        KeyAlgorithm::MlDsa44 | KeyAlgorithm::MlDsa65 | KeyAlgorithm::MlDsa87 => Err(not_in_tokens(key.algorithm)),
        // PureEdDSA reads its message twice, and so takes it in one piece (RFC 8032 section 4).
        KeyAlgorithm::Ed25519 => {
            let pure = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
            Ok(session.sign(&pure, key.handle, message)?)
        }
    }
}

fn not_in_tokens(algorithm: KeyAlgorithm) -> Failure {
    Failure::Final(KeyFault::Unsupported(format!("keys for {algorithm} are made in files, not in tokens")))
}

fn sign_in_pieces(
    session: &Session,
    mechanism: &Mechanism<'_>,
    key: ObjectHandle,
    message: &[u8],
) -> Result<Vec<u8>, Failure> {
    if message.len() <= PIECE_BYTES {
        return Ok(session.sign(mechanism, key, message)?);
    }
    session.sign_init(mechanism, key)?;
    for piece in message.chunks(PIECE_BYTES) {
        session.sign_update(piece)?;
    }
    Ok(session.sign_final()?)
}

#[derive(Sequence)]
struct EcdsaSignature<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// Tokens give r and s side by side; certificates carry them as DER (RFC 3279 section 2.2.3).
fn ecdsa_der(raw: &[u8]) -> Result<Vec<u8>, Failure> {
    let odd = || KeyFault::Unusable(format!("the token made an ECDSA signature of {} octets", raw.len()));
    let (r, s) = raw.split_at_checked(raw.len() / 2).filter(|(r, s)| r.len() == s.len()).ok_or_else(odd)?;
    let signature = EcdsaSignature { r: UintRef::new(r).map_err(broken)?, s: UintRef::new(s).map_err(broken)? };
    signature.to_der().map_err(broken)
}

/// How a token decrypts.
pub(crate) fn decryption(scheme: DecryptionScheme) -> Mechanism<'static> {
    let oaep = |hash, mask| Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty()));
    match scheme {
        DecryptionScheme::RsaPkcs1v15 => Mechanism::RsaPkcs,
        DecryptionScheme::RsaOaepSha1 => oaep(MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        DecryptionScheme::RsaOaepSha256 => oaep(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
    }
}

fn broken(error: der::Error) -> Failure {
    Failure::Final(KeyFault::Unusable(format!("the token's answer cannot be encoded: {error}")))
}
