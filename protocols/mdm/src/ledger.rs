//! What the web service keeps: which calls were made with a key that makes them safe to repeat. Each record is JSON after a version
//! octet. Which certificate belongs to which device and user is known to the engine.

use ca_backend::{EndpointName, Engine, Error, Fault, RecordBatch, RecordError, RecordSpace, Serial, Time};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A call made with an idempotency key is remembered this long, in seconds.
const CALL_S: u64 = 86_400;
/// Calls forgotten in one step.
const STEP: usize = 500;
const VERSION: u8 = 1;

/// A call that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CallForm {
    digest: [u8; 32],
    serial: Option<String>,
}

/// What is known of a call.
pub(crate) enum Known {
    /// It is the first with this key, or its first attempt came to no end.
    First,
    /// It brought this certificate.
    Done(Serial),
    /// The key was used for something else.
    Another,
}

/// Names a call: when, who, which key.
pub(crate) struct CallKey {
    now: Time,
    name: [u8; 32],
}

pub(crate) struct Ledger<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) endpoint: &'a EndpointName,
}

impl Ledger<'_> {
    pub(crate) fn call_key(&self, requester: &str, key: &str) -> CallKey {
        // The lengths keep the parts apart.
        let mut text = Vec::new();
        for part in [self.endpoint.as_str(), requester, key] {
            text.extend((part.len() as u64).to_be_bytes());
            text.extend(part.as_bytes());
        }
        CallKey { now: self.engine.now(), name: crate::sha256(&text) }
    }

    /// Whether a call was made before.
    pub(crate) fn begin(&self, key: &CallKey, digest: [u8; 32]) -> Result<Known, Error> {
        let calls = self.engine.records(RecordSpace::MDM_CALL);
        for at in [key.now, key.now.minus_s(CALL_S)] {
            let Some(found) = calls.find(&key.at(at))? else { continue };
            let form: CallForm = decode(&found.value)?;
            return Ok(match form.serial {
                _ if form.digest != digest => Known::Another,
                None => Known::First,
                Some(serial) => Known::Done(Serial::parse(&serial)?),
            });
        }
        let form = encode(&CallForm { digest, serial: None })?;
        let batch = RecordBatch::new().expect_absent(RecordSpace::MDM_CALL, key.at(key.now)).put(
            RecordSpace::MDM_CALL,
            key.at(key.now),
            form,
        );
        match self.engine.commit(batch) {
            // The same call came in twice at once.
            Err(RecordError::Conflict) => Err(Fault::TryLater { after_s: 1 }.into()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(Known::First),
        }
    }

    /// Records what a call brought.
    pub(crate) fn done(&self, key: &CallKey, digest: [u8; 32], serial: &Serial) -> Result<(), Error> {
        let form = encode(&CallForm { digest, serial: Some(serial.to_string()) })?;
        self.engine.commit(RecordBatch::new().put(RecordSpace::MDM_CALL, key.at(key.now), form))?;
        Ok(())
    }
}

impl CallKey {
    fn at(&self, at: Time) -> Vec<u8> {
        // Old ones lie together, and go together.
        [(at.unix() / CALL_S).to_be_bytes().as_slice(), &self.name].concat()
    }
}

/// Forgets calls that are too old to be repeated. Returns how many; call it again while that is not zero.
pub(crate) fn forget_calls(engine: &Engine) -> Result<usize, Error> {
    let calls = engine.records(RecordSpace::MDM_CALL).scan(&[], None, STEP)?;
    let oldest = (engine.now().unix() / CALL_S).saturating_sub(1).to_be_bytes();
    let old: Vec<_> = calls.into_iter().filter(|entry| entry.key.as_slice() < oldest.as_slice()).collect();
    if old.is_empty() {
        return Ok(0);
    }
    let count = old.len();
    let batch = old.into_iter().fold(RecordBatch::new(), |batch, entry| batch.delete(RecordSpace::MDM_CALL, entry.key));
    engine.commit(batch)?;
    Ok(count)
}

fn encode(form: &impl Serialize) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, form).map_err(|error| Fault::Broken(error.to_string()))?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let broken = |why: String| Fault::Broken(format!("a record of device management: {why}"));
    match bytes {
        [VERSION, form @ ..] => serde_json::from_slice(form).map_err(|error| broken(error.to_string()).into()),
        _ => Err(broken("unknown version".to_owned()).into()),
    }
}
