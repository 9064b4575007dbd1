//! What can be wrong with a message.

/// Why a message was not taken or not made. The texts are for logs, not for the one who sent the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not follow its format, or exceeds a limit.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// It uses an algorithm that is unknown, does not fit the key, or is not permitted here.
    #[error("algorithm not accepted: {0}")]
    Algorithm(String),
    /// Its signature or digest does not verify.
    #[error("the signature does not verify")]
    Signature,
    /// It cannot be decrypted. There is nothing more to know, on purpose.
    #[error("the message cannot be decrypted")]
    Unreadable,
    /// The cryptographic library failed at what cannot fail.
    #[error("the cryptographic library failed to {0}")]
    Library(&'static str),
}

impl Error {
    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }
}

impl From<der::Error> for Error {
    fn from(error: der::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}
