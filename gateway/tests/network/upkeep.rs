//! What goes on beside the requests: the mounts and what belongs to them, and the server certificate.

use std::path::Path;
use std::time::Duration;

use ca_backend::{AlternativeName, AuthorityName, DistinguishedName, Endpoint, Engine, KeyAlgorithm, NewAuthority};
use config::Settings;
use gateway::listen::Mounts;
use gateway::server_certificate::ServerCertificate;
use gateway::wiring::{Lanes, Wiring};
use serde_json::json;

fn settings(directory: &Path) -> Settings {
    let mut settings = Settings { state_dir: directory.to_owned(), ..Settings::default() };
    settings.store.engine = config::StoreEngine::Memory;
    settings
}

fn create(engine: &Engine, name: &str, parent: Option<&str>) {
    let wanted = NewAuthority {
        name: AuthorityName::new(name).unwrap(),
        friendly_name: name.to_owned(),
        subject: DistinguishedName::parse(&format!("cn={name}")).unwrap(),
        algorithm: KeyAlgorithm::EcP256,
        key: None,
        validity_s: None,
        parent: parent.map(|parent| AuthorityName::new(parent).unwrap()),
        ocsp: true,
        services: vec!["privatessl".to_owned()],
    };
    engine.create_authority(&wanted, "test").unwrap();
}

fn endpoint(name: &str, options: serde_json::Value) -> Endpoint {
    let document = json!({
        "name": name, "protocol": "acme", "authority": "issuing", "profiles": ["privatessl-tls-server"], "options": options,
    });
    serde_json::from_value(document).unwrap()
}

#[test]
fn an_endpoint_that_cannot_be_mounted_takes_nothing_from_those_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let engine = gateway::open_engine(&settings).unwrap();
    create(&engine, "root", None);
    create(&engine, "issuing", Some("root"));
    engine.put_endpoint(&endpoint("good", json!({})), "test").unwrap();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lanes = Lanes::start(&settings).unwrap();
    let wiring =
        Wiring::new(engine.clone(), settings, Mounts::default(), lanes.clone(), runtime.handle().clone(), Vec::new());
    wiring.remount().unwrap();
    engine.put_endpoint(&endpoint("bad", json!({"no_such_option": 1})), "test").unwrap();
    assert_eq!(wiring.remount().unwrap_err().endpoint, "bad");
    let names: Vec<_> = wiring.acme_validators().iter().map(|validator| validator.acme().is_some()).collect();
    assert_eq!(names, [true], "the validations of the endpoint in force are retried by nobody");
    lanes.stop();
    runtime.shutdown_timeout(Duration::from_secs(5));
}

#[test]
fn another_authority_does_not_change_whose_certificate_clients_see() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let engine = gateway::open_engine(&settings).unwrap();
    create(&engine, "root", None);
    create(&engine, "issuing", Some("root"));
    let keep = || ServerCertificate::new(engine.clone(), &settings).unwrap().keep().unwrap();
    assert!(keep());
    assert_eq!(engine.tls_issuer().unwrap().unwrap().as_str(), "issuing");
    create(&engine, "another", Some("root"));
    assert!(keep());
    assert_eq!(engine.tls_issuer().unwrap().unwrap().as_str(), "issuing", "the first by name took over");
}

#[test]
fn without_an_authority_there_is_no_certificate_and_it_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let engine = gateway::open_engine(&settings).unwrap();
    let mut certificate = ServerCertificate::new(engine.clone(), &settings).unwrap();
    let condition = certificate.condition();
    assert!(!certificate.keep().unwrap());
    let standing = condition.standing();
    assert!(!standing.ready && standing.why.as_ref().unwrap().contains("certgate authority create"), "{standing:?}");
    create(&engine, "root", None);
    assert!(!certificate.keep().unwrap(), "a root does not issue it");
    create(&engine, "issuing", Some("root"));
    assert!(certificate.keep().unwrap());
    let standing = condition.standing();
    assert!(standing.ready && standing.why.is_none(), "{standing:?}");
}

#[test]
fn the_key_of_a_former_certificate_lives_until_the_listener_has_the_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let engine = gateway::open_engine(&settings).unwrap();
    create(&engine, "root", None);
    create(&engine, "issuing", Some("root"));
    let issuing = AuthorityName::new("issuing").unwrap();
    let keys = || std::fs::read_dir(settings.keys_directory()).unwrap().count();
    let first = engine.tls_identity(&issuing, &[AlternativeName::Dns("a.test".to_owned())]).unwrap();
    let before = keys();
    engine.tls_identity(&issuing, &[AlternativeName::Dns("b.test".to_owned())]).unwrap();
    assert_eq!(keys(), before + 1);
    first.key.sign(b"a handshake that began before").unwrap();
    engine.forget_former_tls_key().unwrap();
    assert_eq!(keys(), before);
    assert!(first.key.sign(b"a handshake").is_err());
    engine.forget_former_tls_key().unwrap();
}
