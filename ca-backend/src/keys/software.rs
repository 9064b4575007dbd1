//! Keys in encrypted files.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use der::pem::LineEnding;
use pkcs8::pkcs5::pbes2;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument};
use zeroize::Zeroizing;

use super::key_pair::KeyPair;
use super::secret::{
    KeyEncryptionSecret, Readers, Secret, read_private, sync_directory_of, unavailable, write_private,
};
use super::{DecryptionScheme, KeyHealth, KeyLabel, KeyPurpose, KeyRef, KeyStore, StoredKey};
use crate::algorithm::KeyAlgorithm;
use crate::clock::{SystemRng, random};
use crate::error::KeyFault;

/// Rounds of PBKDF2. Slow derivation protects secrets that people choose; ours has at least 32 random octets, which nobody
/// guesses at any speed, so that reading a key may take a millisecond.
const PBKDF2_ROUNDS: u32 = 2048;

const PEM_LABEL: &str = "ENCRYPTED PRIVATE KEY";

const EXTENSION: &str = "key";

/// Keys in a directory: `file:NAME` is the file `NAME.key`, PKCS#8 encrypted by PBES2 (RFC 8018) with AES-256, mode 0600.
///
/// Each key is decrypted once and then stays in memory. OpenSSL reads the files with the secret's file as its `-passin file:`.
pub(crate) struct SoftwareKeys {
    directory: PathBuf,
    secret: KeyEncryptionSecret,
    keys: RwLock<HashMap<String, Arc<KeyPair>>>,
    /// Held while files come and go.
    files: Mutex<()>,
}

impl SoftwareKeys {
    pub(crate) const SCHEME: &'static str = "file";

    /// Opens a directory of keys, and makes it with mode 0700 if there is none.
    ///
    /// Keys that the secret does not open are no error here, since the others can be used; [`KeyStore::health`] reports them.
    pub(crate) fn open(directory: &Path, secret: KeyEncryptionSecret) -> Result<Self, KeyFault> {
        match DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => sync_directory_of(directory).map_err(|error| unavailable("make", directory, &error))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(unavailable("make", directory, &error)),
        }
        let metadata = fs::metadata(directory).map_err(|error| unavailable("read", directory, &error))?;
        if metadata.mode() & 0o022 != 0 {
            let shown = directory.display();
            return Err(KeyFault::Unusable(format!(
                "others may write to the key directory {shown}; run chmod 700 on it"
            )));
        }
        Ok(Self { directory: directory.to_owned(), secret, keys: RwLock::default(), files: Mutex::default() })
    }

    /// The key of that name, from memory or from its file.
    fn key(&self, name: &str) -> Result<Arc<KeyPair>, KeyFault> {
        if let Some(pair) = self.keys.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(pair.clone());
        }
        // Excludes `destroy`, which could otherwise remove the file while its key comes back to memory.
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = Arc::new(self.read(name)?);
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), pair.clone());
        Ok(pair)
    }

    fn read(&self, name: &str) -> Result<KeyPair, KeyFault> {
        let path = self.path(name)?;
        let shown = path.display();
        let pem = read_private(&path, Readers::OwnerOnly)?
            .ok_or_else(|| KeyFault::NotFound(KeyRef::new(Self::SCHEME, name).to_string()))?;
        let not_a_key =
            |why: &dyn fmt::Display| KeyFault::Unusable(format!("{shown} is not an encrypted private key: {why}"));
        let pem = str::from_utf8(&pem).map_err(|error| not_a_key(&error))?;
        let (label, document) = SecretDocument::from_pem(pem).map_err(|error| not_a_key(&error))?;
        if label != PEM_LABEL {
            return Err(not_a_key(&format!("it is a {label}")));
        }
        let encrypted: EncryptedPrivateKeyInfoRef<'_> = document.decode_msg().map_err(|error| not_a_key(&error))?;
        let pkcs8 = encrypted.decrypt(self.secret.reveal()).map_err(|_| {
            KeyFault::Unusable(format!(
                "{shown} does not open with the key-encryption secret; restore the secret that was in use when the key was made"
            ))
        })?;
        KeyPair::from_pkcs8(pkcs8.as_bytes())
    }

    fn seal(&self, pair: &KeyPair) -> Result<Zeroizing<String>, KeyFault> {
        let broken = |why: &dyn fmt::Display| KeyFault::Unusable(format!("the private key cannot be encrypted: {why}"));
        let pkcs8 = pair.to_pkcs8()?;
        let info = PrivateKeyInfoRef::try_from(pkcs8.as_slice()).map_err(|error| broken(&error))?;
        let (salt, iv) = (random::<16>(&SystemRng), random::<16>(&SystemRng));
        let parameters = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(PBKDF2_ROUNDS, &salt, iv)
            .map_err(|error| broken(&error))?;
        let document = info.encrypt_with_params(parameters, self.secret.reveal()).map_err(|error| broken(&error))?;
        document.to_pem(PEM_LABEL, LineEnding::LF).map_err(|error| broken(&error))
    }

    /// The file of a key. The name may come from a record or a command line: it must not lead out of the directory.
    fn path(&self, name: &str) -> Result<PathBuf, KeyFault> {
        let allowed = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || matches!(octet, b'-' | b'.');
        if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.bytes().all(allowed) {
            return Err(KeyFault::Unsupported(format!(
                "{name:?} is not the name of a key: lower-case letters, digits, - and . only, not beginning with ."
            )));
        }
        Ok(self.directory.join(format!("{name}.{EXTENSION}")))
    }

    /// The names of all keys in the directory.
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = PathBuf::from(entry?.file_name());
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
            }
        }
        names.sort();
        Ok(names)
    }
}

impl KeyStore for SoftwareKeys {
    fn name(&self) -> &str {
        Self::SCHEME
    }

    fn label_in(&self, wanted: &KeyRef) -> Result<Option<KeyLabel>, KeyFault> {
        let name = wanted.name();
        Ok((!name.is_empty()).then(|| KeyLabel(name.to_owned())))
    }

    fn find(&self, wanted: &KeyRef) -> Result<Option<KeyRef>, KeyFault> {
        if wanted.name().is_empty() {
            return Ok(None);
        }
        match self.key(wanted.name()) {
            Ok(_) => Ok(Some(wanted.clone())),
            Err(KeyFault::NotFound(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn keys(&self) -> Result<Vec<StoredKey>, KeyFault> {
        let names = self.names().map_err(|error| unavailable("read", &self.directory, &error))?;
        let stored = |name: String| StoredKey {
            algorithm: self.key(&name).ok().map(|pair| pair.algorithm()),
            key: KeyRef::new(Self::SCHEME, &name),
        };
        Ok(names.into_iter().map(stored).collect())
    }

    fn scheme(&self) -> &'static str {
        Self::SCHEME
    }

    fn generate(&self, label: &KeyLabel, algorithm: KeyAlgorithm, _: KeyPurpose) -> Result<KeyRef, KeyFault> {
        let path = self.path(&label.0)?;
        // A new key beside ones that do not open would mix two secrets in one directory.
        if let KeyHealth::Unusable(why) = self.health() {
            return Err(KeyFault::Unusable(format!("no key is made while others cannot be used: {why}")));
        }
        let pair = KeyPair::generate(algorithm)?;
        let pem = self.seal(&pair)?;
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        write_private(&path, pem.as_bytes()).map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                KeyFault::Unsupported(format!("there is a key in {} already", path.display()))
            } else {
                unavailable("write", &path, &error)
            }
        })?;
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(label.0.clone(), Arc::new(pair));
        Ok(KeyRef::new(Self::SCHEME, &label.0))
    }

    fn public_key(&self, key: &KeyRef) -> Result<Vec<u8>, KeyFault> {
        self.key(key.name())?.public_key()
    }

    fn sign(&self, key: &KeyRef, message: &[u8]) -> Result<Vec<u8>, KeyFault> {
        self.key(key.name())?.sign(message)
    }

    fn decrypt(&self, key: &KeyRef, scheme: DecryptionScheme, ciphertext: &[u8]) -> Result<Secret, KeyFault> {
        self.key(key.name())?.decrypt(scheme, ciphertext)
    }

    fn destroy(&self, key: &KeyRef) -> Result<(), KeyFault> {
        let path = self.path(key.name())?;
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        self.keys.write().unwrap_or_else(PoisonError::into_inner).remove(key.name());
        fs::remove_file(&path).and_then(|()| sync_directory_of(&path)).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                KeyFault::NotFound(key.to_string())
            } else {
                unavailable("remove", &path, &error)
            }
        })
    }

    /// Reads every key that is not in memory yet; cheap from then on.
    fn health(&self) -> KeyHealth {
        let names = match self.names() {
            Ok(names) => names,
            Err(error) => {
                return KeyHealth::Unusable(unavailable("read", &self.directory, &error).to_string());
            }
        };
        for name in names {
            match self.key(&name) {
                // Destroyed since the directory was read.
                Ok(_) | Err(KeyFault::NotFound(_)) => {}
                Err(fault) => return KeyHealth::Unusable(fault.to_string()),
            }
        }
        KeyHealth::Usable
    }
}

/// Where the keys are; never the secret.
impl fmt::Debug for SoftwareKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftwareKeys({})", self.directory.display())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;
    use crate::algorithm::verify_signature;

    const MESSAGE: &[u8] = b"to be signed";

    /// A directory of its own for each test, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("certgate-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn secret(&self) -> KeyEncryptionSecret {
            KeyEncryptionSecret::load_or_create(&self.0.join("keystore.secret")).unwrap()
        }

        fn open(&self) -> SoftwareKeys {
            SoftwareKeys::open(&self.0.join("keys"), self.secret()).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn label(name: &str) -> KeyLabel {
        KeyLabel(name.to_owned())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn openssl(arguments: &[&str]) -> String {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn every_algorithm_signs_reloads_and_is_understood_by_openssl() {
        let scratch = Scratch::new("every-algorithm");
        let at = |name: &str| scratch.0.join(name).to_str().unwrap().to_owned();
        fs::write(at("message"), MESSAGE).unwrap();
        for algorithm in KeyAlgorithm::ALL {
            let keys = scratch.open();
            let key = keys.generate(&label(algorithm.name()), algorithm, KeyPurpose::Sign).unwrap();
            let public_key = keys.public_key(&key).unwrap();
            let signature = keys.sign(&key, MESSAGE).unwrap();
            verify_signature(&public_key, &algorithm.signature_algorithm(), MESSAGE, &signature).unwrap();

            let reopened = scratch.open();
            assert_eq!(KeyAlgorithm::of_public_key(&reopened.public_key(&key).unwrap()).unwrap(), algorithm);
            assert_eq!(reopened.public_key(&key).unwrap(), public_key);
            let signature = reopened.sign(&key, MESSAGE).unwrap();
            verify_signature(&public_key, &algorithm.signature_algorithm(), MESSAGE, &signature).unwrap();

            let digest = match algorithm {
                KeyAlgorithm::EcP256 | KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 => Some("sha256"),
                KeyAlgorithm::EcP384 => Some("sha384"),
                KeyAlgorithm::EcP521 | KeyAlgorithm::Rsa4096 => Some("sha512"),
                KeyAlgorithm::Ed25519 => None,
                // The system's OpenSSL may not know them yet.
                KeyAlgorithm::MlDsa44 | KeyAlgorithm::MlDsa65 | KeyAlgorithm::MlDsa87 => continue,
            };
            fs::write(at("signature"), &signature).unwrap();
            fs::write(at("public"), &public_key).unwrap();
            let public = ["-pubin", "-inkey", &at("public"), "-keyform", "DER", "-sigfile", &at("signature")];
            let mut arguments = vec!["pkeyutl", "-verify", "-rawin"];
            arguments.extend(digest.iter().flat_map(|digest| ["-digest", digest]));
            arguments.extend(public);
            let message = at("message");
            arguments.extend(["-in", &message]);
            assert!(openssl(&arguments).contains("Signature Verified Successfully"), "{algorithm}");

            // The file is ordinary: with the secret, an operator reads it without this program.
            let (file, secret) = (at(&format!("keys/{algorithm}.key")), format!("file:{}", at("keystore.secret")));
            openssl(&["pkey", "-in", &file, "-passin", &secret, "-pubout", "-outform", "DER", "-out", &at("again")]);
            assert_eq!(fs::read(at("again")).unwrap(), public_key);
        }
        assert_eq!(scratch.open().health(), KeyHealth::Usable);
    }

    #[test]
    fn s47_key_and_secret_files_are_for_their_owner_only() {
        let scratch = Scratch::new("modes");
        let keys = scratch.open();
        keys.generate(&label("root"), KeyAlgorithm::EcP256, KeyPurpose::Sign).unwrap();
        let file = scratch.0.join("keys/root.key");
        assert_eq!(
            (mode(&scratch.0.join("keys")), mode(&file), mode(&scratch.0.join("keystore.secret"))),
            (0o700, 0o600, 0o600)
        );

        for forbidden in [0o640, 0o604, 0o620] {
            fs::set_permissions(&file, fs::Permissions::from_mode(forbidden)).unwrap();
            let fault = scratch.open().sign(&KeyRef::new("file", "root"), MESSAGE).unwrap_err();
            assert!(matches!(&fault, KeyFault::Unusable(why) if why.contains("chmod 600")), "{fault}");
        }
        fs::set_permissions(scratch.0.join("keystore.secret"), fs::Permissions::from_mode(0o644)).unwrap();
        for loaded in [KeyEncryptionSecret::load, KeyEncryptionSecret::load_or_create] {
            assert!(matches!(loaded(&scratch.0.join("keystore.secret")), Err(KeyFault::Unusable(_))));
        }
    }

    #[test]
    fn a_systemd_credential_may_be_readable_by_its_group_but_a_short_secret_is_refused() {
        let scratch = Scratch::new("credential");
        let path = scratch.0.join("credential");
        fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        KeyEncryptionSecret::load(&path).unwrap();
        assert!(matches!(KeyEncryptionSecret::load_or_create(&path), Err(KeyFault::Unusable(_))));

        let short = scratch.0.join("short");
        fs::write(&short, "tooshort\n").unwrap();
        fs::set_permissions(&short, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(matches!(KeyEncryptionSecret::load(&short), Err(KeyFault::Unusable(_))));
        assert!(matches!(KeyEncryptionSecret::load(&scratch.0.join("absent")), Err(KeyFault::NotFound(_))));
    }

    #[test]
    fn a_wrong_secret_is_told_and_stops_new_keys_but_not_the_opening() {
        let scratch = Scratch::new("wrong-secret");
        let key = scratch.open().generate(&label("root"), KeyAlgorithm::EcP256, KeyPurpose::Sign).unwrap();
        fs::remove_file(scratch.0.join("keystore.secret")).unwrap();

        let keys = scratch.open();
        let fault = keys.sign(&key, MESSAGE).unwrap_err();
        assert!(matches!(&fault, KeyFault::Unusable(why) if why.contains("restore the secret")), "{fault}");
        assert!(matches!(keys.health(), KeyHealth::Unusable(_)));
        assert!(matches!(
            keys.generate(&label("other"), KeyAlgorithm::EcP256, KeyPurpose::Sign),
            Err(KeyFault::Unusable(_))
        ));
        assert!(!scratch.0.join("keys/other.key").exists());
    }

    #[test]
    fn a_destroyed_key_is_gone_from_disk_and_memory() {
        let scratch = Scratch::new("destroy");
        let keys = scratch.open();
        let key = keys.generate(&label("root"), KeyAlgorithm::EcP256, KeyPurpose::Sign).unwrap();
        keys.destroy(&key).unwrap();
        assert!(matches!(keys.sign(&key, MESSAGE), Err(KeyFault::NotFound(_))));
        assert!(matches!(keys.destroy(&key), Err(KeyFault::NotFound(_))));
        assert_eq!(fs::read_dir(scratch.0.join("keys")).unwrap().count(), 0);
    }

    #[test]
    fn a_key_never_replaces_another_and_no_name_leads_out_of_the_directory() {
        let scratch = Scratch::new("names");
        let keys = scratch.open();
        let key = keys.generate(&label("root"), KeyAlgorithm::EcP256, KeyPurpose::Sign).unwrap();
        let public_key = keys.public_key(&key).unwrap();
        assert!(matches!(
            keys.generate(&label("root"), KeyAlgorithm::EcP256, KeyPurpose::Sign),
            Err(KeyFault::Unsupported(_))
        ));
        assert_eq!(scratch.open().public_key(&key).unwrap(), public_key);
        for name in ["", "..", "../root", "a/b", ".hidden", "Root", "a\0b"] {
            assert!(
                matches!(
                    keys.generate(&label(name), KeyAlgorithm::EcP256, KeyPurpose::Sign),
                    Err(KeyFault::Unsupported(_))
                ),
                "{name:?}"
            );
            assert!(
                matches!(keys.sign(&KeyRef::new("file", name), MESSAGE), Err(KeyFault::Unsupported(_))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_key_half_written_at_a_crash_is_no_key_and_in_nobodys_way() {
        let scratch = Scratch::new("half-written");
        let keys = scratch.open();
        fs::write(scratch.0.join("keys/root.key.unfinished"), "-----BEGIN ENC").unwrap();
        assert_eq!(keys.health(), KeyHealth::Usable);
        keys.generate(&label("root"), KeyAlgorithm::EcP256, KeyPurpose::Sign).unwrap();
        assert!(!scratch.0.join("keys/root.key.unfinished").exists());
    }

    #[test]
    fn a_damaged_file_makes_one_key_unusable_and_the_others_go_on() {
        let scratch = Scratch::new("damaged");
        let keys = scratch.open();
        let (good, bad) = (
            keys.generate(&label("good"), KeyAlgorithm::EcP256, KeyPurpose::Sign).unwrap(),
            keys.generate(&label("bad"), KeyAlgorithm::EcP256, KeyPurpose::Sign).unwrap(),
        );
        fs::write(scratch.0.join("keys/bad.key"), "not a key").unwrap();
        let reopened = scratch.open();
        reopened.sign(&good, MESSAGE).unwrap();
        assert!(matches!(reopened.sign(&bad, MESSAGE), Err(KeyFault::Unusable(_))));
        assert!(matches!(reopened.health(), KeyHealth::Unusable(why) if why.contains("bad.key")));
    }

    #[test]
    fn s47_the_secret_is_never_printed() {
        let scratch = Scratch::new("canary");
        let canary = "canary-0123456789abcdef0123456789";
        let path = scratch.0.join("canary");
        write_private(&path, canary.as_bytes()).unwrap();
        let secret = KeyEncryptionSecret::load(&path).unwrap();
        assert_eq!(secret.reveal(), canary.as_bytes());
        let keys = SoftwareKeys::open(&scratch.0.join("keys"), secret.clone()).unwrap();
        let key = keys.generate(&label("root"), KeyAlgorithm::EcP256, KeyPurpose::Sign).unwrap();
        let other = KeyEncryptionSecret::load_or_create(&scratch.0.join("other")).unwrap();
        let fault = SoftwareKeys::open(&scratch.0.join("keys"), other).unwrap().sign(&key, MESSAGE).unwrap_err();
        for printed in [format!("{secret:?}"), format!("{keys:?}"), format!("{key:?}"), format!("{fault:?} {fault}")] {
            assert!(!printed.contains("0123456789") && !printed.contains(&hex::encode(canary)), "{printed}");
        }
    }
}
