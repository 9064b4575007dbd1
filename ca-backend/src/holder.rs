//! Whom certificates are for, as the management service that asked for them keeps it.

use serde::{Deserialize, Serialize};

use crate::credential::Spending;
use crate::engine::Engine;
use crate::error::Error;
use crate::evidence::Evidence;
use crate::inventory::serial_at_end;
use crate::label::EndpointName;
use crate::request::EnrollmentRequest;
use crate::serial::Serial;
use crate::sha256;
use crate::store::{Range, Space};

/// Whom a certificate is for. A management service asks for it, or hands out the challenge with which a device asks for it elsewhere.
/// Whichever endpoint issued it, those who may change certificates of the service's endpoint may change this one. Its renewals are
/// for the same holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The endpoint of the management service.
    pub endpoint: EndpointName,
    /// Who asked there.
    pub requester: String,
    /// The service's name of the kind of certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// The service's name of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The service's name of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// What certificates of a management service are listed by.
#[derive(Clone, Copy, Debug)]
pub enum HolderName<'a> {
    /// The service's name of a device.
    Device(&'a str),
    /// The service's name of a user.
    User(&'a str),
}

impl Holder {
    /// The keys under which a certificate is found.
    pub(crate) fn index_keys(&self, serial: &Serial) -> Vec<Vec<u8>> {
        let device = self.device.as_deref().map(HolderName::Device);
        let user = self.user.as_deref().map(HolderName::User);
        let key = |name| [index_prefix(&self.endpoint, name).as_slice(), serial.as_bytes()].concat();
        device.into_iter().chain(user).map(key).collect()
    }
}

/// A name is of any length and content, so that its digest stands for it.
fn index_prefix(endpoint: &EndpointName, name: HolderName<'_>) -> Vec<u8> {
    let (kind, text) = match name {
        HolderName::Device(text) => (b'd', text),
        HolderName::User(text) => (b'u', text),
    };
    [endpoint.as_str().as_bytes(), &[0, kind], &sha256(text.as_bytes())].concat()
}

impl Engine {
    /// Serials of the certificates that a management service keeps for a device or user, the oldest first, after one of them.
    ///
    /// # Errors
    /// The store's fault.
    pub fn certificates_of(
        &self,
        endpoint: &EndpointName,
        name: HolderName<'_>,
        after: Option<&Serial>,
        limit: usize,
    ) -> Result<Vec<Serial>, Error> {
        let prefix = index_prefix(endpoint, name);
        let mut range = Range::prefix(prefix.clone());
        if let Some(after) = after {
            range.from = [prefix.as_slice(), after.as_bytes(), &[0]].concat();
        }
        let entries = self.inner.store.scan(Space::ByHolder, &range, limit)?;
        entries.iter().map(|entry| serial_at_end(&entry.key)).collect()
    }
}

/// Whom a certificate that is asked for will be for: as the request says, else as its challenge says, else as the certificate that
/// it renews.
pub(crate) fn holder_of(request: &EnrollmentRequest, spending: Option<&Spending>) -> Option<Holder> {
    let renewed = match &request.evidence {
        Evidence::Certificate(certificate) if certificate.renewal => certificate.holder.as_deref(),
        Evidence::Certificate(_)
        | Evidence::Challenges(_)
        | Evidence::Secret(_)
        | Evidence::Device(_)
        | Evidence::KeyAlone(_)
        | Evidence::Operator(_) => None,
    };
    request.holder.as_ref().or_else(|| spending?.holder()).or(renewed).cloned()
}
