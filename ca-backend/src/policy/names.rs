//! Which names access rules allow and deny.

use std::net::IpAddr;

use const_oid::ObjectIdentifier;
use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use url::Host;

use super::pattern::{DnsRule, TextRule, folded};
use super::reading;
use crate::name::{AlternativeName, DistinguishedName, split_unescaped};

/// Which names, by type. Nothing stated means none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NameRules {
    /// DNS names: `host.example.org` (itself), `.example.org` (everything below it), `*` (all).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<DnsRule>,
    /// Whether `*.NAME` may stand where NAME or something below it may. Has no meaning in a denial: a denied name's wildcard is
    /// denied with it.
    pub wildcards: bool,
    /// Address ranges, such as `10.0.0.0/8`.
    #[serde(deserialize_with = "address_ranges", skip_serializing_if = "Vec::is_empty")]
    pub ip: Vec<IpNet>,
    /// What follows the `@` of e-mail addresses, as in `dns`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub email: Vec<DnsRule>,
    /// URIs, usually with a prefix: `https://device.example.org/*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uri: Vec<TextRule>,
    /// What follows the `@` of user principal names, as in `dns`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upn: Vec<DnsRule>,
    /// Permanent identifiers and hardware module serials.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device: Vec<TextRule>,
    /// Directory names among the alternative names, as RFC 4514 text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub directory: Vec<TextRule>,
    /// Types of other names and registered identifiers.
    #[serde(with = "crate::profile::purpose", skip_serializing_if = "Vec::is_empty")]
    pub other: Vec<ObjectIdentifier>,
    /// Subject attributes. A common name that repeats an alternative name needs no rule of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject: Vec<AttributeRule>,
}

/// A pattern for one subject attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeRule {
    /// The attribute's type: `cn`, `o`, `serialNumber`, or a dotted object identifier.
    #[serde(with = "crate::name::attribute_type")]
    pub attribute: ObjectIdentifier,
    /// Its value.
    pub value: TextRule,
}

/// A denial that matches nothing is worse than none: names hold no IPv4 address that is written as IPv6.
fn address_ranges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let ranges = Vec::<IpNet>::deserialize(deserializer)?;
    let is_mapped = |range: &&IpNet| matches!(range, IpNet::V6(range) if range.prefix_len() >= 96 && range.network().to_ipv4_mapped().is_some());
    match ranges.iter().find(is_mapped) {
        Some(mapped) => {
            Err(D::Error::custom(format!("{mapped} is a range of IPv4: write it as such, like 10.0.0.0/8")))
        }
        None => Ok(ranges),
    }
}

fn any(rules: &[DnsRule], name: &str) -> bool {
    rules.iter().any(|rule| rule.covers(name))
}

fn any_text(rules: &[TextRule], text: &str) -> bool {
    rules.iter().any(|rule| rule.covers(text))
}

/// A wildcard name, and the name below which it matches.
pub(super) fn wildcard_base(name: &AlternativeName) -> Option<(&str, &str)> {
    let AlternativeName::Dns(dns) = name else { return None };
    Some((dns, dns.strip_prefix("*.")?))
}

impl NameRules {
    /// Whether a name may stand by these rules. A wildcard needs `wildcards` as well.
    #[must_use]
    pub fn allows(&self, name: &AlternativeName) -> bool {
        // Allowing `.example.org` with wildcards admits `*.example.org`: all it can match lies below.
        if let Some((dns, base)) = wildcard_base(name) {
            return self.wildcards && (any(&self.dns, base) || any(&self.dns, dns));
        }
        match name {
            AlternativeName::DirectoryName(name) => self.allows_directory(name),
            AlternativeName::Uri(uri) if is_account(uri) => self.uri.iter().any(|rule| match rule {
                TextRule::Exact(text) | TextRule::Prefix(text) => is_account(text) && rule.covers(uri),
                TextRule::Any | TextRule::Suffix(_) => false,
            }),
            AlternativeName::Dns(_)
            | AlternativeName::Ip(_)
            | AlternativeName::Email(_)
            | AlternativeName::Uri(_)
            | AlternativeName::Upn(_)
            | AlternativeName::RegisteredId(_)
            | AlternativeName::PermanentIdentifier { .. }
            | AlternativeName::HardwareModule { .. }
            | AlternativeName::Other { .. } => self.names(name),
        }
    }

    /// Whether a name may not stand, however it is written and wherever in it a denied name is read.
    pub(super) fn denies(&self, name: &AlternativeName) -> bool {
        let is_read = match name {
            AlternativeName::Dns(dns) => reading::host(dns).is_some_and(|host| self.denies_host(&host)),
            AlternativeName::Email(address) => any(&self.email, &reading::domain_of(address)),
            AlternativeName::Upn(upn) => any(&self.upn, &reading::domain_of(upn)),
            AlternativeName::Uri(uri) => {
                reading::settled_uris(uri).iter().any(|settled| any_text(&self.uri, settled))
                    || reading::host_of_uri(uri).is_some_and(|host| self.denies_host(&host))
            }
            AlternativeName::DirectoryName(name) => self.denied_attribute(name).is_some(),
            AlternativeName::Ip(_)
            | AlternativeName::RegisteredId(_)
            | AlternativeName::PermanentIdentifier { .. }
            | AlternativeName::HardwareModule { .. }
            | AlternativeName::Other { .. } => false,
        };
        is_read || self.names(name)
    }

    /// The first attribute of a distinguished name that may not stand, by itself or since a denied name is read in it.
    pub(super) fn denied_attribute(&self, name: &DistinguishedName) -> Option<String> {
        let denied = |(attribute, value): &(ObjectIdentifier, String)| {
            self.covers_attribute(attribute, value)
                || reading::of_attribute(attribute, value).iter().any(|name| self.denies(name))
        };
        name.attributes().into_iter().find(denied).map(|(_, value)| value)
    }

    fn denies_host(&self, host: &Host) -> bool {
        match host {
            Host::Ipv4(address) => self.contains((*address).into()),
            Host::Ipv6(address) => self.contains((*address).into()),
            // Programs differ in what a * may stand for, so one anywhere is taken for all that it could match.
            Host::Domain(name) => match name.rsplit_once('*') {
                Some((_, rest)) => match rest.split_once('.') {
                    Some((_, base)) => self.dns.iter().any(|rule| rule.covers(base) || rule.touches_below(base)),
                    None => !self.dns.is_empty(),
                },
                None => any(&self.dns, name),
            },
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.ip.iter().any(|range| range.contains(&address))
    }

    /// The name as it is written.
    fn names(&self, name: &AlternativeName) -> bool {
        match name {
            AlternativeName::Dns(dns) => any(&self.dns, dns),
            AlternativeName::Ip(address) => self.contains(*address),
            AlternativeName::Email(address) => any(&self.email, domain_of(address)),
            AlternativeName::Uri(uri) => any_text(&self.uri, uri),
            AlternativeName::Upn(upn) => any(&self.upn, domain_of(upn)),
            AlternativeName::DirectoryName(name) => any_text(&self.directory, &name.to_string()),
            AlternativeName::PermanentIdentifier { value, .. } => {
                value.as_deref().is_some_and(|v| any_text(&self.device, v))
            }
            AlternativeName::HardwareModule { serial, .. } => any_text(&self.device, &hex::encode(serial)),
            AlternativeName::RegisteredId(oid) | AlternativeName::Other { type_id: oid, .. } => {
                self.other.contains(oid)
            }
        }
    }

    /// A suffix must be whole parts of the name: `CN=x\\,O=Example` has no organization.
    fn allows_directory(&self, name: &DistinguishedName) -> bool {
        let text = name.to_string();
        self.directory.iter().any(|rule| match rule {
            TextRule::Suffix(end) => {
                let end = end.strip_prefix(',').unwrap_or(end);
                tails(&text).any(|tail| folded(tail) == end)
            }
            TextRule::Any | TextRule::Exact(_) | TextRule::Prefix(_) => rule.covers(&text),
        })
    }

    pub(super) fn covers_attribute(&self, attribute: &ObjectIdentifier, value: &str) -> bool {
        self.subject.iter().any(|rule| rule.attribute == *attribute && rule.value.covers(value))
    }
}

/// Whether a URI names an account of Active Directory, which logs in whoever has the certificate. A rule about URIs in general does
/// not mean that.
fn is_account(uri: &str) -> bool {
    const ACCOUNT: &str = "tag:microsoft.com,2022-09-14:sid:";
    uri.get(..ACCOUNT.len()).is_some_and(|start| start.eq_ignore_ascii_case(ACCOUNT))
}

/// The text of a distinguished name from each of its parts on.
fn tails(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(name);
    std::iter::from_fn(move || {
        let tail = rest?;
        let part = split_unescaped(tail, ',').next().map_or(0, str::len);
        rest = tail.get(part + 1..);
        Some(tail)
    })
}

fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// Whether a common name says just what an alternative name says. Only of names that are what common names stand for: a device's
/// identifier, say, is free text, and would bring in any name at all.
pub(super) fn repeats(common_name: &str, name: &AlternativeName) -> bool {
    match name {
        AlternativeName::Dns(text) | AlternativeName::Email(text) | AlternativeName::Upn(text) => {
            common_name.eq_ignore_ascii_case(text)
        }
        AlternativeName::Ip(address) => common_name.parse() == Ok(*address),
        AlternativeName::Uri(_)
        | AlternativeName::DirectoryName(_)
        | AlternativeName::RegisteredId(_)
        | AlternativeName::PermanentIdentifier { .. }
        | AlternativeName::HardwareModule { .. }
        | AlternativeName::Other { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::NameRules;

    #[test]
    fn ranges_that_match_no_name_are_refused() {
        let read = |range: &str| serde_json::from_value::<NameRules>(serde_json::json!({ "ip": [range] }));
        let refused = read("::ffff:10.0.0.0/104").unwrap_err().to_string();
        assert!(refused.contains("range of IPv4"), "{refused}");
        for good in ["10.0.0.0/8", "2001:db8::/32", "::/0"] {
            read(good).unwrap();
        }
    }
}
