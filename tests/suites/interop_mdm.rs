//! Device management through the real daemon: a SCEP client that none of us wrote with the stand-in of Intune behind the endpoint,
//! and curl at the web service.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_backend::testing::NOON_S;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::daemon::{Site, eventually, text};
use tests::intune::{Mishap, SECRET, StandIn};
use tests::key::Key;
use tests::openssl::OpenSsl;
use tests::scep_client::Device;

const INTUNE_PROFILE: &str = "intune-digital-signature";
const WEB_PROFILE: &str = "mdmws-digital-signature";
/// What scepclient asks for with `-cn pc1`.
const SUBJECT: &str = "cn=pc1,ou=MDM,o=scep-client,c=US";

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run(directory: &Path, program: &str, arguments: &[&str]) -> Output {
    let run = Command::new(program).args(arguments).current_dir(directory).stdin(Stdio::null()).output();
    run.unwrap_or_else(|error| panic!("{program} (tests/run installs it): {error}"))
}

/// Lets the issuing authority of the starter serve this kind of profile too.
fn offer(site: &Site, service: &str) {
    let services = ["privatessl", "scep", "mdmws", service];
    let arguments: Vec<_> = services.iter().flat_map(|service| ["--service", service]).collect();
    let _changed = site.json(&[&["authority", "change", "issuing"], arguments.as_slice()].concat());
}

/// Hands an endpoint to the daemon, whatever it says to that.
fn put(site: &Site, endpoint: &Value) -> Output {
    let file = site.path("endpoint.json");
    std::fs::write(&file, endpoint.to_string()).unwrap();
    site.output(&["endpoint", "put", file.to_str().unwrap()])
}

#[track_caller]
fn put_well(site: &Site, endpoint: &Value) {
    let output = put(site, endpoint);
    assert!(output.status.success(), "{}", said(&output));
}

fn count(site: &Site, profile: &str, state: &str) -> usize {
    let found = site.json(&["certificate", "list", "--profile", profile, "--state", state]);
    found["items"].as_array().unwrap_or_else(|| panic!("{found}")).len()
}

/// The endpoint `intune`, whose devices the stand-in judges; its secret lies in a file.
fn intune_endpoint(stand_in: &StandIn, secret: &Path) -> Value {
    let mut intune = stand_in.options();
    intune["secret"] = json!({"file": secret});
    let subject: Vec<_> = ["cn", "ou", "o", "c"].map(|kind| json!({"attribute": kind, "value": "*"})).into();
    json!({
        "name": "intune", "protocol": "scep", "authority": "issuing", "profiles": [INTUNE_PROFILE],
        // scepclient knows SHA-1 and DES only.
        "options": {"intune": intune, "allow_sha1": true, "allow_des": true},
        "rules": [{
            "name": "devices", "requesters": [{"evidence": "device", "requester": "device:intune:*"}],
            "profiles": [INTUNE_PROFILE], "allow": {"subject": subject},
        }],
    })
}

/// A new device with this challenge, and the certificate that scepclient got for it.
fn scepclient(site: &Site, endpoint: &str, challenge: &str) -> (Output, Option<Vec<u8>>) {
    let directory = TempDir::new().unwrap();
    let url = format!("http://localhost:{}/scep/{endpoint}", site.http_port);
    // Endpoints of one authority share its registration authority, whose fingerprint the starter tells.
    let starter = text(&site.path("state/starter.txt"));
    let (_, rest) = starter.split_once("-ca-fingerprint ").expect("the starter says how to enroll");
    let fingerprint = rest.split_whitespace().next().unwrap();
    let files = ["-private-key", "client.key", "-certificate", "client.pem"];
    let request = ["-server-url", &url, "-ca-fingerprint", fingerprint, "-challenge", challenge, "-cn", "pc1"];
    let output = run(directory.path(), "scepclient", &[request.as_slice(), &files].concat());
    let certificate = std::fs::read(directory.path().join("client.pem")).ok();
    (output, certificate)
}

#[test]
fn scepclient_gets_what_intune_vouches_for_and_nothing_that_intune_was_not_told_of() {
    let stand_in = StandIn::start();
    let site = Site::new("");
    let daemon = site.start();
    let secret = site.path("intune.secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let endpoint = intune_endpoint(&stand_in, &secret);
    offer(&site, "intune");

    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = put(&site, &endpoint);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("chmod 600"), "{}", said(&refused));
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    put_well(&site, &endpoint);

    let good = stand_in.challenge(SUBJECT, &[], NOON_S + 3_600);
    let (output, certificate) = scepclient(&site, "intune", &good);
    let certificate = certificate.unwrap_or_else(|| panic!("{}\n{}", said(&output), daemon.log()));
    assert!(output.status.success(), "{}", said(&output));
    let ssl = OpenSsl::new();
    ssl.put("leaf.pem", certificate);
    let serial = ssl.run("x509 -in leaf.pem -noout -serial").trim().trim_start_matches("serial=").to_owned();
    let successes = stand_in.seen().successes.clone();
    assert_eq!(successes.len(), 1);
    assert_eq!(successes[0]["certificateSerialNumber"], serial);
    assert_eq!(count(&site, INTUNE_PROFILE, "normal"), 1);

    let other = stand_in.challenge("cn=pc2,ou=MDM,o=scep-client,c=US", &[], NOON_S + 3_600);
    let (output, certificate) = scepclient(&site, "intune", &other);
    assert!(!output.status.success() && certificate.is_none(), "{}", said(&output));
    assert!(said(&output).contains("badRequest"), "{}", said(&output));
    assert_eq!((count(&site, INTUNE_PROFILE, "normal"), stand_in.seen().successes.len()), (1, 1));

    stand_in.next("successNotification", Mishap::Code("Unknown"));
    let (output, certificate) = scepclient(&site, "intune", &good);
    assert!(!output.status.success() && certificate.is_none(), "{}", said(&output));
    let states = (count(&site, INTUNE_PROFILE, "normal"), count(&site, INTUNE_PROFILE, "revoked"));
    assert_eq!(states, (1, 1), "the certificate that Intune was not told of is revoked");
    assert_eq!(stand_in.seen().successes.len(), 1);

    let log = daemon.log();
    assert!(!log.contains(SECRET) && !log.contains(&good) && !log.contains(&other), "a secret is in the log");
}

#[test]
fn the_daemon_asks_intune_by_itself_what_to_revoke_and_says_what_became_of_it() {
    let stand_in = StandIn::start();
    let site = Site::new("");
    let daemon = site.start();
    let secret = site.path("intune.secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut endpoint = intune_endpoint(&stand_in, &secret);
    endpoint["options"]["intune"]["revocation_poll_s"] = json!(10);
    offer(&site, "intune");
    put_well(&site, &endpoint);
    let (output, certificate) = scepclient(&site, "intune", &stand_in.challenge(SUBJECT, &[], NOON_S + 3_600));
    assert!(certificate.is_some(), "{}\n{}", said(&output), daemon.log());

    let serial = stand_in.seen().successes[0]["certificateSerialNumber"].clone();
    let wish = json!({"requestContext": "1", "serialNumber": serial, "issuerName": null, "caConfiguration": null});
    stand_in.seen().to_revoke = vec![wish];
    // The first time it is not there; the daemon asks again.
    stand_in.next("downloadRevocationRequests", Mishap::Status(403, None));
    eventually(|| !stand_in.seen().revoked.is_empty());
    assert_eq!(stand_in.seen().revoked[0]["succeeded"], true);
    assert_eq!((count(&site, INTUNE_PROFILE, "normal"), count(&site, INTUNE_PROFILE, "revoked")), (0, 1));
    assert!(stand_in.count("downloadRevocationRequests") >= 2);
}

#[test]
fn curl_gets_a_certificate_from_the_web_service_for_a_token_and_none_without() {
    let site = Site::new("");
    let _daemon = site.start();
    put_well(
        &site,
        &json!({
            "name": "fleet", "protocol": "mdm", "authority": "issuing", "profiles": [WEB_PROFILE],
            "options": {"configurations": [{
                "name": "wifi", "profile": WEB_PROFILE, "key": "ec-p256",
                "subject": [{"attribute": "cn", "value": "{device.serial}"}],
            }]},
            "rules": [{
                "name": "the fleet", "requesters": [{"evidence": "secret", "requester": "credential:mdm"}],
                "profiles": [WEB_PROFILE], "allow": {"subject": [{"attribute": "cn", "value": "*"}]},
            }],
        }),
    );
    let token =
        ["credential", "create", "--endpoint", "fleet", "--purpose", "token", "--right", "issue", "--id", "mdm"];
    let made = site.json(&token);
    let token = made["secret"].as_str().unwrap_or_else(|| panic!("{made}"));

    let ssl = OpenSsl::new();
    let csr = STANDARD.encode(Key::ec().csr("cn=ignored"));
    let wish =
        json!({"configuration": "wifi", "device": {"id": "d1", "serial": "C02X"}, "user": {"id": "ann"}, "csr": csr});
    ssl.put("wish.json", wish.to_string());
    let root = site.path("state/root.pem");
    let ask = |base_url: &str, authorization: &str| {
        let url = format!("{base_url}/mdm/fleet/certificates");
        let fixed = ["--silent", "--show-error", "--data", "@wish.json", "--output", "answer", "--write-out"];
        let more = ["%{http_code}", "--cacert", root.to_str().unwrap(), "--header", authorization, &url];
        said(&run(ssl.directory(), "curl", &[fixed.as_slice(), &more].concat()))
    };
    let https = format!("https://localhost:{}", site.https_port);
    let bearer = format!("Authorization: Bearer {token}");
    assert_eq!(ask(&https, "Authorization: Bearer of-nothing"), "401");
    assert_eq!(ask(&format!("http://localhost:{}", site.http_port), &bearer), "404", "it is served with TLS only");
    assert_eq!(count(&site, WEB_PROFILE, "normal"), 0);

    assert_eq!(ask(&https, &bearer), "201", "{}", String::from_utf8_lossy(&ssl.take("answer")));
    let answer: Value = serde_json::from_slice(&ssl.take("answer")).unwrap();
    let chain = answer["certificate"].as_str().unwrap_or_else(|| panic!("{answer}"));
    ssl.put("leaf.pem", chain);
    assert!(ssl.run("x509 -in leaf.pem -noout -subject").contains("C02X"));
    assert_eq!(count(&site, WEB_PROFILE, "normal"), 1);
}

/// The command that the starter prints works as it stands.
#[test]
fn the_starters_web_service_gives_a_certificate_to_whoever_copies_the_command() {
    let site = Site::new("");
    let _daemon = site.start();
    let token = site.path("state/mdm-token");
    assert_eq!(std::fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);
    let starter = text(&site.path("state/starter.txt"));
    assert!(!starter.contains(text(&token).trim()), "the token itself is not printed");
    let command = starter.split("\n\n").map(str::trim).find(|part| part.starts_with("curl ")).expect("a curl command");
    let directory = TempDir::new().unwrap();
    let output = run(directory.path(), "sh", &["-c", command]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!(answer["subject"].as_str().unwrap().to_lowercase(), "cn=c02x", "{answer}");
    assert!(answer["pkcs12"].is_string() && answer["password"].is_string(), "{answer}");
    assert_eq!(count(&site, "mdmws-digital-signature", "normal"), 1);

    // It makes one-time challenges for the SCEP endpoint of the starter.
    let bearer = format!("Authorization: Bearer {}", text(&token).trim());
    let url = format!("https://localhost:{}/mdm/starter-mdm/challenges", site.https_port);
    let root = site.path("state/root.pem");
    let made = ["--silent", "--cacert", root.to_str().unwrap(), "--header", &bearer, "--data", "{}", &url];
    let output = run(directory.path(), "curl", &made);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert!(answer["challenge"].is_string(), "{answer}");
}

/// A device management system over curl, and as its device a SCEP client that none of us wrote.
#[test]
fn what_scepclient_fetched_with_a_challenge_of_the_web_service_is_listed_held_and_revoked_there() {
    const PROFILE: &str = "scep-signature-key-encipherment";
    let site = Site::new("");
    let daemon = site.start();
    let subject: Vec<_> = ["cn", "ou", "o", "c"].map(|kind| json!({"attribute": kind, "value": "*"})).into();
    let endpoint = |name: &str, protocol: &str, options: Value| {
        let rules = json!([{"name": "secrets", "requesters": [{"evidence": "secret"}], "profiles": [PROFILE], "allow": {"subject": subject}}]);
        json!({"name": name, "protocol": protocol, "authority": "issuing", "profiles": [PROFILE], "options": options, "rules": rules})
    };
    // scepclient knows SHA-1 and DES only.
    put_well(&site, &endpoint("devices", "scep", json!({"allow_sha1": true, "allow_des": true})));
    put_well(&site, &endpoint("fleet", "mdm", json!({"challenges": {"scep_endpoint": "devices"}})));
    let rights = ["create-challenges", "list", "hold", "revoke"].into_iter().flat_map(|right| ["--right", right]);
    let make = ["credential", "create", "--endpoint", "fleet", "--purpose", "token"];
    let made = site.json(&make.into_iter().chain(rights).collect::<Vec<_>>());
    let bearer = format!("Authorization: Bearer {}", made["secret"].as_str().unwrap());

    let directory = TempDir::new().unwrap();
    let root = site.path("state/root.pem");
    let ask = |path: &str, more: &[&str]| -> Value {
        let url = format!("https://localhost:{}/mdm/fleet/{path}", site.https_port);
        let fixed = ["--silent", "--cacert", root.to_str().unwrap(), "--header", &bearer, &url];
        let output = run(directory.path(), "curl", &[fixed.as_slice(), more].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{path}: {}", said(&output)))
    };
    let wish = json!({"device": {"id": "pc1"}, "user": {"id": "ann"}}).to_string();
    let challenge = ask("challenges", &["--data", &wish]);
    assert_eq!(ask("certificates?device=pc1", &[])["certificates"], json!([]));
    let (output, certificate) = scepclient(&site, "devices", challenge["challenge"].as_str().unwrap());
    let certificate = certificate.unwrap_or_else(|| panic!("{}\n{}", said(&output), daemon.log()));

    let ssl = OpenSsl::new();
    ssl.put("leaf.pem", certificate);
    let serial = ssl.run("x509 -in leaf.pem -noout -serial").trim().trim_start_matches("serial=").to_lowercase();
    for list in ["certificates?device=pc1", "certificates?user=ann"] {
        let listed = ask(list, &[]);
        assert_eq!(
            listed["certificates"][0]["serial"].as_str().map(str::to_lowercase),
            Some(serial.clone()),
            "{listed}"
        );
    }
    for (change, state) in [("hold", "held"), ("unhold", "normal"), ("revoke", "revoked")] {
        let changed = ask(&format!("certificates/{serial}/{change}"), &["--data", "{}"]);
        assert_eq!((changed["state"].as_str(), changed["device"].as_str()), (Some(state), Some("pc1")), "{changed}");
    }
    assert_eq!((count(&site, PROFILE, "normal"), count(&site, PROFILE, "revoked")), (0, 1));
}

#[test]
fn an_operator_exports_an_archived_key_that_only_the_holder_of_the_recovery_key_opens() {
    let site = Site::new("");
    let _daemon = site.start();
    let ssl = OpenSsl::new();
    let recovery = Device::new("cn=recovery");
    ssl.put_certificate("recovery.pem", &recovery.certificate);
    ssl.put("recovery.der", recovery.private_key());
    ssl.run("pkcs8 -inform DER -in recovery.der -nocrypt -out recovery.key");
    let pem = String::from_utf8(ssl.take("recovery.pem")).unwrap();
    put_well(
        &site,
        &json!({
            "name": "fleet", "protocol": "mdm", "authority": "issuing", "profiles": [WEB_PROFILE],
            "options": {
                "archive": {"recovery_certificates": [pem]},
                "configurations": [{
                    "name": "mail", "profile": WEB_PROFILE, "subject": [{"attribute": "cn", "value": "{user.id}"}],
                }],
            },
            "rules": [{
                "name": "the fleet", "requesters": [{"evidence": "secret"}], "profiles": [WEB_PROFILE],
                "allow": {"subject": [{"attribute": "cn", "value": "*"}]},
            }],
        }),
    );
    let made = site.json(&["credential", "create", "--endpoint", "fleet", "--purpose", "token", "--right", "issue"]);
    let bearer = format!("Authorization: Bearer {}", made["secret"].as_str().unwrap());
    let wish = json!({"configuration": "mail", "user": {"id": "ann"}, "pkcs12": {}}).to_string();
    let url = format!("https://localhost:{}/mdm/fleet/certificates", site.https_port);
    let root = site.path("state/root.pem");
    let ask = ["--silent", "--cacert", root.to_str().unwrap(), "--header", &bearer, "--data", &wish, &url];
    let output = run(ssl.directory(), "curl", &ask);
    let issued: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    ssl.put("leaf.pem", issued["certificate"].as_str().unwrap_or_else(|| panic!("{issued}")));

    let shown = site.json(&["certificate", "show", issued["serial"].as_str().unwrap()]);
    let requester = format!("credential:{}", made["id"].as_str().unwrap());
    let holder = json!({"endpoint": "fleet", "requester": requester, "configuration": "mail", "user": "ann"});
    assert_eq!(shown["holder"], holder, "operators see whom it is for");
    let text = site.output(&["certificate", "show", issued["serial"].as_str().unwrap()]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.lines().any(|line| line.starts_with("user:") && line.ends_with("ann")), "{text}");

    let file = ssl.directory().join("envelope.pem");
    let export = ["certificate", "archived-key", issued["serial"].as_str().unwrap(), "--out", file.to_str().unwrap()];
    let output = site.output(&export);
    assert!(output.status.success(), "{}", said(&output));
    ssl.run("cms -decrypt -inform PEM -in envelope.pem -recip recovery.pem -inkey recovery.key -out key.der");
    ssl.run("pkey -inform DER -in key.der -pubout -out key.pub");
    ssl.run("x509 -in leaf.pem -noout -pubkey -out leaf.pub");
    assert_eq!(ssl.take("key.pub"), ssl.take("leaf.pub"));
    let unknown = site.output(&["certificate", "archived-key", "0102"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", said(&unknown));
    let audit = site.json(&["audit", "list", "--limit", "1000"]).to_string();
    assert!(audit.contains("archived-key-given"), "{audit}");
}
