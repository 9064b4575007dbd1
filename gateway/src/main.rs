//! certgate: arguments in, exit code out.

use std::process::ExitCode;

use config::Settings;
use gateway::cli::{self, Arguments, Command, Failure, ServeArguments, Shared};
use gateway::{RunOptions, perspective, telemetry};

fn main() -> ExitCode {
    let Arguments { shared, command } = match cli::arguments() {
        Ok(arguments) => arguments,
        Err(done) => return done,
    };
    let done = if let Command::Serve(arguments) = &command {
        serve(&shared, arguments)
    } else if let Command::Perspective = &command {
        look(&shared)
    } else {
        cli::run(&shared, command)
    };
    cli::conclude(&shared, done)
}

fn serve(shared: &Shared, arguments: &ServeArguments) -> Result<(), Failure> {
    let settings = cli::serve_settings(shared, arguments)?;
    start_logs(&settings)?;
    let options = RunOptions { starter: arguments.starter };
    gateway::run(&settings, options, |ready| cli::announce(shared, ready))
        .map_err(|why| Failure::unavailable(why.to_string(), why.hint()))
}

fn look(shared: &Shared) -> Result<(), Failure> {
    let settings = cli::perspective_settings(shared)?;
    start_logs(&settings)?;
    perspective::run(&settings, |serving| cli::announce_perspective(shared, serving))
        .map_err(|why| Failure::unavailable(why.to_string(), why.hint()))
}

fn start_logs(settings: &Settings) -> Result<(), Failure> {
    telemetry::start_logs(&settings.log)
        .map_err(|why| Failure::usage(why.to_string(), "correct log.level; `certgate check-config` checks a file"))
}
