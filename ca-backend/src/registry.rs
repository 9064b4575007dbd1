//! What the PKI consists of, as one immutable picture that requests read without locks held.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::algorithm::{KeyAlgorithm, VerificationKey};
use crate::endpoint::Endpoint;
use crate::error::{Fault, StoreFault};
use crate::keys::KeyRef;
use crate::label::{AuthorityName, EndpointName, ProfileName};
use crate::name::DistinguishedName;
use crate::ocsp::IssuerHashes;
use crate::own_certificate::{self, Responder};
use crate::profile::Profile;
use crate::record::{self, AuthorityForm, CertificateForm, IssuerForm, ServiceKeyForm, StatusForm};
use crate::registration_authority;
use crate::store::{Entry, Range, Space, Store};
use crate::tbs::IssuerFacts;

/// Authorities, issuers, profiles and endpoints.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) authorities: BTreeMap<AuthorityName, AuthorityForm>,
    pub(crate) issuers: BTreeMap<u32, Arc<Issuer>>,
    pub(crate) by_path: HashMap<String, u32>,
    pub(crate) own_profiles: BTreeMap<ProfileName, Arc<Profile>>,
    /// [`Profile::snapshot_id`] of every profile, which costs too much to be computed for each certificate.
    snapshots: HashMap<String, String>,
    pub(crate) endpoints: BTreeMap<EndpointName, Arc<Endpoint>>,
    /// OCSP responders by issuer number.
    pub(crate) responders: HashMap<u32, Arc<Responder>>,
    /// Registration authorities by role.
    pub(crate) registration_authorities: HashMap<String, Arc<ServiceKeyForm>>,
}

/// One generation of an authority: a key and, once active, a certificate.
#[derive(Debug)]
pub(crate) struct Issuer {
    pub(crate) number: u32,
    /// Its part of the status URLs: the authority's name, for later generations `NAME.2`, `NAME.3`, ...
    pub(crate) path: String,
    pub(crate) form: IssuerForm,
    pub(crate) subject: DistinguishedName,
    /// The SubjectPublicKeyInfo's SHA-256.
    pub(crate) key_fingerprint: [u8; 32],
    /// Absent for an external root, whose key is elsewhere.
    verification: Option<VerificationKey>,
    /// Present once it has a certificate.
    pub(crate) active: Option<ActiveIssuer>,
    /// Whether its own certificate was revoked or held.
    pub(crate) revoked: bool,
}

/// What an issuer with a certificate can be asked.
#[derive(Debug)]
pub(crate) struct ActiveIssuer {
    pub(crate) facts: IssuerFacts,
    pub(crate) hashes: IssuerHashes,
    /// Its certificate, then those above it, the root last.
    pub(crate) chain: Vec<Bytes>,
    pub(crate) ocsp: bool,
}

impl Issuer {
    /// Whether it has a certificate that was not revoked.
    pub(crate) fn may_sign(&self) -> bool {
        self.active.is_some() && !self.revoked
    }

    /// The key and its algorithm; a fault for an external root, whose key is elsewhere.
    pub(crate) fn signing_key(&self) -> Result<(&KeyRef, KeyAlgorithm), Fault> {
        match (&self.form.key, self.form.algorithm) {
            (Some(key), Some(algorithm)) => Ok((key, algorithm)),
            _ => Err(self.has_no_key()),
        }
    }

    /// Whether its key made this signature over this message; a fault for an external root, whose key is elsewhere.
    pub(crate) fn made(&self, message: &[u8], signature: &[u8]) -> Result<bool, Fault> {
        let verification = self.verification.as_ref().ok_or_else(|| self.has_no_key())?;
        Ok(verification.verify(message, signature).is_ok())
    }

    fn has_no_key(&self) -> Fault {
        Fault::Broken(format!("issuer {} has no key here", self.path))
    }
}

impl Registry {
    /// Reads the whole picture.
    pub(crate) fn load(store: &dyn Store, status_base_url: &str) -> Result<Self, Fault> {
        let mut registry = Self::default();
        for Entry { key, value, .. } in everything(store, Space::Authority)? {
            registry.authorities.insert(label(&key, |name| AuthorityName::new(name))?, record::decode(&value)?);
        }
        for Entry { key, value, .. } in everything(store, Space::Profile)? {
            let profile =
                text(&value).and_then(|toml| Profile::from_toml(toml).map_err(|e| corrupt(&key, e.public())))?;
            registry
                .own_profiles
                .insert(label(profile.id.as_bytes(), |name| ProfileName::new(name))?, Arc::new(profile));
        }
        let profiles = Profile::built_in().iter().chain(registry.own_profiles.values().map(AsRef::as_ref));
        registry.snapshots = profiles.map(|profile| (profile.id.clone(), profile.snapshot_id())).collect();
        for Entry { key, value, .. } in everything(store, Space::Endpoint)? {
            let endpoint: Endpoint = serde_json::from_slice(&value).map_err(|e| corrupt(&key, &e.to_string()))?;
            registry.endpoints.insert(endpoint.name.clone(), Arc::new(endpoint));
        }
        registry.registration_authorities = registration_authority::stored(store)?.into_iter().collect();
        let mut forms = BTreeMap::new();
        for Entry { key, value, .. } in everything(store, Space::Issuer)? {
            let number =
                key.as_slice().try_into().map(u32::from_be_bytes).map_err(|_| corrupt(&key, "not an issuer number"))?;
            forms.insert(number, record::decode::<IssuerForm>(&value)?);
        }
        for (number, form) in &forms {
            let ocsp = registry.authorities.get(&form.authority).is_some_and(|authority| authority.ocsp);
            let mut issuer = Issuer::without_certificate(*number, form)?;
            issuer.activate(&forms, ocsp, status_base_url)?;
            issuer.revoked = revoked(store, form)?;
            let role = own_certificate::responder_role(*number);
            if let Some(found) = store.get(Space::ServiceKey, role.as_bytes())? {
                let responder = own_certificate::responder(record::decode::<ServiceKeyForm>(&found.value)?)?;
                registry.responders.insert(*number, responder);
            }
            registry.by_path.insert(issuer.path.clone(), *number);
            registry.issuers.insert(*number, Arc::new(issuer));
        }
        Ok(registry)
    }

    /// The authority's issuer in use.
    pub(crate) fn issuer_of(&self, authority: &AuthorityName) -> Option<&Arc<Issuer>> {
        self.issuers.get(&self.authorities.get(authority)?.issuer)
    }

    pub(crate) fn issuer_at(&self, path: &str) -> Option<&Arc<Issuer>> {
        self.issuers.get(self.by_path.get(path)?)
    }

    /// A built-in profile or one of the operators'.
    pub(crate) fn profile(&self, name: &ProfileName) -> Option<&Profile> {
        self.own_profiles.get(name).map(AsRef::as_ref).or_else(|| Profile::find(name.as_str()))
    }

    /// The snapshot of a profile that [`Registry::profile`] found.
    pub(crate) fn snapshot_of(&self, profile: &Profile) -> String {
        self.snapshots.get(&profile.id).cloned().unwrap_or_else(|| profile.snapshot_id())
    }
}

impl Issuer {
    /// An issuer that has no certificate yet.
    pub(crate) fn without_certificate(number: u32, form: &IssuerForm) -> Result<Self, Fault> {
        let path = if form.generation == 1 {
            form.authority.to_string()
        } else {
            format!("{}.{}", form.authority, form.generation)
        };
        let subject = DistinguishedName::from_der(&form.subject).map_err(|e| corrupt(path.as_bytes(), e.public()))?;
        let key_fingerprint = crate::sha256(&form.public_key);
        let verification = form
            .algorithm
            .map(|algorithm| VerificationKey::read(&form.public_key, &algorithm.signature_algorithm()))
            .transpose()
            .map_err(|e| corrupt(path.as_bytes(), e.public()))?;
        let form = form.clone();
        Ok(Self { number, path, subject, key_fingerprint, verification, form, active: None, revoked: false })
    }

    fn activate(&mut self, all: &BTreeMap<u32, IssuerForm>, ocsp: bool, status_base_url: &str) -> Result<(), Fault> {
        if self.form.certificate.is_none() {
            return Ok(());
        }
        let chain = chain(&self.form, all);
        let path = &self.path;
        let ders: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
        let mut facts = KeyAlgorithm::of_public_key(&self.form.public_key)
            .and_then(|algorithm| IssuerFacts::from_chain(&ders, algorithm))
            .map_err(|e| corrupt(path.as_bytes(), e.public()))?;
        facts.crl_url = Some(format!("{status_base_url}/crl/{path}.crl"));
        facts.ocsp_url = ocsp.then(|| format!("{status_base_url}/ocsp/{path}"));
        facts.ca_issuers_url = Some(format!("{status_base_url}/ca/{path}.cer"));
        let hashes = IssuerHashes::of(facts.name.as_der(), crate::public_key_bits(&facts.public_key)?);
        self.active = Some(ActiveIssuer { hashes, chain, facts, ocsp });
        Ok(())
    }
}

/// Whether an issuer's certificate, if it is one of ours, was revoked or held.
fn revoked(store: &dyn Store, form: &IssuerForm) -> Result<bool, Fault> {
    let Some(serial) = &form.serial else { return Ok(false) };
    match store.get(Space::Certificate, serial.as_bytes())? {
        Some(found) => Ok(record::decode::<CertificateForm>(&found.value)?.status != StatusForm::Good),
        None => Ok(false),
    }
}

/// An issuer's certificate and those above it, the root last.
fn chain(form: &IssuerForm, all: &BTreeMap<u32, IssuerForm>) -> Vec<Bytes> {
    let mut chain = Vec::new();
    let mut next = Some(form);
    while let Some(issuer) = next {
        chain.extend(issuer.certificate.iter().chain(&issuer.chain).map(|der| Bytes::copy_from_slice(der)));
        next = issuer.parent.and_then(|number| all.get(&number));
    }
    chain
}

fn everything(store: &dyn Store, space: Space) -> Result<Vec<Entry>, StoreFault> {
    store.scan(space, &Range::default(), usize::MAX)
}

fn label<T>(key: &[u8], wrap: impl Fn(&str) -> Result<T, crate::error::Refusal>) -> Result<T, Fault> {
    text(key).and_then(|name| wrap(name).map_err(|e| corrupt(key, e.public())))
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| corrupt(bytes, "not text"))
}

fn corrupt(key: &[u8], why: &str) -> Fault {
    Fault::Store(StoreFault::Corrupt(format!("record {:?}: {why}", String::from_utf8_lossy(key))))
}
