//! What the benchmarks share: processor time, and the cost of bare cryptography on as many threads.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustix::time::{ClockId, clock_gettime};

/// The processor time, user and system, that this process has used on all its threads.
pub(crate) fn cpu() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap(), used.tv_nsec.try_into().unwrap())
}

/// How often something was done in a time, and what it cost.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    /// How often it was done.
    pub times: u64,
    /// Processor time of the whole process.
    pub cpu: Duration,
    /// Time on the wall.
    pub wall: Duration,
}

impl Cost {
    /// Microseconds of processor time each.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.times as f64
    }

    /// How many a second on this machine, with whatever else it does.
    pub(crate) fn per_s(&self) -> f64 {
        self.times as f64 / self.wall.as_secs_f64()
    }

    /// Both taken together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { times: self.times + other.times, cpu: self.cpu + other.cpu, wall: self.wall + other.wall }
    }
}

/// Does `work` on this many threads for a time. `work` gets the thread's number and how often it was called there before.
pub(crate) fn on_threads(threads: u64, time: Duration, work: impl Fn(u64, u64) + Sync) -> Cost {
    let over = AtomicBool::new(false);
    let times = AtomicU64::new(0);
    let begin = cpu();
    let clock = ca_backend::Stopwatch::start();
    thread::scope(|scope| {
        for number in 0..threads {
            let (over, times, work) = (&over, &times, &work);
            scope.spawn(move || {
                let mut done = 0;
                while !over.load(Ordering::Relaxed) {
                    work(number, done);
                    done += 1;
                }
                times.fetch_add(done, Ordering::Relaxed);
            });
        }
        thread::park_timeout(time);
        over.store(true, Ordering::Relaxed);
    });
    Cost { times: times.load(Ordering::Relaxed), cpu: cpu().saturating_sub(begin), wall: clock.elapsed() }
}

/// The octets of a usual TBSCertificate.
const MESSAGE: [u8; 600] = [0x5a; 600];

/// A P-256 key for bare cryptography.
pub(crate) struct BareKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl BareKey {
    /// A new key.
    pub(crate) fn generate() -> Self {
        Self { pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap(), random: SystemRandom::new() }
    }

    /// One signature.
    pub(crate) fn sign(&self) -> Vec<u8> {
        self.pair.sign(&self.random, black_box(&MESSAGE)).unwrap().as_ref().to_vec()
    }

    /// One verification.
    pub(crate) fn verify(&self, signature: &[u8]) {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.pair.public_key())
            .verify(black_box(&MESSAGE), signature)
            .unwrap();
    }
}
