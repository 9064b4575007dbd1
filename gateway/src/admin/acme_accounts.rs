//! `/v1/endpoints/{endpoint}/acme-accounts`: who enrolls by ACME.

use acme::{AccountSummary, Accounts, LimitOverrides};
use axum::Json as Answer;
use ca_backend::{EndpointName, Error, Reason};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Moment;
use super::caller::{Caller, Json, Named, Parameters};
use super::problem::{Failure, Problem, missing};

/// An ACME account.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AcmeAccount {
    /// The last part of its address; access rules name it as `account:ID`.
    pub id: String,
    /// `valid`, `deactivated` (by its own wish) or `revoked` (by an operator's).
    pub status: String,
    /// How to reach its owner: mailto URLs.
    pub contact: Vec<String>,
    /// When it was made.
    pub created: Moment,
    /// When the terms of service were agreed to.
    pub terms_agreed: Option<Moment>,
    /// The thumbprint of its key (RFC 7638), base64url.
    pub key: String,
    /// The credential that vouched for it.
    pub credential: Option<String>,
    /// The limits that are not those of its endpoint.
    pub limits: AcmeLimits,
}

// Not `LimitOverrides` itself: that is what lies in the store, and its form may change without a change of this API.
/// Limits of one account. Zero sets no limit; what is absent is as at the endpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AcmeLimits {
    /// Orders and pre-authorizations in an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orders_per_account_per_h: Option<u32>,
    /// Orders that name one identifier, in a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orders_per_name_per_day: Option<u32>,
    /// Certificates for exactly the same identifiers, in a week.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicates_per_week: Option<u32>,
    /// Failed validations of one identifier, in an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_validations_per_h: Option<u32>,
    /// Authorizations that wait for an answer at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_authorizations_max: Option<u32>,
}

impl From<LimitOverrides> for AcmeLimits {
    fn from(limits: LimitOverrides) -> Self {
        Self {
            orders_per_account_per_h: limits.orders_per_account_per_h,
            orders_per_name_per_day: limits.orders_per_name_per_day,
            duplicates_per_week: limits.duplicates_per_week,
            failed_validations_per_h: limits.failed_validations_per_h,
            pending_authorizations_max: limits.pending_authorizations_max,
        }
    }
}

impl From<AcmeLimits> for LimitOverrides {
    fn from(limits: AcmeLimits) -> Self {
        Self {
            orders_per_account_per_h: limits.orders_per_account_per_h,
            orders_per_name_per_day: limits.orders_per_name_per_day,
            duplicates_per_week: limits.duplicates_per_week,
            failed_validations_per_h: limits.failed_validations_per_h,
            pending_authorizations_max: limits.pending_authorizations_max,
        }
    }
}

impl From<AccountSummary> for AcmeAccount {
    fn from(account: AccountSummary) -> Self {
        Self {
            id: account.id,
            status: account.status.to_owned(),
            contact: account.contact,
            created: account.created.into(),
            terms_agreed: account.terms_agreed.map(Into::into),
            key: account.key,
            credential: account.credential,
            limits: account.limits.into(),
        }
    }
}

/// A part of the accounts.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AccountsPart {
    /// The last account already seen.
    after: Option<String>,
    /// Most accounts, 1 to 1,000.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: usize,
}

impl Default for AccountsPart {
    fn default() -> Self {
        Self { after: None, limit: 100 }
    }
}

/// The accounts of an endpoint, by name.
#[utoipa::path(get, path = "/v1/endpoints/{endpoint}/acme-accounts", tag = "endpoints",
    params(("endpoint" = String, Path), AccountsPart),
    responses((status = 200, body = Vec<AcmeAccount>), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    caller: Caller,
    Named(endpoint): Named<EndpointName>,
    Parameters(part): Parameters<AccountsPart>,
) -> Result<Answer<Vec<AcmeAccount>>, Problem> {
    let list = move |caller: &Caller| {
        let accounts = accounts(caller, &endpoint)?;
        accounts.list(part.after.as_deref(), part.limit.clamp(1, 1_000)).map_err(named)
    };
    Ok(Answer(caller.ask(list).await?.into_iter().map(AcmeAccount::from).collect()))
}

/// One account.
#[utoipa::path(get, path = "/v1/endpoints/{endpoint}/acme-accounts/{account}", tag = "endpoints",
    params(("endpoint" = String, Path), ("account" = String, Path)),
    responses((status = 200, body = AcmeAccount), (status = 404, body = Problem)))]
pub(super) async fn show(
    caller: Caller,
    Named((endpoint, account)): Named<(EndpointName, String)>,
) -> Result<Answer<AcmeAccount>, Problem> {
    let show = move |caller: &Caller| accounts(caller, &endpoint)?.show(&account).map_err(named);
    Ok(Answer(caller.ask(show).await?.into()))
}

/// Closes an account for good. Its certificates stay.
#[utoipa::path(post, path = "/v1/endpoints/{endpoint}/acme-accounts/{account}/deactivate", tag = "endpoints",
    params(("endpoint" = String, Path), ("account" = String, Path)),
    responses((status = 200, body = AcmeAccount), (status = 404, body = Problem)))]
pub(super) async fn deactivate(
    caller: Caller,
    Named((endpoint, account)): Named<(EndpointName, String)>,
) -> Result<Answer<AcmeAccount>, Problem> {
    let deactivate =
        move |caller: &Caller| accounts(caller, &endpoint)?.deactivate(&account, caller.operator()).map_err(named);
    Ok(Answer(caller.ask(deactivate).await?.into()))
}

/// Sets the limits of an account that are not those of its endpoint. What is absent is as at the endpoint.
#[utoipa::path(put, path = "/v1/endpoints/{endpoint}/acme-accounts/{account}/limits", tag = "endpoints",
    params(("endpoint" = String, Path), ("account" = String, Path)), request_body = AcmeLimits,
    responses((status = 200, body = AcmeAccount), (status = 404, body = Problem)))]
pub(super) async fn set_limits(
    caller: Caller,
    Named((endpoint, account)): Named<(EndpointName, String)>,
    Json(limits): Json<AcmeLimits>,
) -> Result<Answer<AcmeAccount>, Problem> {
    let set = move |caller: &Caller| {
        let accounts = accounts(caller, &endpoint)?;
        accounts.override_limits(&account, &limits.into(), caller.operator()).map_err(named)
    };
    Ok(Answer(caller.ask(set).await?.into()))
}

fn accounts(caller: &Caller, endpoint: &EndpointName) -> Result<Accounts, Failure> {
    let speaks_acme = caller.engine().endpoint(endpoint).is_some_and(|found| found.protocol.as_str() == "acme");
    let no_such =
        || missing(format!("there is no ACME endpoint {endpoint}"), "`certgate endpoint list` shows the endpoints");
    if !speaks_acme {
        return Err(no_such().into());
    }
    Ok(Accounts::new(caller.engine().clone(), endpoint)?)
}

/// An account that is not there is a 404, as its name stands in the path.
fn named(error: Error) -> Failure {
    match error {
        Error::Refused(refusal) if refusal.reason() == Reason::NotReady => {
            missing(refusal.public(), "`certgate acme account list ENDPOINT` shows the accounts").into()
        }
        error @ (Error::Refused(_) | Error::Fault(_)) => error.into(),
    }
}
