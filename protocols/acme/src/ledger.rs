//! One endpoint's records: under which keys they lie, and how they change together.
//!
//! Every key begins with the endpoint's name and a slash, so endpoints never see each other's records.
//!
//! | space | key after the prefix | value |
//! |---|---|---|
//! | account | account | account |
//! | account key | SHA-256 of the SubjectPublicKeyInfo | account |
//! | order | order | order |
//! | account order | account, order | empty |
//! | authorization | authorization | authorization |
//! | validation | due time, authorization or order, challenge type or `caa` | job |
//! | certificate | serial | account |
//! | replacement | serial | order |
//! | account authorization | account, `p`, authorization | expiry |
//! | account authorization | account, `v`, identifier or the domain of a subtree | authorization |
//! | unfinished | creation of the order, order | due time |
//! | limit | limit, digest of the subject | when it is free again |
//! | expiry | removal time, kind, order or authorization or serial | empty |
//! | nonce | expiry, random | empty |
//!
//! The nonce key lies in the nonce space under the endpoint's name alone. Every commit rests on it: it goes when the endpoint is
//! removed, and an endpoint that is made again under the name gets another, so that nothing that was begun before reaches it.

mod expiry;
mod holdings;
mod limit;
mod unfinished;

use ca_backend::{
    EndpointName, Engine, Entry, Error, Fault, Origin, RecordBatch, RecordError, RecordSpace, Serial, Time,
    VerifiedSecret, Version, Versioned,
};
use serde_bytes::ByteBuf;

use crate::account::Account;
use crate::authorization::Authorization;
use crate::error::Attempt;
use crate::id::Id;
use crate::jwk::{AccountKey, sha256};
use crate::nonce::{NONCE_KEY_BYTES, Nonce, bad_nonce};
use crate::order::Order;
use crate::record::{
    AccountForm, AuthorizationForm, CertificateOwnerForm, JobForm, KeyOwnerForm, NonceKeyForm, OrderForm, decode,
    encode,
};
use crate::validation::Job;

/// How long an expired object can still be looked at, so that a slow client learns what became of it.
const GRACE_S: u64 = 24 * 3600;

/// Octets of a time in a key, big endian.
const TIME_BYTES: usize = 8;

/// A value as it was read, with what tells whether it changed since.
#[derive(Clone, Debug)]
pub(crate) struct Held<T> {
    pub(crate) value: T,
    pub(crate) version: Version,
}

/// What an expiry entry speaks of. The octets are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiring {
    Order = 1,
    Authorization = 2,
    Certificate = 3,
}

/// One endpoint's records.
#[derive(Debug)]
pub(crate) struct Ledger {
    engine: Engine,
    prefix: Vec<u8>,
    /// Of the nonce key.
    version: Version,
}

impl Ledger {
    /// Takes the endpoint's records up. Beside them the key that all nodes make nonces with; whoever comes first makes it.
    pub(crate) fn open(engine: Engine, endpoint: &EndpointName) -> Result<(Self, [u8; NONCE_KEY_BYTES]), Error> {
        let (space, name) = (RecordSpace::ACME_NONCE, endpoint.as_str());
        let find = || engine.records(space).find(name.as_bytes());
        let broken = |why: &str| Error::Fault(Fault::Broken(format!("the nonce key {why}")));
        let found = match find()? {
            Some(found) => found,
            None => {
                let fresh: [u8; NONCE_KEY_BYTES] = engine.random();
                let form = encode(&NonceKeyForm { key: ByteBuf::from(fresh.as_slice()) })?;
                match engine.commit(RecordBatch::new().expect_absent(space, name).put(space, name, form)) {
                    Ok(_) | Err(RecordError::Conflict) => {}
                    Err(RecordError::Fault(fault)) => return Err(Fault::Store(fault).into()),
                }
                find()?.ok_or_else(|| broken("vanished"))?
            }
        };
        let key: NonceKeyForm = decode(&found.value)?;
        let key = key.key.as_slice().try_into().map_err(|_| broken("has a wrong length"))?;
        Ok((Self { engine, prefix: format!("{endpoint}/").into_bytes(), version: found.version }, key))
    }

    fn key(&self, parts: &[&[u8]]) -> Vec<u8> {
        [self.prefix.as_slice(), &parts.concat()].concat()
    }

    fn find(&self, space: RecordSpace, parts: &[&[u8]]) -> Result<Option<Versioned>, Error> {
        self.engine.records(space).find(&self.key(parts))
    }

    pub(crate) fn is_spent(&self, nonce: &Nonce) -> Result<bool, Error> {
        Ok(self.find(RecordSpace::ACME_NONCE, &[nonce.name()])?.is_some())
    }

    pub(crate) fn account(&self, id: &Id) -> Result<Option<Held<Account>>, Error> {
        let Some(found) = self.find(RecordSpace::ACME_ACCOUNT, &[id.octets()])? else { return Ok(None) };
        let form: AccountForm = decode(&found.value)?;
        Ok(Some(Held { value: form.account(id)?, version: found.version }))
    }

    /// Up to `limit` accounts after `after`, by name.
    pub(crate) fn accounts(&self, after: Option<&Id>, limit: usize) -> Result<Vec<Account>, Error> {
        let after = after.map(|account| self.key(&[account.octets()]));
        let entries = self.engine.records(RecordSpace::ACME_ACCOUNT).scan(&self.prefix, after.as_deref(), limit)?;
        let mut accounts = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(id) = entry.key.get(self.prefix.len()..).and_then(Id::from_octets) else { continue };
            accounts.push(decode::<AccountForm>(&entry.value)?.account(&id)?);
        }
        Ok(accounts)
    }

    pub(crate) fn account_of_key(&self, key: &AccountKey) -> Result<Option<Held<Account>>, Error> {
        let Some(found) = self.find(RecordSpace::ACME_ACCOUNT_KEY, &[&sha256(key.spki_der())])? else {
            return Ok(None);
        };
        self.account(&decode::<KeyOwnerForm>(&found.value)?.account()?)
    }

    /// Whether an account signs with this key (DER of the SubjectPublicKeyInfo).
    pub(crate) fn is_account_key(&self, spki_der: &[u8]) -> Result<bool, Error> {
        Ok(self.find(RecordSpace::ACME_ACCOUNT_KEY, &[&sha256(spki_der)])?.is_some())
    }

    pub(crate) fn order(&self, id: &Id) -> Result<Option<Held<Order>>, Error> {
        let Some(found) = self.find(RecordSpace::ACME_ORDER, &[id.octets()])? else { return Ok(None) };
        Ok(Some(Held { value: decode::<OrderForm>(&found.value)?.order(id)?, version: found.version }))
    }

    /// Up to `limit` orders of an account, after `after`.
    pub(crate) fn orders_of(&self, account: &Id, after: Option<&Id>, limit: usize) -> Result<Vec<Id>, Error> {
        let prefix = self.key(&[account.octets()]);
        let after = after.map(|order| self.key(&[account.octets(), order.octets()]));
        let entries = self.engine.records(RecordSpace::ACME_ACCOUNT_ORDER).scan(&prefix, after.as_deref(), limit)?;
        Ok(entries.iter().filter_map(|entry| Id::from_octets(entry.key.get(prefix.len()..)?)).collect())
    }

    pub(crate) fn authorization(&self, id: &Id) -> Result<Option<Held<Authorization>>, Error> {
        let Some(found) = self.find(RecordSpace::ACME_AUTHORIZATION, &[id.octets()])? else { return Ok(None) };
        Ok(Some(Held { value: decode::<AuthorizationForm>(&found.value)?.authorization(id)?, version: found.version }))
    }

    /// The account that a certificate was issued to.
    pub(crate) fn certificate_owner(&self, serial: &Serial) -> Result<Option<Id>, Error> {
        match self.find(RecordSpace::ACME_CERTIFICATE, &[serial.as_bytes()])? {
            Some(found) => Ok(Some(decode::<CertificateOwnerForm>(&found.value)?.account()?)),
            None => Ok(None),
        }
    }

    /// The job as it stands, if it is still the same try.
    pub(crate) fn job(&self, job: &Job) -> Result<Option<Held<Job>>, Error> {
        let found = self.engine.records(RecordSpace::ACME_VALIDATION).find(&self.job_key(job))?;
        let Some(found) = found else { return Ok(None) };
        let value = Job::try_from(decode::<JobForm>(&found.value)?)?;
        Ok((value == *job).then_some(Held { value, version: found.version }))
    }

    /// Up to `limit` jobs that were due by `now`, oldest first.
    pub(crate) fn due_jobs(&self, now: Time, limit: usize) -> Result<Vec<Held<Job>>, Error> {
        let entries = self.before(RecordSpace::ACME_VALIDATION, now.plus_s(1), limit)?;
        let job =
            |entry: Entry| Ok(Held { value: Job::try_from(decode::<JobForm>(&entry.value)?)?, version: entry.version });
        entries.into_iter().map(job).collect()
    }

    fn job_key(&self, job: &Job) -> Vec<u8> {
        self.key(&[&time(job.due), job.about.object().octets(), job.about.name().as_bytes()])
    }

    /// The order that replaces a certificate.
    pub(crate) fn replacement(&self, serial: &Serial) -> Result<Option<Id>, Error> {
        let found = self.find(RecordSpace::ACME_REPLACEMENT, &[serial.as_bytes()])?;
        Ok(found.and_then(|found| Id::from_octets(&found.value)))
    }

    /// Up to `limit` entries of a space whose keys begin with a time before `end`.
    fn before(&self, space: RecordSpace, end: Time, limit: usize) -> Result<Vec<Entry>, Error> {
        let mut entries = self.engine.records(space).scan(&self.prefix, None, limit)?;
        let end = self.key(&[&time(end)]);
        entries.retain(|entry| entry.key < end);
        Ok(entries)
    }

    fn expiry_key(&self, at: Time, kind: Expiring, name: &[u8]) -> Vec<u8> {
        self.key(&[&time(at), &[kind as u8], name])
    }

    /// No changes yet.
    pub(crate) fn change(&self) -> Change<'_> {
        Change { ledger: self, batch: self.batch(), nonce: None }
    }

    /// A batch that holds only while the endpoint is the one whose records were taken up.
    fn batch(&self) -> RecordBatch {
        let name = self.prefix.strip_suffix(b"/").unwrap_or(&self.prefix);
        RecordBatch::new().expect(RecordSpace::ACME_NONCE, name, self.version)
    }
}

fn time(time: Time) -> [u8; TIME_BYTES] {
    time.unix().to_be_bytes()
}

/// Changes that happen together or not at all. What was read as [`Held`] must not have changed meanwhile.
#[must_use]
pub(crate) struct Change<'a> {
    ledger: &'a Ledger,
    batch: RecordBatch,
    nonce: Option<&'a Nonce>,
}

impl<'a> Change<'a> {
    /// Uses the request's nonce up, unless an earlier commit of the same request did.
    pub(crate) fn spend(mut self, nonce: &'a Nonce) -> Self {
        if !nonce.is_spent() {
            let key = self.ledger.key(&[nonce.name()]);
            self.batch = self.batch.expect_absent(RecordSpace::ACME_NONCE, key.as_slice()).put(
                RecordSpace::ACME_NONCE,
                key,
                Vec::new(),
            );
            self.nonce = Some(nonce);
        }
        self
    }

    pub(crate) fn add_account(mut self, account: &Account) -> Result<Self, Fault> {
        let key = self.ledger.key(&[&sha256(account.key.spki_der())]);
        self.batch = self
            .batch
            .expect_absent(RecordSpace::ACME_ACCOUNT_KEY, key.as_slice())
            .put(RecordSpace::ACME_ACCOUNT_KEY, key, encode(&KeyOwnerForm::of(&account.id))?)
            .put(
                RecordSpace::ACME_ACCOUNT,
                self.ledger.key(&[account.id.octets()]),
                encode(&AccountForm::from(account))?,
            );
        Ok(self)
    }

    pub(crate) fn update_account(mut self, account: &Held<Account>) -> Result<Self, Fault> {
        let key = self.ledger.key(&[account.value.id.octets()]);
        self.batch = self.batch.expect(RecordSpace::ACME_ACCOUNT, key.as_slice(), account.version).put(
            RecordSpace::ACME_ACCOUNT,
            key,
            encode(&AccountForm::from(&account.value))?,
        );
        Ok(self)
    }

    /// Makes the account's new key known and forgets the old one.
    pub(crate) fn move_account_key(mut self, old: &AccountKey, account: &Account) -> Result<Self, Fault> {
        let key = self.ledger.key(&[&sha256(account.key.spki_der())]);
        self.batch = self
            .batch
            .expect_absent(RecordSpace::ACME_ACCOUNT_KEY, key.as_slice())
            .put(RecordSpace::ACME_ACCOUNT_KEY, key, encode(&KeyOwnerForm::of(&account.id))?)
            .delete(RecordSpace::ACME_ACCOUNT_KEY, self.ledger.key(&[&sha256(old.spki_der())]));
        Ok(self)
    }

    pub(crate) fn add_order(mut self, order: &Order) -> Result<Self, Fault> {
        let removal = self.ledger.expiry_key(order.expires.plus_s(GRACE_S), Expiring::Order, order.id.octets());
        self.batch = self
            .batch
            .put(RecordSpace::ACME_ORDER, self.ledger.key(&[order.id.octets()]), encode(&OrderForm::from(order))?)
            .put(
                RecordSpace::ACME_ACCOUNT_ORDER,
                self.ledger.key(&[order.account.octets(), order.id.octets()]),
                Vec::new(),
            )
            .put(RecordSpace::ACME_EXPIRY, removal, Vec::new());
        Ok(self)
    }

    pub(crate) fn update_order(mut self, order: &Held<Order>) -> Result<Self, Fault> {
        let key = self.ledger.key(&[order.value.id.octets()]);
        self.batch = self.batch.expect(RecordSpace::ACME_ORDER, key.as_slice(), order.version).put(
            RecordSpace::ACME_ORDER,
            key,
            encode(&OrderForm::from(&order.value))?,
        );
        Ok(self)
    }

    pub(crate) fn add_authorization(mut self, authorization: &Authorization) -> Result<Self, Fault> {
        let removal = self.ledger.expiry_key(
            authorization.expires.plus_s(GRACE_S),
            Expiring::Authorization,
            authorization.id.octets(),
        );
        let form = encode(&AuthorizationForm::from(authorization))?;
        self.batch = self
            .batch
            .put(RecordSpace::ACME_AUTHORIZATION, self.ledger.key(&[authorization.id.octets()]), form)
            .put(RecordSpace::ACME_EXPIRY, removal, Vec::new());
        self.hold(authorization)
    }

    pub(crate) fn update_authorization(mut self, authorization: &Held<Authorization>) -> Result<Self, Fault> {
        let key = self.ledger.key(&[authorization.value.id.octets()]);
        let form = encode(&AuthorizationForm::from(&authorization.value))?;
        self.batch = self.batch.expect(RecordSpace::ACME_AUTHORIZATION, key.as_slice(), authorization.version).put(
            RecordSpace::ACME_AUTHORIZATION,
            key,
            form,
        );
        self.hold(&authorization.value)
    }

    /// Holds only while the authorization stays as it was read.
    pub(crate) fn rest_on(mut self, authorization: &Held<Authorization>) -> Self {
        let key = self.ledger.key(&[authorization.value.id.octets()]);
        self.batch = self.batch.expect(RecordSpace::ACME_AUTHORIZATION, key, authorization.version);
        self
    }

    pub(crate) fn add_job(mut self, job: &Job) -> Result<Self, Fault> {
        self.batch =
            self.batch.put(RecordSpace::ACME_VALIDATION, self.ledger.job_key(job), encode(&JobForm::from(job))?);
        Ok(self)
    }

    pub(crate) fn remove_job(mut self, job: &Held<Job>) -> Self {
        let key = self.ledger.job_key(&job.value);
        self.batch = self
            .batch
            .expect(RecordSpace::ACME_VALIDATION, key.as_slice(), job.version)
            .delete(RecordSpace::ACME_VALIDATION, key);
        self
    }

    pub(crate) fn add_certificate(mut self, serial: &Serial, not_after: Time, account: &Id) -> Result<Self, Fault> {
        let removal = self.ledger.expiry_key(not_after.plus_s(GRACE_S), Expiring::Certificate, serial.as_bytes());
        self.batch = self
            .batch
            .put(
                RecordSpace::ACME_CERTIFICATE,
                self.ledger.key(&[serial.as_bytes()]),
                encode(&CertificateOwnerForm::of(account))?,
            )
            .put(RecordSpace::ACME_EXPIRY, removal, Vec::new());
        Ok(self)
    }

    /// Names the order that replaces a certificate; `before` is the one that failed to.
    pub(crate) fn replace(mut self, serial: &Serial, before: Option<&Id>, order: &Id) -> Result<Self, Error> {
        let key = self.ledger.key(&[serial.as_bytes()]);
        let space = RecordSpace::ACME_REPLACEMENT;
        let found = self.ledger.find(space, &[serial.as_bytes()])?;
        self.batch = match found.filter(|found| before.is_some_and(|before| found.value == before.octets())) {
            Some(found) => self.batch.expect(space, key.as_slice(), found.version),
            None => self.batch.expect_absent(space, key.as_slice()),
        }
        .put(space, key, order.octets());
        Ok(self)
    }

    /// Counts an account that a credential vouched for.
    pub(crate) fn vouch(mut self, voucher: &VerifiedSecret, account: &Id, origin: &Origin) -> Result<Self, Error> {
        let engine = &self.ledger.engine;
        self.batch = engine.open_account(self.batch, voucher, &account.to_string(), origin)?;
        Ok(self)
    }

    /// Adds an entry to the audit log: what becomes of an account.
    pub(crate) fn audit(
        mut self,
        at: Time,
        origin: Option<&Origin>,
        account: &Id,
        detail: &str,
    ) -> Result<Self, Fault> {
        self.batch = self.batch.audit_account(at, origin, &format!("account:{account}"), detail)?;
        Ok(self)
    }

    /// Makes the changes. A nonce that somebody used before is the client's problem; any other conflict is decided anew.
    pub(crate) fn commit(self) -> Attempt<()> {
        match (self.ledger.engine.commit(self.batch), self.nonce) {
            (Ok(_), Some(nonce)) => {
                nonce.mark_spent();
                Ok(())
            }
            (Ok(_), None) => Ok(()),
            (Err(RecordError::Conflict), Some(nonce)) if self.ledger.is_spent(nonce)? => Err(bad_nonce().into()),
            (Err(error), _) => Err(error.into()),
        }
    }
}
