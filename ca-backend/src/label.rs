//! The short names of things that operators name: authorities, profiles, endpoints, protocols.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Reason, Refusal};

/// The most octets a label may have.
const LABEL_OCTETS_MAX: usize = 64;

fn check(kind: &str, text: &str) -> Result<(), Refusal> {
    let letters = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if letters && !text.is_empty() && text.len() <= LABEL_OCTETS_MAX && !text.starts_with('-') && !text.ends_with('-') {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::Malformed,
        format!(
            "{text:?} cannot name {kind}: use up to {LABEL_OCTETS_MAX} lower-case letters, digits and inner hyphens"
        ),
    ))
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// `Reason::Malformed` if it is not lower-case letters, digits and inner hyphens.
            pub fn new(text: impl AsRef<str>) -> Result<Self, Refusal> {
                check($kind, text.as_ref())?;
                Ok(Self(text.as_ref().into()))
            }

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                Self::new(text).map_err(|refusal| refusal.public().to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::try_from(text.to_owned())
            }
        }
    };
}

label!(
    /// Names an authority, and is part of its status URLs.
    AuthorityName,
    "an authority"
);
label!(
    /// Names a profile.
    ProfileName,
    "a profile"
);
label!(
    /// Names an endpoint, and is part of its URL.
    EndpointName,
    "an endpoint"
);
label!(
    /// Names a protocol in records and metrics: `acme`, `scep`, `operator`, ...
    ProtocolName,
    "a protocol"
);
