//! CMS messages beside OpenSSL's: each reads what the other makes.

use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, Pkcs1PrivateDecryptingKey, PrivateDecryptingKey,
};
use ca_backend::{CertificateRequest, Reason};
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

/// A message that OpenSSL signed with RSASSA-PSS and these options, and the certificate of its key.
fn signed_with_pss(key: &str, options: &str) -> (Vec<u8>, Vec<u8>) {
    let ssl = OpenSsl::new();
    ssl.run(&format!("genpkey {key} -pkeyopt rsa_keygen_bits:2048 -out key.pem"));
    ssl.run("req -x509 -key key.pem -subj /CN=signer -days 2 -out signer.pem");
    ssl.run("x509 -in signer.pem -outform DER -out signer.der");
    ssl.put("content", "hello\n");
    let sign = "cms -sign -binary -nodetach -in content -signer signer.pem -inkey key.pem -outform DER -out signed.p7";
    ssl.run(&format!("{sign} -keyopt rsa_padding_mode:pss {options}"));
    (ssl.take("signed.p7"), ssl.take("signer.der"))
}

#[test]
fn the_parameters_of_rsassa_pss_agree_with_the_digest_that_is_signed() {
    let (good, _) = signed_with_pss("-algorithm RSA", "-md sha256 -keyopt rsa_pss_saltlen:32");
    assert_eq!(SignedMessage::open(&good, Legacy::default()).unwrap().signer.digest, Digest::Sha256);
    for options in [
        "-md sha256 -keyopt rsa_pss_saltlen:20",
        "-md sha256 -keyopt rsa_pss_saltlen:32 -keyopt rsa_mgf1_md:sha512",
        "-md sha512 -keyopt rsa_pss_saltlen:64 -keyopt rsa_mgf1_md:sha1",
    ] {
        let (message, _) = signed_with_pss("-algorithm RSA", options);
        let refused = SignedMessage::open(&message, LEGACY).unwrap_err();
        assert!(matches!(&refused, Error::Algorithm(text) if text.contains("RSASSA-PSS")), "{options}: {refused:?}");
    }
    // The digest in the parameters, which the signature does not cover, says something else than digestAlgorithm.
    let hash = [0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
    let at = good.windows(hash.len()).position(|window| window == hash).unwrap();
    let mut altered = good.clone();
    altered[at + hash.len() - 1] = 2;
    let refused = SignedMessage::open(&altered, LEGACY).unwrap_err();
    assert!(matches!(&refused, Error::Algorithm(text) if text.contains("Sha384")), "{refused:?}");
}

#[test]
fn a_key_for_rsassa_pss_alone_signs_and_nothing_is_encrypted_for_it() {
    let restricted = "-algorithm RSA-PSS -pkeyopt rsa_pss_keygen_md:sha384 -pkeyopt rsa_pss_keygen_mgf1_md:sha384 \
                      -pkeyopt rsa_pss_keygen_saltlen:48";
    for (key, options, digest) in [
        ("-algorithm RSA-PSS", "-md sha256 -keyopt rsa_pss_saltlen:32", Digest::Sha256),
        (restricted, "-md sha384 -keyopt rsa_pss_saltlen:48", Digest::Sha384),
    ] {
        let (message, certificate) = signed_with_pss(key, options);
        assert_eq!(SignedMessage::open(&message, Legacy::default()).unwrap().signer.digest, digest);
        let random = Zeroizing::new([7; 48]);
        let refused = seal(b"content", &certificate, Cipher::Aes256, KeyTransport::Pkcs1v15, &random).unwrap_err();
        assert!(matches!(&refused, Error::Algorithm(text) if text.contains("signatures alone")), "{refused:?}");
    }

    // A key that is for another digest than the one that it signed: so says its certificate, changed here behind the algorithm
    // with which that is signed.
    let (mut message, _) = signed_with_pss(restricted, "-md sha384 -keyopt rsa_pss_saltlen:48");
    let hash = [0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];
    let (at, _) = message.windows(hash.len()).enumerate().filter(|(_, window)| *window == hash).nth(1).unwrap();
    message[at + hash.len() - 1] = 3;
    let refused = SignedMessage::open(&message, LEGACY).unwrap_err();
    assert!(matches!(&refused, Error::Algorithm(text) if text.contains("Sha512")), "{refused:?}");
}

#[test]
fn a_subject_with_a_key_for_rsassa_pss_alone_is_told_how_to_write_it() {
    let ssl = OpenSsl::new();
    ssl.run("genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -out key.pem");
    ssl.run("req -new -key key.pem -subj /CN=device -outform DER -out request.der");
    let refused = CertificateRequest::open(&ssl.take("request.der")).unwrap_err();
    assert_eq!(refused.reason(), Reason::BadKey);
    assert!(refused.public().contains("rsaEncryption"), "{}", refused.public());
}
