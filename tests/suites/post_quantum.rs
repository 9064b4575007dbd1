//! Authorities and subjects with ML-DSA keys (FIPS 204, RFC 9881). The judge is the OpenSSL that Python's `cryptography` brings,
//! since the system's may be too old to know them.

use std::path::Path;
use std::process::Command;

use ca_backend::testing::Bench;
use ca_backend::{CertificateRequest, IssuedCertificate, KeyAlgorithm, RevocationReason};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::key::Key;
use tests::pki::{ISSUING, Pki, ROOT, new_authority, settings};
use tests::pkilint::venv_program;
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
