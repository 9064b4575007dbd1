//! A root, an issuing authority and an endpoint on an engine whose store, keys and clock the test holds in its hands.

use ca_backend::testing::{Bench, NOON_S};
use ca_backend::{
    Action, AuditEntry, AuthorityName, Binding, CertificateSummary, CredentialId, CredentialPurpose, DistinguishedName,
    Endpoint, EndpointName, Engine, EngineSettings, Error, Evidence, Fault, InventoryQuery, KeyAlgorithm, NewAuthority,
    NewCredential, Origin, ProtocolName, Reason, Revocation, RevocationReason, RevocationRequest, Right, Serial,
    StatusChange, Time,
};
use serde_json::{Value, json};

/// The name of the root.
pub const ROOT: &str = "root";
/// The name of the issuing authority.
pub const ISSUING: &str = "issuing";
/// The name of the endpoint.
pub const ENDPOINT: &str = "web";
/// The operator in whose name the tests act.
pub const OPERATOR: &str = "test";
/// A day in seconds.
pub const DAY_S: u64 = 86_400;
/// Every service that an authority can offer to end entities.
pub const SERVICES: [&str; 12] = [
    "smime",
    "smartcard",
    "codesigning",
    "intune",
    "privatessl",
    "wstep",
    "scep",
    "mdmws",
    "cmp",
    "est",
    "v2g",
    "basic",
];

/// An engine over a bench, and the way to restart it.
pub struct Pki {
    /// What outlives the engine.
    pub bench: Bench,
    /// The engine.
    pub engine: Engine,
    settings: EngineSettings,
}

impl Pki {
    /// A PKI in memory with settings that suit most tests.
    #[must_use]
    pub fn start() -> Self {
        Self::with(settings())
    }

    /// A PKI in memory with these settings.
    #[must_use]
    pub fn with(settings: EngineSettings) -> Self {
        Self::on(Bench::in_memory().unwrap(), settings)
    }

    /// A PKI over an empty bench.
    #[must_use]
    pub fn on(bench: Bench, settings: EngineSettings) -> Self {
        let pki = Self::bare(bench, settings);
        found(&pki.engine).unwrap();
        pki
    }

    /// An engine over a bench, whatever is in it.
    #[must_use]
    pub fn bare(mut bench: Bench, settings: EngineSettings) -> Self {
        let engine = bench.boot(settings.clone()).unwrap();
        Self { bench, engine, settings }
    }

    /// Starts anew over the same store and keys.
    pub fn restart(&mut self) {
        self.engine = self.bench.boot(self.settings.clone()).unwrap();
    }

    /// Moves the clock, and lets the engine do what is due.
    pub fn pass_s(&self, seconds: u64) {
        self.bench.clock.advance_s(seconds);
        self.engine.maintain();
    }

    /// Makes or changes the endpoint: these profiles, these rules.
    ///
    /// # Errors
    /// The engine's refusal.
    pub fn put_endpoint(&self, profiles: &[&str], rules: Value) -> Result<(), Error> {
        self.engine.put_endpoint(&endpoint(ENDPOINT, ISSUING, profiles, rules), OPERATOR)
    }

    /// Changes a certificate's status in an operator's name.
    ///
    /// # Errors
    /// The engine's refusal or fault.
    pub fn change(&self, serial: &Serial, change: StatusChange) -> Result<Revocation, Error> {
        change_status(&self.engine, serial, change)
    }

    /// Revokes in an operator's name.
    ///
    /// # Errors
    /// The engine's refusal or fault.
    pub fn revoke(&self, serial: &Serial, reason: RevocationReason) -> Result<Revocation, Error> {
        self.change(serial, StatusChange::Revoke { reason, invalidity: None })
    }
}

/// Settings without a rate limit.
#[must_use]
pub fn settings() -> EngineSettings {
    EngineSettings {
        status_base_url: "http://pki.example.org".to_owned(),
        issue_rate_per_requester_per_s: 0,
        ..EngineSettings::default()
    }
}

/// When every test begins.
#[must_use]
pub fn noon() -> Time {
    Time::from_unix(NOON_S)
}

/// A wish for an authority: P-256, with OCSP, offering every service.
#[must_use]
pub fn new_authority(name: &str, parent: Option<&str>) -> NewAuthority {
    NewAuthority {
        name: authority(name),
        friendly_name: format!("Authority {name}"),
        subject: DistinguishedName::parse(&format!("cn=Test {name},o=Example,c=DE")).unwrap(),
        algorithm: KeyAlgorithm::EcP256,
        key: None,
        validity_s: None,
        parent: parent.map(authority),
        ocsp: true,
        services: SERVICES.map(str::to_owned).to_vec(),
    }
}

/// Makes the root, the issuing authority and the endpoint.
///
/// # Errors
/// The engine's refusal or fault.
pub fn found(engine: &Engine) -> Result<(), Error> {
    engine.create_authority(&new_authority(ROOT, None), OPERATOR)?;
    engine.create_authority(&new_authority(ISSUING, Some(ROOT)), OPERATOR)?;
    let rule = json!([{
        "name": "everything below example.org",
        "requesters": [{"evidence": "challenges"}, {"evidence": "operator"}, {"evidence": "certificate"}],
        "profiles": ["privatessl-tls-server"],
        "allow": {"dns": ["example.org", ".example.org"], "wildcards": true},
    }]);
    engine.put_endpoint(&endpoint(ENDPOINT, ISSUING, &["privatessl-tls-server"], rule), OPERATOR)
}

/// An endpoint of the protocol `test`.
#[must_use]
pub fn endpoint(name: &str, authority: &str, profiles: &[&str], rules: Value) -> Endpoint {
    serde_json::from_value(
        json!({"name": name, "protocol": "test", "authority": authority, "profiles": profiles, "rules": rules}),
    )
    .unwrap()
}

/// An authority's name.
#[must_use]
pub fn authority(name: &str) -> AuthorityName {
    AuthorityName::new(name).unwrap()
}

/// Changes a certificate's status in an operator's name.
///
/// # Errors
/// The engine's refusal or fault.
pub fn change_status(engine: &Engine, serial: &Serial, change: StatusChange) -> Result<Revocation, Error> {
    engine.revoke(&RevocationRequest {
        serial: *serial,
        change,
        comment: "a test".to_owned(),
        evidence: Evidence::Operator(engine.operator(OPERATOR)),
        origin: Origin {
            protocol: ProtocolName::new("test").unwrap(),
            endpoint: None,
            transaction: serial.to_string(),
            request_digest: [0; 32],
            peer: None,
            request_id: "test".to_owned(),
        },
    })
}

/// A credential with its secret.
#[derive(Clone, Debug)]
pub struct Handed {
    /// Its name.
    pub id: CredentialId,
    /// Its secret.
    pub secret: String,
}

/// A wish for a credential of the endpoint without any bounds.
#[must_use]
pub fn new_credential(purpose: CredentialPurpose) -> NewCredential {
    let rights =
        if purpose == CredentialPurpose::Token { Right::ALL.into() } else { std::collections::BTreeSet::new() };
    NewCredential {
        id: None,
        endpoint: EndpointName::new(ENDPOINT).unwrap(),
        purpose,
        comment: String::new(),
        holder: None,
        secret: None,
        expires: None,
        uses_max: None,
        binding: Binding { rights, ..Binding::default() },
    }
}

/// Makes a credential.
///
/// # Errors
/// The engine's refusal or fault.
pub fn hand_out(engine: &Engine, wish: &NewCredential) -> Result<Handed, Error> {
    let (made, secret) = engine.create_credential(wish, OPERATOR)?;
    Ok(Handed { id: made.id, secret: secret.reveal().to_owned() })
}

/// A challenge at the endpoint, good for so many certificates.
#[must_use]
pub fn challenge(engine: &Engine, uses_max: Option<u32>) -> Handed {
    hand_out(engine, &NewCredential { uses_max, ..new_credential(CredentialPurpose::Challenge) }).unwrap()
}

/// The whole audit log.
#[must_use]
pub fn audit_log(engine: &Engine) -> Vec<AuditEntry> {
    let mut log: Vec<AuditEntry> = Vec::new();
    loop {
        let page = engine.audit(log.last().map_or(0, |entry| entry.number), 1_000).unwrap();
        if page.is_empty() {
            return log;
        }
        log.extend(page);
    }
}

/// Every entry of one kind.
#[must_use]
pub fn audited(engine: &Engine, action: Action) -> Vec<AuditEntry> {
    audit_log(engine).into_iter().filter(|entry| entry.record.action == action).collect()
}

/// Every certificate that a query finds, page by page.
#[must_use]
pub fn find_all(engine: &Engine, query: &InventoryQuery) -> Vec<CertificateSummary> {
    let mut query = query.clone();
    let mut found = Vec::new();
    loop {
        let page = engine.search(&query).unwrap();
        found.extend(page.items);
        match page.cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return found,
        }
    }
}

/// The reason of a refusal; the test fails if it is a fault.
#[must_use]
pub fn reason(error: &Error) -> Reason {
    match error {
        Error::Refused(refusal) => refusal.reason(),
        Error::Fault(fault) => panic!("a refusal was expected, not the fault {fault:?}"),
    }
}

/// The fault; the test fails if it is a refusal.
#[must_use]
pub fn fault(error: Error) -> Fault {
    match error {
        Error::Fault(fault) => fault,
        Error::Refused(refusal) => panic!("a fault was expected, not the refusal {refusal:?}"),
    }
}

/// Asserts that something is refused for a reason, with a text that holds these words.
#[track_caller]
pub fn assert_refused<T: std::fmt::Debug>(result: Result<T, Error>, expected: Reason, words: &str) {
    match result {
        Err(Error::Refused(refusal)) => {
            assert_eq!(refusal.reason(), expected, "{refusal:?}");
            assert!(refusal.private().contains(words), "{words:?} is missing in {refusal:?}");
        }
        other => panic!("expected the refusal {expected:?}, got {other:?}"),
    }
}
