//! Orders, from the wish to the certificate (RFC 8555 sections 7.1.3 and 7.4).

mod download;
mod issuing;
mod wish;

use ca_backend::{ProfileName, RequestedValidity, Serial, Ticket, Time};
use http::StatusCode;
use serde_json::{Value, json};

use crate::authorization::{Authorization, AuthorizationStatus};
use crate::caa::CaaCheck;
use crate::call::AccountCall;
use crate::error::{Attempt, Problem, ProblemType, Subproblem};
use crate::id::Id;
use crate::identifier::Identifier;
use crate::ledger::Held;
use crate::reply::Reply;
use crate::site::Site;
use crate::validation::Verdict;

pub(crate) use wish::WantedIdentifier;

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

/// How many orders one page of the list shows.
const ORDERS_PER_PAGE: usize = 50;

impl Site<'_> {
    /// Shows an order; one that was left in the middle of issuing goes on.
    pub(crate) fn order(&self, call: &AccountCall, id: &Id) -> Attempt<Reply> {
        call.no_payload()?;
        let order = self.own_order(call, id)?;
        self.ledger.change().spend(&call.nonce).commit()?;
        self.resume(order)
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
