//! What a webhook is sent, in step-ca's words. `peer`, `renews` and `reason` are ours: step-ca does not tell.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_backend::{Error, Fault, IssuedCertificate, SubjectKey, SubjectKeyKind, Time};
use der::Decode;
use serde::Serialize;
use x509_cert::Certificate;

/// A question, which has the challenge, or a notification, which has the certificate or says why there is none.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Message<'a> {
    pub(super) timestamp: String,
    pub(super) provisioner_name: &'a str,
    #[serde(rename = "scepTransactionID")]
    pub(super) scep_transaction_id: &'a str,
    pub(super) x509_certificate_request: Requested,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scep_challenge: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) x509_certificate: Option<Issued>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scep_error_description: Option<&'a str>,
    /// The class of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    /// The requester's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peer: Option<String>,
    /// The serial of the certificate that is renewed, which the requester showed to have the key of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) renews: Option<String>,
}

/// A certificate request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Requested {
    /// PKCS#10, base64.
    raw: String,
    /// SubjectPublicKeyInfo, base64.
    public_key: String,
    public_key_algorithm: &'static str,
}

impl Requested {
    pub(super) fn new(key: &SubjectKey, csr: &[u8]) -> Self {
        Self {
            raw: STANDARD.encode(csr),
            public_key: STANDARD.encode(key.spki_der()),
            public_key_algorithm: algorithm(key.kind()),
        }
    }
}

/// A certificate that was issued.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Issued {
    /// DER, base64.
    raw: String,
    /// SubjectPublicKeyInfo, base64.
    public_key: String,
    public_key_algorithm: &'static str,
    not_before: String,
    not_after: String,
}

impl Issued {
    pub(super) fn new(key: &SubjectKey, certificate: &IssuedCertificate) -> Result<Self, Error> {
        let parsed = Certificate::from_der(&certificate.der).map_err(Fault::from)?;
        let not_before = parsed.tbs_certificate().validity().not_before.to_unix_duration().as_secs();
        Ok(Self {
            raw: STANDARD.encode(&certificate.der),
            public_key: STANDARD.encode(key.spki_der()),
            public_key_algorithm: algorithm(key.kind()),
            not_before: Time::from_unix(not_before).to_string(),
            not_after: certificate.not_after.to_string(),
        })
    }
}

/// The kind of a key as Go's library calls it, where it knows it.
fn algorithm(kind: SubjectKeyKind) -> &'static str {
    match kind {
        SubjectKeyKind::Rsa { .. } => "RSA",
        SubjectKeyKind::EcP256 | SubjectKeyKind::EcP384 | SubjectKeyKind::EcP521 => "ECDSA",
        SubjectKeyKind::Ed25519 => "Ed25519",
        SubjectKeyKind::MlDsa44 => "ML-DSA-44",
        SubjectKeyKind::MlDsa65 => "ML-DSA-65",
        SubjectKeyKind::MlDsa87 => "ML-DSA-87",
    }
}
