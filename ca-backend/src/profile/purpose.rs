//! The purposes of an extended key usage, by name and by object identifier.

use const_oid::ObjectIdentifier;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const fn oid(dotted: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(dotted)
}

/// TLS servers.
pub(crate) const SERVER_AUTH: ObjectIdentifier = oid("1.3.6.1.5.5.7.3.1");
/// Signing OCSP answers.
pub(crate) const OCSP_SIGNING: ObjectIdentifier = oid("1.3.6.1.5.5.7.3.9");
/// Time stamps.
pub(crate) const TIME_STAMPING: ObjectIdentifier = oid("1.3.6.1.5.5.7.3.8");
/// Everything.
pub(crate) const ANY: ObjectIdentifier = oid("2.5.29.37.0");

/// Purposes that give power over others: a request never obtains them unless the profile names them.
pub(crate) const PROTECTED: &[ObjectIdentifier] = &[
    OCSP_SIGNING,
    TIME_STAMPING,
    ANY,
    oid("1.3.6.1.4.1.311.20.2.1"),   // enrollment agent
    oid("1.3.6.1.4.1.311.20.2.2"),   // smart-card logon
    oid("1.3.6.1.5.2.3.4"),          // PKINIT client
    oid("1.3.6.1.5.2.3.5"),          // PKINIT KDC
    oid("1.3.6.1.4.1.311.21.6"),     // key recovery agent
    oid("1.3.6.1.4.1.311.21.5"),     // CA exchange
    oid("1.3.6.1.4.1.311.10.3.4.1"), // file recovery
    oid("1.3.6.1.4.1.311.10.3.11"),  // key recovery
    oid("1.3.6.1.4.1.311.67.1.2"),   // BitLocker data recovery agent
    oid("1.3.6.1.5.5.7.3.27"),       // CMC CA
    oid("1.3.6.1.5.5.7.3.28"),       // CMC RA
    oid("1.3.6.1.5.5.7.3.29"),       // CMC archive
    oid("1.3.6.1.5.5.7.3.32"),       // CMP key generation
];

/// The purposes that have a name in profiles. Any other is written as a dotted object identifier.
static NAMES: &[(&str, ObjectIdentifier)] = &[
    ("server-auth", SERVER_AUTH),
    ("client-auth", oid("1.3.6.1.5.5.7.3.2")),
    ("code-signing", oid("1.3.6.1.5.5.7.3.3")),
    ("email-protection", oid("1.3.6.1.5.5.7.3.4")),
    ("time-stamping", TIME_STAMPING),
    ("ocsp-signing", OCSP_SIGNING),
    ("document-signing", oid("1.3.6.1.5.5.7.3.36")),
    ("ipsec-ike", oid("1.3.6.1.5.5.7.3.17")),
    ("smart-card-logon", oid("1.3.6.1.4.1.311.20.2.2")),
    ("enrollment-agent", oid("1.3.6.1.4.1.311.20.2.1")),
    ("pkinit-kdc", oid("1.3.6.1.5.2.3.5")),
    ("pkinit-client", oid("1.3.6.1.5.2.3.4")),
    ("piv-card-authentication", oid("2.16.840.1.101.3.6.8")),
    ("piv-content-signing", oid("2.16.840.1.101.3.6.7")),
    ("any", ANY),
];

/// The purpose of a name or a dotted object identifier.
#[must_use]
pub fn parse(text: &str) -> Option<ObjectIdentifier> {
    let named = NAMES.iter().find(|(name, _)| *name == text).map(|(_, oid)| *oid);
    named.or_else(|| ObjectIdentifier::new(text).ok())
}

/// The name of a purpose, or its dotted object identifier.
#[must_use]
pub fn name(purpose: &ObjectIdentifier) -> String {
    NAMES.iter().find(|(_, oid)| oid == purpose).map_or_else(|| purpose.to_string(), |(name, _)| (*name).to_owned())
}

/// The form of a list of purposes in stored records and profiles: their names.
pub(crate) fn serialize<S: Serializer>(purposes: &[ObjectIdentifier], serializer: S) -> Result<S::Ok, S::Error> {
    purposes.iter().map(name).collect::<Vec<_>>().serialize(serializer)
}

/// Reads what [`serialize`] writes.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ObjectIdentifier>, D::Error> {
    let unknown =
        |text: &String| D::Error::custom(format!("{text:?} is neither the name of a purpose nor an object identifier"));
    Vec::<String>::deserialize(deserializer)?.iter().map(|text| parse(text).ok_or_else(|| unknown(text))).collect()
}
