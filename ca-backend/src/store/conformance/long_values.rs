//! Values that are longer than an engine takes in one piece.

use super::*;

on_every_engine! {
    a_value_of_two_mebibytes_survives
    forty_mebibytes_scan_in_pages
    long_values_shrink_grow_and_vanish
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
