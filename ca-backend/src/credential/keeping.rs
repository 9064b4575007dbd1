//! Making, showing, changing and removing credentials.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::secret::scope;
use super::{
    Binding, Credential, CredentialChange, CredentialId, CredentialPurpose, CredentialQuery, NewCredential, SecretText,
    binding,
};
use crate::audit::{Action, AuditRecord};
use crate::clock::Time;
use crate::engine::Engine;
use crate::error::{Error, Fault, Reason, Refusal, StoreFault};
use crate::holder::Holder;
use crate::inventory::Page;
use crate::label::EndpointName;
use crate::record::{self, CredentialForm, SecretForm};
use crate::store::{Batch, CommitError, Range, Space, Version};

/// Octets of randomness in a MAC key and in a token.
const LONG_SECRET_OCTETS: usize = 32;
/// Octets of randomness in a challenge: 32 hexadecimal digits, which every client can carry.
const CHALLENGE_OCTETS: usize = 16;
/// The most credentials in one page, and examined for it.
const PAGE_MAX: usize = 1_000;
const EXAMINED_MAX: usize = 10_000;
/// How long operators can see what became of a credential that can no longer be presented, in seconds.
const KEPT_S: u64 = 86_400;
/// Records removed in one commit, and commits of one call.
const STEP: usize = 500;
const STEPS_MAX: usize = 200;

impl Engine {
    /// Makes a credential. Its secret is in the answer and can never be read again.
    ///
    /// # Errors
    /// A refusal that says what does not fit, or the store's fault.
    pub fn create_credential(&self, wish: &NewCredential, created_by: &str) -> Result<(Credential, SecretText), Error> {
        binding::check(wish)?;
        let endpoint = self.inner.store.get(Space::Endpoint, wish.endpoint.as_str().as_bytes())?;
        let endpoint = endpoint
            .ok_or_else(|| Refusal::new(Reason::NotReady, format!("there is no endpoint {}", wish.endpoint)))?;
        let id = match &wish.id {
            Some(id) => id.clone(),
            None => CredentialId::new(&hex::encode(self.random::<16>()))?,
        };
        let (secret, revealed) = self.new_secret(&id, wish)?;
        let form = CredentialForm {
            endpoint: wish.endpoint.clone(),
            purpose: wish.purpose,
            comment: wish.comment.clone(),
            created: self.now(),
            created_by: created_by.to_owned(),
            expires: wish.expires,
            uses_max: wish.uses_max,
            uses: 0,
            waiting: 0,
            accounts: 0,
            disabled: false,
            accounts_disabled: false,
            secret,
            binding: serde_json::to_string(&wish.binding)
                .map_err(|error| Refusal::new(Reason::Malformed, error.to_string()))?,
            holder: wish.holder.clone().map(Box::new),
        };
        let mut batch = Batch::new()
            // A credential must not outlive an endpoint that is removed at the same time.
            .expect(Space::Endpoint, wish.endpoint.as_str(), endpoint.version)
            .expect_absent(Space::Credential, id.as_str())
            .put(Space::Credential, id.as_str(), record::encode(&form)?)
            .put(Space::CredentialListing, listing_key(&form, &id), Vec::new());
        if let SecretForm::Digest { digest, chosen } = &form.secret {
            batch = batch.expect_absent(Space::CredentialSecret, digest.to_vec()).put(
                Space::CredentialSecret,
                digest.to_vec(),
                id.as_str(),
            );
            if *chosen {
                batch = batch.add(chosen_counter(&form.endpoint, form.purpose), 1);
            }
        }
        if let Some(expires) = form.expires {
            batch = batch.put(Space::CredentialExpiry, expiry_key(self.gone_at(expires), &id), Vec::new());
        }
        let mut detail = format!(
            "credential {id} ({}, endpoint {}) made by {created_by}: {}",
            form.purpose, form.endpoint, form.binding
        );
        if let Some(Holder { endpoint, device, user, .. }) = form.holder.as_deref() {
            detail.push_str(&format!(", by endpoint {endpoint} for device {device:?}, user {user:?}"));
        }
        let record = AuditRecord::new(self.now(), Action::CredentialChanged).detail(detail);
        match self.inner.store.commit(record.in_batch(batch)?) {
            Ok(_) => Ok((credential(id, &form)?, revealed)),
            Err(CommitError::Conflict) => {
                let text = format!("there is a credential {id} already, or one with this secret at the endpoint");
                Err(Refusal::new(Reason::Conflict, text).into())
            }
            Err(CommitError::Fault(fault)) => Err(fault.into()),
        }
    }

    fn new_secret(&self, id: &CredentialId, wish: &NewCredential) -> Result<(SecretForm, SecretText), Fault> {
        let keys = &self.inner.secret_keys;
        if let Some(chosen) = &wish.secret {
            let digest = keys.slow_digest(&wish.endpoint, wish.purpose, chosen.reveal().as_bytes())?;
            return Ok((SecretForm::Digest { digest: digest.to_vec().into(), chosen: true }, chosen.clone()));
        }
        let key = Zeroizing::new(self.random::<LONG_SECRET_OCTETS>());
        let text = SecretText::new(match wish.purpose {
            CredentialPurpose::ExternalAccount => {
                let sealed = keys.seal(id, key.as_ref(), self.inner.rng.as_ref())?;
                return Ok((SecretForm::Sealed(sealed.into()), SecretText::new(URL_SAFE_NO_PAD.encode(key.as_ref()))));
            }
            // Capital letters: readers of pages that carry challenges look for those.
            CredentialPurpose::Challenge => hex::encode_upper(key.get(..CHALLENGE_OCTETS).unwrap_or(key.as_ref())),
            CredentialPurpose::Token => hex::encode(key.as_ref()),
        });
        let digest = keys.digest(&wish.endpoint, wish.purpose, text.reveal().as_bytes());
        Ok((SecretForm::Digest { digest: digest.to_vec().into(), chosen: false }, text))
    }

    /// One credential; `None` if there is none of that name.
    ///
    /// # Errors
    /// The store's fault.
    pub fn credential(&self, id: &CredentialId) -> Result<Option<Credential>, Error> {
        match self.credential_form(id)? {
            Some((form, _)) => Ok(Some(credential(id.clone(), &form)?)),
            None => Ok(None),
        }
    }

    /// Credentials by endpoint, purpose and name, a page at a time.
    ///
    /// # Errors
    /// `Reason::Malformed` for a cursor that is none of ours, or the store's fault.
    pub fn credentials(&self, query: &CredentialQuery) -> Result<Page<Credential>, Error> {
        let prefix = match (&query.endpoint, query.purpose) {
            (Some(endpoint), Some(purpose)) => scope(endpoint, purpose),
            (Some(endpoint), None) => [endpoint.as_str().as_bytes(), &[0]].concat(),
            (None, _) => Vec::new(),
        };
        let mut range = Range::prefix(prefix);
        if let Some(cursor) = &query.cursor {
            let after =
                hex::decode(cursor).map_err(|_| Refusal::new(Reason::Malformed, "the cursor is none of ours"))?;
            range.from = range.from.max([after.as_slice(), &[0]].concat());
        }
        let limit = query.limit.clamp(1, PAGE_MAX);
        let mut items = Vec::new();
        let mut examined = 0;
        loop {
            let entries = self.inner.store.scan(Space::CredentialListing, &range, STEP)?;
            if entries.is_empty() {
                return Ok(Page { items, cursor: None });
            }
            for entry in entries {
                examined += 1;
                let id = listed(&entry.key)?;
                if let Some(found) = self.credential(&id)?
                    && query.purpose.is_none_or(|purpose| purpose == found.purpose)
                {
                    items.push(found);
                }
                if items.len() >= limit || examined >= EXAMINED_MAX {
                    return Ok(Page { items, cursor: Some(hex::encode(entry.key)) });
                }
                range.from = [entry.key.as_slice(), &[0]].concat();
            }
        }
    }

    /// Changes a credential. In force at once, for those who use it already too.
    ///
    /// # Errors
    /// A refusal if there is none of that name, or the store's fault.
    pub fn change_credential(
        &self,
        id: &CredentialId,
        change: &CredentialChange,
        changed_by: &str,
    ) -> Result<Credential, Error> {
        let (before, version) = self.known_credential(id)?;
        if change.accounts_disabled.is_some() && before.purpose != CredentialPurpose::ExternalAccount {
            return Err(Refusal::new(Reason::Malformed, "only an external account binding makes accounts").into());
        }
        let after = CredentialForm {
            comment: change.comment.clone().unwrap_or_else(|| before.comment.clone()),
            expires: change.expires.unwrap_or(before.expires),
            disabled: change.disabled.unwrap_or(before.disabled),
            accounts_disabled: change.accounts_disabled.unwrap_or(before.accounts_disabled),
            ..before.clone()
        };
        let mut batch = Batch::new().expect(Space::Credential, id.as_str(), version).put(
            Space::Credential,
            id.as_str(),
            record::encode(&after)?,
        );
        if after.expires != before.expires
            && let Some(expires) = after.expires
        {
            // The entry of the old moment finds the new one and goes.
            batch = batch.put(Space::CredentialExpiry, expiry_key(self.gone_at(expires), id), Vec::new());
        }
        let text = |expires: Option<Time>| expires.map_or_else(|| "never".to_owned(), |at| at.to_string());
        let detail = format!(
            "credential {id} changed by {changed_by}: disabled {}, no new accounts {}, expires {}, comment {:?}",
            after.disabled,
            after.accounts_disabled,
            text(after.expires),
            after.comment
        );
        let record = AuditRecord::new(self.now(), Action::CredentialChanged).detail(detail);
        self.commit_or_later(record.in_batch(batch)?)?;
        Ok(credential(id.clone(), &after)?)
    }

    /// Removes a credential. What was made with it stays; accounts bound to it get nothing any more.
    ///
    /// # Errors
    /// A refusal if there is none of that name, or the store's fault.
    pub fn remove_credential(&self, id: &CredentialId, removed_by: &str) -> Result<(), Error> {
        let (form, version) = self.known_credential(id)?;
        let batch = removal(Batch::new().expect(Space::Credential, id.as_str(), version), id, &form);
        let record = AuditRecord::new(self.now(), Action::CredentialChanged)
            .detail(format!("credential {id} removed by {removed_by}"));
        self.commit_or_later(record.in_batch(batch)?)?;
        Ok(())
    }

    /// Removes credentials that cannot be presented any more and were not needed since.
    pub(crate) fn forget_old_credentials(&self) -> Result<(), Error> {
        let now = self.now();
        let range = Range { from: Vec::new(), until: Some(now.unix().to_be_bytes().to_vec()), reverse: false };
        for _ in 0..STEPS_MAX {
            let due = self.inner.store.scan(Space::CredentialExpiry, &range, STEP)?;
            if due.is_empty() {
                return Ok(());
            }
            for entry in due {
                let id = CredentialId::new(&String::from_utf8_lossy(entry.key.get(8..).unwrap_or_default()))?;
                let batch = Batch::new().delete(Space::CredentialExpiry, entry.key);
                let batch = match self.credential_form(&id)? {
                    Some((form, version)) => {
                        let batch = batch.expect(Space::Credential, id.as_str(), version);
                        match self.leaves_at(&form) {
                            Some(gone) if gone > now => {
                                batch.put(Space::CredentialExpiry, expiry_key(gone, &id), Vec::new())
                            }
                            Some(_) => removal(batch, &id, &form),
                            None => batch,
                        }
                    }
                    None => batch,
                };
                match self.inner.store.commit(batch) {
                    // Somebody uses it just now; the next call looks again.
                    Ok(_) | Err(CommitError::Conflict) => {}
                    Err(CommitError::Fault(fault)) => return Err(fault.into()),
                }
            }
        }
        Ok(())
    }

    /// When a credential leaves the store; `None` as long as it is needed.
    fn leaves_at(&self, form: &CredentialForm) -> Option<Time> {
        let now = self.now();
        if form.waiting > 0 {
            // Looked at again tomorrow.
            return Some(now.plus_s(KEPT_S));
        }
        if form.accounts > 0 {
            return None;
        }
        let spent = form.uses_max.is_some_and(|max| form.uses >= max);
        match form.expires {
            Some(expires) if now <= self.gone_at(expires) && !spent => Some(self.gone_at(expires)),
            None if !spent => None,
            // Its entry was written when it was spent or when it expires, and is due.
            Some(_) | None => Some(now),
        }
    }

    /// Until when a credential is kept that could be presented last at `last`: the same request may come again within its window.
    pub(super) fn gone_at(&self, last: Time) -> Time {
        last.plus_s(KEPT_S.max(self.inner.settings.repeat_window_s.saturating_mul(2)))
    }

    pub(crate) fn credential_form(&self, id: &CredentialId) -> Result<Option<(CredentialForm, Version)>, Error> {
        match self.inner.store.get(Space::Credential, id.as_str().as_bytes())? {
            Some(found) => Ok(Some((record::decode(&found.value)?, found.version))),
            None => Ok(None),
        }
    }

    fn known_credential(&self, id: &CredentialId) -> Result<(CredentialForm, Version), Error> {
        let unknown = || Refusal::new(Reason::NotReady, format!("there is no credential {id}"));
        Ok(self.credential_form(id)?.ok_or_else(unknown)?)
    }

    /// Removes every credential of an endpoint that is gone, so that none serves a later endpoint of that name.
    pub(crate) fn remove_credentials_of(&self, endpoint: &EndpointName) -> Result<(), Error> {
        let range = Range::prefix([endpoint.as_str().as_bytes(), &[0]].concat());
        loop {
            let entries = self.inner.store.scan(Space::CredentialListing, &range, STEP)?;
            if entries.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new();
            let count = entries.len();
            for entry in entries {
                let id = listed(&entry.key)?;
                batch = match self.credential_form(&id)? {
                    Some((form, version)) => removal(batch.expect(Space::Credential, id.as_str(), version), &id, &form),
                    None => batch.delete(Space::CredentialListing, entry.key),
                };
            }
            let record = AuditRecord::new(self.now(), Action::CredentialChanged)
                .detail(format!("{count} credentials removed with endpoint {endpoint}"));
            self.commit_or_later(record.in_batch(batch)?)?;
        }
    }

    /// Removes the credentials of endpoints that were removed a moment before the daemon stopped.
    pub(crate) fn remove_orphaned_credentials(&self) -> Result<(), Error> {
        let Some(_no_changes) = self.unless_changing() else { return Ok(()) };
        let mut range = Range::default();
        while let Some(entry) = self.inner.store.scan(Space::CredentialListing, &range, 1)?.pop() {
            let name = entry.key.split(|octet| *octet == 0).next().unwrap_or_default();
            let endpoint = EndpointName::new(String::from_utf8_lossy(name))?;
            if self.endpoint(&endpoint).is_none() {
                self.remove_credentials_of(&endpoint)?;
            }
            // Past everything of this endpoint.
            range.from = [name, &[1]].concat();
        }
        Ok(())
    }
}

/// The public form of a stored credential.
pub(super) fn credential(id: CredentialId, form: &CredentialForm) -> Result<Credential, Fault> {
    let binding: Binding = serde_json::from_str(&form.binding)
        .map_err(|error| StoreFault::Corrupt(format!("the binding of credential {id} cannot be read: {error}")))?;
    Ok(Credential {
        id,
        endpoint: form.endpoint.clone(),
        purpose: form.purpose,
        comment: form.comment.clone(),
        created: form.created,
        created_by: form.created_by.clone(),
        expires: form.expires,
        uses_max: form.uses_max,
        uses: form.uses,
        waiting: form.waiting,
        accounts: form.accounts,
        disabled: form.disabled,
        accounts_disabled: form.accounts_disabled,
        chosen_secret: matches!(form.secret, SecretForm::Digest { chosen: true, .. }),
        holder: form.holder.clone(),
        binding: Arc::new(binding),
    })
}

fn removal(batch: Batch, id: &CredentialId, form: &CredentialForm) -> Batch {
    let batch = batch.delete(Space::Credential, id.as_str()).delete(Space::CredentialListing, listing_key(form, id));
    match &form.secret {
        SecretForm::Digest { digest, chosen } => {
            let batch = batch.delete(Space::CredentialSecret, digest.to_vec());
            if *chosen { batch.add(chosen_counter(&form.endpoint, form.purpose), -1) } else { batch }
        }
        SecretForm::Sealed(_) => batch,
    }
}

fn listing_key(form: &CredentialForm, id: &CredentialId) -> Vec<u8> {
    [scope(&form.endpoint, form.purpose).as_slice(), id.as_str().as_bytes()].concat()
}

/// The credential that a key of the listing names.
fn listed(key: &[u8]) -> Result<CredentialId, Refusal> {
    CredentialId::new(&String::from_utf8_lossy(key.rsplit(|octet| *octet == 0).next().unwrap_or_default()))
}

pub(super) fn expiry_key(at: Time, id: &CredentialId) -> Vec<u8> {
    [at.unix().to_be_bytes().as_slice(), id.as_str().as_bytes()].concat()
}

/// How many secrets of operators' own choice there are in a scope: without any, no wrong secret costs a slow digest.
pub(super) fn chosen_counter(endpoint: &EndpointName, purpose: CredentialPurpose) -> Vec<u8> {
    [b"credential/chosen/".as_slice(), &scope(endpoint, purpose)].concat()
}
