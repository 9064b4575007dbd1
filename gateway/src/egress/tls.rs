//! TLS to hosts that a stranger chose: redirect targets of http-01, and servers that answer for tls-alpn-01.
//!
//! Their certificates are not judged against any root: a host that asks for its first certificate has none that could be (RFC 8555
//! section 8.3), and in tls-alpn-01 the certificate itself is the answer (RFC 8737 section 3).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dial::{Connection, connect};
use super::{Egress, EgressError, Host};
use crate::tls::PossessionOnly;

/// The protocol name of tls-alpn-01 (RFC 8737 section 6.2).
const ACME_TLS: &[u8] = b"acme-tls/1";

/// The certificate of a server that speaks `acme-tls/1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownCertificate {
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// The address that answered.
    pub address: SocketAddr,
}

pub(super) async fn shown_certificate(
    egress: &Egress,
    host: &Host,
    port: u16,
    server_name: &str,
) -> Result<ShownCertificate, EgressError> {
    let Connection { stream, address, turn } = connect(egress, host, port).await?;
    let name = ServerName::try_from(server_name.to_owned())
        .map_err(|_| EgressError::Tls("the host has no name for TLS".to_owned()))?;
    let stream = shake_hands(egress, &egress.node.acme_tls, name, stream).await?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(ACME_TLS) {
        return Err(EgressError::Tls("the server does not agree to acme-tls/1".to_owned()));
    }
    let der = session.peer_certificates().and_then(<[_]>::first).map(|leaf| leaf.to_vec());
    drop(turn);
    let der = der.ok_or_else(|| EgressError::Tls("the server shows no certificate".to_owned()))?;
    Ok(ShownCertificate { der, address })
}

pub(super) async fn shake_hands(
    egress: &Egress,
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, EgressError> {
    let limit = Duration::from_secs(egress.node.settings.connect_timeout_s);
    let shown = name.to_str().into_owned();
    timeout(limit, TlsConnector::from(Arc::clone(config)).connect(name, stream))
        .await
        .map_err(|_| EgressError::Timeout("shaking hands"))?
        .map_err(|why| {
            tracing::debug!(%why, host = shown, "a TLS handshake failed");
            EgressError::Tls("the handshake failed".to_owned())
        })
}

/// TLS 1.2 and 1.3 for redirect targets.
pub(super) fn without_trust() -> Result<Arc<ClientConfig>, EgressError> {
    client(Vec::new())
}

/// TLS 1.2 and 1.3 with the one protocol of tls-alpn-01.
pub(super) fn acme_tls() -> Result<Arc<ClientConfig>, EgressError> {
    client(vec![ACME_TLS.to_vec()])
}

fn client(protocols: Vec<Vec<u8>>) -> Result<Arc<ClientConfig>, EgressError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(PossessionOnly::new(&provider));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| EgressError::Tls(why.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = protocols;
    // Nothing is kept from one request to the next.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
