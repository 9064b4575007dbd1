//! The whole contract between the gateway and a protocol.
//!
//! The gateway owns sockets, TLS, limits and threads; a protocol owns everything from the request line to the response body.
//! A protocol is synchronous on purpose: key stores and embedded databases block, so each request runs on a worker thread of
//! a bounded lane.

mod outbound;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

pub use outbound::{Outbound, OutboundError, OutboundLimits};

/// One protocol mounted at one path.
pub trait Endpoint: Send + Sync {
    /// Answers a request. Infallible: each protocol renders its own errors in its own format.
    ///
    /// The body is complete and within the limit that the mount states.
    fn handle(&self, request: http::Request<Bytes>, peer: &Peer) -> http::Response<Bytes>;

    /// Answers at once from memory, without a lane, or says that it cannot.
    ///
    /// Called on the connection's own task, so it must not block, sign or touch the store.
    fn answer_from_memory(&self, _request: &http::Request<Bytes>) -> Option<http::Response<Bytes>> {
        None
    }
}

/// Who sent a request, as far as the connection shows.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The TCP peer, or the client named by a trusted proxy.
    pub address: SocketAddr,
    /// Present on TLS connections.
    pub tls: Option<Arc<TlsPeer>>,
    /// Names this request in logs and audit records.
    pub request_id: String,
}

/// What a TLS handshake showed of the client.
#[derive(Clone, Debug, Default)]
pub struct TlsPeer {
    /// The certificates the client sent, leaf first, DER. Possession of the leaf's key is proven; trust is not judged.
    pub client_certificates: Vec<Bytes>,
    /// The server name the client asked for.
    pub server_name: Option<String>,
    /// `EXPORTER-Channel-Binding` of this connection (RFC 9266), 32 octets.
    pub channel_binding: Vec<u8>,
}
