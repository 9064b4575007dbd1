//! Keys in PKCS#11 tokens.

use std::time::Duration;

use ca_backend::testing::{Bench, check_token};
use ca_backend::{
    Action, CertStatus, DecryptionScheme, Error, Fault, IssuedCertificate, KeyAlgorithm, KeyFault, KeyHealth,
    TokenSettings,
};
use tests::pki::{ISSUING, Pki, audited, fault};
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

#[test]
fn sessions_that_are_closed_under_load_cost_no_request() {
    let token = SoftToken::softhsm("load");
    let pki = &pki_on(token.settings());
    token.happens("close 5");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for round in 0..15 {
                    issue(pki, &format!("host-{thread}-{round}.example.org")).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_module_that_forgot_everything_is_initialized_again() {
    let token = SoftToken::softhsm("forget");
    let pki = pki_on(token.settings());
    token.happens("forget");
    eventually(|| issue(&pki, "a.example.org").ok());
}

#[test]
fn a_token_that_stumbles_is_tried_once_more_and_then_later() {
    let token = SoftToken::softhsm("stumbles");
    let pki = pki_on(token.settings());
    // CKR_DEVICE_ERROR, CKR_GENERAL_ERROR, CKR_SESSION_HANDLE_INVALID, and one that a vendor made up.
    for code in ["fail 30", "fail 5", "fail b3", "fail 80001234"] {
        token.happens(code);
        tells_to_try_later(issue(&pki, "a.example.org"));
        token.is_well();
        eventually(|| issue(&pki, "a.example.org").ok());
    }
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
