//! An endpoint binds one protocol to one authority, the profiles it may use and its access rules, under a name.

use const_oid::ObjectIdentifier;
use serde::{Deserialize, Serialize};

use crate::label::{AuthorityName, EndpointName, ProfileName, ProtocolName};
use crate::policy::AccessRule;

/// An endpoint's settings, as stored and as operators write them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Its name, a part of its URL.
    pub name: EndpointName,
    /// The protocol it speaks.
    pub protocol: ProtocolName,
    /// Who issues.
    pub authority: AuthorityName,
    /// The profiles it offers; the first is the default.
    pub profiles: Vec<ProfileName>,
    /// A disabled endpoint answers 404.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Who may get what. Nothing stated means nothing allowed.
    #[serde(default)]
    pub rules: Vec<AccessRule>,
    /// The extended key usages among which a request may choose where the profile leaves the choice open.
    #[serde(default, with = "crate::profile::purpose")]
    pub extended_key_usages: Vec<ObjectIdentifier>,
    /// The protocol's own settings, which it checks itself.
    #[serde(default)]
    pub options: serde_json::Value,
}

fn yes() -> bool {
    true
}
