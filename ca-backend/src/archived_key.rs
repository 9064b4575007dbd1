//! Private keys of subjects, in envelopes that holders of recovery certificates open. Nothing here can.

use crate::audit::{Action, AuditRecord};
use crate::engine::Engine;
use crate::error::{Error, Fault, Reason, Refusal};
use crate::record::InFlightForm;
use crate::serial::Serial;
use crate::sha256;
use crate::store::{Batch, Space};

/// Octets of the longest envelope: the longest key for the most recipients.
const ENVELOPE_BYTES_MAX: usize = 32 << 10;

impl Engine {
    /// Adds the envelope of a certificate's key to the batch that reserves the serial.
    pub(crate) fn archive(
        &self,
        batch: Batch,
        serial: &Serial,
        in_flight: &InFlightForm,
        envelope: Option<&[u8]>,
    ) -> Result<Batch, Fault> {
        let Some(envelope) = envelope else { return Ok(batch) };
        if envelope.len() > ENVELOPE_BYTES_MAX {
            return Err(Fault::Broken(format!("an envelope of {} octets cannot be archived", envelope.len())));
        }
        let record = in_flight.audit(Action::KeyArchived, serial, self.now());
        let record = record.detail(format!("envelope SHA-256 {}", hex::encode(sha256(envelope))));
        record.in_batch(batch.put(Space::ArchivedKey, serial.as_bytes(), envelope))
    }

    /// Hands out the envelope (CMS EnvelopedData, DER; within it PrivateKeyInfo, RFC 5958) with the private key of a certificate. It is
    /// in the audit log before.
    ///
    /// # Errors
    /// `Reason::UnknownCertificate` if no key was archived under that serial, or the store's fault.
    pub fn archived_key(&self, serial: &Serial, operator: &str) -> Result<Vec<u8>, Error> {
        let found = self.inner.store.get(Space::ArchivedKey, serial.as_bytes())?.ok_or_else(|| {
            Refusal::new(Reason::UnknownCertificate, format!("no key is archived for certificate {serial}"))
        })?;
        let record =
            AuditRecord::new(self.now(), Action::ArchivedKeyGiven).serial(serial).detail(format!("to {operator}"));
        self.commit_or_later(record.in_batch(Batch::new())?)?;
        tracing::info!(%serial, operator, "handed out the envelope of an archived key");
        Ok(found.value)
    }
}
