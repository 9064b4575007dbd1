//! `certgate request`: requests that wait for an operator.

use ca_backend::{Clock as _, Ticket};
use clap::Subcommand;
use http::Method;

use super::certificate::one;
use super::daemon::{Daemon, part};
use super::failure::Failure;
use super::output::Output;
use super::parse;
use super::table::{fields, named, or_dash, or_empty, table};
use crate::admin::Moment;
use crate::admin::certificates::CertificateWithPem;
use crate::admin::tickets::{Rejection, ShownIdentifier, TicketStanding, WaitingRequest};

/// What to do with waiting requests.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the requests that wait
    List {
        /// Go on after this ticket
        #[arg(long, value_name = "TICKET", value_parser = parse::ticket)]
        after: Option<Ticket>,
    },
    /// Say where a request stands that waits or waited
    Show {
        /// Its ticket
        #[arg(value_parser = parse::ticket)]
        ticket: Ticket,
    },
    /// Release a request: it is judged anew and issued
    Approve {
        /// Its ticket
        #[arg(value_parser = parse::ticket)]
        ticket: Ticket,
    },
    /// Turn a request down
    Reject {
        /// Its ticket
        #[arg(value_parser = parse::ticket)]
        ticket: Ticket,
        /// Why; told to the requester
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
}

pub(super) fn run(command: Command, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    match command {
        Command::List { after } => {
            let after = after.map(|ticket| format!("?after={}", part(&ticket.to_string()))).unwrap_or_default();
            let waiting: Vec<WaitingRequest> = daemon.get(&format!("/v1/tickets{after}"))?;
            output.show(&waiting, |waiting| list(waiting))
        }
        Command::Show { ticket } => {
            let standing: TicketStanding = daemon.get(&path(&ticket))?;
            output.show(&standing, |standing| whole(standing, Moment(ca_backend::SystemClock.now())))
        }
        Command::Approve { ticket } => {
            let issued: CertificateWithPem = daemon.ask(Method::POST, &format!("{}/approve", path(&ticket)), &())?;
            output.show(&issued, |issued| one(&issued.certificate))
        }
        Command::Reject { ticket, why } => {
            daemon.tell(Method::POST, &format!("{}/reject", path(&ticket)), &Rejection { why })?;
            output.done(&format!("rejected {ticket}"))
        }
    }
}

fn path(ticket: &Ticket) -> String {
    format!("/v1/tickets/{}", part(&ticket.to_string()))
}

/// Everything that one who decides has to know.
fn whole(standing: &TicketStanding, now: Moment) -> String {
    let request = &standing.request;
    let shown = standing.shown.iter().map(|shown| {
        let ShownIdentifier { name, method, at, detail } = shown;
        format!("{name} by {method} at {at} ({detail})")
    });
    let from = request.peer.as_ref().map(ToString::to_string);
    fields([
        ("ticket", request.ticket.clone()),
        ("state", standing.state.clone()),
        ("serial", or_empty(standing.serial.as_ref())),
        ("why", or_empty(standing.why.as_ref())),
        ("asked", format!("{}, {} ago", request.at, age(now.0.since_s(request.at.0)))),
        ("decided", or_empty(standing.decided_at.as_ref())),
        ("authority", request.authority.clone()),
        ("profile", request.profile.clone()),
        ("subject", request.subject.clone()),
        ("names", request.alternative_names.join(" ")),
        ("key", format!("{}, SHA-256 {}", standing.key, standing.key_sha256)),
        ("key usages", standing.extended_key_usages.join(" ")),
        ("extensions", standing.extensions.join(" ")),
        ("valid from", or_empty(standing.not_before.as_ref())),
        ("valid until", or_empty(standing.not_after.as_ref())),
        ("requester", request.requester.clone()),
        ("evidence", named(&standing.evidence)),
        ("shown", shown.collect::<Vec<_>>().join(", ")),
        ("protocol", request.protocol.clone()),
        ("endpoint", or_empty(request.endpoint.as_ref())),
        ("from", or_empty(from.as_ref())),
        ("request", standing.request_id.clone()),
    ])
}

/// A duration as people say it, in its largest unit.
fn age(seconds: u64) -> String {
    let units = [(86_400, "days"), (3_600, "hours"), (60, "minutes")];
    let (length, name) = units.into_iter().find(|(length, _)| seconds >= 2 * length).unwrap_or((1, "seconds"));
    format!("{} {name}", seconds / length)
}

fn list(waiting: &[WaitingRequest]) -> String {
    let rows = waiting.iter().map(|request| {
        let names = if request.alternative_names.is_empty() {
            request.subject.clone()
        } else {
            request.alternative_names.join(" ")
        };
        [
            request.ticket.clone(),
            request.at.to_string(),
            or_dash(request.endpoint.as_ref()),
            request.profile.clone(),
            request.requester.clone(),
            names,
        ]
    });
    table(["TICKET", "SINCE", "ENDPOINT", "PROFILE", "REQUESTER", "NAMES"], rows)
}
