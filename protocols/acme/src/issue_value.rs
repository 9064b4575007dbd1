//! The value of a CAA property `issue` (RFC 8659 section 4.2), which the records of dns-persist-01 share.

/// `ISSUER; tag=value; tag=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IssueValue<'a> {
    /// The issuer's domain name without a trailing dot; empty where none is named.
    pub(crate) issuer: &'a str,
    /// The parameters in their order.
    pub(crate) parameters: Vec<(&'a str, &'a str)>,
}

/// A parameter that may stand once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Single<'a> {
    Absent,
    Once(&'a str),
    Repeated,
}

impl<'a> IssueValue<'a> {
    /// `None` if the text does not follow the grammar.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (issuer, rest) = match text.split_once(';') {
            Some((issuer, rest)) => (issuer, Some(rest)),
            None => (text, None),
        };
        let issuer = trim(issuer);
        let labels_are_right = issuer.is_empty() || issuer.trim_end_matches('.').split('.').all(is_tag);
        if !labels_are_right || issuer.ends_with("..") {
            return None;
        }
        let issuer = issuer.strip_suffix('.').unwrap_or(issuer);
        let mut parameters = Vec::new();
        if let Some(rest) = rest.filter(|rest| !trim(rest).is_empty()) {
            for parameter in rest.split(';') {
                let (tag, value) = parameter.split_once('=')?;
                let (tag, value) = (trim(tag), trim(value));
                if !is_tag(tag) || !value.bytes().all(|octet| octet.is_ascii_graphic()) {
                    return None;
                }
                parameters.push((tag, value));
            }
        }
        Some(Self { issuer, parameters })
    }

    /// The parameter of that tag, whose letter case does not count.
    pub(crate) fn single(&self, tag: &str) -> Single<'a> {
        let mut found = self.parameters.iter().filter(|(shown, _)| shown.eq_ignore_ascii_case(tag));
        match (found.next(), found.next()) {
            (None, _) => Single::Absent,
            (Some((_, value)), None) => Single::Once(value),
            (Some(_), Some(_)) => Single::Repeated,
        }
    }

    /// Whether the issuer is one of these.
    pub(crate) fn names_one_of(&self, issuers: &[String]) -> bool {
        !self.issuer.is_empty() && issuers.iter().any(|issuer| issuer.eq_ignore_ascii_case(self.issuer))
    }
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Letters and digits, with hyphens between them.
fn is_tag(text: &str) -> bool {
    let inner = text.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    inner && !text.is_empty() && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_rfc_8659_writes_them() {
        for (text, issuer, parameters) in [
            ("ca.example", "ca.example", &[][..]),
            ("  ca.example.  ", "ca.example", &[]),
            ("ca.example;", "ca.example", &[]),
            (";", "", &[]),
            ("", "", &[]),
            ("ca1.example.net; account=230123", "ca1.example.net", &[("account", "230123")]),
            ("ca.example ;a=1;b = 2", "ca.example", &[("a", "1"), ("b", "2")]),
            ("ca.example; a=", "ca.example", &[("a", "")]),
            ("ca.example; a=b=c", "ca.example", &[("a", "b=c")]),
        ] {
            let value = IssueValue { issuer, parameters: parameters.to_vec() };
            assert_eq!(IssueValue::parse(text), Some(value), "{text:?}");
        }
        for text in [
            "%%%%%",
            "ca example",
            "ca..example",
            "-ca.example",
            "ca.example; policy",
            "ca.example; a b=1",
            "ca.example; a=b c",
            "ca.example;;",
            "ca.example; a=1;",
            "ca.example; =1",
            "ca.example..",
            ".",
        ] {
            assert_eq!(IssueValue::parse(text), None, "{text:?}");
        }
    }
}
