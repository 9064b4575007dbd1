//! Certificates and requests as PEM text or DER octets.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use ca_backend::Fault;
use der::pem::{LineEnding, encode_string};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// How a certificate or request is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Text (RFC 7468).
    #[default]
    Pem,
    /// Octets.
    Der,
}

/// The choice of the encoding of an answer.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EncodingChoice {
    /// `pem` (the default) or `der`.
    #[serde(default)]
    #[param(inline)]
    pub encoding: Encoding,
}

pub(super) const CERTIFICATE: &str = "CERTIFICATE";
pub(super) const ENVELOPE: &str = "CMS";
pub(super) const REQUEST: &str = "CERTIFICATE REQUEST";

pub(super) fn pem(label: &str, der: &[u8]) -> Result<String, Fault> {
    encode_string(label, LineEnding::LF, der).map_err(|why| Fault::Broken(format!("no PEM of a {label}: {why}")))
}

/// A document in the chosen encoding; `der_type` is its media type as DER.
pub(super) fn document(
    choice: &EncodingChoice,
    label: &str,
    der_type: &'static str,
    der: Vec<u8>,
) -> Result<Response, Fault> {
    Ok(match choice.encoding {
        Encoding::Pem => ([(header::CONTENT_TYPE, "application/x-pem-file")], pem(label, &der)?).into_response(),
        Encoding::Der => ([(header::CONTENT_TYPE, der_type)], der).into_response(),
    })
}
