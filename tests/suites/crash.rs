//! The power goes at every commit, and the key store at every signature, of the main flow. What was acknowledged stays true, and
//! the same requests, sent again, complete the rest.

use std::cell::RefCell;
use std::collections::BTreeSet;

use ca_backend::testing::{Bench, FailureMoment};
use ca_backend::{
    Action, AuthorityState, CertStatus, CredentialId, CredentialPurpose, Engine, Error, InventoryQuery,
    IssuedCertificate, NewAuthority, NewCredential, Reason, RevocationReason, Serial, StatusChange,
};
use tests::openssl::OpenSsl;
use tests::pki::{
    ISSUING, OPERATOR, Pki, ROOT, assert_refused, audit_log, audited, authority, change_status, endpoint, find_all,
    hand_out, new_authority, new_credential, settings,
};
use tests::token::SoftToken;
use tests::wish::Wish;

/// What a client was told, and so relies on.
#[derive(Default)]
struct Acknowledged {
    certificates: Vec<IssuedCertificate>,
    revoked: Vec<Serial>,
    crl_number: u64,
    crl_lists: BTreeSet<Serial>,
}

/// The clients: the requests that they send, again and again until they are answered.
struct Clients {
    kept: Wish,
    revoked: Wish,
    challenged: RefCell<Option<(CredentialId, Wish)>>,
}

impl Clients {
    fn new() -> Self {
        Self {
            kept: Wish::for_host("kept.example.org").by_account("a"),
            revoked: Wish::for_host("revoked.example.org"),
            challenged: RefCell::default(),
        }
    }

    /// Everything that is to be reached, from wherever it was interrupted.
    fn run(&self, engine: &Engine, told: &mut Acknowledged) -> Result<(), Error> {
        for wanted in [new_authority(ROOT, None), new_authority(ISSUING, Some(ROOT))] {
            create(engine, &wanted)?;
        }
        let rules = serde_json::json!([{
            "name": "all", "requesters": [{"evidence": "challenges"}, {"evidence": "secret"}], "profiles": ["privatessl-tls-server"], "allow": {"dns": [".example.org"]},
        }]);
        engine.put_endpoint(&endpoint("web", ISSUING, &["privatessl-tls-server"], rules), OPERATOR)?;
        told.certificates.push(self.kept.issue(engine)?);
        told.certificates.push(self.challenged(engine)?.issue(engine)?);
        let issued = self.revoked.issue(engine)?;
        let serial = issued.serial;
        told.certificates.push(issued);
        if !matches!(engine.status(ISSUING, &serial)?, CertStatus::Revoked { .. }) {
            let change = StatusChange::Revoke { reason: RevocationReason::Superseded, invalidity: None };
            change_status(engine, &serial, change)?;
        }
        told.revoked.push(serial);
        told.crl_number = engine.publish_crl(ISSUING)?.number;
        told.crl_lists.insert(serial);
        Ok(())
    }
}

impl Clients {
    /// The wish that rests on a one-time challenge. Who was not told the secret asks for another one.
    fn challenged(&self, engine: &Engine) -> Result<Wish, Error> {
        if let Some((_, wish)) = self.challenged.borrow().as_ref() {
            return Ok(wish.clone());
        }
        let wish = NewCredential { uses_max: Some(1), ..new_credential(CredentialPurpose::Challenge) };
        let handed = hand_out(engine, &wish)?;
        let wish = Wish::for_host("challenged.example.org").by_secret(CredentialPurpose::Challenge, &handed.secret);
        *self.challenged.borrow_mut() = Some((handed.id, wish.clone()));
        Ok(wish)
    }
}

fn create(engine: &Engine, wanted: &NewAuthority) -> Result<(), Error> {
    let there = engine.authorities()?.into_iter().find(|found| found.name == wanted.name);
    let state = match there {
        None => engine.create_authority(wanted, OPERATOR)?.state,
        Some(_) => {
            engine.maintain();
            engine.authority(&wanted.name)?.state
        }
    };
    // The fault that is being tested may have struck in the background.
    if state == AuthorityState::Active { Ok(()) } else { Err(ca_backend::Fault::TryLater { after_s: 1 }.into()) }
}

/// What must hold at every moment, whatever happened.
fn invariants_hold(engine: &Engine, told: &Acknowledged) {
    let verdict = engine.verify_audit().unwrap();
    assert_eq!(verdict.damage, None);
    let will_sign = serials(engine, Action::WillSign);
    let signed: BTreeSet<Serial> = serials(engine, Action::Signed).into_iter().collect();
    let distinct: BTreeSet<_> = will_sign.iter().collect();
    assert_eq!(distinct.len(), will_sign.len(), "a serial was used twice");
    for serial in &will_sign {
        if signed.contains(serial) {
            assert!(engine.find_certificate(serial).unwrap().is_some(), "{serial} was signed and is not stored");
        } else {
            for issuer in [ROOT, ISSUING] {
                let status = engine.status(issuer, serial).unwrap();
                assert!(!matches!(status, CertStatus::Good), "{serial} was never signed, and is good under {issuer}");
            }
        }
    }
    for stored in find_all(engine, &InventoryQuery::default()) {
        assert!(signed.contains(&stored.serial), "{} is stored without a record of its signature", stored.serial);
        assert!(distinct.contains(&stored.serial), "{} was not recorded before it was signed", stored.serial);
    }
    for certificate in &told.certificates {
        let stored =
            engine.issued_certificate(&certificate.serial).unwrap().expect("an acknowledged certificate is stored");
        assert_eq!(stored.der, certificate.der);
    }
    for serial in &told.revoked {
        let status = engine.status(ISSUING, serial).unwrap();
        assert!(
            matches!(status, CertStatus::Revoked { reason: RevocationReason::Superseded, .. }),
            "the revocation of {serial} was forgotten"
        );
    }
    if told.crl_number > 0 {
        let crl = engine.crl(ISSUING).unwrap();
        assert!(crl.number >= told.crl_number, "CRL {} came after CRL {}", crl.number, told.crl_number);
        let shown = OpenSsl::new().show_crl(&crl.der);
        for serial in &told.crl_lists {
            assert!(lists(&shown, serial), "CRL {} lacks {serial}:\n{shown}", crl.number);
        }
    }
}

/// What must be reached in the end.
fn everything_is_reached(pki: &Pki, clients: &Clients, told: &Acknowledged) {
    let engine = &pki.engine;
    for name in ["kept.example.org", "revoked.example.org", "challenged.example.org"] {
        let found = find_all(engine, &InventoryQuery { name: Some(name.to_owned()), ..InventoryQuery::default() });
        assert_eq!(found.len(), 1, "one request led to {} certificates for {name}", found.len());
    }
    let first = &told.certificates[0];
    assert_eq!(clients.kept.issue(engine).unwrap().der, first.der, "a repeat gets the first certificate");

    // The one-time challenge served its own request as often as that came, and no other.
    let (credential, challenged) = clients.challenged.borrow().clone().unwrap();
    assert_eq!(engine.credential(&credential).unwrap().unwrap().uses, 1);
    let answered = challenged.issue(engine).unwrap().der;
    assert!(
        told.certificates.iter().any(|certificate| certificate.der == answered),
        "a repeat gets the first certificate"
    );
    let other = challenged.transaction("another").issue(engine);
    assert_refused(other, Reason::NotAuthenticated, "spent");

    // After the repeat window nothing is left half done.
    pki.pass_s(2 * settings().repeat_window_s);
    let settled: BTreeSet<_> =
        [Action::Signed, Action::Closed].into_iter().flat_map(|action| serials(engine, action)).collect();
    let under_issuing = |serial: &Serial| matches!(engine.status(ISSUING, serial), Ok(CertStatus::Revoked { .. }));
    let shown = OpenSsl::new().show_crl(&engine.publish_crl(ISSUING).unwrap().der);
    for serial in serials(engine, Action::WillSign) {
        assert!(settled.contains(&serial), "{serial:?} was reserved and never closed");
    }
    for serial in serials(engine, Action::Closed) {
        let root = matches!(engine.status(ROOT, &serial), Ok(CertStatus::Revoked { .. }));
        assert!(root || under_issuing(&serial), "{serial} was closed and is not revoked");
        assert_eq!(lists(&shown, &serial), under_issuing(&serial), "the CRL and the status of {serial} differ");
    }
    OpenSsl::new().verify(&first.der, &first.chain, &first.root, engine.now());
}

fn serials(engine: &Engine, action: Action) -> Vec<Serial> {
    audited(engine, action).into_iter().filter_map(|entry| entry.record.serial).collect()
}

fn lists(shown: &str, serial: &Serial) -> bool {
    shown.contains(&format!("Serial Number: {}", hex::encode_upper(serial.as_bytes())))
}

/// How many commits and signatures the flow takes when nothing goes wrong.
fn undisturbed(bench: Bench) -> (u64, u64) {
    let pki = Pki::bare(bench, settings());
    let mut told = Acknowledged::default();
    let clients = Clients::new();
    clients.run(&pki.engine, &mut told).unwrap();
    let counted = (pki.bench.store_faults.commits(), pki.bench.sign_faults.signs());
    invariants_hold(&pki.engine, &told);
    everything_is_reached(&pki, &clients, &told);
    counted
}

fn in_memory() -> Bench {
    Bench::in_memory().unwrap()
}

fn power_goes_at_every_commit(bench: impl Fn() -> Bench, moment: FailureMoment) {
    let (commits, _) = undisturbed(bench());
    assert!(commits >= 20, "the flow has {commits} commits");
    for n in 1..=commits {
        let mut pki = Pki::bare(bench(), settings());
        pki.bench.store_faults.fail_at(n, moment);
        let (clients, mut told) = (Clients::new(), Acknowledged::default());
        let disturbed = clients.run(&pki.engine, &mut told);
        assert!(pki.bench.store_faults.power_is_out(), "commit {n} was not reached");
        assert!(disturbed.is_err() || n == commits, "the flow went on after the power went at commit {n}");

        pki.restart();
        invariants_hold(&pki.engine, &told);
        clients
            .run(&pki.engine, &mut told)
            .unwrap_or_else(|error| panic!("after the power went at commit {n}: {error:?}"));
        invariants_hold(&pki.engine, &told);
        everything_is_reached(&pki, &clients, &told);
        invariants_hold(&pki.engine, &told);
    }
}

fn the_key_store_fails_at_every_signature(bench: impl Fn() -> Bench, fail: impl Fn(&Pki, u64)) {
    let (_, signs) = undisturbed(bench());
    assert!(signs >= 6, "the flow has {signs} signatures");
    for n in 1..=signs {
        for restart in [false, true] {
            let mut pki = Pki::bare(bench(), settings());
            fail(&pki, n);
            let (clients, mut told) = (Clients::new(), Acknowledged::default());
            // Signatures in the background are tried again later: the flow may get through.
            let _interrupted_or_not = clients.run(&pki.engine, &mut told);
            assert!(pki.bench.sign_faults.signs() >= n, "signature {n} was not reached");
            if restart {
                pki.restart();
            }
            invariants_hold(&pki.engine, &told);
            clients.run(&pki.engine, &mut told).unwrap_or_else(|error| panic!("after signature {n} failed: {error:?}"));
            invariants_hold(&pki.engine, &told);
            everything_is_reached(&pki, &clients, &told);
        }
    }
}

#[test]
fn the_power_goes_before_each_commit_and_nothing_acknowledged_is_lost() {
    power_goes_at_every_commit(in_memory, FailureMoment::BeforeWrite);
}

#[test]
fn the_power_goes_after_each_commit_and_a_repeat_gets_the_first_outcome() {
    power_goes_at_every_commit(in_memory, FailureMoment::AfterWrite);
}

#[test]
fn the_key_store_fails_before_each_signature_and_the_same_request_completes() {
    the_key_store_fails_at_every_signature(in_memory, |pki, n| pki.bench.sign_faults.fail_before(n));
}

#[test]
fn the_key_store_loses_each_signature_and_the_same_request_completes() {
    the_key_store_fails_at_every_signature(in_memory, |pki, n| pki.bench.sign_faults.fail_after(n));
}

/// A bench in memory, but for the keys.
fn in_token(token: &SoftToken) -> impl Fn() -> Bench {
    move || in_memory().with_token(token.settings()).unwrap()
}

#[test]
fn with_keys_in_a_token_the_power_goes_before_each_commit_and_nothing_acknowledged_is_lost() {
    power_goes_at_every_commit(in_token(&SoftToken::softhsm("crash")), FailureMoment::BeforeWrite);
}

#[test]
fn with_keys_in_a_token_the_power_goes_after_each_commit_and_a_repeat_gets_the_first_outcome() {
    power_goes_at_every_commit(in_token(&SoftToken::softhsm("crash")), FailureMoment::AfterWrite);
}

#[test]
fn with_keys_in_a_token_that_fails_before_each_signature_the_same_request_completes() {
    let token = SoftToken::softhsm("crash");
    the_key_store_fails_at_every_signature(in_token(&token), |pki, n| pki.bench.sign_faults.fail_before(n));
}

#[test]
fn with_keys_in_a_token_each_signature_is_lost_and_the_same_request_completes() {
    let token = SoftToken::softhsm("crash");
    the_key_store_fails_at_every_signature(in_token(&token), |pki, n| pki.bench.sign_faults.fail_after(n));
}

#[test]
fn a_request_that_is_never_repeated_leaves_a_closed_serial_on_the_crl() {
    let pki = Pki::start();
    let before: BTreeSet<_> = serials(&pki.engine, Action::WillSign).into_iter().collect();
    pki.bench.sign_faults.fail_before(1);
    Wish::for_host("lost.example.org").issue(&pki.engine).unwrap_err();
    let reserved = serials(&pki.engine, Action::WillSign).into_iter().find(|serial| !before.contains(serial)).unwrap();
    assert_eq!(pki.engine.status(ISSUING, &reserved).unwrap(), CertStatus::Reserved);

    pki.pass_s(settings().repeat_window_s - 1);
    assert_eq!(pki.engine.status(ISSUING, &reserved).unwrap(), CertStatus::Reserved, "a repeat may still come");
    pki.pass_s(1);
    let status = pki.engine.status(ISSUING, &reserved).unwrap();
    assert!(matches!(status, CertStatus::Revoked { reason: RevocationReason::Unspecified, .. }), "{status:?}");
    pki.pass_s(settings().crl_publish_delay_s);
    let shown = OpenSsl::new().show_crl(&pki.engine.crl(ISSUING).unwrap().der);
    assert!(lists(&shown, &reserved), "{shown}");
    assert!(pki.engine.find_certificate(&reserved).unwrap().is_none(), "there is no such certificate");
    assert_eq!(audited(&pki.engine, Action::Closed).len(), 1);
}

#[test]
fn a_full_disk_stops_issuing_and_serves_status_until_there_is_room() {
    let pki = Pki::start();
    let issued = Wish::for_host("a.example.org").issue(&pki.engine).unwrap();
    pki.bench.store_faults.disk_is_full(true);
    let error = Wish::for_host("b.example.org").issue(&pki.engine).unwrap_err();
    assert!(matches!(error, Error::Fault(ca_backend::Fault::Store(ca_backend::StoreFault::Full(_)))), "{error:?}");
    assert!(pki.engine.store_health().is_err());
    assert_eq!(pki.engine.status(ISSUING, &issued.serial).unwrap(), CertStatus::Good);
    assert!(pki.engine.crl(ISSUING).is_ok());
    let entries = audit_log(&pki.engine).len();

    pki.bench.store_faults.disk_is_full(false);
    Wish::for_host("b.example.org").issue(&pki.engine).unwrap();
    assert!(audit_log(&pki.engine).len() > entries);
    assert_eq!(pki.engine.verify_audit().unwrap().damage, None);
    assert_eq!(pki.engine.authority(&authority(ISSUING)).unwrap().state, AuthorityState::Active);
}
