//! Changes of the status of certificates: revoke, hold, unhold, one or many.

use ca_backend::{CertificateState, Error, Refusal, RevocationReason, RevocationRequest, Serial, StatusChange};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CertificateView, malformed, ours, serials_of, view};
use crate::caller::Caller;
use crate::problem::Problem;
use crate::web::{Attempt, Call, answer_json, right_for};

/// Certificates whose status one request changes.
const STATUS_MAX: usize = 500;

/// Why a certificate is revoked.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatusWish {
    /// `keyCompromise`, `superseded`, `cessationOfOperation`, ...: for a revocation.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    reason: Option<RevocationReason>,
    /// A remark for the audit log.
    #[serde(default)]
    comment: String,
}

/// A change of many certificates at once: those listed, those of a device, those of a user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BulkStatusWish {
    /// `revoke`, `hold` or `unhold`.
    change: ChangeWord,
    /// As in a single revocation.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    reason: Option<RevocationReason>,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    serials: Vec<String>,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    user: Option<String>,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChangeWord {
    Revoke,
    Hold,
    Unhold,
}

/// What became of each certificate.
#[derive(Serialize, ToSchema)]
pub(crate) struct StatusAnswer {
    results: Vec<StatusResult>,
    /// Whether there may be more of this device or user: call again.
    more: bool,
}

/// What became of one certificate.
#[derive(Serialize, ToSchema)]
pub(crate) struct StatusResult {
    serial: String,
    /// Its state now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    state: Option<CertificateState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

/// Revokes a certificate of this endpoint for good.
#[utoipa::path(post, path = "/certificates/{serial}/revoke", tag = "certificates", operation_id = "revokeCertificate",
    params(("serial" = String, Path)), request_body = StatusWish,
    responses((status = 200, body = CertificateView), (status = "4XX", body = Problem), (status = 503, body = Problem)))]
pub(crate) fn revoke(call: &Call<'_>) -> Attempt {
    change_one(call, ChangeWord::Revoke)
}

/// Puts a certificate of this endpoint on hold.
#[utoipa::path(post, path = "/certificates/{serial}/hold", tag = "certificates", operation_id = "holdCertificate",
    params(("serial" = String, Path)), request_body = StatusWish,
    responses((status = 200, body = CertificateView), (status = "4XX", body = Problem), (status = 503, body = Problem)))]
pub(crate) fn hold(call: &Call<'_>) -> Attempt {
    change_one(call, ChangeWord::Hold)
}

/// Lifts a hold.
#[utoipa::path(post, path = "/certificates/{serial}/unhold", tag = "certificates", operation_id = "unholdCertificate",
    params(("serial" = String, Path)), request_body = StatusWish,
    responses((status = 200, body = CertificateView), (status = "4XX", body = Problem), (status = 503, body = Problem)))]
pub(crate) fn unhold(call: &Call<'_>) -> Attempt {
    change_one(call, ChangeWord::Unhold)
}

/// Changes the status of many certificates of this endpoint, each by itself: a device that was lost, a user who left.
#[utoipa::path(post, path = "/certificates/status", tag = "certificates", operation_id = "changeStatus",
    request_body = BulkStatusWish,
    responses((status = 200, body = StatusAnswer), (status = "4XX", body = Problem), (status = 503, body = Problem)))]
pub(crate) fn change_status_bulk(call: &Call<'_>) -> Attempt {
    let caller = call.any_caller()?;
    let wish: BulkStatusWish = call.body()?;
    let change = wish.change.with(wish.reason)?;
    caller.require(right_for(change))?;
    let named = wish.serials.iter().map(|serial| Serial::parse(serial)).collect::<Result<Vec<_>, _>>()?;
    if named.len() > STATUS_MAX {
        return Err(malformed(format!("at most {STATUS_MAX} certificates can be listed")).into());
    }
    let mut serials = named;
    let mut more = false;
    if wish.device.is_some() || wish.user.is_some() {
        // Those that are done already do not count, so that a second call goes on where the first one ended.
        let mut after: Option<Serial> = None;
        while serials.len() < STATUS_MAX {
            let found = serials_of(call, wish.device.clone(), wish.user.clone(), after.as_ref(), STATUS_MAX)?;
            let Some(last) = found.last() else { break };
            after = Some(*last);
            for serial in found {
                let summary = call.engine.find_certificate(&serial)?;
                if summary.is_some_and(|found| change_is_due(change, found.state)) {
                    serials.push(serial);
                }
            }
        }
        more = serials.len() > STATUS_MAX;
        serials.truncate(STATUS_MAX);
    } else if serials.is_empty() {
        return Err(malformed("state serials, a device or a user").into());
    }
    let results = serials.into_iter().map(|serial| {
        let changed = change_status(call, &caller, &serial, change, &wish.comment);
        let (state, problem) = match changed {
            Ok(state) => (Some(state), None),
            Err(error) => (None, Some(Problem::of(&error, &call.peer.request_id))),
        };
        StatusResult { serial: serial.to_string(), state, problem }
    });
    answer_json(StatusCode::OK, &StatusAnswer { results: results.collect(), more })
}

impl ChangeWord {
    fn with(self, reason: Option<RevocationReason>) -> Result<StatusChange, Refusal> {
        match (self, reason) {
            (Self::Revoke, reason) => {
                let reason = reason.unwrap_or(RevocationReason::Unspecified);
                Ok(StatusChange::Revoke { reason, invalidity: None })
            }
            (Self::Hold, None) => Ok(StatusChange::Hold),
            (Self::Unhold, None) => Ok(StatusChange::Unhold),
            (Self::Hold | Self::Unhold, Some(_)) => Err(malformed("only a revocation has a reason")),
        }
    }
}

fn change_is_due(change: StatusChange, state: CertificateState) -> bool {
    match change {
        StatusChange::Revoke { .. } => state != CertificateState::Revoked,
        StatusChange::Hold => state == CertificateState::Normal,
        StatusChange::Unhold => state == CertificateState::Held,
    }
}

fn change_one(call: &Call<'_>, word: ChangeWord) -> Attempt {
    let caller = call.any_caller()?;
    let wish: StatusWish = if call.request.body().is_empty() { StatusWish::default() } else { call.body()? };
    let change = word.with(wish.reason)?;
    caller.require(right_for(change))?;
    let serial = call.serial()?;
    change_status(call, &caller, &serial, change, &wish.comment)?;
    answer_json(StatusCode::OK, &view(ours(call, &serial)?)?)
}

fn change_status(
    call: &Call<'_>,
    caller: &Caller,
    serial: &Serial,
    change: StatusChange,
    comment: &str,
) -> Result<CertificateState, Error> {
    const COMMENT_CHARS_MAX: usize = 500;
    ours(call, serial)?;
    if comment.chars().count() > COMMENT_CHARS_MAX || comment.chars().any(char::is_control) {
        return Err(malformed(format!("the comment is a line of at most {COMMENT_CHARS_MAX} characters")).into());
    }
    let changed = call.engine.revoke(&RevocationRequest {
        serial: *serial,
        change,
        comment: comment.to_owned(),
        evidence: caller.evidence(),
        origin: call.origin(&serial.to_string(), [0; 32])?,
    })?;
    Ok(changed.state)
}
