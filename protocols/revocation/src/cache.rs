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
    ///
    /// Caches keep it for half of what is left of its life at most, so that they come back before it ends, each in its own time.
    pub(crate) fn reply(&self, request: &Request<Bytes>, now: Time) -> Response<Bytes> {
        let mut response = if *request.method() != Method::POST && self.is_held_by(request.headers()) {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            reply(request, self.content_type, self.body)
        };
        let max_age_s = self.max_age_s_max.min(self.expires.since_s(now) / 2);
        let headers = response.headers_mut();
        put(headers, CACHE_CONTROL, format!("max-age={max_age_s}, public, no-transform, must-revalidate"));
        put(headers, ETAG, self.etag.to_owned());
        put(headers, LAST_MODIFIED, httpdate::fmt_http_date(system_time(self.last_modified)));
        put(headers, EXPIRES, httpdate::fmt_http_date(system_time(self.expires)));
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

/// A reply of status 200; to HEAD only its headers, the length among them.
pub(crate) fn reply(request: &Request<Bytes>, content_type: &'static str, body: &Bytes) -> Response<Bytes> {
    let sent = if *request.method() == Method::HEAD { Bytes::new() } else { body.clone() };
    let mut response = Response::new(sent);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    response
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
