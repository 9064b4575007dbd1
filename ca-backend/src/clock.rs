//! The one place where wall time and entropy enter.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment in whole seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Time(u64);

/// 9999-12-31T23:59:59Z, the last moment that a certificate can name.
const LAST_S: u64 = 253_402_300_799;

impl Time {
    /// The moment `seconds` after 1970; moments past the year 9999 become its last second.
    #[must_use]
    pub fn from_unix(seconds: u64) -> Self {
        Self(seconds.min(LAST_S))
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn unix(self) -> u64 {
        self.0
    }

    /// This moment moved forward, stopping at the year 9999.
    #[must_use]
    pub fn plus_s(self, seconds: u64) -> Self {
        Self::from_unix(self.0.saturating_add(seconds))
    }

    /// This moment moved back, stopping at 1970.
    #[must_use]
    pub fn minus_s(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }

    /// Seconds from `earlier` to this moment, zero if it lies in the future.
    #[must_use]
    pub fn since_s(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment as a DER date; never fails, since the range is bounded by construction.
    #[must_use]
    pub fn date_time(self) -> der::DateTime {
        der::DateTime::from_unix_duration(Duration::from_secs(self.0)).unwrap_or(der::DateTime::INFINITY)
    }
}

impl From<der::DateTime> for Time {
    fn from(value: der::DateTime) -> Self {
        Self::from_unix(value.unix_duration().as_secs())
    }
}

/// RFC 3339 in UTC with whole seconds: `2026-01-08T00:00:00Z`.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.date_time().fmt(f)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// RFC 3339 in UTC with whole seconds.
impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<der::DateTime>()
            .map(Self::from)
            .map_err(|_| format!("{text:?} is not a time such as 2026-01-08T00:00:00Z"))
    }
}

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Time;
}

/// Gives randomness that nobody can guess.
pub trait Rng: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// `N` random octets.
pub fn random<const N: usize>(rng: &dyn Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill(&mut bytes);
    bytes
}

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place
    fn now(&self) -> Time {
        Time::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }
}

/// The random source of aws-lc-rs.
#[derive(Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    #[allow(clippy::expect_used)] // without entropy nothing may go on
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("the system's random source failed");
    }
}

/// Measures how long something takes; unaffected by changes of the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[allow(clippy::disallowed_methods)] // the one place
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(feature = "testing")]
pub use testing::{FakeClock, SeededRng};

#[cfg(feature = "testing")]
mod testing {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Clock, Rng, Time};

    /// A clock that stands still until it is moved.
    #[derive(Debug)]
    pub struct FakeClock(AtomicU64);

    impl FakeClock {
        /// Stands at `start`.
        #[must_use]
        pub fn at(start: Time) -> Self {
            Self(AtomicU64::new(start.unix()))
        }

        /// Moves to `time`, also backwards.
        pub fn set(&self, time: Time) {
            self.0.store(time.unix(), Ordering::SeqCst);
        }

        /// Moves forward.
        pub fn advance_s(&self, seconds: u64) {
            self.0.fetch_add(seconds, Ordering::SeqCst);
        }
    }

    impl Clock for FakeClock {
        fn now(&self) -> Time {
            Time::from_unix(self.0.load(Ordering::SeqCst))
        }
    }

    /// The same sequence for the same seed (SHA-256 in counter mode).
    #[derive(Debug)]
    pub struct SeededRng(Mutex<u64>, u64);

    impl SeededRng {
        /// Starts the sequence of `seed`.
        #[must_use]
        pub fn new(seed: u64) -> Self {
            Self(Mutex::new(0), seed)
        }
    }

    impl Rng for SeededRng {
        fn fill(&self, bytes: &mut [u8]) {
            let mut counter = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for chunk in bytes.chunks_mut(32) {
                *counter += 1;
                let block = [self.1.to_be_bytes(), counter.to_be_bytes()].concat();
                let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &block);
                for (to, from) in chunk.iter_mut().zip(digest.as_ref()) {
                    *to = *from;
                }
            }
        }
    }
}
