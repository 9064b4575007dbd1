//! A CRL with a million entries, published through the engine: processor time, and memory above that of the idle engine.
//!
//! The measured engine runs in a process of its own, so that the memory in which the store was filled does not hide what is needed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_precision_loss, clippy::cast_possible_truncation)] // a benchmark that fails should be loud

#[allow(dead_code)] // each benchmark uses a part of it
mod measure;
#[allow(dead_code)] // each benchmark uses a part of it
mod node;
#[allow(dead_code)] // each benchmark uses a part of it
mod process;

use std::path::PathBuf;
use std::process::Command;

use ca_backend::testing::load_revocations;
use clap::Parser;
use tests::pki::ISSUING;

use node::Store;

/// Measures the publication of a large CRL.
#[derive(Parser)]
struct Arguments {
    /// The storage engine.
    #[arg(long, value_enum, default_value = "sled")]
    store: Store,
    /// Revoked certificates.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
    /// Publishes the CRL of the engine in this directory: what the benchmark asks of its own child.
    #[arg(long, hide = true)]
    publish: Option<PathBuf>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Wanted: seconds of one core.
const CPU_S_MAX: f64 = 1.5;
/// Wanted: MB above the idle engine.
const MEMORY_MB_MAX: f64 = 200.0;

fn main() {
    let arguments = Arguments::parse();
    if let Some(directory) = &arguments.publish {
        return publish(arguments.store, directory);
    }
    let directory = tempfile::tempdir().unwrap();
    let engine = node::open(&node::settings(arguments.store, directory.path()));
    load_revocations(&engine, ISSUING, arguments.entries).unwrap();
    drop(engine);
    let store = format!("{:?}", arguments.store).to_lowercase();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--store", &store, "--publish"])
        .arg(directory.path())
        .status();
    assert!(child.unwrap().success());
}

fn publish(store: Store, directory: &std::path::Path) {
    let settings = node::settings(store, directory);
    let engine = gateway::open_engine(&settings).unwrap();
    // Once with what was there, so that caches are warm and everything that stays is in memory.
    let first = engine.publish_crl(ISSUING).unwrap();
    drop(first);
    process::forget_peak();
    let idle = process::memory_mb();
    let (begin, clock) = (measure::cpu(), ca_backend::Stopwatch::start());
    let crl = engine.publish_crl(ISSUING).unwrap();
    let cpu_s = (measure::cpu() - begin).as_secs_f64();
    let above = process::peak_memory_mb() - idle;
    println!("store  CRL MB  CPU s  against wanted  wall s  idle MB  peak MB above  against wanted");
    println!(
        "{store:<5?}  {:>6.1}  {cpu_s:>5.2}  {:>14.2}  {:>6.2}  {idle:>7.1}  {above:>13.1}  {:>14.2}",
        crl.der.len() as f64 / 1e6,
        cpu_s / CPU_S_MAX,
        clock.elapsed().as_secs_f64(),
        above / MEMORY_MB_MAX,
    );
}
