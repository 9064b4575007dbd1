//! `POST /v1/certificates`: an operator gets a certificate for a CSR.

use axum::Json as Answer;
use axum::http::StatusCode;
use ca_backend::profile::{RequestExtension, purpose};
use ca_backend::{
    AlternativeName, AuthorityName, CertificateRequest, DistinguishedName, EnrollmentRequest, Outcome, ProfileName,
    Refusal, RequestedExtensions, RequestedNames, RequestedValidity, Serial,
};
use der::oid::db::rfc5280::ID_CE_SUBJECT_ALT_NAME;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Moment;
use super::caller::{Caller, Json};
use super::certificates::{CertificateWithPem, with_pem};
use super::problem::{Failure, Problem, malformed};

/// The wish for a certificate. Names, validity and extensions stand beside the CSR; of the CSR only the key counts, whose
/// possession it shows.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateWish {
    /// Who shall issue.
    #[schema(value_type = String, example = "issuing")]
    pub authority: AuthorityName,
    /// What kind of certificate.
    #[schema(value_type = String, example = "privatessl-tls-server")]
    pub profile: ProfileName,
    /// The CSR, PEM (PKCS#10).
    pub csr: String,
    /// The subject, RFC 4514; none if empty.
    #[serde(default)]
    #[schema(example = "CN=host.example.org")]
    pub subject: String,
    /// The subject alternative names: `dns:host.example.org`, `ip:192.0.2.1`, `email:ann@example.org`, ...
    #[serde(default)]
    pub alternative_names: Vec<String>,
    /// Takes subject and alternative names from the CSR instead; none may be given beside it then.
    #[serde(default)]
    pub use_request_names: bool,
    /// Valid from; now if not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Moment>,
    /// Valid until, inclusive. Neither this nor `validity_days`: as the profile says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Moment>,
    /// Valid for so many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity_days: Option<u32>,
    /// Extended key usages, by name (`server-auth`) or object identifier, where the profile leaves the choice open.
    #[serde(default)]
    pub extended_key_usages: Vec<String>,
    /// Other extensions that the profile lets requests bring.
    #[serde(default)]
    pub extensions: Vec<WantedExtension>,
    /// Tells apart wishes that are otherwise the same: the same wish again gets the first certificate again.
    #[serde(default)]
    pub transaction: String,
}

/// An extension to be put into a certificate.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WantedExtension {
    /// `certificate-policies`, `application-policies`, `smime-capabilities`, `microsoft-template`, `microsoft-template-name`,
    /// `security-identifier`, or the object identifier of one of these.
    #[serde(rename = "type")]
    pub kind: String,
    /// The content of extnValue, DER as hexadecimal digits.
    pub value_hex: String,
}

const DAY_S: u64 = 86_400;

impl CertificateWish {
    fn read(&self, caller: &Caller) -> Result<EnrollmentRequest, Failure> {
        let csr = CertificateRequest::from_pem_or_der(self.csr.as_bytes())?;
        Ok(EnrollmentRequest {
            authority: self.authority.clone(),
            profile: self.profile.clone(),
            names: self.names(&csr)?,
            extensions: self.extensions()?,
            key: csr.key().clone(),
            validity: self.validity(caller)?,
            evidence: caller.evidence(),
            holder: None,
            origin: caller.origin(&self.transaction, self)?,
        })
    }

    fn names(&self, csr: &CertificateRequest) -> Result<RequestedNames, Failure> {
        if !self.use_request_names {
            let alternative =
                self.alternative_names.iter().map(|name| AlternativeName::parse(name)).collect::<Result<_, _>>()?;
            return Ok(RequestedNames { subject: DistinguishedName::parse(&self.subject)?, alternative });
        }
        if !self.subject.is_empty() || !self.alternative_names.is_empty() {
            return Err(malformed(
                "names are given beside the CSR, and those in the CSR shall be used too; choose one",
            )
            .into());
        }
        Ok(names_in(csr)?)
    }

    fn validity(&self, caller: &Caller) -> Result<Option<RequestedValidity>, Failure> {
        let not_before = self.not_before.map(Moment::into);
        let not_after = match (self.not_after, self.validity_days) {
            (Some(_), Some(_)) => return Err(malformed("not_after and validity_days exclude each other").into()),
            (Some(end), None) => Some(end.into()),
            (None, Some(0)) => return Err(malformed("validity_days must be at least 1").into()),
            (None, Some(days)) => {
                let begin = not_before.unwrap_or_else(|| caller.engine().now());
                Some(begin.plus_s(u64::from(days) * DAY_S).minus_s(1))
            }
            (None, None) => None,
        };
        Ok((not_before.is_some() || not_after.is_some()).then_some(RequestedValidity { not_before, not_after }))
    }

    fn extensions(&self) -> Result<RequestedExtensions, Failure> {
        let mut wanted = RequestedExtensions::default();
        for name in &self.extended_key_usages {
            let known = purpose::parse(name).ok_or_else(|| malformed(format!("{name:?} is no extended key usage")))?;
            wanted.extended_key_usage.push(known);
        }
        for extension in &self.extensions {
            let kind = RequestExtension::try_from(extension.kind.clone()).map_err(malformed)?;
            let value = hex::decode(&extension.value_hex)
                .map_err(|_| malformed(format!("the value of {} is not hexadecimal", extension.kind)))?;
            wanted.other.push((kind.oid(), value));
        }
        Ok(wanted)
    }
}

/// The names that a request brings.
pub(crate) fn names_in(csr: &CertificateRequest) -> Result<RequestedNames, Refusal> {
    let named = csr.extensions().iter().find(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME);
    let alternative = match named {
        Some(extension) => AlternativeName::decode_all(extension.extn_value.as_bytes())?,
        None => Vec::new(),
    };
    Ok(RequestedNames { subject: DistinguishedName::from_der(csr.subject_der())?, alternative })
}

/// Issues a certificate.
#[utoipa::path(post, path = "/v1/certificates", tag = "certificates", request_body = CertificateWish,
    responses((status = 201, body = CertificateWithPem), (status = "4XX", body = Problem)))]
pub(super) async fn issue(
    caller: Caller,
    Json(wish): Json<CertificateWish>,
) -> Result<(StatusCode, Answer<CertificateWithPem>), Problem> {
    let issue = move |caller: &Caller| {
        let outcome = caller.engine().enroll(wish.read(caller)?)?;
        with_pem(caller, &issued(outcome)?)
    };
    Ok((StatusCode::CREATED, Answer(caller.ask(issue).await?)))
}

/// The serial that came of an operator's own word.
pub(super) fn issued(outcome: Outcome) -> Result<Serial, Failure> {
    match outcome {
        Outcome::Issued(certificate) => Ok(certificate.serial),
        Outcome::Pending { ticket, retry_after_s } => Err(Problem::new(StatusCode::CONFLICT, "not-ready")
            .detail(format!("the request waits for approval as {ticket}"))
            .hint(format!("approve it with `certgate request approve {ticket}`"))
            .retry_after_s(Some(retry_after_s))
            .into()),
    }
}
