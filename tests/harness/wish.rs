//! A wish for a certificate, put together step by step. Asked twice, it is the same request twice.

use std::sync::Arc;

use ca_backend::{
    AlternativeName, AuthorityName, CertificateRequest, Challenges, CredentialId, CredentialPurpose, DeviceClaim,
    DeviceVerifier, DistinguishedName, EndpointName, Engine, EnrollmentRequest, Error, Evidence, IssuedCertificate,
    Origin, Outcome, ProfileName, ProtocolName, RequestedExtensions, RequestedNames, RequestedValidity, SecretScope,
    Time, ValidatedIdentifier,
};

use crate::key::Key;
use crate::pki::{ENDPOINT, ISSUING};

/// Whose word a wish is.
#[derive(Clone, Debug)]
enum Who {
    /// An operator, outside any endpoint.
    Operator,
    /// An operator through the endpoint.
    OperatorAtEndpoint(String),
    /// An account that showed control of every name asked for.
    Account(String),
    /// An account that showed control of exactly these names.
    AccountWith(String, Vec<ValidatedIdentifier>),
    /// An account that was made with a credential, and showed control of exactly these names.
    BoundAccount(String, CredentialId, Vec<ValidatedIdentifier>),
    /// The holder of a certificate.
    Certificate(Vec<u8>),
    /// The holder of a certificate who wants its successor.
    Renewal(Vec<u8>),
    /// Whoever knows a secret.
    Secret(CredentialPurpose, String),
    /// A device that a verifier vouches for.
    Device(Verifier),
}

#[derive(Clone)]
struct Verifier(Arc<dyn DeviceVerifier>);

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

/// A wish for a certificate.
#[derive(Clone, Debug)]
pub struct Wish {
    authority: String,
    profile: String,
    subject: String,
    names: Vec<String>,
    extensions: RequestedExtensions,
    csr: CertificateRequest,
    validity: Option<RequestedValidity>,
    who: Who,
    endpoint: String,
    protocol: String,
    transaction: String,
}

impl Wish {
    /// A TLS server certificate for this host from the issuing authority, asked for by an operator with a new key.
    #[must_use]
    pub fn for_host(host: &str) -> Self {
        Self::with_key(&Key::ec()).names(&[&format!("dns:{host}")])
    }

    /// The same without a name yet, for this key.
    #[must_use]
    pub fn with_key(key: &Key) -> Self {
        Self::with_csr(key.request(""))
    }

    /// The same for the key of this request.
    #[must_use]
    pub fn with_csr(csr: CertificateRequest) -> Self {
        Self {
            authority: ISSUING.to_owned(),
            profile: "privatessl-tls-server".to_owned(),
            subject: String::new(),
            names: Vec::new(),
            extensions: RequestedExtensions::default(),
            transaction: hex::encode(csr.digest()),
            csr,
            validity: None,
            who: Who::Operator,
            endpoint: ENDPOINT.to_owned(),
            protocol: "test".to_owned(),
        }
    }

    /// From another authority.
    #[must_use]
    pub fn from_authority(mut self, authority: &str) -> Self {
        authority.clone_into(&mut self.authority);
        self
    }

    /// Of another profile.
    #[must_use]
    pub fn profile(mut self, profile: &str) -> Self {
        profile.clone_into(&mut self.profile);
        self
    }

    /// With this subject, RFC 4514.
    #[must_use]
    pub fn subject(mut self, subject: &str) -> Self {
        subject.clone_into(&mut self.subject);
        self
    }

    /// With these alternative names: `dns:host.example.org`.
    #[must_use]
    pub fn names(mut self, names: &[&str]) -> Self {
        self.names = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// With these extensions.
    #[must_use]
    pub fn extensions(mut self, extensions: RequestedExtensions) -> Self {
        self.extensions = extensions;
        self
    }

    /// Valid until this moment.
    #[must_use]
    pub fn until(mut self, not_after: Time) -> Self {
        self.validity = Some(RequestedValidity { not_after: Some(not_after), ..self.validity.unwrap_or_default() });
        self
    }

    /// Valid from this moment.
    #[must_use]
    pub fn since(mut self, not_before: Time) -> Self {
        self.validity = Some(RequestedValidity { not_before: Some(not_before), ..self.validity.unwrap_or_default() });
        self
    }

    /// Asked for by an account that showed control of every name.
    #[must_use]
    pub fn by_account(mut self, account: &str) -> Self {
        self.who = Who::Account(account.to_owned());
        self
    }

    /// Asked for by an account that showed control of these names (`dns:...`); a leading `*.` marks a wildcard.
    #[must_use]
    pub fn by_account_with(mut self, account: &str, shown: &[&str]) -> Self {
        self.who = Who::AccountWith(account.to_owned(), shown.iter().map(|name| identifier(name)).collect());
        self
    }

    /// Asked for by an operator through the endpoint, whose rules then hold.
    #[must_use]
    pub fn by_operator_at_endpoint(mut self, operator: &str) -> Self {
        self.who = Who::OperatorAtEndpoint(operator.to_owned());
        self
    }

    /// Asked for by an account that was made with a credential and showed control of these names.
    #[must_use]
    pub fn by_bound_account(mut self, account: &str, credential: &CredentialId, shown: &[&str]) -> Self {
        let shown = shown.iter().map(|name| identifier(name)).collect();
        self.who = Who::BoundAccount(account.to_owned(), credential.clone(), shown);
        self
    }

    /// Asked for with the secret of a credential.
    #[must_use]
    pub fn by_secret(mut self, purpose: CredentialPurpose, secret: &str) -> Self {
        self.who = Who::Secret(purpose, secret.to_owned());
        self
    }

    /// Asked for by a device that a verifier vouches for.
    #[must_use]
    pub fn by_device(mut self, verifier: Arc<dyn DeviceVerifier>) -> Self {
        self.who = Who::Device(Verifier(verifier));
        self
    }

    /// Asked for with the key of a certificate whose successor it is to be.
    #[must_use]
    pub fn renewing(mut self, der: &[u8]) -> Self {
        self.who = Who::Renewal(der.to_vec());
        self
    }

    /// Asked for with the key of a certificate.
    #[must_use]
    pub fn by_certificate(mut self, der: &[u8]) -> Self {
        self.who = Who::Certificate(der.to_vec());
        self
    }

    /// At another endpoint.
    #[must_use]
    pub fn at_endpoint(mut self, endpoint: &str) -> Self {
        endpoint.clone_into(&mut self.endpoint);
        self
    }

    /// By another protocol.
    #[must_use]
    pub fn by_protocol(mut self, protocol: &str) -> Self {
        protocol.clone_into(&mut self.protocol);
        self
    }

    /// In an exchange of this name.
    #[must_use]
    pub fn transaction(mut self, transaction: &str) -> Self {
        transaction.clone_into(&mut self.transaction);
        self
    }

    /// Where the wish comes from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        let at_endpoint = !matches!(self.who, Who::Operator);
        Origin {
            protocol: ProtocolName::new(&self.protocol).unwrap(),
            endpoint: at_endpoint.then(|| EndpointName::new(&self.endpoint).unwrap()),
            transaction: self.transaction.clone(),
            request_digest: self.csr.digest(),
            peer: None,
            request_id: "test".to_owned(),
        }
    }

    fn evidence(&self, engine: &Engine) -> Result<Evidence, Error> {
        let challenges = |account: &String, identifiers| {
            Evidence::Challenges(Challenges { account: account.clone(), identifiers, credential: None })
        };
        Ok(match &self.who {
            Who::Operator => Evidence::Operator(engine.operator("test")),
            Who::OperatorAtEndpoint(name) => Evidence::Operator(engine.operator(name)),
            Who::Account(account) => challenges(account, self.names.iter().map(|name| identifier(name)).collect()),
            Who::AccountWith(account, shown) => challenges(account, shown.clone()),
            Who::BoundAccount(account, credential, identifiers) => Evidence::Challenges(Challenges {
                account: account.clone(),
                identifiers: identifiers.clone(),
                credential: Some(credential.clone()),
            }),
            Who::Certificate(der) => Evidence::Certificate(engine.verify_certificate(der)?),
            Who::Renewal(der) => Evidence::Certificate(engine.verify_renewal(der, 0)?),
            Who::Secret(purpose, secret) => {
                let scope = SecretScope::new(EndpointName::new(&self.endpoint)?, *purpose);
                Evidence::Secret(engine.verify_secret(&scope, secret.as_bytes(), &self.origin())?)
            }
            Who::Device(Verifier(verifier)) => {
                let claim = DeviceClaim {
                    endpoint: EndpointName::new(&self.endpoint)?,
                    transaction: self.transaction.clone(),
                    csr: self.csr.digest().to_vec(),
                    peer: None,
                    renews: None,
                };
                Evidence::Device(engine.verify_device(verifier, claim, &self.origin())?)
            }
        })
    }

    /// The request that the engine takes.
    ///
    /// # Errors
    /// If a name or the evidence is refused.
    pub fn request(&self, engine: &Engine) -> Result<EnrollmentRequest, Error> {
        let subject =
            if self.subject.is_empty() { DistinguishedName::empty() } else { DistinguishedName::parse(&self.subject)? };
        let alternative = self.names.iter().map(|name| AlternativeName::parse(name)).collect::<Result<_, _>>()?;
        Ok(EnrollmentRequest {
            authority: AuthorityName::new(&self.authority)?,
            profile: ProfileName::new(&self.profile)?,
            names: RequestedNames { subject, alternative },
            extensions: self.extensions.clone(),
            key: self.csr.key().clone(),
            validity: self.validity,
            evidence: self.evidence(engine)?,
            holder: None,
            origin: self.origin(),
        })
    }

    /// Asks the engine.
    ///
    /// # Errors
    /// The engine's refusal or fault.
    pub fn ask(&self, engine: &Engine) -> Result<Outcome, Error> {
        engine.enroll(self.request(engine)?)
    }

    /// Asks the engine for a certificate that needs no approval.
    ///
    /// # Errors
    /// The engine's refusal or fault.
    pub fn issue(&self, engine: &Engine) -> Result<IssuedCertificate, Error> {
        match self.ask(engine)? {
            Outcome::Issued(certificate) => Ok(certificate),
            Outcome::Pending { ticket, .. } => panic!("the request waits for approval under ticket {ticket}"),
        }
    }
}

fn identifier(name: &str) -> ValidatedIdentifier {
    let wildcard = name.starts_with("dns:*.");
    ValidatedIdentifier {
        name: AlternativeName::parse(&name.replacen("*.", "", usize::from(wildcard))).unwrap(),
        wildcard,
        method: "http-01".to_owned(),
        at: Time::from_unix(0),
        detail: String::new(),
    }
}
