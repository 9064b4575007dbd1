//! The daemon from its start to its end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ca_backend::{
    Engine, EngineParts, EngineSettings, Error, KeyEncryptionSecret, KeyFault, KeyHomes, PinSource, StoreKind,
    StoreOptions, TokenSettings,
};
use config::{Settings, StoreEngine};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, AdminState, OperatorSocket, SocketError, StatusPages};
use crate::jobs::{self, Jobs};
use crate::listen::{Bounds, Listener, Mount, Mounts, On, Security};
use crate::open_files;
use crate::server_certificate::{ServerCertificate, ServerCertificateError};
use crate::starter::{self, StarterError};
use crate::telemetry::{Figures, TelemetryError};
use crate::wiring::{Lanes, Wiring};

/// What the command line adds to the settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// Make the starter PKI if the store is empty.
    pub starter: bool,
}

/// Where a daemon that is ready can be reached.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The listener with TLS. It turns clients away until an authority has issued its certificate.
    pub https: SocketAddr,
    /// The listener without TLS.
    pub http: SocketAddr,
    /// The operators' API.
    pub operator_socket: PathBuf,
    /// What the starter made or found, or waits for, as text for people.
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
    /// An address cannot be listened on.
    #[error("failed to listen on {address} for {name}: {error}")]
    Listen {
        /// The section of the settings: `https`, `http` or `metrics`.
        name: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The system allows fewer open files than a daemon needs.
    #[error("failed to start with the {allowed} open files that the system allows; at least {least} are needed")]
    OpenFiles {
        /// What the system allows.
        allowed: usize,
        /// With fewer nothing works.
        least: usize,
        /// What the settings need.
        needed: usize,
    },
    /// The system gives no threads or signals.
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
}

impl RunError {
    /// What an operator can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        let (name, error) = match self {
            Self::Listen { name, error, .. } => (name, error),
            Self::OpenFiles { needed, .. } => {
                return format!(
                    "raise the limit to the {needed} that the settings need: `LimitNOFILE={needed}` in the unit, or `ulimit -n {needed}`"
                );
            }
            Self::Telemetry(_)
            | Self::Engine { .. }
            | Self::System { .. }
            | Self::Starter(_)
            | Self::ServerCertificate(_)
            | Self::OperatorSocket(_) => return "put right what it says, then start the daemon again".to_owned(),
        };
        let variable = name.to_uppercase();
        let other = format!("set `{name}.listen`, or the environment variable CERTGATE_{variable}__LISTEN");
        let base = match *name {
            "metrics" => String::new(),
            _ => format!(
                "; clients have to know it, so let `{name}.base_url` (CERTGATE_{variable}__BASE_URL) say the same"
            ),
        };
        let elsewhere = format!("to listen elsewhere, {other}{base}");
        if error.kind() == ErrorKind::AddrInUse {
            format!("another program has it, or another certgate: {elsewhere}")
        } else if error.kind() == ErrorKind::PermissionDenied {
            format!("ports below 1024 need root or CAP_NET_BIND_SERVICE, which the shipped unit grants; {elsewhere}")
        } else {
            elsewhere
        }
    }
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
        tokens: settings.keys.pkcs11.iter().map(|(name, token)| token_settings(name, token)).collect(),
        key_homes: KeyHomes {
            authorities: settings.keys.authorities.clone(),
            responders: settings.keys.responders.clone(),
            services: settings.keys.services.clone(),
        },
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

fn token_settings(name: &str, token: &config::TokenSettings) -> TokenSettings {
    let credential = || {
        let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(format!("{name}.pin"));
        path.exists().then_some(path)
    };
    let pin = match (&token.pin_path, &token.pin_variable) {
        (Some(path), _) => PinSource::File(path.clone()),
        (None, Some(variable)) => PinSource::Variable(variable.clone()),
        (None, None) => credential().map_or(PinSource::None, PinSource::Credential),
    };
    TokenSettings {
        name: name.to_owned(),
        module_path: token.module_path.clone(),
        token: token.token.clone(),
        pin,
        sessions: token.sessions,
        queue_max: token.queue_max,
        deadline: Duration::from_secs(token.deadline_s),
        generate_deadline: Duration::from_secs(token.generate_deadline_s),
    }
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
    let store = &settings.store;
    StoreOptions {
        cache_bytes: store.cache_bytes,
        journal_bytes: store.journal_bytes,
        reserve_bytes: store.reserve_bytes,
    }
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
        ticket_waiting_max_s: u64::from(issuing.ticket_waiting_days) * DAY_S,
        ticket_retention_s: u64::from(issuing.ticket_retention_days) * DAY_S,
        clock_backwards_max_s: issuing.clock_backwards_max_s,
        wrong_secrets_per_peer_per_min_max: settings.limits.wrong_secrets_per_peer_per_min_max,
        audited_refusals_per_endpoint_per_min_max: settings.limits.audited_refusals_per_endpoint_per_min_max,
    }
}

/// The sockets of a daemon. They are taken before anything else is done: a daemon that nobody could reach makes no authorities.
struct Sockets {
    https: Listener,
    http: Listener,
    metrics: Option<Listener>,
    operators: OperatorSocket,
}

impl Sockets {
    async fn bind(settings: &Settings) -> Result<Self, RunError> {
        Ok(Self {
            https: bind("https", settings.https.listen).await?,
            http: bind("http", settings.http.listen).await?,
            metrics: match settings.metrics.listen {
                Some(address) => Some(bind("metrics", address).await?),
                None => None,
            },
            operators: admin::bind(&settings.operator_socket_path(), settings.operator.socket_group.as_deref())?,
        })
    }
}

/// Runs the daemon until it is told to stop by SIGTERM or SIGINT; then what runs is finished. `ready` is called once everything is
/// up.
///
/// # Errors
/// Whatever keeps the daemon from starting.
pub fn run(settings: &Settings, options: RunOptions, ready: impl FnOnce(&Ready)) -> Result<(), RunError> {
    let figures = Figures::install()?;
    let settings = &open_files::fitted(settings, 2 + usize::from(settings.metrics.listen.is_some()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| RunError::System { doing: "start the network threads".to_owned(), error })?;
    let sockets = runtime.block_on(Sockets::bind(settings))?;
    let engine = open_engine(settings)?;
    // What depends on how much is stored is done by the jobs, beside the first clients.
    engine.prepare_to_serve();
    let starter = match options.starter.then(|| starter::prepare(&engine, settings)) {
        None => None,
        Some(Ok(text)) => Some(Starter { text, waits: false }),
        Some(Err(StarterError::Waits(why))) => {
            tracing::warn!(why, "the starter PKI is not made yet; it will be tried again");
            Some(Starter { text: starter::describe_waiting(settings, &why), waits: true })
        }
        Some(Err(error)) => return Err(error.into()),
    };
    let mut server_certificate = ServerCertificate::new(engine.clone(), settings)?;
    // The first client may come as soon as the daemon says that it is ready.
    if let Err(error) = server_certificate.keep() {
        tracing::error!(%error, "HTTPS turns every client away: there is no server certificate; it will be tried again");
    }
    let lanes = Lanes::start(settings)
        .map_err(|error| RunError::System { doing: "start the worker threads".to_owned(), error })?;
    let daemon = Daemon { settings, engine, lanes: lanes.clone(), figures, server_certificate, starter };
    let served = runtime.block_on(daemon.serve(sockets, ready));
    runtime.shutdown_background();
    lanes.stop();
    served
}

/// The parts of a daemon that is about to serve.
struct Daemon<'a> {
    settings: &'a Settings,
    engine: Engine,
    lanes: Lanes,
    figures: Figures,
    server_certificate: ServerCertificate,
    starter: Option<Starter>,
}

/// The starter PKI of a daemon that was asked for one.
struct Starter {
    /// How to use it, or what it waits for.
    text: String,
    /// Its key store is away.
    waits: bool,
}

impl Daemon<'_> {
    async fn serve(self, sockets: Sockets, ready: impl FnOnce(&Ready)) -> Result<(), RunError> {
        let Self { settings, engine, lanes, figures, server_certificate, starter } = self;
        let Sockets { https, http, metrics, operators } = sockets;
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
        wiring.remount();

        let (judge, changed) = (wiring.clone(), wiring.clone());
        let https_condition = server_certificate.condition();
        let admin_state = AdminState {
            engine: engine.clone(),
            check_endpoint: Arc::new(move |endpoint| judge.admit(endpoint)),
            endpoints_changed: Arc::new(move || changed.remount()),
            unserved: wiring.unserved(),
            figures: figures.clone(),
            https: https_condition.clone(),
        };

        let status_mounts = Mounts::default();
        let pages: Arc<dyn endpoint::Endpoint> =
            Arc::new(StatusPages::new(engine.clone(), figures.clone(), https_condition, wiring.unserved()));
        let page = |path| Mount::new(On::Plain, path, pages.clone(), status_lane.clone(), 0);
        status_mounts.replace(StatusPages::PATHS.map(page).into());

        let of_system = |error| RunError::System { doing: "listen for signals".to_owned(), error };
        let mut terminate = signal(SignalKind::terminate()).map_err(of_system)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(of_system)?;

        let tls = server_certificate.tls();
        let jobs = Jobs { engine: engine.clone(), wiring: wiring.clone(), figures: figures.clone() };
        let (jobs_stop, jobs_stopped) = std::sync::mpsc::channel();
        let jobs = thread("jobs", move || jobs.run(&jobs_stopped))?;
        let (renewal_stop, renewal_stopped) = std::sync::mpsc::channel();
        let renewal =
            thread("tls-renewal", move || jobs::keep_server_certificate(server_certificate, &renewal_stopped))?;

        let (starter_stop, starter_stopped) = std::sync::mpsc::channel();
        let waiting_starter = match starter.as_ref().is_some_and(|starter| starter.waits) {
            true => {
                let (engine, settings, wiring) = (engine.clone(), settings.clone(), wiring.clone());
                Some(thread("starter", move || jobs::make_starter(&engine, &settings, &wiring, &starter_stopped))?)
            }
            false => None,
        };

        let operator_socket = settings.operator_socket_path();
        let starter = starter.map(|starter| starter.text);
        let ready_facts = Ready { https: https.address(), http: http.address(), operator_socket, starter };
        let bounds = Bounds::new(settings);
        let grace = Duration::from_secs(settings.limits.shutdown_grace_s);
        let (stop, stopped) = watch::channel(false);
        let operators = tokio::spawn(admin::serve(operators, admin::router(admin_state), grace, stopped.clone()));
        let metrics = metrics.map(|metrics| {
            tokio::spawn(metrics.serve(Security::Plain, status_mounts, bounds.clone(), stopped.clone()))
        });
        let plain = tokio::spawn(http.serve(Security::Plain, mounts.clone(), bounds.clone(), stopped.clone()));
        let secure = tokio::spawn(https.serve(Security::Tls(tls), mounts, bounds, stopped));
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            https = %ready_facts.https,
            http = %ready_facts.http,
            metrics = settings.metrics.listen.map(tracing::field::display),
            operators = %ready_facts.operator_socket.display(),
            state = %settings.state_dir.display(),
            "certgate is ready"
        );
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
        drop((jobs_stop, renewal_stop, starter_stop));
        for thread in [jobs, renewal].into_iter().chain(waiting_starter) {
            if thread.join().is_err() {
                tracing::error!("a thread of timed work ended in a panic");
            }
        }
        tracing::info!("stopped");
        Ok(())
    }
}

pub(crate) fn thread(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, RunError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| RunError::System { doing: format!("start the thread {name}"), error })
}

pub(crate) async fn bind(name: &'static str, address: SocketAddr) -> Result<Listener, RunError> {
    Listener::bind(address).await.map_err(|error| RunError::Listen { name, address, error })
}
