//! One-time challenges that management systems fetch and put into the SCEP profile of a device.
//!
//! A challenge is a credential of the SCEP endpoint where it is presented. It can do no more than the token that made it. What a device
//! gets with it belongs to the device and user for which it was made.

use std::collections::BTreeMap;

use ca_backend::{
    AlternativeName, Binding, Credential, CredentialId, CredentialPurpose, CredentialQuery, DistinguishedName, Error,
    Holder, NewCredential, ProfileName, Reason, Refusal, RequestedNames, Right, SecretText,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::caller::Caller;
use crate::certificate::values;
use crate::options::ChallengeOptions;
use crate::problem::Problem;
use crate::web::{Attempt, Call, answer_bytes, answer_json};

/// Credentials read at a time.
const STEP: usize = 1_000;
/// Uses of a challenge.
const USES_MAX: u32 = 1_000;
const LIFETIME_S_MAX: u64 = 90 * 86_400;

/// A wish for a challenge. What it is bound to is either stated, or follows from a configuration and its values.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ChallengeWish {
    /// The subject that the request must have, RFC 4514.
    subject: Option<String>,
    /// The alternative names that it must have: `dns:host.example.org`.
    alternative_names: Option<Vec<String>>,
    /// The profile.
    profile: Option<String>,
    /// A configuration of this endpoint, whose templates then say the names, and its values.
    configuration: Option<String>,
    /// What is known of the device. `id` is what certificates are listed by, and needs no configuration.
    device: BTreeMap<String, String>,
    /// What is known of the user. `id` is what certificates are listed by, and needs no configuration.
    user: BTreeMap<String, String>,
    variables: BTreeMap<String, String>,
    /// How long it may be presented, in seconds.
    lifetime_s: Option<u64>,
    /// How many certificates it is good for: one if not stated.
    uses_max: Option<u32>,
    /// A remark for people.
    comment: String,
}

/// A challenge that was made.
#[derive(Serialize, ToSchema)]
pub(crate) struct NewChallenge {
    /// Names it in other requests.
    id: String,
    /// The text for the device's request. It is shown now and never again.
    challenge: String,
    /// The last moment at which it may be presented, RFC 3339.
    expires: Option<String>,
}

/// A challenge as its maker sees it later.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChallengeView {
    id: String,
    /// RFC 3339.
    created: String,
    /// RFC 3339.
    expires: Option<String>,
    /// How many certificates it is good for.
    uses_max: Option<u32>,
    /// How many were asked for with it.
    uses: u32,
    /// Whether it can still be presented.
    usable: bool,
    /// The device that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// The user that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    comment: String,
}

/// The names and profile that a challenge is good for, and whom it is for.
#[derive(Default)]
struct Bound {
    names: Option<RequestedNames>,
    profile: Option<ProfileName>,
    configuration: Option<String>,
    recipient: Recipient,
}

/// Whom a challenge is for, as far as its maker says it.
#[derive(Default)]
pub(crate) struct Recipient {
    pub(crate) device: Option<String>,
    pub(crate) user: Option<String>,
}

/// Makes a challenge.
#[utoipa::path(post, path = "/challenges", tag = "challenges", operation_id = "createChallenge", request_body = ChallengeWish,
    responses((status = 201, body = NewChallenge), (status = "4XX", body = Problem), (status = 503, body = Problem)))]
pub(crate) fn create(call: &Call<'_>) -> Attempt {
    let caller = call.caller(Right::CreateChallenges)?;
    let wish: ChallengeWish = if call.request.body().is_empty() { ChallengeWish::default() } else { call.body()? };
    let options = options_of(call)?;
    let bound = wish.bound(call)?;
    let lifetime_s = wish.lifetime_s.unwrap_or(options.lifetime_s);
    let uses_max = wish.uses_max.unwrap_or(1);
    if !(60..=LIFETIME_S_MAX).contains(&lifetime_s) || !(1..=USES_MAX).contains(&uses_max) {
        let text = format!("lifetime_s is 60 to {LIFETIME_S_MAX}, uses_max 1 to {USES_MAX}");
        return Err(Refusal::new(Reason::Malformed, text).into());
    }
    let (made, secret) = make(call, &caller, options, bound, lifetime_s, uses_max, &wish.comment)?;
    let challenge = secret.reveal().to_owned();
    let expires = made.expires.map(|at| at.to_string());
    answer_json(StatusCode::CREATED, &NewChallenge { id: made.id.to_string(), challenge, expires })
}

/// Lists the challenges that the caller made.
#[utoipa::path(get, path = "/challenges", tag = "challenges", operation_id = "listChallenges",
    responses((status = 200, body = Vec<ChallengeView>), (status = "4XX", body = Problem)))]
pub(crate) fn list(call: &Call<'_>) -> Attempt {
    let caller = call.caller(Right::CreateChallenges)?;
    let now = call.engine.now();
    let views: Vec<_> = made_by(call, &caller, options_of(call)?)?
        .into_iter()
        .map(|made| ChallengeView {
            device: made.holder.as_ref().and_then(|holder| holder.device.clone()),
            user: made.holder.as_ref().and_then(|holder| holder.user.clone()),
            usable: !made.is_spent() && !made.is_expired(now) && !made.disabled,
            id: made.id.to_string(),
            created: made.created.to_string(),
            expires: made.expires.map(|at| at.to_string()),
            uses_max: made.uses_max,
            uses: made.uses,
            comment: made.comment,
        })
        .collect();
    answer_json(StatusCode::OK, &views)
}

/// Removes a challenge that the caller made.
#[utoipa::path(delete, path = "/challenges/{id}", tag = "challenges", operation_id = "removeChallenge",
    params(("id" = String, Path)), responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) fn remove(call: &Call<'_>) -> Attempt {
    let caller = call.caller(Right::CreateChallenges)?;
    let options = options_of(call)?;
    let id = call.request.uri().path().rsplit('/').next().unwrap_or_default();
    let unknown = || Refusal::new(Reason::UnknownCertificate, "there is no such challenge of yours");
    let id = CredentialId::new(id).map_err(|_| unknown())?;
    let made = call.engine.credential(&id)?.filter(|made| is_ours(made, &caller, options)).ok_or_else(unknown)?;
    call.engine.remove_credential(&made.id, &caller.requester())?;
    Ok(answer_bytes(StatusCode::NO_CONTENT, "application/json", ""))
}

impl ChallengeWish {
    fn bound(&self, call: &Call<'_>) -> Result<Bound, Error> {
        let malformed = |why: &str| Refusal::new(Reason::Malformed, why);
        let values = values(&self.device, &self.user, &self.variables)?;
        let recipient = Recipient { device: self.device.get("id").cloned(), user: self.user.get("id").cloned() };
        if let Some(name) = &self.configuration {
            if self.subject.is_some() || self.alternative_names.is_some() || self.profile.is_some() {
                return Err(malformed("a configuration says the names and the profile itself").into());
            }
            let configuration = call.configuration(name)?;
            let names = configuration.names(&values)?;
            return Ok(Bound {
                names: Some(names),
                profile: Some(configuration.profile.clone()),
                configuration: Some(name.clone()),
                recipient,
            });
        }
        if values.keys().any(|name| !["device.id", "user.id"].contains(&name.as_str())) {
            return Err(malformed("values other than an id go into the templates of a configuration; name one").into());
        }
        let profile = self.profile.as_deref().map(ProfileName::new).transpose()?;
        let names = match (&self.subject, &self.alternative_names) {
            (None, None) => None,
            (subject, names) => Some(RequestedNames {
                subject: DistinguishedName::parse(subject.as_deref().unwrap_or_default())?,
                alternative: names
                    .iter()
                    .flatten()
                    .map(|name| AlternativeName::parse(name))
                    .collect::<Result<_, _>>()?,
            }),
        };
        Ok(Bound { names, profile, configuration: None, recipient })
    }
}

pub(crate) fn options_of<'a>(call: &'a Call<'_>) -> Result<&'a ChallengeOptions, Refusal> {
    let missing = || Refusal::new(Reason::Unsupported, "this endpoint makes no challenges");
    call.options.challenges.as_ref().ok_or_else(missing)
}

/// A challenge for one device, without names: what the page of NDES and the webhook of Jamf give.
pub(crate) fn make_unbound(
    call: &Call<'_>,
    caller: &Caller,
    recipient: Recipient,
    comment: &str,
) -> Result<SecretText, Error> {
    let options = options_of(call)?;
    let bound = Bound { recipient, ..Bound::default() };
    Ok(make(call, caller, options, bound, options.lifetime_s, 1, comment)?.1)
}

fn make(
    call: &Call<'_>,
    caller: &Caller,
    options: &ChallengeOptions,
    bound: Bound,
    lifetime_s: u64,
    uses_max: u32,
    comment: &str,
) -> Result<(Credential, SecretText), Error> {
    call.mdm.keep_pace(options.per_minute_max)?;
    if outstanding(call, caller, options)? >= options.outstanding_max {
        return Err(cache_is_full());
    }
    let own = caller.token().map(|token| token.binding().clone()).unwrap_or_default();
    let profiles = match (&bound.profile, &own.profiles) {
        (Some(profile), Some(allowed)) if !allowed.contains(profile) => {
            let text = format!("the credential does not allow profile {profile}");
            return Err(Refusal::new(Reason::NotAuthorized, text).into());
        }
        (Some(profile), _) => Some(vec![profile.clone()]),
        (None, own) => own.clone(),
    };
    let (subject, alternative_names) = match bound.names {
        Some(names) => {
            // These stand in the place of the token's own, so they must be among them.
            own.admits(&names)?;
            (Some(names.subject), Some(names.alternative))
        }
        None => (own.subject, own.alternative_names),
    };
    let binding =
        Binding { names: own.names, subject, alternative_names, profiles, keys: own.keys, ..Binding::default() };
    let wish = NewCredential {
        id: None,
        endpoint: options.scep_endpoint.clone(),
        purpose: CredentialPurpose::Challenge,
        comment: comment.to_owned(),
        holder: Some(Holder {
            endpoint: call.settings.name.clone(),
            requester: caller.requester(),
            configuration: bound.configuration,
            device: bound.recipient.device,
            user: bound.recipient.user,
        }),
        secret: None,
        expires: Some(call.engine.now().plus_s(lifetime_s)),
        uses_max: Some(uses_max),
        binding,
    };
    call.engine.create_credential(&wish, &caller.requester())
}

/// Too many challenges wait to be used. The page of NDES has its own words for it.
fn cache_is_full() -> Error {
    Refusal::new(Reason::NotReady, "too many challenges wait to be used; use or remove some").into()
}

/// How many challenges of the caller wait to be used.
pub(crate) fn outstanding(call: &Call<'_>, caller: &Caller, options: &ChallengeOptions) -> Result<usize, Error> {
    let now = call.engine.now();
    let made = made_by(call, caller, options)?;
    Ok(made.iter().filter(|made| !made.is_spent() && !made.is_expired(now)).count())
}

fn made_by(call: &Call<'_>, caller: &Caller, options: &ChallengeOptions) -> Result<Vec<Credential>, Error> {
    let mut query = CredentialQuery {
        endpoint: Some(options.scep_endpoint.clone()),
        purpose: Some(CredentialPurpose::Challenge),
        cursor: None,
        limit: STEP,
    };
    let mut found = Vec::new();
    loop {
        let page = call.engine.credentials(&query)?;
        found.extend(page.items.into_iter().filter(|made| is_ours(made, caller, options)));
        match page.cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return Ok(found),
        }
    }
}

fn is_ours(made: &Credential, caller: &Caller, options: &ChallengeOptions) -> bool {
    made.purpose == CredentialPurpose::Challenge
        && made.endpoint == options.scep_endpoint
        && made.created_by == caller.requester()
}
