//! Remote perspectives that look at what this node looks at, so that whoever deceives this node's network deceives no endpoint that
//! asks elsewhere too. `acme` judges what they saw; the other side is [`crate::perspective`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use acme::{Found, Sighting, Validation};
use bytes::Bytes;
use ca_backend::{Reason, Refusal};
use config::{RemotePerspectiveSettings, ValidationSettings};
use endpoint::OutboundLimits;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode, Uri};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::egress::{Remote, Route};
use crate::perspective::wire::{ANSWER_BYTES_MAX, Complaint, LookAnswer, LookRequest, PATH};
use crate::telemetry;
use crate::tls::CertificateFiles;
use crate::validation::Ports;

/// The most characters of a perspective's complaint that are logged.
const COMPLAINT_CHARACTERS_MAX: usize = 200;

/// The remote perspectives that the settings of this node name. Clones are one and the same.
#[derive(Clone, Debug)]
pub struct Perspectives(Arc<Known>);

#[derive(Debug)]
struct Known {
    settings: ValidationSettings,
    /// The sockets of this node.
    own: Vec<SocketAddr>,
    runtime: Handle,
    /// One that cannot be used is tried again whenever somebody wants it: its files may be there by then.
    perspectives: BTreeMap<String, Mutex<Result<Arc<Perspective>, Refusal>>>,
}

/// One of them.
struct Perspective {
    name: String,
    remote: Remote,
    url: Uri,
    identity: Arc<CertificateFiles>,
    /// Questions at a time; what waits for a place waits within the time for the answer.
    places: Semaphore,
    limits: OutboundLimits,
    /// Whether it answered the last time.
    answers: AtomicBool,
}

impl fmt::Debug for Perspective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Perspective").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

/// What perspectives are finding out. If it is dropped, they are asked no longer.
#[derive(Debug)]
pub struct Sightings(JoinSet<Sighting>);

impl Perspectives {
    /// Those of the settings; `own` are the sockets of this node, where no perspective lies. One that cannot be used is an error only
    /// for the endpoints that name it.
    #[must_use]
    pub fn new(settings: &ValidationSettings, own: &[SocketAddr], runtime: &Handle) -> Self {
        let perspectives = settings.perspectives.iter().map(|(name, perspective)| {
            let perspective = Perspective::new(name, perspective, settings, own.to_vec(), runtime.clone());
            (name.clone(), Mutex::new(perspective.map(Arc::new)))
        });
        let perspectives = perspectives.collect();
        Self(Arc::new(Known { settings: settings.clone(), own: own.to_vec(), runtime: runtime.clone(), perspectives }))
    }

    /// The perspective of that name, if it can be used by now.
    fn usable(&self, name: &str) -> Result<Arc<Perspective>, Refusal> {
        let Known { settings, own, runtime, perspectives } = &*self.0;
        let (Some(perspective), Some(stated)) = (perspectives.get(name), settings.perspectives.get(name)) else {
            let text = format!("there is no [validation.perspectives.{name}] in the settings of this node");
            return Err(Refusal::new(Reason::Malformed, text));
        };
        // Nothing of others runs under this lock, so a poisoned one still holds a whole value.
        let mut perspective = perspective.lock().unwrap_or_else(PoisonError::into_inner);
        if perspective.is_err() {
            *perspective = Perspective::new(name, stated, settings, own.clone(), runtime.clone()).map(Arc::new);
        }
        perspective.clone()
    }

    /// Whether an endpoint can have all these asked.
    ///
    /// # Errors
    /// A refusal that says which of them is unknown to this node, or cannot be used and why.
    pub fn check(&self, names: &[String]) -> Result<(), Refusal> {
        names.iter().try_for_each(|name| self.usable(name).map(drop))
    }

    /// Has all perspectives that the validation names look at the same, at once. Returns before they have looked.
    #[must_use]
    pub fn look(&self, validation: &Arc<Validation>, ports: Ports) -> Sightings {
        let mut looks = JoinSet::new();
        for name in validation.perspectives() {
            let perspective = self.usable(name).ok();
            let (name, validation) = (name.clone(), Arc::clone(validation));
            looks.spawn_on(
                async move {
                    // What is missing counts as one that does not answer.
                    let found = match perspective {
                        Some(perspective) => perspective.look(&validation, ports).await,
                        None => None,
                    };
                    let outcome = match &found {
                        Some(found) if validation.shows(found) => "agree",
                        Some(_) => "disagree",
                        None => "unreachable",
                    };
                    tracing::debug!(perspective = name, outcome, "a remote perspective looked");
                    metrics::counter!(
                        telemetry::PERSPECTIVE_LOOKS, "perspective" => name.clone(), "outcome" => outcome
                    )
                    .increment(1);
                    Sighting { perspective: name, found }
                },
                &self.0.runtime,
            );
        }
        Sightings(looks)
    }

    /// Reads the certificates that this node shows again.
    pub fn renew(&self) {
        let used = self.0.perspectives.values().filter_map(|perspective| {
            perspective.lock().unwrap_or_else(PoisonError::into_inner).as_ref().ok().cloned()
        });
        for perspective in used {
            match perspective.identity.renew() {
                Ok(Some(_)) => {
                    tracing::info!(perspective = perspective.name, "shows a new certificate to a perspective")
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(perspective = perspective.name, %error, "failed to renew the certificate for a perspective");
                }
            }
        }
    }
}

impl Sightings {
    /// Waits until enough perspectives saw the right thing, or all have looked or failed to.
    pub async fn wait(mut self, validation: &Validation) -> Vec<Sighting> {
        let mut sightings = Vec::new();
        while !validation.is_corroborated(&sightings) {
            match self.0.join_next().await {
                Some(Ok(sighting)) => sightings.push(sighting),
                Some(Err(_)) => {} // a panic, which is in the log
                None => break,
            }
        }
        // The others end by themselves, and are counted.
        self.0.detach_all();
        sightings
    }
}

impl Perspective {
    fn new(
        name: &str,
        settings: &RemotePerspectiveSettings,
        validation: &ValidationSettings,
        own: Vec<SocketAddr>,
        runtime: Handle,
    ) -> Result<Self, Refusal> {
        let unusable = |why: String| Refusal::new(Reason::NotReady, format!("perspective {name}: {why}"));
        let identity = CertificateFiles::read(&settings.certificate_path, &settings.key_path);
        let identity = Arc::new(identity.map_err(|error| unusable(error.to_string()))?);
        let route = Route {
            networks: settings.reachable_networks.clone(),
            roots: Some(settings.roots_path.clone()),
            identity: Some(Arc::clone(&identity)),
            ..Route::default()
        };
        let remote =
            Remote::new(validation, route, own, runtime).map_err(|refusal| unusable(refusal.public().to_owned()))?;
        let url = format!("{}{PATH}", settings.url);
        Ok(Self {
            name: name.to_owned(),
            remote,
            url: url.parse().map_err(|_| unusable(format!("{url} is no URL")))?,
            identity,
            places: Semaphore::new(validation.concurrency_max),
            limits: OutboundLimits {
                timeout: Duration::from_secs(validation.perspective_timeout_s),
                body_bytes_max: ANSWER_BYTES_MAX,
            },
            answers: AtomicBool::new(true),
        })
    }

    /// What it finds; `None` if it does not answer, which is logged when it begins and when it ends.
    async fn look(&self, validation: &Validation, ports: Ports) -> Option<Found> {
        let answer = timeout(self.limits.timeout, self.ask(validation, ports)).await;
        match answer.unwrap_or_else(|_| Err("it did not answer in time".to_owned())) {
            Ok(found) => {
                if !self.answers.swap(true, Ordering::Relaxed) {
                    tracing::info!(perspective = self.name, "a remote perspective answers again");
                }
                Some(found)
            }
            Err(why) => {
                if self.answers.swap(false, Ordering::Relaxed) {
                    tracing::warn!(perspective = self.name, why, "a remote perspective does not answer");
                }
                None
            }
        }
    }

    async fn ask(&self, validation: &Validation, ports: Ports) -> Result<Found, String> {
        // never closed, so this only waits
        let _place = self.places.acquire().await;
        let body = serde_json::to_vec(&LookRequest::new(&validation.question, ports)).map_err(|why| why.to_string())?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Bytes::from(body))
            .map_err(|why| why.to_string())?;
        let response = self.remote.answer_to(request, self.limits).await.map_err(|error| error.to_string())?;
        if response.status() == StatusCode::OK {
            return LookAnswer::decode(response.body()).map_err(|complaint| complaint.detail);
        }
        let complaint = serde_json::from_slice::<Complaint>(response.body()).map(|complaint| complaint.detail);
        let complaint = complaint.unwrap_or_default();
        let complaint: String = complaint.chars().filter(|c| !c.is_control()).take(COMPLAINT_CHARACTERS_MAX).collect();
        Err(format!("it answered with status {}: {complaint}", response.status().as_u16()))
    }
}
