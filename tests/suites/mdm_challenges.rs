//! What devices fetch over SCEP with a challenge of the web service belongs to the device and user for which it was made.

use std::collections::BTreeSet;
use std::sync::Arc;

use ca_backend::{Binding, CredentialPurpose, EndpointName, NewCredential};
use endpoint::{Endpoint as _, Peer, TlsPeer};
use http::{Method, Request};
use mdm::Mdm;
use serde_json::{Value, json};
use tests::pki::{self, ISSUING, OPERATOR};
use tests::scep_client::{Device, Message, PROFILE, ScepBench, rules, serial};

const SUBJECT: &str = "cn=C02X";
const EVERYTHING: [&str; 5] = ["issue", "revoke", "hold", "list", "create-challenges"];

/// A SCEP endpoint, and the management service `fleet` that makes challenges for it.
struct Fleet {
    scep: ScepBench,
    mdm: Mdm,
    token: String,
}

fn name(text: &str) -> EndpointName {
    EndpointName::new(text).unwrap()
}

fn options() -> Value {
    json!({
        "configurations": [{
            "name": "wifi", "profile": PROFILE, "key": "ec-p256", "subject": [{"attribute": "cn", "value": "{device.serial}"}],
        }],
        "challenges": {"scep_endpoint": "devices"},
    })
}

fn mount(scep: &ScepBench, service: &str, options: Value) -> Mdm {
    let mut settings = pki::endpoint(service, ISSUING, &[PROFILE], rules());
    settings.protocol = ca_backend::ProtocolName::new("mdm").unwrap();
    settings.options = options;
    scep.pki.engine.put_endpoint(&settings, OPERATOR).unwrap();
    Mdm::mount(scep.pki.engine.clone(), name(service), &format!("https://ca.example/mdm/{service}")).unwrap()
}

fn token(scep: &ScepBench, service: &str, binding: Value) -> String {
    let wish = NewCredential {
        id: None,
        endpoint: name(service),
        purpose: CredentialPurpose::Token,
        comment: String::new(),
        holder: None,
        secret: None,
        expires: None,
        uses_max: None,
        binding: serde_json::from_value::<Binding>(binding).unwrap(),
    };
    scep.pki.engine.create_credential(&wish, OPERATOR).unwrap().1.reveal().to_owned()
}

/// Asks a service, with a token or else with a client certificate.
fn ask(mdm: &Mdm, caller: Result<&str, &[u8]>, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let (service, rest) = path.split_once('/').unwrap();
    let mut request = Request::builder().method(method).uri(format!("/mdm/{service}/{rest}"));
    let mut tls = TlsPeer::default();
    match caller {
        Ok(token) => request = request.header("authorization", format!("Bearer {token}")),
        Err(certificate) => tls.client_certificates = vec![certificate.to_vec().into()],
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let peer = Peer { address: "192.0.2.7:1".parse().unwrap(), tls: Some(Arc::new(tls)), request_id: "r".to_owned() };
    let response = mdm.handle(request.body(body.into()).unwrap(), &peer);
    (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap_or_default())
}

impl Fleet {
    fn start() -> Self {
        Self::with(rules())
    }

    fn with(rules: Value) -> Self {
        let scep = ScepBench::start(rules, Value::Null);
        let mdm = mount(&scep, "fleet", options());
        let token = token(&scep, "fleet", json!({"rights": EVERYTHING}));
        Self { scep, mdm, token }
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        ask(&self.mdm, Ok(&self.token), Method::POST, &format!("fleet/{path}"), body)
    }

    fn get(&self, path: &str) -> (u16, Value) {
        ask(&self.mdm, Ok(&self.token), Method::GET, &format!("fleet/{path}"), &Value::Null)
    }

    fn challenge(&self, wish: &Value) -> String {
        let (status, made) = self.post("challenges", wish);
        assert_eq!(status, 201, "{made}");
        made["challenge"].as_str().unwrap().to_owned()
    }

    /// A device that enrolled with a challenge.
    fn enrolled(&self, challenge: &str) -> Device {
        let device = Device::new(SUBJECT);
        let answer = device.ask(&self.scep, &Message::pkcs_req("enroll", device.csr(SUBJECT, Some(challenge), &[])));
        assert_eq!(answer.word(), "SUCCESS");
        Device::holding(device.private_key(), answer.certificates[0].clone())
    }

    /// The successor of a device's certificate, as the device gets it over SCEP.
    fn renewed(&self, device: &Device) -> Device {
        let next = Device::new(SUBJECT);
        let answer = device.ask(&self.scep, &Message::of("17", "renew", next.csr(SUBJECT, None, &[])));
        assert_eq!(answer.word(), "SUCCESS");
        Device::holding(next.private_key(), answer.certificates[0].clone())
    }

    fn serials(&self, of: &str) -> BTreeSet<String> {
        let (status, page) = self.get(&format!("certificates?{of}"));
        assert_eq!(status, 200, "{page}");
        page["certificates"].as_array().unwrap().iter().map(|one| one["serial"].as_str().unwrap().to_owned()).collect()
    }
}

fn serials<const N: usize>(devices: [&Device; N]) -> BTreeSet<String> {
    devices.iter().map(|device| serial(&device.certificate).to_string()).collect()
}

#[test]
fn what_a_device_fetches_and_renews_is_listed_held_renewed_and_revoked_by_the_service_that_made_the_challenge() {
    let fleet = Fleet::start();
    let wish = json!({"configuration": "wifi", "device": {"id": "d1", "serial": "C02X"}, "user": {"id": "ann"}});
    let first = fleet.enrolled(&fleet.challenge(&wish));
    let (_, made) = fleet.get("challenges");
    assert_eq!((made[0]["device"].as_str(), made[0]["user"].as_str()), (Some("d1"), Some("ann")), "{made}");
    let other = fleet.enrolled(&fleet.challenge(&json!({"device": {"id": "d2"}})));
    assert_eq!(fleet.serials("device=d1"), serials([&first]));

    let second = fleet.renewed(&first);
    let third = fleet.renewed(&second);
    for of in ["device=d1", "user=ann"] {
        assert_eq!(fleet.serials(of), serials([&first, &second, &third]), "{of}");
    }
    let path = format!("certificates/{}", serial(&third.certificate));
    let (_, shown) = fleet.get(&path);
    assert_eq!((shown["device"].as_str(), shown["state"].as_str()), (Some("d1"), Some("normal")), "{shown}");
    assert_eq!(fleet.post(&format!("{path}/hold"), &json!({})).1["state"], "held");
    assert_eq!(fleet.post(&format!("{path}/unhold"), &json!({})).1["state"], "normal");
    let (status, by_service) = fleet.post(&format!("{path}/renew"), &json!({"pkcs12": {}}));
    assert_eq!((status, by_service["device"].as_str()), (201, Some("d1")), "{by_service}");

    let wish = json!({"change": "revoke", "reason": "cessationOfOperation", "device": "d1"});
    let (_, lost) = fleet.post("certificates/status", &wish);
    let states: Vec<_> = lost["results"].as_array().unwrap().iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, ["revoked"; 4].map(Value::from), "{lost}");
    let (_, untouched) = fleet.get(&format!("certificates/{}", serial(&other.certificate)));
    assert_eq!(untouched["state"], "normal");
}

#[test]
fn s52_another_service_and_a_token_for_other_names_change_nothing() {
    let fleet = Fleet::start();
    let device = fleet.enrolled(&fleet.challenge(&json!({"device": {"id": "d1"}})));
    let serial = serial(&device.certificate);
    let branch = mount(&fleet.scep, "branch", options());
    let foreign = token(&fleet.scep, "branch", json!({"rights": EVERYTHING}));
    for change in ["hold", "revoke", "renew"] {
        let path = format!("branch/certificates/{serial}/{change}");
        assert_eq!(ask(&branch, Ok(&foreign), Method::POST, &path, &json!({})).0, 404, "{change}");
    }
    let (_, page) = ask(&branch, Ok(&foreign), Method::GET, "branch/certificates?device=d1", &Value::Null);
    assert_eq!(page["certificates"], json!([]));

    let names = json!({"subject": [{"attribute": "cn", "value": "C03*"}]});
    let bound = token(&fleet.scep, "fleet", json!({"rights": EVERYTHING, "names": names}));
    let path = format!("fleet/certificates/{serial}/revoke");
    assert_eq!(ask(&fleet.mdm, Ok(&bound), Method::POST, &path, &json!({})).0, 403);
    // Nor does a challenge that an operator made belong to the service.
    let stranger = fleet.enrolled(&fleet.scep.challenge(Some(1), json!({})));
    let path = format!("certificates/{}/revoke", tests::scep_client::serial(&stranger.certificate));
    assert_eq!(fleet.post(&path, &json!({})).0, 404);
}

#[test]
fn an_id_needs_no_configuration_and_without_one_only_the_device_renews() {
    let fleet = Fleet::start();
    assert_eq!(fleet.post("challenges", &json!({"device": {"id": "d1", "serial": "C02X"}})).0, 400);
    assert_eq!(fleet.post("challenges", &json!({"device": {"id": "line\nbreak"}})).0, 400);
    let device = fleet.enrolled(&fleet.challenge(&json!({"device": {"id": "d1"}, "user": {"id": "ann"}})));
    let path = format!("certificates/{}", serial(&device.certificate));
    let (status, problem) = fleet.post(&format!("{path}/renew"), &json!({"pkcs12": {}}));
    assert_eq!((status, problem["reason"].as_str()), (400, Some("unsupported")), "{problem}");
    let renewed = fleet.renewed(&device);
    assert_eq!(fleet.serials("user=ann"), serials([&device, &renewed]));

    // A challenge for nobody in particular still is the service's.
    let nobody = fleet.enrolled(&fleet.challenge(&Value::Null));
    let (status, revoked) = fleet.post(&format!("certificates/{}/revoke", serial(&nobody.certificate)), &json!({}));
    assert_eq!((status, revoked["state"].as_str()), (200, Some("revoked")), "{revoked}");
}

#[test]
fn a_challenge_for_jamf_is_for_the_device_and_user_that_the_event_names() {
    let fleet = Fleet::start();
    let event = |device: Value| {
        json!({
            "webhook": {"webhookEvent": "SCEPChallenge", "id": 1, "name": "scep", "eventTimestamp": 1_780_315_200_000_u64},
            "event": {"payloadIdentifier": "p", "payloadTypes": ["com.apple.security.scep"], "targetDevice": device},
        })
    };
    let fetch = |event: &Value| {
        let mut request = Request::post("/mdm/fleet/jamf").header("authorization", format!("Bearer {}", fleet.token));
        request = request.header("content-type", "application/json");
        let tls = Some(Arc::new(TlsPeer::default()));
        let peer = Peer { address: "192.0.2.7:1".parse().unwrap(), tls, request_id: "r".to_owned() };
        let answer = fleet.mdm.handle(request.body(event.to_string().into()).unwrap(), &peer);
        assert_eq!(answer.status(), 200, "{answer:?}");
        String::from_utf8(answer.body().to_vec()).unwrap()
    };
    let full = json!({"serialNumber": "C02X", "udid": "EBBFF74D", "username": "ann", "jssID": 13, "room": 4});
    let known = fleet.enrolled(&fetch(&event(full)));
    assert_eq!(fleet.serials("device=C02X"), serials([&known]));
    assert_eq!(fleet.serials("user=ann"), serials([&known]));
    let without_serial =
        fleet.enrolled(&fetch(&event(json!({"serialNumber": "", "udid": "EBBFF74D", "username": null}))));
    assert_eq!(fleet.serials("device=EBBFF74D"), serials([&without_serial]));
    // What names nobody is no reason to leave a device without a certificate.
    for odd in [json!({"serialNumber": 7}), json!({"serialNumber": "line\nbreak"}), json!({})] {
        let _unlisted = fleet.enrolled(&fetch(&event(odd)));
    }
    let webhook = json!({"webhookEvent": "SCEPChallenge"});
    for odd in [json!({}), json!({"event": null}), json!({"event": {"targetDevice": null}}), json!({"event": [7]})] {
        let mut odd = odd;
        odd["webhook"] = webhook.clone();
        let _unlisted = fleet.enrolled(&fetch(&odd));
    }
}

#[test]
fn a_request_that_waited_for_approval_is_for_the_same_device() {
    let mut rules = rules();
    rules[0]["approval"] = json!(true);
    let fleet = Fleet::with(rules);
    let challenge = fleet.challenge(&json!({"device": {"id": "d1"}}));
    let device = Device::new(SUBJECT);
    let request = Message::pkcs_req("wait", device.csr(SUBJECT, Some(&challenge), &[]));
    assert_eq!(device.ask(&fleet.scep, &request).word(), "PENDING");
    let engine = &fleet.scep.pki.engine;
    engine.approve(&engine.waiting(None, 1).unwrap()[0].ticket, OPERATOR).unwrap();
    let issued = device.ask(&fleet.scep, &request);
    assert_eq!(fleet.serials("device=d1"), BTreeSet::from([serial(&issued.certificates[0]).to_string()]));
}

#[test]
fn a_certificate_of_the_service_stays_its_own_when_the_device_renews_it_over_scep() {
    let fleet = Fleet::start();
    let device = Device::new(SUBJECT);
    let csr = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, device.csr(SUBJECT, None, &[]));
    let wish = json!({"configuration": "wifi", "device": {"id": "d1", "serial": "C02X"}, "csr": csr});
    let (status, issued) = fleet.post("certificates", &wish);
    assert_eq!(status, 201, "{issued}");
    let der = der::pem::decode_vec(issued["certificate"].as_str().unwrap().as_bytes()).unwrap().1;
    let first = Device::holding(device.private_key(), der);
    let second = fleet.renewed(&first);
    assert_eq!(fleet.serials("device=d1"), serials([&first, &second]));
    let (status, _) = fleet.post(&format!("certificates/{}/revoke", serial(&second.certificate)), &json!({}));
    assert_eq!(status, 200);
}

#[test]
fn a_client_certificate_revokes_what_its_challenges_brought_and_not_what_those_of_others_did() {
    let mut fleet = Fleet::start();
    let client = fleet.enrolled(&fleet.scep.challenge(Some(1), json!({})));
    let mut options = options();
    options["clients"] =
        json!([{"certificate": serial(&client.certificate).to_string(), "rights": ["create-challenges", "revoke"]}]);
    fleet.mdm = mount(&fleet.scep, "fleet", options);
    let caller = Err(client.certificate.as_slice());
    let (_, made) = ask(&fleet.mdm, caller, Method::POST, "fleet/challenges", &json!({"device": {"id": "d1"}}));
    let own = fleet.enrolled(made["challenge"].as_str().unwrap());
    let others = fleet.enrolled(&fleet.challenge(&json!({"device": {"id": "d1"}})));
    for (device, status) in [(&own, 200), (&others, 403)] {
        let path = format!("fleet/certificates/{}/revoke", serial(&device.certificate));
        assert_eq!(ask(&fleet.mdm, caller, Method::POST, &path, &json!({})).0, status);
    }
}
