//! What a chain of authorities allows below it (RFC 5280 sections 4.2.1.9 and 4.2.1.10).

/// The constraints of an issuer and of every authority above it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainConstraints {
    /// How many further authorities may follow below the issuer; `None` is any number.
    pub path_len: Option<u8>,
}
