//! What programs read out of a name: they are lenient where alternative names are strict.
//!
//! Denials look at these readings, so that a denied name does not stand because it is written in another way. Nothing is ever
//! allowed by a reading.

use std::net::IpAddr;

use const_oid::ObjectIdentifier;
use const_oid::db::{rfc2985, rfc4519};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::name::AlternativeName;

/// rfc822Mailbox (RFC 4524), which older programs read as they read emailAddress.
const MAIL: ObjectIdentifier = ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.3");

/// Where programs look for names in a subject. Routers have theirs in the unstructured attributes.
const NAMING_ATTRIBUTES: [ObjectIdentifier; 6] = [
    rfc4519::CN,
    rfc4519::UID,
    rfc2985::PKCS_9_AT_EMAIL_ADDRESS,
    rfc2985::PKCS_9_AT_UNSTRUCTURED_NAME,
    rfc2985::PKCS_9_AT_UNSTRUCTURED_ADDRESS,
    MAIL,
];

/// Every alternative name that the value of a subject attribute may be taken for.
pub(super) fn of_attribute(attribute: &ObjectIdentifier, value: &str) -> Vec<AlternativeName> {
    if !NAMING_ATTRIBUTES.contains(attribute) {
        return Vec::new();
    }
    let mut names = Vec::new();
    if value.contains("://") {
        names.push(AlternativeName::Uri(value.to_owned()));
    }
    if value.contains('@') {
        names.extend([AlternativeName::Email(value.to_owned()), AlternativeName::Upn(value.to_owned())]);
    }
    if !names.is_empty() {
        return names;
    }
    // Who logs in with a host's name is no host.
    let names_host = *attribute != rfc4519::UID && host(value).is_some();
    if names_host { vec![AlternativeName::Dns(value.to_owned())] } else { names }
}

/// The host that a text names: an address in any of its forms, or a name in lower case, as A-labels, without dots at its ends.
pub(super) fn host(text: &str) -> Option<Host> {
    let address = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(address) => Some(Host::Ipv4(address)),
        IpAddr::V6(address) => Some(Host::Ipv6(address)),
    };
    if let Ok(plain) = text.parse() {
        return address(plain);
    }
    // Browsers take a mere number for an address; in a name it is the serial of a device.
    if text.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    let name = match Host::parse(text) {
        Ok(Host::Ipv6(found)) => return address(found.into()),
        Ok(Host::Ipv4(found)) => return address(found.into()),
        Ok(Host::Domain(name)) => name,
        // Labels that are wrong by themselves may stand below a denied name all the same.
        Err(_) => text.to_lowercase(),
    };
    let name = name.trim_matches('.');
    let is_host = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || "@:/?#\\".contains(c));
    is_host.then(|| Host::Domain(name.to_owned()))
}

/// The host of a URI: what its authority names, or who is meant where there is none (RFC 5922 section 7.1 for `sip:example.org`).
pub(super) fn host_of_uri(uri: &str) -> Option<Host> {
    let (scheme, rest) = uri.split_once(':')?;
    if rest.starts_with("//") {
        return host(Url::parse(uri).ok()?.host_str()?);
    }
    let names_host = ["sip", "sips"].iter().any(|named| scheme.eq_ignore_ascii_case(named));
    let whole = rest.split(['?', '#', ';']).next().unwrap_or_default();
    match whole.rsplit_once('@') {
        Some((_, after)) => host(after.split(':').next().unwrap_or_default()),
        None if names_host => host(whole.split(':').next().unwrap_or_default()),
        None => None,
    }
}

/// A URI as programs compare it: letter case and default port settled; and so with what its percent signs stand for.
pub(super) fn settled_uris(uri: &str) -> Vec<String> {
    let Ok(settled) = Url::parse(uri) else { return Vec::new() };
    let decoded = percent_decode_str(settled.as_str()).decode_utf8_lossy().into_owned();
    vec![settled.into(), decoded]
}

/// The host name behind the `@`.
pub(super) fn domain_of(address: &str) -> String {
    let (_, domain) = address.rsplit_once('@').unwrap_or_default();
    match host(domain) {
        Some(Host::Domain(name)) => name,
        Some(Host::Ipv4(_) | Host::Ipv6(_)) | None => domain.to_owned(),
    }
}
