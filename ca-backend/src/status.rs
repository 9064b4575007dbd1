//! What the authority says about its certificates: revocation reasons, statuses, OCSP questions and answers, CRLs.
//!
//! Plain data; what builds it is private to the crate.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// Why a certificate was revoked (RFC 5280 section 5.3.1). `removeFromCRL` is missing: it appears in delta CRLs only and is no
/// state of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, der::Enumerated, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[repr(u8)]
pub enum RevocationReason {
    /// No reason given; CRLs and OCSP answers leave it out.
    Unspecified = 0,
    /// The private key is known or suspected to be in other hands.
    KeyCompromise = 1,
    /// The private key of the authority itself is.
    CaCompromise = 2,
    /// The subject's name or affiliation changed.
    AffiliationChanged = 3,
    /// Another certificate took its place.
    Superseded = 4,
    /// It is no longer needed.
    CessationOfOperation = 5,
    /// On hold: the only reason that can be lifted.
    CertificateHold = 6,
    /// A privilege named in the certificate was withdrawn.
    PrivilegeWithdrawn = 9,
    /// The private key of an attribute authority is compromised.
    AaCompromise = 10,
}

impl From<RevocationReason> for String {
    fn from(reason: RevocationReason) -> Self {
        reason.name().to_owned()
    }
}

impl TryFrom<String> for RevocationReason {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl RevocationReason {
    /// Every reason, by ascending code.
    pub const ALL: [Self; 9] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::CertificateHold,
        Self::PrivilegeWithdrawn,
        Self::AaCompromise,
    ];

    /// The CRLReason number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The reason with this CRLReason number; `None` for 7, 8 (`removeFromCRL`) and everything above 10.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The name in RFC 5280, such as `keyCompromise`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::CertificateHold => "certificateHold",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
            Self::AaCompromise => "aACompromise",
        }
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The names of RFC 5280 in any letter case, so that `keycompromise` and `caCompromise` are understood too.
impl FromStr for RevocationReason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|reason| reason.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is not a revocation reason; the reasons are {known}")
        })
    }
}

/// What is known of a serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertStatus {
    /// A stored certificate that is not revoked.
    Good,
    /// A serial that was recorded for signing and has no certificate yet; OCSP answers `unknown`.
    Reserved,
    /// Revoked or on hold.
    Revoked {
        /// Since when.
        at: Time,
        /// Why.
        reason: RevocationReason,
        /// When the key is known or suspected to have been compromised.
        invalidity: Option<Time>,
    },
    /// Never issued under this issuer.
    Unknown,
}

/// The hash of an OCSP CertID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertIdHash {
    /// SHA-1, which most clients still send. It identifies; it protects nothing.
    Sha1,
    /// SHA-256 (RFC 9919 clients).
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// Which certificate an OCSP client asks about (CertID, RFC 6960 section 4.1.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertId {
    /// How the issuer was hashed.
    pub hash: CertIdHash,
    /// Hash of the DER of the issuer's subject name; has the length of `hash`.
    pub issuer_name_hash: Vec<u8>,
    /// Hash of the issuer's public key bits; has the length of `hash`.
    pub issuer_key_hash: Vec<u8>,
    /// The serial as the content of a minimal DER INTEGER: two's complement, big endian, superfluous leading octets removed.
    pub serial: Vec<u8>,
    /// The CertID as it was sent, a whole DER SEQUENCE. Answers echo it: strict clients compare the bytes.
    pub der: Vec<u8>,
}

/// A decoded OCSP request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OcspQuery {
    /// At least one, in the order of the request.
    pub certificates: Vec<CertId>,
    /// The content of the nonce extension's extnValue, verbatim. A query with a nonce is never answered from memory.
    pub nonce: Option<Vec<u8>>,
    /// The certificate, DER, whose key signed the request. The signature was verified; trust in the certificate was not judged.
    pub signer: Option<Vec<u8>>,
    /// The requestorName, a DER GeneralName. A claim unless `signer` is trusted.
    pub requestor: Option<Vec<u8>>,
}

impl OcspQuery {
    /// The CertID bytes under which an answer may be kept and found again: a query for one certificate without a nonce.
    #[must_use]
    pub fn cache_key(&self) -> Option<&[u8]> {
        match (self.certificates.as_slice(), &self.nonce) {
            ([only], None) => Some(&only.der),
            _ => None,
        }
    }
}

/// A signed OCSP answer.
#[derive(Clone, Debug)]
pub struct SignedOcsp {
    /// A whole OCSPResponse.
    pub der: Bytes,
    /// When it was signed.
    pub produced_at: Time,
    /// The latest thisUpdate within.
    pub this_update: Time,
    /// The earliest nextUpdate within.
    pub next_update: Time,
    /// Whether others may be given the same answer: it has no nonce and every status in it is authoritative.
    pub cacheable: bool,
    /// The quoted entity tag of `der`, ready for the HTTP header.
    pub etag: String,
}

impl SignedOcsp {
    /// An answer made of one DER OCSPResponse; the entity tag is computed here.
    #[must_use]
    pub fn new(
        der: impl Into<Bytes>,
        produced_at: Time,
        this_update: Time,
        next_update: Time,
        cacheable: bool,
    ) -> Self {
        let der = der.into();
        let etag = etag(&der);
        Self { der, produced_at, this_update, next_update, cacheable, etag }
    }
}

/// A signed CRL.
#[derive(Clone, Debug)]
pub struct SignedCrl {
    /// A whole CertificateList. Slices of it share its memory.
    pub der: Bytes,
    /// The cRLNumber.
    pub number: u64,
    /// When it was made, less the skew allowed to relying parties.
    pub this_update: Time,
    /// When relying parties stop believing it.
    pub next_update: Time,
    /// The quoted entity tag of `der`, ready for the HTTP header.
    pub etag: String,
}

impl SignedCrl {
    /// A CRL made of one DER CertificateList; the entity tag is computed here.
    #[must_use]
    pub fn new(der: impl Into<Bytes>, number: u64, this_update: Time, next_update: Time) -> Self {
        let der = der.into();
        let etag = etag(&der);
        Self { der, number, this_update, next_update, etag }
    }
}

/// A strong entity tag (RFC 9110 section 8.8.3): the first half of the SHA-256 of the bytes.
fn etag(der: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    let (half, _) = digest.as_ref().split_at(16);
    format!("\"{}\"", hex::encode(half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_by_its_name_and_code_and_remove_from_crl_is_none() {
        for reason in RevocationReason::ALL {
            assert_eq!(reason.name().parse(), Ok(reason));
            assert_eq!(reason.to_string().to_uppercase().parse(), Ok(reason));
            assert_eq!(RevocationReason::from_code(reason.code()), Some(reason));
        }
        assert_eq!(RevocationReason::from_code(7), None);
        assert_eq!(RevocationReason::from_code(8), None);
        assert_eq!(RevocationReason::from_code(11), None);
        assert!("removeFromCRL".parse::<RevocationReason>().is_err());
    }

    #[test]
    fn equal_bytes_have_equal_quoted_entity_tags() {
        let one = SignedCrl::new(vec![1, 2], 1, Time::from_unix(0), Time::from_unix(1));
        let same = SignedCrl::new(vec![1, 2], 2, Time::from_unix(5), Time::from_unix(6));
        let other = SignedCrl::new(vec![1, 3], 1, Time::from_unix(0), Time::from_unix(1));
        assert_eq!(one.etag, same.etag);
        assert_ne!(one.etag, other.etag);
        assert!(one.etag.starts_with('"') && one.etag.ends_with('"') && one.etag.len() == 34);
    }
}
