//! A journal in front of an engine.
//!
//! A group is durable once it stands in the journal, which takes one write and one `fdatasync`. From then on readers find it in
//! memory. The engine gets what many groups together leave of their keys, in key order and on a thread of its own: a key that is
//! written again and again reaches it once, and neighbours reach it together.
//!
//! - A file of the journal is full at [`StoreOptions::journal_bytes`](super::StoreOptions::journal_bytes). Then its writes are *fed* to the engine, while the next file takes new groups.
//! - Once they are durable there, the engine is told the file's number, and older files are removed. The file itself stays until the
//!   next one is fed, so that what the engine got last is always there twice.
//! - Opening reads all files that are left and feeds them again, which changes nothing where the engine has them already. What the
//!   engine half got, in no order, becomes whole again thereby.

mod file;

use std::collections::BTreeMap;
use std::fs;
use std::iter::Peekable;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use self::file::JournalFile;
use super::committer::{WRITE_AMPLIFICATION, broken};
use super::directory::{io_fault, sync};
use super::queue::lock;
use super::table::{RawKey, RawRange, RawValue, Table, Writes};
use crate::error::StoreFault;

/// The journal's directory, in the store's directory.
pub(super) const JOURNAL_DIRECTORY: &str = "journal";

const FIRST_FILE: u64 = 1;

/// Under which raw key the engine keeps the number of the last file that it was fed. No [`Space`](super::Space) has this number.
const FED_KEY: &[u8] = &[0];
/// The least raw key of a record.
const FIRST_KEY: &[u8] = &[1];

/// How many rows of the engine are merged at once: the first time, and at most.
const PAGE_ROWS: usize = 16;
const PAGE_ROWS_MAX: usize = 1024;

/// An engine behind a journal.
#[derive(Debug)]
pub(super) struct Journaled<T: Table> {
    shared: Arc<Shared<T>>,
    /// The file that takes new groups. Only the committer writes.
    newest: Mutex<JournalFile>,
    /// When a file is full. It gets twice as long while the engine is busy with the one before or the next cannot be begun; then
    /// groups wait, or are refused.
    file_bytes: u64,
    feeder: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared<T> {
    table: T,
    directory: PathBuf,
    recent: RwLock<Recent>,
    turn: Mutex<Turn>,
    /// How many octets of the journal the engine does not have yet.
    unfed_bytes: AtomicU64,
    /// The feeder has work, or has done it.
    changed: Condvar,
}

/// What the engine does not have yet.
#[derive(Debug, Default)]
struct Recent {
    /// What stands in the newest file.
    newest: Writes,
    /// What stands in the file that is being fed; nothing if none is.
    feeding: Arc<Writes>,
}

/// A part of a range.
struct Page {
    rows: Vec<(RawKey, RawValue)>,
    /// The last key that was considered; `None` at the end of the range.
    last: Option<RawKey>,
}

#[derive(Debug, Default)]
struct Turn {
    /// The number of the file that is being fed, and its length.
    feeding: Option<(u64, u64)>,
    closed: bool,
    failed: Option<StoreFault>,
}

impl<T: Table> Journaled<T> {
    /// Opens the journal in a directory, or begins one, in front of an engine.
    pub(super) fn open(table: T, directory: &Path, file_bytes: u64) -> Result<Self, StoreFault> {
        let fed = table.read(FED_KEY)?.map(|number| number_of(&number)).transpose()?;
        if !directory.exists() {
            fs::create_dir(directory).map_err(|error| io_fault("cannot make the journal's directory", &error))?;
            directory.parent().map_or(Ok(()), sync)?;
        }
        let numbers = file::numbers(directory)?;
        refuse_gaps(&numbers, fed)?;
        let last = numbers.last().copied();
        let newest_written = file::newest_written(directory, &numbers)?;
        let mut writes = Writes::new();
        let mut bytes = 0_u64;
        for number in numbers {
            bytes = bytes.saturating_add(file::replay(directory, number, Some(number) == newest_written, &mut writes)?);
        }
        let next = last.map_or(FIRST_FILE, |last| last.saturating_add(1));
        let newest = Mutex::new(JournalFile::create(directory, next)?);
        let feeding = last.map(|last| (last, bytes));
        let shared = Arc::new(Shared {
            table,
            directory: directory.to_owned(),
            recent: RwLock::new(Recent { newest: Writes::new(), feeding: Arc::new(writes) }),
            turn: Mutex::new(Turn { feeding, ..Turn::default() }),
            unfed_bytes: AtomicU64::new(bytes),
            changed: Condvar::new(),
        });
        let feeder = thread::Builder::new()
            .name("store-feeder".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.feed_files()
            })
            .map_err(|error| StoreFault::Unavailable(format!("cannot start the feeder thread: {error}")))?;
        Ok(Self { shared, newest, file_bytes, feeder: Some(feeder) })
    }

    /// Hands the newest file to the feeder and begins another, if it is time and the feeder idle. May be tried again when it failed.
    fn rotate(&self, newest: &mut JournalFile, mut turn: MutexGuard<'_, Turn>) -> Result<(), StoreFault> {
        if newest.bytes() < self.file_bytes || turn.feeding.is_some() || turn.failed.is_some() {
            return Ok(());
        }
        let shared = &self.shared;
        let mut full =
            std::mem::replace(newest, JournalFile::create(&shared.directory, newest.number().saturating_add(1))?);
        let mut recent = shared.recent.write().unwrap_or_else(PoisonError::into_inner);
        recent.feeding = Arc::new(std::mem::take(&mut recent.newest));
        drop(recent);
        turn.feeding = Some((full.number(), full.bytes()));
        // Until something stands in the next file, this one would pass for torn if its end were damaged.
        if let Err(fault) = full.close() {
            tracing::warn!(%fault, "a full file of the journal ends without a mark that it was closed");
        }
        shared.changed.notify_all();
        Ok(())
    }
}

impl<T: Table> Table for Journaled<T> {
    fn read(&self, key: &[u8]) -> Result<Option<RawValue>, StoreFault> {
        let recent = self.shared.recent.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = recent.newest.get(key).or_else(|| recent.feeding.get(key)) {
            return Ok(value.clone());
        }
        drop(recent);
        self.shared.table.read(key)
    }

    fn walk(&self, range: &RawRange, visit: &mut dyn FnMut(&[u8], RawValue) -> bool) -> Result<(), StoreFault> {
        let mut range = range.clone();
        if range.from.as_slice() < FIRST_KEY {
            range.from = FIRST_KEY.to_vec();
        }
        let mut page_rows = PAGE_ROWS;
        while range.until.as_ref().is_none_or(|until| range.from < *until) {
            let Page { rows, last } = self.shared.page(&range, page_rows)?;
            for (key, value) in rows {
                if !visit(&key, value) {
                    return Ok(());
                }
            }
            match last {
                None => break,
                Some(last) if range.reverse => range.until = Some(last),
                Some(mut last) => {
                    last.push(0); // the least key after it
                    range.from = last;
                }
            }
            page_rows = (2 * page_rows).min(PAGE_ROWS_MAX);
        }
        Ok(())
    }

    fn apply(&self, writes: Arc<Writes>) -> Result<(), StoreFault> {
        if let Some(fault) = &lock(&self.shared.turn).failed {
            return Err(fault.clone());
        }
        let mut newest = lock(&self.newest);
        let bytes_before = newest.bytes();
        newest.append(&writes)?;
        let appended = newest.bytes().saturating_sub(bytes_before);
        self.shared.unfed_bytes.fetch_add(appended, Ordering::SeqCst);
        let mut recent = self.shared.recent.write().unwrap_or_else(PoisonError::into_inner);
        recent.newest.extend(Arc::unwrap_or_clone(writes));
        drop(recent);
        // The group is durable. If no other file could be begun, this one takes more, and once it is overfull, `room` says why.
        let _tried_again = self.rotate(&mut newest, lock(&self.shared.turn));
        Ok(())
    }

    /// Room for the journal is not enough: the engine must be able to take what stands in it.
    fn room(&self, bytes: u64) -> Result<(), StoreFault> {
        let unfed = self.shared.unfed_bytes.load(Ordering::SeqCst);
        self.shared.table.room(unfed.saturating_mul(WRITE_AMPLIFICATION).saturating_add(bytes))
    }

    /// Waits until the journal takes more.
    fn make_room(&self, bytes: u64) -> Result<(), StoreFault> {
        let mut newest = lock(&self.newest);
        if newest.bytes() >= self.file_bytes.saturating_mul(2) {
            let mut turn = lock(&self.shared.turn);
            while turn.feeding.is_some() && turn.failed.is_none() {
                turn = self.shared.changed.wait(turn).unwrap_or_else(PoisonError::into_inner);
            }
            self.rotate(&mut newest, turn)?;
        }
        drop(newest);
        self.room(bytes)
    }
}

impl<T: Table> Shared<T> {
    /// Up to `limit` rows of a range.
    fn page(&self, range: &RawRange, limit: usize) -> Result<Page, StoreFault> {
        // Held to the end, so that nothing moves from memory to the engine meanwhile.
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
        let mut stored = Vec::new();
        self.table.walk(range, &mut |key, value| {
            stored.push((key.to_vec(), value));
            stored.len() < limit
        })?;
        let all_stored = stored.len() < limit;
        let mut stored = stored.into_iter().peekable();
        let mut feeding = within(&recent.feeding, range);
        let mut newest = within(&recent.newest, range);
        let mut rows = Vec::with_capacity(limit);
        let mut last = None;
        while rows.len() < limit && (all_stored || stored.peek().is_some()) {
            let heads =
                [stored.peek().map(|row| &row.0), feeding.peek().map(|row| row.0), newest.peek().map(|row| row.0)];
            let nearer = |one, other| if (other < one) == range.reverse { one } else { other };
            let Some(key) = heads.into_iter().flatten().reduce(nearer).cloned() else {
                return Ok(Page { rows, last: None });
            };
            let stored = stored.next_if(|row| row.0 == key).map(|row| row.1);
            let fed = feeding.next_if(|row| *row.0 == key).map(|row| row.1.clone());
            let new = newest.next_if(|row| *row.0 == key).map(|row| row.1.clone());
            if let Some(value) = new.or(fed).unwrap_or(stored) {
                rows.push((key.clone(), value));
            }
            last = Some(key);
        }
        Ok(Page { rows, last })
    }

    /// The feeder thread.
    fn feed_files(&self) {
        loop {
            let mut turn = lock(&self.turn);
            let (number, bytes) = loop {
                if turn.closed {
                    return;
                }
                if let Some(feeding) = turn.feeding {
                    break feeding;
                }
                turn = self.changed.wait(turn).unwrap_or_else(PoisonError::into_inner);
            };
            drop(turn);
            let fed = catch_unwind(AssertUnwindSafe(|| self.feed(number)));
            let fed = fed.unwrap_or_else(|panic| Err(broken(panic.as_ref())));
            if fed.is_ok() {
                self.recent.write().unwrap_or_else(PoisonError::into_inner).feeding = Arc::default();
            }
            let mut turn = lock(&self.turn);
            match fed {
                Ok(()) => {
                    turn.feeding = None;
                    self.unfed_bytes.fetch_sub(bytes, Ordering::SeqCst);
                }
                Err(fault) => {
                    turn.failed = Some(fault);
                    turn.closed = true;
                }
            }
            self.changed.notify_all();
        }
    }

    fn feed(&self, number: u64) -> Result<(), StoreFault> {
        let writes = Arc::clone(&self.recent.read().unwrap_or_else(PoisonError::into_inner).feeding);
        self.table.apply(writes)?;
        let fed = Writes::from([(FED_KEY.to_vec(), Some(number.to_be_bytes().to_vec()))]);
        self.table.apply(Arc::new(fed))?;
        if let Err(fault) = self.remove_before(number) {
            tracing::warn!(%fault, "files of the journal that are not needed any more stay until the next one is fed");
        }
        Ok(())
    }

    /// Removes files from the oldest on, such that there is never a gap between those that are left.
    fn remove_before(&self, number: u64) -> Result<(), StoreFault> {
        let mut older = file::numbers(&self.directory)?.into_iter().take_while(|older| *older < number);
        older.try_for_each(|older| file::remove(&self.directory, older))
    }
}

impl<T: Table> Drop for Journaled<T> {
    /// What was not fed yet stays in the journal; the next opening finds it.
    fn drop(&mut self) {
        if let Err(fault) = lock(&self.newest).close() {
            tracing::warn!(%fault, "the journal ends without a mark that it was closed");
        }
        lock(&self.shared.turn).closed = true;
        self.shared.changed.notify_all();
        if let Some(feeder) = self.feeder.take() {
            let _panics_were_caught = feeder.join();
        }
    }
}

type Row<'w> = (&'w RawKey, &'w Option<RawValue>);

/// The writes of a range in its order.
fn within<'w>(writes: &'w Writes, range: &'w RawRange) -> Peekable<Box<dyn Iterator<Item = Row<'w>> + 'w>> {
    let until = range.until.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let ascending = BTreeMap::range::<RawKey, _>(writes, (Bound::Included(&range.from), until));
    let rows: Box<dyn Iterator<Item = Row<'w>>> =
        if range.reverse { Box::new(ascending.rev()) } else { Box::new(ascending) };
    rows.peekable()
}

fn number_of(stored: &[u8]) -> Result<u64, StoreFault> {
    let octets =
        stored.try_into().map_err(|_| StoreFault::Corrupt("the number of a journal file is malformed".into()))?;
    Ok(u64::from_be_bytes(octets))
}

/// The last file that the engine was fed, and every one after it, must be there.
fn refuse_gaps(numbers: &[u64], fed: Option<u64>) -> Result<(), StoreFault> {
    let in_a_row = numbers.iter().zip(numbers.iter().skip(1)).all(|(one, next)| one.checked_add(1) == Some(*next));
    let begins_early_enough = match fed {
        Some(fed) => numbers.contains(&fed),
        None => numbers.first().is_none_or(|first| *first == FIRST_FILE),
    };
    if in_a_row && begins_early_enough {
        return Ok(());
    }
    Err(StoreFault::Corrupt(format!("journal files are missing ({numbers:?} are there); restore a backup")))
}
