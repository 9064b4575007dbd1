//! Apple devices: the format `apple`. The maker's certificate is for the key itself and names the device.

use ca_backend::Time;
use const_oid::ObjectIdentifier;
use serde::Deserialize;
use serde_bytes::ByteBuf;

use super::chain::{self, Link};
use super::{Attested, Challenged, Identity, Refused, Roots};
use crate::jwk::sha256;

/// SHA-256 of the challenge's token: of the token alone, not of the key authorization.
const FRESHNESS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.11.1");
/// The serial number. Devices that a user enrolled leave it out.
const SERIAL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.9.1");
/// The unique device identifier.
const UDID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.9.2");

#[derive(Deserialize)]
pub(super) struct Statement {
    x5c: Vec<ByteBuf>,
}

pub(super) fn verify(
    statement: &Statement,
    challenged: Challenged<'_>,
    roots: &Roots,
    now: Time,
) -> Result<Attested, Refused> {
    let chain = chain::verify(&statement.x5c, roots, now)?;
    let leaf = chain.first().ok_or("the attestation has no certificates")?;
    let fresh = leaf.extension(&FRESHNESS).ok_or("the attestation holds no freshness code")?;
    if fresh.extn_value.as_bytes() != sha256(challenged.token.as_bytes()) {
        return Err("the attestation is of another challenge");
    }
    let identities = [SERIAL, UDID].iter().filter_map(|kind| text(leaf, kind));
    let identities: Vec<Identity> =
        identities.map(|value| Identity::Device { value: value.to_owned(), assigner: None }).collect();
    Ok(Attested { public_key: leaf.public_key()?, identities, format: "apple" })
}

/// The value is the bare text, without DER around it.
fn text<'a>(leaf: &'a Link, kind: &ObjectIdentifier) -> Option<&'a str> {
    let value = leaf.extension(kind)?.extn_value.as_bytes();
    std::str::from_utf8(value).ok().filter(|text| !text.is_empty())
}
