//! The certificate authority: one [`Engine`](engine::Engine) and plain data.
#![allow(dead_code, unreachable_pub)]
pub mod algorithm;
pub mod clock;
pub mod csr;
pub mod error;
mod keys;
pub mod nesting;
mod store;
pub mod subject_key;
pub mod weak_key;

#[cfg(feature = "testing")]
pub use keys::faulty::SignFaults;
pub use keys::{KeyHealth, secret::KeyEncryptionSecret};
