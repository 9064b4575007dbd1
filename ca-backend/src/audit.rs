//! The record of every decision: append-only, hash-chained, durable with the act itself.

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::error::{Error, Fault, StoreFault};
use crate::evidence::EvidenceFacts;
use crate::label::AuthorityName;
use crate::record::AuditForm;
use crate::request::Origin;
use crate::serial::Serial;
use crate::sha256;
use crate::store::{Batch, Log, Range, Space, Store};

/// What was decided or done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The exact bytes to be signed are recorded.
    WillSign,
    /// A certificate was signed.
    Signed,
    /// A reserved serial was closed without a certificate.
    Closed,
    /// A request was refused.
    Refused,
    /// A request waits for approval.
    Waiting,
    /// A waiting request was approved.
    Approved,
    /// A waiting request was rejected.
    Rejected,
    /// Nobody decided in time on a request that waited for approval.
    Expired,
    /// A certificate was revoked.
    Revoked,
    /// A certificate was put on hold.
    Held,
    /// A hold was lifted.
    Unheld,
    /// A requester accepted or declined its certificate.
    Confirmed,
    /// A CRL was published.
    CrlPublished,
    /// An authority was made, changed or removed.
    AuthorityChanged,
    /// A profile was added or removed.
    ProfileChanged,
    /// An endpoint was made, changed or removed.
    EndpointChanged,
    /// A credential was made, used up or removed.
    CredentialChanged,
    /// A requester's account was made, changed or closed.
    AccountChanged,
    /// The daemon made a key for its own use: an OCSP responder, its TLS certificate.
    ServiceKeyChanged,
    /// An operator had a key made that an authority may take later.
    KeyMade,
    /// A subject's private key was stored, encrypted for recovery.
    KeyArchived,
    /// An operator was given the envelope with a subject's private key.
    ArchivedKeyGiven,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When.
    pub at: Time,
    /// What.
    pub action: Action,
    /// From where and by which protocol; `None` for the daemon's own acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Who, and on which evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceFacts>,
    /// The authority concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<AuthorityName>,
    /// The profile and the snapshot of it that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The certificate concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    /// The rule applied, the reason given, the digest of what was signed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl AuditRecord {
    pub(crate) fn new(at: Time, action: Action) -> Self {
        Self {
            at,
            action,
            origin: None,
            evidence: None,
            authority: None,
            profile: None,
            serial: None,
            detail: String::new(),
        }
    }

    pub(crate) fn origin(mut self, origin: &Origin) -> Self {
        self.origin = Some(origin.clone());
        self
    }

    pub(crate) fn evidence(mut self, facts: &EvidenceFacts) -> Self {
        self.evidence = Some(facts.clone());
        self
    }

    pub(crate) fn authority(mut self, name: &AuthorityName) -> Self {
        self.authority = Some(name.clone());
        self
    }

    pub(crate) fn profile(mut self, id_and_snapshot: impl Into<String>) -> Self {
        self.profile = Some(id_and_snapshot.into());
        self
    }

    pub(crate) fn serial(mut self, serial: &Serial) -> Self {
        self.serial = Some(*serial);
        self
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Adds this record to a batch, so that it is durable with the act.
    pub(crate) fn in_batch(self, batch: Batch) -> Result<Batch, Fault> {
        Ok(batch.append(Log::Audit, crate::record::encode(&AuditForm::from(self))?))
    }
}

/// An entry with its place in the log.
#[derive(Clone, Debug, Serialize)]
pub struct AuditEntry {
    /// Its number, from 1 without gaps.
    pub number: u64,
    /// The entry.
    #[serde(flatten)]
    pub record: AuditRecord,
}

/// The result of walking the whole chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditVerdict {
    /// Entries that were read and found in order.
    pub entries: u64,
    /// The digest of the last entry, hexadecimal: compare it with one kept elsewhere.
    pub head: String,
    /// What is wrong, if anything: the first entry that was removed, altered or moved.
    pub damage: Option<String>,
}

const PAGE: usize = 1_000;
const DIGEST_OCTETS: usize = 32;

/// Reads up to `limit` entries after number `after`.
pub(crate) fn read(store: &dyn Store, after: u64, limit: usize) -> Result<Vec<AuditEntry>, Error> {
    entries(store, after, limit)?
        .into_iter()
        .map(|(number, value)| Ok(AuditEntry { number, record: payload(number, &value)? }))
        .collect()
}

fn payload(number: u64, value: &[u8]) -> Result<AuditRecord, Fault> {
    let payload = value.get(DIGEST_OCTETS..).unwrap_or_default();
    crate::record::decode::<AuditForm>(payload)
        .map(AuditRecord::from)
        .map_err(|_| StoreFault::Corrupt(format!("audit record {number} cannot be read")).into())
}

fn entries(store: &dyn Store, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreFault> {
    let range = Range { from: after.saturating_add(1).to_be_bytes().to_vec(), until: None, reverse: false };
    let found = store.scan(Space::Audit, &range, limit)?;
    Ok(found.into_iter().map(|entry| (number(&entry.key), entry.value)).collect())
}

fn number(key: &[u8]) -> u64 {
    key.try_into().map(u64::from_be_bytes).unwrap_or_default()
}

/// Walks the chain from its beginning to the recorded head.
pub(crate) fn verify(store: &dyn Store, head: (u64, [u8; DIGEST_OCTETS])) -> Result<AuditVerdict, Error> {
    let mut digest = [0; DIGEST_OCTETS];
    let mut last = 0;
    let verdict =
        |entries, digest: [u8; DIGEST_OCTETS], damage| AuditVerdict { entries, head: hex::encode(digest), damage };
    while last < head.0 {
        let page = entries(store, last, PAGE)?;
        if page.is_empty() {
            return Ok(verdict(last, digest, Some(format!("entries {} to {} are missing", last + 1, head.0))));
        }
        for (number, value) in page {
            if number != last + 1 {
                return Ok(verdict(last, digest, Some(format!("entry {} is missing", last + 1))));
            }
            if !value.starts_with(&digest) || payload(number, &value).is_err() {
                return Ok(verdict(last, digest, Some(format!("entry {last} or {number} was altered or moved"))));
            }
            digest = sha256(&value);
            last = number;
            if last == head.0 {
                break;
            }
        }
    }
    let damage = (digest != head.1).then(|| format!("entry {last} was altered"));
    Ok(verdict(last, digest, damage))
}
