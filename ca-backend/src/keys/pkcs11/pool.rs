//! Threads that own sessions, and the queue in front of them. A call that hangs in the module costs a thread and no caller.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::failure::Failure;
use super::question::{Asked, Question, Undo};
use super::queue::Queue;
use super::session::{Desk, Seat};
use super::token::Token;
use crate::clock::Stopwatch;
use crate::error::KeyFault;

/// For each session, how many threads may be lost in a module that does not return before no more are put in their place.
const LOST_PER_SESSION_MAX: usize = 2;

/// How long the end of a pool waits for its threads: for those that hang it would be in vain.
const END_LIMIT: Duration = Duration::from_secs(1);

/// The bounds of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Sessions, and so calls on the module at a time.
    pub(crate) sessions: usize,
    /// Requests that may wait for one.
    pub(crate) queue_max: usize,
}

/// Sessions at work.
pub(crate) struct Pool {
    token: Arc<Token>,
    queue: Arc<Queue>,
    workers: Mutex<Vec<Arc<Worker>>>,
    lost: Arc<AtomicUsize>,
    lost_max: usize,
}

/// What others see of a thread.
#[derive(Default)]
struct Worker {
    /// Since when it has been at a request, and how long that may take.
    busy: Mutex<Option<(Stopwatch, Duration)>>,
    /// Another one took its place: it ends when the module returns.
    replaced: AtomicBool,
}

impl Pool {
    pub(crate) fn start(token: Arc<Token>, bounds: Bounds) -> Result<Self, KeyFault> {
        let pool = Self {
            token,
            queue: Arc::new(Queue::new(bounds.queue_max)),
            workers: Mutex::default(),
            lost: Arc::default(),
            lost_max: bounds.sessions.saturating_mul(LOST_PER_SESSION_MAX),
        };
        for _ in 0..bounds.sessions {
            let worker = pool.start_worker()?;
            pool.workers().push(worker);
        }
        Ok(pool)
    }

    /// Does `work` in a session, again in others if the first was no good, and waits for it no longer than `limit`. What was done
    /// when nobody waited any more is undone. `None` if too many wait already.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Fn(&mut Desk<'_>) -> Result<T, Failure> + Send + Sync + 'static,
        undo: Option<Undo<T>>,
    ) -> Option<Result<T, KeyFault>> {
        let question = Arc::new(Question::new(limit, work, undo));
        if !self.queue.put(question.clone()) {
            self.replace_hanging();
            return None;
        }
        Some(question.wait().unwrap_or_else(|| {
            self.replace_hanging();
            Err(KeyFault::Unavailable(format!(
                "no answer from the token {} within {} ms",
                self.token.uri,
                limit.as_millis()
            )))
        }))
    }

    /// How many threads are lost in the module now.
    pub(crate) fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }

    /// Puts new threads in the place of those that the module does not give back, up to a bound.
    fn replace_hanging(&self) {
        for worker in self.workers().iter_mut() {
            let mut busy = worker.busy.lock().unwrap_or_else(PoisonError::into_inner);
            let hangs = busy.as_ref().is_some_and(|(since, limit)| since.elapsed() >= *limit);
            if !hangs || self.lost() >= self.lost_max {
                continue;
            }
            match self.start_worker() {
                Ok(successor) => {
                    tracing::warn!(token = %self.token.uri, "a PKCS#11 call does not return; another session takes over");
                    worker.replaced.store(true, Ordering::SeqCst);
                    self.lost.fetch_add(1, Ordering::SeqCst);
                    *busy = None;
                    drop(busy);
                    *worker = successor;
                }
                Err(fault) => tracing::error!(%fault, "failed to replace a PKCS#11 session"),
            }
        }
    }

    fn start_worker(&self) -> Result<Arc<Worker>, KeyFault> {
        let worker = Arc::new(Worker::default());
        let (seen, queue, lost, token) = (worker.clone(), self.queue.clone(), self.lost.clone(), self.token.clone());
        self.queue.somebody_comes();
        let started = std::thread::Builder::new().name("pkcs11".to_owned()).spawn(move || {
            work_off(&seen, &queue, token, &lost);
            queue.somebody_left();
        });
        if let Err(error) = started {
            self.queue.somebody_left();
            return Err(KeyFault::Unavailable(format!("no thread for a PKCS#11 session: {error}")));
        }
        Ok(worker)
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Arc<Worker>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Modules do not bear it well when the process ends while they close sessions.
impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.close(END_LIMIT);
    }
}

/// Until the pool is dropped, or another thread took over. The session is closed at the end: tokens have few.
#[allow(clippy::needless_pass_by_value)] // the last one to let go of the token closes its keeper
fn work_off(worker: &Worker, queue: &Queue, token: Arc<Token>, lost: &AtomicUsize) {
    let mut seat = Seat::new(token.clone());
    while let Some(question) = queue.take() {
        if question.is_given_up() {
            continue;
        }
        let busy = || worker.busy.lock().unwrap_or_else(PoisonError::into_inner);
        *busy() = Some((Stopwatch::start(), question.limit()));
        let no_session = put(question.as_ref(), &mut seat, &token);
        let mut busy = busy();
        *busy = None;
        // Decided under the lock under which it is set.
        let replaced = worker.replaced.load(Ordering::SeqCst);
        if replaced {
            lost.fetch_sub(1, Ordering::SeqCst);
        }
        drop(busy);
        if let Some(open) = no_session {
            queue.put_back(question);
            if !replaced {
                queue.stand_aside(|| token.sessions() < open);
            }
        }
        if replaced {
            break;
        }
    }
    seat.leave();
}

/// Has a question answered. If that takes a session which the token does not give, others may have one: says how many.
fn put(question: &dyn Asked, seat: &mut Seat, token: &Token) -> Option<usize> {
    // A panic ends the request, and the session in which it happened.
    match catch_unwind(AssertUnwindSafe(|| question.put_to(seat))) {
        Ok(Ok(())) => None,
        Ok(Err(Failure::Full { open, .. })) if open > 0 => Some(open),
        Ok(Err(failure)) => {
            question.fail(failure.into_fault());
            None
        }
        Err(_) => {
            seat.leave();
            question.fail(KeyFault::Unavailable(format!("a session of the token {} ended in a panic", token.uri)));
            None
        }
    }
}
