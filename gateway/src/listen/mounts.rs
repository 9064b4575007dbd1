//! Which endpoint answers which path.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use endpoint::Endpoint;
use http::StatusCode;
use metrics::Counter;

use crate::pool::Lane;
use crate::telemetry;

/// The listeners that a mount is reached on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Without TLS only.
    Plain,
    /// With TLS only.
    Tls,
    /// On both.
    Both,
}

/// An endpoint at a path.
pub struct Mount {
    on: On,
    prefix: String,
    endpoint: Arc<dyn Endpoint>,
    lane: Arc<Lane>,
    body_bytes_max: usize,
    from_memory: Counter,
}

impl Mount {
    /// An endpoint that answers `prefix` and every path below it: `/acme/x` is also `/acme/x/directory`, never `/acme/xy`.
    /// Closing slashes of the prefix do not count; the path is compared as it was sent, without decoding.
    ///
    /// Bodies are at most `body_bytes_max` long, and never longer than the node's own limit.
    #[must_use]
    pub fn new(on: On, prefix: &str, endpoint: Arc<dyn Endpoint>, lane: Arc<Lane>, body_bytes_max: usize) -> Self {
        let prefix = prefix.trim_end_matches('/').to_owned();
        let from_memory = metrics::counter!(telemetry::REQUESTS_FROM_MEMORY, "mount" => prefix.clone());
        Self { on, prefix, endpoint, lane, body_bytes_max, from_memory }
    }

    fn answers(&self, path: &str, tls: bool) -> bool {
        let here = match self.on {
            On::Plain => !tls,
            On::Tls => tls,
            On::Both => true,
        };
        let begins = |head: &str| head == self.prefix || self.quirk_windows_path_of_any_case(head);
        here && path
            .split_at_checked(self.prefix.len())
            .is_some_and(|(head, rest)| begins(head) && (rest.is_empty() || rest.starts_with('/')))
    }

    /// IIS does not mind the letter case of a path, and clients of NDES ask for `/CertSrv/mscep` as well as for `/certsrv/mscep`.
    fn quirk_windows_path_of_any_case(&self, head: &str) -> bool {
        self.prefix.starts_with("/certsrv/") && head.eq_ignore_ascii_case(&self.prefix)
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn endpoint(&self) -> &Arc<dyn Endpoint> {
        &self.endpoint
    }

    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }

    pub(super) fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    pub(super) fn count_from_memory(&self) {
        self.from_memory.increment(1);
    }

    pub(super) fn count_answer(&self, status: StatusCode, took: Duration) {
        metrics::histogram!(
            telemetry::REQUEST_SECONDS,
            "mount" => self.prefix.clone(),
            "status" => status.as_str().to_owned(),
        )
        .record(took);
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount").field("on", &self.on).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// The mount table, which may be changed while listeners serve. Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Mounts(Arc<ArcSwap<Vec<Arc<Mount>>>>);

impl Mounts {
    /// Puts this table in force, as a whole. Requests that run already end with the mounts that they began with.
    pub fn replace(&self, mounts: Vec<Mount>) {
        let mut mounts: Vec<_> = mounts.into_iter().map(Arc::new).collect();
        // the longest prefix first, so that the first that fits is the right one
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.prefix.len()));
        self.0.store(Arc::new(mounts));
    }

    pub(super) fn find(&self, path: &str, tls: bool) -> Option<Arc<Mount>> {
        self.0.load().iter().find(|mount| mount.answers(path, tls)).map(Arc::clone)
    }
}
