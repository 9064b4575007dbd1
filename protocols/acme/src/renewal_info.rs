//! Renewal information (RFC 9773): when a certificate should be renewed, and which order renews it.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ca_backend::{CertificateState, CertificateSummary, Serial, Time};
use der::Decode;
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use x509_cert::Certificate;
use x509_cert::ext::pkix::AuthorityKeyIdentifier;

use crate::account::Account;
use crate::error::{Attempt, Problem, ProblemType};
use crate::id::Id;
use crate::identifier::Identifier;
use crate::order::OrderState;
use crate::reply::Reply;
use crate::site::Site;

/// A wish that certificates be renewed before their time, as when they are about to be revoked in great number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyRenewal {
    /// Which: those issued before this moment (RFC 3339).
    #[serde(deserialize_with = "moment")]
    pub issued_before: Time,
    /// When clients may begin; they choose a moment between start and end.
    #[serde(deserialize_with = "moment")]
    pub start: Time,
    /// When the last should be done.
    #[serde(deserialize_with = "moment")]
    pub end: Time,
}

fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// The name of a certificate in this protocol (RFC 9773 section 4.1): `base64url(keyIdentifier).base64url(serial)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateId {
    key_identifier: Vec<u8>,
    pub(crate) serial: Serial,
}

impl CertificateId {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (key_identifier, serial) = text.split_once('.')?;
        let key_identifier = BASE64_URL_SAFE_NO_PAD.decode(key_identifier).ok()?;
        let content = BASE64_URL_SAFE_NO_PAD.decode(serial).ok()?;
        let serial = Serial::from_integer(&content).ok()?;
        // The octets of the INTEGER as DER has them, so that a certificate has one name.
        let padding = usize::from(serial.as_bytes().first().is_some_and(|first| first & 0x80 != 0));
        let canonical = content.len() == serial.as_bytes().len() + padding && !key_identifier.is_empty();
        canonical.then_some(Self { key_identifier, serial })
    }
}

/// When a certificate should be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    start: Time,
    end: Time,
}

/// Lifetimes below this are renewed after a half, not after two thirds.
const SHORT_LIFE_S: u64 = 10 * 24 * 3600;

impl Window {
    /// The usual time: late enough to use the certificate, early enough to get over a failure.
    fn usual(not_before: Time, not_after: Time) -> Self {
        let life_s = not_after.since_s(not_before).max(2);
        let start = not_before.plus_s(if life_s < SHORT_LIFE_S { life_s / 2 } else { life_s / 3 * 2 });
        Self { start, end: start.plus_s((life_s / 50).max(1)) }
    }

    /// At once: a window that lies in the past (RFC 9773 section 4.2).
    fn over(not_before: Time, since: Time, now: Time) -> Self {
        let end = since.min(now.minus_s(1)).max(not_before.plus_s(1));
        Self { start: not_before.min(end.minus_s(1)), end }
    }
}

impl Site<'_> {
    /// When a certificate should be renewed. Anybody may ask.
    pub(crate) fn renewal_info(&self, text: &str) -> Attempt<Reply> {
        let id = CertificateId::parse(text)
            .ok_or_else(|| Problem::malformed("this is no certificate identifier of RFC 9773 section 4.1"))?;
        let (certificate, _) = self.named(&id)?.ok_or_else(Problem::not_found)?;
        let window = self.window(&certificate)?;
        let mut document =
            json!({ "suggestedWindow": { "start": window.start.to_string(), "end": window.end.to_string() } });
        if let (Some(url), Some(members)) = (&self.options.renewal_explanation_url, document.as_object_mut()) {
            members.insert("explanationURL".into(), url.as_str().into());
        }
        Ok(Reply::json(StatusCode::OK, &document).retry_after_s(self.options.renewal_retry_after_s))
    }

    fn window(&self, certificate: &CertificateSummary) -> Attempt<Window> {
        let broken = |error| ca_backend::Fault::Broken(format!("a stored certificate cannot be read: {error}"));
        let parsed = Certificate::from_der(&certificate.der).map_err(broken)?;
        let not_before = Time::from(parsed.tbs_certificate().validity().not_before.to_date_time());
        let lost = match certificate.state {
            CertificateState::Normal => {
                self.engine.is_issuer_revoked(&certificate.issuer).then_some(certificate.issued_at)
            }
            CertificateState::Held | CertificateState::Revoked => {
                Some(certificate.revoked_at.unwrap_or(certificate.issued_at))
            }
        };
        if let Some(since) = lost {
            return Ok(Window::over(not_before, since, self.now));
        }
        let usual = Window::usual(not_before, certificate.not_after);
        Ok(match &self.options.early_renewal {
            Some(early) if certificate.issued_at < early.issued_before && early.start < usual.start => {
                Window { start: early.start, end: early.end }
            }
            Some(_) | None => usual,
        })
    }

    /// The certificate of this endpoint with that name, and its account.
    fn named(&self, id: &CertificateId) -> Attempt<Option<(CertificateSummary, Id)>> {
        let Some(owner) = self.ledger.certificate_owner(&id.serial)? else { return Ok(None) };
        let Some(certificate) = self.engine.find_certificate(&id.serial)? else { return Ok(None) };
        let parsed = Certificate::from_der(&certificate.der).ok();
        let extension = parsed
            .as_ref()
            .and_then(|parsed| parsed.tbs_certificate().get_extension::<AuthorityKeyIdentifier>().ok().flatten());
        let key_identifier = extension.and_then(|(_, extension)| extension.key_identifier);
        let is_named = key_identifier.is_some_and(|octets| octets.as_bytes() == id.key_identifier);
        Ok(is_named.then_some((certificate, owner)))
    }

    /// The certificate that an order says it replaces: the account's own, with a name in common, not replaced before
    /// (RFC 9773 section 5).
    pub(crate) fn replaced(&self, account: &Account, text: &str, identifiers: &[Identifier]) -> Attempt<Replaced> {
        let id = CertificateId::parse(text)
            .ok_or_else(|| Problem::malformed("replaces is no certificate identifier of RFC 9773 section 4.1"))?;
        let unknown = || Problem::malformed("this endpoint did not issue the certificate that replaces names");
        let (certificate, owner) = self.named(&id)?.ok_or_else(unknown)?;
        if owner != account.id {
            return Err(Problem::unauthorized("the certificate that replaces names is another account's").into());
        }
        let shares = |identifier: &Identifier| {
            let name = format!("{}:{identifier}", identifier.kind());
            certificate.alternative_names.iter().any(|known| known.eq_ignore_ascii_case(&name))
        };
        if !identifiers.iter().any(shares) {
            let text = "the order has no identifier in common with the certificate that it is to replace";
            return Err(Problem::malformed(text).into());
        }
        let before = self.ledger.replacement(&id.serial)?;
        if let Some(order) = before.map(|order| self.ledger.order(&order)).transpose()?.flatten() {
            let lost = match &order.value.state {
                OrderState::Open => self.is_lost(&order.value)?,
                OrderState::Invalid { .. } => true,
                OrderState::Processing { .. } | OrderState::Valid { .. } => false,
            };
            if !lost {
                let text = format!("order {} replaces this certificate already", order.value.id);
                return Err(Problem::new(ProblemType::AlreadyReplaced, text).into());
            }
        }
        let in_window = self.window(&certificate)?.start <= self.now;
        Ok(Replaced { serial: id.serial, before, in_window })
    }
}

/// A certificate that an order replaces.
#[derive(Clone, Debug)]
pub(crate) struct Replaced {
    pub(crate) serial: Serial,
    /// The order that was to replace it and failed.
    pub(crate) before: Option<Id>,
    /// Whether it is time to.
    pub(crate) in_window: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identifier_of_the_rfc_is_read_and_has_one_spelling() {
        let id = CertificateId::parse("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE").unwrap();
        assert_eq!((id.key_identifier.len(), id.serial.to_string()), (20, "87654321".to_owned()));
        for wrong in [
            "",
            ".",
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ",
            ".AIdlQyE",
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ.",
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ.h2VDIQ",
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AACHZUMh",
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ=.AIdlQyE",
            "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE.AA",
        ] {
            assert_eq!(CertificateId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_window_lies_at_two_thirds_of_a_long_life_and_at_the_half_of_a_short_one() {
        let begin = Time::from_unix(1_767_830_400);
        let day = 24 * 3600;
        for (life_s, start_s) in [(90 * day, 60 * day), (6 * day, 3 * day), (3600, 1800), (1, 1)] {
            let window = Window::usual(begin, begin.plus_s(life_s));
            assert_eq!(window.start, begin.plus_s(start_s), "{life_s}");
            assert!(window.start < window.end, "{life_s}");
        }
        let now = begin.plus_s(day);
        for since in [begin, now, begin.plus_s(60)] {
            let window = Window::over(begin, since, now);
            assert!(window.start < window.end && window.end < now, "{window:?}");
        }
    }
}
