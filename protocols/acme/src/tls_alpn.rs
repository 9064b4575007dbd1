//! tls-alpn-01: what the certificate of a server says that answers for a name (RFC 8737 section 3) or an address (RFC 8738 section 6).

use std::net::IpAddr;

use ca_backend::nesting::check_nesting;
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::ID_CE_SUBJECT_ALT_NAME;
use der::Decode;
use der::asn1::OctetStringRef;
use x509_cert::Certificate;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::jwk::sha256;
use crate::validation::Target;

/// id-pe-acmeIdentifier (RFC 8737 section 6.1).
const ACME_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.31");

/// Octets of the longest certificate that is read. One that shows control has a few hundred.
const CERTIFICATE_BYTES_MAX: usize = 16 << 10;

/// The server name to send: the name itself; for an address the name of its reverse mapping, since TLS knows no addresses there.
pub(crate) fn server_name(target: &Target) -> String {
    match target {
        Target::Name(name) => name.clone(),
        Target::Address(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Target::Address(IpAddr::V6(address)) => {
            let nibbles = address.octets().into_iter().rev().flat_map(|octet| [octet & 0xf, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

/// Whether a certificate is for this host alone and holds the digest of the key authorization in a critical extension.
///
/// # Errors
/// What is wrong with it, in words that repeat nothing of it.
pub(crate) fn check(certificate: &[u8], target: &Target, key_authorization: &str) -> Result<(), &'static str> {
    if certificate.len() > CERTIFICATE_BYTES_MAX {
        return Err("is too long");
    }
    check_nesting(certificate).map_err(|_| "is not well-formed")?;
    let certificate = Certificate::from_der(certificate).map_err(|_| "is not well-formed")?;
    let extensions = certificate.tbs_certificate().extensions().map_or(&[][..], Vec::as_slice);

    let names = the_only(extensions, &ID_CE_SUBJECT_ALT_NAME).ok_or("has not one subjectAltName extension")?;
    let names =
        SubjectAltName::from_der(names.extn_value.as_bytes()).map_err(|_| "has an unreadable subjectAltName")?;
    let [name] = names.0.as_slice() else { return Err("is not for one name alone") };
    if !is_for(name, target) {
        return Err("is for another name");
    }

    let shown = the_only(extensions, &ACME_IDENTIFIER).ok_or("has not one acmeIdentifier extension")?;
    if !shown.critical {
        return Err("has an acmeIdentifier extension that is not critical");
    }
    let shown = <&OctetStringRef>::from_der(shown.extn_value.as_bytes());
    match shown {
        Ok(digest) if digest.as_bytes() == sha256(key_authorization.as_bytes()) => Ok(()),
        Ok(_) => Err("holds the digest of another key authorization"),
        Err(_) => Err("has an unreadable acmeIdentifier extension"),
    }
}

/// The extension of that kind, if there is exactly one.
fn the_only<'a>(extensions: &'a [Extension], kind: &ObjectIdentifier) -> Option<&'a Extension> {
    let mut found = extensions.iter().filter(|extension| extension.extn_id == *kind);
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

fn is_for(name: &GeneralName, target: &Target) -> bool {
    match (name, target) {
        (GeneralName::DnsName(shown), Target::Name(wanted)) => shown.as_str().eq_ignore_ascii_case(wanted),
        (GeneralName::IpAddress(shown), Target::Address(IpAddr::V4(wanted))) => shown.as_bytes() == wanted.octets(),
        (GeneralName::IpAddress(shown), Target::Address(IpAddr::V6(wanted))) => shown.as_bytes() == wanted.octets(),
        (_, Target::Name(_) | Target::Address(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_name_of_an_address_is_its_reverse_mapping() {
        let of = |address: &str| server_name(&Target::Address(address.parse().unwrap()));
        assert_eq!(of("192.0.2.1"), "1.2.0.192.in-addr.arpa");
        // The example of RFC 8738 section 6.
        let zeros = "0.".repeat(20);
        assert_eq!(of("2001:db8::1"), format!("1.0.0.0.{zeros}8.b.d.0.1.0.0.2.ip6.arpa"));
    }
}
