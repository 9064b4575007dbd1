//! The network half of the daemon, through real sockets on loopback.

mod egress;
mod gate;
mod limits;
mod pool;
mod requests;
mod telemetry;
mod tls;
