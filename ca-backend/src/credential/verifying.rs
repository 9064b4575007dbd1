//! Who presents a secret? The one place where secrets of credentials are verified.

use std::fmt;

use aws_lc_rs::hmac;

use super::binding::SECRET_OCTETS_MAX;
use super::keeping::{chosen_counter, credential};
use super::{Binding, Credential, CredentialId, CredentialPurpose, Right};
use crate::engine::Engine;
use crate::error::{Error, Reason, Refusal};
use crate::label::EndpointName;
use crate::record::{CredentialForm, SecretForm};
use crate::request::Origin;
use crate::store::{Space, Version};

/// Where a secret is presented, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretScope {
    /// The endpoint.
    pub endpoint: EndpointName,
    /// The purpose.
    pub purpose: CredentialPurpose,
    /// The credential that it must be, where the protocol carries a name beside the secret.
    pub id: Option<String>,
}

impl SecretScope {
    /// Any credential of an endpoint that serves a purpose.
    #[must_use]
    pub fn new(endpoint: EndpointName, purpose: CredentialPurpose) -> Self {
        Self { endpoint, purpose, id: None }
    }

    /// Only the credential of this name.
    #[must_use]
    pub fn named(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }
}

/// How a MAC is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacAlgorithm {
    /// HMAC with SHA-256.
    HmacSha256,
    /// HMAC with SHA-384.
    HmacSha384,
    /// HMAC with SHA-512.
    HmacSha512,
}

/// A credential whose secret was shown: only the engine makes one.
#[derive(Clone)]
pub struct VerifiedSecret {
    pub(super) credential: Credential,
    pub(super) form: Box<CredentialForm>,
    pub(super) version: Version,
}

impl fmt::Debug for VerifiedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifiedSecret").field(&self.credential.id).finish()
    }
}

impl VerifiedSecret {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &CredentialId {
        &self.credential.id
    }

    /// What is known of it, as it was when the secret was verified.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// What it may be used for. The engine applies it to every enrollment; a protocol may want to show it.
    #[must_use]
    pub fn binding(&self) -> &Binding {
        &self.credential.binding
    }

    /// Refuses what the bearer of a token may not do. The engine does so for enrollment and changes of status.
    ///
    /// # Errors
    /// `Reason::NotAuthorized`, naming the right that is missing.
    pub fn require(&self, right: Right) -> Result<(), Refusal> {
        require(&self.credential, right)
    }
}

pub(crate) fn require(credential: &Credential, right: Right) -> Result<(), Refusal> {
    if credential.purpose == CredentialPurpose::Token && credential.binding.rights.contains(&right) {
        return Ok(());
    }
    let text = format!("the credential does not carry the right {:?}", right.name());
    Err(Refusal::new(Reason::NotAuthorized, text).with_private(credential.requester()))
}

/// What every requester hears whose secret does not count, whatever is wrong with it.
pub(super) fn refused(why: impl Into<String>) -> Refusal {
    Refusal::new(Reason::NotAuthenticated, "the credential is not valid here").with_private(why)
}

impl Engine {
    /// Verifies a presented secret. The answer to a wrong, expired, spent or disabled one is the same; the audit log tells them
    /// apart. A secret that is spent or expired still serves the request that it was spent on: the same origin, within the repeat
    /// window.
    ///
    /// Who presented too many wrong ones at the endpoint is told to wait, whatever comes next, but for the right secret that was made
    /// here: it is too random to be guessed, and may come from another device behind the same address.
    ///
    /// # Errors
    /// `Reason::NotAuthenticated`, which is in the audit log already; `Reason::RateLimited` if the peer failed too often; or the
    /// store's fault.
    pub fn verify_secret(
        &self,
        scope: &SecretScope,
        presented: &[u8],
        origin: &Origin,
    ) -> Result<VerifiedSecret, Error> {
        let verified = self.find_secret(scope, presented, origin);
        self.after_attempt(verified, &scope.endpoint, origin)
    }

    /// As [`Engine::verify_secret`], but what no credential of the endpoint has is left to another judge, who may count it as a wrong
    /// secret: see [`Engine::verify_device`].
    ///
    /// # Errors
    /// As [`Engine::verify_secret`], of a secret that some credential has.
    pub fn verify_secret_if_known(
        &self,
        scope: &SecretScope,
        presented: &[u8],
        origin: &Origin,
    ) -> Result<Option<VerifiedSecret>, Error> {
        if presented.len() > SECRET_OCTETS_MAX {
            return Ok(None);
        }
        let verified = match self.credential_of(scope, presented, origin) {
            Ok(None) => return Ok(None),
            Ok(Some(id)) => self.usable(id, scope, origin),
            Err(error) => Err(error),
        };
        self.after_attempt(verified, &scope.endpoint, origin).map(Some)
    }

    /// Verifies a MAC over `message` made with the key of a credential, such as the external account binding of ACME.
    ///
    /// # Errors
    /// As [`Engine::verify_secret`].
    pub fn verify_mac(
        &self,
        scope: &SecretScope,
        algorithm: MacAlgorithm,
        message: &[u8],
        mac: &[u8],
        origin: &Origin,
    ) -> Result<VerifiedSecret, Error> {
        let verified = self.find_mac(scope, algorithm, message, mac, origin);
        self.after_attempt(verified, &scope.endpoint, origin)
    }

    /// Refuses who guessed too often, before a secret is judged that may be weak.
    pub(crate) fn may_guess(&self, endpoint: &EndpointName, origin: &Origin) -> Result<(), Refusal> {
        self.inner.attempts.admit(endpoint, origin.peer, self.now())
    }

    /// Counts a wrong secret. Who presented too many hears only that, and nothing of this one.
    fn after_attempt(
        &self,
        verified: Result<VerifiedSecret, Error>,
        endpoint: &EndpointName,
        origin: &Origin,
    ) -> Result<VerifiedSecret, Error> {
        let refusal = match verified {
            Err(Error::Refused(refusal)) => refusal,
            other => return other,
        };
        let refusal = match self.may_guess(endpoint, origin) {
            Ok(()) => {
                self.inner.attempts.failed(endpoint, origin.peer, self.now());
                refusal
            }
            Err(limited) if refusal.reason() == Reason::RateLimited => limited,
            Err(limited) => limited.with_private(refusal.private()),
        };
        self.refuse(origin, &refusal)?;
        Err(refusal.into())
    }

    fn find_secret(&self, scope: &SecretScope, presented: &[u8], origin: &Origin) -> Result<VerifiedSecret, Error> {
        if presented.is_empty() || presented.len() > SECRET_OCTETS_MAX {
            return Err(refused("a secret has 1 to 256 octets").into());
        }
        let id =
            self.credential_of(scope, presented, origin)?.ok_or_else(|| refused("no credential has this secret"))?;
        if scope.id.as_ref().is_some_and(|named| named != id.as_str()) {
            return Err(refused(format!("the secret belongs to credential {id}, another name was given")).into());
        }
        self.usable(id, scope, origin)
    }

    /// The credential that has a secret. Those that an operator chose can be guessed, also the ones that were right before: they are
    /// looked for only if the peer may guess.
    fn credential_of(
        &self,
        scope: &SecretScope,
        presented: &[u8],
        origin: &Origin,
    ) -> Result<Option<CredentialId>, Error> {
        let SecretScope { endpoint, purpose, .. } = scope;
        // Found by a keyed digest, so that neither the store nor the time it takes says anything about other secrets.
        let keys = &self.inner.secret_keys;
        let id_at = |digest: &[u8]| self.inner.store.get(Space::CredentialSecret, digest);
        let found = match id_at(&keys.digest(endpoint, *purpose, presented))? {
            Some(found) => Some(found),
            None if self.counter(&chosen_counter(endpoint, *purpose))? > 0 => {
                self.may_guess(endpoint, origin)?;
                let slow = keys.slow_digest(endpoint, *purpose, presented)?;
                let found = id_at(&slow)?;
                if found.is_some() {
                    keys.remember(endpoint, *purpose, presented, slow);
                }
                found
            }
            None => None,
        };
        Ok(found.map(|found| CredentialId::new(&String::from_utf8_lossy(&found.value))).transpose()?)
    }

    fn find_mac(
        &self,
        scope: &SecretScope,
        algorithm: MacAlgorithm,
        message: &[u8],
        mac: &[u8],
        origin: &Origin,
    ) -> Result<VerifiedSecret, Error> {
        let id = CredentialId::new(scope.id.as_deref().unwrap_or_default());
        let id = id.map_err(|_| refused("no credential can have this name"))?;
        let (form, _) = self.credential_form(&id)?.ok_or_else(|| refused(format!("there is no credential {id}")))?;
        let SecretForm::Sealed(sealed) = &form.secret else {
            return Err(refused(format!("credential {id} has no MAC key")).into());
        };
        let key = self.inner.secret_keys.open(&id, sealed)?;
        let algorithm = match algorithm {
            MacAlgorithm::HmacSha256 => hmac::HMAC_SHA256,
            MacAlgorithm::HmacSha384 => hmac::HMAC_SHA384,
            MacAlgorithm::HmacSha512 => hmac::HMAC_SHA512,
        };
        hmac::verify(&hmac::Key::new(algorithm, &key), message, mac)
            .map_err(|_| refused(format!("the MAC was not made with the key of credential {id}")))?;
        self.usable(id, scope, origin)
    }

    /// The credential, if it may be presented here and now.
    fn usable(&self, id: CredentialId, scope: &SecretScope, origin: &Origin) -> Result<VerifiedSecret, Error> {
        let (form, version) =
            self.credential_form(&id)?.ok_or_else(|| refused(format!("credential {id} was removed")))?;
        let credential = credential(id, &form)?;
        let id = &credential.id;
        if credential.endpoint != scope.endpoint || credential.purpose != scope.purpose {
            return Err(refused(format!("credential {id} is for another endpoint or purpose")).into());
        }
        if credential.disabled {
            return Err(refused(format!("credential {id} is disabled")).into());
        }
        let over = if credential.is_expired(self.now()) {
            Some("expired")
        } else if credential.is_spent() {
            Some("spent")
        } else {
            None
        };
        if let Some(why) = over
            && !self.is_repeat(origin, &credential.requester())?
        {
            return Err(refused(format!("credential {id} is {why}")).into());
        }
        Ok(VerifiedSecret { credential, form: Box::new(form), version })
    }

    /// Refuses a credential with which no account may be made any more.
    pub(super) fn may_open_account(&self, secret: &VerifiedSecret) -> Result<(), Refusal> {
        let credential = &secret.credential;
        let id = &credential.id;
        if credential.purpose != CredentialPurpose::ExternalAccount {
            return Err(refused(format!("credential {id} makes no accounts")));
        }
        if credential.accounts_disabled {
            return Err(refused(format!("credential {id} makes no new accounts")));
        }
        if credential.binding.accounts_max.is_some_and(|max| credential.accounts >= max) {
            return Err(refused(format!("credential {id} has made all its accounts")));
        }
        Ok(())
    }
}
