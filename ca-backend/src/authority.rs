//! Root, issuing and external authorities and their life cycle.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use der::{Decode, pem};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::algorithm::KeyAlgorithm;
use crate::audit::{Action, AuditRecord};
use crate::certificate::CertificateParts;
use crate::clock::Time;
use crate::engine::{Engine, Outcome};
use crate::error::{Error, Fault, KeyFault, Reason, Refusal};
use crate::evidence::Evidence;
use crate::inventory;
use crate::issue::Prepared;
use crate::keys::{KeyLabel, KeyRef};
use crate::label::AuthorityName;
use crate::maintain;
use crate::name::DistinguishedName;
use crate::own_certificate::{own_origin, own_request};
use crate::profile::Profile;
use crate::record::{self, AuthorityForm, AuthorityKindForm, CertificateForm, InFlightForm, IssuerForm};
use crate::registry::{Issuer, Registry};
use crate::request::{RequestedNames, RevocationRequest, StatusChange};
use crate::serial::Serial;
use crate::sha256;
use crate::status::RevocationReason;
use crate::store::{Batch, Key, Range, Space};
use crate::subject_key::SubjectKey;
use crate::tbs::{self, IssuerFacts};

/// The wish for an authority.
#[derive(Clone, Debug)]
pub struct NewAuthority {
    /// Its name in URLs and commands.
    pub name: AuthorityName,
    /// Its name for people.
    pub friendly_name: String,
    /// Its distinguished name.
    pub subject: DistinguishedName,
    /// The algorithm of its key.
    pub algorithm: KeyAlgorithm,
    /// Where its key shall be: a key store (by name, or `pkcs11:token=a`), or a key in it (`pkcs11:token=a;object=b`), which is taken if
    /// it is there and made if not. In the store for authorities' keys if not stated.
    pub key: Option<String>,
    /// How long it shall be valid in seconds; 20 years for a root and 10 for others if not stated.
    pub validity_s: Option<u64>,
    /// The authority above it; none for a root. Below an external root it waits for its certificate.
    pub parent: Option<AuthorityName>,
    /// Whether it has an OCSP responder.
    pub ocsp: bool,
    /// The profile sets that it offers: `privatessl`, `scep`, ...
    pub services: Vec<String>,
}

/// What may be changed about an authority later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthorityChange {
    /// A new name for people.
    pub friendly_name: Option<String>,
    /// Another set of services.
    pub services: Option<Vec<String>>,
}

/// What an authority is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorityKind {
    /// Signs its own certificate.
    Root,
    /// Has its certificate from an authority above it.
    Issuing,
    /// A root whose key is elsewhere.
    ExternalRoot,
}

/// Where an authority stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorityState {
    /// Its key is made; its certificate is on the way.
    Provisioning,
    /// Its request waits for the external root's certificate.
    CsrReady,
    /// It can issue.
    Active,
    /// Its certificate was revoked or held; it issues nothing.
    Revoked,
    /// Its certificate has expired; it issues nothing.
    Expired,
    /// It and its certificates are being removed.
    Deleting,
}

/// An authority, as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct Authority {
    /// Its name in URLs and commands.
    pub name: AuthorityName,
    /// Its name for people.
    pub friendly_name: String,
    /// What it is.
    pub kind: AuthorityKind,
    /// Where it stands.
    pub state: AuthorityState,
    /// The authority above it.
    pub parent: Option<AuthorityName>,
    /// The distinguished name, RFC 4514.
    pub subject: String,
    /// The algorithm of its key; absent for an external root.
    pub algorithm: Option<KeyAlgorithm>,
    /// How often its key was made: 1, until it is rolled over.
    pub generation: u32,
    /// The first moment of its validity, once active.
    pub not_before: Option<Time>,
    /// The last moment of its validity, once active.
    pub not_after: Option<Time>,
    /// Whether it has an OCSP responder.
    pub ocsp: bool,
    /// The profile sets that it offers.
    pub services: Vec<String>,
    /// Where its key is.
    pub key: Option<String>,
    /// Where its CRL is, once active.
    pub crl_url: Option<String>,
    /// Where its OCSP responder is.
    pub ocsp_url: Option<String>,
    /// The certificate, DER, once active.
    #[serde(skip)]
    pub certificate: Option<Vec<u8>>,
}

const DAY_S: u64 = 86_400;
const ROOT_VALIDITY_S: u64 = 20 * 365 * DAY_S;
const ISSUING_VALIDITY_S: u64 = 10 * 365 * DAY_S;
/// The counter that holds the greatest issuer number ever given.
const LAST_ISSUER: &[u8] = b"issuers/last";
/// Certificates removed in one step of a deletion.
const DELETION_STEP: usize = 500;
/// Steps that look through certificates before other changes of the PKI get their turn.
const DELETION_STEPS_MAX: usize = 20;
/// The most octets an uploaded chain may have.
const CHAIN_OCTETS_MAX: usize = 1 << 20;

impl Engine {
    /// Makes a root, or an issuing authority below one. Below an external root it is then *csr-ready*, else *active*.
    ///
    /// # Errors
    /// A refusal if the name is taken or the wish does not fit the parent, or a fault; after a fault an authority that is
    /// *provisioning* becomes active by itself.
    pub fn create_authority(&self, new: &NewAuthority, operator: &str) -> Result<Authority, Error> {
        let _one_at_a_time = self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = self.registry();
        if registry.authorities.contains_key(&new.name) {
            return Err(Refusal::new(Reason::Conflict, format!("there is an authority {} already", new.name)).into());
        }
        if new.subject.is_empty() {
            return Err(Refusal::new(Reason::NameNotAllowed, "an authority needs a distinguished name").into());
        }
        new.subject.validate()?;
        if registry.issuers.values().any(|issuer| issuer.subject == new.subject) {
            return Err(
                Refusal::new(Reason::Conflict, format!("another authority has the name {}", new.subject)).into()
            );
        }
        check_services(&registry, &new.services)?;
        let parent = match &new.parent {
            None => None,
            Some(name) => Some(usable_parent(&registry, name)?),
        };
        let kind = if parent.is_some() { AuthorityKindForm::Issuing } else { AuthorityKindForm::Root };
        let default_s = if parent.is_some() { ISSUING_VALIDITY_S } else { ROOT_VALIDITY_S };

        let label = KeyLabel(format!("{}-{}", new.name, hex::encode(self.random::<8>())));
        let wanted = new.key.clone().map(KeyRef);
        let made = self.inner.keys.issuing_key(wanted.as_ref(), &label, new.algorithm).map_err(|fault| {
            // What the operator asked for cannot be: theirs to change.
            if let (KeyFault::Unsupported(why), true) = (&fault, wanted.is_some()) {
                return Error::from(Refusal::new(Reason::BadKey, why.clone()));
            }
            Fault::from(fault).into()
        })?;
        if registry.issuers.values().any(|issuer| issuer.form.key.as_ref() == Some(&made.key)) {
            return Err(Refusal::new(Reason::Conflict, format!("another authority has the key {}", made.key)).into());
        }
        let public_key = self.inner.keys.public_key(&made.key).map_err(Fault::from)?;
        let number = self.next_issuer(&registry)?;
        let mut issuer = IssuerForm {
            authority: new.name.clone(),
            generation: 1,
            parent: parent.as_ref().map(|parent| parent.number),
            key: Some(made.key),
            key_adopted: made.adopted,
            algorithm: Some(new.algorithm),
            subject: new.subject.as_der().to_vec(),
            public_key,
            validity_s: new.validity_s.unwrap_or(default_s),
            certificate: None,
            serial: None,
            chain: Vec::new(),
            csr: None,
        };
        let external = parent.as_ref().is_some_and(|parent| parent.form.key.is_none());
        if external {
            issuer.csr = Some(ByteBuf::from(self.certification_request(number, &issuer)?));
        }
        let authority = AuthorityForm {
            friendly_name: new.friendly_name.clone(),
            kind,
            parent: new.parent.clone(),
            ocsp: new.ocsp,
            services: new.services.clone(),
            created: self.now(),
            issuer: number,
            deleting: false,
        };
        self.store_authority(&new.name, &authority, number, &issuer, operator, "created")?;
        if !external {
            self.provision(number).or_else(|error| self.withdraw(&new.name, number, error))?;
        }
        self.authority(&new.name)
    }

    /// An authority whose certificate is refused would wait for it forever: it goes away with its key. After a fault it stays,
    /// and becomes active later.
    fn withdraw(&self, name: &AuthorityName, number: u32, error: Error) -> Result<(), Error> {
        if let (Error::Refused(_), Some(issuer)) = (&error, self.registry().issuers.get(&number)) {
            self.delete_records(name, std::slice::from_ref(issuer))?;
        }
        Err(error)
    }

    fn certification_request(&self, number: u32, form: &IssuerForm) -> Result<Vec<u8>, Error> {
        let subordinate = built_in("basic-ca-subord")?;
        let issuer = Issuer::without_certificate(number, form)?;
        let key = SubjectKey::accept(&form.public_key)?;
        let info = tbs::certification_request_info(&issuer.subject, &key, subordinate)?;
        Ok(Prepared::request(issuer.into(), info).sign(&self.inner.keys)?.der.to_vec())
    }

    /// A number that no issuer ever had: CRLs, counters and events of a deleted one must not pass to its successor.
    fn next_issuer(&self, registry: &Registry) -> Result<u32, Error> {
        let used = u32::try_from(self.counter(LAST_ISSUER)?).unwrap_or(u32::MAX);
        let last = registry.issuers.keys().next_back().copied().unwrap_or_default().max(used);
        Ok(last.checked_add(1).ok_or_else(|| Fault::Broken("there are no issuer numbers left".to_owned()))?)
    }

    fn store_authority(
        &self,
        name: &AuthorityName,
        authority: &AuthorityForm,
        number: u32,
        issuer: &IssuerForm,
        operator: &str,
        what: &str,
    ) -> Result<(), Error> {
        let batch = Batch::new()
            .expect_absent(Space::Authority, name.as_str())
            .expect_absent(Space::Issuer, number.to_be_bytes())
            .put(Space::Counter, LAST_ISSUER, i64::from(number).to_be_bytes())
            .put(Space::Authority, name.as_str(), record::encode(authority)?)
            .put(Space::Issuer, number.to_be_bytes(), record::encode(issuer)?);
        self.commit_authority_change(name, operator, what, batch)?;
        self.reload()
    }

    /// Commits a change of an authority with its audit record.
    fn commit_authority_change(
        &self,
        name: &AuthorityName,
        operator: &str,
        what: &str,
        batch: Batch,
    ) -> Result<(), Error> {
        self.commit_or_later(self.authority_changed(name, operator, what).in_batch(batch)?)?;
        tracing::info!(authority = %name, operator, change = what, "changed an authority");
        Ok(())
    }

    fn authority_changed(&self, name: &AuthorityName, operator: &str, what: &str) -> AuditRecord {
        AuditRecord::new(self.now(), Action::AuthorityChanged).authority(name).detail(format!("{what} by {operator}"))
    }

    /// Gets the certificate of an issuer below one of our own, or its own signature for a root. May be repeated.
    pub(crate) fn provision(&self, number: u32) -> Result<(), Error> {
        let registry = self.registry();
        let issuer =
            registry.issuers.get(&number).ok_or_else(|| Fault::Broken(format!("there is no issuer {number}")))?;
        let (profile, signer) = match issuer.form.parent.and_then(|parent| registry.issuers.get(&parent)) {
            Some(parent) => ("basic-ca-subord", &parent.form.authority),
            None => ("basic-ca-root", &issuer.form.authority),
        };
        let names = RequestedNames { subject: issuer.subject.clone(), alternative: Vec::new() };
        let transaction = format!("authority {}", issuer.path);
        let mut request = own_request(signer, profile, names, &issuer.form.public_key, transaction)?;
        let begin = self.now().minus_s(self.inner.settings.backdate_s);
        let parent_end =
            registry.issuer_of(signer).and_then(|signer| signer.active.as_ref()).map(|active| active.facts.not_after);
        let wish = begin.plus_s(issuer.form.validity_s.saturating_sub(1));
        request.validity = Some(crate::request::RequestedValidity {
            not_before: None,
            // A child never outlives its parent.
            not_after: Some(parent_end.map_or(wish, |end| end.min(wish))),
        });
        let Outcome::Issued(issued) = self.enroll(request)? else {
            return Err(Fault::Broken("an authority's own certificate waits for nobody".to_owned()).into());
        };
        let form = IssuerForm {
            certificate: Some(ByteBuf::from(issued.der)),
            serial: Some(issued.serial),
            ..issuer.form.clone()
        };
        self.activate(number, &form, "certgate", "active")
    }

    fn activate(&self, number: u32, form: &IssuerForm, operator: &str, what: &str) -> Result<(), Error> {
        let batch = Batch::new().put(Space::Issuer, number.to_be_bytes(), record::encode(form)?);
        self.commit_authority_change(&form.authority, operator, what, batch)?;
        self.reload()?;
        // Its responder and CRL are there as soon as it is. The rest of what is due waits for the timed work: some of it takes the
        // lock on changes, which is held here.
        if let Some(issuer) = self.registry().issuers.get(&number) {
            maintain::log("make an OCSP responder", self.keep_responder(issuer));
        }
        self.publish_due_crls();
        Ok(())
    }

    /// Imports the certificate of a root whose key is elsewhere, PEM or DER.
    ///
    /// # Errors
    /// A refusal if the name is taken or the certificate is not a valid self-signed authority's, or a fault.
    pub fn import_external_root(
        &self,
        name: &AuthorityName,
        friendly_name: &str,
        certificate: &[u8],
        operator: &str,
    ) -> Result<Authority, Error> {
        let _one_at_a_time = self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = self.registry();
        if registry.authorities.contains_key(name) {
            return Err(Refusal::new(Reason::Conflict, format!("there is an authority {name} already")).into());
        }
        let certificates = certificates_in(certificate)?;
        let [der] = certificates.as_slice() else {
            return Err(Refusal::new(Reason::Malformed, "exactly one certificate is expected").into());
        };
        let parts = CertificateParts::open(der)?;
        if parts.tbs.issuer != parts.tbs.subject {
            return Err(Refusal::new(
                Reason::Unsupported,
                "the certificate is not self-signed; import the root above it",
            )
            .into());
        }
        parts.verify(parts.tbs.public_key)?;
        IssuerFacts::from_chain(&[der.as_slice()], KeyAlgorithm::of_public_key(parts.tbs.public_key)?)?;
        valid_now(&parts, self.now())?;
        if registry.issuers.values().any(|issuer| issuer.form.subject == parts.tbs.subject) {
            return Err(Refusal::new(Reason::Conflict, "another authority has the same name").into());
        }
        let number = self.next_issuer(&registry)?;
        let issuer = IssuerForm {
            authority: name.clone(),
            generation: 1,
            parent: None,
            key: None,
            key_adopted: false,
            algorithm: None,
            subject: parts.tbs.subject.to_vec(),
            public_key: parts.tbs.public_key.to_vec(),
            validity_s: parts.tbs.not_after.since_s(parts.tbs.not_before),
            certificate: Some(ByteBuf::from(der.clone())),
            serial: None,
            chain: Vec::new(),
            csr: None,
        };
        let authority = AuthorityForm {
            friendly_name: friendly_name.to_owned(),
            kind: AuthorityKindForm::ExternalRoot,
            parent: None,
            ocsp: false,
            services: Vec::new(),
            created: self.now(),
            issuer: number,
            deleting: false,
        };
        self.store_authority(name, &authority, number, &issuer, operator, "imported")?;
        self.authority(name)
    }

    /// The request of a *csr-ready* authority, DER.
    ///
    /// # Errors
    /// A refusal if there is no such authority or it has no request.
    pub fn authority_request(&self, name: &AuthorityName) -> Result<Vec<u8>, Error> {
        let registry = self.registry();
        let issuer = registry.issuer_of(name).ok_or_else(|| no_authority(name))?;
        let csr = issuer.form.csr.as_ref();
        let csr = csr.ok_or_else(|| {
            Refusal::new(Reason::NotReady, format!("authority {name} needs no certificate from elsewhere"))
        })?;
        Ok(csr.to_vec())
    }

    /// Takes the certificate that the external root signed for a *csr-ready* authority: PEM or DER, with or without the
    /// certificates between them.
    ///
    /// # Errors
    /// A refusal that says what does not fit, or a fault.
    pub fn install_certificate(
        &self,
        name: &AuthorityName,
        certificates: &[u8],
        operator: &str,
    ) -> Result<Authority, Error> {
        let _one_at_a_time = self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = self.registry();
        let issuer = registry.issuer_of(name).ok_or_else(|| no_authority(name))?;
        if issuer.form.csr.is_none() {
            return Err(
                Refusal::new(Reason::NotReady, format!("authority {name} does not wait for a certificate")).into()
            );
        }
        let root =
            issuer.form.parent.and_then(|parent| registry.issuers.get(&parent)).ok_or_else(|| no_authority(name))?;
        let chain = chain_to(root, &issuer.form.public_key, certificates_in(certificates)?)?;
        let [own, between @ ..] = chain.as_slice() else {
            return Err(Refusal::new(Reason::BadKey, "none of the certificates holds this authority's key").into());
        };
        let parts = CertificateParts::open(own)?;
        if parts.tbs.subject != issuer.form.subject {
            let text = format!("the certificate's subject is not {}, octet for octet", issuer.subject);
            return Err(Refusal::new(Reason::NameNotAllowed, text).into());
        }
        valid_now(&parts, self.now())?;
        let root_certificate = root.form.certificate.as_ref().ok_or_else(|| no_authority(name))?;
        let root_parts = CertificateParts::open(root_certificate)?;
        if parts.tbs.not_after > root_parts.tbs.not_after {
            return Err(Refusal::new(
                Reason::BadTime,
                format!("the certificate outlives its root, which ends {}", root_parts.tbs.not_after),
            )
            .into());
        }
        // basicConstraints, keyUsage and subjectKeyIdentifier are judged where they are read.
        let whole: Vec<&[u8]> = chain.iter().map(Vec::as_slice).chain([root_certificate.as_slice()]).collect();
        IssuerFacts::from_chain(&whole, KeyAlgorithm::of_public_key(parts.tbs.public_key)?)?;
        let form = IssuerForm {
            certificate: Some(ByteBuf::from(own.clone())),
            chain: between.iter().cloned().map(ByteBuf::from).collect(),
            csr: None,
            ..issuer.form.clone()
        };
        self.activate(issuer.number, &form, operator, "certificate installed")?;
        self.authority(name)
    }

    /// Changes an authority's services or its name for people.
    ///
    /// # Errors
    /// A refusal if there is no such authority or service, or the store's fault.
    pub fn change_authority(
        &self,
        name: &AuthorityName,
        change: &AuthorityChange,
        operator: &str,
    ) -> Result<Authority, Error> {
        let _one_at_a_time = self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = self.registry();
        let mut form = registry.authorities.get(name).ok_or_else(|| no_authority(name))?.clone();
        if let Some(services) = &change.services {
            check_services(&registry, services)?;
            form.services.clone_from(services);
        }
        if let Some(friendly_name) = &change.friendly_name {
            form.friendly_name.clone_from(friendly_name);
        }
        let batch = Batch::new().put(Space::Authority, name.as_str(), record::encode(&form)?);
        let what = format!("services {}", form.services.join(" "));
        self.commit_authority_change(name, operator, &what, batch)?;
        self.reload()?;
        self.authority(name)
    }

    /// Begins to remove an authority with its key and its certificates; what is many goes on in the background. Its own certificate,
    /// if an authority here issued it, is revoked with `cessationOfOperation`.
    ///
    /// # Errors
    /// A refusal while other authorities or endpoints depend on it, or a fault.
    pub fn delete_authority(&self, name: &AuthorityName, operator: &str) -> Result<(), Error> {
        {
            let _one_at_a_time = self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner);
            let registry = self.registry();
            let form = registry.authorities.get(name).ok_or_else(|| no_authority(name))?;
            if let Some((child, _)) = registry.authorities.iter().find(|(_, child)| child.parent.as_ref() == Some(name))
            {
                return Err(Refusal::new(
                    Reason::Conflict,
                    format!("authority {child} is below {name}; delete it first"),
                )
                .into());
            }
            if let Some(endpoint) = registry.endpoints.values().find(|endpoint| endpoint.authority == *name) {
                return Err(Refusal::new(
                    Reason::Conflict,
                    format!("endpoint {} uses {name}; delete it first", endpoint.name),
                )
                .into());
            }
            let form = AuthorityForm { deleting: true, ..form.clone() };
            let batch = Batch::new().put(Space::Authority, name.as_str(), record::encode(&form)?);
            self.revoke_at_parent(name, &registry, operator)?;
            self.commit_authority_change(name, operator, "deletion begun", batch)?;
            self.reload()?;
        }
        self.go_on_deleting()
    }

    /// Whoever trusts the parent must learn that nobody speaks for this authority any more.
    fn revoke_at_parent(&self, name: &AuthorityName, registry: &Registry, operator: &str) -> Result<(), Error> {
        for issuer in registry.issuers.values().filter(|issuer| issuer.form.authority == *name && !issuer.revoked) {
            let parent = issuer.form.parent.and_then(|parent| registry.issuers.get(&parent));
            let (Some(serial), Some(_)) = (issuer.form.serial, parent.filter(|parent| parent.may_sign())) else {
                continue;
            };
            let change = StatusChange::Revoke { reason: RevocationReason::CessationOfOperation, invalidity: None };
            let origin = own_origin(format!("deletion of {}", issuer.path), sha256(serial.as_bytes()))?;
            let comment = format!("authority {name} is being deleted");
            self.revoke(&RevocationRequest {
                serial,
                change,
                comment,
                evidence: Evidence::Operator(self.operator(operator)),
                origin,
            })?;
        }
        Ok(())
    }

    /// Removes some of what belongs to authorities that are being deleted.
    pub(crate) fn go_on_deleting(&self) -> Result<(), Error> {
        let _one_at_a_time = self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.last_change_is_known() {
            // A request that began before the deletion might still issue; the next round looks again.
            return Ok(());
        }
        let registry = self.registry();
        for (name, _) in registry.authorities.iter().filter(|(_, form)| form.deleting) {
            let issuers: Vec<_> =
                registry.issuers.values().filter(|issuer| issuer.form.authority == *name).cloned().collect();
            if self.delete_certificates(name, &issuers)? {
                self.delete_records(name, &issuers)?;
            }
        }
        Ok(())
    }

    /// Removes certificates of these issuers; true once none are left.
    fn delete_certificates(&self, name: &AuthorityName, issuers: &[std::sync::Arc<Issuer>]) -> Result<bool, Error> {
        // Nothing is issued any more, so what was looked through stays as it is.
        let from = self.deletions().get(name).cloned().unwrap_or_default();
        let mut range = Range { from, ..Range::default() };
        let mut removed = 0;
        for _ in 0..DELETION_STEPS_MAX {
            let entries = self.inner.store.scan(Space::Certificate, &range, DELETION_STEP)?;
            let Some(last) = entries.last() else { return Ok(true) };
            range.from = [last.key.as_slice(), &[0]].concat();
            let mut batch = Batch::new();
            let mut removed_here = Vec::new();
            for entry in &entries {
                let form: CertificateForm = record::decode(&entry.value)?;
                if issuers.iter().any(|issuer| issuer.number == form.issuer) {
                    let serial = Serial::from_magnitude(&entry.key)?;
                    // A serial that was closed without a certificate is in no index and no count.
                    if !matches!(form.status, record::StatusForm::Closed { .. }) {
                        batch = inventory::unindex(batch, &serial, &form, &crate::certificate::names_of(&form.der)?);
                    }
                    batch = batch
                        .expect(Space::Certificate, entry.key.clone(), entry.version)
                        .delete(Space::Certificate, entry.key.clone())
                        .delete(Space::Revoked, [form.issuer.to_be_bytes().as_slice(), &entry.key].concat());
                    removed_here.push(serial);
                }
            }
            if !removed_here.is_empty() {
                let record =
                    self.authority_changed(name, "certgate", &format!("{} certificates removed", removed_here.len()));
                self.commit_or_later(record.in_batch(batch)?)?;
                removed_here.iter().for_each(|serial| self.inner.responses.purge(serial));
            }
            self.deletions().insert(name.clone(), range.from.clone());
            removed += removed_here.len();
            if removed >= DELETION_STEP {
                break;
            }
        }
        Ok(false)
    }

    fn deletions(&self) -> MutexGuard<'_, HashMap<AuthorityName, Key>> {
        self.inner.deletions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delete_records(&self, name: &AuthorityName, issuers: &[std::sync::Arc<Issuer>]) -> Result<(), Error> {
        let mut batch = Batch::new().delete(Space::Authority, name.as_str());
        let registry = self.registry();
        let mut keys = Vec::new();
        for issuer in issuers {
            let number = issuer.number.to_be_bytes();
            batch = batch.delete(Space::Issuer, number).delete(Space::CrlHead, number);
            for chunk in self.inner.store.scan(Space::CrlChunk, &Range::prefix(number), usize::MAX)? {
                batch = batch.delete(Space::CrlChunk, chunk.key);
            }
            if let Some(responder) = registry.responders.get(&issuer.number) {
                batch = batch.delete(Space::ServiceKey, crate::own_certificate::responder_role(issuer.number));
                keys.push(responder.form.key.reference().clone());
            }
            let own = crate::registration_authority::role_prefix(issuer.number);
            for (role, form) in registry.registration_authorities.iter().filter(|(role, _)| role.starts_with(&own)) {
                batch = batch.delete(Space::ServiceKey, role.as_str());
                keys.push(form.key.reference().clone());
            }
            // What was there before the authority outlives it.
            keys.extend(issuer.form.key.clone().filter(|_| !issuer.form.key_adopted));
        }
        // Serials that were reserved and never signed go with it.
        for entry in self.inner.store.scan(Space::InFlight, &Range::default(), usize::MAX)? {
            let form: InFlightForm = record::decode(&entry.value)?;
            if issuers.iter().any(|issuer| issuer.number == form.certificate.issuer) {
                batch = batch.delete(Space::InFlight, entry.key).delete(Space::Origin, form.origin_key);
            }
        }
        self.commit_authority_change(name, "certgate", "deleted", batch)?;
        self.deletions().remove(name);
        self.reload()?;
        issuers.iter().for_each(|issuer| self.forget_crl(issuer.number));
        for key in keys {
            self.inner.keys.destroy(&key).map_err(Fault::from)?;
        }
        Ok(())
    }

    /// An authority by name.
    ///
    /// # Errors
    /// A refusal if there is none.
    pub fn authority(&self, name: &AuthorityName) -> Result<Authority, Error> {
        let registry = self.registry();
        let form = registry.authorities.get(name).ok_or_else(|| no_authority(name))?;
        Ok(view(name, form, &registry, self.now())?)
    }

    /// All authorities, by name.
    ///
    /// # Errors
    /// A fault if the records do not fit together.
    pub fn authorities(&self) -> Result<Vec<Authority>, Error> {
        let registry = self.registry();
        let now = self.now();
        registry.authorities.iter().map(|(name, form)| Ok(view(name, form, &registry, now)?)).collect()
    }
}

fn view(name: &AuthorityName, form: &AuthorityForm, registry: &Registry, now: Time) -> Result<Authority, Fault> {
    let issuer =
        registry.issuers.get(&form.issuer).ok_or_else(|| Fault::Broken(format!("authority {name} has no issuer")))?;
    let active = issuer.active.as_ref();
    let state = match active {
        _ if form.deleting => AuthorityState::Deleting,
        None if issuer.form.csr.is_some() => AuthorityState::CsrReady,
        None => AuthorityState::Provisioning,
        Some(active) if active.facts.not_after < now => AuthorityState::Expired,
        Some(_) if !issuer.may_sign() => AuthorityState::Revoked,
        Some(_) => AuthorityState::Active,
    };
    Ok(Authority {
        name: name.clone(),
        friendly_name: form.friendly_name.clone(),
        kind: match form.kind {
            AuthorityKindForm::Root => AuthorityKind::Root,
            AuthorityKindForm::Issuing => AuthorityKind::Issuing,
            AuthorityKindForm::ExternalRoot => AuthorityKind::ExternalRoot,
        },
        state,
        parent: form.parent.clone(),
        subject: issuer.subject.to_string(),
        algorithm: issuer.form.algorithm,
        generation: issuer.form.generation,
        not_before: active.map(|active| active.facts.not_before),
        not_after: active.map(|active| active.facts.not_after),
        ocsp: form.ocsp,
        services: form.services.clone(),
        key: issuer.form.key.as_ref().map(ToString::to_string),
        crl_url: active.filter(|_| issuer.form.key.is_some()).and_then(|active| active.facts.crl_url.clone()),
        ocsp_url: active.and_then(|active| active.facts.ocsp_url.clone()),
        certificate: issuer.form.certificate.as_ref().map(|der| der.to_vec()),
    })
}

fn no_authority(name: &AuthorityName) -> Refusal {
    Refusal::new(Reason::NotReady, format!("there is no authority {name}"))
}

fn built_in(id: &str) -> Result<&'static Profile, Fault> {
    Profile::find(id).ok_or_else(|| Fault::Broken(format!("profile {id} is missing")))
}

fn check_services(registry: &Registry, services: &[String]) -> Result<(), Refusal> {
    let known = |service: &String| {
        Profile::built_in().iter().any(|profile| profile.library == *service)
            || registry.own_profiles.values().any(|profile| profile.library == *service)
    };
    match services.iter().find(|service| !known(service)) {
        Some(service) => Err(Refusal::new(Reason::UnknownProfile, format!("there is no service {service:?}"))),
        None => Ok(()),
    }
}

fn usable_parent(registry: &Registry, name: &AuthorityName) -> Result<std::sync::Arc<Issuer>, Refusal> {
    let form = registry.authorities.get(name).ok_or_else(|| no_authority(name))?;
    let issuer = registry.issuer_of(name).filter(|issuer| issuer.may_sign() && !form.deleting);
    let issuer = issuer.ok_or_else(|| Refusal::new(Reason::NotReady, format!("authority {name} is not active")))?;
    if form.kind == AuthorityKindForm::Issuing {
        return Err(Refusal::new(
            Reason::NotAuthorized,
            format!("authority {name} is an issuing one; only a root can be above another"),
        ));
    }
    Ok(issuer.clone())
}

fn valid_now(parts: &CertificateParts<'_>, now: Time) -> Result<(), Refusal> {
    if now < parts.tbs.not_before || now > parts.tbs.not_after {
        let text =
            format!("the certificate is valid from {} to {}, not now", parts.tbs.not_before, parts.tbs.not_after);
        return Err(Refusal::new(Reason::BadTime, text));
    }
    Ok(())
}

/// The certificates in PEM text or one in DER.
fn certificates_in(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Refusal> {
    if bytes.len() > CHAIN_OCTETS_MAX {
        return Err(Refusal::new(Reason::Malformed, "the certificates are too large"));
    }
    if bytes.starts_with(&[0x30]) {
        return Ok(vec![bytes.to_vec()]);
    }
    let unreadable = |error: String| Refusal::new(Reason::Malformed, format!("neither PEM nor DER: {error}"));
    let text = std::str::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?;
    let mut found = Vec::new();
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    for block in text.split(BEGIN).skip(1) {
        let block = block.split("-----END").next().unwrap_or_default();
        let whole = format!("{BEGIN}{block}-----END CERTIFICATE-----\n");
        let (_, der) = pem::decode_vec(whole.as_bytes()).map_err(|error| unreadable(error.to_string()))?;
        x509_cert::Certificate::from_der(&der).map_err(|error| unreadable(error.to_string()))?;
        found.push(der);
    }
    if found.is_empty() { Err(unreadable("no certificate in it".to_owned())) } else { Ok(found) }
}

/// Orders certificates from the one with our key up to the external root (left out), each signed by the next.
fn chain_to(root: &Issuer, public_key: &[u8], certificates: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Refusal> {
    let opened = certificates.iter().map(|der| CertificateParts::open(der)).collect::<Result<Vec<_>, _>>()?;
    let Some(mut at) = opened.iter().position(|parts| parts.tbs.public_key == public_key) else {
        return Ok(Vec::new());
    };
    let mut chain = Vec::new();
    while let (Some(parts), Some(der)) = (opened.get(at), certificates.get(at)) {
        chain.push(der.clone());
        if parts.tbs.issuer == root.form.subject {
            parts.verify(&root.form.public_key)?;
            return Ok(chain);
        }
        let above = opened.iter().position(|above| above.tbs.subject == parts.tbs.issuer);
        match above.filter(|_| chain.len() <= certificates.len()) {
            Some(above) => {
                parts.verify(opened.get(above).map(|above| above.tbs.public_key).unwrap_or_default())?;
                at = above;
            }
            None => break,
        }
    }
    Err(Refusal::new(Reason::BadProof, format!("the certificates do not lead to {}", root.subject)))
}
