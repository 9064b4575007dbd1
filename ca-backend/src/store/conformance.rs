//! What every engine must do, and what is particular to one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use aws_lc_rs::digest::{self, SHA256};
use tempfile::TempDir;

use super::transfer::{TransferError, export, import};
use super::*;

const OPTIONS: StoreOptions = StoreOptions { cache_bytes: 32 << 20, journal_bytes: 4 << 10, reserve_bytes: 1 << 20 };

/// A store in a directory of its own.
struct Place {
    kind: StoreKind,
    directory: TempDir,
    store: Option<Arc<dyn Store>>,
}

impl Place {
    fn new(kind: StoreKind) -> Self {
        let directory = TempDir::new().unwrap();
        let store = Some(open(kind, directory.path(), OPTIONS).unwrap());
        Self { kind, directory, store }
    }

    fn store(&self) -> &dyn Store {
        self.store.as_deref().unwrap()
    }

    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(open(self.kind, self.directory.path(), OPTIONS).unwrap());
    }

    fn is_durable(&self) -> bool {
        self.kind != StoreKind::Memory
    }
}

macro_rules! on_every_engine {
    ($($name:ident)*) => {
        mod memory_engine { $(#[test] fn $name() { super::$name(super::Place::new(super::StoreKind::Memory)); })* }
        mod sled_engine { $(#[test] fn $name() { super::$name(super::Place::new(super::StoreKind::Sled)); })* }
        mod redb_engine { $(#[test] fn $name() { super::$name(super::Place::new(super::StoreKind::Redb)); })* }
    };
}

on_every_engine! {
    what_is_put_is_read_back_until_it_is_deleted
    spaces_do_not_mix
    a_scan_goes_both_ways_within_its_bounds_and_limit
    a_prefix_of_0xff_octets_scans_to_the_end_of_the_space
    a_check_that_does_not_hold_leaves_no_trace
    a_later_batch_of_a_group_sees_an_earlier_one
    the_last_write_of_a_key_counts_within_a_batch
    adds_of_many_threads_sum_up
    adds_come_after_writes_and_overflow_is_refused
    appends_of_many_threads_make_one_chain_without_gaps
    versions_increase_also_after_a_reopen
    a_reopened_store_holds_everything
    a_value_of_two_mebibytes_survives
    forty_mebibytes_scan_in_pages
    long_values_shrink_grow_and_vanish
    no_update_of_a_contended_key_is_lost
    only_one_of_many_creators_wins
    a_dump_restores_to_an_equal_store
    an_export_imports_into_every_engine
    a_cut_export_is_refused_at_every_place
    a_changed_export_is_refused_and_the_store_marked
    an_import_into_a_used_store_is_refused
    a_key_that_is_too_long_is_refused
    a_store_of_a_newer_release_is_refused
    torture_is_whole_after_every_stop
    many_changes_leave_what_a_map_would_hold
}

fn value(store: &dyn Store, space: Space, key: &[u8]) -> Option<Vec<u8>> {
    store.get(space, key).unwrap().map(|found| found.value)
}

fn keys(store: &dyn Store, range: &Range, limit: usize) -> Vec<Vec<u8>> {
    store.scan(Space::ByName, range, limit).unwrap().into_iter().map(|entry| entry.key).collect()
}

fn dump(store: &dyn Store) -> Vec<(u8, Entry)> {
    let mut all: Vec<(u8, Entry)> = Vec::new();
    loop {
        let after = all.last().map(|(space, entry)| (*space, entry.key.clone()));
        let page = store.dump(after.as_ref(), 7).unwrap();
        assert!(page.len() <= 7);
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

fn what_is_put_is_read_back_until_it_is_deleted(place: Place) {
    let store = place.store();
    assert!(store.get(Space::Authority, b"root").unwrap().is_none());
    let version = store.commit(Batch::new().put(Space::Authority, "root", "one")).unwrap();
    assert_eq!(store.get(Space::Authority, b"root").unwrap(), Some(Versioned { version, value: b"one".to_vec() }));
    store.commit(Batch::new().put(Space::Authority, "root", "")).unwrap();
    assert_eq!(value(store, Space::Authority, b"root"), Some(Vec::new()));
    store.commit(Batch::new().delete(Space::Authority, "root").delete(Space::Authority, "absent")).unwrap();
    assert!(store.get(Space::Authority, b"root").unwrap().is_none());
    store.health().unwrap();
}

fn spaces_do_not_mix(place: Place) {
    let store = place.store();
    store
        .commit(Batch::new().put(Space::Origin, "", "1").put(Space::Ticket, "", "2").put(
            Space::Revoked,
            [0xff; 9],
            "3",
        ))
        .unwrap();
    let in_ticket = store.scan(Space::Ticket, &Range::default(), 10).unwrap();
    assert_eq!(in_ticket.iter().map(|entry| entry.value.as_slice()).collect::<Vec<_>>(), [b"2"]);
    assert_eq!(store.scan(Space::Revoked, &Range { reverse: true, ..Range::default() }, 10).unwrap().len(), 1);
    assert_eq!(value(store, Space::Origin, b""), Some(b"1".to_vec()));
}

fn a_scan_goes_both_ways_within_its_bounds_and_limit(place: Place) {
    let store = place.store();
    let names = ["a", "ab", "abc", "b", "ba", "c"];
    let batch = names.iter().fold(Batch::new(), |batch, name| batch.put(Space::ByName, *name, *name));
    store.commit(batch).unwrap();
    assert_eq!(keys(store, &Range::default(), 10), names.map(Vec::from));
    assert_eq!(keys(store, &Range::default(), 2), [b"a".to_vec(), b"ab".to_vec()]);
    assert_eq!(keys(store, &Range::default(), 0), Vec::<Vec<u8>>::new());
    assert_eq!(keys(store, &Range { reverse: true, ..Range::default() }, 2), [b"c".to_vec(), b"ba".to_vec()]);
    assert_eq!(keys(store, &Range::prefix("ab"), 10), [b"ab".to_vec(), b"abc".to_vec()]);
    assert_eq!(keys(store, &Range { reverse: true, ..Range::prefix("ab") }, 1), [b"abc".to_vec()]);
    let bounded = Range { from: b"ab".to_vec(), until: Some(b"ba".to_vec()), reverse: false };
    assert_eq!(keys(store, &bounded, 10), [b"ab".to_vec(), b"abc".to_vec(), b"b".to_vec()]);
    let turned = Range { from: b"b".to_vec(), until: Some(b"a".to_vec()), reverse: false };
    assert_eq!(keys(store, &turned, 10), Vec::<Vec<u8>>::new());
    assert_eq!(keys(store, &Range { reverse: true, ..turned }, 10), Vec::<Vec<u8>>::new());
}

fn a_prefix_of_0xff_octets_scans_to_the_end_of_the_space(place: Place) {
    let store = place.store();
    let next_space = Batch::new().put(Space::BySubject, [0], "not in ByName");
    store
        .commit(next_space.put(Space::ByName, [0xfe], "").put(Space::ByName, [0xff], "").put(
            Space::ByName,
            [0xff, 0xff, 7],
            "",
        ))
        .unwrap();
    assert_eq!(keys(store, &Range::prefix([0xff]), 10), [vec![0xff], vec![0xff, 0xff, 7]]);
    assert_eq!(keys(store, &Range::prefix([0xff, 0xff]), 10), [vec![0xff, 0xff, 7]]);
    assert_eq!(keys(store, &Range::prefix([0xfe]), 10), [vec![0xfe]]);
    assert_eq!(keys(store, &Range { reverse: true, ..Range::prefix([0xff]) }, 1), [vec![0xff, 0xff, 7]]);
}

fn a_check_that_does_not_hold_leaves_no_trace(place: Place) {
    let store = place.store();
    let first = store.commit(Batch::new().expect_absent(Space::Origin, "k").put(Space::Origin, "k", "1")).unwrap();
    let before = dump(store);
    let traces = || {
        Batch::new().put(Space::Origin, "k", "2").put(Space::Origin, "other", "2").add("n", 1).append(Log::Audit, "x")
    };
    let refused = |batch: Batch| assert!(matches!(store.commit(batch), Err(CommitError::Conflict)));
    refused(traces().expect_absent(Space::Origin, "k"));
    refused(traces().expect(Space::Origin, "k", Version(first.0 + 1)));
    refused(traces().expect(Space::Origin, "absent", first));
    refused(traces().expect(Space::Origin, "k", first).expect_absent(Space::Origin, "k"));
    assert_eq!(dump(store), before);
    let second = store.commit(traces().expect(Space::Origin, "k", first)).unwrap();
    assert!(second > first);
    refused(traces().expect(Space::Origin, "k", first));
}

fn a_later_batch_of_a_group_sees_an_earlier_one(place: Place) {
    let store = place.store();
    // Whatever the grouping, of two batches that both expect the same absence exactly one is accepted, and of two deletions of
    // the same version too.
    for round in 0..50_u32 {
        let key = round.to_be_bytes();
        let won = |make: &(dyn Fn() -> Batch + Sync)| -> usize {
            thread::scope(|scope| {
                let attempts: Vec<_> = (0..4).map(|_| scope.spawn(|| store.commit(make()).is_ok())).collect();
                attempts.into_iter().map(|attempt| usize::from(attempt.join().unwrap())).sum()
            })
        };
        assert_eq!(won(&|| Batch::new().expect_absent(Space::Ticket, key).put(Space::Ticket, key, "x")), 1);
        let version = store.get(Space::Ticket, &key).unwrap().unwrap().version;
        assert_eq!(won(&|| Batch::new().expect(Space::Ticket, key, version).delete(Space::Ticket, key)), 1);
    }
}

fn the_last_write_of_a_key_counts_within_a_batch(place: Place) {
    let store = place.store();
    store
        .commit(Batch::new().put(Space::Origin, "k", "1").delete(Space::Origin, "k").put(Space::Origin, "k", "2"))
        .unwrap();
    assert_eq!(value(store, Space::Origin, b"k"), Some(b"2".to_vec()));
    store.commit(Batch::new().put(Space::Origin, "k", "3").delete(Space::Origin, "k")).unwrap();
    assert_eq!(value(store, Space::Origin, b"k"), None);
}

fn adds_of_many_threads_sum_up(mut place: Place) {
    let store = place.store();
    thread::scope(|scope| {
        for thread in 0..16_i64 {
            scope.spawn(move || {
                for number in 0..25 {
                    store.commit(Batch::new().add("up", number).add("up", 1).add("down", -thread)).unwrap();
                }
            });
        }
    });
    let check = |store: &dyn Store| {
        assert_eq!(value(store, Space::Counter, b"up"), Some((16_i64 * (300 + 25)).to_be_bytes().to_vec()));
        assert_eq!(value(store, Space::Counter, b"down"), Some((-25_i64 * 120).to_be_bytes().to_vec()));
    };
    check(store);
    if place.is_durable() {
        place.reopen();
        check(place.store());
    }
}

fn adds_come_after_writes_and_overflow_is_refused(place: Place) {
    let store = place.store();
    store
        .commit(Batch::new().add("n", 5).put(Space::Counter, "n", i64::MAX.wrapping_sub(3).to_be_bytes()))
        .unwrap_err();
    assert_eq!(value(store, Space::Counter, b"n"), None);
    store.commit(Batch::new().add("n", 5).put(Space::Counter, "n", 7_i64.to_be_bytes())).unwrap();
    assert_eq!(value(store, Space::Counter, b"n"), Some(12_i64.to_be_bytes().to_vec()));
    let before = dump(store);
    let overflow = Batch::new().put(Space::Origin, "k", "x").append(Log::Audit, "x").add("n", i64::MAX);
    assert!(matches!(store.commit(overflow), Err(CommitError::Fault(StoreFault::Corrupt(_)))));
    assert_eq!(dump(store), before);
    store.commit(Batch::new().delete(Space::Counter, "n").add("n", -1)).unwrap();
    assert_eq!(value(store, Space::Counter, b"n"), Some((-1_i64).to_be_bytes().to_vec()));
}

fn verified_log(store: &dyn Store, log: Log) -> Vec<Vec<u8>> {
    let mut digest = vec![0; 32];
    let mut payloads = Vec::new();
    for (number, entry) in (1_u64..).zip(store.scan(log.space(), &Range::default(), usize::MAX).unwrap()) {
        assert_eq!(entry.key, number.to_be_bytes());
        assert_eq!(entry.value[..32], digest);
        digest = digest::digest(&SHA256, &entry.value).as_ref().to_vec();
        payloads.push(entry.value[32..].to_vec());
    }
    payloads
}

fn appends_of_many_threads_make_one_chain_without_gaps(mut place: Place) {
    let append = |store: &dyn Store, thread: u8| {
        for number in 0..20_u8 {
            let batch = Batch::new().append(Log::Audit, [thread, number]).append(Log::Event, [thread, number]);
            store.commit(batch.append(Log::Audit, [thread, number, 1])).unwrap();
            store
                .commit(Batch::new().expect(Space::Origin, "absent", Version(9)).append(Log::Audit, "refused"))
                .unwrap_err();
        }
    };
    let store = place.store();
    thread::scope(|scope| (0..8).for_each(|thread| drop(scope.spawn(move || append(store, thread)))));
    if place.is_durable() {
        place.reopen();
    }
    append(place.store(), 8);
    let audit = verified_log(place.store(), Log::Audit);
    assert_eq!(audit.len(), 9 * 40);
    for thread in 0..9 {
        let mine: Vec<_> = audit.iter().filter(|payload| payload[0] == thread).cloned().collect();
        assert_eq!(
            mine,
            (0..20).flat_map(|number| [vec![thread, number], vec![thread, number, 1]]).collect::<Vec<_>>()
        );
    }
    assert_eq!(verified_log(place.store(), Log::Event).len(), 9 * 20);
}

fn versions_increase_also_after_a_reopen(mut place: Place) {
    let put = |store: &dyn Store| store.commit(Batch::new().put(Space::Origin, "k", "x")).unwrap();
    let first = put(place.store());
    let second = put(place.store());
    assert!(second > first);
    if place.is_durable() {
        place.store().commit(Batch::new().delete(Space::Origin, "k")).unwrap();
        place.reopen();
        assert!(put(place.store()).0 > second.0 + 1);
    }
}

fn a_reopened_store_holds_everything(mut place: Place) {
    for number in 0..300_u32 {
        let key = number.to_be_bytes();
        place
            .store()
            .commit(Batch::new().put(Space::Certificate, key, vec![7; 1200]).add("n", 1).append(Log::Event, key))
            .unwrap();
    }
    let before = dump(place.store());
    if place.is_durable() {
        place.reopen();
    }
    assert_eq!(dump(place.store()), before);
    place.store().health().unwrap();
}

/// Octets without a pattern in them.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    (0..)
        .scan(seed | 1, |state, _: u32| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some(state.to_be_bytes()[0])
        })
        .take(length)
        .collect()
}

fn a_value_of_two_mebibytes_survives(mut place: Place) {
    let long = noise(2 << 20, 1);
    place.store().commit(Batch::new().put(Space::CrlHead, "long", long.clone())).unwrap();
    if place.is_durable() {
        place.reopen();
    }
    assert_eq!(value(place.store(), Space::CrlHead, b"long"), Some(long));
}

fn forty_mebibytes_scan_in_pages(mut place: Place) {
    let piece = |number: u32| noise(400 << 10, number);
    for number in 0..100_u32 {
        place.store().commit(Batch::new().put(Space::CrlChunk, number.to_be_bytes(), piece(number))).unwrap();
    }
    if place.is_durable() {
        place.reopen();
    }
    let mut range = Range::default();
    let mut number = 0;
    loop {
        let page = place.store().scan(Space::CrlChunk, &range, 16).unwrap();
        let Some(last) = page.last() else { break };
        range.from = [last.key.as_slice(), &[0]].concat();
        for entry in page {
            assert_eq!(entry.key, u32::to_be_bytes(number));
            assert!(entry.value == piece(number));
            number += 1;
        }
    }
    assert_eq!(number, 100);
}

fn long_values_shrink_grow_and_vanish(mut place: Place) {
    // Around the places where sled's values are cut.
    let around = |octets: usize| (octets - 9)..(octets - 6);
    let lengths = [around(8 << 10), around(16 << 10), around(24 << 10)].into_iter().flatten();
    for length in lengths.chain([0, 100_000, 1, 50_000, 8_184]) {
        let long = noise(length, 3);
        place
            .store()
            .commit(Batch::new().put(Space::CrlChunk, "long", long.clone()).put(Space::CrlChunk, "longer", "x"))
            .unwrap();
        if place.is_durable() {
            place.reopen();
        }
        assert!(value(place.store(), Space::CrlChunk, b"long") == Some(long), "{length}");
    }
    place.store().commit(Batch::new().delete(Space::CrlChunk, "long").delete(Space::CrlChunk, "longer")).unwrap();
    assert!(dump(place.store()).iter().all(|(space, _)| *space == Space::Meta as u8));
}

fn no_update_of_a_contended_key_is_lost(place: Place) {
    let store = place.store();
    let increment = || loop {
        let found = store.get(Space::Origin, b"n").unwrap();
        let (expected, number) = match &found {
            None => (Batch::new().expect_absent(Space::Origin, "n"), 0),
            Some(found) => (
                Batch::new().expect(Space::Origin, "n", found.version),
                u64::from_be_bytes(found.value.as_slice().try_into().unwrap()),
            ),
        };
        match store.commit(expected.put(Space::Origin, "n", (number + 1).to_be_bytes())) {
            Ok(_) => break,
            Err(CommitError::Conflict) => {}
            Err(CommitError::Fault(fault)) => panic!("{fault}"),
        }
    };
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| (0..3).for_each(|_| increment()));
        }
    });
    assert_eq!(value(store, Space::Origin, b"n"), Some(192_u64.to_be_bytes().to_vec()));
}

fn only_one_of_many_creators_wins(place: Place) {
    let store = place.store();
    let wins = thread::scope(|scope| {
        let create = |thread: u8| {
            store
                .commit(Batch::new().expect_absent(Space::AcmeNonce, "nonce").put(Space::AcmeNonce, "nonce", [thread]))
                .is_ok()
        };
        let creators: Vec<_> = (0..64).map(|thread| scope.spawn(move || create(thread))).collect();
        creators.into_iter().map(|creator| creator.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(wins, 1);
}

fn fill(store: &dyn Store) {
    for number in 0..40_u32 {
        let batch = Batch::new().put(Space::Certificate, number.to_be_bytes(), noise(number as usize * 300, number));
        store.commit(batch.append(Log::Audit, noise(50, number)).append(Log::Event, "event").add("n", 1)).unwrap();
    }
    store.commit(Batch::new().delete(Space::Certificate, 7_u32.to_be_bytes())).unwrap();
}

fn a_dump_restores_to_an_equal_store(place: Place) {
    fill(place.store());
    let entries = dump(place.store());
    let mut other = Place::new(place.kind);
    for page in entries.chunks(9) {
        other.store().restore(page.to_vec()).unwrap();
    }
    assert_eq!(dump(other.store()), entries);
    let last = place.store().commit(Batch::new().append(Log::Audit, "next")).unwrap();
    assert_eq!(other.store().commit(Batch::new().append(Log::Audit, "next")).unwrap(), last);
    if other.is_durable() {
        other.reopen();
    }
    assert_eq!(verified_log(other.store(), Log::Audit), verified_log(place.store(), Log::Audit));
}

fn exported(store: &dyn Store) -> Vec<u8> {
    let mut file = Vec::new();
    export(store, &mut file).unwrap();
    file
}

/// Everything but the commit sequence.
fn records(store: &dyn Store) -> Vec<(u8, Entry)> {
    dump(store).into_iter().filter(|(_, entry)| entry.key != group::COMMIT_KEY).collect()
}

fn an_export_imports_into_every_engine(place: Place) {
    fill(place.store());
    let file = exported(place.store());
    for kind in [StoreKind::Memory, StoreKind::Sled, StoreKind::Redb] {
        let mut other = Place::new(kind);
        let entries = import(other.store(), &mut file.as_slice()).unwrap();
        assert_eq!(entries, dump(place.store()).len() as u64);
        assert_eq!(records(other.store()), records(place.store()));
        if other.is_durable() {
            other.reopen();
            assert_eq!(records(other.store()), records(place.store()));
        }
        let newest = dump(place.store()).iter().map(|(_, entry)| entry.version).max().unwrap();
        assert!(other.store().commit(Batch::new().append(Log::Event, "next")).unwrap() > newest);
        verified_log(other.store(), Log::Event);
    }
}

fn a_cut_export_is_refused_at_every_place(place: Place) {
    place.store().commit(Batch::new().put(Space::Origin, "key", "value")).unwrap();
    let file = exported(place.store());
    for length in 0..file.len() {
        let other = Place::new(StoreKind::Memory);
        assert!(matches!(import(other.store(), &mut &file[..length]), Err(TransferError::File(_))), "{length}");
    }
    let longer = [file.as_slice(), &[0]].concat();
    assert!(matches!(
        import(Place::new(StoreKind::Memory).store(), &mut longer.as_slice()),
        Err(TransferError::File(_))
    ));
}

fn a_changed_export_is_refused_and_the_store_marked(place: Place) {
    let source = Place::new(StoreKind::Memory);
    source.store().commit(Batch::new().put(Space::Origin, "key", "a value to change")).unwrap();
    let mut file = exported(source.store());
    let at = file.windows(7).position(|window| window == b"a value").unwrap();
    file[at] ^= 1;
    let message = import(place.store(), &mut file.as_slice()).unwrap_err().to_string();
    assert!(message.contains("digest"), "{message}");
    if place.is_durable() {
        let Place { kind, directory, store } = place;
        drop(store);
        let fault = open(kind, directory.path(), OPTIONS).unwrap_err();
        assert!(fault.to_string().contains("did not finish"), "{fault}");
    }
}

fn an_import_into_a_used_store_is_refused(place: Place) {
    let file = exported(place.store());
    place.store().commit(Batch::new().put(Space::Origin, "key", "value")).unwrap();
    let before = dump(place.store());
    assert!(matches!(import(place.store(), &mut file.as_slice()), Err(TransferError::State(_))));
    assert_eq!(dump(place.store()), before);
}

fn a_key_that_is_too_long_is_refused(place: Place) {
    place.store().commit(Batch::new().put(Space::BySubject, vec![1; 1024], "x")).unwrap();
    assert!(matches!(
        place.store().commit(Batch::new().put(Space::BySubject, vec![1; 1025], "x")),
        Err(CommitError::Fault(_))
    ));
    assert_eq!(place.store().scan(Space::BySubject, &Range::default(), 9).unwrap().len(), 1);
}

fn a_store_of_a_newer_release_is_refused(mut place: Place) {
    let newer = Batch::new().put(Space::Meta, FORMAT_KEY, (FORMAT + 1).to_be_bytes());
    place.store().commit(newer).unwrap();
    let fault = check_format(place.store()).unwrap_err();
    assert!(fault.to_string().contains("run the release that wrote it"), "{fault}");
    if place.is_durable() {
        place.store = None;
        open(place.kind, place.directory.path(), OPTIONS).unwrap_err();
    }
}

/// Takes acknowledgements until enough have come.
#[cfg(feature = "testing")]
struct Listener {
    lines: Vec<u8>,
    left: usize,
}

#[cfg(feature = "testing")]
impl std::io::Write for &mut Listener {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.left = self.left.checked_sub(1).ok_or(std::io::ErrorKind::BrokenPipe)?;
        self.lines.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn torture_is_whole_after_every_stop(place: Place) {
    #[cfg(feature = "testing")]
    if place.is_durable() {
        let directory = TempDir::new().unwrap();
        let mut listener = Listener { lines: Vec::new(), left: 0 };
        for _ in 0..3 {
            listener.left = 400;
            torture_write(directory.path(), place.kind, &mut listener, 11).unwrap();
            let report = torture_check(directory.path(), place.kind, listener.lines.as_slice(), 11).unwrap();
            assert!(report.acknowledged <= report.found && report.acknowledged > 0, "{report:?}");
        }
        // The check finds what is missing: an operation acknowledged that never was.
        listener.lines.extend_from_slice(b"0 100000\n");
        torture_check(directory.path(), place.kind, listener.lines.as_slice(), 11).unwrap_err();
    }
    drop(place);
}

/// In a space whose entries lie together and in one where they do not, across journal and engine, in both directions.
fn many_changes_leave_what_a_map_would_hold(mut place: Place) {
    let mut map = std::collections::BTreeMap::new();
    let mut numbers = noise(1 << 16, 17).into_iter().map(u32::from).cycle();
    let mut number = |below: u32| (numbers.next().unwrap() << 8 | numbers.next().unwrap()) % below;
    for round in 0..120_u32 {
        let mut batch = Batch::new();
        for _ in 0..number(40) {
            let space = [Space::ByName, Space::Certificate, Space::Ticket][number(3) as usize];
            let key = number(900).to_be_bytes().to_vec();
            let value = (number(4) > 0).then(|| noise(number(300) as usize, round));
            batch.writes.push((space, key.clone(), value.clone()));
            match value {
                Some(value) => drop(map.insert((space, key), value)),
                None => drop(map.remove(&(space, key))),
            }
        }
        place.store().commit(batch).unwrap();
        if round % 40 == 39 && place.is_durable() {
            place.reopen();
        }
        for space in [Space::ByName, Space::Certificate, Space::Ticket] {
            let range = Range {
                from: number(900).to_be_bytes().to_vec(),
                until: (number(3) > 0).then(|| number(900).to_be_bytes().to_vec()),
                reverse: number(2) > 0,
            };
            let limit = number(100) as usize;
            let within = |key: &Vec<u8>| *key >= range.from && range.until.as_ref().is_none_or(|until| key < until);
            let mut expected: Vec<_> =
                map.iter().filter(|((of, key), _)| *of == space && within(key)).map(|((_, k), v)| (k, v)).collect();
            if range.reverse {
                expected.reverse();
            }
            expected.truncate(limit);
            let found = place.store().scan(space, &range, limit).unwrap();
            assert_eq!(found.iter().map(|entry| (&entry.key, &entry.value)).collect::<Vec<_>>(), expected, "{range:?}");
            let key = number(900).to_be_bytes().to_vec();
            assert_eq!(value(place.store(), space, &key).as_ref(), map.get(&(space, key)));
        }
    }
}

fn copy_of(directory: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    copy_below(directory, copy.path());
    copy
}

fn copy_below(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_below(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A closed sled store with a record in it.
fn closed_sled() -> (TempDir, PathBuf) {
    let Place { directory, store, .. } = Place::new(StoreKind::Sled);
    store.unwrap().commit(Batch::new().put(Space::Origin, "k", "x")).unwrap();
    let copy = copy_of(directory.path());
    let sled = copy.path().join("sled");
    (copy, sled)
}

#[test]
fn sled_with_an_empty_conf_is_refused_and_left_alone() {
    let (directory, sled) = closed_sled();
    fs::write(sled.join("conf"), b"").unwrap();
    let before = fs::read(sled.join("db")).unwrap();
    let fault = open(StoreKind::Sled, directory.path(), OPTIONS).unwrap_err();
    assert!(matches!(&fault, StoreFault::Corrupt(what) if what.contains("conf")), "{fault}");
    assert!(fs::read(sled.join("db")).unwrap() == before);
}

#[test]
fn sled_without_conf_or_db_is_refused() {
    for name in ["conf", "db"] {
        let (directory, sled) = closed_sled();
        fs::remove_file(sled.join(name)).unwrap();
        let fault = open(StoreKind::Sled, directory.path(), OPTIONS).unwrap_err();
        assert!(matches!(&fault, StoreFault::Corrupt(what) if what.contains(name)), "{fault}");
        assert!(!sled.join(name).exists());
    }
}

#[test]
fn sled_that_panics_when_opened_is_a_fault() {
    let (directory, sled) = closed_sled();
    let snapshot = fs::read_dir(&sled)
        .unwrap()
        .find(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("snap."))
        .unwrap()
        .unwrap();
    fs::write(snapshot.path(), noise(300, 5)).unwrap();
    assert!(matches!(open(StoreKind::Sled, directory.path(), OPTIONS), Err(StoreFault::Corrupt(_))));
}

#[test]
fn sled_never_makes_a_blob_file() {
    let place = Place::new(StoreKind::Sled);
    for number in 0..600_u32 {
        let key = [noise(1000, number), number.to_be_bytes().to_vec()].concat();
        place.store().commit(Batch::new().put(Space::BySubject, key, noise(12_000, number))).unwrap();
    }
    assert_eq!(fs::read_dir(place.directory.path().join("sled/blobs")).unwrap().count(), 0);
    assert_eq!(place.store().scan(Space::BySubject, &Range::default(), 1000).unwrap().len(), 600);
}

#[test]
fn a_creation_that_was_interrupted_begins_again() {
    for (kind, name) in [(StoreKind::Sled, "sled.creating"), (StoreKind::Redb, "store.redb.creating")] {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join(name), b"half").unwrap();
        open(kind, directory.path(), OPTIONS).unwrap();
        assert!(!directory.path().join(name).exists());
    }
}

#[test]
fn a_second_opening_is_refused_and_so_is_another_engine() {
    for (kind, other) in [(StoreKind::Sled, StoreKind::Redb), (StoreKind::Redb, StoreKind::Sled)] {
        let mut place = Place::new(kind);
        let fault = open(kind, place.directory.path(), OPTIONS).unwrap_err();
        assert!(fault.to_string().contains("another process"), "{fault}");
        place.store = None;
        let fault = open(other, place.directory.path(), OPTIONS).unwrap_err();
        assert!(fault.to_string().contains("another engine"), "{fault}");
    }
}

#[test]
fn a_disk_below_its_reserve_refuses_commits_and_serves_reads() {
    for kind in [StoreKind::Sled, StoreKind::Redb] {
        let mut place = Place::new(kind);
        place.store().commit(Batch::new().put(Space::Origin, "k", "x")).unwrap();
        place.store = None;
        let store = open(kind, place.directory.path(), StoreOptions { reserve_bytes: u64::MAX, ..OPTIONS }).unwrap();
        let full = |outcome: Result<Version, CommitError>| {
            assert!(matches!(outcome, Err(CommitError::Fault(StoreFault::Full(_)))))
        };
        full(store.commit(Batch::new().put(Space::Origin, "k", "y").append(Log::Audit, "x")));
        full(store.commit(Batch::new().put(Space::Origin, "k", "z")));
        assert!(matches!(store.health(), Err(StoreFault::Full(_))));
        assert_eq!(value(store.as_ref(), Space::Origin, b"k"), Some(b"x".to_vec()));
        assert_eq!(store.scan(Space::Audit, &Range::default(), 9).unwrap(), []);
    }
}

/// The store of three commits, closed while all of them stand in one file of the journal, and that file.
fn closed_with_journal(kind: StoreKind) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let options = StoreOptions { journal_bytes: 1 << 20, ..OPTIONS };
    let store = open(kind, directory.path(), options).unwrap();
    for key in ["one", "two", "three"] {
        store.commit(Batch::new().put(Space::Origin, key, noise(100, 3))).unwrap();
    }
    drop(store);
    let newest = fs::read_dir(directory.path().join("journal")).unwrap().map(|entry| entry.unwrap().path()).max();
    (directory, newest.unwrap())
}

#[test]
fn a_torn_end_of_the_journal_takes_only_what_nobody_was_told_of() {
    for kind in [StoreKind::Sled, StoreKind::Redb] {
        let (directory, file) = closed_with_journal(kind);
        let whole = fs::metadata(&file).unwrap().len();
        File::options().write(true).open(&file).unwrap().set_len(whole - 1).unwrap();
        for _ in 0..2 {
            let store = open(kind, directory.path(), OPTIONS).unwrap();
            assert!(value(store.as_ref(), Space::Origin, b"one").is_some());
            assert!(value(store.as_ref(), Space::Origin, b"two").is_some());
            assert_eq!(value(store.as_ref(), Space::Origin, b"three"), None);
        }
    }
}

#[test]
fn a_damaged_or_missing_file_of_the_journal_is_refused() {
    let refused = |directory: &TempDir, what: &str| {
        let fault = open(StoreKind::Sled, directory.path(), OPTIONS).unwrap_err();
        assert!(matches!(&fault, StoreFault::Corrupt(text) if text.contains(what)), "{fault}");
    };
    let (directory, file) = closed_with_journal(StoreKind::Sled);
    let mut octets = fs::read(&file).unwrap();
    octets[60] ^= 1;
    fs::write(&file, octets).unwrap();
    refused(&directory, "damaged");

    let (directory, file) = closed_with_journal(StoreKind::Sled);
    drop(open(StoreKind::Sled, directory.path(), OPTIONS).unwrap());
    drop(open(StoreKind::Sled, directory.path(), StoreOptions { journal_bytes: 1, ..OPTIONS }).unwrap());
    fs::remove_file(&file).unwrap_or_default(); // it may have been fed
    let oldest = fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    fs::remove_file(oldest).unwrap();
    refused(&directory, "missing");

    let (directory, _) = closed_with_journal(StoreKind::Sled);
    fs::remove_dir_all(directory.path().join("sled")).unwrap();
    refused(&directory, "no sled");
}

#[test]
fn what_the_engine_could_not_take_stays_in_the_journal() {
    let directory = TempDir::new().unwrap();
    let journal = directory.path().join("journal");
    let table = BrittleTable::default();
    table.panics.store(true, std::sync::atomic::Ordering::SeqCst);
    let store = Committer::start(Journaled::open(table, &journal, 1).unwrap()).unwrap();
    let mut acknowledged = Vec::new();
    for number in 0..1_000_u32 {
        match store.commit(Batch::new().put(Space::Origin, number.to_be_bytes(), "x")) {
            Ok(_) => acknowledged.push(number),
            Err(_) => break,
        }
    }
    assert!((1..1_000).contains(&acknowledged.len()), "{}", acknowledged.len());
    store.health().unwrap_err();
    drop(store);
    let store = Committer::start(Journaled::open(MemoryTable::default(), &journal, 1).unwrap()).unwrap();
    for number in acknowledged {
        assert!(value(&store, Space::Origin, &number.to_be_bytes()).is_some());
    }
}

/// A table that fails or panics on command.
#[derive(Debug, Default)]
struct BrittleTable {
    inner: MemoryTable,
    panics: std::sync::atomic::AtomicBool,
}

impl table::Table for BrittleTable {
    fn read(&self, key: &[u8]) -> Result<Option<table::RawValue>, StoreFault> {
        self.inner.read(key)
    }

    fn walk(
        &self,
        range: &table::RawRange,
        visit: &mut dyn FnMut(&[u8], table::RawValue) -> bool,
    ) -> Result<(), StoreFault> {
        self.inner.walk(range, visit)
    }

    fn apply(&self, writes: Arc<table::Writes>) -> Result<(), StoreFault> {
        assert!(!self.panics.load(std::sync::atomic::Ordering::SeqCst), "the table broke");
        self.inner.apply(writes)
    }

    fn room(&self, _bytes: u64) -> Result<(), StoreFault> {
        Ok(())
    }
}

#[test]
fn a_panic_of_the_engine_is_a_fault_for_every_caller_from_then_on() {
    let table = BrittleTable::default();
    table.panics.store(true, std::sync::atomic::Ordering::SeqCst);
    let store = Committer::start(table).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert!(matches!(
                    store.commit(Batch::new().add("n", 1)),
                    Err(CommitError::Fault(StoreFault::Corrupt(_)))
                ))
            });
        }
    });
    assert!(store.get(Space::Counter, b"n").is_err());
    assert!(store.health().is_err());
}

/// A table that shows writes before they are durable, as sled does, and makes them durable when told.
#[derive(Debug)]
struct EagerTable {
    inner: MemoryTable,
    visible: mpsc::Sender<()>,
    may_settle: Mutex<mpsc::Receiver<()>>,
    order: Arc<Mutex<Vec<&'static str>>>,
}

impl table::Table for EagerTable {
    fn read(&self, key: &[u8]) -> Result<Option<table::RawValue>, StoreFault> {
        self.inner.read(key)
    }

    fn walk(
        &self,
        range: &table::RawRange,
        visit: &mut dyn FnMut(&[u8], table::RawValue) -> bool,
    ) -> Result<(), StoreFault> {
        self.inner.walk(range, visit)
    }

    fn apply(&self, writes: Arc<table::Writes>) -> Result<(), StoreFault> {
        self.inner.apply(writes)?;
        self.visible.send(()).unwrap();
        self.may_settle.lock().unwrap().recv().unwrap();
        self.order.lock().unwrap().push("durable");
        Ok(())
    }

    fn room(&self, _bytes: u64) -> Result<(), StoreFault> {
        Ok(())
    }
}

/// Commits a batch to a store that holds `k`, reads while the batch is visible and not durable, and tells what came first.
fn order_of(batch: Batch, read: fn(&dyn Store)) -> Vec<&'static str> {
    let (visible, is_visible) = mpsc::channel();
    let (settle, may_settle) = mpsc::channel();
    let order = Arc::new(Mutex::default());
    let table = EagerTable {
        inner: MemoryTable::default(),
        visible,
        may_settle: Mutex::new(may_settle),
        order: Arc::clone(&order),
    };
    let store = Committer::start(table).unwrap();
    settle.send(()).unwrap();
    store.commit(Batch::new().put(Space::Origin, "k", "old")).unwrap();
    is_visible.recv().unwrap();
    order.lock().unwrap().clear();
    thread::scope(|scope| {
        scope.spawn(|| store.commit(batch).unwrap());
        is_visible.recv().unwrap();
        let (begun, has_begun) = mpsc::channel();
        let (store, order) = (&store, &order);
        scope.spawn(move || {
            begun.send(()).unwrap();
            read(store);
            order.lock().unwrap().push("read");
        });
        has_begun.recv().unwrap();
        (0..10_000).for_each(|_| thread::yield_now()); // a chance to read too early
        settle.send(()).unwrap();
    });

    order.lock().unwrap().clone()
}

#[test]
fn nobody_reads_what_is_not_durable_yet() {
    let put = || Batch::new().put(Space::Origin, "k", "new");
    let delete = || Batch::new().delete(Space::Origin, "k");
    let read: fn(&dyn Store) = |store| drop(store.get(Space::Origin, b"k").unwrap());
    let scan: fn(&dyn Store) = |store| drop(store.scan(Space::Origin, &Range::default(), 9).unwrap());
    for (batch, read) in [(put(), read), (delete(), read), (put(), scan), (delete(), scan)] {
        assert_eq!(order_of(batch, read), ["durable", "read"]);
    }
    // What the batch does not touch is read at once.
    let elsewhere = Batch::new().put(Space::Ticket, "elsewhere", "new");
    assert_eq!(order_of(elsewhere, |store| drop(store.get(Space::Origin, b"k").unwrap())), ["read", "durable"]);
}

#[cfg(feature = "testing")]
mod faulty_store {
    use super::*;
    use crate::store::faulty::FaultyStore;

    fn over(inner: &Arc<dyn Store>) -> (FaultyStore, Arc<Faults>) {
        let faults = Faults::none();
        (FaultyStore::new(Arc::clone(inner), Arc::clone(&faults)), faults)
    }

    fn number(n: u32) -> Batch {
        Batch::new().put(Space::Origin, n.to_be_bytes(), "x")
    }

    #[test]
    fn fails_before_or_after_the_nth_commit_and_stays_down_until_reopened() {
        for (moment, stored) in [(FailureMoment::BeforeWrite, false), (FailureMoment::AfterWrite, true)] {
            let inner = open(StoreKind::Memory, Path::new(""), OPTIONS).unwrap();
            let (store, faults) = over(&inner);
            faults.fail_at(2, moment);
            store.commit(number(1)).unwrap();
            assert!(matches!(store.commit(number(2)), Err(CommitError::Fault(StoreFault::Unavailable(_)))));
            assert!(faults.power_is_out());
            store.commit(number(3)).unwrap_err();
            store.get(Space::Origin, &1_u32.to_be_bytes()).unwrap_err();
            store.scan(Space::Origin, &Range::default(), 1).unwrap_err();
            store.dump(None, 1).unwrap_err();
            store.restore(Vec::new()).unwrap_err();
            store.health().unwrap_err();
            assert_eq!(faults.commits(), 2);
            let (reopened, _) = over(&inner);
            assert!(reopened.get(Space::Origin, &1_u32.to_be_bytes()).unwrap().is_some());
            assert_eq!(reopened.get(Space::Origin, &2_u32.to_be_bytes()).unwrap().is_some(), stored);
            assert!(reopened.get(Space::Origin, &3_u32.to_be_bytes()).unwrap().is_none());
        }
    }

    #[test]
    fn a_full_disk_refuses_commits_serves_reads_and_recovers() {
        let (store, faults) = over(&open(StoreKind::Memory, Path::new(""), OPTIONS).unwrap());
        store.commit(number(1)).unwrap();
        faults.disk_is_full(true);
        assert!(matches!(store.commit(number(2)), Err(CommitError::Fault(StoreFault::Full(_)))));
        assert!(matches!(store.health(), Err(StoreFault::Full(_))));
        assert!(store.get(Space::Origin, &1_u32.to_be_bytes()).unwrap().is_some());
        faults.disk_is_full(false);
        store.commit(number(2)).unwrap();
        store.health().unwrap();
    }
}
