//! Orders whose certificate is asked for and not there yet, so that they are finished though their client never comes back.

use ca_backend::{Error, RecordSpace, Time};

use super::{Change, Ledger, TIME_BYTES, time};
use crate::id::Id;
use crate::order::Order;

const SPACE: RecordSpace = RecordSpace::ACME_UNFINISHED;

/// An entry that says that an order is unfinished.
pub(crate) struct Unfinished {
    key: Vec<u8>,
    /// The order; `None` if the entry names none.
    pub(crate) order: Option<Id>,
}

impl Ledger {
    /// Up to `limit` unfinished orders that were due by `now`, each with its entry, oldest first.
    pub(crate) fn unfinished(&self, now: Time, limit: usize) -> Result<Vec<Unfinished>, Error> {
        let entries = self.engine.records(SPACE).scan(&self.prefix, None, limit)?;
        let due = entries.into_iter().filter(|entry| entry.value.as_slice() <= time(now).as_slice());
        let order = |key: &[u8]| key.get(self.prefix.len() + TIME_BYTES..).and_then(Id::from_octets);
        Ok(due.map(|entry| Unfinished { order: order(&entry.key), key: entry.key }).collect())
    }

    fn unfinished_key(&self, order: &Order) -> Vec<u8> {
        self.key(&[&time(order.created), order.id.octets()])
    }
}

impl Change<'_> {
    /// The order goes on by itself from `due` on.
    pub(crate) fn note_unfinished(mut self, order: &Order, due: Time) -> Self {
        self.batch = self.batch.put(SPACE, self.ledger.unfinished_key(order), time(due));
        self
    }

    /// The order has its certificate, or needs something that only others can do.
    pub(crate) fn note_finished(mut self, order: &Order) -> Self {
        self.batch = self.batch.delete(SPACE, self.ledger.unfinished_key(order));
        self
    }

    /// Forgets an entry whose order is gone.
    pub(crate) fn forget_unfinished(mut self, entry: Unfinished) -> Self {
        self.batch = self.batch.delete(SPACE, entry.key);
        self
    }
}
