//! `certgate audit`.

use clap::Subcommand;

use super::certificate::PartArguments;
use super::daemon::Daemon;
use super::failure::Failure;
use super::output::Output;
use super::table::{named, or_dash, table};
use crate::admin::audit::{Entry, EntryPage, Verdict};

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show entries, in order
    List(PartArguments),
    /// Find out whether an entry was removed, altered or moved
    Verify,
}

pub(super) fn run(command: Command, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    match command {
        Command::List(asked) => {
            let page: EntryPage = daemon.get(&format!("/v1/audit{}", asked.query()?))?;
            output.show(&page, |page| table(["NUMBER", "TIME", "ACTION", "WHO", "SERIAL", "DETAIL"], page.items.iter().map(row)))
        }
        Command::Verify => {
            let verdict: Verdict = daemon.get("/v1/audit/verification")?;
            output.show(&verdict, |verdict| match &verdict.damage {
                None => format!("{} entries, unaltered and in order; the last one is {}", verdict.entries, verdict.head),
                Some(damage) => format!("damaged after {} entries: {damage}", verdict.entries),
            })?;
            if verdict.intact {
                return Ok(());
            }
            Err(Failure::refused(
                "the audit log is not as it was written",
                "keep the store as it is, and compare it with backups and with heads that were noted elsewhere",
            ))
        }
    }
}

fn row(entry: &Entry) -> [String; 6] {
    let requester = entry.evidence.as_ref().and_then(|evidence| evidence.get("requester")).and_then(serde_json::Value::as_str);
    [
        entry.number.to_string(),
        entry.at.to_string(),
        named(&entry.action),
        requester.unwrap_or("-").to_owned(),
        or_dash(entry.serial.as_ref()),
        entry.detail.clone(),
    ]
}
