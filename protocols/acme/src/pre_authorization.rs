//! Control shown before there is an order (RFC 8555 section 7.4.1).

use http::StatusCode;
use serde::Deserialize;

use crate::authorization::Wanted;
use crate::call::AccountCall;
use crate::error::{Attempt, Problem};
use crate::jws::json;
use crate::order::WantedIdentifier;
use crate::reply::Reply;
use crate::site::Site;

#[derive(Deserialize)]
struct NewAuthorization {
    identifier: WantedIdentifier,
}

impl Site<'_> {
    /// Whether authorizations outlive their order, without which showing control beforehand is in vain.
    pub(crate) fn offers_pre_authorization(&self) -> bool {
        self.options.authorization_reuse_s > 0
    }

    /// Makes an authorization, or names the one that an order could rest on already.
    pub(crate) fn pre_authorize(&self, call: &AccountCall) -> Attempt<Reply> {
        if !self.offers_pre_authorization() {
            return Err(Problem::not_found().into());
        }
        let wish: NewAuthorization = json(call.object()?, "the authorization cannot be read")?;
        let subdomains = wish.identifier.subdomain_auth_allowed;
        let identifiers = self.wanted_identifiers(&[wish.identifier])?;
        let [identifier] = identifiers.as_slice() else {
            return Err(Problem::malformed("one identifier is shown at a time").into());
        };
        if identifier.is_wildcard() {
            return Err(Problem::malformed("control of a wildcard is shown with an order for it").into());
        }
        let account = &call.account.value;
        let profile = self.wanted_profile(None)?;
        let subdomains = subdomains && self.options.permits_ancestor(identifier);
        // A domain that stands for the names below it need not be a name that anybody gets; those are judged when they are ordered.
        self.refuse_impossible(account, if subdomains { &[] } else { &identifiers }, &profile)?;
        let reply = |authorization| {
            Reply::json(StatusCode::CREATED, &self.authorization_document(authorization))
                .location(&self.authorization_url(&authorization.id))
        };
        let wanted = Wanted { identifier, subdomains };
        if let Some(shown) = self.reusable(account, wanted)? {
            self.ledger.change().spend(&call.nonce).commit()?;
            return Ok(reply(&shown.value));
        }
        let uses = self.admit_order(account, &identifiers, &identifiers, false)?;
        let expires = self.now.plus_s(self.options.order_lifetime_s);
        let authorization = self.new_authorization(&account.id, wanted, expires)?;
        let change = self.ledger.change().spend(&call.nonce).add_authorization(&authorization)?;
        uses.into_iter().fold(change, |change, used| used.count(change)).commit()?;
        Ok(reply(&authorization))
    }
}
