//! Private keys in memory, used through aws-lc-rs.

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, ML_DSA_44_SIGNING, ML_DSA_65_SIGNING, ML_DSA_87_SIGNING,
    PqdsaKeyPair, PqdsaSigningAlgorithm, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair, RsaSignatureEncoding,
};
use zeroize::Zeroizing;

use super::DecryptionScheme;
use super::rsa_decryption::RsaDecryption;
use super::secret::Secret;
use crate::algorithm::{KeyAlgorithm, KeyFamily};
use crate::error::KeyFault;

/// A private key, ready to sign, and to decrypt if it is RSA. aws-lc wipes it when it is dropped.
pub(crate) struct KeyPair {
    algorithm: KeyAlgorithm,
    private: Private,
}

enum Private {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair, &'static RsaSignatureEncoding, OnceLock<RsaDecryption>),
    Ed25519(Ed25519KeyPair),
    MlDsa(PqdsaKeyPair),
}

impl KeyPair {
    /// Makes a key. RSA takes from a tenth of a second to several seconds.
    pub(crate) fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyFault> {
        let private = match algorithm {
            KeyAlgorithm::EcP256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map(Private::Ec),
            KeyAlgorithm::EcP384 => EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map(Private::Ec),
            KeyAlgorithm::EcP521 => EcdsaKeyPair::generate(&ECDSA_P521_SHA512_ASN1_SIGNING).map(Private::Ec),
            KeyAlgorithm::Rsa2048 => RsaKeyPair::generate(KeySize::Rsa2048).map(|pair| rsa(pair, &RSA_PKCS1_SHA256)),
            KeyAlgorithm::Rsa3072 => RsaKeyPair::generate(KeySize::Rsa3072).map(|pair| rsa(pair, &RSA_PKCS1_SHA256)),
            KeyAlgorithm::Rsa4096 => RsaKeyPair::generate(KeySize::Rsa4096).map(|pair| rsa(pair, &RSA_PKCS1_SHA512)),
            KeyAlgorithm::Ed25519 => Ed25519KeyPair::generate().map(Private::Ed25519),
            KeyAlgorithm::MlDsa44 => PqdsaKeyPair::generate(&ML_DSA_44_SIGNING).map(Private::MlDsa),
            KeyAlgorithm::MlDsa65 => PqdsaKeyPair::generate(&ML_DSA_65_SIGNING).map(Private::MlDsa),
            KeyAlgorithm::MlDsa87 => PqdsaKeyPair::generate(&ML_DSA_87_SIGNING).map(Private::MlDsa),
        };
        let private = private.map_err(|_| KeyFault::Unavailable(format!("generating a key for {algorithm} failed")))?;
        Ok(Self { algorithm, private })
    }

    /// What it is for.
    pub(crate) fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Reads a private key in PKCS#8 (RFC 5958), of one of the algorithms that this daemon uses.
    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, KeyFault> {
        let info = pkcs8::PrivateKeyInfoRef::try_from(der)
            .map_err(|error| KeyFault::Unusable(format!("not a private key in PKCS#8: {error}")))?;
        let family = KeyFamily::of(&info.algorithm).map_err(|refusal| KeyFault::Unusable(refusal.private()))?;
        let rejected = |error| KeyFault::Unusable(format!("private key rejected: {error}"));
        let ec = |algorithm, curve: &'static EcdsaSigningAlgorithm| {
            let pair = EcdsaKeyPair::from_pkcs8(curve, der).map_err(rejected)?;
            Ok(Self { algorithm, private: Private::Ec(pair) })
        };
        let ml_dsa = |algorithm, parameters: &'static PqdsaSigningAlgorithm| {
            let pair = PqdsaKeyPair::from_pkcs8(parameters, der).map_err(rejected)?;
            Ok(Self { algorithm, private: Private::MlDsa(pair) })
        };
        match family {
            KeyFamily::MlDsa44 => ml_dsa(KeyAlgorithm::MlDsa44, &ML_DSA_44_SIGNING),
            KeyFamily::MlDsa65 => ml_dsa(KeyAlgorithm::MlDsa65, &ML_DSA_65_SIGNING),
            KeyFamily::MlDsa87 => ml_dsa(KeyAlgorithm::MlDsa87, &ML_DSA_87_SIGNING),
            KeyFamily::P256 => ec(KeyAlgorithm::EcP256, &ECDSA_P256_SHA256_ASN1_SIGNING),
            KeyFamily::P384 => ec(KeyAlgorithm::EcP384, &ECDSA_P384_SHA384_ASN1_SIGNING),
            KeyFamily::P521 => ec(KeyAlgorithm::EcP521, &ECDSA_P521_SHA512_ASN1_SIGNING),
            KeyFamily::Ed25519 => {
                let pair = Ed25519KeyPair::from_pkcs8(der).map_err(rejected)?;
                Ok(Self { algorithm: KeyAlgorithm::Ed25519, private: Private::Ed25519(pair) })
            }
            KeyFamily::Rsa => {
                let pair = RsaKeyPair::from_pkcs8(der).map_err(rejected)?;
                let (algorithm, encoding) = match pair.public_modulus_len() {
                    256 => (KeyAlgorithm::Rsa2048, &RSA_PKCS1_SHA256),
                    384 => (KeyAlgorithm::Rsa3072, &RSA_PKCS1_SHA256),
                    512 => (KeyAlgorithm::Rsa4096, &RSA_PKCS1_SHA512),
                    octets => {
                        return Err(KeyFault::Unusable(format!(
                            "an RSA key of {octets} octets is not 2048, 3072 or 4096 bits long"
                        )));
                    }
                };
                Ok(Self { algorithm, private: rsa(pair, encoding) })
            }
        }
    }

    /// The private key in PKCS#8 version 1, unencrypted, wiped when dropped. ML-DSA keys are their seed (RFC 9881 section 6).
    pub(crate) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
        let der = match &self.private {
            Private::Ec(pair) => pair.to_pkcs8v1().map(|der| Zeroizing::new(der.as_ref().to_vec())),
            Private::Rsa(pair, ..) => {
                AsDer::<Pkcs8V1Der<'_>>::as_der(pair).map(|der| Zeroizing::new(der.as_ref().to_vec()))
            }
            Private::Ed25519(pair) => pair.to_pkcs8v1().map(|der| Zeroizing::new(der.as_ref().to_vec())),
            Private::MlDsa(pair) => pair.to_pkcs8v1().map(|der| Zeroizing::new(der.as_ref().to_vec())),
        };
        der.map_err(|_| KeyFault::Unusable("the private key cannot be encoded".to_owned()))
    }

    /// The SubjectPublicKeyInfo, DER.
    pub(crate) fn public_key(&self) -> Result<Vec<u8>, KeyFault> {
        let der = match &self.private {
            Private::Ec(pair) => pair.public_key().as_der(),
            Private::Rsa(pair, ..) => pair.public_key().as_der(),
            Private::Ed25519(pair) => pair.public_key().as_der(),
            Private::MlDsa(pair) => pair.public_key().as_der(),
        };
        let der = der.map_err(|_| KeyFault::Unusable("the public key cannot be encoded".to_owned()))?;
        Ok(der.as_ref().to_vec())
    }

    /// Signs with the algorithm that belongs to the key.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyFault> {
        let random = SystemRandom::new();
        let signature = match &self.private {
            Private::Ec(pair) => pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()),
            Private::Rsa(pair, encoding, _) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).map(|()| signature)
            }
            Private::Ed25519(pair) => pair.try_sign(message).map(|signature| signature.as_ref().to_vec()),
            Private::MlDsa(pair) => {
                let mut signature = vec![0; pair.algorithm().signature_len()];
                pair.sign(message, &mut signature).map(|_| signature)
            }
        };
        signature.map_err(|_| KeyFault::Unusable(format!("signing with {} failed", self.algorithm)))
    }
    /// Opens what was encrypted for the key.
    pub(crate) fn decrypt(&self, scheme: DecryptionScheme, ciphertext: &[u8]) -> Result<Secret, KeyFault> {
        let Private::Rsa(_, _, decryption) = &self.private else {
            return Err(KeyFault::Unsupported(format!("a key for {} does not decrypt", self.algorithm)));
        };
        let decryption = match decryption.get() {
            Some(decryption) => decryption,
            None => {
                let made = RsaDecryption::from_pkcs8(&self.to_pkcs8()?)?;
                decryption.get_or_init(|| made)
            }
        };
        decryption.open(scheme, ciphertext)
    }
}

fn rsa(pair: RsaKeyPair, encoding: &'static RsaSignatureEncoding) -> Private {
    Private::Rsa(pair, encoding, OnceLock::new())
}
