//! The certificate authority: one [`Engine`](engine::Engine) and plain data.
#![allow(dead_code, unreachable_pub)]
pub mod algorithm;
pub mod clock;
pub mod error;
mod keys;
mod store;

/// What only the tests crate may use.
#[cfg(feature = "testing")]
pub mod testing {
    pub use crate::store::{
        FailureMoment, Faults, StoreKind, StoreOptions, TortureReport, torture_check, torture_write,
    };
}
