//! `certgate perspective` as a child process, with a certificate that the authorities of a site issued.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use config::VARIABLE_PREFIX;

use crate::daemon::{Site, binary, free_port};
use crate::openssl::OpenSsl;

/// How long one may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A perspective. It ends with this value.
pub struct Perspective<'a> {
    site: &'a Site,
    name: String,
    /// Its port on loopback.
    pub port: u16,
    child: Option<Child>,
}

/// A certificate chain and its key, PEM.
pub struct Files {
    /// The chain.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// Has the running daemon issue a certificate, by the commands of the README.
#[must_use]
pub fn issue(site: &Site, name: &str, profile: &str, alternative_name: &str) -> Files {
    let ssl = OpenSsl::new();
    ssl.run(&format!(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout new.key -subj /CN={name} -out new.csr"
    ));
    let (csr, key) = (site.path(&format!("{name}.csr")), site.path(&format!("{name}.key")));
    std::fs::write(&csr, ssl.take("new.csr")).unwrap();
    std::fs::write(&key, ssl.take("new.key")).unwrap();
    let certificate = site.path(&format!("{name}.pem"));
    let _issued = site.json(&[
        "certificate",
        "issue",
        "--authority",
        "issuing",
        "--profile",
        profile,
        "--subject",
        &format!("CN={name}"),
        "--san",
        alternative_name,
        "--csr",
        csr.to_str().unwrap(),
        "--out",
        certificate.to_str().unwrap(),
    ]);
    Files { certificate, key }
}

impl<'a> Perspective<'a> {
    /// Writes the settings of a perspective that asks this DNS server, serves gateways that call themselves `gateway.example.org`, and
    /// asks other hosts at these ports. It does not run yet.
    #[must_use]
    pub fn new(site: &'a Site, name: &str, files: &Files, dns: SocketAddr, ports: &[u16]) -> Self {
        let port = free_port();
        let settings = format!(
            "[https]\nlisten = \"127.0.0.1:{port}\"\n\n[https.certificate]\nsource = \"files\"\ncertificate_path = {:?}\n\
             key_path = {:?}\n\n[validation]\nresolvers = [\"{dns}\"]\n\n[perspective]\nclient_roots_path = {:?}\n\
             client_names = [\"gateway.example.org\"]\nports = {ports:?}\nreachable_networks = [\"127.0.0.0/8\"]\n",
            files.certificate,
            files.key,
            site.path("state/root.pem"),
        );
        std::fs::write(site.path(&format!("{name}.toml")), settings).unwrap();
        Self { site, name: name.to_owned(), port, child: None }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(VARIABLE_PREFIX)) {
            command.env_remove(name);
        }
        command.args(["perspective", "--config"]).arg(self.site.path(&format!("{}.toml", self.name)));
        command
    }

    /// Runs it where it cannot start; what it says.
    #[must_use]
    pub fn complaint(&self) -> String {
        let output = self.command().output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts it and waits until it is ready.
    pub fn start(&mut self) {
        let log = self.site.path(&format!("{}.log", self.name));
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        self.child = Some(child);
        let (ready, waiting) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            if said.read_line(&mut line).is_ok_and(|octets| octets > 0) {
                let _nobody_waits_any_more = ready.send(());
            }
        });
        assert!(waiting.recv_timeout(READY_WITHIN).is_ok(), "{} did not become ready:\n{}", self.name, self.log());
    }

    /// Ends it at once.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ended_already = child.kill();
            let _reaped_already = child.wait();
        }
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.site.path(&format!("{}.log", self.name))).unwrap_or_default()
    }
}

impl Drop for Perspective<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}
