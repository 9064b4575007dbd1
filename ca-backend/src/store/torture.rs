//! A writer to be interrupted at any moment, and the check of what it left.
//!
//! What operation `n` of a thread does follows from the seed, the thread and `n` alone. So the number of operations that are in the
//! store, which each of them counts, says what every record, index entry and log entry must be: all of the acknowledged operations,
//! at most one more per thread, each of them whole.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use aws_lc_rs::digest::{self, SHA256};

use super::group::head_key;
use super::queue::lock;
use super::{Batch, CommitError, Entry, Log, Range, Space, Store, StoreKind, StoreOptions, open};
use crate::error::StoreFault;

const THREADS: u64 = 4;
/// Few enough that most operations replace or delete a record, so that the engine reuses its space.
const RECORDS_PER_THREAD: u64 = 300;
const PAGE_ENTRIES: usize = 500;
/// The journal's files are so short that in most rounds some are fed, and sled is opened anew.
const OPTIONS: StoreOptions = StoreOptions { cache_bytes: 16 << 20, journal_bytes: 16 << 10, reserve_bytes: 1 << 20 };

/// What [`torture_check`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TortureReport {
    /// Operations that were acknowledged.
    pub acknowledged: u64,
    /// Operations in the store: those, and perhaps some whose acknowledgement was cut off.
    pub found: u64,
}

/// What one operation does to its record.
struct Operation {
    record: u64,
    /// `None` deletes.
    value: Option<Vec<u8>>,
    payload: Vec<u8>,
    is_event: bool,
}

/// Inserts, replaces, deletes, counts and appends from several threads, going on where an earlier call with the same seed ended.
/// Writes a line `THREAD NUMBER` to `ack` after each operation that the store acknowledged, and returns once that fails.
///
/// # Errors
/// What the store said, when it refuses an operation.
pub fn torture_write(directory: &Path, kind: StoreKind, ack: impl Write + Send, seed: u64) -> Result<(), String> {
    let store = open(kind, directory, OPTIONS).map_err(|fault| fault.to_string())?;
    let ack = Mutex::new(ack);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let (store, ack) = (store.as_ref(), &ack);
                    move || write_on(store, thread, seed, ack)
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().unwrap_or_else(|_| Err("a writer panicked".into())))
    })
}

fn write_on(store: &dyn Store, thread: u64, seed: u64, ack: &Mutex<impl Write>) -> Result<(), String> {
    let mut number = count(store, &thread_counter(thread)).map_err(|fault| fault.to_string())?;
    loop {
        number += 1;
        let batch = batch(store, thread, number, seed).map_err(|fault| fault.to_string())?;
        match store.commit(batch) {
            Ok(_) => {}
            Err(CommitError::Conflict) => {
                return Err(format!("operation {number} of thread {thread} met a conflict on its own record"));
            }
            Err(CommitError::Fault(fault)) => return Err(fault.to_string()),
        }
        // One write of the whole line, so that the reader never sees half of it.
        if lock(ack).write_all(format!("{thread} {number}\n").as_bytes()).is_err() {
            return Ok(());
        }
    }
}

fn batch(store: &dyn Store, thread: u64, number: u64, seed: u64) -> Result<Batch, StoreFault> {
    let Operation { record, value, payload, is_event } = operation(seed, thread, number);
    let key = record_key(thread, record);
    let mut batch = Batch::new();
    batch = match store.get(Space::Certificate, &key)? {
        Some(found) => batch.expect(Space::Certificate, key.as_slice(), found.version),
        None => batch.expect_absent(Space::Certificate, key.as_slice()),
    };
    if let Some(index) = store.get(Space::ByName, &key)? {
        batch = batch.delete(Space::ByRequester, [key.as_slice(), &index.value].concat());
    }
    batch = match value {
        Some(value) => batch
            .put(Space::Certificate, key.as_slice(), value)
            .put(Space::ByName, key.as_slice(), number.to_be_bytes())
            .put(Space::ByRequester, [key.as_slice(), &number.to_be_bytes()].concat(), []),
        None => batch.delete(Space::Certificate, key.as_slice()).delete(Space::ByName, key.as_slice()),
    };
    if is_event {
        batch = batch.append(Log::Event, payload.clone());
    }
    Ok(batch.append(Log::Audit, payload).add(thread_counter(thread), 1).add("all", 1))
}

/// Opens what an interrupted [`torture_write`] left, and compares it with the acknowledgements in `acked`.
///
/// # Errors
/// What is missing or wrong.
pub fn torture_check(
    directory: &Path,
    kind: StoreKind,
    acked: impl BufRead,
    seed: u64,
) -> Result<TortureReport, String> {
    let acknowledged = last_acknowledged(acked)?;
    let store = open(kind, directory, OPTIONS).map_err(|fault| fault.to_string())?;
    check(store.as_ref(), &acknowledged, seed)
}

fn check(store: &dyn Store, acknowledged: &BTreeMap<u64, u64>, seed: u64) -> Result<TortureReport, String> {
    let store_fault = |fault: StoreFault| fault.to_string();
    let mut report = TortureReport::default();
    let mut records = BTreeMap::new();
    let mut found = BTreeMap::new();
    for thread in 0..THREADS {
        let acked = acknowledged.get(&thread).copied().unwrap_or(0);
        let counted = count(store, &thread_counter(thread)).map_err(store_fault)?;
        if counted < acked || counted > acked + 1 {
            return Err(format!("thread {thread}: {acked} operations were acknowledged, {counted} are in the store"));
        }
        for number in 1..=counted {
            let operation = operation(seed, thread, number);
            let key = record_key(thread, operation.record);
            match operation.value {
                Some(value) => drop(records.insert(key, (number, value))),
                None => drop(records.remove(&key)),
            }
        }
        report.acknowledged += acked;
        report.found += counted;
        found.insert(thread, counted);
    }
    expect_equal("counter", count(store, b"all").map_err(store_fault)?, report.found)?;
    expect_equal(
        "records",
        read_all(store, Space::Certificate)?,
        records.iter().map(|(key, (_, value))| (key.clone(), value.clone())).collect(),
    )?;
    let numbers = records.iter().map(|(key, (number, _))| (key.clone(), number.to_be_bytes().to_vec())).collect();
    expect_equal("first index", read_all(store, Space::ByName)?, numbers)?;
    let moved = records
        .iter()
        .map(|(key, (number, _))| ([key.as_slice(), &number.to_be_bytes()].concat(), Vec::new()))
        .collect();
    expect_equal("second index", read_all(store, Space::ByRequester)?, moved)?;
    check_log(store, Log::Audit, &found, seed)?;
    check_log(store, Log::Event, &found, seed)?;
    Ok(report)
}

/// Walks a log's chain and holds its entries against the operations that must have appended them.
fn check_log(store: &dyn Store, log: Log, found: &BTreeMap<u64, u64>, seed: u64) -> Result<(), String> {
    let mut reached: BTreeMap<u64, u64> = BTreeMap::new();
    let mut expected_number = 1_u64;
    let mut digest = vec![0; SHA256.output_len()];
    for (key, value) in read_all(store, log.space())? {
        expect_equal("number of a log entry", key, expected_number.to_be_bytes().to_vec())?;
        let (chained, payload) = value.split_at_checked(digest.len()).ok_or("a log entry is too short")?;
        expect_equal("chain of a log", chained.to_vec(), digest)?;
        let thread = *payload.first().ok_or("a log entry is empty")?;
        let number = reached.entry(thread.into()).or_default();
        let appended = loop {
            *number += 1;
            let operation = operation(seed, thread.into(), *number);
            if operation.is_event || log == Log::Audit {
                break operation.payload;
            }
        };
        expect_equal("payload of a log entry", payload, appended.as_slice())?;
        digest = digest::digest(&SHA256, &value).as_ref().to_vec();
        expected_number += 1;
    }
    for (thread, counted) in found {
        let reached = reached.get(thread).copied().unwrap_or(0);
        if reached > *counted
            || (reached + 1..=*counted).any(|number| log == Log::Audit || operation(seed, *thread, number).is_event)
        {
            return Err(format!("thread {thread}: the {log:?} log ends at operation {reached} of {counted}"));
        }
    }
    let head = store.get(Space::Meta, head_key(log)).map_err(|fault| fault.to_string())?.map(|head| head.value);
    let last = expected_number - 1;
    expect_equal("head of a log", head, (last > 0).then(|| [last.to_be_bytes().as_slice(), &digest].concat()))
}

fn expect_equal<T: PartialEq>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("wrong {what}")) }
}

fn read_all(store: &dyn Store, space: Space) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
    let mut all = BTreeMap::new();
    let mut range = Range::default();
    loop {
        let page = store.scan(space, &range, PAGE_ENTRIES).map_err(|fault| fault.to_string())?;
        let Some(last) = page.last() else {
            return Ok(all);
        };
        range.from = [last.key.as_slice(), &[0]].concat();
        all.extend(page.into_iter().map(|Entry { key, value, .. }| (key, value)));
    }
}

fn last_acknowledged(acked: impl BufRead) -> Result<BTreeMap<u64, u64>, String> {
    let mut last = BTreeMap::new();
    for line in acked.lines() {
        let line = line.map_err(|error| error.to_string())?;
        let numbers =
            line.split_once(' ').and_then(|(thread, number)| Some((thread.parse().ok()?, number.parse().ok()?)));
        let (thread, number) = numbers.ok_or_else(|| format!("{line:?} is not an acknowledgement"))?;
        last.insert(thread, number);
    }
    Ok(last)
}

fn count(store: &dyn Store, counter: &[u8]) -> Result<u64, StoreFault> {
    let stored = store.get(Space::Counter, counter)?.map(|found| found.value).unwrap_or_else(|| vec![0; 8]);
    let octets = stored.as_slice().try_into().map_err(|_| StoreFault::Corrupt("a counter is not a number".into()))?;
    Ok(u64::from_be_bytes(octets))
}

fn thread_counter(thread: u64) -> [u8; 8] {
    thread.to_be_bytes()
}

fn record_key(thread: u64, record: u64) -> Vec<u8> {
    [thread.to_be_bytes(), record.to_be_bytes()].concat()
}

fn operation(seed: u64, thread: u64, number: u64) -> Operation {
    let mut stream = Stream(seed ^ thread.rotate_left(48) ^ number);
    let record = stream.next() % RECORDS_PER_THREAD;
    let length = match stream.next() % 64 {
        0 => 10_000 + stream.next() % 100_000,
        _ => 50 + stream.next() % 1_700,
    };
    let value = (!stream.next().is_multiple_of(5)).then(|| stream.octets(length));
    let [.., thread_octet] = thread.to_be_bytes();
    let payload = [&[thread_octet], number.to_be_bytes().as_slice(), &stream.octets(number % 400)].concat();
    Operation { record, value, payload, is_event: stream.next().is_multiple_of(4) }
}

/// SplitMix64: reproducible, and fast enough not to be what is measured.
struct Stream(u64);

impl Stream {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn octets(&mut self, length: u64) -> Vec<u8> {
        let words = (0..length.div_ceil(8)).flat_map(|_| self.next().to_be_bytes());
        words.take(usize::try_from(length).unwrap_or(usize::MAX)).collect()
    }
}
