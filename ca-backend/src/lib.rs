//! The certificate authority: one [`Engine`](engine::Engine) and plain data.
#![allow(dead_code, unreachable_pub)]
pub mod algorithm;
pub mod clock;
pub mod error;
mod keys;
mod store;
