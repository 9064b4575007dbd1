//! The names in a subjectAltName (RFC 5280 section 4.2.1.6).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use const_oid::ObjectIdentifier;
use der::asn1::{Any, AnyRef, Ia5String, OctetStringRef};
use der::{Decode, Encode, Sequence, Tag, Tagged};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x509_cert::ext::pkix::name::{GeneralName, OtherName};

use super::{DistinguishedName, malformed};
use crate::error::{Fault, Reason, Refusal};

/// userPrincipalName (Microsoft): UTF8String.
const UPN: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.20.2.3");
/// id-on-permanentIdentifier (RFC 4043).
const PERMANENT_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.8.3");
/// id-on-hardwareModuleName (RFC 4108).
const HARDWARE_MODULE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.8.4");

/// Octets of the longest subjectAltName that is read.
const NAMES_BYTES_MAX: usize = 65_536;
/// Names in the longest subjectAltName that is read.
const NAMES_MAX: usize = 1000;
/// Octets of a dNSName (RFC 1035 without the final dot).
const DNS_BYTES_MAX: usize = 253;
/// Octets of an e-mail address (RFC 5321).
const EMAIL_BYTES_MAX: usize = 254;
/// Octets of a URI.
const URI_BYTES_MAX: usize = 2048;
/// Octets of a user principal name (Active Directory).
const UPN_BYTES_MAX: usize = 1024;
/// Octets of a permanent identifier, a module's serial or another name's value.
const VALUE_BYTES_MAX: usize = 1024;

/// A name in a subjectAltName.
///
/// As text it is a type, a colon and the value: `dns:example.org`, `ip:192.0.2.1`, `email:ann@example.org`,
/// `uri:urn:example:1`, `upn:ann@corp.example`, `dn:cn=Ann,o=ABC`, `rid:1.2.3`, `permanent-identifier:VALUE` or
/// `permanent-identifier:VALUE@1.2.3` with the assigner, `hardware-module:1.2.3/SERIAL IN HEX`, `other:1.2.3/DER IN HEX`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AlternativeName {
    /// A host name as A-labels, `*.` allowed in front.
    Dns(String),
    /// An address.
    Ip(IpAddr),
    /// A mailbox.
    Email(String),
    /// An absolute URI.
    Uri(String),
    /// A user principal name of Active Directory.
    Upn(String),
    /// A distinguished name.
    DirectoryName(DistinguishedName),
    /// An object identifier.
    RegisteredId(ObjectIdentifier),
    /// A permanent identifier (RFC 4043).
    PermanentIdentifier {
        /// The identifier.
        value: Option<String>,
        /// Who assigned it.
        assigner: Option<ObjectIdentifier>,
    },
    /// A hardware module (RFC 4108).
    HardwareModule {
        /// The module's type.
        hardware_type: ObjectIdentifier,
        /// The module's serial.
        serial: Vec<u8>,
    },
    /// Another otherName.
    Other {
        /// Its type.
        type_id: ObjectIdentifier,
        /// Its value, DER.
        value: Vec<u8>,
    },
}

/// PermanentIdentifier (RFC 4043 section 2).
#[derive(Sequence)]
struct PermanentIdentifierValue {
    #[asn1(optional = "true")]
    value: Option<String>,
    #[asn1(optional = "true")]
    assigner: Option<ObjectIdentifier>,
}

/// HardwareModuleName (RFC 4108 section 5).
#[derive(Sequence)]
struct HardwareModuleValue<'a> {
    hardware_type: ObjectIdentifier,
    serial: &'a OctetStringRef,
}

impl AlternativeName {
    /// Reads the text form and validates the name. Host names and the hosts of mailboxes become lower case.
    ///
    /// # Errors
    /// Refuses unknown types and what [`AlternativeName::validate`] refuses.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let (kind, value) = text
            .split_once(':')
            .ok_or_else(|| malformed(format!("{text:?} is not an alternative name such as dns:example.org")))?;
        let oid = |text: &str| {
            ObjectIdentifier::from_str(text.trim())
                .map_err(|_| malformed(format!("{text:?} is not an object identifier")))
        };
        let hexadecimal = |text: &str| hex::decode(text).map_err(|_| malformed(format!("{text:?} is not hexadecimal")));
        let typed = |text: &str| match text.split_once('/') {
            Some((kind, value)) => Ok((oid(kind)?, hexadecimal(value)?)),
            None => Err(malformed(format!("{text:?} is not an object identifier, a slash and hexadecimal digits"))),
        };
        let name = match kind.trim().to_ascii_lowercase().as_str() {
            "dns" => Self::Dns(value.to_ascii_lowercase()),
            "ip" => Self::Ip(value.parse().map_err(|_| malformed(format!("{value:?} is not an IP address")))?),
            "email" => Self::Email(match value.rsplit_once('@') {
                Some((mailbox, host)) => format!("{mailbox}@{}", host.to_ascii_lowercase()),
                None => value.to_owned(),
            }),
            "uri" => Self::Uri(value.to_owned()),
            "upn" => Self::Upn(value.to_owned()),
            "dn" => Self::DirectoryName(DistinguishedName::parse(value)?),
            "rid" => Self::RegisteredId(oid(value)?),
            "permanent-identifier" => match value.rsplit_once('@') {
                Some((value, assigner)) => Self::PermanentIdentifier {
                    value: if value.is_empty() { None } else { Some(value.to_owned()) },
                    assigner: Some(oid(assigner)?),
                },
                None => Self::PermanentIdentifier { value: Some(value.to_owned()), assigner: None },
            },
            "hardware-module" => {
                let (hardware_type, serial) = typed(value)?;
                Self::HardwareModule { hardware_type, serial }
            }
            "other" => {
                let (type_id, value) = typed(value)?;
                Self::Other { type_id, value }
            }
            unknown => {
                return Err(malformed(format!("{unknown:?} is not a type of alternative name")));
            }
        };
        name.validate()?;
        Ok(name)
    }

    /// The type, as the text form has it in front of the colon.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dns(_) => "dns",
            Self::Ip(_) => "ip",
            Self::Email(_) => "email",
            Self::Uri(_) => "uri",
            Self::Upn(_) => "upn",
            Self::DirectoryName(_) => "dn",
            Self::RegisteredId(_) => "rid",
            Self::PermanentIdentifier { .. } => "permanent-identifier",
            Self::HardwareModule { .. } => "hardware-module",
            Self::Other { .. } => "other",
        }
    }

    /// What a search compares: the value in lower case, without the type.
    #[must_use]
    pub fn search_key(&self) -> String {
        self.value().to_lowercase()
    }

    /// Whether the name may stand in a new certificate.
    ///
    /// # Errors
    /// Refuses the name with the rule that it breaks.
    pub fn validate(&self) -> Result<(), Refusal> {
        let checked = match self {
            Self::Dns(host) => check_dns(host),
            Self::Ip(address) => check_ip(*address),
            Self::Email(mailbox) => check_email(mailbox),
            Self::Uri(uri) => check_uri(uri),
            Self::Upn(upn) => check_upn(upn),
            Self::DirectoryName(name) => {
                name.validate()?;
                if name.is_empty() { Err("is empty") } else { Ok(()) }
            }
            Self::RegisteredId(_) => Ok(()),
            Self::PermanentIdentifier { value, assigner } => check_permanent_identifier(value.as_deref(), *assigner),
            Self::HardwareModule { serial, .. } => check_length(serial.len()),
            Self::Other { type_id, value } => check_other(type_id, value),
        };
        checked.map_err(|why| malformed(format!("the alternative name {:?} {why}", self.to_string())))
    }

    /// The subjectAltName with these names, DER: the content of the extension's value.
    ///
    /// # Errors
    /// A fault if a name does not fit its encoding; validated names always do.
    pub fn encode_all(names: &[Self]) -> Result<Vec<u8>, Fault> {
        let names: Vec<GeneralName> = names.iter().map(Self::general_name).collect::<Result<_, der::Error>>()?;
        Ok(names.to_der()?)
    }

    /// Reads a subjectAltName, DER, as [`AlternativeName::encode_all`] makes it. Names are read, not yet validated.
    ///
    /// # Errors
    /// Refuses what is not DER, more than 65,536 octets or 1000 names, no names at all, and types of names that are not served
    /// (x400Address, ediPartyName).
    pub fn decode_all(der: &[u8]) -> Result<Vec<Self>, Refusal> {
        if der.len() > NAMES_BYTES_MAX {
            return Err(malformed("the subject alternative name is too long"));
        }
        let names = Vec::<GeneralName>::from_der(der)
            .map_err(|_| malformed("the subject alternative name is not valid DER"))?;
        if names.is_empty() || names.len() > NAMES_MAX {
            return Err(malformed(format!("the subject alternative name has no names or more than {NAMES_MAX}")));
        }
        names.iter().map(Self::from_general_name).collect()
    }

    pub(crate) fn from_general_name(name: &GeneralName) -> Result<Self, Refusal> {
        Ok(match name {
            GeneralName::DnsName(host) => Self::Dns(host.as_str().to_owned()),
            GeneralName::IpAddress(address) => Self::Ip(ip_address(address.as_bytes())?),
            GeneralName::Rfc822Name(mailbox) => Self::Email(mailbox.as_str().to_owned()),
            GeneralName::UniformResourceIdentifier(uri) => Self::Uri(uri.as_str().to_owned()),
            GeneralName::DirectoryName(name) => {
                let der = name.to_der().map_err(|_| malformed("a directory name is not valid DER"))?;
                Self::DirectoryName(DistinguishedName::from_der(&der)?)
            }
            GeneralName::RegisteredId(oid) => Self::RegisteredId(*oid),
            GeneralName::OtherName(other) => Self::from_other_name(other)?,
            GeneralName::EdiPartyName(_) => {
                return Err(Refusal::new(Reason::Unsupported, "alternative names of type ediPartyName are not served"));
            }
        })
    }

    fn from_other_name(name: &OtherName) -> Result<Self, Refusal> {
        let value = name.value.to_ref();
        let invalid = || malformed(format!("the value of the otherName {} is not what its type demands", name.type_id));
        Ok(match name.type_id {
            UPN if value.tag() == Tag::Utf8String => {
                Self::Upn(super::attribute::text(value).ok_or_else(invalid)?.into_owned())
            }
            PERMANENT_IDENTIFIER => {
                let PermanentIdentifierValue { value, assigner } = value.decode_as().map_err(|_| invalid())?;
                Self::PermanentIdentifier { value, assigner }
            }
            HARDWARE_MODULE_NAME => {
                let module: HardwareModuleValue<'_> = value.decode_as().map_err(|_| invalid())?;
                Self::HardwareModule { hardware_type: module.hardware_type, serial: module.serial.as_bytes().to_vec() }
            }
            UPN => return Err(invalid()),
            type_id => Self::Other { type_id, value: value.to_der().map_err(|_| invalid())? },
        })
    }

    fn general_name(&self) -> der::Result<GeneralName> {
        let other = |type_id, value| GeneralName::OtherName(OtherName { type_id, value });
        Ok(match self {
            Self::Dns(host) => GeneralName::DnsName(Ia5String::new(host)?),
            Self::Ip(address) => GeneralName::from(*address),
            Self::Email(mailbox) => GeneralName::Rfc822Name(Ia5String::new(mailbox)?),
            Self::Uri(uri) => GeneralName::UniformResourceIdentifier(Ia5String::new(uri)?),
            Self::Upn(upn) => other(UPN, Any::new(Tag::Utf8String, upn.as_bytes())?),
            Self::DirectoryName(name) => GeneralName::DirectoryName(Decode::from_der(name.as_der())?),
            Self::RegisteredId(oid) => GeneralName::RegisteredId(*oid),
            Self::PermanentIdentifier { value, assigner } => {
                let value = PermanentIdentifierValue { value: value.clone(), assigner: *assigner };
                other(PERMANENT_IDENTIFIER, Any::encode_from(&value)?)
            }
            Self::HardwareModule { hardware_type, serial } => {
                let value = HardwareModuleValue { hardware_type: *hardware_type, serial: OctetStringRef::new(serial)? };
                other(HARDWARE_MODULE_NAME, Any::encode_from(&value)?)
            }
            Self::Other { type_id, value } => other(*type_id, Any::from_der(value)?),
        })
    }

    /// The text after the colon.
    fn value(&self) -> String {
        match self {
            Self::Dns(text) | Self::Email(text) | Self::Uri(text) | Self::Upn(text) => text.clone(),
            Self::Ip(address) => address.to_string(),
            Self::DirectoryName(name) => name.to_string(),
            Self::RegisteredId(oid) => oid.to_string(),
            Self::PermanentIdentifier { value, assigner } => {
                let value = value.clone().unwrap_or_default();
                assigner.map_or(value.clone(), |assigner| format!("{value}@{assigner}"))
            }
            Self::HardwareModule { hardware_type, serial } => format!("{hardware_type}/{}", hex::encode(serial)),
            Self::Other { type_id, value } => format!("{type_id}/{}", hex::encode(value)),
        }
    }
}

/// The address in an iPAddress: 4 or 16 octets.
fn ip_address(octets: &[u8]) -> Result<IpAddr, Refusal> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    let v6 = <[u8; 16]>::try_from(octets).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
    v4.or(v6).map_err(|_| malformed("an IP address has neither 4 nor 16 octets"))
}

type Checked = Result<(), &'static str>;

fn check_dns(host: &str) -> Checked {
    if host.len() > DNS_BYTES_MAX {
        return Err("is longer than 253 octets");
    }
    check_host(host.strip_prefix("*.").unwrap_or(host))
}

/// Letters, digits and hyphens (RFC 5890 section 2.3.1), A-labels that decode, and not an address in disguise.
fn check_host(host: &str) -> Checked {
    for label in host.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("has an empty label, a label of more than 63 octets, or ends in a dot");
        }
        if !label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-') {
            return Err(
                "may hold only letters, digits and hyphens, international names as A-labels, and * only as the whole first label",
            );
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("has a label that begins or ends with a hyphen");
        }
        let reserved = label.get(2..4) == Some("--");
        if reserved
            && !(label.get(..2).is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn"))
                && idna::domain_to_unicode(label).1.is_ok())
        {
            return Err("has a label with hyphens in third and fourth place that is no valid A-label");
        }
    }
    if host.rsplit('.').next().is_some_and(|last| last.bytes().all(|octet| octet.is_ascii_digit())) {
        return Err("ends in a label of digits; addresses are alternative names of type ip");
    }
    Ok(())
}

fn check_ip(address: IpAddr) -> Checked {
    match address {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => {
            Err("is an IPv4 address mapped into IPv6; give it as IPv4")
        }
        IpAddr::V4(_) | IpAddr::V6(_) => Ok(()),
    }
}

fn check_email(mailbox: &str) -> Checked {
    let Some((local, host)) = mailbox.split_once('@') else {
        return Err("has no @");
    };
    if mailbox.len() > EMAIL_BYTES_MAX || local.is_empty() || local.len() > 64 || host.contains('@') {
        return Err("is no mailbox: one @, at most 64 octets before it and 254 in all");
    }
    // RFC 5321 dot-string: the quoted form is legal and nobody's mailbox.
    let atom = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&octet);
    if local.split('.').any(|part| part.is_empty() || !part.bytes().all(atom)) {
        return Err("has a character before the @ that mailboxes do not have");
    }
    check_host(host)
}

fn check_uri(uri: &str) -> Checked {
    let Some((scheme, rest)) = uri.split_once(':') else {
        return Err("is not absolute: it has no scheme");
    };
    let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"+-.".contains(&octet));
    if !scheme_fits || rest.is_empty() || uri.len() > URI_BYTES_MAX {
        return Err("is no absolute URI of at most 2048 octets");
    }
    if !rest.bytes().all(|octet| octet.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&octet)) {
        return Err("holds a character that URIs do not have");
    }
    let Some(rest) = rest.strip_prefix("//") else {
        return Ok(());
    };
    // RFC 5280: a URI with an authority names a host by its full name or its address. What a pattern of an access rule covers must
    // not turn out to be another place once a program has read it.
    let host_and_port = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host_and_port.contains('@') {
        return Err("has a user before its host");
    }
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    if path.split('/').any(|part| [".", ".."].contains(&part.to_ascii_lowercase().replace("%2e", ".").as_str())) {
        return Err("has . or .. as a part of its path, which programs take away");
    }
    if let Some(literal) = host_and_port.strip_prefix('[') {
        let address = literal.split(']').next().unwrap_or_default();
        return address.parse::<Ipv6Addr>().map(|_| ()).map_err(|_| "has a host that is no IPv6 address");
    }
    let host = host_and_port.split(':').next().unwrap_or_default();
    if host.parse::<Ipv4Addr>().is_ok() { Ok(()) } else { check_host(host) }
}

fn check_upn(upn: &str) -> Checked {
    let Some((user, domain)) = upn.split_once('@') else {
        return Err("has no @");
    };
    if user.is_empty() || domain.is_empty() || domain.contains('@') || upn.len() > UPN_BYTES_MAX {
        return Err("is no user principal name: one @ with something on both sides, at most 1024 octets");
    }
    if upn.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("holds a space or control character");
    }
    Ok(())
}

fn check_permanent_identifier(value: Option<&str>, assigner: Option<ObjectIdentifier>) -> Checked {
    let Some(value) = value else {
        return if assigner.is_some() { Ok(()) } else { Err("has neither a value nor an assigner") };
    };
    if value.chars().any(char::is_control) {
        return Err("holds a control character");
    }
    check_length(value.len())
}

fn check_length(length: usize) -> Checked {
    if (1..=VALUE_BYTES_MAX).contains(&length) { Ok(()) } else { Err("is empty or longer than 1024 octets") }
}

fn check_other(type_id: &ObjectIdentifier, value: &[u8]) -> Checked {
    check_length(value.len())?;
    if [UPN, PERMANENT_IDENTIFIER, HARDWARE_MODULE_NAME].contains(type_id) {
        return Err("has a type of its own; give it as that");
    }
    AnyRef::from_der(value).map(|_| ()).map_err(|_| "has a value that is not DER")
}

impl fmt::Display for AlternativeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.value())
    }
}

/// The text form in formats for people, a GeneralName (DER) in CBOR.
impl Serialize for AlternativeName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        let der = self.general_name().and_then(|name| name.to_der()).map_err(serde::ser::Error::custom)?;
        serializer.serialize_bytes(&der)
    }
}

impl<'de> Deserialize<'de> for AlternativeName {
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
    type Value = AlternativeName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an alternative name such as dns:example.org")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<AlternativeName, E> {
        AlternativeName::parse(text).map_err(|refusal| E::custom(refusal.public()))
    }

    fn visit_bytes<E: serde::de::Error>(self, der: &[u8]) -> Result<AlternativeName, E> {
        let name = GeneralName::from_der(der).map_err(E::custom)?;
        AlternativeName::from_general_name(&name).map_err(|refusal| E::custom(refusal.public()))
    }
}
