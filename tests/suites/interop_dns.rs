//! certbot shows control of a name by dns-01, and so gets a wildcard. The daemon asks the DNS server that its settings name.

use std::process::Command;

use serde_json::{Value, json};
use tests::certbot::Certbot;
use tests::daemon::Site;
use tests::dns::DnsServer;
use tests::openssl::OpenSsl;
use tests::pkilint::venv_program;

const DOMAIN: &str = "wild.example.org";
const WILDCARD: &str = "*.wild.example.org";

/// What certbot runs as `HOOK publish ZONE` and `HOOK withdraw ZONE`. A third argument stands in for the value that was asked for.
const HOOK: &str = r#"
zone=$2
record="_acme-challenge.$CERTBOT_DOMAIN. ${3-$CERTBOT_VALIDATION}"
case $1 in
publish) echo "$record" >>"$zone" ;;
withdraw) grep -vxF -e "$record" "$zone" >"$zone.left"; mv "$zone.left" "$zone" ;;
esac
"#;

fn site(dns: &DnsServer) -> Site {
    Site::new(&format!("[validation]\nresolvers = [\"{}\"]", dns.address))
}

/// The arguments of `certonly` with the hook; `forged` is published in place of what the daemon asks for.
fn by_dns(site: &Site, dns: &DnsServer, forged: &str) -> Vec<String> {
    let hook = site.path("hook.sh");
    std::fs::write(&hook, HOOK).unwrap();
    let run = |action: &str| format!("sh {} {action} {} {forged}", hook.display(), dns.zone().display());
    let (publish, withdraw) = (run("publish"), run("withdraw"));
    let fixed = ["--manual", "--preferred-challenges", "dns", "-d", DOMAIN, "-d", WILDCARD];
    let hooks = ["--manual-auth-hook", &publish, "--manual-cleanup-hook", &withdraw];
    fixed.iter().chain(&hooks).map(ToString::to_string).collect()
}

/// OpenSSL accepts what certbot got, and it is for both names and no others; its serial.
fn judge(site: &Site, certbot: &Certbot<'_>) -> String {
    let ssl = OpenSsl::new();
    ssl.put("root.pem", std::fs::read(site.path("state/root.pem")).unwrap());
    for name in ["cert.pem", "chain.pem"] {
        ssl.put(name, std::fs::read(certbot.file(DOMAIN, name)).unwrap());
    }
    ssl.run("verify -x509_strict -purpose sslserver -CAfile root.pem -untrusted chain.pem cert.pem");
    let shown = ssl.run("x509 -in cert.pem -noout -ext subjectAltName");
    let mut names: Vec<&str> = shown.lines().skip(1).flat_map(|line| line.split(',')).map(str::trim).collect();
    names.sort_unstable();
    assert_eq!(names, [format!("DNS:{WILDCARD}"), format!("DNS:{DOMAIN}")]);
    ssl.run("x509 -in cert.pem -noout -serial")
}

/// How many certificates for the domain the daemon ever signed.
fn issued(site: &Site) -> usize {
    let listed = site.json(&["certificate", "list", "--name", DOMAIN]);
    listed["items"].as_array().unwrap().len()
}

#[test]
fn certbot_gets_and_renews_a_wildcard_by_dns_01() {
    let dns = DnsServer::start();
    let site = site(&dns);
    let _daemon = site.start();
    let certbot = Certbot::new(&site);

    certbot.certonly(&by_dns(&site, &dns, ""));
    let first = judge(&site, &certbot);
    assert_eq!(std::fs::read_to_string(dns.zone()).unwrap(), "", "both records were withdrawn");

    certbot.run(&["renew", "--force-renewal", "--no-random-sleep-on-renew"]);
    assert_ne!(judge(&site, &certbot), first);
    assert_eq!(issued(&site), 2);
}

#[test]
fn with_another_txt_value_certbot_says_why_there_is_no_certificate() {
    let dns = DnsServer::start();
    let site = site(&dns);
    let _daemon = site.start();
    let certbot = Certbot::new(&site);

    let said = certbot.certonly_fails(&by_dns(&site, &dns, "forged"));
    assert!(said.contains("TXT records at _acme-challenge.wild.example.org is the expected one"), "{said}");
    assert!(!certbot.file(DOMAIN, "cert.pem").exists());
    assert_eq!(issued(&site), 0);
}

/// Has certbot's own library show control of the domain with all names below it, in the name of certbot's account; what it saw.
fn pre_authorize(site: &Site, dns: &DnsServer) -> Value {
    let output = Command::new(venv_program("python3"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/harness/subdomains.py"))
        .arg(format!("https://localhost:{}/acme/starter/directory", site.https_port))
        .arg(site.path("certbot"))
        .arg(DOMAIN)
        .arg(dns.zone())
        .env("REQUESTS_CA_BUNDLE", site.path("state/root.pem"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn certbot_is_asked_for_nothing_below_a_domain_that_its_account_has_shown() {
    let dns = DnsServer::start();
    let site = site(&dns);
    let _daemon = site.start();
    let mut endpoint = site.json(&["endpoint", "show", "starter"]);
    endpoint["options"]["ancestor_domains"] = json!([DOMAIN]);
    endpoint["options"]["authorization_reuse_s"] = json!(3600);
    let path = site.path("endpoint.json");
    std::fs::write(&path, endpoint.to_string()).unwrap();
    let _stored = site.json(&["endpoint", "put", path.to_str().unwrap()]);
    let certbot = Certbot::new(&site);
    certbot.run(&["register", "--agree-tos", "--register-unsafely-without-email"]);

    // A hook that fails is the answer to every challenge that certbot is asked.
    let name = format!("host.sub.{DOMAIN}");
    let order = ["--manual", "--preferred-challenges", "dns", "--manual-auth-hook", "false", "-d", &name];
    certbot.certonly_fails(&order);
    let seen = pre_authorize(&site, &dns);
    assert_eq!(seen["authorization"]["status"], "valid", "{seen}");
    assert_eq!(seen["authorization"]["subdomainAuthAllowed"], true, "{seen}");
    assert_eq!(seen["authorization"]["identifier"]["value"], DOMAIN, "{seen}");
    for order in seen["orders"].as_array().unwrap() {
        assert_eq!((&order["status"], &order["authorizations"]), (&json!("ready"), &json!([seen["at"]])), "{seen}");
    }
    certbot.certonly(&order);
    let ssl = OpenSsl::new();
    ssl.put("cert.pem", std::fs::read(certbot.file(&name, "cert.pem")).unwrap());
    assert!(ssl.run("x509 -in cert.pem -noout -ext subjectAltName").contains(&format!("DNS:{name}")));
    // What is not below it is asked for as ever.
    certbot.certonly_fails(&[
        "--manual",
        "--preferred-challenges",
        "dns",
        "--manual-auth-hook",
        "false",
        "-d",
        WILDCARD,
    ]);
}
