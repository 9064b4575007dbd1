//! What clients in the field do beside RFC 8894, each with a vector in `testvectors/scep/` that bears its name: `request` holds HTTP
//! requests, sent to the daemon, and `message` what is odd about a pkiMessage.

use std::collections::BTreeMap;
use std::net::TcpStream;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use der::asn1::Any;
use der::{Tag, Tagged};
use pkcs7::{Bag, Cipher, Digest, KeyTransport};
use serde_json::{Value, json};
use tests::daemon::{Site, text};
use tests::scep_client::{Device, Message, ScepBench, indefinite, is_registration_authority, rules};

const SUBJECT: &str = "cn=device-1";

fn directory(kind: &str) -> String {
    format!("{}/../testvectors/scep/{kind}", env!("CARGO_MANIFEST_DIR"))
}

fn vector(kind: &str, name: &str) -> String {
    let path = format!("{}/{name}", directory(kind));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn names(kind: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory(kind)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A test for each message, of the vector's name.
macro_rules! messages {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            accepts(stringify!($name));
        })*

        #[test]
        fn every_vector_of_a_message_has_its_test() {
            let mut tested = vec![$(stringify!($name)),*];
            tested.sort_unstable();
            assert_eq!(names("message"), tested);
        }
    };
}

messages! {
    quirk_android_long_nonce
    quirk_apple_indefinite_lengths
    quirk_cisco_certificate_signed_with_md5
    quirk_cisco_certificate_signed_with_sha1
    quirk_cisco_challenge_in_ia5
    quirk_cisco_challenge_in_printable
    quirk_cisco_challenge_in_t61
    quirk_cisco_des
    quirk_cisco_short_transaction
    quirk_cisco_triple_des
    quirk_jscep_challenge_in_utf8
    quirk_jscep_text_attributes_in_ia5
    quirk_jscep_text_attributes_in_utf8
    quirk_mdm_empty_subject
    quirk_printer_no_nonce
    quirk_printer_short_nonce
    quirk_sscep_renewal_as_pkcs_req
    quirk_sscep_transaction_is_a_digest
    quirk_windows_challenge_in_bmp
    quirk_windows_oaep_sha1
    quirk_windows_oaep_sha256
    quirk_windows_transaction_in_base64
}

/// A vector of a message: `property = value` lines.
struct Odd(BTreeMap<String, String>);

impl Odd {
    fn read(name: &str) -> Self {
        let text = vector("message", name);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.map(|line| line.split_once('=').unwrap_or_else(|| panic!("{name}: {line:?}")));
        Self(pairs.map(|(property, value)| (property.trim().to_owned(), value.trim().to_owned())).collect())
    }

    /// The value of a property, which is then dealt with.
    fn take(&mut self, property: &str) -> Option<String> {
        self.0.remove(property)
    }
}

/// A certificate as it would be with a signature algorithm of the same family.
fn signed_otherwise(certificate: &[u8], algorithm: u8) -> Vec<u8> {
    const RSA_FAMILY: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const SHA_256_WITH_RSA: u8 = 0x0b;
    let mut certificate = certificate.to_vec();
    for at in 0..certificate.len() - RSA_FAMILY.len() {
        if certificate[at..].starts_with(&RSA_FAMILY) && certificate[at + RSA_FAMILY.len()] == SHA_256_WITH_RSA {
            certificate[at + RSA_FAMILY.len()] = algorithm;
        }
    }
    certificate
}

fn string(kind: &str, text: &str) -> Any {
    let (tag, octets) = match kind {
        "printable" => (Tag::PrintableString, text.as_bytes().to_vec()),
        "ia5" => (Tag::Ia5String, text.as_bytes().to_vec()),
        "t61" => (Tag::TeletexString, text.as_bytes().to_vec()),
        "utf8" => (Tag::Utf8String, text.as_bytes().to_vec()),
        "bmp" => (Tag::BmpString, text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        other => panic!("no type of string: {other}"),
    };
    Any::new(tag, octets).unwrap()
}

/// The message that the vector describes brings a certificate.
fn accepts(name: &str) {
    let mut odd = Odd::read(name);
    let options = odd.take("options").map_or(Value::Null, |options| serde_json::from_str(&options).unwrap());
    let bench = ScepBench::start(rules(), options);
    let authority = bench.registration_authority();
    let mut device = Device::new(SUBJECT);
    let challenge = bench.challenge(None, json!({}));
    let challenge = string(&odd.take("challenge").unwrap_or("utf8".to_owned()), &challenge);
    let subject = odd.take("subject").unwrap_or(SUBJECT.to_owned());
    let csr = device.csr_with(&subject, Some(challenge), &["device-1.example.org"]);
    let mut message = Message::pkcs_req("t", csr);
    if let Some(kind) = odd.take("renewal") {
        let first = device.ask(&bench, &message).certificates.remove(0);
        device = Device::holding(device.private_key(), first);
        message = Message::of(&kind, "u", Device::new(SUBJECT).csr(SUBJECT, None, &[]));
    }
    match odd.take("certificate").as_deref() {
        Some("md5") => device.certificate = signed_otherwise(&device.certificate, 0x04),
        Some("sha1") => device.certificate = signed_otherwise(&device.certificate, 0x05),
        None => {}
        other => panic!("{other:?}"),
    }
    if let Some(transaction) = odd.take("transaction") {
        message.transaction = transaction;
    }
    if let Some(text) = odd.take("text") {
        message.text = string(&text, "").tag();
    }
    if let Some(nonce) = odd.take("nonce") {
        message.nonce = nonce.parse().ok().map(|octets| vec![7; octets]);
    }
    if let Some(cipher) = odd.take("cipher") {
        message.cipher = if cipher == "3des" { Cipher::TripleDes } else { Cipher::Des };
    }
    if let Some(transport) = odd.take("transport") {
        let digest = if transport == "oaep-sha1" { Digest::Sha1 } else { Digest::Sha256 };
        message.transport = KeyTransport::Oaep(digest);
    }
    let sealed = match odd.take("encoding") {
        Some(_) => {
            let envelope = device.envelope(&message, &authority);
            indefinite(&device.wrap(&message, Some(&indefinite(&envelope))))
        }
        None => device.seal(&message, &authority),
    };
    assert!(odd.0.is_empty(), "{name} says what nobody reads: {:?}", odd.0.keys());
    let answer = device.open(&bench.post(&sealed), &authority);
    assert_eq!(answer.word(), "SUCCESS", "{name}");
    assert_eq!((answer.transaction, answer.recipient_nonce), (message.transaction, message.nonce), "{name}");
}

/// What a reply to a request of the vectors is.
struct Reply {
    head: String,
    body: Vec<u8>,
}

/// Sends octets as they are, as a client of HTTP/1.0 does.
fn send(site: &Site, target: &str, body: &[u8]) -> Reply {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(("127.0.0.1", site.http_port)).unwrap();
    let head = format!("{target} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let end = reply.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head") + 4;
    Reply { head: String::from_utf8_lossy(&reply[..end]).into_owned(), body: reply[end..].to_vec() }
}

/// Percent-encoding of all that base64 has beside letters and digits.
fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

/// Every request in `testvectors/scep/request`, at the daemon.
#[test]
fn quirk_every_client_every_request_of_the_vectors_is_served() {
    let site = Site::new("");
    let _daemon = site.start();
    let challenge = text(&site.path("state/scep-challenge"));
    let bag = send(&site, "GET /scep/starter-scep?operation=GetCACert", b"");
    let bag = Bag::read(&bag.body).unwrap();
    let authority = bag.certificates.iter().find(|der| is_registration_authority(der)).expect("one of them").clone();
    for name in names("request") {
        let vector = vector("request", &name);
        let expected = vector.lines().find_map(|line| line.strip_prefix("# expect: ")).expect("what to expect");
        let mut lines = vector.lines().filter(|line| !line.starts_with('#'));
        let (target, body) = (lines.next().expect("a request"), lines.next().unwrap_or_default());
        let device = Device::new(SUBJECT);
        let csr = device.csr(SUBJECT, Some(&challenge), &[]);
        let transaction = hex::encode(digest(&SHA256, &device.public_key()));
        let der = device.seal(&Message::pkcs_req(&transaction, csr), &authority);
        let base64 = STANDARD.encode(&der);
        let fill = |text: &str| {
            text.replace("{base64}", &base64)
                .replace("{escaped}", &escaped(&base64))
                .replace("{escaped-twice}", &escaped(&escaped(&base64)))
                .replace("{spaces}", &base64.replace('+', "%20"))
                .replace("{url-alphabet}", &URL_SAFE_NO_PAD.encode(&der))
        };
        let body = if body == "{der}" { der.clone() } else { fill(body).into_bytes() };
        let reply = send(&site, &fill(target), &body);
        let head = reply.head.to_ascii_lowercase();
        let kind = |kind: &str| head.contains(" 200 ") && head.contains(&format!("content-type: {kind}\r\n"));
        match expected {
            "capabilities" => {
                assert!(kind("text/plain"), "{name}: {head}");
                assert!(String::from_utf8(reply.body).unwrap().contains("SCEPStandard\n"), "{name}");
            }
            "certificates" => {
                assert!(kind("application/x-x509-ca-ra-cert"), "{name}: {head}");
                assert_eq!(Bag::read(&reply.body).unwrap().certificates.len(), 3, "{name}");
            }
            "success" => {
                assert!(kind("application/x-pki-message"), "{name}: {head}");
                let response = http::Response::builder().header("content-type", "application/x-pki-message");
                let answer = device.open(&response.body(reply.body.into()).unwrap(), &authority);
                assert_eq!(answer.word(), "SUCCESS", "{name}");
            }
            other => panic!("{name} expects {other:?}"),
        }
    }
}

/// The octets at which values begin: tags, and so every field.
fn tags(der: &[u8], from: usize, found: &mut Vec<usize>) {
    let mut at = from;
    for element in pkcs7::elements(der).unwrap() {
        found.push(at);
        let header = element.whole.len() - element.content.len();
        if element.whole[0] & 0x20 != 0 {
            tags(element.content, at + header, found);
        }
        at += element.whole.len();
    }
}

/// Makes a message of an altered layer.
type Wrap<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

/// Cut anywhere, and every field with another tag, an emptied content, a swapped neighbour or a length beyond its end: an answer in
/// order, and never a certificate that the whole message did not bring.
#[test]
fn s20_every_field_of_a_message_cut_retagged_emptied_swapped_or_oversized_is_refused_in_order() {
    let bench = ScepBench::start(rules(), Value::Null);
    let authority = bench.registration_authority();
    let device = Device::new(SUBJECT);
    let csr = device.csr(SUBJECT, Some(&bench.challenge(Some(1), json!({}))), &[]);
    let message = Message::pkcs_req("t", csr);
    let envelope = device.envelope(&message, &authority);
    let whole = device.wrap(&message, Some(&envelope));
    let first = device.open(&bench.post(&whole), &authority);
    assert_eq!(first.word(), "SUCCESS");
    // Of the outer message every octet is under the signature or decides about it; the envelope is altered under a good one.
    let outer = |altered: &[u8]| altered.to_vec();
    let inner = |altered: &[u8]| device.wrap(&message, Some(altered));
    let layers: [(&str, &[u8], Wrap<'_>); 2] = [("message", &whole, &outer), ("envelope", &envelope, &inner)];
    let mut texts = std::collections::BTreeSet::new();
    for (layer, der, wrap) in layers {
        let mut judge = |altered: &[u8], what: &str| {
            let reply = bench.post(&wrap(altered));
            if reply.status() == 400 {
                return;
            }
            assert_eq!(reply.status(), 200, "{layer}: {what}");
            let signed = pkcs7::SignedMessage::open(reply.body(), pkcs7::Legacy::default()).unwrap();
            if signed.content.is_some_and(|content| !content.is_empty()) {
                // What does not count was altered, and the same certificate given again.
                let same = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| device.open(&reply, &authority)));
                assert!(
                    same.is_err() || same.is_ok_and(|same| same.certificates == first.certificates),
                    "{layer}: {what}"
                );
                return;
            }
            let public = signed.signer.attributes.iter().find(|one| one.id.to_string() == "1.3.6.1.5.5.7.24.1");
            texts.insert(public.map(|one| one.values.clone()));
        };
        for length in 0..der.len() {
            judge(&der[..length], &format!("cut at {length}"));
        }
        let mut starts = Vec::new();
        tags(der, 0, &mut starts);
        assert!(starts.len() > 20, "{}", starts.len());
        for at in starts {
            for flip in [0x01, 0x02, 0x04, 0x10, 0x20, 0x80] {
                let mut altered = der.to_vec();
                altered[at] ^= flip;
                judge(&altered, &format!("tag at {at} with {flip:02x}"));
            }
            for length in [0x00, 0x7f, 0x80, 0x84, 0xff] {
                let mut altered = der.to_vec();
                altered[at + 1] = length;
                judge(&altered, &format!("length at {at} is {length:02x}"));
            }
            let mut swapped = der.to_vec();
            swapped[at..].rotate_left(1);
            judge(&swapped, &format!("turned at {at}"));
        }
    }
    let issued = bench.pki.engine.events(0, 10_000).unwrap();
    assert_eq!(
        issued.iter().filter(|event| event.serial == tests::scep_client::serial(&first.certificates[0])).count(),
        1
    );
    // What is said differs only where algorithms, which stand in the clear, or the type of message were altered.
    assert!(texts.len() < 40, "{texts:?}");
}
