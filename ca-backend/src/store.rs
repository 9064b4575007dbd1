//! Where everything durable lives.
//!
//! A store is an ordered map from `(Space, key)` to a versioned value, changed only by [`Batch`]es. A batch is a value, so a
//! retry is safe: no closure runs twice.

mod committer;
mod directory;
#[cfg(feature = "testing")]
pub(crate) mod faulty;
mod group;
mod journal;
mod memory;
mod progress;
mod queue;
mod redb;
mod sled;
mod table;
#[cfg(feature = "testing")]
mod torture;
pub(crate) mod transfer;

#[cfg(test)]
mod conformance;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use self::committer::Committer;
use self::directory::StoreDirectory;
use self::journal::{JOURNAL_DIRECTORY, Journaled};
use self::memory::MemoryTable;
use self::redb::{REDB_FILE, RedbTable};
use self::sled::{SLED_DIRECTORY, SledTable};
use crate::error::{Fault, StoreFault};

#[cfg(feature = "testing")]
pub use self::faulty::{FailureMoment, Faults};
#[cfg(feature = "testing")]
pub use self::torture::{TortureReport, torture_check, torture_write};
pub(crate) use self::transfer::{TransferError, export, import};

/// Which storage engine keeps the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreKind {
    /// Nothing survives the process: for tests and trials.
    Memory,
    /// sled 0.34 in the directory `sled`, the default.
    Sled,
    /// redb 4 in the file `store.redb`.
    Redb,
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Sled => "sled",
            Self::Redb => "redb",
        })
    }
}

/// How much of the machine a store may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Memory for the engine's cache, in octets.
    pub cache_bytes: u64,
    /// How long a file of the journal gets before it is fed to the engine, in octets. Twice as long while the engine is busy.
    pub journal_bytes: u64,
    /// Writes are refused with [`StoreFault::Full`] when less than this is free on the disk, in octets: the engines do not get
    /// over a disk that is really full.
    pub reserve_bytes: u64,
}

/// The form in which everything is stored; a greater one is from a newer release.
const FORMAT: u32 = 1;

/// Where [`FORMAT`] lies in [`Space::Meta`].
const FORMAT_KEY: &[u8] = b"format";

/// A record in [`Space::Meta`] that is there from the beginning of an import to its end.
const IMPORTING_KEY: &[u8] = b"importing";

/// Opens the store in a directory, or begins one. The directory is locked against other processes until the store is dropped.
///
/// # Errors
/// [`StoreFault::Unavailable`] if the directory cannot be used, is in use, or was written by a newer release or another engine;
/// [`StoreFault::Corrupt`] if it is damaged or an import into it did not finish.
pub(crate) fn open(kind: StoreKind, directory: &Path, options: StoreOptions) -> Result<Arc<dyn Store>, StoreFault> {
    let claim = || StoreDirectory::claim(directory, options.reserve_bytes);
    let store: Arc<dyn Store> = match kind {
        StoreKind::Memory => Arc::new(Committer::start(MemoryTable::default())?),
        StoreKind::Sled => {
            let claimed = claim()?;
            claimed.refuse_beside(REDB_FILE)?;
            claimed.refuse_without(SLED_DIRECTORY, JOURNAL_DIRECTORY)?;
            let journal = claimed.join(JOURNAL_DIRECTORY);
            let table = SledTable::open(claimed, options.cache_bytes, options.journal_bytes)?;
            Arc::new(Committer::start(Journaled::open(table, &journal, options.journal_bytes)?)?)
        }
        StoreKind::Redb => {
            let claimed = claim()?;
            claimed.refuse_beside(SLED_DIRECTORY)?;
            claimed.refuse_without(REDB_FILE, JOURNAL_DIRECTORY)?;
            let journal = claimed.join(JOURNAL_DIRECTORY);
            let cache_bytes = usize::try_from(options.cache_bytes).unwrap_or(usize::MAX);
            let table = RedbTable::open(claimed, cache_bytes)?;
            Arc::new(Committer::start(Journaled::open(table, &journal, options.journal_bytes)?)?)
        }
    };
    check_format(store.as_ref())?;
    Ok(store)
}

/// The number and the digest of a log's last entry: zero and zeros for an empty log.
pub(crate) fn head_of(store: &dyn Store, log: Log) -> Result<(u64, [u8; 32]), StoreFault> {
    let Some(stored) = store.get(Space::Meta, group::head_key(log))? else {
        return Ok((0, [0; 32]));
    };
    let parts = stored.value.split_first_chunk().and_then(|(number, digest)| Some((number, digest.try_into().ok()?)));
    let (number, digest) =
        parts.ok_or_else(|| StoreFault::Corrupt(format!("the head of the {log:?} log is malformed")))?;
    Ok((u64::from_be_bytes(*number), digest))
}

/// Refuses a store of a newer release or a half imported one; marks a new one.
fn check_format(store: &dyn Store) -> Result<(), StoreFault> {
    if store.get(Space::Meta, IMPORTING_KEY)?.is_some() {
        return Err(StoreFault::Corrupt("an import into this store did not finish; remove it and import again".into()));
    }
    let Some(stored) = store.get(Space::Meta, FORMAT_KEY)? else {
        let mark =
            Batch::new().expect_absent(Space::Meta, FORMAT_KEY).put(Space::Meta, FORMAT_KEY, FORMAT.to_be_bytes());
        return match store.commit(mark) {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict) => Err(StoreFault::Unavailable("somebody else marks the new store".into())),
            Err(CommitError::Fault(fault)) => Err(fault),
        };
    };
    match stored.value.as_slice().try_into().map(u32::from_be_bytes) {
        Ok(FORMAT) => Ok(()),
        Ok(newer) => Err(StoreFault::Unavailable(format!(
            "the store has format {newer}, this release reads format {FORMAT}; run the release that wrote it"
        ))),
        Err(_) => Err(StoreFault::Corrupt("the store's format is not a number".into())),
    }
}

/// The kinds of records, each with its own keyspace. The numbers are stored: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Space {
    /// Facts about the store itself: format version, commit sequence, log heads.
    Meta = 0x01,
    /// Sums kept by [`Batch::add`].
    Counter = 0x02,
    /// The audit log, by sequence number.
    Audit = 0x03,
    /// The certificate event feed, by sequence number.
    Event = 0x04,
    /// Authorities by name.
    Authority = 0x10,
    /// Issuers (an authority's generations) by issuer number.
    Issuer = 0x11,
    /// Operators' own profiles by name and version.
    Profile = 0x12,
    /// Endpoints by name.
    Endpoint = 0x13,
    /// Service keys (OCSP responders, server TLS) by role.
    ServiceKey = 0x14,
    /// Blocked public keys by SHA-256 of the SubjectPublicKeyInfo.
    BlockedKey = 0x16,
    /// Credentials by name.
    Credential = 0x17,
    /// Names of credentials by the keyed digest of their secret.
    CredentialSecret = 0x18,
    /// Credentials by endpoint and purpose.
    CredentialListing = 0x19,
    /// Credentials by the time at which they may go.
    CredentialExpiry = 0x1a,
    /// Certificates that a device verifier was not told of yet, by serial.
    UntoldDevice = 0x1b,
    /// Certificates by serial, which is ordered by time of issue.
    Certificate = 0x20,
    /// First outcomes by origin, for repeats.
    Origin = 0x21,
    /// Requests that wait for approval, by ticket.
    Ticket = 0x22,
    /// Revoked and held certificates by issuer and serial: what CRLs are built from.
    Revoked = 0x23,
    /// Common names and subject alternative names, reversed, for exact and suffix search.
    ByName = 0x24,
    /// Subjects, reversed, for exact and suffix search.
    BySubject = 0x25,
    /// Requesters.
    ByRequester = 0x26,
    /// Expiry times.
    ByExpiry = 0x27,
    /// Serials of certificates that a management service keeps, by its endpoint and device or user.
    ByHolder = 0x6c,
    /// Private keys of subjects, encrypted for recovery, by serial of the certificate.
    ArchivedKey = 0x6d,
    /// Serials that were reserved and not yet signed.
    InFlight = 0x28,
    /// The published CRL of each issuer.
    CrlHead = 0x29,
    /// The bytes of CRLs in pieces.
    CrlChunk = 0x2a,
    /// ACME accounts.
    AcmeAccount = 0x40,
    /// ACME account identifiers by key thumbprint.
    AcmeAccountKey = 0x41,
    /// ACME orders.
    AcmeOrder = 0x42,
    /// ACME authorizations with their challenges.
    AcmeAuthorization = 0x43,
    /// ACME challenges that wait for validation.
    AcmeValidation = 0x44,
    /// ACME objects by expiry time.
    AcmeExpiry = 0x45,
    /// ACME nonces that were used.
    AcmeNonce = 0x46,
    /// Which ACME account a certificate was issued to, by serial.
    AcmeCertificate = 0x47,
    /// ACME orders by account.
    AcmeAccountOrder = 0x48,
    /// Calls of the MDM web service that may be repeated, by day.
    MdmCall = 0x5a,
    /// ACME authorizations that are pending or valid, by account.
    AcmeAccountAuthorization = 0x49,
    /// How much of an ACME limit is used up, by limit and subject.
    AcmeLimit = 0x4a,
    /// The ACME order that replaces a certificate, by serial.
    AcmeReplacement = 0x4b,
    /// ACME orders whose certificate is asked for and not there yet.
    AcmeUnfinished = 0x4c,
    /// SCEP transactions that wait for approval.
    ScepTransaction = 0x50,
    /// SCEP transactions by the time at which they may go.
    ScepExpiry = 0x51,
}

/// A key within a space.
pub(crate) type Key = Vec<u8>;

/// A stored value.
pub(crate) type Value = Vec<u8>;

/// Which commit wrote a value; later commits have greater versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub(crate) u64);

/// A value and the commit that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Which commit wrote it.
    pub version: Version,
    /// The bytes.
    pub value: Vec<u8>,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key within its space.
    pub key: Vec<u8>,
    /// Which commit wrote the value.
    pub version: Version,
    /// The bytes.
    pub value: Vec<u8>,
}

/// A part of a keyspace, and the order in which to read it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Range {
    /// The least key, inclusive.
    pub(crate) from: Key,
    /// The end, exclusive; `None` is the end of the space.
    pub(crate) until: Option<Key>,
    /// Greatest key first.
    pub(crate) reverse: bool,
}

impl Range {
    /// Every key that begins with `prefix`, ascending.
    pub(crate) fn prefix(prefix: impl Into<Key>) -> Self {
        let from = prefix.into();
        let mut until = from.clone();
        while let Some(last) = until.pop() {
            if last < u8::MAX {
                until.push(last + 1);
                return Self { from, until: Some(until), reverse: false };
            }
        }
        Self { from, until: None, reverse: false }
    }
}

/// The logs that [`Batch::append`] writes to.
///
/// Entry `n` of a log lies in the log's space under the key `n` (8 octets, big endian, from 1) with the value
/// `SHA-256 of entry n-1's whole value (zeros for n = 1) || payload`, so a log is a hash chain. The head (number and digest of the
/// last entry) lies in [`Space::Meta`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Log {
    /// Every decision.
    Audit,
    /// Certificates issued, revoked, held and unheld.
    Event,
}

impl Log {
    pub(crate) fn space(self) -> Space {
        match self {
            Self::Audit => Space::Audit,
            Self::Event => Space::Event,
        }
    }
}

/// Changes that happen together or not at all.
///
/// Checks are made first, against the state before the batch. Then writes apply in order, then adds, then appends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    pub(crate) checks: Vec<(Space, Key, Option<Version>)>,
    pub(crate) writes: Vec<(Space, Key, Option<Value>)>,
    pub(crate) adds: Vec<(Key, i64)>,
    pub(crate) appends: Vec<(Log, Value)>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The batch conflicts unless the key has this version.
    pub(crate) fn expect(mut self, space: Space, key: impl Into<Key>, version: Version) -> Self {
        self.checks.push((space, key.into(), Some(version)));
        self
    }

    /// The batch conflicts unless the key is absent.
    pub(crate) fn expect_absent(mut self, space: Space, key: impl Into<Key>) -> Self {
        self.checks.push((space, key.into(), None));
        self
    }

    pub(crate) fn put(mut self, space: Space, key: impl Into<Key>, value: impl Into<Value>) -> Self {
        self.writes.push((space, key.into(), Some(value.into())));
        self
    }

    pub(crate) fn delete(mut self, space: Space, key: impl Into<Key>) -> Self {
        self.writes.push((space, key.into(), None));
        self
    }

    /// Adds to a sum in [`Space::Counter`] (an i64, big endian; absent is zero). Concurrent adds never conflict.
    pub(crate) fn add(mut self, counter: impl Into<Key>, delta: i64) -> Self {
        self.adds.push((counter.into(), delta));
        self
    }

    /// Appends to a log. Concurrent appends never conflict.
    pub(crate) fn append(mut self, log: Log, payload: impl Into<Value>) -> Self {
        self.appends.push((log, payload.into()));
        self
    }

    /// Every key that the batch names.
    fn keys(&self) -> impl Iterator<Item = &Key> {
        let checked = self.checks.iter().map(|(_, key, _)| key);
        let written = self.writes.iter().map(|(_, key, _)| key);
        checked.chain(written).chain(self.adds.iter().map(|(counter, _)| counter))
    }

    /// About how much is written.
    fn bytes(&self) -> usize {
        let keys: usize = self.keys().map(Vec::len).sum();
        let values: usize = self.writes.iter().filter_map(|(_, _, value)| value.as_ref()).map(Vec::len).sum();
        let appended: usize = self.appends.iter().map(|(_, payload)| payload.len()).sum();
        keys.saturating_add(values).saturating_add(appended)
    }
}

/// Why a batch left no trace.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// A check did not hold: somebody was faster. Read again and decide anew.
    #[error("a record changed meanwhile")]
    Conflict,
    /// The store did not do its work. Whether the batch is durable is unknown after a crash only; on return it is not.
    #[error(transparent)]
    Fault(#[from] StoreFault),
}

impl From<StoreFault> for crate::error::Error {
    fn from(fault: StoreFault) -> Self {
        Self::Fault(Fault::Store(fault))
    }
}

/// A storage engine.
pub(crate) trait Store: Send + Sync + fmt::Debug {
    /// Reads one value.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Versioned>, StoreFault>;

    /// Reads up to `limit` entries of a range, in the range's order. Not a snapshot: commits may happen meanwhile. But if an entry
    /// is read, so are those before it that the same commit wrote.
    fn scan(&self, space: Space, range: &Range, limit: usize) -> Result<Vec<Entry>, StoreFault>;

    /// All or nothing, and durable before it returns. Every value written gets the returned version.
    fn commit(&self, batch: Batch) -> Result<Version, CommitError>;

    /// Whether writes work now; the reason if not. Cheap: it reports what the last commits met.
    fn health(&self) -> Result<(), StoreFault>;

    /// Up to `limit` entries of every space that follow `after`, raw, for export; `None` starts at the beginning. It may return
    /// fewer, to bound the memory; only an empty answer is the end.
    fn dump(&self, after: Option<&(u8, Key)>, limit: usize) -> Result<Vec<(u8, Entry)>, StoreFault>;

    /// Puts raw entries back, as [`Store::dump`] gave them, with their versions, into a store that holds nothing else.
    fn restore(&self, entries: Vec<(u8, Entry)>) -> Result<(), StoreFault>;
}
