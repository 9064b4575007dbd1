//! TLS to hosts that a stranger chose: redirect targets of http-01, and servers that answer for tls-alpn-01.
//!
//! Their certificates are not judged against any root: a host that asks for its first certificate has none that could be (RFC 8555
//! section 8.3), and in tls-alpn-01 the certificate itself is the answer (RFC 8737 section 3).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use der::{Decode, Encode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_cert::Certificate;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::dial::{Connection, connect};
use super::{Egress, EgressError, Host};

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
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|why| EgressError::Tls(why.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
        .with_no_client_auth();
    config.alpn_protocols = protocols;
    // Nothing is kept from one request to the next.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Lets every certificate pass whose key signs the handshake. The key is taken from the certificate without regard to its
/// extensions, since the usual verification refuses critical ones that it does not know, such as acmeIdentifier.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

fn public_key(leaf: &CertificateDer<'_>) -> Result<Vec<u8>, rustls::Error> {
    Certificate::from_der(leaf)
        .and_then(|leaf| leaf.tbs_certificate().subject_public_key_info().to_der())
        .map_err(|_| CertificateError::BadEncoding.into())
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = public_key(leaf)?;
        let unreadable = |_| CertificateError::BadEncoding;
        let key = SubjectPublicKeyInfoRef::from_der(&key).map_err(unreadable)?;
        let kind = key.algorithm.to_der().map_err(unreadable)?;
        let bits = key.subject_public_key.as_bytes().ok_or(CertificateError::BadEncoding)?;
        let known = self.provider.signature_verification_algorithms.mapping;
        let fitting =
            known.iter().find(|(scheme, _)| *scheme == signed.scheme).map_or(&[][..], |(_, fitting)| *fitting);
        // An algorithm names the contents of its AlgorithmIdentifier, without the two octets of the sequence around them.
        let signs = fitting.iter().any(|algorithm| {
            kind.get(2..) == Some(algorithm.public_key_alg_id().as_ref())
                && algorithm.verify_signature(bits, message, signed.signature()).is_ok()
        });
        if signs { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(public_key(leaf)?);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
