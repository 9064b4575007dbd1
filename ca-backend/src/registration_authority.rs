//! The pair of key and certificate that stands before an authority where clients must encrypt for somebody and the authority's own
//! key cannot or shall not decrypt (SCEP, RFC 8894 section 2.1.2). Always RSA, never an issuing key, apart from the authority's
//! algorithm and key store.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use crate::algorithm::KeyAlgorithm;
use crate::engine::Engine;
use crate::error::{Error, Fault, Reason, Refusal};
use crate::keys::KeyPurpose;
use crate::label::AuthorityName;
use crate::name::DistinguishedName;
use crate::own_certificate::{ServiceKey, wants_renewal};
use crate::record::{self, ServiceKeyForm};
use crate::registry::Issuer;
use crate::request::RequestedNames;
use crate::store::{Batch, Range, Space};

/// A registration authority: who reads what is sent to an authority, and signs what it answers.
#[derive(Clone, Debug)]
pub struct RegistrationAuthority {
    /// Its certificate, DER.
    pub certificate: Bytes,
    /// The certificates above it, DER, issuer first, the root last.
    pub chain: Arc<[Bytes]>,
    /// The issuer's part of status URLs, as [`Engine::crl`] takes it.
    pub issuer_path: String,
    /// Signs and opens.
    pub key: ServiceKey,
}

impl RegistrationAuthority {
    /// SHA-256 of its certificate in hexadecimal, by which clients tell it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(crate::sha256(&self.certificate))
    }
}

/// The profile of its certificates.
const PROFILE: &str = "basic-ra";

const ROLES: &str = "ra/";

/// Where the pair in use lies.
fn role(issuer: u32, algorithm: KeyAlgorithm) -> String {
    format!("{ROLES}{issuer}/{algorithm}")
}

/// Where the pair before it lies, which clients may still encrypt for.
fn role_before(issuer: u32, algorithm: KeyAlgorithm) -> String {
    format!("{}/before", role(issuer, algorithm))
}

/// The stored pairs by role.
pub(crate) fn stored(store: &dyn crate::store::Store) -> Result<Vec<(String, Arc<ServiceKeyForm>)>, Fault> {
    let entries = store.scan(Space::ServiceKey, &Range::prefix(ROLES), usize::MAX)?;
    entries
        .into_iter()
        .map(|entry| {
            let form = record::decode::<ServiceKeyForm>(&entry.value)?;
            Ok((String::from_utf8_lossy(&entry.key).into_owned(), Arc::new(form)))
        })
        .collect()
}

/// The roles of an issuer's pairs.
pub(crate) fn role_prefix(issuer: u32) -> String {
    format!("{ROLES}{issuer}/")
}

impl Engine {
    /// An authority's registration authority with a key of this algorithm: the one in use first, then the one before it while its
    /// certificate is valid. Empty until [`Engine::keep_registration_authority`] has made one.
    ///
    /// # Errors
    /// A refusal if there is no such authority, or it has no certificate.
    pub fn registration_authorities(
        &self,
        authority: &AuthorityName,
        algorithm: KeyAlgorithm,
    ) -> Result<Vec<RegistrationAuthority>, Error> {
        let registry = self.registry();
        let issuer = registry.issuer_of(authority).filter(|issuer| issuer.active.is_some());
        let issuer =
            issuer.ok_or_else(|| Refusal::new(Reason::NotReady, format!("authority {authority} is not active")))?;
        let chain: Arc<[Bytes]> = issuer.active.iter().flat_map(|active| active.chain.iter().cloned()).collect();
        let roles = [role(issuer.number, algorithm), role_before(issuer.number, algorithm)];
        let forms = roles.iter().filter_map(|role| registry.registration_authorities.get(role));
        Ok(forms
            .filter(|form| self.now() <= form.not_after)
            .map(|form| RegistrationAuthority {
                certificate: Bytes::copy_from_slice(&form.certificate),
                chain: chain.clone(),
                issuer_path: issuer.path.clone(),
                key: ServiceKey::new(self.clone(), form.key.clone(), form.algorithm),
            })
            .collect())
    }

    /// Says that an authority needs a registration authority with an RSA key of this algorithm: makes it now if it can be, and has
    /// [`Engine::maintain`] make and renew it from now on.
    ///
    /// # Errors
    /// A refusal if the algorithm is not RSA, or the authority does not issue now; a fault if it cannot be made now. Only the first
    /// is for good.
    pub fn keep_registration_authority(&self, authority: &AuthorityName, algorithm: KeyAlgorithm) -> Result<(), Error> {
        if !algorithm.is_rsa() {
            let text = format!("a registration authority decrypts, which keys for {algorithm} cannot");
            return Err(Refusal::new(Reason::BadKey, text).into());
        }
        let wanted = (authority.clone(), algorithm);
        self.inner.registration_authorities.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted);
        self.renew_registration_authority(authority, algorithm)
    }

    /// The registration authorities that somebody needs.
    pub(crate) fn kept_registration_authorities(&self) -> BTreeSet<(AuthorityName, KeyAlgorithm)> {
        self.inner.registration_authorities.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes or renews a registration authority when its time has come.
    pub(crate) fn renew_registration_authority(
        &self,
        authority: &AuthorityName,
        algorithm: KeyAlgorithm,
    ) -> Result<(), Error> {
        let _one_at_a_time = self.inner.own_certificates.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = self.registry();
        let stands = registry.authorities.get(authority).is_some_and(|authority| !authority.deleting);
        let issuer = registry.issuer_of(authority).filter(|issuer| stands && issuer.may_sign());
        let issuer: &Arc<Issuer> = issuer
            .ok_or_else(|| Refusal::new(Reason::NotReady, format!("authority {authority} does not issue now")))?;
        let role = role(issuer.number, algorithm);
        let current = registry.registration_authorities.get(&role);
        if current.is_some_and(|form| !wants_renewal(form.not_before, form.not_after, self.now())) {
            return Ok(());
        }
        let oldest = match current {
            Some(form) => self.step_back(&role_before(issuer.number, algorithm), form)?,
            None => None,
        };
        let names = RequestedNames {
            subject: DistinguishedName::parse(&format!("cn=Registration authority of {}", issuer.path))?,
            alternative: Vec::new(),
        };
        let form =
            self.make_own_certificate(&role, authority, PROFILE, names, algorithm, KeyPurpose::SignAndDecrypt)?;
        self.put_own_certificate(&role, authority, PROFILE, &form, Batch::new())?;
        self.reload()?;
        if let Some(oldest) = oldest {
            self.inner.keys.destroy(oldest.key.reference()).map_err(Fault::from)?;
        }
        Ok(())
    }

    /// Makes the pair in use the one before, and returns that one's predecessor, whose key may go.
    fn step_back(&self, role_before: &str, current: &ServiceKeyForm) -> Result<Option<Arc<ServiceKeyForm>>, Error> {
        let oldest = self.registry().registration_authorities.get(role_before).cloned();
        // After a fault it may have stepped back already.
        if oldest.as_ref().is_some_and(|oldest| oldest.serial == current.serial) {
            return Ok(None);
        }
        self.commit_or_later(Batch::new().put(Space::ServiceKey, role_before, record::encode(current)?))?;
        Ok(oldest)
    }
}
