//! The mount table: endpoint -> path -> lane. Nothing else is decided here.
//!
//! An endpoint that cannot be mounted takes nothing from the others: its paths say so, operators see why, and it is tried again.

mod unserved;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use acme::Acme;
use ca_backend::{Endpoint, EndpointName, Engine, Error, Reason, Refusal};
use config::Settings;
use tokio::runtime::Handle;

pub use unserved::Unserved;

use crate::corroboration::Perspectives;
use crate::device_management::{IntuneLink, check_webhook, webhook};
use crate::egress::{EgressError, NodeEgress};
use crate::listen::{Mount, Mounts, On};
use crate::pool::Lane;
use crate::telemetry;
use crate::validation::{Look, Validator};
use unserved::Unavailable;

/// A protocol that endpoints can speak.
struct Protocol {
    name: &'static str,
    /// The listeners where it is reached.
    on: On,
    /// The paths where an endpoint is reached. Of options that cannot be read only the path with its name is known.
    paths: fn(&Endpoint) -> Vec<String>,
    /// Whether an endpoint's options are right.
    check: fn(&Endpoint) -> Result<(), Refusal>,
    /// Builds the endpoint.
    build: fn(&Wiring, &Endpoint) -> Result<Parts, Error>,
}

/// One row for each protocol.
const PROTOCOLS: &[Protocol] = &[
    Protocol {
        name: "acme",
        on: On::Tls,
        paths: |endpoint| vec![format!("/acme/{}", endpoint.name)],
        check: |endpoint| acme::Options::parse(&endpoint.options).map(drop),
        build: Wiring::build_acme,
    },
    Protocol {
        name: "scep",
        // What SCEP sends is protected by itself, and old clients know no TLS of today.
        on: On::Both,
        paths: |endpoint| {
            let ndes = scep::Options::parse(&endpoint.options).is_ok_and(|options| options.ndes);
            let mut paths = vec![format!("/scep/{}", endpoint.name)];
            paths.extend(ndes.then(|| scep::NDES_PATH.to_owned()));
            paths
        },
        check: |endpoint| {
            let options = scep::Options::parse(&endpoint.options)?;
            options.intune.as_ref().map_or(Ok(()), IntuneLink::check)?;
            options.webhook.as_ref().map_or(Ok(()), check_webhook)
        },
        build: Wiring::build_scep,
    },
    Protocol {
        name: "mdm",
        // Tokens, passwords and keys go over the line.
        on: On::Tls,
        paths: |endpoint| {
            let challenges = mdm::MdmOptions::parse(endpoint).ok().and_then(|options| options.challenges);
            let mut paths = vec![format!("/mdm/{}", endpoint.name)];
            paths.extend(challenges.is_some_and(|challenges| challenges.ndes).then(|| mdm::NDES_PATH.to_owned()));
            paths
        },
        check: |endpoint| mdm::MdmOptions::parse(endpoint).map(drop),
        build: Wiring::build_mdm,
    },
];

/// An endpoint that was built, and what belongs to it.
#[derive(Clone)]
struct Parts {
    endpoint: Arc<dyn endpoint::Endpoint>,
    lane: Arc<Lane>,
    body_bytes_max: usize,
    validator: Option<Validator>,
    intune: Option<IntuneLink>,
}

/// An endpoint in force, and the settings that it was built from.
#[derive(Clone)]
struct Served {
    settings: Arc<Endpoint>,
    parts: Parts,
}

/// The worker lanes, so that no kind of work starves another.
#[derive(Clone)]
pub struct Lanes {
    /// Enrollment.
    pub enroll: Arc<Lane>,
    /// CRL and OCSP requests that are not answered from memory.
    pub status: Arc<Lane>,
    /// Work that waits on other hosts or comes from them.
    pub remote: Arc<Lane>,
}

impl Lanes {
    /// Starts the threads that the settings state.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn start(settings: &Settings) -> std::io::Result<Self> {
        let limits = &settings.limits;
        Ok(Self {
            enroll: Lane::start("enroll", limits.enroll_threads, limits.enroll_queue_max)?,
            status: Lane::start("status", limits.status_threads, limits.status_queue_max)?,
            remote: Lane::start("remote", limits.remote_threads, limits.remote_queue_max)?,
        })
    }

    /// Finishes what waits and ends the threads. Blocks until they have ended.
    pub fn stop(&self) {
        [&self.enroll, &self.status, &self.remote].into_iter().for_each(|lane| lane.stop());
    }
}

/// Builds endpoints from their settings and puts them in their places.
pub struct Wiring {
    engine: Engine,
    settings: Settings,
    mounts: Mounts,
    lanes: Lanes,
    runtime: Handle,
    /// How other hosts are asked, or why they cannot be.
    egress: Result<NodeEgress, EgressError>,
    /// The sockets of this node, which nothing of ours may reach.
    own: Vec<SocketAddr>,
    perspectives: Perspectives,
    served: Mutex<BTreeMap<EndpointName, Served>>,
    unserved: Unserved,
    remounting: Mutex<()>,
}

impl Wiring {
    /// Nothing is mounted yet: see [`Wiring::remount`]. `own` are the sockets of this node, which no validation may reach.
    #[must_use]
    pub fn new(
        engine: Engine,
        settings: Settings,
        mounts: Mounts,
        lanes: Lanes,
        runtime: Handle,
        own: Vec<SocketAddr>,
    ) -> Self {
        Self {
            egress: NodeEgress::new(&settings.validation, own.clone()),
            perspectives: Perspectives::new(&settings.validation, &own, &runtime),
            own,
            engine,
            settings,
            mounts,
            lanes,
            runtime,
            served: Mutex::default(),
            unserved: Unserved::default(),
            remounting: Mutex::default(),
        }
    }

    /// Whether an endpoint could be mounted, were it alone: its protocol is known, and its options and the files that they name are
    /// right.
    ///
    /// # Errors
    /// A refusal that says what is wrong.
    pub fn check(endpoint: &Endpoint) -> Result<(), Refusal> {
        (protocol_of(endpoint)?.check)(endpoint)
    }

    /// Whether an endpoint could be mounted beside the others, on this node with its remote perspectives.
    ///
    /// # Errors
    /// A refusal that says what is wrong.
    pub fn admit(&self, endpoint: &Endpoint) -> Result<(), Refusal> {
        Self::check(endpoint)?;
        if endpoint.protocol.as_str() == "acme" {
            self.perspectives.check(&acme::Options::parse(&endpoint.options)?.perspectives)?;
        }
        if endpoint.enabled { self.conflict(endpoint, |_| true) } else { Ok(()) }
    }

    /// The remote perspectives of this node, for timed work.
    #[must_use]
    pub fn perspectives(&self) -> &Perspectives {
        &self.perspectives
    }

    /// The enabled endpoints with which something is wrong.
    #[must_use]
    pub fn unserved(&self) -> Unserved {
        self.unserved.clone()
    }

    /// Puts the enabled endpoints and the status services in force, as they are now. Secrets and other files are read anew. An
    /// endpoint that cannot be built any more though nobody changed it stays in force as it was.
    pub fn remount(&self) {
        self.mount_all(|_, _| false);
    }

    /// Tries the endpoints again that could not be mounted; the others stay as they are.
    pub fn retry(&self) {
        let unserved = self.unserved.all();
        if !unserved.is_empty() {
            self.mount_all(|served, settings| served.settings == *settings && !unserved.contains_key(&settings.name));
        }
    }

    fn mount_all(&self, still_good: impl Fn(&Served, &Arc<Endpoint>) -> bool) {
        let _one_at_a_time = self.remounting.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.served().clone();
        let (mut served, mut unserved) = (BTreeMap::new(), BTreeMap::new());
        let mut mounts = self.status_mounts();
        for settings in self.engine.endpoints().into_iter().filter(|endpoint| endpoint.enabled) {
            let former = before.get(&settings.name).filter(|former| former.settings == settings);
            let built = match former.filter(|former| still_good(former, &settings)) {
                Some(former) => Ok(former.parts.clone()),
                None => self.build(&settings),
            };
            let parts = built.map_err(|error| unserved.insert(settings.name.clone(), text_of(&error))).ok();
            let parts = parts.or_else(|| former.map(|former| former.parts.clone()));
            mounts.extend(self.mounts_of(&settings, parts.as_ref(), &mounts));
            if let Some(parts) = parts {
                served.insert(settings.name.clone(), Served { settings, parts });
            }
        }
        show_mounted(before.keys().chain(self.unserved.all().keys()), &served, &unserved);
        *self.served() = served;
        self.mounts.replace(mounts);
        self.unserved.replace(unserved);
    }

    fn build(&self, settings: &Endpoint) -> Result<Parts, Error> {
        let protocol = protocol_of(settings)?;
        // Of two that want the same path, the first by name has it.
        self.conflict(settings, |other| other.name < settings.name)?;
        (protocol.build)(self, settings)
    }

    fn conflict(&self, endpoint: &Endpoint, counts: impl Fn(&Endpoint) -> bool) -> Result<(), Refusal> {
        let paths: BTreeSet<_> = paths_of(endpoint).into_iter().collect();
        for other in self.engine.endpoints().iter().filter(|other| other.enabled && other.name != endpoint.name) {
            if counts(other)
                && let Some(path) = paths_of(other).into_iter().find(|path| paths.contains(path))
            {
                let text = format!("endpoint {} is at {path} already", other.name);
                return Err(Refusal::new(Reason::Conflict, text));
            }
        }
        Ok(())
    }

    fn status_mounts(&self) -> Vec<Mount> {
        let status: Arc<dyn endpoint::Endpoint> = Arc::new(revocation::Revocation::new(self.engine.clone()));
        let body_bytes_max = self.settings.limits.body_bytes_max;
        let mount = |prefix| Mount::new(On::Both, prefix, status.clone(), self.lanes.status.clone(), body_bytes_max);
        ["/crl", "/ocsp", "/ca"].map(mount).into()
    }

    /// The mounts of an endpoint, which say that it is unavailable if it has no parts.
    fn mounts_of(&self, settings: &Endpoint, parts: Option<&Parts>, others: &[Mount]) -> Vec<Mount> {
        let Ok(protocol) = protocol_of(settings) else { return Vec::new() };
        let mut paths = paths_of(settings);
        paths.retain(|path| others.iter().all(|other| other.prefix() != path));
        let mount = |path: &String| match parts {
            Some(Parts { endpoint, lane, body_bytes_max, .. }) => {
                Mount::new(protocol.on, path, endpoint.clone(), lane.clone(), *body_bytes_max)
            }
            None => {
                // A client may send what it would send to the endpoint.
                let body_bytes_max = self.settings.limits.body_bytes_max;
                Mount::new(protocol.on, path, Arc::new(Unavailable), self.lanes.status.clone(), body_bytes_max)
            }
        };
        paths.iter().map(mount).collect()
    }

    /// The validators of the ACME endpoints in force, for timed work.
    #[must_use]
    pub fn acme_validators(&self) -> Vec<Validator> {
        self.served().values().filter_map(|served| served.parts.validator.clone()).collect()
    }

    /// The Intune of each SCEP endpoint in force that has one, for timed work.
    #[must_use]
    pub fn intunes(&self) -> Vec<IntuneLink> {
        self.served().values().filter_map(|served| served.parts.intune.clone()).collect()
    }

    fn served(&self) -> MutexGuard<'_, BTreeMap<EndpointName, Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parts(&self, endpoint: Arc<dyn endpoint::Endpoint>, lane: &Arc<Lane>, body_bytes_max: usize) -> Parts {
        let body_bytes_max = body_bytes_max.min(self.settings.limits.body_bytes_max);
        Parts { endpoint, lane: lane.clone(), body_bytes_max, validator: None, intune: None }
    }

    fn build_acme(&self, settings: &Endpoint) -> Result<Parts, Error> {
        let options = acme::Options::parse(&settings.options)?;
        let egress = self.egress.as_ref().map_err(|error| Refusal::new(Reason::Malformed, error.to_string()))?;
        self.perspectives.check(&options.perspectives)?;
        let look = Look::new(egress, &options);
        let validator =
            Validator::new(look, self.perspectives.clone(), self.runtime.clone(), self.lanes.remote.clone());
        let url = format!("{}/acme/{}", self.settings.https.base_url, settings.name);
        let start = validator.clone();
        let start = Arc::new(move |validation| start.begin(validation));
        let acme = Arc::new(Acme::mount(self.engine.clone(), settings.name.clone(), &url, start)?);
        validator.records_at(&acme);
        let parts = self.parts(acme, &self.lanes.enroll, acme::BODY_BYTES_MAX);
        Ok(Parts { validator: Some(validator), ..parts })
    }

    fn build_scep(&self, settings: &Endpoint) -> Result<Parts, Error> {
        let options = scep::Options::parse(&settings.options)?;
        let intune = match &options.intune {
            Some(intune) => Some(IntuneLink::new(
                self.engine.clone(),
                settings.name.clone(),
                intune,
                &self.settings.validation,
                self.own.clone(),
                self.runtime.clone(),
                self.lanes.remote.clone(),
            )?),
            None => None,
        };
        let mut judges = scep::Judges { intune: intune.as_ref().map(IntuneLink::verifier), ..scep::Judges::default() };
        if let Some(options) = &options.webhook {
            let options = mdm::WebhookOptions::parse(options)?;
            judges.webhook_renewals = options.renewals;
            judges.webhook_without_challenge = options.without_challenge;
            let (engine, name) = (self.engine.clone(), settings.name.clone());
            let (validation, own) = (&self.settings.validation, self.own.clone());
            judges.webhook = Some(webhook(engine, name, options, validation, own, self.runtime.clone())?);
        }
        // A slow judge holds up its own devices, in the lane of remote work, and nobody else.
        let asks = judges.intune.is_some() || judges.webhook.is_some();
        let lane = if asks { &self.lanes.remote } else { &self.lanes.enroll };
        let scep = Arc::new(scep::Scep::mount(self.engine.clone(), settings.name.clone(), judges)?);
        Ok(Parts { intune, ..self.parts(scep, lane, scep::BODY_BYTES_MAX) })
    }

    fn build_mdm(&self, settings: &Endpoint) -> Result<Parts, Error> {
        let url = format!("{}/mdm/{}", self.settings.https.base_url, settings.name);
        let mdm = Arc::new(mdm::Mdm::mount(self.engine.clone(), settings.name.clone(), &url)?);
        Ok(self.parts(mdm, &self.lanes.enroll, mdm::BODY_BYTES_MAX))
    }
}

/// Shows in the figures which endpoints serve. A figure cannot be taken away, so that of a `former` endpoint which was disabled or
/// deleted becomes no number: an alert on 0 must not sound for it for ever.
fn show_mounted<'a>(
    former: impl Iterator<Item = &'a EndpointName>,
    served: &BTreeMap<EndpointName, Served>,
    unserved: &BTreeMap<EndpointName, String>,
) {
    let show = |name: &EndpointName, value: f64| {
        metrics::gauge!(telemetry::ENDPOINT_MOUNTED, "endpoint" => name.to_string()).set(value);
    };
    former
        .filter(|name| !served.contains_key(*name) && !unserved.contains_key(*name))
        .for_each(|name| show(name, f64::NAN));
    unserved.keys().filter(|name| !served.contains_key(*name)).for_each(|name| show(name, 0.0));
    served.keys().for_each(|name| show(name, 1.0));
}

/// The text for operators.
fn text_of(error: &Error) -> String {
    match error {
        Error::Fault(fault) => fault.to_string(),
        Error::Refused(refusal) => refusal.private(),
    }
}

fn paths_of(endpoint: &Endpoint) -> Vec<String> {
    protocol_of(endpoint).map(|protocol| (protocol.paths)(endpoint)).unwrap_or_default()
}

fn protocol_of(endpoint: &Endpoint) -> Result<&'static Protocol, Refusal> {
    PROTOCOLS.iter().find(|protocol| protocol.name == endpoint.protocol.as_str()).ok_or_else(|| {
        let known: Vec<_> = PROTOCOLS.iter().map(|protocol| protocol.name).collect();
        Refusal::new(
            Reason::Unsupported,
            format!("there is no protocol {}; choose among {}", endpoint.protocol, known.join(", ")),
        )
    })
}
