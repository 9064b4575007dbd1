//! The directory of an embedded engine: one process at a time, creation that a power cut cannot leave half done, and room on its disk.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::StoreFault;

/// A store's directory, locked against other processes for as long as it lives.
#[derive(Debug)]
pub(super) struct StoreDirectory {
    path: PathBuf,
    reserve_bytes: u64,
    _lock: File,
}

impl StoreDirectory {
    /// Makes the directory if need be, and locks it.
    pub(super) fn claim(path: &Path, reserve_bytes: u64) -> Result<Self, StoreFault> {
        let fault = |error: io::Error| io_fault(&format!("cannot use the store directory {}", path.display()), &error);
        fs::create_dir_all(path).map_err(fault)?;
        // An absolute path, so that the parent of `store` is found too.
        let path = fs::canonicalize(path).map_err(fault)?;
        if let Some(parent) = path.parent() {
            sync(parent)?;
        }
        let lock = File::create(path.join("lock")).map_err(fault)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreFault::Unavailable(format!(
                "another process has the store in {} open; stop it first",
                path.display()
            )),
            TryLockError::Error(error) => fault(error),
        })?;
        Ok(Self { path, reserve_bytes, _lock: lock })
    }

    /// The path of something in the directory.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Refuses to begin a store beside another engine's.
    pub(super) fn refuse_beside(&self, other: &str) -> Result<(), StoreFault> {
        if self.join(other).exists() {
            let message = format!(
                "{} holds {other}, a store of another engine; export that and import it into a new directory",
                self.path.display()
            );
            return Err(StoreFault::Unavailable(message));
        }
        Ok(())
    }

    /// Refuses to begin an engine anew whose journal is there.
    pub(super) fn refuse_without(&self, engine: &str, journal: &str) -> Result<(), StoreFault> {
        if self.join(journal).exists() && !self.join(engine).exists() {
            let message = format!("{} holds {journal}, but no {engine}; restore a backup", self.path.display());
            return Err(StoreFault::Corrupt(message));
        }
        Ok(())
    }

    /// Makes something that `create` builds under another name appear under its own name all at once and for good.
    ///
    /// What an interrupted creation left behind is removed first: nothing in it was ever acknowledged.
    pub(super) fn create(
        &self,
        name: &str,
        create: impl FnOnce(&Path) -> Result<(), StoreFault>,
    ) -> Result<(), StoreFault> {
        let fault = |error: io::Error| io_fault(&format!("cannot create {} in {}", name, self.path.display()), &error);
        let unfinished = self.join(&format!("{name}.creating"));
        if unfinished.is_dir() {
            fs::remove_dir_all(&unfinished).map_err(fault)?;
        } else if unfinished.exists() {
            fs::remove_file(&unfinished).map_err(fault)?;
        }
        create(&unfinished)?;
        sync_all_below(&unfinished)?;
        fs::rename(&unfinished, self.join(name)).map_err(fault)?;
        sync(&self.path)
    }

    /// Whether `bytes` can be written with the reserve left over.
    ///
    /// Neither engine gets over a write that the disk refused: sled answers every later call with the first error and redb with
    /// `PreviousIo`, both until they are opened anew. So they never get to see a full disk; the store refuses before, and goes on
    /// by itself once there is room.
    pub(super) fn room(&self, bytes: u64) -> Result<(), StoreFault> {
        let disk = rustix::fs::statvfs(&self.path)
            .map_err(|error| io_fault("cannot ask the disk for its room", &error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed = self.reserve_bytes.saturating_add(bytes);
        if free < needed {
            let message = format!("{} octets are free for {}, {needed} are needed", free, self.path.display());
            return Err(StoreFault::Full(message));
        }
        Ok(())
    }
}

/// Makes a file or directory durable.
pub(super) fn sync(path: &Path) -> Result<(), StoreFault> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| io_fault(&format!("cannot make {} durable", path.display()), &error))
}

/// Makes a file, or a directory and everything in it, durable.
pub(super) fn sync_all_below(path: &Path) -> Result<(), StoreFault> {
    let fault = |error: io::Error| io_fault(&format!("cannot read {}", path.display()), &error);
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(fault)? {
            sync_all_below(&entry.map_err(fault)?.path())?;
        }
    }
    sync(path)
}

/// An input or output error, told apart by whether the disk is full.
pub(super) fn io_fault(what: &str, error: &io::Error) -> StoreFault {
    let message = format!("{what}: {error}");
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        StoreFault::Full(message)
    } else {
        StoreFault::Unavailable(message)
    }
}
