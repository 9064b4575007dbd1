//! SCEP at the endpoint's boundary: what clients get, and what becomes of messages that nobody should send.

use std::sync::{Arc, Mutex};

use ca_backend::{
    Action, CertificateRequest, DeviceClaim, DeviceVerifier, Error, IssuedCertificate, KeyAlgorithm, Reason, Refusal,
    RevocationReason, StatusChange,
};
use der::Encode;
use pkcs7::{Bag, Cipher, Digest, KeyTransport, Legacy, SignedMessage};
use scep::Judges;
use serde_json::{Value, json};
use tests::pki::{DAY_S, ISSUING, OPERATOR, Pki, audited};
use tests::scep_client::{Answer, Device, Message, ScepBench, indefinite, rules, serial};

const SUBJECT: &str = "cn=device-1";

fn by_hand() -> Value {
    json!([])
}

fn start() -> ScepBench {
    ScepBench::start(rules(), Value::Null)
}

/// Enrolls a new device with a challenge of one use.
fn enrolled(bench: &ScepBench) -> (Device, Vec<u8>) {
    let device = Device::new(SUBJECT);
    let challenge = bench.challenge(Some(1), json!({}));
    let csr = device.csr(SUBJECT, Some(&challenge), &["device-1.example.org"]);
    let answer = device.ask(bench, &Message::pkcs_req("enroll", csr));
    assert_eq!(answer.word(), "SUCCESS");
    let [certificate] = answer.certificates.as_slice() else { panic!("one certificate: {answer:?}") };
    (device, certificate.clone())
}

fn approve_the_one(bench: &ScepBench) {
    let waiting = bench.pki.engine.waiting(None, 10).unwrap();
    let [one] = waiting.as_slice() else { panic!("one request waits: {waiting:?}") };
    bench.pki.engine.approve(&one.ticket, OPERATOR).unwrap();
}

#[test]
fn capabilities_and_ca_certificates_have_the_exact_content_types_that_clients_compare() {
    let bench = start();
    for path in ["/scep/devices", "/scep/devices/pkiclient.exe", "/certsrv/mscep/mscep.dll/pkiclient.exe"] {
        let reply = bench.send("GET", &format!("{path}?operation=GetCACaps&message=x"), "");
        assert_eq!(reply.headers()["content-type"], "text/plain");
        let text = String::from_utf8(reply.body().to_vec()).unwrap();
        assert!(text.lines().any(|line| line == "SCEPStandard") && !text.contains("DES") && !text.contains("SHA-1\n"));
        assert!(!text.contains('\r'));
    }
    let reply = bench.send("GET", "/scep/devices?operation=GetCACert", "");
    assert_eq!(Bag::read(reply.body()).unwrap().certificates.len(), 3, "registration authority, issuer, root");
    let reply = bench.send("GET", "/scep/devices?operation=GetNextCACert", "");
    assert_eq!(reply.status(), 404);

    bench.change(rules(), json!({ "ca_certificates": "registration-authority" }));
    let reply = bench.send("GET", "/scep/devices?operation=GetCACert", "");
    assert_eq!(reply.headers()["content-type"], "application/x-x509-ca-cert");
    assert!(pkcs7::CertificateView::of(reply.body()).is_ok());
}

#[test]
fn the_next_authority_is_told_under_the_signature_of_the_present_one() {
    let bench = start();
    bench.change(rules(), json!({ "next_authority": "root" }));
    let signer = bench.registration_authority();
    let reply = bench.send("GET", "/scep/devices?operation=GetNextCACert", "");
    assert_eq!(reply.headers()["content-type"], "application/x-x509-next-ca-cert");
    let message = SignedMessage::open(reply.body(), Legacy::default()).unwrap();
    assert_eq!(message.signer.certificate, signer);
    assert!(!Bag::read(&message.content.unwrap()).unwrap().certificates.is_empty());
}

#[test]
fn s08_a_one_time_challenge_gives_one_certificate_and_the_same_one_again_to_the_same_request() {
    let bench = start();
    let device = Device::new(SUBJECT);
    let challenge = bench.challenge(Some(1), json!({}));
    let csr = device.csr(SUBJECT, Some(&challenge), &[]);
    let first = device.ask(&bench, &Message::pkcs_req("t1", csr.clone()));
    assert_eq!(first.word(), "SUCCESS");
    assert_eq!(first.transaction, "t1");
    assert_eq!(first.recipient_nonce, Some(vec![7; 16]));
    // The reply was lost: the same request, encrypted anew.
    let again = device.ask(&bench, &Message { cipher: Cipher::Aes256, ..Message::pkcs_req("t1", csr) });
    assert_eq!(again.certificates, first.certificates);

    let other = Device::new(SUBJECT);
    let spent = other.ask(&bench, &Message::pkcs_req("t2", other.csr(SUBJECT, Some(&challenge), &[])));
    assert_eq!(spent.word(), "FAILURE 2");
}

#[test]
fn s08_a_wrong_challenge_and_a_name_that_is_not_allowed_look_the_same_outside_and_differ_in_the_audit_log() {
    let bench = start();
    let authority = bench.registration_authority();
    let good = bench.challenge(None, json!({}));
    let bound = bench.challenge(None, json!({ "subject": "cn=somebody-else" }));
    let mut texts = Vec::new();
    for (challenge, dns) in
        [("wrong-challenge", "device-1.example.org"), (&good, "host.example.com"), (&bound, "device-1.example.org")]
    {
        let device = Device::new(SUBJECT);
        let message = Message::pkcs_req("t", device.csr(SUBJECT, Some(challenge), &[dns]));
        let reply = bench.post(&device.seal(&message, &authority));
        assert_eq!(device.open(&reply, &authority).word(), "FAILURE 2");
        let message = SignedMessage::open(reply.body(), Legacy::default()).unwrap();
        let text = message.signer.attributes.iter().find(|a| a.id.to_string() == "1.3.6.1.5.5.7.24.1").unwrap().clone();
        texts.push(text);
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    let audit = bench.pki.engine.audit(0, 1000).unwrap();
    let refused: Vec<_> = audit.iter().filter(|entry| entry.record.action == Action::Refused).collect();
    assert_eq!(refused.len(), 3);
}

#[test]
fn s08_without_rules_everything_waits_and_nothing_is_issued_until_an_operator_approves() {
    let mut bench = ScepBench::start(by_hand(), Value::Null);
    let device = Device::new(SUBJECT);
    let challenge = bench.challenge(None, json!({}));
    let request = Message::pkcs_req("wait", device.csr(SUBJECT, Some(&challenge), &["a.example.org"]));
    assert_eq!(device.ask(&bench, &request).word(), "PENDING");
    assert_eq!(device.ask(&bench, &request).word(), "PENDING", "sent again, not a second request");
    let poll = Message::of("20", "wait", tlv_sequence(&[]));
    assert_eq!(device.ask(&bench, &poll).word(), "PENDING");

    let stranger = Device::new(SUBJECT);
    assert_eq!(stranger.ask(&bench, &poll).word(), "FAILURE 4", "the transactionID alone is no proof");
    assert_eq!(device.ask(&bench, &Message::of("20", "other", tlv_sequence(&[]))).word(), "FAILURE 4");

    bench.restart();
    approve_the_one(&bench);
    let issued = device.ask(&bench, &poll);
    assert_eq!(issued.word(), "SUCCESS");
    assert_eq!(device.ask(&bench, &request).certificates, issued.certificates);
}

#[test]
fn a_request_that_an_operator_rejects_fails_at_the_next_poll() {
    let bench = ScepBench::start(by_hand(), Value::Null);
    let device = Device::new(SUBJECT);
    assert_eq!(device.ask(&bench, &Message::pkcs_req("no", device.csr(SUBJECT, None, &[]))).word(), "PENDING");
    let waiting = bench.pki.engine.waiting(None, 10).unwrap();
    bench.pki.engine.reject(&waiting[0].ticket, OPERATOR, "unknown device").unwrap();
    assert_eq!(device.ask(&bench, &Message::of("20", "no", tlv_sequence(&[]))).word(), "FAILURE 2");
}

#[test]
fn so_many_requests_may_wait_and_no_more_and_they_make_room_when_their_time_is_over() {
    let bench = ScepBench::start(by_hand(), json!({ "pending_max": 2, "pending_max_s": 600 }));
    let ask = |transaction: &str| {
        let device = Device::new(SUBJECT);
        device.ask(&bench, &Message::pkcs_req(transaction, device.csr(SUBJECT, None, &[]))).word()
    };
    assert_eq!([ask("1"), ask("2"), ask("3")], ["PENDING", "PENDING", "FAILURE 2"]);
    bench.pki.pass_s(601);
    assert_eq!([ask("4"), ask("5"), ask("6")], ["PENDING", "PENDING", "FAILURE 2"]);
}

#[test]
fn a_place_is_free_once_the_outcome_was_fetched_and_nobody_may_ask_for_it_again() {
    let bench = ScepBench::start(by_hand(), json!({ "pending_max": 2 }));
    let ask = |device: &Device, transaction: &str| {
        device.ask(&bench, &Message::pkcs_req(transaction, device.csr(SUBJECT, None, &[]))).word()
    };
    let [issued, rejected, later, last] = [(); 4].map(|()| Device::new(SUBJECT));
    let poll = |device: &Device, transaction: &str| {
        device.ask(&bench, &Message::of("20", transaction, tlv_sequence(&[]))).word()
    };
    let engine = &bench.pki.engine;
    assert_eq!(ask(&issued, "issued"), "PENDING");
    approve_the_one(&bench);
    assert_eq!(ask(&rejected, "rejected"), "PENDING");
    engine.reject(&engine.waiting(None, 1).unwrap()[0].ticket, OPERATOR, "unknown device").unwrap();

    // A decision alone frees nothing: who asked may fetch it as long as ever.
    bench.pki.pass_s(2 * DAY_S);
    assert_eq!(ask(&later, "later"), "FAILURE 2");
    assert_eq!([poll(&issued, "issued"), poll(&rejected, "rejected")], ["SUCCESS", "FAILURE 2"]);
    // An answer may be lost.
    bench.pki.pass_s(engine.repeat_window_s() - 1);
    assert_eq!([poll(&issued, "issued"), poll(&rejected, "rejected")], ["SUCCESS", "FAILURE 2"]);
    assert_eq!(ask(&later, "later"), "FAILURE 2");
    bench.pki.pass_s(2);
    assert_eq!([ask(&later, "later"), ask(&last, "last")], ["PENDING", "PENDING"]);
    assert_eq!([poll(&issued, "issued"), poll(&rejected, "rejected")], ["FAILURE 4", "FAILURE 4"]);
}

#[test]
fn a_request_on_which_nobody_decides_is_given_up_and_gives_back_what_it_took() {
    let mut rules = rules();
    rules[0]["approval"] = json!(true);
    let bench = ScepBench::start(rules, json!({ "pending_max_s": 90 * DAY_S }));
    let engine = &bench.pki.engine;
    let device = Device::new(SUBJECT);
    let challenge = bench.challenge(Some(1), json!({}));
    let request = Message::pkcs_req("wait", device.csr(SUBJECT, Some(&challenge), &[]));
    assert_eq!(device.ask(&bench, &request).word(), "PENDING");
    bench.pki.pass_s(30 * DAY_S - 60);
    engine.maintain();
    assert_eq!(engine.waiting(None, 10).unwrap().len(), 1);
    bench.pki.pass_s(DAY_S);
    engine.maintain();
    engine.maintain();
    assert!(engine.waiting(None, 10).unwrap().is_empty());
    assert_eq!(audited(engine, Action::Expired).len(), 1);
    let poll = Message::of("20", "wait", tlv_sequence(&[]));
    assert_eq!(device.ask(&bench, &poll).word(), "FAILURE 2");
    // The challenge waits for nothing any more, and leaves the store.
    bench.pki.pass_s(3 * DAY_S);
    engine.maintain();
    let all = ca_backend::CredentialQuery { limit: 10, ..ca_backend::CredentialQuery::default() };
    assert!(engine.credentials(&all).unwrap().items.is_empty());
}

#[test]
fn s42_requests_of_strangers_do_not_fill_the_audit_log() {
    let bench = start();
    let device = Device::new(SUBJECT);
    for n in 0..60 {
        let message = Message::pkcs_req(&format!("t{n}"), device.csr(SUBJECT, None, &[]));
        assert_eq!(device.ask(&bench, &message).word(), "FAILURE 2", "no rule takes a key alone");
        // Slowly enough for the limit of certificates per requester.
        bench.pki.bench.clock.advance_s(u64::from(n % 4 == 3));
    }
    let refused = || audited(&bench.pki.engine, Action::Refused);
    assert!((1..=15).contains(&refused().len()), "{} entries", refused().len());
    bench.pki.pass_s(61);
    let last = refused().pop().unwrap().record.detail;
    assert!(last.contains("without an entry of their own: scep devices: 45 not-authorized"), "{last}");
}

#[test]
fn s11_a_renewal_is_signed_with_the_stored_certificate_and_keeps_its_names() {
    let bench = start();
    let (old, certificate) = enrolled(&bench);
    let renew = |kind: &str, transaction: &str, subject: &str, dns: &[&str]| {
        let new = Device::new(SUBJECT);
        let signer = Device::holding(old.private_key(), certificate.clone());
        signer.ask(&bench, &Message::of(kind, transaction, new.csr(subject, None, dns)))
    };
    let named = renew("17", "enroll", SUBJECT, &["device-1.example.org"]);
    assert_eq!(named.word(), "SUCCESS");
    assert_ne!(named.certificates[0], certificate, "the transactionID repeats, the request does not");
    assert_eq!(renew("19", "r2", SUBJECT, &[]).word(), "SUCCESS", "quirk_sscep_renewal_as_pkcs_req");
    assert_eq!(renew("17", "r3", "cn=device-2", &[]).word(), "FAILURE 2");
    assert_eq!(renew("17", "r4", SUBJECT, &["device-2.example.org"]).word(), "FAILURE 2");

    let same_key = Message::of("17", "r5", old.csr(SUBJECT, None, &[]));
    let signer = Device::holding(old.private_key(), certificate.clone());
    assert_eq!(signer.ask(&bench, &same_key).word(), "FAILURE 2", "a new key unless the endpoint says otherwise");
    bench.change(rules(), json!({ "renewal_same_key": true }));
    assert_eq!(signer.ask(&bench, &same_key).word(), "SUCCESS");
    bench.change(rules(), json!({ "renewal_before_expiry_s": 30 * DAY_S }));
    assert_eq!(renew("17", "r6", SUBJECT, &[]).word(), "FAILURE 2", "too early");
    bench.change(rules(), json!({ "renewal": false }));
    assert_eq!(renew("17", "r7", SUBJECT, &[]).word(), "FAILURE 2");
    bench.change(rules(), Value::Null);

    bench.pki.change(&serial(&certificate), StatusChange::Hold).unwrap();
    assert_eq!(renew("17", "r8", SUBJECT, &[]).word(), "FAILURE 1");
    bench.pki.revoke(&serial(&certificate), RevocationReason::Superseded).unwrap();
    assert_eq!(renew("17", "r9", SUBJECT, &[]).word(), "FAILURE 1");
    // One that the same device issued itself under the same names proves nothing.
    assert_eq!(old.ask(&bench, &Message::of("17", "r10", old.csr(SUBJECT, None, &[]))).word(), "FAILURE 1");
}

#[test]
fn s10_every_message_type_that_is_not_served_is_refused_before_its_content_is_looked_at() {
    let bench = start();
    let device = Device::new(SUBJECT);
    for kind in ["3", "18", "0", "23", "019", "-19", "x"] {
        let message = Message::of(kind, "t", b"no content that could be read".to_vec());
        assert_eq!(device.ask(&bench, &message).word(), "FAILURE 2", "{kind}");
    }
}

#[test]
fn s09_whatever_goes_wrong_between_decryption_and_proof_of_possession_looks_the_same() {
    let bench = start();
    let authority = bench.registration_authority();
    let device = Device::new(SUBJECT);
    let challenge = bench.challenge(None, json!({}));
    let csr = device.csr(SUBJECT, Some(&challenge), &[]);
    let whole = |content: Vec<u8>| device.seal(&Message::pkcs_req("t", content), &authority);

    let mut messages = vec![
        whole(b"garbage".to_vec()),
        whole(Vec::new()),
        whole(csr[..csr.len() - 1].to_vec()),
        whole([csr.as_slice(), b"more"].concat()),
        whole(altered(&csr, csr.len() - 9)),
        whole(Device::new(SUBJECT).csr(SUBJECT, Some(&challenge), &[])),
        device.wrap(&Message::pkcs_req("t", Vec::new()), None),
        device.wrap(&Message::pkcs_req("t", Vec::new()), Some(b"no envelope")),
        device.seal(&Message::pkcs_req("t", csr.clone()), &device.certificate),
    ];
    // Encrypted key and content, each altered under a good signature.
    let random = zeroize::Zeroizing::new([9; 48]);
    let envelope = pkcs7::seal(&csr, &authority, Cipher::Aes128, KeyTransport::Pkcs1v15, &random).unwrap();
    let parts = pkcs7::Envelope::read(&envelope, Legacy::default()).unwrap();
    let key = find(&envelope, &parts.recipients[0].encrypted_key);
    for at in [key + 1, key + 200, envelope.len() - 1, envelope.len() - 17, envelope.len() - 300] {
        messages.push(device.wrap(&Message::pkcs_req("t", Vec::new()), Some(&altered(&envelope, at))));
    }
    let said: Vec<_> = messages
        .iter()
        .map(|message| {
            let reply = bench.post(message);
            assert_eq!(device.open(&reply, &authority).word(), "FAILURE 1");
            let mut attributes = SignedMessage::open(reply.body(), Legacy::default()).unwrap().signer.attributes;
            attributes.retain(|attribute| attribute.id.to_string() != "2.16.840.1.113733.1.9.5");
            attributes
        })
        .collect();
    assert!(said.iter().all(|attributes| *attributes == said[0]), "{said:?}");
}

#[test]
fn s09_weak_algorithms_are_refused_by_name_unless_the_endpoint_allows_them() {
    let bench = start();
    let challenge = bench.challenge(None, json!({}));
    let ask = |cipher, transport| {
        let device = Device::new(SUBJECT);
        let csr = device.csr(SUBJECT, Some(&challenge), &[]);
        device.ask(&bench, &Message { cipher, transport, ..Message::pkcs_req("t", csr) }).word()
    };
    for cipher in [Cipher::Aes128, Cipher::Aes192, Cipher::Aes256] {
        assert_eq!(ask(cipher, KeyTransport::Pkcs1v15), "SUCCESS", "{cipher:?}");
    }
    for digest in [Digest::Sha1, Digest::Sha256] {
        assert_eq!(ask(Cipher::Aes128, KeyTransport::Oaep(digest)), "SUCCESS", "{digest:?}");
    }
    assert_eq!(ask(Cipher::Aes128, KeyTransport::Oaep(Digest::Sha512)), "FAILURE 0");
    assert_eq!(ask(Cipher::TripleDes, KeyTransport::Pkcs1v15), "FAILURE 0");
    assert_eq!(ask(Cipher::Des, KeyTransport::Pkcs1v15), "FAILURE 0");
    bench.change(rules(), json!({ "allow_triple_des": true }));
    assert_eq!(ask(Cipher::TripleDes, KeyTransport::Pkcs1v15), "SUCCESS");
    assert_eq!(ask(Cipher::Des, KeyTransport::Pkcs1v15), "FAILURE 0");
    bench.change(rules(), json!({ "allow_des": true }));
    assert_eq!(ask(Cipher::Des, KeyTransport::Pkcs1v15), "SUCCESS");
}

#[test]
fn holders_of_a_certificate_get_certificates_and_everybody_gets_the_crl() {
    let bench = start();
    let (device, certificate) = enrolled(&bench);
    let view = pkcs7::CertificateView::of(&certificate).unwrap();
    let wanted = tlv_sequence(&[view.issuer, view.serial]);
    let holder = Device::holding(device.private_key(), certificate.clone());
    assert_eq!(
        holder.ask(&bench, &Message::of("21", "g", wanted.clone())).certificates,
        std::slice::from_ref(&certificate)
    );
    assert_ne!(device.ask(&bench, &Message::of("21", "g", wanted.clone())).word(), "SUCCESS");
    let unknown = tlv_sequence(&[view.issuer, &1_u8.to_der().unwrap()]);
    assert_eq!(holder.ask(&bench, &Message::of("21", "g", unknown)).word(), "FAILURE 4");
    let foreign = tlv_sequence(&[view.subject, view.serial]);
    assert_eq!(holder.ask(&bench, &Message::of("21", "g", foreign.clone())).word(), "FAILURE 4");

    bench.pki.engine.publish_crl(ISSUING).unwrap();
    let crl = device.ask(&bench, &Message::of("22", "c", wanted));
    assert_eq!(crl.crls, [bench.pki.engine.crl(ISSUING).unwrap().der.to_vec()]);
    assert_eq!(device.ask(&bench, &Message::of("22", "c", foreign)).word(), "FAILURE 4");

    // A long one has to be fetched where nothing is signed and encrypted anew for each who asks.
    let wanted = tlv_sequence(&[view.issuer, view.serial]);
    bench.change(rules(), json!({ "crl_bytes_max": crl.crls[0].len() - 1 }));
    assert_eq!(device.ask(&bench, &Message::of("22", "c", wanted.clone())).word(), "FAILURE 2");
    bench.change(rules(), json!({ "crl_bytes_max": crl.crls[0].len() }));
    assert_eq!(device.ask(&bench, &Message::of("22", "c", wanted)).word(), "SUCCESS");
}

#[test]
fn a_renewed_registration_authority_still_reads_what_was_sent_to_the_one_before() {
    let bench = start();
    let before = bench.registration_authority();
    bench.pki.pass_s(500 * DAY_S);
    let after = bench.registration_authority();
    assert_ne!(before, after);
    let challenge = bench.challenge(None, json!({}));
    for recipient in [&before, &after] {
        let device = Device::new(SUBJECT);
        let message = Message::pkcs_req("t", device.csr(SUBJECT, Some(&challenge), &[]));
        let reply = bench.post(&device.seal(&message, recipient));
        assert_eq!(device.open(&reply, &after).word(), "SUCCESS");
    }
}

#[test]
fn the_registration_authority_is_rsa_whatever_the_authority_is_and_has_no_other_use() {
    let pki = Pki::start();
    assert_eq!(
        pki.engine.authority(&ca_backend::AuthorityName::new(ISSUING).unwrap()).unwrap().algorithm,
        Some(KeyAlgorithm::EcP256)
    );
    let refused =
        pki.engine.keep_registration_authority(&ca_backend::AuthorityName::new(ISSUING).unwrap(), KeyAlgorithm::EcP256);
    assert!(refused.is_err());
    let bench = ScepBench::over(pki, rules(), json!({ "ra_key": "rsa-3072" }));
    let shown = tests::openssl::OpenSsl::new().show(&bench.registration_authority());
    assert!(shown.contains("(3072 bit)") && shown.contains("Digital Signature, Key Encipherment"), "{shown}");
    assert!(!shown.contains("CA:TRUE") && !shown.contains("Certificate Sign"), "{shown}");
}

#[test]
fn quirk_apple_ber_of_indefinite_length_is_read_like_der() {
    let bench = start();
    let authority = bench.registration_authority();
    let device = Device::new(SUBJECT);
    let csr = device.csr(SUBJECT, Some(&bench.challenge(None, json!({}))), &[]);
    let random = zeroize::Zeroizing::new([9; 48]);
    let envelope = pkcs7::seal(&csr, &authority, Cipher::Aes128, KeyTransport::Pkcs1v15, &random).unwrap();
    let message = device.wrap(&Message::pkcs_req("t", Vec::new()), Some(&indefinite(&envelope)));
    let answer = device.open(&bench.post(&indefinite(&message)), &authority);
    assert_eq!(answer.word(), "SUCCESS");
}

#[test]
fn a_message_may_come_in_the_query_of_a_get_as_long_as_old_clients_make_it() {
    use base64::Engine as _;
    let bench = start();
    let authority = bench.registration_authority();
    let device = Device::new(SUBJECT);
    let csr = device.csr(SUBJECT, Some(&bench.challenge(None, json!({}))), &[]);
    let message = device.seal(&Message { nonce: None, ..Message::pkcs_req("t", csr) }, &authority);
    let text = base64::engine::general_purpose::STANDARD.encode(&message);
    let reply = bench.send("GET", &format!("/scep/devices?operation=PKIOperation&message={text}"), "");
    let answer = device.open(&reply, &authority);
    assert_eq!((answer.word().as_str(), answer.recipient_nonce), ("SUCCESS", None));
}

/// No octet cut off or changed anywhere brings a certificate that the whole message would not have brought, or a failure of ours.
#[test]
fn a_message_cut_anywhere_or_changed_anywhere_is_refused_in_order() {
    let bench = start();
    let authority = bench.registration_authority();
    let device = Device::new(SUBJECT);
    let csr = device.csr(SUBJECT, Some(&bench.challenge(Some(1), json!({}))), &[]);
    let message = device.seal(&Message::pkcs_req("t", csr), &authority);
    let first = device.open(&bench.post(&message), &authority);
    assert_eq!(first.word(), "SUCCESS");
    let judge = |altered: &[u8], what: &str| {
        let reply = bench.post(altered);
        assert!(reply.status() == 200 || reply.status() == 400, "{what}: {}", reply.status());
        if reply.status() == 200 {
            let message = SignedMessage::open(reply.body(), Legacy::default()).unwrap();
            // An answer can only be read where the recipient was left as it was.
            if message.content.is_some_and(|content| !content.is_empty())
                && let Ok(Answer { certificates, .. }) =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| device.open(&reply, &authority)))
            {
                assert_eq!(certificates, first.certificates, "{what}");
            }
        }
    };
    for length in (0..message.len()).step_by(61) {
        let reply = bench.post(&message[..length]);
        assert_eq!(reply.status(), 400, "cut at {length}");
    }
    for at in (0..message.len()).step_by(13) {
        judge(&altered(&message, at), &format!("octet {at}"));
    }
    judge(&[message.as_slice(), &[0]].concat(), "an octet more");
    assert_eq!(bench.post(&vec![0x30; 300_000]).status(), 400);
    let issued = bench.pki.engine.events(0, 1000).unwrap();
    assert_eq!(issued.iter().filter(|event| event.serial == serial(&first.certificates[0])).count(), 1);
}

#[test]
fn attributes_that_are_missing_or_too_long_are_an_http_error_since_nothing_can_be_answered() {
    let bench = start();
    let authority = bench.registration_authority();
    let device = Device::new(SUBJECT);
    for (kind, transaction) in [("19", "t".repeat(256)), ("123456789", "t".to_owned())] {
        let message = Message { kind: kind.to_owned(), ..Message::pkcs_req(&transaction, b"x".to_vec()) };
        assert_eq!(bench.post(&device.seal(&message, &authority)).status(), 400);
    }
    let long_nonce = Message { nonce: Some(vec![1; 65]), ..Message::pkcs_req("t", b"x".to_vec()) };
    assert_eq!(device.ask(&bench, &long_nonce).recipient_nonce, None);
    assert_eq!(bench.post(b"").status(), 400);
    assert_eq!(bench.post(b"<html>").status(), 400);
}

fn altered(octets: &[u8], at: usize) -> Vec<u8> {
    let mut octets = octets.to_vec();
    octets[at] ^= 0x55;
    octets
}

fn find(within: &[u8], part: &[u8]) -> usize {
    within.windows(part.len()).position(|window| window == part).unwrap()
}

fn tlv_sequence(parts: &[&[u8]]) -> Vec<u8> {
    der::asn1::Any::new(der::Tag::Sequence, parts.concat()).unwrap().to_der().unwrap()
}

/// A management system: it vouches for requests whose challenge begins with its name, and for those without one.
struct System {
    name: &'static str,
    asked: Mutex<Vec<String>>,
}

impl System {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, asked: Mutex::default() })
    }

    /// How often it was asked since the last time.
    fn asked(&self) -> usize {
        std::mem::take(&mut *self.asked.lock().unwrap()).len()
    }
}

impl DeviceVerifier for System {
    fn verify(&self, claim: &DeviceClaim) -> Result<String, Error> {
        let csr = CertificateRequest::open(&claim.csr).unwrap();
        let challenge = csr.challenge_password().map(|challenge| challenge.reveal().to_owned()).unwrap_or_default();
        let vouches = challenge.is_empty() || challenge.starts_with(self.name);
        self.asked.lock().unwrap().push(challenge);
        if vouches {
            Ok(format!("{}:{}", self.name, claim.transaction))
        } else {
            Err(Refusal::new(Reason::NotAuthenticated, "unknown").into())
        }
    }

    fn issued(&self, _claim: &DeviceClaim, _certificate: &IssuedCertificate) -> Result<(), Error> {
        Ok(())
    }

    fn refused(&self, _claim: &DeviceClaim, _refusal: &Refusal) {}
}

#[test]
fn s08_a_challenge_goes_to_the_judge_whose_it_is_and_one_of_our_own_to_none() {
    let mut bench = start();
    let mut with_devices = rules();
    let mut devices = with_devices[0].clone();
    devices["name"] = json!("devices");
    devices["requesters"] = json!([{ "evidence": "device" }]);
    with_devices.as_array_mut().unwrap().push(devices);
    bench.change(with_devices, Value::Null);
    let (intune, webhook) = (System::new("intune"), System::new("webhook"));
    let of_intune: Option<Arc<dyn DeviceVerifier>> = Some(intune.clone());
    let of_webhook: Option<Arc<dyn DeviceVerifier>> = Some(webhook.clone());
    let long = |name: &str| format!("{name}{}", "x".repeat(2_048));
    let first = |bench: &ScepBench, challenge: &str| {
        let device = Device::new(SUBJECT);
        let challenge = Some(challenge).filter(|challenge| !challenge.is_empty());
        device.ask(bench, &Message::pkcs_req("t", device.csr(SUBJECT, challenge, &[]))).word()
    };

    bench.judged_by(Judges { intune: of_intune.clone(), ..Judges::default() });
    let own = bench.challenge(Some(1), json!({}));
    assert_eq!((first(&bench, &own), intune.asked()), ("SUCCESS".to_owned(), 0), "it was made here");
    assert_eq!(
        (first(&bench, &own), intune.asked()),
        ("FAILURE 2".to_owned(), 0),
        "a spent one is nobody else's either"
    );
    // However long it is: no credential has it, so Intune is asked.
    for challenge in ["intune-short".to_owned(), long("intune")] {
        assert_eq!((first(&bench, &challenge), intune.asked()), ("SUCCESS".to_owned(), 1));
    }
    assert_eq!((first(&bench, "other"), intune.asked()), ("FAILURE 2".to_owned(), 1));
    assert_eq!((first(&bench, ""), intune.asked()), ("FAILURE 2".to_owned(), 0), "no rule takes a key alone");

    // Neither of two sees what is the other's.
    let both = Judges { intune: of_intune, webhook: of_webhook.clone(), ..Judges::default() };
    bench.judged_by(both.clone());
    assert_eq!((first(&bench, &long("intune")), intune.asked(), webhook.asked()), ("SUCCESS".to_owned(), 1, 0));
    assert_eq!((first(&bench, "webhook-one"), intune.asked(), webhook.asked()), ("SUCCESS".to_owned(), 0, 1));

    // Without a challenge, and with a renewal, the webhook is asked where that was wished for.
    let renew = |bench: &ScepBench, challenge: Option<&str>| {
        let (old, certificate) = enrolled(bench);
        let old = Device::holding(old.private_key(), certificate);
        let csr = Device::new(SUBJECT).csr(SUBJECT, challenge, &[]);
        old.ask(bench, &Message::of("17", "renew", csr)).word()
    };
    assert_eq!((renew(&bench, None), webhook.asked()), ("SUCCESS".to_owned(), 0));
    bench.judged_by(Judges { webhook_renewals: true, webhook_without_challenge: true, ..both });
    assert_eq!((first(&bench, ""), webhook.asked()), ("SUCCESS".to_owned(), 1));
    assert_eq!((renew(&bench, None), webhook.asked(), intune.asked()), ("SUCCESS".to_owned(), 1, 0));
    // Devices of Intune renew with a new challenge, and Intune judges it.
    assert_eq!((renew(&bench, Some(&long("intune"))), webhook.asked(), intune.asked()), ("SUCCESS".to_owned(), 0, 1));
    assert_eq!((renew(&bench, Some(&long("forged"))), webhook.asked(), intune.asked()), ("FAILURE 2".to_owned(), 0, 1));

    // Names that the judge did not see come from nowhere else: not from the certificate that signs, whoever issued that.
    let (old, certificate) = enrolled(&bench);
    let old = Device::holding(old.private_key(), certificate);
    let csr = Device::new(SUBJECT).csr(SUBJECT, Some(&long("intune")), &[]);
    let renewed = old.ask(&bench, &Message::of("17", "judged", csr));
    assert_eq!((renewed.word(), intune.asked()), ("SUCCESS".to_owned(), 1));
    let found = bench.pki.engine.find_certificate(&serial(&renewed.certificates[0])).unwrap().unwrap();
    assert_eq!(found.alternative_names, Vec::<String>::new());

    // Guessing is bounded as with challenges of our own: after some wrong ones nobody is asked any more.
    let asked: usize = (0..25)
        .map(|_| {
            let _ = first(&bench, "guess");
            webhook.asked()
        })
        .sum();
    assert!(asked < 25, "a guesser reaches the webhook as often as he likes");
}
