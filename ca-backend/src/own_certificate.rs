//! Keys with certificates that the daemon needs itself: OCSP responders and its TLS certificate.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use crate::algorithm::KeyAlgorithm;
use crate::audit::{Action, AuditRecord};
use crate::clock::Time;
use crate::engine::{Engine, Outcome};
use crate::error::{Error, Fault, KeyFault, Reason, Refusal};
use crate::evidence::{Approval, Evidence};
use crate::extension::RequestedExtensions;
use crate::keys::secret::Secret;
use crate::keys::{DecryptionScheme, KeyLabel, KeyPurpose, ServiceKeyRef};
use crate::label::{AuthorityName, ProfileName, ProtocolName};
use crate::maintain;
use crate::name::{AlternativeName, DistinguishedName};
use crate::record::{self, ServiceKeyForm, StatusForm};
use crate::registry::Issuer;
use crate::request::{EnrollmentRequest, Origin, RequestedNames};
use crate::sha256;
use crate::store::{Batch, Range, Space};
use crate::subject_key::{ProvenKey, SubjectKey};

/// An issuer's OCSP responder.
#[derive(Debug)]
pub(crate) struct Responder {
    pub(crate) form: ServiceKeyForm,
    /// How it names itself in answers.
    pub(crate) key_hash: [u8; 20],
}

/// The daemon's TLS certificate and its key.
#[derive(Clone)]
pub struct TlsIdentity {
    /// The certificate and those above it, DER, the root left out.
    pub chain: Vec<Bytes>,
    /// The first moment of its validity.
    pub not_before: Time,
    /// The last moment of its validity.
    pub not_after: Time,
    /// The names in it.
    pub names: Vec<AlternativeName>,
    /// Signs handshakes.
    pub key: ServiceKey,
}

/// A key that signs on the daemon's own behalf. Never an issuing key.
#[derive(Clone)]
pub struct ServiceKey {
    engine: Engine,
    key: ServiceKeyRef,
    algorithm: KeyAlgorithm,
}

const RESPONDER_PROFILE: &str = "basic-ocsp";
const TLS_ROLE: &str = "tls";
/// Before the serials under which former TLS keys lie until they are destroyed.
pub(crate) const FORMER_TLS_KEYS: &[u8] = b"former/tls/";
/// Former keys destroyed at a time.
const FORMER_KEYS_MAX: usize = 100;
const DAEMON: &str = "certgate";

impl ServiceKey {
    pub(crate) fn new(engine: Engine, key: ServiceKeyRef, algorithm: KeyAlgorithm) -> Self {
        Self { engine, key, algorithm }
    }

    /// The key's algorithm.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Signs; ECDSA signatures are DER.
    ///
    /// # Errors
    /// The key store's fault.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Fault> {
        Ok(self.engine.inner.keys.sign(self.key.reference(), message)?)
    }

    /// Opens a content-encryption key of `octets` octets that was encrypted for this key.
    ///
    /// What does not decrypt, or not to that length, gives a random key instead of an error, so that nobody learns from the answer
    /// whether the padding was right (RFC 3218 section 2.3.2): the content then fails to decrypt like any that was altered.
    ///
    /// # Errors
    /// The key store's fault; it does not depend on the ciphertext.
    pub fn open_content_key(
        &self,
        scheme: DecryptionScheme,
        ciphertext: &[u8],
        octets: usize,
    ) -> Result<Secret, Fault> {
        // Drawn in either case, which takes the same time in either case.
        let mut instead = vec![0; octets];
        self.engine.inner.rng.fill(&mut instead);
        let instead = Secret::new(instead);
        match self.engine.inner.keys.decrypt(&self.key, scheme, ciphertext) {
            Ok(content_key) if content_key.reveal().len() == octets => Ok(content_key),
            Ok(_) | Err(KeyFault::Undecipherable) => Ok(instead),
            Err(fault) => Err(fault.into()),
        }
    }
}

impl std::fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceKey").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Whether a certificate has lived two thirds of its life.
pub(crate) fn wants_renewal(not_before: Time, not_after: Time, now: Time) -> bool {
    now >= not_before.plus_s(not_after.since_s(not_before) / 3 * 2)
}

pub(crate) fn responder_role(issuer: u32) -> String {
    format!("ocsp/{issuer}")
}

impl Engine {
    /// Makes or renews the OCSP responder of an issuer when its time has come.
    pub(crate) fn keep_responder(&self, issuer: &Issuer) -> Result<(), Error> {
        let Some(active) = issuer.active.as_ref().filter(|active| active.ocsp && issuer.may_sign()) else {
            return Ok(());
        };
        let _one_at_a_time = self.inner.own_certificates.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = self.registry();
        let current = registry.responders.get(&issuer.number);
        if current
            .is_some_and(|responder| !wants_renewal(responder.form.not_before, responder.form.not_after, self.now()))
        {
            return Ok(());
        }
        let (_, algorithm) = issuer.signing_key()?;
        let names = RequestedNames {
            subject: DistinguishedName::parse(&format!("cn=OCSP responder of {}", issuer.path))?,
            alternative: Vec::new(),
        };
        let role = responder_role(issuer.number);
        let old = current.map(|responder| responder.form.key.clone());
        let not_after = active.facts.not_after;
        if not_after <= self.now() {
            return Ok(());
        }
        let form = self.make_own_certificate(
            &role,
            &issuer.form.authority,
            RESPONDER_PROFILE,
            names,
            algorithm,
            KeyPurpose::Sign,
        )?;
        self.put_own_certificate(&role, &issuer.form.authority, RESPONDER_PROFILE, &form, Batch::new())?;
        self.reload()?;
        tracing::info!(issuer = issuer.path, "an OCSP responder has a new certificate");
        if let Some(key) = old {
            self.inner.keys.destroy(key.reference()).map_err(Fault::from)?;
        }
        Ok(())
    }

    /// The daemon's TLS certificate for these names, made or renewed by `authority` when its time has come.
    ///
    /// # Errors
    /// A refusal if the authority or the names do not do, or a fault.
    pub fn tls_identity(&self, authority: &AuthorityName, names: &[AlternativeName]) -> Result<TlsIdentity, Error> {
        let usable = |form: &ServiceKeyForm| -> Result<bool, Error> {
            let covered = crate::certificate::names_of(&form.certificate)?.alternative;
            let same_issuer = self.certificate_form(&form.serial)?.is_some_and(|certificate| {
                self.registry().issuer_of(authority).is_some_and(|issuer| issuer.number == certificate.issuer)
                    && certificate.status == StatusForm::Good
            });
            Ok(same_issuer && covered == names && !wants_renewal(form.not_before, form.not_after, self.now()))
        };
        let stored = match self.inner.store.get(Space::ServiceKey, TLS_ROLE.as_bytes())? {
            Some(found) => Some(record::decode::<ServiceKeyForm>(&found.value)?),
            None => None,
        };
        let form = match stored {
            Some(form) if usable(&form)? => form,
            former => {
                let requested = RequestedNames { subject: DistinguishedName::empty(), alternative: names.to_vec() };
                let profile = "privatessl-tls-server";
                let form = self.make_own_certificate(
                    TLS_ROLE,
                    authority,
                    profile,
                    requested,
                    KeyAlgorithm::EcP256,
                    KeyPurpose::Sign,
                )?;
                let mut besides = Batch::new();
                if let Some(former) = former {
                    // The listener still signs with that key: it is noted, and destroyed once this is over.
                    let name = [FORMER_TLS_KEYS, former.serial.as_bytes()].concat();
                    besides = besides.put(Space::ServiceKey, name, record::encode(&former)?);
                }
                self.put_own_certificate(TLS_ROLE, authority, profile, &form, besides)?;
                form
            }
        };
        let issued = self.issued_certificate(&form.serial)?.ok_or(Fault::TryLater { after_s: 5 })?;
        let chain = std::iter::once(Bytes::from(issued.der)).chain(issued.chain).collect();
        let key = ServiceKey { engine: self.clone(), key: form.key, algorithm: form.algorithm };
        Ok(TlsIdentity { chain, not_before: form.not_before, not_after: form.not_after, names: names.to_vec(), key })
    }

    /// Destroys the keys of former TLS certificates. To be called once the listener uses what [`Engine::tls_identity`] gave.
    ///
    /// # Errors
    /// A fault; the next call goes on.
    pub fn forget_former_tls_key(&self) -> Result<(), Error> {
        for former in self.inner.store.scan(Space::ServiceKey, &Range::prefix(FORMER_TLS_KEYS), FORMER_KEYS_MAX)? {
            let form: ServiceKeyForm = record::decode(&former.value)?;
            match self.inner.keys.destroy(form.key.reference()) {
                // Gone already: a fault came between this step and the next one.
                Ok(()) | Err(KeyFault::NotFound(_)) => {}
                Err(fault) => return Err(Fault::from(fault).into()),
            }
            self.commit_or_later(Batch::new().delete(Space::ServiceKey, former.key))?;
        }
        Ok(())
    }

    /// The authority that issued the daemon's present TLS certificate; `None` if there is none, or its authority is gone.
    ///
    /// # Errors
    /// The store's fault.
    pub fn tls_issuer(&self) -> Result<Option<AuthorityName>, Error> {
        let Some(found) = self.inner.store.get(Space::ServiceKey, TLS_ROLE.as_bytes())? else { return Ok(None) };
        let form: ServiceKeyForm = record::decode(&found.value)?;
        let Some(certificate) = self.certificate_form(&form.serial)? else { return Ok(None) };
        Ok(self.registry().issuers.get(&certificate.issuer).map(|issuer| issuer.form.authority.clone()))
    }

    pub(crate) fn make_own_certificate(
        &self,
        role: &str,
        authority: &AuthorityName,
        profile: &str,
        names: RequestedNames,
        algorithm: KeyAlgorithm,
        purpose: KeyPurpose,
    ) -> Result<ServiceKeyForm, Error> {
        let label = KeyLabel(format!("{}-{}", role.replace('/', "-"), hex::encode(self.random::<8>())));
        let registry = self.registry();
        let issuing_key = registry.issuer_of(authority).and_then(|issuer| issuer.form.key.as_ref());
        let key = match issuing_key {
            Some(issuing_key) if profile == RESPONDER_PROFILE => {
                self.inner.keys.generate_for_responder(issuing_key, &label, algorithm)
            }
            Some(_) | None => self.inner.keys.generate_for_service(&label, algorithm, purpose),
        };
        let key = key.map_err(Fault::from)?;
        let public_key = self.inner.keys.public_key(key.reference()).map_err(Fault::from)?;
        let request = own_request(authority, profile, names, &public_key, format!("own {role}"))?;
        let issued = match self.enroll(request) {
            Ok(Outcome::Issued(issued)) => issued,
            Ok(Outcome::Pending { .. }) => {
                return Err(Refusal::new(Reason::NotReady, "the daemon's own certificates wait for nobody").into());
            }
            Err(error) => {
                // The next attempt makes another key; those of all that fail must not pile up.
                maintain::log(
                    "destroy a key that got no certificate",
                    self.inner.keys.destroy(key.reference()).map_err(|fault| Fault::from(fault).into()),
                );
                return Err(error);
            }
        };
        let certificate = crate::certificate::CertificateParts::open(&issued.der)?;
        Ok(ServiceKeyForm {
            key,
            algorithm,
            serial: issued.serial,
            not_before: certificate.tbs.not_before,
            not_after: certificate.tbs.not_after,
            certificate: issued.der.clone(),
        })
    }

    pub(crate) fn put_own_certificate(
        &self,
        role: &str,
        authority: &AuthorityName,
        profile: &str,
        form: &ServiceKeyForm,
        besides: Batch,
    ) -> Result<(), Error> {
        let record = AuditRecord::new(self.now(), Action::ServiceKeyChanged)
            .authority(authority)
            .profile(profile)
            .serial(&form.serial)
            .detail(format!("{role} has the new key {}, {}", form.key.reference(), form.algorithm));
        let batch = besides.put(Space::ServiceKey, role, record::encode(form)?);
        self.commit_or_later(record.in_batch(batch)?)?;
        Ok(())
    }
}

/// A request by the daemon itself, for a key that it holds.
pub(crate) fn own_request(
    authority: &AuthorityName,
    profile: &str,
    names: RequestedNames,
    public_key: &[u8],
    transaction: String,
) -> Result<EnrollmentRequest, Refusal> {
    Ok(EnrollmentRequest {
        authority: authority.clone(),
        profile: ProfileName::new(profile)?,
        names,
        extensions: RequestedExtensions::default(),
        // The key was made in our own key store a moment ago.
        key: ProvenKey::after_verified_signature(SubjectKey::accept(public_key)?),
        validity: None,
        evidence: Evidence::Operator(Approval { operator: DAEMON.to_owned(), released: None, daemon: true }),
        holder: None,
        origin: own_origin(transaction, sha256(public_key))?,
    })
}

/// Where a request by the daemon itself comes from.
pub(crate) fn own_origin(transaction: String, request_digest: [u8; 32]) -> Result<Origin, Refusal> {
    Ok(Origin {
        protocol: ProtocolName::new("internal")?,
        endpoint: None,
        transaction,
        request_digest,
        peer: None,
        request_id: String::new(),
    })
}

/// Reads the responders back.
pub(crate) fn responder(form: ServiceKeyForm) -> Result<Arc<Responder>, Fault> {
    let public_key = crate::certificate::public_key_of(&form.certificate)?;
    let key_hash = crate::ocsp::responder_key_hash(crate::public_key_bits(&public_key)?);
    Ok(Arc::new(Responder { form, key_hash }))
}
