//! Reading a request body whole, within what one request and all requests together may hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyRefused {
    TooLong,
    TooSlow,
    Broken,
    NoRoom,
}

/// The memory that all bodies together may take.
#[derive(Debug)]
pub(super) struct BodyBudget {
    bytes_max: usize,
    taken: AtomicUsize,
}

/// A body's part of the budget, given back when dropped.
pub(super) struct Room {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

impl BodyBudget {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, taken: AtomicUsize::new(0) })
    }
}

impl Room {
    fn grow(&mut self, bytes: usize) -> Result<(), BodyRefused> {
        self.bytes += bytes;
        let before = self.budget.taken.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.budget.bytes_max {
            return Err(BodyRefused::NoRoom);
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The whole body. What counts is the bytes that arrive, not what the headers announce.
pub(super) async fn read(
    mut body: Incoming,
    headers: &HeaderMap,
    bytes_max: usize,
    budget: &Arc<BodyBudget>,
) -> Result<(Bytes, Room), BodyRefused> {
    let mut room = Room { budget: Arc::clone(budget), bytes: 0 };
    let announced = body.size_hint().lower();
    if usize::try_from(announced).is_ok_and(|bytes| bytes <= bytes_max) {
        let mut whole = BytesMut::new();
        while let Some(data) = next(&mut body).await? {
            if whole.len() + data.len() > bytes_max {
                discard(body, bytes_max).await;
                return Err(BodyRefused::TooLong);
            }
            room.grow(data.len())?;
            whole.extend_from_slice(&data);
        }
        return Ok((whole.freeze(), room));
    }
    if !headers.contains_key(EXPECT) {
        discard(body, bytes_max).await;
    }
    Err(BodyRefused::TooLong)
}

/// Reads on for as much again: a connection that is closed while its client still sends is reset, and the client would
/// not see the answer.
async fn discard(mut body: Incoming, bytes_max: usize) {
    let mut left = bytes_max;
    while let Ok(Some(data)) = next(&mut body).await {
        left = left.saturating_sub(data.len());
        if left == 0 {
            return;
        }
    }
}

/// The next piece of data; trailers are passed over.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, BodyRefused> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| BodyRefused::Broken)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
