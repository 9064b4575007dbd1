//! `certgate serve`: the settings that the daemon runs with.

use clap::Args;
use config::Settings;
use serde_json::json;

use super::Shared;
use super::failure::Failure;
use super::offline::{bad_settings, settings_file};
use super::output::Output;
use crate::{Ready, starter};

/// `certgate serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Make a root, an issuing authority and an ACME endpoint on an empty store, and print how to use them
    #[arg(long)]
    pub starter: bool,
}

/// The settings to run with. A starter that nobody configured keeps to loopback and to a directory below the working directory.
///
/// # Errors
/// A file that cannot be read, or settings that cannot be used.
pub fn serve_settings(shared: &Shared, arguments: &ServeArguments) -> Result<Settings, Failure> {
    let file = settings_file(shared);
    let mut settings = Settings::load(file.as_deref()).map_err(|why| bad_settings(&why))?;
    if let (Some(socket), true) = (&shared.socket, settings.operator.socket_path.is_none()) {
        settings.operator.socket_path = Some(socket.clone());
    }
    if arguments.starter && file.is_none() {
        // What the environment sets stays.
        let (default, starter) = (Settings::default(), starter::settings());
        if settings.state_dir == default.state_dir {
            settings.state_dir = starter.state_dir;
        }
        if settings.https.listen == default.https.listen {
            settings.https.listen = starter.https.listen;
        }
        if settings.http.listen == default.http.listen {
            settings.http.listen = starter.http.listen;
        }
    }
    Ok(settings)
}

/// Says where the daemon is reached, and what the starter made.
pub fn announce(shared: &Shared, ready: &Ready) {
    let facts = json!({ "https": ready.https, "http": ready.http, "operator_socket": ready.operator_socket });
    let shown = Output { json: shared.json }.show(&facts, |_| match &ready.starter {
        Some(text) => text.clone(),
        None => format!("certgate is ready: https {}, http {}, operators {}", ready.https, ready.http, ready.operator_socket.display()),
    });
    if shown.is_err() {
        tracing::warn!("nobody reads what the daemon says on standard output");
    }
}
