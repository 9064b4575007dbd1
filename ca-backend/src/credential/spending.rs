//! How credentials are used up: in the commit that records what they were used for.

use std::sync::Arc;

use super::keeping::{credential, expiry_key};
use super::verifying::{refused, require};
use super::{Binding, Credential, CredentialId, CredentialPurpose, Right, VerifiedSecret};
use crate::audit::{Action, AuditRecord};
use crate::engine::Engine;
use crate::error::{Error, Fault, Reason, Refusal};
use crate::evidence::{EvidenceFacts, EvidenceKind};
use crate::holder::Holder;
use crate::record::{self, CertificateForm, CredentialForm};
use crate::records::RecordBatch;
use crate::request::{Origin, StatusChange};
use crate::store::{Batch, Space, Version};

/// The credential that a request rests on, read when the request is judged.
pub(crate) struct Spending {
    credential: Credential,
    form: CredentialForm,
    version: Version,
    /// Whether the request waited for approval, and took its use when it came.
    taken: bool,
}

impl Spending {
    pub(crate) fn binding(&self) -> &Arc<Binding> {
        &self.credential.binding
    }

    pub(crate) fn purpose(&self) -> CredentialPurpose {
        self.credential.purpose
    }

    /// Whom the certificate is for that it is spent on.
    pub(crate) fn holder(&self) -> Option<&Holder> {
        self.form.holder.as_deref()
    }

    /// Whether two requests with this credential exclude each other for a moment.
    pub(crate) fn is_counted(&self) -> bool {
        self.credential.purpose != CredentialPurpose::ExternalAccount
            && (self.credential.uses_max.is_some() || self.taken)
    }
}

impl Engine {
    /// The credential that evidence rests on, if any: as it is now. `taken` says that the request waited for approval.
    pub(crate) fn spending(
        &self,
        facts: &EvidenceFacts,
        origin: &Origin,
        taken: bool,
    ) -> Result<Option<Spending>, Error> {
        let Some(id) = &facts.credential else { return Ok(None) };
        let gone = || match facts.kind {
            EvidenceKind::Challenges => Refusal::new(
                Reason::NotAuthorized,
                "the external account that this account is bound to may not be used any more",
            )
            .with_private(format!("credential {id} is removed or disabled")),
            EvidenceKind::Secret
            | EvidenceKind::Certificate
            | EvidenceKind::Renewal
            | EvidenceKind::Device
            | EvidenceKind::KeyAlone
            | EvidenceKind::Operator => refused(format!("credential {id} is removed or disabled")),
        };
        let (form, version) = self.credential_form(id)?.filter(|(form, _)| !form.disabled).ok_or_else(gone)?;
        let credential = credential(id.clone(), &form)?;
        if origin.endpoint.as_ref() != Some(&credential.endpoint) {
            return Err(refused(format!("credential {id} is for endpoint {}", credential.endpoint)).into());
        }
        // A MAC key makes accounts, which show control of names; and only it stands behind accounts.
        if (credential.purpose == CredentialPurpose::ExternalAccount) != (facts.kind == EvidenceKind::Challenges) {
            return Err(refused(format!("credential {id} is for another purpose")).into());
        }
        if facts.kind == EvidenceKind::Secret {
            if credential.purpose == CredentialPurpose::Token {
                require(&credential, Right::Issue)?;
            }
            if !taken && credential.is_expired(self.now()) {
                return Err(refused(format!("credential {id} is expired")).into());
            }
            if !taken && credential.is_spent() {
                return Err(refused(format!("credential {id} is spent")).into());
            }
        }
        Ok(Some(Spending { credential, form, version, taken }))
    }

    /// Takes a use for a certificate that is about to be signed, or ends the wait of the request that took it.
    pub(crate) fn spend(&self, batch: Batch, spending: Option<&Spending>) -> Result<Batch, Fault> {
        match spending.filter(|spending| spending.is_counted()) {
            Some(spending) if spending.taken => {
                waited(batch, &spending.credential.id, &spending.form, spending.version)
            }
            Some(spending) => self.take_use(batch, spending, 0),
            None => Ok(batch),
        }
    }

    /// Takes a use for a request that waits for approval.
    pub(crate) fn reserve(&self, batch: Batch, spending: Option<&Spending>) -> Result<Batch, Fault> {
        match spending.filter(|spending| spending.purpose() != CredentialPurpose::ExternalAccount) {
            Some(spending) => self.take_use(batch, spending, 1),
            None => Ok(batch),
        }
    }

    fn take_use(&self, batch: Batch, spending: &Spending, waiting: u32) -> Result<Batch, Fault> {
        let Spending { credential, form, version, .. } = spending;
        let id = &credential.id;
        let uses = form.uses.saturating_add(u32::from(form.uses_max.is_some()));
        let after = CredentialForm { uses, waiting: form.waiting.saturating_add(waiting), ..form.clone() };
        let mut batch = batch.expect(Space::Credential, id.as_str(), *version).put(
            Space::Credential,
            id.as_str(),
            record::encode(&after)?,
        );
        if after.uses_max.is_some_and(|max| uses >= max) {
            batch = batch.put(Space::CredentialExpiry, expiry_key(self.gone_at(self.now()), id), Vec::new());
        }
        Ok(batch)
    }

    /// Ends the wait of a request that an operator turned down. Its use stays taken.
    pub(crate) fn end_wait(&self, batch: Batch, facts: &EvidenceFacts) -> Result<Batch, Error> {
        let Some(id) = facts.credential.as_ref().filter(|_| facts.kind == EvidenceKind::Secret) else {
            return Ok(batch);
        };
        match self.credential_form(id)? {
            Some((form, version)) => Ok(waited(batch, id, &form, version)?),
            None => Ok(batch),
        }
    }

    /// Counts an account that is made with a credential, in the batch that writes the account. The batch conflicts if the
    /// credential changed since it was verified: verify it again then.
    ///
    /// # Errors
    /// A refusal, which is in the audit log already, if no account may be made with it any more; or the store's fault.
    pub fn open_account(
        &self,
        batch: RecordBatch,
        secret: &VerifiedSecret,
        account: &str,
        origin: &Origin,
    ) -> Result<RecordBatch, Error> {
        if let Err(refusal) = self.may_open_account(secret) {
            self.refuse(origin, &refusal)?;
            return Err(refusal.into());
        }
        let id = secret.id();
        let mut batch = batch.into_batch().expect(Space::Credential, id.as_str(), secret.version);
        // Without a limit nobody needs the number, only that there is an account.
        if secret.credential.binding.accounts_max.is_some() || secret.form.accounts == 0 {
            let after = CredentialForm {
                accounts: secret.form.accounts.saturating_add(1),
                ..CredentialForm::clone(&secret.form)
            };
            batch = batch.put(Space::Credential, id.as_str(), record::encode(&after)?);
        }
        let record = AuditRecord::new(self.now(), Action::CredentialChanged)
            .origin(origin)
            .detail(format!("account {account} made with credential {id}"));
        Ok(RecordBatch::from(record.in_batch(batch)?))
    }

    /// Whether the bearer of a token may change the status of a certificate: its endpoint issued it, or is the holder's.
    pub(crate) fn token_may_change(
        &self,
        facts: &EvidenceFacts,
        origin: &Origin,
        certificate: &CertificateForm,
        change: StatusChange,
    ) -> Result<Option<Arc<Binding>>, Error> {
        let Some(id) = facts.credential.as_ref().filter(|_| facts.kind == EvidenceKind::Secret) else {
            return Ok(None);
        };
        let (form, _) = self
            .credential_form(id)?
            .filter(|(form, _)| !form.disabled)
            .ok_or_else(|| refused(format!("credential {id} is removed or disabled")))?;
        let credential = credential(id.clone(), &form)?;
        if credential.is_expired(self.now()) {
            return Err(refused(format!("credential {id} is expired")).into());
        }
        require(
            &credential,
            match change {
                StatusChange::Revoke { .. } => Right::Revoke,
                StatusChange::Hold | StatusChange::Unhold => Right::Hold,
            },
        )?;
        let holder = certificate.holder.as_ref().map(|holder| &holder.endpoint);
        let own = Some(&credential.endpoint);
        if (certificate.endpoint.as_ref() != own && holder != own) || origin.endpoint.as_ref() != own {
            return Err(Refusal::new(Reason::NotAuthorized, "the certificate was issued by another endpoint").into());
        }
        Ok(Some(credential.binding))
    }
}

fn waited(batch: Batch, id: &CredentialId, form: &CredentialForm, version: Version) -> Result<Batch, Fault> {
    let after = CredentialForm { waiting: form.waiting.saturating_sub(1), ..form.clone() };
    Ok(batch.expect(Space::Credential, id.as_str(), version).put(
        Space::Credential,
        id.as_str(),
        record::encode(&after)?,
    ))
}
