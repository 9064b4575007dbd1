//! What gateways and remote perspectives say to each other, JSON.
#![no_main]

use gateway::perspective::wire::{LookAnswer, LookRequest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    if let Ok((question, ports)) = LookRequest::decode(octets) {
        let written = serde_json::to_vec(&LookRequest::new(&question, ports)).expect("a question can be written");
        assert_eq!(LookRequest::decode(&written), Ok((question, ports)));
    }
    if let Ok(found) = LookAnswer::decode(octets) {
        let written = serde_json::to_vec(&LookAnswer::new(found.clone())).expect("an answer can be written");
        assert_eq!(LookAnswer::decode(&written), Ok(found));
    }
});
