//! Where the PIN of a token comes from. It is read anew for each login, and kept nowhere.

use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::error::KeyFault;
use crate::keys::secret::{Readers, read_private};

/// Where the PIN of a token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinSource {
    /// A file of mode 0600; only its first line counts.
    File(PathBuf),
    /// A systemd credential, which its group may be able to read; only its first line counts.
    Credential(PathBuf),
    /// An environment variable.
    Variable(String),
    /// There is none: the token has a keypad, or asks for no login.
    None,
}

impl PinSource {
    /// The PIN, if there is one.
    pub(crate) fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, KeyFault> {
        let (path, readers) = match self {
            Self::File(path) => (path, Readers::OwnerOnly),
            Self::Credential(path) => (path, Readers::Group),
            Self::Variable(name) => {
                let value = std::env::var(name).map_err(|_| {
                    KeyFault::Unusable(format!("the environment variable {name}, which holds the PIN, is not set"))
                })?;
                // Tokens count an empty one like any other.
                if value.is_empty() {
                    return Err(KeyFault::Unusable(format!(
                        "the environment variable {name}, which should hold the PIN, is empty"
                    )));
                }
                return Ok(Some(Zeroizing::new(value.into_bytes())));
            }
            Self::None => return Ok(None),
        };
        let file = read_private(path, readers)?.ok_or_else(|| {
            KeyFault::Unusable(format!("there is no file {}, which should hold the PIN", path.display()))
        })?;
        let line = file.split(|octet| *octet == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(KeyFault::Unusable(format!("{} holds no PIN in its first line", path.display())));
        }
        Ok(Some(Zeroizing::new(line.to_vec())))
    }
}
