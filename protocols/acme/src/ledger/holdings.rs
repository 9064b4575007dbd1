//! Which authorizations an account holds: those that it may still answer, and those that show its control of an identifier.

use ca_backend::{Error, Fault, RecordSpace, Time};

use super::{Change, Held, Ledger, time};
use crate::authorization::{Authorization, AuthorizationState};
use crate::id::Id;
use crate::identifier::Identifier;

const SPACE: RecordSpace = RecordSpace::ACME_ACCOUNT_AUTHORIZATION;
const PENDING: &[u8] = b"p";
const VALID: &[u8] = b"v";

impl Ledger {
    /// Whether the account has at least `count` authorizations that wait for an answer.
    pub(crate) fn has_pending(&self, account: &Id, count: usize, now: Time) -> Result<bool, Error> {
        let prefix = self.key(&[account.octets(), PENDING]);
        let entries = self.engine.records(SPACE).scan(&prefix, None, count)?;
        Ok(entries.iter().filter(|entry| entry.value.as_slice() > time(now).as_slice()).count() >= count)
    }

    /// The authorization that last showed the account's control of an identifier. It may have expired.
    pub(crate) fn shown(&self, account: &Id, identifier: &Identifier) -> Result<Option<Held<Authorization>>, Error> {
        self.shown_as(account, &name(identifier, false))
    }

    /// The authorization that last showed the account's control of a domain with all names below it. It may have expired.
    pub(crate) fn shown_with_subdomains(
        &self,
        account: &Id,
        domain: &Identifier,
    ) -> Result<Option<Held<Authorization>>, Error> {
        self.shown_as(account, &name(domain, true))
    }

    fn shown_as(&self, account: &Id, name: &[u8]) -> Result<Option<Held<Authorization>>, Error> {
        let found = self.find(SPACE, &[account.octets(), VALID, name])?;
        let id = found.and_then(|found| Id::from_octets(&found.value));
        Ok(id.map(|id| self.authorization(&id)).transpose()?.flatten())
    }

    fn pending_key(&self, authorization: &Authorization) -> Vec<u8> {
        self.key(&[authorization.account.octets(), PENDING, authorization.id.octets()])
    }

    fn valid_key(&self, authorization: &Authorization) -> Vec<u8> {
        self.key(&[authorization.account.octets(), VALID, &name(&authorization.identifier, authorization.subdomains)])
    }
}

impl Change<'_> {
    /// Keeps the account's holdings true to the state of an authorization that is written.
    pub(super) fn hold(mut self, authorization: &Authorization) -> Result<Self, Fault> {
        let pending = self.ledger.pending_key(authorization);
        self.batch = match &authorization.state {
            AuthorizationState::Pending => self.batch.put(SPACE, pending, time(authorization.expires)),
            AuthorizationState::Valid { .. } => self.batch.delete(SPACE, pending).put(
                SPACE,
                self.ledger.valid_key(authorization),
                authorization.id.octets(),
            ),
            AuthorizationState::Granted { .. } | AuthorizationState::Invalid | AuthorizationState::Deactivated => {
                self.batch.delete(SPACE, pending)
            }
        };
        Ok(self)
    }
}

impl Ledger {
    /// Takes an authorization that leaves the store out of its account's holdings.
    pub(super) fn let_go(
        &self,
        batch: ca_backend::RecordBatch,
        authorization: &Authorization,
    ) -> Result<ca_backend::RecordBatch, Error> {
        let batch = batch.delete(SPACE, self.pending_key(authorization));
        let shown = self.engine.records(SPACE).find(&self.valid_key(authorization))?;
        Ok(match shown.filter(|shown| shown.value == authorization.id.octets()) {
            Some(shown) => {
                let key = self.valid_key(authorization);
                batch.expect(SPACE, key.as_slice(), shown.version).delete(SPACE, key)
            }
            None => batch,
        })
    }
}

fn name(identifier: &Identifier, with_subdomains: bool) -> Vec<u8> {
    let kind = if with_subdomains { "subtree" } else { identifier.kind() };
    format!("{kind}:{identifier}").into_bytes()
}
