//! Patterns for texts and host names in access rules.

use serde::{Deserialize, Serialize};

/// A pattern for a whole text: `*` (anything), `abc*` (a prefix), `*abc` (a suffix), or the text itself. Letter case and repeated spaces do not
/// count, as in the matching of directory names (RFC 5280 section 7.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TextRule {
    /// Anything.
    Any,
    /// Exactly this.
    Exact(String),
    /// What begins with this.
    Prefix(String),
    /// What ends with this.
    Suffix(String),
}

/// A pattern for DNS names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DnsRule {
    /// Every name.
    Any,
    /// This name.
    Exact(String),
    /// Every name below this one, at any depth, not itself.
    Below(String),
}

impl TextRule {
    pub(super) fn any() -> Self {
        Self::Any
    }

    pub(super) fn covers(&self, text: &str) -> bool {
        let text = folded(text);
        match self {
            Self::Any => true,
            Self::Exact(whole) => text == *whole,
            Self::Prefix(start) => text.starts_with(start.as_str()),
            Self::Suffix(end) => text.ends_with(end.as_str()),
        }
    }
}

/// A denial that matches nothing is worse than none, so what would silently be taken literally is refused.
impl TryFrom<String> for TextRule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let text = folded(&text);
        if text == "*" {
            return Ok(Self::Any);
        }
        let (rest, rule): (&str, fn(String) -> Self) = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(end), _) => (end, Self::Suffix),
            (None, Some(start)) => (start, Self::Prefix),
            (None, None) => (&text, Self::Exact),
        };
        if rest.contains('*') || rest.is_empty() {
            return Err(format!("{text:?} is no pattern: one * may stand at the beginning or at the end"));
        }
        Ok(rule(rest.to_owned()))
    }
}

/// In lower case, with one space for several.
pub(super) fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for c in text.chars().flat_map(char::to_lowercase) {
        match c.is_whitespace() {
            true if folded.ends_with(' ') => {}
            true => folded.push(' '),
            false => folded.push(c),
        }
    }
    folded
}

impl From<TextRule> for String {
    fn from(rule: TextRule) -> Self {
        match rule {
            TextRule::Any => "*".to_owned(),
            TextRule::Exact(whole) => whole,
            TextRule::Prefix(start) => start + "*",
            TextRule::Suffix(end) => format!("*{end}"),
        }
    }
}

impl DnsRule {
    pub(super) fn covers(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        match self {
            Self::Any => true,
            Self::Exact(whole) => name == *whole,
            Self::Below(parent) => {
                name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }

    /// Whether some name directly below `base` is covered: what a denial must look at for `*.base`.
    pub(super) fn touches_below(&self, base: &str) -> bool {
        let base = base.to_ascii_lowercase();
        let is_below = |name: &str| name.strip_suffix(base.as_str()).is_some_and(|rest| rest.ends_with('.'));
        match self {
            Self::Any => true,
            Self::Exact(whole) => is_below(whole),
            Self::Below(parent) => *parent == base || is_below(parent) || self.covers(&base),
        }
    }
}

/// A denial that matches nothing is worse than none, so what no name can equal is refused.
impl TryFrom<String> for DnsRule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        if text == "*" {
            return Ok(Self::Any);
        }
        let name = text.strip_prefix('.').unwrap_or(&text);
        let octets = |label: &str| label.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_".contains(&octet));
        if name.split('.').any(|label| label.is_empty() || !octets(label)) {
            return Err(format!(
                "{text:?} is no pattern of names: write host.example.org for itself, .example.org for everything below it, international names \
                 as A-labels (xn--), and no dot at the end"
            ));
        }
        Ok(if name.len() < text.len() { Self::Below(name.to_owned()) } else { Self::Exact(text) })
    }
}

impl From<DnsRule> for String {
    fn from(rule: DnsRule) -> Self {
        match rule {
            DnsRule::Any => "*".to_owned(),
            DnsRule::Exact(whole) => whole,
            DnsRule::Below(parent) => format!(".{parent}"),
        }
    }
}
