//! Distinguished names, and the names in a subjectAltName ([`AlternativeName`]).
//!
//! A name's DER is kept as it came: many programs compare names byte by byte, so an issuer's name and a renewed subject keep their
//! string types. Names made from text use UTF8String, except where RFC 5280 appendix A fixes another type.

mod alternative;
mod attribute;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use const_oid::ObjectIdentifier;
use der::asn1::{Any, AnyRef, SetOfVec};
use der::{Decode, Encode, Sequence, Tag, ValueOrd};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use alternative::AlternativeName;

use crate::error::{Fault, Reason, Refusal};

/// Octets of the longest distinguished name that is read.
pub(crate) const NAME_BYTES_MAX: usize = 8192;

/// Attributes of the longest distinguished name that is read.
const ATTRIBUTES_MAX: usize = 64;

/// AttributeTypeAndValue (RFC 5280 appendix A.1) over borrowed bytes.
#[derive(Clone, Debug, PartialEq, Eq, Sequence, ValueOrd)]
struct Attribute<'a> {
    kind: ObjectIdentifier,
    value: AnyRef<'a>,
}

/// RDNSequence (RFC 5280 appendix A.1).
type RdnSequence<'a> = Vec<SetOfVec<Attribute<'a>>>;

/// An X.501 distinguished name, DER kept verbatim. Equality is that of the bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DistinguishedName(Arc<[u8]>);

impl DistinguishedName {
    /// The name without attributes.
    #[must_use]
    pub fn empty() -> Self {
        Self(Arc::new([0x30, 0x00]))
    }

    /// Reads a Name and keeps its bytes.
    ///
    /// # Errors
    /// Refuses what is not DER, names of more than `NAME_BYTES_MAX` octets or 64 attributes, values that are not text, and text
    /// with NUL or other control characters.
    pub fn from_der(der: &[u8]) -> Result<Self, Refusal> {
        if der.len() > NAME_BYTES_MAX {
            return Err(malformed(format!("a distinguished name has more than {NAME_BYTES_MAX} octets")));
        }
        let sequence = RdnSequence::from_der(der).map_err(|_| malformed("a distinguished name is not valid DER"))?;
        let mut count = 0;
        for attribute in sequence.iter().flat_map(SetOfVec::iter) {
            count += 1;
            let text = attribute::text(attribute.value).ok_or_else(|| {
                malformed(format!(
                    "the value of {} in a distinguished name is not text",
                    attribute::label(&attribute.kind)
                ))
            })?;
            if text.chars().any(char::is_control) {
                return Err(malformed(format!(
                    "the value of {} in a distinguished name holds a control character",
                    attribute::label(&attribute.kind)
                )));
            }
        }
        if count > ATTRIBUTES_MAX || sequence.iter().any(SetOfVec::is_empty) {
            return Err(malformed(format!(
                "a distinguished name has an empty part or more than {ATTRIBUTES_MAX} attributes"
            )));
        }
        Ok(Self(der.into()))
    }

    /// Reads the text form of RFC 4514, most specific attribute first: `cn=ABC First Root,o=ABC,c=DE`. Attribute names may be those
    /// of RFC 4519 and a few more in any case, or object identifiers in dotted form. Empty text is the empty name.
    ///
    /// # Errors
    /// Refuses text that does not follow RFC 4514, unknown attributes, and what [`DistinguishedName::validate`] refuses.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > NAME_BYTES_MAX {
            return Err(malformed(format!("a distinguished name has more than {NAME_BYTES_MAX} octets")));
        }
        if text.trim().is_empty() {
            return Ok(Self::empty());
        }
        let mut parts = Vec::new();
        for part in split_unescaped(text, ',') {
            let pairs: Vec<&str> = split_unescaped(part, '+').collect();
            parts.push(pairs.into_iter().map(parse_attribute).collect::<Result<Vec<_>, Refusal>>()?);
        }
        parts.reverse();
        Self::from_parts(parts)
    }

    /// The name of these attributes, from general to specific, one to each part. The values are data: nothing in them is special.
    ///
    /// # Errors
    /// Refuses what [`DistinguishedName::validate`] refuses.
    pub fn from_attributes<'a>(
        attributes: impl IntoIterator<Item = (ObjectIdentifier, &'a str)>,
    ) -> Result<Self, Refusal> {
        let encode = |(kind, value): (ObjectIdentifier, &str)| Ok(vec![(kind, attribute::encode(&kind, value)?)]);
        Self::from_parts(attributes.into_iter().map(encode).collect::<Result<Vec<_>, Refusal>>()?)
    }

    /// The type of an attribute by its name in any letter case, or in dotted form.
    #[must_use]
    pub fn attribute_type(label: &str) -> Option<ObjectIdentifier> {
        attribute::find(label)
    }

    fn from_parts(parts: Vec<Vec<(ObjectIdentifier, Any)>>) -> Result<Self, Refusal> {
        let invalid = |_| {
            malformed("a distinguished name cannot be encoded: an attribute is given twice in one part, or is too long")
        };
        let sequence = parts
            .iter()
            .map(|part| {
                let attributes = part.iter().map(|(kind, value)| Attribute { kind: *kind, value: value.to_ref() });
                SetOfVec::from_iter(attributes)
            })
            .collect::<Result<RdnSequence<'_>, der::Error>>()
            .map_err(invalid)?;
        let name = Self::from_der(&sequence.to_der().map_err(invalid)?)?;
        name.validate()?;
        Ok(name)
    }

    /// The same name with every TeletexString and BMPString turned into UTF8String, as new certificates must have it (RFC 5280
    /// section 4.1.2.6). Names without such values are returned as they are.
    ///
    /// # Errors
    /// A fault if the name cannot be encoded again.
    pub fn with_utf8_strings(&self) -> Result<Self, Fault> {
        let sequence = self.sequence();
        let legacy = |value: &AnyRef<'_>| matches!(der::Tagged::tag(value), Tag::TeletexString | Tag::BmpString);
        if !sequence.iter().flat_map(SetOfVec::iter).any(|attribute| legacy(&attribute.value)) {
            return Ok(self.clone());
        }
        let texts: Vec<Vec<(ObjectIdentifier, Any)>> = sequence
            .iter()
            .map(|part| {
                part.iter()
                    .map(|attribute| match attribute::text(attribute.value) {
                        Some(text) if legacy(&attribute.value) => {
                            Ok((attribute.kind, Any::new(Tag::Utf8String, text.as_bytes())?))
                        }
                        Some(_) | None => Ok((attribute.kind, Any::from(attribute.value))),
                    })
                    .collect()
            })
            .collect::<Result<_, der::Error>>()?;
        let sequence = texts
            .iter()
            .map(|part| {
                SetOfVec::from_iter(part.iter().map(|(kind, value)| Attribute { kind: *kind, value: value.to_ref() }))
            })
            .collect::<Result<RdnSequence<'_>, der::Error>>()?;
        Ok(Self(sequence.to_der()?.into()))
    }

    /// Whether the name may stand in a new certificate: no empty value, no leading or trailing space, no string types of the past,
    /// only characters of the string type, values within the upper bounds of RFC 5280 appendix A.1, a country of two capital letters.
    ///
    /// # Errors
    /// Refuses the name with the first rule that it breaks.
    pub fn validate(&self) -> Result<(), Refusal> {
        self.sequence()
            .iter()
            .flat_map(SetOfVec::iter)
            .try_for_each(|attribute| attribute::validate(&attribute.kind, attribute.value))
    }

    /// Whether encoding the name anew gives the same bytes: the parts of a set may come in any order when they are read.
    pub(crate) fn is_canonical(&self) -> bool {
        self.sequence().to_der().is_ok_and(|again| again == *self.0)
    }

    /// The name's DER.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }

    /// Whether the name has no attributes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self.0 == [0x30, 0x00]
    }

    /// Every attribute with its value as text, from general to specific.
    #[must_use]
    pub fn attributes(&self) -> Vec<(ObjectIdentifier, String)> {
        let text = |attribute: &Attribute<'_>| {
            (attribute.kind, attribute::text(attribute.value).unwrap_or_default().into_owned())
        };
        self.sequence().iter().flat_map(SetOfVec::iter).map(text).collect()
    }

    /// The values of every commonName.
    #[must_use]
    pub fn common_names(&self) -> Vec<String> {
        self.attributes()
            .into_iter()
            .filter(|(kind, _)| *kind == const_oid::db::rfc4519::CN)
            .map(|(_, value)| value)
            .collect()
    }

    /// The values of every attribute of one type.
    #[must_use]
    pub fn values(&self, kind: &ObjectIdentifier) -> Vec<String> {
        self.attributes().into_iter().filter(|(other, _)| other == kind).map(|(_, value)| value).collect()
    }

    /// What a search compares: the RFC 4514 text in lower case.
    #[must_use]
    pub fn search_key(&self) -> String {
        self.to_string().to_lowercase()
    }

    /// Whether this name equals `base` or lies below it, by the comparison of RFC 5280 section 7.1: without regard to case and
    /// repeated spaces. This is the rule of directoryName constraints.
    #[must_use]
    pub fn is_within(&self, base: &Self) -> bool {
        let (own, base) = (self.comparable(), base.comparable());
        own.len() >= base.len() && own.iter().zip(&base).all(|(own, base)| own == base)
    }

    fn comparable(&self) -> Vec<Vec<(ObjectIdentifier, String)>> {
        let fold = |text: Cow<'_, str>| text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        self.sequence()
            .iter()
            .map(|part| {
                let mut part: Vec<_> = part
                    .iter()
                    .map(|attribute| (attribute.kind, fold(attribute::text(attribute.value).unwrap_or_default())))
                    .collect();
                part.sort();
                part
            })
            .collect()
    }

    /// The decoded form; every constructor has shown that decoding works.
    fn sequence(&self) -> RdnSequence<'_> {
        RdnSequence::from_der(&self.0).unwrap_or_default()
    }
}

fn malformed(why: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Malformed, why)
}

/// The parts of `text` between separators that are not escaped by a backslash.
pub(crate) fn split_unescaped(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c: char| {
        let separates = c == separator && !escaped;
        escaped = c == '\\' && !escaped;
        separates
    })
}

fn parse_attribute(text: &str) -> Result<(ObjectIdentifier, Any), Refusal> {
    let (label, value) = text.split_once('=').ok_or_else(|| {
        malformed(format!("{text:?} is not an attribute such as cn=Example; a comma within a value is written \\,"))
    })?;
    let label = label.trim();
    let kind = attribute::find(label)
        .ok_or_else(|| malformed(format!("{label:?} is not an attribute of distinguished names")))?;
    let value = value.trim_start();
    if let Some(digits) = value.strip_prefix('#') {
        let bytes = hex::decode(digits.trim_end())
            .map_err(|_| malformed(format!("the value of {label} after # is not hexadecimal")))?;
        let value = Any::from_der(&bytes).map_err(|_| malformed(format!("the value of {label} after # is not DER")))?;
        return Ok((kind, value));
    }
    let value = unescape(value).ok_or_else(|| {
        malformed(format!(
            "the value of {label} is not written as RFC 4514 has it: put a backslash before any of , + \" \\ < > ;"
        ))
    })?;
    Ok((kind, attribute::encode(&kind, value.trim())?))
}

/// Undoes the escapes of RFC 4514 section 2.4; `None` if a special character stands there unescaped.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'\\', [special @ (b' ' | b'"' | b'#' | b'+' | b',' | b';' | b'<' | b'=' | b'>' | b'\\'), after @ ..]) => {
                bytes.push(*special);
                after
            }
            (b'\\', [high, low, after @ ..]) => {
                bytes.extend(hex::decode([*high, *low]).ok()?);
                after
            }
            (b'\\' | b'"' | b'+' | b',' | b';' | b'<' | b'>', _) => return None,
            (plain, after) => {
                bytes.push(*plain);
                after
            }
        };
    }
    String::from_utf8(bytes).ok()
}

/// The text form of RFC 4514, most specific attribute first.
impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.sequence().iter().rev().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            for (index, attribute) in part.iter().enumerate() {
                if index > 0 {
                    f.write_str("+")?;
                }
                f.write_str(&attribute::label(&attribute.kind))?;
                f.write_str("=")?;
                escape(&attribute::text(attribute.value).unwrap_or_default(), f)?;
            }
        }
        Ok(())
    }
}

fn escape(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let last = text.len().saturating_sub(1);
    for (index, c) in text.char_indices() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => write!(f, "\\{c}")?,
            '#' if index == 0 => f.write_str("\\#")?,
            ' ' if index == 0 || index == last => f.write_str("\\ ")?,
            _ => write!(f, "{c}")?,
        }
    }
    Ok(())
}

impl fmt::Debug for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// RFC 4514 text in formats for people, DER in CBOR.
impl Serialize for DistinguishedName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for DistinguishedName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(NameVisitor)
        } else {
            deserializer.deserialize_byte_buf(NameVisitor)
        }
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = DistinguishedName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a distinguished name")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DistinguishedName, E> {
        DistinguishedName::parse(text).map_err(|refusal| E::custom(refusal.public()))
    }

    fn visit_bytes<E: serde::de::Error>(self, der: &[u8]) -> Result<DistinguishedName, E> {
        DistinguishedName::from_der(der).map_err(|refusal| E::custom(refusal.public()))
    }
}

/// The stored and written form of one attribute type: its RFC 4519 name, or the dotted object identifier.
pub(crate) mod attribute_type {
    use const_oid::ObjectIdentifier;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(oid: &ObjectIdentifier, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::attribute::label(oid))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectIdentifier, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::attribute::find(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is not an attribute type such as cn or 2.5.4.3")))
    }
}
