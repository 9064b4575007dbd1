//! What the suites share: a PKI on an engine in memory, the OpenSSL command line as a judge, and the real daemon as a child.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)] // test code: a failure should be loud

pub mod acme_client;
pub mod certbot;
pub mod daemon;
pub mod device;
pub mod dns;
pub mod hosts;
pub mod intune;
pub mod key;
pub mod names;
pub mod openapi;
pub mod openssl;
pub mod perspective;
pub mod pki;
pub mod pkilint;
pub mod scep_client;
pub mod status;
pub mod token;
pub mod tpm;
pub mod webhook;
pub mod wish;
