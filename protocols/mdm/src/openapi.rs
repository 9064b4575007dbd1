//! The description of the web service (OpenAPI 3.1), made from the code.

use http::StatusCode;
use utoipa::openapi::RefOr;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::{certificate, challenge, page};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "certgate: device management",
        description = "Certificates and one-time challenges for device management systems. Paths are below the endpoint's address, \
                       https://HOST/mdm/NAME. Callers show a token (Bearer, or as the password of Basic with the token's name as \
                       user) or the client certificate that the endpoint names."
    ),
    paths(
        certificate::configurations,
        certificate::issue,
        certificate::issue_bulk,
        certificate::list,
        certificate::show,
        certificate::renew,
        certificate::status::revoke,
        certificate::status::hold,
        certificate::status::unhold,
        certificate::status::change_status_bulk,
        challenge::create,
        challenge::list,
        challenge::remove,
        page::ndes,
        page::jamf,
    ),
    modifiers(&Credentials),
    security(("token" = []), ("basic" = []))
)]
struct Description;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        components.add_security_scheme("basic", SecurityScheme::Http(Http::new(HttpAuthScheme::Basic)));
    }
}

/// The description of every resource.
#[must_use]
pub fn description() -> utoipa::openapi::OpenApi {
    let mut description = Description::openapi();
    describe_responses(&mut description);
    description
}

/// Says of every response that has no description what its status means. There must be one (OpenAPI 3.1, Response Object), or
/// generators of clients refuse the document.
pub fn describe_responses(document: &mut utoipa::openapi::OpenApi) {
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    response.description = meaning(status).to_owned();
                }
            }
        }
    }
}

fn meaning(status: &str) -> &'static str {
    match status {
        "4XX" => "Refused; the answer says what to do",
        "5XX" => "Not possible now, and not the caller's fault",
        status => status.parse().ok().and_then(|status: StatusCode| status.canonical_reason()).unwrap_or("The answer"),
    }
}
