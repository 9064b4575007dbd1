//! `certgate profile`.

use std::path::PathBuf;

use ca_backend::ProfileName;
use clap::Subcommand;

use super::daemon::{Daemon, TOML, display, part};
use super::failure::Failure;
use super::output::{Output, print, read_text};
use super::table::table;
use crate::admin::profiles::ProfileSummary;

/// What to do with profiles.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List all profiles
    List,
    /// Show one profile, as TOML
    Show {
        /// Its id
        id: ProfileName,
    },
    /// Store a profile of your own, in place of one of the same id
    Add {
        /// The profile, TOML, as `certgate profile show` prints it; - for standard input
        file: PathBuf,
    },
    /// Remove a profile of your own
    Remove {
        /// Its id
        id: ProfileName,
    },
}

pub(super) fn run(command: Command, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    match command {
        Command::List => {
            let profiles: Vec<ProfileSummary> = daemon.get("/v1/profiles")?;
            output.show(&profiles, |profiles| list(profiles))
        }
        Command::Show { id } if output.json => {
            let profile: serde_json::Value = daemon.get(&path(id.as_str()))?;
            output.show(&profile, ToString::to_string)
        }
        Command::Show { id } => {
            let text = daemon.octets(&format!("{}?format=toml", path(id.as_str())))?;
            print(&String::from_utf8_lossy(&text))
        }
        Command::Add { file } => {
            let text = read_text(&file)?;
            let unreadable = |why: &str| Failure::usage(format!("{} is no profile: {why}", display(&file)), "begin with the output of `certgate profile show`");
            let document: toml::Table = toml::from_str(&text).map_err(|why| unreadable(&why.to_string()))?;
            let id = document.get("id").and_then(toml::Value::as_str).ok_or_else(|| unreadable("it has no id"))?;
            let stored: ProfileSummary = daemon.put(&path(id), TOML, text.into_bytes())?;
            output.show(&stored, |stored| format!("stored {} as {}", stored.id, stored.snapshot))
        }
        Command::Remove { id } => {
            daemon.delete(&path(id.as_str()))?;
            output.done(&format!("removed {id}"))
        }
    }
}

fn path(id: &str) -> String {
    format!("/v1/profiles/{}", part(id))
}

fn list(profiles: &[ProfileSummary]) -> String {
    let rows = profiles.iter().map(|profile| {
        let origin = if profile.built_in { "built in" } else { "own" };
        [profile.id.clone(), profile.library.clone(), origin.to_owned(), profile.title.clone()]
    });
    table(["ID", "SERVICE", "ORIGIN", "TITLE"], rows)
}
