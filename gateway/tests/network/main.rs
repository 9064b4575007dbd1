//! The network half of the daemon, through real sockets on loopback.
// a test that cannot go on says where, and its helpers are no tests to clippy
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::wildcard_enum_match_arm)]

mod egress;
mod gate;
mod limits;
mod outside_secret;
mod pool;
mod requests;
mod telemetry;
mod tls;
mod upkeep;
