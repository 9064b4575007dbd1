//! The running daemon, reached through its operators' socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use config::Settings;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::Shared;
use super::failure::Failure;
use super::offline::settings_file;
use crate::admin::Problem;
use crate::starter;

/// What stands for itself in a part of a path.
const PATH_PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');
/// The longest answer, in bytes: a page of 1,000 audit entries with room to spare.
const ANSWER_BYTES_MAX: usize = 64 << 20;

pub(super) const JSON: &str = "application/json";
pub(super) const TOML: &str = "application/toml";
pub(super) const OCTETS: &str = "application/octet-stream";

/// The daemon behind a socket.
pub(super) struct Daemon {
    socket: PathBuf,
    runtime: Runtime,
}

impl Daemon {
    /// The daemon that the arguments, the settings or the place mean.
    pub(super) fn find(shared: &Shared) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|why| Failure::unavailable(format!("the system gives no sockets: {why}"), "try again"))?;
        Ok(Self { socket: socket_path(shared)?, runtime })
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        decoded(&self.send(Method::GET, path, JSON, Bytes::new())?.1)
    }

    /// What lies at the path, as it is.
    pub(super) fn octets(&self, path: &str) -> Result<Bytes, Failure> {
        Ok(self.send(Method::GET, path, JSON, Bytes::new())?.1)
    }

    /// The answer to a GET whatever its status, for those that say something with it.
    pub(super) fn condition<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        decoded(&self.exchange(Method::GET, path, JSON, Bytes::new())?.1)
    }

    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        decoded(&self.tell(method, path, body)?)
    }

    /// As [`Daemon::ask`], where the answer has no content.
    pub(super) fn tell(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Bytes, Failure> {
        let body =
            serde_json::to_vec(body).map_err(|why| Failure::usage(format!("cannot write the request: {why}"), ""))?;
        Ok(self.send(method, path, JSON, body.into())?.1)
    }

    pub(super) fn put<T: DeserializeOwned>(&self, path: &str, kind: &str, body: Vec<u8>) -> Result<T, Failure> {
        decoded(&self.send(Method::PUT, path, kind, body.into())?.1)
    }

    pub(super) fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send(Method::DELETE, path, JSON, Bytes::new()).map(drop)
    }

    /// Sends a request; an answer that tells of a problem is a failure.
    fn send(&self, method: Method, path: &str, kind: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        let (status, answer) = self.exchange(method, path, kind, body)?;
        if status.is_success() {
            return Ok((status, answer));
        }
        match serde_json::from_slice::<Problem>(&answer) {
            Ok(problem) => Err(Failure::of_problem(problem)),
            Err(_) => Err(Failure::unavailable(
                format!("{} answered {status}", self.socket.display()),
                "see whether a certgate daemon of this version listens there",
            )),
        }
    }

    fn exchange(&self, method: Method, path: &str, kind: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "certgate")
            .header(CONTENT_TYPE, kind)
            .body(Full::new(body))
            .map_err(|why| Failure::usage(format!("cannot ask for {path}: {why}"), "check the arguments"))?;
        self.runtime.block_on(self.exchange_on_socket(request))
    }

    async fn exchange_on_socket(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Failure> {
        let lost = |why: String| {
            Failure::unreachable(
                format!("the connection to {} broke: {why}", self.socket.display()),
                "see whether the daemon still runs and whether the command was carried out, then try again",
            )
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(|why| self.nobody(&why))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|why| lost(why.to_string()))?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|why| lost(why.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|why| lost(why.to_string()))?.to_bytes();
        connection.abort();
        Ok((status, body))
    }

    fn nobody(&self, why: &std::io::Error) -> Failure {
        let socket = self.socket.display();
        let start = "start it with `certgate serve`, or name the socket of another with --socket or CERTGATE_SOCKET";
        let is = |kind| why.kind() == kind;
        if is(ErrorKind::PermissionDenied) {
            return Failure::unreachable(
                format!("this user may not speak to the daemon on {socket}: {why}"),
                "run this as the daemon's user, or set operator.socket_group to a group of yours",
            );
        }
        let what = if is(ErrorKind::NotFound) {
            format!("the daemon is not running: there is no socket {socket}")
        } else if is(ErrorKind::ConnectionRefused) {
            format!("the daemon is not running: nobody listens on {socket}")
        } else {
            format!("no daemon answers on {socket}: {why}")
        };
        Failure::unreachable(what, start)
    }
}

fn decoded<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|why| {
        Failure::unavailable(
            format!("the daemon's answer cannot be read: {why}"),
            "see whether it is of the version of this program",
        )
    })
}

/// A part of a path.
pub(super) fn part(text: &str) -> String {
    utf8_percent_encode(text, PATH_PART).to_string()
}

/// A query string, with its question mark.
pub(super) fn query(parameters: &impl Serialize) -> Result<String, Failure> {
    let value = serde_json::to_value(parameters)
        .map_err(|why| Failure::usage(format!("cannot write the request: {why}"), ""))?;
    let mut text = url::form_urlencoded::Serializer::new("?".to_owned());
    for (name, value) in value.as_object().into_iter().flatten() {
        match value.as_str() {
            Some(value) => drop(text.append_pair(name, value)),
            None if value.is_null() => {}
            None => drop(text.append_pair(name, &value.to_string())),
        }
    }
    Ok(text.finish())
}

/// `--socket`, then the settings, then the starter below the working directory, then where a service keeps it.
fn socket_path(shared: &Shared) -> Result<PathBuf, Failure> {
    if let Some(path) = &shared.socket {
        return Ok(path.clone());
    }
    if let Some(file) = settings_file(shared) {
        // An operator may use the socket without being allowed to read every file that the settings name.
        let settings = Settings::load(Some(&file)).map_err(|why| {
            Failure::usage(
                format!("where the daemon's socket lies is not known: {why}"),
                "name it with --socket or CERTGATE_SOCKET",
            )
        })?;
        return Ok(settings.operator_socket_path());
    }
    // A starter that is stopped has no socket, but it is the one that is meant.
    let beside = starter::settings();
    if beside.state_dir.is_dir() {
        Ok(beside.operator_socket_path())
    } else {
        Ok(Settings::load(None).unwrap_or_default().operator_socket_path())
    }
}

/// `-` is standard input; shown as what it is.
pub(super) fn display(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}
