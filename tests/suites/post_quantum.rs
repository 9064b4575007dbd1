//! Authorities and subjects with ML-DSA keys (FIPS 204, RFC 9881). The judge is the OpenSSL that Python's `cryptography` brings,
//! since the system's may be too old to know them.

use std::path::Path;
use std::process::Command;

use ca_backend::testing::Bench;
use ca_backend::{CertificateRequest, IssuedCertificate, KeyAlgorithm, RevocationReason};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::key::Key;
use tests::openssl::OpenSsl;
use tests::pki::{ISSUING, Pki, ROOT, new_authority, settings};
use tests::pkilint::venv_program;
use tests::scep_client::{Device, Message, ScepBench, rules};
use tests::status::OcspClient;
use tests::wish::Wish;

const ML_DSA: [KeyAlgorithm; 3] = [KeyAlgorithm::MlDsa44, KeyAlgorithm::MlDsa65, KeyAlgorithm::MlDsa87];

/// Runs the judge; what it printed, or what it complained about.
fn judge(arguments: &[&str]) -> Result<Value, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/harness/post_quantum.py");
    let output = Command::new(venv_program("python3")).arg(script).args(arguments).output().unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[track_caller]
fn judge_chain(issued: &IssuedCertificate) {
    let directory = TempDir::new().unwrap();
    for (file, der) in [("root.der", &issued.root[..]), ("issuing.der", &issued.chain[0]), ("leaf.der", &issued.der)] {
        std::fs::write(directory.path().join(file), der).unwrap();
    }
    judge(&["chain", directory.path().to_str().unwrap()]).unwrap();
}

fn pki(algorithm: KeyAlgorithm) -> Pki {
    let pki = Pki::bare(Bench::in_memory().unwrap(), settings());
    for mut wanted in [new_authority(ROOT, None), new_authority(ISSUING, Some(ROOT))] {
        wanted.algorithm = algorithm;
        pki.engine.create_authority(&wanted, "test").unwrap();
    }
    pki
}

/// A request that the judge made and signed.
fn request_by_the_judge(directory: &Path, algorithm: KeyAlgorithm) -> CertificateRequest {
    let file = directory.join("request.der");
    judge(&["request", algorithm.name(), file.to_str().unwrap()]).unwrap();
    CertificateRequest::open(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn certificates_crls_and_ocsp_answers_of_ml_dsa_authorities_stand_before_another_implementation() {
    let names = ["MLDSA44PublicKey", "MLDSA65PublicKey", "MLDSA87PublicKey"];
    for (index, (algorithm, name)) in ML_DSA.into_iter().zip(names).enumerate() {
        let directory = TempDir::new().unwrap();
        let pki = pki(algorithm);
        let csr = request_by_the_judge(directory.path(), algorithm);
        let leaf = Wish::with_csr(csr).names(&["dns:host.example.org"]).issue(&pki.engine).unwrap();
        pki.revoke(&leaf.serial, RevocationReason::KeyCompromise).unwrap();
        let crl = pki.engine.publish_crl(ISSUING).unwrap();
        // The system's OpenSSL need not know the issuer's algorithm to write a request: it only hashes name and key.
        let client = OcspClient::new(&pki.engine, ISSUING, &leaf);
        let answer = client.post(&client.request(&[leaf.serial], "-no_nonce"));
        for (file, der) in [
            ("root.der", &leaf.root[..]),
            ("issuing.der", &leaf.chain[0]),
            ("leaf.der", &leaf.der),
            ("crl.der", &crl.der),
            ("ocsp.der", answer.body()),
        ] {
            std::fs::write(directory.path().join(file), der).unwrap();
        }
        let seen = judge(&["judge", directory.path().to_str().unwrap()]).unwrap();
        let expected = json!({
            "keys": [name, name, name, name],
            "signature": format!("2.16.840.1.101.3.4.3.{}", 17 + index),
            "leaf_usage": false,
            "on_crl": true,
            "ocsp": "REVOKED",
        });
        assert_eq!(seen, expected);

        // A judge that cannot find a fault would be none.
        let mut altered = leaf.der.to_vec();
        *altered.last_mut().unwrap() ^= 1;
        std::fs::write(directory.path().join("leaf.der"), altered).unwrap();
        let complaint = judge(&["judge", directory.path().to_str().unwrap()]).unwrap_err();
        assert!(complaint.contains("InvalidSignature"), "{complaint}");
    }
}

#[test]
fn a_subject_may_hold_an_ml_dsa_key_below_a_classical_authority_and_the_other_way_round() {
    let classical = Pki::start();
    for algorithm in ML_DSA {
        let leaf = Wish::with_key(&Key::generate(algorithm)).names(&["dns:pq.example.org"]).issue(&classical.engine);
        let leaf = leaf.unwrap();
        judge_chain(&leaf);
    }
    let pki = pki(KeyAlgorithm::MlDsa65);
    judge_chain(&Wish::for_host("host.example.org").issue(&pki.engine).unwrap());
}

#[test]
fn s06_a_request_whose_ml_dsa_signature_does_not_verify_or_whose_key_is_cut_is_refused() {
    for algorithm in ML_DSA {
        let mut csr = Key::generate(algorithm).csr("CN=host");
        CertificateRequest::open(&csr).unwrap();
        *csr.last_mut().unwrap() ^= 1;
        assert_eq!(CertificateRequest::open(&csr).unwrap_err().reason(), ca_backend::Reason::BadProof);
    }
    let key = Key::generate(KeyAlgorithm::MlDsa44).public_key();
    // The identifier says ML-DSA-65, the key has the length of ML-DSA-44.
    let mut other = key.clone();
    let oid = other.windows(4).position(|octets| octets == [3, 4, 3, 17]).unwrap();
    other[oid + 3] = 18;
    assert_eq!(ca_backend::subject_key::SubjectKey::accept(&other).unwrap_err().reason(), ca_backend::Reason::BadKey);
    ca_backend::subject_key::SubjectKey::accept(&key).unwrap();
}

/// OpenSSL verifies and opens the answer as a client does, and the judge looks at what it brought.
#[test]
fn what_scep_hands_out_below_ml_dsa_authorities_stands_before_another_implementation() {
    for algorithm in ML_DSA {
        let bench = ScepBench::over(pki(algorithm), rules(), Value::Null);
        let device = Device::new("cn=device-1");
        let challenge = bench.challenge(Some(1), json!({}));
        let csr = device.csr("cn=device-1", Some(&challenge), &["device-1.example.org"]);
        let authority = bench.registration_authority();
        let reply = bench.post(&device.seal(&Message::pkcs_req("enroll", csr), &authority));

        let ssl = OpenSsl::new();
        ssl.put("reply.p7", reply.body());
        ssl.put_certificate("device.pem", &device.certificate);
        ssl.put("device.der", device.private_key());
        ssl.run("pkcs8 -inform DER -in device.der -nocrypt -out device.key");
        ssl.run("cms -verify -noverify -binary -inform DER -in reply.p7 -out envelope.der");
        ssl.run("cms -decrypt -inform DER -in envelope.der -recip device.pem -inkey device.key -out bag.der");
        ssl.run("pkcs7 -inform DER -in bag.der -print_certs -out leaf.pem");
        ssl.run("x509 -in leaf.pem -outform DER -out leaf.der");

        let directory = ssl.directory().to_str().unwrap();
        let chain = bench.pki.engine.issuer_chain(ISSUING).unwrap();
        ssl.put("issuing.der", &chain[0]);
        ssl.put("root.der", chain.last().unwrap());
        judge(&["chain", directory]).unwrap();
        let leaf = ssl.take("leaf.der");
        ssl.put("leaf.der", &authority);
        judge(&["chain", directory]).unwrap();
        let mut altered = leaf;
        *altered.last_mut().unwrap() ^= 1;
        ssl.put("leaf.der", altered);
        assert!(judge(&["chain", directory]).unwrap_err().contains("InvalidSignature"));
    }
}
