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
