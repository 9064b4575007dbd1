//! The certificate authority: one [`Engine`](engine::Engine) and plain data.
#![allow(dead_code, unreachable_pub)]
pub mod algorithm;
pub mod clock;
pub mod error;
pub mod extension;
mod keys;
pub mod lint;
pub mod name;
pub mod name_constraint;
pub mod profile;
pub mod serial;
mod store;
pub mod subject_key;
pub mod tbs;
pub mod weak_key;
