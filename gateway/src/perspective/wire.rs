//! What a gateway and a remote perspective say to each other: JSON over `POST /perspective/v1/look`.
//!
//! The question is a [`LookRequest`], the answer of status 200 a [`LookAnswer`]; whatever is wrong with a question is told by another
//! status and a [`Complaint`]. A change that an older side could not read gets another path.

use std::net::IpAddr;

use acme::{CaaProperty, CaaSet, FailureClass, Found, Question, Target};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::validation::Ports;

/// Where a perspective is asked.
pub const PATH: &str = "/perspective/v1/look";

/// The longest question, in bytes.
pub const QUESTION_BYTES_MAX: usize = 64 << 10;

/// The longest answer, in bytes: some of the CAA records of as many names as a question may hold.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The most names in a question for CAA records.
const CAA_NAMES_MAX: usize = 1000;

/// The longest domain name, in characters.
const NAME_CHARACTERS_MAX: usize = 253;

/// The longest path of a challenge, in characters.
const PATH_CHARACTERS_MAX: usize = 256;

/// Where http-01 challenges lie (RFC 8555 section 8.3). A perspective fetches nothing else.
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// A look to take, and the ports that the ACME endpoint uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookRequest {
    look: Look,
    ports: PortNumbers,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Look {
    #[serde(rename = "http-01")]
    Http01 {
        target: Host,
        path: String,
    },
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01 {
        target: Host,
        server_name: String,
    },
    Txt {
        name: String,
    },
    Caa {
        names: Vec<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Host {
    Dns(String),
    Ip(IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortNumbers {
    http01: u16,
    https: u16,
    tls_alpn01: u16,
}

/// What a look brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookAnswer {
    found: Sight,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Sight {
    /// The body in Base64.
    Http {
        status: u16,
        body: String,
        address: IpAddr,
    },
    Txt(Vec<String>),
    /// The certificate, DER, in Base64.
    Certificate {
        der: String,
        address: IpAddr,
    },
    Caa(Vec<CaaRecords>),
    Failed {
        class: Failure,
        text: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaaRecords {
    found_at: String,
    properties: Vec<CaaRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaaRecord {
    critical: bool,
    tag: String,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Failure {
    Dns,
    Connection,
    Timeout,
    RefusedAddress,
    Tls,
    BadResponse,
}

/// Why a question was not answered, for the operators of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// What is wrong.
    pub detail: String,
}

impl LookRequest {
    /// The question as it is sent.
    #[must_use]
    pub fn new(question: &Question, ports: Ports) -> Self {
        let host = |target: &Target| match target {
            Target::Name(name) => Host::Dns(name.clone()),
            Target::Address(address) => Host::Ip(*address),
        };
        let look = match question {
            Question::Http01 { target, path } => Look::Http01 { target: host(target), path: path.clone() },
            Question::TlsAlpn01 { target, server_name } => {
                Look::TlsAlpn01 { target: host(target), server_name: server_name.clone() }
            }
            Question::Dns01 { name } => Look::Txt { name: name.clone() },
            Question::Caa { names } => Look::Caa { names: names.clone() },
        };
        let Ports { http01, https, tls_alpn01 } = ports;
        Self { look, ports: PortNumbers { http01, https, tls_alpn01 } }
    }

    /// The question as it was received: only what an ACME validation may ask.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(body: &[u8]) -> Result<(Question, Ports), Complaint> {
        let wrong = |detail: String| Complaint { detail };
        let Self { look, ports } =
            serde_json::from_slice(body).map_err(|why| wrong(format!("the question cannot be read: {why}")))?;
        let target = |host: Host| match host {
            Host::Dns(name) if is_name(&name) => Ok(Target::Name(name)),
            Host::Dns(_) => Err(wrong("the target is no host name".to_owned())),
            Host::Ip(address) => Ok(Target::Address(address)),
        };
        let question = match look {
            Look::Http01 { path, .. } if !is_challenge(&path) => {
                return Err(wrong(format!("the path is not one below {CHALLENGES}")));
            }
            Look::Http01 { target: host, path } => Question::Http01 { target: target(host)?, path },
            Look::TlsAlpn01 { server_name, .. } if !is_name(&server_name) => {
                return Err(wrong("the server name is no host name".to_owned()));
            }
            Look::TlsAlpn01 { target: host, server_name } => Question::TlsAlpn01 { target: target(host)?, server_name },
            // All challenges lie below such a label: _acme-challenge, _LABEL._acme-challenge, _validation-persist.
            Look::Txt { name } if !is_name(&name) || !name.starts_with('_') => {
                return Err(wrong("the name is not one of a challenge".to_owned()));
            }
            Look::Txt { name } => Question::Dns01 { name },
            Look::Caa { names } if names.len() > CAA_NAMES_MAX || !names.iter().all(|name| is_name(name)) => {
                return Err(wrong(format!("names is a list of up to {CAA_NAMES_MAX} host names")));
            }
            Look::Caa { names } => Question::Caa { names },
        };
        let PortNumbers { http01, https, tls_alpn01 } = ports;
        Ok((question, Ports { http01, https, tls_alpn01 }))
    }
}

/// Whether this may be a domain name; the resolver looks closer.
fn is_name(name: &str) -> bool {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.');
    (1..=NAME_CHARACTERS_MAX).contains(&name.len()) && name.bytes().all(plain)
}

fn is_challenge(path: &str) -> bool {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
    path.len() <= PATH_CHARACTERS_MAX
        && path.strip_prefix(CHALLENGES).is_some_and(|token| !token.is_empty() && token.bytes().all(plain))
}

impl LookAnswer {
    /// The answer as it is sent.
    #[must_use]
    pub fn new(found: Found) -> Self {
        let found = match found {
            Found::Http { status, body, address } => {
                Sight::Http { status, body: BASE64_STANDARD.encode(body), address }
            }
            Found::Txt(texts) => Sight::Txt(texts),
            Found::Certificate { der, address } => Sight::Certificate { der: BASE64_STANDARD.encode(der), address },
            Found::Caa(sets) => Sight::Caa(sets.into_iter().map(CaaRecords::from).collect()),
            Found::Failed { class, text } => Sight::Failed { class: class.into(), text },
        };
        Self { found }
    }

    /// The answer as it was received.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(body: &[u8]) -> Result<Found, Complaint> {
        let wrong = |why: &dyn std::fmt::Display| Complaint { detail: format!("the answer cannot be read: {why}") };
        let Self { found } = serde_json::from_slice(body).map_err(|why| wrong(&why))?;
        Ok(match found {
            Sight::Http { status, body, address } => {
                Found::Http { status, body: BASE64_STANDARD.decode(body).map_err(|why| wrong(&why))?, address }
            }
            Sight::Txt(texts) => Found::Txt(texts),
            Sight::Certificate { der, address } => {
                Found::Certificate { der: BASE64_STANDARD.decode(der).map_err(|why| wrong(&why))?, address }
            }
            Sight::Caa(sets) => Found::Caa(sets.into_iter().map(CaaSet::from).collect()),
            Sight::Failed { class, text } => Found::Failed { class: class.into(), text },
        })
    }
}

impl From<CaaSet> for CaaRecords {
    fn from(set: CaaSet) -> Self {
        let record = |CaaProperty { critical, tag, value }| CaaRecord { critical, tag, value };
        Self { found_at: set.found_at, properties: set.properties.into_iter().map(record).collect() }
    }
}

impl From<CaaRecords> for CaaSet {
    fn from(records: CaaRecords) -> Self {
        let property = |CaaRecord { critical, tag, value }| CaaProperty { critical, tag, value };
        Self { found_at: records.found_at, properties: records.properties.into_iter().map(property).collect() }
    }
}

impl From<FailureClass> for Failure {
    fn from(class: FailureClass) -> Self {
        match class {
            FailureClass::Dns => Self::Dns,
            FailureClass::Connection => Self::Connection,
            FailureClass::Timeout => Self::Timeout,
            FailureClass::RefusedAddress => Self::RefusedAddress,
            FailureClass::Tls => Self::Tls,
            FailureClass::BadResponse => Self::BadResponse,
        }
    }
}

impl From<Failure> for FailureClass {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Dns => Self::Dns,
            Failure::Connection => Self::Connection,
            Failure::Timeout => Self::Timeout,
            Failure::RefusedAddress => Self::RefusedAddress,
            Failure::Tls => Self::Tls,
            Failure::BadResponse => Self::BadResponse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { http01: 80, https: 443, tls_alpn01: 8443 };

    #[test]
    fn s27_every_question_arrives_as_it_was_asked() {
        let target = || Target::Name("host.example".to_owned());
        for question in [
            Question::Http01 { target: target(), path: "/.well-known/acme-challenge/a-B_9".to_owned() },
            Question::Http01 {
                target: Target::Address("2001:db8::1".parse().unwrap()),
                path: "/.well-known/acme-challenge/x".to_owned(),
            },
            Question::TlsAlpn01 { target: target(), server_name: "host.example".to_owned() },
            Question::Dns01 { name: "_acme-challenge.host.example".to_owned() },
            Question::Caa { names: vec!["host.example".to_owned(), "example".to_owned()] },
        ] {
            let sent = serde_json::to_vec(&LookRequest::new(&question, PORTS)).unwrap();
            assert_eq!(LookRequest::decode(&sent), Ok((question, PORTS)), "{}", String::from_utf8_lossy(&sent));
        }
    }

    #[test]
    fn s27_every_answer_arrives_as_it_was_found() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let property = CaaProperty { critical: true, tag: "issue".to_owned(), value: "ca.example".to_owned() };
        for found in [
            Found::Http { status: 200, body: vec![0, 255, 7], address },
            Found::Txt(vec![String::new(), "text".to_owned()]),
            Found::Certificate { der: vec![0x30, 0], address },
            Found::Caa(vec![CaaSet::default(), CaaSet { found_at: "example".to_owned(), properties: vec![property] }]),
            Found::Failed { class: FailureClass::RefusedAddress, text: "no".to_owned() },
        ] {
            let sent = serde_json::to_vec(&LookAnswer::new(found.clone())).unwrap();
            assert_eq!(LookAnswer::decode(&sent), Ok(found), "{}", String::from_utf8_lossy(&sent));
        }
    }

    #[test]
    fn s27_nothing_but_validations_can_be_asked() {
        let ports = r#""ports":{"http01":80,"https":443,"tls_alpn01":443}"#;
        for look in [
            r#"{"http-01":{"target":{"dns":"host.example"},"path":"/admin"}}"#,
            r#"{"http-01":{"target":{"dns":"host.example"},"path":"/.well-known/acme-challenge/../x"}}"#,
            r#"{"http-01":{"target":{"dns":"host.example"},"path":"/.well-known/acme-challenge/"}}"#,
            r#"{"http-01":{"target":{"dns":"host.example:25"},"path":"/.well-known/acme-challenge/x"}}"#,
            r#"{"http-01":{"target":{"dns":"user@host.example"},"path":"/.well-known/acme-challenge/x"}}"#,
            r#"{"http-01":{"target":{"ip":"127.1"},"path":"/.well-known/acme-challenge/x"}}"#,
            r#"{"http-01":{"target":{"dns":"host.example"},"path":"/.well-known/acme-challenge/x","method":"PUT"}}"#,
            r#"{"tls-alpn-01":{"target":{"dns":"host.example"},"server_name":""}}"#,
            r#"{"txt":{"name":"host.example"}}"#,
            r#"{"caa":{"names":["host example"]}}"#,
            r#"{"mx":{"name":"host.example"}}"#,
        ] {
            let body = format!("{{\"look\":{look},{ports}}}");
            assert!(LookRequest::decode(body.as_bytes()).is_err(), "{body}");
        }
        let right = r#"{"look":{"txt":{"name":"_acme-challenge.host.example"}},"#;
        assert!(LookRequest::decode(format!("{right}{ports}}}").as_bytes()).is_ok());
        assert!(LookRequest::decode(format!("{right}{ports},\"proxy\":\"x\"}}").as_bytes()).is_err());
        assert!(LookRequest::decode(format!("{right}\"ports\":{{\"http01\":70000}}}}").as_bytes()).is_err());
        let many = vec!["a"; CAA_NAMES_MAX + 1].join("\",\"");
        assert!(
            LookRequest::decode(format!("{{\"look\":{{\"caa\":{{\"names\":[\"{many}\"]}}}},{ports}}}").as_bytes())
                .is_err()
        );
    }
}
