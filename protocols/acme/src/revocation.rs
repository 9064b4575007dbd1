//! Revocation (RFC 8555 section 7.6): by the account that a certificate was issued to, by one that shows control of every name in it,
//! or with the certificate's own key.

use ca_backend::{
    CertificateState, CertificateSummary, Challenges, Evidence, Reason, Refusal, RevocationReason, RevocationRequest,
    Serial, StatusChange, ValidatedIdentifier,
};
use der::{Decode, Encode};
use http::StatusCode;
use serde::Deserialize;
use x509_cert::Certificate;

use crate::authorization::{Authorization, AuthorizationStatus};
use crate::call::Call;
use crate::error::{Attempt, Problem, ProblemType};
use crate::id::Id;
use crate::identifier::Identifier;
use crate::jwk::sha256;
use crate::jws::{decode, json};
use crate::ledger::Held;
use crate::reply::Reply;
use crate::site::Site;

#[derive(Deserialize)]
struct Wish {
    certificate: String,
    reason: Option<u8>,
}

impl Site<'_> {
    /// Revokes a certificate that this endpoint issued.
    pub(crate) fn revoke_certificate(&self, call: &Call) -> Attempt<Reply> {
        let payload = match call {
            Call::Account(call) => call.object()?,
            Call::Key(call) => call.object()?,
        };
        let wish: Wish = json(payload, "the revocation cannot be read")?;
        let reason = reason(wish.reason)?;
        let presented = decode(&wish.certificate, "certificate")?;
        let (certificate, owner) = self.certificate_of(&presented)?;
        let public_key = public_key_of(&certificate.der)?;
        let is_owner = matches!(call, Call::Account(call) if call.account.value.id == owner);
        let holds_key = matches!(call, Call::Key(call) if call.key.spki_der() == public_key);
        let shown = match call {
            Call::Account(call) if !is_owner => self.control_of_all(&call.account.value.id, &certificate)?,
            Call::Account(_) | Call::Key(_) => None,
        };
        if !is_owner && !holds_key && shown.is_none() {
            let text = "sign with the account that the certificate was issued to, with one that holds valid authorizations for every \
                        name in it, or with the certificate's own key";
            return Err(Problem::unauthorized(text).into());
        }
        // It would block the key everywhere, on the word of one who never showed that it has to do with it.
        if shown.is_some() && reason == RevocationReason::KeyCompromise {
            let text = "only who holds the key, or was issued the certificate, can say that the key is compromised (1)";
            return Err(Problem::new(ProblemType::BadRevocationReason, text).into());
        }
        if certificate.state == CertificateState::Revoked {
            return Err(Problem::new(ProblemType::AlreadyRevoked, "the certificate is revoked already").into());
        }
        let evidence = match call {
            Call::Key(_) => Evidence::Certificate(self.engine.verify_certificate(&presented)?),
            Call::Account(call) => Evidence::Challenges(Challenges {
                account: call.account.value.id.to_string(),
                identifiers: shown.unwrap_or_default(),
                credential: None,
            }),
        };
        self.ledger.change().spend(call.nonce()).commit()?;
        let request = RevocationRequest {
            serial: certificate.serial,
            change: StatusChange::Revoke { reason, invalidity: None },
            comment: String::new(),
            evidence,
            origin: self.origin(&certificate.serial.to_string(), sha256(&presented)),
        };
        self.engine.revoke(&request)?;
        Ok(Reply::empty(StatusCode::OK))
    }

    /// What shows the account's control of every name in a certificate; `None` if one is missing.
    fn control_of_all(
        &self,
        account: &Id,
        certificate: &CertificateSummary,
    ) -> Attempt<Option<Vec<ValidatedIdentifier>>> {
        let mut shown = Vec::new();
        for name in &certificate.alternative_names {
            let identifier = name.split_once(':').and_then(|(kind, value)| Identifier::parse(kind, value).ok());
            let Some(identifier) = identifier else { return Ok(None) };
            let mut held = self.shown(account, &identifier)?.into_iter();
            let is_valid = |held: &Held<Authorization>| held.value.status(self.now) == AuthorizationStatus::Valid;
            let held = held.find(is_valid);
            let Some(evidence) = held.and_then(|held| held.value.evidence(&identifier)) else { return Ok(None) };
            shown.push(evidence);
        }
        Ok((!shown.is_empty()).then_some(shown))
    }

    /// The stored certificate that is the presented one octet for octet, and the account it was issued to.
    fn certificate_of(&self, presented: &[u8]) -> Attempt<(CertificateSummary, Id)> {
        let unknown =
            || Problem::from(&Refusal::new(Reason::UnknownCertificate, "this endpoint issued no such certificate"));
        let parsed = Certificate::from_der(presented)
            .map_err(|_| Problem::malformed("the certificate is not a certificate in DER"))?;
        let serial =
            Serial::from_integer(parsed.tbs_certificate().serial_number().as_bytes()).map_err(|_| unknown())?;
        let owner = self.ledger.certificate_owner(&serial)?.ok_or_else(unknown)?;
        let stored = self.engine.find_certificate(&serial)?.filter(|stored| stored.der == presented);
        Ok((stored.ok_or_else(unknown)?, owner))
    }
}

pub(crate) fn public_key_of(certificate: &[u8]) -> Attempt<Vec<u8>> {
    let malformed =
        |error: der::Error| ca_backend::Fault::Broken(format!("a stored certificate cannot be read: {error}"));
    let certificate = Certificate::from_der(certificate).map_err(malformed)?;
    Ok(certificate.tbs_certificate().subject_public_key_info().to_der().map_err(malformed)?)
}

/// The reasons that a subscriber may give; the others are the authority's to give.
fn reason(code: Option<u8>) -> Result<RevocationReason, Problem> {
    const ALLOWED: [RevocationReason; 5] = [
        RevocationReason::Unspecified,
        RevocationReason::KeyCompromise,
        RevocationReason::AffiliationChanged,
        RevocationReason::Superseded,
        RevocationReason::CessationOfOperation,
    ];
    let reason = RevocationReason::from_code(code.unwrap_or(0)).filter(|reason| ALLOWED.contains(reason));
    reason.ok_or_else(|| {
        let text = "the reason must be unspecified (0), keyCompromise (1), affiliationChanged (3), superseded (4) or cessationOfOperation (5)";
        Problem::new(ProblemType::BadRevocationReason, text)
    })
}
