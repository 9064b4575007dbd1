//! Who judges requests whose challenge was not handed out here.

use std::sync::Arc;

use ca_backend::DeviceVerifier;

/// The longest challenge that an operator or this daemon makes, in octets. What Intune makes is a signed and encrypted CMS message in
/// base64, of thousands.
const SECRET_OCTETS_MAX: usize = 256;

/// The judges of an endpoint.
#[derive(Clone, Default)]
pub struct Judges {
    /// Intune.
    pub intune: Option<Arc<dyn DeviceVerifier>>,
    /// The operator's webhook.
    pub webhook: Option<Arc<dyn DeviceVerifier>>,
    /// Whether the webhook is asked about renewals.
    pub webhook_renewals: bool,
    /// Whether the webhook is asked about requests without a challenge.
    pub webhook_without_challenge: bool,
}

impl Judges {
    /// Who judges a first request with this challenge, which no credential of the endpoint has. Where there are both judges, what
    /// is as long as Intune's challenges goes to Intune, so that neither sees the secrets of the other.
    pub(crate) fn of_challenge(&self, challenge: &str) -> Option<&Arc<dyn DeviceVerifier>> {
        match (&self.intune, &self.webhook) {
            (Some(intune), Some(webhook)) => Some(if challenge.len() > SECRET_OCTETS_MAX { intune } else { webhook }),
            (intune, webhook) => intune.as_ref().or(webhook.as_ref()),
        }
    }

    /// Who judges a request without a challenge.
    pub(crate) fn of_no_challenge(&self) -> Option<&Arc<dyn DeviceVerifier>> {
        self.webhook.as_ref().filter(|_| self.webhook_without_challenge)
    }

    /// Who judges a renewal beside the certificate that it renews. Devices of Intune renew with a new challenge.
    pub(crate) fn of_renewal(&self, challenge: &str) -> Option<&Arc<dyn DeviceVerifier>> {
        let intune = self.intune.as_ref().filter(|_| challenge.len() > SECRET_OCTETS_MAX);
        intune.or_else(|| self.webhook.as_ref().filter(|_| self.webhook_renewals))
    }
}
