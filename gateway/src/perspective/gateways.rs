//! Which gateways may ask.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ca_backend::Clock;
use config::PerspectiveSettings;
use der::Decode;
use endpoint::Peer;
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use x509_cert::Certificate;

use super::PerspectiveError;
use crate::tls;

/// Certificates for TLS clients under the roots of the settings, with one of the names if they state any.
pub(super) struct Gateways {
    chains: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Gateways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateways").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Gateways {
    pub(super) fn new(settings: &PerspectiveSettings, clock: Arc<dyn Clock>) -> Result<Self, PerspectiveError> {
        let path = settings.client_roots_path.as_deref();
        let path = path.ok_or_else(|| PerspectiveError::setting("perspective.client_roots_path", "must be set"))?;
        let roots = Arc::new(tls::read_roots(path)?);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chains = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|why| PerspectiveError::setting("perspective.client_roots_path", &why.to_string()))?;
        let name = |name: &String| match ServerName::try_from(name.clone()) {
            Ok(name @ ServerName::DnsName(_)) => Ok(name),
            Ok(_) | Err(_) => {
                Err(PerspectiveError::setting("perspective.client_names", &format!("{name:?} is no DNS name")))
            }
        };
        let names = settings.client_names.iter().map(name).collect::<Result<_, _>>()?;
        Ok(Self { chains, names, clock })
    }

    /// The subject of the certificate that a gateway shows. That it has the key is proven by the handshake.
    pub(super) fn admit(&self, peer: &Peer) -> Result<String, String> {
        let shown = peer.tls.as_ref().map(|tls| tls.client_certificates.as_slice()).unwrap_or_default();
        let chain: Vec<_> = shown.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err("it shows no client certificate".to_owned());
        };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(self.clock.now().unix()));
        self.chains.verify_client_cert(leaf, intermediates, now).map_err(|why| why.to_string())?;
        let parsed = ParsedCertificate::try_from(leaf).map_err(|why| why.to_string())?;
        let named = self.names.iter().any(|name| verify_server_name(&parsed, name).is_ok());
        if !named && !self.names.is_empty() {
            return Err("its certificate has none of the names in perspective.client_names".to_owned());
        }
        let certificate = Certificate::from_der(leaf).map_err(|why| why.to_string())?;
        Ok(certificate.tbs_certificate().subject().to_string())
    }
}
