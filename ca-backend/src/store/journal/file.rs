//! The files of a journal: groups in frames, each checked and made durable before the next one is written.
//!
//! A frame is `payload length (4 octets) || SHA-256 of file number, place of the frame and payload || payload`, the payload a row of
//! `key length (2 octets) || value length + 1, or 0 for a deletion (4 octets) || key || value`. Numbers are big endian.

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
}

impl JournalFile {
    /// Begins a file, durably.
    pub(super) fn create(directory: &Path, number: u64) -> Result<Self, StoreFault> {
        let file = File::options().append(true).create_new(true).open(path(directory, number));
        let file = file.map_err(|error| io_fault(&format!("cannot begin journal file {number}"), &error))?;
        sync(directory)?;
        Ok(Self { file, number, bytes: 0 })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
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
        self.file
            .write_all(&frame)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| io_fault("cannot make the journal durable", &error))?;
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

/// Removes a file whose writes are elsewhere.
pub(super) fn remove(directory: &Path, number: u64) -> Result<(), StoreFault> {
    fs::remove_file(path(directory, number))
        .map_err(|error| io_fault(&format!("cannot remove journal file {number}"), &error))
}

/// Adds the writes of a file to those of the files before it. Only in the newest file may the last frame be torn: nobody was told
/// that it is durable, and it is cut off. Returns the file's length.
pub(super) fn replay(directory: &Path, number: u64, is_newest: bool, onto: &mut Writes) -> Result<u64, StoreFault> {
    let path = path(directory, number);
    let fault = |error| io_fault(&format!("cannot read journal file {number}"), &error);
    let damaged =
        |at: usize| StoreFault::Corrupt(format!("journal file {number} is damaged at {at}; restore a backup"));
    let file = fs::read(&path).map_err(fault)?;
    let mut rest = file.as_slice();
    while !rest.is_empty() {
        let at = file.len() - rest.len();
        match first_frame(number, at as u64, rest) {
            Some((payload, following)) => {
                add(payload, onto).ok_or_else(|| damaged(at))?;
                rest = following;
            }
            // The one frame that was being written is the last one, whatever of it reached the disk.
            None if is_newest && ends_here(rest) => {
                let whole = File::options().write(true).open(&path).map_err(fault)?;
                whole.set_len(at as u64).and_then(|()| whole.sync_all()).map_err(fault)?;
                return Ok(at as u64);
            }
            None => return Err(damaged(at)),
        }
    }
    Ok(file.len() as u64)
}

/// The payload of the first frame, if it is whole, and what follows it.
fn first_frame(number: u64, at: u64, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let (length, stated) = header.split_first_chunk()?;
    let (payload, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    (digest(number, at, payload) == *stated).then_some((payload, rest))
}

/// Whether no frame can follow the one that begins here: its length reaches the end, or was not written.
fn ends_here(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk() else { return true };
    let length = u32::from_be_bytes(*length);
    let frame_bytes = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(SHA256_OUTPUT_LEN);
    length == 0 || rest.len() <= frame_bytes
}

fn add(mut payload: &[u8], onto: &mut Writes) -> Option<()> {
    while !payload.is_empty() {
        let (key_bytes, rest) = payload.split_first_chunk()?;
        let (value_bytes, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u16::from_be_bytes(*key_bytes).into())?;
        let value_bytes = usize::try_from(u32::from_be_bytes(*value_bytes)).ok()?;
        let (value, rest) = rest.split_at_checked(value_bytes.saturating_sub(1))?;
        onto.insert(key.to_vec(), (value_bytes > 0).then(|| value.to_vec()));
        payload = rest;
    }
    Some(())
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
