//! Account keys: JSON Web Keys (RFC 7517, 7518, 8037), their thumbprints (RFC 7638) and the signatures made with them.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ca_backend::SubjectKey;
use const_oid::ObjectIdentifier;
use const_oid::db::{rfc5912, rfc8410};
use der::asn1::{AnyRef, BitStringRef, UintRef};
use der::{Decode, Encode, Sequence};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use crate::error::{Attempt, Problem, ProblemType};

/// The signature algorithms that a request may be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignatureAlgorithm {
    Es256,
    Es384,
    Es512,
    EdDsa,
    Rs256,
}

impl SignatureAlgorithm {
    /// The names of all of them, for a client that used another.
    pub(crate) const NAMES: &'static [&'static str] = &["ES256", "ES384", "ES512", "EdDSA", "RS256"];

    /// The algorithm of a name in the `alg` header (RFC 7518 section 3.1, RFC 8037 section 3.1, RFC 9864 section 2.2).
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            "ES512" => Some(Self::Es512),
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            "RS256" => Some(Self::Rs256),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
        }
    }

    /// The one that keys of a kind sign with.
    fn of(key: &AlgorithmIdentifierRef<'_>) -> Option<Self> {
        match key.oid {
            rfc5912::RSA_ENCRYPTION => Some(Self::Rs256),
            rfc8410::ID_ED_25519 => Some(Self::EdDsa),
            rfc5912::ID_EC_PUBLIC_KEY => match key.parameters_oid().ok()? {
                rfc5912::SECP_256_R_1 => Some(Self::Es256),
                rfc5912::SECP_384_R_1 => Some(Self::Es384),
                rfc5912::SECP_521_R_1 => Some(Self::Es512),
                _ => None,
            },
            // JOSE has no algorithm of others that ACME names (RFC 8555 section 6.2).
            _ => None,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Es256 => &ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &ECDSA_P521_SHA512_FIXED,
            Self::EdDsa => &ED25519,
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        }
    }
}

/// SHA-256 over a key's required members (RFC 7638): the name of a key, and a part of every challenge's answer.
pub(crate) type Thumbprint = [u8; 32];

/// A key that may sign requests: well-formed, of an accepted kind and size, not weak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AccountKey {
    algorithm: SignatureAlgorithm,
    /// SubjectPublicKeyInfo, DER.
    spki_der: Vec<u8>,
    thumbprint: Thumbprint,
}

impl AccountKey {
    /// The key of a record that was written after [`AccountKey::accept`], which judged it once and for all: every request reads it, and
    /// to look for weaknesses of an RSA key takes longer than to answer. `None` if it is no such key.
    pub(crate) fn stored(spki_der: &[u8], thumbprint: Thumbprint) -> Option<Self> {
        let spki = SubjectPublicKeyInfoRef::from_der(spki_der).ok()?;
        Some(Self { algorithm: SignatureAlgorithm::of(&spki.algorithm)?, spki_der: spki_der.to_vec(), thumbprint })
    }

    /// Accepts a JSON Web Key.
    pub(crate) fn accept(jwk: &Jwk) -> Attempt<Self> {
        if jwk.d.is_some() {
            return Err(bad_key("the jwk holds a private key; make a new key and send only the public part").into());
        }
        let (spki_der, members) = match jwk.kty.as_str() {
            "EC" => ec(jwk)?,
            "RSA" => rsa(jwk)?,
            "OKP" => okp(jwk)?,
            other => return Err(bad_key(format!("keys of type {other:?} are not accepted; use EC, OKP or RSA")).into()),
        };
        let key = SubjectKey::accept(&spki_der).map_err(|refusal| bad_key(refusal.public()))?;
        let unusable = || bad_key(format!("no algorithm here signs with a key of kind {}", key.kind()));
        Ok(Self::stored(key.spki_der(), sha256(members.as_bytes())).ok_or_else(unusable)?)
    }

    pub(crate) fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// The thumbprint as text, for people.
    pub(crate) fn name(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.thumbprint)
    }

    pub(crate) fn thumbprint(&self) -> &Thumbprint {
        &self.thumbprint
    }

    /// Verifies a signature as JWS carries it: ECDSA as r and s of fixed length (RFC 7518 section 3.4).
    pub(crate) fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Problem> {
        if algorithm != self.algorithm {
            let text = format!("the alg header does not fit the key, which signs with {}", self.algorithm.name());
            return Err(Problem::malformed(text));
        }
        let key = UnparsedPublicKey::new(algorithm.verification(), self.spki_der());
        if key.verify(message, signature).is_ok() {
            return Ok(());
        }
        if algorithm == SignatureAlgorithm::Es256
            && quirk_apple_short_es256_signature(signature).iter().any(|whole| key.verify(message, whole).is_ok())
        {
            return Ok(());
        }
        Err(Problem::malformed("the signature does not verify with the key of the request"))
    }
}

/// Apple's client drops a leading zero octet of r, of s, or of both. What the signature may have been.
fn quirk_apple_short_es256_signature(signature: &[u8]) -> Vec<Vec<u8>> {
    match signature.len() {
        63 => {
            let without_r = [&[0], signature].concat();
            let without_s = signature.split_at_checked(32).map(|(r, s)| [r, &[0], s].concat());
            [Some(without_r), without_s].into_iter().flatten().collect()
        }
        62 => signature.split_at_checked(31).map(|(r, s)| [&[0], r, &[0], s].concat()).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// A JSON Web Key as it arrives. Members that carry nothing of the key (`kid`, `use`, `alg`) are ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct Jwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    d: Option<IgnoredAny>,
}

fn ec(jwk: &Jwk) -> Attempt<(Vec<u8>, String)> {
    let crv = member(jwk.crv.as_deref(), "crv")?;
    let (curve, octets) = match crv {
        "P-256" => (rfc5912::SECP_256_R_1, 32),
        "P-384" => (rfc5912::SECP_384_R_1, 48),
        "P-521" => (rfc5912::SECP_521_R_1, 66),
        other => return Err(bad_key(format!("the curve {other:?} is not accepted; use P-256, P-384 or P-521")).into()),
    };
    let (x, y) = (member(jwk.x.as_deref(), "x")?, member(jwk.y.as_deref(), "y")?);
    let (x_octets, y_octets) = (decode("x", x)?, decode("y", y)?);
    if x_octets.len() != octets || y_octets.len() != octets {
        return Err(bad_key(format!("x and y of a {crv} key have {octets} octets each")).into());
    }
    let point = [&[4], x_octets.as_slice(), &y_octets].concat();
    let spki_der = spki(rfc5912::ID_EC_PUBLIC_KEY, Some(AnyRef::from(&curve)), &point)?;
    Ok((spki_der, json!({ "crv": crv, "kty": "EC", "x": x, "y": y }).to_string()))
}

/// RSAPublicKey (RFC 8017 appendix A.1.1).
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
}

fn rsa(jwk: &Jwk) -> Attempt<(Vec<u8>, String)> {
    let (n, e) = (member(jwk.n.as_deref(), "n")?, member(jwk.e.as_deref(), "e")?);
    let (modulus, exponent) = (decode("n", n)?, decode("e", e)?);
    // RFC 7518 section 6.3.1.1: no leading zero octets, or one key would have two thumbprints.
    if modulus.first() == Some(&0) || exponent.first() == Some(&0) {
        return Err(bad_key("n and e of an RSA key have no leading zero octets").into());
    }
    let malformed = |_| bad_key("n or e is not the number of an RSA key");
    let key = RsaPublicKey {
        modulus: UintRef::new(&modulus).map_err(malformed)?,
        public_exponent: UintRef::new(&exponent).map_err(malformed)?,
    };
    let spki_der = spki(rfc5912::RSA_ENCRYPTION, Some(AnyRef::NULL), &key.to_der().map_err(malformed)?)?;
    Ok((spki_der, json!({ "e": e, "kty": "RSA", "n": n }).to_string()))
}

fn okp(jwk: &Jwk) -> Attempt<(Vec<u8>, String)> {
    let crv = member(jwk.crv.as_deref(), "crv")?;
    if crv != "Ed25519" {
        return Err(bad_key(format!("the curve {crv:?} is not accepted; use Ed25519")).into());
    }
    let x = member(jwk.x.as_deref(), "x")?;
    let spki_der = spki(rfc8410::ID_ED_25519, None, &decode("x", x)?)?;
    Ok((spki_der, json!({ "crv": crv, "kty": "OKP", "x": x }).to_string()))
}

fn spki(oid: ObjectIdentifier, parameters: Option<AnyRef<'_>>, public_key: &[u8]) -> Attempt<Vec<u8>> {
    let malformed = |_| bad_key("the jwk is not the public key it claims to be");
    let subject_public_key = BitStringRef::from_bytes(public_key).map_err(malformed)?;
    let spki = SubjectPublicKeyInfoRef { algorithm: AlgorithmIdentifierRef { oid, parameters }, subject_public_key };
    Ok(spki.to_der().map_err(malformed)?)
}

fn member<'a>(value: Option<&'a str>, name: &str) -> Result<&'a str, Problem> {
    value.ok_or_else(|| bad_key(format!("the jwk has no {name:?}")))
}

fn decode(name: &str, text: &str) -> Result<Vec<u8>, Problem> {
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Problem::malformed(format!("{name:?} of the jwk is not base64url without padding")))
}

fn bad_key(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemType::BadPublicKey, detail)
}

pub(crate) fn sha256(octets: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    for (to, from) in sum.iter_mut().zip(digest(&SHA256, octets).as_ref()) {
        *to = *from;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Failure;

    #[derive(Deserialize)]
    struct KeyVector {
        name: String,
        jwk: serde_json::Value,
        thumbprint: Option<String>,
        refused: Option<String>,
    }

    #[derive(Deserialize)]
    struct SignatureVector {
        name: String,
        jwk: serde_json::Value,
        alg: String,
        signed: String,
        signature: String,
        verifies: bool,
    }

    fn accept(jwk: &serde_json::Value) -> Result<AccountKey, ProblemType> {
        let jwk = Jwk::deserialize(jwk).map_err(|_| ProblemType::Malformed)?;
        AccountKey::accept(&jwk).map_err(|failure| match &failure {
            Failure::Problem(problem) => problem.kind,
            Failure::Conflict | Failure::Fault(_) => panic!("{failure:?}"),
        })
    }

    #[test]
    fn s19_account_keys_are_accepted_or_refused_as_the_vectors_say() {
        let vectors: Vec<KeyVector> =
            serde_json::from_str(include_str!("../../../testvectors/acme/keys.json")).unwrap();
        assert!(vectors.len() > 10);
        for vector in vectors {
            let accepted = accept(&vector.jwk);
            match (&vector.thumbprint, &vector.refused) {
                (Some(thumbprint), None) => {
                    let key = accepted.unwrap_or_else(|problem| panic!("{}: {problem:?}", vector.name));
                    assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(key.thumbprint()), *thumbprint, "{}", vector.name);
                    assert_eq!(AccountKey::stored(key.spki_der(), *key.thumbprint()).unwrap(), key, "{}", vector.name);
                }
                (None, Some(problem)) => {
                    assert_eq!(accepted.map(|_| ()), Err(ProblemType::named(problem).unwrap()), "{}", vector.name);
                }
                (_, _) => panic!("{} expects nothing", vector.name),
            }
        }
    }

    #[test]
    fn s19_signatures_verify_or_not_as_the_vectors_say() {
        let vectors: Vec<SignatureVector> =
            serde_json::from_str(include_str!("../../../testvectors/acme/signatures.json")).unwrap();
        assert!(vectors.len() > 10);
        for vector in vectors {
            let key = accept(&vector.jwk).unwrap();
            let algorithm = SignatureAlgorithm::named(&vector.alg).unwrap();
            let signature = BASE64_URL_SAFE_NO_PAD.decode(&vector.signature).unwrap();
            let verified = key.verify(algorithm, vector.signed.as_bytes(), &signature);
            assert_eq!(verified.is_ok(), vector.verifies, "{}", vector.name);
        }
    }
}
