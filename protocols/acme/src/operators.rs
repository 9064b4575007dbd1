//! Accounts as operators see and change them.

use ca_backend::{EndpointName, Engine, Error, Fault, Reason, Refusal, Time};
use serde::Serialize;

use crate::account::{Account, AccountStatus};
use crate::error::Failure;
use crate::id::Id;
use crate::ledger::{Held, Ledger};
use crate::limits::LimitOverrides;

/// The accounts of one endpoint.
#[derive(Debug)]
pub struct Accounts {
    engine: Engine,
    ledger: Ledger,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccountSummary {
    /// The last part of its address.
    pub id: String,
    /// `valid`, `deactivated` (by its own wish) or `revoked` (by an operator's).
    pub status: &'static str,
    /// How to reach its owner: mailto URLs.
    pub contact: Vec<String>,
    /// When it was made.
    pub created: Time,
    /// When the terms of service were agreed to.
    pub terms_agreed: Option<Time>,
    /// The thumbprint of its key (RFC 7638), base64url.
    pub key: String,
    /// The credential that vouched for it.
    pub credential: Option<String>,
    /// Its own limits.
    pub limits: LimitOverrides,
}

impl From<Account> for AccountSummary {
    fn from(account: Account) -> Self {
        Self {
            id: account.id.to_string(),
            status: account.status.name(),
            key: account.key.name(),
            contact: account.contact,
            created: account.created,
            terms_agreed: account.terms_agreed,
            credential: account.credential.map(String::from),
            limits: account.limits,
        }
    }
}

impl Accounts {
    /// Of this endpoint.
    ///
    /// # Errors
    /// The store's fault.
    pub fn new(engine: Engine, endpoint: &EndpointName) -> Result<Self, Error> {
        let (ledger, _nonce_key) = Ledger::open(engine.clone(), endpoint)?;
        Ok(Self { ledger, engine })
    }

    /// Up to `limit` accounts that follow the one named `after`, by name.
    ///
    /// # Errors
    /// A refusal if `after` is no name of an account; the store's fault.
    pub fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<AccountSummary>, Error> {
        let after = after.map(named).transpose()?;
        Ok(self.ledger.accounts(after.as_ref(), limit)?.into_iter().map(AccountSummary::from).collect())
    }

    /// One account.
    ///
    /// # Errors
    /// `Reason::NotReady` if there is none of that name; the store's fault.
    pub fn show(&self, id: &str) -> Result<AccountSummary, Error> {
        Ok(self.find(id)?.value.into())
    }

    /// Closes an account for good. Its certificates stay.
    ///
    /// # Errors
    /// As [`Accounts::show`].
    pub fn deactivate(&self, id: &str, operator: &str) -> Result<AccountSummary, Error> {
        self.change(id, &format!("deactivated by {operator}"), |account| account.status = AccountStatus::Revoked)
    }

    /// Sets the limits of an account that are not those of its endpoint; the default sets none.
    ///
    /// # Errors
    /// As [`Accounts::show`].
    pub fn override_limits(&self, id: &str, limits: &LimitOverrides, operator: &str) -> Result<AccountSummary, Error> {
        let text = serde_json::to_string(limits).unwrap_or_default();
        self.change(id, &format!("limits set by {operator}: {text}"), |account| account.limits = limits.clone())
    }

    fn change(&self, id: &str, detail: &str, change: impl Fn(&mut Account)) -> Result<AccountSummary, Error> {
        for _ in 0..crate::ATTEMPTS_MAX {
            let mut account = self.find(id)?;
            change(&mut account.value);
            let changes = self.ledger.change().update_account(&account)?;
            match changes.audit(self.engine.now(), None, &account.value.id, detail)?.commit() {
                Ok(()) => return Ok(account.value.into()),
                Err(Failure::Conflict) => {}
                Err(failure) => return Err(failure.into_error()),
            }
        }
        Err(Fault::TryLater { after_s: 1 }.into())
    }

    fn find(&self, id: &str) -> Result<Held<Account>, Error> {
        Ok(self.ledger.account(&named(id)?)?.ok_or_else(|| unknown(id))?)
    }
}

fn named(id: &str) -> Result<Id, Refusal> {
    Id::parse(id).ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> Refusal {
    Refusal::new(Reason::NotReady, format!("there is no account {id:?} at this endpoint"))
}
