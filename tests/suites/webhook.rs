//! A webhook as the judge of SCEP requests: the real daemon, a service with TLS, and a client that none of us wrote.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_backend::CertificateRequest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::daemon::{Site, text};
use tests::scep_client::{Device, Message, is_registration_authority};
use tests::webhook::{BEARER, CHALLENGE, Judge, Mishap, NOTICE_SECRET, SIGNING_SECRET};

const PROFILE: &str = "scep-digital-signature";

fn secret(site: &Site, name: &str, content: &str) -> Value {
    let path = site.path(name);
    std::fs::write(&path, format!("{content}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    json!({"file": path})
}

fn options(site: &Site, judge: &Judge) -> Value {
    std::fs::write(site.path("roots.pem"), &judge.root_pem).unwrap();
    json!({
        "url": format!("https://localhost:{}/judge", judge.address.port()), "id": "hook-1",
        "signing_secret": secret(site, "signing", SIGNING_SECRET), "bearer": secret(site, "bearer", BEARER),
        "roots": site.path("roots.pem"), "reachable_networks": ["127.0.0.0/8"], "attempt_timeout_s": 1, "deadline_s": 2,
    })
}

/// Stores the endpoint `hook`, with this webhook.
fn put(site: &Site, webhook: &Value) {
    put_for(site, webhook, "*");
}

/// The same, for these common names.
fn put_for(site: &Site, webhook: &Value, common_name: &str) {
    let mut subject: Vec<_> = ["ou", "o", "c"].map(|kind| json!({"attribute": kind, "value": "*"})).into();
    subject.push(json!({"attribute": "cn", "value": common_name}));
    let rule = |name: &str, requester: Value| json!({"name": name, "requesters": [requester], "profiles": [PROFILE], "allow": {"subject": subject}});
    let endpoint = json!({
        "name": "hook", "protocol": "scep", "authority": "issuing", "profiles": [PROFILE],
        // scepclient knows SHA-1 and DES only.
        "options": {"webhook": webhook, "allow_sha1": true, "allow_des": true},
        "rules": [
            rule("judged", json!({"evidence": "device", "requester": "device:webhook:*"})),
            rule("known", json!({"evidence": "secret", "requester": "credential:*"})),
        ],
    });
    let file = site.path("endpoint.json");
    std::fs::write(&file, endpoint.to_string()).unwrap();
    let _stored = site.json(&["endpoint", "put", file.to_str().unwrap()]);
}

/// Whether a new device gets a certificate, and what scepclient says.
fn enrolls(site: &Site, challenge: &str) -> (bool, String) {
    let directory = TempDir::new().unwrap();
    let url = format!("http://localhost:{}/scep/hook", site.http_port);
    // Endpoints of one authority share its registration authority, whose fingerprint the starter tells.
    let starter = text(&site.path("state/starter.txt"));
    let (_, rest) = starter.split_once("-ca-fingerprint ").expect("the starter says how to enroll");
    let fingerprint = rest.split_whitespace().next().unwrap();
    let output = Command::new("scepclient")
        .args(["-server-url", &url, "-ca-fingerprint", fingerprint, "-challenge", challenge, "-cn", "pc1"])
        .args(["-private-key", "client.key", "-certificate", "client.pem"])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("scepclient (tests/run installs it): {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let got = directory.path().join("client.pem").exists();
    assert_eq!(output.status.success(), got, "{said}");
    (got, said)
}

fn issued(site: &Site) -> usize {
    site.json(&["certificate", "list", "--profile", PROFILE, "--state", "normal"])["items"].as_array().unwrap().len()
}

#[test]
fn scepclient_gets_what_the_webhook_allows_and_nothing_without_its_word() {
    let judge = Judge::start();
    let site = Site::new("");
    let daemon = site.start();
    let webhook = options(&site, &judge);
    put(&site, &webhook);

    let (got, said) = enrolls(&site, CHALLENGE);
    assert!(got, "{said}\n{}", daemon.log());
    let question = judge.seen().questions[0].clone();
    let csr = STANDARD.decode(question["x509CertificateRequest"]["raw"].as_str().unwrap()).unwrap();
    let csr = CertificateRequest::open(&csr).unwrap();
    let key = STANDARD.encode(csr.key().subject_key().spki_der());
    assert_eq!(question["x509CertificateRequest"]["publicKey"], key);
    assert_eq!((&question["provisionerName"], &question["peer"]), (&json!("hook"), &json!("127.0.0.1")));
    assert!(!question["scepTransactionID"].as_str().unwrap().is_empty(), "{question}");
    assert!(question["timestamp"].as_str().unwrap().ends_with('Z'), "{question}");

    let (got, said) = enrolls(&site, "a wrong one");
    assert!(!got && said.contains("badRequest"), "{said}");
    assert_eq!((issued(&site), judge.seen().questions.len()), (1, 2));

    // A challenge that was made here is nobody else's business.
    let made = site.json(&["credential", "create", "--endpoint", "hook", "--purpose", "challenge"]);
    assert!(enrolls(&site, made["secret"].as_str().unwrap()).0);
    assert_eq!((issued(&site), judge.seen().questions.len()), (2, 2));

    // Short troubles are sat out.
    for mishap in [Mishap::Status(500), Mishap::Status(503), Mishap::Says("<html>")] {
        judge.next(mishap);
        assert!(enrolls(&site, CHALLENGE).0);
    }
    // Whatever is no clear word is none.
    let issued_before = issued(&site);
    for (mishap, asked) in [
        (Mishap::Status(401), 1),
        (Mishap::Status(403), 1),
        (Mishap::Redirect, 1),
        (Mishap::Giant, 1),
        (Mishap::Status(204), 1),
        (Mishap::Status(500), 4),
        (Mishap::Says("{\"allow\": \"yes\"}"), 4),
        (Mishap::Says("{\"allowed\": true}"), 4),
        (Mishap::Says("true"), 4),
        (Mishap::Silence, 4),
    ] {
        (0..4).for_each(|_| judge.next(mishap.clone()));
        let before = judge.seen().requests;
        let (got, said) = enrolls(&site, CHALLENGE);
        assert!(!got && said.contains("badRequest"), "{mishap:?}: {said}");
        let requests = judge.seen().requests - before;
        assert!(requests >= 1 && requests <= asked, "{mishap:?}: {requests} requests");
        judge.be_well();
    }
    assert_eq!(issued(&site), issued_before);
    let audit = site.output(&["audit", "list", "--json"]);
    let audit = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(audit.contains("the webhook refused") && audit.contains("the webhook gave no verdict"), "{audit}");
    let log = daemon.log();
    assert!(log.contains("the webhook gave no verdict"), "{log}");
    for secret in [BEARER, SIGNING_SECRET, CHALLENGE] {
        assert!(!log.contains(secret) && !audit.contains(secret), "a secret was told");
    }
}

#[test]
fn the_service_is_reached_only_under_its_roots_by_its_name_and_through_the_proxy_that_is_set() {
    let (judge, stranger) = (Judge::start(), Judge::start());
    let site = Site::new("");
    let daemon = site.start();
    let right = options(&site, &judge);
    put(&site, &right);
    assert!(enrolls(&site, CHALLENGE).0);
    assert!(judge.seen().tunnels.is_empty());

    let mut proxied = right.clone();
    proxied["proxy"] = json!(format!("http://{}", judge.proxy));
    put(&site, &proxied);
    assert!(enrolls(&site, CHALLENGE).0, "{}", daemon.log());
    assert_eq!(judge.seen().tunnels, [format!("localhost:{}", judge.address.port())]);

    let asked = judge.seen().requests;
    let other_roots = site.path("other-roots.pem");
    std::fs::write(&other_roots, &stranger.root_pem).unwrap();
    for (member, value) in [
        ("roots", json!(other_roots)),
        ("url", json!(format!("https://127.0.0.1:{}/judge", judge.address.port()))),
        ("reachable_networks", json!([])),
        ("url", json!(format!("http://localhost:{}/judge", judge.address.port()))),
    ] {
        let mut wrong = right.clone();
        wrong[member] = value;
        put(&site, &wrong);
        let (got, said) = enrolls(&site, CHALLENGE);
        assert!(!got, "{wrong}: {said}");
    }
    assert_eq!(judge.seen().requests, asked, "the question, and with it the challenge, went to somebody unknown");
}

#[test]
fn no_proxy_of_the_environment_is_taken_only_the_one_that_is_set() {
    let judge = Judge::start();
    let names = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    let proxy = format!("http://{}", judge.proxy);
    let site = names.into_iter().fold(Site::new(""), |site, name| site.with_variable(name, &proxy));
    let daemon = site.start();
    let webhook = options(&site, &judge);
    put(&site, &webhook);
    assert!(enrolls(&site, CHALLENGE).0, "{}", daemon.log());
    let mut plain = webhook.clone();
    plain["url"] = json!(format!("http://localhost:{}/judge", judge.address.port()));
    put(&site, &plain);
    assert!(!enrolls(&site, CHALLENGE).0, "the service speaks TLS");

    // Intune goes the same way. Its token does not come from here, but the question for it does.
    let roots = site.path("roots.pem");
    let intune = json!({
        "tenant": "contoso.example", "client_id": "app", "secret": secret(&site, "intune", "word"),
        "login_url": format!("https://localhost:{}/", judge.address.port()),
        "graph_url": format!("https://localhost:{}/v1.0/", judge.address.port()),
        "roots": roots, "reachable_networks": ["127.0.0.0/8"], "attempt_timeout_s": 1, "deadline_s": 2,
    });
    let endpoint = json!({
        "name": "hook", "protocol": "scep", "authority": "issuing", "profiles": [PROFILE],
        "options": {"intune": intune, "allow_sha1": true, "allow_des": true},
        "rules": [{"name": "all", "requesters": [{"evidence": "device"}], "profiles": [PROFILE], "allow": {}}],
    });
    let file = site.path("endpoint.json");
    std::fs::write(&file, endpoint.to_string()).unwrap();
    let _stored = site.json(&["endpoint", "put", file.to_str().unwrap()]);
    let asked = judge.seen().requests;
    assert!(!enrolls(&site, CHALLENGE).0);
    assert!(judge.seen().requests > asked, "{}", daemon.log());
    assert_eq!(judge.seen().tunnels, Vec::<String>::new());

    let mut proxied = webhook;
    proxied["proxy"] = json!(proxy);
    put(&site, &proxied);
    assert!(enrolls(&site, CHALLENGE).0, "{}", daemon.log());
    assert_eq!(judge.seen().tunnels.len(), 1);
}

#[test]
fn a_service_that_asks_for_a_certificate_sees_the_one_that_lies_there_now() {
    let judge = Judge::start();
    let site = Site::new("");
    let daemon = site.start();
    let mut webhook = options(&site, &judge);
    put(&site, &webhook);
    assert!(enrolls(&site, CHALLENGE).0, "{}", daemon.log());
    assert_eq!(judge.seen().client, "", "none was set");

    webhook["certificate_path"] = json!(site.path("client.pem"));
    webhook["key_path"] = json!(site.path("client.key"));
    for name in ["first", "second"] {
        let (certificate, key) = judge.client(name);
        std::fs::write(site.path("client.pem"), certificate).unwrap();
        std::fs::write(site.path("client.key"), key).unwrap();
        if name == "first" {
            put(&site, &webhook);
        }
        assert!(enrolls(&site, CHALLENGE).0, "{}", daemon.log());
        assert_eq!(judge.seen().client, name);
    }
    // Half a pair is none: the one of before goes on.
    std::fs::write(site.path("client.key"), judge.client("third").1).unwrap();
    assert!(enrolls(&site, CHALLENGE).0, "{}", daemon.log());
    assert_eq!(judge.seen().client, "second");
    assert!(daemon.log().contains("failed to renew the certificate for a webhook"), "{}", daemon.log());

    webhook["key_path"] = json!(site.path("nowhere.key"));
    let file = site.path("endpoint.json");
    let stored = std::fs::read_to_string(&file).unwrap().replace("client.key", "nowhere.key");
    std::fs::write(&file, stored).unwrap();
    let refused = site.output(&["endpoint", "put", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("nowhere.key"), "{said}");
}

#[test]
fn the_service_is_told_what_became_of_the_requests_that_it_allowed() {
    let judge = Judge::start();
    let site = Site::new("");
    let daemon = site.start();
    let mut webhook = options(&site, &judge);
    webhook["notifications"] = json!({
        "url": format!("https://localhost:{}/notice", judge.address.port()), "id": "hook-2",
        "signing_secret": secret(&site, "notices", NOTICE_SECRET),
    });
    put(&site, &webhook);

    assert!(enrolls(&site, CHALLENGE).0, "{}", daemon.log());
    let question = judge.seen().questions[0].clone();
    let notice = judge.seen().notices[0].clone();
    for same in ["scepTransactionID", "provisionerName", "x509CertificateRequest", "peer"] {
        assert_eq!(question[same], notice[same], "{same}");
    }
    assert_eq!(question["x509CertificateRequest"]["publicKeyAlgorithm"], "RSA");
    assert!(notice["scepChallenge"].is_null(), "it is known there");
    let told = &notice["x509Certificate"];
    let der = STANDARD.decode(told["raw"].as_str().unwrap()).unwrap();
    let listed = site.json(&["certificate", "list", "--profile", PROFILE]);
    let serial = tests::scep_client::serial(&der).to_string();
    assert_eq!(listed["items"][0]["serial"], serial);
    assert_eq!(told["notAfter"], listed["items"][0]["not_after"]);
    assert!(told["notBefore"].as_str().unwrap() < told["notAfter"].as_str().unwrap(), "{told}");
    assert_eq!(told["publicKey"], notice["x509CertificateRequest"]["publicKey"]);

    // What it refused itself, and what was judged here, is no news to it.
    assert!(!enrolls(&site, "a wrong one").0);
    let made = site.json(&["credential", "create", "--endpoint", "hook", "--purpose", "challenge"]);
    assert!(enrolls(&site, made["secret"].as_str().unwrap()).0);
    assert_eq!(judge.seen().notices.len(), 1);

    // It allowed what the rules do not.
    put_for(&site, &webhook, "somebody else");
    assert!(!enrolls(&site, CHALLENGE).0);
    let notice = judge.seen().notices.pop().unwrap();
    assert_eq!(notice["reason"], "name-not-allowed", "{notice}");
    assert!(notice["scepErrorDescription"].as_str().unwrap().contains("pc1"), "{notice}");
    assert!(notice["x509Certificate"].is_null(), "{notice}");

    // Nobody waits for news that nothing depends on.
    put(&site, &webhook);
    let before = issued(&site);
    [Mishap::None, Mishap::Status(500)].into_iter().for_each(|mishap| judge.next(mishap));
    assert!(enrolls(&site, CHALLENGE).0, "{}", daemon.log());
    assert_eq!(issued(&site), before + 1);
    assert!(daemon.log().contains("the webhook could not be told of a certificate"), "{}", daemon.log());

    // Where something does, a certificate that it cannot be told of is good for nothing.
    webhook["notifications"]["required"] = json!(true);
    put(&site, &webhook);
    [Mishap::None, Mishap::Status(500), Mishap::None].into_iter().for_each(|mishap| judge.next(mishap));
    assert!(enrolls(&site, CHALLENGE).0, "{}", daemon.log());
    assert_eq!(issued(&site), before + 2);
    for mishap in [Mishap::Status(500), Mishap::Status(403), Mishap::Silence] {
        judge.next(Mishap::None);
        (0..4).for_each(|_| judge.next(mishap.clone()));
        let (got, said) = enrolls(&site, CHALLENGE);
        assert!(!got && said.contains("badRequest"), "{mishap:?}: {said}");
        judge.be_well();
    }
    assert_eq!(issued(&site), before + 2, "what was not given out is revoked");
    let revoked = site.json(&["certificate", "list", "--profile", PROFILE, "--state", "revoked"]);
    assert_eq!(revoked["items"].as_array().unwrap().len(), 3);
    for secret in [NOTICE_SECRET, CHALLENGE] {
        assert!(!daemon.log().contains(secret), "a secret was told");
    }
}

#[test]
fn a_question_about_a_renewal_names_the_certificate_that_is_renewed() {
    let judge = Judge::start();
    let site = Site::new("");
    let daemon = site.start();
    let mut webhook = options(&site, &judge);
    webhook["renewals"] = json!(true);
    put(&site, &webhook);
    let curl = |arguments: &[&str]| {
        let url = format!("http://localhost:{}/scep/hook?operation=", site.http_port);
        let (operation, more) = arguments.split_first().unwrap();
        let url = format!("{url}{operation}");
        let output = Command::new("curl").args(["--silent", "--fail", &url]).args(more).output().unwrap();
        assert!(output.status.success(), "{output:?}\n{}", daemon.log());
        output.stdout
    };
    let bag = pkcs7::Bag::read(&curl(&["GetCACert"])).unwrap();
    let authority = bag.certificates.into_iter().find(|der| is_registration_authority(der)).unwrap();
    let ask = |device: &Device, message: &Message| {
        let file = site.path("message");
        std::fs::write(&file, device.seal(message, &authority)).unwrap();
        let file = format!("@{}", file.display());
        let body =
            curl(&["PKIOperation", "--data-binary", &file, "--header", "content-type: application/x-pki-message"]);
        let reply = http::Response::builder().header("content-type", "application/x-pki-message");
        device.open(&reply.body(body.into()).unwrap(), &authority)
    };
    let subject = "cn=pc1";
    let device = Device::new(subject);
    let first = ask(&device, &Message::pkcs_req("first", device.csr(subject, Some(CHALLENGE), &[])));
    assert_eq!(first.word(), "SUCCESS", "{}", daemon.log());
    let certificate = first.certificates[0].clone();
    let serial = tests::scep_client::serial(&certificate).to_string();
    assert_eq!(judge.seen().questions.pop().unwrap()["renews"], Value::Null);

    // As RFC 8894 has it, and as sscep does it; the webhook sees no difference, since there is none.
    for kind in ["17", "19"] {
        let old = Device::holding(device.private_key(), certificate.clone());
        let csr = Device::new(subject).csr(subject, Some(CHALLENGE), &[]);
        let renewed = ask(&old, &Message::of(kind, &format!("again {kind}"), csr));
        assert_eq!(renewed.word(), "SUCCESS", "{}", daemon.log());
        assert_eq!(judge.seen().questions.pop().unwrap()["renews"], serial);
    }
    // Who signs with a certificate of ours that is not the device's own asks for nothing new.
    let stranger = Device::new(subject);
    let forged = Device::holding(stranger.private_key(), certificate);
    let csr = stranger.csr(subject, Some(CHALLENGE), &[]);
    assert_eq!(ask(&forged, &Message::of("17", "forged", csr)).word(), "FAILURE 1");
    assert!(judge.seen().questions.is_empty(), "nobody is asked about what proves nothing");
}
