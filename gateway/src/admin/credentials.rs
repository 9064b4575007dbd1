//! `/v1/credentials`: what operators hand to machines, so that these can show who they are.

use axum::Json as Answer;
use axum::http::StatusCode;
use ca_backend::{
    Binding, CredentialChange, CredentialId, CredentialPurpose, CredentialQuery, EndpointName, NewCredential,
    SecretText,
};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Moment;
use super::caller::{Caller, Json, Named, Parameters};
use super::problem::{Failure, Problem, missing};

// Not the engine's own type: that one is no form of anything outside, and follows what the engine needs.
/// A credential, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Credential {
    /// Its name; in records its bearer is `credential:NAME`.
    pub id: String,
    /// Where it may be presented.
    pub endpoint: String,
    /// What it is for: `external-account`, `challenge` or `token`.
    #[schema(value_type = String, example = "challenge")]
    pub purpose: CredentialPurpose,
    /// A remark for people.
    pub comment: String,
    /// When it was made.
    pub created: Moment,
    /// Who made it.
    pub created_by: String,
    /// The last moment at which it may be presented.
    pub expires: Option<Moment>,
    /// How many certificates it is good for; any number if absent.
    pub uses_max: Option<u32>,
    /// How many of them were asked for, those that wait for approval included.
    pub uses: u32,
    /// Requests that wait for approval.
    pub waiting: u32,
    /// Accounts made with it. Without a limit on them, 1 stands for any number.
    pub accounts: u32,
    /// Whether nothing may be done with it.
    pub disabled: bool,
    /// Whether no new accounts may be made with it.
    pub accounts_disabled: bool,
    /// Whether its secret was chosen, and not made by the daemon.
    pub chosen_secret: bool,
    /// What it may be used for.
    #[schema(value_type = Object)]
    pub binding: Binding,
}

impl From<ca_backend::Credential> for Credential {
    fn from(found: ca_backend::Credential) -> Self {
        Self {
            id: found.id.to_string(),
            endpoint: found.endpoint.to_string(),
            purpose: found.purpose,
            comment: found.comment,
            created: found.created.into(),
            created_by: found.created_by,
            expires: found.expires.map(Moment),
            uses_max: found.uses_max,
            uses: found.uses,
            waiting: found.waiting,
            accounts: found.accounts,
            disabled: found.disabled,
            accounts_disabled: found.accounts_disabled,
            chosen_secret: found.chosen_secret,
            binding: found.binding.as_ref().clone(),
        }
    }
}

/// A new credential with its secret, which is shown this once.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct NewlyMade {
    /// What is known of it.
    #[serde(flatten)]
    pub credential: Credential,
    /// The secret: for external account binding the MAC key in base64url, as ACME clients take it.
    pub secret: String,
}

/// One page of credentials.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CredentialPage {
    /// The credentials, by endpoint, purpose and name.
    pub items: Vec<Credential>,
    /// Asks for the next page; absent at the end. A page may be short or even empty and still have a successor.
    pub cursor: Option<String>,
}

/// Which credentials to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParameters {
    /// Those of this endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub endpoint: Option<EndpointName>,
    /// Those for this purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub purpose: Option<CredentialPurpose>,
    /// Where the previous page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most credentials on a page, 1 to 1,000; 0 means 100.
    pub limit: usize,
}

/// A wish for a credential.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialWish {
    /// Its name: up to 64 letters, digits, and `- . _` after the first of them; a random one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub id: Option<CredentialId>,
    /// Where it may be presented.
    #[schema(value_type = String)]
    pub endpoint: EndpointName,
    /// What it is for: `external-account` (ACME), `challenge` (SCEP) or `token` (web services).
    #[schema(value_type = String, example = "challenge")]
    pub purpose: CredentialPurpose,
    /// A remark for people.
    #[serde(default)]
    pub comment: String,
    /// A secret of your own choice, 8 to 256 bytes, for a challenge only; a random one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The last moment at which it may be presented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
    /// How many certificates it is good for: 1 makes a one-time challenge; any number if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses_max: Option<u32>,
    /// Whether any number of accounts may be made with it. Else `binding.accounts_max` says how many; 1 if absent.
    #[serde(default)]
    pub unlimited_accounts: bool,
    /// What it may be used for, on top of the endpoint's rules: `names` (as a rule's `allow`), the exact `subject` and
    /// `alternative_names`, `profiles`, `keys`, `accounts_max`, `without_challenge` (names that need no challenge), and a token's
    /// `rights`: `issue`, `revoke`, `hold`, `list`, `create-challenges`. What is absent is left to the rules.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub binding: Binding,
}

/// What shall change; what is absent stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CredentialEdit {
    /// The remark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The last moment at which it may be presented; null sets no limit.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Option<Moment>>,
    /// Whether nothing may be done with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Whether no new accounts may be made with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounts_disabled: Option<bool>,
}

/// Tells null from absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Moment>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

impl From<CredentialWish> for NewCredential {
    fn from(wish: CredentialWish) -> Self {
        let mut binding = wish.binding;
        if wish.purpose == CredentialPurpose::ExternalAccount && !wish.unlimited_accounts {
            binding.accounts_max.get_or_insert(1);
        }
        Self {
            id: wish.id,
            endpoint: wish.endpoint,
            purpose: wish.purpose,
            comment: wish.comment,
            holder: None,
            secret: wish.secret.map(SecretText::new),
            expires: wish.expires.map(Moment::into),
            uses_max: wish.uses_max,
            binding,
        }
    }
}

/// Credentials by endpoint, purpose and name.
#[utoipa::path(get, path = "/v1/credentials", tag = "credentials", params(ListParameters),
    responses((status = 200, body = CredentialPage), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    caller: Caller,
    Parameters(asked): Parameters<ListParameters>,
) -> Result<Answer<CredentialPage>, Problem> {
    let query = CredentialQuery {
        endpoint: asked.endpoint,
        purpose: asked.purpose,
        cursor: asked.cursor,
        limit: if asked.limit == 0 { 100 } else { asked.limit },
    };
    let page = caller.ask(move |caller| Ok(caller.engine().credentials(&query)?)).await?;
    Ok(Answer(CredentialPage { items: page.items.into_iter().map(Credential::from).collect(), cursor: page.cursor }))
}

/// Makes a credential. Its secret is in the answer, and nowhere else ever after.
#[utoipa::path(post, path = "/v1/credentials", tag = "credentials", request_body = CredentialWish,
    responses((status = 201, body = NewlyMade), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    caller: Caller,
    Json(wish): Json<CredentialWish>,
) -> Result<(StatusCode, Answer<NewlyMade>), Problem> {
    let wish = NewCredential::from(wish);
    let create = move |caller: &Caller| Ok(caller.engine().create_credential(&wish, caller.operator())?);
    let (credential, secret) = caller.ask(create).await?;
    let made = NewlyMade { credential: credential.into(), secret: secret.reveal().to_owned() };
    Ok((StatusCode::CREATED, Answer(made)))
}

/// One credential.
#[utoipa::path(get, path = "/v1/credentials/{id}", tag = "credentials", params(("id" = String, Path)),
    responses((status = 200, body = Credential), (status = 404, body = Problem)))]
pub(super) async fn show(caller: Caller, Named(id): Named<CredentialId>) -> Result<Answer<Credential>, Problem> {
    Ok(Answer(caller.ask(move |caller| known(caller, &id)).await?.into()))
}

/// Disables or enables a credential, or changes its expiry or comment. In force at once.
#[utoipa::path(patch, path = "/v1/credentials/{id}", tag = "credentials", params(("id" = String, Path)),
    request_body = CredentialEdit, responses((status = 200, body = Credential), (status = "4XX", body = Problem)))]
pub(super) async fn change(
    caller: Caller,
    Named(id): Named<CredentialId>,
    Json(edit): Json<CredentialEdit>,
) -> Result<Answer<Credential>, Problem> {
    let change = CredentialChange {
        comment: edit.comment,
        expires: edit.expires.map(|moment| moment.map(Moment::into)),
        disabled: edit.disabled,
        accounts_disabled: edit.accounts_disabled,
    };
    let change = move |caller: &Caller| {
        known(caller, &id)?;
        Ok(caller.engine().change_credential(&id, &change, caller.operator())?)
    };
    Ok(Answer(caller.ask(change).await?.into()))
}

/// Removes a credential. Certificates stay; accounts made with it get nothing any more.
#[utoipa::path(delete, path = "/v1/credentials/{id}", tag = "credentials", params(("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(caller: Caller, Named(id): Named<CredentialId>) -> Result<StatusCode, Problem> {
    let delete = move |caller: &Caller| {
        known(caller, &id)?;
        Ok(caller.engine().remove_credential(&id, caller.operator())?)
    };
    caller.ask(delete).await.map(|()| StatusCode::NO_CONTENT)
}

fn known(caller: &Caller, id: &CredentialId) -> Result<ca_backend::Credential, Failure> {
    let no_such =
        || missing(format!("there is no credential {id}"), "`certgate credential list` shows those that there are");
    Ok(caller.engine().credential(id)?.ok_or_else(no_such)?)
}
