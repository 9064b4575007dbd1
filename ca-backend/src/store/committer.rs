//! Group commit: one thread makes the batches of many callers durable with one write.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::group::{Group, Tip};
use super::progress::Progress;
use super::queue::{GROUP_BYTES_MAX, Queue, Together, lock};
use super::table::{RawRange, RawValue, Table, Writes, raw_key, raw_value, space_end, versioned};
use super::{Batch, CommitError, Entry, Key, Range, Space, Store, Version, Versioned};
use crate::error::StoreFault;
use crate::figures;

/// The longest key, in octets. `sled::SEGMENT_BYTES` depends on it.
pub(super) const KEY_BYTES_MAX: usize = 1024;

/// How much of the disk a write may use in the worst case, per octet written: sled rewrites whole pages.
pub(super) const WRITE_AMPLIFICATION: u64 = 8;

/// How many octets of values one [`Store::dump`] returns at most, not counting the last entry.
const DUMP_BYTES: usize = 4 << 20;

/// A [`Store`] on an embedded engine.
#[derive(Debug)]
pub(super) struct Committer<T: Table> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared<T> {
    table: T,
    queue: Queue,
    progress: Progress,
    /// Held while a group is written.
    tip: Mutex<Tip>,
    /// What the last group met.
    last_fault: Mutex<Option<StoreFault>>,
}

impl<T: Table> Committer<T> {
    /// Starts the committer thread over a table.
    pub(super) fn start(table: T) -> Result<Self, StoreFault> {
        let tip = Tip::load(&table)?;
        let shared = Arc::new(Shared {
            table,
            queue: Queue::default(),
            progress: Progress::at(tip.version),
            tip: Mutex::new(tip),
            last_fault: Mutex::default(),
        });
        let thread = thread::Builder::new()
            .name("store".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.commit_groups()
            })
            .map_err(|error| StoreFault::Unavailable(format!("cannot start the committer thread: {error}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    fn entries(&self, range: &RawRange, limit: usize, bytes_max: usize) -> Result<Vec<(u8, Entry)>, StoreFault> {
        let shared = &self.shared;
        let mut rows: Vec<(Vec<u8>, RawValue)> = Vec::new();
        if limit > 0 {
            let mut bytes = 0_usize;
            shared.guarded(|| {
                shared.table.walk(range, &mut |key, value| {
                    bytes = bytes.saturating_add(value.len());
                    rows.push((key.to_vec(), value));
                    rows.len() < limit && bytes < bytes_max
                })
            })?;
        }
        let mut newest = Version(0);
        let mut entries = Vec::with_capacity(rows.len());
        for (mut key, value) in rows {
            let Versioned { version, value } = versioned(value)?;
            newest = newest.max(version);
            let space = *key.first().ok_or_else(|| StoreFault::Corrupt("a stored key has no space".into()))?;
            key.drain(..1);
            entries.push((space, Entry { key, version, value }));
        }
        shared.progress.wait_durable(newest)?;
        Ok(entries)
    }
}

impl<T: Table> Store for Committer<T> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Versioned>, StoreFault> {
        let shared = &self.shared;
        let found = shared.guarded(|| shared.table.read(&raw_key(space as u8, key)))?.map(versioned).transpose()?;
        match &found {
            Some(found) => shared.progress.wait_durable(found.version)?,
            None => shared.progress.wait_deletions(space as u8)?,
        }
        Ok(found)
    }

    fn scan(&self, space: Space, range: &Range, limit: usize) -> Result<Vec<Entry>, StoreFault> {
        let until = range.until.as_deref().map_or_else(|| space_end(space), |until| raw_key(space as u8, until));
        let raw = RawRange { from: raw_key(space as u8, &range.from), until: Some(until), reverse: range.reverse };
        let entries = self.entries(&raw, limit, usize::MAX)?;
        self.shared.progress.wait_deletions(space as u8)?;
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    fn commit(&self, batch: Batch) -> Result<Version, CommitError> {
        if let Some(key) = batch.keys().find(|key| key.len() > KEY_BYTES_MAX) {
            return Err(StoreFault::Unavailable(format!(
                "a key of {} octets is longer than {KEY_BYTES_MAX}",
                key.len()
            ))
            .into());
        }
        self.shared.queue.submit(batch)
    }

    fn health(&self) -> Result<(), StoreFault> {
        let shared = &self.shared;
        shared.progress.check()?;
        let last_fault = lock(&shared.last_fault).clone();
        match last_fault {
            None => Ok(()),
            // Room may have come back without any commit since: enough for a whole group, not just for some luckier batch.
            Some(StoreFault::Full(_)) => {
                let group_bytes = u64::try_from(GROUP_BYTES_MAX).unwrap_or(u64::MAX);
                shared.table.room(group_bytes.saturating_mul(WRITE_AMPLIFICATION))
            }
            Some(fault @ (StoreFault::Unavailable(_) | StoreFault::Corrupt(_))) => Err(fault),
        }
    }

    fn dump(&self, after: Option<&(u8, Key)>, limit: usize) -> Result<Vec<(u8, Entry)>, StoreFault> {
        let from = after.map_or_else(Vec::new, |(space, key)| {
            let mut next = raw_key(*space, key);
            next.push(0); // the least key after it
            next
        });
        let entries = self.entries(&RawRange { from, until: None, reverse: false }, limit, DUMP_BYTES)?;
        self.shared.progress.wait_all_deletions()?;
        Ok(entries)
    }

    fn restore(&self, entries: Vec<(u8, Entry)>) -> Result<(), StoreFault> {
        let newest = entries.iter().map(|(_, entry)| entry.version).max().unwrap_or(Version(0));
        let writes: Writes = entries
            .into_iter()
            .map(|(space, entry)| (raw_key(space, &entry.key), Some(raw_value(entry.version, &entry.value))))
            .collect();
        let shared = &self.shared;
        let mut tip = lock(&shared.tip);
        shared.write(writes, newest)?;
        let before = tip.version;
        *tip = shared.guarded(|| Tip::load(&shared.table))?;
        tip.version = tip.version.max(before);
        Ok(())
    }
}

impl<T: Table> Shared<T> {
    /// The committer thread.
    fn commit_groups(&self) {
        while let Some(group) = self.queue.next_group() {
            self.commit_group(group);
        }
        self.queue.abandon();
    }

    /// Answers every caller of the group, after its outcome is durable: also a conflict, since it may be one with an earlier batch
    /// of the same group, whose caller must not read the old state again.
    fn commit_group(&self, mut group: Together) {
        let batches = group.take_batches();
        match self.guarded(|| self.write_group(batches)) {
            Ok(outcomes) => {
                *lock(&self.last_fault) = None;
                group.answer(Ok(outcomes));
            }
            Err(fault) => {
                *lock(&self.last_fault) = Some(fault.clone());
                group.answer(Err(fault));
            }
        }
    }

    fn write_group(&self, batches: Vec<Batch>) -> Result<Vec<Result<Version, CommitError>>, StoreFault> {
        let mut tip = lock(&self.tip);
        let mut group = Group::new(&self.table, tip.clone());
        let outcomes: Vec<_> = batches.into_iter().map(|batch| group.stage(batch)).collect();
        if outcomes.iter().any(Result::is_ok) {
            let (writes, reached) = group.finish();
            self.write(writes, reached.version)?;
            *tip = reached;
        }
        Ok(outcomes)
    }

    fn write(&self, writes: Writes, last: Version) -> Result<(), StoreFault> {
        let bytes: usize =
            writes.iter().map(|(key, value)| key.len().saturating_add(value.as_ref().map_or(0, Vec::len))).sum();
        self.table.make_room((bytes as u64).saturating_mul(WRITE_AMPLIFICATION))?;
        let deletes_in = writes.iter().filter(|(_, value)| value.is_none()).filter_map(|(key, _)| key.first().copied());
        self.progress.begin(last, deletes_in);
        let applied = catch_unwind(AssertUnwindSafe(|| self.table.apply(Arc::new(writes))))
            .unwrap_or_else(|panic| Err(broken(panic.as_ref())));
        match applied {
            Ok(()) => {
                metrics::counter!(figures::STORE_GROUPS).increment(1);
                self.progress.settle(last);
            }
            Err(fault) => {
                self.progress.fail(in_doubt(&fault));
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Runs a piece of work on the table unless the store has failed; a panic of the engine becomes a fault.
    fn guarded<R>(&self, work: impl FnOnce() -> Result<R, StoreFault>) -> Result<R, StoreFault> {
        self.progress.check()?;
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(broken(panic.as_ref())))
    }
}

impl<T: Table> Drop for Committer<T> {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(thread) = self.thread.take() {
            let _panics_were_caught = thread.join();
        }
    }
}

/// The fault of an engine that panicked.
pub(super) fn broken(panic: &(dyn Any + Send)) -> StoreFault {
    let message = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    StoreFault::Corrupt(format!("the storage engine panicked: {}", message.unwrap_or("without a message")))
}

/// What later calls are told after a write failed half way.
fn in_doubt(fault: &StoreFault) -> StoreFault {
    let later = |what: &str| format!("a write failed ({what}); restart to find out what is stored");
    match fault {
        StoreFault::Full(what) => StoreFault::Full(later(what)),
        StoreFault::Unavailable(what) => StoreFault::Unavailable(later(what)),
        StoreFault::Corrupt(what) => StoreFault::Corrupt(later(what)),
    }
}
