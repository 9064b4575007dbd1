//! The ordered map: what is put, read, scanned and checked.

use super::*;

on_every_engine! {
    what_is_put_is_read_back_until_it_is_deleted
    spaces_do_not_mix
    a_scan_goes_both_ways_within_its_bounds_and_limit
    a_prefix_of_0xff_octets_scans_to_the_end_of_the_space
    a_check_that_does_not_hold_leaves_no_trace
    the_last_write_of_a_key_counts_within_a_batch
    a_reopened_store_holds_everything
    a_key_that_is_too_long_is_refused
    many_changes_leave_what_a_map_would_hold
}

fn keys(store: &dyn Store, range: &Range, limit: usize) -> Vec<Vec<u8>> {
    store.scan(Space::ByName, range, limit).unwrap().into_iter().map(|entry| entry.key).collect()
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

fn the_last_write_of_a_key_counts_within_a_batch(place: Place) {
    let store = place.store();
    store
        .commit(Batch::new().put(Space::Origin, "k", "1").delete(Space::Origin, "k").put(Space::Origin, "k", "2"))
        .unwrap();
    assert_eq!(value(store, Space::Origin, b"k"), Some(b"2".to_vec()));
    store.commit(Batch::new().put(Space::Origin, "k", "3").delete(Space::Origin, "k")).unwrap();
    assert_eq!(value(store, Space::Origin, b"k"), None);
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

fn a_key_that_is_too_long_is_refused(place: Place) {
    place.store().commit(Batch::new().put(Space::BySubject, vec![1; 1024], "x")).unwrap();
    assert!(matches!(
        place.store().commit(Batch::new().put(Space::BySubject, vec![1; 1025], "x")),
        Err(CommitError::Fault(_))
    ));
    assert_eq!(place.store().scan(Space::BySubject, &Range::default(), 9).unwrap().len(), 1);
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
