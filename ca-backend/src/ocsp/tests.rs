//! Answers are judged by OpenSSL, with the keys, certificates and requests in testvectors/revocation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use der::{Any, Decode, Encode};
use x509_cert::Certificate;

use super::{Answer, IssuerHashes, OcspDraft, assemble, responder_key_hash};
use crate::algorithm::{KeyAlgorithm, verify_signature};
use crate::clock::{Clock, Stopwatch, SystemClock, Time};
use crate::status::{CertId, CertIdHash, CertStatus, RevocationReason};

const NOON: u64 = 1_767_268_800; // 2026-01-01T12:00:00Z

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testvectors/revocation").join(name)
}

fn certificate(name: &str) -> Certificate {
    Certificate::from_der(&fs::read(vector(name)).unwrap()).unwrap()
}

fn spki(certificate: &Certificate) -> &spki::SubjectPublicKeyInfoOwned {
    certificate.tbs_certificate().subject_public_key_info()
}

fn signing_key(name: &str) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &fs::read(vector(name)).unwrap()).unwrap()
}

/// The elements of a SEQUENCE, each as DER.
fn elements(sequence: &[u8]) -> Vec<Vec<u8>> {
    Vec::<Any>::from_der(sequence).unwrap().iter().map(|element| element.to_der().unwrap()).collect()
}

/// The CertIDs of an unsigned request, as they stand in it.
fn cert_ids(request: &str) -> Vec<Vec<u8>> {
    let tbs = &elements(&fs::read(vector(request)).unwrap())[0];
    elements(&elements(tbs)[0]).iter().map(|single| elements(single)[0].clone()).collect()
}

/// A signed answer by `signer`, which puts its own certificate in unless it is the issuer.
fn answer(signer: &str, answers: Vec<Answer<'_>>, nonce: Option<&[u8]>) -> Vec<u8> {
    let certificate = certificate(&format!("{signer}.cer"));
    let key = signing_key(&format!("{signer}.p8"));
    let responder_key_hash = responder_key_hash(spki(&certificate).subject_public_key.raw_bytes());
    let draft = OcspDraft { responder_key_hash, produced_at: SystemClock.now(), answers, nonce };
    let data = draft.encode().unwrap();
    let signature = key.sign(&SystemRandom::new(), &data).unwrap();
    let algorithm = KeyAlgorithm::EcP256.signature_algorithm();
    verify_signature(&spki(&certificate).to_der().unwrap(), &algorithm, &data, signature.as_ref()).unwrap();
    let der = certificate.to_der().unwrap();
    let delegated = (signer != "issuer").then_some(der.as_slice());
    assemble(&data, &algorithm, signature.as_ref(), delegated).unwrap()
}

fn said_of(cert_id_der: &[u8], status: CertStatus) -> Answer<'_> {
    let now = SystemClock.now();
    Answer {
        cert_id_der,
        status,
        this_update: now.minus_s(300),
        next_update: now.plus_s(86_400),
        archive_cutoff: Some(now.minus_s(365 * 86_400)),
    }
}

/// What `openssl ocsp` prints of an answer to a request, after it has verified it with the issuer.
fn judged_by_openssl(response: &[u8], request: &str, certificates: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("answer.der");
    fs::write(&path, response).unwrap();
    let issuer = directory.path().join("issuer.pem");
    fs::write(&issuer, pem(&vector("issuer.cer"))).unwrap();
    let mut command = Command::new("openssl");
    command.arg("ocsp").arg("-respin").arg(&path).arg("-reqin").arg(vector(request)).arg("-issuer").arg(&issuer);
    command.arg("-CAfile").arg(&issuer).args(["-attime", "2000000000", "-resp_text"]);
    for name in certificates {
        command.arg("-cert").arg(vector(name));
    }
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("Response verify OK"), "{text}");
    text
}

fn pem(certificate: &Path) -> Vec<u8> {
    Command::new("openssl").args(["x509", "-in"]).arg(certificate).output().unwrap().stdout
}

#[test]
fn a_delegated_responders_answer_is_good_to_openssl() {
    let ids = cert_ids("openssl-sha1.ocsp-request");
    let text = judged_by_openssl(
        &answer("responder", vec![said_of(&ids[0], CertStatus::Good)], None),
        "openssl-sha1.ocsp-request",
        &["first.cer"],
    );
    assert!(text.contains("first.cer: good"), "{text}");
    assert!(text.contains("Archive Cutoff"), "{text}");
    assert!(!text.contains("WARNING: Status times invalid"), "{text}");
}

#[test]
fn the_issuers_own_answer_carries_no_certificate() {
    for request in ["openssl-sha256.ocsp-request", "openssl-sha384.ocsp-request", "openssl-sha512.ocsp-request"] {
        let ids = cert_ids(request);
        let text = judged_by_openssl(&answer("issuer", vec![said_of(&ids[0], CertStatus::Good)], None), request, &[]);
        assert!(text.contains("Cert Status: good"), "{text}");
        assert!(!text.contains("Certificate:\n"), "{text}");
    }
}

#[test]
fn openssl_reads_every_reason_and_the_time() {
    let ids = cert_ids("openssl-sha1.ocsp-request");
    for reason in RevocationReason::ALL {
        let status =
            CertStatus::Revoked { at: Time::from_unix(NOON), reason, invalidity: Some(Time::from_unix(NOON - 5)) };
        let text = judged_by_openssl(
            &answer("responder", vec![said_of(&ids[0], status)], None),
            "openssl-sha1.ocsp-request",
            &["first.cer"],
        );
        assert!(text.contains("first.cer: revoked") && text.contains("Jan  1 12:00:00 2026 GMT"), "{text}");
        // OpenSSL 3.0 names no reason after 8.
        let named = match reason {
            RevocationReason::Unspecified => !text.contains("Reason:"),
            RevocationReason::PrivilegeWithdrawn => text.contains("(0x9)") || text.contains("privilegeWithdrawn"),
            RevocationReason::AaCompromise => text.contains("(0xa)") || text.contains("aACompromise"),
            RevocationReason::KeyCompromise
            | RevocationReason::CaCompromise
            | RevocationReason::AffiliationChanged
            | RevocationReason::Superseded
            | RevocationReason::CessationOfOperation
            | RevocationReason::CertificateHold => {
                text.contains(&format!("Reason: {reason}")) || text.contains("(UNKNOWN)")
            }
        };
        assert!(named, "{reason}: {text}");
    }
}

#[test]
fn two_certificates_get_their_own_statuses_in_one_answer() {
    let ids = cert_ids("openssl-two.ocsp-request");
    let revoked =
        CertStatus::Revoked { at: Time::from_unix(NOON), reason: RevocationReason::KeyCompromise, invalidity: None };
    let text = judged_by_openssl(
        &answer("responder", vec![said_of(&ids[0], CertStatus::Good), said_of(&ids[1], revoked)], None),
        "openssl-two.ocsp-request",
        &["first.cer", "second.cer"],
    );
    assert!(text.contains("first.cer: good") && text.contains("second.cer: revoked"), "{text}");
}

#[test]
fn the_nonce_comes_back_as_it_was_sent() {
    let request = fs::read(vector("openssl-sha1-nonce.ocsp-request")).unwrap();
    let extensions = &elements(&elements(&request)[0])[1];
    let extensions = elements(Any::from_der(extensions).unwrap().value());
    let value = Any::from_der(&elements(&extensions[0])[1]).unwrap();
    let ids = cert_ids("openssl-sha1-nonce.ocsp-request");
    let text = judged_by_openssl(
        &answer("responder", vec![said_of(&ids[0], CertStatus::Good)], Some(value.value())),
        "openssl-sha1-nonce.ocsp-request",
        &[], // with a certificate OpenSSL would make up a nonce of its own
    );
    assert!(text.contains("Cert Status: good"), "{text}");
    assert!(text.contains("OCSP Nonce") && !text.contains("Nonce Verify error"), "{text}");
}

#[test]
fn s32_a_reserved_serial_is_unknown_and_never_good() {
    let ids = cert_ids("openssl-sha1.ocsp-request");
    for status in [CertStatus::Reserved, CertStatus::Unknown] {
        let text = judged_by_openssl(
            &answer("responder", vec![said_of(&ids[0], status)], None),
            "openssl-sha1.ocsp-request",
            &["first.cer"],
        );
        assert!(text.contains("first.cer: unknown"), "{text}");
    }
}

#[test]
fn statuses_have_the_known_bytes() {
    let id = [0x30, 0x00];
    let revoked =
        CertStatus::Revoked { at: Time::from_unix(NOON), reason: RevocationReason::KeyCompromise, invalidity: None };
    for (status, bytes) in [
        (CertStatus::Good, "8000"),
        (CertStatus::Unknown, "8200"),
        (revoked, "a116180f32303236303130313132303030305aa0030a0101"),
    ] {
        let single = said_of(&id, status).single_response().to_der().unwrap();
        assert_eq!(hex::encode(&elements(&single)[1]), bytes);
    }
}

#[test]
fn an_issuer_is_known_by_each_hash_and_by_both_its_name_and_its_key() {
    let issuer = certificate("issuer.cer");
    let hashes = IssuerHashes::of(
        &issuer.tbs_certificate().subject().to_der().unwrap(),
        spki(&issuer).subject_public_key.raw_bytes(),
    );
    for (request, hash) in [
        ("openssl-sha1.ocsp-request", CertIdHash::Sha1),
        ("openssl-sha256.ocsp-request", CertIdHash::Sha256),
        ("openssl-sha384.ocsp-request", CertIdHash::Sha384),
        ("openssl-sha512.ocsp-request", CertIdHash::Sha512),
    ] {
        let der = cert_ids(request).remove(0);
        let parts = elements(&der);
        let content = |element: &[u8]| Any::from_der(element).unwrap().value().to_vec();
        let id = CertId {
            hash,
            issuer_name_hash: content(&parts[1]),
            issuer_key_hash: content(&parts[2]),
            serial: content(&parts[3]),
            der,
        };
        assert!(hashes.names(&id), "{request}");
        let mut other_name = id.clone();
        other_name.issuer_name_hash[0] ^= 1;
        assert!(!hashes.names(&other_name));
        let mut other_key = id.clone();
        other_key.issuer_key_hash[0] ^= 1;
        assert!(!hashes.names(&other_key));
        let mut other_hash = id;
        other_hash.hash = if hash == CertIdHash::Sha1 { CertIdHash::Sha256 } else { CertIdHash::Sha1 };
        assert!(!hashes.names(&other_hash));
    }
}

/// Not a judgement, a figure: run it in release with `--no-capture`.
#[test]
fn encoding_is_printed_beside_the_signature() {
    const ROUNDS: u32 = 2_000;
    let ids = cert_ids("openssl-sha1.ocsp-request");
    let key = signing_key("responder.p8");
    let responder = fs::read(vector("responder.cer")).unwrap();
    let algorithm = KeyAlgorithm::EcP256.signature_algorithm();
    let draft = OcspDraft {
        responder_key_hash: [7; 20],
        produced_at: Time::from_unix(NOON),
        answers: vec![said_of(&ids[0], CertStatus::Good)],
        nonce: None,
    };
    let data = draft.encode().unwrap();
    let rng = SystemRandom::new();
    let signing = Stopwatch::start();
    for _ in 0..ROUNDS {
        key.sign(&rng, &data).unwrap();
    }
    let signing = signing.elapsed();
    let signature = key.sign(&rng, &data).unwrap();
    let encoding = Stopwatch::start();
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let data = draft.encode().unwrap();
        bytes = assemble(&data, &algorithm, signature.as_ref(), Some(&responder)).unwrap().len();
    }
    let encoding = encoding.elapsed();
    println!("OCSP answer of {bytes} octets: {:?} to encode, {:?} to sign", encoding / ROUNDS, signing / ROUNDS);
    assert!(bytes > responder.len());
}
