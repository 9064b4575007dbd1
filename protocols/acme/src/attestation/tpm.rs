//! TPM 2.0: the format `tpm` (WebAuthn section 8.3). An attestation key of the module certifies the other key (TPM2_Certify); the
//! certificate of the attestation key names the device or the module.

pub(super) mod cose;
mod structure;

use ca_backend::{AlternativeName, Time};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{ANY_EXTENDED_KEY_USAGE, ID_CE_SUBJECT_ALT_NAME};
use serde::Deserialize;
use serde_bytes::ByteBuf;

use self::structure::{Certification, PublicArea};
use super::chain::{self, Link};
use super::{Attested, Challenged, Identity, Refused, Roots};

/// tcg-kp-AIKCertificate: the certificate is for an attestation key.
const ATTESTATION_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.3");

#[derive(Deserialize)]
pub(super) struct Statement {
    ver: String,
    alg: i64,
    x5c: Vec<ByteBuf>,
    sig: ByteBuf,
    #[serde(rename = "certInfo")]
    certification: ByteBuf,
    #[serde(rename = "pubArea")]
    public_area: ByteBuf,
}

pub(super) fn verify(
    statement: &Statement,
    challenged: Challenged<'_>,
    roots: &Roots,
    now: Time,
) -> Result<Attested, Refused> {
    if statement.ver != "2.0" {
        return Err("the attestation is not of a TPM 2.0");
    }
    let chain = chain::verify(&statement.x5c, roots, now)?;
    let leaf = chain.first().ok_or("the attestation has no certificates")?;
    if !leaf.purposes().is_some_and(|purposes| purposes.contains(&ATTESTATION_KEY)) || !leaf.may_sign() {
        return Err("the first certificate of the attestation is not for an attestation key");
    }
    // An authority that was made for something else, such as for web servers, cannot make devices out of them.
    let may_vouch =
        |purposes: Vec<_>| purposes.contains(&ATTESTATION_KEY) || purposes.contains(&ANY_EXTENDED_KEY_USAGE);
    if !chain.iter().skip(1).all(|above| above.purposes().is_none_or(may_vouch)) {
        return Err("an authority of the attestation is not for attestation keys");
    }
    let certification = Certification::read(&statement.certification)?;
    let signature = structure::plain_signature(&statement.sig);
    cose::verify(statement.alg, &leaf.public_key()?, &statement.certification, &signature)?;
    if certification.extra_data != cose::digest(statement.alg, challenged.key_authorization.as_bytes())? {
        return Err("the attestation is of another challenge");
    }
    let public_area = PublicArea::read(&statement.public_area)?;
    if certification.name != public_area.name(&statement.public_area)? {
        return Err("the attestation is of another key than the one beside it");
    }
    public_area.is_kept_in_the_module()?;
    Ok(Attested { public_key: public_area.public_key()?, identities: identities(leaf), format: "tpm" })
}

fn identities(leaf: &Link) -> Vec<Identity> {
    let names = leaf.extension(&ID_CE_SUBJECT_ALT_NAME);
    let names = names.and_then(|names| AlternativeName::decode_all(names.extn_value.as_bytes()).ok());
    let mut identities = Vec::new();
    for name in names.unwrap_or_default() {
        if let AlternativeName::PermanentIdentifier { value: Some(value), assigner } = name {
            identities.push(Identity::Device { value, assigner });
        } else if let AlternativeName::HardwareModule { hardware_type, serial } = name {
            identities.push(Identity::Module { hardware_type, serial });
        }
    }
    identities
}
