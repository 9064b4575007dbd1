//! What a request asks for, out of its method, its query and its body (RFC 8894 section 4.1).

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::{Method, Request};
use percent_encoding::percent_decode;

use crate::error::HttpError;

/// The standard alphabet; what is left of the last character's bits does not matter, nor does padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    GetCaCaps,
    GetCaCert,
    GetNextCaCert,
    /// A pkiMessage, DER or BER.
    PkiMessage(Bytes),
}

impl Operation {
    /// Reads a request.
    pub(crate) fn of(request: &Request<Bytes>) -> Result<Self, HttpError> {
        let query = request.uri().query().unwrap_or_default();
        let by_post = *request.method() == Method::POST;
        let name = parameter(query, "operation").map(decoded);
        let name = match name.as_deref() {
            Some(name) => name.to_vec(),
            None if by_post => return quirk_android_post_without_operation(request.body()),
            None => return Err(HttpError::bad_request("the operation is missing")),
        };
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match (by_post, *request.method() == Method::GET || *request.method() == Method::HEAD) {
            (true, _) if is("PKIOperation") => posted(request.body()).map(Self::PkiMessage),
            (_, true) if is("PKIOperation") => in_query(query).map(Self::PkiMessage),
            (_, true) if is("GetCACaps") => Ok(Self::GetCaCaps),
            (_, true) if is("GetCACert") => Ok(Self::GetCaCert),
            (_, true) if is("GetNextCACert") => Ok(Self::GetNextCaCert),
            (false, false) => Err(HttpError::method_not_allowed()),
            _ => Err(HttpError::bad_request("there is no such operation")),
        }
    }
}

/// The raw value of a query parameter, whose name is compared without regard to case.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
}

fn decoded(raw: &str) -> Vec<u8> {
    percent_decode(raw.as_bytes()).collect()
}

/// A pkiMessage in a body, which most clients send as it is.
fn posted(body: &Bytes) -> Result<Bytes, HttpError> {
    const SEQUENCE: u8 = 0x30;
    match body.first() {
        None => Err(HttpError::bad_request("the body is empty")),
        Some(&SEQUENCE) if body.get(1).is_some_and(|length| *length >= 0x80) => Ok(body.clone()),
        Some(_) => quirk_cisco_base64_in_post(body),
    }
}

/// A pkiMessage in the query: base64, however it got there.
fn in_query(query: &str) -> Result<Bytes, HttpError> {
    let raw = parameter(query, "message").ok_or_else(|| HttpError::bad_request("the message is missing"))?;
    let text = quirk_proxy_percent_encoded_twice(decoded(raw));
    base64(&quirk_apple_unescaped_base64(text))
}

fn base64(text: &[u8]) -> Result<Bytes, HttpError> {
    let der = BASE64.decode(text).map_err(|_| HttpError::bad_request("the message is not base64"))?;
    if der.is_empty() { Err(HttpError::bad_request("the message is empty")) } else { Ok(der.into()) }
}

/// Apple's clients, and others that build URLs by hand, put base64 into the query without escaping it: `+` arrives as it is or, made
/// by a proxy, as a space; lines are broken; some use the URL-safe alphabet, some leave the padding out.
fn quirk_apple_unescaped_base64(text: Vec<u8>) -> Vec<u8> {
    text.into_iter()
        .filter(|octet| !matches!(octet, b'\r' | b'\n' | b'\t'))
        .map(|octet| match octet {
            b' ' | b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect()
}

/// A proxy or an MDM agent in between escapes what was escaped already: `%252B`.
fn quirk_proxy_percent_encoded_twice(text: Vec<u8>) -> Vec<u8> {
    if text.contains(&b'%') { percent_decode(&text).collect() } else { text }
}

/// Old Cisco images and some printers post the base64 that they would have put into the query.
fn quirk_cisco_base64_in_post(body: &Bytes) -> Result<Bytes, HttpError> {
    let text = body.strip_prefix(b"message=").unwrap_or(body);
    base64(&quirk_apple_unescaped_base64(quirk_proxy_percent_encoded_twice(text.to_vec())))
}

/// Android agents post to the bare URL: a body can only be a PKIOperation.
fn quirk_android_post_without_operation(body: &Bytes) -> Result<Operation, HttpError> {
    posted(body).map(Operation::PkiMessage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str, uri: &str, body: &'static [u8]) -> Result<Operation, u16> {
        let request = Request::builder().method(method).uri(uri).body(Bytes::from_static(body)).unwrap();
        Operation::of(&request).map_err(|error| error.status.as_u16())
    }

    /// A SEQUENCE of 131 octets whose base64 holds `+`, `/` and padding.
    fn message() -> Vec<u8> {
        let mut message = vec![0x30, 0x81, 0x80];
        message.extend([0xfb, 0xef, 0xbe, 0xff, 0xff, 0xff].iter().cycle().take(0x80));
        message
    }

    #[test]
    fn operations_are_named_without_regard_to_case_and_other_parameters_do_not_count() {
        assert_eq!(of("GET", "/scep/a?operation=GetCACaps&message=", b""), Ok(Operation::GetCaCaps));
        assert_eq!(of("GET", "/scep/a?x=1&OPERATION=getcacert&message=my%20CA", b""), Ok(Operation::GetCaCert));
        assert_eq!(of("GET", "/scep/a?operation=GetNextCACert", b""), Ok(Operation::GetNextCaCert));
        assert_eq!(of("GET", "/scep/a?operation=Enroll", b""), Err(400));
        assert_eq!(of("GET", "/scep/a", b""), Err(400));
        assert_eq!(of("DELETE", "/scep/a?operation=GetCACaps", b""), Err(405));
        assert_eq!(of("POST", "/scep/a?operation=GetCACaps", b"x"), Err(400));
        assert_eq!(of("POST", "/scep/a?operation=PKIOperation", b""), Err(400));
        assert_eq!(of("GET", "/scep/a?operation=PKIOperation", b""), Err(400));
        assert_eq!(of("GET", "/scep/a?operation=PKIOperation&message=", b""), Err(400));
        assert_eq!(of("GET", "/scep/a?operation=PKIOperation&message=*", b""), Err(400));
    }

    /// Every vector in testvectors/scep/query spells the same message.
    #[test]
    fn the_message_is_read_however_the_client_spells_it() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testvectors/scep/query");
        let mut seen = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let query = text.lines().find(|line| !line.starts_with('#')).unwrap();
            assert_eq!(in_query(query).unwrap(), message(), "{}", path.display());
            seen += 1;
        }
        assert!(seen >= 5);
    }

    #[test]
    fn a_posted_message_is_taken_as_it_is_or_in_base64_and_without_an_operation() {
        let der: &'static [u8] = message().leak();
        let text: &'static [u8] = BASE64.encode(der).into_bytes().leak();
        let wanted = Ok(Operation::PkiMessage(Bytes::from_static(der)));
        assert_eq!(of("POST", "/scep/a?operation=PKIOperation", der), wanted);
        assert_eq!(of("POST", "/scep/a/pkiclient.exe", der), wanted);
        assert_eq!(of("POST", "/scep/a?operation=PKIOperation", text), wanted);
    }
}
