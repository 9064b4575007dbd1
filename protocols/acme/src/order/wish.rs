//! The wish for a certificate, and the order that is made of it (RFC 8555 section 7.4).

use std::collections::{BTreeMap, BTreeSet};

use ca_backend::{Challenges, Fault, Foresight, ProfileName, RequestedValidity, Time};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::{Order, OrderState};
use crate::account::Account;
use crate::authorization::{Authorization, Wanted};
use crate::call::AccountCall;
use crate::error::{Attempt, Problem, ProblemType, Subproblem};
use crate::identifier::Identifier;
use crate::jws::json;
use crate::reply::Reply;
use crate::site::Site;

/// Members that this server does not know are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewOrder {
    identifiers: Vec<WantedIdentifier>,
    not_before: Option<String>,
    not_after: Option<String>,
    profile: Option<String>,
    replaces: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WantedIdentifier {
    #[serde(rename = "type")]
    kind: String,
    value: String,
    /// In an order: a domain above, of which the client could show control instead (RFC 9444 section 4.3).
    ancestor_domain: Option<String>,
    /// In a pre-authorization: whether it shall stand for the names below (RFC 9444 section 4.2).
    #[serde(default)]
    pub(crate) subdomain_auth_allowed: bool,
}

/// What an order rests on for one identifier.
enum Source {
    /// Control that was shown for another order, or beforehand.
    Shown(Box<Authorization>),
    /// An operator's grant.
    Granted,
    /// Control that is still to be shown.
    Asked,
    /// Control of a domain above, that is still to be shown.
    AskedAbove(Identifier),
}

impl Site<'_> {
    /// Makes an order with an authorization for each identifier.
    pub(crate) fn new_order(&self, call: &AccountCall) -> Attempt<Reply> {
        let wish: NewOrder = json(call.object()?, "the order cannot be read")?;
        let identifiers = self.wanted_identifiers(&wish.identifiers)?;
        let validity = self.wanted_validity(&wish)?;
        let profile = self.wanted_profile(wish.profile.as_deref())?;
        let account = &call.account.value;
        let foresight = self.refuse_impossible(account, &identifiers, &profile)?;
        let replaced = wish.replaces.as_deref().map(|text| self.replaced(account, text, &identifiers)).transpose()?;
        let mut expires = self.now.plus_s(self.options.order_lifetime_s);
        let mut ancestors = self.wanted_ancestors(&wish.identifiers)?;
        let mut found = Vec::with_capacity(identifiers.len());
        for (identifier, unchallenged) in identifiers.iter().zip(foresight.unchallenged) {
            found.push(match self.reusable(account, Wanted { identifier, subdomains: false })? {
                Some(shown) => Source::Shown(Box::new(shown.value)),
                None if unchallenged => Source::Granted,
                None => ancestors.remove(identifier).map_or(Source::Asked, Source::AskedAbove),
            });
        }
        // An order does not outlive what it rests on.
        for source in &found {
            if let Source::Shown(authorization) = source {
                expires = expires.min(authorization.expires);
            }
        }
        let to_show = identifiers.iter().zip(&found).filter_map(|(identifier, source)| match source {
            Source::Asked => Some(identifier.clone()),
            Source::AskedAbove(domain) => Some(domain.clone()),
            Source::Shown(_) | Source::Granted => None,
        });
        let to_show: Vec<_> = to_show.collect::<BTreeSet<_>>().into_iter().collect();
        let in_window = replaced.as_ref().is_some_and(|replaced| replaced.in_window);
        let uses = self.admit_order(account, &identifiers, &to_show, in_window)?;
        let mut made = Vec::new();
        let mut authorizations: Vec<Authorization> = Vec::with_capacity(identifiers.len());
        for (identifier, source) in identifiers.iter().zip(found) {
            let wanted = |identifier, subdomains| Wanted { identifier, subdomains };
            let authorization = match source {
                Source::Shown(authorization) => {
                    // One for a domain may serve several of the names.
                    if !authorizations.iter().any(|other| other.id == authorization.id) {
                        authorizations.push(*authorization);
                    }
                    continue;
                }
                Source::Granted => self.granted_authorization(&account.id, identifier, expires),
                Source::Asked => self.new_authorization(&account.id, wanted(identifier, false), expires)?,
                Source::AskedAbove(domain) => {
                    let is_asked = |other: &Authorization| other.subdomains && other.identifier == domain;
                    if made.iter().any(is_asked) {
                        continue;
                    }
                    self.new_authorization(&account.id, wanted(&domain, true), expires)?
                }
            };
            made.push(authorization.clone());
            authorizations.push(authorization);
        }
        let order = Order {
            id: self.new_id(),
            account: account.id,
            created: self.now,
            expires,
            identifiers,
            authorizations: authorizations.iter().map(|authorization| authorization.id).collect(),
            profile,
            validity,
            state: OrderState::Open,
            replaces: wish.replaces,
        };
        let mut change = self.ledger.change().spend(&call.nonce).add_order(&order)?;
        for authorization in &made {
            change = change.add_authorization(authorization)?;
        }
        if let Some(replaced) = &replaced {
            change = change.replace(&replaced.serial, replaced.before.as_ref(), &order.id)?;
        }
        uses.into_iter().fold(change, |change, used| used.count(change)).commit()?;
        let status = self.status(&order, authorizations.iter());
        let document = self.order_document(&order, &status);
        Ok(Reply::json(StatusCode::CREATED, &document).location(&self.order_url(&order.id)))
    }

    /// Refuses what no access rule allows, before anybody shows control in vain.
    pub(crate) fn refuse_impossible(
        &self,
        account: &Account,
        identifiers: &[Identifier],
        profile: &ProfileName,
    ) -> Attempt<Foresight> {
        let requester = Challenges {
            account: account.id.to_string(),
            identifiers: Vec::new(),
            credential: account.credential.clone(),
        };
        let names: Vec<_> = identifiers.iter().map(Identifier::alternative_name).collect();
        let foresight = self.engine.foresee(&self.settings.name, &requester, profile, &names)?;
        let refused: Vec<_> = identifiers
            .iter()
            .zip(&foresight.names)
            .filter_map(|(identifier, refusal)| Some((identifier, refusal.as_ref()?)))
            .map(|(identifier, refusal)| Subproblem {
                identifier: identifier.document(),
                kind: ProblemType::RejectedIdentifier,
                detail: refusal.public().to_owned(),
            })
            .collect();
        if !refused.is_empty() {
            let text = format!("the access rules do not allow {} of the identifiers", refused.len());
            return Err(Problem { subproblems: refused, ..Problem::new(ProblemType::RejectedIdentifier, text) }.into());
        }
        match &foresight.together {
            Some(refusal) => Err(Problem::from(refusal).into()),
            None => Ok(foresight),
        }
    }

    pub(crate) fn wanted_identifiers(&self, wanted: &[WantedIdentifier]) -> Result<Vec<Identifier>, Problem> {
        if wanted.is_empty() {
            return Err(Problem::malformed("an order names at least one identifier"));
        }
        if wanted.len() > self.options.identifiers_max {
            return Err(Problem::malformed(format!(
                "an order names at most {} identifiers",
                self.options.identifiers_max
            )));
        }
        let mut identifiers = Vec::new();
        let mut wrong = Vec::new();
        let mut seen = BTreeSet::new();
        for WantedIdentifier { kind, value, .. } in wanted {
            match Identifier::parse(kind, value) {
                Ok(identifier) => {
                    if seen.insert(identifier.clone()) {
                        identifiers.push(identifier);
                    }
                }
                Err((problem, detail)) => wrong.push(Subproblem {
                    identifier: json!({ "type": kind, "value": value }),
                    kind: problem,
                    detail: detail.to_owned(),
                }),
            }
        }
        match wrong.as_slice() {
            [] => Ok(identifiers),
            [one] => Err(Problem::new(one.kind, format!("{}: {}", one.identifier, one.detail))),
            [first, rest @ ..] => {
                let kind =
                    if rest.iter().all(|other| other.kind == first.kind) { first.kind } else { ProblemType::Compound };
                let text = format!("{} of the identifiers are not accepted", wrong.len());
                Err(Problem { subproblems: wrong, ..Problem::new(kind, text) })
            }
        }
    }

    /// For which identifiers control of which domain above may be shown instead, by the client's word and the operator's. What the
    /// operator does not permit is no error: the identifier itself is then to be shown (RFC 9444 section 4.3).
    fn wanted_ancestors(&self, wanted: &[WantedIdentifier]) -> Result<BTreeMap<Identifier, Identifier>, Problem> {
        let mut ancestors = BTreeMap::new();
        if self.options.ancestor_domains.is_empty() {
            return Ok(ancestors);
        }
        for WantedIdentifier { kind, value, ancestor_domain, .. } in wanted {
            let Some(domain) = ancestor_domain else { continue };
            let parsed = (Identifier::parse(kind, value), Identifier::parse("dns", domain));
            let (Ok(identifier), Ok(domain)) = parsed else {
                return Err(Problem::malformed(format!("the ancestorDomain of {value} is not a domain name")));
            };
            if domain.is_wildcard() || !identifier.base().is_host_below(&domain.to_string()) {
                return Err(Problem::malformed(format!("the ancestorDomain {domain} of {value} is not above it")));
            }
            if !identifier.is_wildcard() && self.options.permits_ancestor(&domain) {
                ancestors.insert(identifier, domain);
            }
        }
        Ok(ancestors)
    }

    fn wanted_validity(&self, wish: &NewOrder) -> Result<RequestedValidity, Problem> {
        let time = |text: &Option<String>| match text {
            Some(text) => text.parse::<Time>().map(Some).map_err(Problem::malformed),
            None => Ok(None),
        };
        let (not_before, not_after) = (time(&wish.not_before)?, time(&wish.not_after)?);
        if not_after.is_some_and(|end| end <= not_before.unwrap_or(self.now)) {
            return Err(Problem::malformed("notAfter lies before the certificate would be valid"));
        }
        Ok(RequestedValidity { not_before, not_after })
    }

    /// The profile of that name, or the endpoint's first one (draft-ietf-acme-profiles).
    pub(crate) fn wanted_profile(&self, name: Option<&str>) -> Attempt<ProfileName> {
        let offered = &self.settings.profiles;
        match name {
            Some(name) => {
                let profile = offered.iter().find(|profile| profile.as_str() == name).cloned();
                let unknown = || {
                    Problem::new(
                        ProblemType::InvalidProfile,
                        "this directory offers no profile of that name; its meta lists them",
                    )
                };
                Ok(profile.ok_or_else(unknown)?)
            }
            None => Ok(offered
                .first()
                .cloned()
                .ok_or_else(|| Fault::Broken(format!("endpoint {} has no profile", self.settings.name)))?),
        }
    }
}
