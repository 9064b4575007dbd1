//! Revocation, and what tells the world of it: CRLs and OCSP answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;

use crate::audit::{Action, AuditRecord};
use crate::certificate::{names_of, public_key_of};
use crate::clock::Time;
use crate::crl::{CrlDraft, ENTRY_BYTES_USUAL, UnsignedCrl};
use crate::engine::Engine;
use crate::error::{Error, Fault, Reason, Refusal, StoreFault};
use crate::inventory::{self, CertificateState};
use crate::issue::Prepared;
use crate::ocsp::{self, Answer, OcspDraft};
use crate::policy;
use crate::record::{self, CertificateForm, CrlHeadForm, EventForm, EventKindForm, RevokedForm, StatusForm};
use crate::registry::Issuer;
use crate::request::{RevocationRequest, StatusChange};
use crate::serial::Serial;
use crate::status::{CertStatus, OcspQuery, RevocationReason, SignedCrl, SignedOcsp};
use crate::store::{Batch, CommitError, Log, Range, Space};
use crate::{figures, sha256};

/// A change of status that is durable, and visible in OCSP at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Revocation {
    /// Which certificate.
    pub serial: Serial,
    /// Its state now.
    pub state: CertificateState,
    /// Since when.
    pub at: Time,
}

/// An issuer's CRL as it is served.
pub(crate) struct PublishedCrl {
    /// `None` until the first one is published.
    crl: Option<Arc<SignedCrl>>,
    /// Since when it does not say everything.
    stale_since: Option<Time>,
    /// Not before this moment after a failure.
    retry_at: Time,
}

/// Small enough for one commit of every storage engine.
const CHUNK_OCTETS: usize = 128 << 10;
const SCAN_ENTRIES: usize = 10_000;
/// Seconds between attempts to publish a CRL that cannot be published.
const CRL_RETRY_S: u64 = 30;

impl Engine {
    /// Revokes, holds or unholds.
    ///
    /// # Errors
    /// A refusal, which is in the audit log already, or a fault, after which the same request may be sent again.
    pub fn revoke(&self, request: &RevocationRequest) -> Result<Revocation, Error> {
        self.change_status(request).or_else(|error| {
            if let Error::Refused(refusal) = &error {
                let record = AuditRecord::new(self.now(), Action::Refused)
                    .origin(&request.origin)
                    .evidence(&request.evidence.facts())
                    .serial(&request.serial)
                    .detail(format!("{}: {}", refusal.reason().name(), refusal.private()));
                self.commit_or_later(record.in_batch(Batch::new())?)?;
            }
            Err(error)
        })
    }

    fn change_status(&self, request: &RevocationRequest) -> Result<Revocation, Error> {
        let serial = &request.serial;
        let unknown =
            || Refusal::new(Reason::UnknownCertificate, format!("there is no certificate with serial {serial}"));
        let found = self.inner.store.get(Space::Certificate, serial.as_bytes())?.ok_or_else(unknown)?;
        let form: CertificateForm = record::decode(&found.value)?;
        if matches!(form.status, StatusForm::Closed { .. }) {
            return Err(unknown().into());
        }
        let facts = request.evidence.facts();
        let token = self.token_may_change(&facts, &request.origin, &form, request.change)?;
        let holder = form.holder.as_ref().map(|holder| holder.requester.as_str());
        let requesters = [Some(form.requester.as_str()), holder];
        policy::authorize_revocation(&facts, serial, &requesters, &names_of(&form.der)?, token.as_deref())?;

        let at = self.now();
        let (status, event, action) = next_status(form.status, request.change, at)?;
        let revoked_key = revoked_key(form.issuer, serial);
        let changed = CertificateForm { status, ..form.clone() };
        let mut batch = Batch::new()
            .expect(Space::Certificate, serial.as_bytes(), found.version)
            .put(Space::Certificate, serial.as_bytes(), record::encode(&changed)?)
            .add(inventory::counter(&form, form.status.state()), -1)
            .add(inventory::counter(&form, status.state()), 1)
            .add(revision_counter(form.issuer), 1)
            .append(Log::Event, record::encode(&EventForm(at, event, *serial, form.issuer))?);
        batch = match status {
            StatusForm::Revoked { at, reason, invalidity } => {
                batch.put(Space::Revoked, revoked_key, RevokedForm(at, reason, invalidity, form.not_after).encode())
            }
            StatusForm::Good | StatusForm::Closed { .. } => batch.delete(Space::Revoked, revoked_key),
        };
        if matches!(request.change, StatusChange::Revoke { reason: RevocationReason::KeyCompromise, .. }) {
            batch = batch.put(Space::BlockedKey, sha256(&public_key_of(&form.der)?), Vec::new());
        }
        let change = match request.change {
            StatusChange::Revoke { reason, .. } => reason.to_string(),
            StatusChange::Hold => RevocationReason::CertificateHold.to_string(),
            StatusChange::Unhold => String::new(),
        };
        let record = AuditRecord::new(at, action)
            .origin(&request.origin)
            .evidence(&facts)
            .serial(serial)
            .detail([change.as_str(), request.comment.as_str()].join(" ").trim());
        match self.inner.store.commit(record.in_batch(batch)?) {
            Ok(_) => {}
            Err(CommitError::Conflict) => {
                return Err(Refusal::new(Reason::Conflict, "the certificate's status changed at the same time").into());
            }
            Err(CommitError::Fault(fault)) => return Err(fault.into()),
        }
        self.inner.responses.purge(serial);
        self.crl_is_stale(form.issuer, at);
        if self.registry().issuers.values().any(|issuer| issuer.form.serial.as_ref() == Some(serial)) {
            self.reload()?;
        }
        tracing::info!(
            %serial,
            change = event_name(event),
            reason = change,
            protocol = %request.origin.protocol,
            endpoint = request.origin.endpoint.as_ref().map(tracing::field::display),
            requester = facts.requester,
            request = request.origin.request_id,
            "changed a certificate's status"
        );
        metrics::counter!(figures::STATUS_CHANGES, "change" => event_name(event)).increment(1);
        Ok(Revocation { serial: *serial, state: status.state(), at })
    }

    /// What is known of a serial under the issuer at `path`.
    ///
    /// # Errors
    /// The store's fault.
    pub fn status(&self, path: &str, serial: &Serial) -> Result<CertStatus, Error> {
        match self.registry().issuer_at(path) {
            Some(issuer) => self.status_under(issuer.number, serial),
            None => Ok(CertStatus::Unknown),
        }
    }

    fn status_under(&self, issuer: u32, serial: &Serial) -> Result<CertStatus, Error> {
        if let Some(form) = self.certificate_form(serial)? {
            if form.issuer != issuer {
                return Ok(CertStatus::Unknown);
            }
            return Ok(match form.status {
                StatusForm::Good => CertStatus::Good,
                StatusForm::Revoked { at, reason, invalidity } => CertStatus::Revoked { at, reason, invalidity },
                StatusForm::Closed { at } => {
                    CertStatus::Revoked { at, reason: RevocationReason::Unspecified, invalidity: None }
                }
            });
        }
        let reserved = self.inner.store.get(Space::InFlight, serial.as_bytes())?;
        Ok(if reserved.is_some() { CertStatus::Reserved } else { CertStatus::Unknown })
    }

    /// Answers an OCSP query: from memory if it can, else freshly signed by the issuer's responder.
    ///
    /// # Errors
    /// `Reason::UnknownCertificate` if no issuer here is meant, or a fault.
    pub fn ocsp(&self, query: &OcspQuery) -> Result<Arc<SignedOcsp>, Error> {
        if let Some(answer) = self.ocsp_from_memory(query) {
            return Ok(answer);
        }
        let not_ours = || Refusal::new(Reason::UnknownCertificate, "the certificate's issuer is none of ours");
        let first = query.certificates.first().ok_or_else(not_ours)?;
        let registry = self.registry();
        let issuer = registry
            .issuers
            .values()
            .find(|issuer| issuer.active.as_ref().is_some_and(|active| active.ocsp && active.hashes.names(first)))
            .ok_or_else(not_ours)?;
        let responder = registry.responders.get(&issuer.number).ok_or(Fault::TryLater { after_s: 5 })?;
        let active = issuer.active.as_ref().ok_or(Fault::TryLater { after_s: 5 })?;

        let epoch =
            Serial::from_integer(&first.serial).ok().map(|serial| (serial, self.inner.responses.epoch(&serial)));
        let now = self.signing_time()?;
        if responder.form.not_after <= now {
            return Err(Fault::TryLater { after_s: 30 }.into());
        }
        let next_update = now.plus_s(self.inner.settings.ocsp_validity_s).min(responder.form.not_after);
        let archive_cutoff = Some(now.minus_s(self.inner.settings.status_retention_s));
        let mut answers = Vec::with_capacity(query.certificates.len());
        for id in &query.certificates {
            let status = match Serial::from_integer(&id.serial) {
                Ok(serial) if active.hashes.names(id) => self.status_under(issuer.number, &serial)?,
                Ok(_) | Err(_) => CertStatus::Unknown,
            };
            answers.push(Answer { cert_id_der: &id.der, status, this_update: now, next_update, archive_cutoff });
        }
        let known = answers.iter().all(|answer| matches!(answer.status, CertStatus::Good | CertStatus::Revoked { .. }));
        // A serial has one minimal form and any number of padded ones.
        let padded = matches!(first.serial.as_slice(), [0, next, ..] if next & 0x80 == 0);
        let cacheable = known && query.nonce.is_none() && !padded;
        let draft = OcspDraft {
            responder_key_hash: responder.key_hash,
            produced_at: now,
            answers,
            nonce: query.nonce.as_deref(),
        };
        let data = draft.encode().map_err(Fault::from)?;
        let signature = self.inner.keys.sign(responder.form.key.reference(), &data).map_err(Fault::from)?;
        let algorithm = responder.form.algorithm.signature_algorithm();
        let der =
            ocsp::assemble(&data, &algorithm, &signature, Some(&responder.form.certificate)).map_err(Fault::from)?;
        let answer = Arc::new(SignedOcsp::new(der, now, now, next_update, cacheable));
        if let (true, Some(key), Some((serial, epoch))) = (cacheable, query.cache_key(), epoch) {
            self.inner.responses.keep(&serial, key, &answer, epoch);
        }
        metrics::counter!(figures::OCSP_SIGNED, "issuer" => issuer.path.clone()).increment(1);
        Ok(answer)
    }

    /// Answers an OCSP query without signing and without the store, if such an answer is at hand.
    #[must_use]
    pub fn ocsp_from_memory(&self, query: &OcspQuery) -> Option<Arc<SignedOcsp>> {
        let serial = Serial::from_integer(&query.certificates.first()?.serial).ok()?;
        let answer = self.inner.responses.find(&serial, query.cache_key()?)?;
        // Replaced early, so that no client gets an answer in its last moments.
        let margin_s = (answer.next_update.since_s(answer.this_update) / 4).min(3_600);
        (self.now().plus_s(margin_s) < answer.next_update).then_some(answer)
    }

    /// The CRL of the issuer at `path`.
    ///
    /// # Errors
    /// `Reason::UnknownCertificate` if there is no such issuer; `Fault::TryLater` before its first CRL.
    pub fn crl(&self, path: &str) -> Result<Arc<SignedCrl>, Error> {
        let registry = self.registry();
        let issuer = registry
            .issuer_at(path)
            .filter(|issuer| issuer.form.key.is_some() && issuer.active.is_some())
            .ok_or_else(|| Refusal::new(Reason::UnknownCertificate, format!("there is no issuer {path:?} here")))?;
        let crls = self.crls();
        let found = crls.get(&issuer.number).and_then(|published| published.crl.clone());
        found.ok_or(Error::Fault(Fault::TryLater { after_s: 5 }))
    }

    /// The certificate of the issuer at `path`, and those above it, DER, the root last.
    #[must_use]
    pub fn issuer_chain(&self, path: &str) -> Option<Vec<Bytes>> {
        Some(self.registry().issuer_at(path)?.active.as_ref()?.chain.clone())
    }

    /// Makes and publishes a CRL now.
    ///
    /// # Errors
    /// `Reason::UnknownCertificate` if there is no such issuer, or a fault; the CRL in force then stays.
    pub fn publish_crl(&self, path: &str) -> Result<Arc<SignedCrl>, Error> {
        let registry = self.registry();
        let issuer = registry
            .issuer_at(path)
            .ok_or_else(|| Refusal::new(Reason::UnknownCertificate, format!("there is no issuer {path:?} here")))?;
        self.publish(issuer)
    }

    fn publish(&self, issuer: &Arc<Issuer>) -> Result<Arc<SignedCrl>, Error> {
        let _one_at_a_time = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let active = issuer
            .active
            .as_ref()
            .ok_or_else(|| Refusal::new(Reason::NotReady, format!("issuer {} is not active", issuer.path)))?;
        let (_, algorithm) = issuer.signing_key()?;
        let settings = &self.inner.settings;
        let now = self.signing_time()?;
        let revision = self.counter(&revision_counter(issuer.number))?;
        // The store knows what is in force, not this process: another one may have published since, or a deletion removed it.
        let (number, head, old_chunks) = match self.inner.store.get(Space::CrlHead, &issuer.number.to_be_bytes())? {
            Some(found) => {
                let head: CrlHeadForm = record::decode(&found.value)?;
                (head.number.saturating_add(1), Some(found.version), head.chunks)
            }
            None => (1, None, 0),
        };
        let kept_since = now.minus_s(settings.status_retention_s);
        let next_update = now.plus_s(settings.crl_validity_s).min(active.facts.not_after);
        let identifier = algorithm.signature_algorithm();
        let draft = CrlDraft {
            issuer_name_der: active.facts.name.as_der(),
            key_identifier: &active.facts.key_identifier,
            algorithm: &identifier,
            number,
            this_update: now,
            next_update,
            expired_certs_on_crl: Some(kept_since),
        };
        // Room for about as much as the last time, so that a long list does not grow by copying.
        let expected = old_chunks.saturating_sub(1) as usize * CHUNK_OCTETS / ENTRY_BYTES_USUAL;
        let mut builder = draft.builder(expected).map_err(Fault::from)?;
        let mut range = Range::prefix(issuer.number.to_be_bytes());
        loop {
            let entries = self.inner.store.scan(Space::Revoked, &range, SCAN_ENTRIES)?;
            let at_end = entries.len() < SCAN_ENTRIES;
            for entry in &entries {
                let RevokedForm(at, reason, invalidity, not_after) = RevokedForm::decode(&entry.value)?;
                if not_after >= kept_since {
                    builder
                        .push(entry.key.get(4..).unwrap_or_default(), at, reason, invalidity)
                        .map_err(Fault::from)?;
                }
            }
            match entries.last() {
                Some(last) if !at_end => range.from = [last.key.as_slice(), &[0]].concat(),
                Some(_) | None => break,
            }
        }
        let unsigned = builder.finish().map_err(Fault::from)?;

        // The exact bytes are durable before they are signed, in pieces that every storage engine takes.
        let digest = hex::encode(sha256(unsigned.tbs()));
        let mut chunks = 0;
        for piece in unsigned.tbs().chunks(CHUNK_OCTETS) {
            self.commit_or_later(Batch::new().put(Space::CrlChunk, chunk_key(issuer.number, number, chunks), piece))?;
            chunks += 1;
        }
        let will_sign = AuditRecord::new(now, Action::WillSign)
            .authority(&issuer.form.authority)
            .detail(format!("CRL {number} of {}, TBSCertList SHA-256 {digest}", issuer.path));
        self.commit_or_later(will_sign.in_batch(Batch::new())?)?;
        let signed = Prepared::crl(issuer.clone(), unsigned).sign(&self.inner.keys)?;

        let form = CrlHeadForm { number, this_update: now, next_update, revision, chunks, signature: signed.signature };
        let key = issuer.number.to_be_bytes();
        let mut batch = match head {
            Some(version) => Batch::new().expect(Space::CrlHead, key, version),
            None => Batch::new().expect_absent(Space::CrlHead, key),
        }
        .put(Space::CrlHead, key, record::encode(&form)?);
        for index in 0..old_chunks {
            batch = batch.delete(Space::CrlChunk, chunk_key(issuer.number, number - 1, index));
        }
        let published = AuditRecord::new(now, Action::CrlPublished)
            .authority(&issuer.form.authority)
            .detail(format!("CRL {number} of {}", issuer.path));
        self.commit_or_later(published.in_batch(batch)?)?;
        tracing::info!(issuer = issuer.path, number, %next_update, "published a CRL");

        let crl = Arc::new(SignedCrl::new(signed.der, number, now, next_update));
        // Read with the lock in hand: a change before that has moved the counter, and one after it marks the new entry as stale.
        let mut crls = self.crls_mut();
        let missed = self.counter(&revision_counter(issuer.number)).map_or(true, |newest| newest != revision);
        let entry =
            PublishedCrl { crl: Some(crl.clone()), stale_since: missed.then_some(now), retry_at: Time::default() };
        crls.insert(issuer.number, entry);
        Ok(crl)
    }

    /// Publishes the first CRL of each issuer that has none.
    pub(crate) fn publish_missing_crls(&self) {
        self.publish_crls(|_, published| published.crl.is_none());
    }

    /// Publishes the CRLs that are due: none yet, too old, or a change waits long enough.
    pub(crate) fn publish_due_crls(&self) {
        let settings = &self.inner.settings;
        self.publish_crls(|now, published| {
            let renewal = published.crl.as_ref().is_none_or(|crl| now >= crl.this_update.plus_s(settings.crl_renew_s));
            let change = published.stale_since.is_some_and(|since| now >= since.plus_s(settings.crl_publish_delay_s));
            renewal || change
        });
    }

    fn publish_crls(&self, is_due: impl Fn(Time, &PublishedCrl) -> bool) {
        let now = self.now();
        for issuer in self.registry().issuers.values() {
            // A CRL cannot be valid for longer than its issuer; after the issuer's end the last one stands.
            let lives = issuer.active.as_ref().is_some_and(|active| now < active.facts.not_after);
            if issuer.form.key.is_none() || !lives || !issuer.may_sign() {
                continue;
            }
            let due = self
                .crls()
                .get(&issuer.number)
                .is_none_or(|published| is_due(now, published) && now >= published.retry_at);
            if !due {
                continue;
            }
            if let Err(error) = self.publish(issuer) {
                tracing::error!(issuer = issuer.path, ?error, "failed to publish a CRL; the one in force stays");
                let mut crls = self.crls_mut();
                crls.entry(issuer.number).or_insert_with(PublishedCrl::none).retry_at = now.plus_s(CRL_RETRY_S);
            }
        }
    }

    /// Reads the published CRLs back.
    pub(crate) fn load_crls(&self) -> Result<(), Error> {
        for issuer in self.registry().issuers.values() {
            let Some(found) = self.inner.store.get(Space::CrlHead, &issuer.number.to_be_bytes())? else { continue };
            let head: CrlHeadForm = record::decode(&found.value)?;
            let (_, algorithm) = issuer.signing_key()?;
            let mut tbs = Vec::new();
            for index in 0..head.chunks {
                let chunk = self.inner.store.get(Space::CrlChunk, &chunk_key(issuer.number, head.number, index))?;
                let missing = || {
                    StoreFault::Corrupt(format!("piece {index} of CRL {} of {} is missing", head.number, issuer.path))
                };
                tbs.push(chunk.ok_or_else(missing)?.value);
            }
            let identifier = algorithm.signature_algorithm();
            let unsigned = UnsignedCrl::recorded(&tbs, (&identifier).into()).map_err(Fault::from)?;
            let der = unsigned.assemble(&head.signature).map_err(Fault::from)?;
            let stale = self.counter(&revision_counter(issuer.number))? != head.revision;
            let published = PublishedCrl {
                crl: Some(Arc::new(SignedCrl::new(der, head.number, head.this_update, head.next_update))),
                // How long the change has been waiting is not known: long enough.
                stale_since: stale.then(Time::default),
                retry_at: Time::default(),
            };
            self.crls_mut().insert(issuer.number, published);
        }
        Ok(())
    }

    pub(crate) fn crl_is_stale(&self, issuer: u32, since: Time) {
        let mut crls = self.crls_mut();
        let published = crls.entry(issuer).or_insert_with(PublishedCrl::none);
        published.stale_since.get_or_insert(since);
    }

    /// Drops the CRL of an issuer that is deleted.
    pub(crate) fn forget_crl(&self, issuer: u32) {
        self.crls_mut().remove(&issuer);
    }

    /// Each issuer's published CRL: its path, number and end.
    #[must_use]
    pub fn crl_ages(&self) -> Vec<(String, Arc<SignedCrl>)> {
        let registry = self.registry();
        let crls = self.crls();
        let of = |(number, published): (&u32, &PublishedCrl)| {
            Some((registry.issuers.get(number)?.path.clone(), published.crl.clone()?))
        };
        crls.iter().filter_map(of).collect()
    }

    pub(crate) fn counter(&self, key: &[u8]) -> Result<i64, Error> {
        let found = self.inner.store.get(Space::Counter, key)?;
        Ok(found.and_then(|found| found.value.as_slice().try_into().ok()).map_or(0, i64::from_be_bytes))
    }

    fn crls(&self) -> std::sync::RwLockReadGuard<'_, HashMap<u32, PublishedCrl>> {
        self.inner.crls.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn crls_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<u32, PublishedCrl>> {
        self.inner.crls.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PublishedCrl {
    fn none() -> Self {
        Self { crl: None, stale_since: None, retry_at: Time::default() }
    }
}

/// Where a revoked certificate lies in [`Space::Revoked`].
pub(crate) fn revoked_key(issuer: u32, serial: &Serial) -> Vec<u8> {
    [issuer.to_be_bytes().as_slice(), serial.as_bytes()].concat()
}

fn chunk_key(issuer: u32, number: u64, index: u32) -> Vec<u8> {
    [issuer.to_be_bytes().as_slice(), &number.to_be_bytes(), &index.to_be_bytes()].concat()
}

/// Counts the status changes under an issuer, so that a CRL knows what it covers.
pub(crate) fn revision_counter(issuer: u32) -> Vec<u8> {
    format!("revisions/{issuer}").into_bytes()
}

fn event_name(event: EventKindForm) -> &'static str {
    match event {
        EventKindForm::Issued => "issued",
        EventKindForm::Revoked => "revoked",
        EventKindForm::Held => "held",
        EventKindForm::Unheld => "unheld",
    }
}

/// The status after a change. Only a hold can be lifted, and only once is a certificate revoked.
fn next_status(
    from: StatusForm,
    change: StatusChange,
    at: Time,
) -> Result<(StatusForm, EventKindForm, Action), Refusal> {
    let hold = RevocationReason::CertificateHold;
    let revoked = |reason, invalidity| StatusForm::Revoked { at, reason, invalidity };
    match (from.state(), change) {
        (CertificateState::Revoked, _) => {
            Err(Refusal::new(Reason::AlreadyRevoked, "the certificate is revoked already, and that is final"))
        }
        (CertificateState::Normal, StatusChange::Unhold) => {
            Err(Refusal::new(Reason::NotReady, "the certificate is not on hold"))
        }
        (CertificateState::Held, StatusChange::Hold) => {
            Err(Refusal::new(Reason::AlreadyRevoked, "the certificate is on hold already"))
        }
        (CertificateState::Normal, StatusChange::Hold) => Ok((revoked(hold, None), EventKindForm::Held, Action::Held)),
        (CertificateState::Held, StatusChange::Unhold) => Ok((StatusForm::Good, EventKindForm::Unheld, Action::Unheld)),
        (CertificateState::Normal | CertificateState::Held, StatusChange::Revoke { reason, invalidity }) => {
            if reason == hold {
                return Err(Refusal::new(Reason::Malformed, "certificateHold is not final; ask for a hold"));
            }
            if invalidity.is_some_and(|date| date > at) {
                return Err(Refusal::new(Reason::BadTime, "the invalidity date lies in the future"));
            }
            Ok((revoked(reason, invalidity), EventKindForm::Revoked, Action::Revoked))
        }
    }
}

const SHARDS: usize = 16;

/// Signed OCSP answers by serial, in shards so that readers of one do not wait for another.
pub(crate) struct ResponseCache {
    shards: [Mutex<Shard>; SHARDS],
    entries_max: usize,
}

/// The CertID of a question, and the answer to it.
type KeptAnswer = (Vec<u8>, Arc<SignedOcsp>);

#[derive(Default)]
struct Shard {
    /// Counts purges: an answer that was made before a purge is not kept after it.
    epoch: u64,
    answers: HashMap<Serial, Vec<KeptAnswer>>,
    /// How many there are, of all serials.
    kept: usize,
}

/// How many forms of CertID one serial is kept under.
const FORMS_MAX: usize = 8;

impl ResponseCache {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { shards: Default::default(), entries_max: entries_max / SHARDS }
    }

    fn shard(&self, serial: &Serial) -> MutexGuard<'_, Shard> {
        // The last octet of a serial is random.
        let index = usize::from(serial.as_bytes().last().copied().unwrap_or_default()) % SHARDS;
        let [first, ..] = &self.shards;
        self.shards.get(index).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, serial: &Serial, cert_id: &[u8]) -> Option<Arc<SignedOcsp>> {
        let shard = self.shard(serial);
        shard.answers.get(serial)?.iter().find(|(id, _)| id == cert_id).map(|(_, answer)| answer.clone())
    }

    fn epoch(&self, serial: &Serial) -> u64 {
        self.shard(serial).epoch
    }

    fn keep(&self, serial: &Serial, cert_id: &[u8], answer: &Arc<SignedOcsp>, epoch: u64) {
        let shard = &mut *self.shard(serial);
        if shard.epoch != epoch {
            return;
        }
        if shard.kept >= self.entries_max {
            shard.answers.clear();
            shard.kept = 0;
        }
        let forms = shard.answers.entry(*serial).or_default();
        shard.kept -= forms.len();
        forms.retain(|(id, _)| id != cert_id);
        if forms.len() >= FORMS_MAX {
            forms.remove(0);
        }
        forms.push((cert_id.to_vec(), answer.clone()));
        shard.kept += forms.len();
    }

    pub(crate) fn purge(&self, serial: &Serial) {
        let mut shard = self.shard(serial);
        shard.epoch += 1;
        let gone = shard.answers.remove(serial);
        shard.kept -= gone.map_or(0, |forms| forms.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(cache: &ResponseCache) -> usize {
        cache.shards.iter().map(|shard| shard.lock().unwrap().answers.values().map(Vec::len).sum::<usize>()).sum()
    }

    #[test]
    fn answers_are_counted_in_each_form_of_a_question() {
        let cache = ResponseCache::new(SHARDS * 20);
        let at = Time::from_unix(0);
        let answer = Arc::new(SignedOcsp::new(Vec::<u8>::new(), at, at, at, true));
        let serials: Vec<_> = (0..100_u8).map(|n| Serial::from_magnitude(&[1, n, 16]).unwrap()).collect();
        for serial in &serials {
            for form in 0..12_u8 {
                cache.keep(serial, &[form], &answer, 0);
                cache.keep(serial, &[form], &answer, 0);
            }
            assert!(cache.find(serial, &[11]).is_some() && cache.find(serial, &[0]).is_none(), "the oldest goes first");
            assert!((FORMS_MAX..=20 + FORMS_MAX).contains(&count(&cache)), "{}", count(&cache));
        }
        for serial in &serials {
            cache.purge(serial);
        }
        assert_eq!((count(&cache), cache.shards.iter().map(|shard| shard.lock().unwrap().kept).sum::<usize>()), (0, 0));
    }
}
