//! Certificates: issue, renew, list, change their status.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_backend::{
    AlternativeName, CertificateRequest, CertificateState, CertificateSummary, DistinguishedName, EnrollmentRequest,
    Error, Fault, GeneratedKey, Holder, HolderName, IssuedCertificate, Outcome, Reason, Refusal, RequestedExtensions,
    RequestedNames, RequestedValidity, RevocationReason, RevocationRequest, Right, Serial, StatusChange,
};
use const_oid::db::rfc5280::ID_CE_SUBJECT_ALT_NAME;
use der::pem::LineEnding;
use der::{Decode, Encode};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use x509_cert::Certificate;

use crate::caller::Caller;
use crate::ledger::Known;
use crate::options::{Configuration, NameSource};
use crate::pkcs12::{Contents, Pkcs12Encryption};
use crate::problem::Problem;
use crate::template::{Values, check_value, is_variable};
use crate::web::{Attempt, Call, answer_json, check_idempotency_key, digest_of, right_for};

/// Certificates in one bulk request.
const BULK_MAX: usize = 50;
/// Certificates whose status one request changes.
const STATUS_MAX: usize = 500;
/// Certificates on a page.
const PAGE_MAX: usize = 200;
/// Values in one group of a request.
const VALUES_MAX: usize = 64;
/// Characters of a password.
const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 8..=128;
const DAY_S: u64 = 86_400;

/// A kind of certificate that can be had.
#[derive(Serialize, ToSchema)]
pub(crate) struct ConfigurationView {
    /// Its name in requests.
    name: String,
    /// A line for people.
    title: String,
    /// The profile of its certificates.
    profile: String,
    /// Whether names come from `templates` (then `variables` tells what to state) or from the `request`.
    names: &'static str,
    /// The kind of key that is made here.
    key: String,
    /// What its templates want to know.
    variables: Vec<VariableView>,
}

/// A value that a request states.
#[derive(Serialize, ToSchema)]
pub(crate) struct VariableView {
    /// `device.NAME`, `user.NAME` or `variable.NAME`: the member NAME of `device`, `user` or `variables` in a request.
    name: String,
    /// Whether it must be there.
    required: bool,
}

/// A wish for a certificate: either with the CSR of a device, or with a key made here.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CertificateWish {
    /// Which kind.
    configuration: String,
    /// What is known of the device. `id` is what certificates are listed by.
    #[serde(default)]
    device: BTreeMap<String, String>,
    /// What is known of the user. `id` is what certificates are listed by.
    #[serde(default)]
    user: BTreeMap<String, String>,
    /// Other values of templates.
    #[serde(default)]
    variables: BTreeMap<String, String>,
    /// A PKCS#10 request, PEM, or DER in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    csr: Option<String>,
    /// Make the key here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pkcs12: Option<Pkcs12Wish>,
    /// The time of validity; as the configuration says if not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    validity_days: Option<u32>,
    /// In place of the header `Idempotency-Key`, for the items of a bulk request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
}

/// A wish for a key made here.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pkcs12Wish {
    /// Protects the file, 8 to 128 characters; made and returned once if not stated.
    #[serde(default, skip_serializing)]
    password: Option<String>,
    /// How the file is encrypted.
    #[serde(default)]
    encryption: Pkcs12Encryption,
}

/// A wish for the successor of a certificate: the same names, a new key.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenewalWish {
    /// A PKCS#10 request, PEM, or DER in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    csr: Option<String>,
    /// Make the key here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pkcs12: Option<Pkcs12Wish>,
}

/// A certificate that was issued.
#[derive(Serialize, ToSchema)]
pub(crate) struct Grant {
    #[serde(flatten)]
    certificate: CertificateView,
    /// The certificates above it, PEM, issuer first, without the root.
    chain: Vec<String>,
    /// Key, certificate and chain as PKCS#12, base64. The key is given out here only; it is kept only where the endpoint archives keys,
    /// encrypted for recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pkcs12: Option<String>,
    /// The password of that file, if it was made here.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

/// A certificate.
#[derive(Serialize, ToSchema)]
pub(crate) struct CertificateView {
    /// Its serial, hexadecimal.
    serial: String,
    /// The certificate, PEM.
    certificate: String,
    /// RFC 4514.
    subject: String,
    /// `dns:host.example.org`.
    alternative_names: Vec<String>,
    /// `normal`, `held` or `revoked`.
    #[schema(value_type = String)]
    state: CertificateState,
    /// RFC 3339.
    issued_at: String,
    /// RFC 3339.
    not_after: String,
    /// The device that it was issued for.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// The user that it was issued for.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
}

/// Certificates of a device or user.
#[derive(Serialize, ToSchema)]
pub(crate) struct CertificatePage {
    certificates: Vec<CertificateView>,
    /// Asks for the next page, as `cursor`; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// A request that waits for an operator.
#[derive(Serialize, ToSchema)]
pub(crate) struct Waiting {
    /// Names it for operators.
    ticket: String,
    /// Seconds until the same call, with the same Idempotency-Key, makes sense.
    retry_after_s: u32,
}

/// Wishes for several certificates.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bulk {
    /// At most 50.
    items: Vec<CertificateWish>,
}

/// What became of each, in the same order.
#[derive(Serialize, ToSchema)]
pub(crate) struct BulkAnswer {
    results: Vec<BulkResult>,
}

/// What became of one wish: one member is there.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct BulkResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    granted: Option<Grant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

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

/// What came of a wish.
enum Granted {
    Certificate(Box<Grant>),
    Waiting(Waiting),
}

/// The key of a certificate to be.
enum KeyFrom {
    Request(Box<CertificateRequest>),
    Here(GeneratedKey, Pkcs12Wish),
}

impl KeyFrom {
    fn read(
        call: &Call<'_>,
        csr: Option<&str>,
        pkcs12: Option<Pkcs12Wish>,
        configuration: &Configuration,
    ) -> Result<Self, Error> {
        match (csr, pkcs12) {
            (Some(csr), None) => Ok(Self::Request(Box::new(read_csr(csr)?))),
            (None, Some(wish)) => {
                if let Some(password) = &wish.password {
                    check_password(password)?;
                }
                Ok(Self::Here(call.engine.generate_subject_key(configuration.key)?, wish))
            }
            _ => Err(malformed("state either csr or pkcs12").into()),
        }
    }
}

/// Lists what can be had.
#[utoipa::path(get, path = "/configurations", tag = "certificates", operation_id = "listConfigurations",
    responses((status = 200, body = Vec<ConfigurationView>), (status = "4XX", body = Problem)))]
pub(crate) fn configurations(call: &Call<'_>) -> Attempt {
    call.caller(Right::List)?;
    let views: Vec<_> = call
        .configurations
        .iter()
        .map(|configuration| ConfigurationView {
            name: configuration.name.clone(),
            title: configuration.title.clone(),
            profile: configuration.profile.to_string(),
            names: match configuration.source {
                NameSource::Templates => "templates",
                NameSource::Request => "request",
            },
            key: configuration.key.to_string(),
            variables: configuration
                .variables()
                .into_iter()
                .map(|(name, required)| VariableView { name, required })
                .collect(),
        })
        .collect();
    answer_json(StatusCode::OK, &views)
}

/// Issues a certificate. With the header `Idempotency-Key` a repeated call makes no second certificate; a key that was made here
/// is given out once, so that the repeat of such a call is answered with a conflict that names the certificate.
#[utoipa::path(post, path = "/certificates", tag = "certificates", operation_id = "issueCertificate",
    params(("Idempotency-Key" = Option<String>, Header, description = "names the call, at most 128 characters; kept for a day")),
    request_body = CertificateWish,
    responses((status = 201, body = Grant), (status = 202, body = Waiting), (status = "4XX", body = Problem), (status = 503, body = Problem)))]
pub(crate) fn issue(call: &Call<'_>) -> Attempt {
    let caller = call.caller(Right::Issue)?;
    let mut wish: CertificateWish = call.body()?;
    if let Some(key) = call.idempotency_key()? {
        wish.idempotency_key = Some(key);
    }
    match grant(call, &caller, &wish)? {
        Granted::Certificate(grant) => answer_json(StatusCode::CREATED, &grant),
        Granted::Waiting(waiting) => answer_json(StatusCode::ACCEPTED, &waiting),
    }
}

/// Issues several certificates, each by itself.
#[utoipa::path(post, path = "/certificates/bulk", tag = "certificates", operation_id = "issueCertificates", request_body = Bulk,
    responses((status = 200, body = BulkAnswer), (status = "4XX", body = Problem), (status = 503, body = Problem)))]
pub(crate) fn issue_bulk(call: &Call<'_>) -> Attempt {
    let caller = call.caller(Right::Issue)?;
    let bulk: Bulk = call.body()?;
    if bulk.items.is_empty() || bulk.items.len() > BULK_MAX {
        return Err(malformed(format!("a bulk request has 1 to {BULK_MAX} items")).into());
    }
    let results = bulk.items.iter().map(|wish| match grant(call, &caller, wish) {
        Ok(Granted::Certificate(grant)) => BulkResult { granted: Some(*grant), ..BulkResult::default() },
        Ok(Granted::Waiting(waiting)) => BulkResult { waiting: Some(waiting), ..BulkResult::default() },
        Err(error) => BulkResult { problem: Some(Problem::of(&error, &call.peer.request_id)), ..BulkResult::default() },
    });
    answer_json(StatusCode::OK, &BulkAnswer { results: results.collect() })
}

/// Issues the successor of a certificate: the same subject and alternative names, the same profile, a new key.
#[utoipa::path(post, path = "/certificates/{serial}/renew", tag = "certificates", operation_id = "renewCertificate",
    params(("serial" = String, Path), ("Idempotency-Key" = Option<String>, Header)), request_body = RenewalWish,
    responses((status = 201, body = Grant), (status = 202, body = Waiting), (status = "4XX", body = Problem), (status = 503, body = Problem)))]
pub(crate) fn renew(call: &Call<'_>) -> Attempt {
    let caller = call.caller(Right::Issue)?;
    let wish: RenewalWish = call.body()?;
    let old = ours(call, &call.serial()?)?;
    let verified = call.engine.verify_certificate(&old.der)?;
    let of_none = || Refusal::new(Reason::Unsupported, "no configuration says what follows it: its device renews it");
    let holder = old.holder.ok_or_else(of_none)?;
    let configuration = call.configuration(holder.configuration.as_deref().ok_or_else(of_none)?)?;
    let idempotency_key = call.idempotency_key()?;
    let digest = digest_of(&(old.serial.to_string(), &wish))?;
    let order = Order {
        configuration,
        names: verified.names().clone(),
        holder: Holder { requester: caller.requester(), ..holder },
        key: KeyFrom::read(call, wish.csr.as_deref(), wish.pkcs12, configuration)?,
        validity_s: configuration.validity_s,
        idempotency_key,
        digest,
    };
    match order.carry_out(call, &caller)? {
        Granted::Certificate(grant) => answer_json(StatusCode::CREATED, &grant),
        Granted::Waiting(waiting) => answer_json(StatusCode::ACCEPTED, &waiting),
    }
}

/// Lists the certificates of a device or of a user, the oldest first.
#[utoipa::path(get, path = "/certificates", tag = "certificates", operation_id = "listCertificates",
    params(("device" = Option<String>, Query), ("user" = Option<String>, Query), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = CertificatePage), (status = "4XX", body = Problem)))]
pub(crate) fn list(call: &Call<'_>) -> Attempt {
    call.caller(Right::List)?;
    let after = call.parameter("cursor").map(|cursor| Serial::parse(&cursor)).transpose()?;
    let serials = serials_of(call, call.parameter("device"), call.parameter("user"), after.as_ref(), PAGE_MAX)?;
    let cursor = if serials.len() == PAGE_MAX { serials.last().map(ToString::to_string) } else { None };
    let mut certificates = Vec::with_capacity(serials.len());
    for serial in serials {
        if let Some(found) = call.engine.find_certificate(&serial)? {
            certificates.push(view(found)?);
        }
    }
    answer_json(StatusCode::OK, &CertificatePage { certificates, cursor })
}

/// Shows a certificate of this endpoint.
#[utoipa::path(get, path = "/certificates/{serial}", tag = "certificates", operation_id = "showCertificate",
    params(("serial" = String, Path)), responses((status = 200, body = CertificateView), (status = "4XX", body = Problem)))]
pub(crate) fn show(call: &Call<'_>) -> Attempt {
    call.caller(Right::List)?;
    answer_json(StatusCode::OK, &view(ours(call, &call.serial()?)?)?)
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

/// A certificate that this endpoint issued, or that a device fetched elsewhere with a challenge from here.
fn ours(call: &Call<'_>, serial: &Serial) -> Result<CertificateSummary, Error> {
    let found = call.engine.find_certificate(serial)?;
    let found = found.filter(|found| {
        let holder = found.holder.as_ref().map(|holder| &holder.endpoint);
        [found.endpoint.as_ref(), holder].contains(&Some(&call.settings.name))
    });
    Ok(found.ok_or_else(|| Refusal::new(Reason::UnknownCertificate, "there is no such certificate here"))?)
}

fn serials_of(
    call: &Call<'_>,
    device: Option<String>,
    user: Option<String>,
    after: Option<&Serial>,
    limit: usize,
) -> Result<Vec<Serial>, Error> {
    let name = match (&device, &user) {
        (Some(device), None) => HolderName::Device(device),
        (None, Some(user)) => HolderName::User(user),
        _ => return Err(malformed("state either a device or a user").into()),
    };
    call.engine.certificates_of(&call.settings.name, name, after, limit)
}

/// A wish that was read.
struct Order<'a> {
    configuration: &'a Configuration,
    names: RequestedNames,
    holder: Holder,
    key: KeyFrom,
    validity_s: Option<u64>,
    idempotency_key: Option<String>,
    /// Of the wish, without its password.
    digest: [u8; 32],
}

fn grant(call: &Call<'_>, caller: &Caller, wish: &CertificateWish) -> Result<Granted, Error> {
    let configuration = call.configuration(&wish.configuration)?;
    let idempotency_key = wish.idempotency_key.as_deref().map(check_idempotency_key).transpose()?;
    let values = wish.values()?;
    let key = KeyFrom::read(call, wish.csr.as_deref(), wish.pkcs12.clone(), configuration)?;
    let names = match (configuration.source, &key) {
        (NameSource::Templates, _) => configuration.names(&values)?,
        (NameSource::Request, KeyFrom::Request(csr)) => names_of(csr)?,
        (NameSource::Request, KeyFrom::Here(..)) => {
            return Err(malformed("this configuration takes its names from a CSR").into());
        }
    };
    let validity_s = match wish.validity_days {
        Some(0) => return Err(malformed("validity_days is at least 1").into()),
        Some(days) => Some(u64::from(days) * DAY_S),
        None => configuration.validity_s,
    };
    let holder = Holder {
        endpoint: call.settings.name.clone(),
        requester: caller.requester(),
        configuration: Some(configuration.name.clone()),
        device: wish.device.get("id").cloned(),
        user: wish.user.get("id").cloned(),
    };
    let order = Order {
        configuration,
        names,
        holder,
        key,
        validity_s,
        idempotency_key,
        digest: digest_of(&CertificateWish { idempotency_key: None, ..wish.clone() })?,
    };
    order.carry_out(call, caller)
}

impl Order<'_> {
    fn carry_out(self, call: &Call<'_>, caller: &Caller) -> Result<Granted, Error> {
        let ledger = call.ledger();
        let known = match &self.idempotency_key {
            Some(key) => {
                let key = ledger.call_key(&caller.requester(), key);
                let known = ledger.begin(&key, self.digest)?;
                Some((key, known))
            }
            None => None,
        };
        match known.as_ref().map(|(_, known)| known) {
            Some(Known::Another) => {
                let text = "this idempotency key was used for another request; use a new one for each wish";
                return Err(Refusal::new(Reason::Conflict, text).into());
            }
            Some(Known::Done(serial)) => {
                let certificate = call.engine.issued_certificate(serial)?;
                let certificate = certificate.ok_or_else(|| Fault::Broken(format!("certificate {serial} is gone")))?;
                return self.give(call, certificate);
            }
            Some(Known::First) | None => {}
        }
        // Without a key of its own a call is never the repeat of another.
        let transaction = match &self.idempotency_key {
            Some(key) => format!("key {key}"),
            None => format!("call {}", hex::encode(call.engine.random::<16>())),
        };
        let validity = self.validity_s.map(|seconds| RequestedValidity {
            not_before: None,
            not_after: Some(call.engine.now().plus_s(seconds).minus_s(1)),
        });
        let key = match (&self.key, &call.options.archive) {
            (KeyFrom::Here(key, _), Some(archive)) => archive.archived(call.engine, key)?,
            (KeyFrom::Here(key, _), None) => key.proven().clone(),
            (KeyFrom::Request(csr), _) => csr.key().clone(),
        };
        let outcome = call.engine.enroll(EnrollmentRequest {
            authority: call.settings.authority.clone(),
            profile: self.configuration.profile.clone(),
            names: self.names.clone(),
            extensions: RequestedExtensions::default(),
            key,
            validity,
            evidence: caller.evidence(),
            holder: Some(self.holder.clone()),
            origin: call.origin(&transaction, self.digest)?,
        })?;
        match outcome {
            Outcome::Issued(certificate) => {
                if let Some((key, _)) = &known {
                    ledger.done(key, self.digest, &certificate.serial)?;
                }
                self.give(call, certificate)
            }
            Outcome::Pending { ticket, retry_after_s } => match self.key {
                KeyFrom::Request(_) => Ok(Granted::Waiting(Waiting { ticket: ticket.to_string(), retry_after_s })),
                KeyFrom::Here(..) => Err(Refusal::new(
                    Reason::Conflict,
                    format!("the access rules want an approval, for which a key made here does not wait: send a CSR; request {ticket} can be rejected"),
                )
                .into()),
            },
        }
    }

    /// The certificate in the form that was asked for.
    fn give(&self, call: &Call<'_>, certificate: IssuedCertificate) -> Result<Granted, Error> {
        let mut grant = Grant {
            certificate: view(ours(call, &certificate.serial)?)?,
            chain: certificate.chain.iter().map(|der| pem(der)).collect::<Result<_, _>>()?,
            pkcs12: None,
            password: None,
        };
        if let KeyFrom::Here(key, wish) = &self.key {
            let parsed = Certificate::from_der(&certificate.der).map_err(Fault::from)?;
            let public = parsed.tbs_certificate().subject_public_key_info().to_der().map_err(Fault::from)?;
            if public != key.proven().subject_key().spki_der() {
                let text = format!(
                    "certificate {} was issued by an earlier call with this idempotency key; its key was given out then and is not kept: revoke it and use a new idempotency key",
                    certificate.serial
                );
                return Err(Refusal::new(Reason::Conflict, text).into());
            }
            let made = wish.password.is_none().then(|| hex::encode(call.engine.random::<16>()));
            let password = wish.password.as_deref().or(made.as_deref()).unwrap_or_default();
            let root = certificate.root.as_ref();
            let contents = Contents {
                key: key.pkcs8(),
                certificate: &certificate.der,
                chain: certificate.chain.iter().map(|der| der.as_ref()).chain([root]).collect(),
                friendly_name: &grant.certificate.subject,
                password,
                encryption: wish.encryption,
                randomness: call.engine.random(),
            };
            grant.pkcs12 = Some(STANDARD.encode(contents.seal()?));
            grant.password = made;
        }
        Ok(Granted::Certificate(Box::new(grant)))
    }
}

impl CertificateWish {
    /// Its values by the names that templates use.
    fn values(&self) -> Result<Values, Refusal> {
        values(&self.device, &self.user, &self.variables)
    }
}

/// The values of a request by the names that templates use.
pub(crate) fn values(
    device: &BTreeMap<String, String>,
    user: &BTreeMap<String, String>,
    variables: &BTreeMap<String, String>,
) -> Result<Values, Refusal> {
    let mut values = Values::new();
    for (group, members) in [("device", device), ("user", user), ("variable", variables)] {
        if members.len() > VALUES_MAX {
            return Err(malformed(format!("there are more than {VALUES_MAX} values of {group}")));
        }
        for (name, value) in members {
            if !is_variable(name) {
                return Err(malformed(format!("{name:?} is no name of a value: letters, digits, - and _")));
            }
            check_value(value).map_err(|why| malformed(format!("the value of {group}.{name} {why}")))?;
            values.insert(format!("{group}.{name}"), value.clone());
        }
    }
    Ok(values)
}

fn names_of(csr: &CertificateRequest) -> Result<RequestedNames, Refusal> {
    let named = csr.extensions().iter().find(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME);
    let alternative = match named {
        Some(extension) => AlternativeName::decode_all(extension.extn_value.as_bytes())?,
        None => Vec::new(),
    };
    Ok(RequestedNames { subject: DistinguishedName::from_der(csr.subject_der())?, alternative })
}

fn read_csr(text: &str) -> Result<CertificateRequest, Refusal> {
    if text.trim_start().starts_with("-----") {
        return CertificateRequest::from_pem_or_der(text.trim().as_bytes());
    }
    let compact: String = text.split_whitespace().collect();
    let der = STANDARD.decode(compact).map_err(|_| malformed("the csr is neither PEM nor base64"))?;
    CertificateRequest::open(&der)
}

fn check_password(password: &str) -> Result<(), Refusal> {
    let fits = PASSWORD_CHARS.contains(&password.chars().count());
    // A PKCS#12 password is a BMPString.
    if fits && password.chars().all(|character| !character.is_control() && u32::from(character) < 0x1_0000) {
        return Ok(());
    }
    let (min, max) = (PASSWORD_CHARS.start(), PASSWORD_CHARS.end());
    Err(malformed(format!(
        "a password has {min} to {max} characters of the basic plane, none of them a control character"
    )))
}

fn view(found: CertificateSummary) -> Result<CertificateView, Error> {
    let (device, user) = found.holder.map_or((None, None), |holder| (holder.device, holder.user));
    Ok(CertificateView {
        serial: found.serial.to_string(),
        certificate: pem(&found.der)?,
        subject: found.subject,
        alternative_names: found.alternative_names,
        state: found.state,
        issued_at: found.issued_at.to_string(),
        not_after: found.not_after.to_string(),
        device,
        user,
    })
}

fn pem(der: &[u8]) -> Result<String, Error> {
    let text = der::pem::encode_string("CERTIFICATE", LineEnding::LF, der);
    text.map_err(|error| Fault::Broken(format!("a certificate has no PEM: {error}")).into())
}

fn malformed(why: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Malformed, why)
}
