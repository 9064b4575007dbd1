//! dns-persist-01: a TXT record that stays and names the account (draft-ietf-acme-dns-persist).

use ca_backend::Time;

use crate::error::ProblemType;
use crate::issue_value::{IssueValue, Single};
use crate::validation::{Found, Verdict};

/// The record that must be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Persistent {
    /// The domain names of this authority.
    pub(crate) issuers: Vec<String>,
    pub(crate) account_url: String,
    /// Whether `*.` before the name, or every name below it, is to be shown.
    pub(crate) wildcard: bool,
    /// When the look begins.
    pub(crate) at: Time,
}

impl Persistent {
    /// One record that is right is enough; those of other issuers do not count.
    pub(crate) fn judge(&self, name: &str, found: &Found) -> Verdict {
        let records = match found {
            Found::Txt(records) => records,
            Found::Failed { class, text } => return class.verdict(text),
            Found::Http { .. } | Found::Certificate { .. } | Found::Caa(_) => {
                return Verdict::NoAnswer(ProblemType::ServerInternal, "the challenge could not be checked".to_owned());
            }
        };
        let mut failure = (ProblemType::Unauthorized, "no TXT record names this server");
        for record in records {
            match self.check(record) {
                Ok(true) => return Verdict::Shown(format!("dns-persist-01 at {name}")),
                Ok(false) => {}
                Err(why) => failure = why,
            }
        }
        Verdict::NotShown(failure.0, format!("{name}: {}", failure.1))
    }

    /// Whether the record is for this server and shows control; why not, if it is for this server.
    fn check(&self, record: &str) -> Result<bool, (ProblemType, &'static str)> {
        let unauthorized = |why| Err((ProblemType::Unauthorized, why));
        let malformed = |why| Err((ProblemType::Malformed, why));
        let Some(value) = IssueValue::parse(record) else {
            let issuer = record.split(';').next().unwrap_or_default().trim();
            return match self.issuers.iter().any(|ours| ours.eq_ignore_ascii_case(issuer)) {
                true => malformed("the TXT record for this server cannot be read"),
                false => Ok(false),
            };
        };
        if !value.names_one_of(&self.issuers) {
            return Ok(false);
        }
        match value.single("accounturi") {
            Single::Once(url) if url == self.account_url => {}
            Single::Once(_) | Single::Absent => return unauthorized("the TXT record is not for this account"),
            Single::Repeated => return malformed("the TXT record has a parameter twice"),
        }
        match value.single("persistUntil") {
            Single::Absent => {}
            Single::Once(until) => match until.parse::<u64>() {
                Ok(until) if self.at.unix() <= until => {}
                Ok(_) => return unauthorized("the TXT record is too old (persistUntil)"),
                Err(_) => return malformed("persistUntil of the TXT record is no number"),
            },
            Single::Repeated => return malformed("the TXT record has a parameter twice"),
        }
        match value.single("policy") {
            Single::Repeated => malformed("the TXT record has a parameter twice"),
            Single::Once(policy) if policy.eq_ignore_ascii_case("wildcard") => Ok(true),
            Single::Once(_) | Single::Absent if self.wildcard => {
                unauthorized("the TXT record does not say policy=wildcard")
            }
            Single::Once(_) | Single::Absent => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persistent_record_names_issuer_and_account_and_may_end() {
        const RIGHT: &str = "ca.example; accounturi=https://ca.example/acme/account/1";
        for (records, host, wildcard) in [
            (vec![RIGHT.to_owned()], true, false),
            (vec!["v=spf1 -all".to_owned(), "other.example; accounturi=x".to_owned(), RIGHT.to_owned()], true, false),
            (vec![format!("{RIGHT}; POLICY=Wildcard")], true, true),
            (vec![format!("{RIGHT}; policy=other; unknown=1")], true, false),
            (vec![format!("{RIGHT}; persistUntil=1000")], true, false),
            (vec![format!("{RIGHT}; persistUntil=999")], false, false),
            (vec![format!("{RIGHT}; persistUntil=soon")], false, false),
            (vec![format!("{RIGHT}; persistUntil=2000; persistuntil=2000")], false, false),
            (vec![format!("{RIGHT}2")], false, false),
            (vec!["ca.example".to_owned()], false, false),
            (vec![RIGHT.replace("ca.example;", "other.example;")], false, false),
            (vec![], false, false),
        ] {
            for (asked, expected) in [(false, host), (true, wildcard)] {
                let wanted = Persistent {
                    issuers: vec!["CA.example".to_owned()],
                    account_url: "https://ca.example/acme/account/1".to_owned(),
                    wildcard: asked,
                    at: Time::from_unix(1000),
                };
                let verdict = wanted.judge("_validation-persist.host.example", &Found::Txt(records.clone()));
                assert_eq!(matches!(verdict, Verdict::Shown(_)), expected, "{asked} {records:?}");
            }
        }
    }
}
