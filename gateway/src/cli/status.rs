//! `certgate status`.

use super::daemon::Daemon;
use super::failure::Failure;
use super::output::Output;
use super::table::{or_dash, table};
use crate::admin::status::Readiness;

pub(super) fn run(daemon: &Daemon, output: Output) -> Result<(), Failure> {
    let readiness: Readiness = daemon.condition("/readyz")?;
    output.show(&readiness, |readiness| {
        let rows = readiness.parts.iter().map(|part| {
            let state = if part.ready { "works" } else { "does not work" };
            [part.name.clone(), state.to_owned(), or_dash(part.next_update.as_ref()), part.why.clone().unwrap_or_default()]
        });
        table(["PART", "STATE", "CRL UNTIL", "WHY"], rows)
    })?;
    if readiness.ready { Ok(()) } else { Err(Failure::unavailable("the daemon is not ready", "see above for what does not work")) }
}
