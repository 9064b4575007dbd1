//! How often a peer may present what is wrong, at each endpoint: devices that share an address with a misconfigured one are held up
//! where that one is, and nowhere else.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use crate::clock::Time;
use crate::error::{Reason, Refusal};
use crate::label::EndpointName;

const WINDOW_S: u64 = 60;
/// Peers that are remembered at a time, at all endpoints.
const PEERS_MAX: usize = 100_000;

/// Failures by endpoint and peer within the last minute.
pub(crate) struct Attempts {
    failures_per_min_max: u32,
    by_peer: Mutex<HashMap<(EndpointName, Option<IpAddr>), Failures>>,
}

struct Failures {
    since: Time,
    count: u32,
}

impl Attempts {
    /// Zero sets no limit.
    pub(crate) fn new(failures_per_min_max: u32) -> Self {
        Self { failures_per_min_max, by_peer: Mutex::default() }
    }

    /// Refuses a peer that failed too often at an endpoint, before it may guess again there.
    pub(crate) fn admit(&self, endpoint: &EndpointName, peer: Option<IpAddr>, now: Time) -> Result<(), Refusal> {
        let by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        match by_peer.get(&(endpoint.clone(), peer.map(network))) {
            Some(failures)
                if self.failures_per_min_max > 0
                    && failures.count >= self.failures_per_min_max
                    && now < failures.since.plus_s(WINDOW_S) =>
            {
                let wait_s = failures.since.plus_s(WINDOW_S).since_s(now);
                let text = "too many wrong credentials came from this address; try again later";
                Err(Refusal::new(Reason::RateLimited, text).retry_after_s(u32::try_from(wait_s).unwrap_or(u32::MAX)))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn failed(&self, endpoint: &EndpointName, peer: Option<IpAddr>, now: Time) {
        let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if by_peer.len() >= PEERS_MAX {
            by_peer.retain(|_, failures| now < failures.since.plus_s(WINDOW_S));
        }
        // Who comes from more addresses at once than there is room for is not held up by counting them.
        if by_peer.len() >= PEERS_MAX {
            return;
        }
        let failures =
            by_peer.entry((endpoint.clone(), peer.map(network))).or_insert(Failures { since: now, count: 0 });
        if now >= failures.since.plus_s(WINDOW_S) {
            *failures = Failures { since: now, count: 0 };
        }
        failures.count = failures.count.saturating_add(1);
    }

    /// Forgets peers that did not fail lately.
    pub(crate) fn forget_idle(&self, now: Time) {
        let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        by_peer.retain(|_, failures| now < failures.since.plus_s(WINDOW_S));
        by_peer.shrink_to_fit();
    }
}

/// Who has one IPv6 address has a /64 of them.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        IpAddr::V4(address) => IpAddr::V4(address),
    }
}
