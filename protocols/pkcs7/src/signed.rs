//! SignedData (RFC 5652 section 5).

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5911::{ID_CONTENT_TYPE, ID_DATA, ID_MESSAGE_DIGEST, ID_SIGNED_DATA};
use der::asn1::{AnyRef, OctetStringRef, SetOfVec};
use der::{Decode, Encode, Sequence, Tag};
use spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef};

use crate::algorithm::{self, Digest, Legacy};
use crate::ber::der_of;
use crate::certificate::CertificateView;
use crate::element::{Element, Fields, constructed, elements, oid, only_element, primitive};
use crate::error::Error;

/// How many certificates a message may bring.
const CERTIFICATES_MAX: usize = 32;

/// How many attributes a signer may sign.
const ATTRIBUTES_MAX: usize = 64;

/// The explicitly tagged content that every CMS message is in.
#[derive(Sequence)]
struct ContentInfo<'a> {
    content_type: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    content: AnyRef<'a>,
}

/// A CMS message of that type around `content`, a whole value in DER.
pub(crate) fn content_info(content_type: ObjectIdentifier, content: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(ContentInfo { content_type, content: AnyRef::from_der(content)? }.to_der()?)
}

/// The value within a CMS message of that type.
pub(crate) fn content_of(message: &[u8], content_type: ObjectIdentifier) -> Result<&[u8], Error> {
    let mut fields = Fields::of_sequence(message)?;
    let found = oid(fields.next()?)?;
    if found != content_type {
        return Err(Error::malformed(format!("a message of type {found} in place of {content_type}")));
    }
    let content = fields.expect(constructed(0))?;
    fields.finish()?;
    Ok(only_element(content.content)?.whole)
}

/// A SEQUENCE of whole values.
pub(crate) fn sequence(parts: &[&[u8]]) -> Result<Vec<u8>, Error> {
    tagged(Tag::Sequence, &parts.concat())
}

pub(crate) fn tagged(tag: Tag, content: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(AnyRef::new(tag, content)?.to_der()?)
}

/// Certificates and CRLs, each DER, without content or signer (RFC 5652 section 5.1, "degenerate").
///
/// A SET in DER is sorted, so their order is lost: readers must not rely on it.
///
/// # Errors
/// [`Error::Malformed`] if one of them is not DER.
pub fn certs_only(certificates: &[&[u8]], crls: &[&[u8]]) -> Result<Vec<u8>, Error> {
    let no_content = sequence(&[&ID_DATA.to_der()?])?;
    let certificates = set_of(constructed(0), certificates)?;
    let crls = if crls.is_empty() { Vec::new() } else { set_of(constructed(1), crls)? };
    let empty = tagged(Tag::Set, &[])?;
    let signed_data = sequence(&[&1_u8.to_der()?, &empty, &no_content, &certificates, &crls, &empty])?;
    content_info(ID_SIGNED_DATA, &signed_data)
}

/// A SET OF whole values under some tag, sorted as DER wants it.
fn set_of(tag: Tag, values: &[&[u8]]) -> Result<Vec<u8>, Error> {
    let mut values = values.to_vec();
    for value in &values {
        only_element(value)?;
    }
    values.sort_unstable();
    tagged(tag, &values.concat())
}

/// A signed attribute with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its type.
    pub id: ObjectIdentifier,
    /// Its values, each whole in DER.
    pub values: Vec<Vec<u8>>,
}

impl Attribute {
    /// Its value, if it has exactly one.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        match self.values.as_slice() {
            [value] => Some(value),
            _ => None,
        }
    }

    /// An attribute with one value.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the value has no encoding.
    pub fn single(id: ObjectIdentifier, value: &impl Encode) -> Result<Self, Error> {
        Ok(Self { id, values: vec![value.to_der()?] })
    }
}

/// Who signed a message.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The certificate whose key verified the signature, DER. Nobody has judged whether it may be trusted.
    pub certificate: Vec<u8>,
    /// The digest that was signed.
    pub digest: Digest,
    /// What was signed beside the content.
    pub attributes: Vec<Attribute>,
}

/// A signed message whose signature was verified.
#[derive(Clone, Debug)]
pub struct SignedMessage {
    /// The type of the content.
    pub content_type: ObjectIdentifier,
    /// The content, if the message has one.
    pub content: Option<Vec<u8>>,
    /// The certificates in the message, DER, the signer's among them.
    pub certificates: Vec<Vec<u8>>,
    /// Who signed it.
    pub signer: Signer,
}

impl SignedMessage {
    /// Reads a message and verifies it: [`ReceivedMessage::read`] and [`ReceivedMessage::verify`] in one.
    ///
    /// # Errors
    /// Those of the two.
    pub fn open(message: &[u8], legacy: Legacy) -> Result<Self, Error> {
        ReceivedMessage::read(message)?.verify(legacy)
    }
}

/// What a message without content brings, each DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bag {
    /// Its certificates.
    pub certificates: Vec<Vec<u8>>,
    /// Its CRLs.
    pub crls: Vec<Vec<u8>>,
}

impl Bag {
    /// Reads a message. Its signers, if it has any, are left unverified.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn read(message: &[u8]) -> Result<Self, Error> {
        let message = der_of(message)?;
        let parts = Parts::read(content_of(&message, ID_SIGNED_DATA)?)?;
        Ok(Self { certificates: owned(&parts.certificates), crls: owned(&parts.crls) })
    }
}

/// A message with exactly one signer, whose signature nobody has verified yet. What it says serves to answer it, and nothing else.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    content_type: ObjectIdentifier,
    content: Option<Vec<u8>>,
    certificates: Vec<Vec<u8>>,
    certificate: Vec<u8>,
    digest_algorithm: Vec<u8>,
    signed_attributes: Vec<u8>,
    attributes: Vec<Attribute>,
    signature_algorithm: Vec<u8>,
    signature: Vec<u8>,
}

impl ReceivedMessage {
    /// Reads a message with one signer and signed attributes. It must hold the signer's certificate.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn read(message: &[u8]) -> Result<Self, Error> {
        let message = der_of(message)?;
        let parts = Parts::read(content_of(&message, ID_SIGNED_DATA)?)?;
        let [signer] = parts.signers.as_slice() else {
            return Err(Error::malformed(format!("{} signers in place of one", parts.signers.len())));
        };
        let signer = SignerInfo::read(*signer)?;
        let certificate = signer.certificate_among(&parts.certificates)?;
        Ok(Self {
            content_type: parts.content_type,
            content: parts.content.map(<[u8]>::to_vec),
            certificates: owned(&parts.certificates),
            certificate: certificate.to_vec(),
            digest_algorithm: signer.digest_algorithm.to_vec(),
            signed_attributes: signer.signed_attributes.to_vec(),
            attributes: read_attributes(signer.signed_attributes)?,
            signature_algorithm: signer.signature_algorithm.to_vec(),
            signature: signer.signature.to_vec(),
        })
    }

    /// The certificate that the signer names.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// What the signer is said to have signed beside the content.
    #[must_use]
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// Verifies digest and signature with the signer's certificate.
    ///
    /// # Errors
    /// [`Error::Algorithm`], [`Error::Signature`], or [`Error::Malformed`] where the signed attributes lack what they must have.
    pub fn verify(self, legacy: Legacy) -> Result<SignedMessage, Error> {
        let digest = Digest::decode(&self.digest_algorithm, legacy)?;
        let content_type = single(&self.attributes, ID_CONTENT_TYPE)?;
        if ObjectIdentifier::from_der(content_type)? != self.content_type {
            return Err(Error::malformed("the signed content type is not that of the content"));
        }
        let message_digest = only_element(single(&self.attributes, ID_MESSAGE_DIGEST)?)?;
        message_digest.tag.assert_eq(Tag::OctetString)?;
        if digest.of_message(self.content.as_deref().unwrap_or_default()) != message_digest.content {
            return Err(Error::Signature);
        }
        // Signed is the SET that the implicit tag [0] replaced, in the order in which it was sent.
        let signed = tagged(Tag::Set, &self.signed_attributes)?;
        let public_key = CertificateView::of(&self.certificate)?.public_key;
        algorithm::verify(public_key, &self.signature_algorithm, digest, &signed, &self.signature)?;
        Ok(SignedMessage {
            content_type: self.content_type,
            content: self.content,
            certificates: self.certificates,
            signer: Signer { certificate: self.certificate, digest, attributes: self.attributes },
        })
    }
}

fn owned(list: &[&[u8]]) -> Vec<Vec<u8>> {
    list.iter().map(|der| der.to_vec()).collect()
}

/// The fields of a SignedData.
struct Parts<'a> {
    content_type: ObjectIdentifier,
    content: Option<&'a [u8]>,
    certificates: Vec<&'a [u8]>,
    crls: Vec<&'a [u8]>,
    signers: Vec<Element<'a>>,
}

impl<'a> Parts<'a> {
    fn read(signed_data: &'a [u8]) -> Result<Self, Error> {
        let mut fields = Fields::of_sequence(signed_data)?;
        let _version = fields.expect(Tag::Integer)?;
        let _digests = fields.expect(Tag::Set)?;
        let mut encapsulated = Fields::of(fields.next()?, Tag::Sequence)?;
        let content_type = oid(encapsulated.next()?)?;
        // Digested is what lies within the OCTET STRING, and within any other value of older messages (RFC 5652 section 5.2.1).
        let content = match encapsulated.optional(constructed(0)) {
            Some(explicit) => Some(only_element(explicit.content)?.content),
            None => None,
        };
        encapsulated.finish()?;
        let list = |field: Option<Element<'a>>| {
            let found = field.map_or(Ok(Vec::new()), |field| elements(field.content))?;
            if found.len() > CERTIFICATES_MAX {
                return Err(Error::malformed(format!("more than {CERTIFICATES_MAX} certificates or CRLs")));
            }
            // Other forms of certificates and of revocation lists are tagged, and of no use here.
            Ok(found.iter().filter(|one| one.tag == Tag::Sequence).map(|one| one.whole).collect::<Vec<_>>())
        };
        let certificates = list(fields.optional(constructed(0)))?;
        let crls = list(fields.optional(constructed(1)))?;
        let signers = elements(fields.expect(Tag::Set)?.content)?;
        fields.finish()?;
        Ok(Self { content_type, content, certificates, crls, signers })
    }
}

/// The fields of a SignerInfo, as octets.
struct SignerInfo<'a> {
    identifier: Element<'a>,
    digest_algorithm: &'a [u8],
    /// What is within the implicit tag.
    signed_attributes: &'a [u8],
    signature_algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> SignerInfo<'a> {
    fn read(signer: Element<'a>) -> Result<Self, Error> {
        let mut fields = Fields::of(signer, Tag::Sequence)?;
        let _version = fields.expect(Tag::Integer)?;
        let identifier = fields.next()?;
        let digest_algorithm = fields.expect(Tag::Sequence)?.whole;
        let signed_attributes = fields.expect(constructed(0))?.content;
        let signature_algorithm = fields.expect(Tag::Sequence)?.whole;
        let signature = fields.expect(Tag::OctetString)?.content;
        let _unsigned_attributes = fields.optional(constructed(1));
        fields.finish()?;
        Ok(Self { identifier, digest_algorithm, signed_attributes, signature_algorithm, signature })
    }

    /// The certificate that the signer names.
    fn certificate_among(&self, certificates: &[&'a [u8]]) -> Result<&'a [u8], Error> {
        for certificate in certificates {
            let view = CertificateView::of(certificate)?;
            let named = if self.identifier.tag == primitive(0) {
                view.key_identifier == Some(self.identifier.content)
            } else {
                self.identifier.tag == Tag::Sequence && [view.issuer, view.serial].concat() == self.identifier.content
            };
            if named {
                return Ok(certificate);
            }
        }
        Err(Error::malformed("the signer's certificate is not in the message"))
    }
}

fn read_attributes(content: &[u8]) -> Result<Vec<Attribute>, Error> {
    let mut attributes = Vec::new();
    for element in elements(content)? {
        let mut fields = Fields::of(element, Tag::Sequence)?;
        let id = oid(fields.next()?)?;
        let values = elements(fields.expect(Tag::Set)?.content)?.iter().map(|value| value.whole.to_vec()).collect();
        fields.finish()?;
        if attributes.len() == ATTRIBUTES_MAX || attributes.iter().any(|known: &Attribute| known.id == id) {
            return Err(Error::malformed(format!("the attribute {id} comes twice, or there are too many")));
        }
        attributes.push(Attribute { id, values });
    }
    Ok(attributes)
}

/// The one value of an attribute that must be there.
fn single(attributes: &[Attribute], id: ObjectIdentifier) -> Result<&[u8], Error> {
    match attributes.iter().find(|attribute| attribute.id == id).map(|attribute| attribute.values.as_slice()) {
        Some([value]) => Ok(value),
        Some(_) => Err(Error::malformed(format!("the attribute {id} must have one value"))),
        None => Err(Error::malformed(format!("the attribute {id} is missing"))),
    }
}

#[derive(Sequence)]
struct AttributeForm<'a> {
    id: ObjectIdentifier,
    values: SetOfVec<AnyRef<'a>>,
}

/// Who signs a message that we make.
#[derive(Clone, Debug)]
pub struct SigningIdentity<'a> {
    /// The signer's certificate, DER.
    pub certificate: &'a [u8],
    /// How it signs, such as sha256WithRSAEncryption.
    pub signature_algorithm: &'a AlgorithmIdentifierOwned,
    /// The digest in that algorithm.
    pub digest: Digest,
}

/// A message around `content`, a content of the type `content_type`, signed by one signer.
///
/// `attributes` are signed beside the content type and the digest, which are added here. `certificates` go with the message, the
/// signer's own among them if it shall. `signature` gets the octets to sign.
///
/// # Errors
/// What `signature` says, or [`Error::Malformed`] if a value given is not DER.
pub fn sign<E: From<Error>>(
    (content_type, content): (ObjectIdentifier, Option<&[u8]>),
    attributes: &[Attribute],
    identity: &SigningIdentity<'_>,
    certificates: &[&[u8]],
    signature: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let unsigned = Unsigned::new(content_type, content, attributes, identity)?;
    let signature = signature(&unsigned.to_be_signed)?;
    Ok(unsigned.assemble(identity, certificates, &signature)?)
}

struct Unsigned {
    content_type: ObjectIdentifier,
    encapsulated: Vec<u8>,
    signed_attributes: Vec<u8>,
    to_be_signed: Vec<u8>,
}

impl Unsigned {
    fn new(
        content_type: ObjectIdentifier,
        content: Option<&[u8]>,
        attributes: &[Attribute],
        identity: &SigningIdentity<'_>,
    ) -> Result<Self, Error> {
        let digest = OctetStringRef::new(&identity.digest.of_message(content.unwrap_or_default()))?.to_der()?;
        let own = [
            Attribute { id: ID_CONTENT_TYPE, values: vec![content_type.to_der()?] },
            Attribute { id: ID_MESSAGE_DIGEST, values: vec![digest] },
        ];
        let mut encoded = Vec::new();
        for attribute in own.iter().chain(attributes) {
            let values = attribute.values.iter().map(|value| AnyRef::from_der(value)).collect::<Result<Vec<_>, _>>()?;
            let form = AttributeForm { id: attribute.id, values: SetOfVec::try_from(values)? };
            encoded.push(form.to_der()?);
        }
        encoded.sort_unstable();
        let signed_attributes = encoded.concat();
        let to_be_signed = tagged(Tag::Set, &signed_attributes)?;
        let content = match content {
            Some(content) => tagged(constructed(0), &OctetStringRef::new(content)?.to_der()?)?,
            None => Vec::new(),
        };
        let encapsulated = sequence(&[&content_type.to_der()?, &content])?;
        Ok(Self { content_type, encapsulated, signed_attributes, to_be_signed })
    }

    fn assemble(
        &self,
        identity: &SigningIdentity<'_>,
        certificates: &[&[u8]],
        signature: &[u8],
    ) -> Result<Vec<u8>, Error> {
        // Readers differ in whether they expect NULL here; OpenSSL writes it for SHA-2 with RSA, and nobody refuses that.
        let digest = AlgorithmIdentifierRef { oid: identity.digest.oid(), parameters: Some(AnyRef::NULL) }.to_der()?;
        let signer = sequence(&[
            &1_u8.to_der()?,
            &CertificateView::of(identity.certificate)?.issuer_and_serial()?,
            &digest,
            &tagged(constructed(0), &self.signed_attributes)?,
            &identity.signature_algorithm.to_der()?,
            &OctetStringRef::new(signature)?.to_der()?,
        ])?;
        let certificates = if certificates.is_empty() { Vec::new() } else { set_of(constructed(0), certificates)? };
        // RFC 5652 section 5.1
        let version: u8 = if self.content_type == ID_DATA { 1 } else { 3 };
        let signed_data = sequence(&[
            &version.to_der()?,
            &tagged(Tag::Set, &digest)?,
            &self.encapsulated,
            &certificates,
            &tagged(Tag::Set, &signer)?,
        ])?;
        content_info(ID_SIGNED_DATA, &signed_data)
    }
}
