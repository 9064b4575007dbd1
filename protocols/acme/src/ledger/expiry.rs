//! What leaves the store, and when: objects whose time is over. What an endpoint kept leaves with it, by the engine.

use ca_backend::{Entry, Error, Fault, RecordBatch, RecordError, RecordSpace, Time};

use super::{Expiring, GRACE_S, Ledger, TIME_BYTES};
use crate::id::Id;
use crate::order::OrderState;

impl Ledger {
    /// Removes up to `limit` objects whose time is over, and as many used nonces. Returns how many left.
    pub(crate) fn expire(&self, now: Time, limit: usize) -> Result<usize, Error> {
        let nonces = self.before(RecordSpace::ACME_NONCE, now, limit)?;
        let expired = self.before(RecordSpace::ACME_EXPIRY, now, limit)?;
        let count = nonces.len() + expired.len();
        if count == 0 {
            return Ok(0);
        }
        let mut batch = self.batch();
        for nonce in nonces {
            batch = batch.delete(RecordSpace::ACME_NONCE, nonce.key);
        }
        for entry in expired {
            batch = self.remove_expired(batch, &entry, now)?;
        }
        match self.engine.commit(batch) {
            Ok(_) => Ok(count),
            Err(RecordError::Conflict) => Ok(0), // an order moved on meanwhile; the next round sees it anew
            Err(RecordError::Fault(fault)) => Err(Fault::Store(fault).into()),
        }
    }

    fn remove_expired(&self, batch: RecordBatch, entry: &Entry, now: Time) -> Result<RecordBatch, Error> {
        let batch = batch.delete(RecordSpace::ACME_EXPIRY, entry.key.as_slice());
        let Some((kind, name)) = entry.key.get(self.prefix.len() + TIME_BYTES..).and_then(<[u8]>::split_first) else {
            return Ok(batch);
        };
        if *kind == Expiring::Certificate as u8 {
            let key = self.key(&[name]);
            return Ok(batch
                .delete(RecordSpace::ACME_CERTIFICATE, key.as_slice())
                .delete(RecordSpace::ACME_REPLACEMENT, key));
        }
        let Some(id) = Id::from_octets(name) else { return Ok(batch) };
        if *kind == Expiring::Authorization as u8 {
            return self.remove_expired_authorization(batch, &id, now);
        }
        let Some(order) = self.order(&id)? else { return Ok(batch) };
        let account = order.value.account;
        // An order that an operator still thinks about stays; the engine has the evidence that it rests on.
        if let OrderState::Processing { .. } = order.value.state {
            return Ok(batch.put(
                RecordSpace::ACME_EXPIRY,
                self.expiry_key(now.plus_s(GRACE_S), Expiring::Order, id.octets()),
                Vec::new(),
            ));
        }
        Ok(batch
            .expect(RecordSpace::ACME_ORDER, self.key(&[id.octets()]), order.version)
            .delete(RecordSpace::ACME_ORDER, self.key(&[id.octets()]))
            .delete(RecordSpace::ACME_ACCOUNT_ORDER, self.key(&[account.octets(), id.octets()])))
    }

    fn remove_expired_authorization(&self, batch: RecordBatch, id: &Id, now: Time) -> Result<RecordBatch, Error> {
        let Some(authorization) = self.authorization(id)? else { return Ok(batch) };
        // Control that was shown may count for longer than there was time to show it.
        let removal = authorization.value.expires.plus_s(GRACE_S);
        if removal > now {
            let key = self.expiry_key(removal, Expiring::Authorization, id.octets());
            return Ok(batch.put(RecordSpace::ACME_EXPIRY, key, Vec::new()));
        }
        let key = self.key(&[id.octets()]);
        let batch = batch
            .expect(RecordSpace::ACME_AUTHORIZATION, key.as_slice(), authorization.version)
            .delete(RecordSpace::ACME_AUTHORIZATION, key);
        self.let_go(batch, &authorization.value)
    }
}
