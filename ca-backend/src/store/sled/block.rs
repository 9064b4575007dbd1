//! Several neighbouring entries in one value of sled, whose leaves hold sixteen keys at most, however short these are.
//!
//! A block lies under the least key that may be in it and reaches to the next block of its space. Its value is a row of
//! `key length (2 octets) || value length (4 octets) || key without its space || value`, numbers big endian, in key order.

use std::cmp::Ordering;

use crate::error::StoreFault;
use crate::store::Space;

/// How long the blocks of a space become; `None` for a space whose entries lie each by itself.
///
/// What is appended in key order is read in rows, so its blocks are long. An index is written here and there: what is short is
/// rewritten faster.
pub(super) fn bytes_max(space: u8) -> Option<usize> {
    const ROWS: [Space; 4] = [Space::Audit, Space::Event, Space::Certificate, Space::Revoked];
    const INDEXES: [Space; 4] = [Space::ByName, Space::BySubject, Space::ByRequester, Space::ByExpiry];
    let is_in = |spaces: [Space; 4]| spaces.iter().any(|known| *known as u8 == space);
    if is_in(ROWS) {
        Some(4 << 10)
    } else if is_in(INDEXES) {
        Some(1 << 10)
    } else {
        None
    }
}

/// Octets that an entry takes beside its key and value.
const HEADER_BYTES: usize = 6;

/// A key without its space, and its value.
pub(super) type Entry<'b> = (&'b [u8], &'b [u8]);

/// The entries of a block in their order.
pub(super) fn entries(mut block: &[u8]) -> Result<Vec<Entry<'_>>, StoreFault> {
    let mut entries = Vec::new();
    while !block.is_empty() {
        let (entry, rest) = first_entry(block)?;
        entries.push(entry);
        block = rest;
    }
    Ok(entries)
}

/// The value of a key in a block.
pub(super) fn find<'b>(mut block: &'b [u8], wanted: &[u8]) -> Result<Option<&'b [u8]>, StoreFault> {
    while !block.is_empty() {
        let ((key, value), rest) = first_entry(block)?;
        match key.cmp(wanted) {
            Ordering::Less => block = rest,
            Ordering::Equal => return Ok(Some(value)),
            Ordering::Greater => break,
        }
    }
    Ok(None)
}

/// The first entry and what follows it.
fn first_entry(block: &[u8]) -> Result<(Entry<'_>, &[u8]), StoreFault> {
    let split = || {
        let (key_bytes, rest) = block.split_first_chunk()?;
        let (value_bytes, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u16::from_be_bytes(*key_bytes).into())?;
        let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*value_bytes)).ok()?)?;
        Some(((key, value), rest))
    };
    split().ok_or_else(|| StoreFault::Corrupt("a block of entries is malformed".into()))
}

/// The entries after some changes, which come in key order; `None` deletes.
pub(super) fn merge<'b>(before: Vec<Entry<'b>>, changes: &[(&'b [u8], Option<&'b [u8]>)]) -> Vec<Entry<'b>> {
    let mut after = Vec::with_capacity(before.len() + changes.len());
    let mut before = before.into_iter().peekable();
    for (key, value) in changes {
        while let Some(entry) = before.next_if(|(existing, _)| existing < key) {
            after.push(entry);
        }
        let _replaced = before.next_if(|(existing, _)| existing == key);
        after.extend(value.map(|value| (*key, value)));
    }
    after.extend(before);
    after
}

/// Blocks of about `bytes_max` octets, each with its first key. Full ones if more will follow at the end, else equal ones.
pub(super) fn pack(entries: &[Entry<'_>], bytes_max: usize, at_end: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let bytes: usize = entries.iter().map(entry_bytes).sum();
    let wanted = if at_end { bytes_max } else { bytes.div_ceil(bytes.div_ceil(bytes_max).max(1)) };
    let mut blocks: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for entry in entries {
        match blocks.last_mut() {
            Some((_, block)) if block.len() + entry_bytes(entry) / 2 <= wanted => push(block, entry),
            Some(_) | None => {
                let mut block = Vec::with_capacity(wanted.max(entry_bytes(entry)));
                push(&mut block, entry);
                blocks.push((entry.0.to_vec(), block));
            }
        }
    }
    blocks
}

fn entry_bytes((key, value): &Entry<'_>) -> usize {
    HEADER_BYTES + key.len() + value.len()
}

/// Keys are bounded by `committer::KEY_BYTES_MAX`, values by the memory of a batch.
fn push(block: &mut Vec<u8>, (key, value): &Entry<'_>) {
    block.extend(u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
    block.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    block.extend_from_slice(key);
    block.extend_from_slice(value);
}
