//! Timed work, on a thread of its own: nothing here may hold up a request.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use ca_backend::{AuthorityState, Engine, KeyHealth};
use config::Settings;

use crate::device_management::IntuneLink;
use crate::server_certificate::ServerCertificate;
use crate::starter::{self, StarterError};
use crate::telemetry::{self, Figures};
use crate::validation::Validator;
use crate::wiring::Wiring;

/// The time between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Validations and expired objects handled at a time.
const STEP: usize = 100;
/// Steps of expiry in one round, so that a busy hour is cleared within the next one.
const EXPIRY_STEPS_MAX: usize = 20;
/// Rounds between two looks at orders that a fault or a crash stopped.
const RESUME_ROUNDS: u64 = 10;
/// Rounds between two walks over everything of a kind.
const HOUR_ROUNDS: u64 = 3_600;
/// Rounds between two looks at what rarely changes.
const SLOW_ROUNDS: u64 = 60;
/// Rounds between two attempts at a server certificate that could not be made, or at an endpoint that could not be mounted.
const RETRY_ROUNDS: u64 = 10;

/// Everything that has to be done again and again.
pub struct Jobs {
    /// The engine's own upkeep.
    pub engine: Engine,
    /// ACME validations and expiry.
    pub wiring: Arc<Wiring>,
    /// What to fold and set.
    pub figures: Figures,
}

/// A panic ends one piece of work. If it ended the thread, there would be no CRL, no renewal and no retry until the next restart, and
/// nobody would notice.
fn survive(what: &str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("panicked when it was to {what}; it will be tried again");
    }
}

/// Keeps the server certificate until the sender of `stop` is gone. It has a thread of its own, so that nothing else that is slow
/// lets it expire.
pub fn keep_server_certificate(mut server_certificate: ServerCertificate, stop: &Receiver<()>) {
    let (mut round, mut due) = (0_u64, 0_u64);
    loop {
        if round >= due {
            let mut pause = RETRY_ROUNDS;
            survive("keep the server certificate", || match server_certificate.keep() {
                Ok(true) => pause = SLOW_ROUNDS,
                Ok(false) => {
                    if round.is_multiple_of(SLOW_ROUNDS) {
                        tracing::warn!(why = server_certificate.waits_for(), "HTTPS turns every client away");
                    }
                    pause = 1;
                }
                Err(error) => tracing::error!(%error, "failed to keep the server certificate; it will be tried again"),
            });
            due = round + pause;
        }
        round += 1;
        match stop.recv_timeout(ROUND) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Makes the starter PKI once its key store is there, or gives up when the sender of `stop` is gone. A thread of its own, since a
/// token that hangs holds each attempt up.
pub fn make_starter(engine: &Engine, settings: &Settings, wiring: &Wiring, stop: &Receiver<()>) {
    let mut waits = true;
    while waits && stop.recv_timeout(ROUND) == Err(RecvTimeoutError::Timeout) {
        survive("make the starter PKI", || match starter::prepare(engine, settings) {
            Ok(_) => {
                wiring.remount();
                waits = false;
                let text = starter::text_path(settings);
                tracing::info!(text = %text.display(), "the starter PKI is made; the text says how to use it");
            }
            Err(StarterError::Waits(why)) => tracing::debug!(why, "the starter PKI still waits"),
            Err(error) => {
                waits = false;
                tracing::error!(%error, "there is no starter PKI: put right what it says, then start the daemon again");
            }
        });
    }
}

impl Jobs {
    /// Works until the sender of `stop` is gone.
    pub fn run(self, stop: &Receiver<()>) {
        let mut round = 0_u64;
        loop {
            survive("maintain the engine", || self.engine.maintain());
            survive("go on with ACME", || self.acme());
            survive("ask Intune what to revoke", || self.wiring.intunes().iter().for_each(IntuneLink::poll));
            if round.is_multiple_of(SLOW_ROUNDS) {
                survive("forget old calls of device management", || self.mdm());
            }
            if round.is_multiple_of(RETRY_ROUNDS) {
                survive("mount endpoints that could not be mounted", || self.wiring.retry());
            }
            if round.is_multiple_of(RESUME_ROUNDS) {
                survive("go on with unfinished ACME orders", || self.resume_acme());
            }
            if round.is_multiple_of(HOUR_ROUNDS) {
                survive("tidy up ACME", || self.tidy_acme());
            }
            if round.is_multiple_of(SLOW_ROUNDS) {
                survive("renew the certificates for perspectives", || self.wiring.perspectives().renew());
            }
            survive("fold the figures", || self.figures.fold());
            if round.is_multiple_of(SLOW_ROUNDS) {
                survive("set the gauges", || self.gauges());
            }
            round += 1;
            match stop.recv_timeout(ROUND) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn mdm(&self) {
        for _ in 0..EXPIRY_STEPS_MAX {
            match mdm::Mdm::expire(&self.engine) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(?error, "failed to forget old calls of device management");
                    break;
                }
            }
        }
    }

    fn acme(&self) {
        for validator in self.wiring.acme_validators() {
            let Some(acme) = validator.acme() else { continue };
            match acme.due_validations(STEP) {
                Ok(due) => due.into_iter().for_each(|validation| validator.begin(validation)),
                Err(error) => tracing::warn!(?error, "failed to look for due validations"),
            }
            for _ in 0..EXPIRY_STEPS_MAX {
                match acme.expire(STEP) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(?error, "failed to remove expired ACME objects");
                        break;
                    }
                }
            }
        }
    }

    fn resume_acme(&self) {
        for acme in self.wiring.acme_validators().iter().filter_map(Validator::acme) {
            if let Err(error) = acme.resume(STEP) {
                tracing::warn!(?error, "failed to go on with unfinished ACME orders");
            }
        }
    }

    fn tidy_acme(&self) {
        for acme in self.wiring.acme_validators().iter().filter_map(Validator::acme) {
            if let Err(error) = acme.forget_limits() {
                tracing::warn!(?error, "failed to forget limits that are free again");
            }
        }
    }

    /// The figures that are states, not events.
    fn gauges(&self) {
        let now = self.engine.now();
        for (issuer, crl) in self.engine.crl_ages() {
            #[allow(clippy::cast_precision_loss)] // seconds
            metrics::gauge!(telemetry::CRL_AGE_SECONDS, "issuer" => issuer).set(now.since_s(crl.this_update) as f64);
        }
        for authority in self.engine.authorities().unwrap_or_default() {
            if let (Some(end), AuthorityState::Active) = (authority.not_after, authority.state) {
                #[allow(clippy::cast_precision_loss)] // seconds
                metrics::gauge!(telemetry::AUTHORITY_EXPIRES_SECONDS, "authority" => authority.name.to_string())
                    .set(end.since_s(now) as f64);
            }
        }
        let store = f64::from(u8::from(self.engine.store_health().is_ok()));
        metrics::gauge!(telemetry::PART_USABLE, "part" => "store").set(store);
        for (name, health) in self.engine.key_health() {
            let usable = f64::from(u8::from(matches!(health, KeyHealth::Usable | KeyHealth::Reduced(_))));
            metrics::gauge!(telemetry::PART_USABLE, "part" => format!("keys {name}")).set(usable);
        }
    }
}
