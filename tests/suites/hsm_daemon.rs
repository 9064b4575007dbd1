//! The daemon with its keys in tokens, as operators meet it.

use serde_json::Value;
use tests::daemon::{Site, eventually, free_port, text};
use tests::openssl::OpenSsl;
use tests::token::{PIN, SoftToken};

use crate::interop_scep::{Client, static_challenge, succeeds};

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

fn never_tells_the_pin(said: &str) {
    assert!(!said.contains(PIN), "the PIN was told");
    assert!(said.contains("pkcs11"), "nothing was said at all");
}

/// What is at a URL, as text.
fn fetched(url: &str) -> String {
    let output = std::process::Command::new("curl").args(["--silent", url]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
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
    let unknown = site.output(&create("unknown", "CN=Unknown Root", "pkcs11:token=starter;object=fresh-root;id=%01"));
    assert_eq!(unknown.status.code(), Some(1), "a key of another id was made: {unknown:?}");
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
    never_tells_the_pin(&said);
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

/// Settings for a token called `soft` whose PIN comes from elsewhere, and these for the keys.
fn soft(token: &SoftToken, label: &str, pin: &str, homes: &str) -> String {
    let module = token.module();
    format!(
        "[log]\nlevel = \"trace\"\n\n[keys]\n{homes}\n\n[keys.pkcs11.soft]\nmodule_path = {module:?}\ntoken = \"{label}\"\n{pin}\n"
    )
}

/// The store of the key that somebody uses.
fn store_of(site: &Site, user: &str) -> String {
    let keys = site.json(&["key", "list"]);
    let key = keys.as_array().unwrap().iter().find(|key| key["used_by"][0] == user);
    key.unwrap_or_else(|| panic!("no key of {user}: {keys}"))["store"].as_str().unwrap().to_owned()
}

#[test]
fn responders_and_services_keep_their_keys_in_a_token_whose_pin_is_in_a_variable_while_authorities_have_files() {
    let token = SoftToken::softhsm("homes");
    let homes = "authorities = \"file\"\nresponders = \"soft\"\nservices = \"soft\"";
    let settings = soft(&token, "homes", "pin_variable = \"TESTS_TOKEN_PIN\"", homes);
    let site = Site::new(&settings).with_variable("TESTS_TOKEN_PIN", PIN);
    let daemon = site.start();
    for (user, store) in [
        ("root", "file"),
        ("issuing", "file"),
        ("ocsp/root", "soft"),
        ("ocsp/issuing", "soft"),
        ("ra/issuing/rsa-2048", "soft"),
        ("tls", "soft"),
    ] {
        assert_eq!(store_of(&site, user), store, "{user}");
    }

    // The registration authority's key decrypts and signs in the token.
    let client = Client::new(&site);
    succeeds(&client.scepclient("in-token", &static_challenge(&site)));
    client.judge("in-token");
    token.happens("absent");
    let away = client.scepclient("away", &static_challenge(&site));
    assert!(!away.status.success(), "{away:?}");
    token.is_well();
    eventually(|| client.scepclient("back", &static_challenge(&site)).status.success());

    // And the responder's signs there, which OpenSSL verifies.
    let ssl = OpenSsl::new();
    ssl.put("leaf.pem", std::fs::read(client.path("in-token.pem")).unwrap());
    ssl.put("root.pem", std::fs::read(site.path("state/root.pem")).unwrap());
    ssl.put("issuing.pem", fetched(&format!("http://localhost:{}/ca/issuing.pem", site.http_port)));
    let url = format!("http://localhost:{}/ocsp/issuing", site.http_port);
    let answer = ssl
        .run(&format!("ocsp -issuer issuing.pem -cert leaf.pem -url {url} -CAfile root.pem -verify_other issuing.pem"));
    assert!(answer.contains("Response verify OK") && answer.contains("leaf.pem: good"), "{answer}");

    let told = text(&site.path("state/starter.txt"));
    never_tells_the_pin(&format!("{told}{}{}{}", daemon.log(), site.json(&["key", "list"]), status(&site)));
}

#[test]
fn a_pin_in_a_systemd_credential_is_found_by_the_name_of_the_token() {
    use std::os::unix::fs::PermissionsExt;
    let token = SoftToken::softhsm("credential");
    let directory = tempfile::TempDir::new().unwrap();
    let credential = directory.path().join("soft.pin");
    std::fs::write(&credential, format!("{PIN}\n")).unwrap();
    // As systemd leaves it: the access control list that lets the daemon's user in shows as the group's mode.
    std::fs::set_permissions(&credential, std::fs::Permissions::from_mode(0o440)).unwrap();
    let settings = soft(&token, "credential", "", "authorities = \"soft\"");
    let site = Site::new(&settings).with_variable("CREDENTIALS_DIRECTORY", directory.path());
    let daemon = site.start();
    for user in ["root", "issuing", "ocsp/issuing", "ra/issuing/rsa-2048", "tls"] {
        assert_eq!(store_of(&site, user), "soft", "{user}");
    }
    daemon.kill();
    let daemon = site.start();
    assert_eq!(site.json(&create("own", "CN=Own Root", "soft"))["state"], "active");
    never_tells_the_pin(&format!("{}{}{}", daemon.log(), site.json(&["key", "list"]), status(&site)));
}

#[test]
fn a_starter_whose_token_is_away_tells_its_condition_and_makes_the_pki_once_the_token_is_there() {
    let token = SoftToken::softhsm("late");
    token.happens("absent");
    let port = free_port();
    let site = Site::new(&format!("[metrics]\nlisten = \"127.0.0.1:{port}\""));
    let _daemon = site.start_with(&["--key-store", &key_store(&token, "late")]);
    let page = |name: &str| fetched(&format!("http://127.0.0.1:{port}/{name}"));
    assert_eq!(page("healthz"), "alive\n");
    let readiness: Value = serde_json::from_str(&page("readyz")).unwrap();
    assert_eq!(part(&readiness, "keys:token")["ready"], false, "{readiness}");
    assert!(part(&readiness, "keys:token")["why"].as_str().unwrap().contains("late"), "{readiness}");
    assert_eq!(site.json(&["authority", "list"]).as_array().map(Vec::len), Some(0));
    assert!(!site.path("state/starter.txt").exists());

    token.is_well();
    eventually(|| site.path("state/starter.txt").exists());
    eventually(|| status(&site)["ready"] == true);
    for user in ["root", "issuing", "ra/issuing/rsa-2048", "tls"] {
        assert_eq!(store_of(&site, user), "token", "{user}");
    }
    // Its endpoints are served without a restart.
    let client = Client::new(&site);
    succeeds(&client.scepclient("late", &static_challenge(&site)));
    client.judge("late");
}

#[test]
fn a_token_with_fewer_sessions_than_wanted_is_told_by_the_log_once_by_status_and_by_the_test_of_keys() {
    let token = SoftToken::softhsm("few");
    token.happens("sessions 2");
    let pin = format!("pin_path = {:?}\nsessions = 6", token.pin_file(PIN));
    let site = Site::new(&soft(&token, "few", &pin, "authorities = \"soft\""));
    let daemon = site.start();
    let tested = site.output(&["key", "test", "soft", "--measure-ms", "50"]);
    let report = String::from_utf8_lossy(&tested.stdout).into_owned();
    let line = report.lines().find(|line| line.contains("open 6 sessions")).unwrap_or_else(|| panic!("{report}"));
    assert!(line.contains("does not work") && line.contains("the token gives 2"), "{line}");

    let status = status(&site);
    let keys = part(&status, "keys:soft");
    assert_eq!(keys["ready"], true, "{status}");
    assert_eq!(keys["why"], "the token gives 2 sessions, not 6 as the settings ask for");
    let log = daemon.log();
    assert_eq!(log.matches("the token gives fewer sessions").count(), 1, "{log}");
}

#[test]
fn an_empty_variable_is_no_pin() {
    let token = SoftToken::softhsm("empty");
    let settings = soft(&token, "empty", "pin_variable = \"TESTS_TOKEN_PIN\"", "");
    let site = Site::new(&settings).with_variable("TESTS_TOKEN_PIN", "");
    let _daemon = site.start();
    let status = status(&site);
    assert_eq!(part(&status, "keys:soft")["ready"], false, "{status}");
    assert!(part(&status, "keys:soft")["why"].as_str().unwrap().contains("TESTS_TOKEN_PIN"), "{status}");
    assert_eq!(token.logins(), 0);
}

#[test]
fn a_token_of_the_command_line_takes_no_place_in_the_settings_from_another() {
    let token = SoftToken::softhsm("named");
    let section = format!("[keys.pkcs11.token]\nmodule_path = {:?}\ntoken = \"other\"\n", token.module());
    let refused = Site::new(&section).output(&["serve", "--starter", "--key-store", &key_store(&token, "named")]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("call a token \"token\" already"), "{refused:?}");
}
