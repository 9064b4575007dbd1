//! A SCEP client, and a SCEP endpoint on an engine in memory.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, Pkcs1PrivateDecryptingKey, PrivateDecryptingKey};
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use bytes::Bytes;
use ca_backend::{
    AlternativeName, Binding, CredentialPurpose, DistinguishedName, EndpointName, Engine, NewCredential, SecretText,
    Serial,
};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5911::ID_DATA;
use der::asn1::{Any, BitString, OctetString, OctetStringRef, SetOfVec};
use der::{Decode, Encode, Tag, TagNumber};
use endpoint::{Endpoint as _, Peer};
use http::{Request, Response};
use pkcs7::{
    Attribute, Bag, Cipher, Digest, Envelope, KeyTransport, Legacy, SignedMessage, SigningIdentity, seal, sign,
};
use scep::{Judges, Scep};
use serde_json::{Value, json};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, Version};
use zeroize::Zeroizing;

use crate::pki::{self, ISSUING, OPERATOR, Pki};

/// The name of the endpoint.
pub const ENDPOINT: &str = "devices";
/// The profile that it offers.
pub const PROFILE: &str = "scep-signature-key-encipherment";

const MESSAGE_TYPE: &str = "2.16.840.1.113733.1.9.2";
const PKI_STATUS: &str = "2.16.840.1.113733.1.9.3";
const FAIL_INFO: &str = "2.16.840.1.113733.1.9.4";
const SENDER_NONCE: &str = "2.16.840.1.113733.1.9.5";
const RECIPIENT_NONCE: &str = "2.16.840.1.113733.1.9.6";
const TRANSACTION_ID: &str = "2.16.840.1.113733.1.9.7";

/// A SCEP endpoint over a PKI.
pub struct ScepBench {
    /// The PKI.
    pub pki: Pki,
    scep: Scep,
}

/// Rules: challenges at once, renewals at once.
#[must_use]
pub fn rules() -> Value {
    let allow = json!({ "dns": [".example.org"], "subject": [{ "attribute": "cn", "value": "*" }] });
    json!([
        { "name": "challenge", "requesters": [{ "evidence": "secret" }], "profiles": [PROFILE], "allow": allow },
        { "name": "renewal", "requesters": [{ "evidence": "renewal" }], "profiles": [PROFILE], "allow": allow },
    ])
}

impl ScepBench {
    /// An endpoint with these rules and options.
    #[must_use]
    pub fn start(rules: Value, options: Value) -> Self {
        Self::over(Pki::start(), rules, options)
    }

    /// The same over a PKI.
    #[must_use]
    pub fn over(pki: Pki, rules: Value, options: Value) -> Self {
        put_endpoint(&pki.engine, rules, options);
        let scep = mount(&pki.engine);
        Self { pki, scep }
    }

    /// Starts anew over the same store and keys.
    pub fn restart(&mut self) {
        self.pki.restart();
        self.scep = mount(&self.pki.engine);
    }

    /// Mounts the endpoint anew, with these judges.
    pub fn judged_by(&mut self, judges: Judges) {
        self.scep = Scep::mount(self.pki.engine.clone(), EndpointName::new(ENDPOINT).unwrap(), judges).unwrap();
    }

    /// Changes rules and options.
    pub fn change(&self, rules: Value, options: Value) {
        put_endpoint(&self.pki.engine, rules, options);
    }

    /// A challenge for so many certificates.
    #[must_use]
    pub fn challenge(&self, uses_max: Option<u32>, binding: Value) -> String {
        challenge(&self.pki.engine, uses_max, binding)
    }

    /// Sends a request.
    #[must_use]
    pub fn send(&self, method: &str, path_and_query: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        let request = Request::builder().method(method).uri(path_and_query).body(body.into()).unwrap();
        let peer = Peer { address: "192.0.2.7:4711".parse().unwrap(), tls: None, request_id: "test".to_owned() };
        self.scep.handle(request, &peer)
    }

    /// Posts a pkiMessage.
    #[must_use]
    pub fn post(&self, message: &[u8]) -> Response<Bytes> {
        self.send("POST", "/scep/devices?operation=PKIOperation", message.to_vec())
    }

    /// The registration authority's certificate, out of GetCACert.
    #[must_use]
    pub fn registration_authority(&self) -> Vec<u8> {
        let reply = self.send("GET", "/scep/devices?operation=GetCACert", "");
        assert_eq!(reply.headers()["content-type"], "application/x-x509-ca-ra-cert");
        let bag = Bag::read(reply.body()).unwrap();
        let found = bag.certificates.iter().find(|der| is_registration_authority(der));
        found.expect("a registration authority").clone()
    }
}

/// The serial of a certificate.
#[must_use]
pub fn serial(certificate: &[u8]) -> Serial {
    let serial = pkcs7::CertificateView::of(certificate).unwrap().serial;
    Serial::from_integer(Any::from_der(serial).unwrap().value()).unwrap()
}

/// Whether a certificate is that of a registration authority.
#[must_use]
pub fn is_registration_authority(der: &[u8]) -> bool {
    let view = pkcs7::CertificateView::of(der).unwrap();
    String::from_utf8_lossy(view.subject).contains("Registration authority")
}

fn put_endpoint(engine: &Engine, rules: Value, options: Value) {
    let mut endpoint = pki::endpoint(ENDPOINT, ISSUING, &[PROFILE], rules);
    endpoint.protocol = ca_backend::ProtocolName::new("scep").unwrap();
    endpoint.options = options;
    engine.put_endpoint(&endpoint, OPERATOR).unwrap();
}

fn mount(engine: &Engine) -> Scep {
    let authority = ca_backend::AuthorityName::new(ISSUING).unwrap();
    engine.keep_registration_authority(&authority, ca_backend::KeyAlgorithm::Rsa2048).unwrap();
    Scep::mount(engine.clone(), EndpointName::new(ENDPOINT).unwrap(), Judges::default()).unwrap()
}

/// A challenge of the endpoint.
#[must_use]
pub fn challenge(engine: &Engine, uses_max: Option<u32>, binding: Value) -> String {
    let binding: Binding = serde_json::from_value(binding).unwrap();
    let wish = NewCredential {
        id: None,
        endpoint: EndpointName::new(ENDPOINT).unwrap(),
        purpose: CredentialPurpose::Challenge,
        comment: String::new(),
        holder: None,
        secret: None::<SecretText>,
        expires: Some(engine.now().plus_s(3600)),
        uses_max,
        binding,
    };
    engine.create_credential(&wish, OPERATOR).unwrap().1.reveal().to_owned()
}

/// A device with an RSA key.
pub struct Device {
    pair: RsaKeyPair,
    pkcs8: Vec<u8>,
    /// What it signs with: a certificate that it issued itself, or one that it got.
    pub certificate: Vec<u8>,
}

/// What a message is made of, each part of which a test may replace.
pub struct Message {
    /// messageType, decimal.
    pub kind: String,
    /// transactionID.
    pub transaction: String,
    /// senderNonce.
    pub nonce: Option<Vec<u8>>,
    /// What is encrypted.
    pub content: Vec<u8>,
    /// With what.
    pub cipher: Cipher,
    /// And how its key.
    pub transport: KeyTransport,
    /// What is signed with.
    pub digest: Digest,
    /// The type of strings in signed attributes.
    pub text: Tag,
}

impl Message {
    /// A PKCSReq with defaults.
    #[must_use]
    pub fn pkcs_req(transaction: &str, csr: Vec<u8>) -> Self {
        Self::of("19", transaction, csr)
    }

    /// A message of a kind with defaults.
    #[must_use]
    pub fn of(kind: &str, transaction: &str, content: Vec<u8>) -> Self {
        Self {
            kind: kind.to_owned(),
            transaction: transaction.to_owned(),
            nonce: Some(vec![7; 16]),
            content,
            cipher: Cipher::Aes128,
            transport: KeyTransport::Pkcs1v15,
            digest: Digest::Sha256,
            text: Tag::PrintableString,
        }
    }
}

/// A CertRep, verified and decrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// pkiStatus.
    pub status: String,
    /// failInfo.
    pub fail_info: Option<String>,
    /// transactionID.
    pub transaction: String,
    /// recipientNonce.
    pub recipient_nonce: Option<Vec<u8>>,
    /// The certificates within.
    pub certificates: Vec<Vec<u8>>,
    /// The CRLs within.
    pub crls: Vec<Vec<u8>>,
}

impl Answer {
    /// `SUCCESS`, `PENDING`, or `FAILURE n`.
    #[must_use]
    pub fn word(&self) -> String {
        match (self.status.as_str(), &self.fail_info) {
            ("0", None) => "SUCCESS".to_owned(),
            ("3", None) => "PENDING".to_owned(),
            ("2", Some(fail_info)) => format!("FAILURE {fail_info}"),
            other => format!("{other:?}"),
        }
    }
}

fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

fn tlv(tag: Tag, parts: &[&[u8]]) -> Vec<u8> {
    Any::new(tag, parts.concat()).unwrap().to_der().unwrap()
}

fn sha256_with_rsa() -> AlgorithmIdentifierOwned {
    ca_backend::KeyAlgorithm::Rsa2048.signature_algorithm()
}

impl Device {
    /// A device with a new key, and a certificate for it that it issued itself.
    #[must_use]
    pub fn new(subject: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap().as_ref().to_vec();
        let mut device = Self { pair, pkcs8, certificate: Vec::new() };
        let name = DistinguishedName::parse(subject).unwrap();
        let algorithm = sha256_with_rsa().to_der().unwrap();
        let explicit = Tag::ContextSpecific { constructed: true, number: TagNumber(0) };
        // RFC 8894 section 3.1 puts nothing in the way of a serial of zero.
        let times = [tlv(Tag::UtcTime, &[b"250101000000Z"]), tlv(Tag::UtcTime, &[b"401231235959Z"])].concat();
        let tbs = tlv(
            Tag::Sequence,
            &[
                &tlv(explicit, &[&2_u8.to_der().unwrap()]),
                &0_u8.to_der().unwrap(),
                &algorithm,
                name.as_der(),
                &tlv(Tag::Sequence, &[&times]),
                name.as_der(),
                &device.public_key(),
            ],
        );
        let signature = BitString::from_bytes(&device.sign(&tbs)).unwrap().to_der().unwrap();
        device.certificate = tlv(Tag::Sequence, &[&tbs, &algorithm, &signature]);
        device
    }

    /// A device with a key and a certificate that are there.
    #[must_use]
    pub fn holding(pkcs8: &[u8], certificate: Vec<u8>) -> Self {
        Self { pair: RsaKeyPair::from_pkcs8(pkcs8).unwrap(), pkcs8: pkcs8.to_vec(), certificate }
    }

    /// The SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.pair.public_key().as_der().unwrap().as_ref().to_vec()
    }

    /// The private key, PKCS#8.
    #[must_use]
    pub fn private_key(&self) -> &[u8] {
        &self.pkcs8
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }

    /// A PKCS#10 request with a challenge and DNS names, DER.
    #[must_use]
    pub fn csr(&self, subject: &str, challenge: Option<&str>, dns: &[&str]) -> Vec<u8> {
        let challenge = challenge.map(|challenge| Any::encode_from(&challenge.to_owned()).unwrap());
        self.csr_with(subject, challenge, dns)
    }

    /// The same with a challenge in any type of string.
    #[must_use]
    pub fn csr_with(&self, subject: &str, challenge: Option<Any>, dns: &[&str]) -> Vec<u8> {
        let mut attributes = SetOfVec::new();
        let mut add = |id, value: Any| {
            attributes
                .insert(x509_cert::attr::Attribute { oid: id, values: SetOfVec::try_from([value]).unwrap() })
                .unwrap();
        };
        if let Some(challenge) = challenge {
            let id = const_oid::db::rfc2985::PKCS_9_AT_CHALLENGE_PASSWORD;
            add(id, challenge);
        }
        if !dns.is_empty() {
            let names: Vec<_> = dns.iter().map(|name| AlternativeName::Dns((*name).to_owned())).collect();
            let names = AlternativeName::encode_all(&names).unwrap();
            let id = const_oid::db::rfc5280::ID_CE_SUBJECT_ALT_NAME.to_der().unwrap();
            let extension = tlv(Tag::Sequence, &[&id, &OctetString::new(names).unwrap().to_der().unwrap()]);
            add(const_oid::db::rfc5912::ID_EXTENSION_REQ, Any::new(Tag::Sequence, extension).unwrap());
        }
        let info = CertReqInfo {
            version: Version::V1,
            subject: Name::from_der(DistinguishedName::parse(subject).unwrap().as_der()).unwrap(),
            public_key: SubjectPublicKeyInfoOwned::from_der(&self.public_key()).unwrap(),
            attributes,
        };
        let signature = BitString::from_bytes(&self.sign(&info.to_der().unwrap())).unwrap();
        CertReq { info, algorithm: sha256_with_rsa(), signature }.to_der().unwrap()
    }

    /// A pkiMessage for the one who holds `recipient`.
    #[must_use]
    pub fn seal(&self, message: &Message, recipient: &[u8]) -> Vec<u8> {
        self.wrap(message, Some(&self.envelope(message, recipient)))
    }

    /// The content of a pkiMessage, encrypted for the one who holds `recipient`.
    #[must_use]
    pub fn envelope(&self, message: &Message, recipient: &[u8]) -> Vec<u8> {
        let random = Zeroizing::new(std::array::from_fn(|at| u8::try_from(at * 37 % 251).unwrap()));
        seal(&message.content, recipient, message.cipher, message.transport, &random).unwrap()
    }

    /// A pkiMessage around any content.
    #[must_use]
    pub fn wrap(&self, message: &Message, content: Option<&[u8]>) -> Vec<u8> {
        let text =
            |id, text: &str| Attribute::single(oid(id), &Any::new(message.text, text.as_bytes()).unwrap()).unwrap();
        let mut attributes = vec![text(MESSAGE_TYPE, &message.kind), text(TRANSACTION_ID, &message.transaction)];
        if let Some(nonce) = &message.nonce {
            attributes.push(Attribute::single(oid(SENDER_NONCE), &OctetString::new(nonce.clone()).unwrap()).unwrap());
        }
        let identity = SigningIdentity {
            certificate: &self.certificate,
            signature_algorithm: &sha256_with_rsa(),
            digest: message.digest,
        };
        let signed = sign((ID_DATA, content), &attributes, &identity, &[&self.certificate], |octets| {
            Ok::<_, pkcs7::Error>(self.sign(octets))
        });
        signed.unwrap()
    }

    /// Reads a CertRep, which must be signed by `signer`.
    #[must_use]
    pub fn open(&self, reply: &Response<Bytes>, signer: &[u8]) -> Answer {
        assert_eq!(reply.status(), 200, "{reply:?}");
        assert_eq!(reply.headers()["content-type"], "application/x-pki-message");
        let message = SignedMessage::open(reply.body(), Legacy::default()).unwrap();
        assert_eq!(message.signer.certificate, signer);
        let value = |id: &str| {
            let attribute = message.signer.attributes.iter().find(|attribute| attribute.id == oid(id))?;
            Some(Any::from_der(attribute.value().unwrap()).unwrap())
        };
        let text = |id: &str| value(id).map(|value| String::from_utf8(value.value().to_vec()).unwrap());
        assert_eq!(text(MESSAGE_TYPE).as_deref(), Some("3"));
        let content = message.content.filter(|content| !content.is_empty());
        let bag = content.map_or(Bag { certificates: vec![], crls: vec![] }, |content| {
            let envelope = Envelope::read(&content, Legacy { sha1: false, triple_des: true, des: true }).unwrap();
            let [recipient] = envelope.recipients.as_slice() else { panic!("one recipient") };
            let key = PrivateDecryptingKey::from_pkcs8(&self.pkcs8).unwrap();
            let mut room = vec![0; 256];
            let key = Pkcs1PrivateDecryptingKey::new(key)
                .unwrap()
                .decrypt(&recipient.encrypted_key, &mut room)
                .unwrap()
                .to_vec();
            Bag::read(&envelope.open(&key).unwrap()).unwrap()
        });
        Answer {
            status: text(PKI_STATUS).unwrap(),
            fail_info: text(FAIL_INFO),
            transaction: text(TRANSACTION_ID).unwrap(),
            recipient_nonce: value(RECIPIENT_NONCE)
                .map(|nonce| OctetStringRef::new(nonce.value()).unwrap().as_bytes().to_vec()),
            certificates: bag.certificates,
            crls: bag.crls,
        }
    }

    /// Sends a message and reads the answer.
    #[must_use]
    pub fn ask(&self, bench: &ScepBench, message: &Message) -> Answer {
        let authority = bench.registration_authority();
        self.open(&bench.post(&self.seal(message, &authority)), &authority)
    }
}

/// Every constructed value with an indefinite length, long OCTET STRINGs in pieces.
#[must_use]
pub fn indefinite(der: &[u8]) -> Vec<u8> {
    const PIECE: usize = 100;
    let element = pkcs7::only_element(der).unwrap();
    let tag = der[0];
    if tag & 0x20 != 0 {
        let children: Vec<u8> =
            pkcs7::elements(element.content).unwrap().iter().flat_map(|child| indefinite(child.whole)).collect();
        return [&[tag, 0x80], children.as_slice(), &[0, 0]].concat();
    }
    // OCTET STRING, and [0] in place of one.
    if (tag == 0x04 || tag == 0x80) && element.content.len() > PIECE {
        let piece = |octets: &[u8]| OctetString::new(octets).unwrap().to_der().unwrap();
        let pieces: Vec<u8> = element.content.chunks(PIECE).flat_map(piece).collect();
        return [&[tag | 0x20, 0x80], pieces.as_slice(), &[0, 0]].concat();
    }
    der.to_vec()
}
