//! OCSP over HTTP (RFC 6960 appendix A): the request in a path or a body becomes a query, the answer a reply.

mod request;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use ca_backend::Error;
use ca_backend::Time;
use ca_backend::{OcspQuery, SignedOcsp};
use http::{Method, Request, Response};
use percent_encoding::percent_decode;

use crate::cache::{Representation, not_kept};
use crate::error::OcspError;

const CONTENT_TYPE: &str = "application/ocsp-response";

/// Longest request, decoded. Twenty questions with a certificate and an RSA signature need a tenth of it.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Longest request, decoded, that is read on the connection's own task. One question with SHA-512 and without a nonce has 200.
const REQUEST_IN_PLACE_BYTES_MAX: usize = 1024;

/// How long a cache may keep an answer at most; the status may change meanwhile.
const MAX_AGE_S_MAX: u64 = 3600;

/// The standard alphabet; clients leave the padding out or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The question in a GET path, or in the body of any other request. A signature in it is verified.
///
/// `path` is what follows the issuer in the raw path.
pub(crate) fn query(request: &Request<Bytes>, path: &str) -> Result<OcspQuery, OcspError> {
    request::decode(&der(request, path, REQUEST_BYTES_MAX)?)
}

/// The same for a question that can be read without much work; `None` for long, signed and wrong ones.
pub(crate) fn short_query(request: &Request<Bytes>, path: &str) -> Option<OcspQuery> {
    request::decode_unsigned(&der(request, path, REQUEST_IN_PLACE_BYTES_MAX).ok()?)
}

fn der(request: &Request<Bytes>, path: &str, bytes_max: usize) -> Result<Bytes, OcspError> {
    // Base64 takes four octets for three, and percent-encoding it twice at most five for one.
    if path.len() > bytes_max.saturating_mul(7) {
        return Err(OcspError::MalformedRequest);
    }
    let der = if *request.method() == Method::POST { request.body().clone() } else { der_in_path(path)?.into() };
    if der.len() > bytes_max { Err(OcspError::MalformedRequest) } else { Ok(der) }
}

/// Reads base64 out of a path as clients and proxies really write it.
///
/// Slashes in front come from URLs that end in one, slashes within are base64. Percent signs may be encoded twice. A proxy may
/// have made spaces of plus signs; some clients use the URL-safe alphabet or leave the padding out.
fn der_in_path(path: &str) -> Result<Vec<u8>, OcspError> {
    let once: Vec<u8> = percent_decode(path.trim_start_matches('/').as_bytes()).collect();
    let text = if once.contains(&b'%') { percent_decode(&once).collect() } else { once };
    let standard: Vec<u8> = text
        .into_iter()
        .map(|octet| match octet {
            b' ' | b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect();
    BASE64.decode(standard).map_err(|_| OcspError::MalformedRequest)
}

/// The answer with what caches need to know, or 304 for whoever has it.
pub(crate) fn reply(request: &Request<Bytes>, answer: &SignedOcsp, now: Time) -> Response<Bytes> {
    match representation(answer, now) {
        Some(shown) => shown.reply(request, now),
        None => not_kept(request, CONTENT_TYPE, &answer.der),
    }
}

/// The answer as caches see it; `None` if it is for one client or no longer good.
pub(crate) fn representation(answer: &SignedOcsp, now: Time) -> Option<Representation<'_>> {
    (answer.cacheable && answer.next_update > now).then_some(Representation {
        content_type: CONTENT_TYPE,
        body: &answer.der,
        etag: &answer.etag,
        last_modified: answer.produced_at,
        expires: answer.next_update,
        max_age_s_max: MAX_AGE_S_MAX,
    })
}

/// An error is an OCSP response too, under HTTP status 200.
pub(crate) fn error_reply(request: &Request<Bytes>, error: OcspError) -> Response<Bytes> {
    not_kept(request, CONTENT_TYPE, &error.response().into())
}

/// What the client is told when the engine gave no answer.
pub(crate) fn failure_reply(request: &Request<Bytes>, error: &Error) -> Response<Bytes> {
    error_reply(request, error.into())
}

#[cfg(test)]
mod tests;
