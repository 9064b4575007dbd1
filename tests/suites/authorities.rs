//! Authorities: algorithms, validity, states, services, and an external root for which OpenSSL stands.

use ca_backend::testing::Bench;
use ca_backend::{
    AuthorityChange, AuthorityKind, AuthorityState, CertStatus, DistinguishedName, Error, KeyAlgorithm, Reason,
    RevocationReason, Stopwatch,
};
use tests::key::Key;
use tests::openssl::{OpenSsl, pem};
use tests::pki::{DAY_S, ISSUING, OPERATOR, Pki, ROOT, assert_refused, authority, new_authority, noon, settings};
use tests::wish::Wish;

fn empty() -> Pki {
    Pki::bare(Bench::in_memory().unwrap(), settings())
}

#[test]
fn every_algorithm_makes_a_root_an_issuing_authority_and_certificates_that_openssl_accepts() {
    for algorithm in KeyAlgorithm::ALL {
        let signature = match algorithm {
            KeyAlgorithm::EcP256 => "ecdsa-with-SHA256",
            KeyAlgorithm::EcP384 => "ecdsa-with-SHA384",
            KeyAlgorithm::EcP521 => "ecdsa-with-SHA512",
            KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 => "sha256WithRSAEncryption",
            KeyAlgorithm::Rsa4096 => "sha512WithRSAEncryption",
            KeyAlgorithm::Ed25519 => "ED25519",
            // The system's OpenSSL may not know them yet: see the suite post_quantum.
            KeyAlgorithm::MlDsa44 | KeyAlgorithm::MlDsa65 | KeyAlgorithm::MlDsa87 => continue,
        };
        let pki = empty();
        let watch = Stopwatch::start();
        for mut wanted in [new_authority(ROOT, None), new_authority(ISSUING, Some(ROOT))] {
            wanted.algorithm = algorithm;
            let made = pki.engine.create_authority(&wanted, OPERATOR).unwrap();
            assert_eq!((made.state, made.algorithm), (AuthorityState::Active, Some(algorithm)));
        }
        println!("{}: root and issuing authority in {:?}", algorithm.name(), watch.elapsed());
        let issued = Wish::for_host("host.example.org").issue(&pki.engine).unwrap();
        OpenSsl::new().verify(&issued.der, &issued.chain, &issued.root, pki.engine.now());
        let shown = OpenSsl::new().show(&issued.der);
        assert!(shown.contains(&format!("Signature Algorithm: {signature}")), "{shown}");
    }
}

#[test]
fn validity_is_20_years_for_a_root_and_10_below_it_unless_stated() {
    let pki = Pki::start();
    let life_s = |name| {
        let made = pki.engine.authority(&authority(name)).unwrap();
        made.not_after.unwrap().since_s(made.not_before.unwrap()) + 1
    };
    assert_eq!(life_s(ROOT), 20 * 365 * DAY_S);
    assert_eq!(life_s(ISSUING), 10 * 365 * DAY_S);
    let short = ca_backend::NewAuthority { validity_s: Some(400 * DAY_S), ..new_authority("short", Some(ROOT)) };
    pki.engine.create_authority(&short, OPERATOR).unwrap();
    assert_eq!(life_s("short"), 400 * DAY_S);
}

#[test]
fn a_child_never_outlives_its_parent() {
    let pki = empty();
    let root = ca_backend::NewAuthority { validity_s: Some(365 * DAY_S), ..new_authority(ROOT, None) };
    let root = pki.engine.create_authority(&root, OPERATOR).unwrap();
    let child = pki.engine.create_authority(&new_authority(ISSUING, Some(ROOT)), OPERATOR).unwrap();
    assert_eq!(child.not_after, root.not_after);
    let leaf = Wish::for_host("host.example.org").issue(&pki.engine).unwrap();
    assert_eq!(Some(leaf.not_after), root.not_after, "3 years are asked for, and 1 is left");
}

#[test]
fn an_expired_authority_issues_nothing() {
    let pki = empty();
    for mut wanted in [new_authority(ROOT, None), new_authority(ISSUING, Some(ROOT))] {
        wanted.validity_s = Some(10 * DAY_S);
        pki.engine.create_authority(&wanted, OPERATOR).unwrap();
    }
    pki.pass_s(11 * DAY_S);
    assert_eq!(pki.engine.authority(&authority(ISSUING)).unwrap().state, AuthorityState::Expired);
    assert_refused(Wish::for_host("host.example.org").issue(&pki.engine), Reason::BadTime, "too soon");
    assert_refused(
        pki.engine.create_authority(&new_authority("another", Some(ROOT)), OPERATOR),
        Reason::BadTime,
        "too soon",
    );
    assert_refused(pki.engine.authority(&authority("another")), Reason::NotReady, "no authority");
}

#[test]
fn an_authority_whose_certificate_is_refused_leaves_no_trace_but_the_audit_record() {
    let mut pki = Pki::start();
    let hopeless = ca_backend::NewAuthority { validity_s: Some(10), ..new_authority("hopeless", Some(ROOT)) };
    assert_refused(pki.engine.create_authority(&hopeless, OPERATOR), Reason::BadTime, "too soon");
    assert_refused(pki.engine.authority(&authority("hopeless")), Reason::NotReady, "no authority");
    pki.restart();
    let entries = tests::pki::audit_log(&pki.engine).len();
    pki.engine.maintain();
    assert_eq!(tests::pki::audit_log(&pki.engine).len(), entries, "nobody tries again");
    pki.engine.create_authority(&new_authority("hopeless", Some(ROOT)), OPERATOR).unwrap();
}

#[test]
fn a_revoked_or_held_issuing_authority_issues_nothing_until_it_is_released() {
    let mut pki = Pki::start();
    let serial = ca_backend::Serial::parse(&serial_of(&pki, ISSUING)).unwrap();
    pki.change(&serial, ca_backend::StatusChange::Hold).unwrap();
    assert_eq!(pki.engine.authority(&authority(ISSUING)).unwrap().state, AuthorityState::Revoked);
    assert!(Wish::for_host("a.example.org").issue(&pki.engine).is_err(), "an authority on hold issued a certificate");
    pki.change(&serial, ca_backend::StatusChange::Unhold).unwrap();
    Wish::for_host("b.example.org").issue(&pki.engine).unwrap();
    pki.revoke(&serial, RevocationReason::CaCompromise).unwrap();
    assert!(Wish::for_host("c.example.org").issue(&pki.engine).is_err(), "a revoked authority issued a certificate");
    pki.restart();
    assert!(
        Wish::for_host("d.example.org").issue(&pki.engine).is_err(),
        "a revoked authority issued a certificate after a restart"
    );
}

fn serial_of(pki: &Pki, name: &str) -> String {
    let ssl = OpenSsl::new();
    let made = pki.engine.authority(&authority(name)).unwrap();
    ssl.put("a.der", made.certificate.unwrap());
    ssl.run("x509 -inform DER -in a.der -noout -serial").trim().trim_start_matches("serial=").to_owned()
}

#[test]
fn names_and_distinguished_names_are_taken_once() {
    let pki = Pki::start();
    assert_refused(
        pki.engine.create_authority(&new_authority(ISSUING, Some(ROOT)), OPERATOR),
        Reason::Conflict,
        "already",
    );
    let mut same_subject = new_authority("other", Some(ROOT));
    same_subject.subject = new_authority(ISSUING, None).subject;
    assert_refused(
        pki.engine.create_authority(&same_subject, OPERATOR),
        Reason::Conflict,
        "another authority has the name",
    );
    let mut nameless = new_authority("nameless", Some(ROOT));
    nameless.subject = DistinguishedName::empty();
    assert_refused(pki.engine.create_authority(&nameless, OPERATOR), Reason::NameNotAllowed, "distinguished name");
    assert_refused(
        pki.engine.create_authority(&new_authority("deep", Some(ISSUING)), OPERATOR),
        Reason::NotAuthorized,
        "only a root",
    );
    assert_refused(
        pki.engine.create_authority(&new_authority("orphan", Some("nobody")), OPERATOR),
        Reason::NotReady,
        "no authority",
    );
}

#[test]
fn services_say_which_profiles_are_offered_and_can_be_changed() {
    let mut pki = Pki::start();
    let change = |services: &[&str]| AuthorityChange {
        services: Some(services.iter().map(|service| (*service).to_owned()).collect()),
        friendly_name: Some("Renamed".to_owned()),
    };
    pki.engine.change_authority(&authority(ISSUING), &change(&["smime"]), OPERATOR).unwrap();
    assert_refused(
        Wish::for_host("a.example.org").issue(&pki.engine),
        Reason::UnknownProfile,
        "does not offer the service privatessl",
    );
    pki.restart();
    assert_eq!(pki.engine.authority(&authority(ISSUING)).unwrap().services, ["smime"]);
    assert_eq!(pki.engine.authority(&authority(ISSUING)).unwrap().friendly_name, "Renamed");
    pki.engine.change_authority(&authority(ISSUING), &change(&["smime", "privatessl"]), OPERATOR).unwrap();
    Wish::for_host("a.example.org").issue(&pki.engine).unwrap();
    let unknown = pki.engine.change_authority(&authority(ISSUING), &change(&["privatssl"]), OPERATOR);
    assert_refused(unknown, Reason::UnknownProfile, "privatssl");
}

#[test]
fn an_authority_with_children_or_endpoints_is_not_deleted_and_others_go_with_their_certificates() {
    let pki = Pki::start();
    let issued = Wish::for_host("a.example.org").issue(&pki.engine).unwrap();
    assert_refused(pki.engine.delete_authority(&authority(ROOT), OPERATOR), Reason::Conflict, "issuing");
    assert_refused(pki.engine.delete_authority(&authority(ISSUING), OPERATOR), Reason::Conflict, "endpoint web");
    pki.engine.delete_endpoint(&ca_backend::EndpointName::new("web").unwrap(), OPERATOR).unwrap();
    pki.engine.delete_authority(&authority(ISSUING), OPERATOR).unwrap();
    pki.engine.maintain();
    assert_refused(pki.engine.authority(&authority(ISSUING)), Reason::NotReady, "no authority");
    assert!(pki.engine.find_certificate(&issued.serial).unwrap().is_none());
    assert_refused(pki.engine.crl(ISSUING), Reason::UnknownCertificate, "no issuer");
    assert!(pki.engine.counts().unwrap().iter().all(|count| count.authority.as_str() == ROOT));
    assert_eq!(pki.engine.verify_audit().unwrap().damage, None);
    pki.engine.delete_authority(&authority(ROOT), OPERATOR).unwrap();
    pki.engine.maintain();
    assert!(pki.engine.authorities().unwrap().is_empty());
}

#[test]
fn a_deleted_authority_is_revoked_by_the_authority_above_it() {
    let pki = Pki::start();
    let certificate = pki.engine.authority(&authority(ISSUING)).unwrap().certificate.unwrap();
    let serial = pki.engine.search(&ca_backend::InventoryQuery::default()).unwrap().items;
    let serial = serial.iter().find(|found| found.der == certificate).unwrap().serial;
    pki.engine.delete_endpoint(&ca_backend::EndpointName::new("web").unwrap(), OPERATOR).unwrap();
    pki.engine.delete_authority(&authority(ISSUING), OPERATOR).unwrap();
    let status = pki.engine.status(ROOT, &serial).unwrap();
    let reason = RevocationReason::CessationOfOperation;
    assert!(matches!(status, CertStatus::Revoked { reason: told, .. } if told == reason), "{status:?}");
    pki.engine.publish_crl(ROOT).unwrap();
    let crl = OpenSsl::new().show_crl(&pki.engine.crl(ROOT).unwrap().der);
    assert!(crl.contains("Cessation Of Operation"), "{crl}");
    let mut log = pki.engine.audit(0, 1_000).unwrap();
    log.retain(|entry| entry.record.serial.as_ref() == Some(&serial));
    let last = log.last().unwrap();
    assert!(last.record.detail.contains("is being deleted"), "{last:?}");
    assert_eq!(last.record.evidence.as_ref().unwrap().requester, format!("operator:{OPERATOR}"));
}

#[test]
fn an_authority_of_more_certificates_than_one_step_is_deleted_in_steps_across_a_restart() {
    let mut pki = Pki::start();
    let key = Key::ec();
    for n in 0..1_100 {
        let host = format!("dns:h{n}.example.org");
        Wish::with_key(&key).transaction(&host).names(&[&host]).issue(&pki.engine).unwrap();
    }
    pki.engine.delete_endpoint(&ca_backend::EndpointName::new("web").unwrap(), OPERATOR).unwrap();
    pki.engine.delete_authority(&authority(ISSUING), OPERATOR).unwrap();
    assert_eq!(pki.engine.authority(&authority(ISSUING)).unwrap().state, AuthorityState::Deleting);
    assert!(
        Wish::for_host("late.example.org").issue(&pki.engine).is_err(),
        "an authority that is being deleted issued a certificate"
    );
    pki.restart();
    for _ in 0..3 {
        pki.engine.maintain();
    }
    assert_refused(pki.engine.authority(&authority(ISSUING)), Reason::NotReady, "no authority");
    let left = tests::pki::find_all(&pki.engine, &ca_backend::InventoryQuery::default());
    assert!(left.iter().all(|certificate| certificate.authority.as_str() == ROOT), "{} are left", left.len());
}

/// OpenSSL as the external root, with the authority `below` waiting for its certificate.
struct External {
    pki: Pki,
    ssl: OpenSsl,
}

const CA: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";

impl External {
    fn new() -> Self {
        let pki = empty();
        // OpenSSL dates what it signs by the real clock.
        pki.bench.clock.set(ca_backend::Clock::now(&ca_backend::SystemClock).plus_s(3_600));
        let ssl = OpenSsl::new();
        ssl.put("ca.ext", CA);
        ssl.put("leaf.ext", "basicConstraints=critical,CA:FALSE\nsubjectKeyIdentifier=hash\n");
        ssl.put(
            "nosign.ext",
            "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\n",
        );
        let external = Self { pki, ssl };
        external.make_root("root", "/CN=External Root/O=Elsewhere", 3_650);
        external
    }

    fn make_root(&self, name: &str, subject: &str, days: u32) {
        self.key(name);
        self.ssl.run(&format!("req -new -key {name}.key -subj '{subject}' -out {name}.csr"));
        self.ssl
            .run(&format!("x509 -req -in {name}.csr -signkey {name}.key -days {days} -extfile ca.ext -out {name}.pem"));
    }

    fn key(&self, name: &str) {
        self.ssl.run(&format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"));
    }

    fn import(&self) {
        let imported = self
            .pki
            .engine
            .import_external_root(&authority("ext"), "External", &self.ssl.take("root.pem"), OPERATOR)
            .unwrap();
        assert_eq!((imported.kind, imported.key), (AuthorityKind::ExternalRoot, None));
    }

    /// Imports the root and makes the authority below it; its CSR lies in `below.csr`.
    fn below(&self) {
        self.import();
        let below = self.pki.engine.create_authority(&new_authority("below", Some("ext")), OPERATOR).unwrap();
        assert_eq!(below.state, AuthorityState::CsrReady);
        let csr = self.pki.engine.authority_request(&authority("below")).unwrap();
        self.ssl.put("below.csr", pem("CERTIFICATE REQUEST", &csr));
    }

    /// Signs a request with a root: `NAME.pem`.
    fn sign(&self, csr: &str, signer: &str, extensions: &str, options: &str, name: &str) {
        self.ssl.run(&format!(
            "x509 -req -in {csr}.csr -CA {signer}.pem -CAkey {signer}.key -CAcreateserial -extfile {extensions}.ext {options} -out {name}.pem"
        ));
    }

    fn install(&self, upload: &[u8]) -> Result<ca_backend::Authority, Error> {
        self.pki.engine.install_certificate(&authority("below"), upload, OPERATOR)
    }

    fn still_waits(&self) {
        assert_eq!(self.pki.engine.authority(&authority("below")).unwrap().state, AuthorityState::CsrReady);
    }
}

#[test]
fn an_authority_below_an_external_root_becomes_active_with_the_certificate_that_openssl_signed() {
    for form in ["pem", "der", "with the root", "text around it"] {
        let mut external = External::new();
        external.below();
        let asked = external.ssl.run("req -in below.csr -noout -text -verify");
        assert!(asked.contains("CA:TRUE") && asked.contains("Certificate Sign, CRL Sign"), "{asked}");
        assert!(Wish::for_host("early.example.org").from_authority("below").issue(&external.pki.engine).is_err());
        external.sign("below", "root", "ca", "-days 365", "signed");
        let signed = external.ssl.take("signed.pem");
        let upload = match form {
            "der" => {
                external.ssl.run("x509 -in signed.pem -outform DER -out signed.der");
                external.ssl.take("signed.der")
            }
            "with the root" => [external.ssl.take("root.pem"), signed].concat(),
            "text around it" => [b"subject: below\n".as_slice(), &signed, b"\nthe end\n"].concat(),
            _ => signed,
        };
        let active = external.install(&upload).unwrap_or_else(|error| panic!("{form}: {error:?}"));
        assert_eq!(active.state, AuthorityState::Active, "{form}");
        external.pki.restart();
        let issued = Wish::for_host("host.example.org").from_authority("below").issue(&external.pki.engine).unwrap();
        external.ssl.verify(&issued.der, &issued.chain, &issued.root, external.pki.engine.now());
        let shown = external.ssl.show_crl(&external.pki.engine.crl("below").unwrap().der);
        assert!(shown.contains("Issuer: CN=Test below,O=Example,C=DE"), "{shown}");
        assert_refused(external.install(&upload), Reason::NotReady, "does not wait");
        assert_refused(external.pki.engine.crl("ext"), Reason::UnknownCertificate, "no issuer");
    }
}

#[test]
fn a_chain_with_an_authority_in_between_is_kept_and_handed_out() {
    let external = External::new();
    external.below();
    external.key("middle");
    external.ssl.run("req -new -key middle.key -subj '/CN=Middle/O=Elsewhere' -out middle.csr");
    external.sign("middle", "root", "ca", "-days 700", "middle");
    external.sign("below", "middle", "ca", "-days 365", "signed");
    assert_refused(external.install(&external.ssl.take("signed.pem")), Reason::BadProof, "do not lead");
    external.install(&[external.ssl.take("middle.pem"), external.ssl.take("signed.pem")].concat()).unwrap();
    let issued = Wish::for_host("host.example.org").from_authority("below").issue(&external.pki.engine).unwrap();
    assert_eq!(issued.chain.len(), 2, "below and middle");
    external.ssl.verify(&issued.der, &issued.chain, &issued.root, external.pki.engine.now());
}

#[test]
fn every_wrong_upload_is_refused_with_what_is_wrong_and_the_authority_goes_on_waiting() {
    let external = External::new();
    external.below();
    external.make_root("stranger", "/CN=Stranger", 3_650);
    external.make_root("twin", "/CN=External Root/O=Elsewhere", 3_650);
    external.key("other");
    external.ssl.run("req -new -key other.key -subj '/C=DE/O=Example/CN=Test below' -out other.csr");
    external.sign("other", "root", "ca", "-days 365", "other-key");
    external.sign("below", "stranger", "ca", "-days 365", "wrong-signer");
    external.sign("below", "twin", "ca", "-days 365", "wrong-twin");
    external.sign("below", "root", "leaf", "-days 365", "no-authority");
    external.sign("below", "root", "nosign", "-days 365", "no-key-usage");
    external.sign("below", "root", "ca", "-days 36500", "outlives");
    // `-subj` in place of the request's name; the key stays ours.
    external.ssl.run("req -in below.csr -noout -pubkey -out below.pub");
    external.ssl.run(
        "x509 -new -force_pubkey below.pub -subj '/CN=Somebody Else' -CA root.pem -CAkey root.key -CAcreateserial -extfile ca.ext -days 365 -out other-name.pem",
    );

    for (upload, reason, words) in [
        ("other-key", Reason::BadKey, "this authority's key"),
        ("wrong-signer", Reason::BadProof, "do not lead"),
        ("wrong-twin", Reason::BadProof, ""),
        ("no-authority", Reason::Malformed, "cA"),
        ("no-key-usage", Reason::Malformed, "keyCertSign"),
        ("outlives", Reason::BadTime, "outlives"),
        ("other-name", Reason::NameNotAllowed, "subject"),
    ] {
        match external.install(&external.ssl.take(&format!("{upload}.pem"))) {
            Err(Error::Refused(refusal)) => {
                println!("{upload}: {:?} {}", refusal.reason(), refusal.private());
                assert_eq!(refusal.reason(), reason, "{upload}: {refusal:?}");
                assert!(refusal.public().contains(words), "{upload}: {refusal:?}");
            }
            other => panic!("{upload}: {other:?}"),
        }
        external.still_waits();
    }

    for garbage in [b"".as_slice(), b"nonsense", &[0x30, 0x03, 0x01], &[0xff; 2_000_000]] {
        assert_refused(external.install(garbage), Reason::Malformed, "");
    }
    external.sign("below", "root", "ca", "-days 1", "expired");
    external.pki.bench.clock.advance_s(3 * DAY_S);
    assert_refused(external.install(&external.ssl.take("expired.pem")), Reason::BadTime, "not now");
    external.still_waits();
}

#[test]
fn only_a_valid_self_signed_authority_is_imported_as_an_external_root() {
    let external = External::new();
    external.sign("root", "root", "leaf", "-days 300", "no-authority");
    external.key("child");
    external.ssl.run("req -new -key child.key -subj '/CN=Child' -out child.csr");
    external.sign("child", "root", "ca", "-days 300", "child");
    let import =
        |name: &str, upload: &[u8]| external.pki.engine.import_external_root(&authority(name), "", upload, OPERATOR);
    assert_refused(import("child", &external.ssl.take("child.pem")), Reason::Unsupported, "self-signed");
    let no_authority = import("leaf", &external.ssl.take("no-authority.pem"));
    assert!(matches!(no_authority, Err(Error::Refused(_))), "{no_authority:?}");
    let mut forged = {
        external.ssl.run("x509 -in root.pem -outform DER -out root.der");
        external.ssl.take("root.der")
    };
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = import("forged", &forged);
    assert!(matches!(forged, Err(Error::Refused(_))), "{forged:?}");
    external.import();
    assert_refused(import("again", &external.ssl.take("root.pem")), Reason::Conflict, "same name");
}

#[test]
fn an_authority_of_any_rfc_4519_attribute_is_shown_by_openssl_as_it_was_named() {
    let pki = empty();
    let mut wanted = new_authority(ROOT, None);
    wanted.subject =
        DistinguishedName::parse("cn=Root\\, the first,ou=PKI,o=M\u{fc}ller GmbH,l=Berlin,st=BE,dc=example,c=DE")
            .unwrap();
    pki.engine.create_authority(&wanted, OPERATOR).unwrap();
    let ssl = OpenSsl::new();
    ssl.put("root.der", pki.engine.authority(&authority(ROOT)).unwrap().certificate.unwrap());
    let shown = ssl.run("x509 -inform DER -in root.der -noout -subject -nameopt RFC2253,-esc_msb,utf8");
    assert_eq!(shown.trim(), "subject=CN=Root\\, the first,OU=PKI,O=M\u{fc}ller GmbH,L=Berlin,ST=BE,DC=example,C=DE");
    assert_eq!(pki.engine.now(), noon());
}

#[test]
fn an_authority_can_be_made_while_another_one_is_being_deleted() {
    let pki = Pki::start();
    let key = Key::ec();
    for n in 0..510 {
        let host = format!("dns:h{n}.example.org");
        Wish::with_key(&key).transaction(&host).names(&[&host]).issue(&pki.engine).unwrap();
    }
    pki.engine.delete_endpoint(&ca_backend::EndpointName::new("web").unwrap(), OPERATOR).unwrap();
    pki.engine.delete_authority(&authority(ISSUING), OPERATOR).unwrap();
    assert_eq!(pki.engine.authority(&authority(ISSUING)).unwrap().state, AuthorityState::Deleting);
    let (made, result) = std::sync::mpsc::channel();
    let engine = pki.engine.clone();
    std::thread::spawn(move || {
        made.send(engine.create_authority(&new_authority("next", Some(ROOT)), OPERATOR).map(|next| next.state))
    });
    let made = result.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits for itself");
    assert_eq!(made.unwrap(), AuthorityState::Active);
}

#[test]
fn s36_an_authority_made_after_another_was_deleted_has_nothing_of_it() {
    let mut pki = Pki::start();
    let issued = Wish::for_host("a.example.org").issue(&pki.engine).unwrap();
    pki.revoke(&issued.serial, RevocationReason::KeyCompromise).unwrap();
    pki.engine.publish_crl(ISSUING).unwrap();
    pki.engine.delete_endpoint(&ca_backend::EndpointName::new("web").unwrap(), OPERATOR).unwrap();
    pki.engine.delete_authority(&authority(ISSUING), OPERATOR).unwrap();
    assert_refused(pki.engine.authority(&authority(ISSUING)), Reason::NotReady, "no authority");
    for _ in 0..2 {
        pki.engine.create_authority(&new_authority("next", Some(ROOT)), OPERATOR).unwrap();
        let crl = OpenSsl::new().show_crl(&pki.engine.crl("next").unwrap().der);
        assert!(crl.contains("Test next") && crl.contains("No Revoked Certificates"), "{crl}");
        pki.engine.publish_crl("next").unwrap();
        let of_before =
            pki.engine.events(0, 100).unwrap().into_iter().find(|event| event.serial == issued.serial).unwrap();
        assert_eq!(of_before.authority, None, "an event of the deleted authority passed to the next one");
        pki.engine.delete_authority(&authority("next"), OPERATOR).unwrap();
        pki.restart();
    }
}

#[test]
fn an_expired_authority_publishes_no_crl_that_ends_before_it_begins() {
    let pki = empty();
    let root = ca_backend::NewAuthority { validity_s: Some(10 * DAY_S), ..new_authority(ROOT, None) };
    pki.engine.create_authority(&root, OPERATOR).unwrap();
    pki.pass_s(9 * DAY_S);
    let last = pki.engine.crl(ROOT).unwrap();
    pki.pass_s(5 * DAY_S);
    assert_eq!(pki.engine.crl(ROOT).unwrap().number, last.number);
}

#[test]
fn what_the_daemon_is_refused_it_does_not_ask_for_every_second() {
    let external = External::new();
    external.below();
    external.ssl.put("nc.ext", format!("{CA}nameConstraints=critical,permitted;dirName:subtree\n[subtree]\nC=DE\n"));
    external.ssl.run("x509 -req -in below.csr -CA root.pem -CAkey root.key -days 300 -extfile nc.ext -out below.pem");
    let pki = &external.pki;
    pki.engine.install_certificate(&authority("below"), &external.ssl.take("below.pem"), OPERATOR).unwrap();
    let refused = || tests::pki::audited(&pki.engine, ca_backend::Action::Refused).len();
    (0..5).for_each(|_| pki.pass_s(1));
    let at_first = refused();
    assert!((1..=2).contains(&at_first), "a responder outside of C=DE was refused {at_first} times");
    (0..20).for_each(|_| pki.pass_s(1));
    assert_eq!(refused(), at_first);
    pki.pass_s(3_600);
    assert_eq!(refused(), at_first + 1, "an operator may have mended it meanwhile");
}

#[test]
fn what_a_fault_stopped_does_not_go_on_under_an_authority_that_is_being_deleted() {
    let pki = Pki::start();
    let key = Key::ec();
    for n in 0..510 {
        let host = format!("dns:h{n}.example.org");
        Wish::with_key(&key).transaction(&host).names(&[&host]).issue(&pki.engine).unwrap();
    }
    let stopped = Wish::for_host("late.example.org");
    pki.bench.sign_faults.fail_before(1);
    let _fault = tests::pki::fault(stopped.issue(&pki.engine).unwrap_err());
    pki.engine.delete_endpoint(&ca_backend::EndpointName::new("web").unwrap(), OPERATOR).unwrap();
    pki.engine.delete_authority(&authority(ISSUING), OPERATOR).unwrap();
    assert_eq!(pki.engine.authority(&authority(ISSUING)).unwrap().state, AuthorityState::Deleting);
    assert_refused(stopped.issue(&pki.engine), Reason::NotReady, "no authority");
    pki.engine.maintain();
    assert_refused(pki.engine.authority(&authority(ISSUING)), Reason::NotReady, "no authority");
    assert_refused(stopped.issue(&pki.engine), Reason::NotReady, "no authority");
}
