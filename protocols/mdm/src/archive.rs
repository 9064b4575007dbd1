//! Private keys made here, encrypted for those who hold the recovery certificates. Nobody else can open them, this daemon included.

use ca_backend::{Engine, Error, GeneratedKey, ProvenKey, Reason, Refusal, Time};
use der::Decode;
use pkcs7::{Cipher, Digest, KeyTransport, check_recipient, seal_for_all};
use serde::Deserialize;
use x509_cert::Certificate;
use zeroize::Zeroizing;

/// How many can open an archived key.
const RECOVERY_CERTIFICATES_MAX: usize = 8;

/// Whether keys that are made here are archived, and for whom.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveOptions {
    /// Certificates with keys of RSA or on P-256, P-384, P-521, PEM, one in each text. The holder of any of these keys can open an archived key.
    pub recovery_certificates: Vec<String>,
}

impl ArchiveOptions {
    /// The certificates, DER.
    ///
    /// # Errors
    /// `Reason::Malformed` with what is wrong.
    pub(crate) fn read(&self) -> Result<Vec<Vec<u8>>, Refusal> {
        let refuse = |why: String| Refusal::new(Reason::Malformed, format!("archive.recovery_certificates: {why}"));
        if !(1..=RECOVERY_CERTIFICATES_MAX).contains(&self.recovery_certificates.len()) {
            return Err(refuse(format!("name 1 to {RECOVERY_CERTIFICATES_MAX}")));
        }
        let certificate = |text: &String| {
            let (label, der) = der::pem::decode_vec(text.trim().as_bytes())
                .map_err(|error| refuse(format!("one is not PEM: {error}")))?;
            if label != "CERTIFICATE" {
                return Err(refuse(format!("one is a {label}")));
            }
            Certificate::from_der(&der).map_err(|error| refuse(format!("one is no certificate: {error}")))?;
            check_recipient(&der).map_err(|error| refuse(format!("one cannot be encrypted for: {error}")))?;
            Ok(der)
        };
        self.recovery_certificates.iter().map(certificate).collect()
    }

    /// The key with its envelope: EnvelopedData with AES-256, whose key is encrypted by RSA-OAEP with SHA-256, or wrapped with what
    /// ECDH brings.
    ///
    /// # Errors
    /// `Reason::NotReady` if a recovery certificate is not valid now, so that nothing is issued that nobody could recover.
    pub(crate) fn archived(&self, engine: &Engine, key: &GeneratedKey) -> Result<ProvenKey, Error> {
        let certificates = self.read()?;
        for certificate in &certificates {
            check_validity(certificate, engine.now())?;
        }
        let recipients: Vec<&[u8]> = certificates.iter().map(Vec::as_slice).collect();
        let random = Zeroizing::new(engine.random());
        let transport = KeyTransport::Oaep(Digest::Sha256);
        let envelope = seal_for_all(key.pkcs8(), &recipients, Cipher::Aes256, transport, &random)
            .map_err(|error| ca_backend::Fault::Broken(format!("a key cannot be encrypted for recovery: {error}")))?;
        Ok(key.proven().clone().archived_in(envelope))
    }
}

fn check_validity(certificate: &[u8], now: Time) -> Result<(), Error> {
    let parsed = Certificate::from_der(certificate).map_err(ca_backend::Fault::from)?;
    let validity = parsed.tbs_certificate().validity();
    let (begin, end) = (validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration());
    if (begin.as_secs()..=end.as_secs()).contains(&now.unix()) {
        return Ok(());
    }
    let subject = parsed.tbs_certificate().subject();
    let text =
        format!("the recovery certificate of {subject} is not valid now: no key is made that nobody could recover");
    Err(Refusal::new(Reason::NotReady, text).into())
}
