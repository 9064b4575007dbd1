#![allow(clippy::result_large_err)] // figment's own error, which its Jail asks for

use std::path::{Path, PathBuf};

use figment::Jail;

use crate::{SHIPPED, Settings, SettingsError, StoreEngine};

#[test]
fn the_shipped_file_equals_the_defaults() {
    assert_eq!(Settings::parse(SHIPPED).expect("valid"), Settings::default());
}

#[test]
fn the_shipped_file_has_every_key() {
    fn keys(value: &toml::Value, at: &str, found: &mut Vec<String>) {
        let Some(table) = value.as_table() else {
            return found.push(at.to_owned());
        };
        for (key, value) in table {
            keys(value, &format!("{at}.{key}"), found);
        }
    }
    let (mut shipped, mut known) = (Vec::new(), Vec::new());
    keys(&toml::from_str(SHIPPED).expect("TOML"), "", &mut shipped);
    let defaults = toml::Value::try_from(Settings::default()).expect("TOML");
    keys(&defaults, "", &mut known);
    shipped.sort();
    known.sort();
    assert_eq!(shipped, known);
}

#[test]
fn the_shipped_file_explains_every_section() {
    let lines: Vec<&str> = SHIPPED.lines().collect();
    for (above, line) in lines.iter().zip(lines.iter().skip(1)) {
        let is_key = line.contains(" = ") && !line.starts_with('#');
        assert!(!(is_key && above.is_empty()), "no comment above {line:?}");
    }
}

#[test]
fn nothing_at_all_gives_the_defaults() {
    assert_eq!(Settings::parse("").expect("valid"), Settings::default());
}

#[test]
fn the_environment_wins_over_the_file() {
    Jail::expect_with(|jail| {
        jail.clear_env();
        jail.create_file("certgate.toml", "[store]\nengine = \"sled\"\ncache_bytes = 5\n")?;
        jail.set_env("CERTGATE_STORE__ENGINE", "redb");
        jail.set_env("CERTGATE_TRUSTED_PROXIES", "[\"10.0.0.0/8\"]");
        jail.set_env("CERTGATE_HTTPS__CERTIFICATE__NAMES", "[a.example, b.example]");
        jail.set_env("CERTGATE_HTTPS__LISTEN", "127.0.0.1:0");
        jail.set_env("CERTGATE_CONFIG", "certgate.toml");
        let settings = Settings::load(Some(Path::new("certgate.toml"))).expect("valid");
        assert_eq!(settings.store.engine, StoreEngine::Redb);
        assert_eq!(settings.store.cache_bytes, 5);
        assert_eq!(settings.trusted_proxies.len(), 1);
        assert_eq!(settings.https.certificate.names, ["a.example", "b.example"]);
        assert_eq!(settings.https.listen.port(), 0);
        Ok(())
    });
}

#[test]
fn an_unknown_key_names_the_nearest_right_key_and_the_file() {
    Jail::expect_with(|jail| {
        jail.clear_env();
        jail.create_file("node.toml", "[store]\nengin = \"sled\"\n")?;
        let error = Settings::load(Some(Path::new("node.toml"))).expect_err("unknown key");
        let text = error.to_string();
        assert!(text.starts_with("unknown key `store.engin` in "), "{text}");
        assert!(text.contains("node.toml, line 2: did you mean `store.engine`?"), "{text}");
        Ok(())
    });
}

#[test]
fn an_unknown_key_of_the_environment_names_the_variable() {
    Jail::expect_with(|jail| {
        jail.clear_env();
        jail.create_file("node.toml", "[limits]\nretry_after_s = 5\n")?;
        jail.set_env("CERTGATE_LIMITS__ENROLL_THREAD", "2");
        let error = Settings::load(Some(Path::new("node.toml"))).expect_err("unknown key");
        assert_eq!(
            error.to_string(),
            "unknown key `limits.enroll_thread` in the environment variable \
             CERTGATE_LIMITS__ENROLL_THREAD: did you mean `CERTGATE_LIMITS__ENROLL_THREADS`?"
        );
        jail.clear_env();
        jail.set_env("CERTGATE_STORE_ENGINE", "redb");
        let text = Settings::load(Some(Path::new("node.toml"))).expect_err("unknown key").to_string();
        assert!(text.ends_with("did you mean `CERTGATE_STORE__ENGINE`?"), "{text}");
        Ok(())
    });
}

#[test]
fn an_unknown_key_that_resembles_nothing_lists_the_keys() {
    let text = Settings::parse("[http]\nzzz = 1\n").expect_err("unknown").to_string();
    assert!(text.contains("`http.zzz`"), "{text}");
    assert!(text.contains("listen, base_url"), "{text}");
}

#[test]
fn an_unknown_section_is_refused() {
    let text = Settings::parse("[stores]\n").expect_err("unknown").to_string();
    assert!(text.contains("did you mean `store`?"), "{text}");
}

#[test]
fn a_value_of_the_wrong_kind_names_its_key() {
    let text = Settings::parse("[limits]\nbody_bytes_max = \"many\"\n").expect_err("wrong kind").to_string();
    assert!(text.starts_with("`limits.body_bytes_max` in "), "{text}");
    let text = Settings::parse("[metrics]\nlisten = \"nowhere\"\n").expect_err("wrong kind").to_string();
    assert!(text.starts_with("`metrics.listen` in "), "{text}");
}

#[test]
fn values_that_cannot_work_are_refused() {
    for (toml, key) in [
        ("[https]\nbase_url = \"http://pki.example\"", "https.base_url"),
        ("[https]\nbase_url = \"https://pki.example/\"", "https.base_url"),
        ("[https]\nbase_url = \"https://pki.example/a\"", "https.base_url"),
        ("[http]\nbase_url = \"pki.example\"", "http.base_url"),
        ("[https.certificate]\nsource = \"files\"", "https.certificate.certificate_path"),
        ("[metrics]\nlisten = \"0.0.0.0:9464\"", "metrics.listen"),
        ("[limits]\nenroll_threads = 0", "limits.enroll_threads"),
        ("[limits]\nheader_bytes_max = 1024", "limits.header_bytes_max"),
        ("[validation]\nredirects_max = 11", "validation.redirects_max"),
        ("[validation]\ntimeout_s = 16", "validation.timeout_s"),
        ("[validation]\nperspective_timeout_s = 21", "validation.perspective_timeout_s"),
        ("[validation.perspectives.oslo]\nurl = \"https://oslo.example\"", "validation.perspectives"),
        (
            "[validation.perspectives.oslo]\nurl = \"http://oslo.example\"\nroots_path = \"r\"\ncertificate_path = \"c\"\nkey_path = \"k\"",
            "validation.perspectives",
        ),
        (
            "[validation.perspectives.Oslo]\nurl = \"https://oslo.example\"\nroots_path = \"r\"\ncertificate_path = \"c\"\nkey_path = \"k\"",
            "validation.perspectives",
        ),
        ("[perspective]\nports = []", "perspective.ports"),
        ("[[validation.zones]]\nname = \"corp.example\"\nresolvers = []", "validation.zones"),
        ("[issuing]\ncrl_validity_s = 86400", "issuing.crl_validity_s"),
    ] {
        let error = Settings::parse(toml).expect_err(toml);
        let SettingsError::Invalid { key: named, .. } = &error else {
            panic!("{toml}: {error}");
        };
        assert_eq!(named, key);
    }
}

#[test]
fn text_that_is_no_toml_is_an_error_and_a_missing_file_too() {
    assert!(matches!(Settings::parse("state_dir = "), Err(SettingsError::Invalid { .. })));
    Jail::expect_with(|jail| {
        jail.clear_env();
        let error = Settings::load(Some(Path::new("absent.toml"))).expect_err("absent");
        assert!(error.to_string().starts_with("cannot read settings from absent.toml"));
        Ok(())
    });
}

#[test]
fn paths_lie_below_the_state_directory_unless_set() {
    let settings = Settings::parse("state_dir = \"/srv/pki\"").expect("valid");
    assert_eq!(settings.store_directory(), Path::new("/srv/pki/store"));
    assert_eq!(settings.keys_directory(), Path::new("/srv/pki/keys"));
    assert_eq!(settings.operator_socket_path(), Path::new("/srv/pki/operator.sock"));
    let set = Settings::parse("[keys]\nsecret_path = \"/etc/secret\"").expect("valid");
    assert_eq!(set.keys_secret_path_beside(None), Path::new("/etc/secret"));
}

#[test]
fn s47_the_key_secret_comes_from_the_systemd_credential_when_there_is_one() {
    Jail::expect_with(|jail| {
        let settings = Settings::default();
        let directory: PathBuf = jail.directory().to_owned();
        let beside = |directory: &Path| settings.keys_secret_path_beside(Some(directory));
        assert_eq!(beside(&directory), Path::new("/var/lib/certgate/keystore.secret"));
        jail.create_file("keystore.secret", "secret")?;
        assert_eq!(beside(&directory), directory.join("keystore.secret"));
        Ok(())
    });
}
