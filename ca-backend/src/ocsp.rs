//! OCSP answers (RFC 6960): built, handed out for signing, and put together with the signature.
//!
//! The path is `OcspDraft::encode` -> sign the bytes -> [`assemble`]. A serial that was never issued is answered `unknown`;
//! extended-revoke is not used. Questions about issuers that are not ours never come here: they are refused as unauthorized.

use aws_lc_rs::digest;
use const_oid::db::rfc6960::{ID_PKIX_OCSP_ARCHIVE_CUTOFF, ID_PKIX_OCSP_BASIC, ID_PKIX_OCSP_NONCE};
use der::asn1::{BitStringRef, GeneralizedTime, Null, ObjectIdentifier, OctetStringRef};
use der::referenced::OwnedToRef;
use der::{Choice, Encode, EncodeValue, FixedTag, Sequence, Tag};
use spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef};

use crate::clock::Time;
use crate::encoding::{Extension, InOctets, Verbatim, generalized};
use crate::status::{CertId, CertIdHash, CertStatus, RevocationReason};

/// What an OCSP answer is going to say.
pub(crate) struct OcspDraft<'a> {
    /// SHA-1 of the responder's public key bits: [`responder_key_hash`] of the key that signs.
    pub(crate) responder_key_hash: [u8; 20],
    /// When it is signed.
    pub(crate) produced_at: Time,
    /// One for each CertID of the query, in its order.
    pub(crate) answers: Vec<Answer<'a>>,
    /// The nonce as [`OcspQuery::nonce`](crate::status::OcspQuery) gives it.
    pub(crate) nonce: Option<&'a [u8]>,
}

/// The word on one certificate.
pub(crate) struct Answer<'a> {
    /// [`CertId::der`], echoed byte for byte.
    pub(crate) cert_id_der: &'a [u8],
    /// What is known of it. [`CertStatus::Reserved`] is told as `unknown`: good is said of stored certificates only.
    pub(crate) status: CertStatus,
    /// From when on this is known to be right.
    pub(crate) this_update: Time,
    /// Until when it may be believed.
    pub(crate) next_update: Time,
    /// The status of certificates that expired since then is kept (section 4.4.4).
    pub(crate) archive_cutoff: Option<Time>,
}

impl OcspDraft<'_> {
    /// The DER of the ResponseData: what the responder's key signs.
    pub(crate) fn encode(&self) -> der::Result<Vec<u8>> {
        let extensions = match self.nonce {
            Some(nonce) => Some([NonceExtension { oid: ID_PKIX_OCSP_NONCE, value: OctetStringRef::new(nonce)? }]),
            None => None,
        };
        ResponseData {
            responder_key: OctetStringRef::new(&self.responder_key_hash)?,
            produced_at: generalized(self.produced_at),
            responses: self.answers.iter().map(Answer::single_response).collect(),
            extensions,
        }
        .to_der()
    }
}

impl Answer<'_> {
    fn single_response(&self) -> SingleResponse<'_> {
        SingleResponse {
            cert_id: Verbatim(self.cert_id_der),
            status: match self.status {
                CertStatus::Good => SingleStatus::Good(Null),
                CertStatus::Reserved | CertStatus::Unknown => SingleStatus::Unknown(Null),
                CertStatus::Revoked { at, reason, .. } => SingleStatus::Revoked(RevokedInfo {
                    at: generalized(at),
                    reason: (reason != RevocationReason::Unspecified).then_some(reason),
                }),
            },
            this_update: generalized(self.this_update),
            next_update: generalized(self.next_update),
            extensions: self
                .archive_cutoff
                .map(|since| [Extension::new(ID_PKIX_OCSP_ARCHIVE_CUTOFF, generalized(since))]),
        }
    }
}

/// Puts a signed answer together: the DER of the OCSPResponse.
///
/// `response_data` is what [`OcspDraft::encode`] gave and `signature` was made over. The responder's certificate is left out
/// when the authority's own key signed.
pub(crate) fn assemble(
    response_data: &[u8],
    algorithm: &AlgorithmIdentifierOwned,
    signature: &[u8],
    responder_certificate_der: Option<&[u8]>,
) -> der::Result<Vec<u8>> {
    OcspResponse {
        status: OcspResponseStatus::Successful,
        bytes: ResponseBytes {
            kind: ID_PKIX_OCSP_BASIC,
            response: InOctets(BasicResponse {
                data: Verbatim(response_data),
                algorithm: algorithm.owned_to_ref(),
                signature: BitStringRef::from_bytes(signature)?,
                certificates: responder_certificate_der.map(|certificate| [Verbatim(certificate)]),
            }),
        },
    }
    .to_der()
}

/// The hashes under which OCSP clients name one issuer.
#[derive(Debug)]
pub(crate) struct IssuerHashes {
    pairs: [(CertIdHash, digest::Digest, digest::Digest); 4],
}

impl IssuerHashes {
    /// Of the DER of the issuer's subject name, and of the bits in its subjectPublicKey (the BIT STRING without tag, length and
    /// the count of unused bits).
    pub(crate) fn of(name_der: &[u8], public_key_bits: &[u8]) -> Self {
        let pair =
            |hash, algorithm| (hash, digest::digest(algorithm, name_der), digest::digest(algorithm, public_key_bits));
        Self {
            pairs: [
                pair(CertIdHash::Sha1, &digest::SHA1_FOR_LEGACY_USE_ONLY),
                pair(CertIdHash::Sha256, &digest::SHA256),
                pair(CertIdHash::Sha384, &digest::SHA384),
                pair(CertIdHash::Sha512, &digest::SHA512),
            ],
        }
    }

    /// Whether the question is about a certificate of this issuer.
    pub(crate) fn names(&self, id: &CertId) -> bool {
        self.pairs.iter().any(|(hash, name, key)| {
            *hash == id.hash && name.as_ref() == id.issuer_name_hash && key.as_ref() == id.issuer_key_hash
        })
    }
}

/// How a responder names itself: SHA-1 of its public key bits (`byKey`, section 4.2.1), whatever its key identifier is made of.
pub(crate) fn responder_key_hash(public_key_bits: &[u8]) -> [u8; 20] {
    let mut hash = [0; 20];
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, public_key_bits);
    hash.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

// The ASN.1 of RFC 6960 section 4.2.1 as far as this responder uses it: responders are named by key, nextUpdate is always there.

#[derive(EncodeValue)]
struct OcspResponse<'a> {
    status: OcspResponseStatus,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    bytes: ResponseBytes<'a>,
}

impl FixedTag for OcspResponse<'_> {
    const TAG: Tag = Tag::Sequence;
}

/// Only success: errors are rendered by the protocol, which needs no key for them.
#[derive(Clone, Copy, der::Enumerated)]
#[repr(u8)]
enum OcspResponseStatus {
    Successful = 0,
}

#[derive(EncodeValue)]
struct ResponseBytes<'a> {
    kind: ObjectIdentifier,
    response: InOctets<BasicResponse<'a>>,
}

impl FixedTag for ResponseBytes<'_> {
    const TAG: Tag = Tag::Sequence;
}

#[derive(EncodeValue)]
struct BasicResponse<'a> {
    data: Verbatim<'a>,
    algorithm: AlgorithmIdentifierRef<'a>,
    signature: BitStringRef<'a>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    certificates: Option<[Verbatim<'a>; 1]>,
}

impl FixedTag for BasicResponse<'_> {
    const TAG: Tag = Tag::Sequence;
}

#[derive(EncodeValue)]
struct ResponseData<'a> {
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT")]
    responder_key: &'a OctetStringRef,
    produced_at: GeneralizedTime,
    responses: Vec<SingleResponse<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<[NonceExtension<'a>; 1]>,
}

impl FixedTag for ResponseData<'_> {
    const TAG: Tag = Tag::Sequence;
}

#[derive(EncodeValue)]
struct NonceExtension<'a> {
    oid: ObjectIdentifier,
    value: &'a OctetStringRef,
}

impl FixedTag for NonceExtension<'_> {
    const TAG: Tag = Tag::Sequence;
}

#[derive(EncodeValue)]
struct SingleResponse<'a> {
    cert_id: Verbatim<'a>,
    status: SingleStatus,
    this_update: GeneralizedTime,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    next_update: GeneralizedTime,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<[Extension<GeneralizedTime>; 1]>,
}

impl FixedTag for SingleResponse<'_> {
    const TAG: Tag = Tag::Sequence;
}

#[derive(Choice)]
enum SingleStatus {
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    Good(Null),
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", constructed = "true")]
    Revoked(RevokedInfo),
    #[asn1(context_specific = "2", tag_mode = "IMPLICIT")]
    Unknown(Null),
}

#[derive(Sequence)]
struct RevokedInfo {
    at: GeneralizedTime,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    reason: Option<RevocationReason>,
}

#[cfg(test)]
mod tests;
