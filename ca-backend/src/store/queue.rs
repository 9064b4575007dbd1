//! The bounded queue in front of the committer thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

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
    submissions: VecDeque<Submission>,
    bytes: usize,
    committer_idle: bool,
    closed: bool,
}

/// A batch and whom to tell. Dropped without an answer, it answers that the store stopped, so that no caller waits for ever.
#[derive(Debug)]
pub(super) struct Submission {
    batch: Batch,
    bytes: usize,
    reply: Option<Arc<Reply>>,
}

#[derive(Debug)]
struct Reply {
    outcome: Mutex<Option<Outcome>>,
    caller: Thread,
}

impl Queue {
    /// Hands a batch to the committer and waits for its outcome.
    pub(super) fn submit(&self, batch: Batch) -> Outcome {
        let reply = Arc::new(Reply {
            outcome: Mutex::new(None),
            caller: thread::current(),
        });
        let bytes = batch.bytes();
        self.enqueue(Submission {
            batch,
            bytes,
            reply: Some(Arc::clone(&reply)),
        });
        loop {
            if let Some(outcome) = lock(&reply.outcome).take() {
                return outcome;
            }
            thread::park();
        }
    }

    fn enqueue(&self, submission: Submission) {
        let mut waiting = lock(&self.waiting);
        while !waiting.has_room_for(submission.bytes) && !waiting.closed {
            waiting = self
                .drained
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.closed {
            drop(waiting);
            return; // dropping the submission answers it
        }
        waiting.bytes = waiting.bytes.saturating_add(submission.bytes);
        waiting.submissions.push_back(submission);
        if std::mem::take(&mut waiting.committer_idle) {
            self.arrived.notify_one();
        }
    }

    /// Waits for work and takes the next group; `None` once the queue is closed and empty.
    pub(super) fn next_group(&self) -> Option<Vec<Submission>> {
        let mut waiting = lock(&self.waiting);
        while waiting.submissions.is_empty() {
            if waiting.closed {
                return None;
            }
            waiting.committer_idle = true;
            waiting = self
                .arrived
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let mut group = Vec::with_capacity(waiting.submissions.len().min(GROUP_BATCHES_MAX));
        let mut bytes = 0_usize;
        while group.len() < GROUP_BATCHES_MAX {
            let Some(next) = waiting.submissions.pop_front_if(|next| {
                bytes == 0 || bytes.saturating_add(next.bytes) <= GROUP_BYTES_MAX
            }) else {
                break;
            };
            bytes = bytes.saturating_add(next.bytes);
            group.push(next);
        }
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        self.drained.notify_all();
        Some(group)
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
        let left = std::mem::take(&mut lock(&self.waiting).submissions);
        drop(left);
    }
}

impl Waiting {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.submissions.is_empty()
            || (self.submissions.len() < WAITING_BATCHES_MAX
                && self.bytes.saturating_add(bytes) <= WAITING_BYTES_MAX)
    }
}

impl Submission {
    /// The batch; what is left is the duty to answer.
    pub(super) fn take_batch(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    /// Tells the caller.
    pub(super) fn answer(mut self, outcome: Outcome) {
        if let Some(reply) = self.reply.take() {
            reply.give(outcome);
        }
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            reply.give(Err(
                StoreFault::Unavailable("the store has stopped".into()).into()
            ));
        }
    }
}

impl Reply {
    fn give(&self, outcome: Outcome) {
        *lock(&self.outcome) = Some(outcome);
        self.caller.unpark();
    }
}

/// A lock that a panicking holder leaves usable: every critical section here leaves its value whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
