//! The suites: real parts, a clock that the test moves, and judges from elsewhere.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)] // a failing test should be loud

mod acme;
mod acme_account_keys;
mod acme_orders;
mod acme_subdomains;
mod attestation;
mod authorities;
mod chaos;
mod crash;
mod credentials;
mod engines;
mod foreign_crates;
mod full_disk;
mod hsm;
mod hsm_daemon;
mod interop_acme_clients;
mod interop_certbot;
mod interop_dns;
mod interop_instant_acme;
mod interop_mdm;
mod interop_scep;
mod interop_tpm;
mod intune;
mod inventory;
mod issuing;
mod judges;
mod keys;
mod kill;
mod mdm;
mod mdm_challenges;
mod mounts;
mod operators;
mod perspectives;
mod pkcs7;
mod post_quantum;
mod revocation;
mod scep;
mod scep_authorities;
mod scep_quirks;
mod tidy;
mod validation;
mod webhook;
