//! Requests that a protocol sends to hosts which the operator named: a device management service, a webhook.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// Asks other hosts. The gateway implements it, since it owns every socket; it blocks, so ask from a lane of workers only.
pub trait Outbound: Send + Sync {
    /// Sends a request and waits for the whole answer, whatever its status. The URI is absolute, `https`, or `http` where the
    /// implementation was told so. Redirects are not followed: a secret in the request must not travel.
    ///
    /// # Errors
    /// What kept the answer from us; no answer of the other host is an error by its status.
    fn ask(
        &self,
        request: http::Request<Bytes>,
        limits: OutboundLimits,
    ) -> Result<http::Response<Bytes>, OutboundError>;

    /// Blocks for a while, between two attempts.
    fn pause(&self, time: Duration);
}

/// What one request may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundLimits {
    /// From the name's lookup to the last octet of the answer.
    pub timeout: Duration,
    /// Octets of the answer's body; a longer one is an error.
    pub body_bytes_max: usize,
}

/// Why there is no answer. The texts hold nothing that the other host sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundError {
    /// The request cannot be sent at all: its URI is none, or its address may not be reached. Trying again is of no use.
    Refused(String),
    /// No connection, no TLS session, or it broke; another attempt may do better.
    Unreachable(String),
    /// Time ran out.
    Timeout,
    /// The answer is longer than the limit, or no HTTP.
    BadAnswer(String),
}

impl fmt::Display for OutboundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "the request may not be sent: {why}"),
            Self::Unreachable(why) => write!(f, "the host cannot be reached: {why}"),
            Self::Timeout => f.write_str("the host did not answer in time"),
            Self::BadAnswer(why) => write!(f, "the answer is unusable: {why}"),
        }
    }
}

impl std::error::Error for OutboundError {}
