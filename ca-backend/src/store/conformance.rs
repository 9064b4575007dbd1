//! What every engine must do, and what is particular to one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use tempfile::TempDir;

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

/// Runs tests of a room on each engine.
macro_rules! on_every_engine {
    ($($name:ident)*) => {
        mod memory_engine { $(#[test] fn $name() { super::$name(super::Place::new(super::StoreKind::Memory)); })* }
        mod sled_engine { $(#[test] fn $name() { super::$name(super::Place::new(super::StoreKind::Sled)); })* }
        mod redb_engine { $(#[test] fn $name() { super::$name(super::Place::new(super::StoreKind::Redb)); })* }
    };
}

// Behind the macro, which they use.
mod concurrency;
mod directory;
mod faults;
mod journal;
mod long_values;
mod map;
mod sled;
mod transfer;

fn value(store: &dyn Store, space: Space, key: &[u8]) -> Option<Vec<u8>> {
    store.get(space, key).unwrap().map(|found| found.value)
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
