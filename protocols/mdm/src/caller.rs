//! Who calls the web service, and what the caller may do.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_backend::{
    CredentialPurpose, EndpointName, Engine, Error, Evidence, Origin, Reason, Refusal, Right, SecretScope, Serial,
    VerifiedCertificate, VerifiedSecret,
};
use endpoint::Peer;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use zeroize::Zeroizing;

use crate::options::MdmOptions;

/// A caller that has shown who it is.
pub(crate) enum Caller {
    /// The bearer of a token.
    Token(Box<VerifiedSecret>),
    /// The holder of a certificate that the options name.
    Certificate { certificate: Box<VerifiedCertificate>, rights: BTreeSet<Right> },
}

impl Caller {
    /// Reads the request's credential: a token as `Bearer` or as the password of `Basic`, whose user is the token's name; else the
    /// client certificate of the connection.
    ///
    /// # Errors
    /// `Reason::NotAuthenticated`; the engine has it in the audit log.
    pub(crate) fn of(
        engine: &Engine,
        endpoint: &EndpointName,
        options: &MdmOptions,
        headers: &HeaderMap,
        peer: &Peer,
        origin: &Origin,
    ) -> Result<Self, Error> {
        let missing = || Refusal::new(Reason::NotAuthenticated, "show a token or a client certificate");
        let scope = SecretScope::new(endpoint.clone(), CredentialPurpose::Token);
        if let Some(header) = headers.get(AUTHORIZATION) {
            let (scheme, value) = header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(missing)?;
            let (scope, token) = if scheme.eq_ignore_ascii_case("bearer") {
                (scope, Zeroizing::new(value.trim().as_bytes().to_vec()))
            } else if scheme.eq_ignore_ascii_case("basic") {
                let decoded = Zeroizing::new(STANDARD.decode(value.trim()).map_err(|_| missing())?);
                let colon = decoded.iter().position(|octet| *octet == b':').ok_or_else(missing)?;
                let (user, password) = decoded.split_at(colon);
                let password = password.strip_prefix(b":").unwrap_or_default();
                // Windows and some management systems put a domain in front.
                let user = String::from_utf8_lossy(user);
                let user = user.rsplit_once('\\').map_or(user.as_ref(), |(_, user)| user);
                (scope.named(user), Zeroizing::new(password.to_vec()))
            } else {
                return Err(missing().into());
            };
            return Ok(Self::Token(Box::new(engine.verify_secret(&scope, &token, origin)?)));
        }
        let leaf = peer.tls.as_ref().and_then(|tls| tls.client_certificates.first()).ok_or_else(missing)?;
        let certificate = engine.verify_certificate(leaf)?;
        let named = |serial: &str| Serial::parse(serial).is_ok_and(|serial| serial == *certificate.serial());
        let client = options.clients.iter().find(|client| named(&client.certificate)).ok_or_else(|| {
            missing().with_private(format!("certificate {} is not among the clients", certificate.serial()))
        })?;
        Ok(Self::Certificate { rights: client.rights.clone(), certificate: Box::new(certificate) })
    }

    /// Refuses what the caller may not do.
    pub(crate) fn require(&self, right: Right) -> Result<(), Refusal> {
        match self {
            Self::Token(token) => token.require(right),
            Self::Certificate { rights, .. } if rights.contains(&right) => Ok(()),
            Self::Certificate { .. } => Err(Refusal::new(
                Reason::NotAuthorized,
                format!("the certificate does not carry the right {:?}", right.name()),
            )),
        }
    }

    pub(crate) fn evidence(&self) -> Evidence {
        match self {
            Self::Token(token) => Evidence::Secret((**token).clone()),
            Self::Certificate { certificate, .. } => Evidence::Certificate((**certificate).clone()),
        }
    }

    /// As access rules and records name the caller.
    pub(crate) fn requester(&self) -> String {
        match self {
            Self::Token(token) => token.credential().requester(),
            Self::Certificate { certificate, .. } => format!("certificate:{}", certificate.serial()),
        }
    }

    /// The token, if it is one: what it makes can do no more than it does.
    pub(crate) fn token(&self) -> Option<&VerifiedSecret> {
        match self {
            Self::Token(token) => Some(token),
            Self::Certificate { .. } => None,
        }
    }
}
