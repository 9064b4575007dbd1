//! CMS messages beside OpenSSL's: each reads what the other makes.

use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, Pkcs1PrivateDecryptingKey, PrivateDecryptingKey,
};
use pkcs7::{Bag, Cipher, Digest, Envelope, Error, KeyTransport, Legacy, SignedMessage, certs_only, seal};
use tests::openssl::OpenSsl;
use tests::scep_client::{Device, Message};
use zeroize::Zeroizing;

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../testvectors/pkcs7/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

const LEGACY: Legacy = Legacy { sha1: true, triple_des: true, des: true };

fn opened(envelope: &Envelope) -> Vec<u8> {
    let recipient = &envelope.recipients[0];
    let key = PrivateDecryptingKey::from_pkcs8(&vector("key.pk8")).unwrap();
    let mut room = vec![0; 256];
    let key = match recipient.transport {
        KeyTransport::Pkcs1v15 => {
            Pkcs1PrivateDecryptingKey::new(key).unwrap().decrypt(&recipient.encrypted_key, &mut room).unwrap().to_vec()
        }
        KeyTransport::Oaep(Digest::Sha256) => OaepPrivateDecryptingKey::new(key)
            .unwrap()
            .decrypt(&OAEP_SHA256_MGF1SHA256, &recipient.encrypted_key, &mut room, None)
            .unwrap()
            .to_vec(),
        KeyTransport::Oaep(other) => panic!("{other:?}"),
    };
    envelope.open(&key).unwrap().to_vec()
}

#[test]
fn what_openssl_makes_is_read() {
    let bag = Bag::read(&vector("certs-only.p7")).unwrap();
    for (name, digest) in [("signed.p7", Digest::Sha256), ("signed-indefinite.p7", Digest::Sha512)] {
        let message = SignedMessage::open(&vector(name), Legacy::default()).unwrap();
        assert_eq!(message.content.as_deref(), Some(b"hello\n".as_slice()), "{name}");
        assert_eq!((message.signer.digest, &message.signer.certificate), (digest, &bag.certificates[0]), "{name}");
    }
    for name in ["enveloped.p7", "enveloped-oaep-indefinite.p7", "enveloped-3des.p7"] {
        assert_eq!(opened(&Envelope::read(&vector(name), LEGACY).unwrap()), b"hello\n", "{name}");
    }
    let refused = Envelope::read(&vector("enveloped-3des.p7"), Legacy::default());
    assert!(matches!(refused, Err(Error::Algorithm(_))), "{refused:?}");
}

#[test]
fn openssl_reads_what_is_made() {
    let ssl = OpenSsl::new();
    let device = Device::new("cn=maker");
    ssl.put_certificate("maker.pem", &device.certificate);
    ssl.put("key.der", device.private_key());
    ssl.run("pkcs8 -inform DER -in key.der -nocrypt -out key.pem");

    ssl.put("bag.p7", certs_only(&[&device.certificate], &[]).unwrap());
    assert!(ssl.run("pkcs7 -inform DER -in bag.p7 -print_certs").contains("CN = maker"));

    ssl.put("signed.p7", device.wrap(&Message::pkcs_req("t", Vec::new()), Some(b"content")));
    ssl.run("cms -verify -inform DER -in signed.p7 -CAfile maker.pem -purpose any -out content");
    assert_eq!(ssl.take("content"), b"content");

    for (cipher, transport) in [
        (Cipher::Aes128, KeyTransport::Pkcs1v15),
        (Cipher::Aes192, KeyTransport::Oaep(Digest::Sha1)),
        (Cipher::Aes256, KeyTransport::Oaep(Digest::Sha256)),
        (Cipher::Aes256, KeyTransport::Oaep(Digest::Sha512)),
        (Cipher::TripleDes, KeyTransport::Pkcs1v15),
    ] {
        let random = Zeroizing::new(std::array::from_fn(|at| u8::try_from(at * 37 % 251).unwrap()));
        ssl.put("sealed.p7", seal(b"content", &device.certificate, cipher, transport, &random).unwrap());
        ssl.run("cms -decrypt -inform DER -in sealed.p7 -recip maker.pem -inkey key.pem -out content");
        assert_eq!(ssl.take("content"), b"content", "{cipher:?} {transport:?}");
    }
}

#[test]
fn a_signature_over_anything_else_does_not_verify() {
    let message = vector("signed.p7");
    let at = message.windows(6).position(|window| window == b"hello\n").unwrap();
    let mut altered = message.clone();
    altered[at] ^= 1;
    assert_eq!(SignedMessage::open(&altered, LEGACY).unwrap_err(), Error::Signature);
    let last = message.len() - 1;
    let mut altered = message;
    altered[last] ^= 1;
    assert_eq!(SignedMessage::open(&altered, LEGACY).unwrap_err(), Error::Signature);
}
