//! The directory (RFC 8555 section 7.1.1).

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::eab::ExternalAccount;
use crate::reply::Reply;
use crate::site::Site;

impl Site<'_> {
    /// Where everything is, and what this endpoint offers.
    pub(crate) fn directory(&self) -> Reply {
        let at = |path: &str| format!("{}/{path}", self.base_url);
        let mut document = json!({
            "newNonce": at("new-nonce"),
            "newAccount": at("new-account"),
            "newOrder": at("new-order"),
            "revokeCert": at("revoke-cert"),
            "keyChange": at("key-change"),
            "renewalInfo": at("renewal-info"),
            "meta": self.meta(),
        });
        if let (true, Some(members)) = (self.offers_pre_authorization(), document.as_object_mut()) {
            members.insert("newAuthz".into(), at("new-authz").into());
        }
        Reply::json(StatusCode::OK, &document)
    }

    fn meta(&self) -> Value {
        let mut meta = Map::new();
        if let Some(terms) = &self.options.terms_of_service {
            meta.insert("termsOfService".into(), terms.as_str().into());
        }
        if let Some(website) = &self.options.website {
            meta.insert("website".into(), website.as_str().into());
        }
        if !self.options.caa_identities.is_empty() {
            meta.insert("caaIdentities".into(), json!(self.options.caa_identities));
        }
        if self.options.external_account == ExternalAccount::Required {
            meta.insert("externalAccountRequired".into(), true.into());
        }
        if !self.options.ancestor_domains.is_empty() {
            meta.insert("subdomainAuthAllowed".into(), true.into());
        }
        let described = self.settings.profiles.iter().map(|profile| {
            let text = self.options.profile_descriptions.get(profile).map_or(profile.as_str(), String::as_str);
            (profile.as_str().to_owned(), Value::from(text))
        });
        meta.insert("profiles".into(), Value::Object(described.collect()));
        Value::Object(meta)
    }
}
