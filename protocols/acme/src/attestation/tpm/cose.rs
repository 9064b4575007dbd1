//! COSE algorithm numbers (RFC 9053) of attestation signatures.

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512, digest as digest_of};
use ca_backend::algorithm::verify_signature;
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5912::{
    ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ECDSA_WITH_SHA_512, SHA_256_WITH_RSA_ENCRYPTION,
    SHA_384_WITH_RSA_ENCRYPTION, SHA_512_WITH_RSA_ENCRYPTION,
};
use der::Any;
use spki::AlgorithmIdentifierOwned;

use crate::attestation::Refused;

/// The signature algorithm and its digest. SHA-1 (-65535) is not accepted.
fn algorithm(number: i64) -> Result<(ObjectIdentifier, bool, &'static Algorithm), Refused> {
    match number {
        -7 => Ok((ECDSA_WITH_SHA_256, false, &SHA256)),
        -35 => Ok((ECDSA_WITH_SHA_384, false, &SHA384)),
        -36 => Ok((ECDSA_WITH_SHA_512, false, &SHA512)),
        -257 => Ok((SHA_256_WITH_RSA_ENCRYPTION, true, &SHA256)),
        -258 => Ok((SHA_384_WITH_RSA_ENCRYPTION, true, &SHA384)),
        -259 => Ok((SHA_512_WITH_RSA_ENCRYPTION, true, &SHA512)),
        _ => Err("the attestation is signed with an algorithm that is not accepted"),
    }
}

/// The digest of a signature algorithm.
pub(super) fn digest(number: i64, message: &[u8]) -> Result<Vec<u8>, Refused> {
    let (_, _, digest) = algorithm(number)?;
    Ok(digest_of(digest, message).as_ref().to_vec())
}

/// Verifies a signature by the key (SubjectPublicKeyInfo, DER).
pub(in crate::attestation) fn verify(
    number: i64,
    public_key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), Refused> {
    let (oid, rsa, _) = algorithm(number)?;
    let algorithm = AlgorithmIdentifierOwned { oid, parameters: rsa.then(Any::null) };
    verify_signature(public_key, &algorithm, message, signature).map_err(|_| "the attestation's signature is wrong")
}
