//! Who a request comes from when a proxy stands between.

use std::net::{IpAddr, SocketAddr};

use config::ProxyHeader;
use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies that are believed, and the one header in which they are. A header that the proxies do not write themselves
/// would come from the client as it is.
#[derive(Debug)]
pub(super) struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ProxyHeader,
}

impl TrustedProxies {
    pub(super) fn new(networks: Vec<IpNet>, header: ProxyHeader) -> Self {
        Self { networks, header }
    }

    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The client of a request: the last hop that no trusted proxy is. Its port is 0 when a proxy does not tell it.
    pub(super) fn client(&self, tcp_peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        let mut client = tcp_peer;
        let mut hops = self.hops(headers);
        while self.trusts(client.ip()) {
            // each hop is told by the one after it; what cannot be read ends the chain of trust
            let Some(hop) = hops.pop().and_then(|hop| hop_address(&hop)) else {
                break;
            };
            client = hop;
        }
        client
    }

    /// The hops as written, the nearest last.
    fn hops(&self, headers: &HeaderMap) -> Vec<String> {
        if self.networks.is_empty() {
            return Vec::new();
        }
        let name = match self.header {
            ProxyHeader::XForwardedFor => X_FORWARDED_FOR,
            ProxyHeader::Forwarded => FORWARDED,
        };
        let lines = headers.get_all(name).into_iter().map(|line| line.to_str().unwrap_or_default());
        let elements = lines.flat_map(|line| line.split(','));
        elements
            .map(|element| match self.header {
                ProxyHeader::XForwardedFor => element.trim().to_owned(),
                ProxyHeader::Forwarded => forwarded_for(element).unwrap_or_default(),
            })
            .collect()
    }
}

/// The `for` of an element of Forwarded (RFC 7239 section 4), without its quotes.
fn forwarded_for(element: &str) -> Option<String> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:4711`.
fn hop_address(hop: &str) -> Option<SocketAddr> {
    let address = hop.parse::<SocketAddr>().or_else(|_| {
        let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
        bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0))
    });
    address.ok().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: ProxyHeader, tcp_peer: &str, lines: &[(&'static str, &str)]) -> String {
        let networks = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let tcp_peer = SocketAddr::new(tcp_peer.parse().unwrap(), 999);
        TrustedProxies::new(networks, header).client(tcp_peer, &headers).ip().to_string()
    }

    #[test]
    fn s50_a_stranger_cannot_name_another_client() {
        let line = [("x-forwarded-for", "198.51.100.7")];
        assert_eq!(client(ProxyHeader::XForwardedFor, "203.0.113.9", &line), "203.0.113.9");
    }

    #[test]
    fn s50_the_last_hop_that_is_no_trusted_proxy_is_the_client() {
        let forged = [("x-forwarded-for", "1.1.1.1, 198.51.100.7"), ("x-forwarded-for", "10.2.2.2")];
        assert_eq!(client(ProxyHeader::XForwardedFor, "10.0.0.1", &forged), "198.51.100.7");
    }

    #[test]
    fn s50_only_the_header_that_is_set_is_believed() {
        let lines = [("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "198.51.100.7")];
        assert_eq!(client(ProxyHeader::XForwardedFor, "10.0.0.1", &lines), "198.51.100.7");
        assert_eq!(client(ProxyHeader::Forwarded, "10.0.0.1", &lines), "1.1.1.1");
    }

    #[test]
    fn s50_an_unreadable_hop_ends_the_chain_of_trust() {
        let line = [("x-forwarded-for", "1.1.1.1, unknown, 10.3.3.3")];
        assert_eq!(client(ProxyHeader::XForwardedFor, "10.0.0.1", &line), "10.3.3.3");
        assert_eq!(client(ProxyHeader::XForwardedFor, "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn forwarded_is_read_with_quotes_ports_and_ipv6() {
        let line = [("forwarded", "proto=https;For=\"[2001:db8:cafe::17]:4711\";by=10.0.0.1, for=\"[fd00::5]\"")];
        assert_eq!(client(ProxyHeader::Forwarded, "10.0.0.1", &line), "2001:db8:cafe::17");
    }
}
