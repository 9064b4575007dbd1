//! What is asked of a token, and the answer, which one waits for no longer than its deadline.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::failure::Failure;
use super::session::{Desk, Seat};
use crate::clock::Stopwatch;
use crate::error::KeyFault;

/// Takes back what was done.
pub(crate) type Undo<T> = Box<dyn Fn(&mut Desk<'_>, &T) -> Result<(), Failure> + Send + Sync>;

/// A question, as those see it who find the answer.
pub(crate) trait Asked: Send + Sync {
    /// How long the answer may take.
    fn limit(&self) -> Duration;

    /// Whether nobody waits for the answer any more.
    fn is_given_up(&self) -> bool;

    /// Finds the answer and gives it, unless it is that the token gives no more sessions.
    fn put_to(&self, seat: &mut Seat) -> Result<(), Failure>;

    /// There is no answer.
    fn fail(&self, fault: KeyFault);
}

/// A question.
pub(crate) struct Question<T, W> {
    since: Stopwatch,
    limit: Duration,
    work: W,
    undo: Option<Undo<T>>,
    answer: Mutex<Answer<T>>,
    answered: Condvar,
}

enum Answer<T> {
    Awaited,
    There(Result<T, KeyFault>),
    /// Nobody waits for it, or it was taken.
    Over,
}

impl<T, W> Question<T, W> {
    pub(crate) fn new(limit: Duration, work: W, undo: Option<Undo<T>>) -> Self {
        let (answer, answered) = (Mutex::new(Answer::Awaited), Condvar::new());
        Self { since: Stopwatch::start(), limit, work, undo, answer, answered }
    }

    /// Waits for the answer; `None` if it did not come in time.
    pub(crate) fn wait(&self) -> Option<Result<T, KeyFault>> {
        let mut answer = self.answer();
        while matches!(*answer, Answer::Awaited) {
            let rest = self.limit.saturating_sub(self.since.elapsed());
            if rest.is_zero() {
                break;
            }
            answer = self.answered.wait_timeout(answer, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        match std::mem::replace(&mut *answer, Answer::Over) {
            Answer::There(answer) => Some(answer),
            Answer::Awaited | Answer::Over => None,
        }
    }

    /// Gives the answer; gives it back if nobody waits for it.
    fn give(&self, found: Result<T, KeyFault>) -> Result<(), Result<T, KeyFault>> {
        let mut answer = self.answer();
        if matches!(*answer, Answer::Over) {
            return Err(found);
        }
        *answer = Answer::There(found);
        drop(answer);
        self.answered.notify_one();
        Ok(())
    }

    fn answer(&self) -> MutexGuard<'_, Answer<T>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, W> Asked for Question<T, W>
where
    T: Send,
    W: Fn(&mut Desk<'_>) -> Result<T, Failure> + Send + Sync,
{
    fn limit(&self) -> Duration {
        self.limit
    }

    fn is_given_up(&self) -> bool {
        matches!(*self.answer(), Answer::Over)
    }

    fn put_to(&self, seat: &mut Seat) -> Result<(), Failure> {
        let has_time = |pause: Duration| !self.is_given_up() && self.since.elapsed() + pause < self.limit;
        let found = match seat.perform(&has_time, &self.work) {
            Err(full @ Failure::Full { .. }) => return Err(full),
            found => found.map_err(Failure::into_fault),
        };
        if let (Err(Ok(done)), Some(undo)) = (self.give(found), &self.undo) {
            tracing::warn!("what a token did too late is taken back");
            if let Err(failure) = seat.perform(&|_| true, &|desk| undo(desk, &done)) {
                tracing::error!(?failure, "failed to take back what a token did too late");
            }
        }
        Ok(())
    }

    fn fail(&self, fault: KeyFault) {
        let _nobody_waits_any_more = self.give(Err(fault));
    }
}
