//! PKCS#12 (RFC 7292): a key, its certificate and the chain in one encrypted file, for devices that import such a file.

#[allow(deprecated)] // for devices that know nothing else, and only if it is asked for
use aws_lc_rs::cipher::DES_EDE3_FOR_LEGACY_USE_ONLY;
use aws_lc_rs::cipher::{EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use ca_backend::Fault;
use const_oid::ObjectIdentifier;
use der::asn1::{Any, BmpString, OctetString, SetOfVec};
use der::{Encode, Sequence, Tag, ValueOrd};
use pkcs8::pkcs5::pbes2;
use serde::{Deserialize, Serialize};
use spki::AlgorithmIdentifierOwned;
use zeroize::Zeroizing;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

const DATA: ObjectIdentifier = oid("1.2.840.113549.1.7.1");
const ENCRYPTED_DATA: ObjectIdentifier = oid("1.2.840.113549.1.7.6");
const SHROUDED_KEY_BAG: ObjectIdentifier = oid("1.2.840.113549.1.12.10.1.2");
const CERTIFICATE_BAG: ObjectIdentifier = oid("1.2.840.113549.1.12.10.1.3");
const X509_CERTIFICATE: ObjectIdentifier = oid("1.2.840.113549.1.9.22.1");
const FRIENDLY_NAME: ObjectIdentifier = oid("1.2.840.113549.1.9.20");
const LOCAL_KEY_ID: ObjectIdentifier = oid("1.2.840.113549.1.9.21");
const SHA1_AND_3DES: ObjectIdentifier = oid("1.2.840.113549.1.12.1.3");
const PBES2: ObjectIdentifier = oid("1.2.840.113549.1.5.13");
const ID_SHA1: ObjectIdentifier = oid("1.3.14.3.2.26");
const ID_SHA256: ObjectIdentifier = oid("2.16.840.1.101.3.4.2.1");

/// Rounds of every derivation. The password has 128 random bits unless the caller chose it, and devices with slow processors open
/// the file.
const ROUNDS: u32 = 10_000;
/// Rounds where the reader may be old: more than the few thousand that were usual make some of them fail.
const LEGACY_ROUNDS: u32 = 2_048;

/// How a file is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pkcs12Encryption {
    /// PBES2 with PBKDF2-HMAC-SHA-256 and AES-256-CBC; integrity by HMAC-SHA-256.
    #[default]
    Modern,
    /// 3DES and SHA-1, for readers that know nothing else: Windows before 10 1709, macOS before 10.15, Android before 12.
    Legacy,
}

/// What goes into a file.
pub(crate) struct Contents<'a> {
    /// PrivateKeyInfo, DER.
    pub(crate) key: &'a [u8],
    /// The certificate of the key, DER.
    pub(crate) certificate: &'a [u8],
    /// The certificates above it, DER.
    pub(crate) chain: Vec<&'a [u8]>,
    /// What importing devices show.
    pub(crate) friendly_name: &'a str,
    /// Protects all of it.
    pub(crate) password: &'a str,
    pub(crate) encryption: Pkcs12Encryption,
    /// 96 random octets: salts and initialisation vectors.
    pub(crate) randomness: [u8; 96],
}

/// PFX (RFC 7292 section 4).
#[derive(Sequence)]
struct Pfx {
    version: u8,
    auth_safe: ContentInfo,
    mac: MacData,
}

/// ContentInfo (RFC 2315 section 7).
#[derive(Sequence)]
struct ContentInfo {
    content_type: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    content: Any,
}

#[derive(Sequence)]
struct MacData {
    mac: DigestInfo,
    salt: OctetString,
    iterations: u32,
}

#[derive(Sequence)]
struct DigestInfo {
    algorithm: AlgorithmIdentifierOwned,
    digest: OctetString,
}

/// EncryptedData (RFC 2315 section 13).
#[derive(Sequence)]
struct EncryptedData {
    version: u8,
    content: EncryptedContent,
}

#[derive(Sequence)]
struct EncryptedContent {
    content_type: ObjectIdentifier,
    algorithm: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    content: OctetString,
}

/// EncryptedPrivateKeyInfo (RFC 5958 section 3).
#[derive(Sequence)]
struct ShroudedKey {
    algorithm: AlgorithmIdentifierOwned,
    content: OctetString,
}

/// SafeBag (RFC 7292 section 4.2).
#[derive(Sequence)]
struct SafeBag {
    kind: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    value: Any,
    attributes: SetOfVec<BagAttribute>,
}

/// The same without attributes, which are not an empty set but absent.
#[derive(Sequence)]
struct PlainBag {
    kind: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    value: Any,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence, ValueOrd)]
struct BagAttribute {
    kind: ObjectIdentifier,
    values: SetOfVec<Any>,
}

/// CertBag (RFC 7292 section 4.2.3).
#[derive(Sequence)]
struct CertificateBag {
    kind: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    certificate: OctetString,
}

/// PBEParameter (RFC 7292 appendix C).
#[derive(Sequence)]
struct PbeParameters {
    salt: OctetString,
    iterations: u32,
}

impl Contents<'_> {
    /// The file, DER.
    ///
    /// # Errors
    /// A fault if something cannot be encoded or encrypted.
    pub(crate) fn seal(&self) -> Result<Vec<u8>, Fault> {
        let random =
            |at: usize| <[u8; 16]>::try_from(self.randomness.get(at..at + 16).unwrap_or_default()).unwrap_or_default();
        let attributes = self.attributes()?;
        let (algorithm, content) = self.encrypt(self.key, random(0), random(16))?;
        let key = ShroudedKey { algorithm, content: OctetString::new(content)? };
        let key_bag =
            SafeBag { kind: SHROUDED_KEY_BAG, value: Any::encode_from(&key)?, attributes: attributes.clone() };
        let keys = vec![key_bag].to_der()?;

        let leaf = SafeBag { kind: CERTIFICATE_BAG, value: certificate_bag(self.certificate)?, attributes };
        let mut bags = vec![Any::encode_from(&leaf)?];
        for certificate in &self.chain {
            let bag = PlainBag { kind: CERTIFICATE_BAG, value: certificate_bag(certificate)? };
            bags.push(Any::encode_from(&bag)?);
        }
        let (algorithm, content) = self.encrypt(&bags.to_der()?, random(32), random(48))?;
        let content = EncryptedContent { content_type: DATA, algorithm, content: OctetString::new(content)? };
        let certificates = EncryptedData { version: 0, content };

        let safe = vec![
            ContentInfo { content_type: ENCRYPTED_DATA, content: Any::encode_from(&certificates)? },
            ContentInfo { content_type: DATA, content: Any::new(Tag::OctetString, keys)? },
        ];
        let safe = safe.to_der()?;
        let mac = self.mac(&safe, random(64))?;
        let auth_safe = ContentInfo { content_type: DATA, content: Any::new(Tag::OctetString, safe)? };
        Ok(Pfx { version: 3, auth_safe, mac }.to_der()?)
    }

    /// What ties the certificate to its key, and what people see.
    fn attributes(&self) -> Result<SetOfVec<BagAttribute>, Fault> {
        let key_id = digest(&SHA1_FOR_LEGACY_USE_ONLY, self.certificate);
        let key_id = Any::new(Tag::OctetString, key_id.as_ref())?;
        let mut attributes = vec![BagAttribute { kind: LOCAL_KEY_ID, values: SetOfVec::try_from(vec![key_id])? }];
        // A BMPString has no characters beyond the first 65,536.
        let name: String = self.friendly_name.chars().filter(|character| u32::from(*character) < 0x1_0000).collect();
        if !name.is_empty() {
            let name = Any::encode_from(&BmpString::from_utf8(&name)?)?;
            attributes.push(BagAttribute { kind: FRIENDLY_NAME, values: SetOfVec::try_from(vec![name])? });
        }
        Ok(SetOfVec::try_from(attributes)?)
    }

    #[allow(deprecated)] // as above
    fn encrypt(
        &self,
        plain: &[u8],
        salt: [u8; 16],
        iv: [u8; 16],
    ) -> Result<(AlgorithmIdentifierOwned, Vec<u8>), Fault> {
        let broken = |what: &str| Fault::Broken(format!("PKCS#12: {what} failed"));
        match self.encryption {
            Pkcs12Encryption::Modern => {
                let parameters = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(ROUNDS, &salt, iv)
                    .map_err(|_| broken("deriving a key"))?;
                let sealed = parameters.encrypt(self.password.as_bytes(), plain).map_err(|_| broken("encryption"))?;
                let parameters = Any::encode_from(&parameters)?;
                Ok((AlgorithmIdentifierOwned { oid: PBES2, parameters: Some(parameters) }, sealed))
            }
            Pkcs12Encryption::Legacy => {
                let password = bmp_password(self.password)?;
                let sha1 = &SHA1_FOR_LEGACY_USE_ONLY;
                let key = derive(sha1, Purpose::Key, &password, &salt, LEGACY_ROUNDS, 24);
                let iv = derive(sha1, Purpose::InitialisationVector, &password, &salt, LEGACY_ROUNDS, 8);
                let iv = <[u8; 8]>::try_from(iv.as_slice()).map_err(|_| broken("deriving a vector"))?;
                let key = UnboundCipherKey::new(&DES_EDE3_FOR_LEGACY_USE_ONLY, &key).map_err(|_| broken("3DES"))?;
                let mut sealed = plain.to_vec();
                PaddedBlockEncryptingKey::cbc_pkcs7(key)
                    .and_then(|key| key.less_safe_encrypt(&mut sealed, EncryptionContext::Iv64(FixedLength::from(&iv))))
                    .map_err(|_| broken("3DES"))?;
                let parameters = PbeParameters { salt: OctetString::new(salt)?, iterations: LEGACY_ROUNDS };
                let parameters = Some(Any::encode_from(&parameters)?);
                Ok((AlgorithmIdentifierOwned { oid: SHA1_AND_3DES, parameters }, sealed))
            }
        }
    }

    /// Integrity under the password (RFC 7292 section 4, appendix A).
    fn mac(&self, content: &[u8], salt: [u8; 16]) -> Result<MacData, Fault> {
        let (hash, algorithm, hmac, rounds) = match self.encryption {
            Pkcs12Encryption::Modern => (&SHA256, ID_SHA256, hmac::HMAC_SHA256, ROUNDS),
            Pkcs12Encryption::Legacy => {
                (&SHA1_FOR_LEGACY_USE_ONLY, ID_SHA1, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, LEGACY_ROUNDS)
            }
        };
        let password = bmp_password(self.password)?;
        let key = derive(hash, Purpose::Mac, &password, &salt, rounds, hash.output_len());
        let tag = hmac::sign(&hmac::Key::new(hmac, &key), content);
        let algorithm = AlgorithmIdentifierOwned { oid: algorithm, parameters: Some(Any::null()) };
        let mac = DigestInfo { algorithm, digest: OctetString::new(tag.as_ref())? };
        Ok(MacData { mac, salt: OctetString::new(salt)?, iterations: rounds })
    }
}

fn certificate_bag(certificate: &[u8]) -> Result<Any, Fault> {
    let certificate = OctetString::new(certificate)?;
    Ok(Any::encode_from(&CertificateBag { kind: X509_CERTIFICATE, certificate })?)
}

/// What derived octets are for: the diversifier of RFC 7292 appendix B.3.
#[derive(Clone, Copy)]
enum Purpose {
    Key = 1,
    InitialisationVector = 2,
    Mac = 3,
}

/// A password as the derivation wants it: BMPString with two zero octets at the end (RFC 7292 appendix B.1).
fn bmp_password(password: &str) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let outside = || Fault::Broken("PKCS#12: the password has a character that a BMPString does not have".to_owned());
    let mut octets = Zeroizing::new(Vec::with_capacity(2 * password.len() + 2));
    for character in password.chars() {
        octets.extend(u16::try_from(u32::from(character)).map_err(|_| outside())?.to_be_bytes());
    }
    octets.extend([0, 0]);
    Ok(octets)
}

/// Derives octets from a password (RFC 7292 appendix B.2; u and v are those of SHA-1 and SHA-256).
fn derive(
    hash: &'static digest::Algorithm,
    purpose: Purpose,
    password: &[u8],
    salt: &[u8],
    rounds: u32,
    octets: usize,
) -> Zeroizing<Vec<u8>> {
    let block = hash.block_len();
    let filled =
        |text: &[u8]| -> Vec<u8> { text.iter().copied().cycle().take(text.len().div_ceil(block) * block).collect() };
    let diversifier = vec![purpose as u8; block];
    let mut input = Zeroizing::new([filled(salt), filled(password)].concat());
    let mut derived = Zeroizing::new(Vec::with_capacity(octets + hash.output_len()));
    while derived.len() < octets {
        let mut hashed = digest(hash, &Zeroizing::new([diversifier.as_slice(), &input].concat()));
        for _ in 1..rounds {
            hashed = digest(hash, hashed.as_ref());
        }
        derived.extend_from_slice(hashed.as_ref());
        // Each block of the input grows by the hash and one, as a number.
        let addend: Vec<u8> = hashed.as_ref().iter().copied().cycle().take(block).collect();
        for part in input.chunks_mut(block) {
            let mut carry = 1_u16;
            for (octet, add) in part.iter_mut().zip(&addend).rev() {
                let [high, low] = (u16::from(*octet) + u16::from(*add) + carry).to_be_bytes();
                *octet = low;
                carry = u16::from(high);
            }
        }
    }
    derived.truncate(octets);
    derived
}
