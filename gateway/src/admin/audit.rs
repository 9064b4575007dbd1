//! `/v1/audit`: the record of every decision.

use axum::Json as Answer;
use ca_backend::{Action, AuditEntry, AuditVerdict, Fault};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Moment;
use super::caller::{Caller, Parameters};
use super::events::Part;
use super::problem::{Failure, Problem};

/// One entry of the audit log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// Its number, from 1 without gaps.
    pub number: u64,
    /// When.
    pub at: Moment,
    /// What: `will-sign`, `signed`, `refused`, `revoked`, `authority-changed`, ...
    #[schema(value_type = String, example = "signed")]
    pub action: Action,
    /// The authority concerned.
    pub authority: Option<String>,
    /// The profile and the snapshot of it that was used.
    pub profile: Option<String>,
    /// The certificate concerned.
    pub serial: Option<String>,
    /// From where and by which protocol; absent for the daemon's own acts.
    pub origin: Option<EntryOrigin>,
    /// Who, and on which evidence.
    #[schema(value_type = Option<Object>)]
    pub evidence: Option<serde_json::Value>,
    /// The rule applied, the reason given, the digest of what was signed.
    pub detail: String,
}

/// Where a request came from.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EntryOrigin {
    /// The protocol that brought it.
    pub protocol: String,
    /// The endpoint that received it.
    pub endpoint: Option<String>,
    /// The protocol's own name of the exchange.
    pub transaction: String,
    /// SHA-256 of the CSR or what stands for it, hexadecimal.
    pub request_sha256: String,
    /// The client's address.
    #[schema(value_type = Option<String>)]
    pub peer: Option<std::net::IpAddr>,
    /// The name of the request in the log.
    pub request_id: String,
}

impl Entry {
    fn of(entry: AuditEntry) -> Result<Self, Failure> {
        let record = entry.record;
        let evidence = record.evidence.map(serde_json::to_value).transpose();
        Ok(Self {
            number: entry.number,
            at: record.at.into(),
            action: record.action,
            authority: record.authority.map(String::from),
            profile: record.profile,
            serial: record.serial.map(|serial| serial.to_string()),
            origin: record.origin.map(|origin| EntryOrigin {
                protocol: origin.protocol.to_string(),
                endpoint: origin.endpoint.map(String::from),
                transaction: origin.transaction,
                request_sha256: hex::encode(origin.request_digest),
                peer: origin.peer,
                request_id: origin.request_id,
            }),
            evidence: evidence.map_err(|why| Fault::Broken(format!("evidence cannot be shown: {why}")))?,
            detail: record.detail,
        })
    }
}

/// A part of the log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EntryPage {
    /// The entries.
    pub items: Vec<Entry>,
    /// What to give as `after` to go on.
    pub cursor: u64,
}

/// The result of walking the whole log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// Whether every entry is there, unaltered and in order.
    pub intact: bool,
    /// Entries that were read and found in order.
    pub entries: u64,
    /// The digest of the last entry, hexadecimal: compare it with one kept elsewhere.
    pub head: String,
    /// What is wrong: the first entry that was removed, altered or moved.
    pub damage: Option<String>,
}

impl From<AuditVerdict> for Verdict {
    fn from(verdict: AuditVerdict) -> Self {
        Self { intact: verdict.damage.is_none(), entries: verdict.entries, head: verdict.head, damage: verdict.damage }
    }
}

/// Entries after a number.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(Part),
    responses((status = 200, body = EntryPage), (status = "4XX", body = Problem)))]
pub(super) async fn list(caller: Caller, Parameters(part): Parameters<Part>) -> Result<Answer<EntryPage>, Problem> {
    let read = move |caller: &Caller| {
        let entries = caller.engine().audit(part.after, part.entries_max())?;
        let cursor = entries.last().map_or(part.after, |entry| entry.number);
        let items = entries.into_iter().map(Entry::of).collect::<Result<_, _>>()?;
        Ok(EntryPage { items, cursor })
    };
    Ok(Answer(caller.ask(read).await?))
}

/// Walks the whole log and tells whether an entry was removed, altered or moved.
#[utoipa::path(get, path = "/v1/audit/verification", tag = "audit", responses((status = 200, body = Verdict)))]
pub(super) async fn verify(caller: Caller) -> Result<Answer<Verdict>, Problem> {
    let verdict = caller.ask(|caller| Ok(caller.engine().verify_audit()?)).await?;
    Ok(Answer(verdict.into()))
}
