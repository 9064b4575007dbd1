//! The secret that encrypts software keys, and private files in general.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::clock::{SystemRng, random};
use crate::error::KeyFault;

/// The least length of the secret, in octets. Its strength comes from its randomness alone, not from slow derivation.
const SECRET_BYTES_MIN: usize = 32;

/// The greatest length of a file that is read here, in octets; an encrypted RSA-4096 key in PEM has about 3,500.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Who may be able to read a private file besides its owner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Nobody.
    OwnerOnly,
    /// The group: systemd gives a credential to the service's user by an access control list, whose mask shows as the group's mode.
    Group,
}

/// The secret from which the keys of the software key store derive their encryption, wiped when dropped.
///
/// Only the first line of its file counts, so that `openssl pkcs8 -passin file:...` takes the same file.
#[derive(Clone)]
pub struct KeyEncryptionSecret(Zeroizing<Vec<u8>>);

impl KeyEncryptionSecret {
    /// Reads the secret that an operator made: a systemd credential, for one.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, `Unusable` if it can be read by others than owner and group, or is too short.
    pub fn load(path: &Path) -> Result<Self, KeyFault> {
        let bytes =
            read_private(path, Readers::Group)?.ok_or_else(|| KeyFault::NotFound(path.display().to_string()))?;
        Self::from_file(path, &bytes)
    }

    /// Reads the secret from `path`, or makes one there with mode 0600 if there is no such file.
    ///
    /// # Errors
    /// `Unusable` if the file can be read by others than its owner or is too short, `Unavailable` if it cannot be written.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFault> {
        if let Some(bytes) = read_private(path, Readers::OwnerOnly)? {
            return Self::from_file(path, &bytes);
        }
        let entropy = Zeroizing::new(random::<32>(&SystemRng));
        let mut line = Zeroizing::new(hex::encode(entropy.as_ref()).into_bytes());
        line.push(b'\n');
        write_private(path, &line).map_err(|error| unavailable("write", path, &error))?;
        Self::from_file(path, &line)
    }

    fn from_file(path: &Path, bytes: &[u8]) -> Result<Self, KeyFault> {
        let line = bytes.split(|octet| *octet == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() < SECRET_BYTES_MIN {
            return Err(KeyFault::Unusable(format!(
                "{} must hold a random secret of at least {SECRET_BYTES_MIN} characters in its first line",
                path.display()
            )));
        }
        Ok(Self(Zeroizing::new(line.to_vec())))
    }

    pub(crate) fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for KeyEncryptionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyEncryptionSecret(..)")
    }
}

/// What only the daemon may know, wiped when dropped and never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the octets over.
    pub(crate) fn new(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// The octets themselves; a copy of them is not wiped.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Reads a file that nobody but its owner (and its group, if so said) can read; `None` if there is no such file.
pub(crate) fn read_private(path: &Path, readers: Readers) -> Result<Option<Zeroizing<Vec<u8>>>, KeyFault> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unavailable("read", path, &error)),
    };
    // Asked of the open file, so that nobody can exchange it in between.
    let metadata = file.metadata().map_err(|error| unavailable("read", path, &error))?;
    let forbidden = match readers {
        Readers::OwnerOnly => 0o077,
        Readers::Group => 0o037,
    };
    if metadata.mode() & forbidden != 0 {
        return Err(KeyFault::Unusable(format!(
            "{} is open to others (mode {:03o}); run chmod 600 on it, and replace it if others may have read it",
            path.display(),
            metadata.mode() & 0o777
        )));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(KeyFault::Unusable(format!("{} has more than {FILE_BYTES_MAX} octets", path.display())));
    }
    // All room at once: a growing buffer would leave copies of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(FILE_BYTES_MAX).unwrap_or(usize::MAX)));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| unavailable("read", path, &error))?;
    Ok(Some(bytes))
}

/// Writes a new file with mode 0600, durably and all at once: after a crash it is there in full or not at all.
///
/// An existing file is an error. Callers exclude each other, since the last step would replace a file that came in between.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let unfinished = unfinished(path);
    // Left from a crash while it was written; nobody refers to it.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&unfinished, path));
    if let Err(error) = written {
        // The first error says more than what becomes of the remains.
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    sync_directory_of(path)
}

/// Makes the names in the directory of `path` durable.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn unfinished(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

pub(crate) fn unavailable(what: &str, path: &Path, error: &io::Error) -> KeyFault {
    KeyFault::Unavailable(format!("cannot {what} {}: {error}", path.display()))
}
