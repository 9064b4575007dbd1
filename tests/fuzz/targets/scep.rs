//! pkiMessages and queries at a SCEP endpoint.
#![no_main]

use std::sync::OnceLock;

use http::Uri;
use libfuzzer_sys::fuzz_target;
use tests::scep_client::{ScepBench, rules};

/// Shared by all runs: the engine in memory takes calls from many threads, and the fuzzer has one.
static BENCH: OnceLock<ScepBench> = OnceLock::new();

fuzz_target!(|octets: &[u8]| {
    let options = serde_json::json!({ "allow_sha1": true, "allow_triple_des": true, "allow_des": true });
    let bench = BENCH.get_or_init(|| ScepBench::start(rules(), options));
    let reply = bench.post(octets);
    assert!(reply.status() == 200 || reply.status() == 400, "{reply:?}");
    if let Ok(query) = std::str::from_utf8(octets) {
        let path = format!("/scep/devices?{query}");
        if path.parse::<Uri>().is_ok() {
            let reply = bench.send("GET", &path, "");
            assert!(reply.status() != 500, "{reply:?}");
        }
    }
});
