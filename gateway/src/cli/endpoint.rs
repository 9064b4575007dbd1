//! `certgate endpoint`.

use std::path::PathBuf;

use ca_backend::EndpointName;
use clap::Subcommand;
use serde_json::Value;

use super::daemon::{Daemon, JSON, TOML, display, part};
use super::failure::Failure;
use super::output::{Output, read_text};
use super::table::table;
use crate::admin::endpoints::EndpointSummary;

/// What to do with endpoints.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List all endpoints
    List,
    /// Show one endpoint, as TOML
    Show {
        /// Its name
        name: EndpointName,
    },
    /// Make an endpoint, or change the one of the same name
    Put {
        /// The endpoint, TOML or JSON, as `certgate endpoint show` prints it; - for standard input
        file: PathBuf,
    },
    /// Remove an endpoint
    Delete {
        /// Its name
        name: EndpointName,
    },
}

pub(super) fn run(command: Command, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    match command {
        Command::List => {
            let endpoints: Vec<EndpointSummary> = daemon.get("/v1/endpoints")?;
            output.show(&endpoints, |endpoints| list(endpoints))
        }
        Command::Show { name } => {
            let endpoint: Value = daemon.get(&path(name.as_str()))?;
            let trouble = trouble(daemon, &name)?;
            output.show(&endpoint, |endpoint| match trouble {
                Some(why) => format!("# cannot be mounted: {why}\n{}", as_toml(endpoint)),
                None => as_toml(endpoint),
            })
        }
        Command::Put { file } => put(&file, daemon, output),
        Command::Delete { name } => {
            daemon.delete(&path(name.as_str()))?;
            output.done(&format!("removed {name}"))
        }
    }
}

/// Why an endpoint cannot be mounted. It is no part of the endpoint as operators write it.
fn trouble(daemon: &Daemon, name: &EndpointName) -> Result<Option<String>, Failure> {
    let endpoints: Vec<EndpointSummary> = daemon.get("/v1/endpoints")?;
    let found = endpoints.into_iter().find(|endpoint| endpoint.name == name.as_str());
    // On one line, as a comment of TOML has to be.
    Ok(found.and_then(|endpoint| endpoint.trouble).map(|why| why.replace(['\r', '\n'], " ")))
}

fn path(name: &str) -> String {
    format!("/v1/endpoints/{}", part(name))
}

fn put(file: &std::path::Path, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    let text = read_text(file)?;
    let unreadable = |why: &str| {
        Failure::usage(
            format!("{} is no endpoint: {why}", display(file)),
            "begin with the output of `certgate endpoint show`",
        )
    };
    let is_json = text.trim_start().starts_with('{');
    let document: Value = if is_json {
        serde_json::from_str(&text).map_err(|why| unreadable(&why.to_string()))?
    } else {
        toml::from_str(&text).map_err(|why| unreadable(&why.to_string()))?
    };
    let name = document.get("name").and_then(Value::as_str).ok_or_else(|| unreadable("it has no name"))?;
    let kind = if is_json { JSON } else { TOML };
    let stored: Value = daemon.put(&path(name), kind, text.clone().into_bytes())?;
    output.show(&stored, |_| format!("stored {name}"))
}

/// The endpoint as `put` takes it. TOML has no null, so what is null is left out.
fn as_toml(endpoint: &Value) -> String {
    let mut endpoint = endpoint.clone();
    leave_out_nulls(&mut endpoint);
    toml::to_string_pretty(&endpoint).unwrap_or_else(|_| endpoint.to_string())
}

fn leave_out_nulls(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|_, member| !member.is_null());
        members.values_mut().for_each(leave_out_nulls);
    } else if let Value::Array(elements) = value {
        elements.iter_mut().for_each(leave_out_nulls);
    }
}

fn list(endpoints: &[EndpointSummary]) -> String {
    let rows = endpoints.iter().map(|endpoint| {
        let state = match (endpoint.enabled, &endpoint.trouble) {
            (false, _) => "disabled",
            (true, None) => "enabled",
            (true, Some(_)) => "trouble",
        };
        [
            endpoint.name.clone(),
            endpoint.protocol.clone(),
            state.to_owned(),
            endpoint.authority.clone(),
            endpoint.rules.to_string(),
            endpoint.profiles.join(" "),
        ]
    });
    let table = table(["NAME", "PROTOCOL", "STATE", "AUTHORITY", "RULES", "PROFILES"], rows);
    let troubles = endpoints.iter().filter_map(|endpoint| Some((&endpoint.name, endpoint.trouble.as_ref()?)));
    troubles.fold(table, |text, (name, why)| format!("{}\n{name} cannot be mounted: {why}", text.trim_end()))
}
