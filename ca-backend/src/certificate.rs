//! Reading certificates: ours back from the store, and those that others bring.

use const_oid::db::rfc5280::ID_CE_SUBJECT_ALT_NAME;
use der::asn1::{AnyRef, BitStringRef, ContextSpecific, OctetStringRef};
use der::{Decode, Reader, Sequence, SliceReader, TagNumber};
use spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef};
use x509_cert::time::Validity;

use crate::algorithm::verify_signature;
use crate::clock::Time;
use crate::error::{Fault, Reason, Refusal, StoreFault};
use crate::name::{AlternativeName, DistinguishedName};
use crate::request::RequestedNames;
use crate::serial::Serial;

/// The most octets a certificate from outside may have.
const CERTIFICATE_OCTETS_MAX: usize = 64 * 1024;

/// A certificate taken apart, every part in the bytes that it came in.
#[derive(Clone, Debug)]
pub(crate) struct CertificateParts<'a> {
    pub(crate) tbs: TbsParts<'a>,
    tbs_der: &'a [u8],
    algorithm: AlgorithmIdentifierOwned,
    signature: &'a [u8],
}

/// A TBSCertificate taken apart (RFC 5280 section 4.1).
#[derive(Clone, Debug)]
pub(crate) struct TbsParts<'a> {
    pub(crate) serial: Serial,
    pub(crate) issuer: &'a [u8],
    pub(crate) not_before: Time,
    pub(crate) not_after: Time,
    pub(crate) subject: &'a [u8],
    pub(crate) public_key: &'a [u8],
    extensions: Vec<ExtensionParts<'a>>,
}

#[derive(Clone, Debug, Sequence)]
struct ExtensionParts<'a> {
    id: const_oid::ObjectIdentifier,
    #[asn1(default = "bool::default")]
    critical: bool,
    value: &'a OctetStringRef,
}

impl<'a> CertificateParts<'a> {
    /// Takes a certificate apart. Its signature is not verified.
    pub(crate) fn open(der: &'a [u8]) -> Result<Self, Refusal> {
        if der.len() > CERTIFICATE_OCTETS_MAX {
            return Err(Refusal::new(Reason::Malformed, "the certificate is too large"));
        }
        Self::decode(der)
            .map_err(|error| Refusal::new(Reason::Malformed, format!("the certificate is not valid DER: {error}")))
    }

    fn decode(der: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(der)?;
        let parts = reader.sequence(|reader| {
            let tbs_der = reader.tlv_bytes()?;
            let algorithm = AlgorithmIdentifierOwned::decode(reader)?;
            let signature = BitStringRef::decode(reader)?;
            let signature = signature.as_bytes().ok_or(der::ErrorKind::Value { tag: der::Tag::BitString })?;
            Ok::<_, der::Error>(Self { tbs: TbsParts::decode(tbs_der)?, tbs_der, algorithm, signature })
        })?;
        reader.finish()?;
        Ok(parts)
    }

    /// Verifies the signature with an issuer's SubjectPublicKeyInfo.
    pub(crate) fn verify(&self, issuer_public_key: &[u8]) -> Result<(), Refusal> {
        verify_signature(issuer_public_key, &self.algorithm, self.tbs_der, self.signature)
    }
}

impl<'a> TbsParts<'a> {
    pub(crate) fn decode(der: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(der)?;
        let parts = reader.sequence(|reader| {
            let _version: Option<ContextSpecific<u8>> = ContextSpecific::decode_explicit(reader, TagNumber(0))?;
            let serial = AnyRef::decode(reader)?;
            let serial =
                Serial::from_integer(serial.value()).map_err(|_| der::ErrorKind::Value { tag: der::Tag::Integer })?;
            let _algorithm = AlgorithmIdentifierRef::decode(reader)?;
            let issuer = reader.tlv_bytes()?;
            let validity = Validity::<x509_cert::certificate::Rfc5280>::decode(reader)?;
            let subject = reader.tlv_bytes()?;
            let public_key = reader.tlv_bytes()?;
            for number in [1, 2] {
                let _unique_id: Option<ContextSpecific<BitStringRef<'_>>> =
                    ContextSpecific::decode_implicit(reader, TagNumber(number))?;
            }
            let extensions: Option<ContextSpecific<Vec<ExtensionParts<'a>>>> =
                ContextSpecific::decode_explicit(reader, TagNumber(3))?;
            Ok::<_, der::Error>(Self {
                serial,
                issuer,
                not_before: validity.not_before.to_date_time().into(),
                not_after: validity.not_after.to_date_time().into(),
                subject,
                public_key,
                extensions: extensions.map(|field| field.value).unwrap_or_default(),
            })
        })?;
        reader.finish()?;
        Ok(parts)
    }

    /// The subject and the alternative names.
    pub(crate) fn names(&self) -> Result<RequestedNames, Refusal> {
        let alternative = match self.extensions.iter().find(|extension| extension.id == ID_CE_SUBJECT_ALT_NAME) {
            Some(extension) => AlternativeName::decode_all(extension.value.as_bytes())?,
            None => Vec::new(),
        };
        Ok(RequestedNames { subject: DistinguishedName::from_der(self.subject)?, alternative })
    }
}

fn corrupt(error: impl std::fmt::Debug) -> Fault {
    StoreFault::Corrupt(format!("a stored certificate cannot be read: {error:?}")).into()
}

/// The names in a certificate of ours.
pub(crate) fn names_of(certificate: &[u8]) -> Result<RequestedNames, Fault> {
    CertificateParts::open(certificate).and_then(|parts| parts.tbs.names()).map_err(corrupt)
}

/// The names in a TBSCertificate of ours.
pub(crate) fn names_of_tbs(tbs: &[u8]) -> Result<RequestedNames, Fault> {
    TbsParts::decode(tbs).map_err(corrupt)?.names().map_err(corrupt)
}

/// The SubjectPublicKeyInfo in a certificate of ours.
pub(crate) fn public_key_of(certificate: &[u8]) -> Result<Vec<u8>, Fault> {
    CertificateParts::open(certificate).map(|parts| parts.tbs.public_key.to_vec()).map_err(corrupt)
}
