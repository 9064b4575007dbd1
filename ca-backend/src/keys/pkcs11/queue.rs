//! The bounded queue in front of a token's sessions.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::question::Asked;
use crate::clock::Stopwatch;

/// For how long a thread that got no session leaves the work to others before it asks for one again.
const ASIDE: Duration = Duration::from_secs(60);
/// How often it looks by itself whether there is one: a session may come back a moment before anybody waits to be told.
const LOOK: Duration = Duration::from_secs(1);

/// Questions that wait, first come, first served.
pub(crate) struct Queue {
    state: Mutex<State>,
    /// There is a question for somebody who waits for one.
    filled: Condvar,
    /// A session may be free for somebody who stands aside.
    left: Condvar,
    max: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<dyn Asked>>,
    /// Threads that take from it.
    takers: usize,
    /// Those of them that wait for a question.
    idle: usize,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(max: usize) -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), left: Condvar::new(), max }
    }

    /// Adds a question at the end; false if too many wait already.
    pub(crate) fn put(&self, question: Arc<dyn Asked>) -> bool {
        let mut state = self.state();
        if state.waiting.len() >= self.max {
            return false;
        }
        state.waiting.push_back(question);
        self.wake_one(state);
        true
    }

    /// Somebody else shall answer it, next.
    pub(crate) fn put_back(&self, question: Arc<dyn Asked>) {
        let mut state = self.state();
        state.waiting.push_front(question);
        self.wake_one(state);
    }

    /// The next question; `None` once the queue is closed.
    pub(crate) fn take(&self) -> Option<Arc<dyn Asked>> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if let Some(question) = state.waiting.pop_front() {
                return Some(question);
            }
            state.idle += 1;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Waits a while, or until `somebody_left` and with it a session.
    pub(crate) fn stand_aside(&self, a_session_is_free: impl Fn() -> bool) {
        let since = Stopwatch::start();
        while since.elapsed() < ASIDE {
            let state = self.state();
            if state.closed {
                break;
            }
            let rest = ASIDE.saturating_sub(since.elapsed());
            drop(self.left.wait_timeout(state, rest.min(LOOK)).unwrap_or_else(PoisonError::into_inner));
            // Without the lock: who tells may have to wait for a token that hangs, and callers must not.
            if a_session_is_free() {
                break;
            }
        }
    }

    /// A thread begins to take from it.
    pub(crate) fn somebody_comes(&self) {
        self.state().takers += 1;
    }

    /// A thread ended, and closed its session.
    pub(crate) fn somebody_left(&self) {
        self.state().takers -= 1;
        self.left.notify_all();
    }

    /// Ends all that take from it, and waits for them no longer than `limit`.
    pub(crate) fn close(&self, limit: Duration) {
        let mut state = self.state();
        state.closed = true;
        self.filled.notify_all();
        self.left.notify_all();
        let since = Stopwatch::start();
        while state.takers > 0 && since.elapsed() < limit {
            let rest = limit.saturating_sub(since.elapsed());
            state = self.left.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waking somebody costs a call of the system, so nobody is woken who does not wait.
    fn wake_one(&self, state: MutexGuard<'_, State>) {
        let somebody_waits = state.idle > 0;
        drop(state);
        if somebody_waits {
            self.filled.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
