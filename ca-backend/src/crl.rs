//! CRLs (RFC 5280 section 5), built as a stream into one buffer.
//!
//! A DER SEQUENCE states its length before its content, and a CRL can have a million entries. So room for everything in front is
//! kept at the beginning of the buffer, entries are appended as they come, and the headers are put right before them at the end.
//! The bytes to be signed and the finished CRL are parts of that same buffer: nothing is copied and the memory needed is that
//! of one CRL. A signature over a running digest would need no contiguous bytes, but Ed25519 and key stores cannot make one.

use bytes::Bytes;
use const_oid::db::rfc5280::{
    ID_CE_AUTHORITY_KEY_IDENTIFIER, ID_CE_CRL_NUMBER, ID_CE_CRL_REASONS, ID_CE_INVALIDITY_DATE,
};
use der::asn1::{BitStringRef, ContextSpecific, GeneralizedTime, ObjectIdentifier, OctetStringRef, UintRef};
use der::{Encode, EncodeValue, ErrorKind, FixedTag, Header, Tag, TagMode, TagNumber};
use spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef};
use x509_cert::time::Time as X509Time;

use crate::clock::Time;
use crate::encoding::{Extension, Verbatim, generalized};
use crate::status::RevocationReason;

/// id-ce-expiredCertsOnCRL (X.509 clause 9.5.2.8).
const EXPIRED_CERTS_ON_CRL: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.60");

/// Octets of the longest header of a SEQUENCE: tag, count of length octets, and four of them.
const HEADER_BYTES_MAX: usize = 6;

/// Octets of a usual entry: a serial of 20 octets, a date, a reason. Only a first guess for the buffer.
pub(crate) const ENTRY_BYTES_USUAL: usize = 53;

/// What a CRL says beside its entries.
pub(crate) struct CrlDraft<'a> {
    /// The DER of the issuer's subject name, verbatim.
    pub(crate) issuer_name_der: &'a [u8],
    /// The issuer's subject key identifier.
    pub(crate) key_identifier: &'a [u8],
    /// How it will be signed.
    pub(crate) algorithm: &'a AlgorithmIdentifierOwned,
    /// The cRLNumber, greater than that of every CRL of this issuer before.
    pub(crate) number: u64,
    /// From when on it holds.
    pub(crate) this_update: Time,
    /// When the next one will be there at the latest.
    pub(crate) next_update: Time,
    /// Entries of certificates that expired since then are kept.
    pub(crate) expired_certs_on_crl: Option<Time>,
}

/// A CRL in the making.
pub(crate) struct CrlBuilder {
    /// Room for what goes in front, then the entries.
    buffer: Vec<u8>,
    /// Where the entries begin.
    entries_at: usize,
    /// The fields between the header of the TBSCertList and its entries.
    head: Vec<u8>,
    /// The AlgorithmIdentifier, repeated beside the signature.
    algorithm: Vec<u8>,
    /// The crlExtensions with their tag.
    extensions: Vec<u8>,
}

impl CrlDraft<'_> {
    /// Begins a CRL of about `entries_expected` entries.
    pub(crate) fn builder(&self, entries_expected: usize) -> der::Result<CrlBuilder> {
        let algorithm = self.algorithm.to_der()?;
        let mut head = Vec::new();
        VERSION_2.encode(&mut head)?;
        Verbatim(&algorithm).encode(&mut head)?;
        Verbatim(self.issuer_name_der).encode(&mut head)?;
        X509Time::from(self.this_update.date_time()).encode(&mut head)?;
        X509Time::from(self.next_update.date_time()).encode(&mut head)?;

        let mut extensions = Vec::new();
        ContextSpecific {
            tag_number: TagNumber(0),
            tag_mode: TagMode::Explicit,
            value: CrlExtensions {
                authority: Extension::new(
                    ID_CE_AUTHORITY_KEY_IDENTIFIER,
                    AuthorityKey { identifier: OctetStringRef::new(self.key_identifier)? },
                ),
                number: Extension::new(ID_CE_CRL_NUMBER, self.number),
                expired_certs: self
                    .expired_certs_on_crl
                    .map(|since| Extension::new(EXPIRED_CERTS_ON_CRL, generalized(since))),
            },
        }
        .encode(&mut extensions)?;

        let entries_at = 3 * HEADER_BYTES_MAX + head.len();
        let mut buffer = Vec::with_capacity(entries_at + entries_expected * ENTRY_BYTES_USUAL);
        buffer.resize(entries_at, 0);
        Ok(CrlBuilder { buffer, entries_at, head, algorithm, extensions })
    }
}

impl CrlBuilder {
    /// Adds a revoked or held certificate. The serial is a big-endian magnitude; leading zeros do not matter.
    pub(crate) fn push(
        &mut self,
        serial: &[u8],
        revoked_at: Time,
        reason: RevocationReason,
        invalidity: Option<Time>,
    ) -> der::Result<()> {
        let reason = (reason != RevocationReason::Unspecified).then(|| Extension::new(ID_CE_CRL_REASONS, reason));
        let invalidity = invalidity.map(|date| Extension::new(ID_CE_INVALIDITY_DATE, generalized(date)));
        CrlEntry {
            serial: UintRef::new(serial)?,
            revoked_at: revoked_at.date_time().into(),
            extensions: (reason.is_some() || invalidity.is_some()).then_some(EntryExtensions { reason, invalidity }),
        }
        .encode(&mut self.buffer)
    }

    /// Closes the list: the bytes to be signed.
    pub(crate) fn finish(self) -> der::Result<UnsignedCrl> {
        let Self { mut buffer, entries_at, head, algorithm, extensions } = self;
        let entries_bytes = buffer.len() - entries_at;
        buffer.extend_from_slice(&extensions);
        let mut crl = UnsignedCrl { buffer, starts_at: entries_at, algorithm };
        if entries_bytes > 0 {
            crl.prepend(&sequence_header(entries_bytes)?)?;
        }
        crl.prepend(&head)?;
        crl.prepend(&sequence_header(crl.tbs().len())?)?;
        Ok(crl)
    }
}

/// A whole TBSCertList that waits for its signature.
pub(crate) struct UnsignedCrl {
    buffer: Vec<u8>,
    starts_at: usize,
    algorithm: Vec<u8>,
}

impl UnsignedCrl {
    /// A TBSCertList that was recorded in pieces.
    pub(crate) fn recorded(pieces: &[Vec<u8>], algorithm: AlgorithmIdentifierRef<'_>) -> der::Result<Self> {
        let mut buffer = vec![0; HEADER_BYTES_MAX];
        pieces.iter().for_each(|piece| buffer.extend_from_slice(piece));
        Ok(Self { buffer, starts_at: HEADER_BYTES_MAX, algorithm: algorithm.to_der()? })
    }

    /// What is to be signed.
    pub(crate) fn tbs(&self) -> &[u8] {
        self.buffer.get(self.starts_at..).unwrap_or_default()
    }

    /// Adds the signature: the DER of the CertificateList.
    pub(crate) fn assemble(mut self, signature: &[u8]) -> der::Result<Bytes> {
        self.buffer.extend_from_slice(&self.algorithm);
        BitStringRef::from_bytes(signature)?.encode(&mut self.buffer)?;
        let header = sequence_header(self.tbs().len())?;
        self.prepend(&header)?;
        Ok(Bytes::from(self.buffer).slice(self.starts_at..))
    }

    /// Writes in front of what is there, into the room that was kept.
    fn prepend(&mut self, bytes: &[u8]) -> der::Result<()> {
        let starts_at = self.starts_at.checked_sub(bytes.len()).ok_or(ErrorKind::Overlength)?;
        let room = self.buffer.get_mut(starts_at..self.starts_at).ok_or(ErrorKind::Overlength)?;
        room.copy_from_slice(bytes);
        self.starts_at = starts_at;
        Ok(())
    }
}

fn sequence_header(content_bytes: usize) -> der::Result<Vec<u8>> {
    Header::new(Tag::Sequence, content_bytes.try_into()?).to_der()
}

// The ASN.1 of RFC 5280 section 5.1, as it is written.

/// The version field of every CRL with extensions: v2(1).
const VERSION_2: u8 = 1;

#[derive(EncodeValue)]
struct CrlEntry<'a> {
    serial: UintRef<'a>,
    revoked_at: X509Time,
    extensions: Option<EntryExtensions>,
}

impl FixedTag for CrlEntry<'_> {
    const TAG: Tag = Tag::Sequence;
}

#[derive(EncodeValue)]
struct EntryExtensions {
    reason: Option<Extension<RevocationReason>>,
    invalidity: Option<Extension<GeneralizedTime>>,
}

impl FixedTag for EntryExtensions {
    const TAG: Tag = Tag::Sequence;
}

#[derive(EncodeValue)]
struct CrlExtensions<'a> {
    authority: Extension<AuthorityKey<'a>>,
    number: Extension<u64>,
    expired_certs: Option<Extension<GeneralizedTime>>,
}

impl FixedTag for CrlExtensions<'_> {
    const TAG: Tag = Tag::Sequence;
}

/// An AuthorityKeyIdentifier with nothing but the identifier.
#[derive(EncodeValue)]
struct AuthorityKey<'a> {
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    identifier: &'a OctetStringRef,
}

impl FixedTag for AuthorityKey<'_> {
    const TAG: Tag = Tag::Sequence;
}

#[cfg(test)]
mod tests;
