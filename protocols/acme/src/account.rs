//! Accounts (RFC 8555 sections 7.1.2 and 7.3).

use ca_backend::{CredentialId, Origin, Time};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{AccountCall, KeyCall};
use crate::error::{Attempt, Problem, ProblemType};
use crate::id::Id;
use crate::jwk::AccountKey;
use crate::jws::{Flattened, json};
use crate::limits::LimitOverrides;
use crate::reply::Reply;
use crate::site::Site;

/// Who orders certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) id: Id,
    pub(crate) status: AccountStatus,
    pub(crate) key: AccountKey,
    pub(crate) contact: Vec<String>,
    /// When the terms of service were agreed to.
    pub(crate) terms_agreed: Option<Time>,
    pub(crate) created: Time,
    /// Set by operators.
    pub(crate) limits: LimitOverrides,
    /// What vouched for its key.
    pub(crate) credential: Option<CredentialId>,
    /// How it did, as the client sent it; it is shown in the account (RFC 8555 section 7.3.4).
    pub(crate) binding: Option<Box<Flattened>>,
}

/// The states of an account (RFC 8555 section 7.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccountStatus {
    Valid,
    /// By its own wish; never valid again.
    Deactivated,
    /// By an operator's wish.
    Revoked,
}

impl AccountStatus {
    pub(crate) const ALL: [Self; 3] = [Self::Valid, Self::Deactivated, Self::Revoked];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Deactivated => "deactivated",
            Self::Revoked => "revoked",
        }
    }
}

/// Members that this server does not know are ignored (RFC 8555 section 7.3).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewAccount {
    #[serde(default)]
    contact: Vec<String>,
    #[serde(default)]
    terms_of_service_agreed: bool,
    #[serde(default)]
    only_return_existing: bool,
    external_account_binding: Option<Value>,
}

#[derive(Deserialize)]
struct AccountUpdate {
    contact: Option<Vec<String>>,
    status: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyChange {
    account: String,
    old_key: crate::jwk::Jwk,
}

impl Site<'_> {
    /// Makes an account, or finds the one of this key.
    pub(crate) fn new_account(&self, call: &KeyCall) -> Attempt<Reply> {
        let wish: NewAccount = json(call.object()?, "the account cannot be read")?;
        if let Some(account) = self.ledger.account_of_key(&call.key)? {
            usable(&account.value)?;
            self.ledger.change().spend(&call.nonce).commit()?;
            return Ok(self.account_reply(StatusCode::OK, &account.value));
        }
        if wish.only_return_existing {
            return Err(Problem::new(ProblemType::AccountDoesNotExist, "no account has this key").into());
        }
        if let Some(terms) = self.options.terms_of_service.as_ref().filter(|_| !wish.terms_of_service_agreed) {
            let problem =
                Problem::new(ProblemType::UserActionRequired, format!("agree to the terms of service at {terms}"));
            return Err(Problem { instance: Some(terms.clone()), ..problem }.into());
        }
        check_contact(&wish.contact)?;
        let used = self.admit_account()?;
        let id = self.new_id();
        let origin = self.account_origin(&id, "new-account");
        let voucher = self.voucher(wish.external_account_binding.as_ref(), &call.key, &origin)?;
        let account = Account {
            id,
            status: AccountStatus::Valid,
            key: call.key.clone(),
            contact: wish.contact,
            terms_agreed: wish.terms_of_service_agreed.then_some(self.now),
            created: self.now,
            limits: LimitOverrides::default(),
            credential: voucher.as_ref().map(|voucher| voucher.credential.id().clone()),
            binding: voucher.as_ref().map(|voucher| Box::new(voucher.binding.clone())),
        };
        let mut change = self.ledger.change().add_account(&account)?.spend(&call.nonce);
        if let Some(voucher) = &voucher {
            change = change.vouch(&voucher.credential, &account.id, &origin)?;
        }
        let change = used.into_iter().fold(change, |change, used| used.count(change));
        change.audit(self.now, Some(&origin), &account.id, &made(&account))?.commit()?;
        Ok(self.account_reply(StatusCode::CREATED, &account))
    }

    /// Shows, updates or deactivates an account.
    pub(crate) fn account(&self, call: &AccountCall, id: &Id) -> Attempt<Reply> {
        let mut account = call.account.clone();
        if account.value.id != *id {
            return Err(Problem::not_found().into());
        }
        let Some(object) = call.optional_object()? else {
            self.ledger.change().spend(&call.nonce).commit()?;
            return Ok(self.account_reply(StatusCode::OK, &account.value));
        };
        let update: AccountUpdate = json(object, "the account cannot be read")?;
        match update.status.as_deref() {
            None => {}
            Some("deactivated") => account.value.status = AccountStatus::Deactivated,
            Some(name) if name == account.value.status.name() => {}
            Some(_) => return Err(Problem::malformed("the only status to ask for is \"deactivated\"").into()),
        }
        if let Some(contact) = update.contact {
            check_contact(&contact)?;
            account.value.contact = contact;
        }
        if account.value == call.account.value {
            self.ledger.change().spend(&call.nonce).commit()?;
            return Ok(self.account_reply(StatusCode::OK, &account.value));
        }
        let (used, detail) = match account.value.status {
            AccountStatus::Valid => {
                (self.admit_change(&account.value)?, format!("contact {}", account.value.contact.join(" ")))
            }
            // The last change there is.
            AccountStatus::Deactivated | AccountStatus::Revoked => (None, "deactivated by its own wish".to_owned()),
        };
        let origin = self.account_origin(id, "account");
        let change = self.ledger.change().update_account(&account)?.spend(&call.nonce);
        let change = used.into_iter().fold(change, |change, used| used.count(change));
        change.audit(self.now, Some(&origin), id, &detail)?.commit()?;
        Ok(self.account_reply(StatusCode::OK, &account.value))
    }

    /// Gives an account another key (RFC 8555 section 7.3.5).
    pub(crate) fn change_key(&self, call: &AccountCall) -> Attempt<Reply> {
        let (new_key, payload) = call.open_inner_by_key()?;
        let change: KeyChange = json(&payload, "the key change cannot be read")?;
        let old = &call.account.value;
        if change.account != self.account_url(&old.id) {
            return Err(Problem::malformed(
                "the key change is for another account than the one that signs the request",
            )
            .into());
        }
        if AccountKey::accept(&change.old_key)? != old.key {
            return Err(Problem::malformed("oldKey is not the account's key").into());
        }
        if let Some(owner) = self.ledger.account_of_key(&new_key)? {
            let problem = Problem::malformed("an account has the new key already").with_status(StatusCode::CONFLICT);
            self.ledger.change().spend(&call.nonce).commit()?;
            return Ok(Reply::problem(&problem).location(&self.account_url(&owner.value.id)));
        }
        let used = self.admit_change(old)?;
        let mut account = call.account.clone();
        account.value.key = new_key;
        let id = account.value.id;
        let change = used.into_iter().fold(self.ledger.change(), |change, used| used.count(change));
        change
            .update_account(&account)?
            .move_account_key(&old.key, &account.value)?
            .spend(&call.nonce)
            .audit(
                self.now,
                Some(&self.account_origin(&id, "key-change")),
                &id,
                &format!("key changed to {}", account.value.key.name()),
            )?
            .commit()?;
        Ok(self.account_reply(StatusCode::OK, &account.value))
    }

    fn account_origin(&self, id: &Id, what: &str) -> Origin {
        self.origin(&format!("{what} {id}"), [0; 32])
    }

    fn account_reply(&self, status: StatusCode, account: &Account) -> Reply {
        Reply::json(status, &self.account_document(account)).location(&self.account_url(&account.id))
    }

    fn account_document(&self, account: &Account) -> Value {
        let mut document = json!({
            "status": account.status.name(),
            "contact": account.contact,
            "orders": format!("{}/orders", self.account_url(&account.id)),
        });
        if let Some(members) = document.as_object_mut() {
            if account.terms_agreed.is_some() {
                members.insert("termsOfServiceAgreed".into(), true.into());
            }
            if let Some(binding) = &account.binding {
                members.insert("externalAccountBinding".into(), json!(binding));
            }
        }
        document
    }

    pub(crate) fn account_url(&self, id: &Id) -> String {
        format!("{}/account/{id}", self.base_url)
    }
}

/// What the audit log says of a new account.
fn made(account: &Account) -> String {
    format!("made, key {}, contact {}", account.key.name(), account.contact.join(" "))
}

/// Whether an account may act at all (RFC 8555 section 7.3.6 asks for 401).
pub(crate) fn usable(account: &Account) -> Result<(), Problem> {
    match account.status {
        AccountStatus::Valid => Ok(()),
        AccountStatus::Deactivated | AccountStatus::Revoked => {
            Err(Problem::unauthorized(format!("the account is {}", account.status.name()))
                .with_status(StatusCode::UNAUTHORIZED))
        }
    }
}

/// Contacts are single mail addresses without header fields (RFC 8555 section 7.3).
fn check_contact(contact: &[String]) -> Result<(), Problem> {
    const CONTACTS_MAX: usize = 10;
    const CONTACT_BYTES_MAX: usize = 254;
    let invalid = |detail| Err(Problem::new(ProblemType::InvalidContact, detail));
    if contact.len() > CONTACTS_MAX {
        return invalid("an account has at most 10 contacts");
    }
    for url in contact {
        let Some((scheme, address)) = url.split_once(':') else { return invalid("a contact is a mailto URL") };
        if !scheme.eq_ignore_ascii_case("mailto") {
            return Err(Problem::new(ProblemType::UnsupportedContact, "a contact is a mailto URL"));
        }
        let octets_are_plain = address.bytes().all(|b| b.is_ascii_graphic() && !b"?,;%<>\"\\()[]:".contains(&b));
        let is_address = address.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && matches!(crate::identifier::Identifier::parse("dns", domain), Ok(domain) if !domain.is_wildcard())
        });
        if url.len() > CONTACT_BYTES_MAX || !octets_are_plain || !is_address {
            return invalid("a contact is one mail address, without header fields");
        }
    }
    Ok(())
}
