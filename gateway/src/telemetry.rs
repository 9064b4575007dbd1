//! Logs and figures: where they go, and the names of the figures.

use std::fmt;
use std::io::IsTerminal as _;

use config::{LogFormat, LogSettings};
use metrics::Unit;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Tasks that wait for a thread of a lane; label `lane`.
pub const LANE_WAITING: &str = "certgate_lane_waiting";
/// Threads of a lane that are at work; label `lane`.
pub const LANE_BUSY_THREADS: &str = "certgate_lane_busy_threads";
/// Tasks that a full lane refused; label `lane`.
pub const LANE_REFUSED: &str = "certgate_lane_refused_total";
/// Tasks that panicked; label `lane`.
pub const LANE_PANICS: &str = "certgate_lane_panics_total";
/// Time that tasks waited for a thread; label `lane`.
pub const LANE_WAIT_SECONDS: &str = "certgate_lane_wait_seconds";
/// Open connections; label `listener`.
pub const CONNECTIONS: &str = "certgate_connections";
/// Connections closed at once, since there were too many; labels `listener`, `bound`.
pub const CONNECTIONS_REFUSED: &str = "certgate_connections_refused_total";
/// TLS handshakes that failed.
pub const HANDSHAKES_FAILED: &str = "certgate_handshakes_failed_total";
/// Requests answered from memory; label `mount`.
pub const REQUESTS_FROM_MEMORY: &str = "certgate_requests_from_memory_total";
/// Time from the whole request to its response, for requests that needed a lane; labels `mount`, `status`.
pub const REQUEST_SECONDS: &str = "certgate_request_seconds";
/// Requests that the gateway refused itself; label `status`.
pub const REQUESTS_REFUSED: &str = "certgate_requests_refused_total";
/// Requests to other hosts; labels `kind`, `outcome`.
pub const EGRESS_SECONDS: &str = "certgate_egress_seconds";
/// What remote perspectives said of validations that succeeded here; labels `perspective`, `outcome` (`agree`, `disagree`,
/// `unreachable`).
pub const PERSPECTIVE_LOOKS: &str = "certgate_perspective_looks_total";
/// Age of the CRL that is served; label `issuer`.
pub const CRL_AGE_SECONDS: &str = "certgate_crl_age_seconds";
/// Time until an authority's certificate ends; label `authority`.
pub const AUTHORITY_EXPIRES_SECONDS: &str = "certgate_authority_expires_seconds";
/// Whether a part works: 1 or 0; label `part` (`store`, `keys`, `resolver`).
pub const PART_USABLE: &str = "certgate_part_usable";
/// Whether an endpoint serves: 1, or 0 if it cannot be mounted; not a number once it is disabled or gone; label `endpoint`.
pub const ENDPOINT_MOUNTED: &str = "certgate_endpoint_mounted";

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};
use acme::LIMITED;
use ca_backend::figures::{ENROLLMENT_SECONDS, ENROLLMENTS, OCSP_SIGNED, STATUS_CHANGES, STORE_GROUPS};

/// Every figure, with the text that Prometheus shows.
const FIGURES: &[(Kind, &str, Unit, &str)] = &[
    (Gauge, LANE_WAITING, Unit::Count, "tasks that wait for a thread of a lane"),
    (Gauge, LANE_BUSY_THREADS, Unit::Count, "threads of a lane that are at work"),
    (Counter, LANE_REFUSED, Unit::Count, "tasks that a full lane refused"),
    (Counter, LANE_PANICS, Unit::Count, "tasks that panicked"),
    (Histogram, LANE_WAIT_SECONDS, Unit::Seconds, "time that tasks waited for a thread"),
    (Gauge, CONNECTIONS, Unit::Count, "open connections"),
    (Counter, CONNECTIONS_REFUSED, Unit::Count, "connections closed at once, since there were too many"),
    (Counter, HANDSHAKES_FAILED, Unit::Count, "TLS handshakes that failed"),
    (Counter, REQUESTS_FROM_MEMORY, Unit::Count, "requests answered from memory"),
    (Histogram, REQUEST_SECONDS, Unit::Seconds, "time to answer requests that needed a lane"),
    (Counter, REQUESTS_REFUSED, Unit::Count, "requests that the gateway refused itself"),
    (Histogram, EGRESS_SECONDS, Unit::Seconds, "time for requests to other hosts"),
    (Counter, PERSPECTIVE_LOOKS, Unit::Count, "what remote perspectives said of validations that succeeded here"),
    (Counter, STORE_GROUPS, Unit::Count, "groups of batches that the store made durable"),
    (Counter, ENROLLMENTS, Unit::Count, "outcomes of enrollment"),
    (Histogram, ENROLLMENT_SECONDS, Unit::Seconds, "time for an enrollment"),
    (Counter, LIMITED, Unit::Count, "ACME requests that a limit stopped"),
    (Counter, STATUS_CHANGES, Unit::Count, "certificates revoked, held and unheld"),
    (Gauge, CRL_AGE_SECONDS, Unit::Seconds, "age of the CRL that is served"),
    (Counter, OCSP_SIGNED, Unit::Count, "OCSP answers that were signed"),
    (Gauge, AUTHORITY_EXPIRES_SECONDS, Unit::Seconds, "time until an authority's certificate ends"),
    (Gauge, PART_USABLE, Unit::Count, "whether a part works"),
    (Gauge, ENDPOINT_MOUNTED, Unit::Count, "whether an enabled endpoint serves"),
];

/// Upper bounds of the histogram buckets, in seconds.
const BUCKETS_S: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Why logs or figures could not be set up.
#[derive(Debug)]
pub enum TelemetryError {
    /// The log level is no list of filter directives.
    Level(String),
    /// This process has its logs or figures already.
    Installed(String),
}

impl fmt::Display for TelemetryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level(why) => write!(f, "`log.level` is no filter such as \"info\" or \"info,acme=debug\": {why}"),
            Self::Installed(why) => write!(f, "logs or figures are installed already: {why}"),
        }
    }
}

impl std::error::Error for TelemetryError {}

/// Whether `level` is a filter that [`start_logs`] takes.
///
/// # Errors
/// [`TelemetryError::Level`] when it is none.
pub fn check_level(level: &str) -> Result<(), TelemetryError> {
    filter(level).map(drop)
}

/// Sends the logs of this process to standard error, as text or as JSON, and panics into the logs.
///
/// # Errors
/// A level that is no filter; logs that are installed already.
pub fn start_logs(settings: &LogSettings) -> Result<(), TelemetryError> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(&settings.level)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let installed = match settings.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    installed.map_err(|why| TelemetryError::Installed(why.to_string()))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder().parse(level).map_err(|why| TelemetryError::Level(why.to_string()))
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(
        place,
        thread = thread.name().unwrap_or_default(),
        why = panic.payload_as_str().unwrap_or_default(),
        "a request ended in a panic; this is a bug"
    );
}

/// The figures of this process.
#[derive(Clone)]
pub struct Figures(PrometheusHandle);

impl Figures {
    /// Collects figures from here on; handles that were taken before lead nowhere, so call it first.
    ///
    /// # Errors
    /// When this process collects figures already.
    pub fn install() -> Result<Self, TelemetryError> {
        let handle = PrometheusBuilder::new()
            .set_buckets(BUCKETS_S)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|why| TelemetryError::Installed(why.to_string()))?;
        describe();
        Ok(Self(handle))
    }

    /// All figures in the text format of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds what histograms gathered; to be called every few seconds, or memory grows until the next [`Figures::render`].
    pub fn fold(&self) {
        self.0.run_upkeep();
    }
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

fn describe() {
    for (kind, name, unit, text) in FIGURES {
        match kind {
            Counter => metrics::describe_counter!(*name, *unit, *text),
            Gauge => metrics::describe_gauge!(*name, *unit, *text),
            Histogram => metrics::describe_histogram!(*name, *unit, *text),
        }
    }
}
