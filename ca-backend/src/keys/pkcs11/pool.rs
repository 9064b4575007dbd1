//! Threads that own sessions, and the queue in front of them. A call that hangs in the module costs a thread and no caller.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::failure::Failure;
use super::session::{Desk, Seat};
use super::token::Token;
use crate::clock::Stopwatch;
use crate::error::KeyFault;

/// For each session, how many threads may be lost in a module that does not return before no more are put in their place.
const LOST_PER_SESSION_MAX: usize = 2;

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
    queue: Sender<Job>,
    waiting: Receiver<Job>,
    workers: Mutex<Vec<Arc<Worker>>>,
    lost: Arc<AtomicUsize>,
    lost_max: usize,
}

struct Job {
    limit: Duration,
    given_up: Arc<AtomicBool>,
    work: Box<dyn FnOnce(&mut Seat) + Send>,
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
        let (queue, waiting) = bounded(bounds.queue_max);
        let pool = Self {
            token,
            queue,
            waiting,
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

    /// Does `work` in a session, once more in another one if the first was no good, and waits for it no longer than `limit`.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Fn(&mut Desk<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, KeyFault> {
        let (answer, answered) = sync_channel(1);
        let given_up = Arc::new(AtomicBool::new(false));
        let job = Job {
            limit,
            given_up: given_up.clone(),
            work: Box::new(move |seat| {
                let _nobody_waits_any_more = answer.send(seat.perform(&work));
            }),
        };
        match self.queue.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.replace_hanging();
                return Err(KeyFault::Unavailable(format!("too many requests wait for the token {}", self.token.uri)));
            }
            Err(TrySendError::Disconnected(_)) => {
                return Err(KeyFault::Unavailable("the key store is being closed".to_owned()));
            }
        }
        match answered.recv_timeout(limit) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => {
                given_up.store(true, Ordering::SeqCst);
                self.replace_hanging();
                Err(KeyFault::Unavailable(format!(
                    "no answer from the token {} within {} ms",
                    self.token.uri,
                    limit.as_millis()
                )))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(KeyFault::Unavailable(format!("a session of the token {} ended in a panic", self.token.uri)))
            }
        }
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
        let (seen, waiting, lost) = (worker.clone(), self.waiting.clone(), self.lost.clone());
        let mut seat = Seat::new(self.token.clone());
        std::thread::Builder::new()
            .name("pkcs11".to_owned())
            .spawn(move || work_off(&seen, &waiting, &mut seat, &lost))
            .map_err(|error| KeyFault::Unavailable(format!("no thread for a PKCS#11 session: {error}")))?;
        Ok(worker)
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Arc<Worker>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until the pool is dropped, or another thread took over. The session is closed at the end: tokens have few.
fn work_off(worker: &Worker, waiting: &Receiver<Job>, seat: &mut Seat, lost: &AtomicUsize) {
    for job in waiting {
        if job.given_up.load(Ordering::SeqCst) {
            continue;
        }
        let busy = || worker.busy.lock().unwrap_or_else(PoisonError::into_inner);
        *busy() = Some((Stopwatch::start(), job.limit));
        // A panic ends the request, and the session in which it happened.
        if catch_unwind(AssertUnwindSafe(|| (job.work)(seat))).is_err() {
            seat.leave();
        }
        let mut busy = busy();
        *busy = None;
        // Decided under the lock under which it is set.
        if worker.replaced.load(Ordering::SeqCst) {
            lost.fetch_sub(1, Ordering::SeqCst);
            break;
        }
    }
    seat.leave();
}
