//! Search, counts and events over what was issued.
//!
//! Serials sort by time of issue, so the certificates themselves are the index by issue time. The other indexes hold keys only:
//! `text, 0, serial`, with the text reversed where suffixes are searched, and `expiry, serial`.

use serde::{Deserialize, Serialize};

use crate::certificate::names_of;
use crate::clock::Time;
use crate::engine::Engine;
use crate::error::{Error, Fault, Reason, Refusal};
use crate::holder::Holder;
use crate::label::{AuthorityName, EndpointName, ProfileName, ProtocolName};
use crate::name::DistinguishedName;
use crate::record::{self, CertificateForm, EventForm, EventKindForm, StatusForm};
use crate::registry::Registry;
use crate::request::RequestedNames;
use crate::serial::Serial;
use crate::status::RevocationReason;
use crate::store::{Batch, Range, Space, Store};

/// What to look for. The narrowest of the indexed conditions leads the search; the others refine it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InventoryQuery {
    /// The serial, hexadecimal in any case and padding.
    pub serial: Option<String>,
    /// A common name or subject alternative name: the whole of it, or with a leading `*` its end.
    pub name: Option<String>,
    /// The subject as RFC 4514 text: the whole of it, or with a leading `*` its end.
    pub subject: Option<String>,
    /// The requester, the whole of it.
    pub requester: Option<String>,
    /// Issued at this moment or later.
    pub issued_from: Option<Time>,
    /// Issued before this moment.
    pub issued_until: Option<Time>,
    /// Expiring at this moment or later.
    pub expires_from: Option<Time>,
    /// Expiring before this moment.
    pub expires_until: Option<Time>,
    /// Of this profile.
    pub profile: Option<ProfileName>,
    /// Issued by this authority, any of its generations.
    pub authority: Option<AuthorityName>,
    /// Requested by this protocol.
    pub protocol: Option<ProtocolName>,
    /// In this status.
    pub status: Option<CertificateState>,
    /// Greatest index key first: with no other order, the newest certificate first.
    pub descending: bool,
    /// Where the previous page ended.
    pub cursor: Option<String>,
    /// Most certificates on a page, 1 to 1,000; 0 means 100.
    pub limit: usize,
}

/// A certificate's state, for people and search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateState {
    /// Neither revoked nor held. It may have expired.
    Normal,
    /// On hold.
    Held,
    /// Revoked for good.
    Revoked,
}

/// What is known of a certificate.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateSummary {
    /// Its serial.
    pub serial: Serial,
    /// Who issued it.
    pub authority: AuthorityName,
    /// The issuer's part of the status URLs.
    pub issuer: String,
    /// Its profile.
    pub profile: ProfileName,
    /// The protocol that requested it.
    pub protocol: ProtocolName,
    /// The endpoint that received the request.
    pub endpoint: Option<EndpointName>,
    /// Who requested it.
    pub requester: String,
    /// Whom it is for, if a management service asked for it.
    pub holder: Option<Holder>,
    /// The subject, RFC 4514.
    pub subject: String,
    /// The alternative names: `dns:host.example.org`.
    pub alternative_names: Vec<String>,
    /// When it was issued.
    pub issued_at: Time,
    /// The last moment of its validity.
    pub not_after: Time,
    /// Its state.
    pub state: CertificateState,
    /// Since when it is revoked or held.
    pub revoked_at: Option<Time>,
    /// Why.
    pub reason: Option<RevocationReason>,
    /// The certificate, DER.
    #[serde(skip)]
    pub der: Vec<u8>,
}

/// A part of a longer list.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    /// The part.
    pub items: Vec<T>,
    /// Asks for the next part; absent at the end. A page may be short or even empty and still have a successor.
    pub cursor: Option<String>,
}

/// How many certificates there are of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateCount {
    /// The authority.
    pub authority: AuthorityName,
    /// The profile.
    pub profile: ProfileName,
    /// The state.
    pub state: CertificateState,
    /// How many.
    pub certificates: u64,
}

/// Something that happened to a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateEvent {
    /// Its place in the feed, from 1 without gaps: the cursor.
    pub number: u64,
    /// When.
    pub at: Time,
    /// What.
    pub kind: CertificateEventKind,
    /// Which certificate.
    pub serial: Serial,
    /// Who issued it; absent once the authority is deleted.
    pub authority: Option<AuthorityName>,
}

/// What can happen to a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateEventKind {
    /// It was issued.
    Issued,
    /// It was revoked.
    Revoked,
    /// It was put on hold.
    Held,
    /// The hold was lifted.
    Unheld,
}

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1_000;
/// How many certificates one page looks at, whatever refines the search.
const EXAMINED_MAX: usize = 10_000;
const SERIAL_OCTETS: usize = 20;

impl StatusForm {
    pub(crate) fn state(self) -> CertificateState {
        match self {
            Self::Good => CertificateState::Normal,
            Self::Revoked { reason: RevocationReason::CertificateHold, .. } => CertificateState::Held,
            Self::Revoked { .. } | Self::Closed { .. } => CertificateState::Revoked,
        }
    }
}

impl CertificateState {
    fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Held => "held",
            Self::Revoked => "revoked",
        }
    }

    fn named(text: &str) -> Option<Self> {
        [Self::Normal, Self::Held, Self::Revoked].into_iter().find(|state| state.name() == text)
    }
}

/// The counter of certificates of one kind.
pub(crate) fn counter(certificate: &CertificateForm, state: CertificateState) -> Vec<u8> {
    format!("certificates/{}/{}/{}", certificate.issuer, certificate.profile, state.name()).into_bytes()
}

/// The common names and alternative names as they are searched for.
fn indexed_names(names: &RequestedNames) -> Vec<String> {
    let mut texts: Vec<String> = names.subject.common_names().iter().map(|name| name.to_lowercase()).collect();
    texts.extend(names.alternative.iter().map(crate::name::AlternativeName::search_key));
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// The keys under which a certificate is found, except by serial.
fn index_keys(serial: &Serial, certificate: &CertificateForm, names: &RequestedNames) -> Vec<(Space, Vec<u8>)> {
    let mut keys: Vec<_> =
        indexed_names(names).iter().map(|text| (Space::ByName, text_key(reversed(text), serial))).collect();
    if !names.subject.is_empty() {
        keys.push((Space::BySubject, text_key(reversed(&names.subject.search_key()), serial)));
    }
    keys.push((Space::ByRequester, text_key(certificate.requester.clone().into_bytes(), serial)));
    keys.extend(
        certificate.holder.iter().flat_map(|holder| holder.index_keys(serial)).map(|key| (Space::ByHolder, key)),
    );
    keys.push((Space::ByExpiry, [certificate.not_after.unix().to_be_bytes().as_slice(), serial.as_bytes()].concat()));
    keys
}

/// Adds an issued certificate to the indexes and counts.
pub(crate) fn index(batch: Batch, serial: &Serial, certificate: &CertificateForm, names: &RequestedNames) -> Batch {
    index_keys(serial, certificate, names)
        .into_iter()
        .fold(batch, |batch, (space, key)| batch.put(space, key, Vec::new()))
        .add(counter(certificate, certificate.status.state()), 1)
}

/// Takes a certificate out of the indexes and counts.
pub(crate) fn unindex(batch: Batch, serial: &Serial, certificate: &CertificateForm, names: &RequestedNames) -> Batch {
    index_keys(serial, certificate, names)
        .into_iter()
        .fold(batch, |batch, (space, key)| batch.delete(space, key))
        .add(counter(certificate, certificate.status.state()), -1)
}

/// The time in the greatest serial: no certificate was issued later.
pub(crate) fn latest_issue(store: &dyn Store) -> Result<Time, Error> {
    let mut latest = Time::default();
    for space in [Space::Certificate, Space::InFlight] {
        let range = Range { reverse: true, ..Range::default() };
        if let Some(entry) = store.scan(space, &range, 1)?.first() {
            latest = latest.max(Serial::from_magnitude(&entry.key)?.issued_at());
        }
    }
    Ok(latest)
}

/// Octet-wise backwards, so that a suffix becomes a prefix.
fn reversed(text: &str) -> Vec<u8> {
    text.bytes().rev().collect()
}

fn text_key(text: Vec<u8>, serial: &Serial) -> Vec<u8> {
    [cut(text).as_slice(), &[0], serial.as_bytes()].concat()
}

/// Storage engines bound their keys, so of a longer text only this much is indexed and compared.
const INDEXED_OCTETS_MAX: usize = 900;

fn cut(mut text: Vec<u8>) -> Vec<u8> {
    text.truncate(INDEXED_OCTETS_MAX);
    text
}

/// The index that leads a search, and the part of it to read.
fn lead(query: &InventoryQuery) -> Result<(Space, Range), Refusal> {
    let text_range = |text: &str, reverse: bool| {
        let text = text.to_lowercase();
        let bytes = |text: &str| cut(if reverse { reversed(text) } else { text.as_bytes().to_vec() });
        match text.strip_prefix('*').filter(|_| reverse) {
            Some(end) => Range::prefix(bytes(end)),
            None => Range::prefix([bytes(&text).as_slice(), &[0]].concat()),
        }
    };
    if let Some(text) = &query.serial {
        let serial = Serial::parse(text)?;
        let until = Some([serial.as_bytes(), &[0]].concat());
        return Ok((Space::Certificate, Range { from: serial.as_bytes().to_vec(), until, reverse: false }));
    }
    if let Some(name) = &query.name {
        return Ok((Space::ByName, text_range(name, true)));
    }
    if let Some(subject) = &query.subject {
        return Ok((Space::BySubject, text_range(subject, true)));
    }
    if let Some(requester) = &query.requester {
        // Requesters are stored as they are.
        return Ok((
            Space::ByRequester,
            Range::prefix([cut(requester.clone().into_bytes()).as_slice(), &[0]].concat()),
        ));
    }
    if query.expires_from.is_some() || query.expires_until.is_some() {
        let from = query.expires_from.unwrap_or_default().unix().to_be_bytes().to_vec();
        let until = query.expires_until.map(|time| time.unix().to_be_bytes().to_vec());
        return Ok((Space::ByExpiry, Range { from, until, reverse: false }));
    }
    let from = query.issued_from.map_or_else(Vec::new, |time| Serial::issued_floor(time).to_vec());
    let until = query.issued_until.map(|time| Serial::issued_floor(time).to_vec());
    Ok((Space::Certificate, Range { from, until, reverse: false }))
}

/// A `*` is a pattern at the beginning only. Elsewhere it could be meant as one, except where it begins a wildcard name.
fn check_pattern(what: &str, text: &str, example: &str) -> Result<(), Refusal> {
    let rest = text.strip_prefix('*').unwrap_or(text);
    let stray = rest.match_indices('*').any(|(at, _)| {
        let (before, after) = rest.split_at(at);
        let begins_value = before.is_empty() || before.ends_with(['=', ':', ' ']);
        !(begins_value && after.starts_with("*."))
    });
    if !stray {
        return Ok(());
    }
    let text =
        format!("{text:?} cannot be searched for: a {what} is given whole, or with one * at its beginning: {example}");
    Err(Refusal::new(Reason::Malformed, text))
}

impl InventoryQuery {
    /// Whether the conditions are such as can be met.
    ///
    /// # Errors
    /// `Reason::Malformed` that says which forms there are.
    pub fn check(&self) -> Result<(), Refusal> {
        if let Some(name) = &self.name {
            check_pattern("name", name, "host.example.org, *.example.org")?;
        }
        let Some(subject) = &self.subject else { return Ok(()) };
        let example = "CN=host,O=Example or *,O=Example";
        check_pattern("subject", subject, example)?;
        if subject.starts_with('*') || DistinguishedName::parse(subject).is_ok() {
            return Ok(());
        }
        let text = format!("{subject:?} is no distinguished name: a subject is given whole, or by its end: {example}");
        Err(Refusal::new(Reason::Malformed, text))
    }

    /// Whether a found certificate meets every condition.
    fn admits(&self, serial: &Serial, form: &CertificateForm, registry: &Registry) -> bool {
        let within = |at: Time, from: Option<Time>, until: Option<Time>| {
            from.is_none_or(|from| at >= from) && until.is_none_or(|until| at < until)
        };
        let authority = registry.issuers.get(&form.issuer).map(|issuer| &issuer.form.authority);
        // A certificate that was signed in the moment in which its authority was deleted belongs to nobody.
        authority.is_some()
            && !matches!(form.status, StatusForm::Closed { .. })
            && within(serial.issued_at(), self.issued_from, self.issued_until)
            && within(form.not_after, self.expires_from, self.expires_until)
            && self.profile.as_ref().is_none_or(|profile| *profile == form.profile)
            && self.authority.as_ref().is_none_or(|wanted| authority == Some(wanted))
            && self.protocol.as_ref().is_none_or(|protocol| *protocol == form.protocol)
            && self.requester.as_ref().is_none_or(|requester| *requester == form.requester)
            && self.status.is_none_or(|state| state == form.status.state())
    }

    /// Whether the conditions on names hold, of which one at most led the search.
    fn admits_names(&self, names: &RequestedNames) -> bool {
        let meets = |wanted: &str, text: &str| {
            let wanted = wanted.to_lowercase();
            wanted.strip_prefix('*').map_or(text == wanted, |end| text.ends_with(end))
        };
        let by_name = |wanted: &String| indexed_names(names).iter().any(|text| meets(wanted, text));
        let by_subject = |wanted: &String| !names.subject.is_empty() && meets(wanted, &names.subject.search_key());
        self.name.as_ref().is_none_or(by_name) && self.subject.as_ref().is_none_or(by_subject)
    }
}

impl Engine {
    /// One page of the certificates that meet the query, in the order of the leading index.
    ///
    /// # Errors
    /// `Reason::Malformed` for a bad serial or cursor, or the store's fault.
    pub fn search(&self, query: &InventoryQuery) -> Result<Page<CertificateSummary>, Error> {
        let registry = self.registry();
        let limit = if query.limit == 0 { LIMIT_DEFAULT } else { query.limit.min(LIMIT_MAX) };
        query.check()?;
        let (space, mut range) = lead(query)?;
        range.reverse = query.descending;
        if let Some(cursor) = &query.cursor {
            let key = hex::decode(cursor).map_err(|_| Refusal::new(Reason::Malformed, "the cursor is none of ours"))?;
            if query.descending {
                range.until = Some(key);
            } else {
                range.from = [key.as_slice(), &[0]].concat();
            }
        }
        let mut items = Vec::new();
        let mut examined = 0;
        loop {
            let entries = self.inner.store.scan(space, &range, limit)?;
            let at_end = entries.len() < limit;
            for entry in entries {
                examined += 1;
                let serial = serial_at_end(&entry.key)?;
                let form = if space == Space::Certificate {
                    Some(record::decode::<CertificateForm>(&entry.value)?)
                } else {
                    self.certificate_form(&serial)?
                };
                if let Some(form) = form.filter(|form| query.admits(&serial, form, &registry)) {
                    let names = names_of(&form.der)?;
                    if query.admits_names(&names) {
                        items.push(summary(serial, form, &names, &registry)?);
                    }
                }
                if items.len() == limit || examined == EXAMINED_MAX {
                    return Ok(Page { items, cursor: Some(hex::encode(entry.key)) });
                }
                if query.descending {
                    range.until = Some(entry.key);
                } else {
                    range.from = [entry.key.as_slice(), &[0]].concat();
                }
            }
            if at_end {
                return Ok(Page { items, cursor: None });
            }
        }
    }

    /// One certificate; `None` if there is none of that serial.
    ///
    /// # Errors
    /// The store's fault.
    pub fn find_certificate(&self, serial: &Serial) -> Result<Option<CertificateSummary>, Error> {
        match self.certificate_form(serial)? {
            Some(form) if !matches!(form.status, StatusForm::Closed { .. }) => {
                let names = names_of(&form.der)?;
                Ok(Some(summary(*serial, form, &names, &self.registry())?))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// How many certificates there are, by authority, profile and state. Kept, not counted.
    ///
    /// # Errors
    /// The store's fault.
    pub fn counts(&self) -> Result<Vec<CertificateCount>, Error> {
        let registry = self.registry();
        let mut counts: Vec<CertificateCount> = Vec::new();
        for entry in self.inner.store.scan(Space::Counter, &Range::prefix("certificates/"), usize::MAX)? {
            let Some((authority, profile, state)) = counted(&entry.key, &registry) else { continue };
            let sum = entry.value.as_slice().try_into().map(i64::from_be_bytes).unwrap_or_default();
            let certificates = u64::try_from(sum).unwrap_or_default();
            match counts
                .iter_mut()
                .find(|count| count.authority == authority && count.profile == profile && count.state == state)
            {
                Some(count) => count.certificates += certificates,
                None => counts.push(CertificateCount { authority, profile, state, certificates }),
            }
        }
        counts.retain(|count| count.certificates > 0);
        Ok(counts)
    }

    /// What happened to certificates after event number `after`, in order.
    ///
    /// # Errors
    /// The store's fault.
    pub fn events(&self, after: u64, limit: usize) -> Result<Vec<CertificateEvent>, Error> {
        let registry = self.registry();
        let range = Range { from: after.saturating_add(1).to_be_bytes().to_vec(), until: None, reverse: false };
        let entries = self.inner.store.scan(Space::Event, &range, limit.min(LIMIT_MAX))?;
        entries
            .into_iter()
            .map(|entry| {
                // The digest of the entry before stands in front.
                let EventForm(at, kind, serial, issuer) = record::decode(entry.value.get(32..).unwrap_or_default())?;
                let kind = match kind {
                    EventKindForm::Issued => CertificateEventKind::Issued,
                    EventKindForm::Revoked => CertificateEventKind::Revoked,
                    EventKindForm::Held => CertificateEventKind::Held,
                    EventKindForm::Unheld => CertificateEventKind::Unheld,
                };
                let number = entry.key.as_slice().try_into().map(u64::from_be_bytes).unwrap_or_default();
                let authority = registry.issuers.get(&issuer).map(|issuer| issuer.form.authority.clone());
                Ok(CertificateEvent { number, at, kind, serial, authority })
            })
            .collect()
    }
}

/// Splits `certificates/ISSUER/PROFILE/STATE`.
fn counted(key: &[u8], registry: &Registry) -> Option<(AuthorityName, ProfileName, CertificateState)> {
    let mut parts = std::str::from_utf8(key).ok()?.split('/').skip(1);
    let issuer = registry.issuers.get(&parts.next()?.parse().ok()?)?;
    let profile = ProfileName::new(parts.next()?).ok()?;
    Some((issuer.form.authority.clone(), profile, CertificateState::named(parts.next()?)?))
}

pub(crate) fn serial_at_end(key: &[u8]) -> Result<Serial, Error> {
    let octets = key.get(key.len().saturating_sub(SERIAL_OCTETS)..).unwrap_or_default();
    Ok(Serial::from_magnitude(octets).map_err(|_| Fault::Broken("an index key ends without a serial".to_owned()))?)
}

fn summary(
    serial: Serial,
    form: CertificateForm,
    names: &RequestedNames,
    registry: &Registry,
) -> Result<CertificateSummary, Error> {
    let issuer =
        registry.issuers.get(&form.issuer).ok_or_else(|| Fault::Broken(format!("serial {serial} has no issuer")))?;
    let (revoked_at, reason) = match form.status {
        StatusForm::Revoked { at, reason, .. } => (Some(at), Some(reason)),
        StatusForm::Good | StatusForm::Closed { .. } => (None, None),
    };
    Ok(CertificateSummary {
        authority: issuer.form.authority.clone(),
        issuer: issuer.path.clone(),
        subject: names.subject.to_string(),
        alternative_names: names.alternative.iter().map(ToString::to_string).collect(),
        issued_at: serial.issued_at(),
        not_after: form.not_after,
        state: form.status.state(),
        revoked_at,
        reason,
        profile: form.profile,
        protocol: form.protocol,
        endpoint: form.endpoint,
        requester: form.requester,
        holder: form.holder,
        der: form.der,
        serial,
    })
}
