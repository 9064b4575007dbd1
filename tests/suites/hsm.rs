//! Keys in PKCS#11 tokens.

use ca_backend::testing::check_token;
use ca_backend::{DecryptionScheme, KeyAlgorithm};
use tests::token::SoftToken;

#[test]
fn a_softhsm_token_does_what_every_key_store_must() {
    let token = SoftToken::softhsm("conformance");
    // SoftHSM 2.6 knows OAEP with SHA-1 only.
    let decryption = [DecryptionScheme::RsaPkcs1v15, DecryptionScheme::RsaOaepSha1];
    check_token(token.settings(), &KeyAlgorithm::ALL, &decryption).unwrap();
}

#[test]
fn an_nss_token_does_what_every_key_store_must() {
    let token = SoftToken::nss();
    let algorithms: Vec<_> =
        KeyAlgorithm::ALL.into_iter().filter(|algorithm| *algorithm != KeyAlgorithm::Ed25519).collect();
    let decryption = [DecryptionScheme::RsaPkcs1v15, DecryptionScheme::RsaOaepSha1, DecryptionScheme::RsaOaepSha256];
    check_token(token.settings(), &algorithms, &decryption).unwrap();
}
