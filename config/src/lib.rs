//! Typed node settings: `certgate.toml`, then `CERTGATE_` environment variables over it.
//!
//! Only what belongs to one node stands here: listeners, store, key stores, limits, logging. Authorities, profiles and
//! endpoints live in the store and are changed through the operators' API. A restart applies changed settings.
//!
//! A variable names a key with `__` between section and key: `CERTGATE_STORE__ENGINE=redb`. Lists are written as in TOML:
//! `CERTGATE_TRUSTED_PROXIES=["10.0.0.5/32"]`.

mod check;
mod error;
mod sections;

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use error::SettingsError;
pub use sections::{
    CertificateSource, HttpSettings, HttpsSettings, IssuingSettings, KeysSettings, LimitsSettings, LogFormat,
    LogSettings, MetricsSettings, OperatorSettings, PerspectiveSettings, ProxyHeader, RemotePerspectiveSettings,
    ServerCertificateSettings, StoreEngine, StoreSettings, TokenSettings, ValidationSettings, ZoneSettings,
};

/// The shipped `certgate.toml`: every key with its default, commented.
pub const SHIPPED: &str = include_str!("../certgate.toml");

/// Every environment variable that names a setting begins so.
pub const VARIABLE_PREFIX: &str = "CERTGATE_";

/// Variables with the prefix that are arguments of the command line and no settings, without the prefix.
pub const COMMAND_LINE_VARIABLES: &[&str] = &["CONFIG", "SOCKET"];

/// All settings of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where this node keeps what must survive a restart. Other paths lie below it unless set.
    pub state_dir: PathBuf,
    /// Proxies that are believed when they name the client, by the address of the TCP peer.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which they name it. Only this one is read: the other would come from the client.
    pub proxy_header: ProxyHeader,
    /// The listener with TLS.
    pub https: HttpsSettings,
    /// The listener without TLS, for CRL, OCSP and CA certificates.
    pub http: HttpSettings,
    /// The operators' API.
    pub operator: OperatorSettings,
    /// The database.
    pub store: StoreSettings,
    /// The software key store.
    pub keys: KeysSettings,
    /// Bounds on what clients may use.
    pub limits: LimitsSettings,
    /// How certificates, CRLs and OCSP answers are issued.
    pub issuing: IssuingSettings,
    /// Requests to other hosts that prove control over a name (ACME).
    pub validation: ValidationSettings,
    /// What this node does if it runs as a remote perspective.
    pub perspective: PerspectiveSettings,
    /// Logs.
    pub log: LogSettings,
    /// Figures for Prometheus.
    pub metrics: MetricsSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/certgate"),
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::XForwardedFor,
            https: HttpsSettings::default(),
            http: HttpSettings::default(),
            operator: OperatorSettings::default(),
            store: StoreSettings::default(),
            keys: KeysSettings::default(),
            limits: LimitsSettings::default(),
            issuing: IssuingSettings::default(),
            validation: ValidationSettings::default(),
            perspective: PerspectiveSettings::default(),
            log: LogSettings::default(),
            metrics: MetricsSettings::default(),
        }
    }
}

impl Settings {
    /// Reads the file, then the environment, fills the rest with defaults and checks every value.
    ///
    /// # Errors
    /// An unreadable file, a key that does not exist, a value of the wrong kind or outside its range.
    pub fn load(path: Option<&Path>) -> Result<Self, SettingsError> {
        let mut figment = Figment::new();
        if let Some(path) = path {
            // figment takes a missing file for an empty one
            std::fs::File::open(path).map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
            figment = figment.merge(Toml::file_exact(path));
        }
        let environment = Env::prefixed(VARIABLE_PREFIX).ignore(COMMAND_LINE_VARIABLES).split("__");
        Self::extract(&figment.merge(environment))
    }

    /// Reads settings from TOML text alone, without the environment.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn parse(toml: &str) -> Result<Self, SettingsError> {
        Self::extract(&Figment::from(Toml::string(toml)))
    }

    fn extract(figment: &Figment) -> Result<Self, SettingsError> {
        let settings: Self = figment.extract().map_err(|cause| error::explain(cause, figment))?;
        check::check(&settings).map_err(|wrong| error::locate(wrong, figment))?;
        Ok(settings)
    }

    /// Where the embedded database lies.
    #[must_use]
    pub fn store_directory(&self) -> PathBuf {
        self.state_dir.join("store")
    }

    /// Where the key files lie.
    #[must_use]
    pub fn keys_directory(&self) -> PathBuf {
        self.keys.directory.clone().unwrap_or_else(|| self.state_dir.join("keys"))
    }

    /// The file with the secret that encrypts the key files: as set, else the systemd credential `keystore.secret`, else
    /// `keystore.secret` in the state directory.
    #[must_use]
    pub fn keys_secret_path(&self) -> PathBuf {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
        self.keys_secret_path_beside(credentials.as_deref().map(Path::new))
    }

    fn keys_secret_path_beside(&self, credentials: Option<&Path>) -> PathBuf {
        const NAME: &str = "keystore.secret";
        if let Some(path) = &self.keys.secret_path {
            return path.clone();
        }
        credentials
            .map(|directory| directory.join(NAME))
            .filter(|path| path.exists())
            .unwrap_or_else(|| self.state_dir.join(NAME))
    }

    /// The unix socket of the operators' API.
    #[must_use]
    pub fn operator_socket_path(&self) -> PathBuf {
        self.operator.socket_path.clone().unwrap_or_else(|| self.state_dir.join("operator.sock"))
    }
}

#[cfg(test)]
mod tests;
