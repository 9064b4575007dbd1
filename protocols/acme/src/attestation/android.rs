//! Android devices: the format `android-key`. The certificate of the key says how the key was made and which device keeps it
//! (KeyDescription, <https://source.android.com/docs/security/features/keystore/attestation>).

use ca_backend::Time;
use const_oid::ObjectIdentifier;
use der::asn1::OctetStringRef;
use der::{Decode, Header, Reader, SliceReader, Tag};
use serde::Deserialize;
use serde_bytes::ByteBuf;

use super::chain;
use super::tpm::cose;
use super::{Attested, Challenged, Identity, Refused, Roots};
use crate::jwk::sha256;

/// KeyDescription.
const KEY_DESCRIPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.11129.2.1.17");

/// The least security level: the trusted environment. Two is a module of its own.
const TRUSTED_ENVIRONMENT: u8 = 1;

/// Entries of an authorization list. Known ones have about twenty.
const ENTRIES_MAX: usize = 64;

const PURPOSE: u32 = 1;
const PURPOSE_SIGN: u8 = 2;
const ALL_APPLICATIONS: u32 = 600;
const ORIGIN: u32 = 702;
const ORIGIN_GENERATED: u8 = 0;
/// attestationIdSerial, attestationIdImei, attestationIdMeid, attestationIdSecondImei.
const IDENTITIES: [u32; 4] = [713, 714, 715, 723];

#[derive(Deserialize)]
pub(super) struct Statement {
    alg: i64,
    sig: ByteBuf,
    x5c: Vec<ByteBuf>,
}

struct KeyDescription<'a> {
    level: u8,
    challenge: &'a [u8],
    software: AuthorizationList<'a>,
    hardware: AuthorizationList<'a>,
}

/// The entries of an AuthorizationList: the number of the tag, and what stands in it.
struct AuthorizationList<'a>(Vec<(u32, &'a [u8])>);

pub(super) fn verify(
    statement: &Statement,
    challenged: Challenged<'_>,
    roots: &Roots,
    now: Time,
) -> Result<Attested, Refused> {
    let chain = chain::verify(&statement.x5c, roots, now)?;
    let (leaf, above) = chain.split_first().ok_or("the attestation has no certificates")?;
    // A key that was attested must not attest others.
    if above.iter().any(|link| link.extension(&KEY_DESCRIPTION).is_some()) {
        return Err("an attested key signed the attestation");
    }
    let described = leaf.extension(&KEY_DESCRIPTION).ok_or("the attestation does not describe its key")?;
    let described =
        KeyDescription::read(described.extn_value.as_bytes()).map_err(|_| "the key's description cannot be read")?;
    let digest = sha256(challenged.key_authorization.as_bytes());
    if described.challenge != challenged.key_authorization.as_bytes() && described.challenge != digest {
        return Err("the attestation is of another challenge");
    }
    if described.level < TRUSTED_ENVIRONMENT {
        return Err("the key is kept in software");
    }
    if described.software.holds(ALL_APPLICATIONS) || described.hardware.holds(ALL_APPLICATIONS) {
        return Err("the key may be used by every application");
    }
    if described.hardware.number(ORIGIN) != Some(ORIGIN_GENERATED) {
        return Err("the key was not made in the device");
    }
    if !described.hardware.numbers(PURPOSE).contains(&PURPOSE_SIGN) || !leaf.may_sign() {
        return Err("the key is not for signing");
    }
    let public_key = leaf.public_key()?;
    cose::verify(statement.alg, &public_key, challenged.key_authorization.as_bytes(), &statement.sig)?;
    let identities = IDENTITIES.iter().filter_map(|kind| described.hardware.text(*kind));
    let identities = identities.map(|value| Identity::Device { value: value.to_owned(), assigner: None }).collect();
    Ok(Attested { public_key, identities, format: "android-key" })
}

impl<'a> KeyDescription<'a> {
    fn read(der: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(der)?;
        let header = Header::decode(&mut reader)?;
        header.tag().assert_eq(Tag::Sequence)?;
        let mut fields = SliceReader::new(reader.read_slice(header.length())?)?;
        reader.finish()?;
        let _attestation_version = value(&mut fields, Tag::Integer)?;
        let attestation_level = small(value(&mut fields, Tag::Enumerated)?);
        let _keymint_version = value(&mut fields, Tag::Integer)?;
        let key_level = small(value(&mut fields, Tag::Enumerated)?);
        let challenge = value(&mut fields, Tag::OctetString)?;
        let _unique_id = value(&mut fields, Tag::OctetString)?;
        let software = AuthorizationList::read(value(&mut fields, Tag::Sequence)?)?;
        let hardware = AuthorizationList::read(value(&mut fields, Tag::Sequence)?)?;
        fields.finish()?;
        let level = attestation_level.unwrap_or(0).min(key_level.unwrap_or(0));
        Ok(Self { level, challenge, software, hardware })
    }
}

/// The contents of the next value, which has this tag.
fn value<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> der::Result<&'a [u8]> {
    let header = Header::decode(reader)?;
    header.tag().assert_eq(tag)?;
    reader.read_slice(header.length())
}

/// A number of one octet.
fn small(contents: &[u8]) -> Option<u8> {
    match contents {
        [number @ 0..=127] => Some(*number),
        _ => None,
    }
}

impl<'a> AuthorizationList<'a> {
    fn read(contents: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(contents)?;
        let mut entries: Vec<(u32, &'a [u8])> = Vec::new();
        while !reader.is_finished() {
            let header = Header::decode(&mut reader)?;
            let Tag::ContextSpecific { number, .. } = header.tag() else {
                return Err(header.tag().value_error().into());
            };
            let entry = reader.read_slice(header.length())?;
            if entries.len() == ENTRIES_MAX || entries.iter().any(|(kind, _)| *kind == number.0) {
                return Err(header.tag().value_error().into());
            }
            entries.push((number.0, entry));
        }
        Ok(Self(entries))
    }

    fn entry(&self, kind: u32) -> Option<&'a [u8]> {
        self.0.iter().find(|(shown, _)| *shown == kind).map(|(_, entry)| *entry)
    }

    fn holds(&self, kind: u32) -> bool {
        self.entry(kind).is_some()
    }

    fn number(&self, kind: u32) -> Option<u8> {
        let mut reader = SliceReader::new(self.entry(kind)?).ok()?;
        small(value(&mut reader, Tag::Integer).ok()?)
    }

    /// The numbers of a SET OF INTEGER.
    fn numbers(&self, kind: u32) -> Vec<u8> {
        let set = self.entry(kind).and_then(|entry| value(&mut SliceReader::new(entry).ok()?, Tag::Set).ok());
        let Some(Ok(mut reader)) = set.map(SliceReader::new) else { return Vec::new() };
        let mut numbers = Vec::new();
        while !reader.is_finished() {
            let Ok(number) = value(&mut reader, Tag::Integer) else { return Vec::new() };
            numbers.extend(small(number));
        }
        numbers
    }

    fn text(&self, kind: u32) -> Option<&'a str> {
        let octets = <&OctetStringRef>::from_der(self.entry(kind)?).ok()?;
        std::str::from_utf8(octets.as_bytes()).ok().filter(|text| !text.is_empty())
    }
}
