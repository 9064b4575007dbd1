//! Export and import: the way from one engine to another.
//!
//! An export is a sequence of CBOR items (RFC 8742): a header, an item for each entry in key order, and a trailer with the number
//! of entries and the SHA-256 of every octet before the trailer. Versions and logs are carried over as they are.

use std::io::{BufReader, BufWriter, Read, Write};

use aws_lc_rs::digest::{Context, Digest, SHA256};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::committer::KEY_BYTES_MAX;
use super::{Batch, CommitError, Entry, FORMAT_KEY, IMPORTING_KEY, Key, Space, Store, Version, group};
use crate::error::StoreFault;

/// The form of the export; a greater one is from a newer release.
const EXPORT_FORMAT: u32 = 1;

/// How many entries are read from or written to the store at once.
const PAGE_ENTRIES: usize = 1000;
/// How many octets of values are written to the store at once, not counting the last entry.
const PAGE_BYTES: usize = 4 << 20;
/// The greatest item that an import accepts.
const ITEM_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
enum Item {
    #[serde(rename = "certgate-export")]
    Header { format: u32 },
    #[serde(rename = "e")]
    Entry(u8, ByteBuf, u64, ByteBuf),
    #[serde(rename = "end")]
    Trailer { entries: u64, sha256: ByteBuf },
}

/// Why an export or import did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// The store did not do its work.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// The file could not be written, or is not a whole and unchanged export.
    #[error("{0}")]
    File(String),
    /// The store is not in the state that the transfer needs.
    #[error("{0}")]
    State(&'static str),
}

/// Writes every record of a store. Nothing may be committed meanwhile.
///
/// # Errors
/// If the store or the writer fails, or the store changes during the export.
pub(crate) fn export(store: &dyn Store, to: &mut dyn Write) -> Result<u64, TransferError> {
    let mut to = Hashing { inner: BufWriter::new(to), hash: Context::new(&SHA256), left: 0 };
    let sequence = group::commit_sequence(store)?;
    write_item(&Item::Header { format: EXPORT_FORMAT }, &mut to)?;
    let mut entries = 0_u64;
    let mut after: Option<(u8, Key)> = None;
    loop {
        let page = store.dump(after.as_ref(), PAGE_ENTRIES)?;
        let Some((space, last)) = page.last() else {
            break;
        };
        after = Some((*space, last.key.clone()));
        for (space, entry) in page {
            entries = entries.saturating_add(1);
            write_item(
                &Item::Entry(space, ByteBuf::from(entry.key), entry.version.0, ByteBuf::from(entry.value)),
                &mut to,
            )?;
        }
    }
    if group::commit_sequence(store)? != sequence {
        return Err(TransferError::State("the store changed during the export; stop the daemon first"));
    }
    let sha256 = ByteBuf::from(to.digest().as_ref());
    write_item(&Item::Trailer { entries, sha256 }, &mut to)?;
    to.inner.flush().map_err(|error| TransferError::File(format!("cannot write the export: {error}")))?;
    Ok(entries)
}

/// Reads what [`export`] wrote into an empty store; returns the number of entries.
///
/// # Errors
/// If the store is not empty, or it or the reader fails, or the export is cut short or changed. What was read up to then stays, but
/// [`open`](super::open) refuses such a store from then on.
pub(crate) fn import(store: &dyn Store, from: &mut dyn Read) -> Result<u64, TransferError> {
    let mut from = Hashing { inner: BufReader::new(from), hash: Context::new(&SHA256), left: 0 };
    match read_item(&mut from)? {
        Item::Header { format: EXPORT_FORMAT } => {}
        Item::Header { format } => {
            let message = format!(
                "the export has format {format}, this release reads format {EXPORT_FORMAT}; use the release that wrote it"
            );
            return Err(TransferError::File(message));
        }
        Item::Entry(..) | Item::Trailer { .. } => return Err(not_an_export()),
    }
    if !is_new(store)? {
        return Err(TransferError::State("the store is not empty; import into a new one"));
    }
    commit(store, Batch::new().put(Space::Meta, IMPORTING_KEY, []))?;

    let mut page = Vec::new();
    let mut page_bytes = 0_usize;
    let mut entries = 0_u64;
    loop {
        let before = from.digest();
        match read_item(&mut from)? {
            Item::Header { .. } => return Err(not_an_export()),
            Item::Entry(space, key, version, value) => {
                // These keys are the engines' own.
                if matches!(space, 0 | u8::MAX) || key.len() > KEY_BYTES_MAX {
                    return Err(TransferError::File("the export has an entry that no store holds".into()));
                }
                entries = entries.saturating_add(1);
                page_bytes = page_bytes.saturating_add(value.len());
                page.push((space, Entry { key: key.into_vec(), version: Version(version), value: value.into_vec() }));
                if page.len() >= PAGE_ENTRIES || page_bytes >= PAGE_BYTES {
                    store.restore(std::mem::take(&mut page))?;
                    page_bytes = 0;
                }
            }
            Item::Trailer { entries: written, sha256 } => {
                if written != entries || sha256.as_ref() != before.as_ref() {
                    return Err(TransferError::File("the export was changed: its count or digest is wrong".into()));
                }
                break;
            }
        }
    }
    if from.inner.read(&mut [0]).map_err(|error| TransferError::File(format!("cannot read the export: {error}")))? != 0
    {
        return Err(TransferError::File("the export goes on after its end".into()));
    }
    store.restore(page)?;
    commit(store, Batch::new().delete(Space::Meta, IMPORTING_KEY))?;
    Ok(entries)
}

/// Whether nothing was ever committed but the mark of a new store.
fn is_new(store: &dyn Store) -> Result<bool, StoreFault> {
    let first = store.dump(None, PAGE_ENTRIES)?;
    Ok(first.iter().all(|(space, entry)| {
        *space == Space::Meta as u8 && [FORMAT_KEY, group::COMMIT_KEY].contains(&entry.key.as_slice())
    }))
}

fn commit(store: &dyn Store, batch: Batch) -> Result<(), TransferError> {
    match store.commit(batch) {
        Ok(_) => Ok(()),
        Err(CommitError::Conflict) => Err(TransferError::State("the store changed during the import")),
        Err(CommitError::Fault(fault)) => Err(fault.into()),
    }
}

fn not_an_export() -> TransferError {
    TransferError::File("this is not an export of certgate".into())
}

fn write_item(item: &Item, to: &mut Hashing<impl Write>) -> Result<(), TransferError> {
    ciborium::into_writer(item, to).map_err(|error| TransferError::File(format!("cannot write the export: {error}")))
}

fn read_item(from: &mut Hashing<impl Read>) -> Result<Item, TransferError> {
    from.left = ITEM_BYTES_MAX;
    ciborium::from_reader(from)
        .map_err(|error| TransferError::File(format!("the export is cut short or changed: {error}")))
}

/// Hashes what passes through, and bounds what a single item may take from a reader.
struct Hashing<S> {
    inner: S,
    hash: Context,
    left: u64,
}

impl<S> Hashing<S> {
    /// The hash of everything so far.
    fn digest(&self) -> Digest {
        self.hash.clone().finish()
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.by_ref().take(self.left).read(bytes)?;
        self.left = self.left.saturating_sub(read as u64);
        self.hash.update(bytes.get(..read).unwrap_or(bytes));
        Ok(read)
    }
}
