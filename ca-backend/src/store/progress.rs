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

/// A space is an octet.
const SPACES: usize = 1 << u8::BITS;

/// How far the committer is.
#[derive(Debug)]
pub(super) struct Progress {
    /// Every group up to this version is durable.
    durable: AtomicU64,
    /// By space: the last version of the group being written, if it deletes something there, otherwise 0.
    deleting: [AtomicU64; SPACES],
    failed: OnceLock<StoreFault>,
    waiting: Mutex<()>,
    settled: Condvar,
}

impl Progress {
    pub(super) fn at(durable: Version) -> Self {
        Self {
            durable: AtomicU64::new(durable.0),
            deleting: [const { AtomicU64::new(0) }; SPACES],
            failed: OnceLock::new(),
            waiting: Mutex::default(),
            settled: Condvar::new(),
        }
    }

    /// A group that ends with `last` and deletes something in these spaces is about to be written.
    pub(super) fn begin(&self, last: Version, deletes_in: impl Iterator<Item = u8>) {
        for space in deletes_in {
            if let Some(deleting) = self.deleting.get(usize::from(space)) {
                deleting.store(last.0, Ordering::SeqCst);
            }
        }
    }

    /// Everything up to `last` is durable.
    pub(super) fn settle(&self, last: Version) {
        let waiting = lock(&self.waiting);
        self.durable.fetch_max(last.0, Ordering::SeqCst);
        self.deleting.iter().for_each(|deleting| deleting.store(0, Ordering::SeqCst));
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

    /// Waits until the deletions that may have caused an absence in a space are durable.
    pub(super) fn wait_deletions(&self, space: u8) -> Result<(), StoreFault> {
        let Some(deleting) = self.deleting.get(usize::from(space)) else {
            return Ok(());
        };
        match deleting.load(Ordering::SeqCst) {
            0 => Ok(()),
            group => self.wait_while(|| deleting.load(Ordering::SeqCst) == group),
        }
    }

    /// The same for every space.
    pub(super) fn wait_all_deletions(&self) -> Result<(), StoreFault> {
        (0..=u8::MAX).try_for_each(|space| self.wait_deletions(space))
    }

    fn wait_while(&self, unsettled: impl Fn() -> bool) -> Result<(), StoreFault> {
        if !unsettled() {
            return Ok(());
        }
        let mut waiting = lock(&self.waiting);
        while unsettled() {
            self.check()?;
            waiting = self.settled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}
