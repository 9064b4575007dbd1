//! Authorizations: an account's control of one identifier (RFC 8555 sections 7.1.4 and 7.5).

use ca_backend::{Time, ValidatedIdentifier};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::account::Account;
use crate::call::AccountCall;
use crate::challenge::{Challenge, ChallengeState, ChallengeType};
use crate::error::{Attempt, Problem, ProblemType};
use crate::id::Id;
use crate::identifier::Identifier;
use crate::jws::json;
use crate::ledger::Held;
use crate::reply::Reply;
use crate::site::Site;
use crate::validation::Verdict;

/// When to ask again for an object whose state is about to change. Validation takes a moment; clients that obey poll seldom enough.
pub(crate) const RETRY_AFTER_S: u32 = 2;

/// The least time that must be left to an authorization for an order to rest on it.
const REUSE_LEFT_S: u64 = 3600;

/// An account's control of one identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authorization {
    pub(crate) id: Id,
    pub(crate) account: Id,
    /// As ordered; a wildcard is shown by the name under it.
    pub(crate) identifier: Identifier,
    pub(crate) expires: Time,
    pub(crate) state: AuthorizationState,
    pub(crate) challenges: Vec<Challenge>,
    /// SHA-256 of the SubjectPublicKeyInfo that the device attested: the only key that a certificate may hold.
    pub(crate) attested_key: Option<[u8; 32]>,
    /// Whether control of the domain stands for that of every host name below it (RFC 9444).
    pub(crate) subdomains: bool,
}

/// What control is to be shown of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    pub(crate) identifier: &'a Identifier,
    /// Whether that shall stand for the host names below it.
    pub(crate) subdomains: bool,
}

/// What is recorded of an authorization; expiry follows from the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AuthorizationState {
    Pending,
    Valid {
        method: ChallengeType,
        at: Time,
        detail: String,
    },
    /// Nothing had to be shown: an operator granted the identifier to the credential that the account is bound to.
    Granted {
        at: Time,
    },
    Invalid,
    Deactivated,
}

/// The states that a client sees (RFC 8555 section 7.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthorizationStatus {
    Pending,
    Valid,
    Invalid,
    Deactivated,
    Expired,
}

impl AuthorizationStatus {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Deactivated => "deactivated",
            Self::Expired => "expired",
        }
    }
}

impl Authorization {
    /// The state at a moment.
    pub(crate) fn status(&self, now: Time) -> AuthorizationStatus {
        match &self.state {
            AuthorizationState::Invalid => AuthorizationStatus::Invalid,
            AuthorizationState::Deactivated => AuthorizationStatus::Deactivated,
            AuthorizationState::Pending if now >= self.expires => AuthorizationStatus::Invalid,
            AuthorizationState::Pending => AuthorizationStatus::Pending,
            AuthorizationState::Valid { .. } | AuthorizationState::Granted { .. } if now >= self.expires => {
                AuthorizationStatus::Expired
            }
            AuthorizationState::Valid { .. } | AuthorizationState::Granted { .. } => AuthorizationStatus::Valid,
        }
    }

    /// Whether this is an authorization for an ordered identifier.
    pub(crate) fn covers(&self, ordered: &Identifier) -> bool {
        self.identifier == *ordered || self.subdomains && ordered.is_host_below(&self.identifier.to_string())
    }

    /// Takes what a validation of one challenge found. Returns whether that changed anything.
    pub(crate) fn decide(&mut self, kind: ChallengeType, now: Time, verdict: &Verdict) -> bool {
        let pending = self.state == AuthorizationState::Pending && now < self.expires;
        let Some(challenge) = self.challenges.iter_mut().find(|challenge| pending && challenge.kind == kind) else {
            return false;
        };
        match verdict {
            Verdict::Shown(detail) => {
                challenge.state = ChallengeState::Valid { at: now };
                self.state = AuthorizationState::Valid { method: kind, at: now, detail: detail.clone() };
            }
            Verdict::NotShown(problem, detail) | Verdict::NoAnswer(problem, detail) => {
                challenge.state = ChallengeState::Invalid { problem: *problem, detail: detail.clone() };
                self.state = AuthorizationState::Invalid;
            }
        }
        true
    }

    /// What the engine is told of an ordered identifier; `None` unless control of it was shown.
    pub(crate) fn evidence(&self, ordered: &Identifier) -> Option<ValidatedIdentifier> {
        match &self.state {
            _ if !self.covers(ordered) => None,
            AuthorizationState::Valid { method, at, detail } => Some(ValidatedIdentifier {
                name: ordered.base().alternative_name(),
                wildcard: ordered.is_wildcard(),
                method: method.name().to_owned(),
                at: *at,
                detail: detail.clone(),
            }),
            // What was granted the engine looks up itself, so that a grant can be taken back.
            AuthorizationState::Pending
            | AuthorizationState::Granted { .. }
            | AuthorizationState::Invalid
            | AuthorizationState::Deactivated => None,
        }
    }

    /// Why there is no control, for the order that needed it.
    pub(crate) fn failure(&self) -> (ProblemType, String) {
        let failed = self.challenges.iter().find_map(|challenge| match &challenge.state {
            ChallengeState::Invalid { problem, detail } => Some((*problem, detail.clone())),
            ChallengeState::Pending | ChallengeState::Processing | ChallengeState::Valid { .. } => None,
        });
        failed.unwrap_or_else(|| (ProblemType::Unauthorized, "the authorization expired or was deactivated".to_owned()))
    }
}

#[derive(Deserialize)]
struct AuthorizationUpdate {
    status: String,
}

impl Site<'_> {
    /// Shows or deactivates an authorization.
    pub(crate) fn authorization(&self, call: &AccountCall, id: &Id) -> Attempt<Reply> {
        let mut authorization = self.own_authorization(call, id)?;
        let mut change = self.ledger.change().spend(&call.nonce);
        if let Some(object) = call.optional_object()? {
            let update: AuthorizationUpdate = json(object, "the authorization cannot be read")?;
            if update.status != "deactivated" {
                return Err(Problem::malformed("the only status to ask for is \"deactivated\"").into());
            }
            authorization.value.state = AuthorizationState::Deactivated;
            change = change.update_authorization(&authorization)?;
        }
        change.commit()?;
        let reply = Reply::json(StatusCode::OK, &self.authorization_document(&authorization.value));
        let is_checked =
            authorization.value.challenges.iter().any(|challenge| challenge.state == ChallengeState::Processing);
        let is_pending = authorization.value.status(self.now) == AuthorizationStatus::Pending;
        Ok(if is_pending && is_checked { reply.retry_after_s(RETRY_AFTER_S) } else { reply })
    }

    /// A new authorization for an identifier, with a challenge for every way that is open to it.
    pub(crate) fn new_authorization(
        &self,
        account: &Id,
        wanted: Wanted<'_>,
        expires: Time,
    ) -> Result<Authorization, Problem> {
        let Wanted { identifier, subdomains } = wanted;
        let is_open = |kind: &&ChallengeType| kind.can_show(identifier) && (!subdomains || kind.can_show_subdomains());
        let open = self.options.challenges.iter().filter(is_open);
        let challenges: Vec<Challenge> = open
            .map(|kind| Challenge { kind: *kind, token: self.new_id().to_string(), state: ChallengeState::Pending })
            .collect();
        if challenges.is_empty() {
            let text = format!("this server offers no challenge that shows control of {identifier}");
            return Err(Problem::new(ProblemType::RejectedIdentifier, text));
        }
        Ok(Authorization {
            id: self.new_id(),
            account: *account,
            identifier: identifier.clone(),
            expires,
            state: AuthorizationState::Pending,
            challenges,
            attested_key: None,
            subdomains,
        })
    }

    /// An authorization for what an operator granted without a challenge.
    pub(crate) fn granted_authorization(&self, account: &Id, identifier: &Identifier, expires: Time) -> Authorization {
        Authorization {
            id: self.new_id(),
            account: *account,
            identifier: identifier.clone(),
            expires,
            state: AuthorizationState::Granted { at: self.now },
            challenges: Vec::new(),
            attested_key: None,
            subdomains: false,
        }
    }

    /// The authorization of that name, if it is the caller's.
    pub(crate) fn own_authorization(&self, call: &AccountCall, id: &Id) -> Attempt<Held<Authorization>> {
        let found = self.ledger.authorization(id)?.filter(|found| found.value.account == call.account.value.id);
        Ok(found.ok_or_else(Problem::not_found)?)
    }

    /// The authorization that another order of the account may rest on: shown not too long ago, in a way that is still offered, and
    /// with enough time left to use it.
    pub(crate) fn reusable(&self, account: &Account, wanted: Wanted<'_>) -> Attempt<Option<Held<Authorization>>> {
        let reuse_s = self.options.authorization_reuse_s;
        if reuse_s == 0 {
            return Ok(None);
        }
        let enough_s = REUSE_LEFT_S.min(self.options.order_lifetime_s / 2);
        Ok(self.shown(&account.id, wanted.identifier)?.into_iter().find(|held| match &held.value.state {
            AuthorizationState::Valid { method, at, .. } => {
                // A device attested one key, and every order for it a key of its own.
                held.value.attested_key.is_none()
                    && (held.value.subdomains || !wanted.subdomains)
                    && self.options.challenges.contains(method)
                    && self.now < at.plus_s(reuse_s)
                    && self.now.plus_s(enough_s) < held.value.expires
            }
            AuthorizationState::Pending
            | AuthorizationState::Granted { .. }
            | AuthorizationState::Invalid
            | AuthorizationState::Deactivated => false,
        }))
    }

    /// What last showed the account's control of an identifier: of itself, or of a domain above it where that is enough. It may all
    /// have expired.
    pub(crate) fn shown(&self, account: &Id, identifier: &Identifier) -> Attempt<Vec<Held<Authorization>>> {
        let mut shown = Vec::from_iter(self.ledger.shown(account, identifier)?);
        for domain in std::iter::once(identifier.clone()).chain(identifier.domains_above()) {
            if self.options.permits_ancestor(&domain) {
                shown.extend(self.ledger.shown_with_subdomains(account, &domain)?);
            }
        }
        Ok(shown)
    }

    pub(crate) fn authorization_document(&self, authorization: &Authorization) -> Value {
        let challenges: Vec<Value> = authorization
            .challenges
            .iter()
            // RFC 8555 section 7.1.4: once decided, only the challenge that decided is of interest.
            .filter(|challenge| match authorization.state {
                AuthorizationState::Pending | AuthorizationState::Granted { .. } | AuthorizationState::Deactivated => {
                    true
                }
                AuthorizationState::Valid { .. } => matches!(challenge.state, ChallengeState::Valid { .. }),
                AuthorizationState::Invalid => matches!(challenge.state, ChallengeState::Invalid { .. }),
            })
            .map(|challenge| self.challenge_document(authorization, challenge))
            .collect();
        let mut document = json!({
            "identifier": authorization.identifier.base().document(),
            "status": authorization.status(self.now).name(),
            "expires": authorization.expires.to_string(),
            "challenges": challenges,
        });
        if let (true, Some(members)) = (authorization.identifier.is_wildcard(), document.as_object_mut()) {
            members.insert("wildcard".into(), true.into());
        }
        if let (false, Some(members)) = (self.options.ancestor_domains.is_empty(), document.as_object_mut()) {
            members.insert("subdomainAuthAllowed".into(), authorization.subdomains.into());
        }
        document
    }

    pub(crate) fn authorization_url(&self, id: &Id) -> String {
        format!("{}/authorization/{id}", self.base_url)
    }
}
