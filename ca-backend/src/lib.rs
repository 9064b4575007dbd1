//! The certificate authority: one [`Engine`](engine::Engine) and plain data.
#![allow(dead_code, unreachable_pub)]
pub mod algorithm;
pub mod clock;
mod crl;
mod encoding;
pub mod error;

mod keys;
mod ocsp;
pub mod status;
mod store;
