//! Why a command failed, and the exit code for it.

use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::output::Output;
use super::table::printable;
use crate::admin::{MALFORMED_HINT, Problem};

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: Kind,
    what: String,
    hint: String,
    problem: Option<Box<Problem>>,
}

/// The exit codes. `certgate(8)` and `certgate --help` list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Refused = 1,
    Usage = 2,
    Unreachable = 3,
    Unavailable = 4,
}

impl Failure {
    fn new(kind: Kind, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind, what: what.into(), hint: hint.into(), problem: None }
    }

    /// The answer is no (exit code 1).
    pub(super) fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Kind::Refused, what, hint)
    }

    /// Arguments, settings or files that cannot be used (exit code 2).
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what, hint)
    }

    /// Nobody answers (exit code 3).
    pub(super) fn unreachable(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Kind::Unreachable, what, hint)
    }

    /// It cannot be done now (exit code 4).
    pub fn unavailable(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, what, hint)
    }

    /// A file that cannot be read or written (exit code 2).
    pub(super) fn file(doing: &str, path: &Path, why: &std::io::Error) -> Self {
        let is = |kind| why.kind() == kind;
        let hint = if is(ErrorKind::AlreadyExists) {
            "nothing is overwritten: name another file, or move this one away"
        } else if is(ErrorKind::NotFound) {
            "see whether the path is right"
        } else {
            "see whether the path and its permissions are right"
        };
        Self::usage(format!("cannot {doing} {}: {why}", path.display()), hint)
    }

    /// What the daemon said.
    pub(super) fn of_problem(problem: Problem) -> Self {
        let kind = if problem.status >= 500 { Kind::Unavailable } else { Kind::Refused };
        let mut hint = match problem.hint.as_str() {
            MALFORMED_HINT => "see the form of each argument with --help".to_owned(),
            hint => hint.to_owned(),
        };
        if let (Kind::Unavailable, Some(id)) = (kind, &problem.request_id) {
            hint = format!("{hint} (request {id})");
        }
        Self { kind, what: problem.detail.clone(), hint, problem: Some(Box::new(problem)) }
    }

    /// Prints it to standard error and gives the exit code.
    pub(super) fn report(&self, output: Output) -> ExitCode {
        let text = if output.json {
            let problem = match &self.problem {
                Some(problem) => json!(problem),
                None => json!({ "detail": self.what, "hint": self.hint }),
            };
            format!("{problem}\n")
        } else {
            let hint =
                if self.hint.is_empty() { String::new() } else { format!("what to do: {}\n", printable(&self.hint)) };
            format!("certgate: {}\n{hint}", printable(&self.what))
        };
        // If nobody reads standard error, the exit code has to do.
        let _ = std::io::stderr().write_all(text.as_bytes());
        ExitCode::from(self.kind as u8)
    }
}
