//! How many certificates a requester may get per second.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as GovernorClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::clock::Clock;
use crate::error::{Reason, Refusal};

/// A limit per requester; none if the rate is zero.
pub(crate) struct RequestRate(
    Option<RateLimiter<String, DashMapStateStore<String>, EngineClock, NoOpMiddleware<Moment>>>,
);

/// The engine's clock, as the limiter reads it.
#[derive(Clone)]
struct EngineClock(Arc<dyn Clock>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(Duration);

impl std::ops::Add<Nanos> for Moment {
    type Output = Self;

    fn add(self, other: Nanos) -> Self {
        Self(self.0.saturating_add(other.into()))
    }
}

impl Reference for Moment {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_sub(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.saturating_sub(duration.into()))
    }
}

impl GovernorClock for EngineClock {
    type Instant = Moment;

    fn now(&self) -> Moment {
        Moment(Duration::from_secs(self.0.now().unix()))
    }
}

impl RequestRate {
    pub(crate) fn new(per_requester_per_s: u32, burst_max: u32, clock: Arc<dyn Clock>) -> Self {
        let limiter = NonZeroU32::new(per_requester_per_s).map(|rate| {
            // The clock counts whole seconds, so at least a second's worth may come at once.
            let burst = NonZeroU32::new(burst_max).map_or(rate, |burst| burst.max(rate));
            RateLimiter::new(
                Quota::per_second(rate).allow_burst(burst),
                DashMapStateStore::default(),
                EngineClock(clock),
            )
        });
        Self(limiter)
    }

    pub(crate) fn admit(&self, requester: &str) -> Result<(), Refusal> {
        match &self.0 {
            Some(limiter) if limiter.check_key(&requester.to_owned()).is_err() => {
                Err(Refusal::new(Reason::RateLimited, "too many certificates in a short time").retry_after_s(1))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Forgets requesters that were not seen lately.
    pub(crate) fn forget_idle(&self) {
        if let Some(limiter) = &self.0 {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}
