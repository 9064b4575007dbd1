//! The real daemon is killed at random points under load. Whatever it acknowledged is there after the restart.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ca_backend::Rng;
use ca_backend::SystemRng;
use serde_json::Value;
use tests::daemon::{Site, field};
use tests::key::Key;
use tests::openssl::pem;

/// Requests under way at the same time.
const CLIENTS: usize = 3;
/// At most so many acknowledgements before the daemon is killed.
const ACKNOWLEDGED_MAX: u64 = 12;

/// What the daemon said is done.
#[derive(Default)]
struct Acknowledged {
    issued: Vec<(String, String)>,
    revoked: BTreeSet<String>,
}

fn rounds() -> u32 {
    std::env::var("TESTS_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5)
}

fn random_below(limit: u64) -> u64 {
    let mut octets = [0; 8];
    SystemRng.fill(&mut octets);
    u64::from_be_bytes(octets) % limit
}

/// Runs a command that may fail with the daemon; its JSON if it was acknowledged.
fn acknowledged(site: &Site, arguments: &[&str]) -> Option<Value> {
    let output = site.output(&[arguments, &["--json"]].concat());
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

#[test]
fn killed_at_random_points_under_load_the_daemon_forgets_nothing_that_it_acknowledged() {
    let site = Site::new("");
    std::fs::write(site.path("k.csr"), pem("CERTIFICATE REQUEST", &Key::ec().csr(""))).unwrap();
    let csr = site.path("k.csr");
    let csr = csr.to_str().unwrap();
    let told = Mutex::new(Acknowledged::default());
    let number = AtomicU64::new(0);
    for round in 0..rounds() {
        let daemon = site.start();
        let until = random_below(ACKNOWLEDGED_MAX) + 1;
        let (count, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let (enough, wait) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let enough = enough.clone();
                scope.spawn(|| {
                    let enough = enough;
                    while !over.load(Ordering::SeqCst) {
                        let name = format!("dns:k{}.example.org", number.fetch_add(1, Ordering::SeqCst));
                        let issue = [
                            "certificate",
                            "issue",
                            "--csr",
                            csr,
                            "--authority",
                            "issuing",
                            "--profile",
                            "privatessl-tls-server",
                            "--san",
                            &name,
                        ];
                        let Some(answer) = acknowledged(&site, &issue) else { continue };
                        let serial = field(&answer, "serial").unwrap_or_else(|| panic!("no serial in {answer}"));
                        let text = field(&answer, "pem").unwrap_or_default();
                        told.lock().unwrap().issued.push((serial.clone(), text));
                        if random_below(2) == 0 {
                            let revoke = ["certificate", "revoke", &serial, "--reason", "superseded"];
                            if acknowledged(&site, &revoke).is_some() {
                                told.lock().unwrap().revoked.insert(serial);
                            }
                        }
                        if count.fetch_add(1, Ordering::SeqCst) + 1 == until {
                            enough.send(()).unwrap();
                        }
                    }
                });
            }
            // The other clients' requests are under way.
            wait.recv().unwrap();
            daemon.kill();
            over.store(true, Ordering::SeqCst);
        });

        let daemon = site.start();
        let told = told.lock().unwrap();
        let serials: BTreeSet<_> = told.issued.iter().map(|(serial, _)| serial).collect();
        assert_eq!(serials.len(), told.issued.len(), "round {round}: a serial was used twice");
        for (serial, text) in &told.issued {
            let shown = site.json(&["certificate", "show", serial]);
            let state = field(&shown, "state").unwrap_or_default();
            if told.revoked.contains(serial) {
                assert_eq!(state, "revoked", "round {round}: the revocation of {serial} was forgotten");
            }
            assert_eq!(field(&shown, "pem").unwrap_or_default(), *text, "round {round}: {serial} changed");
        }
        let verified = site.output(&["audit", "verify"]);
        assert!(verified.status.success(), "round {round}: {}", String::from_utf8_lossy(&verified.stdout));
        drop(daemon);
    }
    let told = told.lock().unwrap();
    println!(
        "{} rounds, {} certificates and {} revocations acknowledged",
        rounds(),
        told.issued.len(),
        told.revoked.len()
    );
    assert!(!told.issued.is_empty());
}
