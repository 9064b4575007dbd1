//! Requests that wait for an operator.

use std::fmt;
use std::sync::PoisonError;

use const_oid::ObjectIdentifier;
use serde::Serialize;
use serde_bytes::ByteBuf;

use crate::audit::{Action, AuditRecord};
use crate::clock::{Rng, Time, random};
use crate::engine::{Engine, Outcome};
use crate::error::{Error, Fault, Reason, Refusal};
use crate::evidence::{Approval, Evidence, EvidenceFacts};
use crate::extension::RequestedExtensions;
use crate::holder::Holder;
use crate::label::{AuthorityName, ProfileName};
use crate::record::{self, TicketForm, TicketStateForm};
use crate::request::{EnrollmentRequest, Origin, RequestedNames, RequestedValidity};
use crate::serial::Serial;
use crate::store::{Batch, CommitError, Key, Range, Space, Version};
use crate::subject_key::{ProvenKey, SubjectKey, SubjectKeyKind};

/// Names a request that waits for approval: 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Ticket(String);

/// A waiting request, as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct WaitingRequest {
    /// Names the request.
    pub ticket: Ticket,
    /// Since when it waits.
    pub at: Time,
    /// Who shall issue.
    pub authority: AuthorityName,
    /// What kind of certificate.
    pub profile: ProfileName,
    /// The subject, RFC 4514.
    pub subject: String,
    /// The alternative names: `dns:host.example.org`.
    pub alternative_names: Vec<String>,
    /// Who asks.
    pub requester: String,
    /// By which protocol and endpoint, and from where.
    pub origin: Origin,
}

/// Everything that an operator who decides has to know.
#[derive(Clone, Debug)]
pub struct TicketDetails {
    /// What was asked for, by whom and from where.
    pub request: WaitingRequest,
    /// What became of it.
    pub standing: TicketStanding,
    /// When an operator decided, or when it was given up.
    pub decided_at: Option<Time>,
    /// The kind of the public key.
    pub key: SubjectKeyKind,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key_fingerprint: [u8; 32],
    /// The extended key usages that were asked for; none leaves them to the profile.
    pub extended_key_usages: Vec<ObjectIdentifier>,
    /// The other extensions that the request brings.
    pub extensions: Vec<ObjectIdentifier>,
    /// The validity that was asked for; none leaves it to the profile.
    pub validity: Option<RequestedValidity>,
    /// What the request rests on.
    pub evidence: EvidenceFacts,
}

/// What became of a request that waits or waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketStanding {
    /// It waits.
    Waiting,
    /// It was approved; under this serial.
    Issued(Serial),
    /// It was rejected, and why.
    Rejected(String),
    /// Nobody decided in time.
    Expired,
}

/// How far the look through all tickets has come.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    from: Key,
    not_before: Time,
}

/// Seconds between two looks through all tickets.
const SWEEP_PAUSE_S: u64 = 3_600;
/// Seconds until polling again makes sense.
const RETRY_S: u32 = 60;
/// Tickets read at a time.
const SCAN_ENTRIES: usize = 500;

impl Ticket {
    pub(crate) fn generate(rng: &dyn Rng) -> Self {
        Self(hex::encode(random::<16>(rng)))
    }

    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// Reads a ticket that [`fmt::Display`] wrote.
    ///
    /// # Errors
    /// `Reason::Malformed` if it is not 32 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if digits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Refusal::new(Reason::Malformed, "a ticket is 32 hexadecimal digits"))
        }
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The stored form of a request that has to wait.
pub(crate) fn form(request: &EnrollmentRequest, facts: &EvidenceFacts, holder: Option<Holder>, at: Time) -> TicketForm {
    TicketForm {
        at,
        state: TicketStateForm::Waiting,
        decided_at: None,
        authority: request.authority.clone(),
        profile: request.profile.clone(),
        names: request.names.clone(),
        extended_key_usage: request.extensions.extended_key_usage.iter().map(ToString::to_string).collect(),
        extensions: request
            .extensions
            .other
            .iter()
            .map(|(id, value)| (id.to_string(), ByteBuf::from(value.clone())))
            .collect(),
        public_key: request.key.subject_key().spki_der().to_vec(),
        validity: request.validity,
        holder,
        facts: facts.clone(),
        origin: request.origin.clone(),
    }
}

impl Engine {
    /// What became of a request that waits or waited.
    ///
    /// # Errors
    /// A refusal if the ticket is unknown or was rejected, or the store's fault.
    pub fn poll(&self, ticket: &Ticket) -> Result<Outcome, Error> {
        match self.ticket_form(ticket)?.0.state {
            TicketStateForm::Waiting => Ok(Outcome::Pending { ticket: ticket.clone(), retry_after_s: RETRY_S }),
            TicketStateForm::Rejected(why) => {
                Err(Refusal::new(Reason::NotAuthorized, format!("an operator rejected the request: {why}")).into())
            }
            TicketStateForm::Expired => {
                Err(Refusal::new(Reason::NotReady, "nobody decided on the request in time; ask anew").into())
            }
            TicketStateForm::Issued(serial) => match self.issued_or_resumed(&serial)? {
                Some(outcome) => Ok(outcome),
                None => {
                    let text = "the request was approved, but its certificate could not be signed in time or is removed; ask anew";
                    Err(Refusal::new(Reason::NotReady, text).into())
                }
            },
        }
    }

    /// The requests that wait, oldest ticket name first, after `after`.
    ///
    /// # Errors
    /// The store's fault.
    pub fn waiting(&self, after: Option<&Ticket>, limit: usize) -> Result<Vec<WaitingRequest>, Error> {
        let from = after.map_or_else(Vec::new, |ticket| [ticket.as_str().as_bytes(), &[0]].concat());
        let mut range = Range { from, until: None, reverse: false };
        let mut waiting = Vec::new();
        // Those that were decided lie in between, any number of them.
        while waiting.len() < limit {
            let entries = self.inner.store.scan(Space::Ticket, &range, SCAN_ENTRIES)?;
            let Some(last) = entries.last() else { break };
            range.from = [last.key.as_slice(), &[0]].concat();
            for entry in entries {
                let form: TicketForm = record::decode(&entry.value)?;
                if form.state != TicketStateForm::Waiting || waiting.len() == limit {
                    continue;
                }
                waiting.push(waiting_request(Ticket(String::from_utf8_lossy(&entry.key).into_owned()), form));
            }
        }
        Ok(waiting)
    }

    /// Releases a waiting request: it is judged anew and issued. The ticket is decided in the commit that reserves the serial, so that
    /// nobody can reject what is being issued.
    ///
    /// # Errors
    /// A refusal if it does not wait any more or the rules meanwhile forbid it; the request then still waits. After a fault either
    /// it still waits, or [`Engine::poll`] goes on with it.
    pub fn approve(&self, ticket: &Ticket, operator: &str) -> Result<Outcome, Error> {
        let (form, version) = self.waiting_form(ticket)?;
        self.enroll(released(form, version, operator, ticket)?)
    }

    /// Turns a waiting request down.
    ///
    /// # Errors
    /// A refusal if it does not wait any more, or the store's fault.
    pub fn reject(&self, ticket: &Ticket, operator: &str, why: &str) -> Result<(), Error> {
        let (form, version) = self.waiting_form(ticket)?;
        let release = Release { ticket: ticket.clone(), form, version };
        let decided =
            release.decided(TicketStateForm::Rejected(why.to_owned()), self.now(), Some(operator), Batch::new())?;
        self.commit_or_later(self.end_wait(decided, release.facts())?)?;
        tracing::info!(%ticket, operator, why, "an operator rejected a request");
        Ok(())
    }

    /// What was asked for under this ticket, and what became of it.
    ///
    /// # Errors
    /// A refusal if the ticket is unknown, or the store's fault.
    pub fn ticket(&self, ticket: &Ticket) -> Result<TicketDetails, Error> {
        let (form, _) = self.ticket_form(ticket)?;
        let key = SubjectKey::accept(&form.public_key)?;
        let oid = |id: &String| {
            let id = ObjectIdentifier::new(id);
            id.map_err(|_| Fault::Broken(format!("ticket {ticket} holds no object identifier")))
        };
        Ok(TicketDetails {
            standing: match &form.state {
                TicketStateForm::Waiting => TicketStanding::Waiting,
                TicketStateForm::Issued(serial) => TicketStanding::Issued(*serial),
                TicketStateForm::Rejected(why) => TicketStanding::Rejected(why.clone()),
                TicketStateForm::Expired => TicketStanding::Expired,
            },
            decided_at: form.decided_at,
            key: key.kind(),
            key_fingerprint: key.fingerprint(),
            extended_key_usages: form.extended_key_usage.iter().map(oid).collect::<Result<_, _>>()?,
            extensions: form.extensions.iter().map(|(id, _)| oid(id)).collect::<Result<_, _>>()?,
            validity: form.validity,
            evidence: form.facts.clone(),
            request: waiting_request(ticket.clone(), form),
        })
    }

    /// Looks through some of the tickets: gives up those on which nobody decided in time, and removes those that were decided long
    /// ago. Once it has seen all of them it rests for an hour.
    pub(crate) fn tidy_tickets(&self) -> Result<(), Error> {
        let mut sweep = self.inner.tickets_swept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        if now < sweep.not_before {
            return Ok(());
        }
        // As long as a repeat is answered with its first outcome, the ticket that stands for it has to be there.
        let kept_s = self.inner.settings.ticket_retention_s.max(2 * self.inner.settings.repeat_window_s);
        let range = Range { from: sweep.from.clone(), until: None, reverse: false };
        let entries = self.inner.store.scan(Space::Ticket, &range, SCAN_ENTRIES)?;
        let (mut batch, mut removed) = (Batch::new(), 0);
        for entry in &entries {
            let form: TicketForm = record::decode(&entry.value)?;
            let decided = form.state != TicketStateForm::Waiting;
            if !decided && form.at.plus_s(self.inner.settings.ticket_waiting_max_s) < now {
                self.give_up(&Ticket(String::from_utf8_lossy(&entry.key).into_owned()))?;
            }
            if decided && form.decided_at.unwrap_or(form.at).plus_s(kept_s) < now {
                batch = batch.delete(Space::Ticket, entry.key.clone());
                removed += 1;
            }
        }
        if removed > 0 {
            self.commit_or_later(batch)?;
        }
        *sweep = match entries.last() {
            Some(last) => Sweep { from: [last.key.as_slice(), &[0]].concat(), not_before: now },
            None => Sweep { from: Vec::new(), not_before: now.plus_s(SWEEP_PAUSE_S) },
        };
        Ok(())
    }

    /// Ends the wait of a request on which nobody decided.
    fn give_up(&self, ticket: &Ticket) -> Result<(), Error> {
        let (form, version) = match self.waiting_form(ticket) {
            Ok(found) => found,
            // Somebody decided just now.
            Err(Error::Refused(_)) => return Ok(()),
            Err(fault) => return Err(fault),
        };
        let release = Release { ticket: ticket.clone(), form, version };
        let expired = release.decided(TicketStateForm::Expired, self.now(), None, Batch::new())?;
        match self.inner.store.commit(self.end_wait(expired, release.facts())?) {
            Ok(_) => tracing::info!(%ticket, "gave up a request on which nobody decided"),
            Err(CommitError::Conflict) => {}
            Err(CommitError::Fault(fault)) => return Err(fault.into()),
        }
        Ok(())
    }

    fn ticket_form(&self, ticket: &Ticket) -> Result<(TicketForm, Version), Error> {
        let found = self.inner.store.get(Space::Ticket, ticket.as_str().as_bytes())?;
        let found = found.ok_or_else(|| Refusal::new(Reason::NotReady, format!("there is no request {ticket}")))?;
        Ok((record::decode(&found.value)?, found.version))
    }

    fn waiting_form(&self, ticket: &Ticket) -> Result<(TicketForm, Version), Error> {
        let (form, version) = self.ticket_form(ticket)?;
        if form.state != TicketStateForm::Waiting {
            return Err(Refusal::new(Reason::Conflict, format!("request {ticket} was decided already")).into());
        }
        Ok((form, version))
    }
}

fn waiting_request(ticket: Ticket, form: TicketForm) -> WaitingRequest {
    WaitingRequest {
        ticket,
        at: form.at,
        authority: form.authority,
        profile: form.profile,
        subject: form.names.subject.to_string(),
        alternative_names: form.names.alternative.iter().map(ToString::to_string).collect(),
        requester: form.facts.requester,
        origin: form.origin,
    }
}

/// A waiting request in the hands of an operator.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    ticket: Ticket,
    form: TicketForm,
    version: Version,
}

impl Release {
    /// What the request rested on when it came.
    pub(crate) fn facts(&self) -> &EvidenceFacts {
        &self.form.facts
    }

    /// Adds the operator's decision, or that there was none, and its audit record to a batch, which conflicts if somebody decided before.
    pub(crate) fn decided(
        &self,
        state: TicketStateForm,
        at: Time,
        operator: Option<&str>,
        batch: Batch,
    ) -> Result<Batch, Fault> {
        let (action, why) = match &state {
            TicketStateForm::Rejected(why) => (Action::Rejected, why.as_str()),
            TicketStateForm::Expired => (Action::Expired, "nobody decided in time"),
            TicketStateForm::Issued(_) | TicketStateForm::Waiting => (Action::Approved, ""),
        };
        let facts = EvidenceFacts { approved_by: operator.map(str::to_owned), ..self.form.facts.clone() };
        let record = AuditRecord::new(at, action)
            .origin(&self.form.origin)
            .evidence(&facts)
            .authority(&self.form.authority)
            .detail(format!("ticket {} {why}", self.ticket).trim_end());
        let form = TicketForm { state, decided_at: Some(at), ..self.form.clone() };
        let batch = batch.expect(Space::Ticket, self.ticket.as_str(), self.version).put(
            Space::Ticket,
            self.ticket.as_str(),
            record::encode(&form)?,
        );
        record.in_batch(batch)
    }
}

/// The request as it came, now with the operator's word. Its possession of the key was shown when it came.
fn released(form: TicketForm, version: Version, operator: &str, ticket: &Ticket) -> Result<EnrollmentRequest, Error> {
    let oid =
        |text: &str| ObjectIdentifier::new(text).map_err(|_| Fault::Broken(format!("{text} is no object identifier")));
    let extended_key_usage = form.extended_key_usage.iter().map(|text| oid(text)).collect::<Result<_, _>>()?;
    let other =
        form.extensions.iter().map(|(id, value)| Ok((oid(id)?, value.to_vec()))).collect::<Result<_, Fault>>()?;
    Ok(EnrollmentRequest {
        authority: form.authority.clone(),
        profile: form.profile.clone(),
        names: RequestedNames { subject: form.names.subject.clone(), alternative: form.names.alternative.clone() },
        extensions: RequestedExtensions { extended_key_usage, other },
        key: ProvenKey::after_verified_signature(SubjectKey::accept(&form.public_key)?),
        validity: form.validity,
        holder: form.holder.clone(),
        // Its own transaction: the first outcome of the original one is the ticket.
        origin: Origin { transaction: format!("ticket {ticket}"), ..form.origin.clone() },
        evidence: Evidence::Operator(Approval {
            operator: operator.to_owned(),
            released: Some(Box::new(Release { ticket: ticket.clone(), form, version })),
            daemon: false,
        }),
    })
}
