//! What is wrong with the settings, said so that it can be put right.

use std::fmt;
use std::path::PathBuf;

use figment::Figment;
use figment::error::Kind;
use toml::de::{DeTable, DeValue};

use crate::check::Wrong;

/// Why settings cannot be used. Its text names the key, where it was set, and what would be right.
#[derive(Debug)]
pub enum SettingsError {
    /// The file cannot be opened.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A key that does not exist.
    UnknownKey {
        /// The key as it was written, with its section: `store.engin`.
        key: String,
        /// The nearest key that exists there, if any is near.
        nearest: Option<String>,
        /// The keys that exist there.
        known: Vec<String>,
        /// The file or the environment variables.
        origin: String,
    },
    /// The text is no TOML, or a value is of the wrong kind or outside its range.
    Invalid {
        /// The key, with its section; empty if the text as a whole is meant.
        key: String,
        /// What is wrong.
        wrong: String,
        /// The file or the environment variables.
        origin: String,
    },
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, source } => {
                write!(f, "cannot read settings from {}: {source}", path.display())
            }
            Self::UnknownKey { key, nearest: Some(nearest), known: _, origin } => {
                write!(f, "unknown key `{key}` in {origin}: did you mean `{nearest}`?")
            }
            Self::UnknownKey { key, nearest: None, known, origin } => {
                write!(f, "unknown key `{key}` in {origin}: the keys there are {}", known.join(", "))
            }
            Self::Invalid { key, wrong, origin } if key.is_empty() => {
                write!(f, "{origin} cannot be used: {wrong}")
            }
            Self::Invalid { key, wrong, origin } => write!(f, "`{key}` in {origin}: {wrong}"),
        }
    }
}

impl std::error::Error for SettingsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::UnknownKey { .. } | Self::Invalid { .. } => None,
        }
    }
}

/// How alike two keys must be (0 to 1) for one to be offered in place of the other.
const NEAR: f64 = 0.7;

pub(crate) fn explain(cause: figment::Error, figment: &Figment) -> SettingsError {
    if let Kind::UnknownField(field, known) = &cause.kind {
        let mut section = cause.path.clone();
        if section.last() == Some(field) {
            section.pop();
        }
        let key = qualified(&section, field);
        let origin = origin(figment, &key, cause.metadata.as_ref());
        let near = in_section(field, known).or_else(|| nearest(field, known).map(str::to_owned));
        let near = near.map(|near| qualified(&section, &near));
        return SettingsError::UnknownKey {
            nearest: if origin.ends_with(&variable(&key)) { near.map(|near| variable(&near)) } else { near },
            known: known.iter().map(|key| (*key).to_owned()).collect(),
            origin,
            key,
        };
    }
    let key = cause.path.join(".");
    SettingsError::Invalid {
        wrong: cause.kind.to_string(),
        origin: origin(figment, &key, cause.metadata.as_ref()),
        key,
    }
}

pub(crate) fn locate(wrong: Wrong, figment: &Figment) -> SettingsError {
    SettingsError::Invalid { key: wrong.key.to_owned(), origin: origin(figment, wrong.key, None), wrong: wrong.why }
}

fn qualified(section: &[String], key: &str) -> String {
    section.iter().map(String::as_str).chain([key]).collect::<Vec<_>>().join(".")
}

/// A key that was joined to its section as if it were one word: `store_engine`, out of a variable with one underscore too few.
fn in_section(written: &str, known: &[&str]) -> Option<String> {
    known.iter().find_map(|section| Some(format!("{section}.{}", written.strip_prefix(section)?.strip_prefix('_')?)))
}

fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|key| (strsim::jaro_winkler(written, key), *key))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, key)| key)
}

/// Where a key was set, in words.
fn origin(figment: &Figment, key: &str, known: Option<&figment::Metadata>) -> String {
    let Some(metadata) = figment.find_metadata(key).or(known) else {
        return "the defaults".to_owned();
    };
    match &metadata.source {
        Some(source) => match source.file_path().and_then(|path| line(path, key)) {
            Some(line) => format!("{source}, line {line}"),
            None => source.to_string(),
        },
        None if metadata.name.contains("environment") => {
            format!("the environment variable {}", variable(key))
        }
        None => "the settings".to_owned(),
    }
}

/// The line on which a file sets a key; of a key that is not there, that of its section.
fn line(path: &std::path::Path, key: &str) -> Option<usize> {
    let text = std::fs::read_to_string(path).ok()?;
    let table = DeTable::parse(&text).ok()?;
    let (mut table, mut found) = (table.get_ref(), None);
    for part in key.split('.') {
        let Some((name, value)) = table.get_key_value(part) else { break };
        found = Some(name.span().start);
        let DeValue::Table(below) = value.get_ref() else { break };
        table = below;
    }
    Some(text.get(..found?)?.matches('\n').count() + 1)
}

fn variable(key: &str) -> String {
    format!("{}{}", crate::VARIABLE_PREFIX, key.replace('.', "__").to_uppercase())
}
