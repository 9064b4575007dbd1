//! device-attest-01: devices of made-up makers, and a real TPM in software.

use serde_json::{Value, json};
use tests::acme_client::{AcmeBench, Client, Reply, SubjectKeyPair, b64, csr, endpoint_settings};
use tests::device::{DeviceKey, KeyDescription, Maker, TPM_ATTRIBUTES, TpmStatement, module, object, permanent};

const SERIAL: &str = "C02ABC123";
const MODULE: &str = "0042/1.3.6.1.4.1.99999.1";

/// An endpoint that believes this maker in every format.
fn bench(maker: &Maker) -> AcmeBench {
    bench_with(maker, 0)
}

/// The same, with a limit of failed validations.
fn bench_with(maker: &Maker, failed_validations_per_h: u32) -> AcmeBench {
    let mut settings = endpoint_settings();
    settings["rules"][0]["allow"]["device"] = json!(["*"]);
    settings["rules"][0]["allow"]["subject"] = json!([{ "attribute": "cn", "value": "*" }]);
    let roots = [maker.root_pem()];
    settings["options"] = json!({
        "challenges": ["http-01", "device-attest-01"],
        "attestation_roots": { "apple": roots, "tpm": roots, "android": roots },
        "limits": { "failed_validations_per_h": failed_validations_per_h },
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
fn s21_certificates_that_were_made_for_something_else_vouch_for_no_device() {
    use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, KeyUsagePurpose};
    let unknown = |params: &mut CertificateParams| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 9], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    };
    let no_signatures = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    let web = |params: &mut CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let none = |_: &mut CertificateParams| {};
    let key = DeviceKey::generate();
    let names = [permanent(SERIAL)];
    type Made<'a> = Box<dyn Fn(&Maker, &Asked) -> Vec<u8> + 'a>;
    let apple = || -> Made<'_> { Box::new(|maker, asked| maker.apple(&key, &asked.token, SERIAL, "")) };
    let android = || -> Made<'_> {
        Box::new(|maker, asked| maker.android(&key, &asked.key_authorization, &KeyDescription::of(SERIAL)))
    };
    let tpm =
        || -> Made<'_> { Box::new(|maker, asked| maker.tpm(&key, &asked.key_authorization, &names, TPM_ATTRIBUTES)) };
    let cases = [
        ("critical extension", Maker::with(none, unknown), vec![apple(), android(), tpm()]),
        ("no chain", Maker::with(unknown, none), vec![apple(), android(), tpm()]),
        ("not for signing", Maker::with(none, no_signatures), vec![android()]),
        ("not for an attestation key", Maker::with(none, no_signatures), vec![tpm()]),
        ("not for attestation keys", Maker::with(web, none), vec![tpm()]),
    ];
    for (words, maker, formats) in cases {
        let bench = bench(&maker);
        let client = bench.client();
        for made in formats {
            let asked = ask(&bench, &client, "permanent-identifier", SERIAL);
            assert_refused(&answer(&bench, &client, &asked, &made(&maker, &asked)), words);
        }
    }
    // An authority that says nothing, or says it is for everything or for this, may.
    let attestation = |purpose: ExtendedKeyUsagePurpose| {
        Maker::with(move |params| params.extended_key_usages = vec![purpose.clone()], none)
    };
    let purposes = [ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3])];
    for maker in purposes.map(attestation) {
        let bench = bench(&maker);
        let client = bench.client();
        let asked = ask(&bench, &client, "permanent-identifier", SERIAL);
        let reply = answer(&bench, &client, &asked, &tpm()(&maker, &asked));
        assert_eq!(reply.text("status"), "valid", "{}", reply.json());
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
fn s42_attestations_that_fail_are_limited_like_other_validations() {
    let maker = Maker::default();
    let bench = bench_with(&maker, 3);
    let client = bench.client();
    for _ in 0..3 {
        let asked = ask(&bench, &client, "permanent-identifier", SERIAL);
        assert_refused(&client.post(&bench, &asked.challenge, &json!({})), "brings no attestation");
    }
    let wish = json!({ "identifiers": [{ "type": "permanent-identifier", "value": SERIAL }] });
    let reply = client.new_order(&bench, &wish);
    assert_eq!(reply.problem(), (429, "rateLimited".to_owned()));
    assert!(!reply.header("retry-after").is_empty());
    ask(&bench, &client, "permanent-identifier", "another device");
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

/// A public key from a SubjectPublicKeyInfo: that of a TPM, whose private key nobody has.
struct P256(Vec<u8>);

impl rcgen::PublicKeyData for P256 {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[test]
fn s21_what_a_tpm_certified_is_read_and_every_altered_octet_of_it_is_refused() {
    let vectors: Vec<Value> = serde_json::from_str(include_str!("../../testvectors/acme/tpm.json")).unwrap();
    let maker = Maker::default();
    let roots = acme::attestation::read_roots(&[maker.root_pem().to_owned()]).unwrap();
    let makers = acme::attestation::TrustedMakers { tpm: roots, ..Default::default() };
    // The made-up certificates are valid for centuries.
    let now = ca_backend::Time::from_unix(1_800_000_000);
    for vector in vectors {
        let octets = |member: &str| hex::decode(vector[member].as_str().unwrap()).unwrap();
        let key = P256(octets("attestation_key")[26..].to_vec());
        let challenged = acme::attestation::Challenged {
            token: "evaGxfADs6pSRb2LAv9IZf17",
            key_authorization: vector["key_authorization"].as_str().unwrap(),
        };
        let verify = |signature: Vec<u8>, certification: Vec<u8>, public_area: Vec<u8>| {
            let object = maker.tpm_with(
                &key,
                &[permanent(SERIAL)],
                TpmStatement { algorithm: -7, signature, certification, public_area },
            );
            acme::attestation::verify(&object, challenged, &makers, now)
        };
        let whole = || (octets("signature"), octets("cert_info"), octets("pub_area"));
        let (signature, certification, public_area) = whole();
        let attested = verify(signature, certification, public_area).unwrap();
        assert_eq!(attested.public_key, octets("attested_key"));
        let lengths = [whole().0.len(), whole().1.len(), whole().2.len()];
        for (part, length) in lengths.into_iter().enumerate() {
            for place in 0..length {
                let (mut signature, mut certification, mut public_area) = whole();
                [&mut signature, &mut certification, &mut public_area][part][place] ^= 1;
                // The digest that a TPMT_SIGNATURE names is not used: the statement's own algorithm is.
                let unused = part == 0 && (2..4).contains(&place);
                assert_eq!(verify(signature, certification, public_area).is_ok(), unused, "part {part}, octet {place}");
            }
        }
    }
}

/// Where the seeds of the fuzz target lie.
const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testvectors/acme/attestation");

/// One object of each format, of the token `token` and the key authorization `token.thumbprint`.
#[test]
#[ignore = "writes testvectors/acme/attestation anew"]
fn write_the_vectors() {
    let maker = Maker::default();
    let key = DeviceKey::generate();
    let names = [permanent(SERIAL), module("1.3.6.1.4.1.99999.1", "0042")];
    let put = |name: &str, octets: &[u8]| std::fs::write(format!("{VECTORS}/{name}"), octets).unwrap();
    put("root.pem", maker.root_pem().as_bytes());
    put("apple.cbor", &maker.apple(&key, "token", SERIAL, "00008110-1"));
    put("android.cbor", &maker.android(&key, "token.thumbprint", &KeyDescription::of(SERIAL)));
    put("tpm.cbor", &maker.tpm(&key, "token.thumbprint", &names, TPM_ATTRIBUTES));
}

#[test]
fn the_vectors_of_attestation_show_what_they_should() {
    let root = std::fs::read_to_string(format!("{VECTORS}/root.pem")).unwrap();
    let roots = || acme::attestation::read_roots(std::slice::from_ref(&root)).unwrap();
    let makers = acme::attestation::TrustedMakers { apple: roots(), tpm: roots(), android: roots() };
    let challenged = acme::attestation::Challenged { token: "token", key_authorization: "token.thumbprint" };
    let now = ca_backend::Time::from_unix(1_800_000_000);
    for (name, format) in [("apple.cbor", "apple"), ("android.cbor", "android-key"), ("tpm.cbor", "tpm")] {
        let octets = std::fs::read(format!("{VECTORS}/{name}")).unwrap();
        let attested = acme::attestation::verify(&octets, challenged, &makers, now).unwrap();
        assert_eq!(attested.format, format);
        // Whatever octet is altered, nothing panics; what still counts says the same of the key.
        for place in 0..octets.len() {
            let mut altered = octets.clone();
            altered[place] ^= 0x11;
            if let Ok(again) = acme::attestation::verify(&altered, challenged, &makers, now) {
                assert_eq!(again.public_key, attested.public_key, "{name}, octet {place}");
            }
        }
    }
}
