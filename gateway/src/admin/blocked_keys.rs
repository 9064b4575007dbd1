//! `/v1/blocked-keys`: public keys that no certificate may hold.

use axum::http::StatusCode;

use super::caller::{Caller, Named};
use super::problem::{Problem, malformed};

/// Blocks a public key for good.
#[utoipa::path(put, path = "/v1/blocked-keys/{fingerprint}", tag = "certificates",
    params(("fingerprint" = String, Path, description = "SHA-256 of the SubjectPublicKeyInfo, 64 hexadecimal digits")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn block(caller: Caller, Named(fingerprint): Named<String>) -> Result<StatusCode, Problem> {
    let block = move |caller: &Caller| {
        let mut octets = [0; 32];
        hex::decode_to_slice(&fingerprint, &mut octets)
            .map_err(|_| malformed("a key is named by the SHA-256 of its SubjectPublicKeyInfo: 64 hexadecimal digits"))?;
        Ok(caller.engine().block_key(octets, caller.operator())?)
    };
    caller.ask(block).await.map(|()| StatusCode::NO_CONTENT)
}
