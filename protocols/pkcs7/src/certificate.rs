//! What messages need to know of a certificate. Certificates of clients are often self-signed on the spot, with serials and names
//! that no strict reader takes; so this one looks at a few fields only, and judges nothing.

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER;
use der::Tag;

use crate::element::{Fields, constructed, elements, oid, only_element};
use crate::error::Error;

/// Some fields of a certificate, as octets.
#[derive(Clone, Copy, Debug)]
pub struct CertificateView<'a> {
    /// The issuer, a Name in DER.
    pub issuer: &'a [u8],
    /// The serial, an INTEGER in DER.
    pub serial: &'a [u8],
    /// The subject, a Name in DER.
    pub subject: &'a [u8],
    /// The SubjectPublicKeyInfo, DER.
    pub public_key: &'a [u8],
    /// The subjectKeyIdentifier, if there is one.
    pub key_identifier: Option<&'a [u8]>,
}

impl<'a> CertificateView<'a> {
    /// Looks at a certificate in DER.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn of(certificate: &'a [u8]) -> Result<Self, Error> {
        let mut outer = Fields::of_sequence(certificate)?;
        let mut fields = Fields::of(outer.next()?, Tag::Sequence)?;
        let _version = fields.optional(constructed(0));
        let serial = fields.expect(Tag::Integer)?.whole;
        let _signature = fields.expect(Tag::Sequence)?;
        let issuer = fields.expect(Tag::Sequence)?.whole;
        let _validity = fields.expect(Tag::Sequence)?;
        let subject = fields.expect(Tag::Sequence)?.whole;
        let public_key = fields.expect(Tag::Sequence)?.whole;
        let mut key_identifier = None;
        while let Ok(field) = fields.next() {
            if field.tag == constructed(3) {
                key_identifier = extension(field.content, ID_CE_SUBJECT_KEY_IDENTIFIER)?;
            }
        }
        Ok(Self { issuer, serial, subject, public_key, key_identifier })
    }

    /// IssuerAndSerialNumber (RFC 5652 section 10.2.4), DER.
    pub(crate) fn issuer_and_serial(&self) -> Result<Vec<u8>, Error> {
        let content = [self.issuer, self.serial].concat();
        Ok(der::Encode::to_der(&der::asn1::AnyRef::new(Tag::Sequence, &content)?)?)
    }
}

/// The content of the OCTET STRING within an extension's value.
fn extension(extensions: &[u8], id: ObjectIdentifier) -> Result<Option<&[u8]>, Error> {
    let list = only_element(extensions)?;
    for extension in elements(list.content)? {
        let mut fields = Fields::of(extension, Tag::Sequence)?;
        if oid(fields.next()?)? != id {
            continue;
        }
        let _critical = fields.optional(Tag::Boolean);
        let value = fields.expect(Tag::OctetString)?;
        return Ok(only_element(value.content)
            .ok()
            .filter(|value| value.tag == Tag::OctetString)
            .map(|value| value.content));
    }
    Ok(None)
}
