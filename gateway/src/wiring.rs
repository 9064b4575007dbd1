//! The mount table: endpoint -> path -> lane. Nothing else is decided here.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use acme::Acme;
use ca_backend::{Endpoint, Engine, Error, Reason, Refusal};
use config::Settings;
use tokio::runtime::Handle;

use crate::corroboration::Perspectives;
use crate::device_management::IntuneLink;
use crate::egress::{EgressError, NodeEgress};
use crate::listen::{Mount, Mounts, On};
use crate::pool::Lane;
use crate::validation::{Look, Validator};

/// A protocol that endpoints can speak.
struct Protocol {
    name: &'static str,
    /// Whether an endpoint's options are right.
    check: fn(&Endpoint) -> Result<(), Refusal>,
    /// Builds the endpoint and says where it is reached.
    mount: fn(&Wiring, &Endpoint) -> Result<Vec<Mount>, Error>,
}

/// One row for each protocol.
const PROTOCOLS: &[Protocol] = &[
    Protocol {
        name: "acme",
        check: |endpoint| acme::Options::parse(&endpoint.options).map(drop),
        mount: Wiring::mount_acme,
    },
    Protocol {
        name: "scep",
        check: |endpoint| {
            let options = scep::Options::parse(&endpoint.options)?;
            options.intune.as_ref().map_or(Ok(()), IntuneLink::check)
        },
        mount: Wiring::mount_scep,
    },
    Protocol { name: "mdm", check: |endpoint| mdm::MdmOptions::parse(endpoint).map(drop), mount: Wiring::mount_mdm },
];

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
    validators: Mutex<Vec<Validator>>,
    intunes: Mutex<Vec<IntuneLink>>,
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
            validators: Mutex::default(),
            intunes: Mutex::default(),
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

    /// Whether an endpoint could be mounted on this node: as [`Wiring::check`], and the node has the perspectives that it names.
    ///
    /// # Errors
    /// A refusal that says what is wrong.
    pub fn accepts(&self, endpoint: &Endpoint) -> Result<(), Refusal> {
        Self::check(endpoint)?;
        match endpoint.protocol.as_str() {
            "acme" => self.perspectives.check(&acme::Options::parse(&endpoint.options)?.perspectives),
            _ => Ok(()),
        }
    }

    /// The remote perspectives of this node, for timed work.
    #[must_use]
    pub fn perspectives(&self) -> &Perspectives {
        &self.perspectives
    }

    /// Puts the enabled endpoints and the status services in force, as they are now.
    ///
    /// # Errors
    /// The first endpoint that cannot be mounted; the table in force then stays.
    pub fn remount(&self) -> Result<(), MountError> {
        let _one_at_a_time = self.remounting.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *self.validators());
        let intunes_before = std::mem::take(&mut *self.intunes_in_force());
        match self.mount_all() {
            Ok(mounts) => self.mounts.replace(mounts),
            Err(error) => {
                // The endpoints that stay in force keep what retries their validations.
                *self.validators() = before;
                *self.intunes_in_force() = intunes_before;
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
            let failed = |error| MountError { endpoint: settings.name.to_string(), error };
            let here = protocol_of(settings).map_err(Error::from).and_then(|protocol| (protocol.mount)(self, settings));
            for mount in here.map_err(failed)? {
                if mounts.iter().any(|other| other.prefix() == mount.prefix()) {
                    let text = format!("another endpoint is at {} already", mount.prefix());
                    return Err(failed(Refusal::new(Reason::Conflict, text).into()));
                }
                mounts.push(mount);
            }
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

    /// The Intune of each SCEP endpoint in force that has one, for timed work.
    #[must_use]
    pub fn intunes(&self) -> Vec<IntuneLink> {
        self.intunes_in_force().clone()
    }

    fn intunes_in_force(&self) -> MutexGuard<'_, Vec<IntuneLink>> {
        self.intunes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mount_acme(&self, settings: &Endpoint) -> Result<Vec<Mount>, Error> {
        let options = acme::Options::parse(&settings.options)?;
        let egress = self.egress.as_ref().map_err(|error| Refusal::new(Reason::Malformed, error.to_string()))?;
        self.perspectives.check(&options.perspectives)?;
        let look = Look::new(egress, &options);
        let validator =
            Validator::new(look, self.perspectives.clone(), self.runtime.clone(), self.lanes.remote.clone());
        let path = format!("/acme/{}", settings.name);
        let url = format!("{}{path}", self.settings.https.base_url);
        let start = validator.clone();
        let start = Arc::new(move |validation| start.begin(validation));
        let acme = Arc::new(Acme::mount(self.engine.clone(), settings.name.clone(), &url, start)?);
        validator.records_at(&acme);
        self.validators().push(validator);
        let body_bytes_max = acme::BODY_BYTES_MAX.min(self.settings.limits.body_bytes_max);
        Ok(vec![Mount::new(On::Tls, &path, acme, self.lanes.enroll.clone(), body_bytes_max)])
    }

    /// Both listeners: what SCEP sends is protected by itself, and old clients know no TLS of today.
    fn mount_scep(&self, settings: &Endpoint) -> Result<Vec<Mount>, Error> {
        let options = scep::Options::parse(&settings.options)?;
        let link = match &options.intune {
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
        let verifier = link.as_ref().map(IntuneLink::verifier);
        // A slow Intune holds up its own devices, in the lane of remote work, and nobody else.
        let lane = if link.is_some() { &self.lanes.remote } else { &self.lanes.enroll };
        let scep = Arc::new(scep::Scep::mount(self.engine.clone(), settings.name.clone(), verifier)?);
        self.intunes_in_force().extend(link);
        let body_bytes_max = scep::BODY_BYTES_MAX.min(self.settings.limits.body_bytes_max);
        let mut paths = vec![format!("/scep/{}", settings.name)];
        paths.extend(options.ndes.then(|| scep::NDES_PATH.to_owned()));
        let mount = |path| Mount::new(On::Both, path, scep.clone(), lane.clone(), body_bytes_max);
        Ok(paths.iter().map(|path| mount(path)).collect())
    }

    /// With TLS only: tokens, passwords and keys go over the line.
    fn mount_mdm(&self, settings: &Endpoint) -> Result<Vec<Mount>, Error> {
        let options = mdm::MdmOptions::parse(settings)?;
        let path = format!("/mdm/{}", settings.name);
        let url = format!("{}{path}", self.settings.https.base_url);
        let mdm = Arc::new(mdm::Mdm::mount(self.engine.clone(), settings.name.clone(), &url)?);
        let body_bytes_max = mdm::BODY_BYTES_MAX.min(self.settings.limits.body_bytes_max);
        let mut paths = vec![path];
        let ndes = options.challenges.is_some_and(|challenges| challenges.ndes);
        paths.extend(ndes.then(|| mdm::NDES_PATH.to_owned()));
        let mount = |path| Mount::new(On::Tls, path, mdm.clone(), self.lanes.enroll.clone(), body_bytes_max);
        Ok(paths.iter().map(|path| mount(path)).collect())
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
