//! The unix socket of the operators' API.

use std::fmt;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::unistd::{Group, Uid, User};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

/// How long the accept loop rests when the system gives it no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// Time for a client to send its headers.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest request line and headers together, in bytes.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// The operator behind a connection: the system user at its other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator(Arc<str>);

impl Operator {
    /// An operator of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(name.into())
    }

    /// The name in records.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The user at the other end, by name or, if it has none, as `uid:1000`.
    fn of_peer(stream: &UnixStream) -> io::Result<Self> {
        let uid = stream.peer_cred()?.uid();
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        Ok(Self::named(&user.map_or_else(|| format!("uid:{uid}"), |user| user.name)))
    }
}

/// The bound socket of the operators' API. It goes away with this value.
#[derive(Debug)]
pub struct OperatorSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for OperatorSocket {
    fn drop(&mut self) {
        // One that stays behind is replaced by the next daemon.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Why the operators' socket cannot be made.
#[derive(Debug)]
pub enum SocketError {
    /// A daemon answers there already.
    InUse(PathBuf),
    /// Something that is no socket lies there.
    NoSocket(PathBuf),
    /// The system has no such group.
    UnknownGroup(String),
    /// The system does not allow it.
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => write!(
                f,
                "another daemon answers on {}; stop it first, or give this one its own state_dir",
                path.display()
            ),
            Self::NoSocket(path) => {
                write!(f, "{} is no socket; move it away or change operator.socket_path", path.display())
            }
            Self::UnknownGroup(group) => {
                write!(f, "there is no group {group}; create it or change operator.socket_group")
            }
            Self::Io { path, source } => write!(f, "cannot listen on {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for SocketError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::InUse(_) | Self::NoSocket(_) | Self::UnknownGroup(_) => None,
        }
    }
}

/// Binds the socket: for this user alone (mode 0600), or for a group as well (0660). What a dead daemon left there is replaced.
///
/// Must be called within a tokio runtime.
///
/// # Errors
/// A daemon that answers there, a file that is no socket, a group that does not exist, what the system does not allow.
pub fn bind(path: &Path, group: Option<&str>) -> Result<OperatorSocket, SocketError> {
    let io_error = |source| SocketError::Io { path: path.to_owned(), source };
    let group = match group {
        Some(name) => {
            let found = Group::from_name(name).ok().flatten();
            Some(found.ok_or_else(|| SocketError::UnknownGroup(name.to_owned()))?.gid.as_raw())
        }
        None => None,
    };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io_error)?;
    }
    remove_stale(path)?;
    // Bound under a name that nobody knows yet, and put in its place once its mode is right: nobody connects in between.
    let unfinished = path.with_extension("unfinished");
    remove_stale(&unfinished)?;
    let listener = UnixListener::bind(&unfinished).map_err(io_error)?;
    if group.is_some() {
        chown(&unfinished, None, group).map_err(io_error)?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(mode)).map_err(io_error)?;
    std::fs::rename(&unfinished, path).map_err(io_error)?;
    Ok(OperatorSocket { listener, path: path.to_owned() })
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let io_error = |source| SocketError::Io { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(io_error(why)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(why) if why.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(io_error),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(why) => Err(io_error(why)),
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

/// Serves `router` on the socket until `stop` becomes true or its sender is gone; then lets running requests finish within `grace`.
pub async fn serve(socket: OperatorSocket, router: Router, grace: Duration, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let (stream, place) = tokio::select! {
            accepted = accept(&socket.listener, &places) => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match Operator::of_peer(&stream) {
            Ok(operator) => {
                connections.spawn(attend(stream, operator, router.clone(), place, stop.clone()));
            }
            Err(why) => tracing::warn!(%why, "closed a connection to the operators' socket whose user is not known"),
        }
    }
    drop(socket);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, finished).await.is_err() {
        connections.shutdown().await;
    }
}

/// The next connection, once there is a place for it. Whoever comes too early waits in the system's queue.
async fn accept(listener: &UnixListener, places: &Arc<Semaphore>) -> (UnixStream, Option<OwnedSemaphorePermit>) {
    let place = Arc::clone(places).acquire_owned().await.ok();
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(why) => {
                // Said once, not ten times a second for as long as it lasts.
                if !failing {
                    tracing::error!(%why, "cannot accept connections on the operators' socket");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn attend(
    stream: UnixStream,
    operator: Operator,
    router: Router,
    _place: Option<OwnedSemaphorePermit>,
    mut stop: watch::Receiver<bool>,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(operator.clone());
        router.call(request)
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT).max_header_size(HEADER_BYTES_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut ending = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            _ = stop.wait_for(|stop| *stop), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(why) = ended {
        tracing::debug!(%why, "a connection to the operators' socket ended");
    }
}
