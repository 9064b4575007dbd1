//! CRLs over HTTP (RFC 5280 section 4.2.1.13, RFC 2585).

use bytes::Bytes;
use ca_backend::SignedCrl;
use ca_backend::Time;
use http::{Request, Response};

use crate::cache::Representation;

/// Proxies ask again this soon, so that an urgent CRL gets through; relying parties go by nextUpdate.
const MAX_AGE_S_MAX: u64 = 300;

/// The CRL, or 304 for whoever has it.
pub(crate) fn reply(request: &Request<Bytes>, crl: &SignedCrl, now: Time) -> Response<Bytes> {
    Representation {
        content_type: "application/pkix-crl",
        body: &crl.der,
        etag: &crl.etag,
        last_modified: crl.this_update,
        expires: crl.next_update,
        max_age_s_max: MAX_AGE_S_MAX,
    }
    .reply(request, now)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::{Method, StatusCode};

    use super::*;

    fn crl() -> SignedCrl {
        let noon = Time::from_unix(1_767_268_800);
        SignedCrl::new(vec![0x30; 1000], 7, noon, noon.plus_s(7 * 86_400))
    }

    fn asked(method: Method, name: &'static str, value: &str) -> Request<Bytes> {
        Request::builder().method(method).uri("/crl/issuing.crl").header(name, value).body(Bytes::new()).unwrap()
    }

    #[test]
    fn a_crl_is_served_without_a_copy_and_with_its_dates() {
        let crl = crl();
        let response = reply(&asked(Method::GET, "accept", "*/*"), &crl, crl.this_update);
        assert_eq!(response.body().as_ptr(), crl.der.as_ptr());
        let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("content-type"), Some("application/pkix-crl"));
        assert_eq!(header("cache-control"), Some("max-age=300, public, no-transform, must-revalidate"));
        assert_eq!(header("last-modified"), Some("Thu, 01 Jan 2026 12:00:00 GMT"));
        assert_eq!(header("expires"), Some("Thu, 08 Jan 2026 12:00:00 GMT"));
        assert_eq!(header("etag"), Some(crl.etag.as_str()));
    }

    #[test]
    fn a_known_crl_is_not_sent_again_and_head_sends_none() {
        let crl = crl();
        for (method, name, value, status) in [
            (Method::GET, "if-none-match", crl.etag.as_str(), StatusCode::NOT_MODIFIED),
            (Method::HEAD, "if-none-match", crl.etag.as_str(), StatusCode::NOT_MODIFIED),
            (Method::GET, "if-modified-since", "Thu, 01 Jan 2026 12:00:00 GMT", StatusCode::NOT_MODIFIED),
            (Method::HEAD, "if-none-match", "\"older\"", StatusCode::OK),
        ] {
            let response = reply(&asked(method, name, value), &crl, crl.this_update);
            assert_eq!(response.status(), status);
            assert!(response.body().is_empty());
        }
        let both = Request::builder()
            .header("if-none-match", "\"older\"")
            .header("if-modified-since", "Thu, 08 Jan 2026 12:00:00 GMT")
            .body(Bytes::new())
            .unwrap();
        assert_eq!(reply(&both, &crl, crl.this_update).status(), StatusCode::OK, "If-None-Match decides");
    }

    #[test]
    fn an_outdated_crl_is_served_but_kept_by_nobody() {
        let crl = crl();
        let response = reply(&asked(Method::GET, "accept", "*/*"), &crl, crl.next_update.plus_s(1));
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["cache-control"], "max-age=0, public, no-transform, must-revalidate");
    }
}
