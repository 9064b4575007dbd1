//! Validation with real sockets: an ACME endpoint, the gateway's own looks at other hosts, and hosts and name servers on loopback.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use acme::{Found, Question, Target};
use ca_backend::AlternativeName;
use config::{Settings, ValidationSettings, ZoneSettings};
use gateway::egress::NodeEgress;
use gateway::validation::Look;
use hickory_resolver::proto::rr::RecordType;
use rcgen::CustomExtension;
use serde_json::{Value, json};
use tests::acme_client::{AcmeBench, Client, SubjectKeyPair, csr, dns, endpoint_settings};
use tests::hosts::{TestHost, acme_identifier, certificate};
use tests::names::{Answer, NameServer, address, alias, caa, text};
use tokio::runtime::Runtime;

/// An ACME endpoint that looks by itself.
pub(crate) struct Field {
    pub(crate) bench: AcmeBench,
    look: Look,
    runtime: Runtime,
}

impl Field {
    /// Asks this name server and reaches loopback; `options` go into the endpoint's.
    pub(crate) fn new(names: SocketAddr, options: Value) -> Self {
        Self::with(ValidationSettings { resolvers: vec![names], ..Settings::default().validation }, options)
    }

    pub(crate) fn with(settings: ValidationSettings, options: Value) -> Self {
        let mut endpoint = endpoint_settings();
        endpoint["rules"][0]["allow"]["ip"] = json!(["127.0.0.0/8"]);
        endpoint["options"] = options;
        let bench = AcmeBench::with(&endpoint);
        let look = Look::new(&NodeEgress::new(&settings, Vec::new()).unwrap(), &bench.acme.options().unwrap());
        Self { bench, look, runtime: Runtime::new().unwrap() }
    }

    /// Looks where the started validations say, and records what is found, until none is left.
    pub(crate) fn look(&self) {
        loop {
            let mut started = std::mem::take(&mut *self.bench.started.lock().unwrap());
            started.extend(self.bench.acme.due_validations(100).unwrap());
            if started.is_empty() {
                return;
            }
            for validation in started {
                let found = self.runtime.block_on(self.look.at(&validation.question)).unwrap();
                self.bench.acme.judge(&validation, &found, &[]).unwrap();
            }
        }
    }

    /// Orders one identifier, answers its challenge of that type, looks until it is decided, and shows the challenge.
    pub(crate) fn attempt(&self, client: &Client, identifier: &Value, kind: &str) -> (String, Value) {
        let order = client.new_order(&self.bench, &json!({ "identifiers": [identifier] })).header("location");
        let challenge = client.challenges(&self.bench, &order, kind).remove(0);
        client.post(&self.bench, &challenge, &json!({}));
        self.look();
        while client.read(&self.bench, &challenge).text("status") == "processing" {
            self.bench.bench.clock.advance_s(10);
            self.look();
        }
        (order, client.read(&self.bench, &challenge).json())
    }
}

/// Everything is on loopback, but for the names in it.
fn everything_here(name: &str, kind: RecordType, _: usize) -> Answer {
    match kind {
        RecordType::A if name.ends_with("corp.example") => Answer::Records(vec![address("127.0.0.1")]),
        _ => Answer::Records(Vec::new()),
    }
}

/// What the hosts of a test shall show, by server name: filled once the token is known.
type Shown = Arc<Mutex<HashMap<String, (Vec<String>, Vec<CustomExtension>)>>>;

fn tls_host(shown: &Shown, protocols: &[&str], tls12: bool) -> TestHost {
    let shown = Arc::clone(shown);
    let serve = move |name: &str| {
        let shown = shown.lock().unwrap();
        let (names, extensions) = shown.get(name).cloned().unwrap_or_default();
        certificate(&names.iter().map(String::as_str).collect::<Vec<_>>(), extensions)
    };
    if tls12 { TestHost::tls12(protocols, serve) } else { TestHost::tls(protocols, serve) }
}

#[test]
fn tls_alpn_01_leads_to_a_certificate_for_a_name_and_for_an_address() {
    let names = NameServer::start(everything_here);
    for tls12 in [true, false] {
        let shown = Shown::default();
        let host = tls_host(&shown, &["h2", "acme-tls/1"], tls12);
        let field =
            Field::new(names.address, json!({ "tls_alpn01_port": host.port, "reachable_networks": ["127.0.0.0/8"] }));
        let client = field.bench.client();
        for (kind, value, server_name) in
            [("dns", "host.corp.example", "host.corp.example"), ("ip", "127.0.0.1", "1.0.0.127.in-addr.arpa")]
        {
            let identifier = json!({ "type": kind, "value": value });
            let order = client.new_order(&field.bench, &json!({ "identifiers": [identifier] })).header("location");
            let challenge = client.challenges(&field.bench, &order, "tls-alpn-01").remove(0);
            client.post(&field.bench, &challenge, &json!({}));
            let key_authorization = field.bench.started.lock().unwrap()[0].key_authorization().to_owned();
            let shows = (vec![value.to_owned()], vec![acme_identifier(&key_authorization)]);
            shown.lock().unwrap().insert(server_name.to_owned(), shows);
            field.look();
            let after = client.read(&field.bench, &challenge).json();
            assert_eq!(after["status"], "valid", "{after}");
            let name = AlternativeName::parse(&format!("{kind}:{value}")).unwrap();
            let reply = client.finalize(&field.bench, &order, &csr(&SubjectKeyPair::generate(), "", &[name]));
            assert_eq!(reply.text("status"), "valid", "{}", reply.json());
        }
    }
}

#[test]
fn tls_alpn_01_wants_the_protocol_agreed_upon() {
    let names = NameServer::start(everything_here);
    for protocols in [&[][..], &["h2", "http/1.1"]] {
        let host = tls_host(&Shown::default(), protocols, false);
        let field =
            Field::new(names.address, json!({ "tls_alpn01_port": host.port, "reachable_networks": ["127.0.0.0/8"] }));
        let identifier = json!({ "type": "dns", "value": "host.corp.example" });
        let (_, challenge) = field.attempt(&field.bench.client(), &identifier, "tls-alpn-01");
        assert_eq!(challenge["error"]["type"], "urn:ietf:params:acme:error:tls", "{challenge}");
    }
}

#[test]
fn tls_alpn_01_takes_one_name_and_one_critical_digest_and_nothing_else() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let order = client.order(&bench, &["host.corp.example"]);
    let challenge = client.challenges(&bench, &order, "tls-alpn-01").remove(0);
    client.post(&bench, &challenge, &json!({}));
    let validation = bench.started.lock().unwrap()[0].clone();
    let Question::TlsAlpn01 { target, server_name } = &validation.question else { panic!("{validation:?}") };
    assert_eq!((target, server_name.as_str()), (&Target::Name("host.corp.example".to_owned()), "host.corp.example"));

    let right = || acme_identifier(validation.key_authorization());
    let shows = |names: &[&str], extensions| {
        let der = certificate(names, extensions).cert[0].to_vec();
        validation.shows(&Found::Certificate { der, address: "127.0.0.1".parse().unwrap() })
    };
    assert!(shows(&["host.corp.example"], vec![right()]));
    assert!(shows(&["HOST.Corp.Example"], vec![right()]));
    let mut lenient = right();
    lenient.set_criticality(false);
    let other_content = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 31], vec![4, 2, 1, 2]);
    for (names, extensions) in [
        (&["host.corp.example", "other.corp.example"][..], vec![right()]),
        (&["host.corp.example", "127.0.0.1"], vec![right()]),
        (&["other.corp.example"], vec![right()]),
        (&["corp.example"], vec![right()]),
        (&["127.0.0.1"], vec![right()]),
        (&[], vec![right()]),
        (&["host.corp.example"], vec![]),
        (&["host.corp.example"], vec![lenient]),
        (&["host.corp.example"], vec![acme_identifier("another")]),
        (&["host.corp.example"], vec![right(), right()]),
        (&["host.corp.example"], vec![other_content]),
    ] {
        assert!(!shows(names, extensions), "{names:?}");
    }
    for der in [vec![], vec![0x30, 0x80], vec![0; 20_000]] {
        assert!(!validation.shows(&Found::Certificate { der, address: "127.0.0.1".parse().unwrap() }));
    }
}

/// The value that the client would publish.
fn digest(field: &Field) -> String {
    let started = field.bench.started.lock().unwrap();
    tests::acme_client::b64(&tests::acme_client::sha256(started[0].key_authorization().as_bytes()))
}

#[test]
fn s15_each_zone_is_asked_at_its_own_servers_and_an_alias_at_those_of_its_target() {
    let published = Arc::new(Mutex::new(String::new()));
    let inside = {
        let published = Arc::clone(&published);
        NameServer::start(move |name, kind, _| match (name, kind) {
            ("_acme-challenge.in.corp.example" | "target.deep.corp.example", RecordType::TXT) => {
                Answer::Records(vec![text(&published.lock().unwrap())])
            }
            _ => Answer::NoSuchName,
        })
    };
    // It knows of the alias and not of where that leads.
    let outside = NameServer::start(|name, _, _| match name {
        "_acme-challenge.out.corp.example" => Answer::Records(vec![alias("target.deep.corp.example")]),
        _ => Answer::NoSuchName,
    });
    let zone =
        |name: &str, server: &NameServer| ZoneSettings { name: name.to_owned(), resolvers: vec![server.address] };
    let settings = ValidationSettings {
        resolvers: vec![outside.address],
        zones: vec![zone("example", &outside), zone("in.corp.example", &inside), zone("deep.corp.example.", &inside)],
        ..Settings::default().validation
    };
    let field = Field::with(settings, json!({}));
    let client = field.bench.client();
    for name in ["in.corp.example", "out.corp.example"] {
        let order = client.order(&field.bench, &[name]);
        let challenge = client.challenges(&field.bench, &order, "dns-01").remove(0);
        client.post(&field.bench, &challenge, &json!({}));
        *published.lock().unwrap() = digest(&field);
        field.look();
        let after = client.read(&field.bench, &challenge).json();
        assert_eq!(after["status"], "valid", "{after}");
    }
    assert_eq!(outside.asked("_acme-challenge.in.corp.example", RecordType::TXT), 0);
    assert_eq!(inside.asked("_acme-challenge.out.corp.example", RecordType::TXT), 0);
}

/// An endpoint that asks for CAA records of these servers; dns-01 is answered as a right client would.
fn caa_field(names: &NameServer) -> Field {
    Field::new(names.address, json!({ "caa": true, "caa_identities": ["ca.example"] }))
}

/// A ready order for these names, finalized; its address and the reply.
fn finalized(field: &Field, client: &Client, names: &[&str]) -> (String, tests::acme_client::Reply) {
    let order = client.order(&field.bench, names);
    for challenge in client.challenges(&field.bench, &order, "dns-01") {
        client.post(&field.bench, &challenge, &json!({}));
    }
    field.bench.answer_validations();
    let reply = client.finalize(&field.bench, &order, &csr(&SubjectKeyPair::generate(), "", &dns(names)));
    (order, reply)
}

#[test]
fn s15_caa_records_are_looked_at_before_issuing_up_the_tree_and_through_aliases() {
    let names = NameServer::start(|name, kind, _| match (name, kind) {
        ("corp.example", RecordType::CAA) => {
            Answer::Records(vec![caa(0, "issue", "ca.example"), caa(0, "issuewild", ";")])
        }
        ("closed.corp.example", RecordType::CAA) => Answer::Records(vec![caa(0, "issue", "other.example")]),
        ("alias.corp.example", _) => Answer::Records(vec![alias("closed.corp.example")]),
        ("critical.corp.example", RecordType::CAA) => {
            Answer::Records(vec![caa(0, "issue", "ca.example"), caa(128, "tbs", "x")])
        }
        ("method.corp.example", RecordType::CAA) => {
            Answer::Records(vec![caa(0, "issue", "ca.example; validationmethods=http-01")])
        }
        ("open.corp.example", RecordType::CAA) => {
            Answer::Records(vec![caa(0, "iodef", "mailto:a@corp.example"), caa(0, "issuewild", "ca.example")])
        }
        ("a.b.corp.example" | "b.corp.example", _) => Answer::NoSuchName,
        _ => Answer::Records(Vec::new()),
    });
    let field = caa_field(&names);
    let client = field.bench.client();
    for (wanted, at) in [
        (&["a.b.corp.example"][..], None),
        (&["*.open.corp.example", "open.corp.example"], None),
        (&["*.corp.example"], Some("corp.example")),
        (&["a.b.corp.example", "*.a.b.corp.example"], Some("corp.example")),
        (&["x.closed.corp.example"], Some("closed.corp.example")),
        (&["alias.corp.example"], Some("alias.corp.example")),
        (&["critical.corp.example"], Some("critical.corp.example")),
        (&["method.corp.example"], Some("method.corp.example")),
    ] {
        let (order, reply) = finalized(&field, &client, wanted);
        assert_eq!((reply.status, reply.text("status")), (200, "processing".to_owned()), "{wanted:?}");
        assert!(reply.headers.contains_key("retry-after"));
        assert_eq!(client.read(&field.bench, &order).text("status"), "processing", "nothing is issued before");
        field.look();
        let after = client.read(&field.bench, &order).json();
        match at {
            None => assert_eq!(after["status"], "valid", "{wanted:?}: {after}"),
            Some(at) => {
                assert_eq!(after["status"], "invalid", "{wanted:?}: {after}");
                assert_eq!(after["error"]["type"], "urn:ietf:params:acme:error:caa", "{after}");
                let detail = after["error"]["detail"].as_str().unwrap();
                assert!(detail.contains(&format!(" at {at} ")), "{detail}");
            }
        }
    }
}

#[test]
fn s15_a_caa_record_may_name_the_account() {
    let account = Arc::new(Mutex::new(String::new()));
    let names = {
        let account = Arc::clone(&account);
        NameServer::start(move |_, kind, _| match kind {
            RecordType::CAA => {
                Answer::Records(vec![caa(0, "issue", &format!("ca.example; accounturi={}", account.lock().unwrap()))])
            }
            _ => Answer::Records(Vec::new()),
        })
    };
    let field = caa_field(&names);
    let (named, other) = (field.bench.client(), field.bench.client());
    named.kid.clone().unwrap().clone_into(&mut account.lock().unwrap());
    for (client, status) in [(&named, "valid"), (&other, "invalid")] {
        let (order, _) = finalized(&field, client, &["host.corp.example"]);
        field.look();
        assert_eq!(client.read(&field.bench, &order).text("status"), status);
    }
}

#[test]
fn s15_a_caa_lookup_that_fails_is_repeated_and_then_refused() {
    for (recovers, status) in [(true, "valid"), (false, "invalid")] {
        let names = NameServer::start(move |name, kind, times| match (name, kind) {
            ("corp.example", RecordType::CAA) if times < 2 || !recovers => Answer::Failure,
            _ => Answer::Records(Vec::new()),
        });
        let field = caa_field(&names);
        let client = field.bench.client();
        let (order, _) = finalized(&field, &client, &["host.corp.example"]);
        field.look();
        for _ in 0..3 {
            field.bench.bench.clock.advance_s(10);
            field.look();
        }
        let after = client.read(&field.bench, &order).json();
        assert_eq!(after["status"], status, "{after}");
        if !recovers {
            assert_eq!(after["error"]["type"], "urn:ietf:params:acme:error:dns", "{after}");
        }
    }
}

#[test]
fn a_look_at_caa_records_survives_its_node_and_counts_for_eight_hours() {
    let names = NameServer::start(|_, _, _| Answer::Records(Vec::new()));
    let mut field = caa_field(&names);
    let client = field.bench.client();
    let (order, _) = finalized(&field, &client, &["host.corp.example"]);
    field.bench.restart();
    field.bench.bench.clock.advance_s(acme::LEASE_S);
    field.look();
    assert_eq!(names.asked("host.corp.example", RecordType::CAA), 1);
    field.bench.bench.clock.advance_s(8 * 3600);
    assert_eq!(client.read(&field.bench, &order).problem().1, "badNonce", "the client's nonce is as old");
    assert_eq!(client.read(&field.bench, &order).text("status"), "processing", "what was found is too old");
    field.look();
    assert_eq!(names.asked("host.corp.example", RecordType::CAA), 2);
    assert_eq!(client.read(&field.bench, &order).text("status"), "valid");
}

/// What name servers answer to TXT questions, by name.
type Zone = Arc<Mutex<HashMap<String, String>>>;

fn zone_server(zone: &Zone) -> NameServer {
    let zone = Arc::clone(zone);
    NameServer::start(move |name, kind, _| match zone.lock().unwrap().get(name) {
        Some(value) if kind == RecordType::TXT => Answer::Records(vec![text(value)]),
        Some(_) => Answer::Records(Vec::new()),
        None => Answer::NoSuchName,
    })
}

#[test]
fn dns_account_01_looks_below_a_label_of_the_account() {
    let zone = Zone::default();
    let names = zone_server(&zone);
    let field = Field::new(names.address, json!({ "challenges": ["dns-account-01"] }));
    let (client, other) = (field.bench.client(), field.bench.client());
    let mut asked_at = Vec::new();
    for client in [&client, &other] {
        let order = client.order(&field.bench, &["*.corp.example"]);
        let challenge = client.challenges(&field.bench, &order, "dns-account-01").remove(0);
        client.post(&field.bench, &challenge, &json!({}));
        let question = field.bench.started.lock().unwrap()[0].question.clone();
        let Question::Dns01 { name } = question else { panic!("{question:?}") };
        assert!(name.starts_with('_') && name.ends_with("._acme-challenge.corp.example"), "{name}");
        zone.lock().unwrap().insert(name.clone(), digest(&field));
        asked_at.push(name);
        field.look();
        let after = client.read(&field.bench, &challenge).json();
        assert_eq!(after["status"], "valid", "{after}");
    }
    assert_ne!(asked_at[0], asked_at[1], "two accounts hold the name side by side");
}

#[test]
fn dns_persist_01_takes_a_record_that_was_there_before_and_names_the_account() {
    let zone = Zone::default();
    let names = zone_server(&zone);
    let field =
        Field::new(names.address, json!({ "challenges": ["dns-persist-01"], "caa_identities": ["CA.example"] }));
    let (client, other) = (field.bench.client(), field.bench.client());
    let account = client.kid.clone().unwrap();
    let record = |more: &str| {
        let value = format!("ca.example; accounturi={account}{more}");
        zone.lock().unwrap().insert("_validation-persist.corp.example".to_owned(), value);
    };
    let attempt = |client: &Client, name: &str| {
        let (_, challenge) = field.attempt(client, &json!({ "type": "dns", "value": name }), "dns-persist-01");
        assert!(challenge.get("token").is_none());
        assert_eq!(challenge["issuer-domain-names"], json!(["ca.example"]));
        assert_eq!(challenge["accounturi"], *client.kid.as_ref().unwrap());
        (challenge["status"].clone(), challenge["error"]["type"].clone())
    };
    record("");
    assert_eq!(attempt(&client, "corp.example").0, "valid");
    assert_eq!(attempt(&client, "*.corp.example").1, "urn:ietf:params:acme:error:unauthorized");
    assert_eq!(attempt(&other, "corp.example").1, "urn:ietf:params:acme:error:unauthorized");
    record("; policy=wildcard");
    assert_eq!(attempt(&client, "*.corp.example").0, "valid");
    record("; persistUntil=1000");
    assert_eq!(attempt(&client, "corp.example").1, "urn:ietf:params:acme:error:unauthorized");
    record("; persistUntil=tomorrow");
    assert_eq!(attempt(&client, "corp.example").1, "urn:ietf:params:acme:error:malformed");
}
