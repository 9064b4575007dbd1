//! Durable issuance through `Engine::enroll`, from the opening of the CSR to the certificate, beside the bare cryptography that it
//! cannot do without: two P-256 verifications (the CSR's signature, and our own before it leaves) and one signature.
//!
//! Only processor time and ratios mean anything on a machine that does other things as well.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_precision_loss, clippy::cast_possible_truncation)] // a benchmark that fails should be loud

#[allow(dead_code)] // each benchmark uses a part of it
mod issuing;
#[allow(dead_code)] // each benchmark uses a part of it
mod measure;
#[allow(dead_code)] // each benchmark uses a part of it
mod node;

use std::path::PathBuf;
use std::time::Duration;

use ca_backend::figures::STORE_GROUPS;
use clap::Parser;
use gateway::telemetry::Figures;

use issuing::Subscribers;
use measure::{BareKey, Cost, on_threads};
use node::{Place, Store};

/// Measures durable issuance.
#[derive(Parser)]
struct Arguments {
    /// The storage engine.
    #[arg(long, value_enum, default_value = "sled")]
    store: Store,
    /// Requesters at once.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,256")]
    requesters: Vec<u64>,
    /// Certificates stored beforehand.
    #[arg(long, value_delimiter = ',', default_value = "0,100000")]
    stored: Vec<u64>,
    /// Also with 1,000,000 certificates stored, which takes minutes to prepare.
    #[arg(long)]
    full: bool,
    /// Seconds for each setting.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Prepares the stores below this directory, leaves them there, and uses them again the next time. It should lie on the disk that
    /// a daemon would use.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let mut arguments = Arguments::parse();
    if arguments.full {
        arguments.stored.push(1_000_000);
    }
    let figures = Figures::install().unwrap();
    let mut empty = None;
    println!(
        "store  stored   requesters  certificates/s  CPU us each  ceiling us  ratio  against empty  fsyncs each  disk bytes each"
    );
    for &stored in &arguments.stored {
        let place = Place::of(arguments.store, stored, arguments.keep.as_deref());
        let settings = node::settings(arguments.store, place.path());
        place.prepare(|| {
            let engine = node::open(&settings);
            if stored > 0 {
                Subscribers::of(&engine).load(stored);
            }
        });
        let engine = node::open(&settings);
        let subscribers = Subscribers::of(&engine);
        for &requesters in &arguments.requesters {
            let time = Duration::from_secs(arguments.seconds);
            let key = BareKey::generate();
            let before = ceiling(&key, requesters, time / 3);
            let (fsyncs, bytes) = (fsyncs(&figures), node::disk_bytes(place.path()));
            let issued = on_threads(requesters, time, |_, _| drop(subscribers.enroll()));
            let fsyncs = self::fsyncs(&figures) - fsyncs;
            let bytes = node::disk_bytes(place.path()).saturating_sub(bytes);
            let ceiling = before.and(ceiling(&key, requesters, time / 3));
            let against_empty = empty.map_or(1.0, |empty: f64| issued.cpu_us() / empty);
            if stored == 0 && Some(&requesters) == arguments.requesters.last() {
                empty = Some(issued.cpu_us());
            }
            println!(
                "{:<5?}  {stored:>7}  {requesters:>10}  {:>14.0}  {:>11.1}  {:>10.1}  {:>5.2}  {against_empty:>13.2}  {:>11.3}  {:>15.0}",
                arguments.store,
                issued.per_s(),
                issued.cpu_us(),
                ceiling.cpu_us(),
                issued.cpu_us() / ceiling.cpu_us(),
                fsyncs / issued.times as f64,
                bytes as f64 / issued.times as f64,
            );
        }
    }
}

fn ceiling(key: &BareKey, threads: u64, time: Duration) -> Cost {
    on_threads(threads, time, |_, _| {
        let signature = key.sign();
        key.verify(&signature);
        key.verify(&signature);
    })
}

/// How many groups of batches the store has made durable: one `fdatasync` each.
fn fsyncs(figures: &Figures) -> f64 {
    let text = figures.render();
    let line = text.lines().find_map(|line| line.strip_prefix(STORE_GROUPS)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}
