//! Test harness.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a harness fails loudly

pub mod acme_client;
