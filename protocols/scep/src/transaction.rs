//! What a message that was opened brings: a certificate, waiting, or a rejection.

use std::sync::Arc;

use ca_backend::profile::RequestExtension;
use ca_backend::{
    AlternativeName, CertificateRequest, CredentialPurpose, DeviceClaim, DeviceVerifier, DistinguishedName, Endpoint,
    Engine, EnrollmentRequest, Error, Evidence, Fault, KeyAlone, Origin, Outcome, ProfileName, RegistrationAuthority,
    RequestedExtensions, RequestedNames, SecretScope, Serial, VerifiedCertificate,
};
use const_oid::db::rfc5280::{ID_CE_EXT_KEY_USAGE, ID_CE_SUBJECT_ALT_NAME};
use der::{Decode, Tag};
use pkcs7::{CertificateView, certs_only, elements, only_element};
use x509_cert::ext::pkix::ExtendedKeyUsage;

use crate::error::{FailInfo, Failure, Rejection};
use crate::judge::Judges;
use crate::message::{MessageType, Opened};
use crate::options::Options;
use crate::record::{Transaction, Transactions};
use crate::reply::CertRep;

/// An endpoint as one request finds it.
pub(crate) struct Site<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) settings: &'a Endpoint,
    pub(crate) options: &'a Options,
    pub(crate) authority: &'a RegistrationAuthority,
    pub(crate) judges: &'a Judges,
    pub(crate) origin: Origin,
}

impl Site<'_> {
    /// Answers a message.
    pub(crate) fn answer(mut self, message: &Opened) -> Result<CertRep, Failure> {
        match message.kind {
            MessageType::PkcsReq => self.certificate_request(message, quirk_sscep_renewal_as_pkcs_req(message)),
            MessageType::RenewalReq => self.certificate_request(message, true),
            MessageType::CertPoll => self.cert_poll(message),
            MessageType::GetCert => self.get_cert(message),
            MessageType::GetCrl => self.get_crl(message),
        }
    }

    /// PKCSReq and RenewalReq (RFC 8894 section 3.3.1).
    fn certificate_request(&mut self, message: &Opened, is_renewal: bool) -> Result<CertRep, Failure> {
        let csr = CertificateRequest::open(&message.content).map_err(|why| Rejection::unreadable(why.private()))?;
        let key = csr.key().subject_key();
        // The key that signs the message is the one to be certified, or that of the certificate to be renewed. Otherwise somebody
        // could send on what he captured.
        if !is_renewal && key.spki_der() != message.signer_key {
            return Err(Rejection::unreadable("the message is signed by another key than that in the request").into());
        }
        self.origin.request_digest = csr.digest();
        let renewed = if is_renewal { Some(self.renewed(message)?) } else { None };

        // A client that asks again while it waits is answered like one that polls.
        let transactions = self.transactions();
        if let Some(known) = transactions.find(&message.head.transaction, &message.signer_key)?
            && known.request_digest == csr.digest()
        {
            return self.polled(&known, message);
        }
        if let Some(renewed) = &renewed {
            self.check_renewal(renewed, &csr)?;
        }
        let request = self.enrollment(message, &csr, renewed)?;
        let waits_for_approval = matches!(request.evidence, Evidence::KeyAlone(_));
        if waits_for_approval && transactions.is_full(self.options.pending_max)? {
            return Err(Rejection::new(FailInfo::BadRequest, "too many requests wait for approval").into());
        }
        self.outcome(self.engine.enroll(request)?, message)
    }

    /// The certificate that a renewal is signed with, byte for byte one of ours (checklist S-11).
    fn renewed(&self, message: &Opened) -> Result<VerifiedCertificate, Failure> {
        if !self.options.renewal {
            return Err(Rejection::new(FailInfo::BadRequest, "renewal is not offered here").into());
        }
        let verified = self.engine.verify_renewal(&message.head.signer, self.options.renewal_after_expiry_s);
        verified.map_err(|error| match error {
            Error::Refused(refusal) => {
                Rejection::new(FailInfo::BadMessageCheck, refusal.public()).with_private(refusal.private()).into()
            }
            Error::Fault(fault) => fault.into(),
        })
    }

    fn check_renewal(&self, renewed: &VerifiedCertificate, csr: &CertificateRequest) -> Result<(), Failure> {
        let same_key = renewed.public_key() == csr.key().subject_key().spki_der();
        if same_key && !self.options.renewal_same_key {
            return Err(Rejection::new(FailInfo::BadRequest, "a renewal needs a new key").into());
        }
        let opens = self.options.renewal_before_expiry_s.map(|before_s| renewed.not_after().minus_s(before_s));
        if opens.is_some_and(|opens| self.engine.now() < opens) {
            return Err(Rejection::new(FailInfo::BadRequest, "it is too early to renew this certificate").into());
        }
        Ok(())
    }

    fn enrollment(
        &self,
        message: &Opened,
        csr: &CertificateRequest,
        renewed: Option<VerifiedCertificate>,
    ) -> Result<EnrollmentRequest, Failure> {
        let mut names = requested_names(csr)?;
        let mut profile = self.settings.profiles.first();
        if let Some(renewed) = &renewed {
            profile = self.settings.profiles.iter().find(|offered| *offered == renewed.profile()).or(profile);
        }
        let names_before = renewed.as_ref().map(|renewed| renewed.names().alternative.clone());
        // Also where a judge speaks for the device in place of its certificate.
        let holder = renewed.as_ref().and_then(VerifiedCertificate::holder).cloned();
        let evidence = self.evidence(message, csr, renewed)?;
        // A renewal that names no alternative names keeps those that there were. A judge of devices vouched for what it saw, no more.
        if names.alternative.is_empty() && !matches!(evidence, Evidence::Device(_)) {
            names.alternative = names_before.unwrap_or_default();
        }
        if let Evidence::Secret(secret) = &evidence {
            let bound = secret.binding().profiles.as_ref();
            let fits = |offered: &&ProfileName| bound.is_none_or(|bound| bound.contains(offered));
            profile = self.settings.profiles.iter().find(fits).or(profile);
        }
        let profile =
            profile.ok_or_else(|| Fault::Broken(format!("endpoint {} offers nothing", self.settings.name)))?;
        Ok(EnrollmentRequest {
            authority: self.settings.authority.clone(),
            profile: profile.clone(),
            names,
            extensions: requested_extensions(csr)?,
            key: csr.key().clone(),
            validity: None,
            evidence,
            holder,
            origin: self.origin.clone(),
        })
    }

    /// What the requester shows: the certificate to be renewed, a challenge, or nothing but its key.
    fn evidence(
        &self,
        message: &Opened,
        csr: &CertificateRequest,
        renewed: Option<VerifiedCertificate>,
    ) -> Result<Evidence, Failure> {
        // Without any rule everything waits for an operator, whatever else was shown (checklist S-08).
        if self.settings.rules.is_empty() {
            return Ok(Evidence::KeyAlone(KeyAlone::of(csr.key())));
        }
        let challenge = csr.challenge_password().map(|challenge| challenge.reveal()).unwrap_or_default();
        if let Some(renewed) = renewed {
            return match self.judges.of_renewal(challenge) {
                Some(judge) => self.ask(judge, message, Some(*renewed.serial())),
                None => Ok(Evidence::Certificate(renewed)),
            };
        }
        if challenge.is_empty() {
            return match self.judges.of_no_challenge() {
                Some(judge) => self.ask(judge, message, None),
                None => Ok(Evidence::KeyAlone(KeyAlone::of(csr.key()))),
            };
        }
        let scope = SecretScope::new(self.settings.name.clone(), CredentialPurpose::Challenge);
        let Some(judge) = self.judges.of_challenge(challenge) else {
            return Ok(Evidence::Secret(self.engine.verify_secret(&scope, challenge.as_bytes(), &self.origin)?));
        };
        match self.engine.verify_secret_if_known(&scope, challenge.as_bytes(), &self.origin)? {
            Some(secret) => Ok(Evidence::Secret(secret)),
            None => self.ask(judge, message, None),
        }
    }

    fn ask(
        &self,
        judge: &Arc<dyn DeviceVerifier>,
        message: &Opened,
        renews: Option<Serial>,
    ) -> Result<Evidence, Failure> {
        let claim = DeviceClaim {
            endpoint: self.settings.name.clone(),
            transaction: message.head.transaction.clone(),
            csr: message.content.to_vec(),
            peer: self.origin.peer,
            renews,
        };
        Ok(Evidence::Device(self.engine.verify_device(judge, claim, &self.origin)?))
    }

    /// CertPoll (RFC 8894 section 3.3.3): the transactionID and the key that signs name the request; the subject in the message
    /// adds nothing.
    fn cert_poll(&self, message: &Opened) -> Result<CertRep, Failure> {
        let known = self.transactions().find(&message.head.transaction, &message.signer_key)?;
        let known = known.ok_or_else(|| Rejection::new(FailInfo::BadCertId, "there is no such transaction"))?;
        self.polled(&known, message)
    }

    /// What became of a request that waits or waited. Once its client has heard the outcome, the place goes to another as soon as
    /// nobody may ask for it again.
    fn polled(&self, known: &Transaction, message: &Opened) -> Result<CertRep, Failure> {
        let outcome = self.engine.poll(&known.ticket()?);
        if matches!(outcome, Ok(Outcome::Issued(_)) | Err(Error::Refused(_))) {
            self.transactions().answered(&message.head.transaction, &message.signer_key, known)?;
        }
        self.outcome(outcome?, message)
    }

    /// GetCert (RFC 8894 section 3.3.4), for those who hold a certificate of ours.
    fn get_cert(&self, message: &Opened) -> Result<CertRep, Failure> {
        let unknown = || Rejection::new(FailInfo::BadCertId, "there is no such certificate");
        self.engine.verify_certificate(&message.head.signer)?;
        let serial = self.serial_of_ours(message)?;
        let found = self.engine.issued_certificate(&serial)?.ok_or_else(unknown)?;
        // The serial is unique here, so the certificate is the one asked for if its issuer is.
        if CertificateView::of(&found.der)?.issuer != self.issuer_name()? {
            return Err(unknown().into());
        }
        Ok(CertRep::Success(certs_only(&[&found.der], &[])?, message.cipher))
    }

    /// GetCRL (RFC 8894 section 3.3.5), for everybody: CRLs are public.
    fn get_crl(&self, message: &Opened) -> Result<CertRep, Failure> {
        self.serial_of_ours(message)?;
        let crl = self.engine.crl(&self.authority.issuer_path)?;
        if crl.der.len() > self.options.crl_bytes_max {
            let text = "the CRL is too long for this protocol: fetch it from its distribution point";
            return Err(Rejection::new(FailInfo::BadRequest, text).into());
        }
        Ok(CertRep::Success(certs_only(&[], &[&crl.der])?, message.cipher))
    }

    /// The serial in an IssuerAndSerialNumber that names our issuer.
    fn serial_of_ours(&self, message: &Opened) -> Result<Serial, Failure> {
        let malformed = |_| Rejection::unreadable("the content is no IssuerAndSerialNumber");
        let outer = only_element(&message.content).map_err(malformed)?;
        let fields = if outer.tag == Tag::Sequence { elements(outer.content).map_err(malformed)? } else { Vec::new() };
        let [issuer, serial] = fields.as_slice() else {
            return Err(Rejection::unreadable("the content is no IssuerAndSerialNumber").into());
        };
        if issuer.whole != self.issuer_name()? || serial.tag != Tag::Integer {
            return Err(Rejection::new(FailInfo::BadCertId, "this authority did not issue that").into());
        }
        Serial::from_integer(serial.content)
            .map_err(|_| Rejection::new(FailInfo::BadCertId, "there is no such certificate").into())
    }

    fn issuer_name(&self) -> Result<&[u8], Failure> {
        Ok(CertificateView::of(&self.authority.certificate)?.issuer)
    }

    fn transactions(&self) -> Transactions<'_> {
        Transactions { engine: self.engine, endpoint: &self.settings.name }
    }

    fn outcome(&self, outcome: Outcome, message: &Opened) -> Result<CertRep, Failure> {
        match outcome {
            Outcome::Issued(issued) => {
                let mut certificates = vec![issued.der.as_slice()];
                if self.options.reply_with_chain {
                    certificates.extend(issued.chain.iter().map(AsRef::as_ref));
                }
                Ok(CertRep::Success(certs_only(&certificates, &[])?, message.cipher))
            }
            Outcome::Pending { ticket, .. } => {
                let transactions = self.transactions();
                let (id, signer_key) = (&message.head.transaction, &message.signer_key);
                if transactions.find(id, signer_key)?.is_none_or(|known| known.ticket().ok().as_ref() != Some(&ticket))
                {
                    let lifetime_s = self.options.pending_max_s;
                    transactions.put(id, signer_key, &ticket, self.origin.request_digest, lifetime_s)?;
                }
                Ok(CertRep::Pending)
            }
        }
    }
}

/// sscep, Apple's clients, and Cisco in places renew with a PKCSReq that the old certificate signed.
fn quirk_sscep_renewal_as_pkcs_req(message: &Opened) -> bool {
    !message.signer_is_its_own_issuer
}

/// The names that a certificate request asks for.
fn requested_names(csr: &CertificateRequest) -> Result<RequestedNames, Failure> {
    let named = csr.extensions().iter().find(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME);
    let mut alternative = match named {
        Some(extension) => AlternativeName::decode_all(extension.extn_value.as_bytes())?,
        None => Vec::new(),
    };
    for name in &mut alternative {
        if let AlternativeName::Dns(dns) = name {
            dns.make_ascii_lowercase();
        }
    }
    Ok(RequestedNames { subject: DistinguishedName::from_der(csr.subject_der())?, alternative })
}

/// The extensions that a certificate request asks for, those left out that follow from key and profile anyway.
fn requested_extensions(csr: &CertificateRequest) -> Result<RequestedExtensions, Failure> {
    let mut wanted = RequestedExtensions::default();
    for extension in csr.extensions() {
        let value = extension.extn_value.as_bytes();
        if extension.extn_id == ID_CE_EXT_KEY_USAGE {
            let purposes = ExtendedKeyUsage::from_der(value)
                .map_err(|_| Rejection::new(FailInfo::BadRequest, "the extended key usage is malformed"))?;
            wanted.extended_key_usage = purposes.0;
        } else if RequestExtension::of(&extension.extn_id).is_some() {
            wanted.other.push((extension.extn_id, value.to_vec()));
        }
    }
    Ok(wanted)
}
