//! Challenges: what a client must put where (RFC 8555 section 8), and whether what was found there is it.

use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ca_backend::Time;
use data_encoding::BASE32_NOPAD;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::authorization::{Authorization, AuthorizationStatus};
use crate::call::AccountCall;
use crate::error::{Attempt, Problem, ProblemType};
use crate::id::Id;
use crate::identifier::Identifier;
use crate::jwk::{Thumbprint, sha256};
use crate::reply::Reply;
use crate::site::Site;
use crate::tls_alpn;
use crate::validation::{Found, Question, Target, Verdict};

/// The ways to show control of an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum ChallengeType {
    /// A file on the host's web server (RFC 8555 section 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// A TXT record (RFC 8555 section 8.4).
    #[serde(rename = "dns-01")]
    Dns01,
    /// The certificate of a TLS server (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// An attestation of the device (draft-ietf-acme-device-attest).
    #[serde(rename = "device-attest-01")]
    DeviceAttest01,
    /// A TXT record under a label of the account, so that several accounts can hold a name (draft-ietf-acme-dns-account-label).
    #[serde(rename = "dns-account-01")]
    DnsAccount01,
    /// A TXT record that stays (draft-ietf-acme-dns-persist).
    #[serde(rename = "dns-persist-01")]
    DnsPersist01,
}

/// One way that is open to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) kind: ChallengeType,
    pub(crate) token: String,
    pub(crate) state: ChallengeState,
}

/// The states of a challenge (RFC 8555 section 7.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChallengeState {
    Pending,
    Processing,
    Valid { at: Time },
    Invalid { problem: ProblemType, detail: String },
}

impl ChallengeType {
    pub(crate) const ALL: [Self; 6] =
        [Self::Http01, Self::Dns01, Self::TlsAlpn01, Self::DeviceAttest01, Self::DnsAccount01, Self::DnsPersist01];

    /// The name in JSON and in URLs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::Dns01 => "dns-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::DeviceAttest01 => "device-attest-01",
            Self::DnsAccount01 => "dns-account-01",
            Self::DnsPersist01 => "dns-persist-01",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether this way can show control of the identifier: a wildcard only by DNS (RFC 8555 section 7.1.3), an address never by DNS
    /// (RFC 8738 section 7).
    pub(crate) fn can_show(self, identifier: &Identifier) -> bool {
        match (self, identifier) {
            (Self::Http01 | Self::TlsAlpn01, Identifier::Dns { wildcard, .. }) => !wildcard,
            (Self::Http01 | Self::TlsAlpn01, Identifier::Ip(_))
            | (Self::Dns01 | Self::DnsAccount01 | Self::DnsPersist01, Identifier::Dns { .. })
            | (Self::DeviceAttest01, Identifier::Device(_)) => true,
            (Self::Dns01 | Self::DnsAccount01 | Self::DnsPersist01, Identifier::Ip(_) | Identifier::Device(_))
            | (Self::Http01 | Self::TlsAlpn01, Identifier::Device(_))
            | (Self::DeviceAttest01, Identifier::Dns { .. } | Identifier::Ip(_)) => false,
        }
    }

    /// Whether this way shows control of a domain with all names below it. Who runs a web server at a name need not run those below.
    pub(crate) fn can_show_subdomains(self) -> bool {
        match self {
            Self::Dns01 | Self::DnsAccount01 | Self::DnsPersist01 => true,
            Self::Http01 | Self::TlsAlpn01 | Self::DeviceAttest01 => false,
        }
    }

    /// Where to look; nowhere, if the client's own request is the answer.
    pub(crate) fn question(self, identifier: &Identifier, token: &str, account_url: &str) -> Option<Question> {
        let target = match identifier {
            Identifier::Dns { name, .. } => Target::Name(name.clone()),
            Identifier::Ip(address) => Target::Address(*address),
            Identifier::Device(_) => return None,
        };
        match (self, target) {
            (Self::Http01, target) => {
                Some(Question::Http01 { target, path: format!("/.well-known/acme-challenge/{token}") })
            }
            (Self::TlsAlpn01, target) => {
                Some(Question::TlsAlpn01 { server_name: tls_alpn::server_name(&target), target })
            }
            (Self::Dns01, Target::Name(name)) => Some(Question::Dns01 { name: format!("_acme-challenge.{name}") }),
            (Self::DnsAccount01, Target::Name(name)) => {
                Some(Question::Dns01 { name: format!("{}._acme-challenge.{name}", account_label(account_url)) })
            }
            (Self::DnsPersist01, Target::Name(name)) => {
                Some(Question::Dns01 { name: format!("_validation-persist.{name}") })
            }
            (Self::Dns01 | Self::DnsAccount01 | Self::DnsPersist01, Target::Address(_)) | (Self::DeviceAttest01, _) => {
                None
            }
        }
    }
}

impl ChallengeState {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processing => "processing",
            Self::Valid { .. } => "valid",
            Self::Invalid { .. } => "invalid",
        }
    }
}

/// The label of an account: of the digest of its URL the first ten octets, in base32 (draft-ietf-acme-dns-account-label section 3.2).
fn account_label(account_url: &str) -> String {
    const LABEL_OCTETS: usize = 10;
    let digest = sha256(account_url.as_bytes());
    let label = BASE32_NOPAD.encode(digest.get(..LABEL_OCTETS).unwrap_or(&digest));
    format!("_{}", label.to_ascii_lowercase())
}

/// What binds a token to an account key (RFC 8555 section 8.1).
pub(crate) fn key_authorization(token: &str, thumbprint: &Thumbprint) -> String {
    format!("{token}.{}", BASE64_URL_SAFE_NO_PAD.encode(thumbprint))
}

/// What the TXT record must say.
pub(crate) fn txt_value(key_authorization: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(sha256(key_authorization.as_bytes()))
}

/// Judges what was found. Nothing of a body is repeated: the place asked may be one that the client cannot see itself.
pub(crate) fn judge(key_authorization: &str, question: &Question, found: &Found) -> Verdict {
    let wrong = |text: String| Verdict::NotShown(ProblemType::IncorrectResponse, text);
    match (question, found) {
        (Question::Http01 { target, path }, Found::Http { status, body, address }) => {
            if *status != StatusCode::OK.as_u16() {
                return wrong(format!("http://{target}{path} answered with status {status} instead of 200"));
            }
            if body.trim_ascii_end() != key_authorization.as_bytes() {
                return wrong(format!("http://{target}{path} answered with something else than the key authorization"));
            }
            Verdict::Shown(format!("http-01 from {address}"))
        }
        (Question::Dns01 { name }, Found::Txt(values)) => {
            let expected = txt_value(key_authorization);
            if values.contains(&expected) {
                return Verdict::Shown(format!("dns-01 at {name}"));
            }
            wrong(format!("none of the {} TXT records at {name} is the expected one", values.len()))
        }
        (Question::TlsAlpn01 { target, .. }, Found::Certificate { der, address }) => {
            match tls_alpn::check(der, target, key_authorization) {
                Ok(()) => Verdict::Shown(format!("tls-alpn-01 from {address}")),
                Err(why) => wrong(format!("the certificate that {target} shows over acme-tls/1 {why}")),
            }
        }
        (_, Found::Failed { class, text }) => class.verdict(text),
        (
            Question::Http01 { .. } | Question::Dns01 { .. } | Question::TlsAlpn01 { .. } | Question::Caa { .. },
            Found::Http { .. } | Found::Txt(_) | Found::Certificate { .. } | Found::Caa(_),
        ) => Verdict::NoAnswer(ProblemType::ServerInternal, "the challenge could not be checked".to_owned()),
    }
}

impl Site<'_> {
    /// Shows a challenge, or starts its validation.
    pub(crate) fn challenge(&self, call: &AccountCall, id: &Id, kind: ChallengeType) -> Attempt<Reply> {
        let mut authorization = self.own_authorization(call, id)?;
        let status = authorization.value.status(self.now);
        let starts = call.optional_object()?.is_some();
        let challenge = authorization.value.challenges.iter_mut().find(|challenge| challenge.kind == kind);
        let challenge = challenge.ok_or_else(Problem::not_found)?;
        let mut change = self.ledger.change().spend(&call.nonce);
        let mut started = None;
        if starts && challenge.state == ChallengeState::Pending {
            if status != AuthorizationStatus::Pending {
                let text = format!("the authorization is {}; make a new order", status.name());
                return Err(Problem::malformed(text).into());
            }
            if kind == ChallengeType::DeviceAttest01 {
                let token = challenge.token.clone();
                return self.attest(call, authorization, &token);
            }
            challenge.state = ChallengeState::Processing;
            let (job, validation) = self.first_validation(&call.account.value, &authorization.value, kind)?;
            change = change.update_authorization(&authorization)?.add_job(&job)?;
            started = Some(validation);
        }
        change.commit()?;
        if let Some(validation) = started {
            (self.start)(validation);
        }
        self.challenge_reply(&authorization.value, kind)
    }

    pub(crate) fn challenge_reply(&self, authorization: &Authorization, kind: ChallengeType) -> Attempt<Reply> {
        let challenge = authorization.challenges.iter().find(|challenge| challenge.kind == kind);
        let challenge = challenge.ok_or_else(Problem::not_found)?;
        let mut reply = Reply::json(StatusCode::OK, &self.challenge_document(authorization, challenge))
            .link(&self.authorization_url(&authorization.id), "up");
        if challenge.state == ChallengeState::Processing {
            reply = reply.retry_after_s(crate::authorization::RETRY_AFTER_S);
        }
        Ok(reply)
    }

    pub(crate) fn challenge_document(&self, authorization: &Authorization, challenge: &Challenge) -> Value {
        let mut document = json!({
            "type": challenge.kind.name(),
            "url": format!("{}/challenge/{}/{}", self.base_url, authorization.id, challenge.kind.name()),
            "status": challenge.state.name(),
        });
        if let Some(members) = document.as_object_mut() {
            if challenge.kind == ChallengeType::DnsPersist01 {
                let issuers = self.options.caa_identities.iter().map(|issuer| issuer.to_ascii_lowercase());
                members.insert("issuer-domain-names".into(), issuers.collect());
                members.insert("accounturi".into(), self.account_url(&authorization.account).into());
            } else {
                members.insert("token".into(), challenge.token.as_str().into());
            }
            match &challenge.state {
                ChallengeState::Pending | ChallengeState::Processing => {}
                ChallengeState::Valid { at } => drop(members.insert("validated".into(), at.to_string().into())),
                ChallengeState::Invalid { problem, detail } => {
                    members.insert("error".into(), Problem::new(*problem, detail.as_str()).document());
                }
            }
        }
        document
    }
}

/// The address asked, as evidence shows it.
pub(crate) fn bracketed(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The account key whose private key is 1, and what follows from it.
    const THUMBPRINT: &str = "xx0BcA-wMohw8atYDJOe6peGModklG2wRHBlXHMvl0M";
    const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17";
    const ACCOUNT: &str = "https://ca.example/acme/acct/7Qk3";
    const TXT: &str = "KURE11eTW8pV2xEr_GFzFjdao-TONjo94qtwSz8Y_fg";

    fn authorization() -> String {
        let thumbprint = BASE64_URL_SAFE_NO_PAD.decode(THUMBPRINT).unwrap();
        key_authorization(TOKEN, thumbprint.as_slice().try_into().unwrap())
    }

    fn verdict(identifier: &Identifier, kind: ChallengeType, found: &Found) -> Verdict {
        judge(&authorization(), &kind.question(identifier, TOKEN, ACCOUNT).unwrap(), found)
    }

    fn http(status: u16, body: &str) -> Found {
        Found::Http { status, body: body.as_bytes().to_vec(), address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST) }
    }

    #[test]
    fn the_key_authorization_and_its_digest_are_those_of_the_vector() {
        assert_eq!(authorization(), format!("{TOKEN}.{THUMBPRINT}"));
        assert_eq!(txt_value(&authorization()), TXT);
    }

    #[test]
    fn http_01_takes_the_key_authorization_with_nothing_before_and_only_space_behind() {
        let host = Identifier::Dns { name: "host.example".to_owned(), wildcard: false };
        let right = authorization();
        for body in [right.clone(), format!("{right}\n"), format!("{right} \r\n\t")] {
            assert!(matches!(verdict(&host, ChallengeType::Http01, &http(200, &body)), Verdict::Shown(_)), "{body:?}");
        }
        for (status, body) in [
            (200, format!(" {right}")),
            (200, format!("{right}x")),
            (200, TOKEN.to_owned()),
            (200, String::new()),
            (200, right.to_lowercase()),
            (404, right.clone()),
            (302, right.clone()),
            (206, right.clone()),
        ] {
            let verdict = verdict(&host, ChallengeType::Http01, &http(status, &body));
            assert!(matches!(verdict, Verdict::NotShown(ProblemType::IncorrectResponse, _)), "{status} {body:?}");
        }
    }

    #[test]
    fn dns_01_takes_any_record_that_is_the_digest() {
        let host = Identifier::Dns { name: "host.example".to_owned(), wildcard: true };
        let found = |values: &[&str]| Found::Txt(values.iter().map(|value| (*value).to_owned()).collect());
        assert!(matches!(verdict(&host, ChallengeType::Dns01, &found(&["x", TXT])), Verdict::Shown(_)));
        for values in [&[][..], &["x"], &[&authorization()], &[&format!("{TXT} ")], &[&TXT.to_lowercase()]] {
            assert!(
                matches!(verdict(&host, ChallengeType::Dns01, &found(values)), Verdict::NotShown(..)),
                "{values:?}"
            );
        }
        // The answer to another question shows nothing.
        assert!(!matches!(verdict(&host, ChallengeType::Dns01, &http(200, TXT)), Verdict::Shown(_)));
    }

    #[test]
    fn the_label_of_an_account_is_that_of_the_vector() {
        assert_eq!(account_label(ACCOUNT), "_i4nvixledxfomrgl");
    }

    #[test]
    fn an_ipv6_host_stands_in_brackets() {
        let question = ChallengeType::Http01.question(&Identifier::Ip("2001:db8::1".parse().unwrap()), TOKEN, ACCOUNT);
        let Some(Question::Http01 { target, .. }) = question else { panic!("{question:?}") };
        assert_eq!(target.to_string(), "[2001:db8::1]");
    }

    #[test]
    fn a_wildcard_is_shown_by_dns_only_and_an_address_never() {
        let wildcard = Identifier::Dns { name: "corp.example".to_owned(), wildcard: true };
        let address = Identifier::Ip("192.0.2.1".parse().unwrap());
        assert!(!ChallengeType::Http01.can_show(&wildcard) && ChallengeType::Dns01.can_show(&wildcard));
        assert!(ChallengeType::Http01.can_show(&address) && !ChallengeType::Dns01.can_show(&address));
        assert_eq!(ChallengeType::Dns01.question(&address, TOKEN, ACCOUNT), None);
    }
}
