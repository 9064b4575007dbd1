//! PKCS#11 URIs (RFC 7512), as far as they name tokens and keys.

use std::collections::BTreeMap;
use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::error::KeyFault;

const SCHEME: &str = "pkcs11:";

/// What may stand unescaped in a value: RFC 7512 section 2.3 allows more, but these need no thought in a shell.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The attributes of tokens and keys that are understood. A query (`?pin-value=...`) is not among them: secrets have no place in
/// names.
const KNOWN: [&str; 7] = ["token", "serial", "manufacturer", "model", "object", "id", "type"];

/// A URI: names a token, or a key in it. What is not stated fits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenUri(BTreeMap<&'static str, Vec<u8>>);

impl TokenUri {
    /// Reads a URI; attributes that are unknown or stand twice are errors.
    pub(crate) fn parse(text: &str) -> Result<Self, KeyFault> {
        let wrong =
            |why: String| KeyFault::Unsupported(format!("{text:?} is not a PKCS#11 URI that can be used: {why}"));
        let path = text.strip_prefix(SCHEME).ok_or_else(|| wrong(format!("it does not begin with {SCHEME}")))?;
        // Not echoed: the query is where others put PINs, and somebody puts them elsewhere.
        let lower = path.to_ascii_lowercase();
        if path.contains('?') || lower.contains("pin-value") || lower.contains("pin-source") {
            return Err(KeyFault::Unsupported(
                "a PKCS#11 URI must not have a query or a PIN here; modules and PINs are set in [keys.pkcs11]"
                    .to_owned(),
            ));
        }
        let mut attributes = BTreeMap::new();
        for part in path.split(';').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong(format!("{part:?} has no value")))?;
            let known = KNOWN.into_iter().find(|known| *known == name);
            let known = known.ok_or_else(|| wrong(format!("{name:?} is unknown; known are {}", KNOWN.join(", "))))?;
            if !is_well_escaped(value) {
                return Err(wrong(format!("{value:?} has a % without two hexadecimal digits behind it")));
            }
            let value: Vec<u8> = percent_decode_str(value).collect();
            if attributes.insert(known, value).is_some() {
                return Err(wrong(format!("{name} stands twice")));
            }
        }
        if attributes.get("type").is_some_and(|kind| kind != b"private") {
            return Err(wrong("type must be private".to_owned()));
        }
        Ok(Self(attributes))
    }

    /// The token of this label.
    pub(crate) fn of_token(label: &str) -> Self {
        Self(BTreeMap::from([("token", label.as_bytes().to_vec())]))
    }

    /// The private key of this label and CKA_ID in the token that `self` names.
    pub(crate) fn with_key(&self, label: &[u8], id: &[u8]) -> Self {
        let mut attributes: BTreeMap<_, _> = self.token_part().map(|(name, value)| (name, value.clone())).collect();
        attributes.insert("object", label.to_vec());
        attributes.insert("id", id.to_vec());
        attributes.insert("type", b"private".to_vec());
        Self(attributes)
    }

    /// Whether both could name the same token: no attribute of a token differs.
    pub(crate) fn may_share_token_with(&self, other: &Self) -> bool {
        self.token_part().all(|(name, value)| other.0.get(name).is_none_or(|other| other == value))
    }

    /// Whether a token with these properties is the one.
    pub(crate) fn fits_token(&self, label: &str, serial: &str, manufacturer: &str, model: &str) -> bool {
        [("token", label), ("serial", serial), ("manufacturer", manufacturer), ("model", model)]
            .into_iter()
            .all(|(name, value)| self.0.get(name).is_none_or(|wanted| wanted == value.as_bytes()))
    }

    /// Whether any property of a token is stated.
    pub(crate) fn names_a_token(&self) -> bool {
        self.token_part().next().is_some()
    }

    /// CKA_LABEL.
    pub(crate) fn object(&self) -> Option<&[u8]> {
        self.0.get("object").map(Vec::as_slice)
    }

    /// CKA_ID.
    pub(crate) fn id(&self) -> Option<&[u8]> {
        self.0.get("id").map(Vec::as_slice)
    }

    fn token_part(&self) -> impl Iterator<Item = (&'static str, &Vec<u8>)> {
        let is_of_key = |name: &str| matches!(name, "object" | "id" | "type");
        self.0.iter().map(|(name, value)| (*name, value)).filter(move |(name, _)| !is_of_key(name))
    }
}

/// RFC 3986 section 2.1.
fn is_well_escaped(value: &str) -> bool {
    value.split('%').skip(1).all(|rest| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2)
}

impl fmt::Display for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        let mut between = "";
        for name in KNOWN {
            if let Some(value) = self.0.get(name) {
                write!(f, "{between}{name}=")?;
                match name {
                    // RFC 7512 section 2.3: an id is best escaped throughout.
                    "id" => value.iter().try_for_each(|octet| write!(f, "%{octet:02X}"))?,
                    _ => write!(f, "{}", percent_encode(value, ESCAPED))?,
                }
                between = ";";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_written_as_it_was_read() {
        for text in ["pkcs11:token=a%20b;object=root-1;id=%01%FF;type=private", "pkcs11:", "pkcs11:serial=0042"] {
            assert_eq!(TokenUri::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in [
            "file:a",
            "pkcs11:token",
            "pkcs11:slot-id=1",
            "pkcs11:token=a;token=b",
            "pkcs11:type=cert",
            "pkcs11:token=50%",
            "pkcs11:token=%4",
            "pkcs11:token=a;id=%0g",
            "pkcs11:token=%+1",
        ] {
            assert!(matches!(TokenUri::parse(text), Err(KeyFault::Unsupported(_))), "{text}");
        }
    }

    #[test]
    fn s47_a_pin_in_a_uri_is_refused_and_not_repeated() {
        for text in ["?pin-value=canary", ";pin-value=canary", "&pin-value=canary", "?x=y&PIN-value=canary"] {
            let fault = TokenUri::parse(&format!("pkcs11:token=a{text}")).unwrap_err();
            assert!(!fault.to_string().contains("canary"), "{fault}");
        }
    }

    #[test]
    fn tokens_are_told_apart_by_what_is_stated() {
        let uri = |text: &str| TokenUri::parse(text).unwrap();
        let configured = uri("pkcs11:token=a;serial=1");
        for (other, same) in [
            ("pkcs11:token=a", true),
            ("pkcs11:token=b", false),
            ("pkcs11:token=a;serial=2", false),
            ("pkcs11:object=x", true),
        ] {
            assert_eq!(configured.may_share_token_with(&uri(other)), same, "{other}");
        }
        assert!(configured.fits_token("a", "1", "m", "n") && !configured.fits_token("a", "2", "m", "n"));
    }
}
