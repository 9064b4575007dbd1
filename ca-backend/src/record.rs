//! The stored forms: CBOR behind a version octet. Domain types never go to the store as they are, so that they may change freely;
//! what operators write (endpoints, profiles) is stored as the document they wrote.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::{ByteArray, Bytes};

use crate::algorithm::KeyAlgorithm;
use crate::audit::{Action, AuditRecord};
use crate::clock::Time;
use crate::credential::CredentialPurpose;
use crate::error::{Fault, StoreFault};
use crate::evidence::{EvidenceFacts, ValidatedIdentifier};
use crate::holder::Holder;
use crate::keys::{KeyRef, ServiceKeyRef};
use crate::label::{AuthorityName, EndpointName, ProfileName, ProtocolName};
use crate::name::AlternativeName;
use crate::request::{Origin, RequestedNames, RequestedValidity};
use crate::serial::Serial;
use crate::status::RevocationReason;

/// The version of every form in this file. A form that changes gets its own reader for the old version.
const VERSION: u8 = 1;

/// Room for most forms, so that an encoding does not grow by copying.
const ENCODED_BYTES_USUAL: usize = 2 << 10;

/// Encodes a stored form.
pub(crate) fn encode<T: Serialize>(form: &T) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::with_capacity(ENCODED_BYTES_USUAL);
    bytes.push(VERSION);
    ciborium::into_writer(form, &mut bytes)
        .map_err(|error| Fault::Broken(format!("a record cannot be encoded: {error}")))?;
    Ok(bytes)
}

/// Decodes a stored form.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    match bytes.split_first() {
        Some((&VERSION, form)) => ciborium::from_reader(form)
            .map_err(|error| StoreFault::Corrupt(format!("a record cannot be decoded: {error}")).into()),
        Some((version, _)) => {
            Err(StoreFault::Corrupt(format!("a record has version {version}, this program knows {VERSION}")).into())
        }
        None => Err(StoreFault::Corrupt("a record is empty".to_owned()).into()),
    }
}

/// A certificate, by serial. There are many of these, so their fields have short names in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CertificateForm {
    /// The issuer's number.
    #[serde(rename = "i")]
    pub(crate) issuer: u32,
    #[serde(rename = "p")]
    pub(crate) profile: ProfileName,
    /// The profile's snapshot.
    #[serde(rename = "v")]
    pub(crate) snapshot: String,
    #[serde(rename = "l")]
    pub(crate) protocol: ProtocolName,
    #[serde(rename = "e")]
    pub(crate) endpoint: Option<EndpointName>,
    #[serde(rename = "r")]
    pub(crate) requester: String,
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub(crate) holder: Option<Holder>,
    #[serde(rename = "n")]
    pub(crate) not_after: Time,
    #[serde(rename = "s")]
    pub(crate) status: StatusForm,
    /// The certificate; the TBSCertificate if the serial was closed without one.
    #[serde(rename = "d", with = "serde_bytes")]
    pub(crate) der: Vec<u8>,
}

/// A certificate's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StatusForm {
    Good,
    Revoked {
        at: Time,
        reason: RevocationReason,
        invalidity: Option<Time>,
    },
    /// Reserved, but never signed.
    Closed {
        at: Time,
    },
}

/// A reserved serial whose certificate is being signed, by serial.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InFlightForm {
    #[serde(rename = "t")]
    pub(crate) at: Time,
    /// The certificate's record as it will be, with the TBSCertificate in place of the certificate.
    #[serde(rename = "c")]
    pub(crate) certificate: CertificateForm,
    #[serde(rename = "f")]
    pub(crate) facts: Positional<EvidenceFacts>,
    #[serde(rename = "o")]
    pub(crate) origin: Positional<Origin>,
    #[serde(rename = "a")]
    pub(crate) authority: AuthorityName,
    /// The first outcome's key in [`crate::store::Space::Origin`].
    #[serde(rename = "k", with = "serde_bytes")]
    pub(crate) origin_key: Vec<u8>,
}

/// A domain type stored as the array of its fields, since their names would take more room than what they hold.
#[derive(Clone, Debug)]
pub(crate) struct Positional<T>(pub(crate) T);

impl Serialize for Positional<Origin> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Origin { protocol, endpoint, transaction, request_digest, peer, request_id } = &self.0;
        (protocol, endpoint, transaction, Bytes::new(request_digest), peer, request_id).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Positional<Origin> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (protocol, endpoint, transaction, request_digest, peer, request_id) =
            Deserialize::deserialize(deserializer)?;
        let request_digest = ByteArray::into_array(request_digest);
        Ok(Self(Origin { protocol, endpoint, transaction, request_digest, peer, request_id }))
    }
}

impl Serialize for Positional<EvidenceFacts> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let EvidenceFacts { kind, requester, identifiers, approved_by, credential } = &self.0;
        let fields = |identifier: &ValidatedIdentifier| {
            let ValidatedIdentifier { name, wildcard, method, at, detail } = identifier.clone();
            (name, wildcard, method, at, detail)
        };
        let identifiers: Vec<IdentifierFields> = identifiers.iter().map(fields).collect();
        (kind, requester, identifiers, approved_by, credential).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Positional<EvidenceFacts> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (kind, requester, identifiers, approved_by, credential) = Deserialize::deserialize(deserializer)?;
        let named = |(name, wildcard, method, at, detail)| ValidatedIdentifier { name, wildcard, method, at, detail };
        let identifiers = Vec::<IdentifierFields>::into_iter(identifiers).map(named).collect();
        Ok(Self(EvidenceFacts { kind, requester, identifiers, approved_by, credential }))
    }
}

/// A [`ValidatedIdentifier`]'s fields.
type IdentifierFields = (AlternativeName, bool, String, Time, String);

/// One entry of the audit log: an [`AuditRecord`]'s fields in their order.
#[derive(Serialize, Deserialize)]
pub(crate) struct AuditForm(
    Time,
    Action,
    Option<Positional<Origin>>,
    Option<Positional<EvidenceFacts>>,
    Option<AuthorityName>,
    Option<String>,
    Option<Serial>,
    String,
);

impl From<AuditRecord> for AuditForm {
    fn from(record: AuditRecord) -> Self {
        let AuditRecord { at, action, origin, evidence, authority, profile, serial, detail } = record;
        Self(at, action, origin.map(Positional), evidence.map(Positional), authority, profile, serial, detail)
    }
}

impl From<AuditForm> for AuditRecord {
    fn from(form: AuditForm) -> Self {
        let AuditForm(at, action, origin, evidence, authority, profile, serial, detail) = form;
        let (origin, evidence) = (origin.map(|origin| origin.0), evidence.map(|facts| facts.0));
        Self { at, action, origin, evidence, authority, profile, serial, detail }
    }
}

/// What became of a request, by origin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum OutcomeForm {
    Serial(Serial),
    Ticket(String),
}

/// A request that waits for approval, by ticket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TicketForm {
    pub(crate) at: Time,
    pub(crate) state: TicketStateForm,
    /// When an operator decided; absent in tickets that were decided before this was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) decided_at: Option<Time>,
    pub(crate) authority: AuthorityName,
    pub(crate) profile: ProfileName,
    pub(crate) names: RequestedNames,
    pub(crate) extended_key_usage: Vec<String>,
    pub(crate) extensions: Vec<(String, serde_bytes::ByteBuf)>,
    #[serde(with = "serde_bytes")]
    pub(crate) public_key: Vec<u8>,
    pub(crate) validity: Option<RequestedValidity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) holder: Option<Holder>,
    pub(crate) facts: EvidenceFacts,
    pub(crate) origin: Origin,
}

/// A waiting request's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TicketStateForm {
    Waiting,
    Issued(Serial),
    Rejected(String),
    Expired,
}

/// A credential, by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CredentialForm {
    pub(crate) endpoint: EndpointName,
    pub(crate) purpose: CredentialPurpose,
    pub(crate) comment: String,
    pub(crate) created: Time,
    pub(crate) created_by: String,
    pub(crate) expires: Option<Time>,
    pub(crate) uses_max: Option<u32>,
    pub(crate) uses: u32,
    pub(crate) waiting: u32,
    pub(crate) accounts: u32,
    pub(crate) disabled: bool,
    pub(crate) accounts_disabled: bool,
    pub(crate) secret: SecretForm,
    /// JSON, as operators write it.
    pub(crate) binding: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) holder: Option<Box<Holder>>,
}

/// What is kept of a credential's secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum SecretForm {
    /// Its digest, by which it is found, and whether an operator chose it.
    Digest { digest: serde_bytes::ByteBuf, chosen: bool },
    /// The MAC key, encrypted.
    Sealed(serde_bytes::ByteBuf),
}

/// A certificate that a device verifier has still to be told of, by serial.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct UntoldDeviceForm {
    /// Since when.
    pub(crate) at: Time,
}

/// A revoked or held certificate, by issuer number and serial. A CRL reads up to a million of them, so that their octets are
/// `version || time || CRLReason || invalidity date, or zeros || expiry`, times as 8 octets of Unix seconds, big endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RevokedForm(
    /// When.
    pub(crate) Time,
    /// Why.
    pub(crate) RevocationReason,
    /// When the key is thought to have been compromised.
    pub(crate) Option<Time>,
    /// The certificate's expiry.
    pub(crate) Time,
);

impl RevokedForm {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self(at, reason, invalidity, not_after) = self;
        let time = |time: Time| time.unix().to_be_bytes();
        let invalidity = time(invalidity.unwrap_or_default());
        [&[VERSION], time(*at).as_slice(), &[reason.code()], &invalidity, &time(*not_after)].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let fields = || {
            let (&VERSION, bytes) = bytes.split_first()? else { return None };
            let (at, bytes) = bytes.split_first_chunk()?;
            let (reason, bytes) = bytes.split_first()?;
            let (invalidity, bytes) = bytes.split_first_chunk()?;
            let time = |octets: &[u8; 8]| Time::from_unix(u64::from_be_bytes(*octets));
            let invalidity = Some(time(invalidity)).filter(|date| *date != Time::default());
            let reason = RevocationReason::from_code(*reason)?;
            Some(Self(time(at), reason, invalidity, time(bytes.try_into().ok()?)))
        };
        fields().ok_or_else(|| StoreFault::Corrupt("the record of a revocation cannot be decoded".to_owned()).into())
    }
}

/// An authority, by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AuthorityForm {
    pub(crate) friendly_name: String,
    pub(crate) kind: AuthorityKindForm,
    pub(crate) parent: Option<AuthorityName>,
    pub(crate) ocsp: bool,
    pub(crate) services: Vec<String>,
    pub(crate) created: Time,
    /// The number of the issuer in use: the current generation.
    pub(crate) issuer: u32,
    pub(crate) deleting: bool,
}

/// What an authority is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AuthorityKindForm {
    Root,
    Issuing,
    ExternalRoot,
}

/// An issuer: one generation of an authority, by number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct IssuerForm {
    pub(crate) authority: AuthorityName,
    /// From 1.
    pub(crate) generation: u32,
    /// The issuer above it, if that is one of ours or an external root; `None` for roots.
    pub(crate) parent: Option<u32>,
    /// `None` for an external root.
    pub(crate) key: Option<KeyRef>,
    /// The key was there before the authority, and outlives it.
    #[serde(default)]
    pub(crate) key_adopted: bool,
    pub(crate) algorithm: Option<KeyAlgorithm>,
    #[serde(with = "serde_bytes")]
    pub(crate) subject: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub(crate) public_key: Vec<u8>,
    /// How long it shall be valid, in seconds.
    pub(crate) validity_s: u64,
    /// `None` while the CSR waits for the external root.
    pub(crate) certificate: Option<serde_bytes::ByteBuf>,
    /// The certificate's serial, if one of our own authorities issued it.
    pub(crate) serial: Option<Serial>,
    /// Certificates between it and the external root, issuer first.
    pub(crate) chain: Vec<serde_bytes::ByteBuf>,
    /// The CSR for the external root.
    pub(crate) csr: Option<serde_bytes::ByteBuf>,
}

/// A service key with its certificate, by role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServiceKeyForm {
    pub(crate) key: ServiceKeyRef,
    pub(crate) algorithm: KeyAlgorithm,
    pub(crate) serial: Serial,
    #[serde(with = "serde_bytes")]
    pub(crate) certificate: Vec<u8>,
    pub(crate) not_before: Time,
    pub(crate) not_after: Time,
}

/// The published CRL, by issuer number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CrlHeadForm {
    pub(crate) number: u64,
    pub(crate) this_update: Time,
    pub(crate) next_update: Time,
    /// The issuer's revocation counter that the CRL covers.
    pub(crate) revision: i64,
    /// How many pieces of TBSCertList lie under this number.
    pub(crate) chunks: u32,
    #[serde(with = "serde_bytes")]
    pub(crate) signature: Vec<u8>,
}

/// One entry of the event feed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EventForm(
    /// When.
    pub(crate) Time,
    /// What.
    pub(crate) EventKindForm,
    /// Which certificate.
    pub(crate) Serial,
    /// The issuer's number.
    pub(crate) u32,
);

/// What happened to a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum EventKindForm {
    Issued,
    Revoked,
    Held,
    Unheld,
}
