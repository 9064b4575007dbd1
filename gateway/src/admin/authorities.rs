//! `/v1/authorities`: root, issuing and external authorities and their life cycle.

use axum::Json as Answer;
use axum::http::StatusCode;
use axum::response::Response;
use ca_backend::{
    AuthorityChange, AuthorityKind, AuthorityName, AuthorityState, DistinguishedName, Engine, KeyAlgorithm,
    NewAuthority, Reason,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Moment;
use super::caller::{Caller, Json, Named, Octets, Parameters};
use super::encoding::{self, EncodingChoice};
use super::problem::{Failure, Problem, advised, missing};

/// An authority.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Authority {
    /// Its name in URLs and commands.
    pub name: String,
    /// Its name for people.
    pub friendly_name: String,
    /// `root`, `issuing` or `external-root`.
    #[schema(value_type = String, example = "issuing")]
    pub kind: AuthorityKind,
    /// `provisioning`, `csr-ready`, `active`, `revoked`, `expired` or `deleting`.
    #[schema(value_type = String, example = "active")]
    pub state: AuthorityState,
    /// The authority above it.
    pub parent: Option<String>,
    /// The distinguished name, RFC 4514.
    pub subject: String,
    /// The algorithm of its key; absent for an external root.
    #[schema(value_type = Option<String>, example = "ec-p256")]
    pub algorithm: Option<KeyAlgorithm>,
    /// How often its key was made.
    pub generation: u32,
    /// The first moment of its validity, once active.
    pub not_before: Option<Moment>,
    /// The last moment of its validity, once active.
    pub not_after: Option<Moment>,
    /// Whether it has an OCSP responder.
    pub ocsp: bool,
    /// The profile sets that it offers.
    pub services: Vec<String>,
    /// Where its key is.
    pub key: Option<String>,
    /// Where its CRL is, once active.
    pub crl_url: Option<String>,
    /// Where its OCSP responder is.
    pub ocsp_url: Option<String>,
}

impl From<ca_backend::Authority> for Authority {
    fn from(authority: ca_backend::Authority) -> Self {
        Self {
            name: authority.name.to_string(),
            friendly_name: authority.friendly_name,
            kind: authority.kind,
            state: authority.state,
            parent: authority.parent.map(String::from),
            subject: authority.subject,
            algorithm: authority.algorithm,
            generation: authority.generation,
            not_before: authority.not_before.map(Moment),
            not_after: authority.not_after.map(Moment),
            ocsp: authority.ocsp,
            services: authority.services,
            key: authority.key,
            crl_url: authority.crl_url,
            ocsp_url: authority.ocsp_url,
        }
    }
}

/// The wish for an authority.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthorityWish {
    /// Its name in URLs and commands: lower-case letters, digits and inner hyphens.
    #[schema(value_type = String, example = "issuing")]
    pub name: AuthorityName,
    /// Its name for people; the name if not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub friendly_name: Option<String>,
    /// The distinguished name, RFC 4514.
    #[schema(example = "CN=Example Issuing CA,O=Example,C=DE")]
    pub subject: String,
    /// The algorithm of its key: `ec-p256` (the default), `ec-p384`, `ec-p521`, `rsa-2048`, `rsa-3072`, `rsa-4096`, `ed25519`.
    #[serde(default = "ec_p256")]
    #[schema(value_type = Option<String>, example = "ec-p256")]
    pub algorithm: KeyAlgorithm,
    /// Where its key shall be: the name of a key store, or a PKCS#11 URI. A key that the URI names is taken if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "pkcs11:token=pki;object=issuing")]
    pub key: Option<String>,
    /// How many days it shall be valid: 20 years for a root and 10 for others if not stated, never longer than its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity_days: Option<u32>,
    /// The authority above it; none for a root. Below an external root it waits for its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub parent: Option<AuthorityName>,
    /// Whether it shall have an OCSP responder; it does if not stated.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub ocsp: bool,
    /// The profile sets that it offers: `privatessl`, `scep`, ...
    #[serde(default)]
    pub services: Vec<String>,
}

fn ec_p256() -> KeyAlgorithm {
    KeyAlgorithm::EcP256
}

fn yes() -> bool {
    true
}

const DAY_S: u64 = 86_400;

impl AuthorityWish {
    fn read(self) -> Result<NewAuthority, Failure> {
        Ok(NewAuthority {
            friendly_name: self.friendly_name.unwrap_or_else(|| self.name.to_string()),
            name: self.name,
            subject: DistinguishedName::parse(&self.subject)?,
            algorithm: self.algorithm,
            key: self.key,
            validity_s: self.validity_days.map(|days| u64::from(days) * DAY_S),
            parent: self.parent,
            ocsp: self.ocsp,
            services: self.services,
        })
    }
}

/// The root certificate of a PKI whose key is elsewhere.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExternalRoot {
    /// Its name in URLs and commands.
    #[schema(value_type = String, example = "corporate-root")]
    pub name: AuthorityName,
    /// Its name for people; the name if not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub friendly_name: Option<String>,
    /// The self-signed certificate, PEM.
    pub certificate: String,
}

/// What shall be changed about an authority.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthorityEdit {
    /// A new name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub friendly_name: Option<String>,
    /// Another set of services, in place of the present one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<String>>,
}

/// The authority's name once more, so that nobody deletes one by a slip.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Confirmation {
    /// Must be the name of the authority.
    confirm: String,
}

/// Every authority, by name.
#[utoipa::path(get, path = "/v1/authorities", tag = "authorities", responses((status = 200, body = Vec<Authority>)))]
pub(super) async fn list(caller: Caller) -> Result<Answer<Vec<Authority>>, Problem> {
    let authorities = caller.ask(|caller| Ok(caller.engine().authorities()?)).await?;
    Ok(Answer(authorities.into_iter().map(Authority::from).collect()))
}

/// Makes a root, or an issuing authority below one. Below an external root it is then `csr-ready`.
#[utoipa::path(post, path = "/v1/authorities", tag = "authorities", request_body = AuthorityWish,
    responses((status = 201, body = Authority), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    caller: Caller,
    Json(wish): Json<AuthorityWish>,
) -> Result<(StatusCode, Answer<Authority>), Problem> {
    let made = caller.ask(|caller| Ok(caller.engine().create_authority(&wish.read()?, caller.operator())?)).await?;
    Ok((StatusCode::CREATED, Answer(made.into())))
}

/// Imports the certificate of a root whose key is elsewhere.
#[utoipa::path(post, path = "/v1/external-roots", tag = "authorities", request_body = ExternalRoot,
    responses((status = 201, body = Authority), (status = "4XX", body = Problem)))]
pub(super) async fn import_external_root(
    caller: Caller,
    Json(root): Json<ExternalRoot>,
) -> Result<(StatusCode, Answer<Authority>), Problem> {
    let import = move |caller: &Caller| {
        let friendly_name = root.friendly_name.as_deref().unwrap_or(root.name.as_str());
        let certificate = root.certificate.as_bytes();
        Ok(caller.engine().import_external_root(&root.name, friendly_name, certificate, caller.operator())?)
    };
    Ok((StatusCode::CREATED, Answer(caller.ask(import).await?.into())))
}

/// One authority.
#[utoipa::path(get, path = "/v1/authorities/{name}", tag = "authorities", params(("name" = String, Path)),
    responses((status = 200, body = Authority), (status = 404, body = Problem)))]
pub(super) async fn show(caller: Caller, Named(name): Named<AuthorityName>) -> Result<Answer<Authority>, Problem> {
    let found = caller.ask(move |caller| known(caller.engine(), &name)).await?;
    Ok(Answer(found.into()))
}

/// Changes an authority's services or its name for people.
#[utoipa::path(patch, path = "/v1/authorities/{name}", tag = "authorities", params(("name" = String, Path)),
    request_body = AuthorityEdit, responses((status = 200, body = Authority), (status = "4XX", body = Problem)))]
pub(super) async fn change(
    caller: Caller,
    Named(name): Named<AuthorityName>,
    Json(edit): Json<AuthorityEdit>,
) -> Result<Answer<Authority>, Problem> {
    let change = AuthorityChange { friendly_name: edit.friendly_name, services: edit.services };
    let change = move |caller: &Caller| {
        known(caller.engine(), &name)?;
        Ok(caller.engine().change_authority(&name, &change, caller.operator())?)
    };
    Ok(Answer(caller.ask(change).await?.into()))
}

/// Removes an authority with its key and all its certificates. What is many goes on in the background: until it is done, the
/// authority is `deleting`. Refused while another authority or an endpoint depends on it.
#[utoipa::path(delete, path = "/v1/authorities/{name}", tag = "authorities", params(("name" = String, Path), Confirmation),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    caller: Caller,
    Named(name): Named<AuthorityName>,
    Parameters(confirmation): Parameters<Confirmation>,
) -> Result<StatusCode, Problem> {
    let delete = move |caller: &Caller| {
        known(caller.engine(), &name)?;
        if confirmation.confirm != name.as_str() {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "not-confirmed")
                .detail(format!("deletion of {name} is confirmed with the name {:?}", confirmation.confirm))
                .hint("all its certificates go with it; to delete it, confirm with its own name")
                .into());
        }
        let deleted = caller.engine().delete_authority(&name, caller.operator());
        advised(deleted, |reason| {
            let hint = "what depends on it goes first: `certgate endpoint delete`, `certgate authority delete`";
            (reason == Reason::Conflict).then(|| hint.to_owned())
        })
    };
    caller.ask(delete).await.map(|()| StatusCode::NO_CONTENT)
}

/// The certificate request of an authority that waits for a certificate from its external root.
#[utoipa::path(get, path = "/v1/authorities/{name}/request", tag = "authorities", params(("name" = String, Path), EncodingChoice),
    responses((status = 200, description = "PKCS#10, PEM or DER", content_type = "application/pkcs10"), (status = "4XX", body = Problem)))]
pub(super) async fn request(
    caller: Caller,
    Named(name): Named<AuthorityName>,
    Parameters(choice): Parameters<EncodingChoice>,
) -> Result<Response, Problem> {
    let request = move |caller: &Caller| {
        known(caller.engine(), &name)?;
        let der = caller.engine().authority_request(&name)?;
        Ok(encoding::document(&choice, encoding::REQUEST, "application/pkcs10", der)?)
    };
    caller.ask(request).await
}

/// An authority's certificate.
#[utoipa::path(get, path = "/v1/authorities/{name}/certificate", tag = "authorities", params(("name" = String, Path), EncodingChoice),
    responses((status = 200, description = "PEM or DER", content_type = "application/pkix-cert"), (status = "4XX", body = Problem)))]
pub(super) async fn certificate(
    caller: Caller,
    Named(name): Named<AuthorityName>,
    Parameters(choice): Parameters<EncodingChoice>,
) -> Result<Response, Problem> {
    let certificate = move |caller: &Caller| {
        let der = known(caller.engine(), &name)?.certificate.ok_or_else(|| {
            missing(format!("authority {name} has no certificate yet"), "see its state with `certgate authority show`")
        })?;
        Ok(encoding::document(&choice, encoding::CERTIFICATE, "application/pkix-cert", der)?)
    };
    caller.ask(certificate).await
}

/// Installs the certificate that the external root signed: PEM with or without the certificates between, or DER.
#[utoipa::path(put, path = "/v1/authorities/{name}/certificate", tag = "authorities", params(("name" = String, Path)),
    request_body(content = String, content_type = "application/x-pem-file", description = "PEM or DER"),
    responses((status = 200, body = Authority), (status = "4XX", body = Problem)))]
pub(super) async fn install(
    caller: Caller,
    Named(name): Named<AuthorityName>,
    Octets(certificates): Octets,
) -> Result<Answer<Authority>, Problem> {
    let install = move |caller: &Caller| {
        known(caller.engine(), &name)?;
        let installed = caller.engine().install_certificate(&name, &certificates, caller.operator());
        advised(installed, |reason| {
            Some(if reason == Reason::NotReady {
                format!("see where it stands with `certgate authority show {name}`")
            } else if reason == Reason::Malformed {
                "give the certificate as PEM, with or without those above it, or as DER".to_owned()
            } else {
                format!(
                    "have the external root sign the request of `certgate authority request {name}` as it is: same key and \
                     subject, basicConstraints CA:TRUE, keyUsage keyCertSign and cRLSign, subjectKeyIdentifier, valid now and not \
                     longer than the root"
                )
            })
        })
    };
    Ok(Answer(caller.ask(install).await?.into()))
}

/// The authority that a path names.
fn known(engine: &Engine, name: &AuthorityName) -> Result<ca_backend::Authority, Failure> {
    let found = engine.authorities()?.into_iter().find(|authority| authority.name == *name);
    let no_such =
        || missing(format!("there is no authority {name}"), "`certgate authority list` shows those that there are");
    Ok(found.ok_or_else(no_such)?)
}
