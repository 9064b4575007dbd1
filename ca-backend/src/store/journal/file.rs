//! The files of a journal: groups in frames, each checked and made durable before the next one is written.
//!
//! A frame is `payload length (4 octets) || SHA-256 of file number, place of the frame and payload || payload`, the payload a row of
//! `key length (2 octets) || value length + 1, or 0 for a deletion (4 octets) || key || value`, keys ascending. Numbers are big
//! endian. A frame without payload says that the file was closed, full or with the store: nothing that stands before it may be taken for torn.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use crate::error::StoreFault;
use crate::store::directory::{io_fault, sync};
use crate::store::table::Writes;

/// Octets of a frame's length and digest.
const HEADER_BYTES: usize = size_of::<u32>() + SHA256_OUTPUT_LEN;

/// The file that is appended to.
#[derive(Debug)]
pub(super) struct JournalFile {
    file: File,
    number: u64,
    bytes: u64,
    /// An append failed, and nobody knows what stands at the end.
    is_broken: bool,
}

impl JournalFile {
    /// Begins a file, durably. May be tried again when it failed.
    pub(super) fn create(directory: &Path, number: u64) -> Result<Self, StoreFault> {
        let fault = |error| io_fault(&format!("cannot begin journal file {number}"), &error);
        let file = File::options().append(true).create(true).open(path(directory, number)).map_err(fault)?;
        // An earlier attempt may have made it, and nothing else.
        if file.metadata().map_err(fault)?.len() > 0 {
            return Err(StoreFault::Corrupt(format!("journal file {number} is there already; restore a backup")));
        }
        if let Err(fault) = sync(directory) {
            // The file before it goes on. Opening gets over an empty one behind it, if this fails too.
            let _the_fault_says_enough = remove(directory, number);
            return Err(fault);
        }
        Ok(Self { file, number, bytes: 0, is_broken: false })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Says that nothing more comes.
    pub(super) fn close(&mut self) -> Result<(), StoreFault> {
        if self.bytes == 0 || self.is_broken { Ok(()) } else { self.append(&Writes::new()) }
    }

    /// Appends a group; it is durable on return.
    pub(super) fn append(&mut self, writes: &Writes) -> Result<(), StoreFault> {
        let mut frame = vec![0; HEADER_BYTES];
        for (key, value) in writes {
            let value_bytes = value.as_ref().map_or(Some(0), |value| value.len().checked_add(1));
            frame.extend(length::<u16>(Some(key.len()))?.to_be_bytes());
            frame.extend(length::<u32>(value_bytes)?.to_be_bytes());
            frame.extend_from_slice(key);
            frame.extend_from_slice(value.as_deref().unwrap_or_default());
        }
        let (header, payload) = frame.split_at_mut(HEADER_BYTES);
        let (length_octets, digest_octets) = header.split_at_mut(size_of::<u32>());
        length_octets.copy_from_slice(&length::<u32>(Some(payload.len()))?.to_be_bytes());
        digest_octets.copy_from_slice(&digest(self.number, self.bytes, payload));
        let appended = self.file.write_all(&frame).and_then(|()| self.file.sync_data());
        self.is_broken |= appended.is_err();
        appended.map_err(|error| io_fault("cannot make the journal durable", &error))?;
        self.bytes = self.bytes.saturating_add(frame.len() as u64);
        Ok(())
    }
}

fn length<N: TryFrom<usize>>(length: Option<usize>) -> Result<N, StoreFault> {
    let fits = length.and_then(|length| length.try_into().ok());
    fits.ok_or_else(|| StoreFault::Unavailable("a group of writes is too long for the journal".into()))
}

/// The numbers of the files in a directory, ascending.
pub(super) fn numbers(directory: &Path) -> Result<Vec<u64>, StoreFault> {
    let fault = |error| io_fault("cannot list the journal", &error);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        numbers.push(number.ok_or_else(|| StoreFault::Corrupt(format!("{name:?} is no journal file")))?);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The newest file that anything was written to. Empty ones may follow: one that could not be begun durably, or that nothing came
/// for any more.
pub(super) fn newest_written(directory: &Path, numbers: &[u64]) -> Result<Option<u64>, StoreFault> {
    for number in numbers.iter().rev() {
        let file = fs::metadata(path(directory, *number));
        if file.map_err(|error| io_fault(&format!("cannot look at journal file {number}"), &error))?.len() > 0 {
            return Ok(Some(*number));
        }
    }
    Ok(None)
}

/// Removes a file whose writes are elsewhere, or that has none.
pub(super) fn remove(directory: &Path, number: u64) -> Result<(), StoreFault> {
    fs::remove_file(path(directory, number))
        .map_err(|error| io_fault(&format!("cannot remove journal file {number}"), &error))
}

/// Adds the writes of a file to those of the files before it. Only in the newest file that was written may the last frame be torn:
/// nobody was told that it is durable, and it is cut off. Returns the file's length.
pub(super) fn replay(directory: &Path, number: u64, is_newest: bool, onto: &mut Writes) -> Result<u64, StoreFault> {
    let path = path(directory, number);
    let fault = |error| io_fault(&format!("cannot read journal file {number}"), &error);
    let file = fs::read(&path).map_err(fault)?;
    let mut rest = file.as_slice();
    while !rest.is_empty() {
        let at = (file.len() - rest.len()) as u64;
        if let Some((payload, following)) = first_frame(number, at, rest) {
            for write in Rows(payload) {
                let (key, value) = write.ok_or_else(|| damaged(&path, at, is_newest))?;
                onto.insert(key.to_vec(), value.map(<[u8]>::to_vec));
            }
            rest = following;
        } else if is_newest && is_torn(number, at, rest) {
            tracing::warn!(file = %path.display(), at, octets = rest.len(), "cut off a write that was interrupted");
            let whole = File::options().write(true).open(&path).map_err(fault)?;
            whole.set_len(at).and_then(|()| whole.sync_all()).map_err(fault)?;
            return Ok(at);
        } else {
            return Err(damaged(&path, at, is_newest));
        }
    }
    Ok(file.len() as u64)
}

/// The payload of the first frame, if it is whole, and what follows it.
fn first_frame(number: u64, at: u64, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (stated, payload, rest) = split_frame(bytes)?;
    (digest(number, at, payload) == *stated).then_some((payload, rest))
}

/// The digest and the payload that a frame would have here, and what would follow it.
fn split_frame(bytes: &[u8]) -> Option<(&[u8; SHA256_OUTPUT_LEN], &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (stated, rest) = rest.split_first_chunk()?;
    let (payload, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some((stated, payload, rest))
}

/// Whether what begins here can be the one frame that was being written, whatever of it reached the disk: then it is the last one.
/// Its length reaches the end, or was not written. But a length may be damaged too: so nothing else of it is whole, and no whole
/// frame lies behind it.
fn is_torn(number: u64, at: u64, bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk() else { return true };
    let reaches_the_end =
        u32::from_be_bytes(*length) == 0 || split_frame(bytes).is_none_or(|(_, _, following)| following.is_empty());
    let is_whole_but_for_its_length =
        rest.split_first_chunk().is_some_and(|(stated, payload)| digest(number, at, payload) == *stated);
    reaches_the_end
        && !is_whole_but_for_its_length
        && !holds_frame(number, at.saturating_add(1), bytes.get(1..).unwrap_or_default())
}

/// Whether a whole frame begins anywhere in these octets. Hardly any place needs a digest: elsewhere there are no rows of writes.
fn holds_frame(number: u64, at: u64, bytes: &[u8]) -> bool {
    (at..).zip(0..bytes.len()).any(|(at, skipped)| {
        let bytes = bytes.get(skipped..).unwrap_or_default();
        split_frame(bytes).is_some_and(|(_, payload, _)| are_rows(payload)) && first_frame(number, at, bytes).is_some()
    })
}

fn damaged(path: &Path, at: u64, is_newest: bool) -> StoreFault {
    let file = path.display();
    let mut message = format!("journal file {file} is damaged at octet {at}; restore a backup");
    if is_newest {
        message.push_str(&format!(
            ". What follows was promised to clients, so it is not cut off by itself; to do without it: truncate -s {at} {file}"
        ));
    }
    StoreFault::Corrupt(message)
}

/// A key, and its value but for a deletion.
type Row<'p> = (&'p [u8], Option<&'p [u8]>);

/// The writes of a payload. `None` where it is malformed, which is its end.
struct Rows<'p>(&'p [u8]);

impl<'p> Iterator for Rows<'p> {
    type Item = Option<Row<'p>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let row = first_row(self.0);
        self.0 = row.map_or(&[], |(_, rest)| rest);
        Some(row.map(|(row, _)| row))
    }
}

fn first_row(payload: &[u8]) -> Option<(Row<'_>, &[u8])> {
    let (key_bytes, rest) = payload.split_first_chunk()?;
    let (value_bytes, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u16::from_be_bytes(*key_bytes).into())?;
    let value_bytes = usize::try_from(u32::from_be_bytes(*value_bytes)).ok()?;
    let (value, rest) = rest.split_at_checked(value_bytes.saturating_sub(1))?;
    Some(((key, (value_bytes > 0).then_some(value)), rest))
}

/// Whether a payload is well formed.
fn are_rows(payload: &[u8]) -> bool {
    let mut before: &[u8] = &[];
    Rows(payload).all(|row| row.is_some_and(|(key, _)| std::mem::replace(&mut before, key) < key))
}

fn digest(number: u64, at: u64, payload: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut context = Context::new(&SHA256);
    context.update(&number.to_be_bytes());
    context.update(&at.to_be_bytes());
    context.update(payload);
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:020}"))
}
