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
    wiring.remount();
    assert!(wiring.unserved().all().is_empty());
    let bad = endpoint("bad", json!({"no_such_option": 1}));
    assert!(wiring.admit(&bad).is_err());
    engine.put_endpoint(&bad, "test").unwrap();
    for again in [Wiring::remount, Wiring::retry] {
        again(&wiring);
        let unserved: Vec<_> = wiring.unserved().all().into_iter().collect();
        assert_eq!((unserved.len(), unserved[0].0.as_str()), (1, "bad"));
        assert!(unserved[0].1.contains("no_such_option"), "{unserved:?}");
        let names: Vec<_> = wiring.acme_validators().iter().map(|validator| validator.acme().is_some()).collect();
        assert_eq!(names, [true], "the validations of the endpoint in force are retried by nobody");
    }
    engine.put_endpoint(&endpoint("bad", json!({})), "test").unwrap();
    wiring.retry();
    assert!(wiring.unserved().all().is_empty());
    assert_eq!(wiring.acme_validators().len(), 2);
    lanes.stop();
    runtime.shutdown_timeout(Duration::from_secs(5));
}

#[test]
fn of_two_endpoints_that_want_the_same_path_the_first_has_it_and_the_other_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path());
    let engine = gateway::open_engine(&settings).unwrap();
    create(&engine, "root", None);
    create(&engine, "issuing", Some("root"));
    let ndes = |name: &str| Endpoint {
        protocol: ca_backend::ProtocolName::new("scep").unwrap(),
        ..endpoint(name, json!({"ndes": true}))
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lanes = Lanes::start(&settings).unwrap();
    let wiring =
        Wiring::new(engine.clone(), settings, Mounts::default(), lanes.clone(), runtime.handle().clone(), Vec::new());
    wiring.admit(&ndes("a")).unwrap();
    engine.put_endpoint(&ndes("a"), "test").unwrap();
    wiring.admit(&ndes("a")).unwrap();
    assert!(wiring.admit(&ndes("b")).unwrap_err().public().contains("/certsrv/mscep"));
    wiring.admit(&Endpoint { enabled: false, ..ndes("b") }).unwrap();
    engine.put_endpoint(&ndes("b"), "test").unwrap();
    wiring.remount();
    let unserved = wiring.unserved().all();
    assert_eq!(unserved.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["b"]);
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
