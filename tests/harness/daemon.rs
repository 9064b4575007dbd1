//! The real daemon as a child process, on free loopback ports, and its command line.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use config::VARIABLE_PREFIX;
use serde_json::Value;
use tempfile::TempDir;

/// How long a daemon may take to become ready, on a machine that is busy with other things.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Where a daemon keeps its state, and on which ports it listens: what a restart does not change.
pub struct Site {
    directory: TempDir,
    variables: Vec<(String, OsString)>,
    /// The HTTPS port.
    pub https_port: u16,
    /// The HTTP port.
    pub http_port: u16,
}

/// A running daemon. It ends with this value.
pub struct Daemon<'a> {
    site: &'a Site,
    child: Child,
}

impl Site {
    /// An empty directory and free ports; `more` is appended to the settings.
    #[must_use]
    pub fn new(more: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let (https_port, http_port) = (free_port(), free_port());
        let state = directory.path().join("state");
        let settings = format!(
            "state_dir = {state:?}\n\n[https]\nlisten = \"127.0.0.1:{https_port}\"\nbase_url = \"https://localhost:{https_port}\"\n\n\
             [http]\nlisten = \"127.0.0.1:{http_port}\"\nbase_url = \"http://localhost:{http_port}\"\n\n{more}\n"
        );
        std::fs::write(directory.path().join("certgate.toml"), settings).unwrap();
        Self { directory, variables: Vec::new(), https_port, http_port }
    }

    /// Sets an environment variable for the daemon and its command line.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// A file or directory of this site.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the daemon with the starter PKI, and waits until it is ready.
    #[must_use]
    pub fn start(&self) -> Daemon<'_> {
        self.start_with(&[])
    }

    /// As [`Site::start`], with more arguments.
    #[must_use]
    pub fn start_with(&self, more: &[&str]) -> Daemon<'_> {
        let log = self.path("daemon.log");
        let mut child = self
            .command(&[&["serve", "--starter"], more].concat())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let (ready, waiting) = mpsc::channel();
        // The thread ends with the daemon, and keeps its output flowing until then.
        std::thread::spawn(move || {
            let mut line = String::new();
            while said.read_line(&mut line).is_ok_and(|octets| octets > 0) {
                let _nobody_waits_any_more = ready.send(std::mem::take(&mut line));
            }
        });
        let daemon = Daemon { site: self, child };
        if waiting.recv_timeout(READY_WITHIN).is_err() {
            panic!("the daemon did not become ready:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        daemon
    }

    /// `certgate ARGUMENTS` with this site's settings and no others: variables of the tests are unknown keys to the daemon.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(VARIABLE_PREFIX)) {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().cloned());
        command.args(arguments).arg("--config").arg(self.path("certgate.toml")).current_dir(self.directory.path());
        command
    }

    /// Runs a command of the command line, whatever comes of it.
    #[must_use]
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must succeed, and returns its JSON.
    #[must_use]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.output(&[arguments, &["--json"]].concat());
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "certgate {arguments:?} failed with {}:\n{said}{errors}", output.status);
        serde_json::from_str(&said).unwrap_or(Value::Null)
    }
}

impl Daemon<'_> {
    /// Ends the daemon at once, as a crash would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What the daemon logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.site.path("daemon.log")).unwrap_or_default()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

/// The daemon's binary: `TESTS_CERTGATE`, or the one beside the test programs.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TESTS_CERTGATE") {
        return PathBuf::from(path);
    }
    let beside = std::env::current_exe().unwrap();
    let found = beside.ancestors().map(|directory| directory.join("certgate")).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "there is no certgate beside {}. This test runs the daemon as a program, which building the tests does not make: \
             `cargo build -p gateway` first, and again after each change of the daemon; `tests/run --only NAME` does both",
            beside.display()
        )
    })
}

/// Asks until the answer is right: a daemon looks again for what was missing after a moment.
pub fn eventually(what: impl Fn() -> bool) {
    let began = ca_backend::Stopwatch::start();
    while !what() {
        assert!(began.elapsed() < Duration::from_secs(60), "it did not come back");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// A TCP port on which nobody listens now.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    listener.local_addr().unwrap().port()
}

/// One field of what the command line printed as JSON, at whatever depth it stands.
#[must_use]
pub fn field(answer: &Value, name: &str) -> Option<String> {
    match answer {
        Value::Object(fields) => {
            let here = fields.get(name).and_then(Value::as_str).map(str::to_owned);
            here.or_else(|| fields.values().find_map(|value| field(value, name)))
        }
        Value::Array(values) => values.iter().find_map(|value| field(value, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// A figure of the daemon whose `metrics.listen` is this port on loopback: that of this name with these labels, 0 if there is none.
#[must_use]
pub fn figure(metrics_port: u16, name: &str, labels: &[(&str, &str)]) -> u64 {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, metrics_port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let has = |line: &str| labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")));
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')) && has(line));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0, |count| count.parse().unwrap())
}

/// The text of a file, for messages of failed tests.
#[must_use]
pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| format!("{}: {error}", path.display()))
}
