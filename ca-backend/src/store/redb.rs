//! The second embedded engine: smaller on disk than sled and open at once, slower under load.

use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use ::redb::{Builder, Database, Durability, ReadableDatabase, TableDefinition};

use super::directory::{StoreDirectory, io_fault};
use super::table::{RawRange, RawValue, Table, Writes};
use crate::error::StoreFault;

/// The one file, in the store's directory.
pub(super) const REDB_FILE: &str = "store.redb";

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("record");

/// A redb database.
pub(super) struct RedbTable {
    database: Database,
    directory: StoreDirectory,
}

impl RedbTable {
    pub(super) fn open(directory: StoreDirectory, cache_bytes: usize) -> Result<Self, StoreFault> {
        let path = directory.join(REDB_FILE);
        if !path.exists() {
            directory.create(REDB_FILE, |unfinished| {
                let database = Builder::new().set_cache_size(cache_bytes).create(unfinished).map_err(redb_fault)?;
                write(&database, &Writes::new()) // makes the table, so that readers find it
            })?;
        }
        let database = open_existing(&path, cache_bytes)?;
        Ok(Self { database, directory })
    }
}

fn open_existing(path: &Path, cache_bytes: usize) -> Result<Database, StoreFault> {
    Builder::new().set_cache_size(cache_bytes).open(path).map_err(redb_fault)
}

fn write(database: &Database, writes: &Writes) -> Result<(), StoreFault> {
    let mut transaction = database.begin_write().map_err(redb_fault)?;
    transaction.set_durability(Durability::Immediate).map_err(redb_fault)?;
    // Otherwise opening after a crash reads the whole file. It costs a second sync, which the journal makes rare.
    transaction.set_quick_repair(true);
    {
        let mut records = transaction.open_table(RECORDS).map_err(redb_fault)?;
        for (key, value) in writes {
            match value {
                Some(value) => records.insert(key.as_slice(), value.as_slice()).map_err(redb_fault)?,
                None => records.remove(key.as_slice()).map_err(redb_fault)?,
            };
        }
    }
    transaction.commit().map_err(redb_fault)
}

impl Table for RedbTable {
    fn read(&self, key: &[u8]) -> Result<Option<RawValue>, StoreFault> {
        let transaction = self.database.begin_read().map_err(redb_fault)?;
        let records = transaction.open_table(RECORDS).map_err(redb_fault)?;
        Ok(records.get(key).map_err(redb_fault)?.map(|value| value.value().to_vec()))
    }

    fn walk(&self, range: &RawRange, visit: &mut dyn FnMut(&[u8], RawValue) -> bool) -> Result<(), StoreFault> {
        if range.until.as_ref().is_some_and(|until| *until <= range.from) {
            return Ok(());
        }
        let bounds =
            (Bound::Included(range.from.as_slice()), range.until.as_deref().map_or(Bound::Unbounded, Bound::Excluded));
        let transaction = self.database.begin_read().map_err(redb_fault)?;
        let records = transaction.open_table(RECORDS).map_err(redb_fault)?;
        let mut rows = records.range::<&[u8]>(bounds).map_err(redb_fault)?;
        while let Some(row) = if range.reverse { rows.next_back() } else { rows.next() } {
            let (key, value) = row.map_err(redb_fault)?;
            if !visit(key.value(), value.value().to_vec()) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, writes: Arc<Writes>) -> Result<(), StoreFault> {
        write(&self.database, &writes)
    }

    fn room(&self, bytes: u64) -> Result<(), StoreFault> {
        self.directory.room(bytes)
    }
}

impl fmt::Debug for RedbTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbTable").field("directory", &self.directory).finish_non_exhaustive()
    }
}

fn redb_fault(error: impl Into<::redb::Error>) -> StoreFault {
    let error = error.into();
    if let ::redb::Error::Io(error) = &error {
        io_fault("redb", error)
    } else if let ::redb::Error::Corrupted(what) = &error {
        StoreFault::Corrupt(format!("redb: {what}"))
    } else {
        StoreFault::Unavailable(format!("redb: {error}"))
    }
}
