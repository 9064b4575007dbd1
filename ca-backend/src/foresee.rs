//! What a requester may know before it shows anything: names that it can never have.

use std::sync::Arc;

use crate::credential::{Binding, CredentialId};
use crate::engine::Engine;
use crate::error::{Error, Reason, Refusal};
use crate::evidence::{Challenges, Evidence};
use crate::label::{EndpointName, ProfileName};
use crate::name::AlternativeName;
use crate::policy;

/// What awaits a request for names.
#[derive(Clone, Debug)]
pub struct Foresight {
    /// For each name, in the order asked: why it can never stand, whatever is shown.
    pub names: Vec<Option<Refusal>>,
    /// Why all of them cannot stand together, if each could.
    pub together: Option<Refusal>,
    /// For each name, whether it needs no challenge, by an operator's grant to the requester's credential.
    pub unchallenged: Vec<bool>,
}

impl Engine {
    /// Whether the certificate of the issuer with this path is revoked or on hold, and with it all that it issued.
    #[must_use]
    pub fn is_issuer_revoked(&self, path: &str) -> bool {
        self.registry().issuer_at(path).is_some_and(|issuer| issuer.revoked)
    }

    /// What a credential may be used for at an endpoint, now.
    fn binding_in_force(&self, id: &CredentialId, endpoint: &EndpointName) -> Result<Arc<Binding>, Error> {
        let found = self.credential(id)?;
        let credential = found.filter(|credential| !credential.disabled && credential.endpoint == *endpoint);
        let gone = || {
            let text = "the external account that this account is bound to may not be used any more";
            Refusal::new(Reason::NotAuthorized, text).with_private(format!("credential {id}"))
        };
        Ok(credential.ok_or_else(gone)?.binding)
    }

    /// Judges names by the access rules of an endpoint before control of them was shown, so that nobody shows it in vain. Granting
    /// nothing: [`Engine::enroll`] judges again.
    ///
    /// # Errors
    /// `Reason::NotReady` if the endpoint is not enabled.
    pub fn foresee(
        &self,
        endpoint: &EndpointName,
        requester: &Challenges,
        profile: &ProfileName,
        names: &[AlternativeName],
    ) -> Result<Foresight, Error> {
        let settings = self.endpoint(endpoint).filter(|endpoint| endpoint.enabled);
        let settings =
            settings.ok_or_else(|| Refusal::new(Reason::NotReady, format!("endpoint {endpoint} is not enabled")))?;
        let facts = Evidence::Challenges(requester.clone()).facts();
        let binding = requester.credential.as_ref().map(|id| self.binding_in_force(id, endpoint)).transpose()?;
        let (each, together) = policy::foresee(&settings, &facts, profile, names, binding.as_deref());
        let granted = binding.as_ref().and_then(|binding| binding.without_challenge.as_ref());
        let unchallenged = names.iter().map(|name| granted.is_some_and(|rules| rules.allows(name))).collect();
        Ok(Foresight { names: each, together, unchallenged })
    }
}
