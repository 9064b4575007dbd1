//! Batches that become durable together.

use std::collections::HashMap;

use aws_lc_rs::digest::{self, SHA256, SHA256_OUTPUT_LEN};

use super::table::{RawKey, RawValue, Table, Writes, raw_key, raw_value, version_of, versioned};
use super::{Batch, CommitError, Key, Log, Space, Store, Version};
use crate::error::StoreFault;

/// Where the last commit's version lies in [`Space::Meta`].
pub(super) const COMMIT_KEY: &[u8] = b"commit";

/// How far the store has come: the last version given, and the last entry of each log.
#[derive(Clone, Debug)]
pub(super) struct Tip {
    pub(super) version: Version,
    audit: Head,
    event: Head,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Head {
    number: u64,
    digest: [u8; SHA256_OUTPUT_LEN],
}

impl Tip {
    pub(super) fn load(table: &impl Table) -> Result<Self, StoreFault> {
        let version = read_meta(table, COMMIT_KEY)?.map_or(Ok(Version(0)), |stored| sequence_of(&stored))?;
        Ok(Self { version, audit: Head::load(table, Log::Audit)?, event: Head::load(table, Log::Event)? })
    }

    fn head(&mut self, log: Log) -> &mut Head {
        match log {
            Log::Audit => &mut self.audit,
            Log::Event => &mut self.event,
        }
    }
}

impl Head {
    fn load(table: &impl Table, log: Log) -> Result<Self, StoreFault> {
        let Some(stored) = read_meta(table, head_key(log))? else {
            return Ok(Self::default());
        };
        let parts = stored.split_first_chunk().and_then(|(number, digest)| Some((number, digest.try_into().ok()?)));
        let (number, digest) =
            parts.ok_or_else(|| StoreFault::Corrupt(format!("the head of the {log:?} log is malformed")))?;
        Ok(Self { number: u64::from_be_bytes(*number), digest })
    }

    fn stored(&self) -> Vec<u8> {
        [self.number.to_be_bytes().as_slice(), &self.digest].concat()
    }

    /// The key and value of the next entry; the head moves on to it.
    fn append(&mut self, payload: &[u8]) -> ([u8; 8], Vec<u8>) {
        self.number = self.number.saturating_add(1);
        let value = [self.digest.as_slice(), payload].concat();
        self.digest.copy_from_slice(digest::digest(&SHA256, &value).as_ref());
        (self.number.to_be_bytes(), value)
    }
}

/// The version of the last commit.
pub(super) fn commit_sequence(store: &dyn Store) -> Result<Version, StoreFault> {
    store.get(Space::Meta, COMMIT_KEY)?.map_or(Ok(Version(0)), |stored| sequence_of(&stored.value))
}

fn sequence_of(stored: &[u8]) -> Result<Version, StoreFault> {
    let octets = stored.try_into().map_err(|_| StoreFault::Corrupt("the commit sequence is not a number".into()))?;
    Ok(Version(u64::from_be_bytes(octets)))
}

/// Where a log's head lies in [`Space::Meta`].
pub(super) fn head_key(log: Log) -> &'static [u8] {
    match log {
        Log::Audit => b"head/audit",
        Log::Event => b"head/event",
    }
}

fn read_meta(table: &impl Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
    let stored = table.read(&raw_key(Space::Meta as u8, key))?;
    Ok(stored.map(versioned).transpose()?.map(|versioned| versioned.value))
}

/// Batches accepted so far, as the state in which they leave the keys that they touch.
#[derive(Debug)]
pub(super) struct Group<'t, T> {
    table: &'t T,
    tip: Tip,
    writes: Writes,
    appended_to: Vec<Log>,
}

impl<'t, T: Table> Group<'t, T> {
    pub(super) fn new(table: &'t T, tip: Tip) -> Self {
        Self { table, tip, writes: Writes::new(), appended_to: Vec::new() }
    }

    /// Accepts a batch, which sees what earlier batches of the group wrote, or refuses it without a trace.
    pub(super) fn stage(&mut self, batch: Batch) -> Result<Version, CommitError> {
        for (space, key, expected) in &batch.checks {
            if self.version(&raw_key(*space as u8, key))? != *expected {
                return Err(CommitError::Conflict);
            }
        }
        let sums = self.sums(&batch)?;

        // From here on nothing can fail.
        self.tip.version = Version(self.tip.version.0.saturating_add(1));
        let version = self.tip.version;
        for (space, key, value) in batch.writes {
            self.writes.insert(raw_key(space as u8, &key), value.map(|value| raw_value(version, &value)));
        }
        for (counter, sum) in sums {
            self.writes.insert(raw_key(Space::Counter as u8, &counter), Some(raw_value(version, &sum.to_be_bytes())));
        }
        for (log, payload) in batch.appends {
            let (number, value) = self.tip.head(log).append(&payload);
            self.writes.insert(raw_key(log.space() as u8, &number), Some(raw_value(version, &value)));
            if !self.appended_to.contains(&log) {
                self.appended_to.push(log);
            }
        }
        Ok(version)
    }

    /// The writes of the whole group, with the commit sequence and the heads of the logs it appended to, and the tip they lead to.
    pub(super) fn finish(mut self) -> (Writes, Tip) {
        let version = self.tip.version;
        for log in self.appended_to {
            let head = self.tip.head(log).stored();
            self.writes.insert(raw_key(Space::Meta as u8, head_key(log)), Some(raw_value(version, &head)));
        }
        let sequence = raw_value(version, &version.0.to_be_bytes());
        self.writes.insert(raw_key(Space::Meta as u8, COMMIT_KEY), Some(sequence));
        (self.writes, self.tip)
    }

    fn version(&self, key: &RawKey) -> Result<Option<Version>, StoreFault> {
        match self.writes.get(key) {
            Some(pending) => pending.as_deref().map(version_of).transpose(),
            None => self.table.read(key)?.as_deref().map(version_of).transpose(),
        }
    }

    fn read(&self, key: &RawKey) -> Result<Option<RawValue>, StoreFault> {
        match self.writes.get(key) {
            Some(pending) => Ok(pending.clone()),
            None => self.table.read(key),
        }
    }

    /// What the batch's counters come to.
    fn sums(&self, batch: &Batch) -> Result<HashMap<Key, i64>, StoreFault> {
        let mut sums = HashMap::new();
        for (counter, delta) in &batch.adds {
            let before = match sums.get(counter) {
                Some(sum) => *sum,
                None => self.counter(batch, counter)?,
            };
            let after = before.checked_add(*delta).ok_or_else(|| corrupt_counter(counter, "overflows"))?;
            sums.insert(counter.clone(), after);
        }
        Ok(sums)
    }

    /// A counter as the batch's own writes, which come before its adds, leave it.
    fn counter(&self, batch: &Batch, counter: &Key) -> Result<i64, StoreFault> {
        let written = batch.writes.iter().rev().find(|(space, key, _)| *space == Space::Counter && key == counter);
        let value = match written {
            Some((_, _, value)) => value.clone(),
            None => {
                self.read(&raw_key(Space::Counter as u8, counter))?.map(versioned).transpose()?.map(|found| found.value)
            }
        };
        let Some(value) = value else { return Ok(0) };
        let octets = value.as_slice().try_into().map_err(|_| corrupt_counter(counter, "is not a number"))?;
        Ok(i64::from_be_bytes(octets))
    }
}

fn corrupt_counter(counter: &Key, what: &str) -> StoreFault {
    StoreFault::Corrupt(format!("counter {:?} {what}", String::from_utf8_lossy(counter)))
}
