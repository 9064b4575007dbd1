//! `certgate certificate`.

use std::path::PathBuf;

use ca_backend::{
    AuthorityName, CertificateState, InventoryQuery, ProfileName, ProtocolName, RevocationReason, Serial,
};
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde::Serialize;

use super::daemon::{Daemon, part, query};
use super::failure::Failure;
use super::issue::{self, IssueArguments};
use super::output::{Output, deliver};
use super::parse::{final_reason, fingerprint, serial};
use super::table::{fields, named, or_dash, or_empty, table};
use crate::admin::Moment;
use crate::admin::certificates::{
    ArchivedKey, Certificate, CertificatePage, CertificateWithPem, Count, Remark, Revocation, RevocationWish,
    SearchParameters,
};
use crate::admin::events::{EventPage, Part};

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Issue a certificate for a CSR
    Issue(IssueArguments),
    /// Find certificates; every condition given must hold
    List(ListArguments),
    /// Show one certificate
    Show {
        /// Its serial, hexadecimal, in any case and padding, with or without colons
        #[arg(value_parser = serial)]
        serial: Serial,
        /// Only the certificate, PEM
        #[arg(long)]
        pem: bool,
        /// Only the certificate and those above it without the root, PEM
        #[arg(long, conflicts_with = "pem")]
        chain: bool,
        /// Write the PEM to this file instead of standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Revoke a certificate for good
    Revoke {
        /// Its serial
        #[arg(value_parser = serial)]
        serial: Serial,
        /// Why: unspecified, keyCompromise, cACompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn
        #[arg(long, value_parser = final_reason)]
        reason: RevocationReason,
        /// A remark for the audit record
        #[arg(long, default_value = "", value_name = "TEXT")]
        comment: String,
        /// Since when the key is thought to be compromised: 2026-01-08T00:00:00Z
        #[arg(long, value_name = "TIME")]
        invalidity_date: Option<Moment>,
    },
    /// Put a certificate on hold
    Hold {
        /// Its serial
        #[arg(value_parser = serial)]
        serial: Serial,
        /// A remark for the audit record
        #[arg(long, default_value = "", value_name = "TEXT")]
        comment: String,
    },
    /// Lift a hold
    Unhold {
        /// Its serial
        #[arg(value_parser = serial)]
        serial: Serial,
        /// A remark for the audit record
        #[arg(long, default_value = "", value_name = "TEXT")]
        comment: String,
    },
    /// Write the archived key of a certificate, encrypted for the recovery certificates, PEM
    #[command(after_help = ARCHIVED_KEY_HELP)]
    ArchivedKey {
        /// The certificate's serial
        #[arg(value_parser = serial)]
        serial: Serial,
        /// Write it to this file instead of standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Count certificates by authority, profile and state
    Counts,
    /// Show what happened to certificates, in order
    Events(PartArguments),
    /// Block a public key for good: no certificate will hold it
    #[command(after_help = BLOCK_KEY_HELP)]
    BlockKey {
        /// SHA-256 of its SubjectPublicKeyInfo, 64 hexadecimal digits
        #[arg(value_parser = fingerprint)]
        fingerprint: String,
    },
}

const ARCHIVED_KEY_HELP: &str = "The holder of a recovery key opens it:
  openssl cms -decrypt -inform PEM -in FILE -recip CERTIFICATE -inkey KEY | openssl pkey -inform DER";

const BLOCK_KEY_HELP: &str = "The digits, from a certificate, a request and a public key:
  openssl x509 -in CERTIFICATE -noout -pubkey | openssl pkey -pubin -outform DER | openssl sha256 -r
  openssl req -in REQUEST -noout -pubkey | openssl pkey -pubin -outform DER | openssl sha256 -r
  openssl pkey -in KEY -pubout -outform DER | openssl sha256 -r";

/// A certificate's state.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum State {
    /// Neither revoked nor held; it may have expired.
    Normal,
    /// On hold.
    Held,
    /// Revoked for good.
    Revoked,
}

/// `certgate certificate list`.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// The serial, hexadecimal in any case and padding
    #[arg(long)]
    serial: Option<String>,
    /// A common name or alternative name; with a leading *, its end: *.example.org
    #[arg(long)]
    name: Option<String>,
    /// The subject, RFC 4514: "CN=host,O=Example"; with a leading *, its end: "*,O=Example"
    #[arg(long, value_name = "DN")]
    subject: Option<String>,
    /// The requester: account:..., operator:NAME
    #[arg(long)]
    requester: Option<String>,
    /// Issued at this time or later: 2026-01-08T00:00:00Z
    #[arg(long, value_name = "TIME")]
    issued_from: Option<Moment>,
    /// Issued before this time
    #[arg(long, value_name = "TIME")]
    issued_until: Option<Moment>,
    /// Expiring at this time or later
    #[arg(long, value_name = "TIME")]
    expires_from: Option<Moment>,
    /// Expiring before this time
    #[arg(long, value_name = "TIME")]
    expires_until: Option<Moment>,
    /// Of this profile
    #[arg(long)]
    profile: Option<ProfileName>,
    /// Issued by this authority
    #[arg(long)]
    authority: Option<AuthorityName>,
    /// Requested by this protocol
    #[arg(long)]
    protocol: Option<ProtocolName>,
    /// In this state
    #[arg(long)]
    state: Option<State>,
    /// The other way round: without another order, the newest first
    #[arg(long)]
    descending: bool,
    /// Go on where a page ended
    #[arg(long)]
    cursor: Option<String>,
    /// Most certificates to show, 1 to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

/// A part of a numbered record.
#[derive(Debug, Args)]
pub struct PartArguments {
    /// Begin after the entry of this number
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    after: u64,
    /// Most entries to show, 1 to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

impl PartArguments {
    pub(super) fn query(&self) -> Result<String, Failure> {
        query(&Part { after: self.after, limit: self.limit.into() })
    }
}

pub(super) fn run(command: Command, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    match command {
        Command::Issue(wish) => issue::run(wish, daemon, output),
        Command::List(asked) => {
            let asked = parameters(asked);
            InventoryQuery::from(asked.clone()).check().map_err(|refusal| {
                Failure::usage(
                    refusal.public(),
                    "`certgate certificate list --help` lists the conditions and their forms",
                )
            })?;
            let page: CertificatePage = daemon.get(&format!("/v1/certificates{}", query(&asked)?))?;
            output.show(&page, list)
        }
        Command::Show { serial, pem, chain, out } => show(&serial, (pem, chain), out, daemon, output),
        Command::Revoke { serial, reason, comment, invalidity_date } => {
            change(&serial, "revoke", &RevocationWish { reason, invalidity_date, comment }, daemon, output)
        }
        Command::Hold { serial, comment } => change(&serial, "hold", &Remark { comment }, daemon, output),
        Command::Unhold { serial, comment } => change(&serial, "unhold", &Remark { comment }, daemon, output),
        Command::ArchivedKey { serial, out } => {
            let path = format!("/v1/certificates/{serial}/archived-key");
            let given: ArchivedKey = daemon.ask(Method::POST, &path, &())?;
            deliver(given.envelope_pem.as_bytes(), out.as_deref())
        }
        Command::Counts => {
            let counts: Vec<Count> = daemon.get("/v1/counts")?;
            output.show(&counts, |counts| {
                let rows = counts.iter().map(|count| {
                    [
                        count.authority.clone(),
                        count.profile.clone(),
                        named(&count.state),
                        count.certificates.to_string(),
                    ]
                });
                table(["AUTHORITY", "PROFILE", "STATE", "CERTIFICATES"], rows)
            })
        }
        Command::Events(asked) => {
            let page: EventPage = daemon.get(&format!("/v1/events{}", asked.query()?))?;
            output.show(&page, |page| {
                let rows = page.items.iter().map(|event| {
                    let authority = or_dash(event.authority.as_ref());
                    [
                        event.number.to_string(),
                        event.at.to_string(),
                        event.kind.clone(),
                        event.serial.clone(),
                        authority,
                    ]
                });
                table(["NUMBER", "TIME", "EVENT", "SERIAL", "AUTHORITY"], rows)
            })
        }
        Command::BlockKey { fingerprint } => {
            daemon.tell(Method::PUT, &format!("/v1/blocked-keys/{}", part(&fingerprint)), &())?;
            output.done(&format!("no certificate will hold the key {fingerprint}"))
        }
    }
}

fn parameters(asked: ListArguments) -> SearchParameters {
    SearchParameters {
        serial: asked.serial,
        name: asked.name,
        subject: asked.subject,
        requester: asked.requester,
        issued_from: asked.issued_from,
        issued_until: asked.issued_until,
        expires_from: asked.expires_from,
        expires_until: asked.expires_until,
        profile: asked.profile,
        authority: asked.authority,
        protocol: asked.protocol,
        status: asked.state.map(|state| match state {
            State::Normal => CertificateState::Normal,
            State::Held => CertificateState::Held,
            State::Revoked => CertificateState::Revoked,
        }),
        descending: asked.descending,
        cursor: asked.cursor,
        limit: asked.limit.into(),
    }
}

fn show(
    serial: &Serial,
    (pem, chain): (bool, bool),
    out: Option<PathBuf>,
    daemon: &Daemon,
    output: Output,
) -> Result<(), Failure> {
    let shown: CertificateWithPem = daemon.get(&format!("/v1/certificates/{serial}"))?;
    if chain {
        return deliver(format!("{}{}", shown.pem, shown.chain_pem).as_bytes(), out.as_deref());
    }
    if pem || out.is_some() {
        return deliver(shown.pem.as_bytes(), out.as_deref());
    }
    output.show(&shown, |shown| one(&shown.certificate))
}

fn change(serial: &Serial, what: &str, wish: &impl Serialize, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    let done: Revocation = daemon.ask(Method::POST, &format!("/v1/certificates/{serial}/{what}"), wish)?;
    output.show(&done, |done| format!("{} is {} since {}", done.serial, named(&done.state), done.at))
}

fn list(page: &CertificatePage) -> String {
    let rows = page.items.iter().map(|found| {
        [
            found.serial.clone(),
            named(&found.state),
            found.not_after.to_string(),
            found.authority.clone(),
            found.profile.clone(),
            names(found),
        ]
    });
    let text = table(["SERIAL", "STATE", "VALID UNTIL", "AUTHORITY", "PROFILE", "NAMES"], rows);
    match &page.cursor {
        Some(cursor) => format!("{text}\nthere may be more: --cursor {cursor}\n"),
        None => text,
    }
}

fn names(found: &Certificate) -> String {
    if found.alternative_names.is_empty() { found.subject.clone() } else { found.alternative_names.join(" ") }
}

pub(super) fn one(found: &Certificate) -> String {
    let holder = found.holder.as_ref();
    fields([
        ("serial", found.serial.clone()),
        ("state", named(&found.state)),
        ("subject", found.subject.clone()),
        ("names", found.alternative_names.join(" ")),
        ("authority", found.authority.clone()),
        ("profile", found.profile.clone()),
        ("requester", found.requester.clone()),
        ("device", or_empty(holder.and_then(|holder| holder.device.as_ref()))),
        ("user", or_empty(holder.and_then(|holder| holder.user.as_ref()))),
        ("configuration", or_empty(holder.and_then(|holder| holder.configuration.as_ref()))),
        ("kept by", or_empty(holder.map(|holder| &holder.endpoint))),
        ("protocol", found.protocol.clone()),
        ("endpoint", or_empty(found.endpoint.as_ref())),
        ("issued", found.issued_at.to_string()),
        ("valid until", found.not_after.to_string()),
        ("revoked", or_empty(found.revoked_at.as_ref())),
        ("reason", or_empty(found.reason.as_ref())),
    ])
}
