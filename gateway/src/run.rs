//! The daemon from its start to its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ca_backend::{Engine, EngineParts, EngineSettings, Error, KeyEncryptionSecret, KeyFault, StoreKind, StoreOptions};
use config::{Settings, StoreEngine};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::admin::{self, AdminState, SocketError, StatusPages};
use crate::jobs::Jobs;
use crate::listen::{Bounds, Listener, Mount, Mounts, On, Security};
use crate::server_certificate::{ServerCertificate, ServerCertificateError};
use crate::starter::{self, StarterError};
use crate::telemetry::{Figures, TelemetryError};
use crate::wiring::{Lanes, MountError, Wiring};

/// What the command line adds to the settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// Make the starter PKI if the store is empty.
    pub starter: bool,
}

/// Where a daemon that is ready can be reached.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The listener with TLS. It accepts connections once an authority has issued its certificate.
    pub https: SocketAddr,
    /// The listener without TLS.
    pub http: SocketAddr,
    /// The operators' API.
    pub operator_socket: PathBuf,
    /// What the starter made or found, as text for people.
    pub starter: Option<String>,
}

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Figures cannot be collected.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The records or keys cannot be opened.
    #[error("failed to open the store and keys in {directory}: {why}")]
    Engine {
        /// The state directory.
        directory: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A socket cannot be bound, or the system gives no threads.
    #[error("failed to {doing}: {error}")]
    System {
        /// What was being done.
        doing: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The starter PKI cannot be made.
    #[error(transparent)]
    Starter(#[from] StarterError),
    /// The settings name no usable server certificate.
    #[error(transparent)]
    ServerCertificate(#[from] ServerCertificateError),
    /// The operators' socket cannot be bound.
    #[error(transparent)]
    OperatorSocket(#[from] SocketError),
    /// An enabled endpoint cannot be mounted.
    #[error("failed to start endpoint {}: {:?}", .0.endpoint, .0.error)]
    Mount(MountError),
}

/// Opens the engine that the settings describe.
///
/// # Errors
/// [`RunError::Engine`] that says what cannot be opened.
pub fn open_engine(settings: &Settings) -> Result<Engine, RunError> {
    let failed = |why: String| RunError::Engine { directory: settings.state_dir.clone(), why };
    starter::private_directory(&settings.state_dir).map_err(|error| failed(error.to_string()))?;
    let key_secret = key_secret(settings).map_err(|error| failed(error.to_string()))?;
    let parts = EngineParts {
        store: store_kind(settings),
        store_directory: settings.store_directory(),
        store_options: store_options(settings),
        key_directory: settings.keys_directory(),
        key_secret,
        settings: engine_settings(settings),
    };
    Engine::open(parts).map_err(|error| match error {
        Error::Fault(fault) => failed(fault.to_string()),
        Error::Refused(refusal) => failed(refusal.private()),
    })
}

/// A credential of systemd was made by an operator, and its group may read it: an access control list lets the daemon's
/// user in, whose mask shows as the group's mode. Any other file is the daemon's own.
fn key_secret(settings: &Settings) -> Result<KeyEncryptionSecret, KeyFault> {
    let path = settings.keys_secret_path();
    let from_systemd = std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|directory| path.starts_with(directory));
    if from_systemd { KeyEncryptionSecret::load(&path) } else { KeyEncryptionSecret::load_or_create(&path) }
}

/// The storage engine of the settings.
#[must_use]
pub fn store_kind(settings: &Settings) -> StoreKind {
    match settings.store.engine {
        StoreEngine::Memory => StoreKind::Memory,
        StoreEngine::Sled => StoreKind::Sled,
        StoreEngine::Redb => StoreKind::Redb,
    }
}

/// The storage engine's share of the machine.
#[must_use]
pub fn store_options(settings: &Settings) -> StoreOptions {
    StoreOptions { cache_bytes: settings.store.cache_bytes, reserve_bytes: settings.store.reserve_bytes }
}

fn engine_settings(settings: &Settings) -> EngineSettings {
    const DAY_S: u64 = 86_400;
    let issuing = &settings.issuing;
    EngineSettings {
        status_base_url: settings.http.base_url.clone(),
        backdate_s: issuing.backdate_s,
        repeat_window_s: issuing.repeat_window_s,
        issue_rate_per_requester_per_s: settings.limits.issue_rate_per_requester_per_s,
        issue_burst_per_requester_max: settings.limits.issue_burst_per_requester_max,
        crl_validity_s: issuing.crl_validity_s,
        crl_renew_s: issuing.crl_renew_s,
        crl_publish_delay_s: issuing.crl_publish_delay_s,
        ocsp_validity_s: issuing.ocsp_validity_s,
        ocsp_cache_entries_max: issuing.ocsp_cache_entries_max,
        status_retention_s: u64::from(issuing.status_retention_days) * DAY_S,
        clock_backwards_max_s: issuing.clock_backwards_max_s,
        wrong_secrets_per_peer_per_min_max: settings.limits.wrong_secrets_per_peer_per_min_max,
        audited_refusals_per_endpoint_per_min_max: settings.limits.audited_refusals_per_endpoint_per_min_max,
    }
}

/// Runs the daemon until it is told to stop by SIGTERM or SIGINT; then what runs is finished. `ready` is called once everything is
/// up.
///
/// # Errors
/// Whatever keeps the daemon from starting.
pub fn run(settings: &Settings, options: RunOptions, ready: impl FnOnce(&Ready)) -> Result<(), RunError> {
    let figures = Figures::install()?;
    let engine = open_engine(settings)?;
    engine.maintain();
    let starter = if options.starter { Some(starter::prepare(&engine, settings)?) } else { None };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| RunError::System { doing: "start the network threads".to_owned(), error })?;
    let lanes = Lanes::start(settings)
        .map_err(|error| RunError::System { doing: "start the worker threads".to_owned(), error })?;
    let served = runtime.block_on(serve(settings, engine, lanes.clone(), figures, starter, ready));
    runtime.shutdown_background();
    lanes.stop();
    served
}

async fn serve(
    settings: &Settings,
    engine: Engine,
    lanes: Lanes,
    figures: Figures,
    starter: Option<String>,
    ready: impl FnOnce(&Ready),
) -> Result<(), RunError> {
    let https = bind("https", settings.https.listen).await?;
    let http = bind("http", settings.http.listen).await?;
    let mounts = Mounts::default();
    let status_lane = lanes.status.clone();
    let wiring = Arc::new(Wiring::new(
        engine.clone(),
        settings.clone(),
        mounts.clone(),
        lanes,
        tokio::runtime::Handle::current(),
        vec![https.address(), http.address()],
    ));
    wiring.remount().map_err(RunError::Mount)?;

    let operators = admin::bind(&settings.operator_socket_path(), settings.operator.socket_group.as_deref())?;
    let changed = wiring.clone();
    let admin_state = AdminState {
        engine: engine.clone(),
        check_endpoint: Arc::new(Wiring::check),
        endpoints_changed: Arc::new(move || {
            if let Err(error) = changed.remount() {
                tracing::error!(endpoint = error.endpoint, error = ?error.error, "failed to mount a changed endpoint");
            }
        }),
        figures: figures.clone(),
    };

    let metrics = match settings.metrics.listen {
        Some(address) => Some(bind("metrics", address).await?),
        None => None,
    };
    let status_mounts = Mounts::default();
    let pages: Arc<dyn endpoint::Endpoint> = Arc::new(StatusPages::new(engine.clone(), figures.clone()));
    let page = |path| Mount::new(On::Plain, path, pages.clone(), status_lane.clone(), 0);
    status_mounts.replace(StatusPages::PATHS.map(page).into());

    let signals = "listen for signals";
    let of_system = |error| RunError::System { doing: signals.to_owned(), error };
    let mut terminate = signal(SignalKind::terminate()).map_err(of_system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(of_system)?;

    let (stop, stopped) = watch::channel(false);
    let (tls_ready, tls) = oneshot::channel();
    let jobs = Jobs {
        engine: engine.clone(),
        wiring: wiring.clone(),
        server_certificate: ServerCertificate::new(engine.clone(), settings)?,
        figures: figures.clone(),
        tls_ready: Some(tls_ready),
    };
    let (jobs_stop, jobs_stopped) = std::sync::mpsc::channel();
    let jobs = std::thread::Builder::new()
        .name("jobs".to_owned())
        .spawn(move || jobs.run(&jobs_stopped))
        .map_err(|error| RunError::System { doing: "start the thread of timed work".to_owned(), error })?;

    let operator_socket = settings.operator_socket_path();
    let ready_facts = Ready { https: https.address(), http: http.address(), operator_socket, starter };
    let bounds = Bounds::new(settings);
    let grace = std::time::Duration::from_secs(settings.limits.shutdown_grace_s);
    let operators = tokio::spawn(admin::serve(operators, admin::router(admin_state), grace, stopped.clone()));
    let metrics = metrics
        .map(|metrics| tokio::spawn(metrics.serve(Security::Plain, status_mounts, bounds.clone(), stopped.clone())));
    let plain = tokio::spawn(http.serve(Security::Plain, mounts.clone(), bounds.clone(), stopped.clone()));
    let secure = {
        let mut stopped = stopped.clone();
        tokio::spawn(async move {
            // Until an authority has issued the certificate there is nothing to greet clients with.
            let tls = tokio::select! {
                tls = tls => tls,
                _ = stopped.wait_for(|stop| *stop) => return,
            };
            if let Ok(tls) = tls {
                https.serve(Security::Tls(tls), mounts, bounds, stopped).await;
            }
        })
    };
    ready(&ready_facts);

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: requests that run are finished");
    stop.send_replace(true);
    for listener in [operators, plain, secure].into_iter().chain(metrics) {
        if let Err(error) = listener.await {
            tracing::error!(%error, "a listener ended in a panic");
        }
    }
    drop(jobs_stop);
    if jobs.join().is_err() {
        tracing::error!("the thread of timed work ended in a panic");
    }
    Ok(())
}

async fn bind(name: &str, address: SocketAddr) -> Result<Listener, RunError> {
    let failed = |error| RunError::System { doing: format!("listen on {address} for {name}"), error };
    Listener::bind(address).await.map_err(failed)
}
