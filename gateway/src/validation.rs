//! Validations: the looks that ACME endpoints ask for, taken outside the request lanes.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use acme::{Acme, CaaSet, FailureClass, Found, Question, Target, Validation};
use ipnet::IpNet;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::corroboration::Perspectives;
use crate::egress::{Egress, EgressError, Host, NodeEgress, Reach};
use crate::pool::Lane;

/// The ports that validations of an endpoint ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// That of http-01, and of redirects to `http`.
    pub http01: u16,
    /// That of redirects to `https`.
    pub https: u16,
    /// That of tls-alpn-01.
    pub tls_alpn01: u16,
}

impl Ports {
    /// Those that the options of an endpoint state.
    #[must_use]
    pub fn of(options: &acme::Options) -> Self {
        Self { http01: options.http01_port, https: options.https_port, tls_alpn01: options.tls_alpn01_port }
    }
}

/// Looks for one endpoint, as far as its options let it.
#[derive(Clone, Debug)]
pub struct Look {
    egress: Egress,
    ports: Ports,
}

impl Look {
    /// With the node's means, within the endpoint's options.
    #[must_use]
    pub fn new(node: &NodeEgress, options: &acme::Options) -> Self {
        Self::within(node, options.reachable_networks.clone(), Ports::of(options))
    }

    /// With the node's means, in these private networks beside the public ones, at these ports.
    #[must_use]
    pub fn within(node: &NodeEgress, networks: Vec<IpNet>, ports: Ports) -> Self {
        let reach = Reach { networks, http_port: ports.http01, https_port: ports.https };
        Self { egress: node.within(reach), ports }
    }

    /// Asks another host what a validation wants to know. `None` if nobody was asked, since too much else is under way.
    pub async fn at(&self, question: &Question) -> Option<Found> {
        let found = match question {
            Question::Http01 { target, path } => self
                .egress
                .fetch_challenge(&host(target), self.ports.http01, path)
                .await
                .map(|fetched| Found::Http { status: 200, body: fetched.body.to_vec(), address: fetched.address.ip() }),
            Question::TlsAlpn01 { target, server_name } => {
                let asked = self.egress.shown_certificate(&host(target), self.ports.tls_alpn01, server_name).await;
                asked.map(|shown| Found::Certificate { der: shown.der, address: shown.address.ip() })
            }
            Question::Dns01 { name } => self.egress.lookup_txt(name).await.map(Found::Txt),
            Question::Caa { names } => self.caa(names).await.map(Found::Caa),
        };
        match found {
            Ok(found) => Some(found),
            Err(error) => Some(Found::Failed { class: class_of(&error)?, text: error.to_string() }),
        }
    }
}

impl Look {
    /// The CAA records of each name, all names at once; the first failure is that of all.
    async fn caa(&self, names: &[String]) -> Result<Vec<CaaSet>, EgressError> {
        let mut looks = JoinSet::new();
        for (place, name) in names.iter().enumerate() {
            let (egress, name) = (self.egress.clone(), name.clone());
            looks.spawn(async move { (place, egress.lookup_caa(&name).await) });
        }
        let mut sets = BTreeMap::new();
        while let Some(looked) = looks.join_next().await {
            let (place, set) = looked.map_err(|_| EgressError::Dns("a look was given up".to_owned()))?;
            sets.insert(place, set?);
        }
        Ok(sets.into_values().collect())
    }
}

fn host(target: &Target) -> Host {
    match target {
        Target::Name(name) => Host::Dns(name.clone()),
        Target::Address(address) => Host::Ip(*address),
    }
}

/// What kind of failure it is; `None` if it is none of the host that was to be asked.
fn class_of(error: &EgressError) -> Option<FailureClass> {
    Some(match error {
        EgressError::Dns(_) => FailureClass::Dns,
        EgressError::Connection(_) => FailureClass::Connection,
        EgressError::Timeout(_) => FailureClass::Timeout,
        EgressError::RefusedAddress { .. } => FailureClass::RefusedAddress,
        EgressError::BadResponse(_) => FailureClass::BadResponse,
        EgressError::Tls(_) => FailureClass::Tls,
        EgressError::Busy => return None,
    })
}

/// Takes the looks that an ACME endpoint asks for, and brings it what they found.
#[derive(Clone)]
pub struct Validator {
    acme: Arc<OnceLock<Weak<Acme>>>,
    look: Look,
    perspectives: Perspectives,
    runtime: Handle,
    lane: Arc<Lane>,
}

impl Validator {
    /// Looks on `runtime` and has `perspectives` look; the endpoint records in `lane`, since that blocks.
    #[must_use]
    pub fn new(look: Look, perspectives: Perspectives, runtime: Handle, lane: Arc<Lane>) -> Self {
        Self { acme: Arc::default(), look, perspectives, runtime, lane }
    }

    /// The endpoint that records what was found; set once, since the endpoint holds the validator and is made after it.
    pub fn records_at(&self, acme: &Arc<Acme>) {
        let _set_before = self.acme.set(Arc::downgrade(acme));
    }

    /// The endpoint, while it is mounted.
    #[must_use]
    pub fn acme(&self) -> Option<Arc<Acme>> {
        self.acme.get()?.upgrade()
    }

    /// Looks in the background and has the endpoint record what was found. Returns at once.
    pub fn begin(&self, validation: Validation) {
        let this = self.clone();
        self.runtime.spawn(async move {
            let validation = Arc::new(validation);
            let elsewhere = this.perspectives.look(&validation, this.look.ports);
            // If nobody was asked, the validation becomes due again, and this was no try.
            let Some(found) = this.look.at(&validation.question).await else { return };
            // Where nothing is shown here, nobody need confirm it.
            let sightings = if validation.shows(&found) { elsewhere.wait(&validation).await } else { Vec::new() };
            let Some(acme) = this.acme() else { return };
            // Recording blocks. If the lane is full or the store fails, the validation becomes due again.
            let record = move || {
                if let Err(error) = acme.judge(&validation, &found, &sightings) {
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
