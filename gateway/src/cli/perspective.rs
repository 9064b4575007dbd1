//! `certgate perspective`: the settings that it runs with, and what it says.

use config::Settings;
use serde_json::json;

use super::Shared;
use super::failure::Failure;
use super::offline::{bad_settings, settings_file};
use super::output::Output;
use crate::perspective::Serving;

/// The settings to run with.
///
/// # Errors
/// A file that cannot be read, or settings that cannot be used.
pub fn perspective_settings(shared: &Shared) -> Result<Settings, Failure> {
    Settings::load(settings_file(shared).as_deref()).map_err(|why| bad_settings(&why))
}

/// Says where the perspective is reached.
pub fn announce_perspective(shared: &Shared, serving: &Serving) {
    let facts = json!({ "https": serving.https });
    let shown = Output { json: shared.json }
        .show(&facts, |_| format!("certgate perspective is ready: https {}", serving.https));
    if shown.is_err() {
        tracing::warn!("nobody reads what the perspective says on standard output");
    }
}
