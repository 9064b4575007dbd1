//! `certgate certificate issue`.

use std::path::PathBuf;

use ca_backend::{AuthorityName, ProfileName};
use clap::Args;
use http::Method;

use super::certificate::one;
use super::daemon::Daemon;
use super::failure::Failure;
use super::output::{Output, deliver, read_text};
use crate::admin::Moment;
use crate::admin::certificates::CertificateWithPem;
use crate::admin::issuance::{CertificateWish, WantedExtension};

/// `certgate certificate issue`.
#[derive(Debug, Args)]
pub struct IssueArguments {
    /// The CSR, PEM; - for standard input. Only its key counts: names are given beside it
    #[arg(long, value_name = "FILE")]
    csr: PathBuf,
    /// Who issues
    #[arg(long, value_name = "NAME")]
    authority: AuthorityName,
    /// What kind of certificate
    #[arg(long, value_name = "ID")]
    profile: ProfileName,
    /// The subject: "CN=host.example.org"
    #[arg(long, default_value = "", value_name = "DN")]
    subject: String,
    /// An alternative name: dns:host.example.org, ip:192.0.2.1, email:ann@example.org, ... Repeat for several
    #[arg(long = "san", value_name = "TYPE:NAME")]
    alternative_names: Vec<String>,
    /// Take subject and alternative names from the CSR
    #[arg(long, conflicts_with_all = ["subject", "alternative_names"])]
    use_request_names: bool,
    /// How many days it shall be valid [default: as the profile says]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    days: Option<u32>,
    /// Valid until this time, inclusive: 2027-01-08T00:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "days")]
    not_after: Option<Moment>,
    /// Valid from this time
    #[arg(long, value_name = "TIME")]
    not_before: Option<Moment>,
    /// An extended key usage, where the profile leaves the choice: server-auth, 1.3.6.1.5.5.7.3.2. Repeat for several
    #[arg(long = "eku", value_name = "PURPOSE")]
    extended_key_usages: Vec<String>,
    /// An extension that the profile allows, with its DER value: certificate-policies=3008... Repeat for several
    #[arg(long = "extension", value_name = "TYPE=HEX", value_parser = extension)]
    extensions: Vec<WantedExtension>,
    /// Tells apart wishes that are otherwise the same: without it, the same wish gets the same certificate for a while
    #[arg(long, default_value = "", value_name = "TEXT")]
    transaction: String,
    /// Write the certificate and those above it to this file, PEM, instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn extension(text: &str) -> Result<WantedExtension, String> {
    let (kind, value_hex) = text.split_once('=').ok_or("write TYPE=HEX, such as certificate-policies=300806062a0304050607")?;
    Ok(WantedExtension { kind: kind.to_owned(), value_hex: value_hex.to_owned() })
}

pub(super) fn run(wish: IssueArguments, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    let out = wish.out;
    let wish = CertificateWish {
        authority: wish.authority,
        profile: wish.profile,
        csr: read_text(&wish.csr)?,
        subject: wish.subject,
        alternative_names: wish.alternative_names,
        use_request_names: wish.use_request_names,
        not_before: wish.not_before,
        not_after: wish.not_after,
        validity_days: wish.days,
        extended_key_usages: wish.extended_key_usages,
        extensions: wish.extensions,
        transaction: wish.transaction,
    };
    let issued: CertificateWithPem = daemon.ask(Method::POST, "/v1/certificates", &wish)?;
    let pem = format!("{}{}", issued.pem, issued.chain_pem);
    if let Some(path) = &out {
        deliver(pem.as_bytes(), Some(path))?;
        return output.show(&issued, |issued| format!("{}written to {}\n", one(&issued.certificate), path.display()));
    }
    output.show(&issued, |_| pem)
}
