//! HTTP caching of what is signed (RFC 9111, RFC 9110 section 13).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ca_backend::Time;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, EXPIRES, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

/// A signed object as HTTP sees it.
pub(crate) struct Representation<'a> {
    pub(crate) content_type: &'static str,
    pub(crate) body: &'a Bytes,
    /// Quoted.
    pub(crate) etag: &'a str,
    pub(crate) last_modified: Time,
    /// When it must not be used any longer.
    pub(crate) expires: Time,
    /// How long a cache may keep it at most, though it is good for longer.
    pub(crate) max_age_s_max: u64,
}

impl Representation<'_> {
    /// The reply to GET, HEAD or POST: the object, or 304 when the client has it.
    pub(crate) fn reply(&self, request: &Request<Bytes>, now: Time) -> Response<Bytes> {
        self.reply_with(request, self.headers(self.max_age_s(now)))
    }

    /// Caches keep it for half of what is left of its life at most, so that they come back before it ends, each in its own time.
    pub(crate) fn max_age_s(&self, now: Time) -> u64 {
        self.max_age_s_max.min(self.expires.since_s(now) / 2)
    }

    /// What caches need to know.
    pub(crate) fn headers(&self, max_age_s: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        put(&mut headers, CACHE_CONTROL, format!("max-age={max_age_s}, public, no-transform, must-revalidate"));
        put(&mut headers, ETAG, self.etag.to_owned());
        put(&mut headers, LAST_MODIFIED, httpdate::fmt_http_date(system_time(self.last_modified)));
        put(&mut headers, EXPIRES, httpdate::fmt_http_date(system_time(self.expires)));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers
    }

    /// The reply with these headers.
    pub(crate) fn reply_with(&self, request: &Request<Bytes>, mut headers: HeaderMap) -> Response<Bytes> {
        let (status, body) = if *request.method() != Method::POST && self.is_held_by(request.headers()) {
            headers.remove(CONTENT_TYPE);
            (StatusCode::NOT_MODIFIED, Bytes::new())
        } else {
            (StatusCode::OK, sent(request, self.body, &mut headers))
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    /// If-None-Match decides when it is there, else If-Modified-Since (RFC 9110 section 13.2.2).
    fn is_held_by(&self, headers: &HeaderMap) -> bool {
        if headers.contains_key(IF_NONE_MATCH) {
            return headers
                .get_all(IF_NONE_MATCH)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|list| list.split(','))
                .map(str::trim)
                .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag);
        }
        headers
            .get(IF_MODIFIED_SINCE)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| httpdate::parse_http_date(text).ok())
            .is_some_and(|since| system_time(self.last_modified) <= since)
    }
}

/// A reply that nobody may keep.
pub(crate) fn not_kept(request: &Request<Bytes>, content_type: &'static str, body: &Bytes) -> Response<Bytes> {
    let mut response = reply(request, content_type, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A reply of status 200; to HEAD only its headers.
pub(crate) fn reply(request: &Request<Bytes>, content_type: &'static str, body: &Bytes) -> Response<Bytes> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    let mut response = Response::new(sent(request, body, &mut headers));
    *response.headers_mut() = headers;
    response
}

/// What is sent of a body: to HEAD nothing but the length that GET would have.
fn sent(request: &Request<Bytes>, body: &Bytes, headers: &mut HeaderMap) -> Bytes {
    if *request.method() != Method::HEAD {
        return body.clone();
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    Bytes::new()
}

/// Texts made of digits, dates and entity tags are always header values.
fn put(headers: &mut HeaderMap, name: HeaderName, text: String) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

fn system_time(time: Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.unix())
}
