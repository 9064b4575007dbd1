//! From the CSR to the certificate (RFC 8555 section 7.4).

use ca_backend::{
    CertificateRequest, CertificateSummary, Challenges, CredentialId, EnrollmentRequest, Error, Evidence, Fault,
    InventoryQuery, Outcome, Reason, Refusal, RequestedExtensions, Serial, Time, ValidatedIdentifier,
};
use serde::Deserialize;

use super::{Order, OrderState, OrderStatus};
use crate::authorization::RETRY_AFTER_S;
use crate::caa::CaaCheck;
use crate::call::AccountCall;
use crate::certificate_request::{bad_csr, names_of};
use crate::error::{Attempt, Problem, ProblemType};
use crate::id::Id;
use crate::jws::{decode, json};
use crate::ledger::Held;
use crate::limits::certificate_issued;
use crate::reply::Reply;
use crate::site::Site;

#[derive(Deserialize)]
struct Finalization {
    csr: String,
}

/// How many certificates are looked at for the one that came of an order: as many as an account gets in the moments around a crash.
const CERTIFICATES_LOOKED_AT: usize = 1_000;

/// After how many seconds an order goes on without its client.
const UNFINISHED_AFTER_S: u64 = 60;

impl Site<'_> {
    /// Takes the CSR of an order whose identifiers are all shown, and asks the engine for the certificate.
    pub(crate) fn finalize(&self, call: &AccountCall, id: &Id) -> Attempt<Reply> {
        let mut order = self.own_order(call, id)?;
        let wish: Finalization = json(call.object()?, "the finalization cannot be read")?;
        let csr = decode(&wish.csr, "csr")?;
        let request = CertificateRequest::open(&csr).map_err(|refusal| bad_csr(refusal.public()))?;

        // 1. The order is ready, or was finalized with this very CSR before.
        let repeats = match &order.value.state {
            OrderState::Processing { csr: before, .. } => *before == csr,
            OrderState::Valid { csr_digest, .. } => *csr_digest == request.digest(),
            OrderState::Open | OrderState::Invalid { .. } => false,
        };
        if repeats {
            self.ledger.change().spend(&call.nonce).commit()?;
            return self.resume(order);
        }
        let authorizations = self.authorizations_of(&order.value)?;
        let status = self.status(&order.value, authorizations.iter().map(|held| &held.value));
        if status != OrderStatus::Ready {
            let text = format!("the order is {}, not ready", status.name());
            return Err(Problem::new(ProblemType::OrderNotReady, text).into());
        }

        // 2. The CSR asks for what was ordered, with a key of its own.
        names_of(&request, &order.value.identifiers)?;
        let key = request.key().subject_key().fingerprint();
        if authorizations.iter().any(|held| held.value.attested_key.is_some_and(|attested| attested != key)) {
            return Err(bad_csr("the key is not the one that the device attested").into());
        }
        if self.ledger.is_account_key(request.key().subject_key().spki_der())? {
            return Err(bad_csr("the key is an account key; make a key for the certificate").into());
        }

        // 3. From here on the order belongs to this CSR, also if this node dies at once.
        order.value.state = OrderState::Processing { csr, ticket: None, caa: CaaCheck::NotAsked };
        let due = self.now.plus_s(UNFINISHED_AFTER_S);
        let change = self.ledger.change().spend(&call.nonce).update_order(&order)?;
        let mut change = change.note_unfinished(&order.value, due);
        for authorization in &authorizations {
            change = change.rest_on(authorization);
        }
        change.commit()?;

        // 4. The certificate.
        self.go_on(self.own_order(call, id)?, Some(request))
    }

    /// Goes on with an order that was left in the middle. Its certificate may be there already: issued just before the node died,
    /// and so long ago that the engine no longer takes the same request for a repeat.
    pub(crate) fn resume(&self, mut order: Held<Order>) -> Attempt<Reply> {
        if let OrderState::Processing { csr, ticket: None, .. } = &order.value.state
            && let Some(certificate) = self.issued_before(&order.value, csr)?
        {
            let csr_digest = crate::jwk::sha256(csr);
            order.value.state = OrderState::Valid { serial: certificate.serial, csr_digest };
            self.record_certificate(&order, &certificate.serial, certificate.not_after)?;
        }
        self.go_on(order, None)
    }

    /// The certificate that came of an order without the order knowing: it has the CSR's key and the order's names, is younger than the
    /// order and belongs to no other.
    fn issued_before(&self, order: &Order, csr: &[u8]) -> Attempt<Option<CertificateSummary>> {
        let wanted = CertificateRequest::open(csr)?.key().subject_key().spki_der().to_vec();
        let names: Vec<String> =
            order.identifiers.iter().map(|identifier| identifier.alternative_name().to_string()).collect();
        let has_the_names = |certificate: &CertificateSummary| {
            let shown = &certificate.alternative_names;
            shown.len() == names.len() && names.iter().all(|name| shown.contains(name))
        };
        let query = InventoryQuery {
            requester: Some(format!("account:{}", order.account)),
            issued_from: Some(order.created),
            limit: CERTIFICATES_LOOKED_AT,
            ..InventoryQuery::default()
        };
        for certificate in self.engine.search(&query)?.items {
            let fits = has_the_names(&certificate) && crate::revocation::public_key_of(&certificate.der)? == wanted;
            if fits && self.ledger.certificate_owner(&certificate.serial)?.is_none() {
                return Ok(Some(certificate));
            }
        }
        Ok(None)
    }

    fn record_certificate(&self, order: &Held<Order>, serial: &Serial, not_after: Time) -> Attempt<()> {
        let change = self.ledger.change().update_order(order)?.note_finished(&order.value);
        let change = change.add_certificate(serial, not_after, &order.value.account)?;
        let used = certificate_issued(self.ledger, self.now, &self.options, &order.value)?;
        used.into_iter().fold(change, |change, used| used.count(change)).commit()
    }

    /// Asks the engine for what is still missing, records the answer, and shows the order. `opened` is its CSR, if this request has
    /// verified it already.
    fn go_on(&self, mut order: Held<Order>, opened: Option<CertificateRequest>) -> Attempt<Reply> {
        let OrderState::Processing { csr, ticket, caa } = &order.value.state else {
            return self.order_reply(&order.value, RETRY_AFTER_S);
        };
        let (csr, caa) = (csr.clone(), *caa);
        let needs_caa = self.options.caa && ticket.is_none() && order.value.has_host_names();
        if needs_caa && !caa.holds(self.now) {
            return self.ask_for_caa(order);
        }
        let outcome = match ticket {
            Some(ticket) => self.engine.poll(ticket),
            None => {
                let opened = opened.filter(|request| request.digest() == crate::jwk::sha256(&csr));
                let request = opened.map_or_else(|| CertificateRequest::open(&csr), Ok);
                let request = request.map_err(Error::from).and_then(|request| self.enrollment(&order.value, &request));
                request.and_then(|request| self.engine.enroll(request))
            }
        };
        match outcome {
            Ok(Outcome::Issued(certificate)) => {
                let csr_digest = crate::jwk::sha256(&csr);
                order.value.state = OrderState::Valid { serial: certificate.serial, csr_digest };
                self.record_certificate(&order, &certificate.serial, certificate.not_after)?;
                self.order_reply(&order.value, RETRY_AFTER_S)
            }
            Ok(Outcome::Pending { ticket: named, retry_after_s }) => {
                if ticket.as_ref() != Some(&named) {
                    order.value.state = OrderState::Processing { csr, ticket: Some(named), caa };
                    self.ledger.change().update_order(&order)?.note_finished(&order.value).commit()?;
                }
                self.order_reply(&order.value, retry_after_s)
            }
            Err(Error::Refused(refusal)) => self.refused(order, &refusal),
            // The order stays as it is, and each look at it tries again.
            Err(Error::Fault(Fault::TryLater { after_s })) => {
                self.order_reply(&order.value, after_s.max(RETRY_AFTER_S))
            }
            Err(Error::Fault(Fault::Key(fault))) => {
                tracing::error!(request_id = %self.peer.request_id, order = %order.value.id, error = %fault, "issuing is delayed");
                self.order_reply(&order.value, RETRY_AFTER_S)
            }
            Err(Error::Fault(fault)) => Err(fault.into()),
        }
    }

    /// Starts a look at CAA records, unless one is under way; what it finds is recorded, and the next request goes on.
    fn ask_for_caa(&self, mut order: Held<Order>) -> Attempt<Reply> {
        if let OrderState::Processing { caa, .. } = &mut order.value.state
            && *caa != CaaCheck::Asked
        {
            *caa = CaaCheck::Asked;
            let (job, validation) = self.first_caa_check(&order.value)?;
            self.ledger.change().update_order(&order)?.add_job(&job)?.commit()?;
            (self.start)(validation);
        }
        self.order_reply(&order.value, RETRY_AFTER_S)
    }

    /// The engine said no. What another CSR or another moment can mend leaves the order ready; the rest ends it.
    fn refused(&self, mut order: Held<Order>, refusal: &Refusal) -> Attempt<Reply> {
        let mut problem = Problem::from(refusal);
        order.value.state = match refusal.reason() {
            Reason::BadAlgorithm | Reason::BadKey | Reason::BadProof | Reason::Malformed | Reason::Unsupported => {
                problem = bad_csr(refusal.public());
                OrderState::Open
            }
            Reason::RateLimited | Reason::NotReady | Reason::Conflict => OrderState::Open,
            Reason::AlreadyRevoked
            | Reason::BadTime
            | Reason::NameNotAllowed
            | Reason::NotAuthenticated
            | Reason::NotAuthorized
            | Reason::UnknownCertificate
            | Reason::UnknownProfile => OrderState::Invalid { problem: problem.kind, detail: problem.detail.clone() },
        };
        self.ledger.change().update_order(&order)?.note_finished(&order.value).commit()?;
        Err(problem.into())
    }

    /// The credential that the order's account is bound to.
    fn credential_of(&self, order: &Order) -> Result<Option<CredentialId>, Error> {
        Ok(self.ledger.account(&order.account)?.and_then(|account| account.value.credential))
    }

    fn enrollment(&self, order: &Order, request: &CertificateRequest) -> Result<EnrollmentRequest, Error> {
        let names =
            names_of(request, &order.identifiers).map_err(|problem| Refusal::new(Reason::BadProof, problem.detail))?;
        let mut authorizations = Vec::with_capacity(order.authorizations.len());
        for id in &order.authorizations {
            authorizations.extend(self.ledger.authorization(id)?);
        }
        let shown = |ordered| authorizations.iter().find_map(|held| held.value.evidence(ordered));
        let identifiers: Vec<ValidatedIdentifier> = order.identifiers.iter().filter_map(shown).collect();
        Ok(EnrollmentRequest {
            authority: self.settings.authority.clone(),
            profile: order.profile.clone(),
            names,
            extensions: RequestedExtensions::default(),
            validity: Some(order.validity).filter(|wish| wish.not_before.is_some() || wish.not_after.is_some()),
            evidence: Evidence::Challenges(Challenges {
                account: order.account.to_string(),
                identifiers,
                credential: self.credential_of(order)?,
            }),
            holder: None,
            origin: self.origin(&order.id.to_string(), request.digest()),
            key: request.key().clone(),
        })
    }
}
