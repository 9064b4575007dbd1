//! Subject keys, and the certificate requests that they sign.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, ML_DSA_44_SIGNING, ML_DSA_65_SIGNING, ML_DSA_87_SIGNING,
    PqdsaKeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair,
};
use ca_backend::{AlternativeName, CertificateRequest, DistinguishedName, KeyAlgorithm};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc2985::PKCS_9_AT_CHALLENGE_PASSWORD;
use const_oid::db::rfc5280::ID_CE_SUBJECT_ALT_NAME;
use const_oid::db::rfc5912::ID_EXTENSION_REQ;
use der::asn1::{Any, BitString, OctetString, SetOfVec};
use der::{Decode, Encode};
use spki::SubjectPublicKeyInfoOwned;
use x509_cert::attr::Attribute;
use x509_cert::ext::Extension;
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, Version};

/// A subject's key pair.
pub struct Key {
    algorithm: KeyAlgorithm,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ed25519(Ed25519KeyPair),
    MlDsa(PqdsaKeyPair),
}

impl Key {
    /// A new key on P-256.
    #[must_use]
    pub fn ec() -> Self {
        Self::generate(KeyAlgorithm::EcP256)
    }

    /// A new key of this kind.
    #[must_use]
    pub fn generate(algorithm: KeyAlgorithm) -> Self {
        let ec = |signing: &'static EcdsaSigningAlgorithm| Pair::Ec(EcdsaKeyPair::generate(signing).unwrap());
        let rsa = |size, encoding| Pair::Rsa(RsaKeyPair::generate(size).unwrap(), encoding);
        let pair = match algorithm {
            KeyAlgorithm::EcP256 => ec(&ECDSA_P256_SHA256_ASN1_SIGNING),
            KeyAlgorithm::EcP384 => ec(&ECDSA_P384_SHA384_ASN1_SIGNING),
            KeyAlgorithm::EcP521 => ec(&ECDSA_P521_SHA512_ASN1_SIGNING),
            KeyAlgorithm::Rsa2048 => rsa(KeySize::Rsa2048, &RSA_PKCS1_SHA256),
            KeyAlgorithm::Rsa3072 => rsa(KeySize::Rsa3072, &RSA_PKCS1_SHA256),
            KeyAlgorithm::Rsa4096 => rsa(KeySize::Rsa4096, &RSA_PKCS1_SHA512),
            KeyAlgorithm::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().unwrap()),
            KeyAlgorithm::MlDsa44 => Pair::MlDsa(PqdsaKeyPair::generate(&ML_DSA_44_SIGNING).unwrap()),
            KeyAlgorithm::MlDsa65 => Pair::MlDsa(PqdsaKeyPair::generate(&ML_DSA_65_SIGNING).unwrap()),
            KeyAlgorithm::MlDsa87 => Pair::MlDsa(PqdsaKeyPair::generate(&ML_DSA_87_SIGNING).unwrap()),
        };
        Self { algorithm, pair }
    }

    /// Its kind.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match &self.pair {
            Pair::Ec(pair) => pair.public_key().as_der().unwrap(),
            Pair::Rsa(pair, _) => pair.public_key().as_der().unwrap(),
            Pair::Ed25519(pair) => pair.public_key().as_der().unwrap(),
            Pair::MlDsa(pair) => pair.public_key().as_der().unwrap(),
        };
        der.as_ref().to_vec()
    }

    /// Signs as certificates are signed: ECDSA signatures are DER.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::MlDsa(pair) => {
                let mut signature = vec![0; pair.algorithm().signature_len()];
                pair.sign(message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// A PKCS#10 request with this subject (RFC 4514) and nothing else, DER.
    #[must_use]
    pub fn csr(&self, subject: &str) -> Vec<u8> {
        self.csr_with(subject, &[], None)
    }

    /// The same with these alternative names (`dns:host.example.org`) and this challenge password.
    #[must_use]
    pub fn csr_with(&self, subject: &str, names: &[&str], challenge: Option<&str>) -> Vec<u8> {
        let subject =
            if subject.is_empty() { DistinguishedName::empty() } else { DistinguishedName::parse(subject).unwrap() };
        let mut attributes = SetOfVec::new();
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(|name| AlternativeName::parse(name).unwrap()).collect();
            let extension = Extension {
                extn_id: ID_CE_SUBJECT_ALT_NAME,
                critical: false,
                extn_value: OctetString::new(AlternativeName::encode_all(&names).unwrap()).unwrap(),
            };
            attributes.insert(attribute(ID_EXTENSION_REQ, Any::encode_from(&vec![extension]).unwrap())).unwrap();
        }
        if let Some(challenge) = challenge {
            let value = Any::new(der::Tag::Utf8String, challenge.as_bytes()).unwrap();
            attributes.insert(attribute(PKCS_9_AT_CHALLENGE_PASSWORD, value)).unwrap();
        }
        let info = CertReqInfo {
            version: Version::V1,
            subject: Name::from_der(subject.as_der()).unwrap(),
            public_key: SubjectPublicKeyInfoOwned::from_der(&self.public_key()).unwrap(),
            attributes,
        };
        let signature = self.sign(&info.to_der().unwrap());
        let algorithm = self.algorithm.signature_algorithm();
        CertReq { info, algorithm, signature: BitString::from_bytes(&signature).unwrap() }.to_der().unwrap()
    }

    /// The same as the engine takes it: opened and verified.
    #[must_use]
    pub fn request(&self, subject: &str) -> CertificateRequest {
        CertificateRequest::open(&self.csr(subject)).unwrap()
    }

    /// The modulus of an RSA key, big endian.
    #[must_use]
    pub fn modulus(&self) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::Rsa(pair, _) => Some(PublicKeyComponents::<Vec<u8>>::from(pair.public_key()).n),
            Pair::Ec(_) | Pair::Ed25519(_) | Pair::MlDsa(_) => None,
        }
    }
}

fn attribute(oid: ObjectIdentifier, value: Any) -> Attribute {
    Attribute { oid, values: SetOfVec::try_from(vec![value]).unwrap() }
}
