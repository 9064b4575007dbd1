//! `/v1/events`: what happened to certificates, in order.

use axum::Json as Answer;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Moment;
use super::caller::{Caller, Parameters};
use super::problem::Problem;

/// Something that happened to a certificate.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its place in the feed, from 1 without gaps.
    pub number: u64,
    /// When.
    pub at: Moment,
    /// `issued`, `revoked`, `held` or `unheld`.
    #[schema(example = "issued")]
    pub kind: String,
    /// Which certificate.
    pub serial: String,
    /// Who issued it; absent once the authority is deleted.
    pub authority: Option<String>,
}

/// A part of the feed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EventPage {
    /// The events.
    pub items: Vec<Event>,
    /// What to give as `after` to go on; also at the end of the feed, for what comes.
    pub cursor: u64,
}

/// A part of a numbered record.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Part {
    /// The number of the last entry already seen; 0 begins at the beginning.
    pub after: u64,
    /// Most entries, 1 to 1,000.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    pub limit: usize,
}

impl Default for Part {
    fn default() -> Self {
        Self { after: 0, limit: 100 }
    }
}

impl Part {
    pub(super) fn entries_max(self) -> usize {
        self.limit.clamp(1, 1_000)
    }
}

fn kind_name(kind: ca_backend::CertificateEventKind) -> &'static str {
    match kind {
        ca_backend::CertificateEventKind::Issued => "issued",
        ca_backend::CertificateEventKind::Revoked => "revoked",
        ca_backend::CertificateEventKind::Held => "held",
        ca_backend::CertificateEventKind::Unheld => "unheld",
    }
}

/// Events after a cursor.
#[utoipa::path(get, path = "/v1/events", tag = "certificates", params(Part),
    responses((status = 200, body = EventPage), (status = "4XX", body = Problem)))]
pub(super) async fn list(caller: Caller, Parameters(part): Parameters<Part>) -> Result<Answer<EventPage>, Problem> {
    let events = caller.ask(move |caller| Ok(caller.engine().events(part.after, part.entries_max())?)).await?;
    let cursor = events.last().map_or(part.after, |event| event.number);
    let items = events.into_iter().map(|event| Event {
        number: event.number,
        at: event.at.into(),
        kind: kind_name(event.kind).to_owned(),
        serial: event.serial.to_string(),
        authority: event.authority.map(String::from),
    });
    Ok(Answer(EventPage { items: items.collect(), cursor }))
}
