//! `certgate key`: where private keys are.

use ca_backend::KeyAlgorithm;
use clap::Subcommand;
use http::Method;
use serde_json::json;

use super::daemon::{Daemon, part};
use super::failure::Failure;
use super::output::Output;
use super::table::{or_dash, table};
use crate::admin::keys::{Key, KeyStoreTested, KeyTest, KeyWish, NewKey};

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List private keys, and who uses them
    List {
        /// Only those of this key store
        #[arg(long, value_name = "NAME")]
        store: Option<String>,
    },
    /// Make a private key that an authority may adopt later (`certgate authority create --key`)
    Generate {
        /// What it shall be called: lower-case letters, digits, - and .
        label: String,
        /// ec-p256, ec-p384, ec-p521, rsa-2048, rsa-3072, rsa-4096 or ed25519
        #[arg(long, default_value_t = KeyAlgorithm::EcP256)]
        algorithm: KeyAlgorithm,
        /// The key store [default: the one for authorities' keys]
        #[arg(long, value_name = "NAME")]
        store: Option<String>,
    },
    /// Try everything that authorities need of a key store, and measure how fast it signs; its keys stay as they are
    Test {
        /// The key store: `file`, or the name of a token in the settings
        store: String,
        /// How long each rate is measured, in milliseconds
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        measure_ms: u64,
    },
}

pub(super) fn run(command: Command, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    match command {
        Command::List { store } => {
            let query = store.map(|store| format!("?store={}", part(&store))).unwrap_or_default();
            let keys: Vec<Key> = daemon.get(&format!("/v1/keys{query}"))?;
            output.show(&keys, |keys| {
                let rows = keys.iter().map(|key| {
                    [key.store.clone(), or_dash(key.algorithm.as_ref()), key.used_by.join(", "), key.key.clone()]
                });
                table(["STORE", "ALGORITHM", "USED BY", "KEY"], rows)
            })
        }
        Command::Generate { label, algorithm, store } => {
            let made: NewKey = daemon.ask(Method::POST, "/v1/keys", &KeyWish { label, algorithm, store })?;
            output.show(&made, |made| made.key.clone())
        }
        Command::Test { store, measure_ms } => {
            let path = format!("/v1/key-stores/{}/test", part(&store));
            let tested: KeyStoreTested = daemon.ask(Method::POST, &path, &json!(KeyTest { measure_ms }))?;
            output.show(&tested, report)?;
            if tested.abilities.iter().all(|tried| tried.why_not.is_none()) {
                return Ok(());
            }
            Err(Failure::refused(
                format!("the key store {store} cannot do everything"),
                "see above; what it cannot do matters only if you need it",
            ))
        }
    }
}

fn report(tested: &KeyStoreTested) -> String {
    let abilities = tested.abilities.iter().map(|tried| {
        let state = if tried.why_not.is_none() { "works" } else { "does not work" };
        [tried.what.clone(), state.to_owned(), tried.why_not.clone().unwrap_or_default()]
    });
    let rates = tested
        .rates
        .iter()
        .map(|rate| [rate.algorithm.to_string(), rate.at_a_time.to_string(), rate.per_s.to_string()]);
    format!("{}\n{}", table(["WHAT", "STATE", "WHY"], abilities), table(["SIGNING", "AT A TIME", "PER SECOND"], rates))
}
