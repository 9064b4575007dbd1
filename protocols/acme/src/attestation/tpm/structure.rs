//! Structures of the TPM 2.0 library specification, part 2, as far as attestation needs them: big endian, lengths of 16 bits.

use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use const_oid::db::rfc5912::{ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1, SECP_521_R_1};
use der::asn1::{BitString, UintRef};
use der::{Any, Encode, Sequence};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use crate::attestation::Refused;

/// TPM_GENERATED_VALUE: the module itself made the structure, nobody had it sign a look-alike.
const GENERATED: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_CERTIFY.
const CERTIFY: u16 = 0x8017;

const ALG_RSA: u16 = 0x0001;
const ALG_SHA256: u16 = 0x000b;
const ALG_SHA384: u16 = 0x000c;
const ALG_SHA512: u16 = 0x000d;
const ALG_NULL: u16 = 0x0010;
const ALG_RSASSA: u16 = 0x0014;
const ALG_RSAES: u16 = 0x0015;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECDAA: u16 = 0x001a;
const ALG_ECC: u16 = 0x0023;

/// TPMA_OBJECT: the key never leaves the module, and the module made its secret.
const FIXED_TPM: u32 = 1 << 1;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const SIGN: u32 = 1 << 18;

/// The exponent that zero stands for.
const EXPONENT_DEFAULT: u32 = 65_537;

/// What is left to read.
struct Octets<'a>(&'a [u8]);

impl<'a> Octets<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("a structure of the TPM is cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, Refused> {
        self.take(2)?.try_into().map(u16::from_be_bytes).map_err(|_| "a structure of the TPM is cut off")
    }

    fn u32(&mut self) -> Result<u32, Refused> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(|_| "a structure of the TPM is cut off")
    }

    /// TPM2B: a length and so many octets.
    fn sized(&mut self) -> Result<&'a [u8], Refused> {
        let length = self.u16()?;
        self.take(length.into())
    }

    fn end(&self) -> Result<(), Refused> {
        if self.0.is_empty() { Ok(()) } else { Err("octets follow a structure of the TPM") }
    }
}

/// TPMS_ATTEST of the kind TPM_ST_ATTEST_CERTIFY.
pub(super) struct Certification<'a> {
    pub(super) extra_data: &'a [u8],
    /// The name of the certified key.
    pub(super) name: &'a [u8],
}

impl<'a> Certification<'a> {
    pub(super) fn read(octets: &'a [u8]) -> Result<Self, Refused> {
        const CLOCK_BYTES: usize = 8 + 4 + 4 + 1;
        const FIRMWARE_BYTES: usize = 8;
        let mut octets = Octets(octets);
        if octets.u32()? != GENERATED || octets.u16()? != CERTIFY {
            return Err("certInfo is not what a TPM certifies a key with");
        }
        let _signer = octets.sized()?;
        let extra_data = octets.sized()?;
        let _state = octets.take(CLOCK_BYTES + FIRMWARE_BYTES)?;
        let name = octets.sized()?;
        let _qualified_name = octets.sized()?;
        octets.end()?;
        Ok(Self { extra_data, name })
    }
}

/// TPMT_PUBLIC.
pub(super) struct PublicArea<'a> {
    name_algorithm: u16,
    attributes: u32,
    key: Key<'a>,
}

enum Key<'a> {
    Rsa { modulus: &'a [u8], exponent: u32 },
    Ec { curve: Curve, x: &'a [u8], y: &'a [u8] },
}

#[derive(Clone, Copy)]
enum Curve {
    P256,
    P384,
    P521,
}

impl<'a> PublicArea<'a> {
    pub(super) fn read(octets: &'a [u8]) -> Result<Self, Refused> {
        let mut octets = Octets(octets);
        let kind = octets.u16()?;
        let name_algorithm = octets.u16()?;
        let attributes = octets.u32()?;
        let _policy = octets.sized()?;
        // TPMT_SYM_DEF_OBJECT: only storage keys have one.
        if octets.u16()? != ALG_NULL {
            return Err("the key is not for signing");
        }
        let scheme = octets.u16()?;
        if scheme != ALG_NULL && scheme != ALG_RSAES {
            let _digest = octets.u16()?;
        }
        if scheme == ALG_ECDAA {
            let _count = octets.u16()?;
        }
        let key = match kind {
            ALG_RSA => {
                let _bits = octets.u16()?;
                let exponent = octets.u32()?;
                let exponent = if exponent == 0 { EXPONENT_DEFAULT } else { exponent };
                Key::Rsa { modulus: octets.sized()?, exponent }
            }
            ALG_ECC => {
                let curve = match octets.u16()? {
                    3 => Curve::P256,
                    4 => Curve::P384,
                    5 => Curve::P521,
                    _ => return Err("the key is on a curve that is not accepted"),
                };
                if octets.u16()? != ALG_NULL {
                    let _derivation_digest = octets.u16()?;
                }
                Key::Ec { curve, x: octets.sized()?, y: octets.sized()? }
            }
            _ => return Err("the key is neither RSA nor on an elliptic curve"),
        };
        octets.end()?;
        Ok(Self { name_algorithm, attributes, key })
    }

    /// The name of the key whose public area these octets are: the digest algorithm and the digest.
    pub(super) fn name(&self, octets: &[u8]) -> Result<Vec<u8>, Refused> {
        let algorithm = match self.name_algorithm {
            ALG_SHA256 => &SHA256,
            ALG_SHA384 => &SHA384,
            ALG_SHA512 => &SHA512,
            _ => return Err("the key's name is made with a digest that is not accepted"),
        };
        Ok([self.name_algorithm.to_be_bytes().as_slice(), digest(algorithm, octets).as_ref()].concat())
    }

    /// Whether the secret was made in the module, stays there, and signs.
    pub(super) fn is_kept_in_the_module(&self) -> Result<(), Refused> {
        let wanted = FIXED_TPM | SENSITIVE_DATA_ORIGIN | SIGN;
        if self.attributes & wanted == wanted {
            Ok(())
        } else {
            Err("the key was not made in the TPM, may leave it, or does not sign")
        }
    }

    /// The SubjectPublicKeyInfo, DER.
    pub(super) fn public_key(&self) -> Result<Vec<u8>, Refused> {
        self.encode().map_err(|_| "the key cannot be read")
    }

    fn encode(&self) -> der::Result<Vec<u8>> {
        let (algorithm, bits) = match &self.key {
            Key::Rsa { modulus, exponent } => {
                let exponent = exponent.to_be_bytes();
                let key = RsaPublicKey { modulus: UintRef::new(modulus)?, exponent: UintRef::new(&exponent)? };
                (AlgorithmIdentifierOwned { oid: RSA_ENCRYPTION, parameters: Some(Any::null()) }, key.to_der()?)
            }
            Key::Ec { curve, x, y } => {
                let (curve, length) = match curve {
                    Curve::P256 => (SECP_256_R_1, 32),
                    Curve::P384 => (SECP_384_R_1, 48),
                    Curve::P521 => (SECP_521_R_1, 66),
                };
                // A TPM leaves leading zeros out, a point has them.
                let mut point = vec![4];
                for coordinate in [x, y] {
                    let missing = usize::checked_sub(length, coordinate.len());
                    let missing = missing.ok_or_else(|| der::Error::from(der::ErrorKind::Failed))?;
                    point.resize(point.len() + missing, 0);
                    point.extend_from_slice(coordinate);
                }
                let parameters = Some(Any::encode_from(&curve)?);
                (AlgorithmIdentifierOwned { oid: ID_EC_PUBLIC_KEY, parameters }, point)
            }
        };
        SubjectPublicKeyInfoOwned { algorithm, subject_public_key: BitString::from_bytes(&bits)? }.to_der()
    }
}

/// RSAPublicKey (RFC 8017 appendix A.1.1).
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

/// Ecdsa-Sig-Value (RFC 3279 section 2.2.3).
#[derive(Sequence)]
struct EcdsaSignature<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// The signature as X.509 has it. WebAuthn names a TPMT_SIGNATURE, and clients also send the bare signature.
pub(super) fn plain_signature(octets: &[u8]) -> Vec<u8> {
    unwrapped(octets).unwrap_or_else(|| octets.to_vec())
}

fn unwrapped(octets: &[u8]) -> Option<Vec<u8>> {
    let mut octets = Octets(octets);
    let (kind, _digest) = (octets.u16().ok()?, octets.u16().ok()?);
    let signature = match kind {
        ALG_RSASSA => octets.sized().ok()?.to_vec(),
        ALG_ECDSA => {
            let (r, s) = (octets.sized().ok()?, octets.sized().ok()?);
            EcdsaSignature { r: UintRef::new(r).ok()?, s: UintRef::new(s).ok()? }.to_der().ok()?
        }
        _ => return None,
    };
    octets.end().ok()?;
    Some(signature)
}
