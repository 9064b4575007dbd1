//! The starter daemon: memory when it has nothing to do, and the time until it is ready with many certificates stored.
//!
//! The daemon is `gateway::run` in a child process of this very program, which is what `certgate serve --starter` calls.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_precision_loss, clippy::cast_possible_truncation)] // a benchmark that fails should be loud

#[allow(dead_code)] // each benchmark uses a part of it
mod issuing;
#[allow(dead_code)] // each benchmark uses a part of it
mod measure;
#[allow(dead_code)] // each benchmark uses a part of it
mod node;
#[allow(dead_code)] // each benchmark uses a part of it
mod process;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use clap::Parser;
use gateway::RunOptions;

use issuing::Subscribers;
use node::{Place, Store};

/// Measures the daemon that has nothing to do.
#[derive(Parser)]
struct Arguments {
    /// The storage engines.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sled,redb")]
    store: Vec<Store>,
    /// Certificates stored beforehand.
    #[arg(long, value_delimiter = ',', default_value = "0,100000")]
    stored: Vec<u64>,
    /// Also with 1,000,000 certificates stored, which takes minutes to prepare.
    #[arg(long)]
    full: bool,
    /// Seconds before the memory is looked at.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Prepares the stores below this directory, leaves them there, and uses them again the next time.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Runs the daemon in this directory: what the benchmark asks of its own child.
    #[arg(long, hide = true)]
    daemon: Option<PathBuf>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Wanted: resident memory of the daemon in MB, without certificates.
const MEMORY_MB_MAX: f64 = 40.0;
/// Wanted: seconds until it is ready, with a million certificates.
const READY_S_MAX: f64 = 5.0;

fn main() {
    let mut arguments = Arguments::parse();
    if let Some(directory) = &arguments.daemon {
        return run(arguments.store.first().copied().unwrap(), directory);
    }
    if arguments.full {
        arguments.stored.push(1_000_000);
    }
    println!("store  stored   after  ready s  against wanted  CPU s  idle MB  against wanted");
    for &store in &arguments.store {
        for &stored in &arguments.stored {
            let place = Place::of(store, stored, arguments.keep.as_deref());
            place.prepare(|| prepare(store, place.path(), stored));
            let rest = Duration::from_secs(arguments.seconds);
            measure(store, place.path(), stored, "stop", rest);
            measure(store, place.path(), stored, "kill", rest);
        }
    }
}

/// Lets the starter make its PKI, then stores certificates.
fn prepare(store: Store, directory: &Path, stored: u64) {
    let engine = node::open(&node::settings(store, directory));
    if stored > 0 {
        Subscribers::of(&engine).load(stored);
    }
}

/// How a daemon starts after the store was closed in order, or after the one before was killed.
fn measure(store: Store, directory: &Path, stored: u64, after: &str, rest: Duration) {
    let clock = ca_backend::Stopwatch::start();
    let mut daemon = start(store, directory);
    let ready_s = clock.elapsed().as_secs_f64();
    thread::park_timeout(rest);
    let memory_mb = process::memory_of_mb(daemon.id());
    let cpu_s = process::cpu_of_s(daemon.id());
    println!(
        "{store:<5?}  {stored:>7}  {after:>5}  {ready_s:>7.2}  {:>14.2}  {cpu_s:>5.2}  {memory_mb:>7.1}  {:>14.2}",
        ready_s / READY_S_MAX,
        memory_mb / MEMORY_MB_MAX,
    );
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// Starts the daemon and waits until it says that it is ready.
fn start(store: Store, directory: &Path) -> Child {
    let store = format!("{store:?}").to_lowercase();
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--store", &store, "--daemon"])
        .arg(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    daemon
}

fn run(store: Store, directory: &Path) {
    let mut settings = node::settings(store, directory);
    settings.https.listen.set_port(0);
    settings.http.listen.set_port(0);
    gateway::run(&settings, RunOptions { starter: true }, |_| println!("ready")).unwrap();
}
