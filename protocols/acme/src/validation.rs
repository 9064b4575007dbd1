//! Validation jobs: what to look at and when, and what becomes of the answer (RFC 8555 section 7.5.1 and 8.2).
//!
//! Nothing is asked here. Whoever mounts the endpoint is handed each [`Validation`] as it starts, looks for the answer outside the
//! request lanes, and brings it to [`crate::Acme::judge`]. A job whose answer never comes (the node died) becomes due again.

use std::fmt;
use std::net::IpAddr;

use ca_backend::{Error, Fault, Time};

use crate::account::{Account, AccountStatus};
use crate::authorization::{Authorization, AuthorizationState};
use crate::challenge::{ChallengeState, ChallengeType, Verdict, bracketed, judge, key_authorization};
use crate::error::{Attempt, Failure, ProblemType};
use crate::id::Id;
use crate::ledger::{Held, Ledger};
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
    key_authorization: String,
}

impl Validation {
    /// What should be found there, for tests and simulated clients.
    #[must_use]
    pub fn key_authorization(&self) -> &str {
        &self.key_authorization
    }

    /// Whether this answer shows control. Nothing is recorded.
    #[must_use]
    pub fn shows(&self, found: &Found) -> bool {
        matches!(judge(&self.key_authorization, &self.question, found), Verdict::Shown(_))
    }
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
    pub(crate) authorization: Id,
    pub(crate) kind: ChallengeType,
    /// When somebody else may take it.
    pub(crate) due: Time,
    /// How often it was tried before.
    pub(crate) tries: u8,
}

impl Site<'_> {
    /// The job of a challenge that the client has just answered, taken by this node.
    pub(crate) fn first_validation(
        &self,
        account: &Account,
        authorization: &Authorization,
        kind: ChallengeType,
    ) -> Attempt<(Job, Validation)> {
        let job = Job { authorization: authorization.id, kind, due: self.now.plus_s(LEASE_S), tries: 0 };
        let broken = || Fault::Broken(format!("authorization {} has no {} challenge", authorization.id, kind.name()));
        Ok((job, validation(job, account, authorization).ok_or_else(broken)?))
    }
}

fn validation(job: Job, account: &Account, authorization: &Authorization) -> Option<Validation> {
    let challenge = authorization.challenges.iter().find(|challenge| challenge.kind == job.kind)?;
    let question = job.kind.question(&authorization.identifier, &challenge.token)?;
    Some(Validation { job, question, key_authorization: key_authorization(&challenge.token, account.key.thumbprint()) })
}

/// Takes up to `limit` jobs that are due: retries, and those of nodes that died.
pub(crate) fn take_due(ledger: &Ledger, now: Time, limit: usize) -> Result<Vec<Validation>, Error> {
    let mut taken = Vec::new();
    for job in ledger.due_jobs(now, limit)? {
        let still_wanted = match ledger.authorization(&job.value.authorization)? {
            Some(authorization) if authorization.value.state == AuthorizationState::Pending => {
                let account = ledger
                    .account(&authorization.value.account)?
                    .filter(|account| account.value.status == AccountStatus::Valid);
                let mine = Job { due: now.plus_s(LEASE_S), ..job.value };
                account.and_then(|account| validation(mine, &account.value, &authorization.value))
            }
            Some(_) | None => None,
        };
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

/// Records what a look brought. An answer that comes after its job went to somebody else is ignored.
pub(crate) fn settle(ledger: &Ledger, now: Time, validation: &Validation, found: &Found) -> Result<(), Error> {
    const ATTEMPTS_MAX: usize = 5;
    for _ in 0..ATTEMPTS_MAX {
        let Some(job) = ledger.job(&validation.job)? else { return Ok(()) };
        match settle_once(ledger, now, &job, validation, found) {
            Err(Failure::Conflict) => {}
            Err(failure) => return Err(failure.into_error()),
            Ok(()) => return Ok(()),
        }
    }
    Err(Fault::TryLater { after_s: 1 }.into())
}

fn settle_once(ledger: &Ledger, now: Time, job: &Held<Job>, validation: &Validation, found: &Found) -> Attempt<()> {
    let change = ledger.change().remove_job(job);
    let Some(mut authorization) = ledger.authorization(&job.value.authorization)? else { return change.commit() };
    let pending = authorization.value.state == AuthorizationState::Pending && now < authorization.value.expires;
    let challenge = authorization.value.challenges.iter_mut().find(|challenge| challenge.kind == job.value.kind);
    let Some(challenge) = challenge.filter(|_| pending) else { return change.commit() };

    let tries = job.value.tries.saturating_add(1);
    match judge(&validation.key_authorization, &validation.question, found) {
        Verdict::Shown(detail) => {
            challenge.state = ChallengeState::Valid { at: now };
            authorization.value.state = AuthorizationState::Valid { method: job.value.kind, at: now, detail };
        }
        Verdict::NoAnswer(..) if tries < TRIES_MAX => {
            let again = Job { due: now.plus_s(RETRY_AFTER_S), tries, ..job.value };
            return change.add_job(&again)?.commit();
        }
        Verdict::NotShown(problem, detail) | Verdict::NoAnswer(problem, detail) => {
            challenge.state = ChallengeState::Invalid { problem, detail };
            authorization.value.state = AuthorizationState::Invalid;
        }
    }
    change.update_authorization(&authorization)?.commit()
}
