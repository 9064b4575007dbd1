//! Orders, from the wish to the certificate (RFC 8555 sections 7.1.3 and 7.4).

use std::collections::{BTreeMap, BTreeSet};

use ca_backend::{
    CertificateRequest, CertificateSummary, Challenges, CredentialId, EnrollmentRequest, Error, Evidence, Fault,
    Foresight, InventoryQuery, IssuedCertificate, Origin, Outcome, ProfileName, Reason, Refusal, RequestedExtensions,
    RequestedValidity, Serial, Ticket, Time, ValidatedIdentifier,
};
use const_oid::db::rfc5280::ID_AD_CA_ISSUERS;
use der::Decode;
use der::pem::LineEnding;
use http::StatusCode;
use http::header::ACCEPT;
use serde::Deserialize;
use serde_json::{Value, json};

use x509_cert::Certificate;
use x509_cert::ext::pkix::AuthorityInfoAccessSyntax;
use x509_cert::ext::pkix::name::GeneralName;

use crate::account::Account;
use crate::authorization::{Authorization, AuthorizationStatus, RETRY_AFTER_S, Wanted};
use crate::caa::CaaCheck;
use crate::call::AccountCall;
use crate::certificate_request::names_of;
use crate::error::{Attempt, Problem, ProblemType, Subproblem};
use crate::id::Id;
use crate::identifier::Identifier;
use crate::jws::{decode, json};
use crate::ledger::Held;
use crate::limits::certificate_issued;
use crate::reply::Reply;
use crate::site::Site;
use crate::validation::Verdict;

/// A wish for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) id: Id,
    pub(crate) account: Id,
    pub(crate) created: Time,
    pub(crate) expires: Time,
    pub(crate) identifiers: Vec<Identifier>,
    pub(crate) authorizations: Vec<Id>,
    pub(crate) profile: ProfileName,
    pub(crate) validity: RequestedValidity,
    pub(crate) state: OrderState,
    /// The certificate that it replaces, as the client named it (RFC 9773 section 5).
    pub(crate) replaces: Option<String>,
}

/// What is recorded of an order. Whether an open one is pending, ready or lost follows from its authorizations and the time, so
/// that no two records can contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OrderState {
    Open,
    /// Finalized with this CSR (DER). The engine knows the order's name and the CSR's digest, so asking again is safe.
    Processing {
        csr: Vec<u8>,
        ticket: Option<Ticket>,
        caa: CaaCheck,
    },
    Valid {
        serial: Serial,
        csr_digest: [u8; 32],
    },
    Invalid {
        problem: ProblemType,
        detail: String,
    },
}

impl Order {
    /// Whether a look at CAA records is under way, without which nothing is issued.
    pub(crate) fn waits_for_caa(&self) -> bool {
        matches!(self.state, OrderState::Processing { caa: CaaCheck::Asked, .. })
    }

    /// Takes what a look at CAA records found. Returns whether that changed anything.
    pub(crate) fn decide_caa(&mut self, now: Time, verdict: &Verdict) -> bool {
        let OrderState::Processing { caa: caa @ CaaCheck::Asked, .. } = &mut self.state else { return false };
        match verdict {
            // The client's next look issues, since it brings the request that the audit log names.
            Verdict::Shown(_) => *caa = CaaCheck::Clear { at: now },
            Verdict::NotShown(problem, detail) | Verdict::NoAnswer(problem, detail) => {
                self.state = OrderState::Invalid { problem: *problem, detail: detail.clone() };
            }
        }
        true
    }

    fn has_host_names(&self) -> bool {
        self.identifiers.iter().any(|identifier| matches!(identifier, Identifier::Dns { .. }))
    }
}

/// The states that a client sees (RFC 8555 section 7.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
enum OrderStatus {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid(Problem),
}

impl OrderStatus {
    fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Processing => "processing",
            Self::Valid => "valid",
            Self::Invalid(_) => "invalid",
        }
    }
}

/// Members that this server does not know are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewOrder {
    identifiers: Vec<WantedIdentifier>,
    not_before: Option<String>,
    not_after: Option<String>,
    profile: Option<String>,
    replaces: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WantedIdentifier {
    #[serde(rename = "type")]
    kind: String,
    value: String,
    /// In an order: a domain above, of which the client could show control instead (RFC 9444 section 4.3).
    ancestor_domain: Option<String>,
    /// In a pre-authorization: whether it shall stand for the names below (RFC 9444 section 4.2).
    #[serde(default)]
    pub(crate) subdomain_auth_allowed: bool,
}

#[derive(Deserialize)]
struct Finalization {
    csr: String,
}

/// What an order rests on for one identifier.
enum Source {
    /// Control that was shown for another order, or beforehand.
    Shown(Box<Authorization>),
    /// An operator's grant.
    Granted,
    /// Control that is still to be shown.
    Asked,
    /// Control of a domain above, that is still to be shown.
    AskedAbove(Identifier),
}

/// How many orders one page of the list shows.
const ORDERS_PER_PAGE: usize = 50;

/// How many certificates are looked at for the one that came of an order: as many as an account gets in the moments around a crash.
const CERTIFICATES_LOOKED_AT: usize = 1_000;

/// After how many seconds an order goes on without its client.
const UNFINISHED_AFTER_S: u64 = 60;

impl Site<'_> {
    /// Makes an order with an authorization for each identifier.
    pub(crate) fn new_order(&self, call: &AccountCall) -> Attempt<Reply> {
        let wish: NewOrder = json(call.object()?, "the order cannot be read")?;
        let identifiers = self.wanted_identifiers(&wish.identifiers)?;
        let validity = self.wanted_validity(&wish)?;
        let profile = self.wanted_profile(wish.profile.as_deref())?;
        let account = &call.account.value;
        let foresight = self.refuse_impossible(account, &identifiers, &profile)?;
        let replaced = wish.replaces.as_deref().map(|text| self.replaced(account, text, &identifiers)).transpose()?;
        let mut expires = self.now.plus_s(self.options.order_lifetime_s);
        let mut ancestors = self.wanted_ancestors(&wish.identifiers)?;
        let mut found = Vec::with_capacity(identifiers.len());
        for (identifier, unchallenged) in identifiers.iter().zip(foresight.unchallenged) {
            found.push(match self.reusable(account, Wanted { identifier, subdomains: false })? {
                Some(shown) => Source::Shown(Box::new(shown.value)),
                None if unchallenged => Source::Granted,
                None => ancestors.remove(identifier).map_or(Source::Asked, Source::AskedAbove),
            });
        }
        // An order does not outlive what it rests on.
        for source in &found {
            if let Source::Shown(authorization) = source {
                expires = expires.min(authorization.expires);
            }
        }
        let to_show = identifiers.iter().zip(&found).filter_map(|(identifier, source)| match source {
            Source::Asked => Some(identifier.clone()),
            Source::AskedAbove(domain) => Some(domain.clone()),
            Source::Shown(_) | Source::Granted => None,
        });
        let to_show: Vec<_> = to_show.collect::<BTreeSet<_>>().into_iter().collect();
        let in_window = replaced.as_ref().is_some_and(|replaced| replaced.in_window);
        let uses = self.admit_order(account, &identifiers, &to_show, in_window)?;
        let mut made = Vec::new();
        let mut authorizations: Vec<Authorization> = Vec::with_capacity(identifiers.len());
        for (identifier, source) in identifiers.iter().zip(found) {
            let wanted = |identifier, subdomains| Wanted { identifier, subdomains };
            let authorization = match source {
                Source::Shown(authorization) => {
                    // One for a domain may serve several of the names.
                    if !authorizations.iter().any(|other| other.id == authorization.id) {
                        authorizations.push(*authorization);
                    }
                    continue;
                }
                Source::Granted => self.granted_authorization(&account.id, identifier, expires),
                Source::Asked => self.new_authorization(&account.id, wanted(identifier, false), expires)?,
                Source::AskedAbove(domain) => {
                    let is_asked = |other: &Authorization| other.subdomains && other.identifier == domain;
                    if made.iter().any(is_asked) {
                        continue;
                    }
                    self.new_authorization(&account.id, wanted(&domain, true), expires)?
                }
            };
            made.push(authorization.clone());
            authorizations.push(authorization);
        }
        let order = Order {
            id: self.new_id(),
            account: account.id,
            created: self.now,
            expires,
            identifiers,
            authorizations: authorizations.iter().map(|authorization| authorization.id).collect(),
            profile,
            validity,
            state: OrderState::Open,
            replaces: wish.replaces,
        };
        let mut change = self.ledger.change().spend(&call.nonce).add_order(&order)?;
        for authorization in &made {
            change = change.add_authorization(authorization)?;
        }
        if let Some(replaced) = &replaced {
            change = change.replace(&replaced.serial, replaced.before.as_ref(), &order.id)?;
        }
        uses.into_iter().fold(change, |change, used| used.count(change)).commit()?;
        let status = self.status(&order, authorizations.iter());
        let document = self.order_document(&order, &status);
        Ok(Reply::json(StatusCode::CREATED, &document).location(&self.order_url(&order.id)))
    }

    /// Shows an order; one that was left in the middle of issuing goes on.
    pub(crate) fn order(&self, call: &AccountCall, id: &Id) -> Attempt<Reply> {
        call.no_payload()?;
        let order = self.own_order(call, id)?;
        self.ledger.change().spend(&call.nonce).commit()?;
        self.resume(order)
    }

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
        self.go_on(self.own_order(call, id)?)
    }

    /// The certificate with its chain, without the root (RFC 8555 section 7.4.2).
    ///
    /// Chain 1 is the alternate one: with the root, for devices that are given nothing else.
    pub(crate) fn certificate(
        &self,
        call: &AccountCall,
        serial: &Serial,
        chain: u8,
        request: &http::HeaderMap,
    ) -> Attempt<Reply> {
        call.no_payload()?;
        if self.ledger.certificate_owner(serial)? != Some(call.account.value.id) {
            return Err(Problem::not_found().into());
        }
        let certificate = self.engine.issued_certificate(serial)?.ok_or_else(Problem::not_found)?;
        self.ledger.change().spend(&call.nonce).commit()?;
        let accept = request.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accept.contains("application/pkix-cert") && !accept.contains("application/pem-certificate-chain") {
            let above = ca_issuers_url(&certificate.der);
            let reply = Reply::body(StatusCode::OK, "application/pkix-cert", certificate.der);
            return Ok(match above {
                Some(url) => reply.link(&url, "up"),
                None => reply,
            });
        }
        let body = pem_chain(&certificate, chain == 1)?;
        let address = format!("{}/certificate/{serial}", self.base_url);
        let alternate = if chain == 1 { address } else { format!("{address}/1") };
        Ok(Reply::body(StatusCode::OK, "application/pem-certificate-chain", body).link(&alternate, "alternate"))
    }

    /// The account's orders, in pages (RFC 8555 section 7.1.2.1).
    pub(crate) fn orders(&self, call: &AccountCall, id: &Id, after: Option<&Id>) -> Attempt<Reply> {
        call.no_payload()?;
        if call.account.value.id != *id {
            return Err(Problem::not_found().into());
        }
        let page = self.ledger.orders_of(id, after, ORDERS_PER_PAGE)?;
        let mut urls = Vec::new();
        for order in &page {
            if let Some(order) = self.ledger.order(order)? {
                let authorizations = self.authorizations_of(&order.value)?;
                let status = self.status(&order.value, authorizations.iter().map(|held| &held.value));
                if !matches!(status, OrderStatus::Invalid(_)) {
                    urls.push(self.order_url(&order.value.id));
                }
            }
        }
        self.ledger.change().spend(&call.nonce).commit()?;
        let reply = Reply::json(StatusCode::OK, &json!({ "orders": urls }));
        Ok(match page.last() {
            Some(last) if page.len() == ORDERS_PER_PAGE => {
                reply.link(&format!("{}/orders?after={last}", self.account_url(id)), "next")
            }
            Some(_) | None => reply,
        })
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
        self.go_on(order)
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

    /// Asks the engine for what is still missing, records the answer, and shows the order.
    fn go_on(&self, mut order: Held<Order>) -> Attempt<Reply> {
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
            None => self.enrollment(&order.value, &csr).and_then(|request| self.engine.enroll(request)),
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

    fn enrollment(&self, order: &Order, csr: &[u8]) -> Result<EnrollmentRequest, Error> {
        let request = CertificateRequest::open(csr)?;
        let names =
            names_of(&request, &order.identifiers).map_err(|problem| Refusal::new(Reason::BadProof, problem.detail))?;
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

    /// Where a wish came from.
    pub(crate) fn origin(&self, transaction: &str, request_digest: [u8; 32]) -> Origin {
        Origin {
            protocol: self.settings.protocol.clone(),
            endpoint: Some(self.settings.name.clone()),
            transaction: transaction.to_owned(),
            request_digest,
            peer: Some(self.peer.address.ip()).filter(|address| !address.is_unspecified()),
            request_id: self.peer.request_id.clone(),
        }
    }

    /// Refuses what no access rule allows, before anybody shows control in vain.
    pub(crate) fn refuse_impossible(
        &self,
        account: &Account,
        identifiers: &[Identifier],
        profile: &ProfileName,
    ) -> Attempt<Foresight> {
        let requester = Challenges {
            account: account.id.to_string(),
            identifiers: Vec::new(),
            credential: account.credential.clone(),
        };
        let names: Vec<_> = identifiers.iter().map(Identifier::alternative_name).collect();
        let foresight = self.engine.foresee(&self.settings.name, &requester, profile, &names)?;
        let refused: Vec<_> = identifiers
            .iter()
            .zip(&foresight.names)
            .filter_map(|(identifier, refusal)| Some((identifier, refusal.as_ref()?)))
            .map(|(identifier, refusal)| Subproblem {
                identifier: identifier.document(),
                kind: ProblemType::RejectedIdentifier,
                detail: refusal.public().to_owned(),
            })
            .collect();
        if !refused.is_empty() {
            let text = format!("the access rules do not allow {} of the identifiers", refused.len());
            return Err(Problem { subproblems: refused, ..Problem::new(ProblemType::RejectedIdentifier, text) }.into());
        }
        match &foresight.together {
            Some(refusal) => Err(Problem::from(refusal).into()),
            None => Ok(foresight),
        }
    }

    pub(crate) fn wanted_identifiers(&self, wanted: &[WantedIdentifier]) -> Result<Vec<Identifier>, Problem> {
        if wanted.is_empty() {
            return Err(Problem::malformed("an order names at least one identifier"));
        }
        if wanted.len() > self.options.identifiers_max {
            return Err(Problem::malformed(format!(
                "an order names at most {} identifiers",
                self.options.identifiers_max
            )));
        }
        let mut identifiers = Vec::new();
        let mut wrong = Vec::new();
        let mut seen = BTreeSet::new();
        for WantedIdentifier { kind, value, .. } in wanted {
            match Identifier::parse(kind, value) {
                Ok(identifier) => {
                    if seen.insert(identifier.clone()) {
                        identifiers.push(identifier);
                    }
                }
                Err((problem, detail)) => wrong.push(Subproblem {
                    identifier: json!({ "type": kind, "value": value }),
                    kind: problem,
                    detail: detail.to_owned(),
                }),
            }
        }
        match wrong.as_slice() {
            [] => Ok(identifiers),
            [one] => Err(Problem::new(one.kind, format!("{}: {}", one.identifier, one.detail))),
            [first, rest @ ..] => {
                let kind =
                    if rest.iter().all(|other| other.kind == first.kind) { first.kind } else { ProblemType::Compound };
                let text = format!("{} of the identifiers are not accepted", wrong.len());
                Err(Problem { subproblems: wrong, ..Problem::new(kind, text) })
            }
        }
    }

    /// For which identifiers control of which domain above may be shown instead, by the client's word and the operator's. What the
    /// operator does not permit is no error: the identifier itself is then to be shown (RFC 9444 section 4.3).
    fn wanted_ancestors(&self, wanted: &[WantedIdentifier]) -> Result<BTreeMap<Identifier, Identifier>, Problem> {
        let mut ancestors = BTreeMap::new();
        if self.options.ancestor_domains.is_empty() {
            return Ok(ancestors);
        }
        for WantedIdentifier { kind, value, ancestor_domain, .. } in wanted {
            let Some(domain) = ancestor_domain else { continue };
            let parsed = (Identifier::parse(kind, value), Identifier::parse("dns", domain));
            let (Ok(identifier), Ok(domain)) = parsed else {
                return Err(Problem::malformed(format!("the ancestorDomain of {value} is not a domain name")));
            };
            if domain.is_wildcard() || !identifier.base().is_host_below(&domain.to_string()) {
                return Err(Problem::malformed(format!("the ancestorDomain {domain} of {value} is not above it")));
            }
            if !identifier.is_wildcard() && self.options.permits_ancestor(&domain) {
                ancestors.insert(identifier, domain);
            }
        }
        Ok(ancestors)
    }

    fn wanted_validity(&self, wish: &NewOrder) -> Result<RequestedValidity, Problem> {
        let time = |text: &Option<String>| match text {
            Some(text) => text.parse::<Time>().map(Some).map_err(Problem::malformed),
            None => Ok(None),
        };
        let (not_before, not_after) = (time(&wish.not_before)?, time(&wish.not_after)?);
        if not_after.is_some_and(|end| end <= not_before.unwrap_or(self.now)) {
            return Err(Problem::malformed("notAfter lies before the certificate would be valid"));
        }
        Ok(RequestedValidity { not_before, not_after })
    }

    /// The profile of that name, or the endpoint's first one (draft-ietf-acme-profiles).
    pub(crate) fn wanted_profile(&self, name: Option<&str>) -> Attempt<ProfileName> {
        let offered = &self.settings.profiles;
        match name {
            Some(name) => {
                let profile = offered.iter().find(|profile| profile.as_str() == name).cloned();
                let unknown = || {
                    Problem::new(
                        ProblemType::InvalidProfile,
                        "this directory offers no profile of that name; its meta lists them",
                    )
                };
                Ok(profile.ok_or_else(unknown)?)
            }
            None => Ok(offered
                .first()
                .cloned()
                .ok_or_else(|| Fault::Broken(format!("endpoint {} has no profile", self.settings.name)))?),
        }
    }

    fn own_order(&self, call: &AccountCall, id: &Id) -> Attempt<Held<Order>> {
        let found = self.ledger.order(id)?.filter(|found| found.value.account == call.account.value.id);
        Ok(found.ok_or_else(Problem::not_found)?)
    }

    fn authorizations_of(&self, order: &Order) -> Attempt<Vec<Held<Authorization>>> {
        if order.state != OrderState::Open {
            return Ok(Vec::new());
        }
        let mut found = Vec::with_capacity(order.authorizations.len());
        for id in &order.authorizations {
            found.extend(self.ledger.authorization(id)?);
        }
        Ok(found)
    }

    /// Whether nothing can come of an order any more.
    pub(crate) fn is_lost(&self, order: &Order) -> Attempt<bool> {
        let authorizations = self.authorizations_of(order)?;
        let status = self.status(order, authorizations.iter().map(|held| &held.value));
        Ok(matches!(status, OrderStatus::Invalid(_)))
    }

    /// The state at this moment.
    fn status<'a>(&self, order: &Order, authorizations: impl Iterator<Item = &'a Authorization>) -> OrderStatus {
        match &order.state {
            OrderState::Processing { .. } => return OrderStatus::Processing,
            OrderState::Valid { .. } => return OrderStatus::Valid,
            OrderState::Invalid { problem, detail } => {
                return OrderStatus::Invalid(Problem::new(*problem, detail.as_str()));
            }
            OrderState::Open => {}
        }
        let mut pending = false;
        let mut lost = Vec::new();
        let mut found = 0;
        for authorization in authorizations {
            found += 1;
            match authorization.status(self.now) {
                AuthorizationStatus::Valid => {}
                AuthorizationStatus::Pending => pending = true,
                AuthorizationStatus::Invalid | AuthorizationStatus::Deactivated | AuthorizationStatus::Expired => {
                    lost.push(authorization)
                }
            }
        }
        if self.now >= order.expires || found != order.authorizations.len() {
            return OrderStatus::Invalid(Problem::malformed("the order expired before it was finalized"));
        }
        match lost.as_slice() {
            [] if pending => OrderStatus::Pending,
            [] => OrderStatus::Ready,
            [first, ..] => OrderStatus::Invalid(Problem {
                subproblems: lost
                    .iter()
                    .map(|authorization| {
                        let (kind, detail) = authorization.failure();
                        Subproblem { identifier: authorization.identifier.document(), kind, detail }
                    })
                    .collect(),
                ..Problem::new(first.failure().0, "control of an identifier was not shown")
            }),
        }
    }

    fn order_reply(&self, order: &Order, retry_after_s: u32) -> Attempt<Reply> {
        let authorizations = self.authorizations_of(order)?;
        let status = self.status(order, authorizations.iter().map(|held| &held.value));
        let reply =
            Reply::json(StatusCode::OK, &self.order_document(order, &status)).location(&self.order_url(&order.id));
        Ok(match status {
            OrderStatus::Processing => reply.retry_after_s(retry_after_s),
            OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Valid | OrderStatus::Invalid(_) => reply,
        })
    }

    fn order_document(&self, order: &Order, status: &OrderStatus) -> Value {
        let mut document = json!({
            "status": status.name(),
            "expires": order.expires.to_string(),
            "identifiers": order.identifiers.iter().map(Identifier::document).collect::<Vec<_>>(),
            "profile": order.profile.as_str(),
            "authorizations": order.authorizations.iter().map(|id| self.authorization_url(id)).collect::<Vec<_>>(),
            "finalize": format!("{}/finalize", self.order_url(&order.id)),
        });
        if let Some(members) = document.as_object_mut() {
            for (name, time) in [("notBefore", order.validity.not_before), ("notAfter", order.validity.not_after)] {
                if let Some(time) = time {
                    members.insert(name.into(), time.to_string().into());
                }
            }
            if let Some(replaces) = &order.replaces {
                members.insert("replaces".into(), replaces.as_str().into());
            }
            if let OrderStatus::Invalid(problem) = status {
                members.insert("error".into(), problem.document());
            }
            if let OrderState::Valid { serial, .. } = &order.state {
                members.insert("certificate".into(), format!("{}/certificate/{serial}", self.base_url).into());
            }
        }
        document
    }

    fn order_url(&self, id: &Id) -> String {
        format!("{}/order/{id}", self.base_url)
    }
}

pub(crate) fn bad_csr(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemType::BadCsr, detail)
}

/// Where a certificate says that its issuer's is.
fn ca_issuers_url(certificate: &[u8]) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let (_, access) = certificate.tbs_certificate().get_extension::<AuthorityInfoAccessSyntax>().ok()??;
    access.0.iter().find_map(|description| match &description.access_location {
        GeneralName::UniformResourceIdentifier(url) => {
            (description.access_method == ID_AD_CA_ISSUERS).then(|| url.to_string())
        }
        GeneralName::OtherName(_)
        | GeneralName::Rfc822Name(_)
        | GeneralName::DnsName(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::IpAddress(_)
        | GeneralName::RegisteredId(_) => None,
    })
}

fn pem_chain(certificate: &IssuedCertificate, with_root: bool) -> Result<String, Fault> {
    let pem = |der: &[u8]| {
        der::pem::encode_string("CERTIFICATE", LineEnding::LF, der)
            .map_err(|error| Fault::Broken(format!("a certificate cannot be written as PEM: {error}")))
    };
    let mut text = pem(&certificate.der)?;
    for above in &certificate.chain {
        text.push_str(&pem(above)?);
    }
    if with_root {
        text.push_str(&pem(&certificate.root)?);
    }
    Ok(text)
}
