//! pkilint judges what certgate signs: no error may be left that is not listed here with its reason.

use ca_backend::{KeyAlgorithm, Profile, RevocationReason, StatusChange};
use tests::key::Key;
use tests::pki::{ISSUING, Pki, ROOT, authority, noon};
use tests::pkilint::errors;
use tests::status::OcspClient;
use tests::wish::Wish;

/// Findings that are accepted: code, what the finding is about, and why.
const ACCEPTED: [(&str, &str, &str); 1] = [(
    "pkix.invalid_domain_name_syntax",
    "\\\"*.",
    "RFC 5280 leaves wildcards to the protocols that use them, and RFC 9525 section 6.3 gives them their meaning for TLS",
)];

#[track_caller]
fn judge(what: &str, linter: &str, options: &[&str], der: &[u8]) {
    let mut findings = errors(linter, options, der);
    findings.retain(|finding| {
        !ACCEPTED.iter().any(|(code, about, _why)| *code == finding.code && finding.text.contains(about))
    });
    assert!(findings.is_empty(), "{linter} about {what}: {findings:#?}");
}

#[test]
fn pkilint_can_find_an_error() {
    let pki = Pki::start();
    let crl = pki.engine.crl(ISSUING).unwrap();
    let mut der = crl.der.to_vec();
    // The version of the CRL becomes v1, which has no extensions.
    let version = der.windows(3).position(|window| window == [2, 1, 1]).unwrap();
    der[version + 2] = 0;
    assert!(!errors("lint_crl", &["--type", "CRL", "--profile", "PKIX"], &der).is_empty());
}

#[test]
fn pkilint_accepts_the_certificates_of_every_authority_algorithm() {
    for algorithm in KeyAlgorithm::ALL {
        let pki = Pki::bare(ca_backend::testing::Bench::in_memory().unwrap(), tests::pki::settings());
        for mut wanted in [tests::pki::new_authority(ROOT, None), tests::pki::new_authority(ISSUING, Some(ROOT))] {
            wanted.algorithm = algorithm;
            let made = pki.engine.create_authority(&wanted, "test").unwrap();
            judge(&format!("{} of {}", made.name, algorithm.name()), "lint_pkix_cert", &[], &made.certificate.unwrap());
        }
    }
}

#[test]
fn pkilint_accepts_a_certificate_of_every_profile() {
    let pki = Pki::start();
    let key = Key::generate(KeyAlgorithm::Rsa2048);
    for profile in Profile::built_in().iter().filter(|profile| profile.library != "basic") {
        let wish = Wish::with_key(&key).profile(&profile.id).subject("cn=Ann,o=Example,c=DE").transaction(&profile.id);
        let wish = if profile.alternative_names {
            wish.names(&["dns:host.example.org", "email:ann@example.org"])
        } else {
            wish
        };
        let issued = wish.issue(&pki.engine).unwrap_or_else(|error| panic!("{}: {error:?}", profile.id));
        judge(&profile.id, "lint_pkix_cert", &[], &issued.der);
    }
}

#[test]
fn pkilint_accepts_every_kind_of_name_and_an_empty_subject() {
    let pki = Pki::start();
    let names = [
        "dns:host.example.org",
        "dns:*.example.org",
        "ip:192.0.2.1",
        "ip:2001:db8::1",
        "email:ann@example.org",
        "uri:https://example.org/x",
        "upn:ann@corp.example",
        "rid:1.2.3.4",
        "dn:cn=Ann,o=Example",
    ];
    for subject in ["", "cn=Ann,ou=PKI,o=Example,l=Berlin,st=BE,c=DE"] {
        let issued = Wish::with_key(&Key::ec())
            .profile("privatessl-tls-client-server")
            .subject(subject)
            .names(&names)
            .issue(&pki.engine)
            .unwrap();
        judge(subject, "lint_pkix_cert", &[], &issued.der);
    }
}

#[test]
fn pkilint_accepts_crls_with_every_reason_and_without_entries() {
    let pki = Pki::start();
    let options = |kind| ["--type", kind, "--profile", "PKIX"];
    judge("the empty CRL", "lint_crl", &options("CRL"), &pki.engine.crl(ISSUING).unwrap().der);
    judge("the root's CRL", "lint_crl", &options("ARL"), &pki.engine.crl(ROOT).unwrap().der);
    for (index, reason) in RevocationReason::ALL.into_iter().enumerate() {
        let issued = Wish::for_host(&format!("h{index}.example.org")).issue(&pki.engine).unwrap();
        let change = if reason == RevocationReason::CertificateHold {
            StatusChange::Hold
        } else {
            StatusChange::Revoke { reason, invalidity: Some(noon().minus_s(60)) }
        };
        pki.change(&issued.serial, change).unwrap();
    }
    judge("the CRL with every reason", "lint_crl", &options("CRL"), &pki.engine.publish_crl(ISSUING).unwrap().der);
}

#[test]
fn pkilint_accepts_ocsp_answers_and_the_responders_certificate() {
    let pki = Pki::start();
    let good = Wish::for_host("good.example.org").issue(&pki.engine).unwrap();
    let revoked = Wish::for_host("revoked.example.org").issue(&pki.engine).unwrap();
    pki.revoke(&revoked.serial, RevocationReason::KeyCompromise).unwrap();
    let never = ca_backend::Serial::parse("4711").unwrap();
    let client = OcspClient::new(&pki.engine, ISSUING, &good);
    for (what, serials, options) in [
        ("good", &[good.serial][..], "-no_nonce"),
        ("revoked", &[revoked.serial], "-sha256 -no_nonce"),
        ("unknown", &[never], "-no_nonce"),
        ("all with a nonce", &[good.serial, revoked.serial, never], "-nonce"),
    ] {
        judge(what, "lint_ocsp_response", &[], client.post(&client.request(serials, options)).body());
    }
    let said = client.judge(&[good.serial], "-no_nonce");
    let (_, pem) = said.split_once("-----BEGIN CERTIFICATE-----").unwrap();
    let (pem, _) = pem.split_once("-----END CERTIFICATE-----").unwrap();
    client.ssl.put("responder.pem", format!("-----BEGIN CERTIFICATE-----{pem}-----END CERTIFICATE-----\n"));
    client.ssl.run("x509 -in responder.pem -outform DER -out responder.der");
    judge("the responder", "lint_pkix_cert", &[], &client.ssl.take("responder.der"));
    assert_eq!(pki.engine.authority(&authority(ISSUING)).unwrap().name, authority(ISSUING));
}
