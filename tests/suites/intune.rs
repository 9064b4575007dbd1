//! Intune as the judge of devices: the whole way from the engine through the gateway's own sockets to a stand-in of the services.

use std::sync::Arc;

use ca_backend::testing::{FailureMoment, NOON_S};
use ca_backend::{
    AlternativeName, CertificateRequest, CertificateState, DeviceClaim, DeviceVerifier, DistinguishedName,
    EndpointName, EnrollmentRequest, Error, Evidence, Fault, InventoryQuery, IssuedCertificate, KeyAlgorithm, Origin,
    Outcome, ProfileName, ProtocolName, Reason, RequestedExtensions, RequestedNames,
};
use const_oid::db::rfc5280::ID_CE_SUBJECT_ALT_NAME;
use mdm::{ClientCredential, Intune, IntuneOptions};
use serde_json::{Value, json};
use tests::intune::{Mishap, SECRET, StandIn};
use tests::key::Key;
use tests::pki::{ENDPOINT, ISSUING, Pki, authority, find_all, reason, settings};

const PROFILE: &str = "intune-digital-signature";
const SID: &str = "uri:tag:microsoft.com,2022-09-14:sid:S-1-5-21-1004336348-1177238915-682003330-1105";

struct Bench {
    pki: Pki,
    stand_in: StandIn,
    intune: Arc<Intune>,
}

/// A device with its profile's challenge.
struct Device {
    key: Key,
    csr: Vec<u8>,
    transaction: &'static str,
}

impl Bench {
    fn start() -> Self {
        Self::with(json!({}), ClientCredential::Secret(SECRET.to_owned().into()))
    }

    fn with(more: Value, credential: ClientCredential) -> Self {
        let (pki, stand_in) = (Pki::start(), StandIn::start());
        let rules = json!([{
            "name": "devices", "requesters": [{"evidence": "device", "requester": "device:intune:*"}], "profiles": [PROFILE],
            "allow": {"uri": ["tag:microsoft.com,2022-09-14:sid:*"], "dns": [".mdm.example.org"], "subject": [{"attribute": "cn", "value": "*"}]},
        }]);
        pki.put_endpoint(&[PROFILE], rules).unwrap();
        let mut options = stand_in.options();
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let options = IntuneOptions::parse(&options).unwrap();
        let endpoint = EndpointName::new(ENDPOINT).unwrap();
        let intune = Intune::new(pki.engine.clone(), endpoint, options, credential, stand_in.outbound());
        Self { pki, stand_in, intune: Arc::new(intune) }
    }

    /// The daemon starts again over the same store.
    fn restart(&mut self) {
        self.pki.restart();
        let options = IntuneOptions::parse(&self.stand_in.options()).unwrap();
        let credential = ClientCredential::Secret(SECRET.to_owned().into());
        let endpoint = EndpointName::new(ENDPOINT).unwrap();
        let intune = Intune::new(self.pki.engine.clone(), endpoint, options, credential, self.stand_in.outbound());
        self.intune = Arc::new(intune);
    }

    /// A device asks for what its profile says.
    fn device(&self, transaction: &'static str) -> Device {
        let names = [SID, "dns:pc1.mdm.example.org"];
        let challenge = self.stand_in.challenge("cn=pc1", &names, NOON_S + 3_600);
        self.device_that_asks(transaction, "cn=pc1", &names, Some(&challenge))
    }

    fn device_that_asks(
        &self,
        transaction: &'static str,
        subject: &str,
        names: &[&str],
        challenge: Option<&str>,
    ) -> Device {
        let key = Key::ec();
        let csr = key.csr_with(subject, names, challenge);
        Device { key, csr, transaction }
    }

    /// What SCEP does with a device's request.
    fn enroll(&self, device: &Device) -> Result<IssuedCertificate, Error> {
        let csr = CertificateRequest::open(&device.csr).unwrap();
        let endpoint = EndpointName::new(ENDPOINT).unwrap();
        let origin = Origin {
            protocol: ProtocolName::new("test").unwrap(),
            endpoint: Some(endpoint.clone()),
            transaction: device.transaction.to_owned(),
            request_digest: csr.digest(),
            peer: None,
            request_id: "test".to_owned(),
        };
        let claim = DeviceClaim {
            endpoint,
            transaction: device.transaction.to_owned(),
            csr: device.csr.clone(),
            peer: None,
            renews: None,
        };
        let verifier: Arc<dyn DeviceVerifier> = self.intune.clone();
        let verified = self.pki.engine.verify_device(&verifier, claim, &origin)?;
        let named = csr.extensions().iter().find(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME);
        let alternative = named
            .map_or_else(Vec::new, |extension| AlternativeName::decode_all(extension.extn_value.as_bytes()).unwrap());
        let outcome = self.pki.engine.enroll(EnrollmentRequest {
            authority: authority(ISSUING),
            profile: ProfileName::new(PROFILE).unwrap(),
            names: RequestedNames { subject: DistinguishedName::from_der(csr.subject_der()).unwrap(), alternative },
            extensions: RequestedExtensions::default(),
            key: csr.key().clone(),
            validity: None,
            evidence: Evidence::Device(verified),
            holder: None,
            origin,
        })?;
        match outcome {
            Outcome::Issued(certificate) => Ok(certificate),
            Outcome::Pending { .. } => panic!("no rule asks for approval"),
        }
    }

    fn issued(&self) -> Vec<ca_backend::CertificateSummary> {
        find_all(
            &self.pki.engine,
            &InventoryQuery { profile: Some(ProfileName::new(PROFILE).unwrap()), ..InventoryQuery::default() },
        )
    }
}

#[test]
fn a_device_gets_what_intune_vouched_for_and_intune_hears_of_it_before() {
    let bench = Bench::start();
    let device = bench.device("AB12");
    let certificate = bench.enroll(&device).unwrap();

    let found = &bench.issued()[0];
    assert_eq!(found.alternative_names, [SID, "dns:pc1.mdm.example.org"]);
    assert_eq!((found.subject.as_str(), found.requester.as_str()), ("CN=pc1", "device:intune:AB12"));
    let seen = bench.stand_in.seen();
    let told = &seen.successes[0];
    assert_eq!(told["transactionId"], "AB12");
    assert_eq!(told["certificateSerialNumber"], certificate.serial.to_string().to_uppercase());
    assert_eq!(told["certificateThumbprint"].as_str().unwrap().len(), 40);
    assert_eq!(told["issuingCertificateAuthority"].as_str().unwrap().to_lowercase(), "cn=test issuing,o=example,c=de");
    assert!(told["certificateExpirationDateUtc"].as_str().unwrap().ends_with(".000Z"), "{told}");
    assert_eq!(told["caConfiguration"], ENDPOINT);
    drop(seen);
    // One token for each resource, and one question for where the services are.
    bench.enroll(&bench.device("AB13")).unwrap();
    assert_eq!((bench.stand_in.count("/token"), bench.stand_in.count("/graph/")), (2, 1));
    assert_eq!(device.key.algorithm(), KeyAlgorithm::EcP256);
}

#[test]
fn a_renewal_is_judged_like_the_first_request_and_a_repeat_tells_nothing_twice() {
    let bench = Bench::start();
    let device = bench.device("AB12");
    let first = bench.enroll(&device).unwrap();
    assert_eq!(bench.enroll(&device).unwrap().serial, first.serial);
    assert_eq!((bench.stand_in.count("validateRequest"), bench.stand_in.seen().successes.len()), (2, 1));
    bench.pki.pass_s(2 * 3_600);
    let renewed = bench.enroll(&bench.device("CD34")).unwrap();
    assert_ne!(renewed.serial, first.serial);
    assert_eq!(bench.stand_in.seen().successes.len(), 2);
}

#[test]
fn s08_what_the_challenge_does_not_say_is_refused() {
    let bench = Bench::start();
    let names = [SID, "dns:pc1.mdm.example.org"];
    let good = bench.stand_in.challenge("cn=pc1", &names, NOON_S + 3_600);
    let expired = bench.stand_in.challenge("cn=pc1", &names, NOON_S - 1);
    let forged = good.replacen('e', "f", 1);
    for (subject, names, challenge, expected) in [
        ("cn=pc2", &names[..], Some(good.as_str()), Reason::NameNotAllowed),
        ("cn=pc1", &names[..1], Some(&good), Reason::NameNotAllowed),
        ("cn=pc1", &[], Some(&good), Reason::NameNotAllowed),
        ("cn=pc1", &names[..], Some(&expired), Reason::BadTime),
        ("cn=pc1", &names[..], Some(&forged), Reason::NotAuthenticated),
        ("cn=pc1", &names[..], Some("a password"), Reason::NotAuthenticated),
        ("cn=pc1", &names[..], None, Reason::NotAuthenticated),
    ] {
        let refused = bench.enroll(&bench.device_that_asks("X", subject, names, challenge)).unwrap_err();
        assert_eq!(reason(&refused), expected, "{subject} {names:?}");
    }
    assert!(bench.issued().is_empty() && bench.stand_in.seen().successes.is_empty());
}

#[test]
fn every_result_code_but_success_keeps_the_certificate_back() {
    let bench = Bench::start();
    for code in
        ["ChallengeExpired", "KeyLengthMismatch", "ScepProfileNoLongerTargetedToTheClient", "Unknown", "", "NewCode"]
    {
        bench.stand_in.next("validateRequest", Mishap::Code(Box::leak(code.to_owned().into_boxed_str())));
        let refused = bench.enroll(&bench.device("AB12")).unwrap_err();
        assert!(matches!(refused, Error::Refused(_)), "{code}: {refused:?}");
    }
    assert!(bench.issued().is_empty());
}

#[test]
fn a_certificate_that_intune_was_not_told_of_is_revoked_and_not_given_out() {
    let bench = Bench::start();
    bench.stand_in.next("successNotification", Mishap::Code("Unknown"));
    assert!(matches!(bench.enroll(&bench.device("AB12")), Err(Error::Refused(_))));
    let issued = bench.issued();
    assert_eq!((issued.len(), issued[0].state), (1, CertificateState::Revoked));
    // The next attempt begins anew.
    let certificate = bench.enroll(&bench.device("AB12")).unwrap();
    assert_ne!(certificate.serial, issued[0].serial);
}

/// The process dies at one commit after the other. Whatever of a certificate it leaves behind, Intune was told of it or it is
/// revoked, once nobody asked for it again in time.
#[test]
fn what_a_process_that_died_left_untold_is_revoked_after_the_restart() {
    let mut left_untold = 0;
    for moment in [FailureMoment::BeforeWrite, FailureMoment::AfterWrite] {
        for n in 1.. {
            let mut bench = Bench::start();
            let device = bench.device("AB12");
            let faults = bench.pki.bench.store_faults.clone();
            faults.fail_at(faults.commits() + n, moment);
            let answer = bench.enroll(&device);
            if !faults.power_is_out() {
                assert!(answer.is_ok() && n > 1, "{answer:?}");
                break;
            }
            bench.restart();
            bench.pki.pass_s(2 * settings().repeat_window_s);
            let told: Vec<String> = bench
                .stand_in
                .seen()
                .successes
                .iter()
                .map(|told| told["certificateSerialNumber"].to_string())
                .collect();
            for found in bench.issued() {
                let is_told = told.contains(&format!("\"{}\"", found.serial.to_string().to_uppercase()));
                assert!(
                    is_told || answer.is_err(),
                    "the device got what Intune does not know, at commit {n}, {moment:?}"
                );
                assert!(is_told || found.state == CertificateState::Revoked, "{found:?} at commit {n}, {moment:?}");
                left_untold += usize::from(!is_told);
            }
        }
    }
    assert!(left_untold > 0, "no moment lay between the certificate and the word to Intune");
}

#[test]
fn a_device_that_asks_again_after_a_restart_gets_its_certificate_once_intune_was_told() {
    let mut between = 0;
    for n in 1.. {
        let mut bench = Bench::start();
        let device = bench.device("AB12");
        let faults = bench.pki.bench.store_faults.clone();
        faults.fail_at(faults.commits() + n, FailureMoment::AfterWrite);
        let _lost = bench.enroll(&device);
        if !faults.power_is_out() {
            break;
        }
        bench.restart();
        between += usize::from(!bench.issued().is_empty() && bench.stand_in.seen().successes.is_empty());
        let certificate = bench.enroll(&device).unwrap_or_else(|error| panic!("after commit {n}: {error:?}"));
        bench.pki.pass_s(2 * settings().repeat_window_s);
        let issued = bench.issued();
        assert_eq!(
            issued.iter().map(|found| (found.serial, found.state)).collect::<Vec<_>>(),
            [(certificate.serial, CertificateState::Normal)],
            "after commit {n}"
        );
        assert!(!bench.stand_in.seen().successes.is_empty(), "after commit {n}");
    }
    assert!(between > 0, "no moment lay between the certificate and the word to Intune");
}

#[test]
fn intune_hears_of_what_we_refuse() {
    let bench = Bench::start();
    let names = ["dns:pc1.elsewhere.example"];
    let challenge = bench.stand_in.challenge("cn=pc1", &names, NOON_S + 3_600);
    let refused = bench.enroll(&bench.device_that_asks("AB12", "cn=pc1", &names, Some(&challenge))).unwrap_err();
    assert_eq!(reason(&refused), Reason::NameNotAllowed);
    let seen = bench.stand_in.seen();
    let told = &seen.failures[0];
    assert!(told["hResult"].as_i64().unwrap() < 0 && told["errorDescription"].as_str().unwrap().len() <= 255, "{told}");
}

#[test]
fn a_refused_token_is_renewed_once() {
    let bench = Bench::start();
    bench.enroll(&bench.device("AB12")).unwrap();
    bench.stand_in.forget_tokens();
    bench.enroll(&bench.device("AB13")).unwrap();
    assert_eq!(bench.stand_in.count("/token"), 3, "the services' token only");

    for _ in 0..2 {
        bench.stand_in.next("validateRequest", Mishap::Status(401, None));
    }
    assert!(matches!(bench.enroll(&bench.device("AB14")), Err(Error::Fault(Fault::TryLater { .. }))));
}

#[test]
fn short_troubles_are_sat_out() {
    for mishap in [
        Mishap::Status(503, None),
        Mishap::Status(429, Some(1)),
        Mishap::Status(500, Some(0)),
        Mishap::Status(404, None),
        Mishap::Garbage,
        Mishap::Silence,
    ] {
        let bench = Bench::start();
        for part in ["/token", "/graph/", "validateRequest", "successNotification"] {
            bench.stand_in.next(part, mishap.clone());
        }
        let issued = bench.enroll(&bench.device("AB12"));
        // Retry-After of a second, four times, is within the deadline; so is a second of silence.
        assert!(issued.is_ok(), "{mishap:?}: {issued:?}");
        assert_eq!(bench.stand_in.seen().successes.len(), 1);
    }
}

#[test]
fn long_troubles_end_with_the_deadline_and_nothing_is_issued() {
    let bench = Bench::start();
    bench.stand_in.next("validateRequest", Mishap::Status(503, Some(3_600)));
    let took = ca_backend::Stopwatch::start();
    assert!(matches!(bench.enroll(&bench.device("AB12")), Err(Error::Fault(Fault::TryLater { .. }))));
    assert!(took.elapsed().as_secs() < 5, "an hour is not waited for");
    for _ in 0..20 {
        bench.stand_in.next("validateRequest", Mishap::Garbage);
    }
    assert!(matches!(bench.enroll(&bench.device("AB13")), Err(Error::Fault(Fault::TryLater { .. }))));
    assert!(bench.issued().is_empty());
    assert!(bench.stand_in.count("validateRequest") <= 6);
}

#[test]
fn a_lost_notification_is_repeated_and_a_silent_one_takes_the_certificate_back() {
    let bench = Bench::with(json!({"deadline_s": 2}), ClientCredential::Secret(SECRET.to_owned().into()));
    for _ in 0..5 {
        bench.stand_in.next("successNotification", Mishap::Silence);
    }
    assert!(matches!(bench.enroll(&bench.device("AB12")), Err(Error::Fault(Fault::TryLater { .. }))));
    assert_eq!(bench.issued()[0].state, CertificateState::Revoked);
}

#[test]
fn an_application_can_show_a_certificate_instead_of_a_secret() {
    let made = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&made).unwrap();
    let credential =
        ClientCredential::certificate(certificate.pem().as_bytes(), made.serialize_pem().as_bytes()).unwrap();
    assert_eq!(format!("{credential:?}"), "Certificate(..)");
    let bench = Bench::with(json!({}), credential);
    bench.stand_in.expect_assertion(made.public_key_pem().as_bytes());
    bench.enroll(&bench.device("AB12")).unwrap();

    let wrong = Bench::with(json!({}), ClientCredential::Secret("wrong".to_owned().into()));
    assert!(matches!(wrong.enroll(&wrong.device("AB12")), Err(Error::Fault(Fault::TryLater { .. }))));
    assert_eq!(wrong.stand_in.count("/token"), 1, "a wrong secret stays wrong");
}

#[test]
fn what_intune_wants_revoked_is_revoked_and_reported_but_nothing_of_others() {
    let bench = Bench::start();
    let certificate = bench.enroll(&bench.device("AB12")).unwrap();
    let foreign = tests::wish::Wish::for_host("host.example.org")
        .profile("privatessl-tls-server")
        .issue(&bench.pki.engine)
        .unwrap();
    let wish = |context: &str, serial: String| json!({"requestContext": context, "serialNumber": serial, "issuerName": null, "caConfiguration": null});
    bench.stand_in.seen().to_revoke = vec![
        wish("1", certificate.serial.to_string().to_uppercase()),
        wish("2", foreign.serial.to_string()),
        wish("3", "no serial".to_owned()),
        wish("4", "40".repeat(20)),
        json!({"requestContext": "5"}),
        json!({"serialNumber": "40"}),
    ];
    bench.stand_in.next("uploadRevocationResults", Mishap::Status(503, None));
    assert_eq!(bench.intune.revoke_as_asked().unwrap(), 1);
    let seen = bench.stand_in.seen();
    let codes: Vec<_> = seen
        .revoked
        .iter()
        .map(|result| (result["succeeded"].as_bool().unwrap(), result["errorCode"].as_str().unwrap()))
        .collect();
    assert_eq!(
        codes,
        [
            (true, "None"),
            (false, "CertificateNotFoundError"),
            (false, "ParameterDataInvalidError"),
            (false, "CertificateNotFoundError"),
            (false, "ParameterDataInvalidError"),
        ]
    );
    drop(seen);
    assert_eq!(bench.issued()[0].state, CertificateState::Revoked);
    let state = bench.pki.engine.find_certificate(&foreign.serial).unwrap().unwrap().state;
    assert_eq!(state, CertificateState::Normal, "a tenant has no say in other certificates");
    assert_eq!(bench.intune.revoke_as_asked().unwrap(), 0);
}
