//! `certgate completions`.

use clap::{Args, CommandFactory as _};

use super::failure::Failure;
use super::output::deliver;

/// `certgate completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// Which shell
    shell: clap_complete::Shell,
}

pub(super) fn print(arguments: &CompletionsArguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "certgate", &mut script);
    deliver(&script, None)
}
