//! Attestation objects of devices: CBOR, certificates, structures of a TPM, KeyDescription.
#![no_main]

use std::sync::LazyLock;

use acme::attestation::{Challenged, TrustedMakers, read_roots, verify};
use ca_backend::Time;
use libfuzzer_sys::fuzz_target;

/// The maker whose devices made the seeds, so that what lies behind the chain is reached.
const ROOT: &str = include_str!("../../../testvectors/acme/attestation/root.pem");

static MAKERS: LazyLock<TrustedMakers> = LazyLock::new(|| {
    let roots = || read_roots(&[ROOT.to_owned()]).expect("a fixed certificate");
    TrustedMakers { apple: roots(), tpm: roots(), android: roots() }
});

fuzz_target!(|octets: &[u8]| {
    let challenged = Challenged { token: "token", key_authorization: "token.thumbprint" };
    let _attested = verify(octets, challenged, &MAKERS, Time::from_unix(1_800_000_000));
});
