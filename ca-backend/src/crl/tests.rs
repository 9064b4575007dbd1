//! CRLs are judged by OpenSSL and x509-cert, with the issuer in testvectors/revocation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use bytes::Bytes;
use der::{Decode, Encode};
use spki::AlgorithmIdentifierOwned;
use x509_cert::Certificate;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;

use super::{CrlDraft, UnsignedCrl};
use crate::algorithm::{KeyAlgorithm, verify_signature};
use crate::clock::{Stopwatch, Time};
use crate::status::{RevocationReason, SignedCrl};

const NOON: u64 = 1_767_268_800; // 2026-01-01T12:00:00Z

type Entry = (Vec<u8>, Time, RevocationReason, Option<Time>);

struct Issuer {
    name: Vec<u8>,
    spki: Vec<u8>,
    key: EcdsaKeyPair,
    algorithm: AlgorithmIdentifierOwned,
}

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testvectors/revocation").join(name)
}

impl Issuer {
    fn of_the_vectors() -> Self {
        let certificate = Certificate::from_der(&fs::read(vector("issuer.cer")).unwrap()).unwrap();
        let pkcs8 = fs::read(vector("issuer.p8")).unwrap();
        Self {
            name: certificate.tbs_certificate().subject().to_der().unwrap(),
            spki: certificate.tbs_certificate().subject_public_key_info().to_der().unwrap(),
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).unwrap(),
            algorithm: KeyAlgorithm::EcP256.signature_algorithm(),
        }
    }

    fn draft(&self) -> CrlDraft<'_> {
        CrlDraft {
            issuer_name_der: &self.name,
            key_identifier: &[0xab; 20],
            algorithm: &self.algorithm,
            number: 42,
            this_update: Time::from_unix(NOON),
            next_update: Time::from_unix(NOON + 7 * 86_400),
            expired_certs_on_crl: Some(Time::from_unix(NOON - 86_400)),
        }
    }

    fn crl(&self, draft: &CrlDraft<'_>, entries: &[Entry]) -> Bytes {
        let mut builder = draft.builder(0).unwrap();
        for (serial, at, reason, invalidity) in entries {
            builder.push(serial, *at, *reason, *invalidity).unwrap();
        }
        let unsigned = builder.finish().unwrap();
        let signature = self.key.sign(&SystemRandom::new(), unsigned.tbs()).unwrap();
        verify_signature(&self.spki, &self.algorithm, unsigned.tbs(), signature.as_ref()).unwrap();
        unsigned.assemble(signature.as_ref()).unwrap()
    }
}

/// What `openssl crl` prints of a CRL whose signature it has verified with the issuer's certificate.
fn judged_by_openssl(crl: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("list.crl");
    fs::write(&path, crl).unwrap();
    let issuer = directory.path().join("issuer.pem");
    fs::write(
        &issuer,
        Command::new("openssl").args(["x509", "-in"]).arg(vector("issuer.cer")).output().unwrap().stdout,
    )
    .unwrap();
    let output = Command::new("openssl")
        .args(["crl", "-inform", "DER", "-noout", "-text", "-in"])
        .arg(&path)
        .arg("-CAfile")
        .arg(&issuer)
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("verify OK"), "{text}");
    text
}

#[test]
fn an_empty_crl_has_no_list_and_every_extension() {
    let issuer = Issuer::of_the_vectors();
    let crl = issuer.crl(&issuer.draft(), &[]);
    let text = judged_by_openssl(&crl);
    for expected in [
        "Version 2",
        "Issuer: O = Example, CN = Status Issuer",
        "Last Update: Jan  1 12:00:00 2026 GMT",
        "Next Update: Jan  8 12:00:00 2026 GMT",
        "AB:AB:AB",
        "X509v3 CRL Number: \n                42",
        "2.5.29.60",
        "20251231120000Z",
        "No Revoked Certificates.",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in {text}");
    }
    assert_eq!(CertificateList::<Rfc5280>::from_der(&crl).unwrap().tbs_cert_list.revoked_certificates, None);
}

#[test]
fn openssl_reads_every_reason_and_the_invalidity_date() {
    let issuer = Issuer::of_the_vectors();
    let entries: Vec<Entry> = RevocationReason::ALL
        .into_iter()
        .map(|reason| (vec![0x40, reason.code()], Time::from_unix(NOON), reason, Some(Time::from_unix(NOON - 3600))))
        .collect();
    let text = judged_by_openssl(&issuer.crl(&issuer.draft(), &entries));
    for (reason, name) in [
        (RevocationReason::KeyCompromise, "Key Compromise"),
        (RevocationReason::CaCompromise, "CA Compromise"),
        (RevocationReason::AffiliationChanged, "Affiliation Changed"),
        (RevocationReason::Superseded, "Superseded"),
        (RevocationReason::CessationOfOperation, "Cessation Of Operation"),
        (RevocationReason::CertificateHold, "Certificate Hold"),
        (RevocationReason::PrivilegeWithdrawn, "Privilege Withdrawn"),
        (RevocationReason::AaCompromise, "AA Compromise"),
    ] {
        let serial = format!("Serial Number: 40{:02X}", reason.code());
        let entry = text.split("Serial Number: ").find(|entry| serial.ends_with(entry.lines().next().unwrap_or("?")));
        assert!(entry.is_some_and(|entry| entry.contains(name)), "{reason}: {text}");
    }
    assert_eq!(text.matches("Jan  1 11:00:00 2026 GMT").count(), 9, "{text}");
}

#[test]
fn unspecified_without_a_date_has_no_entry_extensions() {
    let issuer = Issuer::of_the_vectors();
    let entries = [(vec![5], Time::from_unix(NOON), RevocationReason::Unspecified, None)];
    let list = CertificateList::<Rfc5280>::from_der(&issuer.crl(&issuer.draft(), &entries)).unwrap();
    let revoked = list.tbs_cert_list.revoked_certificates.unwrap();
    assert_eq!(revoked.len(), 1);
    assert_eq!(revoked[0].crl_entry_extensions, None);
}

#[test]
fn extensions_have_the_known_bytes() {
    let issuer = Issuer::of_the_vectors();
    let entries = [(vec![5], Time::from_unix(NOON), RevocationReason::Superseded, None)];
    let crl = hex::encode(issuer.crl(&issuer.draft(), &entries));
    assert!(crl.contains("300a0603551d14040302012a"), "cRLNumber 42");
    assert!(crl.contains("300a0603551d1504030a0104"), "reasonCode superseded");
}

#[test]
fn serials_are_written_as_minimal_positive_integers() {
    let issuer = Issuer::of_the_vectors();
    let entries = [vec![0, 0, 5], vec![0x80, 1], vec![0x7f; 20], vec![0xff; 20]]
        .map(|serial| (serial, Time::from_unix(NOON), RevocationReason::KeyCompromise, None));
    let list = CertificateList::<Rfc5280>::from_der(&issuer.crl(&issuer.draft(), &entries)).unwrap();
    let serials: Vec<String> = list
        .tbs_cert_list
        .revoked_certificates
        .unwrap()
        .iter()
        .map(|revoked| hex::encode(revoked.serial_number.as_bytes()))
        .collect();
    assert_eq!(serials, ["05".to_owned(), "008001".to_owned(), "7f".repeat(20), format!("00{}", "ff".repeat(20))]);
}

#[test]
fn dates_after_2049_are_generalized_times() {
    let issuer = Issuer::of_the_vectors();
    let late: Time = "2050-01-01T00:00:00Z".parse().unwrap();
    let draft = CrlDraft { this_update: late.minus_s(1), next_update: late, ..issuer.draft() };
    let crl = issuer.crl(&draft, &[(vec![5], late.minus_s(1), RevocationReason::KeyCompromise, None)]);
    let bytes = hex::encode(&crl);
    assert!(bytes.contains(&format!("170d{}", hex::encode("491231235959Z"))));
    assert!(bytes.contains(&format!("180f{}", hex::encode("20500101000000Z"))));
    judged_by_openssl(&crl);
}

#[test]
fn s36_the_head_of_a_crl_is_read_back_whatever_its_length() {
    let issuer = Issuer::of_the_vectors();
    for entries in [0_u32, 1, 4, 5, 300, 3_000] {
        let entries: Vec<Entry> = (1..=entries)
            .map(|n| (n.to_be_bytes().to_vec(), Time::from_unix(NOON), RevocationReason::Superseded, None))
            .collect();
        let draft = CrlDraft { number: u64::MAX, expired_certs_on_crl: None, ..issuer.draft() };
        let crl = issuer.crl(&draft, &entries);
        let list = CertificateList::<Rfc5280>::from_der(&crl).unwrap();
        assert_eq!(list.tbs_cert_list.revoked_certificates.as_ref().map_or(0, Vec::len), entries.len());
        assert_eq!(list.to_der().unwrap(), crl);
    }
}

#[test]
fn a_crl_is_put_together_again_from_recorded_pieces() {
    let issuer = Issuer::of_the_vectors();
    let mut builder = issuer.draft().builder(0).unwrap();
    for n in 1..=200_u8 {
        builder.push(&[n], Time::from_unix(NOON), RevocationReason::Superseded, None).unwrap();
    }
    let unsigned = builder.finish().unwrap();
    let pieces: Vec<Vec<u8>> = unsigned.tbs().chunks(1000).map(<[u8]>::to_vec).collect();
    let signature = issuer.key.sign(&SystemRandom::new(), unsigned.tbs()).unwrap();
    let crl = unsigned.assemble(signature.as_ref()).unwrap();
    let again = UnsignedCrl::recorded(&pieces, (&issuer.algorithm).into()).unwrap();
    assert_eq!(again.assemble(signature.as_ref()).unwrap(), crl);
    judged_by_openssl(&crl);
}

/// Not a judgement, a figure: run it in release with `--no-capture`. The memory is judged.
#[test]
fn a_million_entries_need_the_memory_of_one_crl() {
    const ENTRIES: usize = 1_000_000;
    let issuer = Issuer::of_the_vectors();
    let draft = issuer.draft();
    let building = Stopwatch::start();
    let mut builder = draft.builder(ENTRIES).unwrap();
    let capacity = builder.buffer.capacity();
    for n in 0..ENTRIES as u64 {
        let mut serial = [0x5a; 20];
        serial[12..].copy_from_slice(&n.to_be_bytes());
        builder.push(&serial, Time::from_unix(NOON + n), RevocationReason::KeyCompromise, None).unwrap();
    }
    let unsigned = builder.finish().unwrap();
    let building = building.elapsed();
    let signing = Stopwatch::start();
    let signature = issuer.key.sign(&SystemRandom::new(), unsigned.tbs()).unwrap();
    let signing = signing.elapsed();
    let assembling = Stopwatch::start();
    let crl = unsigned.assemble(signature.as_ref()).unwrap();
    let assembling = assembling.elapsed();
    let tagging = Stopwatch::start();
    let crl = SignedCrl::new(crl, draft.number, draft.this_update, draft.next_update).der;
    let tagging = tagging.elapsed();
    println!(
        "CRL of {ENTRIES} entries: {} octets; {building:?} to build, {signing:?} to sign, {assembling:?} to assemble, {tagging:?} for \
         the entity tag",
        crl.len(),
    );
    assert!(capacity <= crl.len() + crl.len() / 10, "{capacity} for {}", crl.len());
}
