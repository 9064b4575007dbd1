//! A perspective's process from its start to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use ca_backend::{Clock, SystemClock};
use config::{CertificateSource, Settings};
use endpoint::{Endpoint, Peer};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Perspective;
use super::wire::QUESTION_BYTES_MAX;
use crate::egress::{EgressError, NodeEgress};
use crate::listen::{Bounds, Listener, Mount, Mounts, On, Security};
use crate::open_files;
use crate::pool::Lane;
use crate::run::{RunError, bind, thread};
use crate::telemetry::Figures;
use crate::tls::{self, CertificateFiles, Tls, TlsError};

/// The time between two rounds of upkeep.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds between two looks at the files of the certificate.
const CERTIFICATE_ROUNDS: u64 = 60;

/// Where a perspective that is ready can be reached.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    /// The listener with TLS.
    pub https: SocketAddr,
}

/// Why a perspective did not start.
#[derive(Debug, thiserror::Error)]
pub enum PerspectiveError {
    /// What keeps the daemon from starting too.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Files with certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Other hosts cannot be asked.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// A setting that the daemon can do without.
    #[error("`{key}` {why}")]
    Setting {
        /// Its name.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl PerspectiveError {
    pub(super) fn setting(key: &'static str, why: &str) -> Self {
        Self::Setting { key, why: why.to_owned() }
    }

    /// What an operator can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Run(error) => error.hint(),
            Self::Tls(_) | Self::Egress(_) | Self::Setting { .. } => {
                "the shipped certgate.toml explains the settings of a perspective in [perspective]".to_owned()
            }
        }
    }
}

/// Runs a perspective until SIGTERM or SIGINT; then what runs is finished. `ready` is called once everything is up.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn run(settings: &Settings, ready: impl FnOnce(&Serving)) -> Result<(), PerspectiveError> {
    let figures = Figures::install().map_err(RunError::from)?;
    let settings = &open_files::fitted(settings, 1 + usize::from(settings.metrics.listen.is_some()))?;
    let of_system = |doing: &str, error| RunError::System { doing: doing.to_owned(), error };
    let certificate = Arc::new(certificate(settings)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| of_system("start the network threads", error))?;
    // A thread for each look that runs: it waits for other hosts all the time.
    let lane = Lane::start("remote", settings.validation.concurrency_max, settings.limits.remote_queue_max)
        .map_err(|error| of_system("start the worker threads", error))?;
    let served = runtime.block_on(serve(settings, figures, certificate, lane.clone(), ready));
    runtime.shutdown_background();
    lane.stop();
    served
}

fn certificate(settings: &Settings) -> Result<CertificateFiles, PerspectiveError> {
    let certificate = &settings.https.certificate;
    match (certificate.source, &certificate.certificate_path, &certificate.key_path) {
        (CertificateSource::Files, Some(certificate), Some(key)) => Ok(CertificateFiles::read(certificate, key)?),
        (CertificateSource::Files | CertificateSource::Own, _, _) => Err(PerspectiveError::setting(
            "https.certificate",
            "must name the files of a certificate (source = \"files\"), since a perspective issues none",
        )),
    }
}

async fn serve(
    settings: &Settings,
    figures: Figures,
    certificate: Arc<CertificateFiles>,
    lane: Arc<Lane>,
    ready: impl FnOnce(&Serving),
) -> Result<(), PerspectiveError> {
    let https = bind("https", settings.https.listen).await?;
    let metrics = match settings.metrics.listen {
        Some(address) => Some(bind("metrics", address).await?),
        None => None,
    };
    let own = [https.address()].into_iter().chain(metrics.as_ref().map(Listener::address)).collect();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let perspective: Arc<dyn Endpoint> = Arc::new(Perspective::new(
        &settings.perspective,
        NodeEgress::new(&settings.validation, own)?,
        settings.limits.retry_after_s,
        tokio::runtime::Handle::current(),
        Arc::clone(&clock),
    )?);
    let condition: Arc<dyn Endpoint> =
        Arc::new(Condition { figures: figures.clone(), certificate: Arc::clone(&certificate), clock });
    let page = |on, path| Mount::new(on, path, Arc::clone(&condition), lane.clone(), 0);
    let (mounts, status_mounts) = (Mounts::default(), Mounts::default());
    mounts.replace(vec![
        Mount::new(On::Tls, "/perspective", perspective, lane.clone(), QUESTION_BYTES_MAX),
        page(On::Tls, HEALTH),
        page(On::Tls, READINESS),
    ]);
    status_mounts.replace([HEALTH, READINESS, METRICS].map(|path| page(On::Plain, path)).into());

    let of_system = |error| RunError::System { doing: "listen for signals".to_owned(), error };
    let mut terminate = signal(SignalKind::terminate()).map_err(of_system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(of_system)?;
    let tls = Tls::new(certificate.certified())?;
    let (upkeep_stop, upkeep_stopped) = std::sync::mpsc::channel();
    let upkeep = {
        let tls = tls.clone();
        thread("upkeep", move || keep_up(&figures, &certificate, &tls, &upkeep_stopped))?
    };

    let serving = Serving { https: https.address() };
    let bounds = Bounds::new(settings);
    let (stop, stopped) = watch::channel(false);
    let metrics = metrics
        .map(|metrics| tokio::spawn(metrics.serve(Security::Plain, status_mounts, bounds.clone(), stopped.clone())));
    let secure = tokio::spawn(https.serve(Security::Tls(tls), mounts, bounds, stopped));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), https = %serving.https, "certgate perspective is ready");
    ready(&serving);

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: looks that run are finished");
    stop.send_replace(true);
    for listener in [secure].into_iter().chain(metrics) {
        if let Err(error) = listener.await {
            tracing::error!(%error, "a listener ended in a panic");
        }
    }
    drop(upkeep_stop);
    if upkeep.join().is_err() {
        tracing::error!("the thread of upkeep ended in a panic");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Folds the figures and reads the certificate again, until the sender of `stop` is gone.
fn keep_up(figures: &Figures, certificate: &CertificateFiles, tls: &Tls, stop: &Receiver<()>) {
    let mut round = 0_u64;
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(ROUND) {
        round += 1;
        figures.fold();
        if !round.is_multiple_of(CERTIFICATE_ROUNDS) {
            continue;
        }
        let renewed =
            certificate.renew().and_then(|renewed| renewed.map_or(Ok(false), |new| tls.replace(new).map(|()| true)));
        match renewed {
            Ok(true) => tracing::info!("HTTPS shows a new certificate"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "failed to renew the certificate; it will be tried again"),
        }
    }
}

const HEALTH: &str = "/healthz";
const READINESS: &str = "/readyz";
const METRICS: &str = "/metrics";

/// The condition of a perspective, which anybody may know; `/metrics` is mounted on loopback only.
struct Condition {
    figures: Figures,
    certificate: Arc<CertificateFiles>,
    clock: Arc<dyn Clock>,
}

impl Condition {
    /// Whether gateways are shown a certificate that is valid.
    fn is_ready(&self) -> bool {
        let certified = self.certificate.certified();
        let end = certified.cert.first().and_then(|leaf| tls::end_of_validity(leaf));
        end.is_some_and(|end| end >= self.clock.now().unix())
    }
}

impl Endpoint for Condition {
    fn handle(&self, request: Request<Bytes>, _peer: &Peer) -> Response<Bytes> {
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, HEALTH) => (StatusCode::OK, "alive\n".to_owned()),
            (&Method::GET | &Method::HEAD, READINESS) if self.is_ready() => (StatusCode::OK, "ready\n".to_owned()),
            (&Method::GET | &Method::HEAD, READINESS) => {
                (StatusCode::SERVICE_UNAVAILABLE, "the certificate has expired\n".to_owned())
            }
            (&Method::GET | &Method::HEAD, METRICS) => (StatusCode::OK, self.figures.render()),
            (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, String::new()),
            _ => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        };
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
        response
    }
}
