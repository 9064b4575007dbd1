//! certgate: the enrollment gateway daemon and its command line.
//!
//! What is async stands here and nowhere else: sockets, TLS, timers, requests to other hosts. Protocols are called on the
//! threads of a [`pool::Lane`].

pub mod admin;
pub mod cli;
pub mod corroboration;
pub mod device_management;
pub mod egress;
pub mod jobs;
pub mod listen;
mod open_files;
pub mod outside_secret;
pub mod perspective;
pub mod pool;
mod run;
pub mod server_certificate;
pub mod starter;
pub mod telemetry;
pub mod tls;
pub mod validation;
pub mod wiring;

/// What one thread allocates, another one frees, as requests go to lanes and batches to the store.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub use run::{Ready, RunError, RunOptions, open_engine, run, store_kind, store_options};
