//! What orders rest on and what comes of them: authorizations that outlive an order, grants, renewal information, limits.

use acme::Found;
use ca_backend::{
    Binding, CredentialPurpose, NewCredential, RecordSpace, RevocationReason, RevocationRequest, Serial, StatusChange,
};
use serde_json::{Value, json};
use tests::acme_client::{
    AcmeBench, BASE, Client, Reply, SubjectKeyPair, b64, csr, dns, endpoint_settings, hmac_sha256, pem_blocks,
    put_endpoint, right_answer,
};

const HOST: &str = "host.corp.example";
const DAY_S: u64 = 24 * 3600;

fn refused(reply: &Reply, status: u16, kind: &str) {
    assert_eq!(reply.problem(), (status, kind.to_owned()), "{}", reply.json());
}

fn bench(options: Value) -> AcmeBench {
    let mut settings = endpoint_settings();
    settings["options"] = options;
    AcmeBench::with(&settings)
}

fn name(value: &str) -> Value {
    json!({ "type": "dns", "value": value })
}

fn wish(names: &[&str]) -> Value {
    json!({ "identifiers": names.iter().map(|value| name(value)).collect::<Vec<_>>() })
}

fn replacing(names: &[&str], certificate: &str) -> Value {
    let mut wish = wish(names);
    wish["replaces"] = certificate.into();
    wish
}

/// The name of a certificate in renewal information.
fn certificate_id(der: &[u8]) -> String {
    use der::Decode;
    let certificate = x509_cert::Certificate::from_der(der).unwrap();
    let certificate = certificate.tbs_certificate();
    let (_, extension) = certificate.get_extension::<x509_cert::ext::pkix::AuthorityKeyIdentifier>().unwrap().unwrap();
    let key_identifier = extension.key_identifier.unwrap();
    format!("{}.{}", b64(key_identifier.as_bytes()), b64(certificate.serial_number().as_bytes()))
}

fn serial_at(url: &str) -> Serial {
    Serial::parse(url.rsplit('/').next().unwrap()).unwrap()
}

fn window(bench: &AcmeBench, id: &str) -> (String, String) {
    let reply = bench.fetch("GET", &format!("{BASE}/renewal-info/{id}"));
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json".to_owned()));
    let window = reply.json()["suggestedWindow"].clone();
    (window["start"].as_str().unwrap().to_owned(), window["end"].as_str().unwrap().to_owned())
}

fn operator_revokes(bench: &AcmeBench, serial: Serial) {
    let request = RevocationRequest {
        serial,
        change: StatusChange::Revoke { reason: RevocationReason::Superseded, invalidity: None },
        comment: String::new(),
        evidence: ca_backend::Evidence::Operator(bench.engine.operator("ann")),
        origin: ca_backend::Origin {
            protocol: ca_backend::ProtocolName::new("operator").unwrap(),
            endpoint: None,
            transaction: serial.to_string(),
            request_digest: [0; 32],
            peer: None,
            request_id: "test".to_owned(),
        },
    };
    bench.engine.revoke(&request).unwrap();
}

#[test]
fn a_name_that_can_never_be_had_is_refused_before_it_is_shown() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let reply = client.new_order(&bench, &wish(&[HOST, "a.elsewhere.example", "*.elsewhere.example"]));
    refused(&reply, 400, "rejectedIdentifier");
    let blamed: Vec<_> = reply.json()["subproblems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subproblem| subproblem["identifier"]["value"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(blamed, ["a.elsewhere.example", "*.elsewhere.example"]);

    // Two rules that allow one name each do not allow both in one certificate.
    let mut settings = endpoint_settings();
    let mut second = settings["rules"][0].clone();
    settings["rules"][0]["allow"] = json!({ "dns": ["a.corp.example"] });
    second["allow"] = json!({ "dns": ["b.corp.example"] });
    settings["rules"].as_array_mut().unwrap().push(second);
    put_endpoint(&bench.engine, &settings);
    assert_eq!(client.new_order(&bench, &wish(&["a.corp.example"])).status, 201);
    assert_eq!(client.new_order(&bench, &wish(&["b.corp.example"])).status, 201);
    refused(&client.new_order(&bench, &wish(&["a.corp.example", "b.corp.example"])), 400, "rejectedIdentifier");

    // Nobody may have a profile that no rule grants.
    settings["rules"] = json!([]);
    put_endpoint(&bench.engine, &settings);
    refused(&client.new_order(&bench, &wish(&["a.corp.example"])), 403, "unauthorized");
}

#[test]
fn control_that_was_shown_serves_the_next_orders_until_it_is_too_old_or_deactivated() {
    let bench = bench(json!({ "authorization_reuse_s": 30 * DAY_S }));
    let (client, other) = (bench.client(), bench.client());
    let first = client.ready_order(&bench, &[HOST, "b.corp.example"], "http-01");
    let authorizations = client.read(&bench, &first).json()["authorizations"].clone();

    let second = client.new_order(&bench, &wish(&[HOST]));
    assert_eq!(second.text("status"), "ready");
    assert_eq!(second.json()["authorizations"], json!([authorizations[0]]));
    let reply =
        client.finalize(&bench, &second.header("location"), &csr(&SubjectKeyPair::generate(), "", &dns(&[HOST])));
    assert_eq!(reply.text("status"), "valid", "{}", reply.json());

    // Neither another account nor a wildcard rests on it.
    assert_eq!(other.new_order(&bench, &wish(&[HOST])).text("status"), "pending");
    assert_eq!(client.new_order(&bench, &wish(&["*.host.corp.example"])).text("status"), "pending");

    // Later than the order's own time, and still within the age.
    bench.bench.clock.advance_s(10 * DAY_S);
    client.forget_nonce();
    while bench.acme.expire(1000).unwrap() > 0 {}
    let third = client.new_order(&bench, &wish(&[HOST]));
    assert_eq!(third.text("status"), "ready");

    // Deactivated: the order that rested on it is lost, and the next asks anew.
    let url = authorizations[0].as_str().unwrap();
    client.post(&bench, url, &json!({ "status": "deactivated" }));
    assert_eq!(client.read(&bench, &third.header("location")).text("status"), "invalid");
    assert_eq!(client.new_order(&bench, &wish(&[HOST])).text("status"), "pending");
    assert_eq!(client.new_order(&bench, &wish(&["b.corp.example"])).text("status"), "ready");

    bench.bench.clock.advance_s(20 * DAY_S);
    client.forget_nonce();
    assert_eq!(client.new_order(&bench, &wish(&["b.corp.example"])).text("status"), "pending");
}

#[test]
fn without_reuse_every_order_asks_anew_and_nothing_is_shown_beforehand() {
    let bench = AcmeBench::default();
    let client = bench.client();
    client.ready_order(&bench, &[HOST], "http-01");
    assert_eq!(client.new_order(&bench, &wish(&[HOST])).text("status"), "pending");
    assert!(bench.fetch("GET", &format!("{BASE}/directory")).json().get("newAuthz").is_none());
    refused(&client.post(&bench, &format!("{BASE}/new-authz"), &json!({ "identifier": name(HOST) })), 404, "malformed");
}

#[test]
fn control_is_shown_before_there_is_an_order() {
    let bench = bench(json!({ "authorization_reuse_s": 30 * DAY_S }));
    let client = bench.client();
    let url = bench.fetch("GET", &format!("{BASE}/directory")).text("newAuthz");
    let ask = |identifier: Value| client.post(&bench, &url, &json!({ "identifier": identifier }));
    refused(&ask(name("*.corp.example")), 400, "malformed");
    refused(&ask(name("host.elsewhere.example")), 400, "rejectedIdentifier");
    refused(&ask(json!({ "type": "email", "value": "x" })), 400, "unsupportedIdentifier");
    let made = ask(name(HOST));
    assert_eq!((made.status, made.text("status")), (201, "pending".to_owned()));
    let challenges = made.json()["challenges"].clone();
    let challenge = challenges.as_array().unwrap().iter().find(|each| each["type"] == "http-01").unwrap();
    client.post(&bench, challenge["url"].as_str().unwrap(), &json!({}));
    bench.answer_validations();
    let authorization = made.header("location");
    assert_eq!(client.read(&bench, &authorization).text("status"), "valid");
    assert_eq!(ask(name(HOST)).header("location"), authorization, "what was shown is not asked again");
    assert_eq!(client.new_order(&bench, &wish(&[HOST])).text("status"), "ready");
}

#[test]
fn an_account_that_shows_control_of_every_name_revokes_and_one_that_misses_a_name_does_not() {
    let bench = AcmeBench::default();
    let (owner, other) = (bench.client(), bench.client());
    let names = [HOST, "b.corp.example"];
    let certificate = owner.leaf(&bench, &owner.enroll(&bench, &names, &SubjectKeyPair::generate()));
    refused(&other.revoke(&bench, &certificate, None), 403, "unauthorized");
    other.ready_order(&bench, &[HOST], "http-01");
    refused(&other.revoke(&bench, &certificate, None), 403, "unauthorized");
    let shown = other.ready_order(&bench, &["b.corp.example"], "http-01");
    let authorization = other.read(&bench, &shown).json()["authorizations"][0].as_str().unwrap().to_owned();
    other.post(&bench, &authorization, &json!({ "status": "deactivated" }));
    refused(&other.revoke(&bench, &certificate, None), 403, "unauthorized");
    other.ready_order(&bench, &["b.corp.example"], "http-01");
    bench.bench.clock.advance_s(8 * DAY_S);
    other.forget_nonce();
    refused(&other.revoke(&bench, &certificate, None), 403, "unauthorized");
    other.ready_order(&bench, &names, "http-01");
    // Who holds a name knows nothing of the key, which would be blocked wherever else it is in use.
    refused(&other.revoke(&bench, &certificate, Some(1)), 400, "badRevocationReason");
    assert_eq!(other.revoke(&bench, &certificate, Some(4)).status, 200);
    owner.forget_nonce();
    refused(&owner.revoke(&bench, &certificate, None), 400, "alreadyRevoked");
}

#[test]
fn the_chain_with_the_root_is_the_alternate_one_and_a_lone_certificate_says_where_its_issuer_is() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let url = client.enroll(&bench, &[HOST], &SubjectKeyPair::generate());
    let alternate = |reply: &Reply| {
        let links = reply.headers.get_all("link").iter().map(|link| link.to_str().unwrap().to_owned());
        let found = links.filter(|link| link.ends_with(";rel=\"alternate\"")).collect::<Vec<_>>();
        assert_eq!(found.len(), 1);
        found[0].split(['<', '>']).nth(1).unwrap().to_owned()
    };
    let usual = client.read(&bench, &url);
    let other = client.read(&bench, &alternate(&usual));
    let (below_root, with_root) = (pem_blocks(&usual.body), pem_blocks(&other.body));
    assert_eq!((below_root.len(), with_root.len()), (2, 3));
    assert_eq!(with_root[..2], below_root);
    assert_eq!(alternate(&other), url);

    let request = client.sign(&client.protected(&bench, &url), "");
    let request = http::Request::post(&url)
        .header("content-type", "application/jose+json")
        .header("accept", "application/pkix-cert")
        .body(bytes::Bytes::from(request.to_string()))
        .unwrap();
    let lone = bench.send(request);
    assert_eq!(
        (lone.header("content-type"), lone.body.to_vec()),
        ("application/pkix-cert".to_owned(), below_root[0].clone())
    );
    let up =
        lone.headers.get_all("link").iter().any(|link| link.to_str().unwrap().ends_with("/ca/issuing.cer>;rel=\"up\""));
    assert!(up, "{:?}", lone.headers);
}

#[test]
fn renewal_information_names_a_window_that_a_revocation_moves_into_the_past() {
    let bench = bench(json!({ "renewal_explanation_url": "https://ca.example/why", "renewal_retry_after_s": 7200 }));
    let client = bench.client();
    let url = client.enroll(&bench, &[HOST], &SubjectKeyPair::generate());
    let id = certificate_id(&client.leaf(&bench, &url));
    assert_eq!(bench.fetch("GET", &format!("{BASE}/directory")).text("renewalInfo"), format!("{BASE}/renewal-info"));
    let reply = bench.fetch("GET", &format!("{BASE}/renewal-info/{id}"));
    assert_eq!(
        (reply.header("retry-after"), reply.text("explanationURL")),
        ("7200".to_owned(), "https://ca.example/why".to_owned())
    );
    let now = bench.engine.now().to_string();
    let (start, end) = window(&bench, &id);
    assert!(start > now && end > start);

    // Operators ask for an early renewal of what was issued before a moment.
    let mut settings = endpoint_settings();
    let (from, until) = (bench.engine.now().plus_s(3600).to_string(), bench.engine.now().plus_s(7200).to_string());
    let early = |before: String| json!({ "early_renewal": { "issued_before": before, "start": from, "end": until } });
    settings["options"] = early(bench.engine.now().to_string());
    put_endpoint(&bench.engine, &settings);
    assert_eq!(window(&bench, &id), (start.clone(), end.clone()), "issued at that moment, not before");
    settings["options"] = early(bench.engine.now().plus_s(1).to_string());
    put_endpoint(&bench.engine, &settings);
    assert_eq!(window(&bench, &id), (from.clone(), until.clone()));

    bench.bench.clock.advance_s(600);
    operator_revokes(&bench, serial_at(&url));
    let (start, end) = window(&bench, &id);
    assert!(start < end && end < bench.engine.now().to_string(), "{start} {end}");

    for (unknown, status) in [
        ("nonsense", 400),
        (&format!("{}.{}", b64(&[1; 20]), id.split_once('.').unwrap().1), 404),
        (&format!("{}.Dw", id.split_once('.').unwrap().0), 404),
    ] {
        refused(&bench.fetch("GET", &format!("{BASE}/renewal-info/{unknown}")), status, "malformed");
    }
    let reply = client.read(&bench, &format!("{BASE}/renewal-info/{id}"));
    refused(&reply, 405, "malformed");
    assert_eq!(reply.header("allow"), "GET, HEAD");
}

#[test]
fn a_revoked_issuer_asks_for_renewal_of_all_that_it_issued() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let download = client.read(&bench, &client.enroll(&bench, &[HOST], &SubjectKeyPair::generate()));
    let blocks = pem_blocks(&download.body);
    let id = certificate_id(&blocks[0]);
    bench.bench.clock.advance_s(600);
    use der::Decode;
    let issuer = x509_cert::Certificate::from_der(&blocks[1]).unwrap();
    operator_revokes(&bench, Serial::from_integer(issuer.tbs_certificate().serial_number().as_bytes()).unwrap());
    assert!(window(&bench, &id).1 < bench.engine.now().to_string());
}

#[test]
fn an_order_replaces_a_certificate_of_its_account_once() {
    let bench = AcmeBench::default();
    let (client, other) = (bench.client(), bench.client());
    let id = certificate_id(&client.leaf(&bench, &client.enroll(&bench, &[HOST], &SubjectKeyPair::generate())));
    refused(&client.new_order(&bench, &replacing(&[HOST], "nonsense")), 400, "malformed");
    refused(&client.new_order(&bench, &replacing(&["b.corp.example"], &id)), 400, "malformed");
    refused(&other.new_order(&bench, &replacing(&[HOST], &id)), 403, "unauthorized");

    let order = client.new_order(&bench, &replacing(&[HOST, "b.corp.example"], &id));
    assert_eq!((order.status, order.text("replaces")), (201, id.clone()));
    refused(&client.new_order(&bench, &replacing(&[HOST], &id)), 409, "alreadyReplaced");
    // An order that failed leaves room for another.
    let url = order.header("location");
    client.post(&bench, &client.challenges(&bench, &url, "http-01")[0], &json!({}));
    bench.answer_validations_with(&Found::Txt(vec![]));
    bench.answer_validations_with(&wrong());
    let order = if client.read(&bench, &url).text("status") == "invalid" { url } else { lose(&bench, &client, &url) };
    assert_eq!(client.read(&bench, &order).text("status"), "invalid");
    let second = client.new_order(&bench, &replacing(&[HOST], &id));
    assert_eq!(second.status, 201, "{}", second.json());
    let url = second.header("location");
    assert_eq!(client.read(&bench, &url).text("replaces"), id);
    client.post(&bench, &client.challenges(&bench, &url, "http-01")[0], &json!({}));
    bench.answer_validations();
    assert_eq!(
        client.finalize(&bench, &url, &csr(&SubjectKeyPair::generate(), "", &dns(&[HOST]))).text("status"),
        "valid"
    );
    refused(&client.new_order(&bench, &replacing(&[HOST], &id)), 409, "alreadyReplaced");
}

fn wrong() -> Found {
    Found::Http { status: 404, body: Vec::new(), address: std::net::Ipv4Addr::LOCALHOST.into() }
}

/// Ends an order by giving up one of its authorizations.
fn lose(bench: &AcmeBench, client: &Client, order: &str) -> String {
    let authorization = client.read(bench, order).json()["authorizations"][0].as_str().unwrap().to_owned();
    client.post(bench, &authorization, &json!({ "status": "deactivated" }));
    order.to_owned()
}

fn limited(reply: &Reply, at_most_s: u32) -> u32 {
    refused(reply, 429, "rateLimited");
    let after: u32 = reply.header("retry-after").parse().unwrap();
    assert!(after > 0 && after <= at_most_s, "{after}");
    after
}

#[test]
fn s42_orders_of_a_loop_are_slowed_and_go_on_after_the_time_that_was_named() {
    let bench = bench(json!({ "limits": { "orders_per_account_per_h": 3, "orders_per_name_per_day": 0 } }));
    let (client, other) = (bench.client(), bench.client());
    for _ in 0..3 {
        client.order(&bench, &[HOST]);
    }
    let after = limited(&client.new_order(&bench, &wish(&[HOST])), 1200);
    other.order(&bench, &[HOST]);
    bench.bench.clock.advance_s(u64::from(after) - 1);
    limited(&client.new_order(&bench, &wish(&[HOST])), 1);
    bench.bench.clock.advance_s(1);
    client.order(&bench, &[HOST]);
    limited(&client.new_order(&bench, &wish(&[HOST])), 1200);

    // What is free again is forgotten, what is not stays.
    bench.acme.forget_limits().unwrap();
    limited(&client.new_order(&bench, &wish(&[HOST])), 1200);
    bench.bench.clock.advance_s(4000);
    client.forget_nonce();
    bench.acme.forget_limits().unwrap();
    for _ in 0..3 {
        client.order(&bench, &[HOST]);
    }
}

#[test]
fn s42_accounts_of_an_address_and_orders_for_a_name_are_limited() {
    let bench = bench(json!({ "limits": { "accounts_per_address_per_h": 2, "orders_per_name_per_day": 2 } }));
    let (one, two) = (bench.client(), bench.client());
    let stranger = bench.stranger();
    limited(&stranger.new_account(&bench, &json!({})), 1800);
    // Who has an account gets it.
    assert_eq!(one.read(&bench, one.kid.as_ref().unwrap()).status, 200);
    one.order(&bench, &[HOST]);
    one.order(&bench, &[HOST]);
    limited(&one.new_order(&bench, &wish(&[HOST])), 12 * 3600);
    one.order(&bench, &["b.corp.example"]);
    // Orders for a name of others, which anybody can make, do not keep its owner from a certificate.
    two.order(&bench, &[HOST]);
}

#[test]
fn s42_changes_of_an_account_do_not_fill_the_audit_log() {
    let bench = bench(json!({ "limits": { "account_changes_per_h": 3 } }));
    let client = bench.client();
    let url = client.kid.clone().unwrap();
    let change = |n: usize| client.post(&bench, &url, &json!({ "contact": [format!("mailto:a{n}@corp.example")] }));
    let entries = || bench.engine.audit(0, 1000).unwrap().len();
    for n in 0..3 {
        assert_eq!(change(n).status, 200);
    }
    let before = entries();
    limited(&change(3), 1200);
    let (new, key_change) = (bench.stranger(), format!("{BASE}/key-change"));
    let inner = json!({ "account": url, "oldKey": client.jwk() }).to_string();
    let inner = new.sign(&json!({ "alg": "ES256", "url": key_change, "jwk": new.jwk() }), &inner);
    limited(&client.post(&bench, &key_change, &inner), 1200);
    for _ in 0..5 {
        assert_eq!(change(2).status, 200, "nothing changes");
    }
    assert_eq!(entries(), before);
    assert_eq!(client.post(&bench, &url, &json!({ "status": "deactivated" })).text("status"), "deactivated");
}

#[test]
fn s42_failed_validations_and_pending_authorizations_are_limited() {
    let bench = bench(json!({ "limits": { "failed_validations_per_h": 2, "pending_authorizations_max": 3 } }));
    let client = bench.client();
    for _ in 0..2 {
        let order = client.order(&bench, &[HOST]);
        client.post(&bench, &client.challenges(&bench, &order, "http-01")[0], &json!({}));
        bench.answer_validations_with(&wrong());
    }
    let reply = client.new_order(&bench, &wish(&["b.corp.example", HOST]));
    limited(&reply, 1800);
    assert_eq!(reply.json()["subproblems"][0]["identifier"]["value"], HOST);
    let first = client.order(&bench, &["b.corp.example", "c.corp.example"]);
    let third = client.order(&bench, &["d.corp.example"]);
    limited(&client.new_order(&bench, &wish(&["e.corp.example"])), 60);
    lose(&bench, &client, &third);
    client.order(&bench, &["e.corp.example"]);
    limited(&client.new_order(&bench, &wish(&["f.corp.example"])), 60);
    for challenge in client.challenges(&bench, &first, "http-01") {
        client.post(&bench, &challenge, &json!({}));
    }
    bench.answer_validations();
    client.order(&bench, &["f.corp.example", "g.corp.example"]);
    refused(&client.new_order(&bench, &wish(&["h.corp.example"])), 429, "rateLimited");
}

#[test]
fn s42_duplicates_are_limited_and_a_renewal_within_its_window_is_not() {
    let bench = bench(json!({ "limits": { "duplicates_per_week": 2, "orders_per_account_per_h": 4 } }));
    let client = bench.client();
    let names = [HOST, "b.corp.example"];
    let mut last = String::new();
    for names in [names, ["b.corp.example", HOST]] {
        last = client.enroll(&bench, &names, &SubjectKeyPair::generate());
    }
    limited(&client.new_order(&bench, &wish(&names)), 7 * 24 * 3600 / 2);
    let id = certificate_id(&client.leaf(&bench, &last));
    // Too early for a renewal: as any other order.
    limited(&client.new_order(&bench, &replacing(&names, &id)), 7 * 24 * 3600 / 2);
    operator_revokes(&bench, serial_at(&last));
    bench.bench.clock.advance_s(10);
    let reply = client.new_order(&bench, &replacing(&names, &id));
    assert_eq!(reply.status, 201, "{}", reply.json());
}

#[test]
fn refused_orders_are_in_the_audit_log_and_a_flood_of_them_is_counted() {
    let bench = bench(json!({ "limits": { "orders_per_account_per_h": 1 } }));
    let client = bench.client();
    refused(&client.new_order(&bench, &wish(&["host.elsewhere.example"])), 400, "rejectedIdentifier");
    client.order(&bench, &[HOST]);
    for _ in 0..1_000 {
        limited(&client.new_order(&bench, &wish(&[HOST])), 3600);
    }
    bench.bench.clock.advance_s(61);
    client.forget_nonce();
    limited(&client.new_order(&bench, &wish(&[HOST])), 3600);
    let entries = tests::pki::audit_log(&bench.engine);
    let texts: Vec<String> = entries.iter().map(|entry| format!("{entry:?}")).collect();
    let account = client.kid.as_ref().unwrap().rsplit('/').next().unwrap();
    let about = |words: &str| texts.iter().filter(|text| text.contains(words) && text.contains(account)).count();
    assert_eq!(about("host.elsewhere.example"), 1, "{texts:?}");
    assert!((1..500).contains(&about("too many orders")), "{}", about("too many orders"));
    let summary = texts.iter().filter(|text| text.contains("without an entry of their own"));
    assert_eq!(summary.count(), 1, "what was not written is counted");
}

#[test]
fn an_override_above_the_endpoints_limit_of_failures_has_an_effect() {
    let bench = bench(json!({ "limits": { "failed_validations_per_h": 1 } }));
    let client = bench.client();
    let accounts = acme::Accounts::new(bench.engine.clone(), &"tls".parse().unwrap()).unwrap();
    let id = accounts.list(None, 10).unwrap()[0].id.clone();
    let more = acme::LimitOverrides { failed_validations_per_h: Some(3), ..Default::default() };
    accounts.override_limits(&id, &more, "ann").unwrap();
    for _ in 0..3 {
        let order = client.order(&bench, &[HOST]);
        client.post(&bench, &client.challenges(&bench, &order, "http-01")[0], &json!({}));
        bench.answer_validations_with(&wrong());
    }
    limited(&client.new_order(&bench, &wish(&[HOST])), 1200);
}

#[test]
fn s42_an_override_of_the_limit_of_duplicates_is_for_its_account_alone() {
    const WEEK_S: u32 = 7 * 24 * 3600;
    let bench = bench(json!({ "limits": { "duplicates_per_week": 1 } }));
    let client = bench.client();
    let accounts = acme::Accounts::new(bench.engine.clone(), &"tls".parse().unwrap()).unwrap();
    let id = accounts.list(None, 10).unwrap()[0].id.clone();
    let more = acme::LimitOverrides { duplicates_per_week: Some(3), ..Default::default() };
    accounts.override_limits(&id, &more, "ann").unwrap();
    for _ in 0..3 {
        client.enroll(&bench, &[HOST], &SubjectKeyPair::generate());
    }
    limited(&client.new_order(&bench, &wish(&[HOST])), WEEK_S / 3);
    let other = bench.client();
    assert!(limited(&other.new_order(&bench, &wish(&[HOST])), WEEK_S) > WEEK_S / 3);
}

#[test]
fn an_operator_overrides_the_limits_of_an_account_and_closes_it() {
    let bench = bench(json!({ "limits": { "orders_per_account_per_h": 1 } }));
    let client = bench.client();
    let endpoint = "tls".parse().unwrap();
    let accounts = acme::Accounts::new(bench.engine.clone(), &endpoint).unwrap();
    let listed = accounts.list(None, 10).unwrap();
    assert_eq!(listed.len(), 1);
    let id = listed[0].id.clone();
    assert!(client.kid.as_ref().unwrap().ends_with(&id));
    client.order(&bench, &[HOST]);
    limited(&client.new_order(&bench, &wish(&[HOST])), 3600);
    let more = acme::LimitOverrides { orders_per_account_per_h: Some(0), ..Default::default() };
    accounts.override_limits(&id, &more, "ann").unwrap();
    assert_eq!(accounts.show(&id).unwrap().limits, more);
    for _ in 0..5 {
        client.order(&bench, &[HOST]);
    }
    accounts.deactivate(&id, "ann").unwrap();
    assert_eq!(accounts.show(&id).unwrap().status, "revoked");
    refused(&client.new_order(&bench, &wish(&[HOST])), 401, "unauthorized");
    assert!(accounts.show("nobody").is_err());
    let said: Vec<_> = bench.engine.audit(0, 1000).unwrap().into_iter().map(|entry| entry.record.detail).collect();
    for expected in ["made, key ", "limits set by ann", "deactivated by ann"] {
        let about = |detail: &&String| detail.contains(&id) && detail.contains(expected);
        assert_eq!(said.iter().filter(about).count(), 1, "{expected}: {said:?}");
    }
}

#[test]
fn an_order_whose_client_never_comes_back_is_finished_all_the_same_and_once() {
    let mut bench = AcmeBench::default();
    let client = bench.client();
    let order = client.ready_order(&bench, &[HOST], "http-01");
    bench.bench.sign_faults.fail_before(1);
    let request = csr(&SubjectKeyPair::generate(), "", &dns(&[HOST]));
    assert_eq!(client.finalize(&bench, &order, &request).text("status"), "processing");
    bench.restart();
    bench.acme.resume(10).unwrap();
    assert_eq!(issued(&bench), 0, "not before its time");
    bench.bench.clock.advance_s(61);
    bench.acme.resume(10).unwrap();
    assert_eq!(issued(&bench), 1);
    bench.bench.clock.advance_s(7200);
    bench.acme.resume(10).unwrap();
    client.forget_nonce();
    assert_eq!(client.read(&bench, &order).text("status"), "valid");
    assert_eq!(issued(&bench), 1);
}

#[test]
fn a_certificate_that_the_order_never_heard_of_is_found_after_the_repeat_window() {
    use ca_backend::testing::FailureMoment;
    let mut found_it = false;
    for n in 1..12 {
        let mut bench = AcmeBench::default();
        let client = bench.client();
        let order = client.ready_order(&bench, &[HOST], "http-01");
        let request = csr(&SubjectKeyPair::generate(), "", &dns(&[HOST]));
        bench.bench.store_faults.fail_at(bench.bench.store_faults.commits() + n, FailureMoment::BeforeWrite);
        let _ = client.finalize(&bench, &order, &request);
        if !bench.bench.store_faults.power_is_out() {
            break;
        }
        bench.restart();
        let before = issued(&bench);
        // Long after: the engine has forgotten the request, and closed what it had reserved.
        bench.bench.clock.advance_s(3 * 3600);
        bench.engine.maintain();
        client.forget_nonce();
        let shown = client.read(&bench, &order);
        if before == 1 {
            found_it = true;
            assert_eq!((shown.text("status"), issued(&bench)), ("valid".to_owned(), 1), "commit {n}");
        }
    }
    assert!(found_it);
}

#[test]
fn a_certificate_that_its_order_never_heard_of_is_not_taken_for_that_of_another_order_with_the_same_key() {
    use ca_backend::testing::FailureMoment;
    let mut lost = false;
    for n in 1..12 {
        let mut bench = AcmeBench::default();
        let client = bench.client();
        let key = SubjectKeyPair::generate();
        let [first, second] = [HOST, "b.corp.example"].map(|name| client.ready_order(&bench, &[name], "http-01"));
        bench.bench.sign_faults.fail_before(1);
        let waiting = client.finalize(&bench, &second, &csr(&key, "", &dns(&["b.corp.example"])));
        assert_eq!(waiting.text("status"), "processing");
        bench.bench.store_faults.fail_at(bench.bench.store_faults.commits() + n, FailureMoment::BeforeWrite);
        let _ = client.finalize(&bench, &first, &csr(&key, "", &dns(&[HOST])));
        if !bench.bench.store_faults.power_is_out() {
            break;
        }
        bench.restart();
        lost |= issued(&bench) == 1;
        let shown = client.read(&bench, &second);
        let items = bench.engine.search(&ca_backend::InventoryQuery::default()).unwrap().items;
        let url = shown.text("certificate");
        let taken = items.iter().find(|item| url.ends_with(&item.serial.to_string())).unwrap();
        assert_eq!(taken.alternative_names, ["dns:b.corp.example"], "commit {n}");
    }
    assert!(lost);
}

fn issued(bench: &AcmeBench) -> usize {
    let items = bench.engine.search(&ca_backend::InventoryQuery::default()).unwrap().items;
    items.iter().filter(|item| item.requester.starts_with("account:")).count()
}

/// Every kind of record that an ACME endpoint keeps.
const KEPT: [RecordSpace; 13] = [
    RecordSpace::ACME_ACCOUNT,
    RecordSpace::ACME_ACCOUNT_KEY,
    RecordSpace::ACME_ORDER,
    RecordSpace::ACME_ACCOUNT_ORDER,
    RecordSpace::ACME_AUTHORIZATION,
    RecordSpace::ACME_VALIDATION,
    RecordSpace::ACME_EXPIRY,
    RecordSpace::ACME_NONCE,
    RecordSpace::ACME_CERTIFICATE,
    RecordSpace::ACME_ACCOUNT_AUTHORIZATION,
    RecordSpace::ACME_LIMIT,
    RecordSpace::ACME_REPLACEMENT,
    RecordSpace::ACME_UNFINISHED,
];

/// How many kinds of records there are some of.
fn kept(bench: &AcmeBench) -> usize {
    KEPT.iter().filter(|space| !bench.engine.records(**space).scan(&[], None, 1).unwrap().is_empty()).count()
}

/// An endpoint that has some of everything: the account, an order that is ready, one whose validation runs, a certificate.
fn lived_in() -> (AcmeBench, Client, [String; 3]) {
    let bench = bench(json!({ "authorization_reuse_s": 3600 }));
    let client = bench.client();
    let certificate = client.enroll(&bench, &[HOST], &SubjectKeyPair::generate());
    let leaf = client.leaf(&bench, &certificate);
    assert_eq!(client.new_order(&bench, &replacing(&[HOST], &certificate_id(&leaf))).status, 201);
    let ready = client.ready_order(&bench, &["b.corp.example"], "http-01");
    let waiting = client.order(&bench, &["c.corp.example"]);
    let challenge = client.challenges(&bench, &waiting, "http-01").remove(0);
    client.post(&bench, &challenge, &json!({}));
    assert_eq!(kept(&bench), KEPT.len() - 1, "all but unfinished orders");
    (bench, client, [certificate, ready, waiting])
}

#[test]
fn an_endpoint_that_is_made_again_under_its_name_knows_nothing_of_the_one_before() {
    let (mut bench, mut client, urls) = lived_in();
    let name = "tls".parse().unwrap();
    let (settings, nonce) = (bench.engine.endpoint(&name).unwrap(), client.nonce(&bench));
    bench.engine.delete_endpoint(&name, "ann").unwrap();
    assert_eq!(kept(&bench), 0, "nothing is left to be found");
    bench.engine.put_endpoint(&settings, "ann").unwrap();
    // What was mounted before, and answers a last request, writes nothing that the new one would find.
    refused(&bench.stranger().new_account(&bench, &json!({})), 503, "serverInternal");
    assert_eq!(kept(&bench), 0);

    let started = std::mem::take(&mut *bench.started.lock().unwrap());
    bench.remount();
    for validation in &started {
        bench.acme.judge(validation, &right_answer(validation), &[]).unwrap();
    }
    let mut stale = client.protected(&bench, &format!("{BASE}/new-order"));
    stale["nonce"] = nonce.into();
    client.forget_nonce();
    let reply = client.send(&bench, &format!("{BASE}/new-order"), &client.sign(&stale, &wish(&[HOST]).to_string()));
    refused(&reply, 400, "accountDoesNotExist");
    refused(&client.new_order(&bench, &wish(&[HOST])), 400, "accountDoesNotExist");
    client.kid = None;
    refused(&client.new_account(&bench, &json!({ "onlyReturnExisting": true })), 400, "accountDoesNotExist");

    // The same key gets another account, which inherits nothing.
    let made = client.new_account(&bench, &json!({}));
    assert_eq!(made.status, 201);
    client.kid = Some(made.header("location"));
    for url in &urls {
        refused(&client.read(&bench, url), 404, "malformed");
    }
    let order = client.order(&bench, &["b.corp.example"]);
    assert_eq!(client.read(&bench, &order).text("status"), "pending", "control was shown to another endpoint");
}

#[test]
fn what_a_crash_leaves_of_a_removed_endpoint_goes_before_anybody_can_use_it() {
    for made_again in [false, true] {
        let (mut bench, mut client, _) = lived_in();
        let name = "tls".parse().unwrap();
        let settings = bench.engine.endpoint(&name).unwrap();
        // The first commit removes the endpoint.
        bench
            .bench
            .store_faults
            .fail_at(bench.bench.store_faults.commits() + 2, ca_backend::testing::FailureMoment::BeforeWrite);
        bench.engine.delete_endpoint(&name, "ann").unwrap();
        bench.engine = bench.bench.boot(ca_backend::EngineSettings::default()).unwrap();
        assert!(kept(&bench) > 0);
        if made_again {
            bench.engine.put_endpoint(&settings, "ann").unwrap();
            bench.remount();
            client.forget_nonce();
            refused(&client.new_order(&bench, &wish(&[HOST])), 400, "accountDoesNotExist");
            client.kid = None;
        } else {
            bench.engine.maintain();
            assert_eq!(kept(&bench), 0);
        }
    }
}

#[test]
fn an_endpoint_keeps_its_protocol_while_it_lives() {
    let bench = AcmeBench::default();
    let mut settings = endpoint_settings();
    settings["protocol"] = json!("scep");
    let settings: ca_backend::Endpoint = serde_json::from_value(settings).unwrap();
    let refused = bench.engine.put_endpoint(&settings, "ann").unwrap_err();
    assert!(
        matches!(&refused, ca_backend::Error::Refused(why) if why.public().contains("remove it first")),
        "{refused:?}"
    );
}

#[test]
fn rejected_good_nonces_are_bad_nonces_with_a_fresh_one() {
    let bench = bench(json!({ "test_rejected_nonces_percent": 50 }));
    let client = bench.stranger();
    let outcomes: Vec<_> = (0..40).map(|_| client.new_account(&bench, &json!({})).status).collect();
    assert!(outcomes.contains(&400) && outcomes.contains(&201) && outcomes.contains(&200), "{outcomes:?}");
    // A client that repeats gets through.
    let mut client = bench.stranger();
    let account = (0..50).map(|_| client.new_account(&bench, &json!({}))).find(|reply| reply.status == 201).unwrap();
    client.kid = Some(account.header("location"));
}

// --- external account binding ----------------------------------------------------------------------------------------

struct Voucher {
    id: String,
    key: Vec<u8>,
}

fn voucher(bench: &AcmeBench, binding: Value) -> Voucher {
    use base64::Engine as _;
    let binding: Binding = serde_json::from_value(binding).unwrap();
    let new = NewCredential {
        id: None,
        endpoint: "tls".parse().unwrap(),
        purpose: CredentialPurpose::ExternalAccount,
        comment: String::new(),
        holder: None,
        secret: None,
        expires: None,
        uses_max: None,
        binding,
    };
    let (credential, secret) = bench.engine.create_credential(&new, "ann").unwrap();
    let key = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(secret.reveal()).unwrap();
    Voucher { id: credential.id.to_string(), key }
}

impl Voucher {
    fn binding(&self, client: &Client) -> Value {
        self.signs("HS256", &format!("{BASE}/new-account"), &client.jwk())
    }

    fn signs(&self, alg: &str, url: &str, jwk: &Value) -> Value {
        let protected = b64(json!({ "alg": alg, "kid": self.id, "url": url }).to_string().as_bytes());
        let payload = b64(jwk.to_string().as_bytes());
        let mac = hmac_sha256(&self.key, format!("{protected}.{payload}").as_bytes());
        json!({ "protected": protected, "payload": payload, "signature": b64(&mac) })
    }

    fn account(&self, bench: &AcmeBench) -> Client {
        let mut client = bench.stranger();
        let reply = client.new_account(bench, &json!({ "externalAccountBinding": self.binding(&client) }));
        assert_eq!(reply.status, 201, "{}", reply.json());
        client.kid = Some(reply.header("location"));
        client
    }
}

#[test]
fn s19_an_account_needs_a_voucher_where_one_is_required() {
    let mut bench = bench(json!({ "external_account": "required" }));
    assert_eq!(bench.fetch("GET", &format!("{BASE}/directory")).json()["meta"]["externalAccountRequired"], true);
    let voucher = voucher(&bench, json!({ "accounts_max": 1 }));
    let client = bench.stranger();
    let ask = |binding: Value| client.new_account(&bench, &json!({ "externalAccountBinding": binding }));
    refused(&client.new_account(&bench, &json!({})), 403, "externalAccountRequired");
    let url = format!("{BASE}/new-account");
    let stranger = Voucher { id: "nobody".to_owned(), key: voucher.key.clone() };
    let forger = Voucher { id: voucher.id.clone(), key: vec![7; 32] };
    let unknown = ask(stranger.binding(&client));
    refused(&unknown, 403, "unauthorized");
    let forged = ask(forger.binding(&client));
    assert_eq!(
        (forged.status, forged.body),
        (unknown.status, unknown.body),
        "who is unknown and what is forged look the same"
    );
    refused(&ask(voucher.signs("HS256", &url, &bench.stranger().jwk())), 400, "malformed");
    refused(&ask(voucher.signs("ES256", &url, &client.jwk())), 400, "malformed");
    refused(&ask(voucher.signs("HS256", &format!("{BASE}/new-order"), &client.jwk())), 400, "malformed");
    refused(&ask(json!("text")), 400, "malformed");

    let binding = voucher.binding(&client);
    let made = ask(binding.clone());
    assert_eq!((made.status, &made.json()["externalAccountBinding"]), (201, &binding), "as it was sent");
    // The same key gets its account without a voucher; another key does not get one with a voucher that has made all its accounts.
    assert_eq!(client.new_account(&bench, &json!({})).status, 200);
    let second = bench.stranger();
    let reply = second.new_account(&bench, &json!({ "externalAccountBinding": voucher.binding(&second) }));
    refused(&reply, 403, "unauthorized");
    // The account shows what it is bound by, also after a restart.
    bench.restart();
    let mut client = client;
    client.kid = Some(made.header("location"));
    client.forget_nonce();
    assert_eq!(client.read(&bench, &made.header("location")).json()["externalAccountBinding"], binding);
}

#[test]
fn a_binding_that_nobody_looks_at_is_not_shown_as_if_it_held() {
    let bench = AcmeBench::default();
    let client = bench.stranger();
    let forged = Voucher { id: "nobody".to_owned(), key: vec![7; 32] };
    let reply = client.new_account(&bench, &json!({ "externalAccountBinding": forged.binding(&client) }));
    assert_eq!((reply.status, reply.json().get("externalAccountBinding")), (201, None));
}

#[test]
fn a_name_that_is_not_among_the_exact_ones_of_a_voucher_is_refused_when_it_is_ordered() {
    let bench = bench(json!({ "external_account": "required" }));
    let exact = voucher(&bench, json!({ "alternative_names": ["dns:host.corp.example", "dns:b.corp.example"] }));
    let client = exact.account(&bench);
    let reply = client.new_order(&bench, &wish(&[HOST, "c.corp.example"]));
    refused(&reply, 400, "rejectedIdentifier");
    assert_eq!(reply.json()["subproblems"][0]["identifier"]["value"], "c.corp.example");
    // Too few names are refused as well, but only when there is nothing more to come.
    let part = client.ready_order(&bench, &[HOST], "http-01");
    let reply = client.finalize(&bench, &part, &csr(&SubjectKeyPair::generate(), "", &dns(&[HOST])));
    refused(&reply, 400, "rejectedIdentifier");
    client.enroll(&bench, &[HOST, "b.corp.example"], &SubjectKeyPair::generate());
}

#[test]
fn what_a_voucher_is_bound_to_binds_its_accounts_and_disabling_it_stops_them() {
    let bench = bench(json!({ "external_account": "optional" }));
    let voucher = voucher(
        &bench,
        json!({ "names": { "dns": [HOST] }, "profiles": ["privatessl-tls-server"], "keys": ["ec-p256"] }),
    );
    let client = voucher.account(&bench);
    refused(&client.new_order(&bench, &wish(&["b.corp.example"])), 400, "rejectedIdentifier");
    let mut other_profile = wish(&[HOST]);
    other_profile["profile"] = json!("privatessl-tls-client-server");
    refused(&client.new_order(&bench, &other_profile), 403, "unauthorized");
    client.enroll(&bench, &[HOST], &SubjectKeyPair::generate());
    // Without a voucher the endpoint's rules hold alone.
    bench.client().enroll(&bench, &["b.corp.example"], &SubjectKeyPair::generate());

    let ready = client.ready_order(&bench, &[HOST], "http-01");
    let id = ca_backend::CredentialId::new(&voucher.id).unwrap();
    let disabled = |disabled| ca_backend::CredentialChange { disabled: Some(disabled), ..Default::default() };
    bench.engine.change_credential(&id, &disabled(true), "ann").unwrap();
    refused(&client.new_order(&bench, &wish(&[HOST])), 403, "unauthorized");
    let reply = client.finalize(&bench, &ready, &csr(&SubjectKeyPair::generate(), "", &dns(&[HOST])));
    refused(&reply, 403, "unauthorized");
    bench.engine.change_credential(&id, &disabled(false), "ann").unwrap();
    client.enroll(&bench, &[HOST], &SubjectKeyPair::generate());

    let closed = ca_backend::CredentialChange { accounts_disabled: Some(true), ..Default::default() };
    bench.engine.change_credential(&id, &closed, "ann").unwrap();
    let late = bench.stranger();
    refused(
        &late.new_account(&bench, &json!({ "externalAccountBinding": voucher.binding(&late) })),
        403,
        "unauthorized",
    );
    client.enroll(&bench, &[HOST], &SubjectKeyPair::generate());
}

#[test]
fn a_grant_without_a_challenge_makes_an_order_ready_at_once_while_it_stands() {
    let bench = bench(json!({ "external_account": "required" }));
    let voucher = voucher(&bench, json!({ "without_challenge": { "dns": [HOST] } }));
    let client = voucher.account(&bench);
    let order = client.new_order(&bench, &wish(&[HOST]));
    assert_eq!(order.text("status"), "ready");
    let authorization = client.read(&bench, order.json()["authorizations"][0].as_str().unwrap());
    assert_eq!(
        (authorization.text("status"), authorization.json()["challenges"].clone()),
        ("valid".to_owned(), json!([]))
    );
    let url = order.header("location");
    assert_eq!(
        client.finalize(&bench, &url, &csr(&SubjectKeyPair::generate(), "", &dns(&[HOST]))).text("status"),
        "valid"
    );
    // Other names are shown as ever, and a grant is no control that could revoke another's certificate.
    assert_eq!(client.new_order(&bench, &wish(&[HOST, "b.corp.example"])).text("status"), "pending");
    let other = voucher.account(&bench);
    let certificate = other.leaf(&bench, &other.enroll(&bench, &["b.corp.example"], &SubjectKeyPair::generate()));
    refused(&client.revoke(&bench, &certificate, None), 403, "unauthorized");
}
