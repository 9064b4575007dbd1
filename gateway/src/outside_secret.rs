//! Secrets that operators keep outside of the store: credentials of systemd, files, variables of the environment.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ca_backend::{Reason, Refusal};
use mdm::SecretSource;
use zeroize::Zeroizing;

/// Octets of the longest secret: a private key in PEM.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Reads a secret, without the line end that editors put after it.
///
/// # Errors
/// A refusal that names the source and never its content.
pub fn read(source: &SecretSource) -> Result<Zeroizing<String>, Refusal> {
    let text = match source {
        SecretSource::Credential(name) => {
            let whole = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|_| whole).map(PathBuf::from);
            let directory = directory.ok_or_else(|| {
                refused(format!("systemd hands no credential {name:?} to the daemon (LoadCredential=)"))
            })?;
            // systemd lets the daemon's user in by an access control list, whose mask shows as the group's mode.
            read_file(&directory.join(name), 0o007)?
        }
        SecretSource::File(path) => read_file(path, 0o077)?,
        SecretSource::Environment(name) => {
            let value = std::env::var(name);
            Zeroizing::new(
                value.map_err(|_| refused(format!("the environment has no variable {name}, or it is no text")))?,
            )
        }
    };
    let text = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if text.is_empty() { Err(refused(format!("the secret at {source:?} is empty"))) } else { Ok(text) }
}

fn read_file(path: &Path, forbidden: u32) -> Result<Zeroizing<String>, Refusal> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| refused(format!("the file {shown} cannot be read: {}", error.kind()));
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.mode() & forbidden != 0 {
        return Err(refused(format!("others may read the secret in {shown}; run chmod 600 on it")));
    }
    if metadata.len() > SECRET_BYTES_MAX {
        return Err(refused(format!("the file {shown} is longer than any secret")));
    }
    Ok(Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?))
}

fn refused(why: String) -> Refusal {
    Refusal::new(Reason::NotReady, why)
}
