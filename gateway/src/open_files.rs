//! How many files the system lets this process have open: each connection is one.

use config::{LimitsSettings, Settings};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::run::RunError;

/// Files beside the connections of listeners: the store and keys, operators, requests to other hosts, sessions of tokens.
const OTHERS: usize = 256;

/// With fewer connections a listener is of no use.
const CONNECTIONS_MIN: usize = 8;

/// The settings with as many connections as the system has files for on this many listeners.
///
/// The soft limit is raised as far as needed and no further: what is beyond 1024 breaks libraries that call select(2), which some
/// modules of tokens do.
///
/// # Errors
/// [`RunError::OpenFiles`] if a daemon cannot work with what the system allows.
pub(crate) fn fitted(settings: &Settings, listeners: usize) -> Result<Settings, RunError> {
    let wanted = settings.limits.connections_max;
    let needed = wanted.saturating_mul(listeners).saturating_add(OTHERS);
    let allowed = raised_to(needed);
    if allowed >= needed {
        return Ok(settings.clone());
    }
    let connections_max = allowed.saturating_sub(OTHERS) / listeners.max(1);
    if connections_max < CONNECTIONS_MIN {
        return Err(RunError::OpenFiles { allowed, least: CONNECTIONS_MIN.saturating_mul(listeners) + OTHERS, needed });
    }
    tracing::warn!(
        allowed,
        needed,
        connections_max,
        "the system allows too few open files for limits.connections_max = {wanted}: each listener takes {connections_max} connections; \
         raise the hard limit (`LimitNOFILE=` of the unit, `ulimit -Hn`), or lower the setting"
    );
    let limits = LimitsSettings { connections_max, ..settings.limits.clone() };
    Ok(Settings { limits, ..settings.clone() })
}

/// The soft limit, raised to `needed` as far as the hard one lets it.
fn raised_to(needed: usize) -> usize {
    let count = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return usize::MAX };
    let wanted = u64::try_from(needed).unwrap_or(u64::MAX).min(hard);
    if wanted <= soft {
        return count(soft);
    }
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => count(wanted),
        Err(why) => {
            tracing::debug!(%why, "the system does not let the limit of open files be raised");
            count(soft)
        }
    }
}
