//! An ACME client made by hand, so that a test can say anything to the endpoint, also what no client would.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use crate::hosts::{acme_identifier, certificate};
use acme::{Acme, CaaSet, Found, Question, Validation};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use ca_backend::testing::Bench;
use ca_backend::{
    AlternativeName, DistinguishedName, Endpoint as EndpointSettings, Engine, EngineSettings, KeyAlgorithm,
    NewAuthority,
};
use const_oid::db::{rfc5280, rfc5912};
use der::asn1::{Any, BitString, OctetString, SetOfVec};
use der::{Decode, Encode};
use endpoint::{Endpoint as _, Peer};
use serde_json::{Value, json};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::attr::Attribute;
use x509_cert::ext::Extension;
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, Version};

/// Where the endpoint of [`AcmeBench`] is.
pub const BASE: &str = "https://ca.example:8443/acme/tls";

/// An engine with a root, an issuing authority and one ACME endpoint named `tls`.
pub struct AcmeBench {
    /// What outlives the engine.
    pub bench: Bench,
    /// The engine.
    pub engine: Engine,
    /// The endpoint.
    pub acme: Acme,
    /// The validations that were started and not yet settled.
    pub started: Arc<Mutex<Vec<Validation>>>,
}

/// The settings of the endpoint: names under corp.example and addresses in 192.0.2.0/24.
#[must_use]
pub fn endpoint_settings() -> Value {
    json!({
        "name": "tls", "protocol": "acme", "authority": "issuing",
        "profiles": ["privatessl-tls-server", "privatessl-tls-client-server"],
        "rules": [{
            "name": "corp", "requesters": [{ "evidence": "challenges" }],
            "profiles": ["privatessl-tls-server", "privatessl-tls-client-server"],
            "allow": { "dns": ["corp.example", ".corp.example"], "wildcards": true, "ip": ["192.0.2.0/24"] },
        }],
        "options": {},
    })
}

impl Default for AcmeBench {
    fn default() -> Self {
        Self::with(&endpoint_settings())
    }
}

impl AcmeBench {
    /// With these settings of the endpoint.
    #[must_use]
    pub fn with(settings: &Value) -> Self {
        let mut bench = Bench::in_memory().unwrap();
        let engine = bench.boot(engine_settings()).unwrap();
        for (name, parent) in [("root", None), ("issuing", Some("root"))] {
            let new = NewAuthority {
                name: name.parse().unwrap(),
                friendly_name: name.to_owned(),
                subject: DistinguishedName::parse(&format!("cn=Test {name}")).unwrap(),
                algorithm: KeyAlgorithm::EcP256,
                key: None,
                validity_s: None,
                parent: parent.map(|parent: &str| parent.parse().unwrap()),
                ocsp: true,
                services: vec!["privatessl".to_owned()],
            };
            engine.create_authority(&new, "test").unwrap();
        }
        put_endpoint(&engine, settings);
        let started = Arc::default();
        let acme = mount(&engine, &started);
        Self { bench, engine, acme, started }
    }

    /// The same store and keys under a new engine, as after a crash; validations under way are forgotten.
    pub fn restart(&mut self) {
        self.engine = self.bench.boot(engine_settings()).unwrap();
        self.remount();
    }

    /// Mounts the endpoint as it is now: removed and made again, say.
    pub fn remount(&mut self) {
        self.started = Arc::default();
        self.acme = mount(&self.engine, &self.started);
    }

    /// A client with a fresh key and no account.
    #[must_use]
    pub fn stranger(&self) -> Client {
        Client::new()
    }

    /// A client with an account.
    #[must_use]
    pub fn client(&self) -> Client {
        let mut client = Client::new();
        let reply = client.new_account(self, &json!({ "termsOfServiceAgreed": true }));
        assert_eq!(reply.status, 201, "{:?}", reply.json());
        client.kid = Some(reply.header("location"));
        client
    }

    /// Sends a request to the endpoint.
    #[must_use]
    pub fn send(&self, request: http::Request<Bytes>) -> Reply {
        let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 77), 40_000));
        let peer = Peer { address, tls: None, request_id: "test".to_owned() };
        let (parts, body) = self.acme.handle(request, &peer).into_parts();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// Sends a request without a body.
    #[must_use]
    pub fn fetch(&self, method: &str, url: &str) -> Reply {
        self.send(http::Request::builder().method(method).uri(url).body(Bytes::new()).unwrap())
    }

    /// Answers every started validation as the right server would. Returns how many.
    pub fn answer_validations(&self) -> usize {
        let started = std::mem::take(&mut *self.started.lock().unwrap());
        for validation in &started {
            self.acme.judge(validation, &right_answer(validation), &[]).unwrap();
        }
        started.len()
    }

    /// Answers every started validation with this.
    pub fn answer_validations_with(&self, found: &Found) {
        for validation in std::mem::take(&mut *self.started.lock().unwrap()) {
            self.acme.judge(&validation, found, &[]).unwrap();
        }
    }
}

/// Stores the settings of an endpoint.
pub fn put_endpoint(engine: &Engine, settings: &Value) {
    let settings: EndpointSettings = serde_json::from_value(settings.clone()).unwrap();
    engine.put_endpoint(&settings, "test").unwrap();
}

fn engine_settings() -> EngineSettings {
    EngineSettings::default()
}

fn mount(engine: &Engine, started: &Arc<Mutex<Vec<Validation>>>) -> Acme {
    let started = started.clone();
    let start = Arc::new(move |validation| started.lock().unwrap().push(validation));
    Acme::mount(engine.clone(), "tls".parse().unwrap(), BASE, start).unwrap()
}

/// What a client that controls the identifier would have put where the validation looks.
#[must_use]
pub fn right_answer(validation: &Validation) -> Found {
    match validation.question {
        Question::Http01 { .. } => Found::Http {
            status: 200,
            body: format!("{}\r\n", validation.key_authorization()).into_bytes(),
            address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        },
        Question::Dns01 { .. } => {
            Found::Txt(vec!["another record".to_owned(), b64(&sha256(validation.key_authorization().as_bytes()))])
        }
        Question::Caa { ref names } => Found::Caa(vec![CaaSet::default(); names.len()]),
        Question::TlsAlpn01 { ref target, .. } => {
            let name = target.to_string();
            let extension = acme_identifier(validation.key_authorization());
            let shown = certificate(&[name.trim_matches(['[', ']'])], vec![extension]);
            Found::Certificate { der: shown.cert[0].to_vec(), address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)) }
        }
    }
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: http::HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A member of the body that is text.
    #[must_use]
    pub fn text(&self, member: &str) -> String {
        self.json()[member].as_str().unwrap_or_else(|| panic!("no {member} in {self:?}")).to_owned()
    }

    /// A header.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"));
        value.to_str().unwrap().to_owned()
    }

    /// The status and the last part of the problem's type.
    #[must_use]
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], self.status, "{document}");
        let kind = document["type"].as_str().unwrap();
        (self.status, kind.strip_prefix("urn:ietf:params:acme:error:").unwrap().to_owned())
    }
}

/// A client: a key and, if it has one, an account.
pub struct Client {
    key: EcdsaKeyPair,
    /// The account's address.
    pub kid: Option<String>,
    nonce: RefCell<Option<String>>,
}

impl Client {
    fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { key, kid: None, nonce: RefCell::default() }
    }

    /// A client that holds a certificate's key and nothing else.
    #[must_use]
    pub fn holding(key: &SubjectKeyPair) -> Self {
        let pkcs8 = key.0.to_pkcs8v1().unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        Self { key, kid: None, nonce: RefCell::default() }
    }

    /// The thumbprint of the account key (RFC 7638).
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        let (x, y) = (jwk["x"].as_str().unwrap(), jwk["y"].as_str().unwrap());
        b64(&sha256(format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#).as_bytes()))
    }

    /// The public key.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        json!({ "kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..]) })
    }

    /// The key, to be misused as a certificate's.
    #[must_use]
    pub fn as_subject_key(&self) -> SubjectKeyPair {
        let pkcs8 = self.key.to_pkcs8v1().unwrap();
        SubjectKeyPair(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap())
    }

    /// A nonce: that of the last reply, or a new one.
    #[must_use]
    pub fn nonce(&self, bench: &AcmeBench) -> String {
        let last = self.nonce.take();
        last.unwrap_or_else(|| bench.fetch("HEAD", &format!("{BASE}/new-nonce")).header("replay-nonce"))
    }

    /// Throws the last reply's nonce away, as a client does that pauses for long.
    pub fn forget_nonce(&self) {
        self.nonce.take();
    }

    /// The protected header that a request to `url` needs.
    #[must_use]
    pub fn protected(&self, bench: &AcmeBench, url: &str) -> Value {
        let mut protected = json!({ "alg": "ES256", "nonce": self.nonce(bench), "url": url });
        match &self.kid {
            Some(kid) => protected["kid"] = kid.as_str().into(),
            None => protected["jwk"] = self.jwk(),
        }
        protected
    }

    /// Signs anything.
    #[must_use]
    pub fn sign(&self, protected: &Value, payload: &str) -> Value {
        let (protected, payload) = (b64(protected.to_string().as_bytes()), b64(payload.as_bytes()));
        let signature = self.key.sign(&SystemRandom::new(), format!("{protected}.{payload}").as_bytes()).unwrap();
        json!({ "protected": protected, "payload": payload, "signature": b64(signature.as_ref()) })
    }

    /// Sends a signed request.
    pub fn send(&self, bench: &AcmeBench, url: &str, jws: &Value) -> Reply {
        let request = http::Request::post(url).header("content-type", "application/jose+json");
        let reply = bench.send(request.body(Bytes::from(jws.to_string())).unwrap());
        assert!(!reply.header("replay-nonce").is_empty());
        *self.nonce.borrow_mut() = Some(reply.header("replay-nonce"));
        reply
    }

    /// Signs and sends an object.
    pub fn post(&self, bench: &AcmeBench, url: &str, payload: &Value) -> Reply {
        self.send(bench, url, &self.sign(&self.protected(bench, url), &payload.to_string()))
    }

    /// POST-as-GET.
    pub fn read(&self, bench: &AcmeBench, url: &str) -> Reply {
        self.send(bench, url, &self.sign(&self.protected(bench, url), ""))
    }

    /// Asks for an account.
    pub fn new_account(&self, bench: &AcmeBench, payload: &Value) -> Reply {
        self.post(bench, &format!("{BASE}/new-account"), payload)
    }

    /// Asks for an order of DNS names; gives its address.
    pub fn order(&self, bench: &AcmeBench, names: &[&str]) -> String {
        let identifiers: Vec<Value> = names.iter().map(|name| json!({ "type": "dns", "value": name })).collect();
        let reply = self.new_order(bench, &json!({ "identifiers": identifiers }));
        assert_eq!(reply.status, 201, "{:?}", reply.json());
        reply.header("location")
    }

    /// Asks for an order.
    pub fn new_order(&self, bench: &AcmeBench, payload: &Value) -> Reply {
        self.post(bench, &format!("{BASE}/new-order"), payload)
    }

    /// The addresses of an order's challenges of one type.
    pub fn challenges(&self, bench: &AcmeBench, order: &str, kind: &str) -> Vec<String> {
        let order = self.read(bench, order).json();
        let mut urls = Vec::new();
        for authorization in order["authorizations"].as_array().unwrap() {
            let authorization = self.read(bench, authorization.as_str().unwrap()).json();
            for challenge in authorization["challenges"].as_array().unwrap() {
                if challenge["type"] == kind {
                    urls.push(challenge["url"].as_str().unwrap().to_owned());
                }
            }
        }
        urls
    }

    /// An order whose identifiers are all shown; gives its address.
    pub fn ready_order(&self, bench: &AcmeBench, names: &[&str], kind: &str) -> String {
        let order = self.order(bench, names);
        for challenge in self.challenges(bench, &order, kind) {
            let reply = self.post(bench, &challenge, &json!({}));
            assert_eq!(reply.text("status"), "processing");
        }
        bench.answer_validations();
        assert_eq!(self.read(bench, &order).text("status"), "ready");
        order
    }

    /// Finalizes an order.
    pub fn finalize(&self, bench: &AcmeBench, order: &str, csr: &[u8]) -> Reply {
        self.post(bench, &format!("{order}/finalize"), &json!({ "csr": b64(csr) }))
    }

    /// A whole enrollment over http-01; gives the certificate's address.
    pub fn enroll(&self, bench: &AcmeBench, names: &[&str], key: &SubjectKeyPair) -> String {
        let order = self.ready_order(bench, names, "http-01");
        let reply = self.finalize(bench, &order, &csr(key, "", &dns(names)));
        assert_eq!(reply.text("status"), "valid", "{:?}", reply.json());
        reply.text("certificate")
    }

    /// The certificate at an address, DER.
    pub fn leaf(&self, bench: &AcmeBench, certificate: &str) -> Vec<u8> {
        pem_blocks(&self.read(bench, certificate).body).remove(0)
    }

    /// Asks for a revocation.
    pub fn revoke(&self, bench: &AcmeBench, certificate: &[u8], reason: Option<u64>) -> Reply {
        let mut payload = json!({ "certificate": b64(certificate) });
        if let Some(reason) = reason {
            payload["reason"] = reason.into();
        }
        self.post(bench, &format!("{BASE}/revoke-cert"), &payload)
    }
}

/// A certificate's key (P-256).
pub struct SubjectKeyPair(EcdsaKeyPair);

impl SubjectKeyPair {
    /// A fresh key.
    #[must_use]
    pub fn generate() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    /// A key that was made elsewhere (PKCS#8).
    #[must_use]
    pub fn from_pkcs8(der: &[u8]) -> Self {
        Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).unwrap())
    }

    /// Its public point, uncompressed.
    #[must_use]
    pub fn point(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    /// Signs with ECDSA and SHA-256; the signature is DER.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }
}

/// DNS names as alternative names.
#[must_use]
pub fn dns(names: &[&str]) -> Vec<AlternativeName> {
    names.iter().map(|name| AlternativeName::Dns((*name).to_owned())).collect()
}

/// A PKCS#10 request: a subject as RFC 4514 text, alternative names, nothing else.
#[must_use]
pub fn csr(key: &SubjectKeyPair, subject: &str, names: &[AlternativeName]) -> Vec<u8> {
    let mut attributes = SetOfVec::new();
    if !names.is_empty() {
        let extension = Extension {
            extn_id: rfc5280::ID_CE_SUBJECT_ALT_NAME,
            critical: false,
            extn_value: OctetString::new(AlternativeName::encode_all(names).unwrap()).unwrap(),
        };
        let values = SetOfVec::try_from(vec![Any::encode_from(&vec![extension]).unwrap()]).unwrap();
        attributes.insert(Attribute { oid: rfc5912::ID_EXTENSION_REQ, values }).unwrap();
    }
    let algorithm = AlgorithmIdentifierOwned {
        oid: rfc5912::ID_EC_PUBLIC_KEY,
        parameters: Some(Any::encode_from(&rfc5912::SECP_256_R_1).unwrap()),
    };
    let info = CertReqInfo {
        version: Version::V1,
        subject: Name::from_der(DistinguishedName::parse(subject).unwrap().as_der()).unwrap(),
        public_key: SubjectPublicKeyInfoOwned {
            algorithm,
            subject_public_key: BitString::from_bytes(key.0.public_key().as_ref()).unwrap(),
        },
        attributes,
    };
    let signature = key.0.sign(&SystemRandom::new(), &info.to_der().unwrap()).unwrap();
    let request = CertReq {
        info,
        algorithm: AlgorithmIdentifierOwned { oid: rfc5912::ECDSA_WITH_SHA_256, parameters: None },
        signature: BitString::from_bytes(signature.as_ref()).unwrap(),
    };
    request.to_der().unwrap()
}

/// The blocks of a PEM file, DER.
#[must_use]
pub fn pem_blocks(pem: &[u8]) -> Vec<Vec<u8>> {
    let text = std::str::from_utf8(pem).unwrap();
    let blocks = text.split_inclusive("-----END CERTIFICATE-----\n");
    blocks.map(|block| der::pem::decode_vec(block.as_bytes()).unwrap().1).collect()
}

/// base64url without padding.
#[must_use]
pub fn b64(octets: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(octets)
}

/// HMAC with SHA-256.
#[must_use]
pub fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
    sign(&Key::new(HMAC_SHA256, key), message).as_ref().to_vec()
}

/// SHA-256.
#[must_use]
pub fn sha256(octets: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, octets).as_ref().to_vec()
}
