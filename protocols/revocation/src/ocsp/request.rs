//! The OCSPRequest (RFC 6960 section 4.1.1), read strictly and within limits.
//!
//! Deviations from the text, each because clients need it or because nobody is served by more:
//! - A version that is written though it is the default is taken.
//! - A serial with superfluous octets in front is taken for the same integer.
//! - A nonce without its inner OCTET STRING is taken and echoed as it is.
//! - At most 20 certificates may be asked for at once.
//! - The first certificate beside a signature must be the signer's; a signed request without any is unauthorized.
//! - Service locator and preferred signature algorithms are not acted on, so they must not be critical.

use ca_backend::algorithm::verify_signature;
use ca_backend::{CertId, CertIdHash, OcspQuery};
use const_oid::db::rfc5912::{ID_SHA_1, ID_SHA_256, ID_SHA_384, ID_SHA_512};
use const_oid::db::rfc6960::{ID_PKIX_OCSP_BASIC, ID_PKIX_OCSP_NONCE, ID_PKIX_OCSP_RESPONSE};
use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, OctetStringRef};
use der::{Decode, DecodeValue, Encode, FixedTag, Reader, Tag, Tagged};
use spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef};
use x509_cert::Certificate;

use crate::error::OcspError;

/// Most certificates in one request.
const CERTIFICATES_MAX: usize = 20;

/// Longest serial, in octets. Serials have 20 (RFC 5280 section 4.1.2.2); odd authorities use somewhat more.
const SERIAL_BYTES_MAX: usize = 64;

/// Longest nonce, in octets (RFC 9654 section 2.1).
const NONCE_BYTES_MAX: usize = 128;

/// Reads a request and verifies the signature if it has one.
pub(super) fn decode(der: &[u8]) -> Result<OcspQuery, OcspError> {
    let request = OcspRequest::from_der(der)?;
    let mut query = request.tbs.value.query()?;
    if let Some(signature) = &request.signature {
        query.signer = Some(signature.verified_signer(request.tbs.der)?);
    }
    Ok(query)
}

/// Reads a request that is not signed.
pub(super) fn decode_unsigned(der: &[u8]) -> Option<OcspQuery> {
    let request = OcspRequest::from_der(der).ok()?;
    if request.signature.is_some() { None } else { request.tbs.value.query().ok() }
}

impl TbsRequest<'_> {
    fn query(&self) -> Result<OcspQuery, OcspError> {
        if self.version.is_some_and(|version| version != 0)
            || self.requests.is_empty()
            || self.requests.len() > CERTIFICATES_MAX
        {
            return Err(OcspError::MalformedRequest);
        }
        for request in &self.requests {
            // None of the extensions of a single request is understood, so none of them may be critical.
            if request.extensions.iter().flatten().any(|extension| extension.critical) {
                return Err(OcspError::MalformedRequest);
            }
        }
        Ok(OcspQuery {
            certificates: self.requests.iter().map(|request| request.cert_id.cert_id()).collect::<Result<_, _>>()?,
            nonce: self.nonce()?,
            signer: None,
            requestor: self.requestor.map(|name| name.to_der()).transpose()?,
        })
    }

    /// Reads the request's own extensions: the nonce is handed on, acceptable responses are checked.
    fn nonce(&self) -> Result<Option<Vec<u8>>, OcspError> {
        let mut nonce = None;
        for extension in self.extensions.iter().flatten() {
            let value = extension.value.as_bytes();
            match extension.oid {
                ID_PKIX_OCSP_NONCE if nonce.is_none() && has_nonce_length(value) => nonce = Some(value.to_vec()),
                ID_PKIX_OCSP_NONCE => return Err(OcspError::MalformedRequest),
                // Basic responses are the only ones there are, and clients must name them (section 4.4.3).
                ID_PKIX_OCSP_RESPONSE if Vec::from_der(value)?.contains(&ID_PKIX_OCSP_BASIC) => {}
                ID_PKIX_OCSP_RESPONSE => return Err(OcspError::MalformedRequest),
                _ if extension.critical => return Err(OcspError::MalformedRequest),
                _ => {}
            }
        }
        Ok(nonce)
    }
}

/// RFC 9654 section 2.1: 1 to 128 octets within an OCTET STRING. Old clients leave the OCTET STRING out.
fn has_nonce_length(value: &[u8]) -> bool {
    let nonce = <&OctetStringRef>::from_der(value).map_or(value, OctetStringRef::as_bytes);
    (1..=NONCE_BYTES_MAX).contains(&nonce.len())
}

impl Raw<'_, CertIdFields<'_>> {
    fn cert_id(&self) -> Result<CertId, OcspError> {
        let fields = &self.value;
        let parameters = fields.algorithm.parameters;
        if parameters.is_some_and(|parameters| !parameters.is_null()) {
            return Err(OcspError::MalformedRequest);
        }
        let (hash, bytes) = match fields.algorithm.oid {
            ID_SHA_1 => (CertIdHash::Sha1, 20),
            ID_SHA_256 => (CertIdHash::Sha256, 32),
            ID_SHA_384 => (CertIdHash::Sha384, 48),
            ID_SHA_512 => (CertIdHash::Sha512, 64),
            // The issuer cannot be made out.
            _ => return Err(OcspError::Unauthorized),
        };
        let (name_hash, key_hash) = (fields.name_hash.as_bytes(), fields.key_hash.as_bytes());
        if name_hash.len() != bytes || key_hash.len() != bytes {
            return Err(OcspError::MalformedRequest);
        }
        Ok(CertId {
            hash,
            issuer_name_hash: name_hash.to_vec(),
            issuer_key_hash: key_hash.to_vec(),
            serial: minimal_integer(fields.serial)?.to_vec(),
            der: self.der.to_vec(),
        })
    }
}

/// The content of an INTEGER without superfluous octets in front, which some clients write.
fn minimal_integer(integer: AnyRef<'_>) -> Result<&[u8], OcspError> {
    let mut content = integer.value();
    if integer.tag() != Tag::Integer || content.is_empty() || content.len() > SERIAL_BYTES_MAX {
        return Err(OcspError::MalformedRequest);
    }
    while let [first, rest @ ..] = content
        && let [next, ..] = rest
        && matches!((first, next), (0x00, 0x00..=0x7f) | (0xff, 0x80..=0xff))
    {
        content = rest;
    }
    Ok(content)
}

impl Signature<'_> {
    /// The certificate whose key made the signature over `tbs_der`; the first one sent is meant to be it.
    fn verified_signer(&self, tbs_der: &[u8]) -> Result<Vec<u8>, OcspError> {
        let certificate_der = self.certificates.iter().flatten().next().ok_or(OcspError::Unauthorized)?.der;
        let certificate = Certificate::from_der(certificate_der)?;
        let spki_der = certificate.tbs_certificate().subject_public_key_info().to_der()?;
        let signature = self.signature.as_bytes().ok_or(OcspError::MalformedRequest)?;
        verify_signature(&spki_der, &self.algorithm, tbs_der, signature).map_err(|_| OcspError::Unauthorized)?;
        Ok(certificate_der.to_vec())
    }
}

/// A decoded value together with the very bytes it was decoded from.
struct Raw<'a, T> {
    der: &'a [u8],
    value: T,
}

impl<'a, T: Decode<'a, Error = der::Error>> Decode<'a> for Raw<'a, T> {
    type Error = der::Error;

    fn decode<R: Reader<'a>>(reader: &mut R) -> der::Result<Self> {
        let der = reader.tlv_bytes()?;
        Ok(Self { der, value: T::from_der(der)? })
    }
}

#[derive(DecodeValue)]
struct OcspRequest<'a> {
    tbs: Raw<'a, TbsRequest<'a>>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    signature: Option<Signature<'a>>,
}

impl FixedTag for OcspRequest<'_> {
    const TAG: Tag = Tag::Sequence;
}

#[derive(DecodeValue)]
struct TbsRequest<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    version: Option<u8>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    requestor: Option<AnyRef<'a>>,
    requests: Vec<SingleRequest<'a>>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Vec<Extension<'a>>>,
}

impl FixedTag for TbsRequest<'_> {
    const TAG: Tag = Tag::Sequence;
}

#[derive(DecodeValue)]
struct SingleRequest<'a> {
    cert_id: Raw<'a, CertIdFields<'a>>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Vec<Extension<'a>>>,
}

impl FixedTag for SingleRequest<'_> {
    const TAG: Tag = Tag::Sequence;
}

#[derive(DecodeValue)]
struct CertIdFields<'a> {
    algorithm: AlgorithmIdentifierRef<'a>,
    name_hash: &'a OctetStringRef,
    key_hash: &'a OctetStringRef,
    serial: AnyRef<'a>,
}

impl FixedTag for CertIdFields<'_> {
    const TAG: Tag = Tag::Sequence;
}

#[derive(DecodeValue)]
struct Extension<'a> {
    oid: ObjectIdentifier,
    #[asn1(default = "Default::default")]
    critical: bool,
    value: &'a OctetStringRef,
}

impl FixedTag for Extension<'_> {
    const TAG: Tag = Tag::Sequence;
}

#[derive(DecodeValue)]
struct Signature<'a> {
    algorithm: AlgorithmIdentifierOwned,
    signature: BitStringRef<'a>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    certificates: Option<Vec<Raw<'a, AnyRef<'a>>>>,
}

impl FixedTag for Signature<'_> {
    const TAG: Tag = Tag::Sequence;
}
