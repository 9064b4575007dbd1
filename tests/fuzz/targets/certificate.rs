//! Certificates that operators upload and that requesters show.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tests::pki::{Pki, authority};

static PKI: LazyLock<Pki> = LazyLock::new(Pki::start);

fuzz_target!(|octets: &[u8]| {
    let engine = &PKI.engine;
    let _shown = engine.verify_certificate(octets);
    let name = authority("uploaded");
    if engine.import_external_root(&name, "", octets, "fuzz").is_ok() {
        engine.delete_authority(&name, "fuzz").expect("nothing depends on it");
    }
});
