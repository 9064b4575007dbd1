//! certgate: the enrollment gateway daemon and its command line.
//!
//! What is async stands here and nowhere else: sockets, TLS, timers, requests to other hosts. Protocols are called on the
//! threads of a [`pool::Lane`].

pub mod admin;
pub mod egress;
pub mod listen;
pub mod pool;
pub mod telemetry;
pub mod tls;
