//! `certgate certificate issue`.

use std::path::PathBuf;

use ca_backend::{AuthorityName, CertificateRequest, ProfileName};
use clap::Args;
use der::pem;
use http::Method;

use super::certificate::one;
use super::daemon::{Daemon, display};
use super::failure::Failure;
use super::output::{Delivery, Output, read};
use super::parse::{alternative_name, csr, extended_key_usage, extension, subject};
use crate::admin::Moment;
use crate::admin::certificates::CertificateWithPem;
use crate::admin::issuance::{CertificateWish, WantedExtension, names_in};

/// `certgate certificate issue`.
#[derive(Debug, Args)]
pub struct IssueArguments {
    /// The CSR, PEM or DER; - for standard input. Only its key counts: names are given beside it
    #[arg(long, value_name = "FILE")]
    csr: PathBuf,
    /// Who issues
    #[arg(long, value_name = "NAME")]
    authority: AuthorityName,
    /// What kind of certificate
    #[arg(long, value_name = "ID")]
    profile: ProfileName,
    /// The subject: "CN=host.example.org"
    #[arg(long, default_value = "", value_name = "DN", value_parser = subject)]
    subject: String,
    /// An alternative name: dns:host.example.org, ip:192.0.2.1, email:ann@example.org, ... Repeat for several
    #[arg(long = "san", value_name = "TYPE:NAME", value_parser = alternative_name)]
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
    #[arg(long = "eku", value_name = "PURPOSE", value_parser = extended_key_usage)]
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

pub(super) fn run(wish: IssueArguments, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    let octets = read(&wish.csr)?;
    let request = csr(&octets, &display(&wish.csr))?;
    // A certificate that cannot be delivered is not asked for.
    let out = wish.out.as_deref().map(Delivery::to_file).transpose()?;
    if let Some(note) = request.as_ref().and_then(|request| names_left_out(&wish, request)) {
        output.note(&note);
    }
    let wish = CertificateWish {
        authority: wish.authority,
        profile: wish.profile,
        csr: pem_of(octets)?,
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
    if let Some(out) = out {
        let path = out.deliver(pem.as_bytes())?;
        return output.show(&issued, |issued| format!("{}written to {}\n", one(&issued.certificate), path.display()));
    }
    output.show(&issued, |_| pem)
}

/// What is worth knowing before a certificate is made without the alternative names by which clients find their peer.
fn names_left_out(wish: &IssueArguments, request: &CertificateRequest) -> Option<String> {
    if wish.use_request_names || !wish.alternative_names.is_empty() {
        return None;
    }
    let subject = match wish.subject.as_str() {
        "" => "no subject",
        subject => subject,
    };
    let asked = names_in(request).map(|names| names.alternative).unwrap_or_default();
    let asked: Vec<_> = asked.iter().map(ToString::to_string).collect();
    let in_request = if asked.is_empty() {
        String::new()
    } else {
        format!(" The request names {}: --use-request-names takes them.", asked.join(", "))
    };
    Some(format!("without --san the certificate holds {subject} and no alternative names.{in_request}"))
}

/// The request as the daemon takes it: PEM text.
fn pem_of(octets: Vec<u8>) -> Result<String, Failure> {
    match String::from_utf8(octets) {
        Ok(text) => Ok(text),
        Err(der) => pem::encode_string("CERTIFICATE REQUEST", pem::LineEnding::LF, der.as_bytes())
            .map_err(|why| Failure::usage(format!("cannot write the request as PEM: {why}"), "")),
    }
}
