//! External account binding (RFC 8555 section 7.3.4): a credential that an operator handed out vouches for an account's key.

use ca_backend::{CredentialPurpose, MacAlgorithm, Origin, SecretScope, VerifiedSecret};
use serde::{Deserialize, Serialize};

use crate::error::{Attempt, Problem, ProblemType};
use crate::jwk::{AccountKey, Jwk};
use crate::jws::{Flattened, decode, json};
use crate::site::Site;

/// Whether accounts are bound to credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExternalAccount {
    /// No: a binding that a client brings is ignored.
    #[default]
    Off,
    /// If the client brings a binding.
    Optional,
    /// Always: without a binding there is no account.
    Required,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    url: String,
    nonce: Option<serde::de::IgnoredAny>,
    crit: Option<serde::de::IgnoredAny>,
}

/// What vouches for the key of a new account.
pub(crate) struct Voucher {
    pub(crate) credential: VerifiedSecret,
    /// As the client sent it.
    pub(crate) binding: Flattened,
}

impl Site<'_> {
    /// The credential that vouches for the key of a new account; `None` if none does and none must.
    pub(crate) fn voucher(
        &self,
        binding: Option<&serde_json::Value>,
        key: &AccountKey,
        origin: &Origin,
    ) -> Attempt<Option<Voucher>> {
        let binding = match (self.options.external_account, binding) {
            (ExternalAccount::Off, _) | (ExternalAccount::Optional, None) => return Ok(None),
            (ExternalAccount::Required, None) => {
                let text = "accounts here need an external account binding: ask the operator for a key identifier and a MAC key";
                return Err(Problem::new(ProblemType::ExternalAccountRequired, text).into());
            }
            (ExternalAccount::Optional | ExternalAccount::Required, Some(binding)) => binding,
        };
        let malformed = |why: &str| Problem::malformed(format!("the external account binding {why}"));
        let jws = Flattened::deserialize(binding)
            .map_err(|error| malformed(&format!("is not a flattened JSON Web Signature: {error}")))?;
        let header: Header =
            json(&decode(&jws.protected, "protected")?, "the header of the external account binding cannot be read")?;
        let algorithm = match header.alg.as_str() {
            "HS256" => MacAlgorithm::HmacSha256,
            "HS384" => MacAlgorithm::HmacSha384,
            "HS512" => MacAlgorithm::HmacSha512,
            _ => return Err(malformed("is made with HS256, HS384 or HS512").into()),
        };
        if header.nonce.is_some() || header.crit.is_some() {
            return Err(malformed("has no nonce and no critical header").into());
        }
        if header.url != format!("{}/new-account", self.base_url) {
            return Err(malformed("has the url header of the request").into());
        }
        let vouched: Jwk = json(&decode(&jws.payload, "payload")?, "the external account binding holds no key")?;
        // The same key if it has the same thumbprint, however it is written.
        if AccountKey::accept(&vouched)?.thumbprint() != key.thumbprint() {
            return Err(malformed("is for another key").into());
        }
        let message = [jws.protected.as_bytes(), b".", jws.payload.as_bytes()].concat();
        let mac = decode(&jws.signature, "signature")?;
        let scope = SecretScope::new(self.settings.name.clone(), CredentialPurpose::ExternalAccount).named(header.kid);
        let credential = self.engine.verify_mac(&scope, algorithm, &message, &mac, origin)?;
        Ok(Some(Voucher { credential, binding: jws }))
    }
}
