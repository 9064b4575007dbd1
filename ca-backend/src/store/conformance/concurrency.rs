//! Many writers at once: groups, sums, logs and versions.

use std::thread;

use super::*;

on_every_engine! {
    a_later_batch_of_a_group_sees_an_earlier_one
    adds_of_many_threads_sum_up
    adds_come_after_writes_and_overflow_is_refused
    appends_of_many_threads_make_one_chain_without_gaps
    versions_increase_also_after_a_reopen
    no_update_of_a_contended_key_is_lost
    only_one_of_many_creators_wins
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
