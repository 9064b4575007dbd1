//! Private keys as operators meet them: who uses which, who had them made, and what decrypting with them tells.

use std::collections::BTreeSet;

use ca_backend::testing::Bench;
use ca_backend::{
    Action, AlternativeName, DecryptionScheme, InventoryQuery, KeyAlgorithm, KeyHealth, Reason, RegistrationAuthority,
    RevocationReason, Serial,
};
use serde_json::json;
use tests::openssl::OpenSsl;
use tests::pki::{ISSUING, OPERATOR, Pki, assert_refused, audited, authority, find_all, settings};
use tests::scep_client::{ScepBench, rules};
use tests::token::SoftToken;

#[test]
fn a_key_that_an_operator_had_made_is_audited_with_who_asked_for_it() {
    let pki = Pki::start();
    let key = pki.engine.generate_key(None, "spare", KeyAlgorithm::EcP384, OPERATOR).unwrap();
    let again = pki.engine.generate_key(None, "spare", KeyAlgorithm::EcP384, OPERATOR);
    assert_refused(again, Reason::Unsupported, "already");
    let [entry] = audited(&pki.engine, Action::KeyMade).try_into().unwrap();
    assert_eq!(entry.record.detail, format!("{key}, ec-p384, by {OPERATOR}"));
}

#[test]
fn a_key_that_cannot_be_recorded_is_not_kept() {
    let pki = Pki::start();
    let before = pki.engine.keys(None).unwrap().len();
    pki.bench.store_faults.disk_is_full(true);
    pki.engine.generate_key(None, "spare", KeyAlgorithm::EcP256, OPERATOR).unwrap_err();
    pki.bench.store_faults.disk_is_full(false);
    assert_eq!(pki.engine.keys(None).unwrap().len(), before);
    pki.engine.generate_key(None, "spare", KeyAlgorithm::EcP256, OPERATOR).unwrap();
}

/// Who uses the keys that are there; the empty word for those that nobody does.
fn users(pki: &Pki) -> BTreeSet<String> {
    pki.engine.keys(None).unwrap().into_iter().map(|key| key.used_by.join(" ")).collect()
}

fn words<const N: usize>(words: [&str; N]) -> BTreeSet<String> {
    words.map(str::to_owned).into()
}

#[test]
fn every_key_is_listed_with_the_issuer_or_service_that_uses_it() {
    let bench = ScepBench::start(rules(), json!({}));
    let pki = &bench.pki;
    let names = [AlternativeName::Dns("pki.example.org".to_owned())];
    let first = pki.engine.tls_identity(&authority(ISSUING), &names).unwrap();
    let own = ["root", "issuing", "ocsp/root", "ocsp/issuing", "ra/issuing/rsa-2048", "tls"];
    assert_eq!(users(pki), words(own));
    assert_eq!(pki.engine.keys(None).unwrap().len(), own.len());
    pki.engine.generate_key(None, "spare", KeyAlgorithm::EcP256, OPERATOR).unwrap();
    assert!(users(pki).contains(""), "{:?}", users(pki));

    // The listener still signs with the key of before until it says that it does not.
    pki.revoke(&serial_of(pki, &first.chain[0]), RevocationReason::Superseded).unwrap();
    pki.engine.tls_identity(&authority(ISSUING), &names).unwrap();
    assert!(users(pki).is_superset(&words(["tls", "tls/before"])), "{:?}", users(pki));
    pki.engine.forget_former_tls_key().unwrap();
    assert!(!users(pki).contains("tls/before"));
}

fn serial_of(pki: &Pki, der: &[u8]) -> Serial {
    let found = find_all(&pki.engine, &InventoryQuery::default());
    let is_it = |serial: &Serial| pki.engine.issued_certificate(serial).unwrap().is_some_and(|it| it.der == der);
    found.into_iter().map(|summary| summary.serial).find(is_it).unwrap()
}

#[test]
fn a_test_of_a_token_names_what_it_lacks() {
    let token = SoftToken::softhsm("lacking");
    let pki = Pki::bare(Bench::in_memory().unwrap().with_token(token.settings()).unwrap(), settings());
    let report = pki.engine.examine_key_store("token", std::time::Duration::from_millis(1)).unwrap();
    let lacking = report.abilities.into_iter().filter(|ability| ability.why_not.is_some()).map(|ability| ability.what);
    // SoftHSM 2.6 knows OAEP with SHA-1 only, and no ML-DSA.
    let wanted = ["rsa-2048", "rsa-3072", "rsa-4096"].map(|algorithm| format!("decrypt {algorithm} oaep-sha256"));
    let wanted = wanted.into_iter().chain(["44", "65", "87"].map(|size| format!("make and sign ml-dsa-{size}")));
    assert_eq!(lacking.collect::<BTreeSet<_>>(), wanted.collect());
    assert_eq!(pki.engine.keys(None).unwrap(), [], "keys of the test were left");
}

const OCTETS: usize = 16;
const CONTENT_KEY: [u8; OCTETS] = *b"content-key-4711";

/// An encryption block of RSAES-PKCS1-v1_5 (RFC 8017 section 7.2.1) for 2048 bits, around anything.
fn block(lead: [u8; 2], padding: usize, rest: &[u8]) -> Vec<u8> {
    [lead.as_slice(), &vec![0xa5; padding], rest].concat()
}

fn with_zero_before(secret: &[u8]) -> Vec<u8> {
    [&[0], secret].concat()
}

/// What is no content key of this length, in every way that an attacker tries.
fn bad_blocks() -> Vec<Vec<u8>> {
    let right = with_zero_before(&CONTENT_KEY);
    let mut blocks = vec![
        block([0, 1], 254 - right.len(), &right),
        block([1, 2], 254 - right.len(), &right),
        block([0, 0], 254 - right.len(), &right),
        block([0, 2], 254, &[]),
        // Fewer than eight octets of padding.
        block([0, 2], 7, &with_zero_before(&[0x5a; 246])),
        vec![0; 256],
        [&[0; 255][..], &[1]].concat(),
    ];
    // Right padding around something of another length, from nothing at all to the most.
    for octets in [0, 1, OCTETS - 1, OCTETS + 1, 24, 32, 245] {
        let secret = with_zero_before(&vec![0x33; octets]);
        blocks.push(block([0, 2], 254 - secret.len(), &secret));
    }
    blocks
}

/// RSA without padding: `openssl` lets one choose the whole block.
fn encrypt(ssl: &OpenSsl, block: &[u8]) -> Vec<u8> {
    assert_eq!(block.len(), 256);
    ssl.put("block", block);
    ssl.run("pkeyutl -encrypt -certin -inkey ra.pem -pkeyopt rsa_padding_mode:none -in block -out sealed");
    ssl.take("sealed")
}

fn opened(authority: &RegistrationAuthority, scheme: DecryptionScheme, sealed: &[u8]) -> Vec<u8> {
    authority.key.open_content_key(scheme, sealed, OCTETS).unwrap().reveal().to_vec()
}

/// Whatever is wrong with a ciphertext, there is a key of the right length, another one each time, and nothing else to tell by.
fn bad_ciphertexts_look_like_good_ones(pki: Pki, while_bad: impl Fn(&dyn Fn())) {
    let bench = ScepBench::over(pki, rules(), json!({}));
    let engine = &bench.pki.engine;
    let found = engine.registration_authorities(&authority(ISSUING), KeyAlgorithm::Rsa2048).unwrap();
    let ra = &found[0];
    let ssl = OpenSsl::new();
    ssl.put_certificate("ra.pem", &ra.certificate);
    let right = with_zero_before(&CONTENT_KEY);
    let good = encrypt(&ssl, &block([0, 2], 254 - right.len(), &right));
    assert_eq!(opened(ra, DecryptionScheme::RsaPkcs1v15, &good), CONTENT_KEY);

    let mut bad: Vec<_> = bad_blocks().iter().map(|block| encrypt(&ssl, block)).collect();
    bad.extend([vec![0xff; 256], vec![0; 255], good[..255].to_vec(), [&good[..], &[0]].concat(), vec![]]);
    while_bad(&|| {
        for (index, sealed) in bad.iter().enumerate() {
            for scheme in [DecryptionScheme::RsaPkcs1v15, DecryptionScheme::RsaOaepSha1] {
                let [one, two] = [(), ()].map(|()| opened(ra, scheme, sealed));
                assert_eq!((one.len(), two.len()), (OCTETS, OCTETS), "{index} {scheme:?}");
                assert_ne!(one, two, "{index} {scheme:?}");
                assert_ne!(one, CONTENT_KEY, "{index} {scheme:?}");
            }
        }
    });
    assert_eq!(opened(ra, DecryptionScheme::RsaPkcs1v15, &good), CONTENT_KEY);
    assert!(engine.key_health().iter().all(|(_, health)| *health == KeyHealth::Usable));
}

#[test]
fn a_bad_content_key_looks_like_a_good_one_with_keys_in_software() {
    bad_ciphertexts_look_like_good_ones(Pki::start(), |look| look());
}

#[test]
fn a_bad_content_key_looks_like_a_good_one_with_keys_in_a_token_whatever_the_token_calls_it() {
    let token = SoftToken::softhsm("padding");
    let bench = Bench::in_memory().unwrap().with_token(token.settings()).unwrap();
    bad_ciphertexts_look_like_good_ones(Pki::on(bench, settings()), |look| {
        look();
        // CKR_ENCRYPTED_DATA_INVALID, CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED, CKR_DEVICE_ERROR, CKR_DATA_INVALID,
        // CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_FUNCTION_REJECTED, and two that vendors made up.
        for code in ["40", "5", "6", "30", "20", "41", "200", "80000001", "80001234"] {
            token.happens(&format!("fail-decrypt {code}"));
            look();
        }
        token.is_well();
    });
}
