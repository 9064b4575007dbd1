//! The body of an answer, handed on in pieces as its client takes them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::patience::Pulse;

/// The longest piece, in bytes. hyper asks for the next one once it has room for it, so a client that takes less than this within
/// the idle time is as good as gone.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Octets that a client is to get.
pub(super) struct Answer {
    left: Bytes,
    /// Whom to tell of each piece; nobody if there is only one, since the request itself has just moved the connection.
    pulse: Option<Arc<Pulse>>,
}

impl Answer {
    pub(super) fn new(octets: Bytes, pulse: &Arc<Pulse>) -> Self {
        let pulse = (octets.len() > PIECE_BYTES_MAX).then(|| Arc::clone(pulse));
        Self { left: octets, pulse }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        if let Some(pulse) = &self.pulse {
            pulse.piece_taken();
        }
        let bytes = self.left.len().min(PIECE_BYTES_MAX);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
