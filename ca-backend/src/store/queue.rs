//! The bounded queue in front of the committer thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Batch, CommitError, Version};
use crate::error::StoreFault;

/// How many batches may wait for the committer.
const WAITING_BATCHES_MAX: usize = 4096;
/// How many octets of batches may wait; a larger batch waits alone.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// How many batches share one durable write.
const GROUP_BATCHES_MAX: usize = 1000;
/// How many octets share one durable write; a larger batch is a group of its own. `sled::SEGMENT_BYTES` depends on it.
pub(super) const GROUP_BYTES_MAX: usize = 256 << 10;

type Outcome = Result<Version, CommitError>;

/// Batches on their way to the committer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    drained: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    groups: VecDeque<Together>,
    batches: usize,
    bytes: usize,
    committer_idle: bool,
    closed: bool,
}

/// Batches that are written together, and whom to tell. Dropped without an answer, it answers that the store stopped, so that no
/// caller waits for ever.
#[derive(Debug, Default)]
pub(super) struct Together {
    batches: Vec<Batch>,
    bytes: usize,
    answers: Arc<Answers>,
}

/// What became of a group: the outcomes of its batches in their order, or what became of all of them. All callers are woken with
/// one call to the kernel.
type Answers = OnceLock<Result<Vec<Outcome>, StoreFault>>;

impl Queue {
    /// Hands a batch to the committer and waits for its outcome.
    pub(super) fn submit(&self, batch: Batch) -> Outcome {
        let stopped = || StoreFault::Unavailable("the store has stopped".into());
        let (answers, place) = self.enqueue(batch).ok_or_else(stopped)?;
        match answers.wait() {
            Ok(outcomes) => outcomes.get(place).cloned().unwrap_or_else(|| Err(stopped().into())),
            Err(fault) => Err(fault.clone().into()),
        }
    }

    /// Where to find the outcome; `None` once the queue is closed.
    fn enqueue(&self, batch: Batch) -> Option<(Arc<Answers>, usize)> {
        let bytes = batch.bytes();
        let mut waiting = lock(&self.waiting);
        while !waiting.has_room_for(bytes) && !waiting.closed {
            waiting = self.drained.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.closed {
            return None;
        }
        let place = waiting.join(batch, bytes);
        if std::mem::take(&mut waiting.committer_idle) {
            self.arrived.notify_one();
        }
        place
    }

    /// Waits for work and takes the next group; `None` once the queue is closed and empty.
    pub(super) fn next_group(&self) -> Option<Together> {
        let mut waiting = lock(&self.waiting);
        loop {
            if let Some(group) = waiting.groups.pop_front() {
                waiting.bytes = waiting.bytes.saturating_sub(group.bytes);
                waiting.batches = waiting.batches.saturating_sub(group.batches.len());
                self.drained.notify_all();
                return Some(group);
            }
            if waiting.closed {
                return None;
            }
            waiting.committer_idle = true;
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets nothing more in; what waits is still committed.
    pub(super) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.arrived.notify_all();
        self.drained.notify_all();
    }

    /// Closes, and answers what still waits: the committer is gone.
    pub(super) fn abandon(&self) {
        self.close();
        let left = std::mem::take(&mut lock(&self.waiting).groups);
        drop(left);
    }
}

impl Waiting {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.groups.is_empty()
            || (self.batches < WAITING_BATCHES_MAX && self.bytes.saturating_add(bytes) <= WAITING_BYTES_MAX)
    }

    /// Adds a batch to the last group, or to a new one if that is full.
    fn join(&mut self, batch: Batch, bytes: usize) -> Option<(Arc<Answers>, usize)> {
        if self.groups.back().is_none_or(|group| !group.has_room_for(bytes)) {
            self.groups.push_back(Together::default());
        }
        let group = self.groups.back_mut()?;
        let place = group.batches.len();
        group.batches.push(batch);
        group.bytes = group.bytes.saturating_add(bytes);
        self.batches = self.batches.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        Some((Arc::clone(&group.answers), place))
    }
}

impl Together {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.batches.len() < GROUP_BATCHES_MAX && self.bytes.saturating_add(bytes) <= GROUP_BYTES_MAX
    }

    /// The batches; what is left is the duty to answer.
    pub(super) fn take_batches(&mut self) -> Vec<Batch> {
        std::mem::take(&mut self.batches)
    }

    /// Tells every caller.
    pub(super) fn answer(self, outcomes: Result<Vec<Outcome>, StoreFault>) {
        let _first_answer_stays = self.answers.set(outcomes);
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        let stopped = StoreFault::Unavailable("the store has stopped".into());
        let _first_answer_stays = self.answers.set(Err(stopped));
    }
}

/// A lock that a panicking holder leaves usable: every critical section here leaves its value whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
