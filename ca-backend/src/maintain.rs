//! What the engine has to do by itself, in small steps that may be repeated at any time.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError, TryLockError};

use crate::audit::{Action, AuditRecord};
use crate::clock::Time;
use crate::engine::Engine;
use crate::error::Error;
use crate::record::{self, CertificateForm, InFlightForm, RevokedForm, StatusForm};
use crate::registry::Issuer;
use crate::status::RevocationReason;
use crate::store::{Batch, CommitError, Range, Space};

/// Records handled in one step.
const STEP: usize = 500;
/// Steps of one kind in one call, so that what piles up under load goes away as fast, and one call still ends.
const STEPS_MAX: usize = 200;
/// Seconds until the daemon asks again for what was refused to itself.
const REFUSED_RETRY_S: u64 = 600;

impl Engine {
    /// Does what the first client needs: authorities that wait for their certificate get it, and each issuer has its OCSP responder,
    /// its registration authorities and a CRL. How long it takes depends on the number of issuers, never on what is stored. Faults
    /// are logged; [`Engine::maintain`] tries again.
    pub fn prepare_to_serve(&self) {
        self.provision_waiting();
        let registry = self.registry();
        for issuer in registry.issuers.values() {
            self.attempt("renew an OCSP responder", issuer, || self.keep_responder(issuer));
        }
        for (authority, algorithm) in self.kept_registration_authorities() {
            if let Some(issuer) = registry.issuer_of(&authority).filter(|issuer| issuer.may_sign()) {
                self.attempt("renew a registration authority", issuer, || {
                    self.renew_registration_authority(&authority, algorithm)
                });
            }
        }
        self.publish_missing_crls();
    }

    /// Does what is due: what [`Engine::prepare_to_serve`] does, CRLs that are old or miss a change, serials that were reserved and
    /// never signed, deletions, and records whose time is over. Faults are logged; the next call tries again.
    pub fn maintain(&self) {
        self.prepare_to_serve();
        self.publish_due_crls();
        log("close reserved serials", self.close_reserved());
        log("forget old requests", self.forget_old_requests());
        log("remove credentials without an endpoint", self.remove_orphaned_credentials());
        log("remove records without an endpoint", self.remove_orphaned_records());
        log("give up and forget tickets", self.tidy_tickets());
        log("forget old credentials", self.forget_old_credentials());
        log("take back certificates of untold devices", self.take_back_untold());
        log("record refusals that were counted", self.summarize_refusals());
        if self.registry().authorities.values().any(|authority| authority.deleting) {
            log("delete an authority", self.go_on_deleting());
        }
        self.inner.rate.forget_idle();
        self.inner.attempts.forget_idle(self.now());
    }

    /// Keeps the PKI from being changed, unless somebody changes it just now. Until then, the picture of it is what the store says.
    pub(crate) fn unless_changing(&self) -> Option<MutexGuard<'_, ()>> {
        match self.inner.changes.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Goes on with authorities whose certificate a fault stopped, unless somebody changes the PKI just now: one who is making an
    /// authority gets its certificate himself.
    fn provision_waiting(&self) {
        let Some(_one_at_a_time) = self.unless_changing() else { return };
        let registry = self.registry();
        for issuer in registry.issuers.values() {
            let stays = registry.authorities.get(&issuer.form.authority).is_some_and(|authority| !authority.deleting);
            if issuer.active.is_none() && issuer.form.csr.is_none() && stays {
                self.attempt("provision an authority", issuer, || self.provision(issuer.number));
            }
        }
    }

    /// Does one thing for an issuer. After a fault the next call tries again; what was refused will be refused again, so that waits,
    /// or each call would leave another record of it.
    fn attempt(&self, what: &'static str, issuer: &Issuer, work: impl FnOnce() -> Result<(), Error>) {
        let name = (what, issuer.number);
        let now = self.now();
        if self.put_off().get(&name).is_some_and(|until| now < *until) {
            return;
        }
        let result = work();
        if let Err(Error::Refused(_)) = &result {
            self.put_off().insert(name, now.plus_s(REFUSED_RETRY_S));
        } else {
            self.put_off().remove(&name);
        }
        log(what, result);
    }

    fn put_off(&self) -> MutexGuard<'_, HashMap<(&'static str, u32), Time>> {
        self.inner.put_off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A serial that was recorded and not signed within the repeat window is closed: stored as what it is, and on the CRL.
    fn close_reserved(&self) -> Result<(), Error> {
        let now = self.now();
        for entry in self.inner.store.scan(Space::InFlight, &Range::default(), STEP)? {
            let form: InFlightForm = record::decode(&entry.value)?;
            if now < form.at.plus_s(self.inner.settings.repeat_window_s) {
                // Serials sort by time: all that follow are younger.
                break;
            }
            let serial = crate::serial::Serial::from_magnitude(&entry.key)?;
            let issuer = form.certificate.issuer;
            let closed = CertificateForm { status: StatusForm::Closed { at: now }, ..form.certificate };
            let revoked = RevokedForm(now, RevocationReason::Unspecified, None, closed.not_after);
            let batch = Batch::new()
                .expect(Space::InFlight, entry.key.clone(), entry.version)
                .delete(Space::InFlight, entry.key.clone())
                .delete(Space::Origin, form.origin_key.clone())
                .delete(Space::ArchivedKey, entry.key.clone())
                .put(Space::Certificate, entry.key.clone(), record::encode(&closed)?)
                .put(Space::Revoked, [issuer.to_be_bytes().as_slice(), &entry.key].concat(), revoked.encode())
                .add(crate::revoke::revision_counter(issuer), 1);
            let record = AuditRecord::new(now, Action::Closed)
                .origin(&form.origin.0)
                .evidence(&form.facts.0)
                .authority(&form.authority)
                .serial(&serial)
                .detail("reserved, never signed");
            match self.inner.store.commit(record.in_batch(batch)?) {
                Ok(_) => self.crl_is_stale(issuer, now),
                // It was signed at the last moment.
                Err(CommitError::Conflict) => {}
                Err(CommitError::Fault(fault)) => return Err(fault.into()),
            }
        }
        Ok(())
    }

    /// First outcomes lie by window; those before the last one are not asked for any more. Each call goes on where the one before
    /// stopped: what was removed may lie in the way until the journal is fed.
    fn forget_old_requests(&self) -> Result<(), Error> {
        let window = self.inner.settings.repeat_window_s.max(1);
        let kept = (self.now().unix() / window).saturating_sub(1);
        let mut swept = self.inner.requests_swept.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..STEPS_MAX {
            let range = Range { from: swept.clone(), until: Some(kept.to_be_bytes().to_vec()), reverse: false };
            let old = self.inner.store.scan(Space::Origin, &range, STEP)?;
            let Some(last) = old.last() else { break };
            let next = [last.key.as_slice(), &[0]].concat();
            let batch = old.into_iter().fold(Batch::new(), |batch, entry| batch.delete(Space::Origin, entry.key));
            self.commit_or_later(batch)?;
            *swept = next;
        }
        Ok(())
    }
}

pub(crate) fn log(what: &str, result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::warn!(?error, "failed to {what}; it will be tried again");
    }
}
