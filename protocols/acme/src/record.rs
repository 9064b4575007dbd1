//! The stored forms: CBOR behind a version octet. Domain types never go to the store as they are, so that they may change freely.
//!
//! A member that is added later gets a default; a form that changes otherwise gets a new version and keeps its old reader.

use ca_backend::{CredentialId, Fault, ProfileName, RequestedValidity, Serial, StoreFault, Ticket, Time};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::account::{Account, AccountStatus};
use crate::authorization::{Authorization, AuthorizationState};
use crate::caa::CaaCheck;
use crate::challenge::{Challenge, ChallengeState, ChallengeType};
use crate::error::ProblemType;
use crate::id::Id;
use crate::identifier::Identifier;
use crate::jwk::AccountKey;
use crate::jws::Flattened;
use crate::limits::LimitOverrides;
use crate::order::{Order, OrderState};
use crate::validation::{About, Job};

/// The version of every form in this file.
const VERSION: u8 = 1;

/// Encodes a stored form.
pub(crate) fn encode<T: Serialize>(form: &T) -> Result<Vec<u8>, Fault> {
    let mut octets = vec![VERSION];
    ciborium::into_writer(form, &mut octets)
        .map_err(|error| Fault::Broken(format!("an ACME record cannot be encoded: {error}")))?;
    Ok(octets)
}

/// Decodes a stored form.
pub(crate) fn decode<T: DeserializeOwned>(octets: &[u8]) -> Result<T, Fault> {
    match octets.split_first() {
        Some((&VERSION, form)) => {
            ciborium::from_reader(form).map_err(|error| corrupt(format!("an ACME record cannot be decoded: {error}")))
        }
        Some((version, _)) => {
            Err(corrupt(format!("an ACME record has version {version}, this program knows {VERSION}")))
        }
        None => Err(corrupt("an ACME record is empty".to_owned())),
    }
}

fn corrupt(text: String) -> Fault {
    StoreFault::Corrupt(text).into()
}

fn unknown(what: &str, name: &str) -> Fault {
    corrupt(format!("an ACME record holds the unknown {what} {name:?}"))
}

fn id(octets: &[u8]) -> Result<Id, Fault> {
    Id::from_octets(octets).ok_or_else(|| corrupt("an ACME record holds an identifier of a wrong length".to_owned()))
}

fn problem_type(name: &str) -> Result<ProblemType, Fault> {
    ProblemType::named(name).ok_or_else(|| unknown("problem", name))
}

fn challenge_type(name: &str) -> Result<ChallengeType, Fault> {
    ChallengeType::named(name).ok_or_else(|| unknown("challenge", name))
}

fn octets32(octets: &[u8]) -> Result<[u8; 32], Fault> {
    octets.try_into().map_err(|_| corrupt("an ACME record holds a digest of a wrong length".to_owned()))
}

/// The key that nonces are made with, by endpoint.
#[derive(Serialize, Deserialize)]
pub(crate) struct NonceKeyForm {
    pub(crate) key: ByteBuf,
}

/// Who a certificate was issued to, by serial.
#[derive(Serialize, Deserialize)]
pub(crate) struct CertificateOwnerForm {
    pub(crate) account: ByteBuf,
}

/// The account of a key, by SHA-256 of the SubjectPublicKeyInfo.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeyOwnerForm {
    pub(crate) account: ByteBuf,
}

impl KeyOwnerForm {
    pub(crate) fn of(account: &Id) -> Self {
        Self { account: ByteBuf::from(account.octets()) }
    }

    pub(crate) fn account(&self) -> Result<Id, Fault> {
        id(&self.account)
    }
}

impl CertificateOwnerForm {
    pub(crate) fn of(account: &Id) -> Self {
        Self { account: ByteBuf::from(account.octets()) }
    }

    pub(crate) fn account(&self) -> Result<Id, Fault> {
        id(&self.account)
    }
}

/// An account, by identifier.
#[derive(Serialize, Deserialize)]
pub(crate) struct AccountForm {
    status: String,
    spki: ByteBuf,
    thumbprint: ByteBuf,
    contact: Vec<String>,
    terms_agreed: Option<Time>,
    created: Time,
    #[serde(default, skip_serializing_if = "LimitOverrides::is_none")]
    limits: LimitOverrides,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credential: Option<CredentialId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binding: Option<BindingForm>,
}

/// An external account binding: the protected header, the payload and the signature, as they were sent.
#[derive(Serialize, Deserialize)]
struct BindingForm(String, String, String);

impl From<&Flattened> for BindingForm {
    fn from(binding: &Flattened) -> Self {
        Self(binding.protected.clone(), binding.payload.clone(), binding.signature.clone())
    }
}

impl From<BindingForm> for Flattened {
    fn from(BindingForm(protected, payload, signature): BindingForm) -> Self {
        Self { protected, payload, signature }
    }
}

impl From<&Account> for AccountForm {
    fn from(account: &Account) -> Self {
        Self {
            status: account.status.name().to_owned(),
            spki: ByteBuf::from(account.key.spki_der()),
            thumbprint: ByteBuf::from(account.key.thumbprint().as_slice()),
            contact: account.contact.clone(),
            terms_agreed: account.terms_agreed,
            created: account.created,
            limits: account.limits.clone(),
            credential: account.credential.clone(),
            binding: account.binding.as_deref().map(BindingForm::from),
        }
    }
}

impl AccountForm {
    pub(crate) fn account(self, id: &Id) -> Result<Account, Fault> {
        let key = AccountKey::stored(&self.spki, octets32(&self.thumbprint)?);
        let status = AccountStatus::ALL.into_iter().find(|status| status.name() == self.status);
        Ok(Account {
            id: *id,
            status: status.ok_or_else(|| unknown("status", &self.status))?,
            key: key.ok_or_else(|| corrupt("an ACME record holds no key of an account".to_owned()))?,
            contact: self.contact,
            terms_agreed: self.terms_agreed,
            created: self.created,
            limits: self.limits,
            credential: self.credential,
            binding: self.binding.map(|form| Box::new(form.into())),
        })
    }
}

/// An identifier: its type and its value as they stand in JSON.
#[derive(Serialize, Deserialize)]
struct IdentifierForm(String, String);

impl From<&Identifier> for IdentifierForm {
    fn from(identifier: &Identifier) -> Self {
        Self(identifier.kind().to_owned(), identifier.to_string())
    }
}

impl TryFrom<IdentifierForm> for Identifier {
    type Error = Fault;

    fn try_from(form: IdentifierForm) -> Result<Self, Fault> {
        Self::parse(&form.0, &form.1).map_err(|_| unknown("identifier", &form.1))
    }
}

/// An order, by identifier.
#[derive(Serialize, Deserialize)]
pub(crate) struct OrderForm {
    account: ByteBuf,
    created: Time,
    expires: Time,
    identifiers: Vec<IdentifierForm>,
    authorizations: Vec<ByteBuf>,
    profile: ProfileName,
    not_before: Option<Time>,
    not_after: Option<Time>,
    state: OrderStateForm,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OrderStateForm {
    Open,
    Processing {
        csr: ByteBuf,
        ticket: Option<String>,
        #[serde(default, skip_serializing_if = "CaaForm::is_default")]
        caa: CaaForm,
    },
    Valid {
        serial: Serial,
        csr_digest: ByteBuf,
    },
    Invalid {
        problem: String,
        detail: String,
    },
}

/// Where an order stands with CAA records.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CaaForm {
    #[default]
    NotAsked,
    Asked,
    Clear {
        at: Time,
    },
}

impl CaaForm {
    fn is_default(&self) -> bool {
        matches!(self, Self::NotAsked)
    }
}

impl From<CaaCheck> for CaaForm {
    fn from(caa: CaaCheck) -> Self {
        match caa {
            CaaCheck::NotAsked => Self::NotAsked,
            CaaCheck::Asked => Self::Asked,
            CaaCheck::Clear { at } => Self::Clear { at },
        }
    }
}

impl From<CaaForm> for CaaCheck {
    fn from(form: CaaForm) -> Self {
        match form {
            CaaForm::NotAsked => Self::NotAsked,
            CaaForm::Asked => Self::Asked,
            CaaForm::Clear { at } => Self::Clear { at },
        }
    }
}

impl From<&Order> for OrderForm {
    fn from(order: &Order) -> Self {
        Self {
            account: ByteBuf::from(order.account.octets()),
            created: order.created,
            expires: order.expires,
            identifiers: order.identifiers.iter().map(IdentifierForm::from).collect(),
            authorizations: order.authorizations.iter().map(|id| ByteBuf::from(id.octets())).collect(),
            profile: order.profile.clone(),
            not_before: order.validity.not_before,
            not_after: order.validity.not_after,
            replaces: order.replaces.clone(),
            state: match &order.state {
                OrderState::Open => OrderStateForm::Open,
                OrderState::Processing { csr, ticket, caa } => OrderStateForm::Processing {
                    csr: ByteBuf::from(csr.as_slice()),
                    ticket: ticket.as_ref().map(Ticket::to_string),
                    caa: CaaForm::from(*caa),
                },
                OrderState::Valid { serial, csr_digest } => {
                    OrderStateForm::Valid { serial: *serial, csr_digest: ByteBuf::from(csr_digest.as_slice()) }
                }
                OrderState::Invalid { problem, detail } => {
                    OrderStateForm::Invalid { problem: problem.name().to_owned(), detail: detail.clone() }
                }
            },
        }
    }
}

impl OrderForm {
    pub(crate) fn order(self, own_id: &Id) -> Result<Order, Fault> {
        let ticket = |text: String| Ticket::parse(&text).map_err(|_| unknown("ticket", &text));
        Ok(Order {
            id: *own_id,
            account: id(&self.account)?,
            created: self.created,
            expires: self.expires,
            identifiers: self.identifiers.into_iter().map(Identifier::try_from).collect::<Result<_, _>>()?,
            authorizations: self.authorizations.iter().map(|octets| id(octets)).collect::<Result<_, _>>()?,
            profile: self.profile,
            validity: RequestedValidity { not_before: self.not_before, not_after: self.not_after },
            replaces: self.replaces,
            state: match self.state {
                OrderStateForm::Open => OrderState::Open,
                OrderStateForm::Processing { csr, ticket: text, caa } => OrderState::Processing {
                    csr: csr.into_vec(),
                    ticket: text.map(ticket).transpose()?,
                    caa: CaaCheck::from(caa),
                },
                OrderStateForm::Valid { serial, csr_digest } => {
                    OrderState::Valid { serial, csr_digest: octets32(&csr_digest)? }
                }
                OrderStateForm::Invalid { problem, detail } => {
                    OrderState::Invalid { problem: problem_type(&problem)?, detail }
                }
            },
        })
    }
}

/// An authorization, by identifier.
#[derive(Serialize, Deserialize)]
pub(crate) struct AuthorizationForm {
    account: ByteBuf,
    identifier: IdentifierForm,
    expires: Time,
    state: AuthorizationStateForm,
    challenges: Vec<ChallengeForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attested_key: Option<ByteBuf>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    subdomains: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AuthorizationStateForm {
    Pending,
    Valid { method: String, at: Time, detail: String },
    Granted { at: Time },
    Invalid,
    Deactivated,
}

#[derive(Serialize, Deserialize)]
struct ChallengeForm {
    #[serde(rename = "type")]
    kind: String,
    token: String,
    state: ChallengeStateForm,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ChallengeStateForm {
    Pending,
    Processing,
    Valid { at: Time },
    Invalid { problem: String, detail: String },
}

impl From<&Authorization> for AuthorizationForm {
    fn from(authorization: &Authorization) -> Self {
        Self {
            account: ByteBuf::from(authorization.account.octets()),
            identifier: IdentifierForm::from(&authorization.identifier),
            expires: authorization.expires,
            state: match &authorization.state {
                AuthorizationState::Pending => AuthorizationStateForm::Pending,
                AuthorizationState::Valid { method, at, detail } => {
                    AuthorizationStateForm::Valid { method: method.name().to_owned(), at: *at, detail: detail.clone() }
                }
                AuthorizationState::Granted { at } => AuthorizationStateForm::Granted { at: *at },
                AuthorizationState::Invalid => AuthorizationStateForm::Invalid,
                AuthorizationState::Deactivated => AuthorizationStateForm::Deactivated,
            },
            challenges: authorization.challenges.iter().map(ChallengeForm::from).collect(),
            attested_key: authorization.attested_key.map(|key| ByteBuf::from(key.as_slice())),
            subdomains: authorization.subdomains,
        }
    }
}

impl AuthorizationForm {
    pub(crate) fn authorization(self, own_id: &Id) -> Result<Authorization, Fault> {
        Ok(Authorization {
            id: *own_id,
            account: id(&self.account)?,
            identifier: Identifier::try_from(self.identifier)?,
            expires: self.expires,
            state: match self.state {
                AuthorizationStateForm::Pending => AuthorizationState::Pending,
                AuthorizationStateForm::Valid { method, at, detail } => {
                    AuthorizationState::Valid { method: challenge_type(&method)?, at, detail }
                }
                AuthorizationStateForm::Granted { at } => AuthorizationState::Granted { at },
                AuthorizationStateForm::Invalid => AuthorizationState::Invalid,
                AuthorizationStateForm::Deactivated => AuthorizationState::Deactivated,
            },
            challenges: self.challenges.into_iter().map(Challenge::try_from).collect::<Result<_, _>>()?,
            attested_key: self.attested_key.map(|key| octets32(&key)).transpose()?,
            subdomains: self.subdomains,
        })
    }
}

impl From<&Challenge> for ChallengeForm {
    fn from(challenge: &Challenge) -> Self {
        let state = match &challenge.state {
            ChallengeState::Pending => ChallengeStateForm::Pending,
            ChallengeState::Processing => ChallengeStateForm::Processing,
            ChallengeState::Valid { at } => ChallengeStateForm::Valid { at: *at },
            ChallengeState::Invalid { problem, detail } => {
                ChallengeStateForm::Invalid { problem: problem.name().to_owned(), detail: detail.clone() }
            }
        };
        Self { kind: challenge.kind.name().to_owned(), token: challenge.token.clone(), state }
    }
}

impl TryFrom<ChallengeForm> for Challenge {
    type Error = Fault;

    fn try_from(form: ChallengeForm) -> Result<Self, Fault> {
        let state = match form.state {
            ChallengeStateForm::Pending => ChallengeState::Pending,
            ChallengeStateForm::Processing => ChallengeState::Processing,
            ChallengeStateForm::Valid { at } => ChallengeState::Valid { at },
            ChallengeStateForm::Invalid { problem, detail } => {
                ChallengeState::Invalid { problem: problem_type(&problem)?, detail }
            }
        };
        Ok(Self { kind: challenge_type(&form.kind)?, token: form.token, state })
    }
}

/// A validation under way, by due time.
#[derive(Serialize, Deserialize)]
pub(crate) struct JobForm {
    /// The authorization; the order, if `challenge` is no challenge but `caa`.
    authorization: ByteBuf,
    challenge: String,
    due: Time,
    tries: u8,
}

impl From<&Job> for JobForm {
    fn from(job: &Job) -> Self {
        Self {
            authorization: ByteBuf::from(job.about.object().octets()),
            challenge: job.about.name().to_owned(),
            due: job.due,
            tries: job.tries,
        }
    }
}

impl TryFrom<JobForm> for Job {
    type Error = Fault;

    fn try_from(form: JobForm) -> Result<Self, Fault> {
        let object = id(&form.authorization)?;
        let about = match form.challenge.as_str() {
            About::CAA => About::Issuance { order: object },
            name => About::Challenge { authorization: object, kind: challenge_type(name)? },
        };
        Ok(Self { about, due: form.due, tries: form.tries })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        kind: String,
        record: String,
        shows: String,
    }

    const OWN_ID: Id = Id([0xaa; 16]);

    /// Reads a record, writes it again and gives what it says.
    fn round<F, T, E>(octets: &[u8], read: impl FnOnce(F) -> Result<T, E>) -> (String, Vec<u8>)
    where
        F: DeserializeOwned + Serialize + for<'a> From<&'a T>,
        T: Debug,
        E: Debug,
    {
        let value = read(decode(octets).unwrap()).unwrap();
        (format!("{value:?}"), encode(&F::from(&value)).unwrap())
    }

    fn read(kind: &str, octets: &[u8]) -> (String, Vec<u8>) {
        match kind {
            "account" => round(octets, |form: AccountForm| form.account(&OWN_ID)),
            "order" => round(octets, |form: OrderForm| form.order(&OWN_ID)),
            "authorization" => round(octets, |form: AuthorizationForm| form.authorization(&OWN_ID)),
            "job" => round(octets, |form: JobForm| Job::try_from(form)),
            "key-owner" => {
                let id = decode::<KeyOwnerForm>(octets).unwrap().account().unwrap();
                (format!("{id:?}"), encode(&KeyOwnerForm::of(&id)).unwrap())
            }
            "certificate-owner" => {
                let id = decode::<CertificateOwnerForm>(octets).unwrap().account().unwrap();
                (format!("{id:?}"), encode(&CertificateOwnerForm::of(&id)).unwrap())
            }
            "nonce-key" => {
                let form: NonceKeyForm = decode(octets).unwrap();
                (hex::encode(&form.key), encode(&form).unwrap())
            }
            other => panic!("no records of kind {other}"),
        }
    }

    #[test]
    fn every_record_ever_released_is_read_and_the_present_ones_are_written_the_same() {
        let vectors: Vec<Vector> =
            serde_json::from_str(include_str!("../../../testvectors/acme/records.json")).unwrap();
        assert!(vectors.len() > 10);
        for vector in vectors {
            let octets = hex::decode(&vector.record).unwrap();
            let (shows, again) = read(&vector.kind, &octets);
            assert_eq!(shows, vector.shows, "{}", vector.name);
            assert_eq!(hex::encode(again), vector.record, "{}", vector.name);
        }
    }

    #[test]
    fn a_record_of_another_version_is_a_fault_that_says_so() {
        for octets in [&[][..], &[0, 0xa0], &[2, 0xa0], &[1], &[1, 0xff], &[1, 0xa0]] {
            assert!(decode::<JobForm>(octets).is_err(), "{octets:?}");
        }
    }
}
