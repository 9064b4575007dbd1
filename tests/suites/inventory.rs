//! Search, counts, events and the audit log.

use std::collections::{BTreeMap, BTreeSet};

use ca_backend::testing::SeededRng;
use ca_backend::{
    Action, CertificateEventKind, CertificateState, InventoryQuery, IssuedCertificate, ProfileName, ProtocolName, Reason, RevocationReason,
    Rng, Serial, StatusChange,
};
use tests::key::Key;
use tests::pki::{DAY_S, ISSUING, Pki, ROOT, assert_refused, audit_log, audited, authority, find_all, noon};
use tests::wish::Wish;

fn query() -> InventoryQuery {
    InventoryQuery::default()
}

fn serials_of(pki: &Pki, query: &InventoryQuery) -> Vec<Serial> {
    find_all(&pki.engine, query).into_iter().map(|found| found.serial).collect()
}

/// A certificate with this subject and these names.
fn issue(pki: &Pki, key: &Key, subject: &str, names: &[&str]) -> IssuedCertificate {
    let wish = Wish::with_key(key).profile("privatessl-tls-client-server").subject(subject).names(names);
    wish.transaction(&format!("{subject}{names:?}")).issue(&pki.engine).unwrap()
}

#[test]
fn a_certificate_is_found_by_its_serial_in_any_case_and_padding_and_by_nothing_shorter() {
    let pki = Pki::start();
    let issued = Wish::for_host("a.example.org").issue(&pki.engine).unwrap();
    let digits = issued.serial.to_string();
    let colons = digits.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned()).collect::<Vec<_>>().join(":");
    for text in [digits.clone(), digits.to_uppercase(), format!("0x{digits}"), format!("0000{digits}"), colons] {
        assert_eq!(serials_of(&pki, &InventoryQuery { serial: Some(text.clone()), ..query() }), [issued.serial], "{text}");
    }
    let beginning = digits[..4].to_owned();
    assert_eq!(serials_of(&pki, &InventoryQuery { serial: Some(beginning), ..query() }), [], "a serial is matched as a whole");
    assert_refused(pki.engine.search(&InventoryQuery { serial: Some("no hex".to_owned()), ..query() }), Reason::Malformed, "hexadecimal");
}

#[test]
fn names_and_subjects_are_found_whole_and_by_their_end_in_any_letter_case() {
    let pki = Pki::start();
    let key = Key::ec();
    let a = issue(&pki, &key, "cn=Alpha,o=Example", &["dns:a.example.org", "ip:10.0.0.1", "email:ann@Example.org"]).serial;
    let b = issue(&pki, &key, "cn=Beta,o=Example", &["dns:b.example.org"]).serial;
    let c = issue(&pki, &key, "", &["dns:a.example.org.test"]).serial;
    for (text, expected) in [
        ("a.example.org", vec![a]),
        ("A.Example.Org", vec![a]),
        ("*.example.org", vec![a, b]),
        ("*example.org.test", vec![c]),
        ("10.0.0.1", vec![a]),
        ("ann@example.org", vec![a]),
        ("alpha", vec![a]),
        ("*", vec![a, b, c]),
        ("example.org", vec![]),
        ("a.example", vec![]),
    ] {
        let found: BTreeSet<_> = serials_of(&pki, &InventoryQuery { name: Some(text.to_owned()), authority: Some(authority(ISSUING)), ..query() })
            .into_iter()
            .filter(|serial| [a, b, c].contains(serial))
            .collect();
        assert_eq!(found, expected.into_iter().collect(), "{text}");
    }
    for (text, expected) in [("CN=Alpha,O=Example", vec![a]), ("*o=example", vec![a, b]), ("cn=alpha", vec![])] {
        let found = serials_of(&pki, &InventoryQuery { subject: Some(text.to_owned()), profile: Some(ProfileName::new("privatessl-tls-client-server").unwrap()), ..query() });
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected.into_iter().collect(), "{text}");
    }
}

#[test]
fn every_stated_condition_holds_whichever_leads() {
    let pki = Pki::start();
    let key = Key::ec();
    let a = issue(&pki, &key, "cn=Alpha,o=Example", &["dns:a.example.org"]);
    let b = issue(&pki, &key, "cn=Beta,o=Example", &["dns:b.example.org"]);
    let both = |serial: &IssuedCertificate, name: &str, subject: &str| {
        serials_of(&pki, &InventoryQuery {
            serial: Some(serial.serial.to_string()),
            name: Some(name.to_owned()),
            subject: Some(subject.to_owned()),
            ..query()
        })
    };
    assert_eq!(both(&a, "a.example.org", "cn=Alpha,o=Example"), [a.serial]);
    assert_eq!(both(&a, "b.example.org", "cn=Alpha,o=Example"), []);
    assert_eq!(both(&a, "a.example.org", "cn=Beta,o=Example"), []);
    assert_eq!(both(&b, "*.example.org", "*o=Example"), [b.serial]);
}

#[test]
fn times_requesters_profiles_protocols_authorities_and_states_refine() {
    let pki = Pki::start();
    let old = Wish::for_host("old.example.org").by_account("ann").issue(&pki.engine).unwrap();
    pki.bench.clock.advance_s(DAY_S);
    let new = Wish::for_host("new.example.org").by_account("ben").issue(&pki.engine).unwrap();
    let day = noon().plus_s(DAY_S);
    pki.revoke(&old.serial, RevocationReason::Superseded).unwrap();
    let tls = Some(ProfileName::new("privatessl-tls-server").unwrap());
    for (name, query, expected) in [
        ("issued from", InventoryQuery { issued_from: Some(day), profile: tls.clone(), ..query() }, vec![new.serial]),
        ("issued until", InventoryQuery { issued_until: Some(day), profile: tls.clone(), ..query() }, vec![old.serial]),
        ("expires from", InventoryQuery { expires_from: Some(new.not_after), profile: tls.clone(), ..query() }, vec![new.serial]),
        ("expires until", InventoryQuery { expires_until: Some(new.not_after), profile: tls.clone(), ..query() }, vec![old.serial]),
        ("requester", InventoryQuery { requester: Some("account:ann".to_owned()), ..query() }, vec![old.serial]),
        ("half a requester", InventoryQuery { requester: Some("account:an".to_owned()), ..query() }, vec![]),
        ("protocol", InventoryQuery { protocol: Some(ProtocolName::new("test").unwrap()), ..query() }, vec![old.serial, new.serial]),
        ("other protocol", InventoryQuery { protocol: Some(ProtocolName::new("other").unwrap()), ..query() }, vec![]),
        ("other authority", InventoryQuery { authority: Some(authority(ROOT)), profile: tls.clone(), ..query() }, vec![]),
        ("revoked", InventoryQuery { status: Some(CertificateState::Revoked), ..query() }, vec![old.serial]),
        ("held", InventoryQuery { status: Some(CertificateState::Held), ..query() }, vec![]),
        ("normal", InventoryQuery { status: Some(CertificateState::Normal), profile: tls.clone(), ..query() }, vec![new.serial]),
        ("newest first", InventoryQuery { descending: true, profile: tls, ..query() }, vec![new.serial, old.serial]),
    ] {
        assert_eq!(serials_of(&pki, &query), expected, "{name}");
    }
}

#[test]
fn pages_stay_stable_while_certificates_are_issued() {
    for descending in [false, true] {
        let pki = Pki::start();
        let key = Key::ec();
        let host = |n: u32| format!("dns:h{n}.example.org");
        let before: BTreeSet<_> = (0..25).map(|n| issue(&pki, &key, "", &[&host(n)]).serial).collect();
        let mut query = InventoryQuery { name: Some("*.example.org".to_owned()), limit: 4, descending, ..query() };
        let mut seen = Vec::new();
        let mut n = 100;
        loop {
            let page = pki.engine.search(&query).unwrap();
            assert!(page.items.len() <= 4);
            seen.extend(page.items.into_iter().map(|found| found.serial));
            issue(&pki, &key, "", &[&host(n)]);
            n += 1;
            match page.cursor {
                Some(cursor) if n < 200 => query.cursor = Some(cursor),
                _ => break,
            }
        }
        let distinct: BTreeSet<_> = seen.iter().copied().collect();
        assert_eq!(distinct.len(), seen.len(), "a certificate came twice");
        assert!(distinct.is_superset(&before), "a certificate was skipped");
    }
    let pki = Pki::start();
    assert_refused(pki.engine.search(&InventoryQuery { cursor: Some("zz".to_owned()), ..query() }), Reason::Malformed, "cursor");
}

#[test]
fn s31_counts_indexes_crls_and_events_agree_with_a_recount_after_random_operations() {
    for seed in 1..=4 {
        let mut pki = Pki::start();
        let random = SeededRng::new(seed);
        let pick = |below: usize| {
            let mut octets = [0; 8];
            random.fill(&mut octets);
            usize::try_from(u64::from_be_bytes(octets) % below as u64).unwrap()
        };
        let key = Key::ec();
        let profiles = ["privatessl-tls-server", "privatessl-tls-client", "privatessl-tls-client-server"];
        let mut model: BTreeMap<Serial, (&str, CertificateState)> = BTreeMap::new();
        let mut happened = Vec::new();
        for step in 0..150 {
            let known: Vec<_> = model.keys().copied().collect();
            if known.is_empty() || pick(3) == 0 {
                let profile = profiles[pick(profiles.len())];
                let host = format!("dns:s{step}.example.org");
                let wish = Wish::with_key(&key).profile(profile).names(&[&host]).transaction(&host);
                let serial = wish.issue(&pki.engine).unwrap().serial;
                model.insert(serial, (profile, CertificateState::Normal));
                happened.push((serial, CertificateEventKind::Issued));
                continue;
            }
            let serial = known[pick(known.len())];
            let state = &mut model.get_mut(&serial).unwrap().1;
            let (change, kind, next, allowed) = match pick(3) {
                0 => (StatusChange::Hold, CertificateEventKind::Held, CertificateState::Held, *state == CertificateState::Normal),
                1 => (StatusChange::Unhold, CertificateEventKind::Unheld, CertificateState::Normal, *state == CertificateState::Held),
                _ => (
                    StatusChange::Revoke { reason: RevocationReason::Superseded, invalidity: None },
                    CertificateEventKind::Revoked,
                    CertificateState::Revoked,
                    *state != CertificateState::Revoked,
                ),
            };
            assert_eq!(pki.change(&serial, change).is_ok(), allowed, "{change:?} of a certificate that is {state:?}");
            if allowed {
                *state = next;
                happened.push((serial, kind));
            }
            if pick(20) == 0 {
                pki.restart();
            }
        }

        let mut expected: BTreeMap<(String, &str), u64> = BTreeMap::new();
        for (profile, state) in model.values() {
            *expected.entry(((*profile).to_owned(), name(*state))).or_default() += 1;
        }
        let counted: BTreeMap<_, _> = (pki.engine.counts().unwrap().into_iter())
            .filter(|count| count.profile.as_str().starts_with("privatessl"))
            .map(|count| ((count.profile.to_string(), name(count.state)), count.certificates))
            .collect();
        assert_eq!(counted, expected, "seed {seed}");

        let listed: BTreeMap<_, _> = find_all(&pki.engine, &InventoryQuery { name: Some("*.example.org".to_owned()), ..query() })
            .into_iter()
            .map(|found| (found.serial, found.state))
            .collect();
        assert_eq!(listed, model.iter().map(|(serial, (_, state))| (*serial, *state)).collect(), "seed {seed}");

        let mut events = Vec::new();
        loop {
            let page = pki.engine.events(u64::try_from(events.len()).unwrap(), 37).unwrap();
            if page.is_empty() {
                break;
            }
            events.extend(page);
        }
        let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
        assert_eq!(numbers, (1..=u64::try_from(events.len()).unwrap()).collect::<Vec<_>>(), "the feed has gaps");
        let ours: Vec<_> = events.iter().filter(|event| model.contains_key(&event.serial)).map(|event| (event.serial, event.kind)).collect();
        assert_eq!(ours, happened, "seed {seed}");

        let shown = tests::openssl::OpenSsl::new().show_crl(&pki.engine.publish_crl(ISSUING).unwrap().der);
        for (serial, (_, state)) in &model {
            let listed = shown.contains(&format!("Serial Number: {}", hex::encode_upper(serial.as_bytes())));
            assert_eq!(listed, *state != CertificateState::Normal, "{serial} is {state:?}");
        }
        assert_eq!(pki.engine.verify_audit().unwrap().damage, None);
    }
}

fn name(state: CertificateState) -> &'static str {
    match state {
        CertificateState::Normal => "normal",
        CertificateState::Held => "held",
        CertificateState::Revoked => "revoked",
    }
}

#[test]
fn s44_a_removed_altered_or_moved_audit_entry_is_found() {
    let pki = Pki::start();
    for host in ["a.example.org", "b.example.org", "c.example.org"] {
        Wish::for_host(host).issue(&pki.engine).unwrap();
    }
    let whole = pki.engine.verify_audit().unwrap();
    let last = whole.entries;
    assert_eq!((whole.damage, last), (None, u64::try_from(audit_log(&pki.engine).len()).unwrap()));
    let stored = |number| pki.bench.stored_audit_entry(number).unwrap().unwrap();
    let damage = || pki.engine.verify_audit().unwrap().damage;
    for number in [1, 2, last / 2, last - 1, last] {
        let original = stored(number);
        pki.bench.tamper_with_audit(number, None).unwrap();
        assert!(damage().is_some(), "entry {number} of {last} was removed");

        let mut altered = original.clone();
        let text = altered.windows(8).position(|window| window == b"issuing.".as_slice() || window.starts_with(b"test"));
        let at = text.unwrap_or(altered.len() - 1);
        altered[at] ^= 1;
        pki.bench.tamper_with_audit(number, Some(altered)).unwrap();
        assert!(damage().is_some(), "entry {number} of {last} was altered");

        let neighbour = if number == last { number - 1 } else { number + 1 };
        let other = stored(neighbour);
        pki.bench.tamper_with_audit(number, Some(other.clone())).unwrap();
        pki.bench.tamper_with_audit(neighbour, Some(original.clone())).unwrap();
        assert!(damage().is_some(), "entries {number} and {neighbour} of {last} were swapped");

        pki.bench.tamper_with_audit(number, Some(original)).unwrap();
        pki.bench.tamper_with_audit(neighbour, Some(other)).unwrap();
        assert_eq!(damage(), None);
    }
    // Everything after some entry: the head is kept elsewhere.
    for number in last / 2..=last {
        pki.bench.tamper_with_audit(number, None).unwrap();
    }
    assert!(damage().is_some(), "the second half was removed");
}

#[test]
fn the_audit_log_tells_the_whole_story_of_a_certificate() {
    let pki = Pki::start();
    let issued = Wish::for_host("host.example.org").by_account("ann").issue(&pki.engine).unwrap();
    pki.change(&issued.serial, StatusChange::Hold).unwrap();
    pki.change(&issued.serial, StatusChange::Unhold).unwrap();
    pki.revoke(&issued.serial, RevocationReason::KeyCompromise).unwrap();
    let story: Vec<_> = audit_log(&pki.engine).into_iter().filter(|entry| entry.record.serial == Some(issued.serial)).collect();
    let actions: Vec<_> = story.iter().map(|entry| entry.record.action).collect();
    assert_eq!(actions, [Action::WillSign, Action::Signed, Action::Held, Action::Unheld, Action::Revoked]);
    assert_eq!(story[1].record.evidence.as_ref().unwrap().requester, "account:ann");
    assert!(story[4].record.detail.contains("keyCompromise") && story[4].record.detail.contains("a test"), "{}", story[4].record.detail);
    assert_eq!(audited(&pki.engine, Action::CrlPublished).len(), 2, "one for each authority");
}
