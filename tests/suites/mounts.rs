//! Endpoints of the real daemon that cannot be mounted: the others serve, operators are told, and what was mended comes back.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tests::daemon::{Site, eventually, free_port};

const PROFILE: &str = "intune-digital-signature";

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Status and body of a GET without TLS.
fn get(site: &Site, path: &str) -> (String, String) {
    get_at(site.http_port, path)
}

fn get_at(port: u16, path: &str) -> (String, String) {
    let url = format!("http://localhost:{port}{path}");
    let output = Command::new("curl").args(["--silent", "--write-out", "\n%{http_code}", &url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

fn status_of(site: &Site, endpoint: &str) -> String {
    get(site, &format!("/scep/{endpoint}?operation=GetCACaps")).0
}

fn put(site: &Site, endpoint: &Value) -> Output {
    let file = site.path("endpoint.json");
    std::fs::write(&file, endpoint.to_string()).unwrap();
    site.output(&["endpoint", "put", file.to_str().unwrap()])
}

fn trouble(site: &Site, endpoint: &str) -> Option<String> {
    let endpoints = site.json(&["endpoint", "list"]);
    let found = endpoints.as_array().unwrap().iter().find(|found| found["name"] == endpoint).unwrap().clone();
    found["trouble"].as_str().map(str::to_owned)
}

/// What the metrics say of an endpoint, if anything.
fn mounted(metrics_port: u16, endpoint: &str) -> Option<String> {
    let (status, text) = get_at(metrics_port, "/metrics");
    assert_eq!(status, "200", "{text}");
    let name = format!("certgate_endpoint_mounted{{endpoint=\"{endpoint}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned))
}

#[test]
fn a_spoilt_secret_takes_one_endpoint_out_of_service_until_it_is_mended() {
    let metrics_port = free_port();
    let site = Site::new(&format!("[metrics]\nlisten = \"127.0.0.1:{metrics_port}\""));
    let mounted = |endpoint| mounted(metrics_port, endpoint);
    let daemon = site.start();
    assert_eq!(mounted("intune"), None);
    let (secret, roots) = (site.path("intune.secret"), site.path("roots.pem"));
    std::fs::write(&secret, "a secret\n").unwrap();
    mode(&secret, 0o600);
    let endpoint = json!({
        "name": "intune", "protocol": "scep", "authority": "issuing", "profiles": [PROFILE],
        "options": {"intune": {
            "tenant": "contoso.example", "client_id": "c", "secret": {"file": secret}, "roots": roots, "revocation": false,
        }},
        "rules": [{"name": "devices", "requesters": [{"evidence": "device", "requester": "device:intune:*"}], "profiles": [PROFILE]}],
    });
    let services = ["--service", "privatessl", "--service", "scep", "--service", "intune"];
    let _changed = site.json(&[&["authority", "change", "issuing"], &services[..]].concat());

    // What would not mount is not stored: neither without roots nor with spoilt ones.
    for content in [None, Some("no certificate\n")] {
        if let Some(content) = content {
            std::fs::write(&roots, content).unwrap();
        }
        let refused = put(&site, &endpoint);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("roots.pem"), "{refused:?}");
    }
    std::fs::copy(site.path("state/root.pem"), &roots).unwrap();
    let stored = put(&site, &endpoint);
    assert!(stored.status.success(), "{stored:?}");
    assert_eq!((status_of(&site, "intune").as_str(), trouble(&site, "intune")), ("200", None));

    // A change of another endpoint reads the secret anew; what was read before stays in force, and the trouble is seen.
    mode(&secret, 0o644);
    let other =
        json!({"name": "other", "protocol": "scep", "authority": "issuing", "profiles": [PROFILE], "rules": []});
    assert!(put(&site, &other).status.success());
    assert_eq!((status_of(&site, "intune").as_str(), status_of(&site, "other").as_str()), ("200", "200"));
    assert!(trouble(&site, "intune").unwrap().contains("chmod 600"));
    assert_eq!(mounted("intune").as_deref(), Some("1"), "it serves still");

    daemon.kill();
    let daemon = site.start();
    assert_eq!((status_of(&site, "starter-scep").as_str(), status_of(&site, "other").as_str()), ("200", "200"));
    let (status, text) = get(&site, "/scep/intune?operation=GetCACaps");
    assert_eq!(status, "503");
    assert!(text.contains("cannot serve now") && !text.contains("intune.secret"), "{text}");
    assert!(trouble(&site, "intune").unwrap().contains("chmod 600"));
    let shown = String::from_utf8(site.output(&["endpoint", "show", "intune"]).stdout).unwrap();
    assert!(shown.starts_with("# cannot be mounted: ") && shown.contains("chmod 600"), "{shown}");
    let listed = String::from_utf8(site.output(&["endpoint", "list"]).stdout).unwrap();
    assert!(listed.contains("intune cannot be mounted: "), "{listed}");
    let readiness: Value = site.json(&["status"]);
    let parts = readiness["parts"].as_array().unwrap();
    let part = parts.iter().find(|part| part["name"] == "endpoint:intune").unwrap_or_else(|| panic!("{readiness}"));
    assert_eq!((&part["ready"], &readiness["ready"]), (&json!(false), &json!(true)), "the others are served");

    assert_eq!((mounted("intune").as_deref(), mounted("other").as_deref()), (Some("0"), Some("1")));
    assert_eq!(get_at(metrics_port, "/readyz").0, "200", "one broken endpoint takes no node out of a load balancer");

    // Others may be changed meanwhile, and the log does not fill up with it.
    let site_log = daemon.log();
    assert!(put(&site, &other).status.success());
    let lines = |log: &str| log.lines().filter(|line| line.contains("an endpoint cannot be mounted")).count();
    assert_eq!(lines(&daemon.log()), lines(&site_log));

    mode(&secret, 0o600);
    eventually(|| status_of(&site, "intune") == "200");
    assert_eq!(trouble(&site, "intune"), None);
    assert!(!site.json(&["status"]).to_string().contains("endpoint:intune"));
    assert_eq!(mounted("intune").as_deref(), Some("1"));

    let mut disabled = endpoint;
    disabled["enabled"] = json!(false);
    assert!(put(&site, &disabled).status.success());
    assert_eq!(mounted("intune").as_deref(), Some("NaN"), "no alert for what is disabled");
}
