//! DNS questions: names are taken as fully qualified, each goes to the servers of its zone, and no answer is kept.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use acme::{CaaProperty, CaaSet};
use config::ValidationSettings;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};

use super::EgressError;

/// A challenge record is put there moments before it is asked for, so an answer of before must not be found again.
const CACHE_ENTRIES: u64 = 0;

/// Most records of an answer that are looked at.
const RECORDS_MAX: usize = 64;

/// Most aliases from a name to its records.
const ALIASES_MAX: usize = 8;

/// The DNS servers of a node.
#[derive(Clone)]
pub(super) struct Dns {
    /// For names in no zone.
    elsewhere: TokioResolver,
    /// The zones with servers of their own.
    zones: Arc<[(Name, TokioResolver)]>,
}

/// Why there are no records.
enum NoRecords {
    /// The DNS says so.
    Absent { exists: bool },
    /// The question was not answered.
    Unanswered(EgressError),
}

impl Dns {
    pub(super) fn new(settings: &ValidationSettings) -> Result<Self, EgressError> {
        let mut zones = Vec::with_capacity(settings.zones.len());
        for zone in &settings.zones {
            zones.push((qualified(&zone.name)?, resolver(&zone.resolvers, settings)?));
        }
        Ok(Self { elsewhere: resolver(&settings.resolvers, settings)?, zones: zones.into() })
    }

    /// The TXT records at `name`, the strings of each joined. CNAMEs are followed, eight of them at most.
    pub(super) async fn txt(&self, name: &str) -> Result<Vec<String>, EgressError> {
        let records = self.records(&qualified(name)?, RecordType::TXT).await.map_err(|why| why.explain(name, "TXT"))?;
        let mut texts = Vec::with_capacity(records.len());
        for record in &records {
            if let RData::TXT(txt) = record {
                texts.push(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned());
            }
        }
        Ok(texts)
    }

    /// The addresses to try: the first IPv6 address, then the first IPv4 address.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, EgressError> {
        let qualified = qualified(name)?;
        let (v6, v4) =
            tokio::join!(self.records(&qualified, RecordType::AAAA), self.records(&qualified, RecordType::A));
        let first = |found: &Result<Vec<RData>, NoRecords>| found.iter().flatten().find_map(RData::ip_addr);
        let chosen: Vec<_> = first(&v6).into_iter().chain(first(&v4)).collect();
        match (chosen.is_empty(), v6, v4) {
            (false, _, _) => Ok(chosen),
            (true, Err(why @ NoRecords::Unanswered(_)), _) | (true, _, Err(why)) => Err(why.explain(name, "address")),
            (true, Ok(_) | Err(NoRecords::Absent { .. }), Ok(_)) => {
                Err(EgressError::Dns(format!("{name} has no address record")))
            }
        }
    }

    /// The relevant CAA records (RFC 8659 section 3): those at `name` or, if it has none, at the nearest name above that has.
    pub(super) async fn caa(&self, name: &str) -> Result<CaaSet, EgressError> {
        let mut at = qualified(name)?;
        while !at.is_root() {
            match self.records(&at, RecordType::CAA).await {
                Ok(records) => {
                    let mut properties = Vec::with_capacity(records.len());
                    for record in &records {
                        if let RData::CAA(caa) = record {
                            let value = String::from_utf8_lossy(&caa.value).into_owned();
                            properties.push(CaaProperty { critical: caa.issuer_critical, tag: caa.tag.clone(), value });
                        }
                    }
                    let mut found_at = at;
                    found_at.set_fqdn(false);
                    return Ok(CaaSet { found_at: found_at.to_ascii(), properties });
                }
                Err(NoRecords::Absent { .. }) => at = at.base_name(),
                Err(why @ NoRecords::Unanswered(_)) => return Err(why.explain(&at.to_ascii(), "CAA")),
            }
        }
        Ok(CaaSet::default())
    }

    /// The records of one kind, aliases followed, each alias at the servers of its own zone.
    async fn records(&self, name: &Name, kind: RecordType) -> Result<Vec<RData>, NoRecords> {
        let mut name = name.clone();
        let mut existed = false;
        for _ in 0..=ALIASES_MAX {
            let servers = self.servers(&name);
            let exists = match servers.lookup(name.clone(), kind).await {
                Ok(answer) => {
                    let records = answer.answers().iter().map(|record| &record.data);
                    let records: Vec<RData> =
                        records.filter(|record| record.record_type() == kind).take(RECORDS_MAX).cloned().collect();
                    if !records.is_empty() {
                        return Ok(records);
                    }
                    true
                }
                Err(why) if why.is_no_records_found() => !why.is_nx_domain(),
                Err(why) => return Err(unanswered(&name, kind, &why)),
            };
            existed |= exists;
            // The servers of this zone may not know where an alias leads.
            match servers.lookup(name.clone(), RecordType::CNAME).await {
                Ok(answer) => {
                    let alias = answer.answers().iter().find_map(|record| alias_of(&record.data));
                    match alias.cloned() {
                        Some(target) => name = target,
                        None => return Err(NoRecords::Absent { exists: existed }),
                    }
                }
                Err(why) if why.is_no_records_found() => return Err(NoRecords::Absent { exists: existed }),
                Err(why) => return Err(unanswered(&name, RecordType::CNAME, &why)),
            }
            existed = true;
        }
        Err(NoRecords::Unanswered(EgressError::Dns("the aliases of the name lead nowhere".to_owned())))
    }

    /// The servers of the smallest zone that holds the name.
    fn servers(&self, name: &Name) -> &TokioResolver {
        let holding = self.zones.iter().filter(|(zone, _)| zone.zone_of(name));
        holding.max_by_key(|(zone, _)| zone.num_labels()).map_or(&self.elsewhere, |(_, servers)| servers)
    }
}

fn resolver(servers: &[SocketAddr], settings: &ValidationSettings) -> Result<TokioResolver, EgressError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio().unwrap_or_else(|why| {
            tracing::warn!(%why, "the system names no DNS server; only its hosts file and `localhost` will be found");
            Resolver::builder_with_config(
                ResolverConfig::from_name_servers(Vec::new()),
                TokioRuntimeProvider::default(),
            )
        })
    } else {
        let servers = servers.iter().copied().map(name_server).collect();
        let mut builder =
            Resolver::builder_with_config(ResolverConfig::from_name_servers(servers), TokioRuntimeProvider::default());
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
    builder.build().map_err(|why| EgressError::Dns(format!("cannot set up the resolver: {why}")))
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

fn alias_of(record: &RData) -> Option<&Name> {
    if let RData::CNAME(target) = record { Some(&target.0) } else { None }
}

fn unanswered(name: &Name, kind: RecordType, why: &NetError) -> NoRecords {
    tracing::debug!(%why, %name, %kind, "DNS question failed");
    NoRecords::Unanswered(if matches!(why, NetError::Timeout) {
        EgressError::Timeout("waiting for a DNS server")
    } else {
        EgressError::Dns(format!("no usable answer for {name} from the DNS servers"))
    })
}

impl NoRecords {
    /// In words, without anything that a server sent but its response code.
    fn explain(self, name: &str, record: &str) -> EgressError {
        match self {
            Self::Absent { exists: false } => EgressError::Dns(format!("{name} does not exist")),
            Self::Absent { exists: true } => EgressError::Dns(format!("{name} has no {record} record")),
            Self::Unanswered(why) => why,
        }
    }
}
