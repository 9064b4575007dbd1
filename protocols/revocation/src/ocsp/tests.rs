//! Requests that OpenSSL made (testvectors/revocation), the same bent in every way, and the replies.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use ca_backend::Time;
use ca_backend::{CertIdHash, OcspQuery, SignedOcsp};
use ca_backend::{Error, Fault, KeyFault, Reason, Refusal, StoreFault};
use der::{Any, Decode, Encode};
use http::{Method, Request, Response, StatusCode};

use super::{failure_reply, query, reply, short_query};
use crate::error::OcspError;
use crate::error::OcspError::{MalformedRequest, Unauthorized};

const NONCE: &str = "06092b0601050507300102";
const ACCEPTABLE: &str = "06092b0601050507300104";
const SERVICE_LOCATOR: &str = "06092b0601050507300107";
const CRITICAL: &str = "0101ff";

fn vector(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testvectors/revocation").join(name)).unwrap()
}

fn post(body: impl Into<Bytes>) -> Request<Bytes> {
    Request::builder().method(Method::POST).uri("/ocsp/issuing").body(body.into()).unwrap()
}

fn get() -> Request<Bytes> {
    Request::builder().uri("/ocsp/issuing/").body(Bytes::new()).unwrap()
}

fn posted(body: impl Into<Bytes>) -> Result<OcspQuery, OcspError> {
    query(&post(body), "")
}

/// A TLV, so that wrong ones can be made too.
fn tlv(tag: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let length = match content.len() {
        0..=0x7f => &length[3..],
        0x80..=0xff => &[0x81, length[3]],
        0x100..=0xffff => &[0x82, length[2], length[3]],
        _ => &[0x83, length[1], length[2], length[3]],
    };
    [&[tag], length, content].concat()
}

fn extension(parts: &[&str], value: &[u8]) -> Vec<u8> {
    tlv(0x30, [hex::decode(parts.concat()).unwrap(), tlv(0x04, value)].concat())
}

/// A CertID with these parts in hexadecimal.
fn cert_id(algorithm: &str, hash_bytes: usize, serial: &str) -> Vec<u8> {
    let hash = tlv(0x04, vec![0x11; hash_bytes]);
    let algorithm = tlv(0x30, hex::decode(algorithm).unwrap());
    tlv(0x30, [algorithm, hash.clone(), hash, tlv(0x02, hex::decode(serial).unwrap())].concat())
}

/// The elements of a SEQUENCE, each as DER.
fn elements(sequence: &[u8]) -> Vec<Vec<u8>> {
    Vec::<Any>::from_der(sequence).unwrap().iter().map(|element| element.to_der().unwrap()).collect()
}

const SHA1: &str = "06052b0e03021a";
const SHA1_NULL: &str = "06052b0e03021a0500";
const SHA256: &str = "0609608648016503040201";

fn request(cert_ids: &[Vec<u8>], extensions: &[Vec<u8>]) -> Vec<u8> {
    let list = tlv(0x30, cert_ids.iter().flat_map(|id| tlv(0x30, id)).collect::<Vec<_>>());
    let extensions = if extensions.is_empty() { vec![] } else { tlv(0xa2, tlv(0x30, extensions.concat())) };
    tlv(0x30, tlv(0x30, [list, extensions].concat()))
}

fn with_extension(extension: Vec<u8>) -> Result<OcspQuery, OcspError> {
    posted(request(&[cert_id(SHA1, 20, "05")], &[extension]))
}

#[test]
fn requests_of_openssl_are_understood_with_every_hash() {
    for (name, hash, bytes) in [
        ("openssl-sha1", CertIdHash::Sha1, 20),
        ("openssl-sha256", CertIdHash::Sha256, 32),
        ("openssl-sha384", CertIdHash::Sha384, 48),
        ("openssl-sha512", CertIdHash::Sha512, 64),
    ] {
        let der = vector(&format!("{name}.ocsp-request"));
        let query = posted(der.clone()).unwrap();
        let [id] = query.certificates.as_slice() else { unreachable!("one certificate was asked for") };
        assert_eq!(id.hash, hash);
        assert_eq!((id.issuer_name_hash.len(), id.issuer_key_hash.len()), (bytes, bytes));
        assert_eq!(hex::encode(&id.serial), "4a5b6c7d8e9f00112233445566778899aabbccdd");
        assert!(der.ends_with(&id.der), "{name}: the CertID is kept byte for byte");
        assert_eq!((query.nonce.clone(), query.signer.clone(), query.requestor.clone()), (None, None, None));
        assert_eq!(query.cache_key(), Some(id.der.as_slice()));
    }
}

#[test]
fn several_certificates_are_asked_for_in_order() {
    let query = posted(vector("openssl-two.ocsp-request")).unwrap();
    let serials: Vec<String> = query.certificates.iter().map(|id| hex::encode(&id.serial)).collect();
    assert_eq!(serials, ["4a5b6c7d8e9f00112233445566778899aabbccdd", "00c0ffee"]);
    assert_eq!(query.cache_key(), None);
}

#[test]
fn twenty_certificates_are_answered_and_one_more_is_malformed() {
    let ids = vec![cert_id(SHA1, 20, "05"); 21];
    assert_eq!(posted(request(&ids[..20], &[])).unwrap().certificates.len(), 20);
    assert_eq!(posted(request(&ids, &[])), Err(MalformedRequest));
    assert_eq!(posted(request(&[], &[])), Err(MalformedRequest));
}

#[test]
fn hash_parameters_are_absent_or_null() {
    let absent = posted(request(&[cert_id(SHA1, 20, "05")], &[])).unwrap();
    let null = posted(request(&[cert_id(SHA1_NULL, 20, "05")], &[])).unwrap();
    assert_eq!(absent.certificates[0].serial, null.certificates[0].serial);
    assert_ne!(absent.certificates[0].der, null.certificates[0].der);
    assert_eq!(posted(request(&[cert_id(&format!("{SHA1}020105"), 20, "05")], &[])), Err(MalformedRequest));
}

#[test]
fn hashes_have_the_length_of_their_algorithm_and_unknown_ones_are_unauthorized() {
    assert!(posted(request(&[cert_id(SHA256, 32, "05")], &[])).is_ok());
    assert_eq!(posted(request(&[cert_id(SHA256, 20, "05")], &[])), Err(MalformedRequest));
    assert_eq!(posted(request(&[cert_id("06082a864886f70d0205", 16, "05")], &[])), Err(Unauthorized));
}

#[test]
fn serials_are_compared_as_integers() {
    for (sent, minimal) in [
        ("05", "05"),
        ("000005", "05"),
        ("00ff", "00ff"),
        ("0000ff", "00ff"),
        ("ffff80", "80"),
        ("ff7f", "ff7f"),
        ("00", "00"),
        ("0000", "00"),
    ] {
        let query = posted(request(&[cert_id(SHA1, 20, sent)], &[])).unwrap();
        assert_eq!(hex::encode(&query.certificates[0].serial), minimal, "{sent}");
    }
    assert_eq!(posted(request(&[cert_id(SHA1, 20, "")], &[])), Err(MalformedRequest));
    assert_eq!(posted(request(&[cert_id(SHA1, 20, &"5a".repeat(65))], &[])), Err(MalformedRequest));
}

#[test]
fn s32_nonces_of_1_to_128_octets_are_kept_and_others_malformed() {
    let query = posted(vector("openssl-sha1-nonce.ocsp-request")).unwrap();
    let nonce = query.nonce.clone().unwrap();
    assert_eq!((nonce.len(), &nonce[..2]), (18, [0x04, 0x10].as_slice()), "verbatim, with its OCTET STRING");
    assert_eq!(query.cache_key(), None);
    for length in [1, 16, 32, 127, 128] {
        let value = tlv(0x04, vec![0xa5; length]);
        assert_eq!(with_extension(extension(&[NONCE], &value)).unwrap().nonce, Some(value), "{length}");
        assert!(with_extension(extension(&[NONCE, CRITICAL], &tlv(0x04, vec![0xa5; length]))).is_ok());
    }
    for length in [0, 129, 4096] {
        assert_eq!(
            with_extension(extension(&[NONCE], &tlv(0x04, vec![0xa5; length]))),
            Err(MalformedRequest),
            "{length}"
        );
    }
}

#[test]
fn a_nonce_without_its_octet_string_is_kept_as_it_is() {
    for length in [1, 16, 128] {
        let value = vec![0xa5; length];
        assert_eq!(with_extension(extension(&[NONCE], &value)).unwrap().nonce, Some(value));
    }
    assert_eq!(with_extension(extension(&[NONCE], &[])), Err(MalformedRequest));
    assert_eq!(with_extension(extension(&[NONCE], &[0xa5; 129])), Err(MalformedRequest));
}

#[test]
fn two_nonces_are_malformed() {
    let nonce = extension(&[NONCE], &tlv(0x04, [7; 16]));
    let der = request(&[cert_id(SHA1, 20, "05")], &[nonce.clone(), nonce]);
    assert_eq!(posted(der), Err(MalformedRequest));
}

#[test]
fn unknown_extensions_are_ignored_unless_critical() {
    let unknown = "06032a0304";
    assert!(with_extension(extension(&[unknown], b"x")).is_ok());
    assert_eq!(with_extension(extension(&[unknown, CRITICAL], b"x")), Err(MalformedRequest));
    for (parts, understood) in [(vec![SERVICE_LOCATOR], true), (vec![SERVICE_LOCATOR, CRITICAL], false)] {
        let single = tlv(0xa0, tlv(0x30, extension(&parts, &[0x30, 0x00])));
        let list = tlv(0x30, tlv(0x30, [cert_id(SHA1, 20, "05"), single].concat()));
        let decoded = posted(tlv(0x30, tlv(0x30, list)));
        assert_eq!(decoded.is_ok(), understood, "{decoded:?}");
    }
}

#[test]
fn a_client_that_does_not_take_basic_answers_is_malformed() {
    let basic = hex::decode("06092b0601050507300101").unwrap();
    let other = hex::decode("06032a0304").unwrap();
    let both = tlv(0x30, [other.clone(), basic.clone()].concat());
    assert!(with_extension(extension(&[ACCEPTABLE], &tlv(0x30, basic))).is_ok());
    assert!(with_extension(extension(&[ACCEPTABLE, CRITICAL], &both)).is_ok());
    assert_eq!(with_extension(extension(&[ACCEPTABLE], &tlv(0x30, other))), Err(MalformedRequest));
    assert_eq!(with_extension(extension(&[ACCEPTABLE], b"junk")), Err(MalformedRequest));
}

#[test]
fn a_version_written_out_is_taken_and_another_version_malformed() {
    let list = tlv(0x30, tlv(0x30, cert_id(SHA1, 20, "05")));
    let versioned = |version: u8| tlv(0x30, tlv(0x30, [tlv(0xa0, tlv(0x02, [version])), list.clone()].concat()));
    assert!(posted(versioned(0)).is_ok());
    assert_eq!(posted(versioned(1)), Err(MalformedRequest));
}

#[test]
fn a_signed_request_names_its_signer_and_is_never_read_in_place() {
    let der = vector("openssl-signed.ocsp-request");
    let query = posted(der.clone()).unwrap();
    assert_eq!(query.signer, Some(vector("second.cer")));
    assert!(query.requestor.is_some_and(|name| name.starts_with(&[0xa4]) && name.ends_with(b"second")));
    assert_eq!(short_query(&post(der), ""), None);
    assert!(short_query(&post(vector("openssl-sha1.ocsp-request")), "").is_some());
    assert!(short_query(&post(vector("openssl-sha512.ocsp-request")), "").is_some());
    let long = request(&[cert_id(SHA1, 20, "05")], &[extension(&["06032a0304"], &[0; 1024])]);
    assert!(posted(long.clone()).is_ok());
    assert_eq!(short_query(&post(long), ""), None);
}

#[test]
fn a_wrong_signature_is_unauthorized() {
    let der = vector("openssl-signed.ocsp-request");
    let serial = hex::decode("4a5b6c7d8e9f00112233445566778899aabbccdd").unwrap();
    let at = der.windows(serial.len()).position(|window| window == serial).unwrap();
    let mut other_question = der.clone();
    other_question[at + 19] ^= 1;
    assert_eq!(posted(other_question), Err(Unauthorized));
    // Without the certificate there is nothing to verify with.
    let request = elements(&der);
    let signature = elements(Any::from_der(&request[1]).unwrap().value());
    let bare = tlv(0xa0, tlv(0x30, [signature[0].clone(), signature[1].clone()].concat()));
    let without = tlv(0x30, [request[0].clone(), bare].concat());
    assert_eq!(posted(without), Err(Unauthorized));
}

#[test]
fn every_truncation_and_every_changed_octet_is_survived() {
    for name in ["openssl-two.ocsp-request", "openssl-sha1-nonce.ocsp-request", "openssl-signed.ocsp-request"] {
        let der = vector(name);
        for length in 0..der.len() {
            assert_eq!(posted(der[..length].to_vec()), Err(MalformedRequest), "{name} cut to {length}");
        }
        assert_eq!(posted([der.clone(), vec![0]].concat()), Err(MalformedRequest), "{name} and one more");
        for at in 0..der.len() {
            for value in [0x00, 0x7f, 0x80, 0xff, der[at] ^ 0x20] {
                let mut bent = der.clone();
                bent[at] = value;
                let _ = posted(bent);
            }
        }
    }
}

#[test]
fn ber_deep_nesting_and_excess_are_malformed() {
    let indefinite = [&[0x30, 0x80][..], &request(&[cert_id(SHA1, 20, "05")], &[])[2..], &[0, 0]].concat();
    assert_eq!(posted(indefinite), Err(MalformedRequest));
    let nested = (0..10_000).fold(vec![], |inner, _| tlv(0x30, inner));
    assert_eq!(posted(nested), Err(MalformedRequest));
    assert!(with_extension(extension(&["06032a0304"], &vec![0; 60 * 1024])).is_ok());
    assert_eq!(with_extension(extension(&["06032a0304"], &vec![0; 64 * 1024])), Err(MalformedRequest));
    assert_eq!(posted(Bytes::new()), Err(MalformedRequest));
}

#[test]
fn get_paths_are_read_as_clients_and_proxies_write_them() {
    // A serial that makes base64 with plus signs, slashes and padding.
    let der = request(&[cert_id(SHA1, 20, "00fbefbefbffffffffbf3e")], &[]);
    let base64 = BASE64_STANDARD.encode(&der);
    assert!(base64.contains('+') && base64.contains("//") && base64.ends_with('='), "{base64}");
    let percent = base64.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let expected = posted(der.clone()).unwrap();
    for path in [
        base64.clone(),
        format!("/{base64}"),
        format!("//{base64}"),
        percent.clone(),
        percent.replace("%2B", "%2b").replace("%2F", "%2f"),
        percent.replace('%', "%25"),
        base64.replace('+', "%20"),
        base64.trim_end_matches('=').to_owned(),
        BASE64_URL_SAFE_NO_PAD.encode(&der),
        base64.replace('=', "%3d"),
    ] {
        assert_eq!(query(&get(), &path), Ok(expected.clone()), "{path}");
        assert_eq!(short_query(&get(), &path), Some(expected.clone()), "{path}");
    }
    for path in ["", "/", "%", "%25", "!!!!", &base64[1..], &"A".repeat(500_000), &"%25".repeat(100_000)] {
        assert_eq!(query(&get(), path), Err(MalformedRequest));
    }
}

fn answer(cacheable: bool) -> SignedOcsp {
    let noon = Time::from_unix(1_767_268_800);
    SignedOcsp::new(vec![1, 2, 3], noon, noon.minus_s(300), noon.plus_s(86_400), cacheable)
}

fn header<'a>(response: &'a Response<Bytes>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[test]
fn s32_a_cacheable_answer_tells_caches_how_long() {
    let answer = answer(true);
    let response = reply(&get(), &answer, answer.produced_at.plus_s(10));
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.body(), &answer.der);
    assert_eq!(header(&response, "content-type"), "application/ocsp-response");
    assert_eq!(header(&response, "cache-control"), "max-age=3600, public, no-transform, must-revalidate");
    assert_eq!(header(&response, "last-modified"), "Thu, 01 Jan 2026 12:00:00 GMT");
    assert_eq!(header(&response, "expires"), "Fri, 02 Jan 2026 12:00:00 GMT");
    assert_eq!(header(&response, "etag"), answer.etag);
    let late = reply(&get(), &answer, answer.next_update.minus_s(100));
    assert_eq!(header(&late, "cache-control"), "max-age=50, public, no-transform, must-revalidate");
    assert_eq!(header(&reply(&get(), &answer, answer.next_update), "cache-control"), "no-store");
}

#[test]
fn s32_an_answer_that_is_not_cacheable_is_never_stored() {
    let answer = answer(false);
    let mut conditional = get();
    conditional.headers_mut().insert("if-none-match", answer.etag.parse().unwrap());
    let response = reply(&conditional, &answer, answer.produced_at);
    assert_eq!((response.status(), header(&response, "cache-control")), (StatusCode::OK, "no-store"));
    assert_eq!(header(&response, "etag"), "");
}

#[test]
fn whoever_has_the_answer_gets_304_and_post_never_does() {
    let answer = answer(true);
    for (name, value, status) in [
        ("if-none-match", answer.etag.clone(), 304),
        ("if-none-match", format!("\"x\", W/{}", answer.etag), 304),
        ("if-none-match", "*".to_owned(), 304),
        ("if-none-match", "\"x\"".to_owned(), 200),
        ("if-modified-since", "Thu, 01 Jan 2026 12:00:00 GMT".to_owned(), 304),
        ("if-modified-since", "Thu, 01 Jan 2026 11:59:59 GMT".to_owned(), 200),
        ("if-modified-since", "yesterday".to_owned(), 200),
    ] {
        let mut conditional = get();
        conditional.headers_mut().insert(name, value.parse().unwrap());
        let response = reply(&conditional, &answer, answer.produced_at);
        assert_eq!(response.status(), status, "{name}: {value}");
        assert_eq!(response.body().is_empty(), status == 304);
        assert_eq!(header(&response, "etag"), answer.etag);
        *conditional.method_mut() = Method::POST;
        assert_eq!(reply(&conditional, &answer, answer.produced_at).status(), StatusCode::OK);
    }
}

#[test]
fn head_is_answered_like_get_without_the_body() {
    let answer = answer(true);
    let mut head = get();
    *head.method_mut() = Method::HEAD;
    let mut response = reply(&head, &answer, answer.produced_at);
    assert!(response.body().is_empty());
    assert_eq!(response.headers_mut().remove("content-length").unwrap(), "3");
    assert_eq!(response.headers(), reply(&get(), &answer, answer.produced_at).headers());
}

#[test]
fn failures_are_ocsp_answers_of_five_octets() {
    let refused = |reason| Error::Refused(Refusal::new(reason, "x").with_private("never shown"));
    for (error, bytes) in [
        (refused(Reason::Malformed), "30030a0101"),
        (Error::Fault(Fault::Broken("never shown".to_owned())), "30030a0102"),
        (Error::Fault(Fault::Store(StoreFault::Unavailable("never shown".to_owned()))), "30030a0103"),
        (Error::Fault(Fault::Key(KeyFault::Unavailable("never shown".to_owned()))), "30030a0103"),
        (Error::Fault(Fault::TryLater { after_s: 5 }), "30030a0103"),
        (refused(Reason::RateLimited), "30030a0103"),
        (refused(Reason::NotAuthenticated), "30030a0105"),
        (refused(Reason::UnknownCertificate), "30030a0106"),
        (refused(Reason::NotAuthorized), "30030a0106"),
    ] {
        let response = failure_reply(&get(), &error);
        assert_eq!(hex::encode(response.body()), bytes);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "content-type"), "application/ocsp-response");
        assert_eq!(header(&response, "cache-control"), "no-store");
    }
}
