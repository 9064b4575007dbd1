//! EnvelopedData (RFC 5652 section 6): read with RSA key transport, made with key agreement too.

use aws_lc_rs::cipher::{
    DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512,
    OaepPublicEncryptingKey, Pkcs1PublicEncryptingKey, PublicEncryptingKey,
};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5911::{ID_DATA, ID_ENVELOPED_DATA};
use const_oid::db::rfc5912::ID_RSASSA_PSS;
use der::asn1::{AnyRef, OctetStringRef};
use der::{Decode, Encode, Tag};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use zeroize::Zeroizing;

use crate::algorithm::{Cipher, Digest, KeyTransport, Legacy};
use crate::ber::der_of;
use crate::certificate::CertificateView;
use crate::element::{Element, Fields, constructed, elements, oid, primitive};
use crate::error::Error;
use crate::key_agreement::CurvePoint;
use crate::signed::{content_info, content_of, sequence, tagged};

/// How many recipients a message may have.
const RECIPIENTS_MAX: usize = 16;

/// The longest encrypted content key: RSA with 8192 bits.
const ENCRYPTED_KEY_BYTES_MAX: usize = 1024;

/// A message that only its recipients can read.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Those who can decrypt the content key with an RSA key. Others are left out.
    pub recipients: Vec<Recipient>,
    /// What the content is encrypted with.
    pub cipher: Cipher,
    /// The type of the content.
    pub content_type: ObjectIdentifier,
    initialization_vector: Vec<u8>,
    encrypted: Vec<u8>,
}

/// One who can decrypt the content key.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// Whose certificate is meant.
    pub name: RecipientName,
    /// How the content key is encrypted.
    pub transport: KeyTransport,
    /// The encrypted content key.
    pub encrypted_key: Vec<u8>,
}

/// How a message names a recipient's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientName {
    /// By issuer and serial: a Name and an INTEGER in DER, one behind the other.
    IssuerAndSerial(Vec<u8>),
    /// By its subjectKeyIdentifier.
    KeyIdentifier(Vec<u8>),
}

impl RecipientName {
    /// Whether this certificate is meant.
    #[must_use]
    pub fn means(&self, certificate: &CertificateView<'_>) -> bool {
        match self {
            Self::IssuerAndSerial(name) => *name == [certificate.issuer, certificate.serial].concat(),
            Self::KeyIdentifier(identifier) => certificate.key_identifier == Some(identifier),
        }
    }
}

impl Envelope {
    /// Reads a message without decrypting it.
    ///
    /// # Errors
    /// [`Error::Malformed`], or [`Error::Algorithm`] for a cipher that is not accepted.
    pub fn read(message: &[u8], legacy: Legacy) -> Result<Self, Error> {
        let message = der_of(message)?;
        let mut fields = Fields::of_sequence(content_of(&message, ID_ENVELOPED_DATA)?)?;
        let _version = fields.expect(Tag::Integer)?;
        let _originator = fields.optional(constructed(0));
        let infos = elements(fields.expect(Tag::Set)?.content)?;
        if infos.len() > RECIPIENTS_MAX {
            return Err(Error::malformed(format!("more than {RECIPIENTS_MAX} recipients")));
        }
        // Key agreement and the like are tagged.
        let by_transport = infos.into_iter().filter(|info| info.tag == Tag::Sequence);
        let recipients = by_transport.map(Recipient::read).collect::<Result<Vec<_>, _>>()?;
        let mut content = Fields::of(fields.next()?, Tag::Sequence)?;
        let _unprotected_attributes = fields.optional(constructed(1));
        fields.finish()?;

        let content_type = oid(content.next()?)?;
        let (cipher, initialization_vector) = Cipher::decode(content.expect(Tag::Sequence)?.whole, legacy)?;
        let encrypted = encrypted_octets(content.next()?)?;
        content.finish()?;
        if encrypted.is_empty() || !encrypted.len().is_multiple_of(cipher.algorithm().block_len()) {
            return Err(Error::malformed("the encrypted content is not a number of whole blocks"));
        }
        Ok(Self { recipients, cipher, content_type, initialization_vector: initialization_vector.to_vec(), encrypted })
    }

    /// Octets that the content key has.
    #[must_use]
    pub fn content_key_bytes(&self) -> usize {
        self.cipher.key_bytes()
    }

    /// Decrypts the content with the content key.
    ///
    /// Where an encrypted key cannot be decrypted, or not to the right length, call this with a random key: who sends messages and
    /// watches answers then learns nothing about the padding of keys (Bleichenbacher), provided that every later failure is
    /// answered like this one.
    ///
    /// # Errors
    /// [`Error::Unreadable`], whatever the cause.
    pub fn open(&self, content_key: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let unreadable = |_| Error::Unreadable;
        let key = UnboundCipherKey::new(self.cipher.algorithm(), content_key).map_err(unreadable)?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(unreadable)?;
        let context = match self.cipher {
            Cipher::TripleDes | Cipher::Des => DecryptionContext::Iv64(vector(&self.initialization_vector)?),
            Cipher::Aes128 | Cipher::Aes192 | Cipher::Aes256 => {
                DecryptionContext::Iv128(vector(&self.initialization_vector)?)
            }
        };
        let mut content = Zeroizing::new(self.encrypted.clone());
        let length = key.decrypt(&mut content, context).map_err(unreadable)?.len();
        content.truncate(length);
        Ok(content)
    }
}

fn vector<const N: usize>(octets: &[u8]) -> Result<FixedLength<N>, Error> {
    <&[u8; N]>::try_from(octets).map(FixedLength::from).map_err(|_| Error::Library("take an initialization vector"))
}

impl Recipient {
    fn read(info: Element<'_>) -> Result<Self, Error> {
        let mut fields = Fields::of(info, Tag::Sequence)?;
        let _version = fields.expect(Tag::Integer)?;
        let name = fields.next()?;
        let name = if name.tag == primitive(0) {
            RecipientName::KeyIdentifier(name.content.to_vec())
        } else {
            name.tag.assert_eq(Tag::Sequence)?;
            RecipientName::IssuerAndSerial(name.content.to_vec())
        };
        let transport = KeyTransport::decode(fields.expect(Tag::Sequence)?.whole)?;
        let encrypted_key = fields.expect(Tag::OctetString)?.content.to_vec();
        fields.finish()?;
        if encrypted_key.len() > ENCRYPTED_KEY_BYTES_MAX {
            return Err(Error::malformed(format!("an encrypted key of more than {ENCRYPTED_KEY_BYTES_MAX} octets")));
        }
        Ok(Self { name, transport, encrypted_key })
    }
}

/// `[0] IMPLICIT OCTET STRING`, whole or in pieces.
fn encrypted_octets(field: Element<'_>) -> Result<Vec<u8>, Error> {
    if field.tag == primitive(0) {
        return Ok(field.content.to_vec());
    }
    field.tag.assert_eq(constructed(0))?;
    let mut octets = Vec::new();
    for piece in elements(field.content)? {
        piece.tag.assert_eq(Tag::OctetString)?;
        octets.extend_from_slice(piece.content);
    }
    Ok(octets)
}

/// Whether [`seal_for_all`] can encrypt for the holder of this certificate.
///
/// # Errors
/// [`Error::Algorithm`] if it cannot, [`Error::Malformed`] if the certificate is none.
pub fn check_recipient(certificate: &[u8]) -> Result<(), Error> {
    let public_key = CertificateView::of(certificate)?.public_key;
    match CurvePoint::of(public_key)? {
        Some(point) => point.check(),
        None => recipient_key(public_key).map(drop),
    }
}

/// As [`seal_for_all`], for one whose key is RSA: the only ones that SCEP's clients decrypt with.
///
/// # Errors
/// As [`seal_for_all`], and [`Error::Algorithm`] if the key is not RSA.
pub fn seal(
    content: &[u8],
    certificate: &[u8],
    cipher: Cipher,
    transport: KeyTransport,
    random: &Zeroizing<[u8; 48]>,
) -> Result<Vec<u8>, Error> {
    let (key, encrypted) = encrypt(content, cipher, random)?;
    let recipient = by_transport(key, &CertificateView::of(certificate)?, transport)?;
    enveloped_data(0, &[recipient], &encrypted)
}

/// A message of the type data that each holder of one of these certificates' keys can read, and nobody else. Keys on P-256, P-384 and
/// P-521 get the content key by ephemeral-static ECDH and AES-256 key wrap, RSA keys by `transport`.
///
/// `random` are 48 fresh random octets: the content key and the initialization vector.
///
/// # Errors
/// [`Error::Algorithm`] if a certificate's key is of another kind, [`Error::Malformed`] if a certificate is none or they are too many.
pub fn seal_for_all(
    content: &[u8],
    certificates: &[&[u8]],
    cipher: Cipher,
    transport: KeyTransport,
    random: &Zeroizing<[u8; 48]>,
) -> Result<Vec<u8>, Error> {
    if certificates.is_empty() || certificates.len() > RECIPIENTS_MAX {
        return Err(Error::malformed(format!("a message has 1 to {RECIPIENTS_MAX} recipients")));
    }
    let (key, encrypted) = encrypt(content, cipher, random)?;
    let mut recipients = Vec::with_capacity(certificates.len());
    // RFC 5652 section 6.1
    let mut version = 0;
    for certificate in certificates {
        let view = CertificateView::of(certificate)?;
        recipients.push(match CurvePoint::of(view.public_key)? {
            Some(point) => {
                version = 2;
                point.recipient(key, &view)?
            }
            None => by_transport(key, &view, transport)?,
        });
    }
    // DER puts the elements of a SET OF in order.
    recipients.sort();
    enveloped_data(version, &recipients, &encrypted)
}

/// The content key, and EncryptedContentInfo (RFC 5652 section 6.1).
fn encrypt<'a>(content: &[u8], cipher: Cipher, random: &'a [u8; 48]) -> Result<(&'a [u8], Vec<u8>), Error> {
    let failed = |_| Error::Library("encrypt");
    let (key, rest) = random.split_at_checked(cipher.key_bytes()).ok_or(Error::Library("cut a key"))?;
    let initialization_vector = rest.get(..cipher.algorithm().block_len()).ok_or(Error::Library("cut a vector"))?;

    let context = match cipher {
        Cipher::TripleDes | Cipher::Des => EncryptionContext::Iv64(vector(initialization_vector)?),
        Cipher::Aes128 | Cipher::Aes192 | Cipher::Aes256 => EncryptionContext::Iv128(vector(initialization_vector)?),
    };
    let unbound = UnboundCipherKey::new(cipher.algorithm(), key).map_err(failed)?;
    let mut encrypted = content.to_vec();
    PaddedBlockEncryptingKey::cbc_pkcs7(unbound)
        .and_then(|key| key.less_safe_encrypt(&mut encrypted, context))
        .map_err(failed)?;

    let vector = OctetStringRef::new(initialization_vector)?;
    let algorithm = AlgorithmIdentifierRef { oid: cipher.oid(), parameters: Some(AnyRef::from(vector)) };
    Ok((key, sequence(&[&ID_DATA.to_der()?, &algorithm.to_der()?, &tagged(primitive(0), &encrypted)?])?))
}

/// KeyTransRecipientInfo (RFC 5652 section 6.2.1).
fn by_transport(key: &[u8], certificate: &CertificateView<'_>, transport: KeyTransport) -> Result<Vec<u8>, Error> {
    sequence(&[
        &0_u8.to_der()?,
        &certificate.issuer_and_serial()?,
        &transport.encode()?,
        &OctetStringRef::new(&encrypt_key(key, certificate.public_key, transport)?)?.to_der()?,
    ])
}

fn enveloped_data(version: u8, recipients: &[Vec<u8>], encrypted: &[u8]) -> Result<Vec<u8>, Error> {
    let fields = [&version.to_der()?, &tagged(Tag::Set, &recipients.concat())?, encrypted];
    content_info(ID_ENVELOPED_DATA, &sequence(&fields)?)
}

fn recipient_key(public_key: &[u8]) -> Result<PublicEncryptingKey, Error> {
    if SubjectPublicKeyInfoRef::from_der(public_key)?.algorithm.oid == ID_RSASSA_PSS {
        return Err(Error::Algorithm("the recipient's key is for RSASSA-PSS signatures alone".to_owned()));
    }
    PublicEncryptingKey::from_der(public_key)
        .map_err(|_| Error::Algorithm("the recipient's key is not an RSA key".to_owned()))
}

fn encrypt_key(key: &[u8], public_key: &[u8], transport: KeyTransport) -> Result<Vec<u8>, Error> {
    let failed = |_| Error::Library("encrypt a key");
    let recipient = recipient_key(public_key)?;
    let mut encrypted = vec![0; recipient.key_size_bytes()];
    let length = match transport {
        KeyTransport::Pkcs1v15 => {
            Pkcs1PublicEncryptingKey::new(recipient).and_then(|to| Ok(to.encrypt(key, &mut encrypted)?.len()))
        }
        KeyTransport::Oaep(digest) => {
            let algorithm = match digest {
                Digest::Sha1 => &OAEP_SHA1_MGF1SHA1,
                Digest::Sha256 => &OAEP_SHA256_MGF1SHA256,
                Digest::Sha384 => &OAEP_SHA384_MGF1SHA384,
                Digest::Sha512 => &OAEP_SHA512_MGF1SHA512,
            };
            OaepPublicEncryptingKey::new(recipient)
                .and_then(|to| Ok(to.encrypt(algorithm, key, &mut encrypted, None)?.len()))
        }
    };
    encrypted.truncate(length.map_err(failed)?);
    Ok(encrypted)
}
