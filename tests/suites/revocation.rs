//! Revocation, CRLs and OCSP, judged by OpenSSL.

use ca_backend::{
    CertStatus, CertificateState, EngineSettings, Error, Fault, IssuedCertificate, Reason, RevocationReason,
    RevocationRequest, Serial, StatusChange,
};
use tests::key::Key;
use tests::openssl::OpenSsl;
use tests::pki::{DAY_S, ISSUING, Pki, ROOT, assert_refused, authority, noon, settings};
use tests::status::{OcspClient, fetch};
use tests::wish::Wish;

/// Reasons for which a certificate can be revoked for good, as CRL and OCSP show them.
const FINAL: [(RevocationReason, &str); 8] = [
    (RevocationReason::Unspecified, ""),
    (RevocationReason::KeyCompromise, "Key Compromise"),
    (RevocationReason::CaCompromise, "CA Compromise"),
    (RevocationReason::AffiliationChanged, "Affiliation Changed"),
    (RevocationReason::Superseded, "Superseded"),
    (RevocationReason::CessationOfOperation, "Cessation Of Operation"),
    (RevocationReason::PrivilegeWithdrawn, "Privilege Withdrawn"),
    (RevocationReason::AaCompromise, "AA Compromise"),
];

fn issue(pki: &Pki, host: &str) -> IssuedCertificate {
    Wish::for_host(host).issue(&pki.engine).unwrap()
}

/// The part of a CRL's text that is about one certificate, if it is listed.
fn entry(shown: &str, serial: &Serial) -> Option<String> {
    let (_, after) = shown.split_once(&format!("Serial Number: {}", hex::encode_upper(serial.as_bytes())))?;
    let end = after.find("Serial Number: ").or_else(|| after.find("Signature Algorithm: ")).unwrap_or(after.len());
    Some(after[..end].to_owned())
}

fn published(pki: &Pki) -> String {
    OpenSsl::new().show_crl(&pki.engine.publish_crl(ISSUING).unwrap().der)
}

fn crl_number(pki: &Pki) -> u64 {
    pki.engine.crl(ISSUING).unwrap().number
}

// Changes of status

#[test]
fn every_reason_stands_in_the_crl_and_in_ocsp() {
    let pki = Pki::start();
    for (index, (reason, name)) in FINAL.into_iter().enumerate() {
        let issued = issue(&pki, &format!("h{index}.example.org"));
        let client = OcspClient::new(&pki.engine, ISSUING, &issued);
        assert!(client.judge(&[issued.serial], "-no_nonce").contains(": good"));
        let compromised = noon().minus_s(3_600);
        pki.change(&issued.serial, StatusChange::Revoke { reason, invalidity: Some(compromised) }).unwrap();
        let said = client.judge(&[issued.serial], "-no_nonce");
        assert!(said.contains(": revoked") && said.contains("Revocation Time: Jun  1 12:00:00 2026 GMT"), "{said}");
        let shown = published(&pki);
        let listed = entry(&shown, &issued.serial).unwrap();
        assert!(listed.contains("Revocation Date: Jun  1 12:00:00 2026 GMT"), "{listed}");
        assert!(listed.contains("Invalidity Date") && listed.contains("Jun  1 11:00:00 2026 GMT"), "{listed}");
        if name.is_empty() {
            assert!(!listed.contains("Reason Code") && !said.contains("Reason:"), "unspecified is left out: {listed}");
        } else {
            assert!(listed.contains(name), "{listed}");
            // OpenSSL 3.0 has no names for the last two reasons in OCSP.
            assert!(
                said.lines()
                    .any(|line| line.contains("Revocation Reason: ")
                        && line.ends_with(&format!("(0x{:x})", reason.code()))),
                "{said}"
            );
        }
    }
}

#[test]
fn only_a_hold_can_be_lifted_and_only_once_is_a_certificate_revoked() {
    let pki = Pki::start();
    let issued = issue(&pki, "a.example.org");
    let client = OcspClient::new(&pki.engine, ISSUING, &issued);
    assert_refused(pki.change(&issued.serial, StatusChange::Unhold), Reason::NotReady, "not on hold");
    assert_eq!(pki.change(&issued.serial, StatusChange::Hold).unwrap().state, CertificateState::Held);
    assert!(entry(&published(&pki), &issued.serial).unwrap().contains("Certificate Hold"));
    assert!(client.judge(&[issued.serial], "-no_nonce").contains("Reason: certificateHold"));
    assert_refused(pki.change(&issued.serial, StatusChange::Hold), Reason::AlreadyRevoked, "on hold already");
    assert_eq!(pki.change(&issued.serial, StatusChange::Unhold).unwrap().state, CertificateState::Normal);
    assert_eq!(entry(&published(&pki), &issued.serial), None);
    assert!(client.judge(&[issued.serial], "-no_nonce").contains(": good"));
    pki.change(&issued.serial, StatusChange::Hold).unwrap();
    assert_eq!(pki.revoke(&issued.serial, RevocationReason::Superseded).unwrap().state, CertificateState::Revoked);
    for change in [
        StatusChange::Hold,
        StatusChange::Unhold,
        StatusChange::Revoke { reason: RevocationReason::KeyCompromise, invalidity: None },
    ] {
        assert_refused(pki.change(&issued.serial, change), Reason::AlreadyRevoked, "final");
    }
    let other = issue(&pki, "b.example.org");
    assert_refused(pki.revoke(&other.serial, RevocationReason::CertificateHold), Reason::Malformed, "ask for a hold");
    let future = StatusChange::Revoke { reason: RevocationReason::KeyCompromise, invalidity: Some(noon().plus_s(60)) };
    assert_refused(pki.change(&other.serial, future), Reason::BadTime, "future");
    assert_refused(
        pki.revoke(&Serial::parse("4711").unwrap(), RevocationReason::Superseded),
        Reason::UnknownCertificate,
        "4711",
    );
}

#[test]
fn s40_a_certificate_is_revoked_by_its_requester_its_key_or_who_controls_all_its_names_and_by_nobody_else() {
    let pki = Pki::start();
    let revoke = |by: &dyn Fn(Wish) -> Wish| {
        let key = Key::ec();
        let names = &["dns:a.example.org", "dns:b.example.org"];
        let wish = Wish::with_key(&key).names(names).by_account("owner");
        let issued = wish.issue(&pki.engine).unwrap();
        let evidence = by(Wish::with_key(&Key::ec()).names(names)).request(&pki.engine).unwrap().evidence;
        let change = StatusChange::Revoke { reason: RevocationReason::Superseded, invalidity: None };
        let request = RevocationRequest {
            serial: issued.serial,
            change,
            comment: String::new(),
            evidence,
            origin: wish.origin(),
        };
        (pki.engine.revoke(&request), issued)
    };
    revoke(&|wish| wish.by_account_with("owner", &[])).0.unwrap();
    revoke(&|wish| wish.by_account_with("stranger", &["dns:a.example.org", "dns:b.example.org", "dns:c.example.org"]))
        .0
        .unwrap();
    assert_refused(
        revoke(&|wish| wish.by_account_with("stranger", &["dns:a.example.org"])).0,
        Reason::NotAuthorized,
        "another requester",
    );
    let (refused, issued) = revoke(&|wish| wish.by_account_with("stranger", &[]));
    assert_refused(refused, Reason::NotAuthorized, "another requester");
    assert_refused(revoke(&|wish| wish.by_certificate(&issued.der)).0, Reason::NotAuthorized, "another requester");
    assert_eq!(pki.engine.status(ISSUING, &issued.serial).unwrap(), CertStatus::Good);

    let itself = ca_backend::Evidence::Certificate(pki.engine.verify_certificate(&issued.der).unwrap());
    let change = StatusChange::Revoke { reason: RevocationReason::KeyCompromise, invalidity: None };
    let origin = Wish::for_host("a.example.org").origin();
    pki.engine
        .revoke(&RevocationRequest { serial: issued.serial, change, comment: String::new(), evidence: itself, origin })
        .unwrap();
}

// CRLs

#[test]
fn openssl_checks_certificates_of_the_whole_chain_by_the_crls() {
    let pki = Pki::start();
    let kept = issue(&pki, "kept.example.org");
    let revoked = issue(&pki, "revoked.example.org");
    pki.revoke(&revoked.serial, RevocationReason::Superseded).unwrap();
    pki.engine.publish_crl(ISSUING).unwrap();
    let ssl = OpenSsl::new();
    ssl.put_certificate("root.pem", &kept.root);
    ssl.put_certificates("chain.pem", kept.chain.iter().map(AsRef::as_ref));
    let crls = || {
        let crls = [ROOT, ISSUING].map(|issuer| tests::openssl::pem("X509 CRL", &pki.engine.crl(issuer).unwrap().der));
        ssl.put("crls.pem", crls.concat());
    };
    crls();
    ssl.put_certificate("kept.pem", &kept.der);
    ssl.put_certificate("revoked.pem", &revoked.der);
    let at = noon().unix();
    let verify = |leaf: &str| {
        format!(
            "verify -x509_strict -attime {at} -crl_check_all -CRLfile crls.pem -CAfile root.pem -untrusted chain.pem {leaf}"
        )
    };
    ssl.run(&verify("kept.pem"));
    assert!(ssl.refuses(&verify("revoked.pem")).contains("certificate revoked"));

    let issuing = pki.engine.authority(&authority(ISSUING)).unwrap().certificate.unwrap();
    ssl.put("issuing.der", issuing);
    let serial = ssl.run("x509 -inform DER -in issuing.der -noout -serial");
    let serial = Serial::parse(serial.trim().trim_start_matches("serial=")).unwrap();
    pki.revoke(&serial, RevocationReason::CaCompromise).unwrap();
    pki.engine.publish_crl(ROOT).unwrap();
    crls();
    assert!(ssl.refuses(&verify("kept.pem")).contains("certificate revoked"));
}

#[test]
fn a_crl_holds_its_number_authority_key_and_expired_certificates_and_is_valid_for_seven_days() {
    let pki = Pki::start();
    let shown = published(&pki);
    for expected in [
        "Version 2",
        "X509v3 CRL Number",
        "X509v3 Authority Key Identifier",
        "2.5.29.60",
        "Last Update: Jun  1 12:00:00 2026 GMT",
        "Next Update: Jun  8 12:00:00 2026 GMT",
        "No Revoked Certificates",
        "Issuer: CN=Test issuing,O=Example,C=DE",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

#[test]
fn a_crl_is_renewed_after_24_hours_though_nothing_changed() {
    let pki = Pki::start();
    let first = crl_number(&pki);
    pki.pass_s(settings().crl_renew_s - 1);
    assert_eq!(crl_number(&pki), first);
    pki.pass_s(1);
    assert_eq!(crl_number(&pki), first + 1);
    assert_eq!(pki.engine.crl(ISSUING).unwrap().this_update, noon().plus_s(DAY_S));
}

#[test]
fn a_revocation_is_on_the_crl_within_the_delay_and_at_once_on_demand() {
    let mut pki = Pki::start();
    let listed = |pki: &Pki, serial: &Serial| {
        entry(&OpenSsl::new().show_crl(&pki.engine.crl(ISSUING).unwrap().der), serial).is_some()
    };
    let first = issue(&pki, "a.example.org").serial;
    pki.revoke(&first, RevocationReason::Superseded).unwrap();
    pki.pass_s(settings().crl_publish_delay_s - 1);
    assert!(!listed(&pki, &first), "many revocations share one CRL");
    pki.pass_s(1);
    assert!(listed(&pki, &first));
    let second = issue(&pki, "b.example.org").serial;
    pki.revoke(&second, RevocationReason::Superseded).unwrap();
    pki.engine.publish_crl(ISSUING).unwrap();
    assert!(listed(&pki, &second));
    // A restart between revocation and CRL forgets nothing.
    let third = issue(&pki, "c.example.org").serial;
    pki.revoke(&third, RevocationReason::Superseded).unwrap();
    pki.restart();
    pki.engine.maintain();
    assert!(listed(&pki, &third));
}

#[test]
fn s36_crl_numbers_only_grow_over_restarts_failures_and_threads() {
    let mut pki = Pki::start();
    let mut last = crl_number(&pki);
    for round in 0..6 {
        match round % 3 {
            0 => pki.restart(),
            1 => {
                pki.bench.sign_faults.fail_before(1);
                let failed = pki.engine.publish_crl(ISSUING).unwrap_err();
                assert!(matches!(failed, Error::Fault(Fault::Key(_))), "{failed:?}");
                assert_eq!(crl_number(&pki), last, "the one in force stays");
            }
            _ => {
                std::thread::scope(|scope| {
                    for _ in 0..4 {
                        scope.spawn(|| pki.engine.publish_crl(ISSUING).unwrap());
                    }
                });
            }
        }
        let number = pki.engine.publish_crl(ISSUING).unwrap().number;
        assert!(number > last, "{number} after {last}");
        assert_eq!(crl_number(&pki), number);
        last = number;
    }
}

#[test]
fn s36_a_crl_that_cannot_be_signed_is_tried_again_and_the_old_one_is_served() {
    let pki = Pki::start();
    let first = crl_number(&pki);
    pki.bench.clock.advance_s(DAY_S);
    pki.bench.sign_faults.fail_before(1);
    pki.engine.maintain();
    pki.bench.sign_faults.fail_before(1);
    pki.engine.maintain();
    let served = fetch(&pki.engine, "/crl/issuing.crl");
    assert_eq!(served.status(), 200);
    pki.pass_s(31);
    assert!(crl_number(&pki) > first);
}

#[test]
fn s31_an_expired_certificate_stays_on_the_crl_until_its_retention_is_over() {
    let pki = Pki::with(EngineSettings { status_retention_s: 30 * DAY_S, ..settings() });
    let issued = Wish::for_host("a.example.org").until(noon().plus_s(DAY_S)).issue(&pki.engine).unwrap();
    pki.revoke(&issued.serial, RevocationReason::Superseded).unwrap();
    for (days, listed) in [(0, true), (2, true), (30, true), (32, false)] {
        pki.bench.clock.set(noon().plus_s(days * DAY_S));
        assert_eq!(entry(&published(&pki), &issued.serial).is_some(), listed, "after {days} days");
        assert!(
            matches!(pki.engine.status(ISSUING, &issued.serial).unwrap(), CertStatus::Revoked { .. }),
            "the record itself stays"
        );
    }
}

#[test]
fn crls_and_certificates_are_served_with_validators_and_304() {
    let pki = Pki::start();
    let full = fetch(&pki.engine, "/crl/issuing.crl");
    assert_eq!(full.headers()["content-type"], "application/pkix-crl");
    let tag = full.headers()["etag"].clone();
    let again = http::Request::get("/crl/issuing.crl").header("if-none-match", tag).body(bytes::Bytes::new()).unwrap();
    let again =
        endpoint::Endpoint::handle(&revocation::Revocation::new(pki.engine.clone()), again, &tests::status::peer());
    assert_eq!((again.status().as_u16(), again.body().len()), (304, 0));
    assert_eq!(fetch(&pki.engine, "/crl/nobody.crl").status(), 404);
    let issuing = pki.engine.authority(&authority(ISSUING)).unwrap().certificate.unwrap();
    assert_eq!(fetch(&pki.engine, "/ca/issuing.cer").body(), &issuing);
}

// OCSP

#[test]
fn s32_ocsp_says_good_only_for_what_was_issued() {
    let pki = Pki::start();
    let issued = issue(&pki, "a.example.org");
    let client = OcspClient::new(&pki.engine, ISSUING, &issued);
    assert!(client.judge(&[issued.serial], "").contains(": good"));
    for digest in ["-sha1", "-sha256", "-sha384", "-sha512"] {
        assert!(client.judge(&[issued.serial], &format!("{digest} -no_nonce")).contains(": good"), "{digest}");
    }
    let never = Serial::parse("4000000000000000000000000000000000004711").unwrap();
    assert!(client.judge(&[never], "-no_nonce").contains(": unknown"));
    let both = client.judge(&[issued.serial, never], "-no_nonce");
    assert!(both.contains(": good") && both.contains(": unknown"), "several in one request: {both}");

    // A serial of another issuer.
    let root = ca_backend::NewAuthority { ..tests::pki::new_authority("second", Some(ROOT)) };
    pki.engine.create_authority(&root, "test").unwrap();
    let elsewhere = Wish::for_host("b.example.org").from_authority("second").issue(&pki.engine).unwrap();
    assert!(client.judge(&[elsewhere.serial], "-no_nonce").contains(": unknown"));
}

#[test]
fn s32_a_reserved_serial_is_not_good() {
    let pki = Pki::start();
    let issued = issue(&pki, "a.example.org");
    let client = OcspClient::new(&pki.engine, ISSUING, &issued);
    pki.bench.sign_faults.fail_before(1);
    let wish = Wish::for_host("b.example.org");
    wish.issue(&pki.engine).unwrap_err();
    let reserved =
        tests::pki::audited(&pki.engine, ca_backend::Action::WillSign).last().unwrap().record.serial.unwrap();
    assert!(client.judge(&[reserved], "-no_nonce").contains(": unknown"));
    assert_eq!(wish.issue(&pki.engine).unwrap().serial, reserved);
    assert!(
        client.judge(&[reserved], "-no_nonce").contains(": good"),
        "an answer that was not authoritative is not kept"
    );
}

#[test]
fn s32_a_nonce_is_echoed_and_its_answer_never_comes_from_memory() {
    let pki = Pki::start();
    let issued = issue(&pki, "a.example.org");
    let client = OcspClient::new(&pki.engine, ISSUING, &issued);
    let nonce = |text: &str| {
        let (_, after) = text.split_once("OCSP Nonce:").unwrap_or_else(|| panic!("no nonce in {text}"));
        after.trim().lines().next().unwrap().trim().to_owned()
    };
    let mut seen = Vec::new();
    for _ in 0..2 {
        let request = client.request(&[issued.serial], "-nonce");
        let asked = nonce(&client.ssl.run("ocsp -reqin request.der -req_text"));
        let signs = pki.bench.sign_faults.signs();
        client.ssl.put("response.der", client.post(&request).body());
        assert_eq!(pki.bench.sign_faults.signs(), signs + 1);
        let said = client.verify(&[issued.serial], "");
        assert_eq!(nonce(&said), asked);
        seen.push(asked);
    }
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn s32_an_answer_is_kept_until_the_status_changes_and_not_a_moment_longer() {
    let pki = Pki::start();
    let issued = issue(&pki, "a.example.org");
    let client = OcspClient::new(&pki.engine, ISSUING, &issued);
    let request = client.request(&[issued.serial], "-no_nonce");
    let first = client.post(&request).into_body();
    let signs = pki.bench.sign_faults.signs();
    assert_eq!(client.post(&request).into_body(), first, "from memory");
    assert_eq!(pki.bench.sign_faults.signs(), signs);
    pki.change(&issued.serial, StatusChange::Hold).unwrap();
    assert!(client.judge(&[issued.serial], "-no_nonce").contains(": revoked"));
    pki.change(&issued.serial, StatusChange::Unhold).unwrap();
    assert!(client.judge(&[issued.serial], "-no_nonce").contains(": good"));
    pki.revoke(&issued.serial, RevocationReason::KeyCompromise).unwrap();
    assert!(client.judge(&[issued.serial], "-no_nonce").contains(": revoked"));
}

#[test]
fn s32_the_same_url_gets_the_status_of_the_moment_and_the_life_that_is_left() {
    let pki = Pki::start();
    let issued = issue(&pki, "a.example.org");
    let client = OcspClient::new(&pki.engine, ISSUING, &issued);
    let request = client.request(&[issued.serial], "-no_nonce");
    let first = client.get(&request);
    for _ in 0..2 {
        let again = client.get(&request);
        assert_eq!((again.headers(), again.body()), (first.headers(), first.body()));
    }
    pki.bench.clock.advance_s(settings().ocsp_validity_s - 4_000);
    let late = client.get(&request);
    assert_eq!(late.body(), first.body());
    assert_eq!(late.headers()["cache-control"], "max-age=2000, public, no-transform, must-revalidate");
    assert_eq!(late.headers()["expires"], first.headers()["expires"]);
    pki.revoke(&issued.serial, RevocationReason::KeyCompromise).unwrap();
    let revoked = client.get(&request);
    assert_ne!(revoked.headers()["etag"], first.headers()["etag"]);
    client.ssl.put("response.der", revoked.body());
    assert!(client.verify(&[issued.serial], "").contains(": revoked"));
}

#[test]
fn s32_an_answer_from_memory_is_renewed_before_it_ends() {
    let pki = Pki::start();
    let issued = issue(&pki, "a.example.org");
    let client = OcspClient::new(&pki.engine, ISSUING, &issued);
    let request = client.request(&[issued.serial], "-no_nonce");
    let first = client.post(&request).into_body();
    pki.bench.clock.advance_s(settings().ocsp_validity_s - 3_601);
    assert_eq!(client.post(&request).into_body(), first);
    pki.bench.clock.advance_s(2);
    assert_ne!(client.post(&request).into_body(), first);
    let said = client.judge(&[issued.serial], "-no_nonce");
    assert!(
        said.contains("This Update: Jun  2 11:00:01 2026 GMT")
            && said.contains("Next Update: Jun  3 11:00:01 2026 GMT"),
        "{said}"
    );
}

#[test]
fn s32_the_responder_gets_a_new_certificate_in_time_without_an_operator() {
    let mut pki = Pki::start();
    let issued = issue(&pki, "a.example.org");
    let client = OcspClient::new(&pki.engine, ISSUING, &issued);
    let responder = |said: &str| said.split_once("Responder Id: ").unwrap().1.lines().next().unwrap().to_owned();
    let first = responder(&client.judge(&[issued.serial], "-no_nonce"));
    pki.pass_s(19 * DAY_S);
    assert_eq!(responder(&client.judge(&[issued.serial], "-no_nonce")), first);
    pki.pass_s(DAY_S);
    pki.restart();
    let client = OcspClient::new(&pki.engine, ISSUING, &issued);
    let second = client.judge(&[issued.serial], "-no_nonce");
    assert_ne!(responder(&second), first);
    assert!(second.contains("X509v3 Extended Key Usage: critical\n                OCSP Signing"), "{second}");
    assert!(second.contains("OCSP No Check"), "{second}");
    for _ in 0..12 {
        pki.pass_s(10 * DAY_S);
        assert!(client.judge(&[issued.serial], "-no_nonce").contains(": good"));
    }
}

#[test]
fn s32_the_root_answers_for_its_issuing_authorities() {
    let pki = Pki::start();
    let root = pki.engine.authority(&authority(ROOT)).unwrap().certificate.unwrap();
    let issuing = pki.engine.authority(&authority(ISSUING)).unwrap().certificate.unwrap();
    let ssl = OpenSsl::new();
    ssl.put("issuing.der", &issuing);
    let serial = ssl.run("x509 -inform DER -in issuing.der -noout -serial");
    let serial = Serial::parse(serial.trim().trim_start_matches("serial=")).unwrap();
    let as_issued = IssuedCertificate { serial, der: issuing, chain: Vec::new(), root: root.into(), not_after: noon() };
    let client = OcspClient::new(&pki.engine, ROOT, &as_issued);
    assert!(client.judge(&[serial], "-no_nonce").contains(": good"));
    pki.revoke(&serial, RevocationReason::CaCompromise).unwrap();
    assert!(client.judge(&[serial], "-no_nonce").contains(": revoked"));
}

#[test]
fn an_authority_without_ocsp_has_no_responder_and_names_none() {
    let pki = Pki::start();
    let quiet = ca_backend::NewAuthority { ocsp: false, ..tests::pki::new_authority("quiet", Some(ROOT)) };
    pki.engine.create_authority(&quiet, "test").unwrap();
    let issued = Wish::for_host("a.example.org").from_authority("quiet").issue(&pki.engine).unwrap();
    assert!(!OpenSsl::new().show(&issued.der).contains("OCSP - URI"));
    let client = OcspClient::new(&pki.engine, "quiet", &issued);
    let answer = client.post(&client.request(&[issued.serial], "-no_nonce"));
    client.ssl.put("response.der", answer.body());
    let said = client.ssl.refuses("ocsp -respin response.der -issuer issuer.pem -CAfile root.pem");
    assert!(said.contains("unauthorized"), "{said}");
}

#[test]
fn s20_malformed_ocsp_requests_get_an_error_and_leave_no_trace() {
    let pki = Pki::start();
    let issued = issue(&pki, "a.example.org");
    let client = OcspClient::new(&pki.engine, ISSUING, &issued);
    let whole = client.request(&[issued.serial], "-no_nonce");
    let entries = tests::pki::audit_log(&pki.engine).len();
    for garbage in [&whole[..whole.len() - 1], b"", b"x", &[0x30; 100], &[0x30, 0x80, 0, 0], &vec![0x30; 200_000]] {
        let answer = client.post(garbage);
        let malformed = [0x30, 0x03, 0x0a, 0x01, 0x01];
        assert!(answer.status().is_client_error() || *answer.body() == malformed[..], "{:?}", answer.status());
    }
    assert_eq!(tests::pki::audit_log(&pki.engine).len(), entries);
}
