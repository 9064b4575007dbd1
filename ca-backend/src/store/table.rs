//! What an embedded engine has to offer: a durable, ordered map of raw octets.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Space, Version, Versioned};
use crate::error::StoreFault;

/// The space's octet, then the key.
pub(super) type RawKey = Vec<u8>;

/// The version (8 octets, big endian), then the value.
pub(super) type RawValue = Vec<u8>;

/// The final state of every key that a group of batches touches; `None` deletes. In key order, since an engine then meets the same
/// pages again.
pub(super) type Writes = BTreeMap<RawKey, Option<RawValue>>;

/// A part of the table in raw keys; `until` is exclusive, `None` is the end of the table.
#[derive(Clone, Debug)]
pub(super) struct RawRange {
    pub(super) from: RawKey,
    pub(super) until: Option<RawKey>,
    pub(super) reverse: bool,
}

/// An embedded engine. Only one thread writes; any number may read meanwhile.
pub(super) trait Table: Send + Sync + fmt::Debug + 'static {
    fn read(&self, key: &[u8]) -> Result<Option<RawValue>, StoreFault>;

    /// Shows the entries of a range in its order until `visit` says `false`. An entry is never shown before another one of the
    /// same [`Table::apply`] that precedes it in the range has been.
    fn walk(&self, range: &RawRange, visit: &mut dyn FnMut(&[u8], RawValue) -> bool) -> Result<(), StoreFault>;

    /// Applies the writes and returns once they are durable. After an error or a crash, each may be there or not: it takes a
    /// [journal](super::journal) in front to make it all or nothing.
    fn apply(&self, writes: Arc<Writes>) -> Result<(), StoreFault>;

    /// Whether there is room to write about `bytes` octets; [`StoreFault::Full`] if not. Waits for no writer and no engine, so that
    /// one that hangs can be told from outside.
    fn room(&self, bytes: u64) -> Result<(), StoreFault>;

    /// The same right before a write, after waiting for an engine that is behind.
    fn make_room(&self, bytes: u64) -> Result<(), StoreFault> {
        self.room(bytes)
    }
}

pub(super) fn raw_key(space: u8, key: &[u8]) -> RawKey {
    let mut raw = Vec::with_capacity(1 + key.len());
    raw.push(space);
    raw.extend_from_slice(key);
    raw
}

/// The least raw key that is greater than every key of the space.
pub(super) fn space_end(space: Space) -> RawKey {
    vec![(space as u8).saturating_add(1)]
}

pub(super) fn raw_value(version: Version, value: &[u8]) -> RawValue {
    let mut raw = Vec::with_capacity(VERSION_BYTES + value.len());
    raw.extend_from_slice(&version.0.to_be_bytes());
    raw.extend_from_slice(value);
    raw
}

pub(super) fn version_of(raw: &[u8]) -> Result<Version, StoreFault> {
    let version = raw.first_chunk().ok_or_else(|| StoreFault::Corrupt("a stored value has no version".into()))?;
    Ok(Version(u64::from_be_bytes(*version)))
}

pub(super) fn versioned(mut raw: RawValue) -> Result<Versioned, StoreFault> {
    let version = version_of(&raw)?;
    raw.drain(..VERSION_BYTES);
    Ok(Versioned { version, value: raw })
}

const VERSION_BYTES: usize = size_of::<u64>();
