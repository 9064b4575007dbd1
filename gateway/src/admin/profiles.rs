//! `/v1/profiles`: what certificates of one kind hold.

use axum::Json as Answer;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use ca_backend::{Engine, Error, ProfileName, Reason};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::caller::{Caller, Named, Octets, Parameters};
use super::problem::{Failure, Problem, advised, malformed, missing};

/// A profile in brief. The whole of it is read by its id.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProfileSummary {
    /// Its name.
    pub id: String,
    /// One line for people.
    pub title: String,
    /// The library that it belongs to, which authorities name among their services.
    pub library: String,
    /// Whether it comes with certgate. Those of operators can be changed and removed.
    pub built_in: bool,
    /// Seconds of validity, if the request states nothing.
    pub validity_default_s: u64,
    /// Names this state of the profile in audit records.
    pub snapshot: String,
}

impl From<&ca_backend::Profile> for ProfileSummary {
    fn from(profile: &ca_backend::Profile) -> Self {
        Self {
            id: profile.id.clone(),
            title: profile.title.clone(),
            library: profile.library.clone(),
            built_in: ca_backend::Profile::find(&profile.id).is_some(),
            validity_default_s: profile.validity.default_s,
            snapshot: profile.snapshot_id(),
        }
    }
}

/// The form in which a profile is shown.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProfileFormat {
    /// JSON.
    #[default]
    Json,
    /// TOML, as operators write it.
    Toml,
}

/// The choice of the form of an answer.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FormatChoice {
    /// `json` (the default) or `toml`.
    #[serde(default)]
    #[param(inline)]
    format: ProfileFormat,
}

/// Every profile: the built-in ones, then those of operators.
#[utoipa::path(get, path = "/v1/profiles", tag = "profiles", responses((status = 200, body = Vec<ProfileSummary>)))]
pub(super) async fn list(caller: Caller) -> Result<Answer<Vec<ProfileSummary>>, Problem> {
    let profiles = caller.ask(|caller| Ok(caller.engine().profiles())).await?;
    Ok(Answer(profiles.iter().map(ProfileSummary::from).collect()))
}

/// One profile, with everything in it.
#[utoipa::path(get, path = "/v1/profiles/{id}", tag = "profiles", params(("id" = String, Path), FormatChoice),
    responses((status = 200, body = Object, description = "The profile; its TOML has the same keys"), (status = 404, body = Problem)))]
pub(super) async fn show(
    caller: Caller,
    Named(id): Named<ProfileName>,
    Parameters(choice): Parameters<FormatChoice>,
) -> Result<Response, Problem> {
    let profile = caller.ask(move |caller| known(caller.engine(), &id)).await?;
    Ok(match choice.format {
        ProfileFormat::Json => Answer(profile).into_response(),
        ProfileFormat::Toml => ([(header::CONTENT_TYPE, "application/toml")], profile.to_toml()).into_response(),
    })
}

/// Stores a profile of the operators' own, in place of one of the same id. Certificates in the making keep the state that they
/// began with.
#[utoipa::path(put, path = "/v1/profiles/{id}", tag = "profiles", params(("id" = String, Path)),
    request_body(content = String, content_type = "application/toml", description = "The profile, TOML"),
    responses((status = 200, body = ProfileSummary), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    caller: Caller,
    Named(id): Named<ProfileName>,
    Octets(toml): Octets,
) -> Result<Answer<ProfileSummary>, Problem> {
    let put = move |caller: &Caller| {
        let toml = std::str::from_utf8(&toml).map_err(|_| malformed("the profile is not UTF-8 text"))?;
        let profile = advised(ca_backend::Profile::from_toml(toml).map_err(Error::from), |reason| {
            Some(if reason == Reason::Conflict {
                "give it an `id` of its own; built-in profiles stay as they are".to_owned()
            } else {
                "begin with what `certgate profile show ID` prints of a profile that is near to it".to_owned()
            })
        })?;
        if profile.id != id.as_str() {
            return Err(
                malformed(format!("the profile says that it is {:?}, not {:?}", profile.id, id.as_str())).into()
            );
        }
        Ok(ProfileSummary::from(&caller.engine().put_profile(toml, caller.operator())?))
    };
    Ok(Answer(caller.ask(put).await?))
}

/// Removes a profile of the operators' own. Refused while an endpoint offers it.
#[utoipa::path(delete, path = "/v1/profiles/{id}", tag = "profiles", params(("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(caller: Caller, Named(id): Named<ProfileName>) -> Result<StatusCode, Problem> {
    let delete = move |caller: &Caller| {
        let profile = known(caller.engine(), &id)?;
        if ca_backend::Profile::find(&profile.id).is_some() {
            return Err(Problem::new(StatusCode::CONFLICT, "conflict")
                .detail(format!("profile {id} is built in"))
                .hint("leave it out of the services and endpoints that shall not offer it")
                .into());
        }
        Ok(caller.engine().delete_profile(&id, caller.operator())?)
    };
    caller.ask(delete).await.map(|()| StatusCode::NO_CONTENT)
}

fn known(engine: &Engine, id: &ProfileName) -> Result<ca_backend::Profile, Failure> {
    let no_such = || missing(format!("there is no profile {id}"), "`certgate profile list` shows those that there are");
    Ok(engine.profile(id).ok_or_else(no_such)?)
}
