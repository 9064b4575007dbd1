//! Endpoints with their access rules and their protocol's options, JSON.
#![no_main]

use ca_backend::Endpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    if let Ok(endpoint) = serde_json::from_slice::<Endpoint>(octets) {
        let _options = acme::Options::parse(&endpoint.options);
        let written = serde_json::to_vec(&endpoint).expect("an endpoint can be written");
        let again: Endpoint = serde_json::from_slice(&written).expect("what was written can be read");
        assert_eq!(again, endpoint);
    }
});
