//! Whether the owners of names let this authority issue: CAA records (RFC 8659) with their parameters (RFC 8657).
//!
//! They are asked for between finalization and signing, outside the request, and what was found holds for eight hours (the Baseline
//! Requirements' section 3.2.2.8). A request that then waits for an operator's approval is signed when that comes.

use ca_backend::{Error, Time};

use crate::authorization::AuthorizationState;
use crate::error::ProblemType;
use crate::identifier::Identifier;
use crate::issue_value::{IssueValue, Single};
use crate::ledger::Ledger;
use crate::order::Order;
use crate::validation::{Found, Verdict};

/// How long a look at CAA records counts, in seconds.
const HOLDS_S: u64 = 8 * 3600;

/// The properties that are understood. Only the first two restrict who may issue for a host name.
const KNOWN_TAGS: [&str; 6] = ["issue", "issuewild", "iodef", "issuemail", "contactemail", "contactphone"];

/// Where an order stands with the CAA records of its names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CaaCheck {
    /// Nobody looked.
    #[default]
    NotAsked,
    /// A validation job looks.
    Asked,
    /// They let us issue.
    Clear { at: Time },
}

impl CaaCheck {
    pub(crate) fn holds(self, now: Time) -> bool {
        matches!(self, Self::Clear { at } if now < at.plus_s(HOLDS_S))
    }
}

/// The relevant record set of a name (RFC 8659 section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaaSet {
    /// The name that has the records; empty if there are none up to the root.
    pub found_at: String,
    /// The properties in them.
    pub properties: Vec<CaaProperty>,
}

/// One property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaaProperty {
    /// Whether who does not understand it must not issue.
    pub critical: bool,
    /// Its tag.
    pub tag: String,
    /// Its value.
    pub value: String,
}

/// What a certificate is to be issued for, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issuance {
    /// The domain names of this authority.
    pub(crate) issuers: Vec<String>,
    pub(crate) account_url: String,
    pub(crate) names: Vec<Name>,
}

/// A host name of the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// Without its wildcard label.
    base: String,
    wildcard: bool,
    /// How control of it was shown.
    method: &'static str,
}

impl Issuance {
    pub(crate) fn of(order: &Order, ledger: &Ledger, issuers: &[String], account_url: String) -> Result<Self, Error> {
        let mut methods = Vec::with_capacity(order.authorizations.len());
        for id in &order.authorizations {
            if let Some(authorization) = ledger.authorization(id)?
                && let AuthorizationState::Valid { method, .. } = authorization.value.state
            {
                methods.push((authorization.value, method));
            }
        }
        let mut names = Vec::new();
        for identifier in &order.identifiers {
            if let Identifier::Dns { name, wildcard } = identifier {
                let method = methods.iter().find(|(authorization, _)| authorization.covers(identifier));
                let method = method.map_or("", |(_, method)| method.name());
                names.push(Name { base: name.clone(), wildcard: *wildcard, method });
            }
        }
        Ok(Self { issuers: issuers.to_vec(), account_url, names })
    }

    /// The names to look at.
    pub(crate) fn question(&self) -> Vec<String> {
        self.names.iter().map(|name| name.base.clone()).collect()
    }

    pub(crate) fn judge(&self, found: &Found) -> Verdict {
        let sets = match found {
            Found::Caa(sets) if sets.len() == self.names.len() => sets,
            Found::Failed { class, text } => {
                return match class.verdict(text) {
                    Verdict::Shown(_) => Verdict::NoAnswer(ProblemType::Dns, text.clone()),
                    verdict @ (Verdict::NotShown(..) | Verdict::NoAnswer(..)) => verdict,
                };
            }
            Found::Caa(_) | Found::Http { .. } | Found::Txt(_) | Found::Certificate { .. } => {
                return Verdict::NoAnswer(
                    ProblemType::ServerInternal,
                    "the CAA records could not be judged".to_owned(),
                );
            }
        };
        for (name, set) in self.names.iter().zip(sets) {
            if let Err(why) = self.permitted(name, set) {
                let text = format!("the CAA records at {} {why} {}", set.found_at, name.base);
                return Verdict::NotShown(ProblemType::Caa, text);
            }
        }
        Verdict::Shown("CAA".to_owned())
    }

    fn permitted(&self, name: &Name, set: &CaaSet) -> Result<(), &'static str> {
        let known = |tag: &str| KNOWN_TAGS.iter().any(|known| known.eq_ignore_ascii_case(tag));
        if set.properties.iter().any(|property| property.critical && !known(&property.tag)) {
            return Err("hold a critical property that this server does not know, which forbids to issue for");
        }
        let of = |tag: &str| -> Vec<&CaaProperty> {
            set.properties.iter().filter(|property| property.tag.eq_ignore_ascii_case(tag)).collect()
        };
        let wild = if name.wildcard { of("issuewild") } else { Vec::new() };
        let restricting = if wild.is_empty() { of("issue") } else { wild };
        let permits = |property: &&CaaProperty| self.permits(name, &property.value);
        if restricting.is_empty() || restricting.iter().any(permits) {
            return Ok(());
        }
        Err("do not let this server, this account and this way of validation issue for")
    }

    /// Whether one `issue` or `issuewild` property names us. One that cannot be read names nobody (RFC 8659 section 4.2).
    fn permits(&self, name: &Name, value: &str) -> bool {
        let Some(value) = IssueValue::parse(value) else { return false };
        let account = match value.single("accounturi") {
            Single::Absent => true,
            Single::Once(url) => url == self.account_url,
            Single::Repeated => false,
        };
        let method = match value.single("validationmethods") {
            Single::Absent => true,
            Single::Once(methods) => methods.split(',').any(|method| method == name.method),
            Single::Repeated => false,
        };
        value.names_one_of(&self.issuers) && account && method
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(properties: &[(bool, &str, &str)]) -> CaaSet {
        let property = |(critical, tag, value): &(bool, &str, &str)| CaaProperty {
            critical: *critical,
            tag: (*tag).to_owned(),
            value: (*value).to_owned(),
        };
        CaaSet { found_at: "example".to_owned(), properties: properties.iter().map(property).collect() }
    }

    fn issues(wildcard: bool, properties: &[(bool, &str, &str)]) -> bool {
        let name = Name { base: "host.example".to_owned(), wildcard, method: "dns-01" };
        let issuance = Issuance {
            issuers: vec!["ca.example".to_owned(), "Pki.example".to_owned()],
            account_url: "https://ca.example/acme/account/1".to_owned(),
            names: vec![name],
        };
        matches!(issuance.judge(&Found::Caa(vec![set(properties)])), Verdict::Shown(_))
    }

    #[test]
    fn s15_caa_records_say_who_may_issue() {
        for (properties, host, wildcard) in [
            (&[][..], true, true),
            (&[(false, "issue", "ca.example")], true, true),
            (&[(true, "ISSUE", " CA.example. ")], true, true),
            (&[(false, "issue", "pki.example")], true, true),
            (&[(false, "issue", "other.example")], false, false),
            (&[(false, "issue", "other.example"), (false, "issue", "ca.example")], true, true),
            (&[(false, "issue", ";")], false, false),
            (&[(false, "issue", "%%%")], false, false),
            (&[(false, "issue", "%%%"), (false, "issue", "ca.example")], true, true),
            (&[(false, "issuewild", ";")], true, false),
            (&[(false, "issuewild", "ca.example")], true, true),
            (&[(false, "issue", ";"), (false, "issuewild", "ca.example")], false, true),
            (&[(false, "issue", "ca.example"), (false, "issuewild", "other.example")], true, false),
            (&[(false, "iodef", "mailto:a@example")], true, true),
            (&[(true, "iodef", "mailto:a@example")], true, true),
            (&[(false, "unknown", "x")], true, true),
            (&[(true, "unknown", "x")], false, false),
            (&[(true, "unknown", "x"), (false, "issue", "ca.example")], false, false),
        ] {
            assert_eq!(issues(false, properties), host, "{properties:?}");
            assert_eq!(issues(true, properties), wildcard, "*. {properties:?}");
        }
    }

    #[test]
    fn s15_caa_parameters_bind_account_and_method() {
        const ACCOUNT: &str = "accounturi=https://ca.example/acme/account/1";
        for (parameters, permitted) in [
            (ACCOUNT.to_owned(), true),
            (format!("{ACCOUNT}2"), false),
            (format!("{ACCOUNT}; {ACCOUNT}"), false),
            ("accounturi=".to_owned(), false),
            ("validationmethods=dns-01".to_owned(), true),
            ("ValidationMethods=http-01,dns-01".to_owned(), true),
            ("validationmethods=http-01".to_owned(), false),
            ("validationmethods=".to_owned(), false),
            (format!("{ACCOUNT}; validationmethods=tls-alpn-01"), false),
            (format!("{ACCOUNT}; validationmethods=dns-01; other=1"), true),
        ] {
            assert_eq!(
                issues(false, &[(false, "issue", &format!("ca.example; {parameters}"))]),
                permitted,
                "{parameters}"
            );
        }
    }
}
