//! The embedded default engine, sled 0.34, used so that it keeps what it acknowledges.
//!
//! What sled does not do by itself, and what is done here about it:
//! - `flush` ends in `sync_file_range`, which makes neither file metadata nor the disk's cache durable. So every group ends in an
//!   `fdatasync` on an own descriptor of the `db` file.
//! - `conf` and the directories are never synced, and over an empty `conf` sled silently begins a new database. So a store is created
//!   under another name, synced, and renamed; a damaged one is refused.
//! - It frees and reuses a segment once the pages that lay in it were written, not synced, elsewhere. A segment can be reused only
//!   after sled rolled over to a second new segment, so batches are kept smaller than a segment ([`SEGMENT_BYTES`]): the `fdatasync`
//!   of the batch that moved the pages comes before the reuse.
//! - A page of more than a quarter segment goes to a file of its own in `blobs`, which is never synced. So values are cut into
//!   pieces ([`PIECE_BYTES`]) and keys are bounded, such that no page grows so large.
//! - A leaf holds sixteen keys at most, and a change costs about the same whatever its length. So in the spaces with many short
//!   entries neighbours lie together in [`block`]s, and groups come through a [journal](super::journal), many at once.
//! - It notes where its pages lie (a *snapshot*) when it is opened and at no other time, and opening reads whatever was written
//!   since, which after a million certificates is gigabytes. So it is opened anew whenever as much as [`LOG_JOURNALS`] files of the
//!   journal was written, and every start is short. Readers of what is in no file of the journal wait for that moment. A scan waits
//!   while it keeps the journal as it is, so if one is running then, commits wait as well, and behind them every reader.
//! - It writes a snapshot under the name `snap.*.generating` and renames it, but takes one that was left unfinished for the newest,
//!   and cannot be opened any more. So what is left of that kind is removed before it is opened; the snapshot before it is whole.
//! - Its transactions and `flush_async` are slow or deadlock. Neither is used; there is one writer.
//! - Its errors are sometimes panics, also when opening. They are caught here and by the committer.

mod block;

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::iter::Peekable;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use ::sled::{Batch, Config, Db, IVec, Mode};

use super::committer::broken;
use super::directory::{StoreDirectory, io_fault, sync, sync_all_below};
use super::queue::lock;
use super::table::{RawKey, RawRange, RawValue, Table, Writes};
use crate::clock::Stopwatch;
use crate::error::StoreFault;

/// sled's directory, in the store's directory.
pub(super) const SLED_DIRECTORY: &str = "sled";

/// How much sled writes before it goes on to another place in the file. A single value that is larger may roll over twice, so long
/// values are better written in several batches. A page with 256 keys of `committer::KEY_BYTES_MAX` fits a quarter segment.
const SEGMENT_BYTES: usize = 2 << 20;

/// What is written at once, as far as values allow: less than twice as much. That is an eighth of a segment, and sled, which writes
/// each change and every tenth time the whole page of sixteen, puts some three octets on the disk for one.
const BATCH_BYTES: usize = 128 << 10;

/// Values are cut into pieces of this size; the last piece is shorter, possibly empty. A page holds some 20 entries at most.
const PIECE_BYTES: usize = 8 << 10;

/// Where the second and further pieces lie: this octet, the raw key, the piece's number (4 octets, big endian, from 1). No
/// [`Space`](super::Space) has this number.
const PIECES: u8 = 0xff;

/// How many full files of the journal sled takes until it is opened anew.
const LOG_JOURNALS: u64 = 16;

/// A longer pause for opening it anew is worth a line in the log.
const PAUSE_TO_TELL: Duration = Duration::from_secs(1);

/// `conf` of this length or less is one that sled would replace, and its database with it.
const EMPTY_CONF_BYTES: u64 = 8;

/// A batch, and about how much is in it.
#[derive(Default)]
struct Growing {
    rows: Batch,
    bytes: usize,
}

impl Growing {
    fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.bytes = self.bytes.saturating_add(key.len()).saturating_add(value.len());
        self.rows.insert(key, value);
    }

    fn remove(&mut self, key: &[u8]) {
        self.bytes = self.bytes.saturating_add(key.len());
        self.rows.remove(key);
    }
}

/// A sled database.
pub(super) struct SledTable {
    /// Held while rows are read that belong together, and alone while a batch is applied (sled's iterators would see a part of it,
    /// such as one half of a block that was split) and while sled is opened anew. Empty if that failed; then it is tried again.
    opened: RwLock<Option<Opened>>,
    /// Octets that were written since it was opened, and how many may be.
    written: Mutex<u64>,
    written_max: u64,
    /// How many pieces follow the first one, for those keys where any do. Kept so that a write need not read what it replaces.
    long_values: Mutex<HashMap<RawKey, u32>>,
    cache_bytes: u64,
    directory: StoreDirectory,
}

/// What an open database is used through.
struct Opened {
    database: Db,
    /// The `db` file, for `fdatasync`.
    file: File,
}

impl Opened {
    fn open(path: &Path, cache_bytes: u64) -> Result<Self, StoreFault> {
        refuse_damaged(path)?;
        wait_until_closed(path)?;
        remove_unfinished_snapshots(path)?;
        let database = open_database(path, cache_bytes)?;
        // Opening wrote a snapshot, and may have repaired the end of the log.
        sync_all_below(path)?;
        let file = File::open(path.join("db")).map_err(|error| io_fault("cannot open sled's db file", &error))?;
        Ok(Self { database, file })
    }

    /// The block of a space in which a key would be, and the key it lies under.
    fn block_around(&self, space: u8, key: &[u8]) -> Result<Option<(IVec, RawValue)>, StoreFault> {
        let Some(row) = self.database.range([space].as_slice()..=key).next_back() else {
            return Ok(None);
        };
        let (fence, first) = row.map_err(sled_fault)?;
        let block = self.join_pieces(&fence, &first)?;
        Ok(Some((fence, block)))
    }

    /// Puts the pieces of a value together.
    fn join_pieces(&self, key: &[u8], first: &IVec) -> Result<RawValue, StoreFault> {
        let mut value = first.to_vec();
        let mut number = 0_u32;
        let mut last_bytes = first.len();
        while last_bytes == PIECE_BYTES {
            number = number.saturating_add(1);
            let piece = self.database.get(piece_key(key, number)).map_err(sled_fault)?;
            let piece = piece.ok_or_else(|| StoreFault::Corrupt("a piece of a long value is missing".into()))?;
            value.extend_from_slice(&piece);
            last_bytes = piece.len();
        }
        Ok(value)
    }

    fn read(&self, key: &[u8]) -> Result<Option<RawValue>, StoreFault> {
        let Some((&space, wanted)) = key.split_first().filter(|(space, _)| block::bytes_max(**space).is_some()) else {
            let first = self.database.get(key).map_err(sled_fault)?;
            return first.map(|first| self.join_pieces(key, &first)).transpose();
        };
        let Some((_, block)) = self.block_around(space, key)? else {
            return Ok(None);
        };
        Ok(block::find(&block, wanted)?.map(<[u8]>::to_vec))
    }

    fn walk(&self, range: &RawRange, visit: &mut dyn FnMut(&[u8], RawValue) -> bool) -> Result<(), StoreFault> {
        let until = range.until.clone().unwrap_or_else(|| vec![PIECES]);
        if until <= range.from {
            return Ok(());
        }
        let from = match range.from.first() {
            Some(&space) if block::bytes_max(space).is_some() => {
                self.block_around(space, &range.from)?.map_or_else(|| range.from.clone(), |(fence, _)| fence.to_vec())
            }
            Some(_) | None => range.from.clone(),
        };
        let mut rows = self.database.range(from.as_slice()..until.as_slice());
        while let Some(row) = if range.reverse { rows.next_back() } else { rows.next() } {
            let (key, first) = row.map_err(sled_fault)?;
            let value = self.join_pieces(&key, &first)?;
            let space = key.first().copied().unwrap_or_default();
            if block::bytes_max(space).is_none() {
                if !visit(&key, value) {
                    return Ok(());
                }
                continue;
            }
            let mut entries = block::entries(&value)?;
            if range.reverse {
                entries.reverse();
            }
            for (key, value) in entries {
                let key = [&[space], key].concat();
                if key >= range.from && key < until && !visit(&key, value.to_vec()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl SledTable {
    /// Opens the database of a store, or begins one, behind a journal whose files have `journal_bytes`.
    pub(super) fn open(directory: StoreDirectory, cache_bytes: u64, journal_bytes: u64) -> Result<Self, StoreFault> {
        let path = directory.join(SLED_DIRECTORY);
        if !path.exists() {
            directory.create(SLED_DIRECTORY, |unfinished| {
                drop(open_database(unfinished, cache_bytes)?);
                wait_until_closed(unfinished)
            })?;
        }
        let opened = Opened::open(&path, cache_bytes)?;
        let long_values = Mutex::new(find_long_values(&opened.database)?);
        Ok(Self {
            opened: RwLock::new(Some(opened)),
            written: Mutex::default(),
            written_max: journal_bytes.saturating_mul(LOG_JOURNALS),
            long_values,
            cache_bytes,
            directory,
        })
    }

    /// Reads between two batches.
    fn at_rest<R>(&self, read: impl FnOnce(&Opened) -> Result<R, StoreFault>) -> Result<R, StoreFault> {
        let mut opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        if opened.is_none() {
            drop(opened);
            let mut alone = self.alone();
            self.open_again(&mut alone)?;
            opened = RwLockWriteGuard::downgrade(alone);
        }
        read(used(&opened)?)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Option<Opened>> {
        self.opened.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the database unless it is open.
    fn open_again(&self, alone: &mut Option<Opened>) -> Result<(), StoreFault> {
        if alone.is_none() {
            *alone = Some(Opened::open(&self.directory.join(SLED_DIRECTORY), self.cache_bytes)?);
            *lock(&self.written) = 0;
        }
        Ok(())
    }

    /// Opens the database anew if enough was written. Everything in it is durable.
    fn shorten_log(&self) {
        // A full disk takes no snapshot either.
        if *lock(&self.written) < self.written_max || self.directory.room(0).is_err() {
            return;
        }
        let clock = Stopwatch::start();
        let mut alone = self.alone();
        drop(alone.take());
        match self.open_again(&mut alone) {
            Ok(()) => {
                let pause = clock.elapsed();
                let pause_ms = pause.as_millis();
                if pause > PAUSE_TO_TELL {
                    tracing::info!(pause_ms, "opened sled anew; scans and commits may have waited");
                } else {
                    tracing::debug!(pause_ms, "opened sled anew");
                }
            }
            Err(fault) => {
                tracing::warn!(%fault, "sled could not be opened anew; the next reader or writer tries again")
            }
        }
    }

    /// Takes the writes that fall into one block.
    fn put_in_blocks<'w>(
        &self,
        batch: &mut Growing,
        space: u8,
        block_bytes_max: usize,
        writes: &mut Peekable<impl Iterator<Item = (&'w RawKey, &'w Option<RawValue>)>>,
    ) -> Result<(), StoreFault> {
        let Some((first, _)) = writes.peek() else { return Ok(()) };
        let space_end = vec![space.saturating_add(1)];
        let (fence, before, next) = self.at_rest(|opened| {
            let (fence, before) = match opened.block_around(space, first)? {
                Some((fence, block)) => (fence.to_vec(), block),
                None => (vec![space], Vec::new()),
            };
            let following = (Bound::Excluded(fence.as_slice()), Bound::Excluded(space_end.as_slice()));
            let next = opened.database.range::<&[u8], _>(following).next().transpose().map_err(sled_fault)?;
            Ok((fence, before, next))
        })?;
        let at_end = next.is_none();
        let end = next.map_or(space_end, |(next, _)| next.to_vec());
        let mut changes = Vec::new();
        let mut bytes = 0_usize;
        while bytes < BATCH_BYTES
            && let Some((key, value)) = writes.next_if(|(key, _)| **key < end)
        {
            bytes = bytes.saturating_add(key.len()).saturating_add(value.as_ref().map_or(0, Vec::len));
            changes.push((key.get(1..).unwrap_or_default(), value.as_deref()));
        }
        let after = block::merge(block::entries(&before)?, &changes);
        let mut blocks = block::pack(&after, block_bytes_max, at_end).into_iter();
        match blocks.next() {
            Some((_, block)) if block == before => {}
            Some((_, block)) => self.put(batch, &fence, Some(&block)),
            None => self.put(batch, &fence, None),
        }
        for (key, block) in blocks {
            self.put(batch, &[&[space], key.as_slice()].concat(), Some(&block));
        }
        // What is left for this block has to find it as it is now.
        if writes.peek().is_some_and(|(key, _)| **key < end) {
            self.write(std::mem::take(batch))?;
        }
        Ok(())
    }

    /// Adds a row to a batch, in pieces if it is long.
    fn put(&self, batch: &mut Growing, key: &[u8], value: Option<&[u8]>) {
        let mut long_values = lock(&self.long_values);
        let further_before = long_values.get(key).copied().unwrap_or(0);
        let further_now = value.map_or(0, |value| further_pieces(value.len()));
        if let Some(value) = value {
            for (number, piece) in (1..=further_now).zip(value.chunks(PIECE_BYTES).skip(1).chain([[].as_slice()])) {
                batch.insert(&piece_key(key, number), piece);
            }
        }
        for number in further_now.saturating_add(1)..=further_before {
            batch.remove(&piece_key(key, number));
        }
        match further_now {
            0 if further_before > 0 => drop(long_values.remove(key)),
            0 => {}
            _ => drop(long_values.insert(key.to_vec(), further_now)),
        }
        match value {
            Some(value) => batch.insert(key, value.get(..PIECE_BYTES).unwrap_or(value)),
            None => batch.remove(key),
        }
    }

    /// Makes a batch durable.
    fn write(&self, batch: Growing) -> Result<(), StoreFault> {
        if batch.bytes == 0 {
            return Ok(());
        }
        let mut alone = self.alone();
        self.open_again(&mut alone)?;
        used(&alone)?.database.apply_batch(batch.rows).map_err(sled_fault)?;
        let opened = RwLockWriteGuard::downgrade(alone);
        let Opened { database, file } = used(&opened)?;
        database.flush().map_err(sled_fault)?;
        file.sync_data().map_err(|error| io_fault("cannot make sled's db file durable", &error))?;
        let mut written = lock(&self.written);
        *written = written.saturating_add(batch.bytes as u64);
        Ok(())
    }
}

impl Table for SledTable {
    fn read(&self, key: &[u8]) -> Result<Option<RawValue>, StoreFault> {
        self.at_rest(|opened| opened.read(key))
    }

    fn walk(&self, range: &RawRange, visit: &mut dyn FnMut(&[u8], RawValue) -> bool) -> Result<(), StoreFault> {
        self.at_rest(|opened| opened.walk(range, visit))
    }

    fn apply(&self, writes: Arc<Writes>) -> Result<(), StoreFault> {
        let mut batch = Growing::default();
        let mut writes = writes.iter().peekable();
        while let Some((key, value)) = writes.peek() {
            let space = key.first().copied().unwrap_or_default();
            match block::bytes_max(space) {
                Some(block_bytes_max) => self.put_in_blocks(&mut batch, space, block_bytes_max, &mut writes)?,
                None => {
                    self.put(&mut batch, key, value.as_deref());
                    writes.next();
                }
            }
            if batch.bytes >= BATCH_BYTES {
                self.write(std::mem::take(&mut batch))?;
            }
        }
        self.write(batch)?;
        self.shorten_log();
        Ok(())
    }

    fn room(&self, bytes: u64) -> Result<(), StoreFault> {
        self.directory.room(bytes)
    }
}

impl fmt::Debug for SledTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledTable").field("directory", &self.directory).finish_non_exhaustive()
    }
}

fn used(opened: &Option<Opened>) -> Result<&Opened, StoreFault> {
    opened.as_ref().ok_or_else(|| StoreFault::Unavailable("the sled database is not open".into()))
}

fn open_database(path: &Path, cache_bytes: u64) -> Result<Db, StoreFault> {
    let config = Config::new()
        .path(path)
        .cache_capacity(cache_bytes)
        .mode(Mode::HighThroughput)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(None);
    let opened = catch_unwind(AssertUnwindSafe(|| config.open().map_err(sled_fault)));
    opened.unwrap_or_else(|panic| Err(broken(panic.as_ref()))).map_err(|fault| {
        let message = format!("cannot open the sled database {}", path.display());
        match fault {
            StoreFault::Full(what) => StoreFault::Full(format!("{message}: {what}")),
            StoreFault::Unavailable(what) => StoreFault::Unavailable(format!("{message}: {what}")),
            StoreFault::Corrupt(what) => StoreFault::Corrupt(format!("{message}: {what}; restore a backup")),
        }
    })
}

/// Refuses what sled would take for no database at all, and begin one in its place.
fn refuse_damaged(path: &Path) -> Result<(), StoreFault> {
    let bytes = |name: &str| fs::metadata(path.join(name)).map(|file| file.len());
    let damaged = |what: &str| Err(StoreFault::Corrupt(format!("{} {what}; restore a backup", path.display())));
    if !matches!(bytes("conf"), Ok(length) if length > EMPTY_CONF_BYTES) {
        return damaged("has no conf file, or an empty one");
    }
    if bytes("db").is_err() {
        return damaged("has no db file");
    }
    Ok(())
}

/// sled's threads let go of the file some time after the database was dropped. Since this process holds the directory's lock, it can
/// only be such a thread that we wait for.
fn wait_until_closed(path: &Path) -> Result<(), StoreFault> {
    File::open(path.join("db"))
        .and_then(|file| file.lock())
        .map_err(|error| io_fault("cannot lock sled's db file", &error))
}

/// Removes what an opening that was interrupted left of its snapshot. The log since the snapshot before it is still there.
fn remove_unfinished_snapshots(path: &Path) -> Result<(), StoreFault> {
    let fault = |error| io_fault("cannot remove an unfinished snapshot of sled", &error);
    for entry in fs::read_dir(path).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            fs::remove_file(entry.path()).map_err(fault)?;
        }
    }
    sync(path)
}

fn find_long_values(database: &Db) -> Result<HashMap<RawKey, u32>, StoreFault> {
    let mut found = HashMap::new();
    for row in database.scan_prefix([PIECES]).keys() {
        let raw = row.map_err(sled_fault)?;
        let parts = raw.split_last_chunk().and_then(|(key, number)| Some((key.get(1..)?, u32::from_be_bytes(*number))));
        let (key, number) =
            parts.ok_or_else(|| StoreFault::Corrupt("a piece of a long value has a malformed key".into()))?;
        let most = found.entry(key.to_vec()).or_insert(number);
        *most = number.max(*most);
    }
    Ok(found)
}

fn piece_key(key: &[u8], number: u32) -> Vec<u8> {
    [&[PIECES], key, &number.to_be_bytes()].concat()
}

/// How many pieces follow the first one of a value.
fn further_pieces(value_bytes: usize) -> u32 {
    u32::try_from(value_bytes / PIECE_BYTES).unwrap_or(u32::MAX)
}

fn sled_fault(error: ::sled::Error) -> StoreFault {
    match error {
        ::sled::Error::Io(error) => io_fault("sled", &error),
        ::sled::Error::Corruption { .. } | ::sled::Error::ReportableBug(_) => {
            StoreFault::Corrupt(format!("sled: {error}"))
        }
        ::sled::Error::CollectionNotFound(_) | ::sled::Error::Unsupported(_) => {
            StoreFault::Unavailable(format!("sled: {error}"))
        }
    }
}
