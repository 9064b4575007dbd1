//! Credentials at the engine's boundary: who presents a secret, what it is good for, and how often.

use std::sync::{Arc, Mutex};
use std::thread;

use ca_backend::testing::FailureMoment;
use ca_backend::{
    Action, Binding, CertStatus, CredentialChange, CredentialId, CredentialPurpose, CredentialQuery, DeviceClaim,
    DeviceVerifier, EndpointName, EngineSettings, Error, Evidence, Fault, IssuedCertificate, MacAlgorithm,
    NewCredential, Origin, Outcome, ProtocolName, Reason, RecordBatch, Refusal, RevocationReason, RevocationRequest,
    Right, SecretScope, StatusChange,
};
use serde_json::{Value, json};
use tests::key::Key;
use tests::pki::{
    DAY_S, ENDPOINT, ISSUING, OPERATOR, Pki, assert_refused, audit_log, audited, challenge, endpoint, fault, find_all,
    hand_out, new_credential, noon, settings,
};
use tests::wish::Wish;

const TLS: &str = "privatessl-tls-server";
const CLIENT: &str = "privatessl-tls-client";
const CHALLENGE: CredentialPurpose = CredentialPurpose::Challenge;
/// What a requester hears whose secret does not count.
const UNIFORM: &str = "the credential is not valid here";

/// A PKI whose endpoint takes secrets, accounts, renewals and devices.
fn pki() -> Pki {
    let pki = Pki::start();
    pki.put_endpoint(&[TLS, CLIENT], rules(false)).unwrap();
    pki
}

fn rules(approval: bool) -> Value {
    json!([{
        "name": "all",
        "requesters": [{"evidence": "secret"}, {"evidence": "challenges"}, {"evidence": "renewal"}, {"evidence": "device"}],
        "profiles": [TLS, CLIENT],
        "allow": {"dns": [".example.org"], "wildcards": true, "ip": ["10.0.0.0/8"], "subject": [{"attribute": "cn", "value": "*"}]},
        "approval": approval,
    }])
}

fn bound(binding: Value) -> NewCredential {
    let binding: Binding = serde_json::from_value(binding).unwrap();
    NewCredential { binding, ..new_credential(CHALLENGE) }
}

fn by(secret: &str, host: &str) -> Wish {
    Wish::for_host(host).by_secret(CHALLENGE, secret)
}

fn scope(purpose: CredentialPurpose) -> SecretScope {
    SecretScope::new(EndpointName::new(ENDPOINT).unwrap(), purpose)
}

fn origin(peer: &str) -> Origin {
    Origin {
        protocol: ProtocolName::new("test").unwrap(),
        endpoint: Some(EndpointName::new(ENDPOINT).unwrap()),
        transaction: "t".to_owned(),
        request_digest: [0; 32],
        peer: Some(peer.parse().unwrap()),
        request_id: "test".to_owned(),
    }
}

/// Asserts the one answer for every secret that does not count, whose true reason is in the audit log only.
#[track_caller]
fn assert_not_valid<T: std::fmt::Debug>(pki: &Pki, result: Result<T, Error>, why: &str) {
    match &result {
        Err(Error::Refused(refusal)) => {
            assert_eq!(refusal.reason(), Reason::NotAuthenticated, "{refusal:?}");
            assert_eq!(refusal.public(), UNIFORM);
        }
        other => panic!("the secret counts: {other:?}"),
    }
    let last = audited(&pki.engine, Action::Refused).pop().unwrap();
    assert!(last.record.detail.contains(why), "{why:?} is missing in {:?}", last.record.detail);
}

#[test]
fn a_challenge_gets_a_certificate_for_its_credential() {
    let pki = pki();
    let handed = challenge(&pki.engine, None);
    assert_eq!(handed.secret.len(), 32, "128 bits");
    let issued = by(&handed.secret, "a.example.org").issue(&pki.engine).unwrap();
    let stored = pki.engine.find_certificate(&issued.serial).unwrap().unwrap();
    assert_eq!(stored.requester, format!("credential:{}", handed.id));
    by(&handed.secret, "b.example.org").issue(&pki.engine).unwrap();
}

#[test]
fn s08_wrong_expired_spent_disabled_and_removed_secrets_are_told_apart_only_in_the_audit_log() {
    let pki = pki();
    let ask = |secret: &str| by(secret, "a.example.org").issue(&pki.engine);
    assert_not_valid(&pki, ask("00000000000000000000000000000000"), "no credential has this secret");
    assert_not_valid(&pki, ask(""), "1 to 256 octets");
    assert_not_valid(&pki, ask(&"x".repeat(257)), "1 to 256 octets");

    let once = challenge(&pki.engine, Some(1));
    ask(&once.secret).unwrap();
    assert_not_valid(&pki, ask(&once.secret), "spent");

    let disabled = challenge(&pki.engine, None);
    let change = CredentialChange { disabled: Some(true), ..CredentialChange::default() };
    pki.engine.change_credential(&disabled.id, &change, OPERATOR).unwrap();
    assert_not_valid(&pki, ask(&disabled.secret), "disabled");
    let change = CredentialChange { disabled: Some(false), ..CredentialChange::default() };
    pki.engine.change_credential(&disabled.id, &change, OPERATOR).unwrap();
    ask(&disabled.secret).unwrap();
    pki.engine.remove_credential(&disabled.id, OPERATOR).unwrap();
    assert_not_valid(&pki, ask(&disabled.secret), "no credential has this secret");

    let wish = NewCredential { expires: Some(noon().plus_s(60)), ..new_credential(CHALLENGE) };
    let expiring = hand_out(&pki.engine, &wish).unwrap();
    pki.bench.clock.advance_s(60);
    ask(&expiring.secret).unwrap();
    pki.bench.clock.advance_s(1);
    assert_not_valid(&pki, ask(&expiring.secret), "expired");
}

#[test]
fn a_secret_counts_for_its_own_endpoint_purpose_and_name_only() {
    let pki = pki();
    pki.engine.put_endpoint(&endpoint("other", ISSUING, &[TLS], json!([])), OPERATOR).unwrap();
    let handed = challenge(&pki.engine, None);
    assert_not_valid(
        &pki,
        by(&handed.secret, "a.example.org").at_endpoint("other").issue(&pki.engine),
        "no credential",
    );
    let token = Wish::for_host("a.example.org").by_secret(CredentialPurpose::Token, &handed.secret);
    assert_not_valid(&pki, token.issue(&pki.engine), "no credential");

    let verify = |scope: &SecretScope| pki.engine.verify_secret(scope, handed.secret.as_bytes(), &origin("192.0.2.1"));
    verify(&scope(CHALLENGE).named(handed.id.as_str())).unwrap();
    assert_not_valid(&pki, verify(&scope(CHALLENGE).named("somebody")), "another name");

    // A verified secret is of no use at another endpoint either.
    let mut request = by(&handed.secret, "a.example.org").request(&pki.engine).unwrap();
    request.origin.endpoint = Some(EndpointName::new("other").unwrap());
    assert_not_valid(&pki, pki.engine.enroll(request), "is for endpoint web");
}

#[test]
fn s08_a_one_time_challenge_serves_its_own_transaction_again_and_no_other() {
    let mut pki = pki();
    let once = challenge(&pki.engine, Some(1));
    let wish = by(&once.secret, "a.example.org").transaction("first");
    let first = wish.issue(&pki.engine).unwrap();
    assert_eq!(wish.issue(&pki.engine).unwrap().der, first.der, "a retry is answered, not refused");
    pki.restart();
    assert_eq!(wish.issue(&pki.engine).unwrap().der, first.der);
    assert_not_valid(&pki, wish.clone().transaction("second").issue(&pki.engine), "spent");
    let shown = pki.engine.credential(&once.id).unwrap().unwrap();
    assert_eq!((shown.uses, shown.uses_max), (1, Some(1)));

    // After the repeat window it is a new request.
    pki.pass_s(2 * settings().repeat_window_s);
    assert_not_valid(&pki, wish.issue(&pki.engine), "spent");
}

#[test]
fn a_retry_is_answered_though_the_challenge_has_expired_meanwhile() {
    let pki = pki();
    let wish = NewCredential { expires: Some(noon().plus_s(60)), uses_max: Some(1), ..new_credential(CHALLENGE) };
    let once = hand_out(&pki.engine, &wish).unwrap();
    let wish = by(&once.secret, "a.example.org");
    let first = wish.issue(&pki.engine).unwrap();
    pki.pass_s(120);
    assert_eq!(wish.issue(&pki.engine).unwrap().der, first.der);
}

#[test]
fn s08_racing_transactions_with_one_one_time_challenge_get_exactly_one_certificate() {
    for round in 0..8 {
        let pki = pki();
        let once = challenge(&pki.engine, Some(1));
        let wishes: Vec<Wish> = (0..8)
            .map(|n| by(&once.secret, &format!("host{n}.example.org")).transaction(&format!("{round}-{n}")))
            .collect();
        // Verified before any of them is spent, as if all arrived at the same moment.
        let requests: Vec<_> = wishes.iter().map(|wish| wish.request(&pki.engine).unwrap()).collect();
        let outcomes: Vec<Result<Outcome, Error>> = thread::scope(|scope| {
            let running: Vec<_> =
                requests.into_iter().map(|request| scope.spawn(|| pki.engine.enroll(request))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let issued = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Outcome::Issued(_)))).count();
        assert_eq!(issued, 1, "{outcomes:?}");
        for outcome in outcomes {
            if let Err(error) = outcome {
                assert!(
                    matches!(&error, Error::Refused(refusal) if refusal.public() == UNIFORM),
                    "the losers hear that it is spent: {error:?}"
                );
            }
        }
        assert_eq!(pki.engine.credential(&once.id).unwrap().unwrap().uses, 1);
    }
}

#[test]
fn a_counted_challenge_used_by_many_at_once_is_good_for_exactly_so_many() {
    let pki = pki();
    let five = challenge(&pki.engine, Some(5));
    let requests: Vec<_> =
        (0..12).map(|n| by(&five.secret, &format!("host{n}.example.org")).request(&pki.engine).unwrap()).collect();
    let issued: usize = thread::scope(|scope| {
        let running: Vec<_> = requests
            .into_iter()
            .map(|request| scope.spawn(|| usize::from(pki.engine.enroll(request).is_ok())))
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(issued, 5);
}

#[test]
fn a_request_that_waits_for_approval_keeps_its_one_time_challenge_reserved() {
    let pki = pki();
    pki.put_endpoint(&[TLS, CLIENT], rules(true)).unwrap();
    let wish = NewCredential { expires: Some(noon().plus_s(60)), uses_max: Some(1), ..new_credential(CHALLENGE) };
    let once = hand_out(&pki.engine, &wish).unwrap();
    let wish = by(&once.secret, "a.example.org");
    let Outcome::Pending { ticket, .. } = wish.ask(&pki.engine).unwrap() else { panic!("it waits") };
    let shown = pki.engine.credential(&once.id).unwrap().unwrap();
    assert_eq!((shown.uses, shown.waiting), (1, 1));
    assert_not_valid(&pki, by(&once.secret, "b.example.org").ask(&pki.engine), "spent");

    // It expires and would have gone long ago.
    for _ in 0..5 {
        pki.pass_s(DAY_S);
    }
    assert!(matches!(pki.engine.approve(&ticket, OPERATOR).unwrap(), Outcome::Issued(_)));
    assert_eq!(pki.engine.credential(&once.id).unwrap().unwrap().waiting, 0);
    for _ in 0..3 {
        pki.pass_s(DAY_S);
    }
    assert!(pki.engine.credential(&once.id).unwrap().is_none(), "it has gone");
}

#[test]
fn a_rejected_request_has_used_its_challenge_up_and_a_disabled_one_cannot_be_approved() {
    let pki = pki();
    pki.put_endpoint(&[TLS, CLIENT], rules(true)).unwrap();
    let pending = |secret: &str| match by(secret, "a.example.org").ask(&pki.engine).unwrap() {
        Outcome::Pending { ticket, .. } => ticket,
        Outcome::Issued(_) => panic!("it waits"),
    };
    let once = challenge(&pki.engine, Some(1));
    pki.engine.reject(&pending(&once.secret), OPERATOR, "unknown device").unwrap();
    let shown = pki.engine.credential(&once.id).unwrap().unwrap();
    assert_eq!((shown.uses, shown.waiting), (1, 0));
    assert_not_valid(&pki, by(&once.secret, "b.example.org").ask(&pki.engine), "spent");

    let other = challenge(&pki.engine, None);
    let ticket = pending(&other.secret);
    let change = CredentialChange { disabled: Some(true), ..CredentialChange::default() };
    pki.engine.change_credential(&other.id, &change, OPERATOR).unwrap();
    assert_not_valid(&pki, pki.engine.approve(&ticket, OPERATOR), "removed or disabled");
}

#[test]
fn s02_a_binding_narrows_what_the_rules_allow_and_never_widens_it() {
    let pki = pki();
    let ask = |binding: Value, wish: &dyn Fn(Wish) -> Wish| {
        let handed = hand_out(&pki.engine, &bound(binding)).unwrap();
        wish(Wish::with_key(&Key::ec()).names(&["dns:a.example.org"]).by_secret(CHALLENGE, &handed.secret))
            .issue(&pki.engine)
    };
    let same = |wish: Wish| wish;
    // Names.
    ask(json!({"names": {"dns": ["a.example.org"]}}), &same).unwrap();
    assert_refused(ask(json!({"names": {"dns": ["b.example.org"]}}), &same), Reason::NameNotAllowed, "a.example.org");
    assert_refused(ask(json!({"names": {}}), &same), Reason::NameNotAllowed, "a.example.org");
    ask(json!({"names": {"dns": [".example.org"], "wildcards": true}}), &|w| w.names(&["dns:*.example.org"])).unwrap();
    let no_wildcards = ask(json!({"names": {"dns": [".example.org"]}}), &|w| w.names(&["dns:*.example.org"]));
    assert_refused(no_wildcards, Reason::NameNotAllowed, "*.example.org");
    ask(json!({"names": {"ip": ["10.1.0.0/16"]}}), &|w| w.names(&["ip:10.1.2.3"])).unwrap();
    assert_refused(
        ask(json!({"names": {"ip": ["10.1.0.0/16"]}}), &|w| w.names(&["ip:10.2.2.3"])),
        Reason::NameNotAllowed,
        "10.2.2.3",
    );
    // A binding does not widen the endpoint's rules, and deny wins.
    assert_refused(
        ask(json!({"names": {"dns": ["a.example.com"]}}), &|w| w.names(&["dns:a.example.com"])),
        Reason::NameNotAllowed,
        "a.example.com",
    );
    // The exact names.
    let exact = json!({"alternative_names": ["dns:a.example.org", "dns:b.example.org"]});
    ask(exact.clone(), &|w| w.names(&["dns:b.example.org", "dns:a.example.org"])).unwrap();
    assert_refused(ask(exact.clone(), &same), Reason::NameNotAllowed, "stands for other");
    let more = ask(exact, &|w| w.names(&["dns:b.example.org", "dns:a.example.org", "dns:c.example.org"]));
    assert_refused(more, Reason::NameNotAllowed, "stands for other");
    // The exact subject.
    ask(json!({"subject": "cn=printer 7"}), &|w| w.subject("cn=printer 7")).unwrap();
    assert_refused(
        ask(json!({"subject": "cn=printer 7"}), &|w| w.subject("cn=printer 8")),
        Reason::NameNotAllowed,
        "stands for other",
    );
    assert_refused(ask(json!({"subject": "cn=printer 7"}), &same), Reason::NameNotAllowed, "stands for other");
    // Profiles and keys.
    ask(json!({"profiles": [TLS]}), &same).unwrap();
    assert_refused(ask(json!({"profiles": [CLIENT]}), &same), Reason::NotAuthorized, "profile");
    ask(json!({"keys": ["ec-p256"]}), &same).unwrap();
    assert_refused(ask(json!({"keys": ["rsa-3072"]}), &same), Reason::BadKey, "kind of key");

    let mut denying = rules(false);
    denying[0]["deny"] = json!({"dns": ["a.example.org"]});
    pki.put_endpoint(&[TLS, CLIENT], denying).unwrap();
    assert_refused(ask(json!({"names": {"dns": ["a.example.org"]}}), &same), Reason::NameNotAllowed, "a.example.org");
}

#[test]
fn a_secret_of_an_operators_choice_is_found_too_and_can_be_replaced() {
    let pki = pki();
    let chosen = |text: &str| NewCredential {
        id: Some(CredentialId::new("printers").unwrap()),
        secret: Some(ca_backend::SecretText::new(text.to_owned())),
        ..new_credential(CHALLENGE)
    };
    let made = hand_out(&pki.engine, &chosen("correct horse")).unwrap();
    assert_eq!(made.secret, "correct horse");
    by("correct horse", "a.example.org").issue(&pki.engine).unwrap();
    by("correct horse", "b.example.org").issue(&pki.engine).unwrap();
    assert_not_valid(&pki, by("correct zebra", "a.example.org").issue(&pki.engine), "no credential");
    assert_refused(hand_out(&pki.engine, &chosen("another one")), Reason::Conflict, "already");
    assert_refused(hand_out(&pki.engine, &chosen("short")), Reason::Malformed, "8 to 256");
    pki.engine.remove_credential(&made.id, OPERATOR).unwrap();
    assert_not_valid(&pki, by("correct horse", "a.example.org").issue(&pki.engine), "no credential");
}

#[test]
fn s47_no_secret_is_in_the_store_or_the_audit_log() {
    let pki = pki();
    let generated = challenge(&pki.engine, None).secret;
    let token = hand_out(&pki.engine, &new_credential(CredentialPurpose::Token)).unwrap().secret;
    let key = hand_out(&pki.engine, &new_credential(CredentialPurpose::ExternalAccount)).unwrap().secret;
    let chosen = NewCredential {
        secret: Some(ca_backend::SecretText::new("canary in the coal mine".to_owned())),
        ..new_credential(CHALLENGE)
    };
    assert!(!format!("{chosen:?}").contains("canary"));
    hand_out(&pki.engine, &chosen).unwrap();
    by(&generated, "a.example.org").issue(&pki.engine).unwrap();
    by("canary in the coal mine", "a.example.org").issue(&pki.engine).unwrap();
    by("canary in the goal mine", "a.example.org").issue(&pki.engine).unwrap_err();
    let mut export = Vec::new();
    pki.engine.export(&mut export).unwrap();
    let raw_key = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &key).unwrap();
    assert_eq!(raw_key.len(), 32);
    let contains = |needle: &[u8]| export.windows(needle.len()).any(|window| window == needle);
    assert!(contains(b"credential"), "the search works");
    for secret in [generated.as_bytes(), token.as_bytes(), key.as_bytes(), &raw_key, b"canary in the"] {
        assert!(!contains(secret));
    }
    assert!(!contains(&hex::decode(&generated).unwrap()));
    assert!(!contains(&hex::decode(&token).unwrap()));
}

#[test]
fn s08_who_guesses_too_often_at_an_endpoint_has_to_wait_there_but_for_secrets_that_nobody_can_guess() {
    let pki = Pki::with(EngineSettings { wrong_secrets_per_peer_per_min_max: 3, ..settings() });
    pki.put_endpoint(&[TLS, CLIENT], rules(false)).unwrap();
    pki.engine.put_endpoint(&endpoint("other", ISSUING, &[TLS], json!([])), OPERATOR).unwrap();
    let chosen = |text: &str| NewCredential {
        secret: Some(ca_backend::SecretText::new(text.to_owned())),
        ..new_credential(CHALLENGE)
    };
    let chosen_there =
        NewCredential { endpoint: EndpointName::new("other").unwrap(), ..chosen("the word of the other one") };
    hand_out(&pki.engine, &chosen("correct horse")).unwrap();
    hand_out(&pki.engine, &chosen_there).unwrap();
    let made = challenge(&pki.engine, None).secret;
    let token = hand_out(&pki.engine, &new_credential(CredentialPurpose::Token)).unwrap().secret;
    let account = hand_out(&pki.engine, &new_credential(CredentialPurpose::ExternalAccount)).unwrap();
    let at = |endpoint: &str, purpose, secret: &str, peer: &str| {
        let scope = SecretScope::new(EndpointName::new(endpoint).unwrap(), purpose);
        let origin = Origin { endpoint: Some(scope.endpoint.clone()), ..origin(peer) };
        pki.engine.verify_secret(&scope, secret.as_bytes(), &origin)
    };
    let verify = |secret: &str, peer: &str| at(ENDPOINT, CHALLENGE, secret, peer);

    // Known from then on, which makes it no harder to guess.
    verify("correct horse", "192.0.2.1").unwrap();
    for _ in 0..3 {
        assert_not_valid(&pki, verify("wrong", "192.0.2.1"), "no credential");
        assert_not_valid(&pki, verify("wrong", "2001:db8::1"), "no credential");
    }
    for peer in ["192.0.2.1", "2001:db8::2"] {
        for guess in ["wrong", "correct horse", ""] {
            assert_refused(verify(guess, peer), Reason::RateLimited, "too many");
        }
        // Other devices behind the same address have what was made here.
        verify(&made, peer).unwrap();
        at(ENDPOINT, CredentialPurpose::Token, &token, peer).unwrap();
        let scope = scope(CredentialPurpose::ExternalAccount).named(account.id.as_str());
        let verify_mac =
            |mac: &[u8]| pki.engine.verify_mac(&scope, MacAlgorithm::HmacSha256, b"message", mac, &origin(peer));
        verify_mac(&mac(&account.secret, aws_lc_rs::hmac::HMAC_SHA256, b"message")).unwrap();
        assert_refused(verify_mac(b"wrong"), Reason::RateLimited, "too many");
        // Who failed here has not failed there.
        at("other", CHALLENGE, "the word of the other one", peer).unwrap();
    }
    // A judge outside is not asked for the guesser, but a secret that was made here needs no judge.
    let claim = DeviceClaim {
        endpoint: EndpointName::new(ENDPOINT).unwrap(),
        transaction: "t".to_owned(),
        csr: Vec::new(),
        peer: None,
        renews: None,
    };
    let judge: Arc<dyn DeviceVerifier> = Arc::new(System::default());
    let limited = pki.engine.verify_device(&judge, claim.clone(), &origin("192.0.2.1"));
    assert_refused(limited, Reason::RateLimited, "too many");
    pki.engine.verify_device(&judge, claim, &origin("192.0.2.2")).unwrap();
    let if_known =
        |secret: &str| pki.engine.verify_secret_if_known(&scope(CHALLENGE), secret.as_bytes(), &origin("192.0.2.1"));
    assert!(if_known(&made).unwrap().is_some());
    assert_refused(if_known("correct horse"), Reason::RateLimited, "too many");

    // A secret that does not count any more is no better than a wrong one, and the audit log has it.
    let once = challenge(&pki.engine, Some(1));
    by(&once.secret, "a.example.org").issue(&pki.engine).unwrap();
    assert_refused(verify(&once.secret, "192.0.2.1"), Reason::RateLimited, "too many");
    let last = audited(&pki.engine, Action::Refused).pop().unwrap();
    assert!(last.record.detail.contains("spent"), "{:?}", last.record.detail);

    verify("correct horse", "192.0.2.2").unwrap();
    verify("correct horse", "2001:db8:0:1::1").unwrap();
    pki.bench.clock.advance_s(60);
    verify("correct horse", "192.0.2.1").unwrap();
}

#[test]
fn a_flood_of_refusals_leaves_a_few_entries_and_their_number() {
    let pki = Pki::with(EngineSettings {
        wrong_secrets_per_peer_per_min_max: 0,
        audited_refusals_per_endpoint_per_min_max: 8,
        ..settings()
    });
    let before = audited(&pki.engine, Action::Refused).len();
    for n in 0..100_u32 {
        let peer = format!("192.0.2.{n}");
        pki.engine.verify_secret(&scope(CHALLENGE), b"wrong", &origin(&peer)).unwrap_err();
    }
    assert_eq!(audited(&pki.engine, Action::Refused).len() - before, 8);
    pki.pass_s(60);
    let last = audited(&pki.engine, Action::Refused).pop().unwrap();
    assert!(last.record.detail.contains("test web: 92 not-authenticated"), "{:?}", last.record.detail);
    // One peer alone does not take it all.
    for _ in 0..100 {
        pki.engine.verify_secret(&scope(CHALLENGE), b"wrong", &origin("192.0.2.1")).unwrap_err();
    }
    assert_eq!(audited(&pki.engine, Action::Refused).len() - before, 8 + 1 + 2);
}

#[test]
fn credentials_are_listed_by_endpoint_and_purpose_a_page_at_a_time() {
    let pki = pki();
    pki.engine.put_endpoint(&endpoint("other", ISSUING, &[TLS], json!([])), OPERATOR).unwrap();
    let mut all = Vec::new();
    for purpose in CredentialPurpose::ALL {
        for name in ["web", "other"] {
            for _ in 0..3 {
                let wish = NewCredential { endpoint: EndpointName::new(name).unwrap(), ..new_credential(purpose) };
                all.push((name, purpose, hand_out(&pki.engine, &wish).unwrap().id));
            }
        }
    }
    let list = |query: CredentialQuery| {
        let mut query = CredentialQuery { limit: 2, ..query };
        let mut found = Vec::new();
        loop {
            let page = pki.engine.credentials(&query).unwrap();
            assert!(page.items.len() <= 2);
            found.extend(page.items.into_iter().map(|credential| credential.id));
            match page.cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => break,
            }
        }
        found.sort();
        found
    };
    for endpoint in [None, Some("web"), Some("other")] {
        for purpose in [None, Some(CredentialPurpose::Token), Some(CHALLENGE)] {
            let mut expected: Vec<_> = all
                .iter()
                .filter(|(name, kind, _)| endpoint.is_none_or(|e| e == *name) && purpose.is_none_or(|p| p == *kind))
                .map(|(_, _, id)| id.clone())
                .collect();
            expected.sort();
            let query = CredentialQuery {
                endpoint: endpoint.map(|name| EndpointName::new(name).unwrap()),
                purpose,
                ..CredentialQuery::default()
            };
            assert_eq!(list(query), expected, "{endpoint:?} {purpose:?}");
        }
    }
}

#[test]
fn the_credentials_of_a_removed_endpoint_do_not_serve_a_later_one_of_its_name() {
    let pki = pki();
    let name = EndpointName::new(ENDPOINT).unwrap();
    let (handed, kept) = (challenge(&pki.engine, None), new_credential(CHALLENGE));
    pki.engine.put_endpoint(&endpoint("other", ISSUING, &[TLS], json!([])), OPERATOR).unwrap();
    let other =
        hand_out(&pki.engine, &NewCredential { endpoint: EndpointName::new("other").unwrap(), ..kept }).unwrap();
    pki.engine.delete_endpoint(&name, OPERATOR).unwrap();
    assert!(pki.engine.credential(&handed.id).unwrap().is_none());
    assert!(pki.engine.credential(&other.id).unwrap().is_some());
    pki.put_endpoint(&[TLS, CLIENT], rules(false)).unwrap();
    assert_not_valid(&pki, by(&handed.secret, "a.example.org").issue(&pki.engine), "no credential");

    // The daemon stops between the removal of the endpoint and that of its credentials.
    for restarted_endpoint in [false, true] {
        let mut pki = self::pki();
        let handed = challenge(&pki.engine, None);
        pki.bench.store_faults.fail_at(pki.bench.store_faults.commits() + 2, FailureMoment::BeforeWrite);
        pki.engine.delete_endpoint(&name, OPERATOR).unwrap();
        pki.restart();
        assert!(pki.engine.credential(&handed.id).unwrap().is_some());
        if restarted_endpoint {
            pki.put_endpoint(&[TLS, CLIENT], rules(false)).unwrap();
        } else {
            pki.engine.maintain();
        }
        assert!(pki.engine.credential(&handed.id).unwrap().is_none());
    }
}

#[test]
fn a_mac_key_alone_gets_no_certificate_and_a_challenge_stands_behind_no_account() {
    let pki = pki();
    let external = hand_out(&pki.engine, &new_credential(CredentialPurpose::ExternalAccount)).unwrap();
    let mut request = Wish::for_host("a.example.org").by_account("x").request(&pki.engine).unwrap();
    let good = mac(&external.secret, aws_lc_rs::hmac::HMAC_SHA256, b"m");
    let scope = scope(CredentialPurpose::ExternalAccount).named(external.id.as_str());
    let peer = origin("192.0.2.1");
    let verified = pki.engine.verify_mac(&scope, MacAlgorithm::HmacSha256, b"m", &good, &peer).unwrap();
    request.evidence = Evidence::Secret(verified);
    assert_not_valid(&pki, pki.engine.enroll(request), "another purpose");
    let handed = challenge(&pki.engine, None);
    let wish = Wish::for_host("a.example.org").by_bound_account("x", &handed.id, &["dns:a.example.org"]);
    assert_not_valid(&pki, wish.issue(&pki.engine), "another purpose");
}

#[test]
fn expired_and_spent_credentials_leave_the_store_and_others_stay() {
    let pki = pki();
    let expiring = |after_s: u64| {
        let wish = NewCredential { expires: Some(noon().plus_s(after_s)), ..new_credential(CHALLENGE) };
        hand_out(&pki.engine, &wish).unwrap()
    };
    let (short, long) = (expiring(60), expiring(60));
    let change = CredentialChange { expires: Some(Some(noon().plus_s(10 * DAY_S))), ..CredentialChange::default() };
    pki.engine.change_credential(&long.id, &change, OPERATOR).unwrap();
    let spent = challenge(&pki.engine, Some(1));
    by(&spent.secret, "a.example.org").issue(&pki.engine).unwrap();
    let forever = challenge(&pki.engine, None);
    let there = |id: &CredentialId| pki.engine.credential(id).unwrap().is_some();
    pki.pass_s(3_600);
    assert!([&short, &long, &spent, &forever].iter().all(|handed| there(&handed.id)), "operators can still see them");
    pki.pass_s(2 * DAY_S);
    assert!(!there(&short.id) && !there(&spent.id) && there(&long.id) && there(&forever.id));
    by(&long.secret, "a.example.org").issue(&pki.engine).unwrap();
    pki.pass_s(11 * DAY_S);
    assert!(!there(&long.id) && there(&forever.id));
    by(&forever.secret, "a.example.org").issue(&pki.engine).unwrap();
}

#[test]
fn what_would_be_ignored_in_a_wish_for_a_credential_is_refused() {
    let pki = pki();
    let refused = |wish: NewCredential, words: &str| {
        assert_refused(hand_out(&pki.engine, &wish), Reason::Malformed, words);
    };
    let external = || new_credential(CredentialPurpose::ExternalAccount);
    refused(bound(json!({"rights": ["issue"]})), "only a token");
    refused(
        NewCredential { binding: Binding::default(), ..new_credential(CredentialPurpose::Token) },
        "without a right",
    );
    refused(bound(json!({"accounts_max": 3})), "external account");
    refused(bound(json!({"without_challenge": {}})), "external account");
    refused(NewCredential { uses_max: Some(1), ..external() }, "counts accounts");
    refused(NewCredential { uses_max: Some(0), ..new_credential(CHALLENGE) }, "single use");
    let secret = Some(ca_backend::SecretText::new("long enough".to_owned()));
    refused(NewCredential { secret, ..external() }, "only a challenge");
    let nowhere = NewCredential { endpoint: EndpointName::new("nowhere").unwrap(), ..external() };
    assert_refused(hand_out(&pki.engine, &nowhere), Reason::NotReady, "no endpoint");
    for name in ["", "-a", "a b", "a/b", "ä", &"a".repeat(65)] {
        CredentialId::new(name).unwrap_err();
    }
}

// Tokens

#[test]
fn a_token_does_what_its_rights_say_within_its_endpoint_and_names() {
    let pki = pki();
    let token = |rights: Value, names: Value| {
        let binding = serde_json::from_value(json!({"rights": rights, "names": names})).unwrap();
        let wish = NewCredential { binding, ..new_credential(CredentialPurpose::Token) };
        hand_out(&pki.engine, &wish).unwrap().secret
    };
    let verify = |secret: &str| {
        pki.engine.verify_secret(&scope(CredentialPurpose::Token), secret.as_bytes(), &origin("192.0.2.1")).unwrap()
    };
    let all = json!({"dns": [".example.org"]});
    let issue = token(json!(["issue"]), all.clone());
    let wish = |secret: &str| Wish::for_host("a.example.org").by_secret(CredentialPurpose::Token, secret);
    let issued = wish(&issue).issue(&pki.engine).unwrap();
    let list = token(json!(["list"]), all.clone());
    assert_refused(wish(&list).issue(&pki.engine), Reason::NotAuthorized, "right \"issue\"");
    verify(&list).require(Right::List).unwrap();
    assert_eq!(verify(&list).require(Right::CreateChallenges).unwrap_err().reason(), Reason::NotAuthorized);

    let change = |secret: &str, change| {
        pki.engine.revoke(&RevocationRequest {
            serial: issued.serial,
            change,
            comment: String::new(),
            evidence: Evidence::Secret(verify(secret)),
            origin: origin("192.0.2.1"),
        })
    };
    let revoke = StatusChange::Revoke { reason: RevocationReason::Superseded, invalidity: None };
    assert_refused(change(&issue, revoke), Reason::NotAuthorized, "right \"revoke\"");
    assert_refused(
        change(&token(json!(["revoke"]), all.clone()), StatusChange::Hold),
        Reason::NotAuthorized,
        "\"hold\"",
    );
    let elsewhere = token(json!(["hold", "revoke"]), json!({"dns": [".b.example.org"]}));
    assert_refused(change(&elsewhere, revoke), Reason::NameNotAllowed, "a.example.org");
    let holder = token(json!(["hold"]), all.clone());
    change(&holder, StatusChange::Hold).unwrap();
    change(&holder, StatusChange::Unhold).unwrap();
    change(&token(json!(["revoke"]), all), revoke).unwrap();
}

#[test]
fn a_challenge_cannot_revoke_what_was_issued_with_it() {
    let pki = pki();
    let handed = challenge(&pki.engine, None);
    let issued = by(&handed.secret, "a.example.org").issue(&pki.engine).unwrap();
    let secret = pki.engine.verify_secret(&scope(CHALLENGE), handed.secret.as_bytes(), &origin("192.0.2.1")).unwrap();
    let refused = pki.engine.revoke(&RevocationRequest {
        serial: issued.serial,
        change: StatusChange::Hold,
        comment: String::new(),
        evidence: Evidence::Secret(secret),
        origin: origin("192.0.2.1"),
    });
    assert_refused(refused, Reason::NotAuthorized, "right \"hold\"");
    assert_eq!(pki.engine.status(ISSUING, &issued.serial).unwrap(), CertStatus::Good);
}

// External account binding

fn mac(key: &str, algorithm: aws_lc_rs::hmac::Algorithm, message: &[u8]) -> Vec<u8> {
    let key = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, key).unwrap();
    aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(algorithm, &key), message).as_ref().to_vec()
}

#[test]
fn a_mac_is_verified_with_the_key_of_the_named_credential() {
    let mut pki = pki();
    let handed = hand_out(&pki.engine, &new_credential(CredentialPurpose::ExternalAccount)).unwrap();
    pki.restart();
    let external = |id: &str| scope(CredentialPurpose::ExternalAccount).named(id);
    let algorithms = [
        (MacAlgorithm::HmacSha256, aws_lc_rs::hmac::HMAC_SHA256),
        (MacAlgorithm::HmacSha384, aws_lc_rs::hmac::HMAC_SHA384),
        (MacAlgorithm::HmacSha512, aws_lc_rs::hmac::HMAC_SHA512),
    ];
    let peer = origin("192.0.2.1");
    for (named, algorithm) in algorithms {
        let good = mac(&handed.secret, algorithm, b"message");
        let verify =
            |id: &str, message: &[u8], mac: &[u8]| pki.engine.verify_mac(&external(id), named, message, mac, &peer);
        assert_eq!(verify(handed.id.as_str(), b"message", &good).unwrap().id(), &handed.id);
        assert_not_valid(&pki, verify(handed.id.as_str(), b"massage", &good), "not made with the key");
        assert_not_valid(&pki, verify(handed.id.as_str(), b"message", &[]), "not made with the key");
        assert_not_valid(&pki, verify("unknown", b"message", &good), "no credential unknown");
        assert_not_valid(&pki, verify("../", b"message", &good), "can have this name");
    }
    let token = hand_out(&pki.engine, &new_credential(CredentialPurpose::Token)).unwrap();
    let good = mac(&handed.secret, aws_lc_rs::hmac::HMAC_SHA256, b"message");
    let verify =
        pki.engine.verify_mac(&external(token.id.as_str()), MacAlgorithm::HmacSha256, b"message", &good, &peer);
    assert_not_valid(&pki, verify, "no MAC key");
}

#[test]
fn s19_a_binding_makes_so_many_accounts_and_no_more() {
    let pki = pki();
    let binding = Binding { accounts_max: Some(2), ..Binding::default() };
    let wish = NewCredential { binding, ..new_credential(CredentialPurpose::ExternalAccount) };
    let handed = hand_out(&pki.engine, &wish).unwrap();
    let peer = origin("192.0.2.1");
    let verify = || {
        let good = mac(&handed.secret, aws_lc_rs::hmac::HMAC_SHA256, b"m");
        let scope = scope(CredentialPurpose::ExternalAccount).named(handed.id.as_str());
        pki.engine.verify_mac(&scope, MacAlgorithm::HmacSha256, b"m", &good, &peer)
    };
    let open = |secret: &ca_backend::VerifiedSecret, account: &str| {
        let batch = pki.engine.open_account(RecordBatch::new(), secret, account, &peer)?;
        pki.engine.commit(batch).map_err(Error::from)
    };
    let (first, second) = (verify().unwrap(), verify().unwrap());
    open(&first, "a").unwrap();
    assert!(matches!(fault(open(&second, "b").unwrap_err()), Fault::TryLater { .. }), "somebody was faster");
    open(&verify().unwrap(), "b").unwrap();
    assert_not_valid(&pki, open(&verify().unwrap(), "c"), "all its accounts");
    assert_eq!(pki.engine.credential(&handed.id).unwrap().unwrap().accounts, 2);

    // No new accounts: what exists goes on.
    let open_ended = hand_out(&pki.engine, &new_credential(CredentialPurpose::ExternalAccount)).unwrap();
    let change = CredentialChange { accounts_disabled: Some(true), ..CredentialChange::default() };
    pki.engine.change_credential(&open_ended.id, &change, OPERATOR).unwrap();
    let scope = scope(CredentialPurpose::ExternalAccount).named(open_ended.id.as_str());
    let good = mac(&open_ended.secret, aws_lc_rs::hmac::HMAC_SHA256, b"m");
    let secret = pki.engine.verify_mac(&scope, MacAlgorithm::HmacSha256, b"m", &good, &peer).unwrap();
    assert_not_valid(&pki, open(&secret, "d"), "no new accounts");
    let wish = Wish::for_host("a.example.org").by_bound_account("x", &open_ended.id, &["dns:a.example.org"]);
    wish.issue(&pki.engine).unwrap();
}

#[test]
fn the_binding_of_an_account_applies_as_it_is_now() {
    let pki = pki();
    let binding: Binding = serde_json::from_value(json!({
        "names": {"dns": [".a.example.org", ".b.example.org"]}, "without_challenge": {"dns": [".b.example.org"]},
    }))
    .unwrap();
    let handed =
        hand_out(&pki.engine, &NewCredential { binding, ..new_credential(CredentialPurpose::ExternalAccount) })
            .unwrap();
    let ask = |name: &str, shown: &[&str]| {
        let wish = Wish::with_key(&Key::ec()).names(&[&format!("dns:{name}")]);
        wish.by_bound_account("x", &handed.id, shown).issue(&pki.engine)
    };
    ask("h.a.example.org", &["dns:h.a.example.org"]).unwrap();
    assert_refused(ask("h.a.example.org", &[]), Reason::NameNotAllowed, "was not shown");
    ask("h.b.example.org", &[]).unwrap();
    assert_refused(ask("h.c.example.org", &["dns:h.c.example.org"]), Reason::NameNotAllowed, "h.c.example.org");
    assert_refused(ask("*.b.example.org", &[]), Reason::NameNotAllowed, "was not shown");

    // It expires: no new accounts, but this one goes on. Then it is disabled.
    let change = CredentialChange { expires: Some(Some(noon())), ..CredentialChange::default() };
    pki.engine.change_credential(&handed.id, &change, OPERATOR).unwrap();
    pki.bench.clock.advance_s(10);
    ask("h.b.example.org", &[]).unwrap();
    let change = CredentialChange { disabled: Some(true), ..CredentialChange::default() };
    pki.engine.change_credential(&handed.id, &change, OPERATOR).unwrap();
    assert_refused(ask("h.b.example.org", &[]), Reason::NotAuthorized, "may not be used");
    pki.engine.remove_credential(&handed.id, OPERATOR).unwrap();
    assert_refused(ask("h.b.example.org", &[]), Reason::NotAuthorized, "may not be used");
}

// Renewal

#[test]
fn s11_a_renewal_keeps_subject_authority_and_service_and_adds_no_name() {
    let pki = pki();
    let handed = challenge(&pki.engine, None);
    let first = Wish::with_key(&Key::ec())
        .subject("cn=a.example.org")
        .names(&["dns:a.example.org", "dns:b.example.org"])
        .by_secret(CHALLENGE, &handed.secret)
        .issue(&pki.engine)
        .unwrap();
    let renew = |subject: &str, names: &[&str]| {
        Wish::with_key(&Key::ec()).subject(subject).names(names).renewing(&first.der).issue(&pki.engine)
    };
    let second = renew("cn=a.example.org", &["dns:a.example.org", "dns:b.example.org"]).unwrap();
    let stored = pki.engine.find_certificate(&second.serial).unwrap().unwrap();
    assert_eq!(stored.requester, format!("certificate:{}", first.serial));
    renew("cn=a.example.org", &["dns:a.example.org"]).unwrap();
    let wider = renew("cn=a.example.org", &["dns:a.example.org", "dns:c.example.org"]);
    assert_refused(wider, Reason::NameNotAllowed, "not in the certificate");
    assert_refused(renew("cn=b.example.org", &["dns:b.example.org"]), Reason::NameNotAllowed, "keeps the subject");
    assert_refused(renew("", &["dns:a.example.org"]), Reason::NameNotAllowed, "keeps the subject");

    // As mere evidence of who asks, the same certificate is not covered by a rule for renewals.
    let other = Wish::with_key(&Key::ec()).names(&["dns:c.example.org"]).by_certificate(&first.der);
    assert_refused(other.issue(&pki.engine), Reason::NotAuthorized, "no access rule");

    let verified = pki.engine.verify_renewal(&first.der, 0).unwrap();
    assert_eq!(verified.names().alternative.len(), 2);
    assert_eq!(verified.profile().as_str(), TLS);
    assert_eq!(verified.not_after(), first.not_after);
}

#[test]
fn s11_a_renewal_may_come_late_by_policy_only() {
    let pki = pki();
    let handed = challenge(&pki.engine, None);
    let first = by(&handed.secret, "a.example.org").until(noon().plus_s(DAY_S)).issue(&pki.engine).unwrap();
    pki.bench.clock.advance_s(DAY_S + 60);
    assert_refused(pki.engine.verify_renewal(&first.der, 0), Reason::NotAuthenticated, "not valid now");
    assert_refused(pki.engine.verify_renewal(&first.der, 59), Reason::NotAuthenticated, "not valid now");
    pki.engine.verify_renewal(&first.der, 60).unwrap();
    assert_refused(pki.engine.verify_certificate(&first.der), Reason::NotAuthenticated, "not valid now");
    pki.revoke(&first.serial, RevocationReason::Superseded).unwrap();
    assert_refused(pki.engine.verify_renewal(&first.der, 60), Reason::NotAuthenticated, "revoked");
}

// Devices

/// A management system that does what the test tells it.
#[derive(Default)]
struct System {
    refuses: Mutex<bool>,
    unreachable: Mutex<bool>,
    told: Mutex<Vec<Vec<u8>>>,
    refusals: Mutex<Vec<Reason>>,
}

impl DeviceVerifier for System {
    fn verify(&self, claim: &DeviceClaim) -> Result<String, Error> {
        assert_eq!(claim.endpoint.as_str(), ENDPOINT);
        if *self.refuses.lock().unwrap() {
            return Err(Refusal::new(Reason::NotAuthenticated, "the device is not known").into());
        }
        Ok("laptop-7".to_owned())
    }

    fn issued(&self, _: &DeviceClaim, certificate: &IssuedCertificate) -> Result<(), Error> {
        if *self.unreachable.lock().unwrap() {
            return Err(Fault::TryLater { after_s: 30 }.into());
        }
        self.told.lock().unwrap().push(certificate.der.clone());
        Ok(())
    }

    fn refused(&self, _: &DeviceClaim, refusal: &Refusal) {
        self.refusals.lock().unwrap().push(refusal.reason());
    }
}

#[test]
fn s08_a_device_gets_its_certificate_after_its_system_was_told_of_it() {
    let pki = pki();
    let system = Arc::new(System::default());
    let wish = Wish::for_host("a.example.org").by_device(system.clone());
    let issued = wish.issue(&pki.engine).unwrap();
    assert_eq!(*system.told.lock().unwrap(), std::slice::from_ref(&issued.der));
    let stored = pki.engine.find_certificate(&issued.serial).unwrap().unwrap();
    assert_eq!(stored.requester, "device:laptop-7");
    assert_eq!(wish.issue(&pki.engine).unwrap().der, issued.der);
    assert_eq!(system.told.lock().unwrap().len(), 1, "a repeat is not told again");

    *system.refuses.lock().unwrap() = true;
    let unknown = Wish::for_host("b.example.org").by_device(system.clone()).issue(&pki.engine);
    assert_refused(unknown, Reason::NotAuthenticated, "not known");
    assert!(audited(&pki.engine, Action::Refused).pop().unwrap().record.detail.contains("not known"));
    *system.refuses.lock().unwrap() = false;
    let forbidden = Wish::for_host("b.example.com").by_device(system.clone()).issue(&pki.engine);
    assert_refused(forbidden, Reason::NameNotAllowed, "b.example.com");
    assert_eq!(*system.refusals.lock().unwrap(), [Reason::NameNotAllowed]);
}

#[test]
fn s08_a_certificate_whose_system_cannot_be_told_is_revoked_and_not_released() {
    let pki = pki();
    let system = Arc::new(System::default());
    *system.unreachable.lock().unwrap() = true;
    let wish = Wish::for_host("a.example.org").by_device(system.clone());
    assert!(matches!(fault(wish.issue(&pki.engine).unwrap_err()), Fault::TryLater { after_s: 30 }));
    let query = ca_backend::InventoryQuery::default();
    let first = find_all(&pki.engine, &query).into_iter().find(|found| found.requester == "device:laptop-7").unwrap();
    assert!(matches!(pki.engine.status(ISSUING, &first.serial).unwrap(), CertStatus::Revoked { .. }));

    *system.unreachable.lock().unwrap() = false;
    let second = wish.issue(&pki.engine).unwrap();
    assert_ne!(second.serial, first.serial, "the next attempt begins anew");
    assert_eq!(pki.engine.status(ISSUING, &second.serial).unwrap(), CertStatus::Good);
}

#[test]
fn a_device_that_never_came_back_after_a_power_cut_has_no_good_certificate() {
    let mut pki = pki();
    let system = Arc::new(System::default());
    let wish = Wish::for_host("a.example.org").by_device(system.clone());
    // Two commits of the request, then the one that would record that the system was told.
    pki.bench.store_faults.fail_at(pki.bench.store_faults.commits() + 3, FailureMoment::BeforeWrite);
    wish.issue(&pki.engine).unwrap_err();
    pki.restart();
    let query = ca_backend::InventoryQuery::default();
    let found = find_all(&pki.engine, &query).into_iter().find(|found| found.requester == "device:laptop-7").unwrap();
    pki.pass_s(settings().repeat_window_s - 1);
    assert_eq!(pki.engine.status(ISSUING, &found.serial).unwrap(), CertStatus::Good, "a repeat may still come");
    pki.pass_s(1);
    assert!(matches!(pki.engine.status(ISSUING, &found.serial).unwrap(), CertStatus::Revoked { .. }));
    assert_eq!(pki.engine.verify_audit().unwrap().damage, None);
}

#[test]
fn every_change_of_a_credential_is_audited() {
    let pki = pki();
    let before = audit_log(&pki.engine).len();
    let handed = challenge(&pki.engine, Some(1));
    let change = CredentialChange { comment: Some("for the printer".to_owned()), ..CredentialChange::default() };
    let changed = pki.engine.change_credential(&handed.id, &change, OPERATOR).unwrap();
    assert_eq!(changed.comment, "for the printer");
    pki.engine.remove_credential(&handed.id, OPERATOR).unwrap();
    let log: Vec<_> = audit_log(&pki.engine).split_off(before);
    assert_eq!(log.len(), 3);
    for (entry, word) in log.iter().zip(["made by test", "changed by test", "removed by test"]) {
        assert_eq!(entry.record.action, Action::CredentialChanged);
        assert!(entry.record.detail.contains(word) && entry.record.detail.contains(handed.id.as_str()));
    }
}
