//! A pkiMessage on its way in (RFC 8894 section 3).

use const_oid::ObjectIdentifier;
use der::Tag;
use pkcs7::{
    Attribute, CertificateView, Digest, Element, Envelope, KeyTransport, Legacy, ReceivedMessage, only_element,
};
use zeroize::Zeroizing;

use ca_backend::{DecryptionScheme, Fault, RegistrationAuthority};

use crate::error::{FailInfo, Failure, HttpError, Rejection};

const fn oid(dotted: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(dotted)
}

pub(crate) const MESSAGE_TYPE: ObjectIdentifier = oid("2.16.840.1.113733.1.9.2");
pub(crate) const PKI_STATUS: ObjectIdentifier = oid("2.16.840.1.113733.1.9.3");
pub(crate) const FAIL_INFO: ObjectIdentifier = oid("2.16.840.1.113733.1.9.4");
pub(crate) const SENDER_NONCE: ObjectIdentifier = oid("2.16.840.1.113733.1.9.5");
pub(crate) const RECIPIENT_NONCE: ObjectIdentifier = oid("2.16.840.1.113733.1.9.6");
pub(crate) const TRANSACTION_ID: ObjectIdentifier = oid("2.16.840.1.113733.1.9.7");
pub(crate) const FAIL_INFO_TEXT: ObjectIdentifier = oid("1.3.6.1.5.5.7.24.1");

/// The longest transactionID, in octets. Most are the digest of a key in hexadecimal.
const TRANSACTION_OCTETS_MAX: usize = 255;

/// The longest nonce that is echoed, in octets. RFC 8894 has 16.
const NONCE_OCTETS_MAX: usize = 64;

/// messageType (RFC 8894 section 3.2.1.2), those that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageType {
    RenewalReq,
    PkcsReq,
    CertPoll,
    GetCert,
    GetCrl,
}

impl MessageType {
    /// Reads the decimal text. What nobody may send here is refused by name.
    fn of(text: &str) -> Result<Self, String> {
        let refused = |name: &str| Err(format!("messageType {text} ({name}) is not served here"));
        match text {
            "17" => Ok(Self::RenewalReq),
            "19" => Ok(Self::PkcsReq),
            "20" => Ok(Self::CertPoll),
            "21" => Ok(Self::GetCert),
            "22" => Ok(Self::GetCrl),
            "3" => refused("CertRep"),
            "18" => refused("UpdateReq"),
            _ => refused("unknown"),
        }
    }
}

/// What an answer needs to know of the message that it answers. Only its addressee is proven, and that only by being able to read it.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// As the client wrote it.
    pub(crate) transaction: String,
    pub(crate) sender_nonce: Option<Vec<u8>>,
    /// The certificate that the message says it is signed with.
    pub(crate) signer: Vec<u8>,
}

/// A message that was read, not yet verified.
pub(crate) struct Sealed {
    pub(crate) head: Head,
    received: ReceivedMessage,
    message_type: String,
}

/// A message whose signature was verified and whose content was decrypted.
pub(crate) struct Opened {
    pub(crate) head: Head,
    pub(crate) kind: MessageType,
    /// messageData.
    pub(crate) content: Zeroizing<Vec<u8>>,
    pub(crate) cipher: pkcs7::Cipher,
    /// The signer's SubjectPublicKeyInfo.
    pub(crate) signer_key: Vec<u8>,
    /// Whether the signer's certificate says that it issued itself.
    pub(crate) signer_is_its_own_issuer: bool,
}

impl Sealed {
    /// Reads a message as far as it takes to answer it.
    pub(crate) fn read(message: &[u8]) -> Result<Self, HttpError> {
        let malformed = |why: &str| {
            tracing::debug!(%why, "a SCEP message cannot be read");
            HttpError::bad_request("the body is not a pkiMessage")
        };
        let received = ReceivedMessage::read(message).map_err(|error| malformed(&error.to_string()))?;
        let text = |id, octets_max| {
            text_of(received.attributes(), id, octets_max)
                .ok_or_else(|| HttpError::bad_request("transactionID or messageType is missing or malformed"))
        };
        let transaction = text(TRANSACTION_ID, TRANSACTION_OCTETS_MAX)?;
        let message_type = text(MESSAGE_TYPE, 8)?;
        let sender_nonce = value_of(received.attributes(), SENDER_NONCE)
            .filter(|nonce| nonce.tag == Tag::OctetString && nonce.content.len() <= NONCE_OCTETS_MAX)
            .map(|nonce| nonce.content.to_vec());
        let head = Head { transaction, sender_nonce, signer: received.certificate().to_vec() };
        Ok(Self { head, received, message_type })
    }

    /// Verifies the signature, then decrypts for whoever among `authorities` is a recipient.
    pub(crate) fn open(self, authorities: &[RegistrationAuthority], legacy: Legacy) -> Result<Opened, Failure> {
        let kind = MessageType::of(&self.message_type).map_err(|text| Rejection::new(FailInfo::BadRequest, text))?;
        let signed = self.received.verify(legacy).map_err(rejected)?;
        let view = CertificateView::of(&signed.signer.certificate).map_err(rejected)?;
        let signer_key = view.public_key.to_vec();
        let signer_is_its_own_issuer = view.issuer == view.subject;

        let content = signed.content.ok_or_else(|| Rejection::unreadable("no content"))?;
        let envelope = Envelope::read(&content, legacy).map_err(rejected)?;
        let content = decrypt(&envelope, authorities)?;
        Ok(Opened { head: self.head, kind, content, cipher: envelope.cipher, signer_key, signer_is_its_own_issuer })
    }
}

/// Algorithms stand in the clear, so that naming them tells nobody anything about what is encrypted.
fn rejected(error: pkcs7::Error) -> Failure {
    match error {
        pkcs7::Error::Algorithm(text) => Rejection::new(FailInfo::BadAlg, text).into(),
        pkcs7::Error::Library(what) => Fault::Broken(what.to_owned()).into(),
        error @ (pkcs7::Error::Malformed(_) | pkcs7::Error::Signature | pkcs7::Error::Unreadable) => {
            Rejection::unreadable(error.to_string()).into()
        }
    }
}

fn decrypt(envelope: &Envelope, authorities: &[RegistrationAuthority]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    for authority in authorities {
        let view = CertificateView::of(&authority.certificate)?;
        let Some(recipient) = envelope.recipients.iter().find(|recipient| recipient.name.means(&view)) else {
            continue;
        };
        let scheme = match recipient.transport {
            KeyTransport::Pkcs1v15 => DecryptionScheme::RsaPkcs1v15,
            KeyTransport::Oaep(Digest::Sha1) => DecryptionScheme::RsaOaepSha1,
            KeyTransport::Oaep(Digest::Sha256) => DecryptionScheme::RsaOaepSha256,
            KeyTransport::Oaep(other @ (Digest::Sha384 | Digest::Sha512)) => {
                return Err(Rejection::new(FailInfo::BadAlg, format!("OAEP with {other:?} is not accepted")).into());
            }
        };
        // A key that does not decrypt is replaced by a random one there, and fails here like any altered content.
        let key = authority.key.open_content_key(scheme, &recipient.encrypted_key, envelope.content_key_bytes())?;
        return envelope.open(key.reveal()).map_err(rejected);
    }
    Err(Rejection::unreadable("encrypted for nobody here: the client may know an older registration authority").into())
}

fn value_of(attributes: &[Attribute], id: ObjectIdentifier) -> Option<Element<'_>> {
    let attribute = attributes.iter().find(|attribute| attribute.id == id)?;
    only_element(attribute.value()?).ok()
}

/// A text attribute. PrintableString is what RFC 8894 has; some clients write another type.
fn text_of(attributes: &[Attribute], id: ObjectIdentifier, octets_max: usize) -> Option<String> {
    let value = value_of(attributes, id)?;
    let is_text = quirk_jscep_other_string_types(value.tag);
    let fits = (1..=octets_max).contains(&value.content.len())
        && value.content.iter().all(|octet| (0x20..0x7f).contains(octet));
    (is_text && fits).then(|| String::from_utf8_lossy(value.content).into_owned())
}

/// jscep and some MDM agents write UTF8String or IA5String where RFC 8894 has PrintableString, and characters beyond it.
fn quirk_jscep_other_string_types(tag: Tag) -> bool {
    [Tag::PrintableString, Tag::Utf8String, Tag::Ia5String].contains(&tag)
}
