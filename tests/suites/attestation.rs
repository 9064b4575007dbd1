//! device-attest-01: devices of made-up makers, and a real TPM in software.

use serde_json::{Value, json};
use tests::acme_client::{AcmeBench, Client, Reply, SubjectKeyPair, b64, csr, endpoint_settings};
use tests::device::{DeviceKey, KeyDescription, Maker, TPM_ATTRIBUTES, module, object, permanent};

const SERIAL: &str = "C02ABC123";
const MODULE: &str = "0042/1.3.6.1.4.1.99999.1";

/// An endpoint that believes this maker in every format.
fn bench(maker: &Maker) -> AcmeBench {
    let mut settings = endpoint_settings();
    settings["rules"][0]["allow"]["device"] = json!(["*"]);
    settings["rules"][0]["allow"]["subject"] = json!([{ "attribute": "cn", "value": "*" }]);
    let roots = [maker.root_pem()];
    settings["options"] = json!({
        "challenges": ["http-01", "device-attest-01"],
        "attestation_roots": { "apple": roots, "tpm": roots, "android": roots },
    });
    settings["profiles"] = json!(["privatessl-tls-client"]);
    settings["rules"][0]["profiles"] = settings["profiles"].clone();
    AcmeBench::with(&settings)
}

/// An order for a device: its address, its challenge, and the token with the key authorization.
struct Asked {
    order: String,
    challenge: String,
    token: String,
    key_authorization: String,
}

fn ask(bench: &AcmeBench, client: &Client, kind: &str, value: &str) -> Asked {
    let identifiers = json!({ "identifiers": [{ "type": kind, "value": value }] });
    let reply = client.new_order(bench, &identifiers);
    assert_eq!(reply.status, 201, "{}", reply.json());
    let order = reply.header("location");
    assert!(client.challenges(bench, &order, "http-01").is_empty());
    let challenge = client.challenges(bench, &order, "device-attest-01").remove(0);
    let token = client.read(bench, &challenge).text("token");
    let key_authorization = format!("{token}.{}", client.thumbprint());
    Asked { order, challenge, token, key_authorization }
}

fn answer(bench: &AcmeBench, client: &Client, asked: &Asked, object: &[u8]) -> Reply {
    client.post(bench, &asked.challenge, &json!({ "attObj": b64(object) }))
}

fn assert_refused(reply: &Reply, words: &str) {
    let challenge = reply.json();
    assert_eq!(challenge["status"], "invalid", "{words}: {challenge}");
    assert_eq!(challenge["error"]["type"], "urn:ietf:params:acme:error:badAttestationStatement", "{challenge}");
    assert!(challenge["error"]["detail"].as_str().unwrap().contains(words), "{words:?} is missing in {challenge}");
}

/// Attests, finalizes at once as devices do, and returns the certificate's names as text.
fn enroll(bench: &AcmeBench, client: &Client, asked: &Asked, object: &[u8], key: &SubjectKeyPair) -> String {
    let reply = answer(bench, client, asked, object);
    assert_eq!(reply.text("status"), "valid", "{}", reply.json());
    assert_eq!(client.read(bench, &asked.order).text("status"), "ready");
    let reply = client.finalize(bench, &asked.order, &csr(&SubjectKeyPair::generate(), "", &[]));
    assert_eq!(reply.problem(), (400, "badCSR".to_owned()), "a key that was not attested");
    assert_eq!(client.read(bench, &asked.order).text("status"), "ready");
    let reply = client.finalize(bench, &asked.order, &csr(key, &format!("cn={SERIAL}"), &[]));
    assert_eq!(reply.text("status"), "valid", "{}", reply.json());
    let leaf = client.leaf(bench, &reply.text("certificate"));
    let found = bench.engine.search(&ca_backend::InventoryQuery::default()).unwrap().items;
    format!("{:?}", found.iter().find(|found| found.der == leaf).unwrap().alternative_names)
}

#[test]
fn an_apple_device_gets_a_certificate_for_the_key_that_it_attested() {
    let maker = Maker::default();
    let bench = bench(&maker);
    let client = bench.client();
    for (serial, udid) in [(SERIAL, "00008110-1"), ("another", SERIAL)] {
        let asked = ask(&bench, &client, "permanent-identifier", SERIAL);
        let key = DeviceKey::generate();
        let object = maker.apple(&key, &asked.token, serial, udid);
        assert!(enroll(&bench, &client, &asked, &object, &key.subject).contains(SERIAL));
    }
}

#[test]
fn an_android_device_gets_a_certificate_for_the_key_that_it_attested() {
    let maker = Maker::default();
    let bench = bench(&maker);
    let client = bench.client();
    let asked = ask(&bench, &client, "permanent-identifier", SERIAL);
    let key = DeviceKey::generate();
    let object = maker.android(&key, &asked.key_authorization, &KeyDescription::of(SERIAL));
    assert!(enroll(&bench, &client, &asked, &object, &key.subject).contains(SERIAL));
}

#[test]
fn a_tpm_gets_a_certificate_for_the_device_and_for_the_module() {
    let maker = Maker::default();
    let bench = bench(&maker);
    let client = bench.client();
    let names = [permanent(SERIAL), module("1.3.6.1.4.1.99999.1", "0042")];
    let asked = ask(&bench, &client, "permanent-identifier", SERIAL);
    let key = DeviceKey::generate();
    let object = maker.tpm(&key, &asked.key_authorization, &names, TPM_ATTRIBUTES);
    assert!(enroll(&bench, &client, &asked, &object, &key.subject).contains(SERIAL));

    let asked = ask(&bench, &client, "hardware-module", MODULE);
    let object = maker.tpm(&key, &asked.key_authorization, &names, TPM_ATTRIBUTES);
    let reply = answer(&bench, &client, &asked, &object);
    assert_eq!(reply.text("status"), "valid", "{}", reply.json());
    let request = csr(&key.subject, "", &[module("1.3.6.1.4.1.99999.1", "0042")]);
    let reply = client.finalize(&bench, &asked.order, &request);
    assert_eq!(reply.text("status"), "valid", "{}", reply.json());
}

#[test]
fn s21_an_attestation_of_another_challenge_device_or_maker_is_refused() {
    let maker = Maker::default();
    let bench = bench(&maker);
    let client = bench.client();
    let stranger = Maker::default();
    let key = DeviceKey::generate();
    let good = KeyDescription::of(SERIAL);
    let names = [permanent(SERIAL)];
    type Made<'a> = Box<dyn Fn(&Asked) -> Vec<u8> + 'a>;
    let cases: Vec<(&str, Made<'_>)> = vec![
        ("another challenge", Box::new(|_| maker.apple(&key, "another", SERIAL, ""))),
        ("another challenge", Box::new(|asked| maker.apple(&key, &asked.key_authorization, SERIAL, ""))),
        ("another challenge", Box::new(|asked| maker.android(&key, &asked.token, &good))),
        ("another challenge", Box::new(|asked| maker.tpm(&key, &asked.token, &names, TPM_ATTRIBUTES))),
        ("another device", Box::new(|asked| maker.apple(&key, &asked.token, "another", "x"))),
        ("another device", Box::new(|asked| maker.apple(&key, &asked.token, "", ""))),
        (
            "another device",
            Box::new(|asked| maker.android(&key, &asked.key_authorization, &KeyDescription::of("another"))),
        ),
        (
            "another device",
            Box::new(|asked| maker.tpm(&key, &asked.key_authorization, &[permanent("x")], TPM_ATTRIBUTES)),
        ),
        ("no root", Box::new(|asked| stranger.apple(&key, &asked.token, SERIAL, ""))),
        ("no root", Box::new(|asked| stranger.android(&key, &asked.key_authorization, &good))),
        ("no root", Box::new(|asked| stranger.tpm(&key, &asked.key_authorization, &names, TPM_ATTRIBUTES))),
    ];
    for (words, made) in cases {
        let asked = ask(&bench, &client, "permanent-identifier", SERIAL);
        assert_refused(&answer(&bench, &client, &asked, &made(&asked)), words);
        assert_eq!(client.read(&bench, &asked.order).text("status"), "invalid");
    }
}

#[test]
fn s21_a_key_that_the_device_does_not_keep_is_refused() {
    let maker = Maker::default();
    let bench = bench(&maker);
    let client = bench.client();
    let key = DeviceKey::generate();
    let good = || KeyDescription::of(SERIAL);
    for (words, description) in [
        ("software", KeyDescription { level: 0, ..good() }),
        ("not made", KeyDescription { origin: 2, ..good() }),
        ("not for signing", KeyDescription { purpose: 0, ..good() }),
        ("every application", KeyDescription { all_applications: true, ..good() }),
    ] {
        let asked = ask(&bench, &client, "permanent-identifier", SERIAL);
        let object = maker.android(&key, &asked.key_authorization, &description);
        assert_refused(&answer(&bench, &client, &asked, &object), words);
    }
    for missing in [1 << 1, 1 << 5, 1 << 18] {
        let asked = ask(&bench, &client, "permanent-identifier", SERIAL);
        let object = maker.tpm(&key, &asked.key_authorization, &[permanent(SERIAL)], TPM_ATTRIBUTES & !missing);
        assert_refused(&answer(&bench, &client, &asked, &object), "may leave it");
    }
}

#[test]
fn s21_objects_that_are_none_are_refused_and_change_nothing_else() {
    let maker = Maker::default();
    let bench = bench(&maker);
    let client = bench.client();
    let key = DeviceKey::generate();
    let deep = [vec![0x81; 4000], vec![0xf6]].concat();
    let good = |asked: &Asked| maker.apple(&key, &asked.token, SERIAL, "");
    for case in 0..9 {
        let asked = ask(&bench, &client, "permanent-identifier", SERIAL);
        let good = good(&asked);
        let octets = match case {
            0 => Vec::new(),
            1 => deep.clone(),
            2 => [good.as_slice(), &[0]].concat(),
            3 => good[..good.len() - 1].to_vec(),
            4 => vec![0xa0],
            5 => object("none", Vec::new()),
            6 => object("apple", vec![("x5c", ciborium::Value::Array(Vec::new()))]),
            7 => object("tpm", vec![("x5c", ciborium::Value::Array(Vec::new()))]),
            _ => vec![0; 33_000],
        };
        let reply = answer(&bench, &client, &asked, &octets);
        assert_eq!(
            reply.json()["error"]["type"],
            "urn:ietf:params:acme:error:badAttestationStatement",
            "{case}: {}",
            reply.json()
        );
    }
    let asked = ask(&bench, &client, "permanent-identifier", SERIAL);
    assert_refused(&client.post(&bench, &asked.challenge, &json!({ "error": "no" })), "no attestation");
    let asked = ask(&bench, &client, "permanent-identifier", SERIAL);
    let reply = client.post(&bench, &asked.challenge, &json!({ "attObj": "%" }));
    assert_eq!(reply.problem(), (400, "malformed".to_owned()));
    assert_eq!(client.read(&bench, &asked.challenge).text("status"), "pending");
}

#[test]
fn a_device_is_served_only_where_its_makers_are_believed() {
    let bench = AcmeBench::default();
    let client = bench.client();
    let order = |value: Value| client.new_order(&bench, &json!({ "identifiers": [value] })).problem();
    let rejected = (400, "rejectedIdentifier".to_owned());
    assert_eq!(order(json!({ "type": "permanent-identifier", "value": SERIAL })), rejected);
    assert_eq!(order(json!({ "type": "hardware-module", "value": MODULE })), rejected);
}
