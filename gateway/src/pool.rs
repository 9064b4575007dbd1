//! Bounded lanes of worker threads.
//!
//! Protocols block: on the store, on key stores, on other hosts. Each kind of work has its own lane, so that one that is
//! stuck starves no other. A full lane refuses at once, so that a client is told to come back instead of waiting in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use ca_backend::Stopwatch;
use metrics::{Counter, Gauge, Histogram};
use tokio::sync::oneshot;

use crate::telemetry;

type Task = Box<dyn FnOnce(&Figures) + Send>;

/// Threads of one name and the bounded queue in front of them.
pub struct Lane {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    waiting_max: usize,
    figures: Figures,
}

#[derive(Default)]
struct Queue {
    /// By number, so that the oldest is first and one that nobody waits for any more is found.
    waiting: BTreeMap<u64, Task>,
    /// The number that the next task gets.
    next: u64,
    stopped: bool,
}

/// A task's place in the queue, given back when its client has gone before its turn came.
struct Place {
    shared: Arc<Shared>,
    number: u64,
    answered: bool,
}

impl Place {
    /// Its task is done.
    fn leave(mut self) {
        self.answered = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.forget(self.number);
        }
    }
}

struct Figures {
    waiting: Gauge,
    busy: Gauge,
    refused: Counter,
    panics: Counter,
    wait: Histogram,
}

/// The queue of a lane is full, or the lane has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The work panicked. The thread that did it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

impl Lane {
    /// Starts `threads` threads called `name`, with room for `waiting_max` tasks that wait for one.
    ///
    /// The metrics recorder must be installed before, or the lane's figures go nowhere.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn start(name: &'static str, threads: usize, waiting_max: usize) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            wake: Condvar::new(),
            waiting_max,
            figures: Figures::of(name),
        });
        let lane = Arc::new(Self { shared: Arc::clone(&shared), threads: Mutex::new(Vec::with_capacity(threads)) });
        for number in 0..threads {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || shared.work())?;
            lane.threads().push(thread);
        }
        Ok(lane)
    }

    /// Hands `work` to the lane; the future gives its result.
    ///
    /// Whoever drops the future before the work has begun takes it out of the queue; work that has begun is always finished.
    ///
    /// # Errors
    /// [`Full`] at once, without having run anything. The future fails with [`Panicked`].
    pub fn run<T, W>(&self, work: W) -> Result<impl Future<Output = Result<T, Panicked>> + Send + use<T, W>, Full>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let waited = Stopwatch::start();
        let number = self.shared.enqueue(Box::new(move |figures| {
            figures.wait.record(waited.elapsed());
            figures.busy.increment(1.0);
            let done = catch_unwind(AssertUnwindSafe(work));
            // before the answer, so that nobody who has it finds the thread still at work
            figures.busy.decrement(1.0);
            match done {
                Ok(value) => drop(answer.send(value)),
                Err(_) => figures.panics.increment(1),
            }
        }))?;
        let place = Place { shared: Arc::clone(&self.shared), number, answered: false };
        Ok(async move {
            let result = result.await;
            place.leave();
            result.map_err(|_| Panicked)
        })
    }

    /// Takes no more work, finishes what waits, and ends the threads. Blocks until they have ended.
    pub fn stop(&self) {
        self.shared.stop();
        for thread in self.threads().drain(..) {
            // work is caught, so a thread that panicked is a bug of this file; there is nothing left to save
            drop(thread.join());
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("waiting_max", &self.shared.waiting_max).finish_non_exhaustive()
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // no code of others runs under this lock, so a poisoned one still holds a whole queue
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, task: Task) -> Result<u64, Full> {
        let mut queue = self.queue();
        if queue.stopped || queue.waiting.len() >= self.waiting_max {
            drop(queue);
            self.figures.refused.increment(1);
            return Err(Full);
        }
        let number = queue.next;
        queue.next += 1;
        queue.waiting.insert(number, task);
        drop(queue);
        self.figures.waiting.increment(1.0);
        self.wake.notify_one();
        Ok(number)
    }

    /// Takes a task out of the queue, if it is still there.
    fn forget(&self, number: u64) {
        let task = self.queue().waiting.remove(&number);
        if task.is_some() {
            self.figures.waiting.decrement(1.0);
        }
    }

    fn work(&self) {
        while let Some(task) = self.next() {
            self.figures.waiting.decrement(1.0);
            task(&self.figures);
        }
    }

    fn next(&self) -> Option<Task> {
        let mut queue = self.queue();
        loop {
            if let Some((_, task)) = queue.waiting.pop_first() {
                return Some(task);
            }
            if queue.stopped {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn stop(&self) {
        self.queue().stopped = true;
        self.wake.notify_all();
    }
}

impl Figures {
    fn of(lane: &'static str) -> Self {
        Self {
            waiting: metrics::gauge!(telemetry::LANE_WAITING, "lane" => lane),
            busy: metrics::gauge!(telemetry::LANE_BUSY_THREADS, "lane" => lane),
            refused: metrics::counter!(telemetry::LANE_REFUSED, "lane" => lane),
            panics: metrics::counter!(telemetry::LANE_PANICS, "lane" => lane),
            wait: metrics::histogram!(telemetry::LANE_WAIT_SECONDS, "lane" => lane),
        }
    }
}
