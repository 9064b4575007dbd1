//! Refusals of what anybody can send: a wrong secret, a bad signature of a message, a request for which nobody vouches.
//!
//! They are in the audit log before the requester hears of them, but anybody can cause any number of them. So what exceeds a
//! number per minute, for each endpoint and for each peer, is counted, and the counts are written in one entry when the minute is
//! over.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::audit::{Action, AuditRecord};
use crate::clock::Time;
use crate::engine::Engine;
use crate::error::{Error, Reason, Refusal};
use crate::label::EndpointName;
use crate::request::Origin;
use crate::store::Batch;

const WINDOW_S: u64 = 60;
/// Peers and endpoints that are told apart within a minute; what comes beyond is counted only.
const SOURCES_MAX: usize = 10_000;
/// A peer's share of what an endpoint may write.
const PEER_SHARE: u32 = 4;

/// The longest text of a stranger in an entry, in characters.
const TEXT_CHARS_MAX: usize = 500;

/// What was written and what was only counted within the present minute.
pub(crate) struct RefusalLog {
    per_endpoint_max: u32,
    minute: Mutex<Minute>,
}

#[derive(Default)]
struct Minute {
    since: Time,
    by_endpoint: HashMap<Option<EndpointName>, u32>,
    by_peer: HashMap<Option<IpAddr>, u32>,
    counted: BTreeMap<(String, &'static str), u64>,
}

/// What was only counted, as text; `None` if nothing was.
struct Summary(Option<String>);

impl RefusalLog {
    /// So many entries for each endpoint and minute.
    pub(crate) fn new(per_endpoint_max: u32) -> Self {
        Self { per_endpoint_max, minute: Mutex::default() }
    }

    /// Whether a refusal is to be written, and the summary of the minute that is over, if one is.
    fn admit(&self, origin: &Origin, reason: Reason, now: Time) -> (bool, Summary) {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        let summary = minute.turn(now);
        let room = minute.by_endpoint.len() < SOURCES_MAX && minute.by_peer.len() < SOURCES_MAX;
        let by_endpoint = minute.by_endpoint.get(&origin.endpoint).copied().unwrap_or_default();
        let by_peer = minute.by_peer.get(&origin.peer).copied().unwrap_or_default();
        let write =
            room && by_endpoint < self.per_endpoint_max && by_peer < (self.per_endpoint_max / PEER_SHARE).max(1);
        if write {
            minute.by_endpoint.insert(origin.endpoint.clone(), by_endpoint.saturating_add(1));
            minute.by_peer.insert(origin.peer, by_peer.saturating_add(1));
        } else {
            let endpoint = origin.endpoint.as_ref().map_or("no endpoint", EndpointName::as_str);
            let count = minute.counted.entry((format!("{} {endpoint}", origin.protocol), reason.name())).or_default();
            *count = count.saturating_add(1);
        }
        (write, summary)
    }

    fn turn(&self, now: Time) -> Summary {
        self.minute.lock().unwrap_or_else(PoisonError::into_inner).turn(now)
    }
}

impl Minute {
    /// Begins a new minute if the present one is over.
    fn turn(&mut self, now: Time) -> Summary {
        // A clock that went back does not stop the log.
        if now < self.since.plus_s(WINDOW_S) && now >= self.since {
            return Summary(None);
        }
        let over = std::mem::replace(self, Self { since: now, ..Self::default() });
        if over.counted.is_empty() {
            return Summary(None);
        }
        let counts = over.counted.iter().map(|((whence, reason), count)| format!("{whence}: {count} {reason}"));
        let counts: Vec<_> = counts.collect();
        Summary(Some(format!("refused since {} without an entry of their own: {}", over.since, counts.join(", "))))
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

impl Engine {
    /// Puts a refusal into the audit log that did not come from [`Engine::enroll`] or [`Engine::revoke`], which do so themselves:
    /// before the requester hears of it. Under a flood it is only counted.
    ///
    /// # Errors
    /// The store's fault: tell the requester to try later.
    pub fn refuse(&self, origin: &Origin, refusal: &Refusal) -> Result<(), Error> {
        self.refuse_with(AuditRecord::new(self.now(), Action::Refused), origin, refusal)
    }

    /// As [`Engine::refuse`], of a requester of whom more is known: `record` says what.
    pub(crate) fn refuse_with(&self, record: AuditRecord, origin: &Origin, refusal: &Refusal) -> Result<(), Error> {
        let (write, summary) = self.inner.refusals.admit(origin, refusal.reason(), self.now());
        let mut batch = self.summarized(Batch::new(), summary)?;
        if write {
            let origin = Origin { transaction: shortened(&origin.transaction), ..origin.clone() };
            batch = record
                .origin(&origin)
                .detail(shortened(&format!("{}: {}", refusal.reason().name(), refusal.private())))
                .in_batch(batch)?;
        }
        self.commit_if_any(batch)?;
        let (id, reason, why) = (&origin.request_id, refusal.reason().name(), refusal.private());
        let endpoint = origin.endpoint.as_ref().map(tracing::field::display);
        // A flood that is only counted does not fill the log either.
        if write {
            tracing::info!(request = id, protocol = %origin.protocol, endpoint, reason, why, "refused a request");
        } else {
            tracing::debug!(request = id, protocol = %origin.protocol, endpoint, reason, why, "refused a request");
        }
        Ok(())
    }

    /// Writes what was only counted, when its minute is over.
    pub(crate) fn summarize_refusals(&self) -> Result<(), Error> {
        let summary = self.inner.refusals.turn(self.now());
        let batch = self.summarized(Batch::new(), summary)?;
        self.commit_if_any(batch)
    }

    fn summarized(&self, batch: Batch, summary: Summary) -> Result<Batch, Error> {
        match summary.0 {
            Some(text) => Ok(AuditRecord::new(self.now(), Action::Refused).detail(text).in_batch(batch)?),
            None => Ok(batch),
        }
    }

    fn commit_if_any(&self, batch: Batch) -> Result<(), Error> {
        if !batch.appends.is_empty() {
            self.commit_or_later(batch)?;
        }
        Ok(())
    }
}
