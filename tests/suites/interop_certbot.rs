//! certbot against the real daemon, from an empty directory to a revoked certificate.

use std::path::Path;
use std::process::Command;

use tests::daemon::{Daemon, Site, free_port, text};
use tests::openssl::OpenSsl;
use tests::pkilint::venv_program;

const HOST: &str = "localhost";

/// certbot with its own directories at a site.
struct Certbot<'a> {
    site: &'a Site,
    http_01_port: u16,
}

impl Certbot<'_> {
    fn run(&self, arguments: &[&str]) -> String {
        let directory = self.site.path("certbot");
        let output = Command::new(venv_program("certbot"))
            .args(arguments)
            .args(["--non-interactive", "--server"])
            .arg(format!("https://localhost:{}/acme/starter/directory", self.site.https_port))
            .arg("--config-dir")
            .arg(&directory)
            .arg("--work-dir")
            .arg(&directory)
            .arg("--logs-dir")
            .arg(&directory)
            .env("REQUESTS_CA_BUNDLE", self.site.path("state/root.pem"))
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let log = || text(&directory.join("letsencrypt.log"));
        assert!(
            output.status.success(),
            "certbot {arguments:?}\n{said}\n{}\n{}",
            log(),
            text(&self.site.path("daemon.log"))
        );
        said
    }

    fn issue(&self, more: &[&str]) {
        let port = self.http_01_port.to_string();
        let always = [
            "certonly",
            "--standalone",
            "--http-01-port",
            &port,
            "-d",
            HOST,
            "--agree-tos",
            "--register-unsafely-without-email",
        ];
        self.run(&[&always, more].concat());
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.site.path("certbot").join("live").join(HOST).join(name)
    }
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
    copy(&certbot.file("cert.pem"), "cert.pem");
    copy(&certbot.file("chain.pem"), "chain.pem");
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
    let certbot = Certbot { site: &site, http_01_port: free_port() };
    use_port(&site, certbot.http_01_port);
    let ssl = OpenSsl::new();

    certbot.issue(&[]);
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
    certbot.issue(&["--force-renewal"]);
    let (status, _) = judge(&site, &certbot, &ssl);
    assert!(status.contains("cert.pem: good"), "{status}");
    let third = serial(&ssl);
    certbot.run(&["revoke", "--cert-name", HOST, "--reason", "superseded", "--no-delete-after-revoke"]);
    let shown = site.json(&["certificate", "show", &third]);
    assert!(shown.to_string().contains("\"revoked\""), "{shown}");
    drop(daemon);
}
