//! The OpenSSL command line as a judge of what certgate makes, and as the authority that is somewhere else.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ca_backend::Time;
use tempfile::TempDir;

/// OpenSSL in a directory of its own; files are named relative to it.
pub struct OpenSsl {
    directory: TempDir,
}

impl OpenSsl {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Puts a file there.
    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Puts a certificate (DER) there as PEM.
    pub fn put_certificate(&self, name: &str, der: &[u8]) -> PathBuf {
        self.put(name, pem("CERTIFICATE", der))
    }

    /// Puts certificates (DER) there as one PEM file.
    pub fn put_certificates<'a>(&self, name: &str, ders: impl IntoIterator<Item = &'a [u8]>) -> PathBuf {
        self.put(name, ders.into_iter().map(|der| pem("CERTIFICATE", der)).collect::<String>())
    }

    /// Reads a file from there.
    #[must_use]
    pub fn take(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.directory().join(name)).unwrap()
    }

    fn output(&self, arguments: &str) -> Output {
        let run = Command::new("openssl").args(words(arguments)).current_dir(self.directory()).output();
        run.expect("openssl is installed (tests/run installs it)")
    }

    /// Runs `openssl ARGUMENTS`, which must succeed; returns what it printed to both streams. Arguments are split at spaces, except
    /// within single quotes.
    pub fn run(&self, arguments: &str) -> String {
        let output = self.output(arguments);
        let text = both(&output);
        assert!(output.status.success(), "openssl {arguments}\nfailed with {}:\n{text}", output.status);
        text
    }

    /// Runs `openssl ARGUMENTS`, which must fail; returns what it printed to both streams.
    pub fn refuses(&self, arguments: &str) -> String {
        let output = self.output(arguments);
        let text = both(&output);
        assert!(!output.status.success(), "openssl {arguments}\nsucceeded, against expectation:\n{text}");
        text
    }

    /// A certificate as `openssl x509 -text` shows it.
    #[must_use]
    pub fn show(&self, certificate: &[u8]) -> String {
        self.put("shown.der", certificate);
        self.run("x509 -inform DER -in shown.der -noout -text -nameopt RFC2253")
    }

    /// A CRL as `openssl crl -text` shows it.
    #[must_use]
    pub fn show_crl(&self, crl: &[u8]) -> String {
        self.put("shown.crl", crl);
        self.run("crl -inform DER -in shown.crl -noout -text -nameopt RFC2253")
    }

    /// Verifies a certificate at a moment: the chain as untrusted, the root as trusted.
    pub fn verify(&self, certificate: &[u8], chain: &[impl AsRef<[u8]>], root: &[u8], at: Time) {
        self.put_certificate("leaf.pem", certificate);
        self.put_certificates("chain.pem", chain.iter().map(AsRef::as_ref));
        self.put_certificate("root.pem", root);
        let untrusted = if chain.is_empty() { "" } else { "-untrusted chain.pem" };
        self.run(&format!("verify -x509_strict -attime {} -CAfile root.pem {untrusted} leaf.pem", at.unix()));
    }
}

impl Default for OpenSsl {
    fn default() -> Self {
        Self::new()
    }
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// DER as PEM.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    der::pem::encode_string(label, der::pem::LineEnding::LF, der).unwrap()
}
