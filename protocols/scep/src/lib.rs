//! SCEP (RFC 8894) on top of the engine.
//!
//! A request comes in at `Scep::handle`; `operation` reads what it asks for, `message` opens a pkiMessage, `transaction` decides, and
//! `reply` answers. Clients encrypt for the authority's registration authority, an RSA pair that the engine keeps; the authority's own
//! key has any algorithm and is never near a message. Nothing is kept between requests but transactions that wait for approval
//! (`record`); the engine itself knows a repeated request.
//!
//! Deviations from RFC 8894, on purpose:
//! - A PKCSReq signed by a certificate of ours is a renewal (clients do that); one that is not must be signed by the key in it, also
//!   where the signer's certificate comes from elsewhere (section 3.1 permits existing certificates of other authorities).
//! - Replies are signed with the digest that belongs to the registration authority's key (SHA-256, with RSA-4096 SHA-512), whatever
//!   the client signed with. Contents of replies are encrypted with the cipher of the request and RSA PKCS#1 v1.5 key transport.
//! - A reply without pkcsPKIEnvelope has an empty content in its place (section 3.2.2 omits it): some clients verify nothing else.
//! - Reply content is the certificate alone unless the endpoint's options say otherwise (section 3.4 lets the chain go with it).
//! - CertPoll is matched by transactionID and signing key; issuer and subject in it are not looked at (section 3.3.3).
//! - A missing senderNonce is tolerated, and recipientNonce is then left out. What cannot be answered with a CertRep is an HTTP error.
//! - GetCACert and GetNextCACert take no CA identifier into account: an endpoint has one authority (section 4.2).
//! - MD5 is never taken; SHA-1, 3DES and DES only where the endpoint's options say so.
//! - Everything that goes wrong between decryption and the proof of possession is one badMessageCheck with one text.

mod crl;
mod error;
mod judge;
mod message;
mod operation;
mod options;
mod record;
mod reply;
mod transaction;

use std::fmt;

use bytes::Bytes;
use ca_backend::{
    AuthorityName, Endpoint as Settings, EndpointName, Engine, Error, Fault, Origin, ProtocolName, Reason, Refusal,
    RegistrationAuthority,
};
use const_oid::db::rfc5911::ID_DATA;
use endpoint::Peer;
use http::{Method, Request, Response};
use pkcs7::certs_only;
use zeroize::Zeroizing;

pub use judge::Judges;
pub use options::{CaCertificates, Options};

use crl::CrlPlaces;
use error::{FailInfo, Failure, HttpError, Rejection};
use message::{Head, MessageType, Sealed};
use operation::Operation;
use reply::{CertRep, Fresh, body};
use transaction::Site;

/// The longest request body, in octets.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// The path of NDES, which leads to the endpoint that says so in its options.
pub const NDES_PATH: &str = "/certsrv/mscep";

const PKI_MESSAGE: &str = "application/x-pki-message";

/// One SCEP endpoint.
pub struct Scep {
    engine: Engine,
    name: EndpointName,
    protocol: ProtocolName,
    judges: Judges,
    crls: CrlPlaces,
}

impl fmt::Debug for Scep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scep").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Scep {
    /// Mounts the endpoint of that name. `judges` are asked about challenges that were not handed out here.
    ///
    /// # Errors
    /// A refusal if there is no such endpoint or its options are wrong.
    pub fn mount(engine: Engine, name: EndpointName, judges: Judges) -> Result<Self, Error> {
        let settings = engine.endpoint(&name);
        let settings =
            settings.ok_or_else(|| Refusal::new(Reason::NotReady, format!("there is no endpoint {name}")))?;
        let options = Options::parse(&settings.options)?;
        // An authority that cannot issue yet gets its registration authority later, from the engine's upkeep.
        if let Err(error) = engine.keep_registration_authority(&settings.authority, options.ra_key) {
            tracing::warn!(endpoint = %name, ?error, "the registration authority cannot be made yet; SCEP clients have to wait");
        }
        Ok(Self { engine, name, protocol: ProtocolName::new("scep")?, judges, crls: CrlPlaces::default() })
    }

    fn answer(&self, request: &Request<Bytes>, peer: &Peer) -> Result<Response<Bytes>, Failure> {
        let settings = self.engine.endpoint(&self.name).filter(|settings| settings.enabled);
        let settings = settings.ok_or_else(|| HttpError::not_found("there is no such endpoint"))?;
        let options = Options::parse(&settings.options).map_err(|refusal| Fault::Broken(refusal.private()))?;
        match Operation::of(request)? {
            Operation::GetCaCaps => Ok(body("text/plain", options.capabilities())),
            Operation::GetCaCert => self.ca_certificates(&settings, &options),
            Operation::GetNextCaCert => self.next_ca_certificates(&settings, &options),
            Operation::PkiMessage(message) => {
                Ok(body(PKI_MESSAGE, self.pki_operation(&settings, &options, &message, peer)?))
            }
        }
    }

    /// GetCACert (RFC 8894 section 4.2).
    fn ca_certificates(&self, settings: &Settings, options: &Options) -> Result<Response<Bytes>, Failure> {
        let authority = self.authority(&settings.authority, options)?;
        match options.ca_certificates {
            CaCertificates::RegistrationAuthority => Ok(body("application/x-x509-ca-cert", authority.certificate)),
            CaCertificates::Chain => Ok(body("application/x-x509-ca-ra-cert", bag(&authority)?)),
        }
    }

    /// GetNextCACert (RFC 8894 section 4.7), signed by the registration authority in use.
    fn next_ca_certificates(&self, settings: &Settings, options: &Options) -> Result<Response<Bytes>, Failure> {
        let next = options.next_authority.as_ref();
        let next = next.ok_or_else(|| HttpError::not_found("there is no next certificate of this authority"))?;
        let authority = self.authority(&settings.authority, options)?;
        self.engine.keep_registration_authority(next, options.ra_key).map_err(unavailable)?;
        let content = bag(&self.authority(next, options)?)?;
        let message = reply::signed((ID_DATA, Some(&content)), &[], &authority)?;
        Ok(body("application/x-x509-next-ca-cert", message))
    }

    /// The registration authority in use.
    fn authority(&self, of: &AuthorityName, options: &Options) -> Result<RegistrationAuthority, Failure> {
        let authorities = self.engine.registration_authorities(of, options.ra_key).map_err(unavailable)?;
        authorities.into_iter().next().ok_or(Failure::Fault(Fault::TryLater { after_s: 10 }))
    }

    /// PKIOperation (RFC 8894 section 4.3).
    fn pki_operation(
        &self,
        settings: &Settings,
        options: &Options,
        message: &[u8],
        peer: &Peer,
    ) -> Result<Vec<u8>, Failure> {
        let authorities =
            self.engine.registration_authorities(&settings.authority, options.ra_key).map_err(unavailable)?;
        let authority = authorities.first().ok_or(Failure::Fault(Fault::TryLater { after_s: 10 }))?;
        let sealed = Sealed::read(message)?;
        let head = sealed.head.clone();
        let origin = self.origin(&head, peer);
        let mut crl_place = None;
        let answer = sealed.open(&authorities, options.legacy()).and_then(|opened| {
            if opened.kind == MessageType::GetCrl {
                crl_place = Some(self.crls.take(options.crls_at_once_max)?);
            }
            let site = Site {
                engine: &self.engine,
                settings,
                options,
                authority,
                judges: &self.judges,
                origin: origin.clone(),
            };
            site.answer(&opened)
        });
        let encoded = match answer {
            Ok(rep) => rep.encode(&head, authority, &self.fresh()),
            Err(failure) => Err(failure),
        };
        drop(crl_place);
        match encoded {
            Err(Failure::Rejected(rejection)) => {
                self.record(&rejection, &origin)?;
                CertRep::from(&rejection).encode(&head, authority, &self.fresh())
            }
            encoded => encoded,
        }
    }

    /// A rejection is in the audit log before the client hears of it; the engine has put those there that it made.
    fn record(&self, rejection: &Rejection, origin: &Origin) -> Result<(), Failure> {
        if rejection.audited {
            return Ok(());
        }
        let reason = match rejection.fail_info {
            FailInfo::BadAlg => Reason::BadAlgorithm,
            FailInfo::BadMessageCheck => Reason::BadProof,
            FailInfo::BadRequest => Reason::NotAuthorized,
            FailInfo::BadTime => Reason::BadTime,
            FailInfo::BadCertId => Reason::UnknownCertificate,
        };
        let refusal = Refusal::new(reason, rejection.public.clone()).with_private(rejection.private.clone());
        Ok(self.engine.refuse(origin, &refusal)?)
    }

    fn origin(&self, head: &Head, peer: &Peer) -> Origin {
        Origin {
            protocol: self.protocol.clone(),
            endpoint: Some(self.name.clone()),
            transaction: head.transaction.clone(),
            request_digest: [0; 32],
            peer: Some(peer.address.ip()),
            request_id: peer.request_id.clone(),
        }
    }

    fn fresh(&self) -> Fresh {
        Fresh { nonce: self.engine.random(), seal: Zeroizing::new(self.engine.random()) }
    }
}

/// Certificates of the registration authority and those above it, root included: some clients have it from nowhere else.
fn bag(authority: &RegistrationAuthority) -> Result<Vec<u8>, Failure> {
    let mut certificates = vec![authority.certificate.as_ref()];
    certificates.extend(authority.chain.iter().map(AsRef::as_ref));
    Ok(certs_only(&certificates, &[])?)
}

/// The authority cannot serve now. That is nothing that a client could do something about.
fn unavailable(error: Error) -> Failure {
    match error {
        Error::Fault(fault) => fault.into(),
        Error::Refused(refusal) => {
            tracing::warn!(why = %refusal.private(), "a SCEP endpoint's authority cannot serve");
            Fault::TryLater { after_s: 60 }.into()
        }
    }
}

impl endpoint::Endpoint for Scep {
    fn handle(&self, request: Request<Bytes>, peer: &Peer) -> Response<Bytes> {
        let mut response = self.answer(&request, peer).unwrap_or_else(|failure| {
            let error = match failure {
                Failure::Http(error) => error,
                // Every CertRep was made before.
                Failure::Rejected(_) => HttpError::bad_request("the message cannot be answered"),
                Failure::Fault(fault) => {
                    tracing::error!(request_id = %peer.request_id, endpoint = %self.name, error = %fault, "failed to answer a SCEP request");
                    HttpError::from(&fault)
                }
            };
            error.into_response()
        });
        if request.method() == Method::HEAD {
            *response.body_mut() = Bytes::new();
        }
        response
    }
}
