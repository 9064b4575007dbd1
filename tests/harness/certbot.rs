//! certbot, which enrolls at the ACME endpoint of a starter.

use std::path::PathBuf;
use std::process::Command;

use crate::daemon::{Site, text};
use crate::pkilint::venv_program;

/// certbot with its own directories at a site.
pub struct Certbot<'a> {
    site: &'a Site,
}

impl<'a> Certbot<'a> {
    /// A certbot that was never used.
    #[must_use]
    pub fn new(site: &'a Site) -> Self {
        Self { site }
    }

    /// Runs certbot, whatever comes of it; whether it succeeded, and what it said to both streams.
    fn attempt(&self, arguments: &[&str]) -> (bool, String) {
        let directory = self.site.path("certbot");
        let output = Command::new(venv_program("certbot"))
            .args(arguments)
            .args(["--non-interactive", "--server"])
            .arg(format!("https://localhost:{}/acme/starter/directory", self.site.https_port))
            .arg("--config-dir")
            .arg(&directory)
            .arg("--work-dir")
            .arg(&directory)
            .arg("--logs-dir")
            .arg(&directory)
            .env("REQUESTS_CA_BUNDLE", self.site.path("state/root.pem"))
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), said)
    }

    /// Runs certbot, which must succeed; what it said.
    pub fn run(&self, arguments: &[&str]) -> String {
        let (success, said) = self.attempt(arguments);
        assert!(success, "certbot {arguments:?}\n{said}\n{}", self.logs());
        said
    }

    /// Asks for a certificate with these arguments, and registers if need be.
    pub fn certonly(&self, arguments: &[impl AsRef<str>]) -> String {
        self.run(&certonly(arguments))
    }

    /// The same where no certificate may come of it; what certbot said.
    pub fn certonly_fails(&self, arguments: &[impl AsRef<str>]) -> String {
        let (success, said) = self.attempt(&certonly(arguments));
        assert!(!success, "certbot succeeded, against expectation:\n{said}\n{}", self.logs());
        said
    }

    /// A file of a certificate that certbot keeps: `cert.pem`, `chain.pem`, `privkey.pem`.
    #[must_use]
    pub fn file(&self, certificate: &str, name: &str) -> PathBuf {
        self.site.path("certbot").join("live").join(certificate).join(name)
    }

    fn logs(&self) -> String {
        format!("{}\n{}", text(&self.site.path("certbot/letsencrypt.log")), text(&self.site.path("daemon.log")))
    }
}

fn certonly(arguments: &[impl AsRef<str>]) -> Vec<&str> {
    let always = ["certonly", "--agree-tos", "--register-unsafely-without-email"];
    always.into_iter().chain(arguments.iter().map(AsRef::as_ref)).collect()
}
