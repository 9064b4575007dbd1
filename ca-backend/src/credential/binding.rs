//! What a credential may be used for.

use super::{Binding, CredentialPurpose, NewCredential};
use crate::error::{Reason, Refusal};
use crate::policy;
use crate::request::RequestedNames;
use crate::subject_key::SubjectKeyKind;

/// The least octets of a secret that an operator chose.
const CHOSEN_OCTETS_MIN: usize = 8;
/// The most octets of a secret.
pub(super) const SECRET_OCTETS_MAX: usize = 256;
const COMMENT_OCTETS_MAX: usize = 1_024;

/// Refuses a wish that does not fit together: what would be ignored is a mistake.
pub(super) fn check(wish: &NewCredential) -> Result<(), Refusal> {
    let malformed = |why: &str| Err(Refusal::new(Reason::Malformed, why));
    let NewCredential { purpose, binding, .. } = wish;
    if *purpose != CredentialPurpose::Token && !binding.rights.is_empty() {
        return malformed("only a token has rights");
    }
    if *purpose == CredentialPurpose::Token && binding.rights.is_empty() {
        return malformed("a token without a right is of no use; name one");
    }
    if *purpose != CredentialPurpose::ExternalAccount
        && (binding.accounts_max.is_some() || binding.without_challenge.is_some())
    {
        return malformed("accounts and challenges matter to external account binding only");
    }
    if *purpose == CredentialPurpose::ExternalAccount && wish.uses_max.is_some() {
        return malformed("an external account binding counts accounts, not certificates");
    }
    if *purpose != CredentialPurpose::Challenge && wish.holder.is_some() {
        return malformed("only a challenge is handed out for somebody");
    }
    if wish.uses_max == Some(0) || binding.accounts_max == Some(0) {
        return malformed("a credential without a single use is of no use");
    }
    if let Some(secret) = &wish.secret {
        if *purpose != CredentialPurpose::Challenge {
            return malformed("only a challenge can have a secret of your own choice");
        }
        if !(CHOSEN_OCTETS_MIN..=SECRET_OCTETS_MAX).contains(&secret.reveal().len()) {
            return malformed("a secret of your own choice has 8 to 256 octets");
        }
    }
    if wish.comment.len() > COMMENT_OCTETS_MAX {
        return malformed("the comment has more than 1024 octets");
    }
    Ok(())
}

impl Binding {
    /// Whether names may stand. The engine asks for those of a request and again for those of the final bytes; a protocol may ask
    /// before, to refuse early.
    ///
    /// # Errors
    /// `Reason::NameNotAllowed`, naming what does not fit.
    pub fn admits(&self, names: &RequestedNames) -> Result<(), Refusal> {
        if let Some(rules) = &self.names {
            policy::allowed(rules, "the credential's names", names)?;
        }
        let refused = |what: &str| {
            Err(Refusal::new(Reason::NameNotAllowed, format!("the credential stands for other {what}"))
                .with_private("the names differ from those that the credential is bound to"))
        };
        if let Some(subject) = &self.subject
            && policy::sorted_attributes(subject) != policy::sorted_attributes(&names.subject)
        {
            return refused("subject attributes");
        }
        if let Some(expected) = &self.alternative_names {
            let among = |some: &[_], others: &[_]| some.iter().all(|name| others.contains(name));
            if !among(expected, &names.alternative) || !among(&names.alternative, expected) {
                return refused("alternative names");
            }
        }
        Ok(())
    }

    /// Whether a key of this kind may stand.
    pub(crate) fn admits_key(&self, kind: SubjectKeyKind) -> Result<(), Refusal> {
        match &self.keys {
            Some(kinds) if !kinds.contains(&kind) => {
                Err(Refusal::new(Reason::BadKey, "the credential does not allow this kind of key"))
            }
            Some(_) | None => Ok(()),
        }
    }
}
