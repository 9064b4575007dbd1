//! A store that fails on command.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Batch, CommitError, Entry, Key, Range, Space, Store, Version, Versioned};
use crate::error::StoreFault;

/// When the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureMoment {
    /// Before anything is written.
    BeforeWrite,
    /// After the batch is durable, before the caller learns it.
    AfterWrite,
}

/// What is to go wrong, shared with the test.
#[derive(Debug, Default)]
pub struct Faults {
    commits: AtomicU64,
    fail_before: AtomicU64,
    fail_after: AtomicU64,
    power_is_out: AtomicBool,
    disk_is_full: AtomicBool,
}

impl Faults {
    /// Nothing goes wrong yet.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// The power goes at the `n`th commit, counted from 1 since the store was opened. From then on every operation fails, until a
    /// new [`Faults`] is put over the same inner store, which is the restart.
    pub fn fail_at(&self, n: u64, moment: FailureMoment) {
        match moment {
            FailureMoment::BeforeWrite => self.fail_before.store(n, Ordering::SeqCst),
            FailureMoment::AfterWrite => self.fail_after.store(n, Ordering::SeqCst),
        }
    }

    /// Whether the disk is full: commits fail, reads go on.
    pub fn disk_is_full(&self, full: bool) {
        self.disk_is_full.store(full, Ordering::SeqCst);
    }

    /// Commits attempted so far, whatever came of them.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// Whether the power went.
    #[must_use]
    pub fn power_is_out(&self) -> bool {
        self.power_is_out.load(Ordering::SeqCst)
    }

    fn check_power(&self) -> Result<(), StoreFault> {
        if self.power_is_out() { Err(StoreFault::Unavailable("the power is out".into())) } else { Ok(()) }
    }

    fn check_room(&self) -> Result<(), StoreFault> {
        if self.disk_is_full.load(Ordering::SeqCst) {
            Err(StoreFault::Full("the test filled it".into()))
        } else {
            Ok(())
        }
    }

    fn cut_power(&self) -> Result<(), StoreFault> {
        self.power_is_out.store(true, Ordering::SeqCst);
        self.check_power()
    }
}

/// A store in front of another one, which fails as [`Faults`] says.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Arc<Faults>,
}

impl FaultyStore {
    pub(crate) fn new(inner: Arc<dyn Store>, faults: Arc<Faults>) -> Self {
        Self { inner, faults }
    }
}

impl Store for FaultyStore {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Versioned>, StoreFault> {
        self.faults.check_power()?;
        self.inner.get(space, key)
    }

    fn scan(&self, space: Space, range: &Range, limit: usize) -> Result<Vec<Entry>, StoreFault> {
        self.faults.check_power()?;
        self.inner.scan(space, range, limit)
    }

    fn commit(&self, batch: Batch) -> Result<Version, CommitError> {
        self.faults.check_power()?;
        let number = self.faults.commits.fetch_add(1, Ordering::SeqCst) + 1;
        if number == self.faults.fail_before.load(Ordering::SeqCst) {
            self.faults.cut_power()?;
        }
        self.faults.check_room()?;
        let outcome = self.inner.commit(batch);
        if number == self.faults.fail_after.load(Ordering::SeqCst) {
            self.faults.cut_power()?;
        }
        // The answer to a commit that was under way when the power went does not arrive either.
        self.faults.check_power()?;
        outcome
    }

    fn health(&self) -> Result<(), StoreFault> {
        self.faults.check_power()?;
        self.faults.check_room()?;
        self.inner.health()
    }

    fn dump(&self, after: Option<&(u8, Key)>, limit: usize) -> Result<Vec<(u8, Entry)>, StoreFault> {
        self.faults.check_power()?;
        self.inner.dump(after, limit)
    }

    fn restore(&self, entries: Vec<(u8, Entry)>) -> Result<(), StoreFault> {
        self.faults.check_power()?;
        self.faults.check_room()?;
        self.inner.restore(entries)
    }
}
