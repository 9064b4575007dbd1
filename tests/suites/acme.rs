//! ACME at the endpoint's boundary.

use std::net::{IpAddr, Ipv4Addr};

use acme::{FailureClass, Found, Question};
use ca_backend::{Action, AlternativeName};
use serde_json::{Value, json};
use tests::acme_client::{
    AcmeBench, BASE, Client, Reply, SubjectKeyPair, b64, csr, dns, endpoint_settings, pem_blocks, put_endpoint,
    right_answer,
};
use tests::pki::audit_log;
use x509_cert::Certificate;
use x509_cert::ext::pkix::SubjectAltName;

const HOST: &str = "host.corp.example";

fn refused(reply: &Reply, status: u16, kind: &str) {
    assert_eq!(reply.problem(), (status, kind.to_owned()), "{}", reply.json());
}

fn alternative_names(certificate: &[u8]) -> Vec<String> {
    use der::Decode;
    let certificate = Certificate::from_der(certificate).unwrap();
    let (_, names) = certificate.tbs_certificate().get_extension::<SubjectAltName>().unwrap().unwrap();
    names.0.iter().map(|name| format!("{name:?}")).collect()
}

fn not_found_body() -> Found {
    Found::Http { status: 200, body: b"SECRET OF THE INTRANET".to_vec(), address: IpAddr::V4(Ipv4Addr::LOCALHOST) }
}

#[test]
fn http_01_leads_to_a_certificate_with_its_chain() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let order = client.order(&bench, &[HOST, "other.corp.example"]);
    let shown = client.read(&bench, &order);
    assert_eq!(shown.text("status"), "pending");
    assert_eq!(shown.json()["profile"], "privatessl-tls-server");

    let challenges = client.challenges(&bench, &order, "http-01");
    assert_eq!(challenges.len(), 2);
    for challenge in &challenges {
        let reply = client.post(&bench, challenge, &json!({}));
        assert_eq!((reply.status, reply.text("status")), (200, "processing".to_owned()));
        assert!(reply.headers.get_all("link").iter().any(|link| link.to_str().unwrap().ends_with(";rel=\"up\"")));
        assert!(reply.headers.contains_key("retry-after"));
    }
    let started = bench.started.lock().unwrap()[0].clone();
    let Question::Http01 { target, path } = &started.question else { panic!("{started:?}") };
    assert_eq!(target.to_string(), HOST);
    assert_eq!(
        *path,
        format!("/.well-known/acme-challenge/{}", started.key_authorization().split_once('.').unwrap().0)
    );
    assert_eq!(bench.answer_validations(), 2);
    assert_eq!(client.read(&bench, &order).text("status"), "ready");

    let key = SubjectKeyPair::generate();
    let request = csr(&key, &format!("cn={HOST},o=Ignored"), &dns(&["OTHER.corp.example", HOST]));
    let reply = client.finalize(&bench, &order, &request);
    assert_eq!((reply.status, reply.text("status"), reply.header("location")), (200, "valid".to_owned(), order));
    let download = client.read(&bench, &reply.text("certificate"));
    assert_eq!(download.header("content-type"), "application/pem-certificate-chain");
    assert!(download.body.ends_with(b"-----END CERTIFICATE-----\n") && !download.body.contains(&b'\r'));
    let blocks = pem_blocks(&download.body);
    assert_eq!(blocks.len(), 2, "leaf and issuing authority, no root");
    assert_eq!(alternative_names(&blocks[0]).len(), 2);
    let leaf = bench.engine.search(&ca_backend::InventoryQuery::default()).unwrap().items;
    let leaf = leaf.iter().find(|item| item.der == blocks[0]).unwrap();
    assert_eq!(leaf.subject.to_lowercase(), format!("cn={HOST}"));
    assert!(leaf.requester.starts_with("account:"));
}

#[test]
fn dns_01_shows_a_wildcard() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let order = client.order(&bench, &["*.corp.example"]);
    assert!(client.challenges(&bench, &order, "http-01").is_empty());
    let authorization = client.read(&bench, &order).json()["authorizations"][0].as_str().unwrap().to_owned();
    let shown = client.read(&bench, &authorization).json();
    assert_eq!((&shown["wildcard"], &shown["identifier"]["value"]), (&json!(true), &json!("corp.example")));

    let challenge = client.challenges(&bench, &order, "dns-01").remove(0);
    client.post(&bench, &challenge, &json!({}));
    let question = bench.started.lock().unwrap()[0].question.clone();
    assert_eq!(question, Question::Dns01 { name: "_acme-challenge.corp.example".to_owned() });
    bench.answer_validations();
    let shown = client.read(&bench, &challenge).json();
    assert_eq!(shown["status"], "valid");
    assert!(shown["validated"].is_string());

    let key = SubjectKeyPair::generate();
    let reply = client.finalize(&bench, &order, &csr(&key, "", &dns(&["*.corp.example"])));
    assert_eq!(reply.text("status"), "valid", "{}", reply.json());
}

#[test]
fn an_address_is_shown_by_http_01_only() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let order = client
        .new_order(&bench, &json!({ "identifiers": [{ "type": "ip", "value": "192.0.2.9" }] }))
        .header("location");
    assert!(client.challenges(&bench, &order, "dns-01").is_empty());
    client.post(&bench, &client.challenges(&bench, &order, "http-01")[0], &json!({}));
    bench.answer_validations();
    let names = [AlternativeName::Ip("192.0.2.9".parse().unwrap())];
    let reply = client.finalize(&bench, &order, &csr(&SubjectKeyPair::generate(), "", &names));
    assert_eq!(reply.text("status"), "valid", "{}", reply.json());
}

#[test]
fn the_directory_and_nonces_need_no_signature() {
    let mut settings = endpoint_settings();
    settings["options"] = json!({ "terms_of_service": "https://ca.example/terms", "profile_descriptions": { "privatessl-tls-server": "web servers" } });
    let bench = AcmeBench::with(&settings);
    let directory = bench.fetch("GET", &format!("{BASE}/directory"));
    assert_eq!((directory.status, directory.header("content-type")), (200, "application/json".to_owned()));
    assert_eq!(directory.json()["newOrder"], format!("{BASE}/new-order"));
    assert_eq!(directory.json()["meta"]["termsOfService"], "https://ca.example/terms");
    assert_eq!(directory.json()["meta"]["profiles"]["privatessl-tls-server"], "web servers");
    assert!(!directory.headers.contains_key("link"));
    for (method, status) in [("HEAD", 200), ("GET", 204)] {
        let reply = bench.fetch(method, &format!("{BASE}/new-nonce"));
        assert_eq!((reply.status, reply.header("cache-control")), (status, "no-store".to_owned()));
        assert!(reply.header("replay-nonce").len() > 40 && reply.body.is_empty());
    }
    let client = bench.client();
    assert_eq!(client.read(&bench, &format!("{BASE}/directory")).json(), directory.json());
}

#[test]
fn what_is_not_a_signed_request_is_refused() {
    let bench = AcmeBench::default();
    let url = format!("{BASE}/new-order");
    let reply = bench.fetch("GET", &url);
    refused(&reply, 405, "malformed");
    assert_eq!(reply.header("allow"), "POST");
    refused(&bench.fetch("DELETE", &format!("{BASE}/directory")), 405, "malformed");
    for unknown in
        ["https://ca.example:8443/acme/tls", "https://ca.example:8443/acme/tlsx/directory", &format!("{BASE}/new-cert")]
    {
        refused(&bench.fetch("GET", unknown), 404, "malformed");
    }
    let post = |content_type: &str, body: Vec<u8>| {
        bench.send(http::Request::post(&url).header("content-type", content_type).body(body.into()).unwrap())
    };
    refused(&post("application/json", b"{}".to_vec()), 415, "malformed");
    refused(&post("application/jose+json", b"{}".to_vec()), 400, "malformed");
    refused(&post("application/jose+json", vec![b' '; acme::BODY_BYTES_MAX + 1]), 413, "malformed");
    let reply = post("application/jose+json", b"{".to_vec());
    assert!(reply.header("link").contains("/directory>;rel=\"index\""));
    assert!(!reply.header("replay-nonce").is_empty());
}

#[test]
fn s19_a_nonce_is_good_once() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let url = client.kid.clone().unwrap();
    let request = client.sign(&client.protected(&bench, &url), "");
    assert_eq!(client.send(&bench, &url, &request).status, 200);
    let reply = client.send(&bench, &url, &request);
    refused(&reply, 400, "badNonce");
    assert_eq!(client.read(&bench, &url).status, 200, "the reply's nonce is a good one");

    // A refused request has used its nonce up as well.
    let order_url = format!("{BASE}/new-order");
    let request = client.sign(&client.protected(&bench, &order_url), "{}");
    refused(&client.send(&bench, &order_url, &request), 400, "malformed");
    refused(&client.send(&bench, &order_url, &request), 400, "badNonce");

    // So has one that finalized an order.
    let order = client.ready_order(&bench, &[HOST], "http-01");
    let finalize = format!("{order}/finalize");
    let payload = json!({ "csr": b64(&csr(&SubjectKeyPair::generate(), "", &dns(&[HOST]))) });
    let request = client.sign(&client.protected(&bench, &finalize), &payload.to_string());
    assert_eq!(client.send(&bench, &finalize, &request).text("status"), "valid");
    refused(&client.send(&bench, &finalize, &request), 400, "badNonce");
}

#[test]
fn s19_a_nonce_of_nobody_and_an_old_one_are_bad() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let url = client.kid.clone().unwrap();
    let with = |nonce: Value| {
        let mut protected = client.protected(&bench, &url);
        protected["nonce"] = nonce;
        client.send(&bench, &url, &client.sign(&protected, ""))
    };
    refused(&with(json!(b64(&[7; 56]))), 400, "badNonce");
    refused(&with(json!("not base64url!")), 400, "malformed");
    let mut protected = client.protected(&bench, &url);
    protected.as_object_mut().unwrap().remove("nonce");
    refused(&client.send(&bench, &url, &client.sign(&protected, "")), 400, "badNonce");
    let old = client.nonce(&bench);
    bench.bench.clock.advance_s(3601);
    refused(&with(json!(old)), 400, "badNonce");
}

#[test]
fn s19_the_url_the_signature_and_the_kind_of_signer_are_checked() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let (account, new_order) = (client.kid.clone().unwrap(), format!("{BASE}/new-order"));
    let other = client.sign(&client.protected(&bench, &new_order), "");
    refused(&client.send(&bench, &account, &other), 403, "unauthorized");

    let mut forged = client.sign(&client.protected(&bench, &account), "");
    forged["payload"] = json!(b64(b"{\"status\":\"deactivated\"}"));
    refused(&client.send(&bench, &account, &forged), 400, "malformed");

    let stranger = bench.stranger();
    refused(&stranger.new_order(&bench, &json!({})), 400, "malformed");
    refused(&client.new_account(&bench, &json!({})), 400, "malformed");

    let mut protected = client.protected(&bench, &account);
    protected["kid"] = json!(format!("{BASE}/account/{}", b64(&[0; 16])));
    refused(&client.send(&bench, &account, &client.sign(&protected, "")), 400, "accountDoesNotExist");
    // Another account's address with one's own key.
    let victim = bench.client().kid.unwrap();
    let mut protected = client.protected(&bench, &account);
    protected["kid"] = json!(victim);
    refused(&client.send(&bench, &account, &client.sign(&protected, "")), 400, "malformed");

    let mut protected = client.protected(&bench, &account);
    protected["alg"] = json!("HS256");
    let reply = client.send(&bench, &account, &client.sign(&protected, ""));
    refused(&reply, 400, "badSignatureAlgorithm");
    assert!(reply.json()["algorithms"].as_array().unwrap().contains(&json!("ES256")));
}

#[test]
fn s19_objects_of_another_account_do_not_exist() {
    let bench = AcmeBench::default();
    let (owner, other) = (bench.client(), bench.client());
    let certificate = owner.enroll(&bench, &[HOST], &SubjectKeyPair::generate());
    let order = owner.order(&bench, &[HOST]);
    let authorization = owner.read(&bench, &order).json()["authorizations"][0].as_str().unwrap().to_owned();
    let challenge = owner.challenges(&bench, &order, "http-01").remove(0);
    let account = owner.kid.clone().unwrap();
    for url in [&order, &authorization, &challenge, &certificate, &account, &format!("{account}/orders")] {
        assert_eq!(owner.read(&bench, url).status, 200, "{url}");
        refused(&other.read(&bench, url), 404, "malformed");
    }
    let missing = other.read(&bench, &format!("{BASE}/order/{}", b64(&[0; 16])));
    assert_eq!(missing.body, other.read(&bench, &order).body, "not there and not yours look the same");
    refused(&other.finalize(&bench, &order, b""), 404, "malformed");
    refused(&other.post(&bench, &challenge, &json!({})), 404, "malformed");
    refused(&other.post(&bench, &authorization, &json!({ "status": "deactivated" })), 404, "malformed");
    assert_eq!(owner.read(&bench, &authorization).text("status"), "pending");
}

#[test]
fn s40_nothing_but_some_entries_of_the_audit_log_is_written_before_a_signature_verified() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let order = client.order(&bench, &[HOST]);
    let account = client.kid.clone().unwrap();
    let commits = bench.bench.store_faults.commits();
    let entries = audit_log(&bench.engine).len();
    let paths =
        ["new-nonce", "new-account", "new-order", "revoke-cert", "key-change"].map(|path| format!("{BASE}/{path}"));
    for url in paths.iter().chain([&order, &account, &format!("{order}/finalize"), &format!("{account}/orders")]) {
        for method in ["GET", "HEAD", "PUT", "DELETE", "POST"] {
            let _ = bench.fetch(method, url);
        }
        let mut forged = client.sign(&client.protected(&bench, url), "{}");
        forged["signature"] = json!(b64(&[1; 64]));
        refused(&client.send(&bench, url, &forged), 400, "malformed");
    }
    let written = audit_log(&bench.engine).split_off(entries);
    assert_eq!(bench.bench.store_faults.commits() - commits, written.len() as u64);
    let refused = written.iter().filter(|entry| entry.record.action == Action::Refused).count();
    // A quarter of what the endpoint may write in a minute, since all come from one peer.
    assert!(refused == written.len() && (1..=15).contains(&refused), "{refused} of {}", written.len());
    let origin = written[0].record.origin.clone().unwrap();
    assert_eq!((origin.protocol.as_str(), origin.transaction.as_str()), ("acme", "/new-nonce"));
    assert!(written[0].record.detail.contains("malformed"), "{:?}", written[0].record.detail);
}

#[test]
fn a_key_has_one_account() {
    let bench = AcmeBench::default();
    let client = bench.stranger();
    refused(&client.new_account(&bench, &json!({ "onlyReturnExisting": true })), 400, "accountDoesNotExist");
    let made = client.new_account(&bench, &json!({ "contact": ["mailto:ann@corp.example"], "unknown": 1 }));
    assert_eq!((made.status, made.json()["contact"].clone()), (201, json!(["mailto:ann@corp.example"])));
    assert!(made.json().get("unknown").is_none());
    let again = client.new_account(&bench, &json!({ "contact": [], "onlyReturnExisting": true }));
    assert_eq!((again.status, again.header("location"), again.json()), (200, made.header("location"), made.json()));
}

#[test]
fn contacts_are_mail_addresses() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let account = client.kid.clone().unwrap();
    let update = |contact: Value| client.post(&bench, &account, &json!({ "contact": contact }));
    assert_eq!(update(json!(["mailto:ann@corp.example"])).json()["contact"], json!(["mailto:ann@corp.example"]));
    refused(&update(json!(["tel:+1"])), 400, "unsupportedContact");
    for wrong in [
        "ann@corp.example",
        "mailto:ann",
        "mailto:a@x.example,b@x.example",
        "mailto:a@x.example?subject=x",
        "mailto:a b@x.example",
        "mailto:a@-x",
    ] {
        refused(&update(json!([wrong])), 400, "invalidContact");
    }
    refused(&update(json!(vec!["mailto:ann@corp.example"; 11])), 400, "invalidContact");
    assert_eq!(client.read(&bench, &account).json()["contact"], json!(["mailto:ann@corp.example"]));
}

#[test]
fn terms_of_service_must_be_agreed_to() {
    let mut settings = endpoint_settings();
    settings["options"] = json!({ "terms_of_service": "https://ca.example/terms" });
    let bench = AcmeBench::with(&settings);
    let client = bench.stranger();
    let reply = client.new_account(&bench, &json!({}));
    refused(&reply, 403, "userActionRequired");
    assert_eq!(reply.json()["instance"], "https://ca.example/terms");
    assert!(
        reply.headers.get_all("link").iter().any(|link| link == "<https://ca.example/terms>;rel=\"terms-of-service\"")
    );
    assert_eq!(client.new_account(&bench, &json!({ "termsOfServiceAgreed": true })).status, 201);
}

#[test]
fn a_deactivated_account_can_do_nothing_and_stays_so() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let account = client.kid.clone().unwrap();
    refused(&client.post(&bench, &account, &json!({ "status": "revoked" })), 400, "malformed");
    assert_eq!(client.post(&bench, &account, &json!({ "status": "deactivated" })).text("status"), "deactivated");
    refused(&client.read(&bench, &account), 401, "unauthorized");
    refused(
        &client.new_order(&bench, &json!({ "identifiers": [{ "type": "dns", "value": HOST }] })),
        401,
        "unauthorized",
    );
    let mut same_key = client;
    same_key.kid = None;
    refused(&same_key.new_account(&bench, &json!({})), 401, "unauthorized");
}

#[test]
fn a_key_change_moves_the_account_to_the_new_key() {
    let bench = AcmeBench::default();
    let (client, new, taken) = (bench.client(), bench.stranger(), bench.client());
    let (account, url) = (client.kid.clone().unwrap(), format!("{BASE}/key-change"));
    let inner = |by: &Client, url: &str, account: &str, old: Value| {
        by.sign(
            &json!({ "alg": "ES256", "url": url, "jwk": by.jwk() }),
            &json!({ "account": account, "oldKey": old }).to_string(),
        )
    };
    let change = |inner: &Value| client.post(&bench, &url, inner);
    refused(&change(&inner(&new, &account, &account, client.jwk())), 400, "malformed");
    refused(&change(&inner(&new, &url, taken.kid.as_ref().unwrap(), client.jwk())), 400, "malformed");
    refused(&change(&inner(&new, &url, &account, new.jwk())), 400, "malformed");
    let mut forged = inner(&new, &url, &account, client.jwk());
    forged["signature"] = inner(&taken, &url, &account, client.jwk())["signature"].clone();
    refused(&change(&forged), 400, "malformed");
    let conflict = change(&inner(&taken, &url, &account, client.jwk()));
    refused(&conflict, 409, "malformed");
    assert_eq!(conflict.header("location"), *taken.kid.as_ref().unwrap());

    assert_eq!(change(&inner(&new, &url, &account, client.jwk())).status, 200);
    refused(&client.read(&bench, &account), 400, "malformed");
    let mut moved = new;
    moved.kid = Some(account.clone());
    assert_eq!(moved.read(&bench, &account).status, 200);
    moved.enroll(&bench, &[HOST], &SubjectKeyPair::generate());
}

#[test]
fn s14_identifiers_that_cannot_be_served_are_refused_each_by_name() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let order = |identifiers: Value| client.new_order(&bench, &json!({ "identifiers": identifiers }));
    refused(&order(json!([])), 400, "malformed");
    refused(&order(json!([{ "type": "email", "value": "a@b.example" }])), 400, "unsupportedIdentifier");
    refused(&order(json!([{ "type": "dns", "value": "192.0.2.1" }])), 400, "rejectedIdentifier");
    refused(&order(json!([{ "type": "dns", "value": "a_b.example" }])), 400, "malformed");
    let both = order(
        json!([{ "type": "dns", "value": "192.0.2.1" }, { "type": "dns", "value": "ok.corp.example" }, { "type": "email", "value": "x" }]),
    );
    refused(&both, 400, "compound");
    assert_eq!(both.json()["subproblems"].as_array().unwrap().len(), 2);
    assert_eq!(both.json()["subproblems"][0]["identifier"]["value"], "192.0.2.1");
    let many: Vec<Value> = (0..101).map(|n| json!({ "type": "dns", "value": format!("h{n}.corp.example") })).collect();
    refused(&order(json!(many)), 400, "malformed");
    let twice = order(json!([{ "type": "dns", "value": HOST }, { "type": "dns", "value": "HOST.corp.example" }]));
    assert_eq!(twice.json()["identifiers"], json!([{ "type": "dns", "value": HOST }]));
}

#[test]
fn an_order_chooses_among_the_offered_profiles_and_times() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let wish = |extra: Value| {
        let mut payload = json!({ "identifiers": [{ "type": "dns", "value": HOST }] });
        payload.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        client.new_order(&bench, &payload)
    };
    assert_eq!(
        wish(json!({ "profile": "privatessl-tls-client-server" })).text("profile"),
        "privatessl-tls-client-server"
    );
    refused(&wish(json!({ "profile": "basic-ca-subord" })), 400, "invalidProfile");
    refused(&wish(json!({ "notAfter": "tomorrow" })), 400, "malformed");
    refused(&wish(json!({ "notAfter": "2020-01-01T00:00:00Z" })), 400, "malformed");
    let reply = wish(json!({ "notAfter": "2026-07-01T00:00:00Z" }));
    assert_eq!(reply.text("notAfter"), "2026-07-01T00:00:00Z");
    let order = reply.header("location");
    client.post(&bench, &client.challenges(&bench, &order, "http-01")[0], &json!({}));
    bench.answer_validations();
    let certificate =
        client.finalize(&bench, &order, &csr(&SubjectKeyPair::generate(), "", &dns(&[HOST]))).text("certificate");
    let serial = certificate.rsplit('/').next().unwrap().to_owned();
    let issued = bench.engine.issued_certificate(&ca_backend::Serial::parse(&serial).unwrap()).unwrap().unwrap();
    assert_eq!(issued.not_after.to_string(), "2026-07-01T00:00:00Z");
}

#[test]
fn a_wrong_answer_ends_challenge_authorization_and_order() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let order = client.order(&bench, &[HOST, "b.corp.example"]);
    let challenges = client.challenges(&bench, &order, "http-01");
    client.post(&bench, &challenges[0], &json!({}));
    bench.answer_validations_with(&not_found_body());
    let challenge = client.read(&bench, &challenges[0]);
    assert_eq!(
        (challenge.text("status"), challenge.json()["error"]["type"].clone()),
        ("invalid".to_owned(), json!("urn:ietf:params:acme:error:incorrectResponse"))
    );
    let authorization = client.read(&bench, &order).json()["authorizations"][0].as_str().unwrap().to_owned();
    assert_eq!(client.read(&bench, &authorization).text("status"), "invalid");
    let shown = client.read(&bench, &order);
    assert_eq!(shown.text("status"), "invalid");
    assert_eq!(shown.json()["error"]["subproblems"][0]["identifier"]["value"], HOST);
    for reply in [&challenge, &shown] {
        assert!(!String::from_utf8_lossy(&reply.body).contains("SECRET"), "a body found in the network is shown");
    }
    // Neither a second try of the challenge nor the order's other names bring it back.
    assert_eq!(client.post(&bench, &challenges[0], &json!({})).text("status"), "invalid");
    let reply = client.finalize(&bench, &order, &csr(&SubjectKeyPair::generate(), "", &dns(&[HOST, "b.corp.example"])));
    refused(&reply, 403, "orderNotReady");
    assert!(bench.started.lock().unwrap().is_empty());
}

#[test]
fn wrong_records_and_statuses_do_not_show_control() {
    let bench = AcmeBench::default();
    let client = bench.client();
    for (kind, found) in [
        ("dns-01", Found::Txt(vec![])),
        ("dns-01", Found::Txt(vec!["x".to_owned()])),
        ("http-01", Found::Http { status: 404, body: vec![], address: IpAddr::V4(Ipv4Addr::LOCALHOST) }),
        (
            "http-01",
            Found::Failed { class: FailureClass::RefusedAddress, text: "127.0.0.1 may not be asked".to_owned() },
        ),
        ("http-01", Found::Failed { class: FailureClass::BadResponse, text: "too many redirects".to_owned() }),
    ] {
        let order = client.order(&bench, &[HOST]);
        let challenge = client.challenges(&bench, &order, kind).remove(0);
        client.post(&bench, &challenge, &json!({}));
        bench.answer_validations_with(&found);
        assert_eq!(client.read(&bench, &challenge).text("status"), "invalid", "{found:?}");
    }
}

#[test]
fn a_place_that_does_not_answer_is_asked_three_times() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let failed = Found::Failed { class: FailureClass::Timeout, text: "no answer within 10 s".to_owned() };
    for (luck, status) in [(true, "valid"), (false, "invalid")] {
        let order = client.order(&bench, &[HOST]);
        let challenge = client.challenges(&bench, &order, "http-01").remove(0);
        client.post(&bench, &challenge, &json!({}));
        bench.answer_validations_with(&failed);
        for _ in 0..2 {
            assert_eq!(client.read(&bench, &challenge).text("status"), "processing");
            assert!(bench.acme.due_validations(10).unwrap().is_empty(), "a pause before the next try");
            bench.bench.clock.advance_s(10);
            let due = bench.acme.due_validations(10).unwrap();
            assert_eq!(due.len(), 1);
            assert!(bench.acme.due_validations(10).unwrap().is_empty(), "a job that is taken is not given out twice");
            let found = if luck { right_answer(&due[0]) } else { failed.clone() };
            bench.acme.judge(&due[0], &found, &[]).unwrap();
            if luck {
                break;
            }
        }
        assert_eq!(client.read(&bench, &challenge).text("status"), status);
        assert!(bench.acme.due_validations(10).unwrap().is_empty());
    }
}

#[test]
fn a_validation_whose_node_died_becomes_due_again_and_its_late_answer_is_ignored() {
    let mut bench = AcmeBench::default();
    let client = bench.client();
    let order = client.order(&bench, &[HOST]);
    let challenge = client.challenges(&bench, &order, "http-01").remove(0);
    client.post(&bench, &challenge, &json!({}));
    let lost = bench.started.lock().unwrap().remove(0);
    bench.restart();
    assert!(bench.acme.due_validations(10).unwrap().is_empty());
    bench.bench.clock.advance_s(acme::LEASE_S);
    let due = bench.acme.due_validations(10).unwrap();
    assert_eq!(due.len(), 1);
    bench.acme.judge(&lost, &not_found_body(), &[]).unwrap();
    assert_eq!(client.read(&bench, &challenge).text("status"), "processing");
    bench.acme.judge(&due[0], &right_answer(&due[0]), &[]).unwrap();
    assert_eq!(client.read(&bench, &order).text("status"), "ready");
}

#[test]
fn a_csr_asks_for_exactly_the_ordered_names_and_a_refused_one_leaves_the_order_ready() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let names = [HOST, "b.corp.example"];
    let order = client.ready_order(&bench, &names, "http-01");
    let key = SubjectKeyPair::generate();
    let with = |extra: AlternativeName| [dns(&names), vec![extra]].concat();
    let mut forged = csr(&key, "", &dns(&names));
    *forged.last_mut().unwrap() ^= 1;
    for (what, request) in [
        ("one name too few", csr(&key, "", &dns(&[HOST]))),
        ("one name too many", csr(&key, "", &dns(&[HOST, "b.corp.example", "c.corp.example"]))),
        ("an address too many", csr(&key, "", &with(AlternativeName::Ip("192.0.2.1".parse().unwrap())))),
        ("a mailbox too many", csr(&key, "", &with(AlternativeName::Email("a@corp.example".to_owned())))),
        ("a foreign common name", csr(&key, "cn=c.corp.example", &dns(&names))),
        ("a common name for two", csr(&key, &format!("cn={HOST}"), &[])),
        ("no names", csr(&key, "", &[])),
        ("the account's key", csr(&client.as_subject_key(), "", &dns(&names))),
        ("a wrong signature", forged),
        ("nothing", Vec::new()),
        ("noise", vec![0x30, 0x82, 0xff]),
    ] {
        let reply = client.finalize(&bench, &order, &request);
        assert_eq!(reply.problem(), (400, "badCSR".to_owned()), "{what}: {}", reply.json());
        assert_eq!(client.read(&bench, &order).text("status"), "ready", "{what}");
    }
    refused(&client.post(&bench, &format!("{order}/finalize"), &json!({ "csr": "AA==" })), 400, "malformed");
    refused(&client.post(&bench, &format!("{order}/finalize"), &json!({})), 400, "malformed");
    let reply = client.finalize(&bench, &order, &csr(&key, "", &dns(&names)));
    assert_eq!(reply.text("status"), "valid");
}

#[test]
fn a_common_name_alone_is_enough_for_one_name() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let order = client.ready_order(&bench, &[HOST], "http-01");
    let reply = client.finalize(&bench, &order, &csr(&SubjectKeyPair::generate(), "cn=HOST.corp.example", &[]));
    assert_eq!(reply.text("status"), "valid", "{}", reply.json());
    assert_eq!(alternative_names(&client.leaf(&bench, &reply.text("certificate"))).len(), 1);
}

#[test]
fn s42_finalizing_twice_gives_one_certificate() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let order = client.order(&bench, &[HOST]);
    let key = SubjectKeyPair::generate();
    let request = csr(&key, "", &dns(&[HOST]));
    refused(&client.finalize(&bench, &order, &request), 403, "orderNotReady");
    let order = client.ready_order(&bench, &[HOST], "http-01");
    let first = client.finalize(&bench, &order, &request).text("certificate");
    assert_eq!(client.finalize(&bench, &order, &request).text("certificate"), first);
    refused(
        &client.finalize(&bench, &order, &csr(&SubjectKeyPair::generate(), "", &dns(&[HOST]))),
        403,
        "orderNotReady",
    );
    assert_eq!(
        bench
            .engine
            .search(&ca_backend::InventoryQuery::default())
            .unwrap()
            .items
            .iter()
            .filter(|item| item.requester.starts_with("account:"))
            .count(),
        1
    );
}

#[test]
fn an_order_that_lost_an_authorization_or_its_time_is_invalid() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let order = client.ready_order(&bench, &[HOST], "http-01");
    let authorization = client.read(&bench, &order).json()["authorizations"][0].as_str().unwrap().to_owned();
    refused(&client.post(&bench, &authorization, &json!({ "status": "valid" })), 400, "malformed");
    assert_eq!(client.post(&bench, &authorization, &json!({ "status": "deactivated" })).text("status"), "deactivated");
    assert_eq!(client.read(&bench, &order).text("status"), "invalid");

    let order = client.ready_order(&bench, &[HOST], "http-01");
    let pending = client.order(&bench, &[HOST]);
    let challenge = client.challenges(&bench, &pending, "http-01").remove(0);
    bench.bench.clock.advance_s(7 * 24 * 3600);
    client.forget_nonce();
    for late in [&order, &pending] {
        assert_eq!(client.read(&bench, late).text("status"), "invalid");
    }
    refused(&client.post(&bench, &challenge, &json!({})), 400, "malformed");
}

#[test]
fn a_name_that_the_access_rules_allow_no_more_ends_the_order() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let order = client.ready_order(&bench, &[HOST], "http-01");
    let mut settings = endpoint_settings();
    settings["rules"][0]["deny"] = json!({ "dns": [HOST] });
    put_endpoint(&bench.engine, &settings);
    let reply = client.finalize(&bench, &order, &csr(&SubjectKeyPair::generate(), "", &dns(&[HOST])));
    refused(&reply, 400, "rejectedIdentifier");
    let shown = client.read(&bench, &order);
    assert_eq!(
        (shown.text("status"), shown.json()["error"]["type"].clone()),
        ("invalid".to_owned(), json!("urn:ietf:params:acme:error:rejectedIdentifier"))
    );
}

#[test]
fn an_order_that_needs_approval_waits_in_processing() {
    let mut settings = endpoint_settings();
    settings["rules"][0]["approval"] = json!(true);
    let bench = AcmeBench::with(&settings);
    let client = bench.client();
    for approve in [true, false] {
        let order = client.ready_order(&bench, &[HOST], "http-01");
        let reply = client.finalize(&bench, &order, &csr(&SubjectKeyPair::generate(), "", &dns(&[HOST])));
        assert_eq!(reply.text("status"), "processing");
        assert_eq!(reply.header("retry-after"), "60");
        let ticket = bench.engine.waiting(None, 10).unwrap().remove(0).ticket;
        if approve {
            bench.engine.approve(&ticket, "ann").unwrap();
            assert_eq!(client.read(&bench, &order).text("status"), "valid");
        } else {
            bench.engine.reject(&ticket, "ann", "not today").unwrap();
            refused(&client.read(&bench, &order), 403, "unauthorized");
            assert_eq!(client.read(&bench, &order).text("status"), "invalid");
        }
    }
}

#[test]
fn an_order_whose_signature_failed_goes_on_when_it_is_looked_at_again() {
    let mut bench = AcmeBench::default();
    let client = bench.client();
    let order = client.ready_order(&bench, &[HOST], "http-01");
    bench.bench.sign_faults.fail_before(1);
    let request = csr(&SubjectKeyPair::generate(), "", &dns(&[HOST]));
    let reply = client.finalize(&bench, &order, &request);
    assert_eq!((reply.status, reply.text("status")), (200, "processing".to_owned()));
    assert!(reply.headers.contains_key("retry-after"));
    bench.restart();
    let shown = client.read(&bench, &order);
    assert_eq!(shown.text("status"), "valid");
    assert_eq!(client.read(&bench, &shown.text("certificate")).status, 200);
}

#[test]
fn a_crash_at_any_commit_of_finalize_leaves_an_order_that_ends_in_one_certificate() {
    use ca_backend::testing::FailureMoment;
    for moment in [FailureMoment::BeforeWrite, FailureMoment::AfterWrite] {
        for n in 1.. {
            let mut bench = AcmeBench::default();
            let client = bench.client();
            let order = client.ready_order(&bench, &[HOST], "http-01");
            let request = csr(&SubjectKeyPair::generate(), "", &dns(&[HOST]));
            let before = bench.bench.store_faults.commits();
            bench.bench.store_faults.fail_at(before + n, moment);
            let reply = client.finalize(&bench, &order, &request);
            let crashed = bench.bench.store_faults.power_is_out();
            if crashed {
                refused(&reply, 503, "serverInternal");
                assert!(!String::from_utf8_lossy(&reply.body).contains("store"), "{}", reply.json());
            }
            bench.restart();
            let mut shown = client.read(&bench, &order);
            if shown.text("status") == "ready" {
                shown = client.finalize(&bench, &order, &request);
            }
            assert_eq!(shown.text("status"), "valid", "commit {n}");
            let issued = bench.engine.search(&ca_backend::InventoryQuery::default()).unwrap().items;
            assert_eq!(issued.iter().filter(|item| item.requester.starts_with("account:")).count(), 1, "commit {n}");
            if !crashed {
                assert!(n > 3, "finalize makes at least three commits");
                break;
            }
        }
    }
}

#[test]
fn revocation_by_the_account_by_the_key_and_by_nobody_else() {
    let bench = AcmeBench::default();
    let (owner, other) = (bench.client(), bench.client());
    for by_key in [false, true] {
        let key = SubjectKeyPair::generate();
        let certificate = owner.leaf(&bench, &owner.enroll(&bench, &[HOST], &key));
        refused(&other.revoke(&bench, &certificate, None), 403, "unauthorized");
        refused(&bench.stranger().revoke(&bench, &certificate, None), 403, "unauthorized");
        for reason in [2, 6, 7, 8, 9, 10, 11] {
            refused(&owner.revoke(&bench, &certificate, Some(reason)), 400, "badRevocationReason");
        }
        let holder = Client::holding(&key);
        let reply = if by_key {
            holder.revoke(&bench, &certificate, Some(1))
        } else {
            owner.revoke(&bench, &certificate, Some(4))
        };
        assert_eq!((reply.status, reply.body.len()), (200, 0), "{}", reply.json());
        refused(&owner.revoke(&bench, &certificate, None), 400, "alreadyRevoked");
        refused(&holder.revoke(&bench, &certificate, None), 400, "alreadyRevoked");
        refused(&other.revoke(&bench, &certificate, None), 403, "unauthorized");
    }
}

#[test]
fn only_certificates_of_this_endpoint_are_revoked_and_only_whole_ones() {
    let bench = AcmeBench::default();
    let owner = bench.client();
    let download = owner.read(&bench, &owner.enroll(&bench, &[HOST], &SubjectKeyPair::generate()));
    let blocks = pem_blocks(&download.body);
    refused(&owner.revoke(&bench, &blocks[1], None), 404, "malformed");
    let mut altered = blocks[0].clone();
    *altered.last_mut().unwrap() ^= 1;
    refused(&owner.revoke(&bench, &altered, None), 404, "malformed");
    refused(&owner.revoke(&bench, b"noise", None), 400, "malformed");
    refused(&owner.post(&bench, &format!("{BASE}/revoke-cert"), &json!({})), 400, "malformed");
}

#[test]
fn the_list_of_orders_comes_in_pages_without_the_invalid_ones() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let list = format!("{}/orders", client.kid.as_ref().unwrap());
    let mut made: Vec<String> = (0..60).map(|_| client.order(&bench, &[HOST])).collect();
    let lost = client.order(&bench, &[HOST]);
    client.post(&bench, &client.challenges(&bench, &lost, "http-01")[0], &json!({}));
    bench.answer_validations_with(&not_found_body());
    let mut listed = Vec::new();
    let mut next = Some(list);
    while let Some(url) = next {
        let page = client.read(&bench, &url);
        listed.extend(page.json()["orders"].as_array().unwrap().iter().map(|url| url.as_str().unwrap().to_owned()));
        let links = page
            .headers
            .get_all("link")
            .iter()
            .filter_map(|link| link.to_str().unwrap().strip_suffix(">;rel=\"next\""));
        next = links.map(|url| url.trim_start_matches('<').to_owned()).next();
    }
    made.sort();
    listed.sort();
    assert_eq!(listed, made);
}

#[test]
fn what_expired_leaves_the_store_and_certificates_stay_until_they_expire() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let certificate = client.enroll(&bench, &[HOST], &SubjectKeyPair::generate());
    let order = client.order(&bench, &[HOST]);
    assert_eq!(bench.acme.expire(1000).unwrap(), 0);
    bench.bench.clock.advance_s(8 * 24 * 3600 + 1);
    client.forget_nonce();
    while bench.acme.expire(3).unwrap() > 0 {}
    refused(&client.read(&bench, &order), 404, "malformed");
    assert_eq!(client.read(&bench, &certificate).status, 200);
    assert_eq!(client.read(&bench, client.kid.as_ref().unwrap()).status, 200);
    bench.bench.clock.advance_s(4 * 365 * 24 * 3600);
    client.forget_nonce();
    while bench.acme.expire(1000).unwrap() > 0 {}
    refused(&client.read(&bench, &certificate), 404, "malformed");
}

#[test]
fn a_disabled_endpoint_is_not_there_and_changed_options_take_effect_at_once() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let mut settings = endpoint_settings();
    settings["options"] = json!({ "challenges": ["dns-01"] });
    put_endpoint(&bench.engine, &settings);
    let order = client.order(&bench, &[HOST]);
    assert!(client.challenges(&bench, &order, "http-01").is_empty());
    let reply = client.new_order(&bench, &json!({ "identifiers": [{ "type": "ip", "value": "192.0.2.1" }] }));
    refused(&reply, 400, "rejectedIdentifier");
    settings["enabled"] = json!(false);
    put_endpoint(&bench.engine, &settings);
    refused(&bench.fetch("GET", &format!("{BASE}/directory")), 404, "malformed");
}

#[test]
fn a_full_disk_is_a_503_that_names_no_cause() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let nonce = client.nonce(&bench);
    bench.bench.store_faults.disk_is_full(true);
    let url = format!("{BASE}/new-order");
    let protected = json!({ "alg": "ES256", "nonce": nonce, "url": url, "kid": client.kid });
    let payload = json!({ "identifiers": [{ "type": "dns", "value": HOST }] }).to_string();
    let reply = client.send(&bench, &url, &client.sign(&protected, &payload));
    refused(&reply, 503, "serverInternal");
    assert!(reply.headers.contains_key("retry-after"));
    assert!(!reply.text("detail").contains("disk"));
    bench.bench.store_faults.disk_is_full(false);
    assert_eq!(client.send(&bench, &url, &client.sign(&protected, &payload)).status, 201, "the nonce was not used up");
}
