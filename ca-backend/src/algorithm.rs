//! The algorithms of authorities and subjects: one list, so that a new one touches no protocol.

use serde::{Deserialize, Serialize};

/// The algorithm of a key that this daemon makes and uses: authorities, responders, its own TLS certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyAlgorithm {
    /// ECDSA on P-256, signing with SHA-256.
    EcP256,
    /// ECDSA on P-384, signing with SHA-384.
    EcP384,
    /// ECDSA on P-521, signing with SHA-512.
    EcP521,
    /// RSA with 2048 bits, signing PKCS#1 v1.5 with SHA-256.
    Rsa2048,
    /// RSA with 3072 bits, signing PKCS#1 v1.5 with SHA-256.
    Rsa3072,
    /// RSA with 4096 bits, signing PKCS#1 v1.5 with SHA-512.
    Rsa4096,
    /// Ed25519 (RFC 8410).
    Ed25519,
}
