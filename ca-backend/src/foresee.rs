//! What a requester may know before it shows anything: names that it can never have.

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
}

impl Engine {
    /// Whether the certificate of the issuer with this path is revoked or on hold, and with it all that it issued.
    #[must_use]
    pub fn is_issuer_revoked(&self, path: &str) -> bool {
        self.registry().issuer_at(path).is_some_and(|issuer| issuer.revoked)
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
        let (names, together) = policy::foresee(&settings, &facts, profile, names);
        Ok(Foresight { names, together })
    }
}
