//! A wish for a certificate on its way: its names, its key, what the engine says to it, and the form in which it is given.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_backend::{
    AlternativeName, CertificateRequest, DistinguishedName, EnrollmentRequest, Error, Fault, GeneratedKey, Holder,
    IssuedCertificate, Outcome, Reason, Refusal, RequestedExtensions, RequestedNames, RequestedValidity,
};
use const_oid::db::rfc5280::ID_CE_SUBJECT_ALT_NAME;
use der::{Decode, Encode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use x509_cert::Certificate;

use super::{CertificateView, malformed, ours, pem, values, view};
use crate::caller::Caller;
use crate::ledger::Known;
use crate::options::{Configuration, NameSource};
use crate::pkcs12::{Contents, Pkcs12Encryption};
use crate::template::Values;
use crate::web::{Call, check_idempotency_key, digest_of};

/// Characters of a password.
const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 8..=128;
const DAY_S: u64 = 86_400;

/// A wish for a certificate: either with the CSR of a device, or with a key made here.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CertificateWish {
    /// Which kind.
    configuration: String,
    /// What is known of the device. `id` is what certificates are listed by.
    #[serde(default)]
    device: BTreeMap<String, String>,
    /// What is known of the user. `id` is what certificates are listed by.
    #[serde(default)]
    user: BTreeMap<String, String>,
    /// Other values of templates.
    #[serde(default)]
    variables: BTreeMap<String, String>,
    /// A PKCS#10 request, PEM, or DER in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    csr: Option<String>,
    /// Make the key here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pkcs12: Option<Pkcs12Wish>,
    /// The time of validity; as the configuration says if not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    validity_days: Option<u32>,
    /// In place of the header `Idempotency-Key`, for the items of a bulk request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) idempotency_key: Option<String>,
}

/// A wish for a key made here.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pkcs12Wish {
    /// Protects the file, 8 to 128 characters; made and returned once if not stated.
    #[serde(default, skip_serializing)]
    password: Option<String>,
    /// How the file is encrypted.
    #[serde(default)]
    encryption: Pkcs12Encryption,
}

/// A certificate that was issued.
#[derive(Serialize, ToSchema)]
pub(crate) struct Grant {
    #[serde(flatten)]
    certificate: CertificateView,
    /// The certificates above it, PEM, issuer first, without the root.
    chain: Vec<String>,
    /// Key, certificate and chain as PKCS#12, base64. The key is given out here only; it is kept only where the endpoint archives keys,
    /// encrypted for recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pkcs12: Option<String>,
    /// The password of that file, if it was made here.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

/// A request that waits for an operator.
#[derive(Serialize, ToSchema)]
pub(crate) struct Waiting {
    /// Names it for operators.
    ticket: String,
    /// Seconds until the same call, with the same Idempotency-Key, makes sense.
    retry_after_s: u32,
}

/// What came of a wish.
pub(super) enum Granted {
    Certificate(Box<Grant>),
    Waiting(Waiting),
}

/// The key of a certificate to be.
pub(super) enum KeyFrom {
    Request(Box<CertificateRequest>),
    Here(GeneratedKey, Pkcs12Wish),
}

impl KeyFrom {
    pub(super) fn read(
        call: &Call<'_>,
        csr: Option<&str>,
        pkcs12: Option<Pkcs12Wish>,
        configuration: &Configuration,
    ) -> Result<Self, Error> {
        match (csr, pkcs12) {
            (Some(csr), None) => Ok(Self::Request(Box::new(read_csr(csr)?))),
            (None, Some(wish)) => {
                if let Some(password) = &wish.password {
                    check_password(password)?;
                }
                Ok(Self::Here(call.engine.generate_subject_key(configuration.key)?, wish))
            }
            _ => Err(malformed("state either csr or pkcs12").into()),
        }
    }
}

/// A wish that was read.
pub(super) struct Order<'a> {
    pub(super) configuration: &'a Configuration,
    pub(super) names: RequestedNames,
    pub(super) holder: Holder,
    pub(super) key: KeyFrom,
    pub(super) validity_s: Option<u64>,
    pub(super) idempotency_key: Option<String>,
    /// Of the wish, without its password.
    pub(super) digest: [u8; 32],
}

pub(super) fn grant(call: &Call<'_>, caller: &Caller, wish: &CertificateWish) -> Result<Granted, Error> {
    let configuration = call.configuration(&wish.configuration)?;
    let idempotency_key = wish.idempotency_key.as_deref().map(check_idempotency_key).transpose()?;
    let values = wish.values()?;
    let key = KeyFrom::read(call, wish.csr.as_deref(), wish.pkcs12.clone(), configuration)?;
    let names = match (configuration.source, &key) {
        (NameSource::Templates, _) => configuration.names(&values)?,
        (NameSource::Request, KeyFrom::Request(csr)) => names_of(csr)?,
        (NameSource::Request, KeyFrom::Here(..)) => {
            return Err(malformed("this configuration takes its names from a CSR").into());
        }
    };
    let validity_s = match wish.validity_days {
        Some(0) => return Err(malformed("validity_days is at least 1").into()),
        Some(days) => Some(u64::from(days) * DAY_S),
        None => configuration.validity_s,
    };
    let holder = Holder {
        endpoint: call.settings.name.clone(),
        requester: caller.requester(),
        configuration: Some(configuration.name.clone()),
        device: wish.device.get("id").cloned(),
        user: wish.user.get("id").cloned(),
    };
    let order = Order {
        configuration,
        names,
        holder,
        key,
        validity_s,
        idempotency_key,
        digest: digest_of(&CertificateWish { idempotency_key: None, ..wish.clone() })?,
    };
    order.carry_out(call, caller)
}

impl Order<'_> {
    pub(super) fn carry_out(self, call: &Call<'_>, caller: &Caller) -> Result<Granted, Error> {
        let ledger = call.ledger();
        let known = match &self.idempotency_key {
            Some(key) => {
                let key = ledger.call_key(&caller.requester(), key);
                let known = ledger.begin(&key, self.digest)?;
                Some((key, known))
            }
            None => None,
        };
        match known.as_ref().map(|(_, known)| known) {
            Some(Known::Another) => {
                let text = "this idempotency key was used for another request; use a new one for each wish";
                return Err(Refusal::new(Reason::Conflict, text).into());
            }
            Some(Known::Done(serial)) => {
                let certificate = call.engine.issued_certificate(serial)?;
                let certificate = certificate.ok_or_else(|| Fault::Broken(format!("certificate {serial} is gone")))?;
                return self.give(call, certificate);
            }
            Some(Known::First) | None => {}
        }
        // Without a key of its own a call is never the repeat of another.
        let transaction = match &self.idempotency_key {
            Some(key) => format!("key {key}"),
            None => format!("call {}", hex::encode(call.engine.random::<16>())),
        };
        let validity = self.validity_s.map(|seconds| RequestedValidity {
            not_before: None,
            not_after: Some(call.engine.now().plus_s(seconds).minus_s(1)),
        });
        let key = match (&self.key, &call.options.archive) {
            (KeyFrom::Here(key, _), Some(archive)) => archive.archived(call.engine, key)?,
            (KeyFrom::Here(key, _), None) => key.proven().clone(),
            (KeyFrom::Request(csr), _) => csr.key().clone(),
        };
        let outcome = call.engine.enroll(EnrollmentRequest {
            authority: call.settings.authority.clone(),
            profile: self.configuration.profile.clone(),
            names: self.names.clone(),
            extensions: RequestedExtensions::default(),
            key,
            validity,
            evidence: caller.evidence(),
            holder: Some(self.holder.clone()),
            origin: call.origin(&transaction, self.digest)?,
        })?;
        match outcome {
            Outcome::Issued(certificate) => {
                if let Some((key, _)) = &known {
                    ledger.done(key, self.digest, &certificate.serial)?;
                }
                self.give(call, certificate)
            }
            Outcome::Pending { ticket, retry_after_s } => match self.key {
                KeyFrom::Request(_) => Ok(Granted::Waiting(Waiting { ticket: ticket.to_string(), retry_after_s })),
                KeyFrom::Here(..) => Err(Refusal::new(
                    Reason::Conflict,
                    format!("the access rules want an approval, for which a key made here does not wait: send a CSR; request {ticket} can be rejected"),
                )
                .into()),
            },
        }
    }

    /// The certificate in the form that was asked for.
    fn give(&self, call: &Call<'_>, certificate: IssuedCertificate) -> Result<Granted, Error> {
        let mut grant = Grant {
            certificate: view(ours(call, &certificate.serial)?)?,
            chain: certificate.chain.iter().map(|der| pem(der)).collect::<Result<_, _>>()?,
            pkcs12: None,
            password: None,
        };
        if let KeyFrom::Here(key, wish) = &self.key {
            let parsed = Certificate::from_der(&certificate.der).map_err(Fault::from)?;
            let public = parsed.tbs_certificate().subject_public_key_info().to_der().map_err(Fault::from)?;
            if public != key.proven().subject_key().spki_der() {
                let text = format!(
                    "certificate {} was issued by an earlier call with this idempotency key; its key was given out then and is not kept: revoke it and use a new idempotency key",
                    certificate.serial
                );
                return Err(Refusal::new(Reason::Conflict, text).into());
            }
            let made = wish.password.is_none().then(|| hex::encode(call.engine.random::<16>()));
            let password = wish.password.as_deref().or(made.as_deref()).unwrap_or_default();
            let root = certificate.root.as_ref();
            let contents = Contents {
                key: key.pkcs8(),
                certificate: &certificate.der,
                chain: certificate.chain.iter().map(|der| der.as_ref()).chain([root]).collect(),
                friendly_name: &grant.certificate.subject,
                password,
                encryption: wish.encryption,
                randomness: call.engine.random(),
            };
            grant.pkcs12 = Some(STANDARD.encode(contents.seal()?));
            grant.password = made;
        }
        Ok(Granted::Certificate(Box::new(grant)))
    }
}

impl CertificateWish {
    /// Its values by the names that templates use.
    fn values(&self) -> Result<Values, Refusal> {
        values(&self.device, &self.user, &self.variables)
    }
}

fn names_of(csr: &CertificateRequest) -> Result<RequestedNames, Refusal> {
    let named = csr.extensions().iter().find(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME);
    let alternative = match named {
        Some(extension) => AlternativeName::decode_all(extension.extn_value.as_bytes())?,
        None => Vec::new(),
    };
    Ok(RequestedNames { subject: DistinguishedName::from_der(csr.subject_der())?, alternative })
}

fn read_csr(text: &str) -> Result<CertificateRequest, Refusal> {
    if text.trim_start().starts_with("-----") {
        return CertificateRequest::from_pem_or_der(text.trim().as_bytes());
    }
    let compact: String = text.split_whitespace().collect();
    let der = STANDARD.decode(compact).map_err(|_| malformed("the csr is neither PEM nor base64"))?;
    CertificateRequest::open(&der)
}

fn check_password(password: &str) -> Result<(), Refusal> {
    let fits = PASSWORD_CHARS.contains(&password.chars().count());
    // A PKCS#12 password is a BMPString.
    if fits && password.chars().all(|character| !character.is_control() && u32::from(character) < 0x1_0000) {
        return Ok(());
    }
    let (min, max) = (PASSWORD_CHARS.start(), PASSWORD_CHARS.end());
    Err(malformed(format!(
        "a password has {min} to {max} characters of the basic plane, none of them a control character"
    )))
}
