//! Texts with places to fill in: `{device.serial}.mdm.example.org`.
//!
//! A value is data. It is put where its place is, once, and is never read again for places, separators or escapes; what it may
//! hold depends on the kind of name that it goes into.

use std::collections::{BTreeMap, BTreeSet};

use ca_backend::{AlternativeName, Reason, Refusal};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Octets of the longest value.
const VALUE_OCTETS_MAX: usize = 512;
/// Octets of the longest template.
const TEMPLATE_OCTETS_MAX: usize = 1_024;

/// What stands in a URI as it is (RFC 3986 section 2.3).
const IN_URI: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The values of a request by name: `device.serial`, `user.email`, `variable.site`.
pub(crate) type Values = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(String),
}

/// A text with places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

impl Template {
    /// Reads a template. Two braces in a row stand for one.
    ///
    /// # Errors
    /// `Reason::Malformed` for an open brace, and for places that do not begin with `device.`, `user.` or `variable.`.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let malformed = |why: &str| Refusal::new(Reason::Malformed, format!("the template {text:?} {why}"));
        if text.is_empty() || text.len() > TEMPLATE_OCTETS_MAX || text.chars().any(char::is_control) {
            return Err(malformed("is empty, too long or holds a control character"));
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            match character {
                '{' | '}' if rest.peek() == Some(&character) => {
                    rest.next();
                    literal.push(character);
                }
                '}' => return Err(malformed("closes a place that it did not open; a brace itself is written twice")),
                '{' => {
                    let mut closed = false;
                    let open = |other: &char| {
                        closed = *other == '}';
                        !closed
                    };
                    let place: String = rest.by_ref().take_while(open).collect();
                    if !closed || !is_place(&place) {
                        return Err(malformed(
                            "has a place that is not written as {device.NAME}, {user.NAME} or {variable.NAME}",
                        ));
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Place(place));
                }
                character => literal.push(character),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }

    /// The names of its places.
    pub(crate) fn places(&self) -> BTreeSet<&str> {
        let place = |part: &'_ Part| matches!(part, Part::Place(_));
        self.0.iter().filter(|part| place(part)).map(Part::text).collect()
    }

    /// Whether every place has a value.
    pub(crate) fn is_covered_by(&self, values: &Values) -> bool {
        self.places().iter().all(|place| values.contains_key(*place))
    }

    /// The text with its places filled in, each value as `write` writes it.
    fn fill(&self, values: &Values, write: fn(&str) -> Result<String, &'static str>) -> Result<String, Refusal> {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Place(place) => {
                    let value = values
                        .get(place)
                        .ok_or_else(|| Refusal::new(Reason::Malformed, format!("a value for {place} is missing")))?;
                    let refused = |why| Refusal::new(Reason::NameNotAllowed, format!("the value of {place} {why}"));
                    filled.push_str(&write(value).map_err(refused)?);
                }
            }
        }
        Ok(filled)
    }

    /// The value of a subject attribute, which is a text as it stands: nothing in it is special.
    ///
    /// # Errors
    /// A refusal if a value is missing.
    pub(crate) fn attribute(&self, values: &Values) -> Result<String, Refusal> {
        self.fill(values, |value| Ok(value.to_owned()))
    }

    /// An alternative name of a kind; the kind is the template's, never a value's.
    ///
    /// # Errors
    /// A refusal if a value is missing or may not stand in such a name.
    pub(crate) fn alternative_name(&self, kind: NameKind, values: &Values) -> Result<AlternativeName, Refusal> {
        let name = match kind {
            NameKind::Dns => AlternativeName::Dns(self.fill(values, in_host)?.to_ascii_lowercase()),
            NameKind::Email => AlternativeName::Email(self.fill(values, in_mailbox)?),
            NameKind::Upn => AlternativeName::Upn(self.fill(values, in_mailbox)?),
            NameKind::Uri => AlternativeName::Uri(self.fill(values, in_uri)?),
            NameKind::Ip => {
                let text = self.fill(values, |value| Ok(value.to_owned()))?;
                let no_address = |_| Refusal::new(Reason::NameNotAllowed, format!("{text:?} is no IP address"));
                AlternativeName::Ip(text.parse().map_err(no_address)?)
            }
            NameKind::PermanentIdentifier => {
                AlternativeName::PermanentIdentifier { value: Some(self.fill(values, in_identifier)?), assigner: None }
            }
        };
        name.validate()?;
        Ok(name)
    }
}

impl Part {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Place(text) => text,
        }
    }
}

/// The kinds of alternative names that a template can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameKind {
    Dns,
    Email,
    Upn,
    Uri,
    Ip,
    PermanentIdentifier,
}

impl NameKind {
    /// Splits `kind:template`.
    ///
    /// # Errors
    /// `Reason::Malformed` for another kind.
    pub(crate) fn split(text: &str) -> Result<(Self, &str), Refusal> {
        let (kind, template) = text.split_once(':').unwrap_or((text, ""));
        let kind = match kind {
            "dns" => Self::Dns,
            "email" => Self::Email,
            "upn" => Self::Upn,
            "uri" => Self::Uri,
            "ip" => Self::Ip,
            "permanent-identifier" => Self::PermanentIdentifier,
            other => {
                let text = format!(
                    "{other:?} is no kind of alternative name in a template; choose dns, email, upn, uri, ip or permanent-identifier"
                );
                return Err(Refusal::new(Reason::Malformed, text));
            }
        };
        Ok((kind, template))
    }
}

fn is_place(text: &str) -> bool {
    let Some((group, name)) = text.split_once('.') else { return false };
    ["device", "user", "variable"].contains(&group) && is_variable(name)
}

/// Whether a variable may have this name.
pub(crate) fn is_variable(name: &str) -> bool {
    let octet = |octet: u8| octet.is_ascii_alphanumeric() || b"-_".contains(&octet);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(octet)
}

/// Refuses what can stand in no name.
///
/// # Errors
/// What is wrong with the value.
pub(crate) fn check_value(value: &str) -> Result<(), &'static str> {
    if value.trim().is_empty() || value.trim() != value {
        return Err("is empty, or begins or ends with a space");
    }
    if value.len() > VALUE_OCTETS_MAX {
        return Err("has more than 512 octets");
    }
    let unseen = |character: char| {
        character.is_control()
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if value.chars().any(unseen) { Err("holds a character that nobody sees") } else { Ok(()) }
}

fn in_host(value: &str) -> Result<String, &'static str> {
    if value.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-.".contains(&octet)) {
        Ok(value.to_owned())
    } else {
        Err("may hold only letters, digits, hyphens and dots, since it goes into a host name")
    }
}

/// The kind of name judges the whole; here it is that a value with an `@` is a whole mailbox, not a part of one.
fn in_mailbox(value: &str) -> Result<String, &'static str> {
    if value.chars().any(|character| character.is_whitespace() || "\"\\,;:<>()[]/=*".contains(character)) {
        Err("holds a character that mailboxes and principals do not have")
    } else {
        Ok(value.to_owned())
    }
}

/// In the text form of these names an assigner follows an `@`.
fn in_identifier(value: &str) -> Result<String, &'static str> {
    if value.contains('@') { Err("holds an @, which identifiers of devices do not have") } else { Ok(value.to_owned()) }
}

fn in_uri(value: &str) -> Result<String, &'static str> {
    Ok(utf8_percent_encode(value, IN_URI).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn name(template: &str, value: &str) -> Result<String, Reason> {
        let (kind, template) = NameKind::split(template).unwrap();
        let values = values(&[("device.x", value)]);
        let name = Template::parse(template).unwrap().alternative_name(kind, &values);
        name.map(|name| name.to_string()).map_err(|refusal| refusal.reason())
    }

    #[test]
    fn s05_values_are_put_in_once_and_never_read_again() {
        let template = Template::parse("a{device.x}{{{user.y}}}").unwrap();
        let filled = template.attribute(&values(&[("device.x", "{user.y}"), ("user.y", "},cn=root+o=x\\#")]));
        assert_eq!(filled.unwrap(), "a{user.y}{},cn=root+o=x\\#}");
        assert_eq!(template.places().into_iter().collect::<Vec<_>>(), ["device.x", "user.y"]);
    }

    #[test]
    fn s05_a_value_makes_no_other_name_than_the_templates() {
        assert_eq!(name("dns:{device.x}.mdm.example.org", "Pc-1").unwrap(), "dns:pc-1.mdm.example.org");
        for bad in ["*", "a,dns:evil.example", "a/b", "a\0", "a b", "evil.example/", "ä", "-", "", "a..b"] {
            assert!(name("dns:{device.x}.mdm.example.org", bad).is_err(), "{bad:?}");
        }
        for bad in ["ann@evil.example", "ann@", "a,b", "<ann>", "a b", "ann\nbcc:x"] {
            assert!(name("email:{device.x}@example.org", bad).is_err(), "{bad:?}");
            assert!(name("upn:{device.x}@example.org", bad).is_err(), "{bad:?}");
        }
        assert_eq!(name("upn:{device.x}", "ann@corp.example").unwrap(), "upn:ann@corp.example");
        assert_eq!(
            name("uri:tag:microsoft.com,2022-09-14:sid:{device.x}", "S-1-5-21-1-2-3-1105").unwrap(),
            "uri:tag:microsoft.com,2022-09-14:sid:S-1-5-21-1-2-3-1105"
        );
        assert_eq!(
            name("uri:https://example.org/{device.x}", "../a?b#c@evil:1/ä").unwrap(),
            "uri:https://example.org/..%2Fa%3Fb%23c%40evil%3A1%2F%C3%A4"
        );
        assert_eq!(name("permanent-identifier:{device.x}", "SN/1,2").unwrap(), "permanent-identifier:SN/1,2");
        assert!(name("permanent-identifier:{device.x}", "SN@1.2.3").is_err());
        assert!(name("ip:{device.x}", "10.0.0.1/8").is_err());
    }

    #[test]
    fn templates_that_mean_nothing_are_refused() {
        for bad in [
            "",
            "{device.x",
            "device.x}",
            "{x}",
            "{device.}",
            "{root.x}",
            "{device.x y}",
            "{{device.x}",
            "{}",
            "{device.x}-{device.x",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad:?}");
        }
        assert!(NameKind::split("dn:cn={device.x}").is_err());
        assert!(check_value("a\u{202e}b").is_err() && check_value(" a").is_err() && check_value("a b").is_ok());
    }
}
