//! The certificate that HTTPS clients see: issued here and renewed without a restart, or read from files.

use std::sync::Arc;

use ca_backend::{
    AlternativeName, AuthorityName, AuthorityState, Engine, Error, KeyAlgorithm, ServiceKey, TlsIdentity,
};
use config::{CertificateSource, Settings};
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::tls::{self, Tls, TlsError};

/// Where the certificate comes from, and the one in force.
pub struct ServerCertificate {
    engine: Engine,
    settings: Settings,
    names: Vec<AlternativeName>,
    in_force: Option<(Tls, Vec<u8>)>,
}

/// Why there is no server certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServerCertificateError {
    /// The files or the key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The authority did not issue it.
    #[error("failed to issue the server certificate: {0:?}")]
    Engine(Error),
    /// A name in the settings, or the host in `https.base_url`, is none.
    #[error("{0}")]
    Name(String),
}

impl ServerCertificate {
    /// What the settings say; nothing is made yet.
    ///
    /// # Errors
    /// [`ServerCertificateError::Name`].
    pub fn new(engine: Engine, settings: &Settings) -> Result<Self, ServerCertificateError> {
        let names = names(settings)?;
        Ok(Self { engine, settings: settings.clone(), names, in_force: None })
    }

    /// Makes, renews or reads the certificate if its time has come, and puts it in force. `None` while there is no active authority to
    /// issue it.
    ///
    /// # Errors
    /// What keeps it from being made or read; the one in force stays.
    pub fn keep(&mut self) -> Result<Option<Tls>, ServerCertificateError> {
        let Some(certified) = self.certified()? else { return Ok(None) };
        let leaf = certified.cert.first().map(|leaf| leaf.to_vec()).unwrap_or_default();
        let tls = match &self.in_force {
            // What is in force is what the listener holds: it must not be lost when its replacement does not do.
            Some((tls, old)) => {
                if *old != leaf {
                    tls.replace(certified)?;
                    tracing::info!("the server certificate was renewed");
                }
                tls.clone()
            }
            None => Tls::new(certified)?,
        };
        self.in_force = Some((tls.clone(), leaf));
        Ok(Some(tls))
    }

    fn certified(&self) -> Result<Option<Arc<CertifiedKey>>, ServerCertificateError> {
        let certificate = &self.settings.https.certificate;
        match (certificate.source, &certificate.certificate_path, &certificate.key_path) {
            (CertificateSource::Files, Some(certificate_path), Some(key_path)) => {
                Ok(Some(tls::read_files(certificate_path, key_path)?))
            }
            (CertificateSource::Files, _, _) => {
                Err(ServerCertificateError::Name("https.certificate needs certificate_path and key_path".to_owned()))
            }
            (CertificateSource::Own, _, _) => {
                let Some(authority) = self.authority()? else { return Ok(None) };
                let identity =
                    self.engine.tls_identity(&authority, &self.names).map_err(ServerCertificateError::Engine)?;
                Ok(Some(Arc::new(certified_key(identity))))
            }
        }
    }

    /// The authority that the settings name; or else the one that issued the certificate at hand, so that clients are not shown another
    /// chain because an authority was added; or else the first active one that issues to others.
    fn authority(&self) -> Result<Option<AuthorityName>, ServerCertificateError> {
        if let Some(name) = &self.settings.https.certificate.authority {
            let name = AuthorityName::new(name)
                .map_err(|refusal| ServerCertificateError::Name(refusal.public().to_owned()))?;
            let active = self.engine.authority(&name).is_ok_and(|authority| authority.state == AuthorityState::Active);
            return Ok(active.then_some(name));
        }
        let authorities = self.engine.authorities().map_err(ServerCertificateError::Engine)?;
        let usable = |authority: &ca_backend::Authority| {
            authority.state == AuthorityState::Active && authority.kind == ca_backend::AuthorityKind::Issuing
        };
        let present = self.engine.tls_issuer().map_err(ServerCertificateError::Engine)?;
        let mut usable = authorities.into_iter().filter(usable).map(|authority| authority.name).peekable();
        let first = usable.peek().cloned();
        Ok(usable.find(|name| Some(name) == present.as_ref()).or(first))
    }
}

fn names(settings: &Settings) -> Result<Vec<AlternativeName>, ServerCertificateError> {
    let stated = &settings.https.certificate.names;
    let hosts = if stated.is_empty() { vec![host_of(&settings.https.base_url)?] } else { stated.clone() };
    hosts.iter().map(|host| name(host)).collect()
}

fn name(host: &str) -> Result<AlternativeName, ServerCertificateError> {
    let name = match host.parse() {
        Ok(address) => AlternativeName::Ip(address),
        Err(_) => AlternativeName::Dns(host.to_ascii_lowercase()),
    };
    let wrong = |refusal: ca_backend::Refusal| ServerCertificateError::Name(refusal.public().to_owned());
    name.validate().map(|()| name).map_err(wrong)
}

/// The host that clients use, without brackets.
fn host_of(base_url: &str) -> Result<String, ServerCertificateError> {
    let url = url::Url::parse(base_url);
    let host = url.ok().and_then(|url| url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned()));
    host.ok_or_else(|| ServerCertificateError::Name(format!("{base_url:?} names no host")))
}

fn certified_key(identity: TlsIdentity) -> CertifiedKey {
    let chain = identity.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    CertifiedKey::new(chain, Arc::new(KeyInStore(identity.key)))
}

/// A TLS key that stays in its key store.
#[derive(Debug)]
struct KeyInStore(ServiceKey);

impl KeyInStore {
    fn scheme(&self) -> SignatureScheme {
        match self.0.algorithm() {
            KeyAlgorithm::EcP256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            KeyAlgorithm::EcP384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            KeyAlgorithm::EcP521 => SignatureScheme::ECDSA_NISTP521_SHA512,
            KeyAlgorithm::Ed25519 => SignatureScheme::ED25519,
            KeyAlgorithm::MlDsa44 => SignatureScheme::ML_DSA_44,
            KeyAlgorithm::MlDsa65 => SignatureScheme::ML_DSA_65,
            KeyAlgorithm::MlDsa87 => SignatureScheme::ML_DSA_87,
            KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 => SignatureScheme::RSA_PKCS1_SHA256,
            KeyAlgorithm::Rsa4096 => SignatureScheme::RSA_PKCS1_SHA512,
        }
    }
}

impl SigningKey for KeyInStore {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.scheme()).then(|| Box::new(Self(self.0.clone())) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.algorithm() {
            KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::EcP521 => SignatureAlgorithm::ECDSA,
            KeyAlgorithm::Ed25519 => SignatureAlgorithm::ED25519,
            KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => SignatureAlgorithm::RSA,
            // TLS 1.2 has none for them, and nothing else asks.
            KeyAlgorithm::MlDsa44 | KeyAlgorithm::MlDsa65 | KeyAlgorithm::MlDsa87 => SignatureAlgorithm::Anonymous,
        }
    }
}

impl Signer for KeyInStore {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0.sign(message).map_err(|fault| rustls::Error::General(fault.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        Self::scheme(self)
    }
}
