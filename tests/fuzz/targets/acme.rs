//! ACME requests: flattened JWS in JSON, at every resource.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use endpoint::Endpoint as _;
use http::Request;
use libfuzzer_sys::fuzz_target;
use tests::acme_client::AcmeBench;
use tests::status::peer;

static BENCH: LazyLock<AcmeBench> = LazyLock::new(AcmeBench::default);

fuzz_target!(|octets: &[u8]| {
    for resource in ["new-account", "new-order", "revoke-cert", "key-change", "order/a", "order/a/finalize", "cert/a"] {
        let body = Bytes::copy_from_slice(octets);
        let post = Request::post(format!("/acme/tls/{resource}")).header("content-type", "application/jose+json").body(body);
        let _answer = BENCH.acme.handle(post.expect("a fixed request"), &peer());
    }
});
