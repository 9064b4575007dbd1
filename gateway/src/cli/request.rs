//! `certgate request`: requests that wait for an operator.

use clap::Subcommand;
use http::Method;

use super::certificate::one;
use super::daemon::{Daemon, part};
use super::failure::Failure;
use super::output::Output;
use super::table::{fields, or_dash, or_empty, table};
use crate::admin::certificates::CertificateWithPem;
use crate::admin::tickets::{Rejection, TicketStanding, WaitingRequest};

/// What to do with waiting requests.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the requests that wait
    List {
        /// Go on after this ticket
        #[arg(long, value_name = "TICKET")]
        after: Option<String>,
    },
    /// Say where a request stands that waits or waited
    Show {
        /// Its ticket
        ticket: String,
    },
    /// Release a request: it is judged anew and issued
    Approve {
        /// Its ticket
        ticket: String,
    },
    /// Turn a request down
    Reject {
        /// Its ticket
        ticket: String,
        /// Why; told to the requester
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
}

pub(super) fn run(command: Command, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    match command {
        Command::List { after } => {
            let after = after.map(|ticket| format!("?after={}", part(&ticket))).unwrap_or_default();
            let waiting: Vec<WaitingRequest> = daemon.get(&format!("/v1/tickets{after}"))?;
            output.show(&waiting, |waiting| list(waiting))
        }
        Command::Show { ticket } => {
            let standing: TicketStanding = daemon.get(&path(&ticket))?;
            output.show(&standing, |standing| {
                fields([
                    ("ticket", standing.ticket.clone()),
                    ("state", standing.state.clone()),
                    ("serial", or_empty(standing.serial.as_ref())),
                    ("why", or_empty(standing.why.as_ref())),
                ])
            })
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

fn path(ticket: &str) -> String {
    format!("/v1/tickets/{}", part(ticket))
}

fn list(waiting: &[WaitingRequest]) -> String {
    let rows = waiting.iter().map(|request| {
        let names = if request.alternative_names.is_empty() { request.subject.clone() } else { request.alternative_names.join(" ") };
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
