//! The journal in front of an engine.

use std::fs::File;
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
