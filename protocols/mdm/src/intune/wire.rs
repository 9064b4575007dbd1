//! The JSON of the services, as far as it matters here. What else they answer is ignored.

use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    pub(super) access_token: String,
    pub(super) expires_in: u64,
}

/// RFC 6749 section 5.2.
#[derive(Deserialize)]
pub(super) struct TokenRefusal {
    pub(super) error: String,
    #[serde(default)]
    pub(super) error_description: String,
}

#[derive(Deserialize)]
pub(super) struct EndpointsAnswer {
    pub(super) value: Vec<ServiceEndpoint>,
}

#[derive(Deserialize)]
pub(super) struct ServiceEndpoint {
    #[serde(rename = "providerName", alias = "serviceName")]
    pub(super) provider_name: Option<String>,
    pub(super) uri: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Validation<'a> {
    pub(super) request: ValidationRequest<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ValidationRequest<'a> {
    pub(super) transaction_id: &'a str,
    pub(super) certificate_request: &'a str,
    pub(super) caller_info: &'a str,
}

#[derive(Serialize)]
pub(super) struct Success<'a> {
    pub(super) notification: SuccessNotification<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SuccessNotification<'a> {
    pub(super) transaction_id: &'a str,
    pub(super) certificate_request: &'a str,
    pub(super) certificate_thumbprint: &'a str,
    pub(super) certificate_serial_number: &'a str,
    pub(super) certificate_expiration_date_utc: &'a str,
    pub(super) issuing_certificate_authority: &'a str,
    pub(super) caller_info: &'a str,
    pub(super) ca_configuration: &'a str,
    pub(super) certificate_authority: &'a str,
}

#[derive(Serialize)]
pub(super) struct Failure<'a> {
    pub(super) notification: FailureNotification<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FailureNotification<'a> {
    pub(super) transaction_id: &'a str,
    pub(super) certificate_request: &'a str,
    pub(super) h_result: i32,
    pub(super) error_description: &'a str,
    pub(super) caller_info: &'a str,
}

#[derive(Deserialize)]
pub(super) struct ResultAnswer {
    pub(super) code: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Download<'a> {
    pub(super) download_parameters: DownloadParameters<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DownloadParameters<'a> {
    pub(super) max_requests: usize,
    pub(super) issuer_name: Option<&'a str>,
}

#[derive(Deserialize)]
pub(super) struct Downloaded {
    pub(super) value: Vec<RevocationWish>,
}

/// One that lacks something must not keep the others from being answered.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RevocationWish {
    pub(super) request_context: Option<String>,
    pub(super) serial_number: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Upload {
    pub(super) results: Vec<RevocationResult>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RevocationResult {
    pub(super) request_context: String,
    pub(super) succeeded: bool,
    pub(super) error_code: RevocationError,
    pub(super) error_message: String,
}

/// Why a certificate was not revoked; sent by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum RevocationError {
    None,
    NonRetryableServiceException,
    ParameterDataInvalidError,
    CertificateNotFoundError,
    ServiceUnavailableException,
}

#[derive(Deserialize)]
pub(super) struct Uploaded {
    pub(super) value: bool,
}
