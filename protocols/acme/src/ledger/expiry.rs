//! What leaves the store, and when: objects whose time is over, and everything of an endpoint that is no more.

use ca_backend::{Engine, Entry, Error, Fault, RecordBatch, RecordError, RecordSpace, Time};

use super::{Expiring, GRACE_S, Ledger, TIME_BYTES};
use crate::id::Id;
use crate::order::OrderState;

/// Every space that holds records of endpoints.
const SPACES: [RecordSpace; 13] = [
    RecordSpace::ACME_ACCOUNT,
    RecordSpace::ACME_ACCOUNT_KEY,
    RecordSpace::ACME_ORDER,
    RecordSpace::ACME_ACCOUNT_ORDER,
    RecordSpace::ACME_AUTHORIZATION,
    RecordSpace::ACME_VALIDATION,
    RecordSpace::ACME_EXPIRY,
    RecordSpace::ACME_NONCE,
    RecordSpace::ACME_CERTIFICATE,
    RecordSpace::ACME_ACCOUNT_AUTHORIZATION,
    RecordSpace::ACME_LIMIT,
    RecordSpace::ACME_REPLACEMENT,
    RecordSpace::ACME_UNFINISHED,
];

impl Ledger {
    /// Removes up to `limit` objects whose time is over, and as many used nonces. Returns how many left.
    pub(crate) fn expire(&self, now: Time, limit: usize) -> Result<usize, Error> {
        let nonces = self.before(RecordSpace::ACME_NONCE, now, limit)?;
        let expired = self.before(RecordSpace::ACME_EXPIRY, now, limit)?;
        let count = nonces.len() + expired.len();
        if count == 0 {
            return Ok(0);
        }
        let mut batch = RecordBatch::new();
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

/// Removes up to `limit` records of each kind that belong to endpoints that are no more. Returns how many left.
pub(crate) fn sweep(engine: &Engine, protocol: &str, limit: usize) -> Result<usize, Error> {
    let mut count = 0;
    for space in SPACES {
        let mut after: Option<Vec<u8>> = None;
        while let Some(first) = engine.records(space).scan(&[], after.as_deref(), 1)?.into_iter().next() {
            // The key of the nonces lies under the name alone, everything else behind a slash.
            let name = first.key.split(|octet| *octet == b'/').next().unwrap_or_default().to_vec();
            let lives = |name: &str| {
                let name = ca_backend::EndpointName::new(name).ok();
                let endpoint = name.and_then(|name| engine.endpoint(&name));
                endpoint.is_some_and(|endpoint| endpoint.protocol.as_str() == protocol)
            };
            let is_bare = first.key == name;
            let below = [name.as_slice(), b"/"].concat();
            if !std::str::from_utf8(&name).is_ok_and(lives) {
                let mut doomed = engine.records(space).scan(&below, None, limit)?;
                if is_bare {
                    doomed = vec![first];
                }
                count += doomed.len();
                let batch = doomed.into_iter().fold(RecordBatch::new(), |batch, entry| batch.delete(space, entry.key));
                match engine.commit(batch) {
                    Ok(_) | Err(RecordError::Conflict) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            // Past everything below the name, or past the name alone: `a-b/` lies between `a` and `a/`.
            after = Some(if is_bare { name } else { [below.as_slice(), &[u8::MAX; 32]].concat() });
        }
    }
    Ok(count)
}
