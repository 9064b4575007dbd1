//! The web service for device management: certificates, keys made here, challenges, and who may have them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ca_backend::{
    Action, Binding, CredentialPurpose, EndpointName, Error, NewCredential, Origin, ProtocolName, Reason, SecretScope,
    Serial,
};
use der::pem::LineEnding;
use endpoint::{Endpoint, Peer, TlsPeer};
use http::{Method, Request};
use mdm::{Mdm, MdmOptions};
use serde_json::{Value, json};
use tests::key::Key;
use tests::openssl::OpenSsl;
use tests::pki::{ISSUING, OPERATOR, Pki, audit_log, audited, reason};
use tests::scep_client::Device;

const PROFILE: &str = "mdmws-signature-key-encipherment";

struct Bench {
    pki: Pki,
    mdm: Mdm,
    /// `id:secret` of the token with every right.
    token: (String, String),
}

struct Reply {
    status: u16,
    kind: String,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.body)))
    }
}

fn options() -> Value {
    json!({
        "configurations": [
            {"name": "wifi", "title": "Wi-Fi", "profile": PROFILE, "key": "ec-p256",
             "subject": [{"attribute": "o", "value": "Example"}, {"attribute": "cn", "value": "{device.serial}"},
                         {"attribute": "ou", "value": "{variable.site}", "optional": true}],
             "alternative_names": [{"value": "dns:{device.serial}.mdm.example.org"}, {"value": "upn:{user.upn}", "optional": true}]},
            {"name": "own", "profile": PROFILE, "names": "request"},
        ],
        "challenges": {"scep_endpoint": "devices", "ndes": true, "outstanding_max": 3},
    })
}

impl Bench {
    fn start() -> Self {
        Self::with(options())
    }

    fn with(options: Value) -> Self {
        let pki = Pki::start();
        let allow = json!({"dns": [".mdm.example.org"], "upn": ["example.org"], "subject": [
            {"attribute": "cn", "value": "*"}, {"attribute": "o", "value": "Example"}, {"attribute": "ou", "value": "*"}]});
        let put = |name: &str, protocol: &str, options: Value| {
            let rules = json!([{"name": "all", "requesters": [{"evidence": "secret"}, {"evidence": "certificate"}], "profiles": [PROFILE], "allow": allow}]);
            let settings = json!({"name": name, "protocol": protocol, "authority": ISSUING, "profiles": [PROFILE], "rules": rules, "options": options});
            pki.engine.put_endpoint(&serde_json::from_value(settings).unwrap(), OPERATOR).unwrap();
        };
        put("devices", "scep", json!({}));
        put("fleet", "mdm", options);
        let mdm = Mdm::mount(pki.engine.clone(), EndpointName::new("fleet").unwrap(), "https://ca.example/mdm/fleet")
            .unwrap();
        let token = token(&pki, json!({"rights": ["issue", "revoke", "hold", "list", "create-challenges"]}));
        Self { pki, mdm, token }
    }

    fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        self.ask_from(None, method, path, headers, body)
    }

    fn ask_from(
        &self,
        tls: Option<TlsPeer>,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let path = if path.starts_with("/certsrv") { path.to_owned() } else { format!("/mdm/fleet{path}") };
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer =
            Peer { address: SocketAddr::from(([192, 0, 2, 7], 1)), tls: tls.map(Arc::new), request_id: "r".to_owned() };
        let response = self.mdm.handle(request.body(body.into()).unwrap(), &peer);
        let kind = response.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
        Reply { status: response.status().as_u16(), kind, body: response.body().to_vec() }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token.1)
    }

    fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.token.0, self.token.1)))
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        self.ask(Method::POST, path, &[("authorization", &self.bearer())], body.to_string())
    }

    fn get(&self, path: &str) -> Reply {
        self.ask(Method::GET, path, &[("authorization", &self.bearer())], "")
    }

    fn issue(&self, serial: &str) -> Value {
        let reply = self.post("/certificates", &wish(serial, &Key::ec()));
        assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
        reply.json()
    }
}

fn token(pki: &Pki, binding: Value) -> (String, String) {
    let wish = NewCredential {
        id: None,
        endpoint: EndpointName::new("fleet").unwrap(),
        purpose: CredentialPurpose::Token,
        comment: String::new(),
        holder: None,
        secret: None,
        expires: None,
        uses_max: None,
        binding: serde_json::from_value::<Binding>(binding).unwrap(),
    };
    let (made, secret) = pki.engine.create_credential(&wish, OPERATOR).unwrap();
    (made.id.to_string(), secret.reveal().to_owned())
}

fn wish(serial: &str, key: &Key) -> Value {
    json!({"configuration": "wifi", "device": {"id": format!("dev-{serial}"), "serial": serial}, "user": {"id": "ann"},
           "csr": STANDARD.encode(key.csr("cn=ignored,o=Evil"))})
}

fn openssl_pkcs12(file: &[u8], password: &str, more: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file.p12");
    std::fs::write(&path, file).unwrap();
    let output = Command::new("openssl")
        .args(["pkcs12", "-info", "-nodes", "-in"])
        .arg(&path)
        .args(["-passin", &format!("pass:{password}")])
        .args(more)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn a_csr_gives_the_key_and_the_templates_give_the_names() {
    let bench = Bench::start();
    let listed = bench.get("/configurations").json();
    assert_eq!(
        listed[0]["variables"],
        json!([
        {"name": "device.serial", "required": true}, {"name": "user.upn", "required": false}, {"name": "variable.site", "required": false}])
    );
    let issued = bench.issue("C02X");
    assert_eq!(issued["subject"].as_str().unwrap().to_lowercase(), "cn=c02x,o=example");
    assert_eq!(issued["alternative_names"], json!(["dns:c02x.mdm.example.org"]));
    assert_eq!((issued["device"].as_str(), issued["user"].as_str()), (Some("dev-C02X"), Some("ann")));
    assert_eq!(issued.get("pkcs12"), None);

    let key = Key::ec();
    let csr = key.csr_with("cn=pc7", &["dns:pc7.mdm.example.org"], None);
    let own = bench.post("/certificates", &json!({"configuration": "own", "csr": STANDARD.encode(csr)}));
    assert_eq!((own.status, own.json()["alternative_names"].clone()), (201, json!(["dns:pc7.mdm.example.org"])));
}

#[test]
fn a_key_made_here_comes_as_a_file_that_openssl_opens() {
    let bench = Bench::start();
    for (encryption, words, more) in [
        ("modern", ["PBES2", "AES-256-CBC", "sha256"], &[][..]),
        ("legacy", ["pbeWithSHA1And3-KeyTripleDES-CBC", "sha1", "PKCS7 Encrypted data"], &["-legacy"][..]),
    ] {
        let body = json!({"configuration": "wifi", "device": {"serial": "C02Y"}, "pkcs12": {"encryption": encryption}});
        let issued = bench.post("/certificates", &body).json();
        let password = issued["password"].as_str().unwrap_or_else(|| panic!("{issued}"));
        let file = STANDARD.decode(issued["pkcs12"].as_str().unwrap()).unwrap();
        let said = openssl_pkcs12(&file, password, more);
        for word in words {
            assert!(said.contains(word), "{word} is missing in {said}");
        }
        assert_eq!(said.matches("BEGIN CERTIFICATE").count(), 3, "leaf, issuer, root: {said}");
        assert!(
            said.contains("BEGIN PRIVATE KEY") && said.contains(issued["certificate"].as_str().unwrap().trim()),
            "{said}"
        );
        // The key is that of the certificate.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("all.pem");
        std::fs::write(&path, &said).unwrap();
        let public = |kind: &[&str]| Command::new("openssl").args(kind).arg("-in").arg(&path).output().unwrap().stdout;
        assert_eq!(public(&["pkey", "-pubout"]), public(&["x509", "-noout", "-pubkey"]));
    }
    let chosen = json!({"configuration": "wifi", "device": {"serial": "C02Z"}, "pkcs12": {"password": "pässwörd 1"}});
    let issued = bench.post("/certificates", &chosen).json();
    assert_eq!(issued.get("password"), None);
    openssl_pkcs12(&STANDARD.decode(issued["pkcs12"].as_str().unwrap()).unwrap(), "pässwörd 1", &[]);
    let weak = json!({"configuration": "wifi", "device": {"serial": "C02Z"}, "pkcs12": {"password": "short"}});
    assert_eq!(bench.post("/certificates", &weak).status, 400);
}

#[test]
fn s47_neither_key_nor_password_reaches_the_store() {
    let bench = Bench::start();
    let body =
        json!({"configuration": "wifi", "device": {"serial": "C02Y"}, "pkcs12": {"password": "canary-in-the-mine"}});
    let with_key = [("authorization", bench.bearer()), ("idempotency-key", "one".to_owned())];
    let headers: Vec<_> = with_key.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(bench.ask(Method::POST, "/certificates", &headers, body.to_string()).status, 201);
    let audit = format!("{:?}", audit_log(&bench.pki.engine));
    assert!(!audit.contains("canary") && !audit.contains(&bench.token.1), "a secret is in the audit log");
}

#[test]
fn s47_a_key_made_here_is_kept_only_where_that_is_asked_for_and_only_for_the_holders_of_recovery_keys() {
    let wish = json!({"configuration": "wifi", "device": {"serial": "C02Y"}, "pkcs12": {}});
    let serial =
        |issued: &Value| Serial::parse(issued["serial"].as_str().unwrap_or_else(|| panic!("{issued}"))).unwrap();
    let bench = Bench::start();
    let issued = bench.post("/certificates", &wish).json();
    let missing = bench.pki.engine.archived_key(&serial(&issued), OPERATOR).unwrap_err();
    assert_eq!(reason(&missing), Reason::UnknownCertificate);

    let holders = [Device::new("cn=recovery 1"), Device::new("cn=recovery 2")];
    let mut archiving = options();
    let pem = |holder: &Device| der::pem::encode_string("CERTIFICATE", LineEnding::LF, &holder.certificate).unwrap();
    archiving["archive"] = json!({"recovery_certificates": holders.iter().map(pem).collect::<Vec<_>>()});
    let bench = Bench::with(archiving);
    let first = bench.post("/certificates", &wish).json();
    let path = format!("/certificates/{}/renew", first["serial"].as_str().unwrap());
    let renewed = bench.post(&path, &json!({"pkcs12": {}})).json();
    for issued in [&first, &renewed] {
        let envelope = bench.pki.engine.archived_key(&serial(issued), OPERATOR).unwrap();
        for holder in &holders {
            let ssl = OpenSsl::new();
            ssl.put("envelope.der", &envelope);
            ssl.put_certificate("recovery.pem", &holder.certificate);
            ssl.put("recovery.der", holder.private_key());
            ssl.run("pkcs8 -inform DER -in recovery.der -nocrypt -out recovery.key");
            ssl.put("leaf.pem", issued["certificate"].as_str().unwrap());
            ssl.run("cms -decrypt -inform DER -in envelope.der -recip recovery.pem -inkey recovery.key -out key.der");
            ssl.run("pkey -inform DER -in key.der -pubout -out key.pub");
            ssl.run("x509 -in leaf.pem -noout -pubkey -out leaf.pub");
            assert_eq!(ssl.take("key.pub"), ssl.take("leaf.pub"));
            let key = ssl.take("key.der");
            assert!(!envelope.windows(key.len()).any(|octets| octets == key));
            let shown = ssl.run("cms -cmsout -print -inform DER -in envelope.der");
            assert!(shown.contains("aes-256-cbc") && shown.contains("rsaesOaep"), "{shown}");
        }
    }
    // What a device made itself is not here to be kept.
    let own = bench.issue("C02X");
    let missing = bench.pki.engine.archived_key(&serial(&own), OPERATOR).unwrap_err();
    assert_eq!(reason(&missing), Reason::UnknownCertificate);
    let count = |action: Action| audited(&bench.pki.engine, action).len();
    assert_eq!((count(Action::KeyArchived), count(Action::ArchivedKeyGiven)), (2, 2));

    // Nothing is issued for which nobody could recover the key.
    let signed = || {
        let log = audit_log(&bench.pki.engine);
        let ours = |origin: &Option<Origin>| origin.as_ref().is_some_and(|origin| origin.protocol.as_str() == "mdm");
        log.iter().filter(|entry| entry.record.action == Action::Signed && ours(&entry.record.origin)).count()
    };
    assert_eq!(signed(), 3);
    bench.pki.pass_s(16 * 366 * 86_400);
    let refused = bench.post("/certificates", &wish);
    assert_eq!((refused.status, refused.json()["reason"].clone()), (409, json!("not-ready")));
    assert!(refused.json()["detail"].as_str().unwrap().contains("recovery"), "{}", refused.json());
    assert_eq!((count(Action::KeyArchived), signed()), (2, 3));
}

#[test]
fn an_archived_key_is_opened_with_a_recovery_key_on_any_curve_and_with_one_of_rsa_beside_it() {
    let curves = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P521_SHA512];
    let on_curve = |algorithm| {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        (rcgen::CertificateParams::default().self_signed(&key).unwrap().der().to_vec(), key.serialize_der())
    };
    let mut holders: Vec<_> = curves.into_iter().map(on_curve).collect();
    let with_rsa = Device::new("cn=recovery");
    holders.push((with_rsa.certificate.clone(), with_rsa.private_key().to_vec()));
    let pem = |der: &Vec<u8>| der::pem::encode_string("CERTIFICATE", LineEnding::LF, der).unwrap();
    let mut archiving = options();
    let certificates: Vec<_> = holders.iter().map(|(certificate, _)| pem(certificate)).collect();
    archiving["archive"] = json!({"recovery_certificates": certificates});
    let bench = Bench::with(archiving);
    let wish = json!({"configuration": "wifi", "device": {"serial": "C02Y"}, "pkcs12": {}});
    let issued = bench.post("/certificates", &wish).json();
    let serial = Serial::parse(issued["serial"].as_str().unwrap_or_else(|| panic!("{issued}"))).unwrap();
    let envelope = bench.pki.engine.archived_key(&serial, OPERATOR).unwrap();
    let ssl = OpenSsl::new();
    ssl.put("envelope.der", &envelope);
    ssl.put("leaf.pem", issued["certificate"].as_str().unwrap());
    ssl.run("x509 -in leaf.pem -noout -pubkey -out leaf.pub");
    for (certificate, key) in &holders {
        ssl.put_certificate("recovery.pem", certificate);
        ssl.put("recovery.der", key);
        ssl.run("pkey -inform DER -in recovery.der -out recovery.key");
        ssl.run("cms -decrypt -inform DER -in envelope.der -recip recovery.pem -inkey recovery.key -out key.der");
        ssl.run("pkey -inform DER -in key.der -pubout -out key.pub");
        assert_eq!(ssl.take("key.pub"), ssl.take("leaf.pub"));
    }
    let shown = ssl.run("cms -cmsout -print -inform DER -in envelope.der");
    for algorithm in ["sha256kdf", "sha384kdf", "sha512kdf", "id-aes256-wrap", "aes-256-cbc", "rsaesOaep", "version: 2"]
    {
        assert!(shown.contains(algorithm), "{algorithm} is missing in {shown}");
    }
}

#[test]
fn recovery_certificates_are_certificates_that_can_be_encrypted_for() {
    let bench = Bench::start();
    let settings = (*bench.pki.engine.endpoint(&EndpointName::new("fleet").unwrap()).unwrap()).clone();
    let pem = |label: &str, der: &[u8]| der::pem::encode_string(label, LineEnding::LF, der).unwrap();
    let good = Device::new("cn=recovery");
    let curve = der::pem::decode_vec(bench.issue("C02X")["certificate"].as_str().unwrap().as_bytes()).unwrap().1;
    let refused = |certificates: Value| {
        let mut settings = settings.clone();
        settings.options["archive"] = json!({"recovery_certificates": certificates});
        MdmOptions::parse(&settings).map(drop).map_err(|refusal| refusal.public().to_owned())
    };
    let text = pem("CERTIFICATE", &good.certificate);
    assert_eq!(refused(json!([text, pem("CERTIFICATE", &curve)])), Ok(()));
    let mut off_its_curve = curve.clone();
    let point = pkcs7::CertificateView::of(&curve).unwrap().public_key.to_vec();
    let at = curve.windows(point.len()).position(|window| window == point).unwrap() + point.len() - 1;
    off_its_curve[at] ^= 1;
    let unfit = |kind: &str| {
        let ssl = OpenSsl::new();
        ssl.run(&format!("req -x509 -newkey {kind} -noenc -keyout key.pem -out unfit.pem -subj /CN=recovery"));
        ssl.run("x509 -in unfit.pem -outform DER -out unfit.der");
        ssl.take("unfit.der")
    };
    for (certificates, why) in [
        (json!([]), "1 to 8"),
        (json!(vec![text.clone(); 9]), "1 to 8"),
        (json!(["recovery.pem"]), "not PEM"),
        (json!([pem("PRIVATE KEY", good.private_key())]), "PRIVATE KEY"),
        (json!([pem("CERTIFICATE", good.private_key())]), "no certificate"),
        (json!([text, pem("CERTIFICATE", &off_its_curve)]), "no point of its curve"),
        (
            json!([text, pem("CERTIFICATE", &unfit("ec -pkeyopt ec_paramgen_curve:brainpoolP256r1"))]),
            "1.3.36.3.3.2.8.1.1.7",
        ),
        (json!([text, pem("CERTIFICATE", &unfit("ed25519"))]), "not an RSA key"),
    ] {
        let said = refused(certificates).unwrap_err();
        assert!(said.contains(why), "{why}: {said}");
    }
}

#[test]
fn a_repeated_call_makes_no_second_certificate() {
    let bench = Bench::start();
    let bearer = bench.bearer();
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "call-1")];
    let body = wish("C02X", &Key::ec()).to_string();
    let first = bench.ask(Method::POST, "/certificates", &headers, body.clone());
    let second = bench.ask(Method::POST, "/certificates", &headers, body);
    assert_eq!((first.status, second.status), (201, 201));
    assert_eq!(first.json()["serial"], second.json()["serial"]);
    bench.pki.pass_s(3 * 3_600);
    let other = bench.ask(Method::POST, "/certificates", &headers, wish("C02W", &Key::ec()).to_string());
    assert_eq!((other.status, other.json()["reason"].clone()), (409, json!("conflict")));

    // A key that was given out is not there any more.
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "call-2")];
    let body = json!({"configuration": "wifi", "device": {"serial": "C02Y"}, "pkcs12": {}}).to_string();
    let first = bench.ask(Method::POST, "/certificates", &headers, body.clone());
    let again = bench.ask(Method::POST, "/certificates", &headers, body);
    assert_eq!((first.status, again.status), (201, 409));
    assert!(again.json()["detail"].as_str().unwrap().contains(first.json()["serial"].as_str().unwrap()));
    // Two days later the key of the call is free again.
    bench.pki.pass_s(2 * 86_400 + 1);
    assert!(Mdm::expire(&bench.pki.engine).unwrap() > 0);
    assert_eq!(Mdm::expire(&bench.pki.engine).unwrap(), 0);
}

#[test]
fn certificates_are_listed_renewed_held_and_revoked() {
    let bench = Bench::start();
    let serials: Vec<String> = (0..3).map(|_| bench.issue("C02X")["serial"].as_str().unwrap().to_owned()).collect();
    bench.issue("C02Z");
    let mut serials = serials;
    serials.sort();
    let of_device = bench.get("/certificates?device=dev-C02X").json();
    let listed: Vec<_> = of_device["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["serial"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed, serials);
    assert_eq!(bench.get("/certificates?user=ann").json()["certificates"].as_array().unwrap().len(), 4);
    assert_eq!(bench.get("/certificates").status, 400);
    let one = &serials[0];
    assert_eq!(bench.get(&format!("/certificates/{one}")).json()["state"], "normal");

    let renewed = bench.post(&format!("/certificates/{one}/renew"), &json!({"pkcs12": {}}));
    assert_eq!(renewed.status, 201, "{}", String::from_utf8_lossy(&renewed.body));
    assert_eq!(renewed.json()["alternative_names"], json!(["dns:c02x.mdm.example.org"]));
    assert_eq!(renewed.json()["device"], "dev-C02X");

    assert_eq!(bench.post(&format!("/certificates/{one}/hold"), &json!({})).json()["state"], "held");
    assert_eq!(bench.post(&format!("/certificates/{one}/renew"), &json!({"pkcs12": {}})).status, 401);
    assert_eq!(bench.post(&format!("/certificates/{one}/unhold"), &json!({})).json()["state"], "normal");
    let revoked = bench.post(&format!("/certificates/{one}/revoke"), &json!({"reason": "superseded"}));
    assert_eq!(revoked.json()["state"], "revoked");
    assert_eq!(bench.post(&format!("/certificates/{one}/revoke"), &json!({})).status, 409);

    let lost = bench
        .post("/certificates/status", &json!({"change": "revoke", "reason": "keyCompromise", "device": "dev-C02X"}))
        .json();
    assert_eq!((lost["results"].as_array().unwrap().len(), lost["more"].clone()), (3, json!(false)));
    let left = bench.get("/certificates?user=ann").json();
    let normal = left["certificates"].as_array().unwrap().iter().filter(|one| one["state"] == "normal").count();
    assert_eq!(normal, 1, "the other device's");
    assert_eq!(bench.get("/certificates/01").status, 404);
}

#[test]
fn bulk_items_stand_by_themselves() {
    let bench = Bench::start();
    let items = json!({"items": [wish("A1", &Key::ec()), {"configuration": "none"}, wish("bad name*", &Key::ec()), wish("A2", &Key::ec())]});
    let reply = bench.post("/certificates/bulk", &items).json();
    let results = reply["results"].as_array().unwrap();
    assert!(results[0]["granted"]["serial"].is_string() && results[3]["granted"]["serial"].is_string());
    assert_eq!(results[1]["problem"]["reason"], "unknown-profile");
    assert_eq!(results[2]["problem"]["reason"], "name-not-allowed");
    assert_eq!(bench.post("/certificates/bulk", &json!({"items": []})).status, 400);
}

#[test]
fn s05_values_are_data_in_subjects_and_alternative_names() {
    let bench = Bench::start();
    let mut body = wish("x", &Key::ec());
    body["configuration"] = json!("wifi");
    for (value, status) in
        [("*", 403), ("a.b,dns:evil", 403), ("\u{0}", 400), ("{user.id}", 403), ("evil.example/", 403), ("", 400)]
    {
        body["device"]["serial"] = json!(value);
        assert_eq!(bench.post("/certificates", &body).status, status, "{value:?}");
    }
    body["device"]["serial"] = json!("x");
    body["variables"] = json!({"site": "a,cn=root+o=Evil\\;#"});
    let issued = bench.post("/certificates", &body).json();
    assert_eq!(issued["subject"].as_str().unwrap().matches("=").count(), 5, "one cn, one o, one ou: {issued}");
    body["user"]["upn"] = json!("ann@evil.example");
    assert_eq!(bench.post("/certificates", &body).status, 403, "the rules hold for what templates make");
}

#[test]
fn s52_a_token_does_what_it_may_and_no_more() {
    let bench = Bench::start();
    for (rights, path, method) in [
        ("list", "/certificates", Method::POST),
        ("issue", "/challenges", Method::POST),
        ("create-challenges", "/configurations", Method::GET),
    ] {
        let (_, secret) = token(&bench.pki, json!({"rights": [rights]}));
        let body = if path == "/certificates" { wish("x", &Key::ec()).to_string() } else { String::new() };
        let reply = bench.ask(method, path, &[("authorization", &format!("Bearer {secret}"))], body);
        assert_eq!(reply.status, 403, "{rights} {path}");
    }
    let (_, bound) = token(
        &bench.pki,
        json!({"rights": ["issue", "revoke", "create-challenges"], "names": {"dns": [".only.mdm.example.org"], "subject": [{"attribute": "cn", "value": "*"}, {"attribute": "o", "value": "Example"}]}}),
    );
    let reply = bench.ask(
        Method::POST,
        "/certificates",
        &[("authorization", &format!("Bearer {bound}"))],
        wish("x", &Key::ec()).to_string(),
    );
    assert_eq!((reply.status, reply.json()["reason"].clone()), (403, json!("name-not-allowed")));
    // What such a token makes is bound as it is.
    let made = bench.ask(Method::POST, "/challenges", &[("authorization", &format!("Bearer {bound}"))], "");
    let id = made.json()["id"].as_str().unwrap().parse().unwrap();
    assert!(bench.pki.engine.credential(&id).unwrap().unwrap().binding.names.is_some());
    // Names that the maker states are no way around those that its token stands for.
    let exact = json!({"rights": ["create-challenges"], "subject": "cn=kiosk", "alternative_names": ["dns:kiosk.mdm.example.org"]});
    let (_, exact) = token(&bench.pki, exact);
    let exact = format!("Bearer {exact}");
    let make =
        |body: Value| bench.ask(Method::POST, "/challenges", &[("authorization", exact.as_str())], body.to_string());
    for body in [
        json!({"subject": "cn=kiosk", "alternative_names": ["dns:payroll.mdm.example.org"]}),
        json!({"subject": "cn=payroll", "alternative_names": ["dns:kiosk.mdm.example.org"]}),
        json!({"configuration": "wifi", "device": {"serial": "payroll"}}),
    ] {
        let reply = make(body.clone());
        assert_eq!((reply.status, reply.json()["reason"].clone()), (403, json!("name-not-allowed")), "{body}");
    }
    for body in [json!({}), json!({"subject": "cn=kiosk", "alternative_names": ["dns:kiosk.mdm.example.org"]})] {
        assert_eq!(make(body.clone()).status, 201, "{body}");
    }
    for credential in ["Bearer wrong", "Basic !!", "Negotiate abc", "Bearer"] {
        assert_eq!(
            bench.ask(Method::GET, "/configurations", &[("authorization", credential)], "").status,
            401,
            "{credential}"
        );
    }
    assert_eq!(bench.ask(Method::GET, "/configurations", &[], "").status, 401);
}

#[test]
fn a_client_certificate_stands_for_a_token_where_the_options_name_it() {
    let bench = Bench::start();
    let shown = bench.issue("C02X");
    let der = der::pem::decode_vec(shown["certificate"].as_str().unwrap().as_bytes()).unwrap().1;
    let tls = || Some(TlsPeer { client_certificates: vec![der.clone().into()], ..TlsPeer::default() });
    assert_eq!(bench.ask_from(tls(), Method::GET, "/configurations", &[], "").status, 401);
    let mut options = options();
    options["clients"] = json!([{"certificate": shown["serial"], "rights": ["list"]}]);
    let mut settings = (*bench.pki.engine.endpoint(&EndpointName::new("fleet").unwrap()).unwrap()).clone();
    settings.options = options;
    bench.pki.engine.put_endpoint(&settings, OPERATOR).unwrap();
    assert_eq!(bench.ask_from(tls(), Method::GET, "/configurations", &[], "").status, 200);
    assert_eq!(bench.ask_from(tls(), Method::POST, "/challenges", &[], "").status, 403);
}

#[test]
fn challenges_are_made_listed_and_removed_by_their_maker() {
    let bench = Bench::start();
    let body = json!({"configuration": "wifi", "device": {"serial": "C02X"}, "lifetime_s": 600});
    let made = bench.post("/challenges", &body).json();
    let secret = made["challenge"].as_str().unwrap();
    assert!(
        secret.len() >= 32 && secret.bytes().all(|octet| octet.is_ascii_digit() || octet.is_ascii_uppercase()),
        "{made}"
    );
    let id = made["id"].as_str().unwrap();
    let kept = bench.pki.engine.credential(&id.parse().unwrap()).unwrap().unwrap();
    assert_eq!(
        (kept.endpoint.as_str(), kept.uses_max, kept.binding.alternative_names.as_ref().map(Vec::len)),
        ("devices", Some(1), Some(1))
    );
    // The SCEP endpoint takes it.
    let origin = Origin {
        protocol: ProtocolName::new("scep").unwrap(),
        endpoint: Some(EndpointName::new("devices").unwrap()),
        transaction: "t".to_owned(),
        request_digest: [0; 32],
        peer: None,
        request_id: String::new(),
    };
    let scope = SecretScope::new(EndpointName::new("devices").unwrap(), CredentialPurpose::Challenge);
    bench.pki.engine.verify_secret(&scope, secret.as_bytes(), &origin).unwrap();

    assert_eq!(bench.get("/challenges").json().as_array().unwrap().len(), 1);
    let (_, other) = token(&bench.pki, json!({"rights": ["create-challenges"]}));
    let header = format!("Bearer {other}");
    let foreign = [("authorization", header.as_str())];
    assert_eq!(bench.ask(Method::GET, "/challenges", &foreign, "").json(), json!([]));
    assert_eq!(bench.ask(Method::DELETE, &format!("/challenges/{id}"), &foreign, "").status, 404);
    let bearer = bench.bearer();
    assert_eq!(bench.ask(Method::DELETE, &format!("/challenges/{id}"), &[("authorization", &bearer)], "").status, 204);
    let gone = bench.pki.engine.verify_secret(&scope, secret.as_bytes(), &origin).unwrap_err();
    assert_eq!(reason(&gone), Reason::NotAuthenticated);
    assert!(audit_log(&bench.pki.engine).iter().any(|entry| entry.record.action == Action::CredentialChanged));
}

fn utf16(body: &[u8]) -> String {
    let units: Vec<u16> = body.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    assert_eq!(units[0], 0xfeff, "a byte order mark");
    String::from_utf16(&units[1..]).unwrap()
}

/// What Fleet, Workspace ONE and others look for: the phrase, then what stands after `<B> `.
fn after_phrase(page: &str, phrase: &str) -> String {
    let (_, rest) = page.split_once(phrase).unwrap_or_else(|| panic!("{phrase} is missing in {page}"));
    rest.strip_prefix("<B> ").unwrap().split(" </B>").next().unwrap().to_owned()
}

#[test]
fn quirk_ndes_the_page_reads_like_that_of_windows() {
    let bench = Bench::start();
    let basic = bench.basic();
    let page = bench.ask(Method::GET, "/certsrv/mscep_admin/", &[("authorization", &basic)], "");
    assert_eq!((page.status, page.kind.as_str()), (200, "text/html; charset=utf-16"));
    let text = utf16(&page.body);
    let challenge = after_phrase(&text, "The enrollment challenge password is: ");
    assert!(challenge.len() >= 16 && challenge.bytes().all(|octet| b"0123456789ABCDEF".contains(&octet)), "{text}");
    assert_eq!(
        after_phrase(&text, "The thumbprint (hash value) for the CA certificate is: ").replace(' ', "").len(),
        40
    );
    assert!(text.contains("This password can be used only once and will expire within 60 minutes."));

    for path in ["/certsrv/mscep_admin", "/certsrv/mscep_admin/?x=1"] {
        assert_eq!(bench.ask(Method::GET, path, &[("authorization", &basic)], "").status, 200);
    }
    let full = utf16(&bench.ask(Method::GET, "/certsrv/mscep_admin/", &[("authorization", &basic)], "").body);
    assert!(full.contains("The password cache is full."), "{full}");
    assert_eq!(bench.post("/challenges", &json!({})).status, 409);

    let (id, secret) = token(&bench.pki, json!({"rights": ["list"]}));
    let powerless = format!("Basic {}", STANDARD.encode(format!("CORP\\{id}:{secret}")));
    let page = bench.ask(Method::GET, "/certsrv/mscep_admin/", &[("authorization", &powerless)], "");
    assert!(utf16(&page.body).contains("You do not have sufficient permission to enroll with SCEP."));
    let anonymous = bench.ask(Method::GET, "/certsrv/mscep_admin/", &[], "");
    assert_eq!(anonymous.status, 401);
    assert_eq!(bench.ask(Method::POST, "/certsrv/mscep_admin/", &[("authorization", &basic)], "").status, 405);

    // An expired challenge leaves its place.
    bench.pki.pass_s(3_601);
    let page = utf16(&bench.ask(Method::GET, "/certsrv/mscep_admin/", &[("authorization", &basic)], "").body);
    assert!(page.contains("challenge password is"), "{page}");
}

#[test]
fn the_page_can_be_utf_8_and_challenges_are_limited_by_the_minute() {
    let mut stated = options();
    stated["challenges"] =
        json!({"scep_endpoint": "devices", "ndes": true, "ndes_charset": "utf-8", "per_minute_max": 2});
    let bench = Bench::with(stated);
    let basic = bench.basic();
    let page = bench.ask(Method::GET, "/certsrv/mscep_admin/", &[("authorization", &basic)], "");
    assert_eq!(page.kind, "text/html; charset=utf-8");
    after_phrase(&String::from_utf8(page.body).unwrap(), "The enrollment challenge password is: ");
    assert_eq!(bench.post("/challenges", &json!({})).status, 201);
    assert_eq!(bench.post("/challenges", &json!({})).status, 429);
    bench.pki.pass_s(60);
    assert_eq!(bench.post("/challenges", &json!({})).status, 201);
}

#[test]
fn quirk_jamf_the_webhook_answers_with_the_challenge_as_text() {
    let bench = Bench::start();
    let basic = bench.basic();
    let event = json!({"webhook": {"webhookEvent": "SCEPChallenge", "id": 1, "name": "certgate", "eventTimestamp": 1_700_000_000},
        "event": {"scepServerUrl": "https://ca.example/scep/devices", "payloadIdentifier": "x", "payloadTypes": ["com.apple.security.scep"], "targetDevice": {"serialNumber": "C02X"}}});
    let reply = bench.ask(Method::POST, "/jamf", &[("authorization", &basic)], event.to_string());
    assert_eq!((reply.status, reply.kind.as_str()), (200, "text/plain; charset=utf-8"));
    assert!(reply.body.len() >= 32 && reply.body.iter().all(u8::is_ascii_hexdigit));
    let other = event.to_string().replace("SCEPChallenge", "ComputerAdded");
    assert_eq!(bench.ask(Method::POST, "/jamf", &[("authorization", &basic)], other).status, 400);
}

#[test]
fn s20_bad_requests_get_an_answer_that_says_so() {
    let bench = Bench::start();
    let bearer = bench.bearer();
    let headers = [("authorization", bearer.as_str())];
    let good = wish("C02X", &Key::ec()).to_string();
    for cut in (0..good.len()).step_by(7) {
        let reply = bench.ask(Method::POST, "/certificates", &headers, good[..cut].to_owned());
        assert_eq!(reply.status, 400, "cut at {cut}");
    }
    let deep = "[".repeat(100_000);
    for body in [
        deep.as_str(),
        "null",
        "[]",
        "\u{feff}{}",
        "{\"configuration\":1}",
        "{\"configuration\":\"wifi\",\"x\":1}",
        "\u{0}",
    ] {
        assert_eq!(bench.ask(Method::POST, "/certificates", &headers, body.to_owned()).status, 400);
        assert_eq!(bench.ask(Method::POST, "/jamf", &headers, body.to_owned()).status, 400);
    }
    for (path, status) in [
        ("/", 404),
        ("/certificates/%00", 404),
        ("/certificates/../x", 404),
        ("/certificates/zz/revoke", 404),
        ("/challenges/..", 404),
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let reply = bench.ask(method.clone(), path, &headers, "{}");
            assert!([status, 405].contains(&reply.status), "{method} {path}: {}", reply.status);
        }
    }
    for key in ["", &"k".repeat(129)] {
        let reply = bench.ask(Method::POST, "/certificates", &[headers[0], ("idempotency-key", key)], good.clone());
        assert_eq!(reply.status, 400);
    }
    let too_many: serde_json::Map<String, Value> = (0..65).map(|at| (format!("v{at}"), json!("x"))).collect();
    let mut many = wish("C02X", &Key::ec());
    many["variables"] = Value::Object(too_many);
    assert_eq!(bench.post("/certificates", &many).status, 400);
}

#[test]
fn the_description_is_openapi_3_1_and_everything_in_it_is_there() {
    let bench = Bench::start();
    let document = bench.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    tests::openapi::assert_valid(&document);
    let paths = document["paths"].as_object().unwrap();
    let mut operations = BTreeSet::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            operations.insert(operation["operationId"].as_str().unwrap().to_owned());
            let path = path.replace("{serial}", "4f0a").replace("{id}", "nobody");
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let reply = bench.ask(method.clone(), &path, &[("authorization", &bench.bearer())], "{}");
            assert_ne!(reply.status, 405, "{method} {path}");
            let said = String::from_utf8_lossy(&reply.body).into_owned();
            assert!(!said.contains("nothing at this address"), "{method} {path}: {said}");
        }
    }
    assert_eq!(operations.len(), 15, "{operations:?}");
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let pki = Pki::start();
    for (path, value) in [
        ("/configurations/0/profile", json!("intune-digital-signature")),
        ("/configurations/0/subject/0/attribute", json!("nothing")),
        ("/configurations/0/subject/0/value", json!("{device.}")),
        ("/configurations/0/alternative_names/0/value", json!("dn:cn={device.serial}")),
        ("/configurations/1/name", json!("wifi")),
        ("/challenges/lifetime_s", json!(1)),
        ("/challenges/ndes_charset", json!("latin-1")),
    ] {
        let mut options = options();
        let (parent, member) = path.rsplit_once('/').unwrap();
        options.pointer_mut(parent).unwrap()[member] = value;
        let settings = json!({"name": "fleet", "protocol": "mdm", "authority": ISSUING, "profiles": [PROFILE], "options": options});
        let settings: ca_backend::Endpoint = serde_json::from_value(settings).unwrap();
        assert!(MdmOptions::parse(&settings).is_err(), "{path}");
        pki.engine.put_endpoint(&settings, OPERATOR).unwrap();
        let mounted = Mdm::mount(pki.engine.clone(), settings.name.clone(), "https://ca.example/mdm/fleet");
        assert!(matches!(mounted, Err(Error::Refused(_))), "{path}");
    }
}
