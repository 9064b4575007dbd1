//! A certificate and its key in files that somebody else renews.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

use super::{TlsError, read_files};

/// A certificate chain and its private key, read again and again. As a client's, the handshakes after a change show the new one.
#[derive(Debug)]
pub struct CertificateFiles {
    certificate_path: PathBuf,
    key_path: PathBuf,
    certified: ArcSwap<CertifiedKey>,
}

impl CertificateFiles {
    /// Reads both files.
    ///
    /// # Errors
    /// As [`read_files`].
    pub fn read(certificate_path: &Path, key_path: &Path) -> Result<Self, TlsError> {
        let certified = ArcSwap::new(read_files(certificate_path, key_path)?);
        Ok(Self { certificate_path: certificate_path.to_owned(), key_path: key_path.to_owned(), certified })
    }

    /// Reads them again; the new certificate, if there is one.
    ///
    /// # Errors
    /// As [`read_files`], also while only one of the two files is replaced; the certificate of before stays in force.
    pub fn renew(&self) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
        let certified = read_files(&self.certificate_path, &self.key_path)?;
        if certified.cert == self.certified.load().cert {
            return Ok(None);
        }
        self.certified.store(Arc::clone(&certified));
        Ok(Some(certified))
    }

    /// The certificate in force.
    #[must_use]
    pub fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.load_full()
    }
}

impl ResolvesClientCert for CertificateFiles {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
