//! The daemon's own engine over a directory, as its settings make it, but without a rate limit.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ca_backend::Engine;
use clap::ValueEnum;
use config::{Settings, StoreEngine};

/// The storage engines that last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    Sled,
    Redb,
}

/// The settings of a node whose state lies in `directory`.
pub(crate) fn settings(store: Store, directory: &Path) -> Settings {
    let mut settings = Settings { state_dir: directory.to_owned(), ..gateway::starter::settings() };
    settings.store.engine = match store {
        Store::Sled => StoreEngine::Sled,
        Store::Redb => StoreEngine::Redb,
    };
    settings.limits.issue_rate_per_requester_per_s = 0;
    settings
}

/// Opens the engine of these settings. In a new directory, the starter PKI is made first.
pub(crate) fn open(settings: &Settings) -> Engine {
    let engine = gateway::open_engine(settings).unwrap();
    gateway::starter::prepare(&engine, settings).unwrap();
    engine
}

/// Where a store lies while it is measured.
pub(crate) enum Place {
    /// It goes when the measurement is over.
    Passing(tempfile::TempDir),
    /// It stays for the next run.
    Kept(PathBuf),
}

impl Place {
    /// A new directory, or the one of such a store below `kept`, where it may have been prepared before.
    pub(crate) fn of(store: Store, stored: u64, kept: Option<&Path>) -> Self {
        match kept {
            Some(kept) => Self::Kept(kept.join(format!("{store:?}-{stored}").to_lowercase())),
            None => Self::Passing(tempfile::tempdir().unwrap()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Passing(directory) => directory.path(),
            Self::Kept(directory) => directory,
        }
    }

    /// Fills the store, unless that was done before.
    pub(crate) fn prepare(&self, prepare: impl FnOnce()) {
        let prepared = self.path().join("prepared");
        if !prepared.exists() {
            fs::create_dir_all(self.path()).unwrap();
            prepare();
            fs::write(prepared, "").unwrap();
        }
    }
}

/// Octets that the files in a directory take on the disk.
pub(crate) fn disk_bytes(directory: &Path) -> u64 {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            // A file may vanish while it is looked at.
            entry
                .metadata()
                .map_or(0, |file| if file.is_dir() { disk_bytes(&entry.path()) } else { file.blocks() * 512 })
        })
        .sum()
}
