//! What a device says of itself and of a key, signed by its maker (draft-ietf-acme-device-attest): the challenge device-attest-01.
//!
//! A statement counts if its certificates lead to a root that the endpoint's options name for its format, and it speaks of this very
//! challenge, of the ordered device, and of a key that the device keeps. The certificate is then issued for that key only.

mod android;
mod apple;
mod chain;
mod tpm;

use ca_backend::Time;
use ciborium::Value;
use const_oid::ObjectIdentifier;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use chain::{Roots, read_roots};

/// Octets of the longest attestation object that is read.
pub const OBJECT_BYTES_MAX: usize = 32 << 10;

/// How deep an attestation object may nest.
const NESTING_MAX: usize = 8;

/// Why a statement does not count, for the client: nothing of the statement is repeated.
pub type Refused = &'static str;

/// The challenge that a statement must speak of.
#[derive(Clone, Copy, Debug)]
pub struct Challenged<'a> {
    /// Its token.
    pub token: &'a str,
    /// The token with the account key's thumbprint (RFC 8555 section 8.1).
    pub key_authorization: &'a str,
}

/// The roots by format; a format without roots is not accepted.
#[derive(Clone, Debug, Default)]
pub struct TrustedMakers {
    /// For the format `apple`.
    pub apple: Roots,
    /// For the format `tpm`.
    pub tpm: Roots,
    /// For the format `android-key`.
    pub android: Roots,
}

/// What a statement shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The device's key: SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// What the device is called.
    pub identities: Vec<Identity>,
    /// The format.
    pub format: &'static str,
}

/// A name that a device's maker gave it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// A serial number or the like (RFC 4043).
    Device {
        /// The number.
        value: String,
        /// Who gave it, where that is stated.
        assigner: Option<ObjectIdentifier>,
    },
    /// A secure module (RFC 4108).
    Module {
        /// Its type.
        hardware_type: ObjectIdentifier,
        /// Its serial.
        serial: Vec<u8>,
    },
}

impl Identity {
    /// Whether this is the device that is `wanted`; where no assigner is wanted, each will do.
    #[must_use]
    pub fn is(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Device { value, assigner }, Self::Device { value: wanted, assigner: by }) => {
                value == wanted && (by.is_none() || assigner == by)
            }
            (Self::Module { .. }, Self::Module { .. }) => self == wanted,
            (Self::Device { .. }, Self::Module { .. }) | (Self::Module { .. }, Self::Device { .. }) => false,
        }
    }
}

/// A WebAuthn attestation object; `authData` is not used (the draft's section 5).
#[derive(Deserialize)]
struct Object {
    fmt: String,
    #[serde(rename = "attStmt")]
    statement: Value,
}

/// Judges an attestation object (CBOR).
///
/// # Errors
/// Why it does not count.
pub fn verify(
    object: &[u8],
    challenged: Challenged<'_>,
    makers: &TrustedMakers,
    now: Time,
) -> Result<Attested, Refused> {
    if object.len() > OBJECT_BYTES_MAX {
        return Err("the attestation object is too long");
    }
    let mut rest = object;
    let object: Object = ciborium::de::from_reader_with_recursion_limit(&mut rest, NESTING_MAX)
        .map_err(|_| "the attestation object is not CBOR with fmt and attStmt")?;
    if !rest.is_empty() {
        return Err("octets follow the attestation object");
    }
    let roots = match object.fmt.as_str() {
        "apple" => &makers.apple,
        "tpm" => &makers.tpm,
        "android-key" => &makers.android,
        _ => return Err("the attestation format is none of apple, tpm and android-key"),
    };
    if roots.is_empty() {
        return Err("this server accepts no attestation of that format");
    }
    match object.fmt.as_str() {
        "apple" => apple::verify(&read(&object.statement)?, challenged, roots, now),
        "tpm" => tpm::verify(&read(&object.statement)?, challenged, roots, now),
        _ => android::verify(&read(&object.statement)?, challenged, roots, now),
    }
}

fn read<T: DeserializeOwned>(statement: &Value) -> Result<T, Refused> {
    statement.deserialized().map_err(|_| "the attestation statement does not have the members of its format")
}
