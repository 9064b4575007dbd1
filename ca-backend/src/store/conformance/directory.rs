//! The directory of a store: who may open it, and what is refused.

use super::*;

on_every_engine! {
    a_store_of_a_newer_release_is_refused
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
