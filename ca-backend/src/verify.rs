//! Evidence that only the engine can give: what a requester presents is ours and still good.

use crate::certificate::{CertificateParts, names_of};
use crate::engine::Engine;
use crate::error::{Error, Fault, Reason, Refusal};
use crate::evidence::{Approval, EvidenceFacts, EvidenceKind, VerifiedCertificate};
use crate::policy::Renewed;
use crate::record::StatusForm;
use crate::serial::Serial;

impl Engine {
    /// Whether a certificate is the stored one byte for byte, unrevoked and unexpired. The caller has shown possession of its key.
    /// It is then evidence of who asks; the access rules say for which names ([`EvidenceKind::Certificate`]).
    ///
    /// # Errors
    /// `Reason::NotAuthenticated` with a private explanation, or the store's fault.
    ///
    /// [`EvidenceKind::Certificate`]: crate::EvidenceKind::Certificate
    pub fn verify_certificate(&self, der: &[u8]) -> Result<VerifiedCertificate, Error> {
        self.own_certificate(der, 0)
    }

    /// As [`Engine::verify_certificate`], for a request that asks for the certificate's successor: SCEP RenewalReq, EST
    /// simplereenroll. The engine then grants the same subject, no alternative name that the certificate does not have, the same
    /// authority and a profile of the same service ([`EvidenceKind::Renewal`]). It may have expired up to `expired_for_max_s`
    /// seconds ago.
    ///
    /// # Errors
    /// As [`Engine::verify_certificate`].
    ///
    /// [`EvidenceKind::Renewal`]: crate::EvidenceKind::Renewal
    pub fn verify_renewal(&self, der: &[u8], expired_for_max_s: u64) -> Result<VerifiedCertificate, Error> {
        Ok(VerifiedCertificate { renewal: true, ..self.own_certificate(der, expired_for_max_s)? })
    }

    fn own_certificate(&self, der: &[u8], expired_for_max_s: u64) -> Result<VerifiedCertificate, Error> {
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
        if now < parts.tbs.not_before || now > form.not_after.plus_s(expired_for_max_s) {
            return Err(refused("not valid now").into());
        }
        Ok(VerifiedCertificate {
            serial,
            renewal: false,
            names: parts.tbs.names()?,
            profile: form.profile,
            holder: form.holder.map(Box::new),
            public_key: parts.tbs.public_key.to_vec(),
            not_after: form.not_after,
        })
    }

    /// What a renewal may ask for: what its certificate, which is read again, has.
    pub(crate) fn renewed(&self, facts: &EvidenceFacts) -> Result<Option<Renewed>, Error> {
        if facts.kind != EvidenceKind::Renewal {
            return Ok(None);
        }
        let broken = || Fault::Broken(format!("{} is no certificate", facts.requester));
        let serial = facts.requester.strip_prefix("certificate:").ok_or_else(broken)?;
        let serial = Serial::parse(serial)?;
        let form = self.certificate_form(&serial)?.filter(|form| form.status == StatusForm::Good).ok_or_else(|| {
            Refusal::new(Reason::NotAuthenticated, "the certificate to be renewed was revoked or removed")
        })?;
        let registry = self.registry();
        let authority = registry.issuers.get(&form.issuer).map(|issuer| issuer.form.authority.clone());
        let service = registry.profile(&form.profile).map(|profile| profile.library.clone());
        Ok(Some(Renewed { names: names_of(&form.der)?, authority, service }))
    }

    /// The word of an operator whom the operators' API has let in.
    #[must_use]
    pub fn operator(&self, name: &str) -> Approval {
        Approval { operator: name.to_owned(), released: None, daemon: false }
    }
}
