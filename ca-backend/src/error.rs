//! What can go wrong: a fault is ours to fix, a refusal the requester's.

/// Why a call on the engine brought no result.
#[derive(Debug)]
pub enum Error {
    /// Ours to fix. The client learns only that the service is unavailable.
    Fault(Fault),
    /// The requester's to fix. The client learns the reason and what to do.
    Refused(Refusal),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A request that must not be granted.
///
/// It has no `Display`: the private text cannot be printed into a reply by accident. Texts are lower-case fragments that read
/// after "failed to ...:".
#[derive(Clone, Debug)]
pub struct Refusal {
    reason: Reason,
    public: String,
    private: String,
    retry_after_s: Option<u32>,
}

impl Refusal {
    /// A refusal whose text may be shown to the requester.
    pub fn new(reason: Reason, public: impl Into<String>) -> Self {
        Self { reason, public: public.into(), private: String::new(), retry_after_s: None }
    }

    /// Adds what only the log and the audit record may say.
    #[must_use]
    pub fn with_private(mut self, private: impl Into<String>) -> Self {
        self.private = private.into();
        self
    }

    /// Adds when a new attempt makes sense, in seconds.
    #[must_use]
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The class of refusal, which each protocol maps to its own code.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The text for the requester.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The text for the log and the audit record: the public one and what was added to it.
    #[must_use]
    pub fn private(&self) -> String {
        if self.private.is_empty() { self.public.clone() } else { format!("{} ({})", self.public, self.private) }
    }

    /// Seconds after which a new attempt makes sense.
    #[must_use]
    pub fn retry_after(&self) -> Option<u32> {
        self.retry_after_s
    }
}

/// The closed list of reasons for a refusal. Each protocol matches it without a wildcard arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The certificate is revoked already.
    AlreadyRevoked,
    /// A signature or digest algorithm that is not accepted.
    BadAlgorithm,
    /// A public key that is weak, malformed, of a refused kind, or known to be compromised.
    BadKey,
    /// Possession of the key was not shown.
    BadProof,
    /// A time outside the allowed window.
    BadTime,
    /// The thing exists already, or changed meanwhile.
    Conflict,
    /// The bytes do not follow their format, or exceed a limit.
    Malformed,
    /// A subject or alternative name that the rules do not allow.
    NameNotAllowed,
    /// The requester has not shown who it is.
    NotAuthenticated,
    /// The requester is known but may not do this.
    NotAuthorized,
    /// The thing is not in the state that the request needs.
    NotReady,
    /// Too many requests; `Refusal::retry_after` says when to come back.
    RateLimited,
    /// No such certificate, or not one of ours.
    UnknownCertificate,
    /// No such profile, or not one that the endpoint offers.
    UnknownProfile,
    /// A form of request that is understood but not served.
    Unsupported,
}

impl Reason {
    /// The reason in kebab case, as logs, audit records and the operators' API show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AlreadyRevoked => "already-revoked",
            Self::BadAlgorithm => "bad-algorithm",
            Self::BadKey => "bad-key",
            Self::BadProof => "bad-proof",
            Self::BadTime => "bad-time",
            Self::Conflict => "conflict",
            Self::Malformed => "malformed",
            Self::NameNotAllowed => "name-not-allowed",
            Self::NotAuthenticated => "not-authenticated",
            Self::NotAuthorized => "not-authorized",
            Self::NotReady => "not-ready",
            Self::RateLimited => "rate-limited",
            Self::UnknownCertificate => "unknown-certificate",
            Self::UnknownProfile => "unknown-profile",
            Self::Unsupported => "unsupported",
        }
    }
}

/// Something on our side that does not work.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A key store did not do its work.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// The store did not do its work.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// Busy or recovering; a later attempt will do.
    #[error("unavailable for the next {after_s} s")]
    TryLater {
        /// Seconds until a new attempt makes sense.
        after_s: u32,
    },
    /// Something that cannot happen unless the program or a stored record is wrong.
    #[error("internal fault: {0}")]
    Broken(String),
}

impl From<der::Error> for Fault {
    fn from(error: der::Error) -> Self {
        Self::Broken(format!("encoding failed: {error}"))
    }
}

/// What a key store can suffer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KeyFault {
    /// The key store cannot be reached now; it may come back.
    #[error("key store unavailable: {0}")]
    Unavailable(String),
    /// No key under this reference.
    #[error("no key at {0}")]
    NotFound(String),
    /// The key store cannot do this with this key.
    #[error("key store cannot do this: {0}")]
    Unsupported(String),
    /// What was to be decrypted was not encrypted for this key, or in another way. It says no more, lest it help who is guessing.
    #[error("the ciphertext does not decrypt")]
    Undecipherable,
    /// The key exists but cannot be read or does not work.
    #[error("key unusable: {0}")]
    Unusable(String),
}

/// What a store can suffer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreFault {
    /// The store cannot be reached now; it may come back.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// No room is left to write.
    #[error("the store's disk is full: {0}")]
    Full(String),
    /// What was read is not what was written.
    #[error("store damaged: {0}")]
    Corrupt(String),
}
