//! `certgate crl`.

use clap::Subcommand;
use http::Method;

use super::daemon::{Daemon, part};
use super::failure::Failure;
use super::output::Output;
use crate::admin::issuers::Crl;

/// What to do with CRLs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make and publish a CRL now
    Publish {
        /// The authority; as in its CRL's URL if its key was made more than once
        issuer: String,
    },
}

pub(super) fn run(command: Command, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    let Command::Publish { issuer } = command;
    let crl: Crl = daemon.ask(Method::POST, &format!("/v1/issuers/{}/crl", part(&issuer)), &())?;
    output.show(&crl, |crl| {
        format!("CRL {} of {} is published: {} bytes, valid until {}", crl.number, crl.issuer, crl.size_bytes, crl.next_update)
    })
}
