//! What is particular to sled.

use std::path::PathBuf;

use super::*;

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

/// The name of the newest note of where sled's pages lie, which has the place in the log up to which it reaches.
fn snapshot(sled: &Path) -> String {
    let names = fs::read_dir(sled).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("snap.") && !name.ends_with("generating")).max().unwrap()
}

#[test]
fn a_snapshot_that_sled_did_not_finish_is_removed_and_nothing_is_missing() {
    let Place { directory: closed, store, .. } = Place::new(StoreKind::Sled);
    // So many that the journal has given most of them to sled.
    let records = || (0..30_u32).map(|number| (number.to_be_bytes(), noise(1_000, number)));
    for (key, record) in records() {
        store.as_ref().unwrap().commit(Batch::new().put(Space::Certificate, key, record)).unwrap();
    }
    drop(store);
    let sled = closed.path().join("sled");
    let whole = fs::read(sled.join(snapshot(&sled))).unwrap();
    for left in [&whole[..0], &whole[..whole.len() / 2], &whole[..whole.len() - 1]] {
        let directory = copy_of(closed.path());
        let sled = directory.path().join("sled");
        let place = u64::from_str_radix(snapshot(&sled).trim_start_matches("snap."), 16).unwrap();
        let unfinished =
            [1, 1 << 20, 1 << 40].map(|further| sled.join(format!("snap.{:016X}.generating", place + further)));
        unfinished.iter().for_each(|path| fs::write(path, left).unwrap());
        for _ in 0..2 {
            let store = open(StoreKind::Sled, directory.path(), OPTIONS).unwrap();
            assert!(records().all(|(key, record)| value(store.as_ref(), Space::Certificate, &key) == Some(record)));
            assert!(!unfinished.iter().any(|path| path.exists()));
        }
    }
}

#[test]
fn sled_is_opened_anew_now_and_then_and_readers_do_not_notice() {
    let place = Place::new(StoreKind::Sled);
    let sled = place.directory.path().join("sled");
    let mut noted = vec![snapshot(&sled)];
    let key = |number: u32| number.to_be_bytes();
    let number = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for reader in 1..3 {
            let (number, store) = (&number, place.store());
            scope.spawn(move || {
                let mut turns = 0_u32;
                loop {
                    let written = number.load(std::sync::atomic::Ordering::SeqCst);
                    if written == u32::MAX {
                        break;
                    }
                    if written > 0 {
                        turns = turns.wrapping_add(reader * 7919);
                        let asked = turns % written;
                        assert!(value(store, Space::Certificate, &key(asked)) == Some(noise(1_000, asked)), "{asked}");
                        let from = Range { from: key(asked).to_vec(), ..Range::default() };
                        assert_eq!(store.scan(Space::Certificate, &from, 1).unwrap()[0].key, key(asked));
                    }
                }
            });
        }
        for written in 0..300_u32 {
            place.store().commit(Batch::new().put(Space::Certificate, key(written), noise(1_000, written))).unwrap();
            number.store(written + 1, std::sync::atomic::Ordering::SeqCst);
            noted.push(snapshot(&sled));
        }
        number.store(u32::MAX, std::sync::atomic::Ordering::SeqCst);
    });
    noted.dedup();
    assert!(noted.len() > 2 && noted.is_sorted(), "{noted:?}");
}

#[test]
fn sled_that_could_not_be_opened_anew_is_tried_again() {
    use crate::store::directory::StoreDirectory;
    use crate::store::sled::SledTable;
    use crate::store::table::{Table, Writes};

    let directory = TempDir::new().unwrap();
    let (sled, elsewhere) = (directory.path().join("sled"), directory.path().join("elsewhere"));
    let table = SledTable::open(StoreDirectory::claim(directory.path(), 0).unwrap(), 32 << 20, 1).unwrap();
    let key = |number: u8| vec![Space::Ticket as u8, number];
    let apply = |number| table.apply(Arc::new(Writes::from([(key(number), Some(noise(1_000, 1)))])));
    apply(1).unwrap();
    fs::rename(&sled, &elsewhere).unwrap();
    apply(2).unwrap();
    table.read(&key(2)).unwrap_err();
    assert!(!sled.exists(), "nothing is begun in its place");
    fs::rename(&elsewhere, &sled).unwrap();
    assert!(table.read(&key(1)).unwrap().is_some() && table.read(&key(2)).unwrap().is_some());
    apply(3).unwrap();
    assert!(table.read(&key(3)).unwrap().is_some());

    // A writer tries as well, also one that reads nothing before.
    fs::rename(&sled, &elsewhere).unwrap();
    apply(4).unwrap();
    apply(5).unwrap_err();
    fs::rename(&elsewhere, &sled).unwrap();
    apply(5).unwrap();
    assert!(table.read(&key(4)).unwrap().is_some() && table.read(&key(5)).unwrap().is_some());
}
