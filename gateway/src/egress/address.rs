//! Which addresses may be dialled on behalf of a stranger.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Ranges that may be listed by the operator; without that they are refused. From the IANA special-purpose registries:
/// what a private network or a test bench may use.
const LISTABLE_V4: &[Ipv4Net] = &[
    v4(10, 0, 0, 0, 8),      // private (RFC 1918)
    v4(172, 16, 0, 0, 12),   // private
    v4(192, 168, 0, 0, 16),  // private
    v4(100, 64, 0, 0, 10),   // shared by carriers (RFC 6598)
    v4(127, 0, 0, 0, 8),     // loopback
    v4(198, 18, 0, 0, 15),   // benchmarks
    v4(192, 0, 2, 0, 24),    // documentation
    v4(198, 51, 100, 0, 24), // documentation
    v4(203, 0, 113, 0, 24),  // documentation
];
const LISTABLE_V6: &[Ipv6Net] = &[
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128),         // loopback
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),      // unique local (RFC 4193)
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), // documentation
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),     // documentation
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48),     // benchmarks
];

/// Ranges that no list can open: nothing there is a host that somebody may enroll.
const NEVER_V4: &[Ipv4Net] = &[
    v4(0, 0, 0, 0, 8),          // this network, unspecified
    v4(169, 254, 0, 0, 16),     // link-local, with the metadata services of most clouds
    v4(192, 0, 0, 0, 24),       // protocol assignments, with the metadata service of Oracle
    v4(192, 88, 99, 0, 24),     // relays of 6to4
    v4(100, 100, 100, 200, 32), // metadata service of Alibaba
    v4(168, 63, 129, 16, 32),   // host services of Azure
    v4(224, 0, 0, 0, 4),        // multicast
    v4(240, 0, 0, 0, 4),        // reserved, broadcast
];
const NEVER_V6: &[Ipv6Net] = &[
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128),              // unspecified
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),          // IPv4-mapped
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),       // local translation: hides an IPv4 address at a place nobody knows
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64),           // discard
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32),          // Teredo: hides an IPv4 address
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28),       // ORCHID
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28),       // ORCHIDv2
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),          // 6to4: hides an IPv4 address
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), // metadata service of AWS
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),  // metadata service of Google
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),          // link-local
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),          // site-local
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),           // multicast
];

/// The translation of public IPv4 addresses for networks that have only IPv6 (RFC 6052).
const TRANSLATED: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

/// All of IPv6 that is assigned to the public internet.
const PUBLIC_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(s: [u16; 8], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = s;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// Why an address may not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Private or loopback, and not in the operator's list.
    NotListed,
    /// Link-local, multicast, metadata, translated and the like: never.
    Special,
    /// One of this node's own listeners.
    Own,
    /// An address in a redirect, where only a name may stand.
    LiteralInRedirect,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotListed => "it is private and not among the networks that the endpoint may reach",
            Self::Special => "it is reserved for a special purpose",
            Self::Own => "this node listens there itself",
            Self::LiteralInRedirect => {
                "a redirect must name a host, unless the address is among the networks that the endpoint may reach"
            }
        })
    }
}

/// Judges addresses. Public ones pass; private and loopback ones pass where the operator listed them.
#[derive(Clone, Debug)]
pub struct AddressPolicy {
    allow_networks: Vec<IpNet>,
    own: Vec<SocketAddr>,
}

impl AddressPolicy {
    /// A policy that opens `allow_networks` and closes the sockets in `own`, which this node listens on.
    #[must_use]
    pub fn new(allow_networks: Vec<IpNet>, own: Vec<SocketAddr>) -> Self {
        Self { allow_networks, own }
    }

    /// Whether this address and port may be dialled.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, target: SocketAddr) -> Result<(), Refusal> {
        let open = match target.ip() {
            IpAddr::V4(address) => self.judge_v4(address),
            IpAddr::V6(address) => self.judge_v6(address),
        };
        open?;
        let own = self.own.iter().any(|own| {
            own.port() == target.port()
                && (own.ip() == target.ip() || own.ip().is_unspecified() && target.ip().is_loopback())
        });
        if own { Err(Refusal::Own) } else { Ok(()) }
    }

    /// Judges a connection by what the kernel made of it: whoever reaches our own address on a port that we listen on
    /// reaches us, by whatever address.
    pub(super) fn judge_connection(&self, local: SocketAddr, peer: SocketAddr) -> Result<(), Refusal> {
        let same_machine = local.ip().to_canonical() == peer.ip().to_canonical();
        if same_machine && self.own.iter().any(|own| own.port() == peer.port()) {
            return Err(Refusal::Own);
        }
        Ok(())
    }

    /// Whether the operator listed this address.
    #[must_use]
    pub fn lists(&self, address: IpAddr) -> bool {
        self.allow_networks.iter().any(|network| network.contains(&address))
    }

    fn judge_v4(&self, address: Ipv4Addr) -> Result<(), Refusal> {
        if NEVER_V4.iter().any(|network| network.contains(&address)) {
            return Err(Refusal::Special);
        }
        let private = LISTABLE_V4.iter().any(|network| network.contains(&address));
        if private && !self.lists(address.into()) {
            return Err(Refusal::NotListed);
        }
        Ok(())
    }

    fn judge_v6(&self, address: Ipv6Addr) -> Result<(), Refusal> {
        if TRANSLATED.contains(&address) {
            // what leaves the translator is this IPv4 address; the list is not asked, since it speaks of ours
            let [.., a, b, c, d] = address.octets();
            let public = AddressPolicy::new(Vec::new(), Vec::new()).judge_v4(Ipv4Addr::new(a, b, c, d));
            return public.map_err(|_| Refusal::Special);
        }
        if NEVER_V6.iter().any(|network| network.contains(&address)) {
            return Err(Refusal::Special);
        }
        if LISTABLE_V6.iter().any(|network| network.contains(&address)) {
            return if self.lists(address.into()) { Ok(()) } else { Err(Refusal::NotListed) };
        }
        if PUBLIC_V6.contains(&address) { Ok(()) } else { Err(Refusal::Special) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(allow: &[&str], address: &str) -> Result<(), Refusal> {
        let networks = allow.iter().map(|network| network.parse().unwrap()).collect();
        let own = vec!["0.0.0.0:8443".parse().unwrap(), "192.168.1.5:8080".parse().unwrap()];
        AddressPolicy::new(networks, own).judge(SocketAddr::new(address.parse().unwrap(), 80))
    }

    #[test]
    fn s13_public_addresses_pass_without_a_list() {
        for address in ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1", "64:ff9b::101:101"] {
            assert_eq!(judge(&[], address), Ok(()), "{address}");
        }
    }

    #[test]
    fn s13_private_and_loopback_addresses_pass_only_where_listed() {
        for (address, list) in [
            ("10.1.2.3", "10.0.0.0/8"),
            ("172.31.255.255", "172.16.0.0/12"),
            ("192.168.1.1", "192.168.1.0/24"),
            ("100.64.0.1", "100.64.0.0/10"),
            ("127.0.0.1", "127.0.0.0/8"),
            ("::1", "::1/128"),
            ("fd12:3456::1", "fd12::/16"),
        ] {
            assert_eq!(judge(&[], address), Err(Refusal::NotListed), "{address}");
            assert_eq!(judge(&[list], address), Ok(()), "{address}");
            assert_eq!(judge(&["192.168.77.0/24", "fdff::/16"], address), Err(Refusal::NotListed), "{address}");
        }
    }

    #[test]
    fn s13_special_addresses_never_pass_not_even_listed() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.1.1",
            "192.0.0.192",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "192.88.99.1",
            "::",
            "::2",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "4000::1",
            "::ffff:127.0.0.1",
            "::ffff:1.1.1.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::101:101",
            "2002:7f00:1::",
            "2002:101:101::1",
            "2001:0:101:101::1",
            "2001:10::1",
            "2001:20::1",
        ] {
            assert_eq!(judge(&["0.0.0.0/0", "::/0"], address), Err(Refusal::Special), "{address}");
        }
    }

    #[test]
    fn s13_own_listeners_are_refused_by_port() {
        let policy = AddressPolicy::new(
            vec!["127.0.0.0/8".parse().unwrap(), "192.168.0.0/16".parse().unwrap()],
            vec!["0.0.0.0:8443".parse().unwrap(), "192.168.1.5:8080".parse().unwrap()],
        );
        let judge = |target: &str| policy.judge(target.parse().unwrap());
        assert_eq!(judge("127.0.0.1:8443"), Err(Refusal::Own));
        assert_eq!(judge("127.9.9.9:8443"), Err(Refusal::Own));
        assert_eq!(judge("192.168.1.5:8080"), Err(Refusal::Own));
        assert_eq!(judge("127.0.0.1:80"), Ok(()));
        assert_eq!(judge("192.168.1.6:8080"), Ok(()));
        let (local, peer) = ("192.168.1.9:5000".parse().unwrap(), "192.168.1.9:8443".parse().unwrap());
        assert_eq!(policy.judge_connection(local, peer), Err(Refusal::Own));
    }
}
