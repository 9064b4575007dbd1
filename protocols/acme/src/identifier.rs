//! Identifiers of orders: DNS names (RFC 8555 section 7.1.4, RFC 5890), IP addresses (RFC 8738), devices and their secure modules
//! (draft-ietf-acme-device-attest).

use std::fmt;
use std::net::IpAddr;

use ca_backend::AlternativeName;
use const_oid::ObjectIdentifier;
use serde_json::{Value, json};

use crate::attestation::Identity;
use crate::error::ProblemType;

/// What a certificate shall be made out to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Identifier {
    /// A host name in lower-case A-labels without a trailing dot.
    Dns {
        /// The name, without the wildcard label.
        name: String,
        /// Whether `*.` stands before it.
        wildcard: bool,
    },
    /// An address.
    Ip(IpAddr),
    /// A device or a secure module.
    Device(Identity),
}

/// Why text is no identifier.
pub(crate) type Fault = (ProblemType, &'static str);

const PERMANENT_IDENTIFIER: &str = "permanent-identifier";
const HARDWARE_MODULE: &str = "hardware-module";

const DNS_BYTES_MAX: usize = 253;
const DEVICE_BYTES_MAX: usize = 255;
const LABEL_BYTES_MAX: usize = 63;

impl Identifier {
    /// Reads the `type` and `value` of an identifier.
    pub(crate) fn parse(kind: &str, value: &str) -> Result<Self, Fault> {
        match kind {
            "dns" => dns(value),
            "ip" => ip(value),
            PERMANENT_IDENTIFIER => device(value),
            HARDWARE_MODULE => module(value),
            _ => Err((
                ProblemType::UnsupportedIdentifier,
                "identifiers of this type are not served; use dns, ip, permanent-identifier or hardware-module",
            )),
        }
    }

    /// The type as it stands in JSON.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "dns",
            Self::Ip(_) => "ip",
            Self::Device(Identity::Device { .. }) => PERMANENT_IDENTIFIER,
            Self::Device(Identity::Module { .. }) => HARDWARE_MODULE,
        }
    }

    pub(crate) fn is_wildcard(&self) -> bool {
        matches!(self, Self::Dns { wildcard: true, .. })
    }

    /// The identifier whose control is to be shown: this one without its wildcard label.
    pub(crate) fn base(&self) -> Self {
        match self {
            Self::Dns { name, .. } => Self::Dns { name: name.clone(), wildcard: false },
            Self::Ip(_) | Self::Device(_) => self.clone(),
        }
    }

    /// The name that a certificate would carry.
    pub(crate) fn alternative_name(&self) -> AlternativeName {
        match self {
            Self::Dns { .. } => AlternativeName::Dns(self.to_string()),
            Self::Ip(address) => AlternativeName::Ip(*address),
            Self::Device(Identity::Device { value, assigner }) => {
                AlternativeName::PermanentIdentifier { value: Some(value.clone()), assigner: *assigner }
            }
            Self::Device(Identity::Module { hardware_type, serial }) => {
                AlternativeName::HardwareModule { hardware_type: *hardware_type, serial: serial.clone() }
            }
        }
    }

    /// Whether this is a host name somewhere below a domain. A wildcard is none: it stands for more than one name.
    pub(crate) fn is_host_below(&self, domain: &str) -> bool {
        let Self::Dns { name, wildcard: false } = self else { return false };
        name.strip_suffix(domain).is_some_and(|labels| labels.ends_with('.'))
    }

    /// The domains above a host name, the nearest first.
    pub(crate) fn domains_above(&self) -> impl Iterator<Item = Self> {
        let name = match self {
            Self::Dns { name, wildcard: false } => name.as_str(),
            Self::Dns { wildcard: true, .. } | Self::Ip(_) | Self::Device(_) => "",
        };
        let above = name.match_indices('.').filter_map(|(dot, _)| name.get(dot + 1..));
        above.map(|domain| Self::Dns { name: domain.to_owned(), wildcard: false })
    }

    /// `{"type": .., "value": ..}`.
    pub(crate) fn document(&self) -> Value {
        json!({ "type": self.kind(), "value": self.to_string() })
    }
}

/// The value as it stands in JSON.
impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns { name, wildcard: true } => write!(f, "*.{name}"),
            Self::Dns { name, wildcard: false } => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
            Self::Device(Identity::Device { value, assigner: None }) => f.write_str(value),
            Self::Device(Identity::Device { value, assigner: Some(assigner) }) => write!(f, "{value}/{assigner}"),
            Self::Device(Identity::Module { hardware_type, serial }) => {
                write!(f, "{}/{hardware_type}", String::from_utf8_lossy(serial))
            }
        }
    }
}

fn dns(value: &str) -> Result<Identifier, Fault> {
    let malformed = |why| Err((ProblemType::Malformed, why));
    let rejected = |why| Err((ProblemType::RejectedIdentifier, why));
    if value.len() > DNS_BYTES_MAX {
        return malformed("a DNS name has at most 253 octets");
    }
    if !value.is_ascii() {
        return malformed("a DNS name is written in A-labels (xn--)");
    }
    let value = value.to_ascii_lowercase();
    let (name, wildcard) = match value.strip_prefix("*.") {
        Some(base) => (base, true),
        None => (value.as_str(), false),
    };
    for label in name.split('.') {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return malformed("every label of a DNS name has 1 to 63 octets, and no dot ends the name");
        }
        if !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return malformed("a DNS name consists of letters, digits and hyphens; a wildcard is a whole first label");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return malformed("no label of a DNS name begins or ends with a hyphen");
        }
        if label.get(2..4) == Some("--") && !is_a_label(label) {
            return malformed("a label with hyphens in third and fourth place is not a valid A-label");
        }
    }
    // WHATWG and inet_aton read such names as addresses, so a validator and a client could disagree on what was shown.
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
        return rejected("this is an address, or would be taken for one; use an identifier of type ip");
    }
    if wildcard && !name.contains('.') {
        return rejected("a wildcard directly under a top-level name is refused");
    }
    Ok(Identifier::Dns { name: name.to_owned(), wildcard })
}

/// Whether a label begins with `xn--` and is what its own Unicode form encodes to (RFC 5890 section 2.3.2.1).
fn is_a_label(label: &str) -> bool {
    let (unicode, read) = idna::domain_to_unicode(label);
    read.is_ok() && !unicode.is_ascii() && idna::domain_to_ascii_strict(&unicode).is_ok_and(|again| again == label)
}

fn ip(value: &str) -> Result<Identifier, Fault> {
    let address: IpAddr = value.parse().map_err(|_| (ProblemType::Malformed, "this is not an IP address"))?;
    if address.to_string() != value {
        return Err((ProblemType::Malformed, "the address is not in its canonical text form (RFC 5952)"));
    }
    let names_no_host = address.is_unspecified() || address.is_multicast() || address.to_canonical() != address;
    if names_no_host || matches!(address, IpAddr::V4(v4) if v4.is_broadcast()) {
        return Err((ProblemType::RejectedIdentifier, "this address does not name one host"));
    }
    Ok(Identifier::Ip(address))
}

/// A value and, after a slash, an object identifier, which may be missing.
fn with_type(value: &str) -> Result<(&str, Option<ObjectIdentifier>), Fault> {
    let (value, kind) = match value.split_once('/') {
        Some((value, kind)) => (value, Some(kind)),
        None => (value, None),
    };
    let plain = !value.is_empty() && value.len() <= DEVICE_BYTES_MAX && !value.chars().any(char::is_control);
    if !plain {
        return Err((ProblemType::Malformed, "a device's identifier has 1 to 255 octets and no control characters"));
    }
    let kind = kind.map(str::parse).transpose();
    let kind = kind.map_err(|_| (ProblemType::Malformed, "an object identifier follows the slash"))?;
    Ok((value, kind))
}

fn device(value: &str) -> Result<Identifier, Fault> {
    let (value, assigner) = with_type(value)?;
    Ok(Identifier::Device(Identity::Device { value: value.to_owned(), assigner }))
}

/// The type may be missing in the draft, but not in the certificate.
fn module(value: &str) -> Result<Identifier, Fault> {
    let (serial, hardware_type) = with_type(value)?;
    let hardware_type = hardware_type.ok_or((
        ProblemType::RejectedIdentifier,
        "state the module's type: its serial, a slash and an object identifier",
    ))?;
    Ok(Identifier::Device(Identity::Module { hardware_type, serial: serial.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(kind: &str, value: &str) -> Result<String, ProblemType> {
        Identifier::parse(kind, value).map(|identifier| identifier.to_string()).map_err(|(kind, _)| kind)
    }

    #[test]
    fn s14_dns_names_are_folded_to_lower_case_and_kept_otherwise() {
        for (value, name) in [
            ("Host.Corp.Example", "host.corp.example"),
            ("*.corp.example", "*.corp.example"),
            ("intranet", "intranet"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("1.a", "1.a"),
        ] {
            assert_eq!(parsed("dns", value), Ok(name.to_owned()), "{value}");
        }
    }

    #[test]
    fn s14_what_is_no_host_name_is_refused() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(63)].join(".");
        for value in [
            "",
            ".",
            "a..b",
            "host.example.",
            "a_b.example",
            "-a.example",
            "a-.example",
            "host.example:443",
            "user@host.example",
            "*",
            "*.",
            "a*.example",
            "*.*.example",
            "bücher.example",
            "xn--zz.example",
            "xn--a.example",
            "ab--c.example",
            "a b.example",
            "host.example/x",
            "[::1]",
            "::1",
            "a\0.example",
            &long_label,
            &long_name,
        ] {
            assert_eq!(parsed("dns", value), Err(ProblemType::Malformed), "{value:?}");
        }
        for value in ["192.0.2.1", "2130706433", "a.1", "0x7f.0x1", "*.com"] {
            assert_eq!(parsed("dns", value), Err(ProblemType::RejectedIdentifier), "{value:?}");
        }
    }

    #[test]
    fn s14_addresses_are_taken_only_in_canonical_form() {
        for value in ["192.0.2.1", "2001:db8::1", "10.0.0.1", "127.0.0.1"] {
            assert_eq!(parsed("ip", value), Ok(value.to_owned()));
        }
        for value in [
            "192.0.2.01",
            "2001:DB8::1",
            "2001:db8:0::1",
            "[::1]",
            "fe80::1%eth0",
            "192.0.2.1/32",
            "host",
            "",
            "::ffff:c000:201",
        ] {
            assert_eq!(parsed("ip", value), Err(ProblemType::Malformed), "{value:?}");
        }
        for value in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:192.0.2.1"] {
            assert_eq!(parsed("ip", value), Err(ProblemType::RejectedIdentifier), "{value:?}");
        }
    }

    #[test]
    fn s14_devices_are_a_value_and_perhaps_a_type() {
        for (kind, value) in [
            ("permanent-identifier", "C02ABC"),
            ("permanent-identifier", "Sérial 1/1.2.3"),
            ("hardware-module", "00ff/1.3.6.1.4.1.99999.1"),
        ] {
            assert_eq!(parsed(kind, value), Ok(value.to_owned()));
        }
        for value in ["", "/1.2.3", "a/", "a/b", "a/1.2.3/4", "a\n", &"a".repeat(256)] {
            assert_eq!(parsed("permanent-identifier", value), Err(ProblemType::Malformed), "{value:?}");
        }
        assert_eq!(parsed("hardware-module", "00ff"), Err(ProblemType::RejectedIdentifier));
    }

    #[test]
    fn identifiers_of_other_types_are_unsupported() {
        assert_eq!(parsed("email", "a@b.example"), Err(ProblemType::UnsupportedIdentifier));
    }
}
