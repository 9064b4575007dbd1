//! `/v1/issuers`: an authority and the generation of its key, as status URLs name it.

use axum::Json as Answer;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Moment;
use super::caller::{Caller, Named};
use super::problem::Problem;

/// A CRL that is published.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Crl {
    /// The issuer, as in status URLs: the authority's name, and `.2` behind it from the second generation of its key on.
    pub issuer: String,
    /// Its cRLNumber.
    pub number: u64,
    /// When it was made.
    pub this_update: Moment,
    /// Until when it counts.
    pub next_update: Moment,
    /// Its length as DER, in bytes.
    pub size_bytes: usize,
}

/// Makes and publishes a CRL now.
#[utoipa::path(post, path = "/v1/issuers/{path}/crl", tag = "authorities",
    params(("path" = String, Path, description = "The issuer, as in status URLs")),
    responses((status = 200, body = Crl), (status = "4XX", body = Problem)))]
pub(super) async fn publish_crl(caller: Caller, Named(path): Named<String>) -> Result<Answer<Crl>, Problem> {
    let publish = move |caller: &Caller| {
        let crl = caller.engine().publish_crl(&path)?;
        Ok(Crl {
            issuer: path,
            number: crl.number,
            this_update: crl.this_update.into(),
            next_update: crl.next_update.into(),
            size_bytes: crl.der.len(),
        })
    };
    Ok(Answer(caller.ask(publish).await?))
}
