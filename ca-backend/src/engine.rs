//! The certificate authority: every protocol's only way in.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use bytes::Bytes;

use crate::algorithm::KeyAlgorithm;
use crate::audit::{Action, AuditRecord};
use crate::certificate::names_of_tbs;
use crate::clock::{Clock, Rng, Stopwatch, Time};
use crate::credential::attempts::Attempts;
use crate::credential::{SecretKeys, Spending};
use crate::endpoint::Endpoint;
use crate::error::{Error, Fault, Reason, Refusal, StoreFault};
use crate::evidence::{Approval, Evidence, EvidenceFacts, EvidenceKind};
use crate::holder::holder_of;
use crate::issue::{self, Prepared};
use crate::keys::{KeyHealth, KeyRing};
use crate::label::{AuthorityName, EndpointName, ProfileName};
use crate::policy::{self, Ask, Bounds};
use crate::profile::{Profile, ProfileKind};
use crate::rate::RequestRate;
use crate::record::{
    self, CertificateForm, EventForm, EventKindForm, InFlightForm, OutcomeForm, Positional, StatusForm, TicketStateForm,
};
use crate::records::{RecordBatch, RecordError, RecordSpace, Records};
use crate::refuse::RefusalLog;
use crate::registry::{Issuer, Registry};
use crate::request::{EnrollmentRequest, Origin, RequestedNames};
use crate::revoke::{PublishedCrl, ResponseCache};
use crate::serial::Serial;
use crate::store::{Batch, CommitError, Key, Log, Space, Store, Version};
use crate::ticket::{Sweep, Ticket};
use crate::weak_key::BlockedKeys;
use crate::{figures, inventory, sha256};

/// What the engine needs to know of the node it runs on.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    /// The base of CRL, OCSP and issuer URLs inside certificates: `http://pki.example.org`, without a slash at its end.
    pub status_base_url: String,
    /// How far notBefore lies in the past, for clients with slow clocks, in seconds.
    pub backdate_s: u64,
    /// How long the same request gets the first outcome again, in seconds.
    pub repeat_window_s: u64,
    /// Certificates per requester and second; zero sets no limit.
    pub issue_rate_per_requester_per_s: u32,
    /// Certificates that a requester may get at once after a pause.
    pub issue_burst_per_requester_max: u32,
    /// How long a CRL is valid, in seconds.
    pub crl_validity_s: u64,
    /// After how long a CRL is renewed though nothing changed, in seconds.
    pub crl_renew_s: u64,
    /// How long after a revocation a CRL is published at the latest, in seconds.
    pub crl_publish_delay_s: u64,
    /// How long an OCSP answer is valid, in seconds.
    pub ocsp_validity_s: u64,
    /// How many OCSP answers are kept in memory.
    pub ocsp_cache_entries_max: usize,
    /// For how long the status of expired certificates is kept, in seconds (archive cutoff).
    pub status_retention_s: u64,
    /// How long a request waits for approval before it is given up, in seconds.
    pub ticket_waiting_max_s: u64,
    /// For how long it is remembered how a request that waited was decided, in seconds; not less than twice the repeat window.
    pub ticket_retention_s: u64,
    /// How far the clock may go back before signing stops, in seconds.
    pub clock_backwards_max_s: u64,
    /// Wrong secrets that one address (IPv6: one /64) may present at one endpoint within a minute before it has to wait; zero sets no
    /// limit.
    pub wrong_secrets_per_peer_per_min_max: u32,
    /// Refusals of one endpoint that get an entry of their own in the audit log within a minute; more are counted.
    pub audited_refusals_per_endpoint_per_min_max: u32,
}

impl Default for EngineSettings {
    fn default() -> Self {
        const DAY_S: u64 = 86_400;
        Self {
            status_base_url: "http://localhost".to_owned(),
            backdate_s: 300,
            repeat_window_s: 3_600,
            issue_rate_per_requester_per_s: 10,
            issue_burst_per_requester_max: 10,
            crl_validity_s: 7 * DAY_S,
            crl_renew_s: DAY_S,
            crl_publish_delay_s: 60,
            ocsp_validity_s: DAY_S,
            ocsp_cache_entries_max: 100_000,
            status_retention_s: 3_650 * DAY_S,
            ticket_waiting_max_s: 30 * DAY_S,
            ticket_retention_s: 90 * DAY_S,
            clock_backwards_max_s: 60,
            wrong_secrets_per_peer_per_min_max: 20,
            audited_refusals_per_endpoint_per_min_max: 60,
        }
    }
}

/// The engine. Cloning it is cheap; all clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: KeyRing,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) settings: EngineSettings,
    pub(crate) blocked_keys: BlockedKeys,
    registry: RwLock<Arc<Registry>>,
    /// Earlier pictures that requests may still read.
    earlier: Mutex<Vec<Weak<Registry>>>,
    /// One change of the PKI at a time; requests do not wait for it.
    pub(crate) changes: Mutex<()>,
    /// One CRL at a time.
    pub(crate) publishing: Mutex<()>,
    /// One certificate of the daemon's own at a time.
    pub(crate) own_certificates: Mutex<()>,
    /// The registration authorities that endpoints need.
    pub(crate) registration_authorities: Mutex<BTreeSet<(AuthorityName, KeyAlgorithm)>>,
    /// What the daemon was refused, by issuer number, and when it may ask again.
    pub(crate) put_off: Mutex<HashMap<(&'static str, u32), Time>>,
    /// How far the removal of decided tickets has come.
    pub(crate) tickets_swept: Mutex<Sweep>,
    /// How far the removal of old requests has come: what is before this key is gone.
    pub(crate) requests_swept: Mutex<Key>,
    /// When records without an endpoint were last looked for.
    pub(crate) orphans_sought: Mutex<Option<Time>>,
    /// How far deletions have come, by authority: up to which certificate none of its own is left.
    pub(crate) deletions: Mutex<HashMap<AuthorityName, Key>>,
    pub(crate) rate: RequestRate,
    pub(crate) secret_keys: SecretKeys,
    pub(crate) attempts: Attempts,
    pub(crate) refusals: RefusalLog,
    latest: AtomicU64,
    pub(crate) responses: ResponseCache,
    pub(crate) crls: RwLock<HashMap<u32, PublishedCrl>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("store", &self.inner.store).finish_non_exhaustive()
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The certificate.
    Issued(IssuedCertificate),
    /// An operator has to decide.
    Pending {
        /// Names the request when polling.
        ticket: Ticket,
        /// Seconds until polling makes sense.
        retry_after_s: u32,
    },
}

/// A certificate that is durable and may be handed out.
#[derive(Clone, Debug)]
pub struct IssuedCertificate {
    /// Its serial.
    pub serial: Serial,
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// The certificates above it, DER, issuer first, without the root.
    pub chain: Vec<Bytes>,
    /// The root, DER.
    pub root: Bytes,
    /// The last moment of its validity.
    pub not_after: Time,
}

/// How often a request begins anew because another one used the same credential at the same time.
const ATTEMPTS_MAX: usize = 32;

/// Seconds until polling a request that waits for an operator makes sense.
const APPROVAL_RETRY_S: u32 = 60;

impl Engine {
    pub(crate) fn start(
        store: Arc<dyn Store>,
        keys: KeyRing,
        secret_keys: SecretKeys,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        settings: EngineSettings,
    ) -> Result<Self, Error> {
        let registry = Registry::load(store.as_ref(), &settings.status_base_url)?;
        let latest = inventory::latest_issue(store.as_ref())?;
        let inner = Inner {
            rate: RequestRate::new(
                settings.issue_rate_per_requester_per_s,
                settings.issue_burst_per_requester_max,
                clock.clone(),
            ),
            secret_keys,
            attempts: Attempts::new(settings.wrong_secrets_per_peer_per_min_max),
            refusals: RefusalLog::new(settings.audited_refusals_per_endpoint_per_min_max),
            responses: ResponseCache::new(settings.ocsp_cache_entries_max),
            registry: RwLock::new(Arc::new(registry)),
            earlier: Mutex::default(),
            changes: Mutex::new(()),
            publishing: Mutex::new(()),
            own_certificates: Mutex::new(()),
            registration_authorities: Mutex::default(),
            put_off: Mutex::default(),
            tickets_swept: Mutex::default(),
            requests_swept: Mutex::default(),
            orphans_sought: Mutex::default(),
            deletions: Mutex::default(),
            blocked_keys: BlockedKeys::load([]),
            latest: AtomicU64::new(latest.unix()),
            crls: RwLock::default(),
            store,
            keys,
            clock,
            rng,
            settings,
        };
        let engine = Self { inner: Arc::new(inner) };
        engine.load_crls()?;
        Ok(engine)
    }

    /// Asks for a certificate (DESIGN invariants 1 to 4 are kept here and nowhere else).
    ///
    /// # Errors
    /// A refusal, which is in the audit log already, or a fault, after which the same request may be sent again.
    pub fn enroll(&self, request: EnrollmentRequest) -> Result<Outcome, Error> {
        let took = Stopwatch::start();
        let (protocol, profile) = (&request.origin.protocol, &request.profile);
        let outcome = self.tell_verifier(&request, self.enroll_audited(&request));
        let (word, profile) = match &outcome {
            Ok(Outcome::Issued(_)) => ("issued", profile.as_str()),
            Ok(Outcome::Pending { .. }) => ("pending", profile.as_str()),
            // A client can name any profile: only those that exist become labels.
            Err(Error::Refused(refusal)) if refusal.reason() == Reason::UnknownProfile => ("refused", "unknown"),
            Err(Error::Refused(_)) => ("refused", profile.as_str()),
            Err(Error::Fault(_)) => ("unavailable", profile.as_str()),
        };
        metrics::counter!(figures::ENROLLMENTS,
            "protocol" => protocol.to_string(), "profile" => profile.to_owned(), "outcome" => word)
        .increment(1);
        metrics::histogram!(figures::ENROLLMENT_SECONDS, "protocol" => protocol.to_string()).record(took.elapsed());
        outcome
    }

    /// A refusal is in the audit log before the requester learns of it.
    fn enroll_audited(&self, request: &EnrollmentRequest) -> Result<Outcome, Error> {
        self.enroll_in_steps(request).or_else(|error| {
            if let Error::Refused(refusal) = &error {
                let facts = request.evidence.facts();
                let record =
                    AuditRecord::new(self.now(), Action::Refused).evidence(&facts).authority(&request.authority);
                // Who does not stop must not fill the log, nor must those for whom nobody vouches.
                if refusal.reason() == Reason::RateLimited || facts.is_anybody() {
                    self.refuse_with(record, &request.origin, refusal)?;
                    return Err(error);
                }
                let record = record.origin(&request.origin).detail(format!(
                    "{}: {}",
                    refusal.reason().name(),
                    refusal.private()
                ));
                self.commit_or_later(record.in_batch(Batch::new())?)?;
                let origin = &request.origin;
                tracing::info!(
                    reason = refusal.reason().name(),
                    why = refusal.private(),
                    profile = %request.profile,
                    protocol = %origin.protocol,
                    endpoint = origin.endpoint.as_ref().map(tracing::field::display),
                    requester = request.evidence.facts().requester,
                    request = origin.request_id,
                    "refused a certificate"
                );
            }
            Err(error)
        })
    }

    /// Requests with a credential whose uses are counted exclude each other: who comes too late begins anew, and then finds the
    /// first outcome of the same request, or that the credential is spent.
    fn enroll_in_steps(&self, request: &EnrollmentRequest) -> Result<Outcome, Error> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(outcome) = self.attempt_in_steps(request)? {
                return Ok(outcome);
            }
        }
        Err(Fault::TryLater { after_s: 1 }.into())
    }

    /// `None` if somebody else used the same credential at the same time.
    fn attempt_in_steps(&self, request: &EnrollmentRequest) -> Result<Option<Outcome>, Error> {
        let facts = request.evidence.facts();
        // 0 repeat? The same request gets the first outcome again, or goes on where a fault stopped it.
        if let Some(outcome) = self.first_outcome(&request.origin, &facts)? {
            return Ok(Some(outcome));
        }
        if request.origin.endpoint.is_some() {
            self.inner.rate.admit(&facts.requester)?;
        }

        // 1 authorize
        let registry = self.registry();
        let profile = profile_of(&registry, &request.profile)?;
        let issuer = issuer_of(&registry, request)?;
        services_include(&registry, request, profile)?;
        let key = request.key.subject_key();
        let ask = Ask {
            origin: &request.origin,
            authority: &request.authority,
            profile: &request.profile,
            service: &profile.library,
            names: &request.names,
            extensions: &request.extensions.other,
            key: key.kind(),
        };
        let endpoint = request.origin.endpoint.as_ref().and_then(|name| registry.endpoints.get(name));
        let waited = matches!(&request.evidence, Evidence::Operator(approval) if approval.released.is_some());
        let spending = self.spending(&facts, &request.origin, waited)?;
        let bounds = Bounds {
            binding: spending.as_ref().map(|spending| spending.binding().clone()),
            renewed: self.renewed(&facts)?,
        };
        let authorization = policy::authorize(endpoint, facts, bounds, &ask)?;
        self.accept_key(&registry, key)?;
        if authorization.awaits_approval() {
            return self.open_ticket(request, &authorization, spending.as_ref());
        }

        // 2 prepare
        let now = self.signing_time()?;
        let serial = Serial::generate(now, self.inner.rng.as_ref());
        let validity = issue::validity(now, &self.inner.settings, profile, &issuer, &authorization, request.validity)?;
        let prepared = Prepared::certificate(&serial, issuer, profile, request, validity, &authorization)?;

        // 3 record
        let origin_key = self.origin_key(&request.origin, &authorization.facts().requester, now);
        let certificate = CertificateForm {
            issuer: prepared.issuer().number,
            profile: request.profile.clone(),
            snapshot: registry.snapshot_of(profile),
            protocol: request.origin.protocol.clone(),
            endpoint: request.origin.endpoint.clone(),
            requester: authorization.facts().requester.clone(),
            holder: holder_of(request, spending.as_ref()),
            not_after: validity.not_after,
            status: StatusForm::Good,
            der: prepared.bytes().to_vec(),
        };
        let detail = format!(
            "rule {:?}, TBSCertificate SHA-256 {}",
            authorization.rule(),
            hex::encode(sha256(prepared.bytes()))
        );
        let in_flight = InFlightForm {
            at: now,
            certificate,
            origin: Positional(request.origin.clone()),
            authority: request.authority.clone(),
            facts: Positional(authorization.into_facts()),
            origin_key,
        };
        let batch = self.reservation(&serial, &in_flight, detail)?;
        let batch = self.archive(batch, &serial, &in_flight, request.key.envelope())?;
        let mut batch = self.spend(batch, spending.as_ref())?;
        if let Evidence::Operator(Approval { operator, released: Some(release), .. }) = &request.evidence {
            batch = release.decided(TicketStateForm::Issued(serial), now, Some(operator), batch)?;
        }
        let version = match self.inner.store.commit(batch) {
            Ok(version) => version,
            Err(CommitError::Conflict) if spending.as_ref().is_some_and(Spending::is_counted) => return Ok(None),
            // The same request came in twice at once, and the other one was faster.
            Err(CommitError::Conflict) => return Err(Fault::TryLater { after_s: 1 }.into()),
            Err(CommitError::Fault(fault)) => return Err(fault.into()),
        };

        self.sign_and_record(&serial, in_flight, version, prepared, &request.names).map(Some)
    }

    /// Steps 4 to 6, for a fresh request and for one that goes on after a fault.
    fn sign_and_record(
        &self,
        serial: &Serial,
        mut in_flight: InFlightForm,
        version: Version,
        prepared: Prepared,
        names: &RequestedNames,
    ) -> Result<Outcome, Error> {
        // 4 sign
        let issuer = prepared.issuer().clone();
        in_flight.certificate.der = prepared.sign(&self.inner.keys)?.der.to_vec();

        // 5 record
        let batch = Batch::new().expect(Space::InFlight, serial.as_bytes(), version);
        let batch = self.completion(batch, serial, &in_flight, names)?;
        match self.inner.store.commit(batch) {
            Ok(_) => {}
            // Another thread finished the same request: its certificate is the one that counts.
            Err(CommitError::Conflict) => {
                return self.issued(serial)?.ok_or(Error::Fault(Fault::TryLater { after_s: 1 }));
            }
            Err(CommitError::Fault(fault)) => return Err(fault.into()),
        }

        // 6 answer
        let InFlightForm { certificate, origin: Positional(origin), .. } = in_flight;
        tracing::info!(
            %serial,
            profile = %certificate.profile,
            issuer = issuer.path,
            protocol = %certificate.protocol,
            endpoint = certificate.endpoint.as_ref().map(tracing::field::display),
            requester = certificate.requester,
            request = origin.request_id,
            "issued a certificate"
        );
        Ok(Outcome::Issued(issued(serial, certificate.der, certificate.not_after, &issuer)?))
    }

    /// What step 3 writes: the serial with the bytes to be signed, the outcome for repeats, the audit record.
    pub(crate) fn reservation(
        &self,
        serial: &Serial,
        in_flight: &InFlightForm,
        detail: String,
    ) -> Result<Batch, Fault> {
        let batch = Batch::new()
            .expect_absent(Space::Certificate, serial.as_bytes())
            .expect_absent(Space::InFlight, serial.as_bytes())
            .expect_absent(Space::Origin, in_flight.origin_key.clone())
            .put(Space::InFlight, serial.as_bytes(), record::encode(in_flight)?)
            .put(Space::Origin, in_flight.origin_key.clone(), record::encode(&OutcomeForm::Serial(*serial))?);
        in_flight.audit(Action::WillSign, serial, self.now()).detail(detail).in_batch(batch)
    }

    /// What step 5 adds to a batch: the certificate, which by now stands in `in_flight`, with its indexes, the event, the audit
    /// record.
    pub(crate) fn completion(
        &self,
        batch: Batch,
        serial: &Serial,
        in_flight: &InFlightForm,
        names: &RequestedNames,
    ) -> Result<Batch, Fault> {
        let certificate = &in_flight.certificate;
        let event = EventForm(self.now(), EventKindForm::Issued, *serial, certificate.issuer);
        let batch = batch
            .delete(Space::InFlight, serial.as_bytes())
            .put(Space::Certificate, serial.as_bytes(), record::encode(certificate)?)
            .append(Log::Event, record::encode(&event)?);
        let batch = inventory::index(batch, serial, certificate, names);
        let batch = match in_flight.facts.0.kind {
            EvidenceKind::Device => self.mark_untold(batch, serial)?,
            EvidenceKind::Challenges
            | EvidenceKind::Certificate
            | EvidenceKind::Renewal
            | EvidenceKind::KeyAlone
            | EvidenceKind::Secret
            | EvidenceKind::Operator => batch,
        };
        in_flight.audit(Action::Signed, serial, self.now()).in_batch(batch)
    }

    /// Step 0: what became of the same request before, within the repeat window.
    fn first_outcome(&self, origin: &Origin, facts: &EvidenceFacts) -> Result<Option<Outcome>, Error> {
        let now = self.now();
        let window = self.inner.settings.repeat_window_s;
        for at in [now, now.minus_s(window)] {
            let Some(found) = self.inner.store.get(Space::Origin, &self.origin_key(origin, &facts.requester, at))?
            else {
                continue;
            };
            match record::decode(&found.value)? {
                OutcomeForm::Ticket(ticket) => return self.poll(&Ticket::from_stored(ticket)).map(Some),
                OutcomeForm::Serial(serial) => {
                    if let Some(outcome) = self.issued(&serial)? {
                        return Ok(Some(outcome));
                    }
                    if let Some(reserved) = self.inner.store.get(Space::InFlight, serial.as_bytes())? {
                        let in_flight: InFlightForm = record::decode(&reserved.value)?;
                        return self.resume(&serial, in_flight, reserved.version).map(Some);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Whether the same request had an outcome within the repeat window.
    pub(crate) fn is_repeat(&self, origin: &Origin, requester: &str) -> Result<bool, Error> {
        let now = self.now();
        for at in [now, now.minus_s(self.inner.settings.repeat_window_s)] {
            if self.inner.store.get(Space::Origin, &self.origin_key(origin, requester, at))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The certificate of a serial that was reserved, signed now if a fault had stopped that; `None` if it was given up.
    pub(crate) fn issued_or_resumed(&self, serial: &Serial) -> Result<Option<Outcome>, Error> {
        if let Some(outcome) = self.issued(serial)? {
            return Ok(Some(outcome));
        }
        match self.inner.store.get(Space::InFlight, serial.as_bytes())? {
            Some(reserved) => self.resume(serial, record::decode(&reserved.value)?, reserved.version).map(Some),
            None => Ok(None),
        }
    }

    /// Signs the recorded bytes of a request that a fault had stopped.
    fn resume(&self, serial: &Serial, in_flight: InFlightForm, version: Version) -> Result<Outcome, Error> {
        self.signing_time()?;
        let registry = self.registry();
        let stands = registry.authorities.get(&in_flight.authority).is_some_and(|authority| !authority.deleting);
        let issuer =
            registry.issuers.get(&in_flight.certificate.issuer).filter(|_| stands).ok_or_else(|| {
                Refusal::new(Reason::NotReady, format!("there is no authority {}", in_flight.authority))
            })?;
        if issuer.revoked {
            let text = format!("the certificate of authority {} is revoked or on hold", in_flight.authority);
            return Err(Refusal::new(Reason::NotReady, text).into());
        }
        let prepared = Prepared::recorded(in_flight.certificate.der.clone(), issuer.clone());
        let names = names_of_tbs(prepared.bytes())?;
        self.sign_and_record(serial, in_flight, version, prepared, &names)
    }

    fn issued(&self, serial: &Serial) -> Result<Option<Outcome>, Error> {
        let Some(form) = self.certificate_form(serial)? else { return Ok(None) };
        if matches!(form.status, StatusForm::Closed { .. }) {
            return Ok(None);
        }
        let registry = self.registry();
        let issuer = registry
            .issuers
            .get(&form.issuer)
            .ok_or_else(|| Fault::Broken(format!("serial {serial} has no issuer")))?;
        Ok(Some(Outcome::Issued(issued(serial, form.der, form.not_after, issuer)?)))
    }

    /// An issued certificate with its chain; `None` if there is no certificate of that serial.
    ///
    /// # Errors
    /// The store's fault.
    pub fn issued_certificate(&self, serial: &Serial) -> Result<Option<IssuedCertificate>, Error> {
        Ok(self.issued(serial)?.and_then(|outcome| match outcome {
            Outcome::Issued(certificate) => Some(certificate),
            Outcome::Pending { .. } => None,
        }))
    }

    /// How long the same request gets its first outcome again, in seconds.
    #[must_use]
    pub fn repeat_window_s(&self) -> u64 {
        self.inner.settings.repeat_window_s
    }

    /// Refuses keys that are known, blocked or weak.
    fn accept_key(&self, registry: &Registry, key: &crate::subject_key::SubjectKey) -> Result<(), Error> {
        let fingerprint = key.fingerprint();
        self.inner.blocked_keys.check(key)?;
        // An authority's own certificates are the one place where its key may stand.
        let reused =
            registry.issuers.values().any(|issuer| issuer.key_fingerprint == fingerprint && issuer.active.is_some());
        if reused {
            return Err(Refusal::new(Reason::BadKey, "this key belongs to an authority").into());
        }
        if self.inner.store.get(Space::BlockedKey, &fingerprint)?.is_some() {
            return Err(Refusal::new(Reason::BadKey, "this key is known to be compromised; make a new one").into());
        }
        Ok(())
    }

    /// The time to put into what is signed; a fault if the clock went back.
    pub(crate) fn signing_time(&self) -> Result<Time, Fault> {
        let now = self.now();
        let latest = Time::from_unix(self.inner.latest.fetch_max(now.unix(), Ordering::SeqCst));
        if now.plus_s(self.inner.settings.clock_backwards_max_s) < latest {
            tracing::error!(%now, %latest, "the clock went back: nothing is signed until it is right again");
            return Err(Fault::TryLater { after_s: 60 });
        }
        Ok(now)
    }

    /// Where the first outcome of a request lies: by window, so that old ones go away together. The requester is part of it:
    /// nobody is given what somebody else was granted.
    pub(crate) fn origin_key(&self, origin: &Origin, requester: &str, at: Time) -> Vec<u8> {
        let window = at.unix() / self.inner.settings.repeat_window_s.max(1);
        let endpoint = origin.endpoint.as_ref().map_or("", EndpointName::as_str);
        // The lengths keep the parts apart.
        let mut text = Vec::with_capacity(128);
        for part in [origin.protocol.as_str(), endpoint, requester, origin.transaction.as_str()] {
            text.extend((part.len() as u64).to_be_bytes());
            text.extend(part.as_bytes());
        }
        text.extend(origin.request_digest);
        [window.to_be_bytes().as_slice(), &sha256(&text)].concat()
    }

    /// `None` if somebody else used the same credential at the same time.
    fn open_ticket(
        &self,
        request: &EnrollmentRequest,
        authorization: &policy::Authorization,
        spending: Option<&Spending>,
    ) -> Result<Option<Outcome>, Error> {
        let now = self.now();
        let ticket = Ticket::generate(self.inner.rng.as_ref());
        let form = crate::ticket::form(request, authorization.facts(), holder_of(request, spending), now);
        let origin_key = self.origin_key(&request.origin, &authorization.facts().requester, now);
        let batch = Batch::new()
            .expect_absent(Space::Origin, origin_key.clone())
            .put(Space::Origin, origin_key, record::encode(&OutcomeForm::Ticket(ticket.as_str().to_owned()))?)
            .put(Space::Ticket, ticket.as_str(), record::encode(&form)?);
        let batch = self.reserve(batch, spending)?;
        let record = AuditRecord::new(now, Action::Waiting)
            .origin(&request.origin)
            .evidence(authorization.facts())
            .authority(&request.authority)
            .detail(format!("ticket {ticket}"));
        match self.inner.store.commit(record.in_batch(batch)?) {
            Ok(_) => {}
            Err(CommitError::Conflict) if spending.is_some() => return Ok(None),
            Err(CommitError::Conflict) => return Err(Fault::TryLater { after_s: 1 }.into()),
            Err(CommitError::Fault(fault)) => return Err(fault.into()),
        }
        tracing::info!(
            %ticket,
            profile = %request.profile,
            protocol = %request.origin.protocol,
            endpoint = request.origin.endpoint.as_ref().map(tracing::field::display),
            requester = authorization.facts().requester,
            request = request.origin.request_id,
            "a request waits for approval"
        );
        Ok(Some(Outcome::Pending { ticket, retry_after_s: APPROVAL_RETRY_S }))
    }

    pub(crate) fn certificate_form(&self, serial: &Serial) -> Result<Option<CertificateForm>, Error> {
        match self.inner.store.get(Space::Certificate, serial.as_bytes())? {
            Some(found) => Ok(Some(record::decode(&found.value)?)),
            None => Ok(None),
        }
    }

    /// Commits what nobody else writes; a conflict all the same means: try again.
    pub(crate) fn commit_or_later(&self, batch: Batch) -> Result<Version, Error> {
        self.inner.store.commit(batch).map_err(|error| match error {
            CommitError::Conflict => Fault::TryLater { after_s: 1 }.into(),
            CommitError::Fault(fault) => fault.into(),
        })
    }

    /// The PKI as it is now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.inner.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the PKI anew after a change.
    pub(crate) fn reload(&self) -> Result<(), Error> {
        let registry = Registry::load(self.inner.store.as_ref(), &self.inner.settings.status_base_url)?;
        let mut current = self.inner.registry.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, Arc::new(registry));
        let mut earlier = self.inner.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        earlier.retain(|picture| picture.strong_count() > 0);
        earlier.push(Arc::downgrade(&before));
        Ok(())
    }

    /// Whether every request that runs knows the last change of the PKI.
    pub(crate) fn last_change_is_known(&self) -> bool {
        let earlier = self.inner.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        earlier.iter().all(|picture| picture.strong_count() == 0)
    }

    /// The present moment, from the engine's clock.
    #[must_use]
    pub fn now(&self) -> Time {
        self.inner.clock.now()
    }

    /// `N` random octets, from the engine's source.
    #[must_use]
    pub fn random<const N: usize>(&self) -> [u8; N] {
        crate::clock::random(self.inner.rng.as_ref())
    }

    /// A protocol's own records of one kind.
    #[must_use]
    pub fn records(&self, space: RecordSpace) -> Records {
        Records::new(self.inner.store.clone(), space)
    }

    /// Changes a protocol's own records: all or nothing, durable on return.
    ///
    /// # Errors
    /// A conflict if a check did not hold, or the store's fault.
    pub fn commit(&self, batch: RecordBatch) -> Result<Version, RecordError> {
        Ok(self.inner.store.commit(batch.into_batch())?)
    }

    /// An endpoint's settings.
    #[must_use]
    pub fn endpoint(&self, name: &EndpointName) -> Option<Arc<Endpoint>> {
        self.registry().endpoints.get(name).cloned()
    }

    /// A profile, built in or the operators' own.
    #[must_use]
    pub fn profile(&self, name: &ProfileName) -> Option<Profile> {
        self.registry().profile(name).cloned()
    }

    /// Whether the store takes writes.
    ///
    /// # Errors
    /// What keeps it from doing so.
    pub fn store_health(&self) -> Result<(), StoreFault> {
        self.inner.store.health()
    }

    /// The issuers whose key cannot be found or read, by path, and why: what a store moved without its keys looks like.
    #[must_use]
    pub fn unusable_issuing_keys(&self) -> Vec<(String, String)> {
        let registry = self.registry();
        let of = |issuer: &Arc<Issuer>| {
            let fault = self.inner.keys.public_key(issuer.form.key.as_ref()?).err()?;
            Some((issuer.path.clone(), fault.to_string()))
        };
        registry.issuers.values().filter_map(of).collect()
    }

    /// The condition of each key store, by name.
    #[must_use]
    pub fn key_health(&self) -> Vec<(String, KeyHealth)> {
        self.inner.keys.health()
    }
}

fn issued(serial: &Serial, der: Vec<u8>, not_after: Time, issuer: &Issuer) -> Result<IssuedCertificate, Fault> {
    let broken = || Fault::Broken(format!("issuer {} has no certificate", issuer.path));
    match &issuer.active {
        Some(active) => {
            let (root, chain) = active.chain.split_last().ok_or_else(broken)?;
            Ok(IssuedCertificate { serial: *serial, der, chain: chain.to_vec(), root: root.clone(), not_after })
        }
        // A root's own certificate, signed a moment ago.
        None => Ok(IssuedCertificate {
            serial: *serial,
            root: Bytes::copy_from_slice(&der),
            der,
            chain: Vec::new(),
            not_after,
        }),
    }
}

fn profile_of<'a>(registry: &'a Registry, name: &ProfileName) -> Result<&'a Profile, Refusal> {
    registry.profile(name).ok_or_else(|| Refusal::new(Reason::UnknownProfile, format!("there is no profile {name}")))
}

fn issuer_of(registry: &Registry, request: &EnrollmentRequest) -> Result<Arc<Issuer>, Refusal> {
    let name = &request.authority;
    let authority = registry.authorities.get(name).filter(|authority| !authority.deleting);
    let issuer = authority.and_then(|_| registry.issuer_of(name));
    let issuer = issuer.ok_or_else(|| Refusal::new(Reason::NotReady, format!("there is no authority {name}")))?;
    if issuer.revoked {
        return Err(Refusal::new(
            Reason::NotReady,
            format!("the certificate of authority {name} is revoked or on hold"),
        ));
    }
    Ok(issuer.clone())
}

impl InFlightForm {
    /// What the audit log says of this serial.
    pub(crate) fn audit(&self, action: Action, serial: &Serial, at: Time) -> AuditRecord {
        AuditRecord::new(at, action)
            .origin(&self.origin.0)
            .evidence(&self.facts.0)
            .authority(&self.authority)
            .profile(format!("{}@{}", self.certificate.profile, self.certificate.snapshot))
            .serial(serial)
    }
}

/// An authority offers the profile sets among its services; the daemon's own certificates are always possible.
fn services_include(registry: &Registry, request: &EnrollmentRequest, profile: &Profile) -> Result<(), Refusal> {
    let for_daemon = profile.kind != ProfileKind::EndEntity;
    let own_act = matches!(&request.evidence, Evidence::Operator(approval) if approval.daemon);
    let offered = registry
        .authorities
        .get(&request.authority)
        .is_some_and(|authority| authority.services.contains(&profile.library));
    if for_daemon && !own_act {
        return Err(Refusal::new(
            Reason::NotAuthorized,
            format!("profile {} is for the daemon's own certificates", profile.id),
        ));
    }
    if !for_daemon && !offered && !own_act {
        let text = format!(
            "authority {} does not offer the service {} that profile {} belongs to",
            request.authority, profile.library, profile.id
        );
        return Err(Refusal::new(Reason::UnknownProfile, text));
    }
    Ok(())
}
