//! From a granted request to a signature: prepare, then sign. Nothing else in the daemon uses an issuing key.

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Time;
use crate::crl::UnsignedCrl;
use crate::engine::EngineSettings;
use crate::error::{Error, Fault, KeyFault, Reason, Refusal};
use crate::extension;
use crate::keys::KeyRing;
use crate::lint::{self, LintContext};
use crate::policy::Authorization;
use crate::profile::{Profile, ProfileKind};
use crate::registry::Issuer;
use crate::request::{EnrollmentRequest, RequestedValidity};
use crate::serial::Serial;
use crate::tbs::{self, CertificateDraft, IssuerFacts};

/// The moments between which a certificate is valid, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValidityPeriod {
    pub(crate) not_before: Time,
    pub(crate) not_after: Time,
}

/// How far in the future a validity may begin, in seconds: what is issued today should be of use soon.
const POST_DATE_MAX_S: u64 = 30 * 86_400;
/// The shortest validity worth a certificate, in seconds.
const VALIDITY_MIN_S: u64 = 60;

/// Decides on the validity. A stated wish is granted or refused, never bent in silence; without one the profile's default holds
/// as far as the issuer's own certificate reaches.
pub(crate) fn validity(
    now: Time,
    settings: &EngineSettings,
    profile: &Profile,
    issuer: &Issuer,
    authorization: &Authorization,
    requested: Option<RequestedValidity>,
) -> Result<ValidityPeriod, Refusal> {
    let requested = requested.unwrap_or_default();
    let earliest = now.minus_s(settings.backdate_s);
    let floor = issuer.active.as_ref().map_or(earliest, |active| earliest.max(active.facts.not_before));
    let not_before = requested.not_before.unwrap_or(floor);
    let ceiling = now.plus_s(POST_DATE_MAX_S);
    if not_before < floor || not_before > ceiling {
        return Err(Refusal::new(Reason::BadTime, format!("validity must begin between {floor} and {ceiling}")));
    }
    let longest_s = authorization.validity_max_s().unwrap_or(u64::MAX).min(profile.validity.max_s.unwrap_or(u64::MAX));
    let issuer_end = issuer.active.as_ref().map_or(Time::from_unix(u64::MAX), |active| active.facts.not_after);
    // The last second counts, so a day's validity ends one second before the same hour tomorrow.
    let end_after = |seconds: u64| not_before.plus_s(seconds.saturating_sub(1));
    let latest = end_after(longest_s).min(issuer_end);
    let not_after = match requested.not_after {
        None => end_after(profile.validity.default_s).min(latest),
        Some(wish) if wish <= latest => wish,
        Some(_) => return Err(Refusal::new(Reason::BadTime, format!("validity cannot end after {latest}"))),
    };
    if not_after < not_before.max(now).plus_s(VALIDITY_MIN_S) {
        return Err(Refusal::new(Reason::BadTime, format!("validity would end at {not_after}, too soon to be of use")));
    }
    Ok(ValidityPeriod { not_before, not_after })
}

/// Bytes that may be signed: granted and linted, or read back from the record of such. Signing spends it.
pub(crate) struct Prepared {
    issuer: Arc<Issuer>,
    form: Form,
}

enum Form {
    /// A TBSCertificate.
    Certificate(Vec<u8>),
    /// A CertificationRequestInfo.
    Request(Vec<u8>),
    /// A TBSCertList.
    Crl(UnsignedCrl),
}

impl Prepared {
    /// The certificate that a granted request leads to.
    pub(crate) fn certificate(
        serial: &Serial,
        issuer: Arc<Issuer>,
        profile: &Profile,
        request: &EnrollmentRequest,
        validity: ValidityPeriod,
        authorization: &Authorization,
    ) -> Result<Self, Error> {
        let key = request.key.subject_key();
        let choices = authorization.extended_key_usages();
        let extensions = extension::resolve(profile, &request.extensions, choices)?;
        let own_facts;
        let facts = match (&issuer.active, profile.kind) {
            (
                Some(active),
                ProfileKind::Subordinate
                | ProfileKind::Responder
                | ProfileKind::RegistrationAuthority
                | ProfileKind::EndEntity,
            ) => &active.facts,
            (None, ProfileKind::Root) if issuer.form.public_key == key.spki_der() => {
                let (_, algorithm) = issuer.signing_key()?;
                own_facts = IssuerFacts::self_signed(
                    issuer.subject.clone(),
                    key,
                    algorithm,
                    validity.not_before,
                    validity.not_after,
                );
                &own_facts
            }
            (Some(_), ProfileKind::Root) | (None, _) => {
                return Err(
                    Refusal::new(Reason::NotReady, format!("authority {} is not active", request.authority)).into()
                );
            }
        };
        let draft = CertificateDraft {
            serial: *serial,
            issuer: facts,
            profile,
            subject: &request.names.subject,
            alternative_names: &request.names.alternative,
            extensions: &extensions,
            key,
            not_before: validity.not_before,
            not_after: validity.not_after,
        };
        let bytes = draft.encode()?;
        let names = lint::lint(
            &bytes,
            &LintContext { profile, issuer: facts, key, now: serial.issued_at(), operator_purposes: choices },
        )?;
        authorization.admits(&names)?;
        Ok(Self { issuer, form: Form::Certificate(bytes) })
    }

    /// Recorded bytes whose signing a fault had stopped.
    pub(crate) fn recorded(tbs_certificate: Vec<u8>, issuer: Arc<Issuer>) -> Self {
        Self { issuer, form: Form::Certificate(tbs_certificate) }
    }

    /// The CSR of an authority below an external root.
    pub(crate) fn request(issuer: Arc<Issuer>, info: Vec<u8>) -> Self {
        Self { issuer, form: Form::Request(info) }
    }

    /// An issuer's CRL.
    pub(crate) fn crl(issuer: Arc<Issuer>, crl: UnsignedCrl) -> Self {
        Self { issuer, form: Form::Crl(crl) }
    }

    pub(crate) fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    /// What will be signed.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.form {
            Form::Certificate(bytes) | Form::Request(bytes) => bytes,
            Form::Crl(crl) => crl.tbs(),
        }
    }

    /// Signs with the issuer's key. The signature is verified before anybody sees it.
    pub(crate) fn sign(self, keys: &KeyRing) -> Result<Signed, Fault> {
        let (key, algorithm) = self.issuer.signing_key()?;
        let signature = keys.sign(key, self.bytes())?;
        if !self.issuer.made(self.bytes(), &signature)? {
            let why = format!("{key} made a signature that its public key does not verify");
            return Err(KeyFault::Unusable(why).into());
        }
        let der = match self.form {
            Form::Certificate(bytes) => Bytes::from(tbs::assemble_certificate(&bytes, algorithm, &signature)?),
            Form::Request(bytes) => Bytes::from(tbs::assemble_certification_request(&bytes, algorithm, &signature)?),
            Form::Crl(crl) => crl.assemble(&signature)?,
        };
        Ok(Signed { der, signature })
    }
}

/// What [`Prepared::sign`] made.
pub(crate) struct Signed {
    /// The whole certificate, request or CRL.
    pub(crate) der: Bytes,
    /// The signature alone.
    pub(crate) signature: Vec<u8>,
}
