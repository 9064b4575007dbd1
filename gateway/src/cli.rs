//! The command line: arguments, the way to the daemon, and what people and programs get to see.
//!
//! Every command but `serve`, `perspective`, `check-config`, `export`, `import` and `completions` is one or two requests to the operators' API
//! of the running daemon.

mod acme;
mod audit;
mod authority;
mod certificate;
mod completions;
mod credential;
mod crl;
mod daemon;
mod endpoint;
mod failure;
mod issue;
mod key;
mod offline;
mod output;
mod parse;
mod perspective;
mod profile;
mod request;
mod serve;
mod status;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use failure::Failure;
pub use perspective::{announce_perspective, perspective_settings};
pub use serve::{ServeArguments, announce, serve_settings};

use daemon::Daemon;
use output::Output;

/// certgate: certificate authorities, and the protocols by which machines enroll.
#[derive(Debug, Parser)]
#[command(name = "certgate", version, about, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What all commands share.
    #[command(flatten)]
    pub shared: Shared,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 refused, or the answer is no; 2 wrong arguments, settings or files; \
                          3 the daemon cannot be reached; 4 the daemon cannot do it now.";

/// What all commands share.
#[derive(Clone, Debug, Args)]
pub struct Shared {
    /// The operators' socket [default: as the settings say, else that of ./certgate-starter if it is there]
    #[arg(long, global = true, env = "CERTGATE_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The settings of the daemon [default: /etc/certgate/certgate.toml if it is there]
    #[arg(long, global = true, env = "CERTGATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Serve(ServeArguments),
    /// Run a remote perspective: look for gateways at what they look at themselves
    Perspective,
    /// Say whether the daemon can do its work, and what keeps it from it
    Status,
    /// Root, issuing and external authorities
    #[command(subcommand)]
    Authority(authority::Command),
    /// Private keys, in files and tokens
    #[command(subcommand)]
    Key(key::Command),
    /// What certificates of one kind hold
    #[command(subcommand)]
    Profile(profile::Command),
    /// Protocols bound to authorities, profiles and access rules
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Account bindings, challenges and tokens for machines
    #[command(subcommand)]
    Credential(credential::Command),
    /// Who enrolls by ACME
    #[command(subcommand)]
    Acme(acme::Command),
    /// Issue, find and revoke certificates
    #[command(subcommand)]
    Certificate(certificate::Command),
    /// Requests that wait for an operator
    #[command(subcommand)]
    Request(request::Command),
    /// Certificate revocation lists
    #[command(subcommand)]
    Crl(crl::Command),
    /// The record of every decision
    #[command(subcommand)]
    Audit(audit::Command),
    /// Say whether the settings are right
    CheckConfig,
    /// Write every record of a stopped daemon to a file; keys are not among them
    Export(offline::ExportArguments),
    /// Read an export into the new, empty store of a daemon that has not run yet
    Import(offline::ImportArguments),
    /// Print completions for a shell
    Completions(completions::CompletionsArguments),
}

/// The arguments of this process. Help and the version are printed, and what is wrong is told, as JSON where that is asked for.
///
/// # Errors
/// The exit code, if there is nothing left to do.
pub fn arguments() -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|error| {
        let json = std::env::args_os().any(|argument| argument == "--json");
        if !json || !error.use_stderr() {
            // If nobody reads it, the exit code has to do.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
        let text = error.to_string();
        // What is wrong stands before the first empty line; usage and examples follow.
        let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
        let what = lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned();
        Failure::usage(what, "see the form of each argument with --help").report(Output { json })
    })
}

/// Does what `command` says, but for `serve` and `perspective`, which are the caller's.
///
/// # Errors
/// [`Failure`], which says what went wrong, what to do next, and the exit code.
pub fn run(shared: &Shared, command: Command) -> Result<(), Failure> {
    let output = Output { json: shared.json };
    let daemon = || Daemon::find(shared);
    match command {
        Command::Serve(_) | Command::Perspective => Err(Failure::usage(
            "`serve` and `perspective` are no requests to the daemon",
            "run them as `certgate serve` and `certgate perspective`",
        )),
        Command::Status => status::run(&daemon()?, output),
        Command::Authority(command) => authority::run(command, &daemon()?, output),
        Command::Key(command) => key::run(command, &daemon()?, output),
        Command::Profile(command) => profile::run(command, &daemon()?, output),
        Command::Endpoint(command) => endpoint::run(command, &daemon()?, output),
        Command::Credential(command) => credential::run(command, &daemon()?, output),
        Command::Acme(command) => acme::run(command, &daemon()?, output),
        Command::Certificate(command) => certificate::run(command, &daemon()?, output),
        Command::Request(command) => request::run(command, &daemon()?, output),
        Command::Crl(command) => crl::run(command, &daemon()?, output),
        Command::Audit(command) => audit::run(command, &daemon()?, output),
        Command::CheckConfig => offline::check_config(shared, output),
        Command::Export(arguments) => offline::export(shared, &arguments, output),
        Command::Import(arguments) => offline::import(shared, &arguments, output),
        Command::Completions(arguments) => completions::print(&arguments),
    }
}

/// Tells people or programs how it went.
#[must_use]
pub fn conclude(shared: &Shared, done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(Output { json: shared.json }),
    }
}
