//! What operators ask about key stores: which keys are there, who uses them, and what a store can do.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::algorithm::KeyAlgorithm;
use crate::audit::{Action, AuditRecord};
use crate::engine::Engine;
use crate::error::{Error, Fault, KeyFault, Reason, Refusal};
use crate::keys::examination::{KeyStoreReport, examine};
use crate::keys::{KeyLabel, KeyRef};
use crate::maintain;
use crate::own_certificate::FORMER_TLS_KEYS;
use crate::record::{self, ServiceKeyForm};
use crate::registry::Registry;
use crate::store::{Batch, Range, Space};

/// A key in one of the stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedKey {
    /// The key store.
    pub store: String,
    /// Where it is: `file:NAME`, or a PKCS#11 URI (RFC 7512).
    pub key: String,
    /// Its algorithm; `None` for a kind of key that is not used here.
    pub algorithm: Option<KeyAlgorithm>,
    /// Who uses it: an issuer's path, or a service: `tls`, `ocsp/ISSUER`, `ra/ISSUER/ALGORITHM`, with `/before` for the one
    /// that it had before.
    pub used_by: Vec<String>,
}

/// The longest label of a key.
const LABEL_LETTERS_MAX: usize = 200;

impl Engine {
    /// Every key of a store, or of all that can be read.
    ///
    /// # Errors
    /// A refusal if there is no such store, or its fault.
    pub fn keys(&self, store: Option<&str>) -> Result<Vec<ListedKey>, Error> {
        let ring = &self.inner.keys;
        let stores = match store {
            Some(name) => vec![ring.named(name).map_err(of_operator)?],
            None => ring.stores().collect(),
        };
        let users = self.users()?;
        let mut listed = Vec::new();
        for found in stores {
            let keys = match found.keys() {
                Ok(keys) => keys,
                // One token that is away does not hide the others.
                Err(fault) if store.is_none() => {
                    tracing::warn!(store = found.name(), %fault, "the keys of a store cannot be listed");
                    continue;
                }
                Err(fault) => return Err(of_operator(fault)),
            };
            listed.extend(keys.into_iter().map(|stored| ListedKey {
                store: found.name().to_owned(),
                used_by: users.get(&stored.key).cloned().unwrap_or_default(),
                key: stored.key.to_string(),
                algorithm: stored.algorithm,
            }));
        }
        Ok(listed)
    }

    /// Makes a key that an authority may adopt later. Returns where it is. A key that cannot be recorded is destroyed again.
    ///
    /// # Errors
    /// A refusal if there is no such store, it cannot make such a key, or the label is taken; or its fault, or the store's.
    pub fn generate_key(
        &self,
        store: Option<&str>,
        label: &str,
        algorithm: KeyAlgorithm,
        operator: &str,
    ) -> Result<String, Error> {
        let allowed = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || matches!(octet, b'-' | b'.');
        if label.is_empty() || label.len() > LABEL_LETTERS_MAX || label.starts_with('.') || !label.bytes().all(allowed)
        {
            return Err(Refusal::new(
                Reason::Malformed,
                format!("{label:?} is not the name of a key: lower-case letters, digits, - and . only"),
            )
            .into());
        }
        let key = self.inner.keys.generate(store, &KeyLabel(label.to_owned()), algorithm).map_err(of_operator)?;
        let record = AuditRecord::new(self.now(), Action::KeyMade).detail(format!("{key}, {algorithm}, by {operator}"));
        let recorded = record.in_batch(Batch::new()).map_err(Error::from).and_then(|batch| self.commit_or_later(batch));
        if let Err(error) = recorded {
            let destroyed = self.inner.keys.destroy(&key).map_err(|fault| Fault::from(fault).into());
            maintain::log("destroy a key that could not be recorded", destroyed);
            return Err(error);
        }
        tracing::info!(%key, operator, "a key was made");
        Ok(key.to_string())
    }

    /// Tries everything that authorities and services need of a key store, with keys that are destroyed again, and measures how
    /// fast it signs.
    ///
    /// # Errors
    /// A refusal if there is no such store.
    pub fn examine_key_store(&self, store: &str, measure: Duration) -> Result<KeyStoreReport, Error> {
        Ok(examine(self.inner.keys.named(store).map_err(of_operator)?, measure))
    }

    /// Who uses each key.
    fn users(&self) -> Result<HashMap<KeyRef, Vec<String>>, Error> {
        let registry = self.registry();
        let mut users: HashMap<KeyRef, Vec<String>> = HashMap::new();
        for issuer in registry.issuers.values() {
            if let Some(key) = &issuer.form.key {
                users.entry(key.clone()).or_default().push(issuer.path.clone());
            }
        }
        for entry in self.inner.store.scan(Space::ServiceKey, &Range::default(), usize::MAX)? {
            let form: ServiceKeyForm = record::decode(&entry.value)?;
            users.entry(form.key.reference().clone()).or_default().push(service(&entry.key, &registry));
        }
        Ok(users)
    }
}

/// The role under which a service's key is stored, as operators read it: issuers have numbers there, and paths elsewhere.
fn service(role: &[u8], registry: &Registry) -> String {
    if role.starts_with(FORMER_TLS_KEYS) {
        return "tls/before".to_owned();
    }
    let path = |number: u32| registry.issuers.get(&number).map(|issuer| issuer.path.clone());
    let role = String::from_utf8_lossy(role);
    let parts: Vec<_> =
        role.split('/').map(|part| part.parse().ok().and_then(path).unwrap_or_else(|| part.to_owned())).collect();
    parts.join("/")
}

/// An operator may hear what a key store says: nobody else gets to see it.
fn of_operator(fault: KeyFault) -> Error {
    match fault {
        KeyFault::Unsupported(why) => Refusal::new(Reason::Unsupported, why).into(),
        KeyFault::NotFound(_) | KeyFault::Unavailable(_) | KeyFault::Unusable(_) | KeyFault::Undecipherable => {
            Fault::from(fault).into()
        }
    }
}
