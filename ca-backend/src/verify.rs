//! Evidence that only the engine can give: what a requester presents is ours and still good.

use crate::certificate::CertificateParts;
use crate::engine::Engine;
use crate::error::{Error, Reason, Refusal};
use crate::evidence::{Approval, VerifiedCertificate};
use crate::record::StatusForm;

impl Engine {
    /// Whether a certificate is the stored one byte for byte, unrevoked and unexpired. The caller has shown possession of its key.
    ///
    /// # Errors
    /// `Reason::NotAuthenticated` with a private explanation, or the store's fault.
    pub fn verify_certificate(&self, der: &[u8]) -> Result<VerifiedCertificate, Error> {
        let refused = |why: &str| {
            Refusal::new(Reason::NotAuthenticated, "the certificate does not prove who you are").with_private(why)
        };
        let parts = CertificateParts::open(der)?;
        let serial = parts.tbs.serial;
        let form = self.certificate_form(&serial)?.ok_or_else(|| refused("not issued here"))?;
        let now = self.now();
        if form.der != der {
            return Err(refused("not the certificate that was issued under its serial").into());
        }
        if form.status != StatusForm::Good {
            return Err(refused("revoked or on hold").into());
        }
        if now < parts.tbs.not_before || now > form.not_after {
            return Err(refused("not valid now").into());
        }
        Ok(VerifiedCertificate { serial, requester: format!("certificate:{serial}") })
    }

    /// The word of an operator whom the operators' API has let in.
    #[must_use]
    pub fn operator(&self, name: &str) -> Approval {
        Approval { operator: name.to_owned(), released: None, daemon: false }
    }
}
