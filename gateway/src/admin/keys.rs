//! `/v1/keys` and `/v1/key-stores`: where private keys are, and what those places can do.

use std::time::Duration;

use axum::Json as Answer;
use axum::http::StatusCode;
use ca_backend::{Ability, KeyAlgorithm, KeyStoreReport, ListedKey, SignRate};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::caller::{Caller, Json, Named, Parameters};
use super::problem::Problem;

/// A private key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Key {
    /// The key store.
    pub store: String,
    /// Where it is: `file:NAME`, or a PKCS#11 URI (RFC 7512).
    pub key: String,
    /// Its algorithm; absent for a kind of key that is not used here.
    #[schema(value_type = Option<String>, example = "ec-p256")]
    pub algorithm: Option<KeyAlgorithm>,
    /// Who uses it: an issuer; `tls`, `ocsp/ISSUER`, `ra/ISSUER/ALGORITHM`, with `/before` for the one that it had before.
    pub used_by: Vec<String>,
}

impl From<ListedKey> for Key {
    fn from(listed: ListedKey) -> Self {
        Self { store: listed.store, key: listed.key, algorithm: listed.algorithm, used_by: listed.used_by }
    }
}

/// Which keys to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeyQuery {
    /// The key store; all if not stated.
    pub store: Option<String>,
}

/// The wish for a key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyWish {
    /// What it shall be called: lower-case letters, digits, `-` and `.`.
    pub label: String,
    /// Its algorithm.
    #[schema(value_type = String, example = "ec-p256")]
    pub algorithm: KeyAlgorithm,
    /// The key store; the one for authorities if not stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

/// A key that was made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewKey {
    /// Where it is.
    pub key: String,
}

/// How to test a key store.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyTest {
    /// How long each rate is measured, in milliseconds: 1 to 10000.
    pub measure_ms: u64,
}

/// What a key store can do.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyStoreTested {
    /// The key store.
    pub store: String,
    /// What authorities and services need, and whether it does it.
    pub abilities: Vec<Tried>,
    /// How fast it signs.
    pub rates: Vec<Rate>,
}

/// One thing that was tried.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Tried {
    /// What.
    pub what: String,
    /// Why it does not work; absent if it does.
    pub why_not: Option<String>,
}

/// A measured speed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Rate {
    /// With keys of this algorithm.
    #[schema(value_type = String, example = "ec-p256")]
    pub algorithm: KeyAlgorithm,
    /// Asked by so many at a time.
    pub at_a_time: usize,
    /// Signatures per second.
    pub per_s: u64,
}

impl From<KeyStoreReport> for KeyStoreTested {
    fn from(report: KeyStoreReport) -> Self {
        let tried = |Ability { what, why_not }| Tried { what, why_not };
        let rate = |SignRate { algorithm, at_a_time, per_s }| Rate { algorithm, at_a_time, per_s };
        Self {
            store: report.store,
            abilities: report.abilities.into_iter().map(tried).collect(),
            rates: report.rates.into_iter().map(rate).collect(),
        }
    }
}

/// Lists private keys.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", params(KeyQuery),
    responses((status = 200, body = Vec<Key>), (status = "4XX", body = Problem)))]
pub(super) async fn list(caller: Caller, Parameters(query): Parameters<KeyQuery>) -> Result<Answer<Vec<Key>>, Problem> {
    let list = move |caller: &Caller| Ok(caller.engine().keys(query.store.as_deref())?);
    Ok(Answer(caller.ask(list).await?.into_iter().map(Key::from).collect()))
}

/// Makes a private key that an authority may adopt later.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", request_body = KeyWish,
    responses((status = 201, body = NewKey), (status = "4XX", body = Problem)))]
pub(super) async fn generate(
    caller: Caller,
    Json(wish): Json<KeyWish>,
) -> Result<(StatusCode, Answer<NewKey>), Problem> {
    let generate = move |caller: &Caller| {
        let made = caller.engine().generate_key(wish.store.as_deref(), &wish.label, wish.algorithm, caller.operator());
        Ok(NewKey { key: made? })
    };
    Ok((StatusCode::CREATED, Answer(caller.ask(generate).await?)))
}

/// Tries everything that authorities and services need of a key store, and measures how fast it signs.
#[utoipa::path(post, path = "/v1/key-stores/{name}/test", tag = "keys", request_body = KeyTest,
    params(("name" = String, Path, description = "The key store, as /readyz and the settings name it")),
    responses((status = 200, body = KeyStoreTested), (status = "4XX", body = Problem)))]
pub(super) async fn test(
    caller: Caller,
    Named(name): Named<String>,
    Json(test): Json<KeyTest>,
) -> Result<Answer<KeyStoreTested>, Problem> {
    let examine = move |caller: &Caller| {
        let measure = Duration::from_millis(test.measure_ms.clamp(1, 10_000));
        Ok(caller.engine().examine_key_store(&name, measure)?)
    };
    Ok(Answer(caller.ask(examine).await?.into()))
}
