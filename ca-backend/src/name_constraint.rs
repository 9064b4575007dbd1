//! What a chain of authorities allows below it (RFC 5280 sections 4.2.1.9 and 4.2.1.10).

use std::net::{IpAddr, Ipv4Addr};

use der::Encode;
use x509_cert::TbsCertificate;
use x509_cert::ext::pkix::constraints::name::GeneralSubtree;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, NameConstraints};

use crate::error::{Reason, Refusal};
use crate::name::{AlternativeName, DistinguishedName};

/// Certificates in the longest chain.
const CHAIN_MAX: usize = 8;
/// Name constraints in one certificate.
const SUBTREES_MAX: usize = 1000;

/// The constraints of an issuer and of every authority above it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChainConstraints {
    /// How many further authorities may follow below the issuer; `None` is any number.
    pub path_len: Option<u8>,
    /// The name constraints of each certificate that has some. A name must satisfy all.
    names: Vec<Subtrees>,
}

/// The name constraints of one certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Subtrees {
    permitted: Vec<Base>,
    excluded: Vec<Base>,
}

/// The base of a subtree.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Base {
    Dns(String),
    Email(String),
    Uri(String),
    Directory(DistinguishedName),
    Ip {
        network: IpAddr,
        mask: IpAddr,
    },
    /// A form that is not evaluated; names of the same form are refused then, since the constraint is critical.
    Other,
}

impl ChainConstraints {
    /// The constraints of a chain: the issuer's certificate first, then those above it up to the root.
    ///
    /// # Errors
    /// Refuses chains without or with too many certificates, certificates that may not issue, and those that stand deeper than a
    /// pathLenConstraint above them allows.
    pub(crate) fn of(chain: &[&TbsCertificate]) -> Result<Self, Refusal> {
        if chain.is_empty() || chain.len() > CHAIN_MAX {
            return Err(unfit("chain has no certificates or more than 8"));
        }
        let mut constraints = Self::default();
        for (depth, certificate) in (0_u8..).zip(chain) {
            let undecodable = |_| unfit("chain has an extension that cannot be decoded");
            let (_, basic) = certificate
                .get_extension::<BasicConstraints>()
                .map_err(undecodable)?
                .filter(|(_, basic)| basic.ca)
                .ok_or_else(|| unfit("chain has a certificate that is no authority's: basicConstraints lacks cA"))?;
            if certificate
                .get_extension::<KeyUsage>()
                .map_err(undecodable)?
                .is_some_and(|(_, usage)| !usage.key_cert_sign())
            {
                return Err(unfit("chain has a certificate whose key usage lacks keyCertSign"));
            }
            if let Some(path_len) = basic.path_len_constraint {
                let left = path_len
                    .checked_sub(depth)
                    .ok_or_else(|| unfit("chain is longer than a pathLenConstraint in it allows"))?;
                constraints.path_len = Some(constraints.path_len.map_or(left, |least| least.min(left)));
            }
            if let Some((_, names)) = certificate.get_extension::<NameConstraints>().map_err(undecodable)? {
                constraints.names.push(Subtrees {
                    permitted: bases(names.permitted_subtrees.as_deref().unwrap_or_default())?,
                    excluded: bases(names.excluded_subtrees.as_deref().unwrap_or_default())?,
                });
            }
        }
        Ok(constraints)
    }

    /// Whether every certificate of the chain allows these names.
    ///
    /// # Errors
    /// `NameNotAllowed` with the first name that is not allowed.
    pub(crate) fn check(
        &self,
        subject: &DistinguishedName,
        alternative_names: &[AlternativeName],
    ) -> Result<(), Refusal> {
        if self.names.is_empty() {
            return Ok(());
        }
        let mut implied = Vec::new();
        if !subject.is_empty() {
            implied.push(AlternativeName::DirectoryName(subject.clone()));
        }
        // RFC 5280 section 4.2.1.10: an e-mail address in the subject counts where the alternative names hold none; programs read
        // the common name as a host name likewise.
        if !alternative_names.iter().any(|name| matches!(name, AlternativeName::Email(_))) {
            implied
                .extend(subject.values(&const_oid::db::rfc3280::EMAIL_ADDRESS).into_iter().map(AlternativeName::Email));
        }
        if !alternative_names.iter().any(|name| matches!(name, AlternativeName::Dns(_))) {
            let host = |name: &AlternativeName| {
                matches!(name, AlternativeName::Dns(host) if host.contains('.')) && name.validate().is_ok()
            };
            implied.extend(subject.common_names().into_iter().map(AlternativeName::Dns).filter(host));
        }
        for name in implied.iter().chain(alternative_names) {
            if !self.names.iter().all(|subtrees| subtrees.allow(name)) {
                let reason = format!("the issuer's chain does not permit the name {:?}", name.to_string());
                return Err(Refusal::new(Reason::NameNotAllowed, reason));
            }
        }
        Ok(())
    }
}

impl Subtrees {
    fn allow(&self, name: &AlternativeName) -> bool {
        let mut of_this_form = self.permitted.iter().filter(|base| base.concerns(name)).peekable();
        let permitted = of_this_form.peek().is_none() || of_this_form.any(|base| base.contains(name));
        permitted && !self.excluded.iter().any(|base| base.concerns(name) && base.excludes(name))
    }
}

impl Base {
    /// Whether the base is of the name's form.
    fn concerns(&self, name: &AlternativeName) -> bool {
        match self {
            Self::Dns(_) => matches!(name, AlternativeName::Dns(_)),
            Self::Email(_) => matches!(name, AlternativeName::Email(_)),
            Self::Uri(_) => matches!(name, AlternativeName::Uri(_)),
            Self::Directory(_) => matches!(name, AlternativeName::DirectoryName(_)),
            Self::Ip { .. } => matches!(name, AlternativeName::Ip(_)),
            Self::Other => matches!(
                name,
                AlternativeName::Upn(_)
                    | AlternativeName::RegisteredId(_)
                    | AlternativeName::PermanentIdentifier { .. }
                    | AlternativeName::HardwareModule { .. }
                    | AlternativeName::Other { .. }
            ),
        }
    }

    fn contains(&self, name: &AlternativeName) -> bool {
        match (self, name) {
            (Self::Dns(base), AlternativeName::Dns(host)) => is_in_domain(host, base),
            (Self::Email(base), AlternativeName::Email(mailbox)) => contains_mailbox(base, mailbox),
            (Self::Uri(base), AlternativeName::Uri(uri)) => {
                host_of(uri).is_some_and(|host| is_host_or_below(&host, base))
            }
            (Self::Directory(base), AlternativeName::DirectoryName(name)) => name.is_within(base),
            (Self::Ip { network, mask }, AlternativeName::Ip(address)) => contains_address(*network, *mask, *address),
            _ => false,
        }
    }

    /// As [`Base::contains`], but in doubt the name is excluded.
    fn excludes(&self, name: &AlternativeName) -> bool {
        match (self, name) {
            // A wildcard also stands for names that are excluded one by one.
            (Self::Dns(base), AlternativeName::Dns(host)) => {
                let covers =
                    host.strip_prefix("*.").is_some_and(|domain| is_in_domain(base.trim_start_matches('.'), domain));
                covers || self.contains(name)
            }
            (Self::Uri(_), AlternativeName::Uri(uri)) => host_of(uri).is_none() || self.contains(name),
            (Self::Other, _) => true,
            _ => self.contains(name),
        }
    }
}

fn unfit(why: &str) -> Refusal {
    Refusal::new(Reason::Malformed, format!("the issuer's {why}"))
}

fn bases(subtrees: &[GeneralSubtree]) -> Result<Vec<Base>, Refusal> {
    if subtrees.len() > SUBTREES_MAX || subtrees.iter().any(|subtree| subtree.minimum != 0 || subtree.maximum.is_some())
    {
        return Err(unfit("chain has name constraints with distances, or too many"));
    }
    subtrees.iter().map(|subtree| base(&subtree.base)).collect()
}

fn base(name: &GeneralName) -> Result<Base, Refusal> {
    Ok(match name {
        GeneralName::DnsName(host) => Base::Dns(host.as_str().to_ascii_lowercase()),
        GeneralName::Rfc822Name(mailbox) => Base::Email(mailbox.as_str().to_owned()),
        GeneralName::UniformResourceIdentifier(host) => Base::Uri(host.as_str().to_ascii_lowercase()),
        GeneralName::DirectoryName(name) => {
            let der = name.to_der().map_err(|_| unfit("chain has a name constraint that is not DER"))?;
            Base::Directory(DistinguishedName::from_der(&der)?)
        }
        GeneralName::IpAddress(octets) => {
            let octets = octets.as_bytes();
            let halves = octets.split_at_checked(octets.len() / 2).unwrap_or_default();
            match (address(halves.0), address(halves.1)) {
                (Some(network), Some(mask)) => Base::Ip { network, mask },
                (None, _) | (_, None) => {
                    return Err(unfit("chain has an address constraint without address and mask"));
                }
            }
        }
        GeneralName::OtherName(_) | GeneralName::EdiPartyName(_) | GeneralName::RegisteredId(_) => Base::Other,
    })
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

fn contains_address(network: IpAddr, mask: IpAddr, address: IpAddr) -> bool {
    match (network, mask, address) {
        (IpAddr::V4(network), IpAddr::V4(mask), IpAddr::V4(address)) => {
            network.to_bits() & mask.to_bits() == address.to_bits() & mask.to_bits()
        }
        (IpAddr::V6(network), IpAddr::V6(mask), IpAddr::V6(address)) => {
            network.to_bits() & mask.to_bits() == address.to_bits() & mask.to_bits()
        }
        _ => false,
    }
}

/// dNSName: the base itself and everything below it; a base with a leading dot has only what is below.
fn is_in_domain(host: &str, base: &str) -> bool {
    let host = host.to_ascii_lowercase();
    base.is_empty()
        || host == base
        || host.strip_suffix(base.trim_start_matches('.')).is_some_and(|rest| rest.ends_with('.'))
}

/// uniformResourceIdentifier and the hosts of rfc822Name: the host itself, or what is below a base with a leading dot.
fn is_host_or_below(host: &str, base: &str) -> bool {
    let (host, base) = (host.to_ascii_lowercase(), base.to_ascii_lowercase());
    if base.starts_with('.') { host.ends_with(&base) } else { host == base }
}

fn contains_mailbox(base: &str, mailbox: &str) -> bool {
    let Some((local, host)) = mailbox.rsplit_once('@') else {
        return false;
    };
    match base.rsplit_once('@') {
        Some((base_local, base_host)) => local == base_local && host.eq_ignore_ascii_case(base_host),
        None => is_host_or_below(host, base),
    }
}

/// The host of a URI that has an authority and names its host. RFC 5280 section 4.2.1.10: without one, or with an address, it is in
/// no subtree.
fn host_of(uri: &str) -> Option<String> {
    let (_, rest) = uri.split_once(':')?;
    let authority = rest.strip_prefix("//")?.split(['/', '?', '#']).next()?;
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host_and_port.split(':').next()?;
    let is_name = !host.is_empty() && !host.starts_with('[') && host.parse::<Ipv4Addr>().is_err();
    is_name.then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_judged_by_the_name_of_its_host_and_in_doubt_refused() {
        let base = || Base::Uri(".permitted.example".to_owned());
        let permitted = Subtrees { permitted: vec![base()], excluded: Vec::new() };
        let excluded = Subtrees { permitted: Vec::new(), excluded: vec![base()] };
        let judged = |uri: &str| {
            let uri = AlternativeName::Uri(uri.to_owned());
            [permitted.allow(&uri), excluded.allow(&uri)]
        };
        assert_eq!(judged("https://host.permitted.example/a?b"), [true, false]);
        assert_eq!(judged("https://x@host.other.example:8443/"), [false, true]);
        for doubtful in ["urn:a://host.permitted.example", "urn:a:b", "https://10.0.0.1/", "https://[::1]/"] {
            assert_eq!(judged(doubtful), [false, false], "{doubtful}");
        }
    }
}
