//! `certgate authority`.

use std::path::PathBuf;

use ca_backend::{AuthorityName, KeyAlgorithm};
use clap::{Args, Subcommand};
use http::Method;

use super::daemon::{Daemon, OCTETS, part};
use super::failure::Failure;
use super::output::{Output, deliver, read, read_text};
use super::parse::subject;
use super::table::{fields, named, or_dash, or_empty, table};
use crate::admin::authorities::{Authority, AuthorityEdit, AuthorityWish, ExternalRoot};

/// What to do with authorities.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List all authorities
    List,
    /// Show one authority
    Show {
        /// Its name
        name: AuthorityName,
    },
    /// Make a root, or an issuing authority below one
    Create(CreateArguments),
    /// Import the certificate of a root whose key is elsewhere
    Import {
        /// The name it shall have here
        name: AuthorityName,
        /// Its self-signed certificate, PEM; - for standard input
        file: PathBuf,
        /// Its name for people
        #[arg(long, value_name = "TEXT")]
        friendly_name: Option<String>,
    },
    /// Fetch the certificate request of an authority below an external root
    Request {
        /// Its name
        name: AuthorityName,
        #[command(flatten)]
        form: Form,
    },
    /// Install the certificate that the external root signed
    Install {
        /// The name of the authority that waits for it
        name: AuthorityName,
        /// The certificate, PEM (with or without those between it and the root) or DER; - for standard input
        file: PathBuf,
    },
    /// Fetch an authority's certificate
    Certificate {
        /// Its name
        name: AuthorityName,
        #[command(flatten)]
        form: Form,
    },
    /// Change an authority's services or its name for people
    Change {
        /// Its name
        name: AuthorityName,
        /// Its new name for people
        #[arg(long, value_name = "TEXT")]
        friendly_name: Option<String>,
        /// A service that it shall offer; those not named are offered no more. Repeat for several
        #[arg(long = "service", value_name = "SERVICE", conflicts_with = "no_services")]
        services: Vec<String>,
        /// It shall offer no service
        #[arg(long)]
        no_services: bool,
    },
    /// Delete an authority with its key and all its certificates. Its own certificate is revoked at the authority above it
    Delete {
        /// Its name
        name: AuthorityName,
        /// Its name once more: all its certificates go with it
        #[arg(long, value_name = "NAME")]
        yes_delete: String,
    },
}

/// `certgate authority create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// Its name in URLs and commands: lower-case letters, digits and inner hyphens
    name: AuthorityName,
    /// The distinguished name: "CN=Example Issuing CA,O=Example,C=DE"
    #[arg(long, value_name = "DN", value_parser = subject)]
    subject: String,
    /// The authority above it; without one it is a root
    #[arg(long, value_name = "NAME")]
    parent: Option<AuthorityName>,
    /// Its name for people
    #[arg(long, value_name = "TEXT")]
    friendly_name: Option<String>,
    /// The algorithm of its key: ec-p256, ec-p384, ec-p521, rsa-2048, rsa-3072, rsa-4096 or ed25519
    #[arg(long, default_value_t = KeyAlgorithm::EcP256)]
    algorithm: KeyAlgorithm,
    /// Where its key shall be: the name of a key store, or 'pkcs11:token=...;object=...' for a key that is taken if it is there and
    /// made if not [default: as the settings say]
    #[arg(long, value_name = "STORE|URI")]
    key: Option<String>,
    /// How many days it shall be valid [default: 20 years for a root, 10 for others]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    days: Option<u32>,
    /// A service that it offers: privatessl, scep, ... Repeat for several
    #[arg(long = "service", value_name = "SERVICE")]
    services: Vec<String>,
    /// Without an OCSP responder
    #[arg(long)]
    no_ocsp: bool,
}

/// Where a document goes, and how it is written.
#[derive(Debug, Args)]
pub struct Form {
    /// DER instead of PEM
    #[arg(long)]
    der: bool,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(command: Command, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    match command {
        Command::List => {
            let authorities: Vec<Authority> = daemon.get("/v1/authorities")?;
            output.show(&authorities, |authorities| list(authorities))
        }
        Command::Show { name } => {
            let authority: Authority = daemon.get(&path(&name))?;
            output.show(&authority, one)
        }
        Command::Create(wish) => create(wish, daemon, output),
        Command::Import { name, file, friendly_name } => {
            let root = ExternalRoot { name, friendly_name, certificate: read_text(&file)? };
            let authority: Authority = daemon.ask(Method::POST, "/v1/external-roots", &root)?;
            output.show(&authority, one)
        }
        Command::Request { name, form } => fetch(daemon, &name, "request", &form),
        Command::Install { name, file } => {
            let authority: Authority = daemon.put(&format!("{}/certificate", path(&name)), OCTETS, read(&file)?)?;
            output.show(&authority, one)
        }
        Command::Certificate { name, form } => fetch(daemon, &name, "certificate", &form),
        Command::Change { name, friendly_name, services, no_services } => {
            let services = (no_services || !services.is_empty()).then_some(services);
            if services.is_none() && friendly_name.is_none() {
                return Err(Failure::usage("nothing to change", "name --friendly-name, --service or --no-services"));
            }
            let authority: Authority =
                daemon.ask(Method::PATCH, &path(&name), &AuthorityEdit { friendly_name, services })?;
            output.show(&authority, one)
        }
        Command::Delete { name, yes_delete } => {
            daemon.delete(&format!("{}?confirm={}", path(&name), part(&yes_delete)))?;
            output.done(&format!("{name} is being deleted"))
        }
    }
}

fn path(name: &AuthorityName) -> String {
    format!("/v1/authorities/{}", part(name.as_str()))
}

fn create(wish: CreateArguments, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    let wish = AuthorityWish {
        name: wish.name,
        friendly_name: wish.friendly_name,
        subject: wish.subject,
        algorithm: wish.algorithm,
        key: wish.key,
        validity_days: wish.days,
        parent: wish.parent,
        ocsp: !wish.no_ocsp,
        services: wish.services,
    };
    let authority: Authority = daemon.ask(Method::POST, "/v1/authorities", &wish)?;
    output.show(&authority, |authority| {
        let next = match authority.state {
            ca_backend::AuthorityState::CsrReady => format!(
                "\nnext: certgate authority request {0} --out {0}.csr; have the external root sign it; certgate authority install {0} FILE\n",
                authority.name
            ),
            ca_backend::AuthorityState::Provisioning
            | ca_backend::AuthorityState::Active
            | ca_backend::AuthorityState::Revoked
            | ca_backend::AuthorityState::Expired
            | ca_backend::AuthorityState::Deleting => String::new(),
        };
        one(authority) + &next
    })
}

fn fetch(daemon: &Daemon, name: &AuthorityName, what: &str, form: &Form) -> Result<(), Failure> {
    let encoding = if form.der { "der" } else { "pem" };
    let document = daemon.octets(&format!("{}/{what}?encoding={encoding}", path(name)))?;
    deliver(&document, form.out.as_deref())
}

fn list(authorities: &[Authority]) -> String {
    let rows = authorities.iter().map(|authority| {
        [
            authority.name.clone(),
            named(&authority.kind),
            named(&authority.state),
            or_dash(authority.parent.as_ref()),
            or_dash(authority.algorithm.as_ref()),
            or_dash(authority.not_after.as_ref()),
            authority.subject.clone(),
        ]
    });
    table(["NAME", "KIND", "STATE", "PARENT", "KEY", "VALID UNTIL", "SUBJECT"], rows)
}

fn one(authority: &Authority) -> String {
    fields([
        ("name", authority.name.clone()),
        ("friendly name", authority.friendly_name.clone()),
        ("kind", named(&authority.kind)),
        ("state", named(&authority.state)),
        ("parent", or_empty(authority.parent.as_ref())),
        ("subject", authority.subject.clone()),
        ("algorithm", or_empty(authority.algorithm.as_ref())),
        ("generation", authority.generation.to_string()),
        ("valid from", or_empty(authority.not_before.as_ref())),
        ("valid until", or_empty(authority.not_after.as_ref())),
        ("services", authority.services.join(" ")),
        ("key", or_empty(authority.key.as_ref())),
        ("CRL", or_empty(authority.crl_url.as_ref())),
        ("OCSP", or_empty(authority.ocsp_url.as_ref())),
    ])
}
