//! What the starter's endpoints have in common, and the secrets that some of them want.

use std::collections::BTreeSet;

use ca_backend::{
    AccessRule, AuthorityName, Binding, CredentialPurpose, Endpoint, EndpointName, Engine, EvidenceKind, NameRules,
    NewCredential, ProfileName, ProtocolName, RequesterRule, Right, TextRule,
};
use config::Settings;
use serde_json::Value;

use super::{ISSUING, OPERATOR, StarterError, write_file};

/// An endpoint of the starter: whoever shows one of the kinds of evidence gets one of the profiles, under the same names.
pub(super) struct StarterEndpoint {
    pub(super) name: &'static str,
    pub(super) protocol: &'static str,
    pub(super) profiles: &'static [&'static str],
    /// The name of each rule, and the evidence that it wants.
    pub(super) rules: &'static [(&'static str, EvidenceKind)],
    pub(super) allow: NameRules,
    pub(super) options: Value,
}

impl StarterEndpoint {
    /// Puts it in force below the issuing authority.
    pub(super) fn put(self, engine: &Engine) -> Result<(), StarterError> {
        let profiles = self.profiles.iter().map(ProfileName::new).collect::<Result<Vec<_>, _>>()?;
        let rule = |(name, evidence): &(&str, EvidenceKind)| AccessRule {
            name: (*name).to_owned(),
            requesters: vec![RequesterRule { evidence: *evidence, requester: TextRule::Any }],
            profiles: profiles.clone(),
            allow: self.allow.clone(),
            deny: NameRules::default(),
            keys: None,
            extensions: Vec::new(),
            validity_max_s: None,
            approval: false,
        };
        let endpoint = Endpoint {
            name: EndpointName::new(self.name)?,
            protocol: ProtocolName::new(self.protocol)?,
            authority: AuthorityName::new(ISSUING)?,
            rules: self.rules.iter().map(rule).collect(),
            profiles,
            enabled: true,
            extended_key_usages: Vec::new(),
            options: self.options,
        };
        crate::wiring::Wiring::check(&endpoint)?;
        engine.put_endpoint(&endpoint, OPERATOR)?;
        Ok(())
    }
}

/// A secret for an endpoint of the starter, kept in a file of the state directory.
pub(super) struct StarterSecret {
    pub(super) endpoint: &'static str,
    pub(super) purpose: CredentialPurpose,
    pub(super) rights: BTreeSet<Right>,
    pub(super) file: &'static str,
}

impl StarterSecret {
    /// Makes it, and writes it to its file.
    pub(super) fn keep(self, engine: &Engine, settings: &Settings) -> Result<(), StarterError> {
        let credential = NewCredential {
            id: None,
            endpoint: EndpointName::new(self.endpoint)?,
            purpose: self.purpose,
            comment: format!("the starter's, kept in {}", self.file),
            secret: None,
            expires: None,
            uses_max: None,
            holder: None,
            binding: Binding { rights: self.rights, ..Binding::default() },
        };
        let (_, secret) = engine.create_credential(&credential, OPERATOR)?;
        write_file(&settings.state_dir.join(self.file), secret.reveal().as_bytes())
    }
}
