//! Certificates as mere carriers of a key: for peers whose certificate is judged later, elsewhere, or by nobody.

use std::fmt;

use der::{Decode, Encode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

/// Lets every certificate pass whose key signs the handshake. The key is taken from the certificate without regard to its
/// extensions, since rustls would refuse critical ones that it does not know, such as acmeIdentifier.
///
/// As a server, it asks for a client certificate and takes none as an answer. The chain is judged by the endpoint that needs it, so
/// a stranger's certificate breaks nothing for those who do not.
pub struct PossessionOnly {
    algorithms: WebPkiSupportedAlgorithms,
}

impl PossessionOnly {
    /// Takes the signatures that `provider` knows.
    #[must_use]
    pub fn new(provider: &CryptoProvider) -> Self {
        Self { algorithms: provider.signature_verification_algorithms }
    }

    fn tls12(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = public_key(leaf)?;
        let (algorithm, bits) = key_parts(&key)?;
        let candidates = self.algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
        let valid = candidates
            .flat_map(|(_, candidates)| candidates.iter())
            .filter(|candidate| candidate.public_key_alg_id().as_ref() == algorithm)
            .any(|candidate| candidate.verify_signature(&bits, message, signed.signature()).is_ok());
        if valid { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
    }

    fn tls13(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(public_key(leaf)?);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }
}

impl fmt::Debug for PossessionOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PossessionOnly")
    }
}

impl ClientCertVerifier for PossessionOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls12(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PossessionOnly {
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
        self.tls12(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The subjectPublicKeyInfo of a certificate, DER.
fn public_key(leaf: &CertificateDer<'_>) -> Result<Vec<u8>, rustls::Error> {
    let certificate = Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
    let key = certificate.tbs_certificate().subject_public_key_info();
    key.to_der().map_err(|_| CertificateError::BadEncoding.into())
}

/// The content of the AlgorithmIdentifier, and the bits of the key.
fn key_parts(key: &[u8]) -> Result<(Vec<u8>, Vec<u8>), rustls::Error> {
    let bad = || rustls::Error::from(CertificateError::BadEncoding);
    let key = SubjectPublicKeyInfoOwned::from_der(key).map_err(|_| bad())?;
    let mut algorithm = key.algorithm.oid.to_der().map_err(|_| bad())?;
    key.algorithm.parameters.encode_to_vec(&mut algorithm).map_err(|_| bad())?;
    let bits = key.subject_public_key.as_bytes().ok_or_else(bad)?;
    Ok((algorithm, bits.to_vec()))
}
