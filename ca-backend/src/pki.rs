//! What operators set up beside authorities: profiles of their own and endpoints. And the record of it all.

use std::sync::{Arc, PoisonError};

use crate::audit::{self, Action, AuditEntry, AuditRecord, AuditVerdict};
use crate::endpoint::Endpoint;
use crate::engine::Engine;
use crate::error::{Error, Reason, Refusal, StoreFault};
use crate::label::{EndpointName, ProfileName};
use crate::maintain;
use crate::profile::Profile;
use crate::store::{Batch, Log, Space, head_of};

/// The most entries of the audit log in one answer.
const AUDIT_PAGE_MAX: usize = 1_000;

impl Engine {
    /// Every profile: the built-in ones, then the operators' own.
    #[must_use]
    pub fn profiles(&self) -> Vec<Profile> {
        let registry = self.registry();
        let own = registry.own_profiles.values().map(|profile| profile.as_ref().clone());
        Profile::built_in().iter().cloned().chain(own).collect()
    }

    /// Stores a profile of the operators' own, written as TOML. It replaces one of the same name; certificates in the making keep
    /// the snapshot that they began with.
    ///
    /// # Errors
    /// A refusal that names what is wrong with the text, or the store's fault.
    pub fn put_profile(&self, toml: &str, operator: &str) -> Result<Profile, Error> {
        let _one_at_a_time = self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let profile = Profile::from_toml(toml)?;
        let record = AuditRecord::new(self.now(), Action::ProfileChanged)
            .profile(format!("{}@{}", profile.id, profile.snapshot_id()))
            .detail(format!("stored by {operator}"));
        let batch = Batch::new().put(Space::Profile, profile.id.as_str(), toml);
        self.commit_or_later(record.in_batch(batch)?)?;
        tracing::info!(profile = profile.id, operator, "stored a profile");
        self.reload()?;
        Ok(profile)
    }

    /// Removes a profile of the operators' own.
    ///
    /// # Errors
    /// A refusal if it is built in, unknown or in use, or the store's fault.
    pub fn delete_profile(&self, name: &ProfileName, operator: &str) -> Result<(), Error> {
        let _one_at_a_time = self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = self.registry();
        if !registry.own_profiles.contains_key(name) {
            return Err(Refusal::new(Reason::UnknownProfile, format!("there is no profile {name} of your own")).into());
        }
        if let Some(endpoint) = registry.endpoints.values().find(|endpoint| endpoint.profiles.contains(name)) {
            return Err(Refusal::new(
                Reason::Conflict,
                format!("endpoint {} offers {name}; change it first", endpoint.name),
            )
            .into());
        }
        let record = AuditRecord::new(self.now(), Action::ProfileChanged)
            .profile(name.as_str())
            .detail(format!("removed by {operator}"));
        self.commit_or_later(record.in_batch(Batch::new().delete(Space::Profile, name.as_str()))?)?;
        tracing::info!(profile = %name, operator, "removed a profile");
        self.reload()
    }

    /// Every endpoint, by name.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.registry().endpoints.values().cloned().collect()
    }

    /// Makes an endpoint, or changes the one of the same name. The protocol's own options are checked by the caller.
    ///
    /// # Errors
    /// A refusal that says what does not fit, or the store's fault.
    pub fn put_endpoint(&self, endpoint: &Endpoint, operator: &str) -> Result<(), Error> {
        let _one_at_a_time = self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = self.registry();
        let authority = registry.authorities.get(&endpoint.authority).filter(|authority| !authority.deleting);
        let authority = authority
            .ok_or_else(|| Refusal::new(Reason::NotReady, format!("there is no authority {}", endpoint.authority)))?;
        if endpoint.profiles.is_empty() {
            return Err(Refusal::new(Reason::UnknownProfile, "an endpoint needs a profile to offer").into());
        }
        for name in &endpoint.profiles {
            let profile = registry
                .profile(name)
                .ok_or_else(|| Refusal::new(Reason::UnknownProfile, format!("there is no profile {name}")))?;
            if !authority.services.contains(&profile.library) {
                let text = format!(
                    "authority {} does not offer the service {} that profile {name} belongs to",
                    endpoint.authority, profile.library
                );
                return Err(Refusal::new(Reason::UnknownProfile, text).into());
            }
        }
        let offered = |name: &&ProfileName| !endpoint.profiles.contains(*name);
        if let Some(name) = endpoint.rules.iter().flat_map(|rule| &rule.profiles).find(offered) {
            return Err(Refusal::new(
                Reason::UnknownProfile,
                format!("a rule grants profile {name}, which the endpoint does not offer"),
            )
            .into());
        }
        match registry.endpoints.get(&endpoint.name) {
            // Nothing of an earlier endpoint of that name may serve this one: no credential, account, order or transaction.
            None => {
                self.remove_credentials_of(&endpoint.name)?;
                self.remove_records_of(&endpoint.name)?;
            }
            Some(former) if former.protocol != endpoint.protocol => {
                let text = format!(
                    "endpoint {} speaks {}; to have it speak {}, remove it first, with what it keeps",
                    endpoint.name, former.protocol, endpoint.protocol
                );
                return Err(Refusal::new(Reason::Conflict, text).into());
            }
            Some(_) => {}
        }
        let document =
            serde_json::to_vec(endpoint).map_err(|error| Refusal::new(Reason::Malformed, error.to_string()))?;
        let record = AuditRecord::new(self.now(), Action::EndpointChanged)
            .authority(&endpoint.authority)
            .detail(format!("endpoint {} stored by {operator}: {}", endpoint.name, String::from_utf8_lossy(&document)));
        let batch = Batch::new().put(Space::Endpoint, endpoint.name.as_str(), document);
        self.commit_or_later(record.in_batch(batch)?)?;
        tracing::info!(endpoint = %endpoint.name, protocol = %endpoint.protocol, operator, "stored an endpoint");
        self.reload()
    }

    /// Removes an endpoint, with its credentials and whatever its protocol keeps for it.
    ///
    /// # Errors
    /// A refusal if there is none of that name, or the store's fault.
    pub fn delete_endpoint(&self, name: &EndpointName, operator: &str) -> Result<(), Error> {
        let _one_at_a_time = self.inner.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if self.endpoint(name).is_none() {
            return Err(Refusal::new(Reason::NotReady, format!("there is no endpoint {name}")).into());
        }
        let record = AuditRecord::new(self.now(), Action::EndpointChanged)
            .detail(format!("endpoint {name} removed by {operator}"));
        self.commit_or_later(record.in_batch(Batch::new().delete(Space::Endpoint, name.as_str()))?)?;
        tracing::info!(endpoint = %name, operator, "removed an endpoint");
        self.reload()?;
        // What a fault leaves here, `maintain` removes.
        maintain::log("remove the credentials of an endpoint", self.remove_credentials_of(name));
        maintain::log("remove the records of an endpoint", self.remove_records_of(name));
        Ok(())
    }

    /// Entries of the audit log after number `after`, in order.
    ///
    /// # Errors
    /// The store's fault.
    pub fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditEntry>, Error> {
        audit::read(self.inner.store.as_ref(), after, limit.min(AUDIT_PAGE_MAX))
    }

    /// Walks the whole audit log and tells whether an entry was removed, altered or moved.
    ///
    /// # Errors
    /// The store's fault.
    pub fn verify_audit(&self) -> Result<AuditVerdict, Error> {
        let head = head_of(self.inner.store.as_ref(), Log::Audit)?;
        audit::verify(self.inner.store.as_ref(), head)
    }

    /// Blocks a public key, by the SHA-256 of its SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// The store's fault.
    pub fn block_key(&self, fingerprint: [u8; 32], operator: &str) -> Result<(), Error> {
        let record = AuditRecord::new(self.now(), Action::CredentialChanged)
            .detail(format!("public key {} blocked by {operator}", hex::encode(fingerprint)));
        self.commit_or_later(record.in_batch(Batch::new().put(Space::BlockedKey, fingerprint, Vec::new()))?)?;
        Ok(())
    }

    /// Writes every record to `to`, for another storage engine or a copy elsewhere. Returns how many there were.
    ///
    /// # Errors
    /// The store's fault, or that of the writer.
    pub fn export(&self, to: &mut dyn std::io::Write) -> Result<u64, Error> {
        Ok(crate::store::export(self.inner.store.as_ref(), to)
            .map_err(|error| StoreFault::Unavailable(error.to_string()))?)
    }
}
