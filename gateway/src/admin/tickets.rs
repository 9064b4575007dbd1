//! `/v1/tickets`: requests that wait for an operator.

use axum::Json as Answer;
use axum::http::StatusCode;
use ca_backend::{Error, Outcome, Reason, Ticket};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Moment;
use super::caller::{Caller, Json, Named, Parameters};
use super::certificates::{CertificateWithPem, with_pem};
use super::issuance::issued;
use super::problem::{Problem, missing};

/// A request that waits.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WaitingRequest {
    /// Names the request.
    pub ticket: String,
    /// Since when it waits.
    pub at: Moment,
    /// Who shall issue.
    pub authority: String,
    /// What kind of certificate.
    pub profile: String,
    /// The subject, RFC 4514.
    pub subject: String,
    /// The alternative names.
    pub alternative_names: Vec<String>,
    /// Who asks.
    pub requester: String,
    /// By which protocol.
    pub protocol: String,
    /// At which endpoint.
    pub endpoint: Option<String>,
    /// From which address.
    #[schema(value_type = Option<String>)]
    pub peer: Option<std::net::IpAddr>,
}

impl From<ca_backend::WaitingRequest> for WaitingRequest {
    fn from(waiting: ca_backend::WaitingRequest) -> Self {
        Self {
            ticket: waiting.ticket.to_string(),
            at: waiting.at.into(),
            authority: waiting.authority.to_string(),
            profile: waiting.profile.to_string(),
            subject: waiting.subject,
            alternative_names: waiting.alternative_names,
            requester: waiting.requester,
            protocol: waiting.origin.protocol.to_string(),
            endpoint: waiting.origin.endpoint.map(String::from),
            peer: waiting.origin.peer,
        }
    }
}

/// Where a request stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TicketStanding {
    /// Names the request.
    pub ticket: String,
    /// `waiting`, `issued` or `rejected`.
    #[schema(example = "waiting")]
    pub state: String,
    /// The certificate that came of it.
    pub serial: Option<String>,
    /// Why it was rejected.
    pub why: Option<String>,
}

/// A part of the waiting requests.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WaitingPart {
    /// The last ticket already seen.
    after: Option<String>,
    /// Most requests, 1 to 1,000.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: usize,
}

impl Default for WaitingPart {
    fn default() -> Self {
        Self { after: None, limit: 100 }
    }
}

/// Why a request is turned down.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rejection {
    /// Told to the requester.
    pub why: String,
}

/// The requests that wait, by ticket.
#[utoipa::path(get, path = "/v1/tickets", tag = "tickets", params(WaitingPart),
    responses((status = 200, body = Vec<WaitingRequest>), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    caller: Caller,
    Parameters(part): Parameters<WaitingPart>,
) -> Result<Answer<Vec<WaitingRequest>>, Problem> {
    let waiting = caller
        .ask(move |caller| {
            let after = part.after.as_deref().map(Ticket::parse).transpose()?;
            Ok(caller.engine().waiting(after.as_ref(), part.limit.clamp(1, 1_000))?)
        })
        .await?;
    Ok(Answer(waiting.into_iter().map(WaitingRequest::from).collect()))
}

/// Where a request stands that waits or waited.
#[utoipa::path(get, path = "/v1/tickets/{ticket}", tag = "tickets", params(("ticket" = String, Path)),
    responses((status = 200, body = TicketStanding), (status = 404, body = Problem)))]
pub(super) async fn show(caller: Caller, Named(ticket): Named<String>) -> Result<Answer<TicketStanding>, Problem> {
    let standing = move |caller: &Caller| {
        let ticket = Ticket::parse(&ticket)?;
        let (state, serial, why) = match caller.engine().poll(&ticket) {
            Ok(Outcome::Pending { .. }) => ("waiting", None, None),
            Ok(Outcome::Issued(certificate)) => ("issued", Some(certificate.serial.to_string()), None),
            Err(Error::Refused(refusal)) if refusal.reason() == Reason::NotAuthorized => {
                ("rejected", None, Some(refusal.public().to_owned()))
            }
            Err(Error::Refused(refusal)) if refusal.reason() == Reason::NotReady => {
                return Err(missing(refusal.public(), "`certgate request list` shows what waits").into());
            }
            Err(error) => return Err(error.into()),
        };
        Ok(TicketStanding { ticket: ticket.to_string(), state: state.to_owned(), serial, why })
    };
    Ok(Answer(caller.ask(standing).await?))
}

/// Releases a waiting request: it is judged anew and issued.
#[utoipa::path(post, path = "/v1/tickets/{ticket}/approve", tag = "tickets", params(("ticket" = String, Path)),
    responses((status = 200, body = CertificateWithPem), (status = "4XX", body = Problem)))]
pub(super) async fn approve(caller: Caller, Named(ticket): Named<String>) -> Result<Answer<CertificateWithPem>, Problem> {
    let approve = move |caller: &Caller| {
        let outcome = caller.engine().approve(&Ticket::parse(&ticket)?, caller.operator())?;
        with_pem(caller, &issued(outcome)?)
    };
    Ok(Answer(caller.ask(approve).await?))
}

/// Turns a waiting request down.
#[utoipa::path(post, path = "/v1/tickets/{ticket}/reject", tag = "tickets", params(("ticket" = String, Path)),
    request_body = Rejection, responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn reject(
    caller: Caller,
    Named(ticket): Named<String>,
    Json(rejection): Json<Rejection>,
) -> Result<StatusCode, Problem> {
    let reject = move |caller: &Caller| Ok(caller.engine().reject(&Ticket::parse(&ticket)?, caller.operator(), &rejection.why)?);
    caller.ask(reject).await.map(|()| StatusCode::NO_CONTENT)
}
