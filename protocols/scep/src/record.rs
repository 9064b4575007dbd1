//! Transactions that wait for approval, as they are stored: CBOR behind a version octet.

use ca_backend::{EndpointName, Engine, Error, Fault, RecordBatch, RecordSpace, StoreFault, Ticket, Time};
use serde::{Deserialize, Serialize};

/// The version of the form in this file.
const VERSION: u8 = 1;

/// Expired transactions that are removed whenever one is added.
const EXPIRED_STEP: usize = 16;

/// A transaction that waits, or waited, for approval.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Transaction {
    ticket: String,
    /// SHA-256 of the certificate request.
    #[serde(with = "serde_bytes")]
    pub(crate) request_digest: [u8; 32],
    /// When it may go, in Unix seconds.
    expires: u64,
    /// Whether the client has heard the outcome.
    #[serde(default)]
    answered: bool,
}

impl Transaction {
    pub(crate) fn ticket(&self) -> Result<Ticket, Fault> {
        Ticket::parse(&self.ticket).map_err(|refusal| corrupt(refusal.private()))
    }
}

/// The transactions of one endpoint.
pub(crate) struct Transactions<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) endpoint: &'a EndpointName,
}

impl Transactions<'_> {
    /// The key of a transaction: transactionID and signer together, since a transactionID alone is no secret and not unique.
    fn key(&self, transaction: &str, signer_key: &[u8]) -> Vec<u8> {
        let mut text = (transaction.len() as u64).to_be_bytes().to_vec();
        text.extend(transaction.as_bytes());
        text.extend(signer_key);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
        [self.prefix().as_slice(), digest.as_ref()].concat()
    }

    fn prefix(&self) -> Vec<u8> {
        [self.endpoint.as_str().as_bytes(), &[0]].concat()
    }

    /// The transaction that this signer waits for.
    pub(crate) fn find(&self, transaction: &str, signer_key: &[u8]) -> Result<Option<Transaction>, Error> {
        let found = self.engine.records(RecordSpace::SCEP_TRANSACTION).find(&self.key(transaction, signer_key))?;
        let Some(found) = found else { return Ok(None) };
        let form = decode(&found.value)?;
        Ok((form.expires >= self.engine.now().unix()).then_some(form))
    }

    /// Whether no more requests may wait here. Those whose time is over make room first: where all places are taken, nothing is put
    /// that would remove them.
    pub(crate) fn is_full(&self, pending_max: usize) -> Result<bool, Error> {
        loop {
            let waiting = self.engine.records(RecordSpace::SCEP_TRANSACTION).scan(&self.prefix(), None, pending_max)?;
            if waiting.len() < pending_max {
                return Ok(false);
            }
            let (expired, batch) = self.without_expired(self.engine.now())?;
            if expired == 0 {
                return Ok(true);
            }
            self.engine.commit(batch)?;
        }
    }

    /// Keeps a transaction for `lifetime_s` seconds, and removes some whose time is over.
    pub(crate) fn put(
        &self,
        transaction: &str,
        signer_key: &[u8],
        ticket: &Ticket,
        request_digest: [u8; 32],
        lifetime_s: u64,
    ) -> Result<(), Error> {
        let now = self.engine.now();
        let expires = now.plus_s(lifetime_s);
        let form = Transaction { ticket: ticket.to_string(), request_digest, expires: expires.unix(), answered: false };
        let key = self.key(transaction, signer_key);
        let (_, batch) = self.without_expired(now)?;
        let batch = batch.put(RecordSpace::SCEP_EXPIRY, expiry_key(expires.unix(), &key), Vec::new()).put(
            RecordSpace::SCEP_TRANSACTION,
            key,
            encode(&form)?,
        );
        self.engine.commit(batch)?;
        Ok(())
    }

    /// Shortens the life of a transaction whose client hears the outcome now, to the time in which it may ask again.
    pub(crate) fn answered(&self, transaction: &str, signer_key: &[u8], known: &Transaction) -> Result<(), Error> {
        let expires = self.engine.now().plus_s(self.engine.repeat_window_s()).unix();
        if known.answered || known.expires <= expires {
            return Ok(());
        }
        let key = self.key(transaction, signer_key);
        let form = Transaction { expires, answered: true, ..known.clone() };
        let batch = RecordBatch::new()
            .delete(RecordSpace::SCEP_EXPIRY, expiry_key(known.expires, &key))
            .put(RecordSpace::SCEP_EXPIRY, expiry_key(expires, &key), Vec::new())
            .put(RecordSpace::SCEP_TRANSACTION, key, encode(&form)?);
        self.engine.commit(batch)?;
        Ok(())
    }

    /// Removes some transactions of every endpoint whose time is over, oldest first, and says how many.
    fn without_expired(&self, now: Time) -> Result<(usize, RecordBatch), Error> {
        let (mut expired, mut batch) = (0, RecordBatch::new());
        for entry in self.engine.records(RecordSpace::SCEP_EXPIRY).scan(&[], None, EXPIRED_STEP)? {
            let Some((due, key)) = entry.key.split_first_chunk::<8>() else {
                return Err(corrupt("a SCEP expiry is too short".to_owned()).into());
            };
            let due = u64::from_be_bytes(*due);
            if due >= now.unix() {
                break;
            }
            // A later request of the same transaction has its own expiry.
            let stored = self.engine.records(RecordSpace::SCEP_TRANSACTION).find(key)?;
            if let Some(stored) = stored
                && decode(&stored.value)?.expires == due
            {
                batch = batch.delete(RecordSpace::SCEP_TRANSACTION, key);
            }
            batch = batch.delete(RecordSpace::SCEP_EXPIRY, entry.key);
            expired += 1;
        }
        Ok((expired, batch))
    }
}

fn expiry_key(expires: u64, key: &[u8]) -> Vec<u8> {
    [expires.to_be_bytes().as_slice(), key].concat()
}

fn encode(form: &Transaction) -> Result<Vec<u8>, Fault> {
    let mut octets = vec![VERSION];
    ciborium::into_writer(form, &mut octets)
        .map_err(|error| Fault::Broken(format!("a SCEP record cannot be encoded: {error}")))?;
    Ok(octets)
}

fn decode(octets: &[u8]) -> Result<Transaction, Fault> {
    match octets.split_first() {
        Some((&VERSION, form)) => {
            ciborium::from_reader(form).map_err(|error| corrupt(format!("a SCEP record cannot be decoded: {error}")))
        }
        Some((version, _)) => {
            Err(corrupt(format!("a SCEP record has version {version}, this program knows {VERSION}")))
        }
        None => Err(corrupt("a SCEP record is empty".to_owned())),
    }
}

fn corrupt(text: String) -> Fault {
    StoreFault::Corrupt(text).into()
}
