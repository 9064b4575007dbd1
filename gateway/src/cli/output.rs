//! What a command prints: text for people or JSON for programs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::failure::Failure;
use super::table::printable;

/// Whether people or programs read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) json: bool,
}

impl Output {
    /// Shows `value` as JSON, or as the text that `for_people` makes of it.
    pub(super) fn show<T: Serialize>(self, value: &T, for_people: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let text = if self.json {
            serde_json::to_string_pretty(value)
                .map_err(|why| Failure::unavailable(format!("the answer cannot be shown: {why}"), ""))?
        } else {
            for_people(value)
        };
        print(&text)
    }

    /// Says that something was done; programs know by the exit code.
    pub(super) fn done(self, text: &str) -> Result<(), Failure> {
        if self.json { Ok(()) } else { print(text) }
    }
}

impl Output {
    /// Tells people something beside the result.
    pub(super) fn note(self, text: &str) {
        if !self.json {
            // If nobody reads standard error, it is not worth failing.
            let _ = io::stderr().write_all(format!("certgate: {}\n", printable(text)).as_bytes());
        }
    }
}

/// A file that was opened before what goes into it was asked for. If nothing is delivered, all is as before.
pub(super) struct Delivery {
    path: PathBuf,
    file: File,
    made: bool,
}

impl Delivery {
    pub(super) fn to_file(path: &Path) -> Result<Self, Failure> {
        let made = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|why| Failure::file("write", path, &why))?;
        Ok(Self { path: path.to_owned(), file, made })
    }

    pub(super) fn deliver(mut self, octets: &[u8]) -> Result<PathBuf, Failure> {
        self.made = false;
        let regular = self.file.metadata().is_ok_and(|facts| facts.is_file());
        let cleared = if regular { self.file.set_len(0) } else { Ok(()) };
        let written = cleared.and_then(|()| self.file.write_all(octets));
        let synced = written.and_then(|()| if regular { self.file.sync_all() } else { Ok(()) });
        synced.map_err(|why| Failure::file("write", &self.path, &why))?;
        Ok(self.path.clone())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.made {
            // What stays behind is an empty file.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Prints to standard output. A reader that has seen enough is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let newline = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
    written(io::stdout().write_all(format!("{text}{newline}").as_bytes()))
}

fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::usage(format!("cannot write to standard output: {why}"), ""))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes octets to a file, or to standard output if none is named.
pub(super) fn deliver(octets: &[u8], out: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = out else { return written(io::stdout().write_all(octets)) };
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .and_then(|mut file| file.write_all(octets).and_then(|()| file.sync_all()));
    written.map_err(|why| Failure::file("write", path, &why))
}

/// Reads a file, or standard input for `-`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    /// What the daemon takes at most.
    const BYTES_MAX: u64 = crate::admin::BODY_BYTES_MAX as u64;
    let mut octets = Vec::new();
    let result = if path == Path::new("-") {
        io::stdin().take(BYTES_MAX + 1).read_to_end(&mut octets)
    } else {
        File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut octets))
    };
    result.map_err(|why| Failure::file("read", path, &why))?;
    if octets.len() as u64 > BYTES_MAX {
        return Err(Failure::usage(
            format!("{} has more than {BYTES_MAX} bytes", path.display()),
            "see whether it is the right file",
        ));
    }
    Ok(octets)
}

/// Reads a text file, or standard input for `-`.
pub(super) fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path)?).map_err(|_| {
        Failure::usage(format!("{} is not UTF-8 text", path.display()), "see whether it is the right file")
    })
}
