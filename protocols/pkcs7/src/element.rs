//! DER values with their octets as received.

use der::asn1::AnyRef;
use der::{Decode, Reader, SliceReader, Tag, TagNumber, Tagged};

use crate::error::Error;

/// How many values a field may hold.
const ELEMENTS_MAX: usize = 1024;

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// Its tag.
    pub tag: Tag,
    /// Tag, length and content.
    pub whole: &'a [u8],
    /// The content.
    pub content: &'a [u8],
}

/// The values that stand one behind the other in a content.
///
/// # Errors
/// [`Error::Malformed`] for what is not DER, and for more values than any message has.
pub fn elements(content: &[u8]) -> Result<Vec<Element<'_>>, Error> {
    let mut reader = SliceReader::new(content)?;
    let mut elements = Vec::new();
    while !reader.is_finished() {
        if elements.len() == ELEMENTS_MAX {
            return Err(Error::malformed(format!("more than {ELEMENTS_MAX} values in a field")));
        }
        let whole = reader.tlv_bytes()?;
        let any = AnyRef::from_der(whole)?;
        elements.push(Element { tag: any.tag(), whole, content: any.value() });
    }
    Ok(elements)
}

/// The one value that these octets are.
///
/// # Errors
/// [`Error::Malformed`] for anything else.
pub fn only_element(octets: &[u8]) -> Result<Element<'_>, Error> {
    let any = AnyRef::from_der(octets)?;
    Ok(Element { tag: any.tag(), whole: octets, content: any.value() })
}

/// `[number]`, constructed.
pub(crate) const fn constructed(number: u32) -> Tag {
    Tag::ContextSpecific { constructed: true, number: TagNumber(number) }
}

/// `[number]`, primitive.
pub(crate) const fn primitive(number: u32) -> Tag {
    Tag::ContextSpecific { constructed: false, number: TagNumber(number) }
}

/// The fields of a SEQUENCE, taken one after the other.
pub(crate) struct Fields<'a>(std::iter::Peekable<std::vec::IntoIter<Element<'a>>>);

impl<'a> Fields<'a> {
    /// The fields of a value with this tag.
    pub(crate) fn of(element: Element<'a>, tag: Tag) -> Result<Self, Error> {
        element.tag.assert_eq(tag)?;
        Ok(Self(elements(element.content)?.into_iter().peekable()))
    }

    /// The fields of the SEQUENCE that these octets are.
    pub(crate) fn of_sequence(octets: &'a [u8]) -> Result<Self, Error> {
        Self::of(only_element(octets)?, Tag::Sequence)
    }

    /// The next field, whatever it is.
    pub(crate) fn next(&mut self) -> Result<Element<'a>, Error> {
        self.0.next().ok_or_else(|| Error::malformed("a field is missing"))
    }

    /// The next field, which must have this tag.
    pub(crate) fn expect(&mut self, tag: Tag) -> Result<Element<'a>, Error> {
        let element = self.next()?;
        element.tag.assert_eq(tag)?;
        Ok(element)
    }

    /// The next field if it has this tag.
    pub(crate) fn optional(&mut self, tag: Tag) -> Option<Element<'a>> {
        self.0.next_if(|element| element.tag == tag)
    }

    /// There must be no further field.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        match self.0.next() {
            None => Ok(()),
            Some(_) => Err(Error::malformed("a field too many")),
        }
    }
}

/// An object identifier.
pub(crate) fn oid(element: Element<'_>) -> Result<der::asn1::ObjectIdentifier, Error> {
    Ok(der::asn1::ObjectIdentifier::from_der(element.whole)?)
}
