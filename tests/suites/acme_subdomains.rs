//! Control of a domain that stands for the host names below it (RFC 9444).

use acme::{CaaProperty, CaaSet, Found, Question};
use serde_json::{Value, json};
use tests::acme_client::{AcmeBench, BASE, Client, Reply, SubjectKeyPair, csr, dns, endpoint_settings, put_endpoint};

const DAY_S: u64 = 24 * 3600;

fn settings(options: Value) -> Value {
    let mut settings = endpoint_settings();
    settings["options"] =
        json!({ "ancestor_domains": ["corp.example", "lab.example"], "authorization_reuse_s": 30 * DAY_S });
    for (name, value) in options.as_object().unwrap() {
        settings["options"][name] = value.clone();
    }
    settings
}

fn below(name: &str, ancestor: &str) -> Value {
    json!({ "type": "dns", "value": name, "ancestorDomain": ancestor })
}

fn ask(bench: &AcmeBench, client: &Client, identifiers: &[Value]) -> Reply {
    client.new_order(bench, &json!({ "identifiers": identifiers }))
}

fn authorizations(bench: &AcmeBench, client: &Client, order: &Reply) -> Vec<Value> {
    assert_eq!(order.status, 201, "{}", order.json());
    let urls = order.json()["authorizations"].clone();
    urls.as_array().unwrap().iter().map(|url| client.read(bench, url.as_str().unwrap()).json()).collect()
}

fn challenge_types(authorization: &Value) -> Vec<&str> {
    authorization["challenges"].as_array().unwrap().iter().map(|each| each["type"].as_str().unwrap()).collect()
}

fn show_by_dns(bench: &AcmeBench, client: &Client, order: &Reply) {
    for challenge in client.challenges(bench, &order.header("location"), "dns-01") {
        client.post(bench, &challenge, &json!({}));
    }
    bench.answer_validations();
}

fn finalize(bench: &AcmeBench, client: &Client, order: &Reply, names: &[&str]) -> Reply {
    client.finalize(bench, &order.header("location"), &csr(&SubjectKeyPair::generate(), "", &dns(names)))
}

#[test]
fn one_proof_of_a_domain_serves_all_names_of_an_order_and_later_orders() {
    let bench = AcmeBench::with(&settings(json!({})));
    let client = bench.client();
    let meta = bench.fetch("GET", &format!("{BASE}/directory")).json()["meta"].clone();
    assert_eq!(meta["subdomainAuthAllowed"], true);

    let names = ["a.corp.example", "b.sub.corp.example"];
    let order = ask(&bench, &client, &names.map(|name| below(name, "corp.example")));
    let shown = authorizations(&bench, &client, &order);
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["identifier"], json!({ "type": "dns", "value": "corp.example" }));
    assert_eq!(shown[0]["subdomainAuthAllowed"], true);
    assert_eq!(challenge_types(&shown[0]), ["dns-01"], "a web server at a name says nothing of those below");
    let challenge = client.challenges(&bench, &order.header("location"), "dns-01").remove(0);
    client.post(&bench, &challenge, &json!({}));
    let asked: Vec<_> = bench.started.lock().unwrap().iter().map(|started| started.question.clone()).collect();
    assert_eq!(asked, [Question::Dns01 { name: "_acme-challenge.corp.example".to_owned() }]);
    bench.answer_validations();
    let reply = finalize(&bench, &client, &order, &names);
    assert_eq!(reply.text("status"), "valid", "{}", reply.json());

    // Later orders rest on it, whether they name the domain above or not; names elsewhere do not.
    for identifier in [below("c.corp.example", "corp.example"), json!({ "type": "dns", "value": "d.e.corp.example" })] {
        let name = identifier["value"].as_str().unwrap().to_owned();
        let later = ask(&bench, &client, &[identifier]);
        assert_eq!(later.text("status"), "ready");
        assert_eq!(later.json()["authorizations"], order.json()["authorizations"]);
        assert_eq!(finalize(&bench, &client, &later, &[&name]).text("status"), "valid");
    }
    let itself = ask(&bench, &client, &[json!({ "type": "dns", "value": "corp.example" })]);
    assert_eq!(itself.text("status"), "ready");
    let other = bench.client();
    let of_other = ask(&bench, &other, &[below("c.corp.example", "corp.example")]);
    assert_eq!(of_other.text("status"), "pending", "another account showed nothing");
}

#[test]
fn a_proof_for_a_domain_ends_with_its_deactivation_and_with_the_operators_permission() {
    let bench = AcmeBench::with(&settings(json!({})));
    let client = bench.client();
    let first = ask(&bench, &client, &[below("a.corp.example", "corp.example")]);
    show_by_dns(&bench, &client, &first);
    let later = ask(&bench, &client, &[below("b.corp.example", "corp.example")]);
    assert_eq!(later.text("status"), "ready");

    put_endpoint(&bench.engine, &settings(json!({ "ancestor_domains": ["lab.example"] })));
    assert_eq!(ask(&bench, &client, &[below("c.corp.example", "corp.example")]).text("status"), "pending");
    put_endpoint(&bench.engine, &settings(json!({})));
    assert_eq!(ask(&bench, &client, &[below("c.corp.example", "corp.example")]).text("status"), "ready");

    let authorization = first.json()["authorizations"][0].as_str().unwrap().to_owned();
    client.post(&bench, &authorization, &json!({ "status": "deactivated" }));
    let reply = finalize(&bench, &client, &later, &["b.corp.example"]);
    assert_eq!(reply.problem(), (403, "orderNotReady".to_owned()));
    assert_eq!(ask(&bench, &client, &[below("d.corp.example", "corp.example")]).text("status"), "pending");
}

#[test]
fn what_is_not_above_a_name_is_refused_and_what_is_not_permitted_is_passed_over() {
    let bench = AcmeBench::with(&settings(json!({})));
    let client = bench.client();
    for (name, ancestor) in [
        ("a.corp.example", "a.corp.example"),
        ("a.corp.example", "b.a.corp.example"),
        ("a.corp.example", "lab.example"),
        ("a.corp.example", "rp.example"),
        ("a.corp.example", "*.corp.example"),
        ("a.corp.example", ""),
        ("a.corp.example", "corp..example"),
        ("*.corp.example", "lab.example"),
    ] {
        let reply = ask(&bench, &client, &[below(name, ancestor)]);
        assert_eq!(reply.problem(), (400, "malformed".to_owned()), "{ancestor} above {name}");
    }
    let address = json!({ "type": "ip", "value": "192.0.2.1", "ancestorDomain": "corp.example" });
    assert_eq!(ask(&bench, &client, &[address]).problem(), (400, "malformed".to_owned()));

    // Above what the operator permits, or a wildcard: the identifier itself is to be shown.
    for (name, ancestor) in [("a.corp.example", "example"), ("*.sub.corp.example", "corp.example")] {
        let shown = authorizations(&bench, &client, &ask(&bench, &client, &[below(name, ancestor)]));
        assert_eq!(shown[0]["identifier"]["value"], name.trim_start_matches("*."));
        assert_eq!(shown[0]["subdomainAuthAllowed"], false);
    }

    // An endpoint without such domains does not know the member.
    put_endpoint(&bench.engine, &endpoint_settings());
    let shown = authorizations(&bench, &client, &ask(&bench, &client, &[below("a.corp.example", "corp.example")]));
    assert_eq!(shown[0]["identifier"]["value"], "a.corp.example");
    assert!(shown[0].get("subdomainAuthAllowed").is_none());
    let meta = bench.fetch("GET", &format!("{BASE}/directory")).json()["meta"].clone();
    assert!(meta.get("subdomainAuthAllowed").is_none());
}

#[test]
fn access_rules_judge_each_name_below_a_domain_that_was_shown() {
    let bench = AcmeBench::with(&settings(json!({})));
    let client = bench.client();
    // The rules allow no name in lab.example, whoever controls it.
    let reply = ask(&bench, &client, &[below("a.lab.example", "lab.example")]);
    assert_eq!(reply.problem(), (400, "rejectedIdentifier".to_owned()));

    let order = ask(&bench, &client, &[below("a.corp.example", "corp.example")]);
    show_by_dns(&bench, &client, &order);
    let mut stricter = settings(json!({}));
    stricter["rules"][0]["deny"] = json!({ "dns": ["a.corp.example"] });
    put_endpoint(&bench.engine, &stricter);
    let reply = finalize(&bench, &client, &order, &["a.corp.example"]);
    assert_eq!(reply.problem(), (400, "rejectedIdentifier".to_owned()));
    assert_eq!(ask(&bench, &client, &[below("b.corp.example", "corp.example")]).text("status"), "ready");
    // Nor does the proof serve a wildcard.
    let wildcard = json!({ "type": "dns", "value": "*.sub.corp.example" });
    assert_eq!(ask(&bench, &client, &[wildcard]).text("status"), "pending");
}

#[test]
fn s15_caa_records_of_the_ordered_name_hold_though_a_domain_above_it_was_shown() {
    let bench = AcmeBench::with(&settings(json!({ "caa": true, "caa_identities": ["ca.example"] })));
    let client = bench.client();
    let cases = [
        ("a.corp.example", "ca.example; validationmethods=dns-01", "valid"),
        ("b.corp.example", "ca.example; validationmethods=http-01", "invalid"),
        ("c.corp.example", "other.example", "invalid"),
    ];
    for (name, value, expected) in cases {
        let order = ask(&bench, &client, &[below(name, "corp.example")]);
        show_by_dns(&bench, &client, &order);
        assert_eq!(finalize(&bench, &client, &order, &[name]).text("status"), "processing");
        let asked: Vec<_> = bench.started.lock().unwrap().iter().map(|started| started.question.clone()).collect();
        assert_eq!(asked, [Question::Caa { names: vec![name.to_owned()] }], "the name, not the domain that was shown");
        let property = CaaProperty { critical: false, tag: "issue".to_owned(), value: value.to_owned() };
        let set = CaaSet { found_at: name.to_owned(), properties: vec![property] };
        bench.answer_validations_with(&Found::Caa(vec![set]));
        let after = client.read(&bench, &order.header("location"));
        assert_eq!(after.text("status"), expected, "{value}: {}", after.json());
        if expected == "invalid" {
            assert_eq!(after.json()["error"]["type"], "urn:ietf:params:acme:error:caa");
        }
    }
}

#[test]
fn control_of_a_domain_is_shown_beforehand() {
    let bench = AcmeBench::with(&settings(json!({})));
    let client = bench.client();
    let pre_authorize = |name: &str| {
        let identifier = json!({ "type": "dns", "value": name, "subdomainAuthAllowed": true });
        client.post(&bench, &format!("{BASE}/new-authz"), &json!({ "identifier": identifier }))
    };
    // A proof of the name alone does not become one of the names below.
    client.ready_order(&bench, &["corp.example"], "http-01");
    let made = pre_authorize("corp.example");
    assert_eq!((made.status, made.text("status")), (201, "pending".to_owned()));
    assert_eq!((&made.json()["subdomainAuthAllowed"], challenge_types(&made.json())), (&json!(true), vec!["dns-01"]));
    assert_eq!(ask(&bench, &client, &[below("a.corp.example", "corp.example")]).text("status"), "pending");
    client.post(&bench, made.json()["challenges"][0]["url"].as_str().unwrap(), &json!({}));
    bench.answer_validations();
    assert_eq!(pre_authorize("corp.example").header("location"), made.header("location"));
    assert_eq!(ask(&bench, &client, &[json!({ "type": "dns", "value": "a.corp.example" })]).text("status"), "ready");
    // Shown by itself again, the name takes nothing from the proof of the domain.
    assert_eq!(ask(&bench, &client, &[json!({ "type": "dns", "value": "corp.example" })]).text("status"), "ready");

    let narrow = AcmeBench::with(&settings(json!({ "ancestor_domains": ["sub.corp.example"] })));
    let client = narrow.client();
    let identifier = json!({ "type": "dns", "value": "corp.example", "subdomainAuthAllowed": true });
    let made = client.post(&narrow, &format!("{BASE}/new-authz"), &json!({ "identifier": identifier }));
    assert_eq!((made.status, &made.json()["subdomainAuthAllowed"]), (201, &json!(false)));
}

#[test]
fn failed_proofs_of_a_domain_count_for_every_name_that_would_rest_on_it() {
    let bench = AcmeBench::with(&settings(json!({ "limits": { "failed_validations_per_h": 2 } })));
    let client = bench.client();
    for name in ["a.corp.example", "b.corp.example"] {
        let order = ask(&bench, &client, &[below(name, "corp.example")]);
        client.post(&bench, &client.challenges(&bench, &order.header("location"), "dns-01")[0], &json!({}));
        bench.answer_validations_with(&Found::Txt(vec!["wrong".to_owned()]));
    }
    let reply = ask(&bench, &client, &[below("c.corp.example", "corp.example")]);
    assert_eq!(reply.problem(), (429, "rateLimited".to_owned()));
    assert_eq!(reply.json()["subproblems"][0]["identifier"]["value"], "corp.example");
    client.order(&bench, &["c.corp.example"]);
}
