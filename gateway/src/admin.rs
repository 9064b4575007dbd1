//! The operators' API: JSON over HTTP on a unix socket, described by an OpenAPI 3.1 document that the daemon serves.
//!
//! Every handler decodes, calls one function of the engine on a blocking thread, and encodes. Who may connect to the socket is an
//! operator, and the name of the peer's system user is the operator's name in every record.
#![allow(unused_qualifications)] // utoipa's macro writes the paths of parameter types in full

pub mod acme_accounts;
pub mod audit;
pub mod authorities;
pub mod blocked_keys;
mod caller;
pub mod certificates;
pub mod credentials;
pub mod encoding;
pub mod endpoints;
pub mod events;
pub mod issuance;
pub mod issuers;
pub mod keys;
mod moment;
mod problem;
pub mod profiles;
mod socket;
pub mod status;
pub mod tickets;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use ca_backend::{Endpoint, Engine, Refusal};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use moment::Moment;
pub(crate) use problem::MALFORMED_HINT;
pub use problem::Problem;
pub use socket::{Operator, OperatorSocket, SocketError, bind, serve};
pub use status::StatusPages;

use crate::server_certificate::HttpsCondition;
use crate::telemetry::Figures;
use crate::wiring::Unserved;
use problem::missing;

/// The longest body of a request, in bytes: a CA certificate with a long chain in PEM.
pub const BODY_BYTES_MAX: usize = 2 << 20;

/// Judges the options of an endpoint before it is stored.
pub type CheckEndpoint = dyn Fn(&Endpoint) -> Result<(), Refusal> + Send + Sync;

/// What the operators' API acts on.
#[derive(Clone)]
pub struct AdminState {
    /// The authority.
    pub engine: Engine,
    /// Asks the protocol of an endpoint whether its options are right.
    pub check_endpoint: Arc<CheckEndpoint>,
    /// Puts changed endpoints in force.
    pub endpoints_changed: Arc<dyn Fn() + Send + Sync>,
    /// The endpoints with which something is wrong.
    pub unserved: Unserved,
    /// What `/metrics` shows.
    pub figures: Figures,
    /// Whether HTTPS clients are served.
    pub https: HttpsCondition,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("engine", &self.engine).finish_non_exhaustive()
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "certgate operators' API",
        description = "Authorities, profiles, endpoints, certificates and records of one certgate daemon. Served on a unix socket; \
                       whoever may connect is an operator. Times are RFC 3339 in UTC, serials hexadecimal."
    ),
    components(schemas(Problem)),
    tags(
        (name = "authorities", description = "Root, issuing and external authorities and their life cycle"),
        (name = "keys", description = "Where private keys are, and what those places can do"),
        (name = "profiles", description = "What certificates of one kind hold"),
        (name = "endpoints", description = "Protocols bound to authorities, profiles and access rules"),
        (name = "credentials", description = "Account bindings, challenges and tokens, bound to an endpoint"),
        (name = "certificates", description = "Issuing, search, revocation, events"),
        (name = "tickets", description = "Requests that wait for an operator"),
        (name = "audit", description = "The record of every decision"),
        (name = "status", description = "The condition of the daemon"),
    )
)]
struct Description;

/// The whole API. Requests need an [`Operator`] among their extensions, which [`serve`] puts there.
pub fn router(state: AdminState) -> Router {
    let (router, mut description) = routes_and_description();
    mdm::openapi::describe_responses(&mut description);
    name_operations(&mut description);
    let document = description.to_pretty_json().unwrap_or_default();
    let document = move || async move { ([(header::CONTENT_TYPE, "application/json")], document) };
    router
        .route("/openapi.json", axum::routing::get(document))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

/// Names each operation by method and path. The names of functions, such as `list`, come again in other modules, and no two operations
/// may have the same (OpenAPI 3.1, Operation Object).
fn name_operations(document: &mut utoipa::openapi::OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let words: Vec<_> = path.split(|letter: char| !letter.is_ascii_alphanumeric()).collect();
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty() && *word != "v1").collect();
        let methods = ["get", "put", "post", "patch", "delete"];
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for (method, operation) in methods.into_iter().zip(operations) {
            if let Some(operation) = operation {
                operation.operation_id = Some(format!("{method}_{}", words.join("_")));
            }
        }
    }
}

fn routes_and_description() -> (Router<AdminState>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(authorities::list, authorities::create))
        .routes(routes!(authorities::show, authorities::change, authorities::delete))
        .routes(routes!(authorities::import_external_root))
        .routes(routes!(authorities::request))
        .routes(routes!(authorities::certificate, authorities::install))
        .routes(routes!(issuers::publish_crl))
        .routes(routes!(keys::list, keys::generate))
        .routes(routes!(keys::test))
        .routes(routes!(profiles::list))
        .routes(routes!(profiles::show, profiles::put, profiles::delete))
        .routes(routes!(endpoints::list))
        .routes(routes!(endpoints::show, endpoints::put, endpoints::delete))
        .routes(routes!(credentials::list, credentials::create))
        .routes(routes!(credentials::show, credentials::change, credentials::delete))
        .routes(routes!(acme_accounts::list))
        .routes(routes!(acme_accounts::show))
        .routes(routes!(acme_accounts::deactivate))
        .routes(routes!(acme_accounts::set_limits))
        .routes(routes!(certificates::search, issuance::issue))
        .routes(routes!(certificates::show))
        .routes(routes!(certificates::revoke))
        .routes(routes!(certificates::hold))
        .routes(routes!(certificates::unhold))
        .routes(routes!(certificates::archived_key))
        .routes(routes!(certificates::counts))
        .routes(routes!(events::list))
        .routes(routes!(tickets::list))
        .routes(routes!(tickets::show))
        .routes(routes!(tickets::approve))
        .routes(routes!(tickets::reject))
        .routes(routes!(audit::list))
        .routes(routes!(audit::verify))
        .routes(routes!(blocked_keys::block))
        .merge(status_routes())
        .split_for_parts()
}

fn status_routes() -> OpenApiRouter<AdminState> {
    OpenApiRouter::new()
        .routes(routes!(status::healthz))
        .routes(routes!(status::readyz))
        .routes(routes!(status::metrics))
}

async fn no_such_path(uri: Uri) -> Response {
    missing(format!("nothing lies at {}", uri.path()), "read /openapi.json for the paths of this API").into_response()
}

async fn no_such_method(method: Method, uri: Uri) -> Response {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "unsupported")
        .detail(format!("{} does not take {method}", uri.path()))
        .hint("read /openapi.json for the methods of this path")
        .into_response()
}
