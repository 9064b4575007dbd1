//! Certificates that Intune wants revoked.

use ca_backend::{Error, Fault, Origin, ProtocolName, Reason, Serial};

use super::Intune;
use super::conversation::Service;
use super::wire::{
    Download, DownloadParameters, Downloaded, RevocationError, RevocationResult, RevocationWish, Upload, Uploaded,
};

/// Requests taken at a time; the service gives no more.
const REQUESTS_MAX: usize = 500;

impl Intune {
    /// Fetches what Intune wants revoked, revokes what this endpoint issued, and reports. Returns how many certificates are
    /// revoked now. Call it every few minutes; what was not reported is given again.
    ///
    /// # Errors
    /// A fault if a service or the store cannot be reached.
    pub fn revoke_as_asked(&self) -> Result<usize, Error> {
        let issuer = self.issuer_name()?;
        let wish = Download {
            download_parameters: DownloadParameters { max_requests: REQUESTS_MAX, issuer_name: Some(&issuer) },
        };
        let wishes: Downloaded =
            self.ask(Service::Revocation, "CertificateAuthorityRequests/downloadRevocationRequests", &wish)?;
        let wishes = wishes.value.into_iter().take(REQUESTS_MAX);
        let results: Vec<_> = wishes.filter_map(|wish| self.revoke(wish)).collect();
        if results.is_empty() {
            return Ok(0);
        }
        let revoked = results.iter().filter(|result| result.succeeded).count();
        let uploaded: Uploaded =
            self.ask(Service::Revocation, "CertificateAuthorityRequests/uploadRevocationResults", &Upload { results })?;
        if !uploaded.value {
            tracing::warn!(endpoint = %self.endpoint, "Intune did not take the results of revocations; it will ask again");
        }
        Ok(revoked)
    }

    /// `None` for a wish to which no result could be told.
    fn revoke(&self, wish: RevocationWish) -> Option<RevocationResult> {
        let Some(request_context) = wish.request_context else {
            tracing::warn!(endpoint = %self.endpoint, serial = ?wish.serial_number, "Intune wants a revocation without a context");
            return None;
        };
        let (error_code, error_message) = match self.revoke_one(wish.serial_number.as_deref().unwrap_or_default()) {
            Ok(()) => (RevocationError::None, String::new()),
            Err(failed) => failed,
        };
        Some(RevocationResult {
            request_context,
            succeeded: error_code == RevocationError::None,
            error_code,
            error_message,
        })
    }

    fn revoke_one(&self, serial: &str) -> Result<(), (RevocationError, String)> {
        let invalid = |_| (RevocationError::ParameterDataInvalidError, "this is no serial number".to_owned());
        let serial = Serial::parse(serial.trim()).map_err(invalid)?;
        let unavailable = |error: Error| {
            tracing::error!(endpoint = %self.endpoint, %serial, ?error, "failed to revoke what Intune asked for");
            (RevocationError::ServiceUnavailableException, "try again later".to_owned())
        };
        let protocol = ProtocolName::new("intune").map_err(|refusal| unavailable(refusal.into()))?;
        let origin = Origin {
            protocol,
            endpoint: None,
            transaction: serial.to_string(),
            request_digest: [0; 32],
            peer: None,
            request_id: String::new(),
        };
        let revoked = self.engine.revoke_for_system(&self.endpoint, super::SYSTEM, &serial, origin);
        match revoked {
            Ok(_) => Ok(()),
            Err(Error::Refused(refusal)) if refusal.reason() == Reason::AlreadyRevoked => Ok(()),
            Err(Error::Refused(refusal)) if refusal.reason() == Reason::UnknownCertificate => {
                Err((RevocationError::CertificateNotFoundError, refusal.public().to_owned()))
            }
            Err(Error::Refused(refusal)) => {
                Err((RevocationError::NonRetryableServiceException, refusal.public().to_owned()))
            }
            Err(error @ Error::Fault(_)) => Err(unavailable(error)),
        }
    }

    /// The issuer's name as the success notifications state it: by this Intune knows which certificates are ours.
    fn issuer_name(&self) -> Result<String, Error> {
        let authority = self.authority()?;
        let authorities = self.engine.authorities()?;
        let found = authorities.into_iter().find(|other| other.name == authority);
        found.map(|found| found.subject.to_string()).ok_or_else(|| Fault::TryLater { after_s: 60 }.into())
    }
}
