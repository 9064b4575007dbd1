//! Export and import.

use super::*;
use crate::store::transfer::{TransferError, export, import};

on_every_engine! {
    a_dump_restores_to_an_equal_store
    an_export_imports_into_every_engine
    a_cut_export_is_refused_at_every_place
    a_changed_export_is_refused_and_the_store_marked
    an_import_into_a_used_store_is_refused
    an_import_of_what_no_store_holds_is_refused
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

/// A key of its own that an engine took from an export would make it lose track of its journal.
fn an_import_of_what_no_store_holds_is_refused(place: Place) {
    for (space, key) in [(0, vec![]), (u8::MAX, b"k".to_vec()), (Space::Origin as u8, vec![1; 1025])] {
        let source = Place::new(StoreKind::Memory);
        source.store().restore(vec![(space, Entry { key, version: Version(1), value: vec![0; 8] })]).unwrap();
        let outcome = import(place.store(), &mut exported(source.store()).as_slice());
        assert!(matches!(&outcome, Err(TransferError::File(what)) if what.contains("no store holds")), "{outcome:?}");
        assert!(place.store().get(Space::Origin, b"").unwrap().is_none());
        place.store().commit(Batch::new().delete(Space::Meta, IMPORTING_KEY)).unwrap();
    }
}
