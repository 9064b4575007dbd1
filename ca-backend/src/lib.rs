//! The certificate authority: one [`Engine`](engine::Engine) and plain data.
#![allow(dead_code, unreachable_pub)]
pub mod algorithm;
pub mod clock;
pub mod csr;
pub mod error;
pub mod extension;
mod keys;
pub mod lint;
pub mod name;
pub mod name_constraint;
pub mod nesting;
pub mod profile;
pub mod serial;
mod store;
pub mod subject_key;
pub mod tbs;
pub mod weak_key;

#[cfg(feature = "testing")]
pub use keys::faulty::SignFaults;
pub use keys::{KeyHealth, secret::KeyEncryptionSecret};
