//! How long a connection may keep us waiting.
//!
//! One timer a connection, which beats once a second and compares what moved: cheaper than a timer for each request, and the
//! same rule for HTTP/1, HTTP/2, with TLS and without. What moves a connection is requests and the answers that their client
//! takes: HTTP/2 has frames that ask for nothing (PING, SETTINGS, WINDOW_UPDATE), and whoever sends them all day is idle.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use config::LimitsSettings;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// What moved on a connection since it began.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    read_bytes: AtomicU64,
    pieces_taken: AtomicU64,
    requests_begun: AtomicU64,
    requests_ended: AtomicU64,
}

/// A request that runs.
pub(super) struct Running<'a>(&'a Pulse);

impl Pulse {
    pub(super) fn request(&self) -> Running<'_> {
        self.requests_begun.fetch_add(1, Ordering::Relaxed);
        Running(self)
    }

    /// The client took a piece of an answer.
    pub(super) fn piece_taken(&self) {
        self.pieces_taken.fetch_add(1, Ordering::Relaxed);
    }

    fn beat(&self) -> Beat {
        Beat {
            ended: self.requests_ended.load(Ordering::Relaxed),
            begun: self.requests_begun.load(Ordering::Relaxed),
            pieces_taken: self.pieces_taken.load(Ordering::Relaxed),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.requests_ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Beat {
    begun: u64,
    ended: u64,
    pieces_taken: u64,
    read_bytes: u64,
}

impl Beat {
    /// A request runs: the client waits for us.
    fn busy(self) -> bool {
        self.begun != self.ended
    }

    /// Requests or answers moved since `before`.
    fn moved_since(self, before: Self) -> bool {
        (self.begun, self.ended, self.pieces_taken) != (before.begun, before.ended, before.pieces_taken)
    }
}

/// Watches one connection.
pub(super) struct Patience {
    pulse: Arc<Pulse>,
    timer: Interval,
    /// The beat at which something moved last.
    calm_since: Beat,
    calm_s: u64,
    idle_timeout_s: u64,
    headers: Option<Headers>,
}

/// HTTP/1 sends nothing between requests, so bytes that begin no request are headers which are not complete.
struct Headers {
    timeout_s: u64,
    waiting_s: u64,
}

impl Patience {
    pub(super) fn http1(limits: &LimitsSettings, pulse: &Arc<Pulse>) -> Self {
        let headers = Headers { timeout_s: limits.header_read_timeout_s, waiting_s: 0 };
        Self { headers: Some(headers), ..Self::http2(limits, pulse) }
    }

    pub(super) fn http2(limits: &LimitsSettings, pulse: &Arc<Pulse>) -> Self {
        let mut timer = interval(Duration::from_secs(1));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer.reset();
        Self {
            pulse: Arc::clone(pulse),
            timer,
            calm_since: Beat::default(),
            calm_s: 0,
            idle_timeout_s: limits.idle_timeout_s,
            headers: None,
        }
    }

    /// Resolves when the client has used up our patience, and again each second after.
    pub(super) async fn lost(&mut self) {
        loop {
            self.timer.tick().await;
            if self.ends() {
                return;
            }
        }
    }

    fn ends(&mut self) -> bool {
        let beat = self.pulse.beat();
        if beat.busy() || beat.moved_since(self.calm_since) {
            self.calm_since = beat;
            self.calm_s = 0;
            if let Some(headers) = &mut self.headers {
                headers.waiting_s = 0;
            }
            return false;
        }
        self.calm_s += 1;
        let headers_late = self.headers.as_mut().is_some_and(|headers| {
            // the first request is due at once; later ones when their first byte has come
            if beat.begun == 0 || beat.read_bytes != self.calm_since.read_bytes {
                headers.waiting_s += 1;
            }
            headers.waiting_s >= headers.timeout_s
        });
        headers_late || self.calm_s >= self.idle_timeout_s
    }
}

/// A stream that tells its pulse what is read.
pub(super) struct Watched<S> {
    stream: S,
    pulse: Arc<Pulse>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, into);
        let bytes = into.filled().len().saturating_sub(before);
        self.pulse.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
