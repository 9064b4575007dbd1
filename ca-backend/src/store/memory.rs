//! The engine for tests and trials: nothing survives the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use super::table::{RawKey, RawRange, RawValue, Table, Writes};
use crate::error::StoreFault;

/// A table in memory.
#[derive(Debug, Default)]
pub(super) struct MemoryTable {
    rows: RwLock<BTreeMap<RawKey, RawValue>>,
}

impl Table for MemoryTable {
    fn read(&self, key: &[u8]) -> Result<Option<RawValue>, StoreFault> {
        Ok(self.rows.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn walk(&self, range: &RawRange, visit: &mut dyn FnMut(&[u8], RawValue) -> bool) -> Result<(), StoreFault> {
        if range.until.as_ref().is_some_and(|until| *until <= range.from) {
            return Ok(());
        }
        let bounds = (Bound::Included(&range.from), range.until.as_ref().map_or(Bound::Unbounded, Bound::Excluded));
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let mut ascending = rows.range::<RawKey, _>(bounds);
        while let Some((key, value)) = if range.reverse { ascending.next_back() } else { ascending.next() } {
            if !visit(key, value.clone()) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, writes: Arc<Writes>) -> Result<(), StoreFault> {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in Arc::unwrap_or_clone(writes) {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }

    fn room(&self, _bytes: u64) -> Result<(), StoreFault> {
        Ok(())
    }
}
