//! The attributes of distinguished names: what they are called, which string type they take, how long they may be.

use std::borrow::Cow;

use const_oid::ObjectIdentifier;
use der::asn1::{Any, AnyRef};
use der::{Tag, Tagged};

use super::malformed;
use crate::error::Refusal;

/// What is known about an attribute.
struct AttributeKind {
    oid: ObjectIdentifier,
    /// The name that is shown.
    label: &'static str,
    /// Another name that is understood.
    alias: &'static str,
    /// The string type of values made from text.
    tag: Tag,
    /// Characters of the longest value (RFC 5280 appendix A.1, X.520).
    chars_max: usize,
}

const fn kind(oid: &str, label: &'static str, alias: &'static str, tag: Tag, chars_max: usize) -> AttributeKind {
    AttributeKind { oid: ObjectIdentifier::new_unwrap(oid), label, alias, tag, chars_max }
}

/// ub-name of RFC 5280; the size of the whole name is the tighter bound.
const UB_NAME: usize = 32_768;

/// The country attributes, whose values are two capital letters (ISO 3166).
const COUNTRY: ObjectIdentifier = const_oid::db::rfc4519::C;
const JURISDICTION_COUNTRY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.60.2.1.3");

/// The attributes of RFC 4519 whose values are text, and those of RFC 5280, RFC 2985 and CA/Browser Forum use.
static KINDS: &[AttributeKind] = &[
    kind("2.5.4.3", "CN", "commonName", Tag::Utf8String, 64),
    kind("2.5.4.6", "C", "countryName", Tag::PrintableString, 2),
    kind("2.5.4.10", "O", "organizationName", Tag::Utf8String, 64),
    kind("2.5.4.11", "OU", "organizationalUnitName", Tag::Utf8String, 64),
    kind("2.5.4.7", "L", "localityName", Tag::Utf8String, 128),
    kind("2.5.4.8", "ST", "stateOrProvinceName", Tag::Utf8String, 128),
    kind("2.5.4.9", "STREET", "streetAddress", Tag::Utf8String, 128),
    kind("0.9.2342.19200300.100.1.25", "DC", "domainComponent", Tag::Ia5String, 63),
    kind("0.9.2342.19200300.100.1.1", "UID", "userId", Tag::Utf8String, 256),
    kind("2.5.4.5", "serialNumber", "serialNumber", Tag::PrintableString, 64),
    kind("2.5.4.46", "dnQualifier", "dnQualifier", Tag::PrintableString, UB_NAME),
    kind("1.2.840.113549.1.9.1", "emailAddress", "E", Tag::Ia5String, 255),
    kind("2.5.4.4", "SN", "surname", Tag::Utf8String, UB_NAME),
    kind("2.5.4.42", "givenName", "GN", Tag::Utf8String, UB_NAME),
    kind("2.5.4.43", "initials", "initials", Tag::Utf8String, UB_NAME),
    kind("2.5.4.44", "generationQualifier", "generationQualifier", Tag::Utf8String, UB_NAME),
    kind("2.5.4.41", "name", "name", Tag::Utf8String, UB_NAME),
    kind("2.5.4.12", "title", "title", Tag::Utf8String, 64),
    kind("2.5.4.65", "pseudonym", "pseudonym", Tag::Utf8String, 128),
    kind("2.5.4.13", "description", "description", Tag::Utf8String, 1024),
    kind("2.5.4.15", "businessCategory", "businessCategory", Tag::Utf8String, 128),
    kind("2.5.4.17", "postalCode", "postalCode", Tag::Utf8String, 40),
    kind("2.5.4.18", "postOfficeBox", "postOfficeBox", Tag::Utf8String, 40),
    kind("2.5.4.19", "physicalDeliveryOfficeName", "physicalDeliveryOfficeName", Tag::Utf8String, 128),
    kind("2.5.4.20", "telephoneNumber", "telephoneNumber", Tag::PrintableString, 32),
    kind("2.5.4.24", "x121Address", "x121Address", Tag::NumericString, 15),
    kind("2.5.4.25", "internationalISDNNumber", "internationalISDNNumber", Tag::NumericString, 16),
    kind("2.5.4.27", "destinationIndicator", "destinationIndicator", Tag::PrintableString, 128),
    kind("2.5.4.51", "houseIdentifier", "houseIdentifier", Tag::Utf8String, UB_NAME),
    kind("2.5.4.97", "organizationIdentifier", "organizationIdentifier", Tag::Utf8String, 256),
    kind("1.2.840.113549.1.9.2", "unstructuredName", "unstructuredName", Tag::Utf8String, 255),
    kind("1.2.840.113549.1.9.8", "unstructuredAddress", "unstructuredAddress", Tag::Utf8String, 255),
    kind("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC", "jurisdictionCountryName", Tag::PrintableString, 2),
    kind("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST", "jurisdictionStateOrProvinceName", Tag::Utf8String, 128),
    kind("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL", "jurisdictionLocalityName", Tag::Utf8String, 128),
];

fn known(oid: &ObjectIdentifier) -> Option<&'static AttributeKind> {
    KINDS.iter().find(|kind| kind.oid == *oid)
}

/// The attribute of a name in any case, or of an object identifier in dotted form (with or without `OID.` before it).
pub(super) fn find(label: &str) -> Option<ObjectIdentifier> {
    let named =
        |kind: &&AttributeKind| kind.label.eq_ignore_ascii_case(label) || kind.alias.eq_ignore_ascii_case(label);
    if let Some(kind) = KINDS.iter().find(named) {
        return Some(kind.oid);
    }
    let dotted = label.strip_prefix("OID.").or_else(|| label.strip_prefix("oid.")).unwrap_or(label);
    ObjectIdentifier::new(dotted).ok()
}

/// What an attribute is called: its name, or the dotted form.
pub(super) fn label(oid: &ObjectIdentifier) -> Cow<'static, str> {
    known(oid).map_or_else(|| oid.to_string().into(), |kind| kind.label.into())
}

/// The value of an attribute made from text.
pub(super) fn encode(oid: &ObjectIdentifier, text: &str) -> Result<Any, Refusal> {
    let tag = known(oid).map_or(Tag::Utf8String, |kind| kind.tag);
    Any::new(tag, text.as_bytes()).map_err(|_| malformed(format!("the value of {} is too long", label(oid))))
}

/// The text of a value; `None` if it is not text. Characters that the string type does not have are let pass as long as they are
/// ASCII, as the world's certificates want it; [`validate`] is strict.
pub(super) fn text(value: AnyRef<'_>) -> Option<Cow<'_, str>> {
    let bytes = value.value();
    #[allow(clippy::wildcard_enum_match_arm)] // every other ASN.1 type is no text
    match value.tag() {
        Tag::Utf8String => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            if bytes.is_ascii() {
                std::str::from_utf8(bytes).ok().map(Cow::Borrowed)
            } else {
                None
            }
        }
        // Everybody who wrote TeletexString meant ISO 8859-1.
        Tag::TeletexString => Some(Cow::Owned(bytes.iter().map(|octet| char::from(*octet)).collect())),
        Tag::BmpString => {
            let (pairs, rest) = bytes.as_chunks::<2>();
            let text =
                char::decode_utf16(pairs.iter().map(|pair| u16::from_be_bytes(*pair))).collect::<Result<String, _>>();
            if rest.is_empty() { text.ok().map(Cow::Owned) } else { None }
        }
        _ => None,
    }
}

/// Whether the value may stand in a new certificate.
pub(super) fn validate(oid: &ObjectIdentifier, value: AnyRef<'_>) -> Result<(), Refusal> {
    let refuse = |why: &str| Err(malformed(format!("the value of {} in a distinguished name {why}", label(oid))));
    let tag = value.tag();
    let Some(text) = text(value) else {
        return refuse("is not text");
    };
    if text.is_empty() {
        return refuse("is empty");
    }
    if text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
        return refuse("begins or ends with a space");
    }
    if text.chars().any(char::is_control) {
        return refuse("holds a control character");
    }
    #[allow(clippy::wildcard_enum_match_arm)] // every other ASN.1 type is of the past, or no text
    let fits = match tag {
        Tag::PrintableString => text.bytes().all(is_printable_string),
        Tag::NumericString => text.bytes().all(|octet| octet.is_ascii_digit() || octet == b' '),
        Tag::Utf8String | Tag::Ia5String => true,
        _ => return refuse("has a string type that new certificates must not use"),
    };
    if !fits {
        return refuse("holds a character that its string type does not have");
    }
    if let Some(kind) = known(oid) {
        if text.chars().count() > kind.chars_max {
            return refuse(&format!("is longer than {} characters", kind.chars_max));
        }
        // DirectoryString leaves a choice; the other attributes do not.
        let directory_string = kind.tag == Tag::Utf8String && matches!(tag, Tag::PrintableString | Tag::Utf8String);
        let unstructured = kind.oid == const_oid::db::rfc2985::PKCS_9_AT_UNSTRUCTURED_NAME && tag == Tag::Ia5String;
        if tag != kind.tag && !directory_string && !unstructured {
            return refuse("has the wrong string type");
        }
    }
    if (*oid == COUNTRY || *oid == JURISDICTION_COUNTRY)
        && !(text.len() == 2 && text.bytes().all(|octet| octet.is_ascii_uppercase()))
    {
        return refuse("is not a country code of two capital letters");
    }
    Ok(())
}

/// The characters of PrintableString (X.680 section 41.4).
fn is_printable_string(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&octet)
}
