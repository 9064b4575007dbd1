//! DNS questions: names are taken as fully qualified, and no answer is kept beyond a short time.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use config::ValidationSettings;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData};
use hickory_resolver::{Resolver, TokioResolver};

use super::EgressError;

/// A challenge record is put there moments before it is asked for, so an answer of before must not be found again.
const CACHE_ENTRIES: u64 = 0;

/// Most records of an answer that are looked at.
const RECORDS_MAX: usize = 64;

#[derive(Clone)]
pub(super) struct Dns(TokioResolver);

impl Dns {
    pub(super) fn new(settings: &ValidationSettings) -> Result<Self, EgressError> {
        let mut builder = if settings.resolvers.is_empty() {
            TokioResolver::builder_tokio().unwrap_or_else(|why| {
                tracing::warn!(%why, "the system names no DNS server; only its hosts file and `localhost` will be found");
                Resolver::builder_with_config(ResolverConfig::from_name_servers(Vec::new()), TokioRuntimeProvider::default())
            })
        } else {
            let servers = settings.resolvers.iter().copied().map(name_server).collect();
            let mut builder = Resolver::builder_with_config(
                ResolverConfig::from_name_servers(servers),
                TokioRuntimeProvider::default(),
            );
            // who names servers wants their answers and no others
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        };
        let options = builder.options_mut();
        options.timeout = Duration::from_secs(settings.dns_timeout_s);
        options.attempts = 2;
        options.cache_size = CACHE_ENTRIES;
        options.case_randomization = true;
        options.try_tcp_on_error = true;
        let resolver = builder.build().map_err(|why| EgressError::Dns(format!("cannot set up the resolver: {why}")))?;
        Ok(Self(resolver))
    }

    /// The TXT records at `name`, the strings of each joined. CNAMEs are followed, eight of them at most.
    pub(super) async fn txt(&self, name: &str) -> Result<Vec<String>, EgressError> {
        let answer = self.0.txt_lookup(qualified(name)?).await.map_err(|why| explain(name, "TXT", &why))?;
        let mut records = Vec::new();
        for record in answer.answers().iter().take(RECORDS_MAX) {
            if let RData::TXT(txt) = &record.data {
                records.push(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned());
            }
        }
        if records.is_empty() {
            return Err(EgressError::Dns(format!("{name} has no TXT record")));
        }
        Ok(records)
    }

    /// The addresses to try: the first IPv6 address, then the first IPv4 address.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, EgressError> {
        let answer = self.0.lookup_ip(qualified(name)?).await.map_err(|why| explain(name, "address", &why))?;
        let addresses: Vec<IpAddr> = answer.iter().take(RECORDS_MAX).collect();
        let first = |wanted: fn(&IpAddr) -> bool| addresses.iter().copied().find(wanted);
        let chosen: Vec<_> = first(IpAddr::is_ipv6).into_iter().chain(first(IpAddr::is_ipv4)).collect();
        if chosen.is_empty() {
            return Err(EgressError::Dns(format!("{name} has no address record")));
        }
        Ok(chosen)
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

fn qualified(name: &str) -> Result<Name, EgressError> {
    let mut parsed = Name::from_ascii(name).map_err(|_| EgressError::Dns("the name is no DNS name".to_owned()))?;
    parsed.set_fqdn(true);
    Ok(parsed)
}

/// In words, without anything that a server sent but its response code.
fn explain(name: &str, record: &str, why: &NetError) -> EgressError {
    if why.is_nx_domain() {
        return EgressError::Dns(format!("{name} does not exist"));
    }
    if why.is_no_records_found() {
        return EgressError::Dns(format!("{name} has no {record} record"));
    }
    tracing::debug!(%why, name, record, "DNS question failed");
    if matches!(why, NetError::Timeout) {
        return EgressError::Timeout("waiting for a DNS server");
    }
    EgressError::Dns(format!("no usable answer for {name} from the DNS servers"))
}
