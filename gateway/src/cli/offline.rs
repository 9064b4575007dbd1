//! What is done without a daemon: looking at the settings, and moving the store.

use std::fs::OpenOptions;
use std::io::{BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ca_backend::{Engine, Error, Reason};
use clap::Args;
use config::{Settings, SettingsError};
use serde_json::json;

use super::Shared;
use super::failure::Failure;
use super::output::Output;
use crate::{open_engine, starter, store_kind, store_options, telemetry};

/// `certgate export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// A file that does not exist yet
    file: PathBuf,
}

/// `certgate import`.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// What `certgate export` wrote
    file: PathBuf,
}

/// Where a package puts the settings.
const SETTINGS_FILE: &str = "/etc/certgate/certgate.toml";

/// The file of the settings: the one that is named, else that of the package if it is there.
pub(super) fn settings_file(shared: &Shared) -> Option<PathBuf> {
    let packaged = || Some(PathBuf::from(SETTINGS_FILE)).filter(|path| path.exists());
    shared.config.clone().or_else(packaged)
}

pub(super) fn bad_settings(why: &SettingsError) -> Failure {
    Failure::usage(
        why.to_string(),
        "the shipped certgate.toml explains every key; `certgate check-config` checks a file",
    )
}

pub(super) fn check_config(shared: &Shared, output: Output) -> Result<(), Failure> {
    let file = settings_file(shared);
    let settings = Settings::load(file.as_deref()).map_err(|why| bad_settings(&why))?;
    telemetry::check_level(&settings.log.level)
        .map_err(|why| Failure::usage(why.to_string(), "write \"info\", or \"info,acme=debug\""))?;
    let read = file.map_or_else(|| "defaults and environment".to_owned(), |file| file.display().to_string());
    output.show(&settings, |settings| {
        format!("{read}: the settings are right; state_dir is {}", settings.state_dir.display())
    })
}

/// The settings of the store to move: those of the file, else of a starter below the working directory.
fn settings_of_store(shared: &Shared) -> Result<Settings, Failure> {
    let file = settings_file(shared);
    let settings = Settings::load(file.as_deref()).map_err(|why| bad_settings(&why))?;
    let beside = starter::settings();
    let unconfigured = file.is_none() && settings.state_dir == Settings::default().state_dir;
    Ok(if unconfigured && beside.state_dir.is_dir() {
        Settings { state_dir: beside.state_dir, ..settings }
    } else {
        settings
    })
}

pub(super) fn export(shared: &Shared, arguments: &ExportArguments, output: Output) -> Result<(), Failure> {
    let settings = settings_of_store(shared)?;
    if !settings.store_directory().is_dir() {
        let what = format!("there is no store in {}", settings.store_directory().display());
        return Err(Failure::usage(what, "name the settings of the daemon with --config"));
    }
    let engine = open_engine(&settings).map_err(|why| Failure::unavailable(why.to_string(), STOPPED))?;
    let path = arguments.file.as_path();
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = BufWriter::new(file.map_err(|why| Failure::file("create", path, &why))?);
    let written = engine.export(&mut file).map_err(|error| of_engine(&error)).and_then(|records| {
        let synced = file.flush().and_then(|()| file.get_ref().sync_all());
        synced.map(|()| records).map_err(|why| Failure::file("write", path, &why))
    });
    match written {
        Ok(records) => {
            moved(output, records, path, "exported to", "import it with `certgate import`; copy the key files yourself")
        }
        Err(failure) => {
            // Half an export would be taken for a whole one.
            let _ = std::fs::remove_file(path);
            Err(failure)
        }
    }
}

pub(super) fn import(shared: &Shared, arguments: &ImportArguments, output: Output) -> Result<(), Failure> {
    let settings = settings_of_store(shared)?;
    let path = arguments.file.as_path();
    let file = std::fs::File::open(path).map_err(|why| Failure::file("read", path, &why))?;
    starter::private_directory(&settings.state_dir)
        .map_err(|why| Failure::file("create", &settings.state_dir, &why))?;
    let records = Engine::import(
        store_kind(&settings),
        &settings.store_directory(),
        store_options(&settings),
        &mut BufReader::new(file),
    );
    let records = records.map_err(|error| not_imported(&error, &settings))?;
    moved(
        output,
        records,
        path,
        "imported from",
        "put the key files of the old daemon in place before you start this one",
    )
}

const STOPPED: &str = "stop the daemon first: a store has one user at a time";

fn of_engine(error: &Error) -> Failure {
    match error {
        Error::Fault(fault) => Failure::unavailable(fault.to_string(), STOPPED),
        Error::Refused(refusal) => Failure::refused(refusal.public(), STOPPED),
    }
}

fn not_imported(error: &Error, settings: &Settings) -> Failure {
    match error {
        Error::Fault(fault) => Failure::unavailable(fault.to_string(), STOPPED),
        Error::Refused(refusal) if refusal.reason() == Reason::Conflict => Failure::refused(
            format!("{}: {}", settings.store_directory().display(), refusal.public()),
            "name the settings of a daemon that has not run yet with --config, or another CERTGATE_STATE_DIR",
        ),
        Error::Refused(refusal) => Failure::usage(
            refusal.public(),
            "take a whole and unchanged file that `certgate export` wrote, and an empty store",
        ),
    }
}

fn moved(output: Output, records: u64, path: &Path, how: &str, next: &str) -> Result<(), Failure> {
    let file = path.display();
    output.show(&json!({ "records": records, "file": path }), |_| format!("{records} records {how} {file}\n{next}"))
}
