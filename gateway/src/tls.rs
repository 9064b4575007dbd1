//! TLS of the gateway: versions, the server certificate and its change while running, and what a client shows of itself.

mod files;
mod possession;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use endpoint::TlsPeer;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConnection};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

pub use files::CertificateFiles;
pub use possession::PossessionOnly;

/// HTTP/2 is offered first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Octets of a channel binding (RFC 9266 section 2).
const CHANNEL_BINDING_BYTES: usize = 32;

/// The TLS settings of a listener, which may be changed while it serves. Clones are one and the same.
#[derive(Clone)]
pub struct Tls(Arc<ArcSwap<ServerConfig>>);

/// Why a server certificate cannot be used.
#[derive(Debug)]
pub enum TlsError {
    /// The file cannot be read, or holds no PEM of the kind that it should.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key does not belong to the certificate, or is of an unknown kind.
    Key(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, why } => write!(f, "cannot use {}: {why}", path.display()),
            Self::Key(why) => write!(f, "cannot use the TLS key with its certificate: {why}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// Reads a certificate chain (PEM, leaf first) and its private key (PEM: PKCS#8, PKCS#1 or SEC1).
///
/// # Errors
/// Files that cannot be read or hold something else; a key that does not belong to the leaf.
pub fn read_files(certificate_path: &Path, key_path: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let unusable = |path: &Path, why: rustls::pki_types::pem::Error| TlsError::File {
        path: path.to_owned(),
        why: why.to_string(),
    };
    let chain = CertificateDer::pem_file_iter(certificate_path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| unusable(certificate_path, why))?;
    if chain.is_empty() {
        return Err(TlsError::File {
            path: certificate_path.to_owned(),
            why: "there is no certificate in it".to_owned(),
        });
    }
    let key = PrivateKeyDer::from_pem_file(key_path).map_err(|why| unusable(key_path, why))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map(Arc::new).map_err(TlsError::Key)
}

/// Reads root certificates (PEM), at least one.
///
/// # Errors
/// A file that cannot be read, holds something else, or nothing.
pub fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let unusable = |why: String| TlsError::File { path: path.to_owned(), why };
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(path).map_err(|why| unusable(why.to_string()))? {
        let root = root.map_err(|why| unusable(why.to_string()))?;
        roots.add(root).map_err(|why| unusable(why.to_string()))?;
    }
    if roots.is_empty() { Err(unusable("there is no certificate in it".to_owned())) } else { Ok(roots) }
}

impl Tls {
    /// Serves with this certificate chain and key. The key may be any [`rustls::sign::SigningKey`], so it may stay where
    /// it is: `CertifiedKey::new(chain, key)`.
    ///
    /// # Errors
    /// When the cryptographic provider offers no protocol version.
    pub fn new(certified: Arc<CertifiedKey>) -> Result<Self, TlsError> {
        let config = server_config(Arc::new(Always(certified))).map_err(TlsError::Key)?;
        Ok(Self(Arc::new(ArcSwap::from_pointee(config))))
    }

    /// Turns every client away with the alert `access_denied`, until [`Tls::replace`] brings a certificate.
    ///
    /// # Errors
    /// As [`Tls::new`].
    pub fn without_certificate() -> Result<Self, TlsError> {
        let config = server_config(Arc::new(Nobody)).map_err(TlsError::Key)?;
        Ok(Self(Arc::new(ArcSwap::from_pointee(config))))
    }

    /// Serves new connections with another certificate; those that exist keep theirs. Session tickets of before end.
    ///
    /// # Errors
    /// As [`Tls::new`]; what was in force stays in force.
    pub fn replace(&self, certified: Arc<CertifiedKey>) -> Result<(), TlsError> {
        let config = server_config(Arc::new(Always(certified))).map_err(TlsError::Key)?;
        self.0.store(Arc::new(config));
        Ok(())
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn server_config(certificates: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = PossessionOnly::new(&provider);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certificates);
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

/// The same certificate for every client.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// No certificate for any client.
#[derive(Debug)]
struct Nobody;

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// What the finished handshake showed of the client.
pub(crate) fn peer(connection: &ServerConnection) -> Result<TlsPeer, rustls::Error> {
    let binding = connection.export_keying_material(
        [0; CHANNEL_BINDING_BYTES],
        b"EXPORTER-Channel-Binding",
        // RFC 9266 section 2: a context of no length, which in TLS 1.2 is not the same as no context
        Some(&[]),
    )?;
    let certificates = connection.peer_certificates().unwrap_or_default();
    Ok(TlsPeer {
        client_certificates: certificates.iter().map(|der| Bytes::copy_from_slice(der)).collect(),
        server_name: connection.server_name().map(str::to_owned),
        channel_binding: binding.to_vec(),
    })
}

/// The last moment of a certificate's validity, in Unix seconds; `None` if it cannot be read.
pub(crate) fn end_of_validity(certificate: &[u8]) -> Option<u64> {
    use der::Decode as _;
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs())
}
