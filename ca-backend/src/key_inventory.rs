//! What operators ask about key stores: which keys are there, who uses them, and what a store can do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::algorithm::KeyAlgorithm;
use crate::engine::Engine;
use crate::error::{Error, Fault, KeyFault, Reason, Refusal};
use crate::keys::examination::{KeyStoreReport, examine};
use crate::keys::{KeyLabel, KeyRef};

/// A key in one of the stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedKey {
    /// The key store.
    pub store: String,
    /// Where it is: `file:NAME`, or a PKCS#11 URI (RFC 7512).
    pub key: String,
    /// Its algorithm; `None` for a kind of key that is not used here.
    pub algorithm: Option<KeyAlgorithm>,
    /// Who uses it: an issuer's path, or the role of a service.
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
                used_by: self.users_of(&stored.key),
                key: stored.key.to_string(),
                algorithm: stored.algorithm,
            }));
        }
        Ok(listed)
    }

    /// Makes a key that an authority may adopt later. Returns where it is.
    ///
    /// # Errors
    /// A refusal if there is no such store, it cannot make such a key, or the label is taken; or its fault.
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

    fn users_of(&self, key: &KeyRef) -> Vec<String> {
        let registry = self.registry();
        let issuers = registry.issuers.values().filter(|issuer| issuer.form.key.as_ref() == Some(key));
        let responders = registry.responders.iter().filter(|(_, responder)| responder.form.key.reference() == key);
        let responders = responders.map(|(number, _)| crate::own_certificate::responder_role(*number));
        issuers.map(|issuer| issuer.path.clone()).chain(responders).collect()
    }
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
