//! The daemon with its keys in tokens, as operators meet it.

use serde_json::Value;
use tests::daemon::{Site, eventually};
use tests::token::{PIN, SoftToken};

/// Where `--key-store` finds a token that no settings name.
fn key_store(token: &SoftToken, label: &str) -> String {
    let (module, pin) = (token.module(), token.pin_file(PIN));
    format!("pkcs11:token={label}?module-path={}&pin-source={}", module.display(), pin.display())
}

/// The condition of a part, as `/readyz` tells it.
fn part<'a>(status: &'a Value, name: &str) -> &'a Value {
    let parts = status["parts"].as_array().unwrap();
    parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}"))
}

fn status(site: &Site) -> Value {
    serde_json::from_slice(&site.output(&["status", "--json"]).stdout).unwrap()
}

fn create<'a>(name: &'a str, subject: &'a str, key: &'a str) -> [&'a str; 7] {
    ["authority", "create", name, "--subject", subject, "--key", key]
}

#[test]
fn the_starter_keeps_every_key_in_a_token_survives_its_absence_and_never_tells_the_pin() {
    let token = SoftToken::softhsm("starter");
    let site = Site::new("[log]\nlevel = \"trace\"");
    let store = key_store(&token, "starter");
    let daemon = site.start_with(&["--key-store", &store]);
    let mut said = String::new();

    let keys = site.json(&["key", "list"]);
    said += &keys.to_string();
    let keys = keys.as_array().unwrap();
    assert!(keys.iter().all(|key| key["store"] == "token"), "a key lies elsewhere: {keys:?}");
    for user in ["root", "issuing", "ocsp/root", "ocsp/issuing", "ra/issuing/rsa-2048", "tls"] {
        assert!(keys.iter().any(|key| key["used_by"][0] == user), "no key of {user}: {keys:?}");
    }

    // A key that is made first is adopted; one that is not there is made.
    let made = site.json(&["key", "generate", "own-root", "--algorithm", "ec-p384"]);
    let uri = made["key"].as_str().unwrap();
    assert!(uri.starts_with("pkcs11:token=starter;object=own-root;id="), "{uri}");
    let wrong = site.output(&create("own", "CN=Own Root", "pkcs11:token=starter;object=own-root"));
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("ec-p384"), "{wrong:?}");
    let adopt =
        [&create("own", "CN=Own Root", "pkcs11:token=starter;object=own-root")[..], &["--algorithm", "ec-p384"]];
    assert_eq!(site.json(&adopt.concat())["key"], uri);
    let new = site.json(&create("fresh", "CN=Fresh Root", "pkcs11:token=starter;object=fresh-root"));
    assert!(new["key"].as_str().unwrap().contains("object=fresh-root"), "{new}");
    let on_disk = site.json(&create("disk", "CN=Disk Root", "file"));
    assert!(on_disk["key"].as_str().unwrap().starts_with("file:"), "{on_disk}");

    let tested = site.output(&["key", "test", "token", "--measure-ms", "50", "--json"]);
    let report = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(report.contains("make and sign ec-p256") && report.contains("per_s"), "{report}");
    assert!(report.contains("oaep-sha256"), "{report}");
    assert_eq!(tested.status.code(), Some(1), "SoftHSM cannot do everything, and the exit code says so");
    said += &report;
    let made = site.json(&["audit", "list"]).to_string();
    assert!(made.contains("key-made") && made.contains("object=own-root"), "{made}");

    daemon.kill();
    token.happens("absent");
    let daemon = site.start_with(&["--key-store", &store]);
    let dead = status(&site);
    assert_eq!(part(&dead, "keys:token")["ready"], false, "{dead}");
    said += &dead.to_string();
    let refused = site.output(&create("later", "CN=Later Root", "pkcs11:token=starter"));
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    token.is_well();
    eventually(|| part(&status(&site), "keys:token")["ready"] == true);
    eventually(|| site.output(&create("later", "CN=Later Root", "pkcs11:token=starter")).status.success());

    token.happens("hang");
    let hung = site.output(&create("hung", "CN=Hung Root", "pkcs11:token=starter"));
    assert_eq!(hung.status.code(), Some(4), "{hung:?}");
    token.is_well();
    said += &daemon.log();
    assert!(!said.contains(PIN), "the PIN was told");
    assert!(said.contains("pkcs11"), "nothing was said at all");
}

#[test]
fn two_tokens_of_two_modules_serve_two_authorities_and_one_that_is_gone_hurts_neither() {
    let (soft, nss) = (SoftToken::softhsm("soft"), SoftToken::nss());
    let pin = soft.pin_file(PIN);
    let section = |name: &str, module: &std::path::Path, token: &str| {
        format!("[keys.pkcs11.{name}]\nmodule_path = {module:?}\ntoken = \"{token}\"\npin_path = {pin:?}\n\n")
    };
    let site = Site::new(&format!(
        "{}{}{}",
        section("soft", &soft.module(), "soft"),
        section("nss", &nss.module(), "NSS Certificate DB"),
        section("gone", std::path::Path::new("/nonexistent/module.so"), "gone"),
    ));
    let _daemon = site.start();
    for store in ["soft", "nss"] {
        let subject = format!("CN=Root in {store}");
        let made = site.json(&create(store, &subject, store));
        assert_eq!(made["state"], "active", "{made}");
        // Its responder's key lies beside it.
        let keys = site.json(&["key", "list", "--store", store]);
        assert_eq!(keys.as_array().unwrap().len(), 2, "{keys}");
    }
    let status = status(&site);
    assert_eq!(part(&status, "keys:gone")["ready"], false);
    assert!(part(&status, "keys:gone")["why"].as_str().unwrap().contains("/nonexistent/module.so"), "{status}");
    for store in ["file", "soft", "nss"] {
        assert_eq!(part(&status, &format!("keys:{store}"))["ready"], true, "{status}");
    }
    let refused = site.output(&create("gone", "CN=Gone", "gone"));
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");

    // While one token is away, the other issues.
    soft.happens("absent");
    assert_eq!(site.output(&create("soft-two", "CN=Soft Two", "soft")).status.code(), Some(4));
    assert_eq!(site.json(&create("nss-two", "CN=NSS Two", "nss"))["state"], "active");
}
