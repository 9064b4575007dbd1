//! Microsoft Intune: its service says whether a device may have the certificate that it asks for over SCEP.
//!
//! The device's challenge is a sealed text that only Intune can read; it is forwarded within the request and never looked at here.
//! What Intune said of a request is worth something for this request alone, so the engine tells it at once what became of it, and
//! takes the certificate back if that cannot be told (`ca_backend::DeviceVerifier`).
//!
//! The services: tokens by client credentials (RFC 6749 section 4.4, RFC 7523), the addresses of services from Graph, SCEP
//! validation (`ScepRequestValidationFEService`), revocation (`PkiConnectorFEService`).

mod code;
mod conversation;
mod credential;
mod options;
mod revocation;
mod wire;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_backend::{
    AuthorityName, DeviceClaim, DeviceVerifier, DistinguishedName, EndpointName, Engine, Error, Fault,
    IssuedCertificate, Refusal,
};
use der::{Decode, Encode};
use endpoint::Outbound;
use serde::Serialize;
use x509_cert::Certificate;

pub use code::ResultCode;
pub use credential::ClientCredential;
pub use options::IntuneOptions;

use conversation::{Memory, Service};
use wire::{Failure, FailureNotification, ResultAnswer, Success, SuccessNotification, Validation, ValidationRequest};

/// What Intune knows this software as.
const CALLER: &str = concat!("certgate/", env!("CARGO_PKG_VERSION"));
/// Characters of the longest description of a failure.
const DESCRIPTION_CHARS_MAX: usize = 255;
/// What the names of devices that Intune vouched for begin with, before a colon.
const SYSTEM: &str = "intune";

/// One tenant's Intune, for one endpoint.
pub struct Intune {
    engine: Engine,
    endpoint: EndpointName,
    options: IntuneOptions,
    credential: ClientCredential,
    outbound: Arc<dyn Outbound>,
    memory: Memory,
}

impl fmt::Debug for Intune {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intune").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Intune {
    /// The tenant that `options` name, for an endpoint. Nothing is asked yet.
    #[must_use]
    pub fn new(
        engine: Engine,
        endpoint: EndpointName,
        options: IntuneOptions,
        credential: ClientCredential,
        outbound: Arc<dyn Outbound>,
    ) -> Self {
        Self { engine, endpoint, options, credential, outbound, memory: Memory::default() }
    }

    /// The endpoint whose devices these are.
    #[must_use]
    pub fn endpoint(&self) -> &EndpointName {
        &self.endpoint
    }

    /// Whether revocation requests are to be fetched, and the time between two fetches in seconds.
    #[must_use]
    pub fn revocation_poll_s(&self) -> Option<u64> {
        self.options.revocation.then_some(self.options.revocation_poll_s)
    }

    fn validation_service(&self, action: &str, body: &impl Serialize) -> Result<(), Error> {
        let answer: ResultAnswer = self.ask(Service::Validation, &format!("ScepActions/{action}"), body)?;
        match ResultCode::read(&answer.code).refusal(&answer.code) {
            None => Ok(()),
            Some(refusal) => {
                tracing::info!(endpoint = %self.endpoint, action, why = refusal.private(), "Intune refused");
                Err(refusal.into())
            }
        }
    }

    fn authority(&self) -> Result<AuthorityName, Fault> {
        let settings = self.engine.endpoint(&self.endpoint);
        settings.map(|settings| settings.authority.clone()).ok_or(Fault::TryLater { after_s: 60 })
    }

    fn tell_issued(&self, claim: &DeviceClaim, certificate: &IssuedCertificate) -> Result<(), Error> {
        let parsed = Certificate::from_der(&certificate.der).map_err(Fault::from)?;
        let issuer = parsed.tbs_certificate().issuer().to_der().map_err(Fault::from)?;
        let issuer = DistinguishedName::from_der(&issuer)?.to_string();
        let authority = self.authority()?.to_string();
        let thumbprint = hex::encode_upper(digest(&SHA1_FOR_LEGACY_USE_ONLY, &certificate.der));
        let serial = certificate.serial.to_string().to_uppercase();
        let not_after = certificate.not_after.to_string();
        self.validation_service(
            "successNotification",
            &Success {
                notification: SuccessNotification {
                    transaction_id: &claim.transaction,
                    certificate_request: &STANDARD.encode(&claim.csr),
                    certificate_thumbprint: &thumbprint,
                    certificate_serial_number: &serial,
                    certificate_expiration_date_utc: &not_after.replace('Z', ".000Z"),
                    // These two come back with a wish for revocation.
                    issuing_certificate_authority: &issuer,
                    ca_configuration: self.endpoint.as_str(),
                    caller_info: CALLER,
                    certificate_authority: &authority,
                },
            },
        )
    }

    fn tell_refused(&self, claim: &DeviceClaim, refusal: &Refusal) -> Result<(), Error> {
        let description: String = refusal.public().chars().take(DESCRIPTION_CHARS_MAX).collect();
        self.validation_service(
            "failureNotification",
            &Failure {
                notification: FailureNotification {
                    transaction_id: &claim.transaction,
                    certificate_request: &STANDARD.encode(&claim.csr),
                    h_result: code::hresult(refusal.reason()),
                    error_description: &description,
                    caller_info: CALLER,
                },
            },
        )
    }
}

impl DeviceVerifier for Intune {
    fn verify(&self, claim: &DeviceClaim) -> Result<String, Error> {
        let request = ValidationRequest {
            transaction_id: &claim.transaction,
            certificate_request: &STANDARD.encode(&claim.csr),
            caller_info: CALLER,
        };
        self.validation_service("validateRequest", &Validation { request })?;
        // Intune does not say which device it is; the exchange is what it vouched for.
        Ok(format!("{SYSTEM}:{}", claim.transaction))
    }

    fn issued(&self, claim: &DeviceClaim, certificate: &IssuedCertificate) -> Result<(), Error> {
        self.tell_issued(claim, certificate)
    }

    fn refused(&self, claim: &DeviceClaim, refusal: &Refusal) {
        // Only the tenant's reports would show it: the device hears of its refusal all the same.
        if let Err(error) = self.tell_refused(claim, refusal) {
            tracing::warn!(endpoint = %self.endpoint, ?error, "Intune was not told of a refusal");
        }
    }
}
