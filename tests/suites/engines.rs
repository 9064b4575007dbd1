//! The main flow on every storage engine, and the way from one to another.

use ca_backend::testing::{Bench, StoreKind, StoreOptions};
use ca_backend::{CertStatus, Engine, InventoryQuery, RevocationReason};
use tempfile::TempDir;
use tests::openssl::OpenSsl;
use tests::pki::{ISSUING, Pki, find_all, settings};
use tests::wish::Wish;

/// Issues, revokes, publishes, and restarts.
fn flow(pki: &mut Pki) {
    let kept = Wish::for_host("kept.example.org").by_account("a");
    let first = kept.issue(&pki.engine).unwrap();
    let revoked = Wish::for_host("revoked.example.org").issue(&pki.engine).unwrap();
    pki.revoke(&revoked.serial, RevocationReason::Superseded).unwrap();
    let crl = pki.engine.publish_crl(ISSUING).unwrap();
    pki.restart();
    assert_eq!(pki.engine.issued_certificate(&first.serial).unwrap().unwrap().der, first.der);
    assert_eq!(kept.issue(&pki.engine).unwrap().der, first.der);
    assert!(matches!(pki.engine.status(ISSUING, &revoked.serial).unwrap(), CertStatus::Revoked { .. }));
    assert_eq!(pki.engine.crl(ISSUING).unwrap().der, crl.der, "the same CRL is served after a restart");
    assert_eq!(pki.engine.verify_audit().unwrap().damage, None);
    OpenSsl::new().verify(&first.der, &first.chain, &first.root, pki.engine.now());
}

/// Everything that an engine says about its records.
fn everything(engine: &Engine) -> String {
    let certificates = find_all(engine, &InventoryQuery::default());
    let mut counts = engine.counts().unwrap();
    counts.sort_by_key(|count| format!("{count:?}"));
    format!(
        "{certificates:#?} {counts:#?} {:#?} {:#?} {:#?} {:?} {:?}",
        engine.events(0, 1_000).unwrap(),
        engine.verify_audit().unwrap(),
        engine.authorities().unwrap(),
        engine.endpoints(),
        engine.crl(ISSUING).unwrap().der,
    )
}

#[test]
fn the_main_flow_works_in_memory() {
    flow(&mut Pki::start());
}

#[test]
fn the_main_flow_works_on_sled() {
    let directory = TempDir::new().unwrap();
    flow(&mut Pki::on(Bench::on(StoreKind::Sled, directory.path()).unwrap(), settings()));
}

#[test]
fn the_main_flow_works_on_redb() {
    let directory = TempDir::new().unwrap();
    flow(&mut Pki::on(Bench::on(StoreKind::Redb, directory.path()).unwrap(), settings()));
}

#[test]
fn an_export_of_one_engine_imported_into_another_keeps_everything_and_goes_on() {
    let options = StoreOptions { cache_bytes: 16 << 20, journal_bytes: 16 << 10, reserve_bytes: 1 << 20 };
    for (from, to) in [(StoreKind::Sled, StoreKind::Redb), (StoreKind::Redb, StoreKind::Sled)] {
        let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut pki = Pki::on(Bench::on(from, old.path()).unwrap(), settings());
        flow(&mut pki);
        let mut export = Vec::new();
        let written = pki.engine.export(&mut export).unwrap();
        let read = Engine::import(to, new.path(), options, &mut export.as_slice()).unwrap();
        assert_eq!(written, read, "{from} to {to}");

        let mut moved = Pki::bare(pki.bench.moved_to(to, new.path()).unwrap(), settings());
        assert_eq!(everything(&moved.engine), everything(&pki.engine), "{from} to {to}");
        let issued = Wish::for_host("after.example.org").issue(&moved.engine).unwrap();
        moved.restart();
        assert!(moved.engine.find_certificate(&issued.serial).unwrap().is_some());
        assert_eq!(moved.engine.verify_audit().unwrap().damage, None);
    }
}

#[test]
fn a_damaged_export_is_refused_and_leaves_no_usable_store() {
    let options = StoreOptions { cache_bytes: 16 << 20, journal_bytes: 16 << 10, reserve_bytes: 1 << 20 };
    let pki = Pki::start();
    let mut export = Vec::new();
    pki.engine.export(&mut export).unwrap();
    let middle = export.len() / 2;
    let mut altered = export.clone();
    altered[middle] ^= 1;
    for damaged in [&export[..middle], &altered, b"nonsense", b""] {
        let directory = TempDir::new().unwrap();
        Engine::import(StoreKind::Redb, directory.path(), options, &mut &*damaged).unwrap_err();
        if let Ok(mut bench) = Bench::on(StoreKind::Redb, directory.path()) {
            let engine = bench.boot(settings()).unwrap();
            assert!(engine.authorities().unwrap().is_empty(), "half of a PKI was booted");
        }
    }
}
