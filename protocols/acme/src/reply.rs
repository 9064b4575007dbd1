//! Replies before the headers that all of them share.

use bytes::Bytes;
use http::header::{CONTENT_LANGUAGE, CONTENT_TYPE, HeaderName, HeaderValue, LINK, LOCATION, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::Value;

use crate::error::Problem;

/// A reply: status, the headers that belong to it alone, body.
#[derive(Debug)]
pub(crate) struct Reply {
    status: StatusCode,
    headers: Vec<(HeaderName, String)>,
    body: Vec<u8>,
}

impl Reply {
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn json(status: StatusCode, document: &Value) -> Self {
        Self::body(status, "application/json", document.to_string())
    }

    pub(crate) fn body(status: StatusCode, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![(CONTENT_TYPE, content_type.to_owned())], body: body.into() }
    }

    pub(crate) fn problem(problem: &Problem) -> Self {
        let mut reply = Self::body(problem.status, "application/problem+json", problem.document().to_string());
        reply.headers.push((CONTENT_LANGUAGE, "en".to_owned()));
        if let Some(seconds) = problem.retry_after_s {
            reply = reply.retry_after_s(seconds);
        }
        match &problem.instance {
            Some(instance) => reply.link(instance, "terms-of-service"),
            None => reply,
        }
    }

    pub(crate) fn location(self, url: &str) -> Self {
        self.header(LOCATION, url)
    }

    pub(crate) fn retry_after_s(self, seconds: u32) -> Self {
        self.header(RETRY_AFTER, &seconds.to_string())
    }

    pub(crate) fn link(self, url: &str, relation: &str) -> Self {
        self.header(LINK, &format!("<{url}>;rel=\"{relation}\""))
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The response. A header value that HTTP cannot carry (operators' URLs are the only text from outside) is left out.
    pub(crate) fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.body));
        *response.status_mut() = self.status;
        for (name, value) in self.headers {
            match HeaderValue::try_from(value) {
                Ok(value) => drop(response.headers_mut().append(name, value)),
                Err(error) => tracing::warn!(header = %name, %error, "left a header out"),
            }
        }
        response
    }
}
