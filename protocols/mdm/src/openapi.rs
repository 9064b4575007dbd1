//! The description of the web service (OpenAPI 3.1), made from the code.

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
    Description::openapi()
}
