//! The journal in front of an engine.

use std::path::PathBuf;

use super::faults::BrittleTable;
use super::*;

on_every_engine! {
    torture_is_whole_after_every_stop
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

/// Where the frames of a file of the journal begin, and where the last one ends.
fn frames(octets: &[u8]) -> Vec<usize> {
    let mut begins = vec![0];
    while let Some(length) = octets[*begins.last().unwrap()..].first_chunk() {
        begins.push(begins.last().unwrap() + HEADER + u32::from_be_bytes(*length) as usize);
    }
    begins
}

/// Octets of a frame's length and digest.
const HEADER: usize = 4 + 32;

#[test]
fn a_torn_end_of_the_journal_takes_only_what_nobody_was_told_of() {
    for kind in [StoreKind::Sled, StoreKind::Redb] {
        let (directory, file) = closed_with_journal(kind);
        let octets = fs::read(&file).unwrap();
        // A frame for the format of the store, one for each commit, and the mark that the file was closed.
        let &[.., third, mark, end] = frames(&octets).as_slice() else { panic!() };
        assert_eq!((mark + HEADER, octets.len()), (end, end));
        let journal = file.parent().unwrap();
        let before: Vec<_> = fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path()).collect();
        for length in [third, third + 1, third + 4, third + HEADER, mark - 1] {
            // What is not there, and what has a place on the disk where nothing was written.
            for unwritten in [0, mark - length] {
                let directory = copy_of(directory.path());
                let file = directory.path().join("journal").join(file.file_name().unwrap());
                fs::write(&file, [&octets[..length], &vec![0; unwritten]].concat()).unwrap();
                for _ in 0..2 {
                    let store = open(kind, directory.path(), OPTIONS).unwrap();
                    assert!(value(store.as_ref(), Space::Origin, b"one").is_some());
                    assert!(value(store.as_ref(), Space::Origin, b"two").is_some());
                    assert_eq!(value(store.as_ref(), Space::Origin, b"three"), None);
                }
            }
        }
        let after: Vec<_> = fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(after, before);
    }
}

/// The file of a journal that comes some places behind another.
fn behind(file: &Path, places: u64) -> PathBuf {
    let number: u64 = file.file_name().unwrap().to_str().unwrap().parse().unwrap();
    file.with_file_name(format!("{:020}", number + places))
}

#[test]
fn a_torn_file_of_the_journal_may_be_followed_by_empty_ones_and_by_nothing_else() {
    for kind in [StoreKind::Sled, StoreKind::Redb] {
        let (closed, file) = closed_with_journal(kind);
        let octets = fs::read(&file).unwrap();
        let &[.., third, mark, _] = frames(&octets).as_slice() else { panic!() };
        for empty in 1..3 {
            for length in [third + 1, mark - 1] {
                let directory = copy_of(closed.path());
                let file = directory.path().join("journal").join(file.file_name().unwrap());
                fs::write(&file, &octets[..length]).unwrap();
                (1..=empty).for_each(|places| fs::write(behind(&file, places), b"").unwrap());
                for _ in 0..2 {
                    let store = open(kind, directory.path(), OPTIONS).unwrap();
                    assert!(value(store.as_ref(), Space::Origin, b"one").is_some());
                    assert!(value(store.as_ref(), Space::Origin, b"two").is_some());
                    assert_eq!(value(store.as_ref(), Space::Origin, b"three"), None);
                }
            }
        }
        // A file is written to only once all that stands in the one before was promised.
        fs::write(&file, &octets[..mark - 1]).unwrap();
        fs::write(behind(&file, 1), b"").unwrap();
        fs::write(behind(&file, 2), [0]).unwrap();
        let fault = open(kind, closed.path(), OPTIONS).unwrap_err();
        assert!(matches!(&fault, StoreFault::Corrupt(what) if what.contains("damaged")), "{fault}");
        assert!(fs::read(&file).unwrap() == octets[..mark - 1]);
    }
}

#[test]
fn a_full_file_of_the_journal_is_closed_before_anything_stands_in_the_next() {
    let directory = TempDir::new().unwrap();
    let store = open(StoreKind::Redb, directory.path(), OPTIONS).unwrap();
    let [full, next] = [1, 2].map(|number| directory.path().join("journal").join(format!("{number:020}")));
    let mut number = 0_u32;
    while !next.exists() {
        number += 1;
        store.commit(Batch::new().put(Space::Origin, number.to_be_bytes(), noise(300, number))).unwrap();
    }
    drop(store);
    assert_eq!(fs::metadata(&next).unwrap().len(), 0);
    let octets = fs::read(&full).unwrap();
    let &[.., mark, _] = frames(&octets).as_slice() else { panic!() };
    let mut damaged = octets.clone();
    damaged[mark - 1] ^= 1;
    fs::write(&full, &damaged).unwrap();
    let fault = open(StoreKind::Redb, directory.path(), OPTIONS).unwrap_err();
    assert!(matches!(&fault, StoreFault::Corrupt(what) if what.contains("damaged")), "{fault}");
}

/// Sees to it that a journal with a changed file is refused and left alone.
fn assert_refused(file: &Path, octets: &[u8], what: &str) {
    fs::write(file, octets).unwrap();
    let store = file.parent().unwrap().parent().unwrap();
    match open(StoreKind::Redb, store, OPTIONS) {
        Err(StoreFault::Corrupt(text)) if text.contains("restore a backup") && text.contains("truncate -s") => {}
        outcome => panic!("{what}: {outcome:?}"),
    }
    assert!(fs::read(file).unwrap() == octets, "{what}");
}

#[test]
fn no_damage_before_the_last_frame_of_the_newest_file_is_taken_for_a_torn_end() {
    let (_directory, file) = closed_with_journal(StoreKind::Redb);
    let octets = fs::read(&file).unwrap();
    let frames = frames(&octets);
    let mark = frames[frames.len() - 2];
    // Every octet of every frame.
    for at in 0..mark {
        let mut damaged = octets.clone();
        damaged[at] ^= 1;
        assert_refused(&file, &damaged, &format!("octet {at} is flipped"));
    }
    // A sector, or less, that was zeroed or raised.
    for (from, until) in frames.windows(2).map(|frame| (frame[0], frame[1])).filter(|(from, _)| *from < mark) {
        for damage in [0, 0xff] {
            for (from, until) in [(from, until), (from, from + HEADER), (from, from + 4), (from + 2, from + 4)] {
                let mut damaged = octets.clone();
                damaged[from..until].fill(damage);
                if damaged != octets {
                    assert_refused(&file, &damaged, &format!("octets {from} to {until} are {damage}"));
                }
            }
        }
    }
    fs::write(&file, &octets).unwrap();
    let store = open(StoreKind::Redb, file.parent().unwrap().parent().unwrap(), OPTIONS).unwrap();
    assert!(value(store.as_ref(), Space::Origin, b"three").is_some());
}

#[test]
fn damage_that_looks_torn_is_found_in_a_long_file_as_well() {
    let directory = TempDir::new().unwrap();
    let options = StoreOptions { journal_bytes: 16 << 20, ..OPTIONS };
    let store = open(StoreKind::Redb, directory.path(), options).unwrap();
    for number in 0..100_u32 {
        store.commit(Batch::new().put(Space::CrlChunk, number.to_be_bytes(), noise(60_000, number))).unwrap();
    }
    drop(store);
    let file =
        fs::read_dir(directory.path().join("journal")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let octets = fs::read(&file).unwrap();
    let frames = frames(&octets);
    for begin in [frames[1], frames[frames.len() / 2], frames[frames.len() - 3]] {
        let mut damaged = octets.clone();
        damaged[begin..begin + 4].fill(0);
        assert_refused(&file, &damaged, &format!("the length at {begin}"));
    }
}

#[test]
fn a_last_frame_of_which_only_the_length_is_wrong_is_not_taken_for_torn() {
    let (_directory, file) = closed_with_journal(StoreKind::Redb);
    let octets = fs::read(&file).unwrap();
    let octets = &octets[..octets.len() - HEADER]; // as a kill leaves it
    let frames = frames(octets);
    let last = frames[frames.len() - 2];
    for damage in [[0; 4], [0xff; 4], [0, 0, 0xff, 0xff]] {
        let mut damaged = octets.to_vec();
        damaged[last..last + 4].copy_from_slice(&damage);
        assert_refused(&file, &damaged, &format!("{damage:?}"));
    }
}

/// As earlier releases left it, and a kill leaves it.
#[test]
fn a_journal_without_a_mark_at_its_end_opens_whole() {
    for kind in [StoreKind::Sled, StoreKind::Redb] {
        let (directory, file) = closed_with_journal(kind);
        let octets = fs::read(&file).unwrap();
        fs::write(&file, &octets[..octets.len() - HEADER]).unwrap();
        let store = open(kind, directory.path(), OPTIONS).unwrap();
        assert!(value(store.as_ref(), Space::Origin, b"three").is_some());
    }
}

/// Begins a store whose next file of the journal cannot be made, since something is in its place, and fills the file before it.
/// Returns what was acknowledged.
fn fill_until_refused(store: &dyn Store) -> (u32, StoreFault) {
    for number in 0..1_000 {
        match store.commit(Batch::new().put(Space::Origin, u32::to_be_bytes(number), noise(1_000, number))) {
            Ok(_) => {}
            Err(CommitError::Fault(fault)) => return (number, fault),
            Err(CommitError::Conflict) => panic!(),
        }
    }
    panic!("nothing was refused")
}

#[test]
fn a_journal_file_that_cannot_be_begun_for_a_while_costs_nothing_but_that_while() {
    for kind in [StoreKind::Sled, StoreKind::Redb] {
        let mut place = Place::new(kind);
        let journal = place.directory.path().join("journal");
        // The files that follow the newest: which of them comes next is the feeder's business.
        let obstacles: Vec<_> = (2..10).map(|number| journal.join(format!("{number:020}"))).collect();
        obstacles.iter().for_each(|obstacle| fs::create_dir(obstacle).unwrap());
        let (acknowledged, _) = fill_until_refused(place.store());
        assert!(acknowledged > 0);
        place.store().commit(Batch::new().put(Space::Origin, "refused", "")).unwrap_err();
        let is_there =
            |place: &Place, number: u32| value(place.store(), Space::Origin, &number.to_be_bytes()).is_some();
        assert!((0..acknowledged).all(|number| is_there(&place, number)), "reads go on");
        assert!(value(place.store(), Space::Origin, b"refused").is_none());

        obstacles.iter().for_each(|obstacle| fs::remove_dir(obstacle).unwrap());
        for number in acknowledged..acknowledged + 100 {
            place.store().commit(Batch::new().put(Space::Origin, number.to_be_bytes(), noise(1_000, number))).unwrap();
        }
        place.store().health().unwrap();
        place.reopen();
        assert!((0..acknowledged + 100).all(|number| is_there(&place, number)));
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

#[test]
fn health_answers_while_the_engine_hangs_and_the_journal_is_overfull() {
    let directory = TempDir::new().unwrap();
    let table = BrittleTable::default();
    let (hangs, is_full) = (Arc::clone(&table.hangs), Arc::clone(&table.is_full));
    let fills = |full| is_full.store(full, std::sync::atomic::Ordering::SeqCst);
    let store = Committer::start(Journaled::open(table, &directory.path().join("journal"), 1).unwrap()).unwrap();
    let hanging = hangs.lock().unwrap();
    // This fills a file, which the engine does not take.
    store.commit(Batch::new().put(Space::Origin, "one", "x")).unwrap();
    fills(true);
    store.commit(Batch::new().put(Space::Origin, "refused", "x")).unwrap_err();
    assert!(matches!(store.health(), Err(StoreFault::Full(_))));
    fills(false);
    // This fills the next one. A further write would wait for the engine.
    let entry = Entry { key: b"two".to_vec(), version: Version(100), value: b"x".to_vec() };
    store.restore(vec![(Space::Origin as u8, entry)]).unwrap();
    store.health().unwrap();
    fills(true);
    assert!(matches!(store.health(), Err(StoreFault::Full(_))));
    fills(false);

    drop(hanging);
    store.commit(Batch::new().put(Space::Origin, "three", "x")).unwrap();
    assert!(["one", "two", "three"].iter().all(|key| value(&store, Space::Origin, key.as_bytes()).is_some()));
}
