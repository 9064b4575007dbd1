//! Operators' own profiles, TOML.
#![no_main]

use ca_backend::Profile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    if let Ok(profile) = Profile::from_toml(text) {
        let again = Profile::from_toml(&profile.to_toml()).expect("an accepted profile is accepted again");
        assert_eq!(again, profile);
    }
});
