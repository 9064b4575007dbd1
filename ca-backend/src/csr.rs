//! PKCS#10 certification requests (RFC 2986): the usual proof that a requester holds the key.

use std::collections::BTreeSet;
use std::fmt;

use const_oid::ObjectIdentifier;
use const_oid::db::rfc2985::PKCS_9_AT_CHALLENGE_PASSWORD;
use const_oid::db::rfc5912::ID_EXTENSION_REQ;
use der::asn1::{Any, BitStringRef};
use der::{Decode, Header, Reader, SliceReader, Tag, TagNumber, Tagged};
use spki::AlgorithmIdentifierOwned;
use x509_cert::attr::Attribute;
use x509_cert::ext::Extension;
use x509_cert::name::Name;
use zeroize::Zeroizing;

use crate::algorithm::verify_signature;
use crate::error::{Reason, Refusal};
use crate::nesting::check_nesting;
use crate::sha256;
use crate::subject_key::{ProvenKey, SubjectKey};

/// The greatest length of a request in DER, in octets. An RSA-8192 request with hundreds of names stays far below.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The greatest length of a request in PEM, in octets: base64, line ends, and some text before it.
pub const REQUEST_PEM_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;

/// How many attributes or extensions a request may carry.
const ENTRIES_MAX: usize = 64;

/// Microsoft's older name for the extensionRequest attribute (szOID_CERT_EXTENSIONS).
const MICROSOFT_EXTENSION_REQUEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.14");

/// A request whose signature was verified with the key in it.
///
/// Apart from the key, everything in it is only what the requester says of itself: a request may confirm, it never adds.
#[derive(Clone)]
pub struct CertificateRequest {
    digest: [u8; 32],
    subject_der: Vec<u8>,
    key: ProvenKey,
    attributes: Vec<Attribute>,
    extensions: Vec<Extension>,
    challenge_password: Option<ChallengePassword>,
}

impl CertificateRequest {
    /// Opens a request in DER and verifies its signature over the octets as received.
    ///
    /// DER is strict, with one indulgence: the attributes may be missing altogether, as some devices send it.
    ///
    /// # Errors
    /// `Malformed` for what is not such a request or exceeds a limit, `BadKey` for a key that is not accepted, `BadAlgorithm` for a
    /// signature algorithm that is not accepted, `BadProof` for a signature that does not verify.
    pub fn open(der: &[u8]) -> Result<Self, Refusal> {
        if der.len() > REQUEST_BYTES_MAX {
            return Err(malformed(format!("the certificate request has more than {REQUEST_BYTES_MAX} octets")));
        }
        check_nesting(der)
            .map_err(|why| malformed("the certificate request is not well-formed DER").with_private(why))?;
        let signed = SignedRequest::decode(der).map_err(not_a_request)?;
        let mut info = RequestInfo::decode(signed.info_der).map_err(not_a_request)?;

        let key = SubjectKey::accept(info.spki_der)?;
        verify_signature(info.spki_der, &signed.algorithm, signed.info_der, signed.signature)?;

        let extensions = requested_extensions(&info.attributes)?;
        let challenge_password = challenge_password(&info.attributes)?;
        info.attributes.retain(|attribute| attribute.oid != PKCS_9_AT_CHALLENGE_PASSWORD); // a secret stays in one place
        Ok(Self {
            digest: sha256(der),
            subject_der: info.subject_der.to_vec(),
            key: ProvenKey::after_verified_signature(key),
            attributes: info.attributes,
            extensions,
            challenge_password,
        })
    }

    /// Opens a request in DER, or in PEM as `CERTIFICATE REQUEST` or `NEW CERTIFICATE REQUEST` (RFC 7468 section 7) with or without
    /// text before it.
    ///
    /// # Errors
    /// As [`CertificateRequest::open`]; `Malformed` for PEM that is not such a request.
    pub fn from_pem_or_der(bytes: &[u8]) -> Result<Self, Refusal> {
        // A SEQUENCE as long as any request has a length octet from 0x80, which no text has.
        if let [0x30, 0x80..=0xff, ..] = bytes {
            return Self::open(bytes);
        }
        if bytes.len() > REQUEST_PEM_BYTES_MAX {
            return Err(malformed(format!("the certificate request has more than {REQUEST_PEM_BYTES_MAX} octets")));
        }
        let (label, der) = der::pem::decode_vec(bytes).map_err(|error| {
            malformed("the certificate request is neither DER nor PEM").with_private(error.to_string())
        })?;
        match label {
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Self::open(&der),
            other => Err(malformed(format!("the PEM block is a {other:?}, not a CERTIFICATE REQUEST"))),
        }
    }

    /// SHA-256 of the whole request in DER: what tells a repeat from a new request.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The subject, a Name in DER, octet by octet as it was presented. It may be empty.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        &self.subject_der
    }

    /// The key, whose possession this request has shown.
    #[must_use]
    pub fn key(&self) -> &ProvenKey {
        &self.key
    }

    /// Every attribute but the challenge password.
    #[must_use]
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// The extensions that the request asks for, no identifier twice.
    #[must_use]
    pub fn extensions(&self) -> &[Extension] {
        &self.extensions
    }

    /// The challenge password (RFC 2985 section 5.4.1), which SCEP and EST use as a shared secret.
    #[must_use]
    pub fn challenge_password(&self) -> Option<&ChallengePassword> {
        self.challenge_password.as_ref()
    }
}

/// Key and digest only: the rest is long, and some of it is for nobody's log.
impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateRequest({:?}, digest {})", self.key, hex::encode(self.digest))
    }
}

/// A shared secret from a request: wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ChallengePassword(Zeroizing<String>);

impl ChallengePassword {
    /// The secret. Compare it only through the engine's verification of secrets.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ChallengePassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChallengePassword(..)")
    }
}

/// CertificationRequest (RFC 2986 section 4.2), the signed part still in its octets.
struct SignedRequest<'a> {
    info_der: &'a [u8],
    algorithm: AlgorithmIdentifierOwned,
    signature: &'a [u8],
}

impl<'a> SignedRequest<'a> {
    fn decode(der: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(der)?;
        let request = reader.sequence(|reader| {
            let info_der = reader.tlv_bytes()?;
            let algorithm = AlgorithmIdentifierOwned::decode(reader)?;
            let signature = BitStringRef::decode(reader)?;
            let signature = signature.as_bytes().ok_or_else(|| Tag::BitString.value_error())?;
            Ok::<_, der::Error>(Self { info_der, algorithm, signature })
        })?;
        reader.finish()?;
        Ok(request)
    }
}

/// CertificationRequestInfo (RFC 2986 section 4.1), name and key still in their octets.
struct RequestInfo<'a> {
    subject_der: &'a [u8],
    spki_der: &'a [u8],
    attributes: Vec<Attribute>,
}

impl<'a> RequestInfo<'a> {
    fn decode(der: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(der)?;
        let info = reader.sequence(|reader| {
            if u8::decode(reader)? != 0 {
                return Err(Tag::Integer.value_error().into());
            }
            let subject_der = reader.tlv_bytes()?;
            Name::from_der(subject_der)?;
            let spki_der = reader.tlv_bytes()?;
            let attributes = if reader.is_finished() { Vec::new() } else { decode_attributes(reader)? };
            Ok::<_, der::Error>(Self { subject_der, spki_der, attributes })
        })?;
        reader.finish()?;
        Ok(info)
    }
}

/// `[0] IMPLICIT SET OF Attribute`. Clients in the field do not sort it, so the order is not checked.
fn decode_attributes<'a>(reader: &mut impl Reader<'a>) -> der::Result<Vec<Attribute>> {
    let expected = Tag::ContextSpecific { constructed: true, number: TagNumber(0) };
    let header = Header::decode(reader)?;
    header.tag().assert_eq(expected)?;
    reader.read_nested(header.length(), |reader| {
        let mut attributes = Vec::new();
        while !reader.is_finished() {
            if attributes.len() == ENTRIES_MAX {
                return Err(expected.value_error().into());
            }
            attributes.push(Attribute::decode(reader)?);
        }
        Ok(attributes)
    })
}

/// The extensions of the extensionRequest attribute, in either of its names.
fn requested_extensions(attributes: &[Attribute]) -> Result<Vec<Extension>, Refusal> {
    let mut types = BTreeSet::new();
    if let Some(repeated) = attributes.iter().find(|attribute| !types.insert(attribute.oid)) {
        return Err(malformed(format!("the certificate request has the attribute {} twice", repeated.oid)));
    }

    let mut extensions = Vec::new();
    for attribute in
        attributes.iter().filter(|attribute| [ID_EXTENSION_REQ, MICROSOFT_EXTENSION_REQUEST].contains(&attribute.oid))
    {
        let more: Vec<Extension> = single_value(attribute)?.decode_as().map_err(not_a_request)?;
        extensions.extend(more);
    }
    if extensions.len() > ENTRIES_MAX {
        return Err(malformed(format!("the certificate request asks for more than {ENTRIES_MAX} extensions")));
    }
    let mut identifiers = BTreeSet::new();
    if let Some(repeated) = extensions.iter().find(|extension| !identifiers.insert(extension.extn_id)) {
        return Err(malformed(format!("the certificate request has the extension {} twice", repeated.extn_id)));
    }
    Ok(extensions)
}

fn challenge_password(attributes: &[Attribute]) -> Result<Option<ChallengePassword>, Refusal> {
    let Some(attribute) = attributes.iter().find(|attribute| attribute.oid == PKCS_9_AT_CHALLENGE_PASSWORD) else {
        return Ok(None);
    };
    let text = decode_directory_string(single_value(attribute)?)
        .ok_or_else(|| malformed("the challenge password of the certificate request is not a text"))?;
    Ok(Some(ChallengePassword(text)))
}

/// Reads a DirectoryString as clients write it: with octets that its type does not allow, or as an IA5String.
fn decode_directory_string(value: &Any) -> Option<Zeroizing<String>> {
    const ASCII_BY_NAME: [Tag; 4] = [Tag::PrintableString, Tag::Ia5String, Tag::TeletexString, Tag::VisibleString];
    let octets = value.value();
    let utf8 = str::from_utf8(octets).ok().map(str::to_owned);
    let text = if value.tag() == Tag::Utf8String {
        utf8
    } else if ASCII_BY_NAME.contains(&value.tag()) {
        // ISO 8859-1 is what a T61String holds in practice.
        Some(utf8.unwrap_or_else(|| octets.iter().map(|octet| char::from(*octet)).collect()))
    } else if value.tag() == Tag::BmpString && octets.len().is_multiple_of(2) {
        let (units, _) = octets.as_chunks::<2>();
        char::decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit))).collect::<Result<_, _>>().ok()
    } else {
        None
    };
    text.map(Zeroizing::new)
}

fn single_value(attribute: &Attribute) -> Result<&Any, Refusal> {
    match attribute.values.as_slice() {
        [value] => Ok(value),
        _ => Err(malformed(format!("the attribute {} of the certificate request must have one value", attribute.oid))),
    }
}

fn not_a_request(error: der::Error) -> Refusal {
    malformed("the bytes are not a PKCS#10 certificate request").with_private(error.to_string())
}

fn malformed(public: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Malformed, public)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use const_oid::db::rfc5280::{ID_CE_KEY_USAGE, ID_CE_SUBJECT_ALT_NAME};

    use super::*;
    use crate::subject_key::SubjectKeyKind;

    fn vectors() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testvectors/ca-backend/csr")
    }

    fn vector(name: &str) -> Vec<u8> {
        fs::read(vectors().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn open(name: &str) -> CertificateRequest {
        CertificateRequest::from_pem_or_der(&vector(name)).unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"))
    }

    fn refused(bytes: &[u8]) -> Reason {
        CertificateRequest::open(bytes).unwrap_err().reason()
    }

    #[test]
    fn s06_s20_every_vector_is_accepted_or_refused_for_the_reason_that_it_states() {
        let expectations = String::from_utf8(vector("expectations.txt")).unwrap();
        let mut wrong = Vec::new();
        let mut seen = 0;
        for line in expectations.lines().filter(|line| !line.starts_with('#')) {
            let [name, expected, why] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            let outcome = CertificateRequest::from_pem_or_der(&vector(name));
            let found = outcome.as_ref().map_or_else(|refusal| refusal.reason().name(), |_| "accepted");
            if found != expected {
                wrong.push(format!("{name} ({why}): {found} instead of {expected}: {outcome:?}"));
            }
            seen += 1;
        }
        let files = fs::read_dir(vectors()).unwrap().count();
        assert_eq!(seen + 2, files, "every file but make.py and expectations.txt has its expectation");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn s06_a_bad_key_is_refused_for_what_is_bad_about_it() {
        for (name, told) in [
            ("rsa-1024.der", "has 1024 bits"),
            ("rsa-8200.der", "has 8200 bits"),
            ("rsa-e1.der", "exponent is 1;"),
            ("rsa-e3.der", "exponent is 3;"),
            ("rsa-e-even.der", "exponent is 65538;"),
            ("rsa-e-large.der", "more than 33 bits"),
            ("rsa-even.der", "small factor"),
            ("rsa-small-factor.der", "small factor"),
            ("rsa-parameters-absent.der", "must be NULL"),
            ("rsa-negative.der", "not well-formed"),
            ("rsa-padded.der", "not well-formed"),
            ("rsa-roca.der", "ROCA"),
            ("rsa-fermat-next-prime.der", "too close"),
            ("rsa-fermat-90.der", "too close"),
            ("rsa-square.der", "too close"),
            ("ec-compressed.der", "compressed"),
            ("ec-explicit.der", "explicit parameters"),
            ("ec-off-curve.der", "does not lie on its curve"),
            ("ec-zero.der", "does not lie on its curve"),
            ("ec-infinity.der", "not an uncompressed point"),
            ("ec-hybrid.der", "not an uncompressed point"),
            ("ec-short.der", "length that its curve demands"),
            ("ec-other-curve.der", "length that its curve demands"),
            ("ec-no-curve.der", "names no curve"),
            ("ec-secp256k1.der", "curve 1.3.132.0.10"),
            ("ec-unused-bits.der", "whole number of octets"),
            ("ed25519-identity.der", "small order"),
            ("ed25519-short.der", "32 octets"),
            ("ed25519-parameters.der", "no parameters"),
            ("x25519.der", "1.3.101.110"),
        ] {
            let refusal = CertificateRequest::open(&vector(name)).unwrap_err();
            assert!(refusal.reason() == Reason::BadKey && refusal.public().contains(told), "{name}: {refusal:?}");
        }
    }

    #[test]
    fn key_subject_and_extensions_are_those_of_the_request() {
        let request = open("extensions.der");
        assert_eq!(request.key().subject_key().kind(), SubjectKeyKind::EcP256);
        assert_eq!(Name::from_der(request.subject_der()).unwrap().to_string(), "CN=host.example,O=Example");
        let found: Vec<_> =
            request.extensions().iter().map(|extension| (extension.extn_id, extension.critical)).collect();
        assert_eq!(found, [(ID_CE_SUBJECT_ALT_NAME, false), (ID_CE_KEY_USAGE, true)]);
        let microsoft = open("microsoft-extensions.der");
        assert_eq!(microsoft.extensions().len(), 2);
    }

    #[test]
    fn each_kind_of_key_is_recognised() {
        for (name, kind) in [
            ("p384.der", "ec-p384"),
            ("p521.der", "ec-p521"),
            ("rsa2048.der", "rsa-2048"),
            ("rsa3072.der", "rsa-3072"),
            ("ed25519.der", "ed25519"),
        ] {
            assert_eq!(open(name).key().subject_key().kind().to_string(), kind);
        }
    }

    #[test]
    fn pem_and_der_are_the_same_request() {
        let der = open("extensions.der");
        for name in ["p256.pem", "new-label.pem"] {
            let pem = open(name);
            assert_eq!(pem.digest(), der.digest());
            assert_eq!(pem.key(), der.key());
        }
        assert_eq!(der.digest(), sha256(&vector("extensions.der")));
    }

    #[test]
    fn the_challenge_password_is_read_from_every_type_of_text() {
        for (name, password) in [
            ("unsorted-attributes.der", "secret"),
            ("challenge-utf8.der", "pässwort"),
            ("challenge-bmp.der", "pässwort"),
            ("challenge-latin1.der", "pässwort"),
            ("challenge-printable-at.der", "a@b_c"),
        ] {
            assert_eq!(open(name).challenge_password().map(ChallengePassword::reveal), Some(password), "{name}");
        }
        assert_eq!(open("p256.der").challenge_password(), None);
    }

    #[test]
    fn s47_the_challenge_password_is_never_printed() {
        let request = open("challenge-utf8.der");
        let printed = format!("{request:?} {:?} {:?}", request.challenge_password(), request.attributes());
        assert!(!printed.contains("sswort") && !printed.contains("115, 115, 119, 111"), "{printed}");
    }

    #[test]
    fn s20_no_prefix_and_no_altered_octet_is_accepted_or_panics() {
        for name in ["extensions.der", "unsorted-attributes.der", "ed25519.der"] {
            let good = vector(name);
            for length in 0..good.len() {
                assert_eq!(refused(&good[..length]), Reason::Malformed, "{name} cut to {length}");
            }
            for position in 0..good.len() {
                let mut altered = good.clone();
                altered[position] ^= 0x01;
                assert!(CertificateRequest::open(&altered).is_err(), "{name} with octet {position} altered");
            }
        }
    }

    #[test]
    fn s20_an_oversized_request_is_refused_before_it_is_read() {
        let mut large = vec![0x30; REQUEST_BYTES_MAX + 1];
        assert_eq!(refused(&large), Reason::Malformed);
        assert!(CertificateRequest::open(&large).unwrap_err().public().contains("65536 octets"));
        large = b"-".repeat(REQUEST_PEM_BYTES_MAX + 1);
        let refusal = CertificateRequest::from_pem_or_der(&large).unwrap_err();
        assert!(refusal.public().contains("131072 octets"), "{refusal:?}");
    }
}
