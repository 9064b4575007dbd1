//! The operators' API over its unix socket.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use ca_backend::{Clock as _, Engine, Outcome, Reason, Refusal, SystemClock};
use endpoint::{Endpoint as _, Peer};
use gateway::admin::{self, AdminState, SocketError, StatusPages};
use gateway::server_certificate::HttpsCondition;
use gateway::telemetry::Figures;
use gateway::wiring::Unserved;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tests::key::Key;
use tests::openssl::{OpenSsl, pem};
use tests::pki::{ENDPOINT, ISSUING, Pki};
use tests::wish::Wish;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;

const TLS_SERVER: &str = "privatessl-tls-server";

/// The API of an engine in memory, served on a socket.
struct Operators {
    pki: Pki,
    runtime: Runtime,
    directory: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

fn state(engine: Engine) -> AdminState {
    static FIGURES: OnceLock<Figures> = OnceLock::new();
    AdminState {
        engine,
        check_endpoint: Arc::new(|endpoint| match endpoint.options.get("wrong") {
            Some(_) => Err(Refusal::new(Reason::Malformed, "the option \"wrong\" is unknown")),
            None => Ok(()),
        }),
        endpoints_changed: Arc::new(|| {}),
        unserved: Unserved::default(),
        figures: FIGURES.get_or_init(|| Figures::install().unwrap()).clone(),
        https: serving(),
    }
}

/// HTTPS as it stands once there is a certificate.
fn serving() -> HttpsCondition {
    let condition = HttpsCondition::default();
    condition.set(true, None);
    condition
}

impl Operators {
    fn start() -> Self {
        let pki = Pki::start();
        let runtime = Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (stop, stopped) = watch::channel(false);
        let socket = {
            let _entered = runtime.enter();
            admin::bind(&directory.path().join("operator.sock"), None).unwrap()
        };
        runtime.spawn(admin::serve(socket, admin::router(state(pki.engine.clone())), Duration::from_secs(1), stopped));
        Self { pki, runtime, directory, _stop: stop }
    }

    fn exchange(&self, request: Request<Full<Bytes>>) -> (StatusCode, Bytes) {
        self.runtime.block_on(async {
            let stream = UnixStream::connect(self.directory.path().join("operator.sock")).await.unwrap();
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let response = sender.send_request(request).await.unwrap();
            let status = response.status();
            (status, response.into_body().collect().await.unwrap().to_bytes())
        })
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: impl Into<Bytes>) -> (StatusCode, Bytes) {
        let request =
            Request::builder().method(method).uri(path).header("host", "certgate").header("content-type", kind);
        self.exchange(request.body(Full::new(body.into())).unwrap())
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let (status, answer) = self.send(method, path, "application/json", body.to_string());
        (status, serde_json::from_slice(&answer).unwrap_or(Value::Null))
    }

    fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask("GET", path, &Value::Null)
    }

    /// A certificate's serial and everything that the API tells of it.
    fn issue(&self, host: &str) -> Value {
        let (status, issued) = self.ask("POST", "/v1/certificates", &wish(host));
        assert_eq!(status, StatusCode::CREATED, "{issued}");
        issued
    }
}

fn wish(host: &str) -> Value {
    json!({
        "authority": ISSUING,
        "profile": TLS_SERVER,
        "csr": pem("CERTIFICATE REQUEST", &Key::ec().csr("cn=from the csr,o=Nobody asked")),
        "subject": format!("CN={host}"),
        "alternative_names": [format!("dns:{host}")],
        "validity_days": 10,
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

#[test]
fn names_beside_the_csr_count_and_those_in_it_only_when_asked_for() {
    let operators = Operators::start();
    let issued = operators.issue("host.example.org");
    assert_eq!(issued["subject"], "CN=host.example.org");
    assert_eq!(issued["alternative_names"], json!(["dns:host.example.org"]));
    assert!(text(&issued["requester"]).starts_with("operator:"));

    let mut from_csr = wish("unused.example.org");
    from_csr["use_request_names"] = json!(true);
    let (status, problem) = operators.ask("POST", "/v1/certificates", &from_csr);
    assert_eq!((status, &problem["reason"]), (StatusCode::BAD_REQUEST, &json!("malformed")), "{problem}");
    let members = from_csr.as_object_mut().unwrap();
    members.remove("subject");
    members.remove("alternative_names");
    let (_, issued) = operators.ask("POST", "/v1/certificates", &from_csr);
    assert_eq!(issued["subject"], "CN=from the csr,O=Nobody asked", "{issued}");
}

#[test]
fn the_same_wish_gets_the_same_certificate_and_another_transaction_another() {
    let operators = Operators::start();
    let mut wish = wish("host.example.org");
    let (_, first) = operators.ask("POST", "/v1/certificates", &wish);
    let (_, again) = operators.ask("POST", "/v1/certificates", &wish);
    assert_eq!(first["serial"], again["serial"]);
    wish["transaction"] = json!("second");
    let (_, second) = operators.ask("POST", "/v1/certificates", &wish);
    assert_ne!(first["serial"], second["serial"]);
}

#[test]
fn an_issued_certificate_is_found_shown_revoked_counted_and_told_of() {
    let operators = Operators::start();
    let issued = operators.issue("host.example.org");
    let serial = text(&issued["serial"]).to_owned();
    assert!(text(&issued["pem"]).starts_with("-----BEGIN CERTIFICATE-----"));

    let (_, page) = operators.get("/v1/certificates?name=*.example.org&status=normal&issued_from=2026-01-01T00:00:00Z");
    assert_eq!(page["items"].as_array().unwrap().len(), 1, "{page}");
    assert_eq!(page["items"][0]["serial"], issued["serial"]);
    let (_, none) = operators.get("/v1/certificates?name=*.example.org&status=revoked");
    assert_eq!(none["items"], json!([]));

    let odd = format!("00%3A{}", serial.to_uppercase());
    assert_eq!(operators.get(&format!("/v1/certificates/{odd}")).1["serial"], issued["serial"]);

    assert_eq!(operators.ask("POST", &format!("/v1/certificates/{serial}/hold"), &json!({})).1["state"], "held");
    assert_eq!(
        operators.ask("POST", &format!("/v1/certificates/{serial}/unhold"), &json!({"comment": "found"})).0,
        StatusCode::OK
    );
    let revocation = json!({"reason": "keyCompromise", "invalidity_date": "2026-05-01T00:00:00Z", "comment": "lost"});
    let (status, revoked) = operators.ask("POST", &format!("/v1/certificates/{serial}/revoke"), &revocation);
    assert_eq!((status, &revoked["state"]), (StatusCode::OK, &json!("revoked")), "{revoked}");
    let (status, problem) =
        operators.ask("POST", &format!("/v1/certificates/{serial}/revoke"), &json!({"reason": "superseded"}));
    assert_eq!((status, &problem["reason"]), (StatusCode::CONFLICT, &json!("already-revoked")));

    let (_, shown) = operators.get(&format!("/v1/certificates/{serial}"));
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("revoked"), &json!("keyCompromise")));
    let (_, counts) = operators.get("/v1/counts");
    let revoked = json!({"authority": ISSUING, "profile": TLS_SERVER, "state": "revoked", "certificates": 1});
    assert!(counts.as_array().unwrap().contains(&revoked), "{counts}");

    let (_, all) = operators.get("/v1/events?limit=1000");
    let kinds: Vec<&str> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["serial"] == issued["serial"])
        .map(|e| text(&e["kind"]))
        .collect();
    assert_eq!(kinds, ["issued", "held", "unheld", "revoked"]);
    let (_, rest) = operators.get(&format!("/v1/events?after={}", all["cursor"]));
    assert_eq!((&rest["items"], &rest["cursor"]), (&json!([]), &all["cursor"]));
}

#[test]
fn a_crl_is_published_at_once() {
    let operators = Operators::start();
    let (_, first) = operators.ask("POST", "/v1/issuers/issuing/crl", &Value::Null);
    let (status, second) = operators.ask("POST", "/v1/issuers/issuing/crl", &Value::Null);
    assert_eq!(status, StatusCode::OK);
    assert!(second["number"].as_u64() > first["number"].as_u64(), "{first} {second}");
    assert_eq!(operators.ask("POST", "/v1/issuers/nobody/crl", &Value::Null).0, StatusCode::NOT_FOUND);
}

#[test]
fn an_authority_below_an_external_root_is_active_once_openssl_has_signed_its_request() {
    let operators = Operators::start();
    let openssl = OpenSsl::new();
    // OpenSSL takes the time from the machine, and some.
    operators.pki.bench.clock.set(SystemClock.now().plus_s(60));
    openssl.put("ca.ext", "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign,digitalSignature\nsubjectKeyIdentifier=hash\n");
    openssl.run("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key -subj /CN=Corporate -out root.csr");
    openssl.run("x509 -req -in root.csr -signkey root.key -days 3650 -extfile ca.ext -out root.pem");
    let root = String::from_utf8(openssl.take("root.pem")).unwrap();
    let import = json!({"name": "corporate", "certificate": root});
    let (status, imported) = operators.ask("POST", "/v1/external-roots", &import);
    assert_eq!((status, &imported["kind"]), (StatusCode::CREATED, &json!("external-root")), "{imported}");

    let below =
        json!({"name": "below", "subject": "CN=Below,O=Example", "parent": "corporate", "services": ["privatessl"]});
    let (status, waiting) = operators.ask("POST", "/v1/authorities", &below);
    assert_eq!((status, &waiting["state"]), (StatusCode::CREATED, &json!("csr-ready")), "{waiting}");
    let (status, request) = operators.send("GET", "/v1/authorities/below/request", "application/json", "");
    assert_eq!(status, StatusCode::OK);
    openssl.put("below.csr", &request);
    openssl.run(
        "x509 -req -in below.csr -CA root.pem -CAkey root.key -CAcreateserial -extfile ca.ext -days 365 -out below.pem",
    );
    let (status, problem) = operators.send("PUT", "/v1/authorities/below/certificate", "application/x-pem-file", root);
    assert!(status.is_client_error(), "{problem:?}");
    let problem: Value = serde_json::from_slice(&problem).unwrap();
    assert!(text(&problem["hint"]).contains("certgate authority request below"), "{problem}");
    let (status, installed) =
        operators.send("PUT", "/v1/authorities/below/certificate", "application/x-pem-file", openssl.take("below.pem"));
    let installed: Value = serde_json::from_slice(&installed).unwrap();
    assert_eq!((status, &installed["state"]), (StatusCode::OK, &json!("active")), "{installed}");
}

#[test]
fn an_authority_is_deleted_by_its_own_name_and_only_when_nothing_depends_on_it() {
    let operators = Operators::start();
    operators.pki.engine.delete_endpoint(&ca_backend::EndpointName::new(ENDPOINT).unwrap(), "test").ok();
    let (status, problem) = operators.ask("DELETE", "/v1/authorities/root?confirm=root", &Value::Null);
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(text(&problem["detail"]).contains(ISSUING), "{problem}");
    let (status, problem) = operators.ask("DELETE", "/v1/authorities/issuing?confirm=root", &Value::Null);
    assert_eq!((status, &problem["reason"]), (StatusCode::BAD_REQUEST, &json!("not-confirmed")));
    assert_eq!(
        operators.ask("DELETE", "/v1/authorities/issuing?confirm=issuing", &Value::Null).0,
        StatusCode::NO_CONTENT
    );
    operators.pki.engine.maintain();
    assert_eq!(operators.get("/v1/authorities/issuing").0, StatusCode::NOT_FOUND);
}

#[test]
fn services_and_friendly_name_can_be_changed() {
    let operators = Operators::start();
    let edit = json!({"friendly_name": "Web", "services": ["privatessl"]});
    let (status, changed) = operators.ask("PATCH", "/v1/authorities/issuing", &edit);
    assert_eq!(
        (status, &changed["friendly_name"], &changed["services"]),
        (StatusCode::OK, &json!("Web"), &json!(["privatessl"]))
    );
    assert_eq!(
        operators.ask("PATCH", "/v1/authorities/issuing", &json!({"services": ["nonsense"]})).0,
        StatusCode::UNPROCESSABLE_ENTITY
    );
}

#[test]
fn a_profile_that_is_shown_as_toml_can_be_stored_under_another_id() {
    let operators = Operators::start();
    let (_, shown) = operators.send("GET", &format!("/v1/profiles/{TLS_SERVER}?format=toml"), "application/json", "");
    let own = String::from_utf8(shown.to_vec()).unwrap().replace(&format!("{TLS_SERVER:?}"), "\"our-servers\"");
    let (status, stored) = operators.send("PUT", "/v1/profiles/our-servers", "application/toml", own.clone());
    assert_eq!(status, StatusCode::OK, "{stored:?}");
    assert_eq!(operators.get("/v1/profiles/our-servers").1["library"], "privatessl");
    assert_eq!(operators.send("PUT", "/v1/profiles/other", "application/toml", own).0, StatusCode::BAD_REQUEST);
    assert_eq!(operators.ask("DELETE", "/v1/profiles/our-servers", &Value::Null).0, StatusCode::NO_CONTENT);
    assert_eq!(operators.ask("DELETE", "/v1/profiles/our-servers", &Value::Null).0, StatusCode::NOT_FOUND);
    assert_eq!(operators.ask("DELETE", &format!("/v1/profiles/{TLS_SERVER}"), &Value::Null).0, StatusCode::CONFLICT);
}

#[test]
fn an_endpoint_is_taken_in_json_and_toml_and_its_protocol_is_asked_about_its_options() {
    let operators = Operators::start();
    let toml =
        format!("name = \"lab\"\nprotocol = \"acme\"\nauthority = \"{ISSUING}\"\nprofiles = [\"{TLS_SERVER}\"]\n");
    let (status, stored) = operators.send("PUT", "/v1/endpoints/lab", "application/toml", toml);
    assert_eq!(status, StatusCode::OK, "{stored:?}");
    let (_, mut shown) = operators.get("/v1/endpoints/lab");
    assert_eq!(operators.ask("PUT", "/v1/endpoints/lab", &shown).0, StatusCode::OK);
    assert_eq!(operators.ask("PUT", "/v1/endpoints/other", &shown).0, StatusCode::BAD_REQUEST);
    shown["options"] = json!({"wrong": 1});
    let (status, problem) = operators.ask("PUT", "/v1/endpoints/lab", &shown);
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text(&problem["detail"]).contains("wrong"), "{problem}");
    assert_eq!(operators.ask("DELETE", "/v1/endpoints/lab", &Value::Null).0, StatusCode::NO_CONTENT);
    assert_eq!(operators.get("/v1/endpoints/lab").0, StatusCode::NOT_FOUND);
}

/// A request of an account that waits for an operator.
fn waiting(operators: &Operators, host: &str) -> String {
    let rules = json!([{
        "name": "ask first", "requesters": [{"evidence": "challenges"}], "profiles": [TLS_SERVER],
        "allow": {"dns": ["*"]}, "approval": true,
    }]);
    operators.pki.put_endpoint(&[TLS_SERVER], rules).unwrap();
    let outcome = Wish::for_host(host)
        .at_endpoint(ENDPOINT)
        .by_account_with("a", &[&format!("dns:{host}")])
        .ask(&operators.pki.engine)
        .unwrap();
    match outcome {
        Outcome::Pending { ticket, .. } => ticket.to_string(),
        Outcome::Issued(certificate) => panic!("{} was issued without approval", certificate.serial),
    }
}

#[test]
fn a_credential_shows_its_secret_once_and_is_listed_changed_and_removed() {
    let operators = Operators::start();
    let wish = json!({"endpoint": ENDPOINT, "purpose": "external-account", "id": "printers", "comment": "floor 2",
        "binding": {"names": {"dns": [".example.org"]}}});
    let (status, made) = operators.ask("POST", "/v1/credentials", &wish);
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!(text(&made["secret"]).len(), 43, "32 octets in base64url");
    assert_eq!(made["binding"], json!({"names": {"dns": [".example.org"], "wildcards": false}, "accounts_max": 1}));
    let (status, problem) = operators.ask("POST", "/v1/credentials", &wish);
    assert_eq!((status, &problem["reason"]), (StatusCode::CONFLICT, &json!("conflict")));
    let unlimited = json!({"endpoint": ENDPOINT, "purpose": "external-account", "unlimited_accounts": true});
    let (_, unlimited) = operators.ask("POST", "/v1/credentials", &unlimited);
    assert_eq!(unlimited["binding"], json!({}));

    let (_, shown) = operators.get("/v1/credentials/printers");
    assert_eq!((&shown["comment"], shown.get("secret")), (&json!("floor 2"), None));
    let expiry = json!({"expires": "2027-01-08T00:00:00Z", "disabled": true});
    let (_, changed) = operators.ask("PATCH", "/v1/credentials/printers", &expiry);
    assert_eq!((&changed["expires"], &changed["disabled"]), (&expiry["expires"], &json!(true)));
    let (_, changed) = operators.ask("PATCH", "/v1/credentials/printers", &json!({"disabled": false}));
    assert_eq!((&changed["expires"], &changed["disabled"]), (&expiry["expires"], &json!(false)));
    let (_, changed) = operators.ask("PATCH", "/v1/credentials/printers", &json!({"expires": null}));
    assert_eq!(changed["expires"], Value::Null);

    let (_, page) = operators.get("/v1/credentials?purpose=external-account&limit=1");
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    let (_, rest) = operators.get(&format!("/v1/credentials?limit=5&cursor={}", text(&page["cursor"])));
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    let (_, none) = operators.get("/v1/credentials?purpose=token");
    assert_eq!(none["items"], json!([]));

    assert_eq!(operators.send("DELETE", "/v1/credentials/printers", "application/json", "").0, StatusCode::NO_CONTENT);
    for (method, body) in [("GET", Value::Null), ("DELETE", Value::Null), ("PATCH", json!({}))] {
        assert_eq!(operators.ask(method, "/v1/credentials/printers", &body).0, StatusCode::NOT_FOUND, "{method}");
    }
    for wrong in [
        json!({"endpoint": "nowhere", "purpose": "token", "binding": {"rights": ["issue"]}}),
        json!({"endpoint": ENDPOINT, "purpose": "key"}),
        json!({"endpoint": ENDPOINT, "purpose": "token", "binding": {"right": []}}),
        json!({"endpoint": ENDPOINT, "purpose": "token"}),
    ] {
        assert!(operators.ask("POST", "/v1/credentials", &wrong).0.is_client_error(), "{wrong}");
    }
}

#[test]
fn a_waiting_request_is_listed_and_approved_once() {
    let operators = Operators::start();
    let ticket = waiting(&operators, "host.example.org");
    let (_, list) = operators.get("/v1/tickets");
    assert_eq!(list[0]["ticket"], json!(ticket));
    let (_, shown) = operators.get(&format!("/v1/tickets/{ticket}"));
    assert_eq!((&shown["state"], &shown["profile"]), (&json!("waiting"), &json!(TLS_SERVER)), "{shown}");
    assert_eq!((&shown["key"], &shown["evidence"]), (&json!("ec-p256"), &json!("challenges")), "{shown}");
    assert_eq!((&shown["endpoint"], &shown["requester"]), (&json!(ENDPOINT), &json!("account:a")), "{shown}");
    assert_eq!(shown["alternative_names"], json!(["dns:host.example.org"]), "{shown}");
    assert_eq!(shown["shown"][0]["name"], json!("dns:host.example.org"), "{shown}");
    assert_eq!(text(&shown["key_sha256"]).len(), 64, "{shown}");
    let (status, issued) = operators.ask("POST", &format!("/v1/tickets/{ticket}/approve"), &Value::Null);
    assert_eq!(status, StatusCode::OK, "{issued}");
    let (_, standing) = operators.get(&format!("/v1/tickets/{ticket}"));
    assert_eq!((&standing["state"], &standing["serial"]), (&json!("issued"), &issued["serial"]));
    let (status, problem) = operators.ask("POST", &format!("/v1/tickets/{ticket}/approve"), &Value::Null);
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(text(&problem["hint"]).contains("certgate request show"), "{problem}");
}

#[test]
fn a_decided_request_is_forgotten_after_its_time_and_a_waiting_one_is_not() {
    let operators = Operators::start();
    let decided = waiting(&operators, "host.example.org");
    let still = waiting(&operators, "other.example.org");
    operators.ask("POST", &format!("/v1/tickets/{decided}/reject"), &json!({"why": "not ours"}));
    let after = |days: u64| {
        operators.pki.bench.clock.advance_s(days * tests::pki::DAY_S);
        operators.pki.engine.maintain();
        operators.pki.engine.maintain();
        [&decided, &still].map(|ticket| operators.get(&format!("/v1/tickets/{ticket}")).0)
    };
    assert_eq!(after(89), [StatusCode::OK, StatusCode::OK]);
    assert_eq!(after(2), [StatusCode::NOT_FOUND, StatusCode::OK]);
}

#[test]
fn a_refusal_comes_with_advice_that_fits_it() {
    let operators = Operators::start();
    let serial = text(&operators.issue("host.example.org")["serial"]).to_owned();
    let (_, built_in) =
        operators.send("GET", &format!("/v1/profiles/{TLS_SERVER}?format=toml"), "application/json", "");
    let hint = |method: &str, path: &str, kind: &str, body: Bytes| {
        let (status, answer) = operators.send(method, path, kind, body);
        assert!(status.is_client_error(), "{method} {path}: {status}");
        text(&serde_json::from_slice::<Value>(&answer).unwrap()["hint"]).to_owned()
    };
    let json = "application/json";
    let cases: [(&str, String, &str, Bytes, &str); 6] = [
        ("POST", format!("/v1/certificates/{serial}/unhold"), json, "{}".into(), "certgate certificate show"),
        (
            "POST",
            format!("/v1/certificates/{serial}/revoke"),
            json,
            r#"{"reason":"certificateHold"}"#.into(),
            "certgate certificate hold",
        ),
        (
            "POST",
            format!("/v1/certificates/{serial}/revoke"),
            json,
            r#"{"reason":"aACompromise"}"#.into(),
            "keyCompromise",
        ),
        ("DELETE", "/v1/authorities/root?confirm=root".to_owned(), json, Bytes::new(), "certgate authority delete"),
        ("PUT", format!("/v1/profiles/{TLS_SERVER}"), "application/toml", built_in, "an `id` of its own"),
        ("PUT", "/v1/endpoints/lab".to_owned(), "application/toml", "nonsense".into(), "certgate endpoint show"),
    ];
    for (method, path, kind, body, expected) in cases {
        let said = hint(method, &path, kind, body);
        assert!(said.contains(expected), "{method} {path}: {said}");
    }
}

#[test]
fn a_pattern_that_would_find_nothing_is_refused_with_the_forms_that_there_are() {
    let operators = Operators::start();
    operators.issue("host.example.org");
    for (wrong, form) in
        [("subject=CN=host*", "*,O=Example"), ("subject=host", "*,O=Example"), ("name=ho*st", "*.example.org")]
    {
        let (status, problem) = operators.get(&format!("/v1/certificates?{wrong}"));
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
        assert!(text(&problem["detail"]).contains(form), "{problem}");
    }
    for right in ["subject=CN%3Dhost.example.org", "subject=*.example.org", "name=*.example.org"] {
        let (_, page) = operators.get(&format!("/v1/certificates?{right}"));
        assert_eq!(page["items"].as_array().unwrap().len(), 1, "{right}: {page}");
    }
    // A wildcard name is no pattern.
    assert_eq!(operators.get("/v1/certificates?subject=CN%3D*.example.org").0, StatusCode::OK);
}

#[test]
fn readiness_says_why_https_clients_are_turned_away() {
    let pki = Pki::start();
    let AdminState { engine, figures, https, .. } = state(pki.engine.clone());
    pki.engine.maintain();
    https.set(false, Some("waits for an active issuing authority".to_owned()));
    let pages = StatusPages::new(engine, figures, https, Unserved::default());
    let peer = Peer { address: ([127, 0, 0, 1], 1).into(), tls: None, request_id: String::new() };
    let answer = pages.handle(Request::builder().uri("/readyz").body(Bytes::new()).unwrap(), &peer);
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let readiness: Value = serde_json::from_slice(answer.body()).unwrap();
    let https = readiness["parts"].as_array().unwrap().iter().find(|part| part["name"] == "https").unwrap().clone();
    assert_eq!((&https["ready"], &https["why"]), (&json!(false), &json!("waits for an active issuing authority")));
}

#[test]
fn a_rejected_request_says_why() {
    let operators = Operators::start();
    let ticket = waiting(&operators, "host.example.org");
    assert_eq!(
        operators.ask("POST", &format!("/v1/tickets/{ticket}/reject"), &json!({"why": "not ours"})).0,
        StatusCode::NO_CONTENT
    );
    let (_, standing) = operators.get(&format!("/v1/tickets/{ticket}"));
    assert_eq!(standing["state"], "rejected");
    assert!(text(&standing["why"]).contains("not ours"), "{standing}");
}

#[test]
fn the_audit_log_names_the_operator_and_verifies() {
    let operators = Operators::start();
    let issued = operators.issue("host.example.org");
    let (_, log) = operators.get("/v1/audit?limit=1000");
    let signed = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["action"] == "signed" && e["serial"] == issued["serial"])
        .unwrap();
    assert_eq!(signed["evidence"]["requester"], issued["requester"]);
    assert_eq!(signed["origin"]["protocol"], "operator");
    let (_, verdict) = operators.get("/v1/audit/verification");
    assert_eq!((&verdict["intact"], &verdict["entries"]), (&json!(true), &log["cursor"]));
}

#[test]
fn a_blocked_key_gets_no_certificate() {
    let operators = Operators::start();
    let key = Key::ec();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.public_key());
    let path = format!("/v1/blocked-keys/{}", hex::encode(digest));
    assert_eq!(operators.ask("PUT", &path, &Value::Null).0, StatusCode::NO_CONTENT);
    let mut wish = wish("host.example.org");
    wish["csr"] = json!(pem("CERTIFICATE REQUEST", &key.csr("cn=x")));
    let (status, problem) = operators.ask("POST", "/v1/certificates", &wish);
    assert_eq!((status, &problem["reason"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("bad-key")));
    assert_eq!(operators.ask("PUT", "/v1/blocked-keys/abc", &Value::Null).0, StatusCode::BAD_REQUEST);
}

#[test]
fn bad_input_gets_a_clear_answer() {
    let operators = Operators::start();
    let deep = "[".repeat(100_000);
    let cases: [(&str, &str, &str, String, u16); 9] = [
        ("POST", "/v1/authorities", "application/json", "{".to_owned(), 400),
        ("POST", "/v1/authorities", "application/json", deep, 400),
        (
            "POST",
            "/v1/authorities",
            "application/json",
            r#"{"name":"a","subject":"CN=A","nonsense":1}"#.to_owned(),
            400,
        ),
        ("POST", "/v1/authorities", "text/plain", "{}".to_owned(), 415),
        ("POST", "/v1/authorities", "application/json", " ".repeat(admin::BODY_BYTES_MAX + 1), 413),
        ("GET", "/v1/certificates/xyz", "application/json", String::new(), 400),
        ("GET", "/v1/certificates/4f0a", "application/json", String::new(), 404),
        ("GET", "/v1/certificates?nonsense=1", "application/json", String::new(), 400),
        ("GET", "/v1/nonsense", "application/json", String::new(), 404),
    ];
    for (method, path, kind, body, expected) in cases {
        let (status, answer) = operators.send(method, path, kind, body);
        let problem: Value = serde_json::from_slice(&answer).unwrap_or_else(|_| panic!("{path}: {answer:?}"));
        assert!(status == expected, "{path}: {status} {problem}");
        assert!(!text(&problem["detail"]).is_empty() && !text(&problem["hint"]).is_empty(), "{path}: {problem}");
    }
    let (status, problem) = operators.ask("POST", "/v1/counts", &Value::Null);
    assert_eq!((status, &problem["reason"]), (StatusCode::METHOD_NOT_ALLOWED, &json!("unsupported")));
}

#[test]
fn a_full_disk_is_unavailable_and_says_what_to_do() {
    let operators = Operators::start();
    operators.pki.bench.store_faults.disk_is_full(true);
    let (status, problem) = operators.ask("POST", "/v1/certificates", &wish("host.example.org"));
    assert_eq!((status, &problem["reason"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable")), "{problem}");
    assert!(text(&problem["hint"]).contains("make room") && !text(&problem["request_id"]).is_empty(), "{problem}");
    let (status, readiness) = operators.get("/readyz");
    assert_eq!(
        (status, &readiness["parts"][0]["ready"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!(false)),
        "{readiness}"
    );
    operators.pki.bench.store_faults.disk_is_full(false);
    assert_eq!(operators.ask("POST", "/v1/certificates", &wish("host.example.org")).0, StatusCode::CREATED);
}

#[test]
fn readiness_names_the_part_that_does_not_work() {
    let operators = Operators::start();
    operators.pki.engine.maintain();
    assert_eq!(operators.get("/healthz").0, StatusCode::OK);
    let (status, readiness) = operators.get("/readyz");
    assert_eq!((status, &readiness["ready"]), (StatusCode::OK, &json!(true)), "{readiness}");
    let names: Vec<&str> = readiness["parts"].as_array().unwrap().iter().map(|part| text(&part["name"])).collect();
    assert!(names.contains(&"store") && names.contains(&"crl:issuing") && names.contains(&"crl:root"), "{names:?}");

    operators.pki.bench.clock.advance_s(8 * tests::pki::DAY_S);
    let (status, readiness) = operators.get("/readyz");
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let late = readiness["parts"].as_array().unwrap().iter().find(|part| part["name"] == "crl:issuing").unwrap();
    assert_eq!((&late["ready"], &late["why"]), (&json!(false), &json!("out of date")));
}

#[test]
fn the_openapi_document_is_3_1_and_describes_every_route() {
    let operators = Operators::start();
    let (status, document) = operators.get("/openapi.json");
    assert_eq!(status, StatusCode::OK);
    assert!(text(&document["openapi"]).starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            // Every described operation is routed: with a name that is in the right form, none answers that its path or method is
            // unknown.
            let real =
                path.replace("{serial}", "4f0a").replace("{ticket}", &"0".repeat(32)).replace("{fingerprint}", "00");
            let real = real.replace("{name}", "nobody").replace("{id}", "nobody").replace("{path}", "nobody");
            let real = real.replace("{endpoint}", "nobody").replace("{account}", "nobody");
            let (status, answer) = operators.ask(&method.to_uppercase(), &real, &Value::Null);
            assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert!(
                !answer["detail"].as_str().unwrap_or_default().starts_with("nothing lies at"),
                "{method} {path}: {answer}"
            );
            assert!(
                operation["responses"].as_object().is_some_and(|responses| !responses.is_empty()),
                "{method} {path}"
            );
        }
    }
    let operations: usize = paths.values().map(|item| item.as_object().unwrap().len()).sum();
    assert_eq!((paths.len(), operations), (36, 49), "{:?}", paths.keys());
    tests::openapi::assert_valid(&document);
}

#[test]
fn the_socket_is_for_its_owner_and_replaces_a_dead_one_but_no_live_one() {
    let operators = Operators::start();
    let path = operators.directory.path().join("operator.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let _entered = operators.runtime.enter();
    assert!(matches!(admin::bind(&path, None), Err(SocketError::InUse(_))));
    assert!(matches!(admin::bind(&path, Some("no-such-group")), Err(SocketError::UnknownGroup(_))));

    let dead = operators.directory.path().join("new/dead.sock");
    drop(admin::bind(&dead, None).unwrap());
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(dead.exists());
    admin::bind(&dead, None).unwrap();
    let directory = std::fs::metadata(operators.directory.path().join("new")).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o700);

    let file = operators.directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(admin::bind(&file, None), Err(SocketError::NoSocket(_))));
}

#[test]
fn the_status_pages_serve_nothing_that_only_operators_may_see() {
    let pki = Pki::start();
    let state = state(pki.engine.clone());
    let pages = StatusPages::new(state.engine, state.figures, state.https, state.unserved);
    let peer = Peer { address: ([127, 0, 0, 1], 1).into(), tls: None, request_id: String::new() };
    let ask = |path: &str| pages.handle(Request::builder().uri(path).body(Bytes::new()).unwrap(), &peer);
    assert_eq!((ask("/healthz").status(), ask("/metrics").status()), (StatusCode::OK, StatusCode::OK));
    let readiness: Value = serde_json::from_slice(ask("/readyz").body()).unwrap();
    assert_eq!(readiness["parts"][0]["name"], "store");
    assert_eq!(
        (ask("/v1/authorities").status(), ask("/openapi.json").status()),
        (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND)
    );
}
