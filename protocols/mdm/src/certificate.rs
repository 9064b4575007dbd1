//! Certificates: what can be had, issue, renew, list, show.

mod order;
pub(crate) mod status;

use std::collections::BTreeMap;

use ca_backend::{
    CertificateState, CertificateSummary, Error, Fault, Holder, HolderName, Reason, Refusal, Right, Serial,
};
use der::pem::LineEnding;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::options::NameSource;
use crate::problem::Problem;
use crate::template::{Values, check_value, is_variable};
use crate::web::{Attempt, Call, answer_json, digest_of};
use order::{CertificateWish, Grant, Granted, KeyFrom, Order, Pkcs12Wish, Waiting, grant};

/// Certificates in one bulk request.
const BULK_MAX: usize = 50;
/// Certificates on a page.
const PAGE_MAX: usize = 200;
/// Values in one group of a request.
const VALUES_MAX: usize = 64;

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
