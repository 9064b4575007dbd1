//! `/v1/endpoints`: protocols bound to authorities, profiles and access rules.

use axum::Json as Answer;
use axum::http::{HeaderMap, StatusCode, header};
use ca_backend::{Endpoint, EndpointName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::caller::{Caller, Named, Octets};
use super::problem::{Failure, Problem, malformed, missing};

/// An endpoint in brief. The whole of it is read by its name.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EndpointSummary {
    /// Its name, a part of its URL.
    pub name: String,
    /// The protocol it speaks.
    pub protocol: String,
    /// Who issues.
    pub authority: String,
    /// The profiles it offers; the first is the default.
    pub profiles: Vec<String>,
    /// A disabled endpoint answers 404.
    pub enabled: bool,
    /// How many access rules it has; without any, nobody gets anything.
    pub rules: usize,
    /// Why it cannot be mounted though it is enabled. It answers 503, unless it was in force before; it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl EndpointSummary {
    fn new(endpoint: &Endpoint, trouble: Option<String>) -> Self {
        Self {
            name: endpoint.name.to_string(),
            protocol: endpoint.protocol.to_string(),
            authority: endpoint.authority.to_string(),
            profiles: endpoint.profiles.iter().map(ToString::to_string).collect(),
            enabled: endpoint.enabled,
            rules: endpoint.rules.len(),
            trouble,
        }
    }
}

/// An endpoint as operators write it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes `ca_backend::Endpoint` in the OpenAPI document")]
pub(super) struct EndpointDocument {
    /// Its name, a part of its URL.
    name: String,
    /// The protocol it speaks: `acme`.
    protocol: String,
    /// Who issues.
    authority: String,
    /// The profiles it offers; the first is the default.
    profiles: Vec<String>,
    /// A disabled endpoint answers 404.
    #[schema(default = true)]
    enabled: Option<bool>,
    /// Who may get what. Each rule has a `name`, `requesters` (each `evidence` and `requester`), `profiles`, names that it
    /// may `allow` and `deny` (each `dns`, `wildcards`, `ip`, `email`, `uri`, `upn`, `device`, `directory`, `other`, `subject`),
    /// `keys`, `validity_max_s` and `approval`. Nothing stated means nothing allowed.
    #[schema(value_type = Option<Vec<Object>>)]
    rules: (),
    /// The extended key usages among which a request may choose where the profile leaves the choice open.
    extended_key_usages: Option<Vec<String>>,
    /// The protocol's own settings.
    #[schema(value_type = Option<Object>)]
    options: (),
}

/// Every endpoint, by name.
#[utoipa::path(get, path = "/v1/endpoints", tag = "endpoints", responses((status = 200, body = Vec<EndpointSummary>)))]
pub(super) async fn list(caller: Caller) -> Result<Answer<Vec<EndpointSummary>>, Problem> {
    let summaries = caller.ask(|caller| {
        let mut unserved = caller.state.unserved.all();
        let endpoints = caller.engine().endpoints();
        Ok(endpoints.iter().map(|endpoint| EndpointSummary::new(endpoint, unserved.remove(&endpoint.name))).collect())
    });
    Ok(Answer(summaries.await?))
}

/// One endpoint, with its access rules and options.
#[utoipa::path(get, path = "/v1/endpoints/{name}", tag = "endpoints", params(("name" = String, Path)),
    responses((status = 200, body = EndpointDocument), (status = 404, body = Problem)))]
pub(super) async fn show(caller: Caller, Named(name): Named<EndpointName>) -> Result<Answer<Endpoint>, Problem> {
    let endpoint = caller.ask(move |caller| known(caller, &name)).await?;
    Ok(Answer(endpoint))
}

/// Makes an endpoint, or changes the one of the same name. In force at once.
#[utoipa::path(put, path = "/v1/endpoints/{name}", tag = "endpoints", params(("name" = String, Path)),
    request_body(content(
        (EndpointDocument = "application/json"),
        (String = "application/toml")
    )),
    responses((status = 200, body = EndpointDocument), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    caller: Caller,
    Named(name): Named<EndpointName>,
    headers: HeaderMap,
    Octets(document): Octets,
) -> Result<Answer<Endpoint>, Problem> {
    let endpoint = read(&headers, &document)
        .map_err(|problem| problem.hint("`certgate endpoint show` shows the form of one that is there"))?;
    if endpoint.name != name {
        return Err(malformed(format!(
            "the endpoint says that it is {:?}, not {:?}",
            endpoint.name.as_str(),
            name.as_str()
        )));
    }
    let put = move |caller: &Caller| {
        (caller.state.check_endpoint)(&endpoint)?;
        caller.engine().put_endpoint(&endpoint, caller.operator())?;
        (caller.state.endpoints_changed)();
        known(caller, &name)
    };
    Ok(Answer(caller.ask(put).await?))
}

/// Removes an endpoint.
#[utoipa::path(delete, path = "/v1/endpoints/{name}", tag = "endpoints", params(("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(caller: Caller, Named(name): Named<EndpointName>) -> Result<StatusCode, Problem> {
    let delete = move |caller: &Caller| {
        known(caller, &name)?;
        caller.engine().delete_endpoint(&name, caller.operator())?;
        (caller.state.endpoints_changed)();
        Ok(())
    };
    caller.ask(delete).await.map(|()| StatusCode::NO_CONTENT)
}

/// An endpoint in TOML if it is announced so, else in JSON.
fn read(headers: &HeaderMap, document: &[u8]) -> Result<Endpoint, Problem> {
    let is_toml =
        headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/toml"));
    if !is_toml {
        return serde_json::from_slice(document)
            .map_err(|why| malformed(format!("the endpoint cannot be read: {why}")));
    }
    let text = std::str::from_utf8(document).map_err(|_| malformed("the endpoint is not UTF-8 text"))?;
    toml::from_str(text).map_err(|why| malformed(format!("the endpoint cannot be read: {why}")))
}

fn known(caller: &Caller, name: &EndpointName) -> Result<Endpoint, Failure> {
    let no_such =
        || missing(format!("there is no endpoint {name}"), "`certgate endpoint list` shows those that there are");
    Ok(caller.engine().endpoint(name).map(|endpoint| endpoint.as_ref().clone()).ok_or_else(no_such)?)
}
