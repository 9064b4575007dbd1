//! The certificate that HTTPS clients see: issued here and renewed without a restart, or read from files.

use std::sync::Arc;

use arc_swap::ArcSwap;
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
    tls: Tls,
    condition: HttpsCondition,
    /// The leaf that clients are shown, DER.
    in_force: Option<Vec<u8>>,
}

/// Whether HTTPS clients are served, as `/readyz` and `certgate status` tell it. Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct HttpsCondition(Arc<ArcSwap<HttpsStanding>>);

/// How HTTPS stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpsStanding {
    /// Whether clients are shown a certificate that is valid.
    pub ready: bool,
    /// What is wrong, for operators.
    pub why: Option<String>,
}

impl HttpsCondition {
    /// How it stands now.
    #[must_use]
    pub fn standing(&self) -> Arc<HttpsStanding> {
        self.0.load_full()
    }

    /// States it anew.
    pub fn set(&self, ready: bool, why: Option<String>) {
        self.0.store(Arc::new(HttpsStanding { ready, why }));
    }
}

/// Why there is no server certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServerCertificateError {
    /// The files or the key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The authority did not issue it.
    #[error("failed to issue the server certificate: {}", engine_text(.0))]
    Engine(Error),
    /// A name in the settings, or the host in `https.base_url`, is none.
    #[error("{0}")]
    Name(String),
}

impl ServerCertificate {
    /// What the settings say; nothing is made yet.
    ///
    /// # Errors
    /// [`ServerCertificateError::Name`], or what the cryptographic provider lacks.
    pub fn new(engine: Engine, settings: &Settings) -> Result<Self, ServerCertificateError> {
        let names = names(settings)?;
        let (tls, condition) = (Tls::without_certificate()?, HttpsCondition::default());
        Ok(Self { engine, settings: settings.clone(), names, tls, condition, in_force: None })
    }

    /// What the listener serves with: it refuses every client until [`ServerCertificate::keep`] has put a certificate in force.
    #[must_use]
    pub fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// Where it says how HTTPS stands.
    #[must_use]
    pub fn condition(&self) -> HttpsCondition {
        self.condition.clone()
    }

    /// Makes, renews or reads the certificate if its time has come, and puts it in force. False while there is no active
    /// authority to issue it.
    ///
    /// # Errors
    /// What keeps it from being made or read; the one in force stays.
    pub fn keep(&mut self) -> Result<bool, ServerCertificateError> {
        let kept = self.renew();
        let why = match &kept {
            Ok(true) => None,
            Ok(false) => Some(self.waits_for()),
            Err(error) => Some(error.to_string()),
        };
        let now = self.engine.now().unix();
        let end = self.in_force.as_deref().and_then(tls::end_of_validity);
        match end {
            Some(end) if end >= now => self.condition.set(true, why),
            Some(_) => self.condition.set(false, Some(why.unwrap_or_else(|| "the certificate has expired".to_owned()))),
            None => self.condition.set(false, why),
        }
        kept
    }

    fn renew(&mut self) -> Result<bool, ServerCertificateError> {
        let Some(certified) = self.certified()? else { return Ok(false) };
        let leaf = certified.cert.first().map(|leaf| leaf.to_vec()).unwrap_or_default();
        if self.in_force.as_ref() != Some(&leaf) {
            self.tls.replace(certified)?;
            let names: Vec<_> = self.names.iter().map(ToString::to_string).collect();
            tracing::info!(names = names.join(" "), "HTTPS shows a new certificate");
            self.in_force = Some(leaf);
        }
        // Only now: clients that came in between were shown the certificate of before.
        self.engine.forget_former_tls_key().map_err(ServerCertificateError::Engine)?;
        Ok(true)
    }

    /// What has to happen before there is a certificate.
    pub(crate) fn waits_for(&self) -> String {
        match &self.settings.https.certificate.authority {
            Some(name) => format!("waits for authority {name} (https.certificate.authority) to be active"),
            None => "waits for an active issuing authority; make one with `certgate authority create`".to_owned(),
        }
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

fn engine_text(error: &Error) -> String {
    match error {
        Error::Fault(fault) => fault.to_string(),
        Error::Refused(refusal) => refusal.private(),
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
