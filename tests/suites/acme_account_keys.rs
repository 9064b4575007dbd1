//! Accounts with keys of every kind that RFC 8555 section 6.2 and RFC 8037 name, from the first request to a change of the key.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use bytes::Bytes;
use der::Decode;
use der::asn1::Uint;
use serde_json::{Value, json};
use tests::acme_client::{AcmeBench, BASE, Reply, SubjectKeyPair, b64, csr, dns, hmac_sha256};

const HOST: &str = "host.corp.example";

/// A private key, and the algorithm that it signs with.
enum Key {
    Ecdsa { alg: &'static str, crv: &'static str, pair: EcdsaKeyPair },
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Key {
    fn ecdsa(alg: &'static str, crv: &'static str, signing: &'static EcdsaSigningAlgorithm) -> Self {
        Self::Ecdsa { alg, crv, pair: EcdsaKeyPair::generate(signing).unwrap() }
    }

    fn of_each_kind() -> Vec<Self> {
        vec![
            Self::ecdsa("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            Self::ecdsa("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            Self::ecdsa("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
            Self::Ed25519(Ed25519KeyPair::generate().unwrap()),
            Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        ]
    }

    fn alg(&self) -> &'static str {
        match self {
            Self::Ecdsa { alg, .. } => alg,
            Self::Ed25519(_) => "EdDSA",
            Self::Rsa(_) => "RS256",
        }
    }

    fn jwk(&self) -> Value {
        match self {
            Self::Ecdsa { crv, pair, .. } => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({ "kty": "EC", "crv": crv, "x": b64(x), "y": b64(y) })
            }
            Self::Ed25519(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key().as_ref()) }),
            Self::Rsa(pair) => {
                let numbers = Vec::<Uint>::from_der(pair.public_key().as_ref()).unwrap();
                json!({ "kty": "RSA", "n": b64(numbers[0].as_bytes()), "e": b64(numbers[1].as_bytes()) })
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ecdsa { pair, .. } => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    fn jws(&self, protected: &Value, payload: &str) -> Value {
        signed(protected, payload, |message| self.sign(message))
    }
}

fn signed(protected: &Value, payload: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> Value {
    let (protected, payload) = (b64(protected.to_string().as_bytes()), b64(payload.as_bytes()));
    let signature = sign(format!("{protected}.{payload}").as_bytes());
    json!({ "protected": protected, "payload": payload, "signature": b64(&signature) })
}

fn send(bench: &AcmeBench, url: &str, jws: &Value) -> Reply {
    let request = http::Request::post(url).header("content-type", "application/jose+json");
    bench.send(request.body(Bytes::from(jws.to_string())).unwrap())
}

/// A protected header with a fresh nonce; the signer is named by `jwk` or `kid`.
fn header(bench: &AcmeBench, alg: &str, url: &str, signer: (&str, Value)) -> Value {
    let nonce = bench.fetch("HEAD", &format!("{BASE}/new-nonce")).header("replay-nonce");
    json!({ "alg": alg, "nonce": nonce, "url": url, signer.0: signer.1 })
}

fn by_account(bench: &AcmeBench, key: &Key, account: &str, url: &str, payload: &str) -> Reply {
    send(bench, url, &key.jws(&header(bench, key.alg(), url, ("kid", account.into())), payload))
}

fn new_account(bench: &AcmeBench, key: &Key) -> Reply {
    let url = format!("{BASE}/new-account");
    send(bench, &url, &key.jws(&header(bench, key.alg(), &url, ("jwk", key.jwk())), "{}"))
}

/// Orders, shows control, finalizes; what the certificate's order says in the end.
fn enroll(bench: &AcmeBench, key: &Key, account: &str) -> Value {
    let ask = |url: &str, payload: Value| by_account(bench, key, account, url, &payload.to_string());
    let identifiers = json!({ "identifiers": [{ "type": "dns", "value": HOST }] });
    let order = ask(&format!("{BASE}/new-order"), identifiers);
    assert_eq!(order.status, 201, "{}", order.json());
    let authorization = order.json()["authorizations"][0].as_str().unwrap().to_owned();
    let authorization = by_account(bench, key, account, &authorization, "").json();
    let challenges = authorization["challenges"].as_array().unwrap();
    let challenge = challenges.iter().find(|each| each["type"] == "http-01").unwrap();
    ask(challenge["url"].as_str().unwrap(), json!({}));
    assert_eq!(bench.answer_validations(), 1);
    let request = csr(&SubjectKeyPair::generate(), "", &dns(&[HOST]));
    ask(&order.text("finalize"), json!({ "csr": b64(&request) })).json()
}

#[test]
fn an_account_key_of_every_kind_enrolls() {
    let bench = AcmeBench::default();
    for key in Key::of_each_kind() {
        let made = new_account(&bench, &key);
        assert_eq!(made.status, 201, "{}: {}", key.alg(), made.json());
        let account = made.header("location");
        assert_eq!(
            (new_account(&bench, &key).status, new_account(&bench, &key).header("location")),
            (200, account.clone())
        );
        let order = enroll(&bench, &key, &account);
        assert_eq!(order["status"], "valid", "{}: {order}", key.alg());
    }
}

#[test]
fn an_account_moves_from_a_key_of_any_kind_to_one_of_any_other() {
    let bench = AcmeBench::default();
    let url = format!("{BASE}/key-change");
    let mut keys = Key::of_each_kind();
    keys.extend(Key::of_each_kind().into_iter().rev());
    let account = new_account(&bench, &keys[0]).header("location");
    for pair in keys.windows(2) {
        let [old, new] = pair else { unreachable!() };
        let change = json!({ "account": account, "oldKey": old.jwk() }).to_string();
        let inner = new.jws(&json!({ "alg": new.alg(), "url": url, "jwk": new.jwk() }), &change);
        let reply = by_account(&bench, old, &account, &url, &inner.to_string());
        assert_eq!(reply.status, 200, "{} to {}: {}", old.alg(), new.alg(), reply.json());
        assert_eq!(by_account(&bench, new, &account, &account, "").status, 200);
        assert_eq!(by_account(&bench, old, &account, &account, "").problem().0, 400, "the old key signs no more");
    }
    assert_eq!(enroll(&bench, keys.last().unwrap(), &account)["status"], "valid");
}

#[test]
fn s19_an_algorithm_that_does_not_fit_the_key_or_needs_none_is_refused() {
    let bench = AcmeBench::default();
    let url = format!("{BASE}/new-account");
    let keys = Key::of_each_kind();
    for key in &keys {
        for other in keys.iter().filter(|other| other.alg() != key.alg()) {
            // Signed by the key in its own way, and by the other: neither the name nor the signature alone is believed.
            for signer in [key, other] {
                let jws = signer.jws(&header(&bench, other.alg(), &url, ("jwk", key.jwk())), "{}");
                let reply = send(&bench, &url, &jws);
                assert_eq!(reply.problem(), (400, "malformed".to_owned()), "{} for {}", other.alg(), key.alg());
            }
        }
        for alg in ["none", "None", "HS256", "HS384", "HS512", "PS256", "RS512", "ES256K", ""] {
            // The public key as the secret of an HMAC, which is the classic confusion.
            let secret = key.jwk().to_string();
            let header = header(&bench, alg, &url, ("jwk", key.jwk()));
            for jws in [
                signed(&header, "{}", |_| Vec::new()),
                signed(&header, "{}", |message| hmac_sha256(secret.as_bytes(), message)),
                key.jws(&header, "{}"),
            ] {
                let reply = send(&bench, &url, &jws);
                assert_eq!(reply.problem(), (400, "badSignatureAlgorithm".to_owned()), "{alg} for {}", key.alg());
                assert_eq!(reply.json()["algorithms"], json!(["ES256", "ES384", "ES512", "EdDSA", "RS256"]));
            }
        }
        assert_eq!(new_account(&bench, key).status, 201, "what was refused made no account");
    }
}
