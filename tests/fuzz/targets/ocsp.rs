//! OCSP requests, posted and in paths, and every other path of the status protocol.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use endpoint::Endpoint as _;
use http::Request;
use libfuzzer_sys::fuzz_target;
use revocation::Revocation;
use tests::pki::Pki;
use tests::status::peer;

static REVOCATION: LazyLock<Revocation> = LazyLock::new(|| Revocation::new(Pki::start().engine));

fuzz_target!(|octets: &[u8]| {
    let body = Bytes::copy_from_slice(octets);
    let post = Request::post("/ocsp/issuing").header("content-type", "application/ocsp-request").body(body).expect("a fixed request");
    let _answer = REVOCATION.handle(post, &peer());
    if let Ok(text) = std::str::from_utf8(octets) {
        for path in [format!("/ocsp/issuing/{text}"), format!("/{text}")] {
            if let Ok(get) = Request::get(path).body(Bytes::new()) {
                let _at_once = REVOCATION.answer_from_memory(&get);
                let _answer = REVOCATION.handle(get, &peer());
            }
        }
    }
});
