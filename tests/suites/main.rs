//! The suites: real parts, a clock that the test moves, and judges from elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a failing test should be loud

mod acme;
mod authorities;
mod crash;
mod engines;
mod inventory;
mod issuing;
mod revocation;
