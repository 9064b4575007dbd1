//! `/v1/tickets`: requests that wait for an operator.

use axum::Json as Answer;
use axum::http::StatusCode;
use ca_backend::profile::purpose;
use ca_backend::{Error, EvidenceKind, Reason, Ticket, TicketDetails, ValidatedIdentifier};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Moment;
use super::caller::{Caller, Json, Named, Parameters};
use super::certificates::{CertificateWithPem, with_pem};
use super::issuance::issued;
use super::problem::{Failure, Problem, advised, missing};

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

/// A request that waits or waited: all that one who decides has to know, and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TicketStanding {
    /// What was asked for, by whom and from where.
    #[serde(flatten)]
    pub request: WaitingRequest,
    /// `waiting`, `issued`, `rejected`, or `expired`: nobody decided in time.
    #[schema(example = "waiting")]
    pub state: String,
    /// The certificate that came of it.
    pub serial: Option<String>,
    /// Why it was rejected.
    pub why: Option<String>,
    /// When it was decided or given up.
    pub decided_at: Option<Moment>,
    /// The kind of the public key: `ec-p256`, `rsa-3072`.
    pub key: String,
    /// SHA-256 of its SubjectPublicKeyInfo, hexadecimal.
    pub key_sha256: String,
    /// The kind of evidence: `challenges`, `certificate`.
    #[schema(value_type = String, example = "challenges")]
    pub evidence: EvidenceKind,
    /// The identifiers whose control was shown, each with how, when and what was seen.
    pub shown: Vec<ShownIdentifier>,
    /// The extended key usages that were asked for; none leaves them to the profile.
    pub extended_key_usages: Vec<String>,
    /// The other extensions that the request brings, by object identifier.
    pub extensions: Vec<String>,
    /// The first moment of validity that was asked for.
    pub not_before: Option<Moment>,
    /// The last moment of validity that was asked for; none leaves it to the profile.
    pub not_after: Option<Moment>,
    /// The name of the request in the daemon's log.
    pub request_id: String,
}

/// An identifier whose control the requester has shown.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ShownIdentifier {
    /// The identifier: `dns:host.example.org`, `dns:*.example.org`.
    pub name: String,
    /// How: `http-01`, `dns-01`.
    pub method: String,
    /// When.
    pub at: Moment,
    /// What was seen: the address that was asked, the record that was found.
    pub detail: String,
}

impl From<ValidatedIdentifier> for ShownIdentifier {
    fn from(shown: ValidatedIdentifier) -> Self {
        let name = shown.name.to_string();
        let name = if shown.wildcard { name.replacen("dns:", "dns:*.", 1) } else { name };
        Self { name, method: shown.method, at: shown.at.into(), detail: shown.detail }
    }
}

impl From<TicketDetails> for TicketStanding {
    fn from(details: TicketDetails) -> Self {
        let (state, serial, why) = match details.standing {
            ca_backend::TicketStanding::Waiting => ("waiting", None, None),
            ca_backend::TicketStanding::Issued(serial) => ("issued", Some(serial.to_string()), None),
            ca_backend::TicketStanding::Rejected(why) => ("rejected", None, Some(why)),
            ca_backend::TicketStanding::Expired => ("expired", None, None),
        };
        Self {
            state: state.to_owned(),
            serial,
            why,
            decided_at: details.decided_at.map(Moment),
            key: details.key.to_string(),
            key_sha256: hex::encode(details.key_fingerprint),
            evidence: details.evidence.kind,
            shown: details.evidence.identifiers.into_iter().map(ShownIdentifier::from).collect(),
            extended_key_usages: details.extended_key_usages.into_iter().map(|usage| purpose::name(&usage)).collect(),
            extensions: details.extensions.iter().map(ToString::to_string).collect(),
            not_before: details.validity.and_then(|validity| validity.not_before).map(Moment),
            not_after: details.validity.and_then(|validity| validity.not_after).map(Moment),
            request_id: details.request.origin.request_id.clone(),
            request: details.request.into(),
        }
    }
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
        let details = advised(caller.engine().ticket(&Ticket::parse(&ticket)?), |_| None);
        details.map(TicketStanding::from).map_err(|failure| match failure {
            Failure::Problem(problem) => {
                Failure::Problem(missing(problem.detail, "`certgate request list` shows what waits"))
            }
            Failure::Fault(fault) => Failure::Fault(fault),
        })
    };
    Ok(Answer(caller.ask(standing).await?))
}

/// Releases a waiting request: it is judged anew and issued.
#[utoipa::path(post, path = "/v1/tickets/{ticket}/approve", tag = "tickets", params(("ticket" = String, Path)),
    responses((status = 200, body = CertificateWithPem), (status = "4XX", body = Problem)))]
pub(super) async fn approve(
    caller: Caller,
    Named(ticket): Named<String>,
) -> Result<Answer<CertificateWithPem>, Problem> {
    let approve = move |caller: &Caller| {
        let outcome = decided(&ticket, caller.engine().approve(&Ticket::parse(&ticket)?, caller.operator()))?;
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
    let reject = move |caller: &Caller| {
        let rejected = caller.engine().reject(&Ticket::parse(&ticket)?, caller.operator(), &rejection.why);
        decided(&ticket, rejected)
    };
    caller.ask(reject).await.map(|()| StatusCode::NO_CONTENT)
}

/// The result of an operator's decision.
fn decided<T>(ticket: &str, result: Result<T, Error>) -> Result<T, Failure> {
    advised(result, |reason| {
        if reason == Reason::Conflict {
            Some(format!("see what became of it with `certgate request show {ticket}`"))
        } else if reason == Reason::NotReady {
            Some("`certgate request list` shows what waits".to_owned())
        } else {
            None
        }
    })
}
