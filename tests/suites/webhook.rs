//! A webhook as the judge of SCEP requests: the real daemon, a service with TLS, and a client that none of us wrote.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_backend::CertificateRequest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::daemon::{Site, text};
use tests::webhook::{BEARER, CHALLENGE, Judge, Mishap, SIGNING_SECRET};

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
    let subject: Vec<_> = ["cn", "ou", "o", "c"].map(|kind| json!({"attribute": kind, "value": "*"})).into();
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
