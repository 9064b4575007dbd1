//! Parts of DER that are written in place, without a heap allocation for each.

use der::asn1::{GeneralizedTime, ObjectIdentifier};
use der::{Encode, EncodeValue, FixedTag, Length, Tag, Writer};

use crate::clock::Time;

/// A non-critical X.509 extension (RFC 5280 section 4.1) around a value that is not yet encoded.
#[derive(EncodeValue)]
pub(crate) struct Extension<T: Encode> {
    oid: ObjectIdentifier,
    value: InOctets<T>,
}

impl<T: Encode> Extension<T> {
    pub(crate) fn new(oid: ObjectIdentifier, value: T) -> Self {
        Self { oid, value: InOctets(value) }
    }
}

impl<T: Encode> FixedTag for Extension<T> {
    const TAG: Tag = Tag::Sequence;
}

/// An OCTET STRING that holds the DER of a value.
pub(crate) struct InOctets<T>(pub(crate) T);

impl<T: Encode> EncodeValue for InOctets<T> {
    fn value_len(&self) -> der::Result<Length> {
        self.0.encoded_len()
    }

    fn encode_value(&self, writer: &mut impl Writer) -> der::Result<()> {
        self.0.encode(writer)
    }
}

impl<T> FixedTag for InOctets<T> {
    const TAG: Tag = Tag::OctetString;
}

/// Bytes that are DER already and are written as they are.
#[derive(Clone, Copy)]
pub(crate) struct Verbatim<'a>(pub(crate) &'a [u8]);

impl Encode for Verbatim<'_> {
    fn encoded_len(&self) -> der::Result<Length> {
        self.0.len().try_into()
    }

    fn encode(&self, writer: &mut impl Writer) -> der::Result<()> {
        writer.write(self.0)
    }
}

/// A moment as OCSP answers and extensions write it.
pub(crate) fn generalized(time: Time) -> GeneralizedTime {
    GeneralizedTime::from_date_time(time.date_time())
}
