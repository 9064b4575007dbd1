//! Keys in PKCS#11 tokens.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ca_backend::testing::{Bench, check_token};
use ca_backend::{
    Action, CertStatus, DecryptionScheme, Error, Fault, IssuedCertificate, KeyAlgorithm, KeyFault, KeyHealth,
    PinSource, TokenSettings,
};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use tests::pki::{ISSUING, OPERATOR, Pki, ROOT, audited, fault};
use tests::token::SoftToken;
use tests::wish::Wish;

/// What tokens are asked for.
const ALGORITHMS: [KeyAlgorithm; 7] = [
    KeyAlgorithm::EcP256,
    KeyAlgorithm::EcP384,
    KeyAlgorithm::EcP521,
    KeyAlgorithm::Rsa2048,
    KeyAlgorithm::Rsa3072,
    KeyAlgorithm::Rsa4096,
    KeyAlgorithm::Ed25519,
];

#[test]
fn a_softhsm_token_does_what_every_key_store_must() {
    let token = SoftToken::softhsm("conformance");
    // SoftHSM 2.6 knows OAEP with SHA-1 only.
    let decryption = [DecryptionScheme::RsaPkcs1v15, DecryptionScheme::RsaOaepSha1];
    check_token(token.settings(), &ALGORITHMS, &decryption).unwrap();
}

#[test]
fn an_nss_token_does_what_every_key_store_must() {
    let token = SoftToken::nss();
    // NSS 3.87 makes no Ed25519 keys.
    let algorithms = ALGORITHMS.into_iter().filter(|algorithm| *algorithm != KeyAlgorithm::Ed25519);
    let algorithms: Vec<_> = algorithms.collect();
    let decryption = [DecryptionScheme::RsaPkcs1v15, DecryptionScheme::RsaOaepSha1, DecryptionScheme::RsaOaepSha256];
    check_token(token.settings(), &algorithms, &decryption).unwrap();
}

/// Long enough for a token to be looked for again, on a machine that is busy with other things.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// Tries until it works.
fn eventually<T>(what: impl Fn() -> Option<T>) -> T {
    let began = ca_backend::Stopwatch::start();
    loop {
        if let Some(done) = what() {
            return done;
        }
        assert!(began.elapsed() < BACK_WITHIN, "it did not come back");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn issue(pki: &Pki, host: &str) -> Result<IssuedCertificate, Error> {
    Wish::for_host(host).issue(&pki.engine)
}

/// Whether a call ended in the key store's telling that it may come back.
fn tells_to_try_later<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    let fault = fault(outcome.unwrap_err());
    assert!(matches!(fault, Fault::Key(KeyFault::Unavailable(_))), "{fault}");
}

fn pki_on(settings: TokenSettings) -> Pki {
    Pki::on(Bench::in_memory().unwrap().with_token(settings).unwrap(), tests::pki::settings())
}

#[test]
fn hsm_down_is_try_later_leaves_the_serial_reserved_and_issuing_goes_on_by_itself() {
    let token = SoftToken::softhsm("away");
    let pki = pki_on(token.settings());
    let first = issue(&pki, "first.example.org").unwrap();
    let open = |pki: &Pki| audited(&pki.engine, Action::WillSign).len() - audited(&pki.engine, Action::Signed).len();
    let before = open(&pki);
    // The same two requests throughout, as clients send them again.
    let [a, b] = ["a.example.org", "b.example.org"].map(Wish::for_host);
    token.happens("absent");
    for wish in [&a, &b] {
        tells_to_try_later(wish.issue(&pki.engine));
    }
    // Status is told as before.
    assert!(matches!(pki.engine.status(ISSUING, &first.serial).unwrap(), CertStatus::Good));
    pki.engine.crl(ISSUING).unwrap();
    assert!(matches!(pki.engine.key_health().as_slice(), [(name, KeyHealth::Unusable(_))] if name == "token"));
    let reserved = open(&pki) - before;
    assert_eq!(reserved, 2);

    token.is_well();
    eventually(|| a.issue(&pki.engine).ok());
    b.issue(&pki.engine).unwrap();
    assert_eq!(open(&pki), before);
    never_touches_what_is_closed(&token);
    assert_eq!(pki.engine.key_health(), [("token".to_owned(), KeyHealth::Usable)]);
}

#[test]
fn a_daemon_restarted_without_its_token_tells_status_and_issues_once_it_is_back() {
    let token = SoftToken::softhsm("restart");
    let mut pki = pki_on(token.settings());
    let first = issue(&pki, "first.example.org").unwrap();
    token.happens("absent");
    pki.restart();
    assert!(matches!(pki.engine.status(ISSUING, &first.serial).unwrap(), CertStatus::Good));
    pki.engine.crl(ISSUING).unwrap();
    tells_to_try_later(issue(&pki, "a.example.org"));
    token.is_well();
    eventually(|| issue(&pki, "a.example.org").ok());
}

/// Handles of sessions that are closed are void, and may be those of others by then.
fn never_touches_what_is_closed(token: &SoftToken) {
    assert_eq!(token.noted('x'), 0, "a void handle was closed");
    assert_eq!(token.noted('?'), 0, "a void handle was used");
}

/// So many threads issue so many certificates each, and get them all.
fn issues_under_load(pki: &Pki, threads: usize, rounds: usize) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for round in 0..rounds {
                    issue(pki, &format!("host-{thread}-{round}.example.org")).unwrap();
                }
            });
        }
    });
}

#[test]
fn sessions_that_are_closed_under_load_cost_no_request() {
    let token = SoftToken::softhsm("load");
    let pki = pki_on(token.settings());
    token.happens("close 5");
    issues_under_load(&pki, 4, 15);
    never_touches_what_is_closed(&token);
}

#[test]
fn a_request_outlives_its_session_that_is_closed_again_and_again_but_not_for_ever() {
    let token = SoftToken::softhsm("again-and-again");
    let pki = pki_on(token.settings());
    let closed = token.noted('-');
    token.happens("close-next 5");
    issue(&pki, "a.example.org").unwrap();
    assert_eq!(token.noted('-'), closed + 5);
    token.happens("close-next 1000");
    tells_to_try_later(issue(&pki, "b.example.org"));
    assert!(token.noted('-') < closed + 50, "a token that closes every session is not left alone");
    token.is_well();
    issue(&pki, "b.example.org").unwrap();
    never_touches_what_is_closed(&token);
}

#[test]
fn a_crowd_that_is_told_to_try_later_does_not_make_its_token_unusable() {
    let token = SoftToken::softhsm_far_away("crowd", 50);
    let settings = token.settings();
    let pki = &pki_on(TokenSettings { sessions: 1, queue_max: 1, ..settings });
    let turned_away = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let turned_away = &turned_away;
            scope.spawn(move || {
                for round in 0..5 {
                    let Err(error) = issue(pki, &format!("host-{thread}-{round}.example.org")) else { continue };
                    tells_to_try_later(Err::<(), _>(error));
                    turned_away.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(pki.engine.key_health(), [("token".to_owned(), KeyHealth::Usable)]);
                }
            });
        }
    });
    assert!(turned_away.into_inner() > 0, "there was no crowd");
}

#[test]
fn a_module_that_forgot_everything_is_initialized_again() {
    let token = SoftToken::softhsm("forget");
    let pki = pki_on(token.settings());
    token.happens("forget");
    eventually(|| issue(&pki, "a.example.org").ok());
}

#[test]
fn a_module_that_forgot_everything_is_initialized_again_though_nobody_asks_its_other_token() {
    let token = SoftToken::softhsm("one");
    let other = pki_on(token.another("other"));
    let pki = pki_on(token.settings());
    token.happens("forget");
    eventually(|| issue(&pki, "a.example.org").ok());
    eventually(|| issue(&other, "a.example.org").ok());
}

#[test]
fn a_token_that_stumbles_is_tried_once_more_and_then_later() {
    let token = SoftToken::softhsm("stumbles");
    let pki = pki_on(token.settings());
    // CKR_DEVICE_ERROR, CKR_GENERAL_ERROR, and one that a vendor made up.
    for code in ["fail 30", "fail 5", "fail 80001234"] {
        let before = token.noted('!');
        token.happens(code);
        tells_to_try_later(issue(&pki, "a.example.org"));
        assert_eq!(token.noted('!'), before + 2, "{code}");
        token.is_well();
        eventually(|| issue(&pki, "a.example.org").ok());
    }
}

#[test]
fn a_token_that_says_no_is_not_asked_again() {
    let token = SoftToken::softhsm("says-no");
    let pki = pki_on(token.settings());
    // CKR_FUNCTION_REJECTED, CKR_PIN_INCORRECT, CKR_PIN_LOCKED, CKR_KEY_FUNCTION_NOT_PERMITTED.
    for code in ["fail 200", "fail a0", "fail a4", "fail 68"] {
        let before = token.noted('!');
        token.happens(code);
        let fault = fault(issue(&pki, "a.example.org").unwrap_err());
        assert!(matches!(fault, Fault::Key(KeyFault::Unusable(_) | KeyFault::Unsupported(_))), "{code}: {fault}");
        assert_eq!(token.noted('!'), before + 1, "{code}");
    }
}

#[test]
fn a_token_with_fewer_sessions_than_the_settings_ask_for_serves_all_with_those_it_gives() {
    // The last two say how many they have, and have no word of their own for too many.
    for (what, gives) in [("sessions 3", 3), ("sessions 1", 1), ("sessions-said 3", 3), ("sessions-said 1", 1)] {
        let token = SoftToken::softhsm("few-sessions");
        token.happens(what);
        let pki = pki_on(TokenSettings { sessions: 6, ..token.settings() });
        issues_under_load(&pki, 12, 3);
        assert!(token.sessions() <= gives, "{} sessions", token.sessions());
        let health = pki.engine.key_health();
        let told = format!("the token gives {gives} sessions, not 6 as the settings ask for");
        assert_eq!(health, [("token".to_owned(), KeyHealth::Reduced(told))], "{what}");

        let report = pki.engine.examine_key_store("token", Duration::from_millis(1)).unwrap();
        let sessions = report.abilities.iter().find(|ability| ability.what == "open 6 sessions").unwrap();
        assert_eq!(sessions.why_not.as_deref(), Some(format!("the token gives {gives}").as_str()), "{what}");

        // Others closed theirs, or somebody raised the limit.
        token.is_well();
        let report = pki.engine.examine_key_store("token", Duration::from_millis(1)).unwrap();
        assert!(report.abilities.iter().any(|ability| ability.what == "open 6 sessions" && ability.why_not.is_none()));
        assert_eq!(pki.engine.key_health(), [("token".to_owned(), KeyHealth::Usable)], "{what}");
        never_touches_what_is_closed(&token);
    }
}

#[test]
fn a_token_that_gives_no_session_at_all_is_told_and_taken_when_it_does() {
    let token = SoftToken::softhsm("no-session");
    let settings = token.settings();
    let pki = pki_on(TokenSettings { sessions: 1, ..settings });
    // The session that is there must end first.
    token.happens("close-next 1000");
    tells_to_try_later(issue(&pki, "b.example.org"));
    token.happens("sessions 0");
    tells_to_try_later(issue(&pki, "b.example.org"));
    assert!(matches!(pki.engine.key_health().as_slice(), [(_, KeyHealth::Unusable(_))]));
    token.is_well();
    eventually(|| issue(&pki, "b.example.org").ok());
}

/// The private keys of a token whose label begins so.
fn private_keys(session: &Session, label: &str) -> Vec<ObjectHandle> {
    let found = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap();
    let begins_so = |key: &ObjectHandle| {
        session
            .get_attributes(*key, &[AttributeType::Label])
            .unwrap()
            .iter()
            .any(|attribute| matches!(attribute, Attribute::Label(found) if found.starts_with(label.as_bytes())))
    };
    found.into_iter().filter(begins_so).collect()
}

#[test]
fn a_key_whose_making_was_answered_by_an_error_is_found_and_not_made_twice() {
    let token = SoftToken::softhsm("made-once");
    let pki = pki_on(token.settings());
    let before = token.noted('g');
    token.happens("lose-generate 1");
    let key = pki.engine.generate_key(None, "precious", KeyAlgorithm::EcP256, OPERATOR).unwrap();
    assert_eq!(token.noted('g'), before + 1);
    assert!(pki.engine.keys(None).unwrap().iter().any(|listed| listed.key == key));
}

#[test]
fn a_key_that_is_made_after_everybody_left_is_removed_again() {
    let token = SoftToken::softhsm("too-late");
    let settings = token.settings();
    let pki = pki_on(TokenSettings { generate_deadline: Duration::from_millis(700), ..settings });
    let before = token.noted('g');
    token.happens("hang-generate");
    let late = pki.engine.generate_key(None, "late", KeyAlgorithm::EcP256, OPERATOR);
    tells_to_try_later(late);
    token.is_well();
    eventually(|| (token.noted('g') > before).then_some(()));
    eventually(|| token.behind_its_back(|session| private_keys(session, "late").is_empty()).then_some(()));
    // The name is free.
    eventually(|| pki.engine.generate_key(None, "late", KeyAlgorithm::EcP256, OPERATOR).ok());
}

#[test]
fn a_key_that_somebody_removed_costs_the_others_nothing() {
    let token = SoftToken::softhsm("removed");
    let pki = pki_on(token.settings());
    issue(&pki, "a.example.org").unwrap();
    token.behind_its_back(|session| {
        for key in private_keys(session, ISSUING) {
            session.destroy_object(key).unwrap();
        }
    });
    let (logins, opened) = (token.logins(), token.noted('+'));
    for n in 0..20 {
        // For all that is known the token went with it.
        tells_to_try_later(issue(&pki, &format!("host-{n}.example.org")));
        pki.engine.publish_crl(ROOT).unwrap();
    }
    // It may be looked for in the whole token, but not each time.
    assert!(token.logins() <= logins + 5, "{} logins", token.logins() - logins);
    assert!(token.noted('+') <= opened + 40, "{} sessions", token.noted('+') - opened);
}

#[test]
fn a_key_made_in_a_token_never_leaves_it_and_does_nothing_but_what_it_is_for() {
    let token = SoftToken::softhsm("attributes");
    let pki = pki_on(token.settings());
    for algorithm in ALGORITHMS {
        pki.engine.generate_key(None, &format!("made-{algorithm}"), algorithm, OPERATOR).unwrap();
    }
    token.behind_its_back(|session| {
        let keys = private_keys(session, "");
        assert!(keys.len() >= ALGORITHMS.len());
        for key in keys {
            let wanted = [
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::NeverExtractable(true),
                Attribute::Private(true),
                Attribute::Sign(true),
                Attribute::Decrypt(false),
                Attribute::Unwrap(false),
                Attribute::SignRecover(false),
                Attribute::Derive(false),
            ];
            let asked: Vec<_> = wanted.iter().map(Attribute::attribute_type).collect();
            assert_eq!(session.get_attributes(key, &asked).unwrap(), wanted);
        }
    });
}

#[test]
fn a_module_that_hangs_holds_no_caller_longer_than_the_deadline_and_is_replaced_within_a_bound() {
    let token = SoftToken::softhsm("hangs");
    let settings = token.settings();
    let pki = pki_on(TokenSettings { deadline: Duration::from_millis(700), ..settings });
    for what in ["hang", "hang"] {
        token.happens(what);
        // More calls than there are threads to lose: each is told to come back.
        for n in 0..8 {
            let took = ca_backend::Stopwatch::start();
            tells_to_try_later(issue(&pki, &format!("host-{n}.example.org")));
            assert!(took.elapsed() < Duration::from_secs(10), "a caller was held for {:?}", took.elapsed());
        }
        assert!(threads_named("pkcs11") <= 2 + 2 * 2, "{} threads", threads_named("pkcs11"));
        token.is_well();
        eventually(|| issue(&pki, "host-0.example.org").ok());
        // Two at work, and the one that keeps the login.
        eventually(|| (token.sessions() <= 3).then_some(()));
    }
    drop(pki);
    eventually(|| (token.sessions() == 0).then_some(()));
}

fn threads_named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|found| found.trim() == name).count()
}

#[test]
fn a_wrong_pin_is_offered_once_and_a_new_one_is_taken_without_a_restart() {
    let token = SoftToken::softhsm("pin");
    let mut pki = pki_on(token.settings());
    // The login of this process must end first: the module forgets it.
    token.happens("forget");
    token.pin_file("wrong-pin");
    pki.restart();
    let before = token.logins();
    eventually(|| (token.logins() > before || issue(&pki, "a.example.org").is_err()).then_some(()));
    for n in 0..5 {
        let fault = fault(issue(&pki, &format!("host-{n}.example.org")).unwrap_err());
        assert!(matches!(&fault, Fault::Key(KeyFault::Unusable(why)) if why.contains("refused the PIN")), "{fault}");
    }
    assert_eq!(token.logins(), before + 1, "a wrong PIN was offered again");
    token.pin_file(tests::token::PIN);
    eventually(|| issue(&pki, "host-0.example.org").ok());
    assert_eq!(token.logins(), before + 2);
}

#[test]
fn a_wrong_pin_that_the_module_calls_something_else_is_offered_once_too() {
    let token = SoftToken::softhsm("pin-by-another-name");
    let mut pki = pki_on(token.settings());
    token.happens("fail-login 6"); // CKR_FUNCTION_FAILED
    token.pin_file("wrong-pin");
    pki.restart();
    let before = token.logins();
    eventually(|| (token.logins() > before || issue(&pki, "a.example.org").is_err()).then_some(()));
    for n in 0..5 {
        let fault = fault(issue(&pki, &format!("host-{n}.example.org")).unwrap_err());
        assert!(matches!(&fault, Fault::Key(KeyFault::Unusable(why)) if why.contains("refused the PIN")), "{fault}");
    }
    assert_eq!(token.logins(), before + 1, "a wrong PIN was offered again");
    token.pin_file(tests::token::PIN);
    eventually(|| issue(&pki, "host-0.example.org").ok());
}

#[test]
fn a_key_that_its_token_made_against_orders_is_not_kept() {
    let token = SoftToken::softhsm("against-orders");
    let pki = pki_on(token.settings());
    // CKA_EXTRACTABLE, CKA_DECRYPT, CKA_UNWRAP.
    for attribute in ["162", "105", "107"] {
        token.happens(&format!("set {attribute}"));
        let made = pki.engine.generate_key(None, "made", KeyAlgorithm::Rsa2048, OPERATOR);
        assert!(matches!(&made, Err(Error::Refused(refusal)) if refusal.public().contains("orders")), "{made:?}");
        assert!(token.behind_its_back(|session| private_keys(session, "made").is_empty()));
    }
    token.is_well();
    pki.engine.generate_key(None, "made", KeyAlgorithm::Rsa2048, OPERATOR).unwrap();
}

#[test]
fn the_last_try_before_a_token_locks_itself_is_left_to_a_person() {
    let token = SoftToken::softhsm("last-try");
    let bench = Bench::in_memory().unwrap().with_token(token.settings()).unwrap();
    let pki = Pki::bare(bench, tests::pki::settings());
    token.happens("final-try");
    for n in 0..5 {
        let made = pki.engine.generate_key(None, &format!("key-{n}"), KeyAlgorithm::EcP256, OPERATOR);
        let fault = fault(made.unwrap_err());
        assert!(matches!(&fault, Fault::Key(KeyFault::Unusable(why)) if why.contains("would lock")), "{fault}");
    }
    assert_eq!(token.logins(), 0);
    token.is_well();
    pki.engine.generate_key(None, "key", KeyAlgorithm::EcP256, OPERATOR).unwrap();
}

#[test]
fn nobody_is_asked_at_a_keypad_again_and_again() {
    let token = SoftToken::softhsm("keypad");
    let settings = TokenSettings { pin: PinSource::None, ..token.settings() };
    let pki = Pki::bare(Bench::in_memory().unwrap().with_token(settings).unwrap(), tests::pki::settings());
    token.happens("keypad");
    for n in 0..50 {
        let made = pki.engine.generate_key(None, &format!("key-{n}"), KeyAlgorithm::EcP256, OPERATOR);
        tells_to_try_later(made);
    }
    assert!(token.logins() < 10, "{} times", token.logins());
}

#[test]
fn an_empty_pin_is_not_offered() {
    let token = SoftToken::softhsm("empty-pin");
    let settings = token.settings();
    let settings = TokenSettings { pin: PinSource::File(token.pin_file("")), ..settings };
    let pki = Pki::bare(Bench::in_memory().unwrap().with_token(settings).unwrap(), tests::pki::settings());
    let fault = fault(pki.engine.generate_key(None, "key", KeyAlgorithm::EcP256, OPERATOR).unwrap_err());
    assert!(matches!(&fault, Fault::Key(KeyFault::Unusable(_))), "{fault}");
    assert_eq!(token.logins(), 0);
}

#[test]
fn a_login_that_fails_for_no_clear_reason_is_tried_again_after_a_growing_pause() {
    let token = SoftToken::softhsm("stumbling");
    let mut pki = pki_on(token.settings());
    token.happens("stumble-login 80000001"); // a vendor's own
    pki.restart();
    let before = token.logins();
    for n in 0..50 {
        let fault = fault(issue(&pki, &format!("host-{n}.example.org")).unwrap_err());
        assert!(matches!(&fault, Fault::TryLater { .. } | Fault::Key(KeyFault::Unavailable(_))), "{fault}");
    }
    assert!(token.logins() < before + 10, "a crowd of requests stormed the token");
    token.is_well();
    eventually(|| issue(&pki, "host-0.example.org").ok());
}
