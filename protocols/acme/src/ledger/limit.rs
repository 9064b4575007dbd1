//! How much of a limit is used up: one moment for each limit and subject, at which the limit is wholly free again.

use ca_backend::{Error, RecordError, RecordSpace, Time};

use super::{Change, Ledger};
use crate::jwk::sha256;

const SPACE: RecordSpace = RecordSpace::ACME_LIMIT;

/// Octets of a subject's digest: enough that no two subjects meet.
const DIGEST_BYTES: usize = 16;

/// Records that one step looks at.
const STEP: usize = 500;

impl Ledger {
    /// When a limit is wholly free again, in milliseconds since 1970; zero if it was not used.
    pub(crate) fn free_again_ms(&self, limit: u8, subject: &str) -> Result<u64, Error> {
        let found = self.engine.records(SPACE).find(&self.limit_key(limit, subject))?;
        Ok(found.map_or(0, |found| moment_ms(&found.value)))
    }

    fn limit_key(&self, limit: u8, subject: &str) -> Vec<u8> {
        let digest = sha256(subject.as_bytes());
        self.key(&[&[limit], digest.get(..DIGEST_BYTES).unwrap_or_default()])
    }

    /// Forgets limits that are free again.
    pub(crate) fn forget_limits(&self, now: Time) -> Result<(), Error> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let entries = self.engine.records(SPACE).scan(&self.prefix, after.as_deref(), STEP)?;
            let Some(last) = entries.last() else { return Ok(()) };
            after = Some(last.key.clone());
            let mut batch = self.batch();
            let mut any = false;
            for entry in entries.into_iter().filter(|entry| moment_ms(&entry.value) < now.unix().saturating_mul(1000)) {
                any = true;
                batch = batch.expect(SPACE, entry.key.as_slice(), entry.version).delete(SPACE, entry.key);
            }
            if any {
                match self.engine.commit(batch) {
                    Ok(_) | Err(RecordError::Conflict) => {} // used meanwhile; the next round looks again
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

impl Change<'_> {
    /// Notes when a limit is free again. It is no check: two requests at the same moment may count as one, so that the limits of
    /// a busy subject do not make its requests wait for each other.
    pub(crate) fn use_up(mut self, limit: u8, subject: &str, free_again_ms: u64) -> Self {
        self.batch = self.batch.put(SPACE, self.ledger.limit_key(limit, subject), free_again_ms.to_be_bytes());
        self
    }
}

fn moment_ms(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_be_bytes)
}
