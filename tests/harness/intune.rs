//! A stand-in of the services that Intune consists of: login, Graph, SCEP validation, revocation. It answers over HTTP on a
//! loopback port, keeps tokens and notifications, and does wrong what a test tells it to.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ca_backend::{AlternativeName, CertificateRequest, DistinguishedName};
use const_oid::db::rfc5280::ID_CE_SUBJECT_ALT_NAME;
use gateway::egress::{Remote, Route};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// The application that the stand-in knows.
pub const CLIENT_ID: &str = "11111111-2222-3333-4444-555555555555";
/// Its secret.
pub const SECRET: &str = "s3cret~of/the+application";
/// The tenant.
pub const TENANT: &str = "contoso.example";

/// What goes wrong with the next request whose path holds a text.
#[derive(Clone, Debug)]
pub enum Mishap {
    /// This status, and Retry-After if stated.
    Status(u16, Option<u64>),
    /// Status 200, and octets that are no JSON.
    Garbage,
    /// No answer at all.
    Silence,
    /// A result code instead of what is right.
    Code(&'static str),
}

/// What happened.
#[derive(Default)]
pub struct Seen {
    /// Method and path of each request.
    pub requests: Vec<String>,
    /// Bodies of success notifications that were taken.
    pub successes: Vec<Value>,
    /// Bodies of failure notifications that were taken.
    pub failures: Vec<Value>,
    /// Results of revocations.
    pub revoked: Vec<Value>,
    /// Requests for revocation that were not answered yet.
    pub to_revoke: Vec<Value>,
    tokens: BTreeSet<String>,
    given: usize,
    mishaps: VecDeque<(&'static str, Mishap)>,
    public_key_pem: Option<Vec<u8>>,
}

/// The services, while this value lives.
pub struct StandIn {
    /// Where they listen.
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    sealing: hmac::Key,
    runtime: Runtime,
}

impl StandIn {
    /// Starts on a free port.
    #[must_use]
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let sealing = hmac::Key::new(hmac::HMAC_SHA256, b"only Intune knows this");
        let (shared, key) = (seen.clone(), sealing.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, key) = (shared.clone(), key.clone());
                tokio::spawn(async move {
                    let answer =
                        hyper::service::service_fn(move |request| answer(request, seen.clone(), key.clone(), address));
                    let _client_left =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { address, seen, sealing, runtime }
    }

    /// The options that lead here.
    #[must_use]
    pub fn options(&self) -> Value {
        let here = format!("http://{}", self.address);
        json!({
            "tenant": TENANT, "client_id": CLIENT_ID, "secret": {"environment": "TESTS_INTUNE_SECRET"},
            "login_url": format!("{here}/login/"), "graph_url": format!("{here}/graph/v1.0/"),
            "attempt_timeout_s": 1, "deadline_s": 10, "reachable_networks": ["127.0.0.0/8"],
        })
    }

    /// The gateway's own way to this stand-in.
    #[must_use]
    pub fn outbound(&self) -> Arc<Remote> {
        let route = Route { networks: vec!["127.0.0.0/8".parse().unwrap()], ..Route::default() };
        let remote =
            Remote::new(&config::Settings::default().validation, route, Vec::new(), self.runtime.handle().clone());
        Arc::new(remote.unwrap())
    }

    /// What happened so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// The next request whose path holds `part` fails like this.
    pub fn next(&self, part: &'static str, mishap: Mishap) {
        self.seen().mishaps.push_back((part, mishap));
    }

    /// Tokens given so far do not count any more.
    pub fn forget_tokens(&self) {
        self.seen().tokens.clear();
    }

    /// Takes assertions signed with this key, and secrets no more.
    pub fn expect_assertion(&self, public_key_pem: &[u8]) {
        self.seen().public_key_pem = Some(public_key_pem.to_vec());
    }

    /// How many requests had a path that holds this text.
    #[must_use]
    pub fn count(&self, part: &str) -> usize {
        self.seen().requests.iter().filter(|request| request.contains(part)).count()
    }

    /// The challenge of a profile: what a device may ask for, and until when (Unix seconds). As long as those of Intune, which SCEP
    /// endpoints tell by their length from secrets that were handed out here.
    #[must_use]
    pub fn challenge(&self, subject: &str, names: &[&str], until: u64) -> String {
        let blob = STANDARD.encode(
            json!({"subject": subject, "names": names, "until": until, "filler": "-".repeat(1_024)}).to_string(),
        );
        let tag = STANDARD.encode(hmac::sign(&self.sealing, blob.as_bytes()));
        format!("{blob}.{tag}")
    }
}

fn reply(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::builder().status(status).header("content-type", "application/json").body(Full::new(body.into())).unwrap()
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Seen>>,
    sealing: hmac::Key,
    here: SocketAddr,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let path = head.uri.path().to_owned();
    let mishap = {
        let mut seen = seen.lock().unwrap();
        seen.requests.push(format!("{} {path}", head.method));
        let found = seen.mishaps.iter().position(|(part, _)| path.contains(part));
        found.and_then(|at| seen.mishaps.remove(at)).map(|(_, mishap)| mishap)
    };
    match mishap {
        Some(Mishap::Status(status, after)) => {
            let mut answer = reply(status, "{}");
            if let Some(after) = after {
                answer.headers_mut().insert("retry-after", after.into());
            }
            return Ok(answer);
        }
        Some(Mishap::Garbage) => return Ok(reply(200, "<html>\u{0}Wartung</html>")),
        Some(Mishap::Silence) => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            return Ok(reply(500, ""));
        }
        Some(Mishap::Code(code)) => {
            return Ok(reply(200, json!({"code": code, "errorDescription": "as told"}).to_string()));
        }
        None => {}
    }
    let mut seen = seen.lock().unwrap();
    if path == format!("/login/{TENANT}/oauth2/v2.0/token") {
        return Ok(seen.give_token(&body, here));
    }
    let header =
        |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let resource = if path.starts_with("/graph/") { "graph" } else { "services" };
    let token = header("authorization").strip_prefix("Bearer ").unwrap_or_default().to_owned();
    if !token.starts_with(resource) || !seen.tokens.contains(&token) {
        return Ok(reply(401, "{}"));
    }
    assert_eq!(header("client-request-id").len(), 36, "{path}");
    if path.starts_with("/graph/") {
        assert_eq!(path, "/graph/v1.0/servicePrincipals/appId=0000000a-0000-0000-c000-000000000000/endpoints");
        let value = json!([
            {"providerName": "OtherService", "uri": "https://other.example/"},
            {"providerName": "scepRequestValidationFEService", "uri": format!("http://{here}/StatelessScep")},
            {"providerName": "PkiConnectorFEService", "uri": format!("http://{here}/StatelessPki/")},
        ]);
        return Ok(reply(200, json!({"@odata.context": "x", "value": value}).to_string()));
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let validates = path.starts_with("/StatelessScep/");
    assert_eq!(header("api-version"), if validates { "2018-02-20" } else { "5019-05-05" });
    let code = |code: &str| Ok(reply(200, json!({"code": code, "errorDescription": ""}).to_string()));
    match path.as_str() {
        "/StatelessScep/ScepActions/validateRequest" => code(judge(&body["request"], &sealing)),
        "/StatelessScep/ScepActions/successNotification" => {
            seen.successes.push(body["notification"].clone());
            code("Success")
        }
        "/StatelessScep/ScepActions/failureNotification" => {
            seen.failures.push(body["notification"].clone());
            code("Success")
        }
        "/StatelessPki/CertificateAuthorityRequests/downloadRevocationRequests" => {
            assert_eq!(body["downloadParameters"]["maxRequests"], 500);
            Ok(reply(200, json!({"@odata.context": "x", "value": seen.to_revoke}).to_string()))
        }
        "/StatelessPki/CertificateAuthorityRequests/uploadRevocationResults" => {
            let results = body["results"].as_array().unwrap().clone();
            seen.to_revoke
                .retain(|wish| !results.iter().any(|result| result["requestContext"] == wish["requestContext"]));
            seen.revoked.extend(results);
            Ok(reply(200, json!({"value": true}).to_string()))
        }
        _ => Ok(reply(404, "{}")),
    }
}

impl Seen {
    fn give_token(&mut self, body: &Bytes, here: SocketAddr) -> Response<Full<Bytes>> {
        let form: Vec<(String, String)> = url::form_urlencoded::parse(body).into_owned().collect();
        let field = |name: &str| {
            form.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        assert_eq!(field("grant_type"), "client_credentials");
        let resource = match field("scope") {
            "https://api.manage.microsoft.com//.default" => "services",
            scope if scope == format!("http://{here}/.default") => "graph",
            scope => panic!("an unknown scope {scope:?}"),
        };
        let known = match &self.public_key_pem {
            None => field("client_secret") == SECRET,
            Some(pem) => {
                assert_eq!(field("client_assertion_type"), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
                let mut rules = Validation::new(Algorithm::PS256);
                rules.set_audience(&[format!("http://{here}/login/{TENANT}/oauth2/v2.0/token")]);
                rules.set_issuer(&[CLIENT_ID]);
                // The assertion carries the time of the test's clock.
                rules.validate_exp = false;
                let opened = jsonwebtoken::decode::<Value>(
                    field("client_assertion"),
                    &DecodingKey::from_rsa_pem(pem).unwrap(),
                    &rules,
                );
                opened.is_ok_and(|opened| {
                    opened.header.x5t_s256.is_some_and(|thumbprint| thumbprint.len() == 43)
                        && opened.claims["sub"] == CLIENT_ID
                        && opened.claims["exp"].as_u64() > opened.claims["iat"].as_u64()
                })
            }
        };
        if !known || field("client_id") != CLIENT_ID {
            let refusal =
                json!({"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret"});
            return reply(401, refusal.to_string());
        }
        self.given += 1;
        let token = format!("{resource}-token-{}", self.given);
        self.tokens.insert(token.clone());
        reply(200, json!({"token_type": "Bearer", "expires_in": 3599, "access_token": token}).to_string())
    }
}

/// Whether a request asks for what its challenge says.
fn judge(request: &Value, sealing: &hmac::Key) -> &'static str {
    let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
    assert!(!text("transactionId").is_empty() && text("callerInfo").starts_with("certgate/"));
    let Some(csr) =
        STANDARD.decode(text("certificateRequest")).ok().and_then(|der| CertificateRequest::open(&der).ok())
    else {
        return "CertificateRequestDecodingFailed";
    };
    let Some(challenge) = csr.challenge_password() else { return "ChallengePasswordMissing" };
    let Some((blob, tag)) = challenge.reveal().split_once('.') else { return "ChallengeDeserializationError" };
    let tag = STANDARD.decode(tag).unwrap_or_default();
    if hmac::verify(sealing, blob.as_bytes(), &tag).is_err() {
        return "ChallengeDecryptionError";
    }
    let expected: Value = serde_json::from_slice(&STANDARD.decode(blob).unwrap()).unwrap();
    if expected["until"].as_u64().unwrap() < ca_backend::testing::NOON_S {
        return "ChallengeExpired";
    }
    let subject = DistinguishedName::from_der(csr.subject_der()).unwrap();
    let wanted = DistinguishedName::parse(expected["subject"].as_str().unwrap()).unwrap();
    // As texts: clients differ in the kind of string that they put values into.
    if subject.to_string() != wanted.to_string() {
        return "SubjectNameMismatch";
    }
    let named = csr.extensions().iter().find(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME);
    let names: BTreeSet<String> = named.map_or_else(BTreeSet::new, |extension| {
        let names = AlternativeName::decode_all(extension.extn_value.as_bytes()).unwrap();
        names.iter().map(ToString::to_string).collect()
    });
    let wanted: BTreeSet<String> =
        expected["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    if names == wanted { "Success" } else { "SubjectAltNameMismatch" }
}
