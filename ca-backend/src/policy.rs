//! May this evidence use this profile for these names? The one authorizer of every protocol.

mod names;
mod pattern;
mod reading;

use std::sync::Arc;

use const_oid::ObjectIdentifier;
use serde::{Deserialize, Serialize};

pub use names::{AttributeRule, NameRules};
pub use pattern::{DnsRule, TextRule};

use crate::credential::Binding;
use crate::endpoint::Endpoint;
use crate::error::{Reason, Refusal};
use crate::evidence::{EvidenceFacts, EvidenceKind};
use crate::label::{AuthorityName, ProfileName};
use crate::name::{AlternativeName, DistinguishedName};
use crate::profile::RequestExtension;
use crate::request::{Origin, RequestedNames};
use crate::serial::Serial;
use crate::subject_key::SubjectKeyKind;
use names::{repeats, wildcard_base};

/// One rule of an endpoint: who may get what.
///
/// A request stands if no rule of the endpoint denies one of its names and one rule covers all of it: requester, profile, key and
/// every name. The first such rule sets the validity cap and says whether an operator must approve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    /// Names the rule in audit records.
    pub name: String,
    /// Who; the rule covers nobody if empty.
    #[serde(default)]
    pub requesters: Vec<RequesterRule>,
    /// Which of the endpoint's profiles; none if empty.
    #[serde(default)]
    pub profiles: Vec<ProfileName>,
    /// Names that may stand.
    #[serde(default)]
    pub allow: NameRules,
    /// Names that may not stand, whatever another rule allows.
    #[serde(default)]
    pub deny: NameRules,
    /// Kinds of subject keys; every accepted kind if not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<SubjectKeyKind>>,
    /// Extensions that a request may bring, beside what the profile allows: `security-identifier`, ... None if not stated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<RequestExtension>,
    /// The longest validity in seconds; the profile's if not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity_max_s: Option<u64>,
    /// Whether an operator must approve each request.
    #[serde(default)]
    pub approval: bool,
}

/// Which requesters a rule covers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequesterRule {
    /// The kind of evidence that was shown.
    pub evidence: EvidenceKind,
    /// The requester, such as `account:...`; everyone with that kind of evidence if not stated.
    #[serde(default = "TextRule::any")]
    pub requester: TextRule,
}

/// A granted request: which rule granted it, and under which conditions. Only [`authorize`] makes one.
#[derive(Clone, Debug)]
pub(crate) struct Authorization {
    facts: EvidenceFacts,
    bounds: Bounds,
    grant: Grant,
}

/// What the evidence itself sets bounds to, on top of the endpoint's rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    /// What the credential may be used for that the request rests on.
    pub(crate) binding: Option<Arc<Binding>>,
    /// The certificate whose successor is asked for.
    pub(crate) renewed: Option<Renewed>,
}

/// A certificate whose successor is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Renewed {
    pub(crate) names: RequestedNames,
    /// Who issued it; `None` if there is no such authority any more.
    pub(crate) authority: Option<AuthorityName>,
    /// The service that its profile belongs to; `None` if there is no such profile any more.
    pub(crate) service: Option<String>,
}

impl Bounds {
    /// Judges what does not change any more on the way to the final bytes.
    fn admit(&self, ask: &Ask<'_>) -> Result<(), Refusal> {
        if let Some(binding) = &self.binding {
            if binding.profiles.as_ref().is_some_and(|profiles| !profiles.contains(ask.profile)) {
                let text = format!("the credential does not allow profile {}", ask.profile);
                return Err(Refusal::new(Reason::NotAuthorized, text));
            }
            binding.admits_key(ask.key)?;
        }
        if let Some(renewed) = &self.renewed {
            if renewed.authority.as_ref() != Some(ask.authority) {
                let text = "the certificate to be renewed was issued by another authority";
                return Err(Refusal::new(Reason::NotAuthorized, text));
            }
            if renewed.service.as_deref() != Some(ask.service) {
                let text = format!("a renewal cannot change to profile {}, which is for something else", ask.profile);
                return Err(Refusal::new(Reason::NotAuthorized, text));
            }
        }
        self.admit_names(ask.names)
    }

    fn admit_names(&self, names: &RequestedNames) -> Result<(), Refusal> {
        if let Some(binding) = &self.binding {
            binding.admits(names)?;
        }
        let Some(renewed) = &self.renewed else { return Ok(()) };
        if sorted_attributes(&renewed.names.subject) != sorted_attributes(&names.subject) {
            return Err(Refusal::new(Reason::NameNotAllowed, "a renewal keeps the subject of the certificate"));
        }
        match names.alternative.iter().find(|name| !renewed.names.alternative.contains(name)) {
            Some(name) => {
                let text = format!("{name} is not in the certificate that is to be renewed");
                Err(Refusal::new(Reason::NameNotAllowed, text))
            }
            None => Ok(()),
        }
    }

    /// Whether a name needs no challenge, by an operator's explicit grant.
    fn needs_no_challenge(&self, name: &AlternativeName) -> bool {
        let granted = self.binding.as_ref().and_then(|binding| binding.without_challenge.as_ref());
        granted.is_some_and(|rules| rules.allows(name))
    }
}

/// The attributes of a subject, by which two are compared: the order in which clients write them differs, and so do string types.
pub(crate) fn sorted_attributes(subject: &DistinguishedName) -> Vec<(ObjectIdentifier, String)> {
    let mut attributes = subject.attributes();
    attributes.sort_unstable();
    attributes
}

#[derive(Clone, Debug)]
enum Grant {
    /// An operator or the daemon itself, outside any endpoint.
    Operator,
    /// A rule of an endpoint.
    Rule { endpoint: Arc<Endpoint>, rule: Box<AccessRule> },
    /// No rule at all: the operator who has to approve is the judge.
    ByHand { endpoint: Arc<Endpoint> },
}

impl Authorization {
    pub(crate) fn facts(&self) -> &EvidenceFacts {
        &self.facts
    }

    pub(crate) fn into_facts(self) -> EvidenceFacts {
        self.facts
    }

    /// The name of the rule that granted the request.
    pub(crate) fn rule(&self) -> &str {
        match &self.grant {
            Grant::Operator => "operator",
            Grant::ByHand { .. } => "by hand",
            Grant::Rule { rule, .. } => &rule.name,
        }
    }

    pub(crate) fn validity_max_s(&self) -> Option<u64> {
        match &self.grant {
            Grant::Operator | Grant::ByHand { .. } => None,
            Grant::Rule { rule, .. } => rule.validity_max_s,
        }
    }

    /// The extended key usages among which a request may choose where the profile leaves the choice open.
    pub(crate) fn extended_key_usages(&self) -> &[ObjectIdentifier] {
        match &self.grant {
            Grant::Operator => &[],
            Grant::Rule { endpoint, .. } | Grant::ByHand { endpoint } => &endpoint.extended_key_usages,
        }
    }

    /// Whether an operator has still to approve.
    pub(crate) fn awaits_approval(&self) -> bool {
        match &self.grant {
            Grant::Operator => false,
            Grant::Rule { rule, .. } => {
                let waits = rule.approval || self.facts.kind == EvidenceKind::KeyAlone;
                waits && self.facts.approved_by.is_none()
            }
            Grant::ByHand { .. } => self.facts.approved_by.is_none(),
        }
    }

    /// Judges the names of the final TBSCertificate, which are what counts (invariant 12).
    pub(crate) fn admits(&self, names: &RequestedNames) -> Result<(), Refusal> {
        match &self.grant {
            Grant::Operator | Grant::ByHand { .. } => Ok(()),
            Grant::Rule { endpoint, rule } => {
                denied(endpoint, names)?;
                shown(&self.facts, &self.bounds, names)?;
                self.bounds.admit_names(names)?;
                allowed(&rule.allow, &rule.name, names)
            }
        }
    }
}

/// What is asked for, as far as rules look at it.
pub(crate) struct Ask<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) authority: &'a AuthorityName,
    pub(crate) profile: &'a ProfileName,
    /// The service that the profile belongs to.
    pub(crate) service: &'a str,
    pub(crate) names: &'a RequestedNames,
    /// The extensions asked for.
    pub(crate) extensions: &'a [(ObjectIdentifier, Vec<u8>)],
    pub(crate) key: SubjectKeyKind,
}

/// Decides on a request. `endpoint` is the one that received it; `None` if there is none of that name.
pub(crate) fn authorize(
    endpoint: Option<&Arc<Endpoint>>,
    facts: EvidenceFacts,
    bounds: Bounds,
    ask: &Ask<'_>,
) -> Result<Authorization, Refusal> {
    let Some(endpoint_name) = &ask.origin.endpoint else {
        if facts.kind == EvidenceKind::Operator {
            return Ok(Authorization { facts, bounds, grant: Grant::Operator });
        }
        return Err(Refusal::new(Reason::NotAuthorized, "only an operator may enroll without an endpoint"));
    };
    let Some(endpoint) = endpoint.filter(|endpoint| endpoint.enabled && endpoint.name == *endpoint_name) else {
        return Err(Refusal::new(Reason::NotReady, format!("endpoint {endpoint_name} is not enabled")));
    };
    if endpoint.protocol != ask.origin.protocol || endpoint.authority != *ask.authority {
        return Err(Refusal::new(
            Reason::NotAuthorized,
            format!("endpoint {endpoint_name} does not serve this authority and protocol"),
        ));
    }
    if !endpoint.profiles.contains(ask.profile) {
        return Err(Refusal::new(
            Reason::UnknownProfile,
            format!("endpoint {endpoint_name} does not offer profile {}", ask.profile),
        ));
    }
    denied(endpoint, ask.names)?;
    shown(&facts, &bounds, ask.names)?;
    bounds.admit(ask)?;
    // An endpoint without any rule grants nobody anything by itself, and lets operators decide on those who show only a key.
    if endpoint.rules.is_empty() && facts.kind == EvidenceKind::KeyAlone {
        return Ok(Authorization { facts, bounds, grant: Grant::ByHand { endpoint: endpoint.clone() } });
    }

    let by_requester = |rule: &&AccessRule| {
        rule.requesters.iter().any(|who| who.evidence == facts.kind && who.requester.covers(&facts.requester))
    };
    let by_profile = |rule: &&AccessRule| rule.profiles.contains(ask.profile);
    let by_key = |rule: &&AccessRule| rule.keys.as_ref().is_none_or(|kinds| kinds.contains(&ask.key));
    let mut refusal = Refusal::new(Reason::NotAuthorized, "no access rule of this endpoint covers the requester")
        .with_private(format!("endpoint {endpoint_name}, requester {}", facts.requester));
    for rule in endpoint.rules.iter().filter(by_requester) {
        if !by_profile(&rule) {
            refusal = Refusal::new(
                Reason::NotAuthorized,
                format!("no access rule grants profile {} to this requester", ask.profile),
            );
        } else if !by_key(&rule) {
            refusal = Refusal::new(Reason::BadKey, "the access rules do not allow this kind of key");
        } else if let Some(extension) = unlisted(rule, ask.extensions) {
            refusal = Refusal::new(
                Reason::NotAuthorized,
                format!("the access rules do not allow a request to bring extension {extension}"),
            );
        } else if let Err(name) = allowed(&rule.allow, &rule.name, ask.names) {
            refusal = name;
        } else if rule.approval && facts.kind == EvidenceKind::Device {
            let text = "the word of a device management system cannot wait for approval";
            refusal = Refusal::new(Reason::NotAuthorized, text).with_private(format!("rule {:?}", rule.name));
        } else {
            return Ok(Authorization {
                facts,
                bounds,
                grant: Grant::Rule { endpoint: endpoint.clone(), rule: Box::new(rule.clone()) },
            });
        }
    }
    Err(refusal)
}

/// What can be said of names before anything was shown: for each name, the refusal that it will meet whatever is shown, and one of
/// all names together if each may stand by itself but no rule covers them all.
pub(crate) fn foresee(
    endpoint: &Endpoint,
    facts: &EvidenceFacts,
    profile: &ProfileName,
    names: &[AlternativeName],
    binding: Option<&Binding>,
) -> (Vec<Option<Refusal>>, Option<Refusal>) {
    if binding.and_then(|binding| binding.profiles.as_ref()).is_some_and(|profiles| !profiles.contains(profile)) {
        let text = format!("the credential does not allow profile {profile}");
        return (vec![None; names.len()], Some(Refusal::new(Reason::NotAuthorized, text)));
    }
    let covers = |rule: &&AccessRule| {
        rule.profiles.contains(profile)
            && rule.requesters.iter().any(|who| who.evidence == facts.kind && who.requester.covers(&facts.requester))
    };
    let rules: Vec<&AccessRule> = endpoint.rules.iter().filter(covers).collect();
    if rules.is_empty() {
        let text = format!("no access rule grants profile {profile} to this requester");
        return (vec![None; names.len()], Some(Refusal::new(Reason::NotAuthorized, text)));
    }
    let one = |name: &AlternativeName| {
        if let Some(rule) = endpoint.rules.iter().find(|rule| rule.deny.denies(name)) {
            return Some(not_allowed(&name.to_string(), &rule.name));
        }
        if binding.and_then(|binding| binding.names.as_ref()).is_some_and(|rules| !rules.allows(name)) {
            return Some(not_allowed(&name.to_string(), "the credential's names"));
        }
        // Whether all of the exact names are there, only the whole request shows.
        let exact = binding.and_then(|binding| binding.alternative_names.as_ref());
        if exact.is_some_and(|exact| !exact.contains(name)) {
            return Some(not_allowed(&name.to_string(), "the credential's alternative names"));
        }
        let allowed = rules.iter().any(|rule| rule.allow.allows(name));
        (!allowed).then(|| not_allowed(&name.to_string(), "any"))
    };
    let each: Vec<Option<Refusal>> = names.iter().map(one).collect();
    let together =
        each.iter().any(Option::is_some) || rules.iter().any(|rule| names.iter().all(|name| rule.allow.allows(name)));
    let refusal = (!together)
        .then(|| Refusal::new(Reason::NameNotAllowed, "no access rule allows these names in one certificate"));
    (each, refusal)
}

/// The first extension asked for that the rule does not list.
fn unlisted<'a>(rule: &AccessRule, extensions: &'a [(ObjectIdentifier, Vec<u8>)]) -> Option<&'a ObjectIdentifier> {
    let listed = |oid: &ObjectIdentifier| rule.extensions.iter().any(|extension| extension.oid() == *oid);
    extensions.iter().map(|(oid, _)| oid).find(|oid| !listed(oid))
}

fn denied(endpoint: &Endpoint, names: &RequestedNames) -> Result<(), Refusal> {
    for rule in &endpoint.rules {
        if let Some(name) = names.alternative.iter().find(|name| rule.deny.denies(name)) {
            return Err(not_allowed(&name.to_string(), &rule.name));
        }
        // A denied name is denied wherever in the subject somebody may look for it.
        if let Some(value) = rule.deny.denied_attribute(&names.subject) {
            return Err(not_allowed(&value, &rule.name));
        }
    }
    Ok(())
}

/// Where control of identifiers is the evidence, every name must be among them, but for those that need none.
fn shown(facts: &EvidenceFacts, bounds: &Bounds, names: &RequestedNames) -> Result<(), Refusal> {
    if facts.kind != EvidenceKind::Challenges {
        return Ok(());
    }
    for name in &names.alternative {
        let shown = facts.identifiers.iter().any(|identifier| match wildcard_base(name) {
            Some((_, base)) => identifier.wildcard && identifier.name == AlternativeName::Dns(base.to_owned()),
            None => identifier.name == *name,
        });
        if !shown && !bounds.needs_no_challenge(name) {
            return Err(Refusal::new(Reason::NameNotAllowed, format!("control of {name} was not shown")));
        }
    }
    Ok(())
}

/// Whether every name is allowed; `whose` names the rules in the audit log.
pub(crate) fn allowed(rules: &NameRules, whose: &str, names: &RequestedNames) -> Result<(), Refusal> {
    if let Some(name) = names.alternative.iter().find(|name| !rules.allows(name)) {
        return Err(not_allowed(&name.to_string(), whose));
    }
    for (attribute, value) in names.subject.attributes() {
        let repeats =
            attribute == const_oid::db::rfc4519::CN && names.alternative.iter().any(|name| repeats(&value, name));
        if !repeats && !rules.covers_attribute(&attribute, &value) {
            return Err(not_allowed(&value, whose));
        }
    }
    Ok(())
}

fn not_allowed(name: &str, rule: &str) -> Refusal {
    Refusal::new(Reason::NameNotAllowed, format!("the access rules do not allow the name {name:?}"))
        .with_private(format!("rule {rule:?}"))
}

/// Who may revoke: the bearer of a token with that right, an operator, the one who requested the certificate, whoever shows its
/// key, and whoever shows control of every name in it.
pub(crate) fn authorize_revocation(
    facts: &EvidenceFacts,
    serial: &Serial,
    requesters: &[Option<&str>],
    names: &RequestedNames,
    token: Option<&Binding>,
) -> Result<(), Refusal> {
    // The bearer of a secret has what the token grants, for the names that it may have. Others may have the same secret, so that
    // having asked for a certificate with it says nothing.
    if facts.kind == EvidenceKind::Secret {
        let missing = || Refusal::new(Reason::NotAuthorized, "a secret alone does not change a certificate's status");
        return token.ok_or_else(missing)?.admits(names);
    }
    let itself = facts.kind == EvidenceKind::Certificate && facts.requester == format!("certificate:{serial}");
    let controls_all = facts.kind == EvidenceKind::Challenges
        && !names.alternative.is_empty()
        && shown(facts, &Bounds::default(), names).is_ok();
    if facts.kind == EvidenceKind::Operator
        || requesters.contains(&Some(facts.requester.as_str()))
        || itself
        || controls_all
    {
        return Ok(());
    }
    Err(Refusal::new(Reason::NotAuthorized, "the certificate belongs to another requester"))
}
