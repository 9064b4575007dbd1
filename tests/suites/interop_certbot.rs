//! certbot against the real daemon, from an empty directory to a revoked certificate.

use std::path::Path;
use std::process::Command;

use tests::certbot::Certbot;
use tests::daemon::{Daemon, Site, free_port};
use tests::openssl::OpenSsl;

const HOST: &str = "localhost";

fn issue(certbot: &Certbot<'_>, http_01_port: u16, more: &[&str]) {
    let port = http_01_port.to_string();
    certbot.certonly(&[&["--standalone", "--http-01-port", &port, "-d", HOST], more].concat());
}

/// The starter's endpoint validates on a port that is free here, and only there.
fn use_port(site: &Site, port: u16) {
    let mut endpoint = site.json(&["endpoint", "show", "starter"]);
    endpoint["options"]["http01_port"] = port.into();
    let path = site.path("endpoint.json");
    std::fs::write(&path, endpoint.to_string()).unwrap();
    let _stored = site.json(&["endpoint", "put", path.to_str().unwrap()]);
}

fn judge(site: &Site, certbot: &Certbot<'_>, ssl: &OpenSsl) -> (String, String) {
    let copy = |from: &Path, to: &str| ssl.put(to, std::fs::read(from).unwrap());
    copy(&site.path("state/root.pem"), "root.pem");
    copy(&certbot.file(HOST, "cert.pem"), "cert.pem");
    copy(&certbot.file(HOST, "chain.pem"), "chain.pem");
    ssl.run("verify -x509_strict -CAfile root.pem -untrusted chain.pem cert.pem");
    // The URLs are those inside the certificate.
    let responder = ssl.run("x509 -in cert.pem -noout -ocsp_uri");
    let said = ssl.run(&format!("ocsp -issuer chain.pem -cert cert.pem -CAfile root.pem -url {}", responder.trim()));
    assert!(said.contains("Response verify OK"), "{said}");
    let shown = ssl.run("x509 -in cert.pem -noout -ext crlDistributionPoints");
    let url = shown.split("URI:").nth(1).unwrap_or_else(|| panic!("no CRL in {shown}")).trim();
    let fetched = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--output"])
        .arg(ssl.directory().join("issuing.crl"))
        .arg(url)
        .status();
    assert!(fetched.unwrap().success(), "{url} cannot be fetched");
    let verdict = ssl.run("crl -inform DER -in issuing.crl -noout -text -CAfile chain.pem");
    assert!(verdict.contains("verify OK"), "{verdict}");
    (said, verdict)
}

fn serial(ssl: &OpenSsl) -> String {
    ssl.run("x509 -in cert.pem -noout -serial").trim().trim_start_matches("serial=").to_owned()
}

#[test]
fn certbot_gets_renews_and_revokes_a_certificate_by_http_01_and_a_restart_keeps_everything() {
    let site = Site::new("");
    let daemon: Daemon<'_> = site.start();
    let certbot = Certbot::new(&site);
    let http_01_port = free_port();
    use_port(&site, http_01_port);
    let ssl = OpenSsl::new();

    issue(&certbot, http_01_port, &[]);
    let (status, crl) = judge(&site, &certbot, &ssl);
    let first = serial(&ssl);
    assert!(status.contains("cert.pem: good"), "{status}");
    assert!(!crl.contains(&first), "{crl}");

    certbot.run(&["renew", "--force-renewal", "--no-random-sleep-on-renew"]);
    judge(&site, &certbot, &ssl);
    let second = serial(&ssl);
    assert_ne!(first, second);

    let _revoked = site.json(&["certificate", "revoke", &second, "--reason", "keyCompromise"]);
    let _published = site.json(&["crl", "publish", "issuing"]);
    let (status, crl) = judge(&site, &certbot, &ssl);
    assert!(status.contains("cert.pem: revoked") && status.contains("keyCompromise"), "{status}");
    assert!(crl.contains(&second) && !crl.contains(&first), "{crl}");

    drop(daemon);
    let daemon = site.start();
    let (status, crl) = judge(&site, &certbot, &ssl);
    assert!(status.contains("cert.pem: revoked"), "{status}");
    assert!(crl.contains(&second), "{crl}");

    // The account, the endpoint and the authorities are still there; the key is new, as the old one is compromised.
    issue(&certbot, http_01_port, &["--force-renewal"]);
    let (status, _) = judge(&site, &certbot, &ssl);
    assert!(status.contains("cert.pem: good"), "{status}");
    let third = serial(&ssl);
    certbot.run(&["revoke", "--cert-name", HOST, "--reason", "superseded", "--no-delete-after-revoke"]);
    let shown = site.json(&["certificate", "show", &third]);
    assert!(shown.to_string().contains("\"revoked\""), "{shown}");
    drop(daemon);
}

#[test]
fn certbot_chooses_among_the_profiles_of_the_directory() {
    let site = Site::new("");
    let daemon: Daemon<'_> = site.start();
    let certbot = Certbot::new(&site);
    let http_01_port = free_port();
    use_port(&site, http_01_port);
    let offered = site.json(&["endpoint", "show", "starter"])["profiles"].clone();
    let (default, other) = (offered[0].as_str().unwrap(), offered[1].as_str().unwrap());
    let ssl = OpenSsl::new();
    let issued = |more: &[&str]| {
        issue(&certbot, http_01_port, &[&["--force-renewal"], more].concat());
        judge(&site, &certbot, &ssl);
        site.json(&["certificate", "show", &serial(&ssl)])["profile"].as_str().unwrap().to_owned()
    };
    assert_eq!(issued(&[]), default);
    assert_eq!(issued(&["--preferred-profile", other]), other);
    assert_eq!(issued(&["--required-profile", other]), other);
    assert_eq!(issued(&["--preferred-profile", "withdrawn", "--required-profile", ""]), default);
    let port = http_01_port.to_string();
    let said = certbot.certonly_fails(&[
        "--standalone",
        "--http-01-port",
        &port,
        "-d",
        HOST,
        "--force-renewal",
        "--required-profile",
        "withdrawn",
    ]);
    assert!(said.contains("profile"), "{said}");
    drop(daemon);
}

#[test]
fn certbot_binds_its_account_to_a_credential_and_renews_when_renewal_information_says_so() {
    let site = Site::new("");
    let daemon: Daemon<'_> = site.start();
    let certbot = Certbot::new(&site);
    let http_01_port = free_port();
    use_port(&site, http_01_port);
    let mut endpoint = site.json(&["endpoint", "show", "starter"]);
    endpoint["options"]["external_account"] = "required".into();
    // Clients ask again at once, so that the test sees them obey.
    endpoint["options"]["renewal_retry_after_s"] = 1.into();
    let put = |endpoint: &serde_json::Value| {
        let path = site.path("endpoint.json");
        std::fs::write(&path, endpoint.to_string()).unwrap();
        let _stored = site.json(&["endpoint", "put", path.to_str().unwrap()]);
    };
    put(&endpoint);
    let port = http_01_port.to_string();
    let standalone = ["--standalone", "--http-01-port", &port, "-d", HOST];
    let said = certbot.certonly_fails(&standalone);
    assert!(said.contains("EAB") || said.contains("xternal account"), "{said}");

    let made =
        site.json(&["credential", "create", "--endpoint", "starter", "--purpose", "external-account", "--id", "fleet"]);
    let secret = made["secret"].as_str().unwrap().to_owned();
    certbot.certonly(&[&standalone[..], &["--eab-kid", "fleet", "--eab-hmac-key", &secret]].concat());
    let ssl = OpenSsl::new();
    judge(&site, &certbot, &ssl);
    let first = serial(&ssl);
    let listed = site.json(&["acme", "account", "list", "starter"]);
    assert_eq!(listed[0]["credential"], "fleet", "{listed}");

    // Not due, so certbot keeps what it has.
    let renew = ["renew", "--no-random-sleep-on-renew"];
    certbot.run(&renew);
    judge(&site, &certbot, &ssl);
    assert_eq!(serial(&ssl), first);

    // Revoked: the window lies in the past, and certbot renews without being told to.
    let _revoked = site.json(&["certificate", "revoke", &first, "--reason", "superseded"]);
    certbot.run(&renew);
    judge(&site, &certbot, &ssl);
    assert_ne!(serial(&ssl), first);
    let log = std::fs::read_to_string(site.path("certbot/letsencrypt.log")).unwrap();
    assert!(log.contains("renewal-info"), "certbot did not ask for renewal information");
    drop(daemon);
}
