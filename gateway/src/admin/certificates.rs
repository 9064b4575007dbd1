//! `/v1/certificates`: search, revocation, counts.

use axum::Json as Answer;
use ca_backend::{
    AuthorityName, CertificateState, CertificateSummary, Holder, InventoryQuery, ProfileName, ProtocolName, Reason,
    RevocationReason, RevocationRequest, Serial, StatusChange,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Moment;
use super::caller::{Caller, Json, Named, Parameters};
use super::encoding::{self, pem};
use super::problem::{Failure, Problem, advised, malformed, missing};

/// What is known of a certificate.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// Its serial, hexadecimal.
    pub serial: String,
    /// `normal`, `held` or `revoked`. A normal certificate may have expired.
    #[schema(value_type = String, example = "normal")]
    pub state: CertificateState,
    /// Who issued it.
    pub authority: String,
    /// The issuer's part of the status URLs.
    pub issuer: String,
    /// Its profile.
    pub profile: String,
    /// The protocol that requested it.
    pub protocol: String,
    /// The endpoint that received the request.
    pub endpoint: Option<String>,
    /// Who requested it.
    pub requester: String,
    /// Whom it is for, if a management service asked for it or handed out its challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<CertificateHolder>,
    /// The subject, RFC 4514.
    pub subject: String,
    /// The alternative names: `dns:host.example.org`.
    pub alternative_names: Vec<String>,
    /// When it was issued.
    pub issued_at: Moment,
    /// The last moment of its validity.
    pub not_after: Moment,
    /// Since when it is revoked or held.
    pub revoked_at: Option<Moment>,
    /// Why.
    #[schema(value_type = Option<String>, example = "keyCompromise")]
    pub reason: Option<RevocationReason>,
}

/// Whom a certificate is for, in the words of the management service that keeps it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CertificateHolder {
    /// The endpoint of the service.
    pub endpoint: String,
    /// Who asked there.
    pub requester: String,
    /// The kind of certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl From<Holder> for CertificateHolder {
    fn from(Holder { endpoint, requester, configuration, device, user }: Holder) -> Self {
        Self { endpoint: endpoint.into(), requester, configuration, device, user }
    }
}

impl From<CertificateSummary> for Certificate {
    fn from(found: CertificateSummary) -> Self {
        Self {
            serial: found.serial.to_string(),
            state: found.state,
            authority: found.authority.to_string(),
            issuer: found.issuer,
            profile: found.profile.to_string(),
            protocol: found.protocol.to_string(),
            endpoint: found.endpoint.map(String::from),
            requester: found.requester,
            holder: found.holder.map(CertificateHolder::from),
            subject: found.subject,
            alternative_names: found.alternative_names,
            issued_at: found.issued_at.into(),
            not_after: found.not_after.into(),
            revoked_at: found.revoked_at.map(Moment),
            reason: found.reason,
        }
    }
}

/// A certificate with its text.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CertificateWithPem {
    /// What is known of it.
    #[serde(flatten)]
    pub certificate: Certificate,
    /// The certificate, PEM.
    pub pem: String,
    /// The certificates above it without the root, PEM, issuer first.
    pub chain_pem: String,
    /// The root, PEM.
    pub root_pem: String,
}

/// One page of certificates.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CertificatePage {
    /// The certificates.
    pub items: Vec<Certificate>,
    /// Asks for the next page; absent at the end. A page may be short or even empty and still have a successor.
    pub cursor: Option<String>,
}

/// What to look for: every condition stated must hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SearchParameters {
    /// The serial, hexadecimal in any case and padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// A common name or alternative name: the whole of it, or with a leading `*` its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The subject as RFC 4514 text: the whole of it, or with a leading `*` its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The requester, the whole of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
    /// Issued at this moment or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = DateTime)]
    pub issued_from: Option<Moment>,
    /// Issued before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = DateTime)]
    pub issued_until: Option<Moment>,
    /// Expiring at this moment or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = DateTime)]
    pub expires_from: Option<Moment>,
    /// Expiring before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = DateTime)]
    pub expires_until: Option<Moment>,
    /// Of this profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub profile: Option<ProfileName>,
    /// Issued by this authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub authority: Option<AuthorityName>,
    /// Requested by this protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub protocol: Option<ProtocolName>,
    /// In this state: `normal`, `held` or `revoked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub status: Option<CertificateState>,
    /// The other way round: without another order, the newest certificate first.
    pub descending: bool,
    /// Where the previous page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most certificates on a page, 1 to 1,000; 0 means 100.
    pub limit: usize,
}

impl From<SearchParameters> for InventoryQuery {
    fn from(asked: SearchParameters) -> Self {
        Self {
            serial: asked.serial,
            name: asked.name,
            subject: asked.subject,
            requester: asked.requester,
            issued_from: asked.issued_from.map(Moment::into),
            issued_until: asked.issued_until.map(Moment::into),
            expires_from: asked.expires_from.map(Moment::into),
            expires_until: asked.expires_until.map(Moment::into),
            profile: asked.profile,
            authority: asked.authority,
            protocol: asked.protocol,
            status: asked.status,
            descending: asked.descending,
            cursor: asked.cursor,
            limit: asked.limit,
        }
    }
}

/// How many certificates there are of one kind.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Count {
    /// The authority.
    pub authority: String,
    /// The profile.
    pub profile: String,
    /// The state.
    #[schema(value_type = String)]
    pub state: CertificateState,
    /// How many.
    pub certificates: u64,
}

/// Why a certificate shall be revoked.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevocationWish {
    /// The reason, as RFC 5280 names it.
    #[schema(value_type = String, example = "keyCompromise")]
    pub reason: RevocationReason,
    /// Since when the key is thought to be compromised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalidity_date: Option<Moment>,
    /// A remark for the audit record.
    #[serde(default)]
    pub comment: String,
}

/// A remark on a hold or its end.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Remark {
    /// For the audit record.
    pub comment: String,
}

/// A certificate's state after a change, which OCSP answers show at once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Revocation {
    /// Which certificate.
    pub serial: String,
    /// Its state now.
    #[schema(value_type = String, example = "revoked")]
    pub state: CertificateState,
    /// Since when.
    pub at: Moment,
}

/// Searches by indexes; stable paging.
#[utoipa::path(get, path = "/v1/certificates", tag = "certificates", params(SearchParameters),
    responses((status = 200, body = CertificatePage), (status = "4XX", body = Problem)))]
pub(super) async fn search(
    caller: Caller,
    Parameters(asked): Parameters<SearchParameters>,
) -> Result<Answer<CertificatePage>, Problem> {
    let page = caller.ask(|caller| Ok(caller.engine().search(&asked.into())?)).await?;
    Ok(Answer(CertificatePage { items: page.items.into_iter().map(Certificate::from).collect(), cursor: page.cursor }))
}

/// One certificate.
#[utoipa::path(get, path = "/v1/certificates/{serial}", tag = "certificates",
    params(("serial" = String, Path, description = "Hexadecimal, in any case and padding")),
    responses((status = 200, body = CertificateWithPem), (status = 404, body = Problem)))]
pub(super) async fn show(caller: Caller, Named(serial): Named<String>) -> Result<Answer<CertificateWithPem>, Problem> {
    let shown = caller.ask(move |caller| with_pem(caller, &Serial::parse(&serial)?)).await?;
    Ok(Answer(shown))
}

/// Revokes a certificate for good.
#[utoipa::path(post, path = "/v1/certificates/{serial}/revoke", tag = "certificates", params(("serial" = String, Path)),
    request_body = RevocationWish, responses((status = 200, body = Revocation), (status = "4XX", body = Problem)))]
pub(super) async fn revoke(
    caller: Caller,
    Named(serial): Named<String>,
    Json(wish): Json<RevocationWish>,
) -> Result<Answer<Revocation>, Problem> {
    if wish.reason == RevocationReason::AaCompromise {
        return Err(malformed("aACompromise is a reason for attribute certificates, which are not issued here")
            .hint("if the key is no longer safe, the reason is keyCompromise"));
    }
    let change = StatusChange::Revoke { reason: wish.reason, invalidity: wish.invalidity_date.map(Moment::into) };
    change_status(caller, serial, change, wish.comment).await
}

/// Puts a certificate on hold.
#[utoipa::path(post, path = "/v1/certificates/{serial}/hold", tag = "certificates", params(("serial" = String, Path)),
    request_body = Option<Remark>, responses((status = 200, body = Revocation), (status = "4XX", body = Problem)))]
pub(super) async fn hold(
    caller: Caller,
    Named(serial): Named<String>,
    remark: Option<Json<Remark>>,
) -> Result<Answer<Revocation>, Problem> {
    change_status(caller, serial, StatusChange::Hold, remark.map(|Json(remark)| remark.comment).unwrap_or_default())
        .await
}

/// Lifts a hold.
#[utoipa::path(post, path = "/v1/certificates/{serial}/unhold", tag = "certificates", params(("serial" = String, Path)),
    request_body = Option<Remark>, responses((status = 200, body = Revocation), (status = "4XX", body = Problem)))]
pub(super) async fn unhold(
    caller: Caller,
    Named(serial): Named<String>,
    remark: Option<Json<Remark>>,
) -> Result<Answer<Revocation>, Problem> {
    change_status(caller, serial, StatusChange::Unhold, remark.map(|Json(remark)| remark.comment).unwrap_or_default())
        .await
}

/// How many certificates there are, by authority, profile and state.
#[utoipa::path(get, path = "/v1/counts", tag = "certificates", responses((status = 200, body = Vec<Count>)))]
pub(super) async fn counts(caller: Caller) -> Result<Answer<Vec<Count>>, Problem> {
    let counts = caller.ask(|caller| Ok(caller.engine().counts()?)).await?;
    let counts = counts.into_iter().map(|count| Count {
        authority: count.authority.to_string(),
        profile: count.profile.to_string(),
        state: count.state,
        certificates: count.certificates,
    });
    Ok(Answer(counts.collect()))
}

/// The private key of a certificate, in an envelope for the holders of recovery certificates.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ArchivedKey {
    /// The certificate's serial, hexadecimal.
    pub serial: String,
    /// CMS EnvelopedData, PEM; within it the key, PKCS#8.
    pub envelope_pem: String,
}

/// Hands out the archived key of a certificate, still encrypted for recovery. The audit log has it.
#[utoipa::path(post, path = "/v1/certificates/{serial}/archived-key", tag = "certificates", params(("serial" = String, Path)),
    responses((status = 200, body = ArchivedKey), (status = "4XX", body = Problem)))]
pub(super) async fn archived_key(caller: Caller, Named(serial): Named<String>) -> Result<Answer<ArchivedKey>, Problem> {
    let give = move |caller: &Caller| {
        let serial = Serial::parse(&serial)?;
        let envelope = caller.engine().archived_key(&serial, caller.operator())?;
        Ok(ArchivedKey { serial: serial.to_string(), envelope_pem: pem(encoding::ENVELOPE, &envelope)? })
    };
    Ok(Answer(caller.ask(give).await?))
}

async fn change_status(
    caller: Caller,
    serial: String,
    change: StatusChange,
    comment: String,
) -> Result<Answer<Revocation>, Problem> {
    let change = move |caller: &Caller| {
        let serial = Serial::parse(&serial)?;
        let origin = caller.origin("revocation", &(&serial, change, &comment))?;
        let wish = RevocationRequest { serial, change, comment, evidence: caller.evidence(), origin };
        let done = advised(caller.engine().revoke(&wish), |reason| match (change, reason) {
            (StatusChange::Unhold, Reason::NotReady) => {
                Some(format!("only a hold can be lifted; see its state with `certgate certificate show {serial}`"))
            }
            (StatusChange::Revoke { reason: RevocationReason::CertificateHold, .. }, Reason::Malformed) => {
                Some(format!("put it on hold with `certgate certificate hold {serial}`"))
            }
            _ => None,
        })?;
        Ok(Revocation { serial: done.serial.to_string(), state: done.state, at: done.at.into() })
    };
    Ok(Answer(caller.ask(change).await?))
}

/// A certificate with everything that is known of it.
pub(super) fn with_pem(caller: &Caller, serial: &Serial) -> Result<CertificateWithPem, Failure> {
    let no_such =
        || missing(format!("there is no certificate with serial {serial}"), "find it with `certgate certificate list`");
    let found = caller.engine().find_certificate(serial)?.ok_or_else(no_such)?;
    let issued = caller.engine().issued_certificate(serial)?.ok_or_else(no_such)?;
    let chain = issued.chain.iter().map(|der| pem(encoding::CERTIFICATE, der)).collect::<Result<String, _>>()?;
    Ok(CertificateWithPem {
        pem: pem(encoding::CERTIFICATE, &issued.der)?,
        chain_pem: chain,
        root_pem: pem(encoding::CERTIFICATE, &issued.root)?,
        certificate: found.into(),
    })
}
