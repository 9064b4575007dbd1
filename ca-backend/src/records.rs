//! A protocol's own records. Protocols keep no state elsewhere, so that any node may serve the next request.

use std::sync::{Arc, PoisonError};

use crate::audit::{Action, AuditRecord};
use crate::clock::Time;
use crate::engine::Engine;
use crate::error::{Error, Fault, StoreFault};
use crate::label::EndpointName;
use crate::request::Origin;
use crate::store::{Batch, CommitError, Entry, Range, Space, Store, Version, Versioned};

/// A kind of record that a protocol keeps. There is no value for the engine's own spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSpace(Space);

impl RecordSpace {
    /// ACME accounts.
    pub const ACME_ACCOUNT: Self = Self(Space::AcmeAccount);
    /// ACME account identifiers by key thumbprint.
    pub const ACME_ACCOUNT_KEY: Self = Self(Space::AcmeAccountKey);
    /// ACME orders.
    pub const ACME_ORDER: Self = Self(Space::AcmeOrder);
    /// ACME orders by account.
    pub const ACME_ACCOUNT_ORDER: Self = Self(Space::AcmeAccountOrder);
    /// ACME authorizations with their challenges.
    pub const ACME_AUTHORIZATION: Self = Self(Space::AcmeAuthorization);
    /// ACME challenges that wait for validation, by due time.
    pub const ACME_VALIDATION: Self = Self(Space::AcmeValidation);
    /// ACME objects by expiry time.
    pub const ACME_EXPIRY: Self = Self(Space::AcmeExpiry);
    /// ACME nonces that were used, by expiry time.
    pub const ACME_NONCE: Self = Self(Space::AcmeNonce);
    /// The ACME account that a certificate was issued to, by serial.
    pub const ACME_CERTIFICATE: Self = Self(Space::AcmeCertificate);
    /// Calls of the MDM web service that may be repeated.
    pub const MDM_CALL: Self = Self(Space::MdmCall);
    /// ACME authorizations that are pending or valid, by account.
    pub const ACME_ACCOUNT_AUTHORIZATION: Self = Self(Space::AcmeAccountAuthorization);
    /// How much of an ACME limit is used up, by limit and subject.
    pub const ACME_LIMIT: Self = Self(Space::AcmeLimit);
    /// The ACME order that replaces a certificate, by serial.
    pub const ACME_REPLACEMENT: Self = Self(Space::AcmeReplacement);
    /// ACME orders whose certificate is asked for and not there yet.
    pub const ACME_UNFINISHED: Self = Self(Space::AcmeUnfinished);
    /// SCEP transactions that wait for approval, by endpoint, transactionID and signer.
    pub const SCEP_TRANSACTION: Self = Self(Space::ScepTransaction);
    /// SCEP transactions by the time at which they may go.
    pub const SCEP_EXPIRY: Self = Self(Space::ScepExpiry);

    /// The kinds whose records belong to an endpoint: they lie under its name, alone or with a slash or a zero octet behind it. The
    /// first kind goes first: ACME commits nothing without its nonce key.
    const OF_ENDPOINTS: [Self; 14] = [
        Self::ACME_NONCE,
        Self::ACME_ACCOUNT,
        Self::ACME_ACCOUNT_KEY,
        Self::ACME_ORDER,
        Self::ACME_ACCOUNT_ORDER,
        Self::ACME_AUTHORIZATION,
        Self::ACME_VALIDATION,
        Self::ACME_EXPIRY,
        Self::ACME_CERTIFICATE,
        Self::ACME_ACCOUNT_AUTHORIZATION,
        Self::ACME_LIMIT,
        Self::ACME_REPLACEMENT,
        Self::ACME_UNFINISHED,
        Self::SCEP_TRANSACTION,
    ];
}

/// Reads one kind of a protocol's records.
#[derive(Clone, Debug)]
pub struct Records {
    store: Arc<dyn Store>,
    space: RecordSpace,
}

impl Records {
    pub(crate) fn new(store: Arc<dyn Store>, space: RecordSpace) -> Self {
        Self { store, space }
    }

    /// Reads one record.
    ///
    /// # Errors
    /// The store's fault.
    pub fn find(&self, key: &[u8]) -> Result<Option<Versioned>, Error> {
        Ok(self.store.get(self.space.0, key)?)
    }

    /// Reads up to `limit` records whose keys begin with `prefix` and are greater than `after`, in key order.
    ///
    /// # Errors
    /// The store's fault.
    pub fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, Error> {
        let mut range = Range::prefix(prefix);
        if let Some(after) = after {
            range.from = [after, &[0]].concat();
        }
        Ok(self.store.scan(self.space.0, &range, limit)?)
    }
}

/// Changes to a protocol's records that happen together or not at all.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct RecordBatch(Batch);

impl RecordBatch {
    /// No changes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The batch conflicts unless the record has this version.
    pub fn expect(self, space: RecordSpace, key: impl Into<Vec<u8>>, version: Version) -> Self {
        Self(self.0.expect(space.0, key, version))
    }

    /// The batch conflicts unless the record is absent.
    pub fn expect_absent(self, space: RecordSpace, key: impl Into<Vec<u8>>) -> Self {
        Self(self.0.expect_absent(space.0, key))
    }

    /// Writes a record.
    pub fn put(self, space: RecordSpace, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self(self.0.put(space.0, key, value))
    }

    /// Removes a record.
    pub fn delete(self, space: RecordSpace, key: impl Into<Vec<u8>>) -> Self {
        Self(self.0.delete(space.0, key))
    }

    /// Adds an entry to the audit log: what happened to the account of a requester. It is durable with the batch.
    ///
    /// # Errors
    /// A fault if the entry cannot be encoded.
    pub fn audit_account(
        self,
        at: Time,
        origin: Option<&Origin>,
        requester: &str,
        detail: &str,
    ) -> Result<Self, Fault> {
        let mut record = AuditRecord::new(at, Action::AccountChanged).detail(format!("{requester}: {detail}"));
        if let Some(origin) = origin {
            record = record.origin(origin);
        }
        record.in_batch(self.0).map(Self)
    }

    pub(crate) fn into_batch(self) -> Batch {
        self.0
    }
}

impl From<Batch> for RecordBatch {
    fn from(batch: Batch) -> Self {
        Self(batch)
    }
}

/// Why a [`RecordBatch`] left no trace.
#[derive(Debug)]
pub enum RecordError {
    /// A record changed meanwhile: read again and decide anew.
    Conflict,
    /// The store did not do its work.
    Fault(StoreFault),
}

impl From<CommitError> for RecordError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict => Self::Conflict,
            CommitError::Fault(fault) => Self::Fault(fault),
        }
    }
}

/// A conflict that the caller does not expect is answered by trying later.
impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Conflict => Self::Fault(Fault::TryLater { after_s: 1 }),
            RecordError::Fault(fault) => Self::Fault(Fault::Store(fault)),
        }
    }
}

/// What may stand behind an endpoint's name in a key. No name holds either.
const SEPARATORS: [u8; 2] = [0, b'/'];

/// Records removed in one step.
const STEP: usize = 500;

/// Seconds between two looks for records without an endpoint.
const ORPHANS_S: u64 = 3600;

impl Engine {
    /// Removes every record that protocols keep for an endpoint, so that none serves a later endpoint of that name.
    pub(crate) fn remove_records_of(&self, endpoint: &EndpointName) -> Result<(), Error> {
        let name = endpoint.as_str().as_bytes();
        let mut count = 0_u64;
        for RecordSpace(space) in RecordSpace::OF_ENDPOINTS {
            if self.inner.store.get(space, name)?.is_some() {
                self.commit_or_later(Batch::new().delete(space, name))?;
                count += 1;
            }
            for separator in SEPARATORS {
                let below = Range::prefix([name, &[separator]].concat());
                loop {
                    let doomed = self.inner.store.scan(space, &below, STEP)?;
                    if doomed.is_empty() {
                        break;
                    }
                    count += doomed.len() as u64;
                    let batch = doomed.into_iter().fold(Batch::new(), |batch, entry| batch.delete(space, entry.key));
                    self.commit_or_later(batch)?;
                }
            }
        }
        if count > 0 {
            tracing::info!(%endpoint, records = count, "removed what an endpoint left");
        }
        Ok(())
    }

    /// Removes the records of endpoints that were removed a moment before the daemon stopped. It looks at a record of every kind for
    /// every endpoint, so that it rests for an hour.
    pub(crate) fn remove_orphaned_records(&self) -> Result<(), Error> {
        let Some(_no_changes) = self.unless_changing() else { return Ok(()) };
        let now = self.now();
        let mut sought = self.inner.orphans_sought.lock().unwrap_or_else(PoisonError::into_inner);
        if sought.is_some_and(|sought| now < sought.plus_s(ORPHANS_S)) {
            return Ok(());
        }
        for RecordSpace(space) in RecordSpace::OF_ENDPOINTS {
            let mut range = Range::default();
            while let Some(entry) = self.inner.store.scan(space, &range, 1)?.pop() {
                let name = entry.key.split(|octet| SEPARATORS.contains(octet)).next().unwrap_or_default();
                let endpoint = EndpointName::new(String::from_utf8_lossy(name))?;
                if self.endpoint(&endpoint).is_none() {
                    self.remove_records_of(&endpoint)?;
                }
                // Past the name alone first: `a-b/` lies between `a` and `a/`.
                range.from = match entry.key.get(name.len()) {
                    None => [name, &[0]].concat(),
                    Some(separator) => [name, &[separator + 1]].concat(),
                };
            }
        }
        *sought = Some(now);
        Ok(())
    }
}
