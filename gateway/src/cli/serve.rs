//! `certgate serve`: the settings that the daemon runs with.

use clap::Args;
use config::{Settings, TokenSettings};
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
    /// Where new keys of authorities are made: the name of a key store in the settings, or
    /// 'pkcs11:token=LABEL?module-path=MODULE&pin-source=FILE' for a token that the settings do not name
    #[arg(long, value_name = "STORE|URI")]
    pub key_store: Option<String>,
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
    if let Some(wanted) = &arguments.key_store {
        use_key_store(&mut settings, wanted)?;
    }
    Ok(settings)
}

/// The name that a token gets whose URI stands on the command line.
const NAMELESS: &str = "token";

/// New keys are made there. The attributes of the query are those of RFC 7512 section 2.4.
fn use_key_store(settings: &mut Settings, wanted: &str) -> Result<(), Failure> {
    let wrong = |why: &str| {
        Failure::usage(
            format!("--key-store: {why}"),
            "name a key store of the settings, or 'pkcs11:token=LABEL?module-path=/path/module.so&pin-source=/path/pin'",
        )
    };
    let keys = &mut settings.keys;
    let Some(uri) = wanted.strip_prefix("pkcs11:") else {
        if wanted != "file" && !keys.pkcs11.contains_key(wanted) {
            return Err(wrong(&format!("there is no key store {wanted:?}")));
        }
        keys.authorities = Some(wanted.to_owned());
        return Ok(());
    };
    let (path, query) = uri.split_once('?').ok_or_else(|| wrong("the URI names no module"))?;
    let mut token = TokenSettings { token: format!("pkcs11:{path}"), ..TokenSettings::default() };
    for attribute in query.split('&') {
        let (name, value) = attribute.split_once('=').ok_or_else(|| wrong("an attribute of the query has no value"))?;
        let value = percent_encoding::percent_decode_str(value)
            .decode_utf8()
            .map_err(|_| wrong("the query is not UTF-8"))?
            .into_owned();
        match name {
            "module-path" => token.module_path = value.into(),
            "pin-source" => token.pin_path = Some(value.strip_prefix("file:").unwrap_or(&value).into()),
            "pin-value" => return Err(wrong("a PIN must not stand on the command line: name a file with pin-source")),
            _ => return Err(wrong("the query takes module-path and pin-source")),
        }
    }
    if !token.module_path.is_absolute() {
        return Err(wrong("module-path must be the full path of the PKCS#11 module"));
    }
    if keys.pkcs11.contains_key(NAMELESS) {
        return Err(wrong("the settings call a token \"token\" already: name it, or call it something else"));
    }
    keys.pkcs11.insert(NAMELESS.to_owned(), token);
    keys.authorities = Some(NAMELESS.to_owned());
    Ok(())
}

/// Says where the daemon is reached, and what the starter made.
pub fn announce(shared: &Shared, ready: &Ready) {
    let facts = json!({ "https": ready.https, "http": ready.http, "operator_socket": ready.operator_socket });
    let shown = Output { json: shared.json }.show(&facts, |_| match &ready.starter {
        Some(text) => text.clone(),
        None => format!(
            "certgate is ready: https {}, http {}, operators {}",
            ready.https,
            ready.http,
            ready.operator_socket.display()
        ),
    });
    if shown.is_err() {
        tracing::warn!("nobody reads what the daemon says on standard output");
    }
}
