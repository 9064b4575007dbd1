//! The mount table: endpoint -> path -> lane. Nothing else is decided here.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use acme::{Acme, FailureClass, Found, Question, Target, Validation};
use ca_backend::{Endpoint, Engine, Error, Reason, Refusal};
use config::Settings;
use tokio::runtime::Handle;

use crate::egress::{Egress, EgressError, Host, Reach};
use crate::listen::{Mount, Mounts, On};
use crate::pool::Lane;

/// A protocol that endpoints can speak.
struct Protocol {
    name: &'static str,
    /// Whether an endpoint's options are right.
    check: fn(&Endpoint) -> Result<(), Refusal>,
    /// Builds the endpoint and says where it is reached.
    mount: fn(&Wiring, &Endpoint) -> Result<Mount, Error>,
}

/// One row for each protocol.
const PROTOCOLS: &[Protocol] = &[Protocol {
    name: "acme",
    check: |endpoint| acme::Options::parse(&endpoint.options).map(drop),
    mount: Wiring::mount_acme,
}];

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
    /// The sockets of this node, which no validation may reach.
    own: Vec<SocketAddr>,
    validators: Mutex<Vec<Validator>>,
    remounting: Mutex<()>,
}

/// An endpoint that cannot be mounted.
#[derive(Debug)]
pub struct MountError {
    /// Its name.
    pub endpoint: String,
    /// Why.
    pub error: Error,
}

impl Wiring {
    /// Nothing is mounted yet: see [`Wiring::remount`].
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
            engine,
            settings,
            mounts,
            lanes,
            runtime,
            own,
            validators: Mutex::default(),
            remounting: Mutex::default(),
        }
    }

    /// Whether an endpoint could be mounted: its protocol is known and its options are right.
    ///
    /// # Errors
    /// A refusal that says what is wrong.
    pub fn check(endpoint: &Endpoint) -> Result<(), Refusal> {
        (protocol_of(endpoint)?.check)(endpoint)
    }

    /// Puts the enabled endpoints and the status services in force, as they are now.
    ///
    /// # Errors
    /// The first endpoint that cannot be mounted; the table in force then stays.
    pub fn remount(&self) -> Result<(), MountError> {
        let _one_at_a_time = self.remounting.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *self.validators());
        match self.mount_all() {
            Ok(mounts) => self.mounts.replace(mounts),
            Err(error) => {
                // The endpoints that stay in force keep what retries their validations.
                *self.validators() = before;
                return Err(error);
            }
        }
        Ok(())
    }

    fn mount_all(&self) -> Result<Vec<Mount>, MountError> {
        let body_bytes_max = self.settings.limits.body_bytes_max;
        let status: Arc<dyn endpoint::Endpoint> = Arc::new(revocation::Revocation::new(self.engine.clone()));
        let mut mounts: Vec<Mount> = ["/crl", "/ocsp", "/ca"]
            .map(|prefix| Mount::new(On::Both, prefix, status.clone(), self.lanes.status.clone(), body_bytes_max))
            .into();
        for settings in self.engine.endpoints().iter().filter(|endpoint| endpoint.enabled) {
            let mount =
                protocol_of(settings).map_err(Error::from).and_then(|protocol| (protocol.mount)(self, settings));
            mounts.push(mount.map_err(|error| MountError { endpoint: settings.name.to_string(), error })?);
        }
        Ok(mounts)
    }

    /// The validators of the ACME endpoints in force, for timed work.
    #[must_use]
    pub fn acme_validators(&self) -> Vec<Validator> {
        self.validators().clone()
    }

    fn validators(&self) -> MutexGuard<'_, Vec<Validator>> {
        self.validators.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mount_acme(&self, settings: &Endpoint) -> Result<Mount, Error> {
        let options = acme::Options::parse(&settings.options)?;
        let reach = Reach {
            networks: options.reachable_networks,
            http_port: options.http01_port,
            https_port: options.https_port,
        };
        let egress = Egress::new(&self.settings.validation, reach, self.own.clone())
            .map_err(|error| Refusal::new(Reason::Malformed, error.to_string()))?;
        let validator = Validator {
            acme: Arc::default(),
            egress,
            http_port: options.http01_port,
            runtime: self.runtime.clone(),
            lane: self.lanes.remote.clone(),
        };
        let path = format!("/acme/{}", settings.name);
        let url = format!("{}{path}", self.settings.https.base_url);
        let start = validator.clone();
        let start = Arc::new(move |validation| start.begin(validation));
        let acme = Arc::new(Acme::mount(self.engine.clone(), settings.name.clone(), &url, start)?);
        // Set once, here: the endpoint calls the validator, which records through the endpoint.
        let _ = validator.acme.set(Arc::downgrade(&acme));
        self.validators().push(validator);
        let body_bytes_max = acme::BODY_BYTES_MAX.min(self.settings.limits.body_bytes_max);
        Ok(Mount::new(On::Tls, &path, acme, self.lanes.enroll.clone(), body_bytes_max))
    }
}

/// Takes the looks that an ACME endpoint asks for, outside the request lanes.
#[derive(Clone)]
pub struct Validator {
    acme: Arc<OnceLock<Weak<Acme>>>,
    egress: Egress,
    http_port: u16,
    runtime: Handle,
    lane: Arc<Lane>,
}

impl Validator {
    /// The endpoint, while it is mounted.
    #[must_use]
    pub fn acme(&self) -> Option<Arc<Acme>> {
        self.acme.get()?.upgrade()
    }

    /// Looks in the background and has the endpoint record what was found. Returns at once.
    pub fn begin(&self, validation: Validation) {
        let this = self.clone();
        self.runtime.spawn(async move {
            let found = look(&this.egress, this.http_port, &validation.question).await;
            let Some(acme) = this.acme() else { return };
            // Recording blocks. If the lane is full or the store fails, the validation becomes due again.
            let record = move || {
                if let Err(error) = acme.judge(&validation, &found) {
                    tracing::warn!(?error, "failed to record a validation; it will be tried again");
                }
            };
            if let Ok(recorded) = this.lane.run(record) {
                // A panic is in the log already, and the validation becomes due again.
                let _ = recorded.await;
            }
        });
    }
}

/// Asks another host what a validation wants to know.
async fn look(egress: &Egress, http_port: u16, question: &Question) -> Found {
    let found = match question {
        Question::Http01 { target, path } => {
            let host = match target {
                Target::Name(name) => Host::Dns(name.clone()),
                Target::Address(address) => Host::Ip(*address),
            };
            egress.fetch_challenge(&host, http_port, path).await.map(|fetched| Found::Http {
                status: 200,
                body: fetched.body.to_vec(),
                address: fetched.address.ip(),
            })
        }
        Question::Dns01 { name } => egress.lookup_txt(name).await.map(Found::Txt),
    };
    found.unwrap_or_else(|error| Found::Failed { class: class_of(&error), text: error.to_string() })
}

fn class_of(error: &EgressError) -> FailureClass {
    match error {
        EgressError::Dns(_) => FailureClass::Dns,
        EgressError::Connection(_) => FailureClass::Connection,
        EgressError::Timeout(_) => FailureClass::Timeout,
        EgressError::RefusedAddress { .. } => FailureClass::RefusedAddress,
        EgressError::BadResponse(_) => FailureClass::BadResponse,
        EgressError::Tls(_) => FailureClass::Tls,
    }
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
