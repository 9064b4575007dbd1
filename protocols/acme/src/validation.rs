//! Validation jobs: what to look at and when, and what becomes of the answer (RFC 8555 section 7.5.1 and 8.2).
//!
//! Nothing is asked here. Whoever mounts the endpoint is handed each [`Validation`] as it starts, looks for the answer outside the
//! request lanes, and brings it to [`crate::Acme::judge`]. A job whose answer never comes (the node died) becomes due again.

use std::fmt;
use std::net::IpAddr;

use ca_backend::{Error, Fault, Time};

use crate::account::{Account, AccountStatus};
use crate::authorization::{Authorization, AuthorizationState};
use crate::caa::{CaaSet, Issuance};
use crate::challenge::{ChallengeType, bracketed, judge, key_authorization};
use crate::corroboration::{Quorum, Sighting};
use crate::error::{Attempt, Failure, ProblemType};
use crate::id::Id;
use crate::ledger::{Held, Ledger};
use crate::limits::validation_failed;
use crate::options::Options;
use crate::order::Order;
use crate::persistent::Persistent;
use crate::site::Site;

/// How long a job belongs to the node that took it. Longer than any single look may take.
pub const LEASE_S: u64 = 30;

/// How often a place is looked at before it counts as unreachable.
const TRIES_MAX: u8 = 3;

/// The most characters of a failure's text that are kept.
const TEXT_CHARACTERS_MAX: usize = 200;

/// How long to wait after a look that brought no answer, in seconds.
const RETRY_AFTER_S: u64 = 10;

/// A look to take.
#[derive(Clone, Debug)]
pub struct Validation {
    job: Job,
    /// What to look at.
    pub question: Question,
    expected: Expected,
    /// As it was when the look began, whatever becomes of the endpoint meanwhile.
    quorum: Quorum,
}

/// What must be found.
#[derive(Clone, Debug)]
enum Expected {
    KeyAuthorization(String),
    Persistent(Persistent),
    Issuance(Issuance),
}

impl Validation {
    /// What should be found there, for tests and simulated clients; empty where no token is.
    #[must_use]
    pub fn key_authorization(&self) -> &str {
        match &self.expected {
            Expected::KeyAuthorization(text) => text,
            Expected::Persistent(_) | Expected::Issuance(_) => "",
        }
    }

    /// Whether this answer shows what it should. Nothing is recorded.
    #[must_use]
    pub fn shows(&self, found: &Found) -> bool {
        matches!(self.judge(found), Verdict::Shown(_))
    }

    /// The names of the remote perspectives that are to look at the same.
    #[must_use]
    pub fn perspectives(&self) -> &[String] {
        &self.quorum.perspectives
    }

    /// Whether enough perspectives saw what they should, so that nobody else need be waited for.
    #[must_use]
    pub fn is_corroborated(&self, elsewhere: &[Sighting]) -> bool {
        let confirming = |sighting: &&Sighting| sighting.found.as_ref().is_some_and(|found| self.shows(found));
        self.quorum.is_reached(elsewhere.iter().filter(confirming).count())
    }

    /// What was found here counts only if it is the right answer, and enough others found one too.
    pub(crate) fn verdict(&self, found: &Found, elsewhere: &[Sighting]) -> Verdict {
        match self.judge(found) {
            Verdict::Shown(shown) => {
                let judged = |sighting: &Sighting| sighting.found.as_ref().map(|found| self.judge(found));
                let verdicts: Vec<_> =
                    elsewhere.iter().map(|sighting| (sighting.perspective.as_str(), judged(sighting))).collect();
                self.quorum.judge(shown, &verdicts)
            }
            verdict @ (Verdict::NotShown(..) | Verdict::NoAnswer(..)) => verdict,
        }
    }

    fn judge(&self, found: &Found) -> Verdict {
        match (&self.expected, &self.question) {
            (Expected::KeyAuthorization(text), question) => judge(text, question, found),
            (Expected::Persistent(record), Question::Dns01 { name }) => record.judge(name, found),
            (Expected::Persistent(record), _) => record.judge("", found),
            (Expected::Issuance(issuance), _) => issuance.judge(found),
        }
    }
}

/// What a look at the right place means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Control is shown; the text says what was seen, for the audit record.
    Shown(String),
    /// It is not, and will not be.
    NotShown(ProblemType, String),
    /// The place could not be looked at; a later look may be luckier.
    NoAnswer(ProblemType, String),
}

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// `GET http://TARGET:PORT/PATH`, where the port is [`crate::Options::http01_port`].
    Http01 {
        /// The host.
        target: Target,
        /// The absolute path.
        path: String,
    },
    /// The certificate that a TLS server shows over the protocol `acme-tls/1`, at the port [`crate::Options::tls_alpn01_port`].
    TlsAlpn01 {
        /// The host.
        target: Target,
        /// The server name to send.
        server_name: String,
    },
    /// The TXT records of a name, CNAMEs followed.
    Dns01 {
        /// The name, without a trailing dot.
        name: String,
    },
    /// The CAA records that hold for each of these names, found there or above (RFC 8659 section 3).
    Caa {
        /// The names, without a wildcard label or a trailing dot.
        names: Vec<String>,
    },
}

/// The host to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A host name, to be resolved.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// As it stands in a URL and in the Host header.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => f.write_str(&bracketed(address)),
        }
    }
}

/// What a look brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A reply over HTTP, redirects followed.
    Http {
        /// Its status.
        status: u16,
        /// The beginning of its body; 1 KiB is more than enough.
        body: Vec<u8>,
        /// The address that answered, for the audit record.
        address: IpAddr,
    },
    /// The TXT records, the strings of each joined.
    Txt(Vec<String>),
    /// The server's own certificate, shown after `acme-tls/1` was agreed upon.
    Certificate {
        /// The certificate.
        der: Vec<u8>,
        /// The address that answered, for the audit record.
        address: IpAddr,
    },
    /// The CAA records of each name, in their order.
    Caa(Vec<CaaSet>),
    /// Nothing.
    Failed {
        /// What kind of failure.
        class: FailureClass,
        /// What happened, for the client: names and addresses, never a body.
        text: String,
    },
}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The name has no address or record, or could not be resolved.
    Dns,
    /// No connection, or it broke.
    Connection,
    /// No answer in time.
    Timeout,
    /// The address lies outside of [`crate::Options::reachable_networks`].
    RefusedAddress,
    /// TLS failed.
    Tls,
    /// The reply is not HTTP, redirects to where it must not, or exceeds a limit.
    BadResponse,
}

impl FailureClass {
    pub(crate) fn verdict(self, text: &str) -> Verdict {
        // The text may quote what another host said of itself; it ends up in a reply and in a record.
        let text: String = text.chars().filter(|c| !c.is_control()).take(TEXT_CHARACTERS_MAX).collect();
        match self {
            Self::Dns => Verdict::NoAnswer(ProblemType::Dns, text),
            Self::Connection | Self::Timeout => Verdict::NoAnswer(ProblemType::Connection, text),
            Self::Tls => Verdict::NoAnswer(ProblemType::Tls, text),
            Self::RefusedAddress => Verdict::NotShown(ProblemType::Connection, text),
            Self::BadResponse => Verdict::NotShown(ProblemType::IncorrectResponse, text),
        }
    }
}

/// What is recorded of a validation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) about: About,
    /// When somebody else may take it.
    pub(crate) due: Time,
    /// How often it was tried before.
    pub(crate) tries: u8,
}

/// What a validation decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// A challenge of an authorization.
    Challenge { authorization: Id, kind: ChallengeType },
    /// Whether CAA records let an order be issued.
    Issuance { order: Id },
}

impl About {
    /// The name in records.
    pub(crate) const CAA: &'static str = "caa";

    /// The authorization or order.
    pub(crate) fn object(&self) -> &Id {
        match self {
            Self::Challenge { authorization, .. } => authorization,
            Self::Issuance { order } => order,
        }
    }

    /// The challenge's name, or [`About::CAA`].
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Challenge { kind, .. } => kind.name(),
            Self::Issuance { .. } => Self::CAA,
        }
    }
}

/// What validations need to know of their endpoint.
pub(crate) struct Context<'a> {
    pub(crate) base_url: &'a str,
    pub(crate) options: &'a Options,
    pub(crate) now: Time,
}

impl Context<'_> {
    fn account_url(&self, account: &Id) -> String {
        format!("{}/account/{account}", self.base_url)
    }

    /// The look that a job stands for; `None` if nobody waits for it any more.
    fn validation(&self, ledger: &Ledger, job: Job) -> Result<Option<Validation>, Error> {
        match job.about {
            About::Challenge { authorization, kind } => {
                let authorization = ledger.authorization(&authorization)?;
                let Some(authorization) =
                    authorization.filter(|found| found.value.state == AuthorizationState::Pending)
                else {
                    return Ok(None);
                };
                let account = ledger.account(&authorization.value.account)?;
                let account = account.filter(|account| account.value.status == AccountStatus::Valid);
                Ok(account.and_then(|account| self.challenge(job, kind, &account.value, &authorization.value)))
            }
            About::Issuance { order } => {
                let order = ledger.order(&order)?.filter(|order| order.value.waits_for_caa());
                order.map(|order| self.issuance(ledger, job, &order.value)).transpose()
            }
        }
    }

    fn challenge(
        &self,
        job: Job,
        kind: ChallengeType,
        account: &Account,
        authorization: &Authorization,
    ) -> Option<Validation> {
        let challenge = authorization.challenges.iter().find(|challenge| challenge.kind == kind)?;
        let account_url = self.account_url(&account.id);
        let question = kind.question(&authorization.identifier, &challenge.token, &account_url)?;
        let expected = if kind == ChallengeType::DnsPersist01 {
            Expected::Persistent(Persistent {
                issuers: self.options.caa_identities.clone(),
                account_url,
                wildcard: authorization.identifier.is_wildcard() || authorization.subdomains,
                at: self.now,
            })
        } else {
            Expected::KeyAuthorization(key_authorization(&challenge.token, account.key.thumbprint()))
        };
        Some(Validation { job, question, expected, quorum: self.options.quorum() })
    }

    fn issuance(&self, ledger: &Ledger, job: Job, order: &Order) -> Result<Validation, Error> {
        let account_url = self.account_url(&order.account);
        let issuance = Issuance::of(order, ledger, &self.options.caa_identities, account_url)?;
        let question = Question::Caa { names: issuance.question() };
        Ok(Validation { job, question, expected: Expected::Issuance(issuance), quorum: self.options.quorum() })
    }
}

impl Site<'_> {
    fn context(&self) -> Context<'_> {
        Context { base_url: self.base_url, options: &self.options, now: self.now }
    }

    /// The job of a challenge that the client has just answered, taken by this node.
    pub(crate) fn first_validation(
        &self,
        account: &Account,
        authorization: &Authorization,
        kind: ChallengeType,
    ) -> Attempt<(Job, Validation)> {
        let job = self.first_job(About::Challenge { authorization: authorization.id, kind });
        let broken = || Fault::Broken(format!("authorization {} has no {} challenge", authorization.id, kind.name()));
        Ok((job, self.context().challenge(job, kind, account, authorization).ok_or_else(broken)?))
    }

    /// The job of a look at the CAA records of an order, taken by this node.
    pub(crate) fn first_caa_check(&self, order: &Order) -> Attempt<(Job, Validation)> {
        let job = self.first_job(About::Issuance { order: order.id });
        Ok((job, self.context().issuance(self.ledger, job, order)?))
    }

    fn first_job(&self, about: About) -> Job {
        Job { about, due: self.now.plus_s(LEASE_S), tries: 0 }
    }
}

/// Takes up to `limit` jobs that are due: retries, and those of nodes that died.
pub(crate) fn take_due(
    ledger: &Ledger,
    context: &Context<'_>,
    now: Time,
    limit: usize,
) -> Result<Vec<Validation>, Error> {
    let mut taken = Vec::new();
    for job in ledger.due_jobs(now, limit)? {
        let still_wanted = context.validation(ledger, Job { due: now.plus_s(LEASE_S), ..job.value })?;
        let change = ledger.change().remove_job(&job);
        let change = match &still_wanted {
            Some(validation) => change.add_job(&validation.job)?,
            None => change,
        };
        match change.commit() {
            Ok(()) => taken.extend(still_wanted),
            Err(Failure::Conflict) => {} // another node was faster
            Err(failure) => return Err(failure.into_error()),
        }
    }
    Ok(taken)
}

/// Records what looks brought. An answer that comes after its job went to somebody else is ignored.
pub(crate) fn settle(
    ledger: &Ledger,
    options: &Options,
    now: Time,
    validation: &Validation,
    verdict: &Verdict,
) -> Result<(), Error> {
    const ATTEMPTS_MAX: usize = 5;
    for _ in 0..ATTEMPTS_MAX {
        let Some(job) = ledger.job(&validation.job)? else { return Ok(()) };
        match settle_once(ledger, options, now, &job, verdict) {
            Err(Failure::Conflict) => {}
            Err(failure) => return Err(failure.into_error()),
            Ok(()) => return Ok(()),
        }
    }
    Err(Fault::TryLater { after_s: 1 }.into())
}

fn settle_once(ledger: &Ledger, options: &Options, now: Time, job: &Held<Job>, verdict: &Verdict) -> Attempt<()> {
    let change = ledger.change().remove_job(job);
    let tries = job.value.tries.saturating_add(1);
    if matches!(verdict, Verdict::NoAnswer(..)) && tries < TRIES_MAX {
        let again = Job { due: now.plus_s(RETRY_AFTER_S), tries, ..job.value };
        return change.add_job(&again)?.commit();
    }
    match job.value.about {
        About::Challenge { authorization, kind } => {
            let Some(mut authorization) = ledger.authorization(&authorization)? else { return change.commit() };
            if !authorization.value.decide(kind, now, verdict) {
                return change.commit();
            }
            let shown = &mut authorization.value;
            let mut change = change;
            match &shown.state {
                AuthorizationState::Valid { .. } => {
                    shown.expires = shown.expires.max(now.plus_s(options.authorization_reuse_s));
                }
                AuthorizationState::Invalid => {
                    let failed = validation_failed(ledger, now, options, shown)?;
                    change = failed.into_iter().fold(change, |change, used| used.count(change));
                }
                AuthorizationState::Pending | AuthorizationState::Granted { .. } | AuthorizationState::Deactivated => {}
            }
            change.update_authorization(&authorization)?.commit()
        }
        About::Issuance { order } => {
            let Some(mut order) = ledger.order(&order)? else { return change.commit() };
            if !order.value.decide_caa(now, verdict) {
                return change.commit();
            }
            change.update_order(&order)?.commit()
        }
    }
}
