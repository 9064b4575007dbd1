//! What is issued, to whom, and what is refused.

use std::collections::BTreeSet;

use ca_backend::{
    Action, CertificateRequest, EngineSettings, Fault, InventoryQuery, KeyAlgorithm, Outcome, Profile, Reason,
    RequestedExtensions, RevocationReason, Ticket,
};
use const_oid::ObjectIdentifier;
use serde_json::{Value, json};
use tests::key::Key;
use tests::openssl::{OpenSsl, pem};
use tests::pki::{
    DAY_S, ENDPOINT, ISSUING, OPERATOR, Pki, assert_refused, audited, authority, challenge, fault, find_all, noon,
    reason, settings,
};
use tests::wish::Wish;

const TLS: &str = "privatessl-tls-server";

fn oid(dotted: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(dotted)
}

// Validity and serials

#[test]
fn a_certificate_is_valid_for_three_years_from_five_minutes_ago() {
    let pki = Pki::start();
    let issued = Wish::for_host("host.example.org").issue(&pki.engine).unwrap();
    let begin = noon().minus_s(300);
    assert_eq!(issued.not_after, begin.plus_s(3 * 365 * DAY_S - 1));
    let ssl = OpenSsl::new();
    ssl.put("c.der", &issued.der);
    let dates = ssl.run("x509 -inform DER -in c.der -noout -dates -dateopt iso_8601");
    assert_eq!(dates, "notBefore=2026-06-01 11:55:00Z\nnotAfter=2029-05-31 11:54:59Z\n");
    ssl.verify(&issued.der, &issued.chain, &issued.root, noon());
}

#[test]
fn a_stated_validity_is_granted_or_refused_and_never_bent() {
    let pki = Pki::start();
    let begin = noon().plus_s(DAY_S);
    let issued = Wish::for_host("a.example.org").since(begin).until(begin.plus_s(DAY_S)).issue(&pki.engine).unwrap();
    assert_eq!(issued.not_after, begin.plus_s(DAY_S));
    let too_early = Wish::for_host("b.example.org").since(noon().minus_s(301));
    assert_refused(too_early.issue(&pki.engine), Reason::BadTime, "must begin between");
    let beyond_issuer = Wish::for_host("c.example.org").until(noon().plus_s(11 * 365 * DAY_S));
    assert_refused(beyond_issuer.issue(&pki.engine), Reason::BadTime, "cannot end after");
    let over = Wish::for_host("d.example.org").until(noon().plus_s(30));
    assert_refused(over.issue(&pki.engine), Reason::BadTime, "too soon");
    let reversed = Wish::for_host("e.example.org").since(begin).until(noon().plus_s(3_600));
    assert_refused(reversed.issue(&pki.engine), Reason::BadTime, "too soon");
}

#[test]
fn the_backdating_is_a_setting() {
    let pki = Pki::with(EngineSettings { backdate_s: 0, ..settings() });
    let issued = Wish::for_host("a.example.org").issue(&pki.engine).unwrap();
    assert!(OpenSsl::new().show(&issued.der).contains("Not Before: Jun  1 12:00:00 2026 GMT"));
}

#[test]
fn s30_serials_are_20_positive_octets_of_which_15_are_random_and_none_comes_twice() {
    let pki = Pki::start();
    let key = Key::ec();
    let mut serials = BTreeSet::new();
    let mut random_ends = BTreeSet::new();
    for n in 0..500 {
        let host = format!("dns:h{n}.example.org");
        let issued = Wish::with_key(&key).transaction(&host).names(&[&host]).issue(&pki.engine).unwrap();
        let octets = issued.serial.as_bytes().to_vec();
        assert_eq!(octets.len(), 20);
        assert!(octets[0] & 0x80 == 0, "a positive INTEGER of 20 octets");
        assert_eq!(issued.serial.issued_at(), noon());
        random_ends.insert(octets[5..9].to_vec());
        serials.insert(octets);
    }
    assert_eq!(serials.len(), 500);
    assert!(random_ends.len() > 495, "the first random octets differ");
}

#[test]
fn s30_a_serial_is_reserved_in_the_audit_log_before_it_is_signed_and_names_the_profile_snapshot() {
    let pki = Pki::start();
    let issued = Wish::for_host("host.example.org").issue(&pki.engine).unwrap();
    let of = |action| {
        audited(&pki.engine, action).into_iter().find(|entry| entry.record.serial == Some(issued.serial)).unwrap()
    };
    let (reserved, signed) = (of(Action::WillSign), of(Action::Signed));
    assert!(reserved.number < signed.number);
    let snapshot = format!("{TLS}@{}", Profile::find(TLS).unwrap().snapshot_id());
    assert_eq!(reserved.record.profile.as_deref(), Some(snapshot.as_str()));
    let ssl = OpenSsl::new();
    ssl.put("c.der", &issued.der);
    ssl.run("asn1parse -inform DER -in c.der -strparse 4 -noout -out tbs.der");
    let digest = ssl.run("dgst -sha256 -r tbs.der");
    let (digest, _) = digest.split_once(' ').unwrap();
    assert!(
        reserved.record.detail.contains(digest),
        "s34: what was recorded is what was signed: {}",
        reserved.record.detail
    );
}

#[test]
fn s37_a_clock_that_went_back_stops_signing_until_it_is_right_again() {
    let mut pki = Pki::start();
    Wish::for_host("a.example.org").issue(&pki.engine).unwrap();
    pki.bench.clock.set(noon().minus_s(settings().clock_backwards_max_s));
    Wish::for_host("small-step.example.org").issue(&pki.engine).unwrap();
    pki.bench.clock.set(noon().minus_s(DAY_S));
    for restart in [false, true] {
        if restart {
            pki.restart();
        }
        let refused = fault(Wish::for_host("b.example.org").issue(&pki.engine).unwrap_err());
        assert!(matches!(refused, Fault::TryLater { .. }), "{refused:?}, restart: {restart}");
        assert!(pki.engine.publish_crl(ISSUING).is_err(), "a CRL from the past, restart: {restart}");
    }
    pki.bench.clock.set(noon());
    Wish::for_host("c.example.org").issue(&pki.engine).unwrap();
}

#[test]
fn s42_each_requester_gets_ten_certificates_a_second_and_the_others_do_not_wait_for_it() {
    let pki = Pki::with(EngineSettings { issue_rate_per_requester_per_s: 10, ..settings() });
    let ask =
        |account: &str, n: u32| Wish::for_host(&format!("h{n}.example.org")).by_account(account).issue(&pki.engine);
    for n in 0..10 {
        ask("greedy", n).unwrap();
    }
    let refused = ask("greedy", 10).unwrap_err();
    assert_eq!(reason(&refused), Reason::RateLimited);
    ask("modest", 11).unwrap();
    pki.bench.clock.advance_s(1);
    ask("greedy", 12).unwrap();
}

// Profiles

#[test]
fn every_profile_for_end_entities_makes_a_certificate_that_openssl_verifies() {
    let pki = Pki::start();
    let profiles = Profile::built_in().iter().filter(|profile| profile.library != "basic");
    for profile in profiles {
        let wish =
            Wish::with_key(&Key::generate(KeyAlgorithm::Rsa2048)).profile(&profile.id).subject("cn=Ann,o=Example");
        let issued = wish.issue(&pki.engine).unwrap_or_else(|error| panic!("{}: {error:?}", profile.id));
        let ssl = OpenSsl::new();
        ssl.verify(&issued.der, &issued.chain, &issued.root, noon());
        let shown = ssl.show(&issued.der);
        assert!(shown.contains("X509v3 Key Usage: critical"), "{}: {shown}", profile.id);
        assert!(shown.contains("URI:http://pki.example.org/crl/issuing.crl"), "{}: {shown}", profile.id);
        assert!(shown.contains("OCSP - URI:http://pki.example.org/ocsp/issuing"), "{}: {shown}", profile.id);
        assert!(shown.contains("CA Issuers - URI:http://pki.example.org/ca/issuing.cer"), "{}: {shown}", profile.id);
        assert!(!shown.contains("CA:TRUE"), "{}: {shown}", profile.id);
    }
}

#[test]
fn the_daemons_own_profiles_are_for_nobody_else() {
    let pki = Pki::start();
    for profile in ["basic-ca-root", "basic-ca-subord", "basic-ocsp"] {
        let wish = Wish::for_host("host.example.org").profile(profile).subject("cn=Somebody");
        assert_refused(wish.issue(&pki.engine), Reason::NotAuthorized, "daemon's own");
    }
    assert_refused(
        Wish::for_host("host.example.org").profile("nonsense").issue(&pki.engine),
        Reason::UnknownProfile,
        "nonsense",
    );
}

#[test]
fn an_operators_own_profile_is_used_as_it_was_when_the_certificate_was_made() {
    let mut pki = Pki::start();
    let profile = |days: u64| {
        format!(
            "id = \"house-server\"\ntitle = \"Servers of the house\"\nlibrary = \"privatessl\"\nkey_usage = [\"digital-signature\"]\n\
             extended_key_usage = {{ rule = \"fixed\", values = [\"server-auth\"] }}\nvalidity = {{ default_s = {} }}\n",
            days * DAY_S
        )
    };
    pki.engine.put_profile(&profile(30), OPERATOR).unwrap();
    let wish = |host: &str| Wish::for_host(host).profile("house-server");
    let first = wish("a.example.org").issue(&pki.engine).unwrap();
    pki.engine.put_profile(&profile(60), OPERATOR).unwrap();
    pki.restart();
    let second = wish("b.example.org").issue(&pki.engine).unwrap();
    assert_eq!(second.not_after.since_s(first.not_after), 30 * DAY_S);
    let snapshots: BTreeSet<_> = audited(&pki.engine, Action::Signed)
        .into_iter()
        .filter_map(|entry| entry.record.profile.filter(|profile| profile.starts_with("house-server@")))
        .collect();
    assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    let takes_a_built_in_id = profile(1).replace("house-server", TLS);
    assert_refused(pki.engine.put_profile(&takes_a_built_in_id, OPERATOR), Reason::Conflict, "built in");
}

#[test]
fn s04_purposes_are_chosen_only_among_the_operators_list_and_protected_ones_never() {
    let pki = Pki::start();
    let endpoint = json!({
        "name": ENDPOINT, "protocol": "test", "authority": ISSUING, "profiles": ["est-digital-signature", TLS],
        // Protected purposes in the list have no effect.
        "extended_key_usages": ["code-signing", "ocsp-signing", "any"],
        "rules": [{"name": "all", "requesters": [{"evidence": "challenges"}], "profiles": ["est-digital-signature", TLS], "allow": {"dns": ["*"]}}],
    });
    pki.engine.put_endpoint(&serde_json::from_value(endpoint).unwrap(), OPERATOR).unwrap();
    let ask = |profile: &str, purpose: &str| {
        let wish = Wish::for_host("host.example.org").by_account("a").profile(profile);
        wish.extensions(RequestedExtensions::default().with_purpose(oid(purpose))).issue(&pki.engine)
    };
    const CODE_SIGNING: &str = "1.3.6.1.5.5.7.3.3";
    let chosen = ask("est-digital-signature", CODE_SIGNING).unwrap();
    assert!(OpenSsl::new().show(&chosen.der).contains("Code Signing"));
    assert_refused(ask(TLS, CODE_SIGNING), Reason::NotAuthorized, "extended key usage");
    for (name, purpose) in [
        ("OCSPSigning", "1.3.6.1.5.5.7.3.9"),
        ("timeStamping", "1.3.6.1.5.5.7.3.8"),
        ("anyExtendedKeyUsage", "2.5.29.37.0"),
        ("enrollment agent", "1.3.6.1.4.1.311.20.2.1"),
        ("smart-card logon", "1.3.6.1.4.1.311.20.2.2"),
        ("PKINIT KDC", "1.3.6.1.5.2.3.5"),
        ("not on the list", "1.3.6.1.5.5.7.3.4"),
    ] {
        let refused = ask("est-digital-signature", purpose).expect_err(name);
        assert_eq!(reason(&refused), Reason::NotAuthorized, "{name}");
    }
}

#[test]
fn s04_basic_constraints_and_other_extensions_of_the_profile_cannot_be_asked_for() {
    let pki = Pki::start();
    for (name, id, value) in [
        ("basicConstraints cA", "2.5.29.19", "30030101ff"),
        ("keyUsage", "2.5.29.15", "030201fe"),
        ("nameConstraints", "2.5.29.30", "3000"),
        ("subjectAltName", "2.5.29.17", "300d820b6576696c2e6578616d706c65"),
        ("extKeyUsage", "2.5.29.37", "300606042a030405"),
    ] {
        let extensions =
            RequestedExtensions { extended_key_usage: Vec::new(), other: vec![(oid(id), hex::decode(value).unwrap())] };
        let refused = Wish::for_host("host.example.org").extensions(extensions).issue(&pki.engine).expect_err(name);
        assert_eq!(reason(&refused), Reason::NotAuthorized, "{name}");
    }
}

// Keys

#[test]
fn s06_every_weak_or_malformed_key_is_refused_before_the_engine_sees_a_request() {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../testvectors/ca-backend/csr/");
    for weak in [
        "rsa-1024",
        "rsa-e1",
        "rsa-e3",
        "rsa-e-even",
        "rsa-e-large",
        "rsa-even",
        "rsa-square",
        "rsa-small-factor",
        "rsa-fermat-next-prime",
        "rsa-roca",
        "rsa-negative",
        "ec-off-curve",
        "ec-secp256k1",
        "ec-explicit",
        "ec-other-curve",
        "x25519",
    ] {
        let der = std::fs::read(format!("{vectors}{weak}.der")).unwrap();
        let refusal = CertificateRequest::open(&der).expect_err(weak);
        assert!(matches!(refusal.reason(), Reason::BadKey | Reason::Malformed), "{weak}: {refusal:?}");
    }
    for unproven in ["signed-by-another-key", "altered-subject", "empty-signature"] {
        let der = std::fs::read(format!("{vectors}{unproven}.der")).unwrap();
        let refusal = CertificateRequest::open(&der).expect_err(unproven);
        assert!(matches!(refusal.reason(), Reason::BadProof | Reason::Malformed), "{unproven}: {refusal:?}");
    }
}

#[test]
fn s06_an_authoritys_own_key_gets_no_certificate() {
    let pki = Pki::start();
    let ssl = OpenSsl::new();
    ssl.run("ecparam -name prime256v1 -genkey -noout -out root.key");
    ssl.put(
        "ca.ext",
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n",
    );
    ssl.run("req -new -key root.key -subj '/CN=External' -outform DER -out root.csr");
    ssl.run("x509 -req -inform DER -in root.csr -signkey root.key -days 3650 -extfile ca.ext -out root.pem");
    pki.bench.clock.set(ca_backend::Clock::now(&ca_backend::SystemClock).plus_s(60));
    pki.engine.import_external_root(&authority("external"), "", &ssl.take("root.pem"), OPERATOR).unwrap();
    let csr = CertificateRequest::open(&ssl.take("root.csr")).unwrap();
    let wish = Wish::with_csr(csr).names(&["dns:host.example.org"]);
    assert_refused(wish.issue(&pki.engine), Reason::BadKey, "belongs to an authority");
}

#[test]
fn s06_a_compromised_or_blocked_key_gets_no_certificate_ever_again() {
    let mut pki = Pki::start();
    let key = Key::ec();
    let wish = |host: &str| Wish::with_key(&key).names(&[&format!("dns:{host}")]);
    let first = wish("a.example.org").issue(&pki.engine).unwrap();
    let second = wish("b.example.org").issue(&pki.engine).unwrap();
    pki.revoke(&second.serial, RevocationReason::Superseded).unwrap();
    let third = wish("c.example.org").issue(&pki.engine).unwrap();
    pki.revoke(&first.serial, RevocationReason::KeyCompromise).unwrap();
    assert_refused(wish("d.example.org").issue(&pki.engine), Reason::BadKey, "compromised");
    pki.restart();
    assert_refused(wish("e.example.org").issue(&pki.engine), Reason::BadKey, "compromised");
    assert_eq!(
        pki.engine.status(ISSUING, &third.serial).unwrap(),
        ca_backend::CertStatus::Good,
        "its other certificates wait for a decision"
    );

    let blocked = Key::ec();
    let csr = blocked.request("");
    pki.engine.block_key(csr.key().subject_key().fingerprint(), OPERATOR).unwrap();
    assert_refused(Wish::with_csr(csr).names(&["dns:f.example.org"]).issue(&pki.engine), Reason::BadKey, "compromised");
}

// Names

/// One rule with these allowed names.
fn rules(allow: Value, deny: Value) -> Value {
    json!([{"name": "rule", "requesters": [{"evidence": "operator"}], "profiles": ["privatessl-tls-client-server"], "allow": allow, "deny": deny}])
}

fn ask_names(pki: &Pki, subject: &str, names: &[&str]) -> Result<(), ca_backend::Error> {
    let wish = Wish::with_key(&Key::ec())
        .profile("privatessl-tls-client-server")
        .subject(subject)
        .names(names)
        .by_operator_at_endpoint("ra");
    wish.issue(&pki.engine).map(|_| ())
}

#[test]
fn s03_names_stand_only_where_a_rule_states_them_and_a_denial_wins() {
    let pki = Pki::start();
    let yes = true;
    let no = false;
    for (allow, deny, subject, names, stands) in [
        // nothing stated = nothing allowed
        (json!({}), json!({}), "", &["dns:a.example.org"][..], no),
        (json!({}), json!({}), "cn=a", &[], no),
        // DNS: exact, below, any; letter case does not count
        (json!({"dns": ["a.example.org"]}), json!({}), "", &["dns:a.example.org"], yes),
        (json!({"dns": ["a.example.org"]}), json!({}), "", &["dns:A.Example.ORG"], yes),
        (json!({"dns": ["a.example.org"]}), json!({}), "", &["dns:b.a.example.org"], no),
        (json!({"dns": [".example.org"]}), json!({}), "", &["dns:b.a.example.org"], yes),
        (json!({"dns": [".example.org"]}), json!({}), "", &["dns:example.org"], no),
        (json!({"dns": [".example.org"]}), json!({}), "", &["dns:badexample.org"], no),
        (json!({"dns": ["*"]}), json!({}), "", &["dns:anything.example"], yes),
        // every name counts
        (json!({"dns": [".example.org"]}), json!({}), "", &["dns:a.example.org", "dns:a.example.com"], no),
        // wildcards
        (json!({"dns": [".example.org"]}), json!({}), "", &["dns:*.example.org"], no),
        (json!({"dns": [".example.org"], "wildcards": true}), json!({}), "", &["dns:*.example.org"], yes),
        (json!({"dns": ["example.org"], "wildcards": true}), json!({}), "", &["dns:*.example.org"], yes),
        (json!({"dns": [".example.org"], "wildcards": true}), json!({}), "", &["dns:*.example.com"], no),
        // a denial wins, also for what a wildcard would cover and for a common name
        (json!({"dns": ["*"]}), json!({"dns": ["secret.example.org"]}), "", &["dns:secret.example.org"], no),
        (json!({"dns": ["*"]}), json!({"dns": ["secret.example.org"]}), "", &["dns:open.example.org"], yes),
        (json!({"dns": ["*"]}), json!({"dns": [".example.org"]}), "", &["dns:a.example.org"], no),
        (
            json!({"dns": ["*"], "wildcards": true}),
            json!({"dns": ["secret.example.org"]}),
            "",
            &["dns:*.example.org"],
            no,
        ),
        (
            json!({"dns": ["*"], "wildcards": true}),
            json!({"dns": ["secret.example.org"]}),
            "",
            &["dns:*.example.com"],
            yes,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": ["secret.example.org"]}),
            "cn=Secret.Example.org",
            &["dns:open.example.org"],
            no,
        ),
        // addresses
        (json!({"ip": ["10.0.0.0/8"]}), json!({}), "", &["ip:10.1.2.3"], yes),
        (json!({"ip": ["10.0.0.0/8"]}), json!({}), "", &["ip:11.1.2.3"], no),
        (json!({"ip": ["10.0.0.0/8"]}), json!({"ip": ["10.1.0.0/16"]}), "", &["ip:10.1.2.3"], no),
        (json!({"ip": ["2001:db8::/32"]}), json!({}), "", &["ip:2001:db8::1"], yes),
        (json!({"dns": ["*"]}), json!({}), "", &["ip:10.1.2.3"], no),
        // mail, user principal names, URIs
        (json!({"email": ["example.org"]}), json!({}), "", &["email:ann@example.org"], yes),
        (json!({"email": ["example.org"]}), json!({}), "", &["email:ann@sub.example.org"], no),
        (json!({"email": ["example.org"]}), json!({}), "", &["upn:ann@example.org"], no),
        (json!({"upn": [".corp.example"]}), json!({}), "", &["upn:ann@de.corp.example"], yes),
        (json!({"upn": [".corp.example"]}), json!({"upn": ["de.corp.example"]}), "", &["upn:ann@de.corp.example"], no),
        (json!({"uri": ["https://device.example.org/*"]}), json!({}), "", &["uri:https://device.example.org/7"], yes),
        (
            json!({"uri": ["https://device.example.org/*"]}),
            json!({}),
            "",
            &["uri:https://device.example.org.evil/7"],
            no,
        ),
        // an account of Active Directory is allowed by a rule that means accounts
        (json!({"uri": ["*"]}), json!({}), "", &["uri:tag:microsoft.com,2022-09-14:sid:S-1-5-21-1-2-3-500"], no),
        (json!({"uri": ["tag:*"]}), json!({}), "", &["uri:Tag:Microsoft.com,2022-09-14:SID:S-1-5-21-1-2-3-500"], no),
        (
            json!({"uri": ["tag:microsoft.com,2022-09-14:sid:*"]}),
            json!({}),
            "",
            &["uri:tag:microsoft.com,2022-09-14:sid:S-1-5-21-1-2-3-500"],
            yes,
        ),
        // subject attributes; a common name may repeat an alternative name
        (json!({"dns": ["a.example.org"]}), json!({}), "cn=a.example.org", &["dns:a.example.org"], yes),
        (json!({"dns": ["a.example.org"]}), json!({}), "cn=b.example.org", &["dns:a.example.org"], no),
        (json!({"dns": ["a.example.org"]}), json!({}), "cn=a.example.org,o=Evil", &["dns:a.example.org"], no),
        (
            json!({"subject": [{"attribute": "cn", "value": "dev-*"}, {"attribute": "o", "value": "Example"}]}),
            json!({}),
            "cn=dev-7,o=Example",
            &[],
            yes,
        ),
        (
            json!({"subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"subject": [{"attribute": "cn", "value": "admin*"}]}),
            "cn=Admin 1",
            &[],
            no,
        ),
        // a denied name is denied wherever somebody may look for it in the subject, however it is written
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": ["secret.example.org"]}),
            "cn=secret.example.org.",
            &["dns:open.example.org"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "emailAddress", "value": "*"}]}),
            json!({"email": ["secret.example.org"]}),
            "emailAddress=boss@secret.example.org",
            &["dns:open.example.org"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"email": ["secret.example.org"]}),
            "cn=boss@secret.example.org",
            &["dns:open.example.org"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "emailAddress", "value": "*"}]}),
            json!({"email": ["secret.example.org"]}),
            "emailAddress=a://boss@secret.example.org",
            &["dns:open.example.org"],
            no,
        ),
        (
            json!({"uri": ["https://device.example.org/*"]}),
            json!({"uri": ["https://device.example.org/admin*"]}),
            "",
            &["uri:https://device.example.org/%61dmin"],
            no,
        ),
        // ... by whom is lenient: other dots, letters, octets, wildcards, forms of addresses, attributes
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": ["secret.example.org"]}),
            "cn=secret\u{3002}example\u{3002}org",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": ["secret.example.org"]}),
            "cn=\u{ff53}ecret.example.org",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": ["secret.example.org"]}),
            "cn=s*.example.org",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": ["secret.example.org"]}),
            "cn=*.*.example.org",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": ["secret.example.org"]}),
            "cn=*",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": ["secret.example.org"]}),
            "cn=https://secret.example.org/",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": [".secret.example.org"]}),
            "cn=a_b.secret.example.org",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": [".secret.example.org"]}),
            "cn=xn--a.secret.example.org",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": [".secret.example.org"]}),
            "cn=.a.secret.example.org",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": ["xn--bcher-kva.example"]}),
            "cn=b\u{fc}cher.example",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"ip": ["10.0.0.0/8"]}),
            "cn=10.1.2.3",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"ip": ["10.0.0.0/8"]}),
            "cn=::ffff:10.1.2.3",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"ip": ["10.0.0.0/8"]}),
            "cn=10.66051",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"ip": ["10.0.0.0/8"]}),
            "cn=0x0a.1.2.3",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"ip": ["10.0.0.0/8"]}),
            "cn=012.1.2.3",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"ip": ["2001:db8::/32"]}),
            "cn=[2001:db8::1]",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"ip": ["0.0.0.0/0"]}),
            "cn=4711",
            &["dns:open.example.com"],
            yes,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"dns": ["*"]}),
            "cn=room 7",
            &[],
            yes,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"upn": ["corp.example"]}),
            "cn=boss@corp.example",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "UID", "value": "*"}]}),
            json!({"email": ["secret.example.org"]}),
            "UID=boss@secret.example.org",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "0.9.2342.19200300.100.1.3", "value": "*"}]}),
            json!({"email": ["secret.example.org"]}),
            "0.9.2342.19200300.100.1.3=boss@secret.example.org",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "unstructuredName", "value": "*"}]}),
            json!({"dns": ["secret.example.org"]}),
            "unstructuredName=secret.example.org",
            &["dns:open.example.com"],
            no,
        ),
        (
            json!({"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}),
            json!({"subject": [{"attribute": "cn", "value": "domain admin*"}]}),
            "cn=Domain  Admins",
            &["dns:open.example.com"],
            no,
        ),
        // ... and among the other types of alternative names
        (json!({"uri": ["*"]}), json!({"dns": ["secret.example.org"]}), "", &["uri:https://secret.example.org/"], no),
        (json!({"uri": ["*"]}), json!({"dns": ["secret.example.org"]}), "", &["uri:sip:secret.example.org"], no),
        (
            json!({"uri": ["*"]}),
            json!({"dns": ["secret.example.org"]}),
            "",
            &["uri:sip:boss@secret.example.org;x=y"],
            no,
        ),
        (json!({"uri": ["*"]}), json!({"ip": ["10.0.0.0/8"]}), "", &["uri:https://10.1.2.3/"], no),
        (
            json!({"uri": ["*"]}),
            json!({"uri": ["https://secret.example.org/*"]}),
            "",
            &["uri:https://secret.example.org:443/a"],
            no,
        ),
        (
            json!({"uri": ["*"]}),
            json!({"dns": ["secret.example.org"]}),
            "",
            &["uri:https://open.example.org/secret.example.org"],
            yes,
        ),
        (json!({"uri": ["*"]}), json!({"dns": ["secret.example.org"]}), "", &["uri:urn:secret.example.org"], yes),
        (json!({"upn": ["*"]}), json!({"upn": ["corp.example"]}), "", &["upn:boss@corp.example."], no),
        (
            json!({"directory": ["*"]}),
            json!({"dns": ["secret.example.org"]}),
            "",
            &["dn:cn=secret.example.org,o=Example"],
            no,
        ),
        // a directory name ends with whole parts
        (json!({"directory": ["*o=example"]}), json!({}), "", &["dn:cn=Ann\\,o=Example"], no),
        (json!({"directory": ["*o=example"]}), json!({}), "", &["dn:cn=no=Example"], no),
        (json!({"directory": ["*,o=example,c=de"]}), json!({}), "", &["dn:cn=Ann,o=Example,c=DE"], yes),
        // a device's identifier is free text: a common name that repeats it needs a rule of its own
        (json!({"device": ["*"]}), json!({}), "cn=administrator", &["permanent-identifier:administrator"], no),
        // what has no rule of its own type
        (json!({"dns": ["*"]}), json!({}), "", &["rid:1.2.3"], no),
        (json!({"other": ["1.2.3"]}), json!({}), "", &["rid:1.2.3"], yes),
        (json!({"directory": ["*o=example"]}), json!({}), "", &["dn:cn=Ann,o=Example"], yes),
        (json!({"device": ["dev-*"]}), json!({}), "", &["permanent-identifier:dev-1"], yes),
        (json!({"device": ["dev-*"]}), json!({}), "", &["permanent-identifier:1-dev"], no),
    ] {
        pki.put_endpoint(&["privatessl-tls-client-server"], rules(allow.clone(), deny.clone())).unwrap();
        match ask_names(&pki, subject, names) {
            Ok(()) => assert!(stands, "{subject} {names:?} stood against allow {allow} deny {deny}"),
            Err(error) => {
                assert_eq!(reason(&error), Reason::NameNotAllowed, "{subject} {names:?}: {error:?}");
                assert!(!stands, "{subject} {names:?} fell against allow {allow} deny {deny}: {error:?}");
            }
        }
    }
}

#[test]
fn s03_an_account_gets_exactly_the_names_whose_control_it_showed() {
    let pki = Pki::start();
    let ask = |names: &[&str], shown: &[&str]| {
        Wish::with_key(&Key::ec()).names(names).by_account_with("a", shown).issue(&pki.engine).map(|_| ())
    };
    ask(&["dns:a.example.org"], &["dns:a.example.org", "dns:b.example.org"]).unwrap();
    ask(&["dns:*.example.org"], &["dns:*.example.org"]).unwrap();
    for (names, shown) in [
        (&["dns:a.example.org", "dns:b.example.org"][..], &["dns:a.example.org"][..]),
        (&["dns:a.example.org"], &["dns:*.example.org"]),
        (&["dns:*.example.org"], &["dns:example.org"]),
        (&["dns:sub.a.example.org"], &["dns:a.example.org"]),
    ] {
        assert_refused(ask(names, shown), Reason::NameNotAllowed, "control of");
    }
}

#[test]
fn s05_characters_with_a_meaning_elsewhere_stay_data() {
    let pki = Pki::start();
    let subject = "cn=a\\,o\\=Evil\\+ou\\=x/y*,o=Example";
    let issued =
        Wish::with_key(&Key::ec()).profile("privatessl-tls-client").subject(subject).issue(&pki.engine).unwrap();
    let ssl = OpenSsl::new();
    ssl.put("c.der", &issued.der);
    let shown = ssl.run("x509 -inform DER -in c.der -noout -subject -nameopt multiline,show_type");
    assert!(shown.contains("commonName                = UTF8STRING:a,o=Evil+ou=x/y*"), "{shown}");
    assert_eq!(shown.lines().count(), 3, "{shown}");
    for hostile in [
        "dns:a.example.org\0.evil",
        "dns:a b",
        "dns:-a.example.org",
        "dns:a..b",
        "dns:*.*.example.org",
        "dns:10.0.0.1",
        "ip:300.1.1.1",
    ] {
        let refused = Wish::with_key(&Key::ec()).names(&[hostile]).issue(&pki.engine).expect_err(hostile);
        assert_eq!(reason(&refused), Reason::Malformed, "{hostile}");
    }
}

// Access rules

#[test]
fn s02_every_kind_of_evidence_meets_every_rule() {
    let pki = Pki::start();
    let bootstrap = Wish::for_host("host.example.org").issue(&pki.engine).unwrap();
    type By = Box<dyn Fn(Wish) -> Wish>;
    let der = bootstrap.der.clone();
    let challenge = challenge(&pki.engine, None);
    let secret = challenge.secret.clone();
    let verifier: std::sync::Arc<dyn ca_backend::DeviceVerifier> = std::sync::Arc::new(Agreeable);
    let renewed = bootstrap.der.clone();
    let requesters: [(&str, String, By); 6] = [
        ("challenges", "account:a".to_owned(), Box::new(|wish| wish.by_account("a"))),
        ("operator", "operator:ra".to_owned(), Box::new(|wish| wish.by_operator_at_endpoint("ra"))),
        ("certificate", format!("certificate:{}", bootstrap.serial), Box::new(move |wish| wish.by_certificate(&der))),
        ("renewal", format!("certificate:{}", bootstrap.serial), Box::new(move |wish| wish.renewing(&renewed))),
        (
            "secret",
            format!("credential:{}", challenge.id),
            Box::new(move |wish| wish.by_secret(ca_backend::CredentialPurpose::Challenge, &secret)),
        ),
        ("device", "device:agreeable".to_owned(), Box::new(move |wish| wish.by_device(verifier.clone()))),
    ];
    let base = |evidence: &str| json!({"name": "rule", "requesters": [{"evidence": evidence}], "profiles": [TLS], "allow": {"dns": [".example.org"]}});
    let with = |mut rule: Value, key: &str, value: Value| {
        rule[key] = value;
        json!([rule])
    };
    for (evidence, name, by) in &requesters {
        let ask = || by(Wish::for_host("host.example.org")).ask(&pki.engine);
        let put = |rules| pki.put_endpoint(&[TLS, "privatessl-tls-client"], rules).unwrap();

        put(json!([base(evidence)]));
        assert!(matches!(ask(), Ok(Outcome::Issued(_))), "{evidence} is granted");
        put(json!([]));
        assert_refused(ask(), Reason::NotAuthorized, "no access rule");
        let other = if *evidence == "operator" { "challenges" } else { "operator" };
        put(json!([base(other)]));
        assert_refused(ask(), Reason::NotAuthorized, "no access rule");
        put(with(base(evidence), "requesters", json!([{"evidence": evidence, "requester": "somebody else"}])));
        assert_refused(ask(), Reason::NotAuthorized, "no access rule");
        put(with(base(evidence), "requesters", json!([{"evidence": evidence, "requester": name}])));
        ask().unwrap();
        put(with(base(evidence), "profiles", json!(["privatessl-tls-client"])));
        assert_refused(ask(), Reason::NotAuthorized, "no access rule grants profile");
        put(with(base(evidence), "keys", json!(["rsa-3072"])));
        assert_refused(ask(), Reason::BadKey, "kind of key");
        put(with(base(evidence), "keys", json!(["ec-p256"])));
        ask().unwrap();
        put(with(base(evidence), "allow", json!({"dns": [".example.com"]})));
        assert_refused(ask(), Reason::NameNotAllowed, "host.example.org");
        put(with(base(evidence), "deny", json!({"dns": ["host.example.org"]})));
        assert_refused(ask(), Reason::NameNotAllowed, "host.example.org");
        put(with(base(evidence), "validity_max_s", json!(DAY_S)));
        match ask().unwrap() {
            Outcome::Issued(issued) => assert_eq!(issued.not_after, noon().minus_s(300).plus_s(DAY_S - 1)),
            Outcome::Pending { .. } => panic!("no approval was asked for"),
        }
        put(with(base(evidence), "approval", json!(true)));
        if *evidence == "device" {
            assert_refused(ask(), Reason::NotAuthorized, "cannot wait");
        } else {
            assert!(matches!(ask(), Ok(Outcome::Pending { .. })), "{evidence} waits for approval");
        }

        // The endpoint itself.
        put(json!([base(evidence)]));
        let wish = || by(Wish::for_host("host.example.org"));
        if *evidence == "secret" {
            // A secret counts at its own endpoint only.
            assert_refused(wish().at_endpoint("nowhere").ask(&pki.engine), Reason::NotAuthenticated, "no credential");
        } else {
            assert_refused(wish().at_endpoint("nowhere").ask(&pki.engine), Reason::NotReady, "not enabled");
        }
        assert_refused(wish().by_protocol("other").ask(&pki.engine), Reason::NotAuthorized, "does not serve");
        assert_refused(wish().from_authority("root").ask(&pki.engine), Reason::NotAuthorized, "does not serve");
        assert_refused(
            wish().profile("smime-non-repudiation").ask(&pki.engine),
            Reason::UnknownProfile,
            "does not offer",
        );
        let mut closed = tests::pki::endpoint(ENDPOINT, ISSUING, &[TLS], json!([base(evidence)]));
        closed.enabled = false;
        pki.engine.put_endpoint(&closed, OPERATOR).unwrap();
        assert_refused(ask(), Reason::NotReady, "not enabled");
    }
}

struct Agreeable;

impl ca_backend::DeviceVerifier for Agreeable {
    fn verify(&self, _: &ca_backend::DeviceClaim) -> Result<String, ca_backend::Error> {
        Ok("agreeable".to_owned())
    }

    fn issued(&self, _: &ca_backend::DeviceClaim, _: &ca_backend::IssuedCertificate) -> Result<(), ca_backend::Error> {
        Ok(())
    }

    fn refused(&self, _: &ca_backend::DeviceClaim, _: &ca_backend::Refusal) {}
}

#[test]
fn s02_without_an_endpoint_only_an_operator_gets_a_certificate() {
    let pki = Pki::start();
    let mut request = Wish::for_host("host.example.org").by_account("a").request(&pki.engine).unwrap();
    request.origin.endpoint = None;
    assert_refused(pki.engine.enroll(request), Reason::NotAuthorized, "only an operator");
}

#[test]
fn s11_a_certificate_is_evidence_only_byte_for_byte_unrevoked_and_unexpired() {
    let pki = Pki::start();
    let issued = Wish::for_host("host.example.org").issue(&pki.engine).unwrap();
    pki.engine.verify_certificate(&issued.der).unwrap();
    let mut altered = issued.der.clone();
    *altered.last_mut().unwrap() ^= 1;
    assert_refused(pki.engine.verify_certificate(&altered), Reason::NotAuthenticated, "not the certificate");
    pki.change(&issued.serial, ca_backend::StatusChange::Hold).unwrap();
    assert_refused(pki.engine.verify_certificate(&issued.der), Reason::NotAuthenticated, "revoked or on hold");
    pki.change(&issued.serial, ca_backend::StatusChange::Unhold).unwrap();
    pki.bench.clock.set(issued.not_after.plus_s(1));
    assert_refused(pki.engine.verify_certificate(&issued.der), Reason::NotAuthenticated, "not valid now");
    for garbage in [b"".as_slice(), b"x", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30; 70_000]] {
        assert!(pki.engine.verify_certificate(garbage).is_err());
    }
}

#[test]
fn every_refusal_is_in_the_audit_log_with_its_reason_and_requester() {
    let pki = Pki::start();
    let wish = Wish::for_host("host.example.com").by_account("mallory");
    assert_refused(wish.issue(&pki.engine), Reason::NameNotAllowed, "host.example.com");
    let refused = audited(&pki.engine, Action::Refused);
    let record = &refused.last().unwrap().record;
    assert!(record.detail.starts_with("name-not-allowed"), "{}", record.detail);
    assert_eq!(record.evidence.as_ref().unwrap().requester, "account:mallory");
    assert_eq!(record.origin.as_ref().unwrap().endpoint.as_ref().unwrap().as_str(), ENDPOINT);
}

// Repeats and approval

#[test]
fn the_same_request_gets_the_same_certificate_within_the_repeat_window_and_another_one_after_it() {
    let mut pki = Pki::start();
    let wish = Wish::for_host("host.example.org").by_account("a");
    let first = wish.issue(&pki.engine).unwrap();
    assert_eq!(wish.issue(&pki.engine).unwrap().der, first.der);
    pki.restart();
    pki.pass_s(settings().repeat_window_s - 1);
    assert_eq!(wish.issue(&pki.engine).unwrap().der, first.der, "a moment before the window ends");
    assert_ne!(wish.clone().transaction("other").issue(&pki.engine).unwrap().der, first.der, "another transaction");
    pki.pass_s(2 * settings().repeat_window_s);
    assert_ne!(wish.issue(&pki.engine).unwrap().der, first.der, "long after");
}

#[test]
fn a_repeat_by_somebody_else_does_not_get_the_first_ones_certificate() {
    let pki = Pki::start();
    let wish = Wish::for_host("host.example.org").by_account("a").transaction("1");
    let first = wish.issue(&pki.engine).unwrap();
    match wish.clone().by_account("b").issue(&pki.engine) {
        Ok(other) => assert_ne!(other.serial, first.serial, "an account was given another account's certificate"),
        Err(error) => assert!(
            matches!(error, ca_backend::Error::Refused(_) | ca_backend::Error::Fault(Fault::TryLater { .. })),
            "{error:?}"
        ),
    }
}

#[test]
fn at_once_in_many_threads_the_same_request_leads_to_one_certificate() {
    let pki = Pki::start();
    let wish = Wish::for_host("host.example.org").by_account("a");
    let serials: BTreeSet<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| wish.issue(&pki.engine))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()).map(|issued| issued.serial).collect()
    });
    assert_eq!(serials.len(), 1);
    assert_eq!(wish.issue(&pki.engine).unwrap().serial, *serials.first().unwrap());
    let query = InventoryQuery { name: Some("host.example.org".to_owned()), ..InventoryQuery::default() };
    assert_eq!(find_all(&pki.engine, &query).len(), 1);
}

fn approval_rule() -> Value {
    json!([{"name": "four eyes", "requesters": [{"evidence": "challenges"}], "profiles": [TLS], "allow": {"dns": [".example.org"]}, "approval": true}])
}

fn ticket(outcome: Outcome) -> Ticket {
    match outcome {
        Outcome::Pending { ticket, .. } => ticket,
        Outcome::Issued(issued) => panic!("{} was issued without approval", issued.serial),
    }
}

#[test]
fn a_request_that_needs_approval_waits_is_released_and_then_polled() {
    let mut pki = Pki::start();
    pki.put_endpoint(&[TLS], approval_rule()).unwrap();
    let wish = Wish::for_host("host.example.org").by_account("a");
    let waiting = ticket(wish.ask(&pki.engine).unwrap());
    assert_eq!(ticket(wish.ask(&pki.engine).unwrap()), waiting, "the same request waits once");
    assert_eq!(ticket(pki.engine.poll(&waiting).unwrap()), waiting);
    pki.restart();
    let queue = pki.engine.waiting(None, 10).unwrap();
    assert_eq!(queue.len(), 1);
    assert_eq!(
        (queue[0].requester.as_str(), queue[0].alternative_names.as_slice()),
        ("account:a", &["dns:host.example.org".to_owned()][..])
    );

    let Outcome::Issued(issued) = pki.engine.approve(&waiting, "chief").unwrap() else {
        panic!("approved, and still waiting")
    };
    let Outcome::Issued(polled) = pki.engine.poll(&waiting).unwrap() else { panic!("approved, and still waiting") };
    assert_eq!(polled.der, issued.der);
    assert_eq!(wish.issue(&pki.engine).unwrap().der, issued.der, "the requester's repeat gets the certificate");
    assert!(pki.engine.waiting(None, 10).unwrap().is_empty());
    assert_refused(pki.engine.approve(&waiting, "chief"), Reason::Conflict, "decided already");
    let signed = audited(&pki.engine, Action::Signed)
        .into_iter()
        .find(|entry| entry.record.serial == Some(issued.serial))
        .unwrap();
    let facts = signed.record.evidence.unwrap();
    assert_eq!((facts.requester.as_str(), facts.approved_by.as_deref()), ("account:a", Some("chief")));
}

#[test]
fn a_rejected_request_is_refused_to_its_requester_with_the_operators_words() {
    let pki = Pki::start();
    pki.put_endpoint(&[TLS], approval_rule()).unwrap();
    let wish = Wish::for_host("host.example.org").by_account("a");
    let waiting = ticket(wish.ask(&pki.engine).unwrap());
    pki.engine.reject(&waiting, "chief", "not one of ours").unwrap();
    assert_refused(pki.engine.poll(&waiting), Reason::NotAuthorized, "not one of ours");
    assert_refused(wish.ask(&pki.engine), Reason::NotAuthorized, "not one of ours");
    assert_refused(pki.engine.approve(&waiting, "chief"), Reason::Conflict, "decided already");
    assert_eq!(audited(&pki.engine, Action::Rejected).len(), 1);
}

#[test]
fn an_approval_cannot_grant_what_the_rules_meanwhile_forbid() {
    let pki = Pki::start();
    pki.put_endpoint(&[TLS], approval_rule()).unwrap();
    let waiting = ticket(Wish::for_host("host.example.org").by_account("a").ask(&pki.engine).unwrap());
    let mut denied = approval_rule();
    denied[0]["deny"] = json!({"dns": ["host.example.org"]});
    pki.put_endpoint(&[TLS], denied).unwrap();
    assert_refused(pki.engine.approve(&waiting, "chief"), Reason::NameNotAllowed, "host.example.org");
    pki.put_endpoint(&[TLS], approval_rule()).unwrap();
    pki.engine.approve(&waiting, "chief").unwrap();
}

#[test]
fn what_a_certificate_request_carries_beside_its_key_has_no_effect() {
    let pki = Pki::start();
    let ssl = OpenSsl::new();
    ssl.run("ecparam -name prime256v1 -genkey -noout -out k.key");
    ssl.put("c.cnf", "[req]\ndistinguished_name=dn\nreq_extensions=ext\n[dn]\n[ext]\nbasicConstraints=CA:TRUE\nsubjectAltName=DNS:evil.example\nextendedKeyUsage=OCSPSigning\n");
    ssl.run("req -new -config c.cnf -key k.key -subj '/CN=evil.example' -outform DER -out k.csr");
    let wish = Wish::with_csr(CertificateRequest::open(&ssl.take("k.csr")).unwrap()).names(&["dns:good.example.org"]);
    let issued = wish.issue(&pki.engine).unwrap();
    let shown = ssl.show(&issued.der);
    for absent in ["evil.example", "CA:TRUE", "OCSP Signing"] {
        assert!(!shown.contains(absent), "{absent} came through: {shown}");
    }
    assert!(pem("CERTIFICATE", &issued.der).starts_with("-----BEGIN CERTIFICATE-----"));
}

#[test]
fn s28_a_pattern_that_could_match_nothing_is_refused_before_it_denies_nothing() {
    let read = |rules: Value| serde_json::from_value::<ca_backend::NameRules>(rules);
    for pattern in ["*", "example.org", ".example.org", ".Example.Org", "a_b.example", "localhost"] {
        assert!(read(json!({"dns": [pattern]})).is_ok(), "{pattern}");
    }
    for pattern in [
        "",
        ".",
        "*.example.org",
        "example.org.",
        "a..b",
        "b\u{fc}cher.example",
        "a@example.org",
        "host:443",
        "a*",
        " a",
    ] {
        assert!(read(json!({"dns": [pattern]})).is_err(), "{pattern:?}");
    }
    for pattern in ["*", "a*", "*a", "a"] {
        assert!(read(json!({"uri": [pattern]})).is_ok(), "{pattern}");
    }
    for pattern in ["", "**", "*a*", "a*b"] {
        assert!(read(json!({"uri": [pattern]})).is_err(), "{pattern:?}");
    }
}

#[test]
fn a_certificate_for_the_distant_future_is_refused_so_that_no_validity_cap_is_got_around() {
    let pki = Pki::start();
    let later = noon().plus_s(5 * 365 * DAY_S);
    assert_refused(
        Wish::for_host("a.example.org").since(later).issue(&pki.engine),
        Reason::BadTime,
        "must begin between",
    );
    let capped = json!([{
        "name": "a day", "requesters": [{"evidence": "challenges"}], "profiles": [TLS], "allow": {"dns": ["*"]}, "validity_max_s": DAY_S,
    }]);
    pki.put_endpoint(&[TLS], capped).unwrap();
    assert_refused(
        Wish::for_host("a.example.org").by_account("a").since(later).issue(&pki.engine),
        Reason::BadTime,
        "must begin between",
    );
    Wish::for_host("a.example.org").by_account("a").since(noon().plus_s(DAY_S)).issue(&pki.engine).unwrap();
}

#[test]
fn what_was_approved_and_is_being_issued_cannot_be_rejected_and_goes_on_when_polled() {
    let pki = Pki::start();
    pki.put_endpoint(&[TLS], approval_rule()).unwrap();
    let waiting = ticket(Wish::for_host("host.example.org").by_account("a").ask(&pki.engine).unwrap());
    pki.bench.sign_faults.fail_before(1);
    let _fault = fault(pki.engine.approve(&waiting, "chief").unwrap_err());
    assert_refused(pki.engine.reject(&waiting, "chief", "no"), Reason::Conflict, "decided already");
    assert_eq!(audited(&pki.engine, Action::Approved).len(), 1);
    let Outcome::Issued(issued) = pki.engine.poll(&waiting).unwrap() else { panic!("approved, and still waiting") };
    let Outcome::Issued(again) = pki.engine.poll(&waiting).unwrap() else { panic!("approved, and still waiting") };
    assert_eq!(issued.der, again.der);
}

#[test]
fn an_approval_that_was_never_signed_ends_in_words_that_say_so() {
    let pki = Pki::start();
    pki.put_endpoint(&[TLS], approval_rule()).unwrap();
    let waiting = ticket(Wish::for_host("host.example.org").by_account("a").ask(&pki.engine).unwrap());
    pki.bench.sign_faults.fail_before(1);
    let _fault = fault(pki.engine.approve(&waiting, "chief").unwrap_err());
    pki.pass_s(2 * 3_600);
    assert_refused(pki.engine.poll(&waiting), Reason::NotReady, "ask anew");
}

#[test]
fn decided_requests_do_not_hide_those_that_wait() {
    let pki = Pki::start();
    pki.put_endpoint(&[TLS], approval_rule()).unwrap();
    for n in 0..6 {
        ticket(Wish::for_host(&format!("h{n}.example.org")).by_account("a").ask(&pki.engine).unwrap());
    }
    let mut tickets: Vec<Ticket> =
        pki.engine.waiting(None, 10).unwrap().into_iter().map(|waiting| waiting.ticket).collect();
    let last = tickets.pop().unwrap();
    tickets.iter().for_each(|ticket| pki.engine.reject(ticket, "chief", "no").unwrap());
    let found = pki.engine.waiting(None, 2).unwrap();
    assert_eq!(found.iter().map(|waiting| &waiting.ticket).collect::<Vec<_>>(), [&last]);
}

#[test]
fn first_outcomes_are_forgotten_as_fast_as_they_came() {
    let pki = Pki::start();
    let key = Key::ec();
    for n in 0..1_100 {
        let host = format!("dns:h{n}.example.org");
        Wish::with_key(&key).transaction(&host).names(&[&host]).issue(&pki.engine).unwrap();
    }
    let before = pki.engine.export(&mut std::io::sink()).unwrap();
    pki.pass_s(3 * 3_600);
    let after = pki.engine.export(&mut std::io::sink()).unwrap();
    assert!(after + 1_100 <= before, "{before} records became {after}");
}
