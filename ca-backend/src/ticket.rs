//! Requests that wait for an operator.

use std::fmt;

use const_oid::ObjectIdentifier;
use serde::Serialize;
use serde_bytes::ByteBuf;

use crate::audit::{Action, AuditRecord};
use crate::clock::{Rng, Time, random};
use crate::engine::{Engine, Outcome};
use crate::error::{Error, Fault, Reason, Refusal};
use crate::evidence::{Approval, Evidence, EvidenceFacts};
use crate::extension::RequestedExtensions;
use crate::label::{AuthorityName, ProfileName};
use crate::record::{self, TicketForm, TicketStateForm};
use crate::request::{EnrollmentRequest, Origin, RequestedNames};
use crate::store::{Batch, Range, Space, Version};
use crate::subject_key::{ProvenKey, SubjectKey};

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

/// Seconds until polling again makes sense.
const RETRY_S: u32 = 60;

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
        if digits { Ok(Self(text.to_owned())) } else { Err(Refusal::new(Reason::Malformed, "a ticket is 32 hexadecimal digits")) }
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
pub(crate) fn form(request: &EnrollmentRequest, facts: &EvidenceFacts, at: Time) -> TicketForm {
    TicketForm {
        at,
        state: TicketStateForm::Waiting,
        authority: request.authority.clone(),
        profile: request.profile.clone(),
        names: request.names.clone(),
        extended_key_usage: request.extensions.extended_key_usage.iter().map(ToString::to_string).collect(),
        extensions: request.extensions.other.iter().map(|(id, value)| (id.to_string(), ByteBuf::from(value.clone()))).collect(),
        public_key: request.key.subject_key().spki_der().to_vec(),
        validity: request.validity,
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
            TicketStateForm::Rejected(why) => Err(Refusal::new(Reason::NotAuthorized, format!("an operator rejected the request: {why}")).into()),
            TicketStateForm::Issued(serial) => {
                let issued = self.issued_certificate(&serial)?;
                issued.map(Outcome::Issued).ok_or_else(|| Fault::Broken(format!("ticket {ticket} names no certificate")).into())
            }
        }
    }

    /// The requests that wait, oldest ticket name first, after `after`.
    ///
    /// # Errors
    /// The store's fault.
    pub fn waiting(&self, after: Option<&Ticket>, limit: usize) -> Result<Vec<WaitingRequest>, Error> {
        let from = after.map_or_else(Vec::new, |ticket| [ticket.as_str().as_bytes(), &[0]].concat());
        let range = Range { from, until: None, reverse: false };
        let mut waiting = Vec::new();
        for entry in self.inner.store.scan(Space::Ticket, &range, limit)? {
            let form: TicketForm = record::decode(&entry.value)?;
            if form.state == TicketStateForm::Waiting {
                waiting.push(WaitingRequest {
                    ticket: Ticket(String::from_utf8_lossy(&entry.key).into_owned()),
                    at: form.at,
                    authority: form.authority,
                    profile: form.profile,
                    subject: form.names.subject.to_string(),
                    alternative_names: form.names.alternative.iter().map(ToString::to_string).collect(),
                    requester: form.facts.requester,
                    origin: form.origin,
                });
            }
        }
        Ok(waiting)
    }

    /// Releases a waiting request: it is judged anew and issued.
    ///
    /// # Errors
    /// A refusal if it does not wait any more or the rules meanwhile forbid it, or a fault; the request then still waits.
    pub fn approve(&self, ticket: &Ticket, operator: &str) -> Result<Outcome, Error> {
        let (form, version) = self.waiting_form(ticket)?;
        let request = released(&form, operator, ticket)?;
        let outcome = self.enroll(request)?;
        if let Outcome::Issued(certificate) = &outcome {
            self.decide(ticket, form, version, TicketStateForm::Issued(certificate.serial), Action::Approved, operator, "")?;
        }
        Ok(outcome)
    }

    /// Turns a waiting request down.
    ///
    /// # Errors
    /// A refusal if it does not wait any more, or the store's fault.
    pub fn reject(&self, ticket: &Ticket, operator: &str, why: &str) -> Result<(), Error> {
        let (form, version) = self.waiting_form(ticket)?;
        self.decide(ticket, form, version, TicketStateForm::Rejected(why.to_owned()), Action::Rejected, operator, why)
    }

    #[allow(clippy::too_many_arguments)]
    fn decide(
        &self,
        ticket: &Ticket,
        form: TicketForm,
        version: Version,
        state: TicketStateForm,
        action: Action,
        operator: &str,
        why: &str,
    ) -> Result<(), Error> {
        let facts = EvidenceFacts { approved_by: Some(operator.to_owned()), ..form.facts.clone() };
        let record = AuditRecord::new(self.now(), action)
            .origin(&form.origin)
            .evidence(&facts)
            .authority(&form.authority)
            .detail(format!("ticket {ticket} {why}").trim_end());
        let batch = Batch::new().expect(Space::Ticket, ticket.as_str(), version).put(
            Space::Ticket,
            ticket.as_str(),
            record::encode(&TicketForm { state, ..form })?,
        );
        self.commit_or_later(record.in_batch(batch)?)?;
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

/// The request as it came, now with the operator's word. Its possession of the key was shown when it came.
fn released(form: &TicketForm, operator: &str, ticket: &Ticket) -> Result<EnrollmentRequest, Error> {
    let oid = |text: &str| ObjectIdentifier::new(text).map_err(|_| Fault::Broken(format!("{text} is no object identifier")));
    let extended_key_usage = form.extended_key_usage.iter().map(|text| oid(text)).collect::<Result<_, _>>()?;
    let other = form.extensions.iter().map(|(id, value)| Ok((oid(id)?, value.to_vec()))).collect::<Result<_, Fault>>()?;
    Ok(EnrollmentRequest {
        authority: form.authority.clone(),
        profile: form.profile.clone(),
        names: RequestedNames { subject: form.names.subject.clone(), alternative: form.names.alternative.clone() },
        extensions: RequestedExtensions { extended_key_usage, other },
        key: ProvenKey::after_verified_signature(SubjectKey::accept(&form.public_key)?),
        validity: form.validity,
        evidence: Evidence::Operator(Approval { operator: operator.to_owned(), released: Some(Box::new(form.facts.clone())), daemon: false }),
        // Its own transaction: the first outcome of the original one is the ticket.
        origin: Origin { transaction: format!("ticket {ticket}"), ..form.origin.clone() },
    })
}
