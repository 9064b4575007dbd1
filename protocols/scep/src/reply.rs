//! CertRep: the answer to a pkiMessage (RFC 8894 section 3.3.2), and the answers to the other operations.

use bytes::Bytes;
use ca_backend::{KeyAlgorithm, RegistrationAuthority};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5911::ID_DATA;
use const_oid::db::rfc5912::RSA_ENCRYPTION;
use der::asn1::{OctetString, PrintableString};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use pkcs7::{Attribute, Cipher, Digest, KeyTransport, SigningIdentity, seal, sign};
use spki::AlgorithmIdentifierOwned;
use zeroize::Zeroizing;

use crate::error::{FailInfo, Failure, HttpError, Rejection};
use crate::message::{
    FAIL_INFO, FAIL_INFO_TEXT, Head, MESSAGE_TYPE, PKI_STATUS, RECIPIENT_NONCE, SENDER_NONCE, TRANSACTION_ID,
};

/// What a pkiMessage is answered with.
pub(crate) enum CertRep {
    /// Certificates or a CRL: a certs-only message in DER, to be encrypted with this cipher.
    Success(Vec<u8>, Cipher),
    Pending,
    Failure(FailInfo, String),
}

impl From<&Rejection> for CertRep {
    fn from(rejection: &Rejection) -> Self {
        Self::Failure(rejection.fail_info, rejection.public.clone())
    }
}

/// Fresh random octets of one answer.
pub(crate) struct Fresh {
    pub(crate) nonce: [u8; 16],
    pub(crate) seal: Zeroizing<[u8; 48]>,
}

const CERT_REP: &str = "3";

impl CertRep {
    /// The whole message, DER: encrypted for the one who signed the request, signed by the registration authority.
    pub(crate) fn encode(
        &self,
        head: &Head,
        authority: &RegistrationAuthority,
        fresh: &Fresh,
    ) -> Result<Vec<u8>, Failure> {
        let (status, content) = match self {
            Self::Success(content, cipher) => {
                let sealed = seal(content, &head.signer, *cipher, KeyTransport::Pkcs1v15, &fresh.seal);
                let sealed = sealed.map_err(|error| match error {
                    pkcs7::Error::Algorithm(text) => Failure::from(Rejection::new(FailInfo::BadAlg, text)),
                    pkcs7::Error::Malformed(_)
                    | pkcs7::Error::Signature
                    | pkcs7::Error::Unreadable
                    | pkcs7::Error::Library(_) => Failure::from(error),
                })?;
                ("0", sealed)
            }
            Self::Failure(..) => ("2", quirk_certmonger_empty_content()),
            Self::Pending => ("3", quirk_certmonger_empty_content()),
        };
        let mut attributes = vec![
            text(TRANSACTION_ID, &head.transaction)?,
            text(MESSAGE_TYPE, CERT_REP)?,
            text(PKI_STATUS, status)?,
            Attribute::single(SENDER_NONCE, &OctetString::new(fresh.nonce)?)?,
        ];
        if let Some(nonce) = &head.sender_nonce {
            attributes.push(Attribute::single(RECIPIENT_NONCE, &OctetString::new(nonce.as_slice())?)?);
        }
        if let Self::Failure(fail_info, explanation) = self {
            attributes.push(text(FAIL_INFO, &(*fail_info as u8).to_string())?);
            attributes.push(Attribute::single(FAIL_INFO_TEXT, explanation)?);
        }
        signed((ID_DATA, Some(&content)), &attributes, authority)
    }
}

/// A message signed by the registration authority, its certificate within.
pub(crate) fn signed(
    content: (ObjectIdentifier, Option<&[u8]>),
    attributes: &[Attribute],
    authority: &RegistrationAuthority,
) -> Result<Vec<u8>, Failure> {
    let algorithm = authority.key.algorithm();
    let identity = SigningIdentity {
        certificate: &authority.certificate,
        signature_algorithm: &quirk_strongswan_rsa_encryption(),
        // What KeyAlgorithm::signature_algorithm has for RSA, the only keys that registration authorities have.
        digest: if algorithm == KeyAlgorithm::Rsa4096 { Digest::Sha512 } else { Digest::Sha256 },
    };
    sign(content, attributes, &identity, &[&authority.certificate], |message| Ok(authority.key.sign(message)?))
}

/// An answer without pkcsPKIEnvelope (RFC 8894 section 3.2.2) has a content that is empty, not none. What is signed is the same, but
/// certmonger, as everything that leaves messages to OpenSSL's PKCS7_verify, takes no message without a content: it would neither
/// wait nor learn why it got nothing. EJBCA and step-ca answer like this too, so that clients are used to it.
const fn quirk_certmonger_empty_content() -> Vec<u8> {
    Vec::new()
}

/// RFC 3370 section 3.2 permits rsaEncryption beside sha256WithRSAEncryption and its like, and clients read nothing else: strongSwan,
/// and what is built on old versions of OpenSSL.
fn quirk_strongswan_rsa_encryption() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: RSA_ENCRYPTION, parameters: Some(der::asn1::Any::null()) }
}

/// A PrintableString if the text is one. A transactionID that is none goes back as it came.
fn text(id: ObjectIdentifier, text: &str) -> Result<Attribute, Failure> {
    Ok(match PrintableString::new(text) {
        Ok(printable) => Attribute::single(id, &printable)?,
        Err(_) => Attribute::single(id, &text.to_owned())?,
    })
}

/// A body of an exact type: clients compare the whole header.
pub(crate) fn body(content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl HttpError {
    pub(crate) fn into_response(self) -> Response<Bytes> {
        let mut response = body("text/plain", format!("{}\n", self.text));
        *response.status_mut() = self.status;
        if let Some(after_s) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after_s));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        }
        response
    }
}
