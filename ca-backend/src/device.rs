//! Devices that a management system vouches for, such as Intune.
//!
//! A protocol that carries device enrollments (SCEP) is given a [`DeviceVerifier`] when it is mounted. It calls
//! [`Engine::verify_device`] with a [`DeviceClaim`] before it enrolls, and hands the [`VerifiedDevice`] to [`Engine::enroll`] as
//! [`Evidence::Device`](crate::Evidence::Device). The engine itself then tells the verifier what became of it: the certificate,
//! before anybody else gets it, or the refusal. If the verifier cannot be told, the certificate is revoked and not released; nor is
//! it if the daemon ends in between and the device does not come again with the same request within the repeat window. Access
//! rules with `approval` do not cover this evidence, since the verifier's word is about now.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::audit::{Action, AuditRecord};
use crate::engine::{Engine, IssuedCertificate, Outcome};
use crate::error::{Error, Fault, Reason, Refusal};
use crate::evidence::{Approval, Evidence};
use crate::label::{EndpointName, ProtocolName};
use crate::record::{self, UntoldDeviceForm};
use crate::request::{EnrollmentRequest, Origin, RevocationRequest, StatusChange};
use crate::revoke::Revocation;
use crate::serial::Serial;
use crate::status::RevocationReason;
use crate::store::{Batch, Range, Space};

/// What a device asks, as its management system is to judge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClaim {
    /// Where it asks.
    pub endpoint: EndpointName,
    /// The protocol's name of the exchange.
    pub transaction: String,
    /// The certificate request, DER, with the challengePassword inside.
    pub csr: Vec<u8>,
    /// The device's address.
    pub peer: Option<IpAddr>,
    /// The certificate that the request proves to renew; none if the device has none yet.
    pub renews: Option<Serial>,
}

/// A management system that knows which device may have which certificate. It may wait on another host, within its own deadline.
pub trait DeviceVerifier: Send + Sync {
    /// Judges a claim. The text names the device in access rules and records as `device:TEXT`; it is the same for a repeat.
    ///
    /// # Errors
    /// A refusal, or `Fault::TryLater` if the system cannot be asked now.
    fn verify(&self, claim: &DeviceClaim) -> Result<String, Error>;

    /// Learns which certificate was issued, before the device gets it. May be told more than once of the same certificate.
    ///
    /// # Errors
    /// Any error: the certificate is then revoked, and the device gets what the error says.
    fn issued(&self, claim: &DeviceClaim, certificate: &IssuedCertificate) -> Result<(), Error>;

    /// Learns that a claim which it had accepted was refused.
    fn refused(&self, claim: &DeviceClaim, refusal: &Refusal);
}

/// A device whose claim its verifier accepted: only the engine makes one.
#[derive(Clone)]
pub struct VerifiedDevice {
    verifier: Arc<dyn DeviceVerifier>,
    claim: Arc<DeviceClaim>,
    device: String,
}

impl VerifiedDevice {
    /// What the verifier calls it.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    pub(crate) fn requester(&self) -> String {
        format!("device:{}", self.device)
    }
}

impl fmt::Debug for VerifiedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedDevice")
            .field("device", &self.device)
            .field("claim", &self.claim)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Asks a verifier about a device. A claim without authority counts as a wrong secret of its peer, who may not try many.
    ///
    /// # Errors
    /// The verifier's refusal, or that of a peer who tried too often, which is in the audit log already; or the verifier's fault.
    pub fn verify_device(
        &self,
        verifier: &Arc<dyn DeviceVerifier>,
        claim: DeviceClaim,
        origin: &Origin,
    ) -> Result<VerifiedDevice, Error> {
        if let Err(refusal) = self.may_guess(&claim.endpoint, origin) {
            self.refuse(origin, &refusal)?;
            return Err(refusal.into());
        }
        match verifier.verify(&claim) {
            Ok(device) => Ok(VerifiedDevice { verifier: verifier.clone(), claim: Arc::new(claim), device }),
            Err(Error::Refused(refusal)) => {
                if refusal.reason() == Reason::NotAuthenticated {
                    self.inner.attempts.failed(&claim.endpoint, origin.peer, self.now());
                }
                self.refuse(origin, &refusal)?;
                Err(refusal.into())
            }
            Err(fault) => Err(fault),
        }
    }

    /// Revokes what a device got at an endpoint, on the word of the system that vouched for it: the devices of a system are those
    /// whose names begin with it and a colon. A system has no say in anything else that the authority issued.
    ///
    /// # Errors
    /// `UnknownCertificate` if no device of this system got such a certificate at the endpoint, or what [`Engine::revoke`] says.
    pub fn revoke_for_system(
        &self,
        endpoint: &EndpointName,
        system: &str,
        serial: &Serial,
        origin: Origin,
    ) -> Result<Revocation, Error> {
        let devices = format!("device:{system}:");
        let found = self.find_certificate(serial)?;
        if !found
            .is_some_and(|found| found.endpoint.as_ref() == Some(endpoint) && found.requester.starts_with(&devices))
        {
            return Err(Refusal::new(Reason::UnknownCertificate, "no such certificate was issued here").into());
        }
        self.revoke(&RevocationRequest {
            serial: *serial,
            change: StatusChange::Revoke { reason: RevocationReason::CessationOfOperation, invalidity: None },
            comment: format!("asked for by {system}"),
            evidence: Evidence::Operator(self.operator(&format!("{system} of {endpoint}"))),
            origin,
        })
    }

    /// Tells the verifier behind a request what became of it. A certificate that it cannot be told of is revoked.
    pub(crate) fn tell_verifier(
        &self,
        request: &EnrollmentRequest,
        outcome: Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        let Evidence::Device(device) = &request.evidence else { return outcome };
        let certificate = match &outcome {
            Err(Error::Refused(refusal)) => {
                device.verifier.refused(&device.claim, refusal);
                return outcome;
            }
            Err(Error::Fault(_)) | Ok(Outcome::Pending { .. }) => return outcome,
            Ok(Outcome::Issued(certificate)) => certificate,
        };
        if self.inner.store.get(Space::UntoldDevice, certificate.serial.as_bytes())?.is_none() {
            return outcome;
        }
        match device.verifier.issued(&device.claim, certificate) {
            Ok(()) => {
                let told = Batch::new().delete(Space::UntoldDevice, certificate.serial.as_bytes());
                self.commit_or_later(told)?;
                outcome
            }
            Err(error) => {
                tracing::warn!(serial = %certificate.serial, ?error, "failed to tell the device verifier of a certificate");
                self.take_back(&certificate.serial, "the device verifier could not be told")?;
                // The next attempt begins anew.
                let now = self.now();
                let window_s = self.inner.settings.repeat_window_s;
                let forgotten = [now, now.minus_s(window_s)].into_iter().fold(Batch::new(), |batch, at| {
                    batch.delete(Space::Origin, self.origin_key(&request.origin, &device.requester(), at))
                });
                self.commit_or_later(forgotten)?;
                Err(error)
            }
        }
    }

    /// Marks a certificate that a verifier has to be told of before it is released.
    pub(crate) fn mark_untold(&self, batch: Batch, serial: &Serial) -> Result<Batch, Fault> {
        let form = UntoldDeviceForm { at: self.now() };
        Ok(batch.put(Space::UntoldDevice, serial.as_bytes(), record::encode(&form)?))
    }

    /// Revokes certificates of which no verifier was told, and that nobody asked for again in time.
    pub(crate) fn take_back_untold(&self) -> Result<(), Error> {
        const STEP: usize = 500;
        for entry in self.inner.store.scan(Space::UntoldDevice, &Range::default(), STEP)? {
            let form: UntoldDeviceForm = record::decode(&entry.value)?;
            if self.now() < form.at.plus_s(self.inner.settings.repeat_window_s) {
                // Serials sort by time: all that follow are younger.
                break;
            }
            self.take_back(&Serial::from_magnitude(&entry.key)?, "no device verifier was told")?;
        }
        Ok(())
    }

    fn take_back(&self, serial: &Serial, why: &str) -> Result<(), Error> {
        let revoked = self.revoke(&RevocationRequest {
            serial: *serial,
            change: StatusChange::Revoke { reason: RevocationReason::CessationOfOperation, invalidity: None },
            comment: why.to_owned(),
            evidence: Evidence::Operator(Approval { operator: "certgate".to_owned(), released: None, daemon: true }),
            origin: Origin {
                protocol: ProtocolName::new("internal")?,
                endpoint: None,
                transaction: format!("take back {serial}"),
                request_digest: [0; 32],
                peer: None,
                request_id: String::new(),
            },
        });
        match revoked {
            Ok(_) => {}
            Err(Error::Refused(refusal)) if refusal.reason() == Reason::AlreadyRevoked => {}
            Err(error) => return Err(error),
        }
        let told = Batch::new().delete(Space::UntoldDevice, serial.as_bytes());
        let record =
            AuditRecord::new(self.now(), Action::Refused).serial(serial).detail(format!("not released: {why}"));
        self.commit_or_later(record.in_batch(told)?)?;
        Ok(())
    }
}
