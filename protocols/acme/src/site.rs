//! An endpoint as it stands for the length of one request.

use std::sync::Arc;

use ca_backend::{Endpoint, Engine, Origin, Time};
use endpoint::Peer;

use crate::Start;
use crate::id::Id;
use crate::ledger::Ledger;
use crate::nonce::Nonces;
use crate::options::Options;

/// What every operation needs to know. One snapshot of the settings serves one request.
pub(crate) struct Site<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) ledger: &'a Ledger,
    pub(crate) nonces: &'a Nonces,
    pub(crate) start: &'a Start,
    /// Where the endpoint is reached, without a slash at its end.
    pub(crate) base_url: &'a str,
    pub(crate) settings: Arc<Endpoint>,
    pub(crate) options: Arc<Options>,
    pub(crate) now: Time,
    pub(crate) peer: &'a Peer,
}

impl Site<'_> {
    pub(crate) fn new_id(&self) -> Id {
        Id(self.engine.random())
    }

    /// Where a wish came from.
    pub(crate) fn origin(&self, transaction: &str, request_digest: [u8; 32]) -> Origin {
        Origin {
            protocol: self.settings.protocol.clone(),
            endpoint: Some(self.settings.name.clone()),
            transaction: transaction.to_owned(),
            request_digest,
            peer: Some(self.peer.address.ip()).filter(|address| !address.is_unspecified()),
            request_id: self.peer.request_id.clone(),
        }
    }
}
