//! Keeps readers from acting on what is not durable yet.
//!
//! An engine may show a group's writes before they are durable (sled does). Whoever acted on them, say by answering a repeated request
//! with the certificate it found, would break the rule that no answer precedes its durable record. So a reader that met a value of
//! the group that is being written waits until that group is durable; so does one that met an absence which the group may have caused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use super::Version;
use super::queue::lock;
use crate::error::StoreFault;

/// How far the committer is.
#[derive(Debug)]
pub(super) struct Progress {
    /// Every group up to this version is durable.
    durable: AtomicU64,
    /// The last version of the group being written, if it deletes something, otherwise 0.
    deleting: AtomicU64,
    failed: OnceLock<StoreFault>,
    waiting: Mutex<()>,
    settled: Condvar,
}

impl Progress {
    pub(super) fn at(durable: Version) -> Self {
        Self {
            durable: AtomicU64::new(durable.0),
            deleting: AtomicU64::new(0),
            failed: OnceLock::new(),
            waiting: Mutex::default(),
            settled: Condvar::new(),
        }
    }

    /// A group that ends with `last` is about to be written.
    pub(super) fn begin(&self, last: Version, deletes: bool) {
        self.deleting
            .store(if deletes { last.0 } else { 0 }, Ordering::SeqCst);
    }

    /// Everything up to `last` is durable.
    pub(super) fn settle(&self, last: Version) {
        let waiting = lock(&self.waiting);
        self.durable.fetch_max(last.0, Ordering::SeqCst);
        self.deleting.store(0, Ordering::SeqCst);
        drop(waiting);
        self.settled.notify_all();
    }

    /// It is unknown what of the group is durable, until the store is opened anew. Nothing is read or written from here on.
    pub(super) fn fail(&self, fault: StoreFault) {
        let waiting = lock(&self.waiting);
        let _first_fault_stays = self.failed.set(fault);
        drop(waiting);
        self.settled.notify_all();
    }

    /// The fault that ended the store's work, if any.
    pub(super) fn check(&self) -> Result<(), StoreFault> {
        self.failed.get().map_or(Ok(()), |fault| Err(fault.clone()))
    }

    /// Waits until a version that was read is durable.
    pub(super) fn wait_durable(&self, read: Version) -> Result<(), StoreFault> {
        self.wait_while(|| self.durable.load(Ordering::SeqCst) < read.0)
    }

    /// Waits until the deletions that may have caused an absence are durable.
    pub(super) fn wait_deletions(&self) -> Result<(), StoreFault> {
        match self.deleting.load(Ordering::SeqCst) {
            0 => Ok(()),
            group => self.wait_while(|| self.deleting.load(Ordering::SeqCst) == group),
        }
    }

    fn wait_while(&self, unsettled: impl Fn() -> bool) -> Result<(), StoreFault> {
        if !unsettled() {
            return Ok(());
        }
        let mut waiting = lock(&self.waiting);
        while unsettled() {
            self.check()?;
            waiting = self
                .settled
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}
