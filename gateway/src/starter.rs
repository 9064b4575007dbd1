//! The starter PKI that `serve --starter` makes on an empty store, and how it is shown.

mod endpoint;
mod mdm;
mod scep;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ca_backend::{
    AuthorityName, AuthorityState, DistinguishedName, DnsRule, Endpoint, Engine, Error, EvidenceKind, Fault,
    KeyAlgorithm, KeyFault, NameRules, NewAuthority,
};
use config::Settings;
use der::pem;
use serde_json::json;

use self::endpoint::StarterEndpoint;

/// Where the starter keeps its state if nothing else is said.
pub const STATE_DIR: &str = "certgate-starter";

const ROOT: &str = "root";
const ISSUING: &str = "issuing";
const ENDPOINT: &str = "starter";
const OPERATOR: &str = "starter";
const PROFILES: [&str; 3] = ["privatessl-tls-server", "privatessl-tls-client-server", "privatessl-tls-client"];
const SERVICES: [&str; 3] = ["privatessl", scep::SERVICE, mdm::SERVICE];

/// Why there is no starter PKI.
#[derive(Debug, thiserror::Error)]
pub enum StarterError {
    /// The key store is away. It may come back, and then [`prepare`] goes on.
    #[error("the starter PKI waits for its keys: {0}")]
    Waits(String),
    /// The engine refused or failed.
    #[error("failed to make the starter PKI: {0}")]
    Engine(String),
    /// A file cannot be written.
    #[error("failed to write {path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl From<Error> for StarterError {
    fn from(error: Error) -> Self {
        match error {
            Error::Fault(Fault::Key(KeyFault::Unavailable(why))) => Self::Waits(why),
            Error::Fault(fault) => Self::Engine(fault.to_string()),
            Error::Refused(refusal) => Self::Engine(refusal.private()),
        }
    }
}

impl From<ca_backend::Refusal> for StarterError {
    fn from(refusal: ca_backend::Refusal) -> Self {
        Self::from(Error::Refused(refusal))
    }
}

/// The settings of a starter that nobody configured: loopback, and state in [`STATE_DIR`] below the working directory.
#[must_use]
pub fn settings() -> Settings {
    let mut settings = Settings { state_dir: PathBuf::from(STATE_DIR), ..Settings::default() };
    settings.https.listen.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    settings.http.listen.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    settings
}

/// Makes what is missing of the starter PKI and returns how to use it, as text for people.
///
/// # Errors
/// [`StarterError`].
pub fn prepare(engine: &Engine, settings: &Settings) -> Result<String, StarterError> {
    make_what_is_missing(engine, settings)?;
    // What was not finished the last time goes on here.
    engine.prepare_to_serve();
    let root = engine.authority(&AuthorityName::new(ROOT)?);
    let certificate = root.ok().filter(|root| root.state == AuthorityState::Active).and_then(|root| root.certificate);
    let root_path = settings.state_dir.join("root.pem");
    if let Some(der) = certificate {
        let text = pem::encode_string("CERTIFICATE", pem::LineEnding::LF, &der)
            .map_err(|error| StarterError::Engine(error.to_string()))?;
        write_file(&root_path, text.as_bytes())?;
    }
    let text = describe(engine, settings, &root_path);
    write_file(&text_path(settings), text.as_bytes())?;
    Ok(text)
}

/// What is said while [`prepare`] waits, as text for people.
#[must_use]
pub fn describe_waiting(settings: &Settings, why: &str) -> String {
    let path = text_path(settings);
    format!(
        "The starter PKI is not made yet: {why}.\n\nIt is made as soon as the key store is there; {} says then how to use it. \
         `certgate status` tells what is missing meanwhile.\n",
        std::path::absolute(&path).unwrap_or(path).display()
    )
}

/// Where [`prepare`] writes how to use the starter PKI.
#[must_use]
pub fn text_path(settings: &Settings) -> PathBuf {
    settings.state_dir.join("starter.txt")
}

/// On an empty store, and on one where this was interrupted. What operators made meanwhile is left alone.
fn make_what_is_missing(engine: &Engine, settings: &Settings) -> Result<(), StarterError> {
    let found: Vec<String> = engine.authorities()?.iter().map(|authority| authority.name.to_string()).collect();
    let is_ours = found.iter().all(|name| name == ROOT || name == ISSUING);
    // The ACME endpoint comes last.
    let is_begun = |endpoint: &Endpoint| [scep::ENDPOINT, mdm::ENDPOINT].contains(&endpoint.name.as_str());
    if !is_ours || !engine.endpoints().iter().all(|endpoint| is_begun(endpoint)) {
        return Ok(());
    }
    let authority = |name: &str, common_name: &str, parent: Option<&str>| -> Result<NewAuthority, StarterError> {
        Ok(NewAuthority {
            name: AuthorityName::new(name)?,
            friendly_name: common_name.to_owned(),
            subject: DistinguishedName::parse(&format!("cn={common_name},o=certgate starter"))?,
            algorithm: KeyAlgorithm::EcP256,
            key: None,
            validity_s: None,
            parent: parent.map(AuthorityName::new).transpose()?,
            ocsp: true,
            services: if parent.is_some() { SERVICES.map(str::to_owned).to_vec() } else { Vec::new() },
        })
    };
    for new in [authority(ROOT, "Starter Root", None)?, authority(ISSUING, "Starter Issuing", Some(ROOT))?] {
        let made = match found.contains(&new.name.to_string()) {
            true => engine.authority(&new.name)?,
            false => engine.create_authority(&new, OPERATOR)?,
        };
        if made.state == AuthorityState::Provisioning {
            return Err(StarterError::Waits(format!("the authority {} has no certificate yet", new.name)));
        }
    }
    scep::put_endpoint(engine, settings)?;
    mdm::put_endpoint(engine, settings)?;
    put_endpoint(engine, http_01_port())
}

/// An ACME endpoint for whoever shows control of a name, limited to hosts that this machine reaches on its loopback addresses.
fn put_endpoint(engine: &Engine, http_01_port: u16) -> Result<(), StarterError> {
    let endpoint = StarterEndpoint {
        name: ENDPOINT,
        protocol: "acme",
        profiles: &PROFILES,
        rules: &[("whoever controls the name", EvidenceKind::Challenges)],
        allow: NameRules {
            dns: vec![DnsRule::Any],
            wildcards: true,
            ip: vec!["0.0.0.0/0", "::/0"].into_iter().filter_map(|range| range.parse().ok()).collect(),
            ..NameRules::default()
        },
        options: json!({ "http01_port": http_01_port, "reachable_networks": ["127.0.0.0/8", "::1/128"] }),
    };
    endpoint.put(engine)
}

/// Port 80 where a program started beside this one may listen on it, else the usual port of test servers.
fn http_01_port() -> u16 {
    const UNPRIVILEGED: u16 = 5002;
    match std::net::TcpListener::bind(("127.0.0.1", 80)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => UNPRIVILEGED,
        Ok(_) | Err(_) => 80,
    }
}

fn describe(engine: &Engine, settings: &Settings, root_path: &Path) -> String {
    let (https, http) = (&settings.https.base_url, &settings.http.base_url);
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let root_path = absolute(root_path);
    let mut text = String::new();
    let mut line = |label: &str, value: String| text += &format!("  {label:<18} {value}\n");
    line("HTTPS", https.clone());
    line("HTTP", http.clone());
    line("root certificate", root_path.display().to_string());
    line(
        "secrets",
        format!("{} (mode 0600): encrypts the keys; keep a copy", absolute(&settings.keys_secret_path()).display()),
    );
    line("operators' socket", absolute(&settings.operator_socket_path()).display().to_string());
    for authority in engine.authorities().unwrap_or_default() {
        if let Some(url) = authority.crl_url {
            line(&format!("CRL of {}", authority.name), url);
        }
        if let Some(url) = authority.ocsp_url {
            line(&format!("OCSP of {}", authority.name), url);
        }
    }
    let mut port = None;
    for endpoint in engine.endpoints() {
        if endpoint.protocol.as_str() == "acme" {
            let options = acme::Options::parse(&endpoint.options).unwrap_or_default();
            line(&format!("ACME {}", endpoint.name), format!("{https}/acme/{}/directory", endpoint.name));
            port.get_or_insert((endpoint.name.clone(), options.http01_port));
        }
        if endpoint.protocol.as_str() == "scep" {
            line(&format!("SCEP {}", endpoint.name), format!("{http}/scep/{}", endpoint.name));
        }
        if endpoint.protocol.as_str() == "mdm" {
            line(&format!("MDM {}", endpoint.name), format!("{https}/mdm/{}", endpoint.name));
        }
    }
    if let Some((name, port)) = port {
        let certbot = absolute(&settings.state_dir).join("certbot");
        let certbot = certbot.display();
        let host = "localhost";
        text += &format!(
            "\nA first certificate, from another terminal:\n\n  REQUESTS_CA_BUNDLE={root} certbot certonly --standalone \\\n    \
             --server {https}/acme/{name}/directory --http-01-port {port} -d {host} \\\n    \
             --agree-tos --register-unsafely-without-email --non-interactive \\\n    \
             --config-dir {certbot} --work-dir {certbot} --logs-dir {certbot}\n\n  \
             openssl verify -CAfile {root} -untrusted {certbot}/live/{host}/chain.pem {certbot}/live/{host}/cert.pem\n",
            root = root_path.display(),
        );
    }
    let directory = absolute(&settings.state_dir);
    text += &scep::describe(engine, settings, &directory).unwrap_or_default();
    text += &mdm::describe(engine, settings, &directory, &root_path).unwrap_or_default();
    text
}

/// Makes a directory that nobody else may enter, or leaves the one that is there.
///
/// # Errors
/// What the system says.
pub fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StarterError> {
    let failed = |error| StarterError::File { path: path.to_owned(), error };
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).map_err(failed)
}
