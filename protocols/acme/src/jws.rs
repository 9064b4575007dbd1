//! Signed requests: flattened JSON Web Signatures (RFC 7515 section 7.2.2 as narrowed by RFC 8555 section 6.2).
//!
//! [`Jws::parse`] only reads. Nothing in a [`Jws`] may be acted upon before [`AccountKey::verify`] accepted its signature; that
//! order is kept in one place, [`crate::call`].

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::error::{Attempt, Problem, ProblemType};
use crate::jwk::{AccountKey, Jwk, SignatureAlgorithm};

/// The most octets of a protected header: an RSA key of 8192 bits in base64url, the URL and the nonce fit with room to spare.
const HEADER_BYTES_MAX: usize = 8 * 1024;

/// A signed request, taken apart but not verified.
#[derive(Debug)]
pub(crate) struct Jws {
    pub(crate) algorithm: SignatureAlgorithm,
    pub(crate) signer: Signer,
    pub(crate) url: String,
    /// Absent in the inner signature of a key change.
    pub(crate) nonce: Option<String>,
    /// The octets that the signature covers: both encoded parts with a dot between.
    pub(crate) signed: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

/// Whose key signs.
#[derive(Debug)]
pub(crate) enum Signer {
    /// The key itself, before there is an account or apart from any.
    Key(AccountKey),
    /// The URL of an account.
    Account(String),
}

/// RFC 8555 section 6.2 forbids the unprotected `header`; `signatures` is the general form. Neither is a member here, so both are
/// refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Flattened {
    pub(crate) protected: String,
    pub(crate) payload: String,
    pub(crate) signature: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    nonce: Option<String>,
    url: Option<String>,
    jwk: Option<Jwk>,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
    b64: Option<IgnoredAny>,
}

impl Jws {
    /// Takes a request body apart: steps 1 to 4 of the checks on a signed request.
    pub(crate) fn parse(body: &[u8]) -> Attempt<Self> {
        // 1. The flattened form, nothing beside it.
        let whole: Flattened = json(body, "the request body is not a flattened JSON Web Signature")?;
        if whole.protected.len() > HEADER_BYTES_MAX {
            return Err(Problem::malformed("the protected header is too long").into());
        }
        let header: Header = json(&decode(&whole.protected, "protected")?, "the protected header cannot be read")?;
        if header.crit.is_some() || header.b64.is_some() {
            return Err(Problem::malformed("critical and b64 headers are not understood").into());
        }
        let payload = decode(&whole.payload, "payload")?;
        let signature = decode(&whole.signature, "signature")?;
        // 2. The protected header.
        let url = header.url.ok_or_else(|| Problem::malformed("the protected header has no url"))?;
        // 3. The algorithm.
        let algorithm = SignatureAlgorithm::named(&header.alg).ok_or_else(|| Problem {
            algorithms: SignatureAlgorithm::NAMES,
            ..Problem::new(ProblemType::BadSignatureAlgorithm, "this signature algorithm is not accepted")
        })?;
        // 4. The key and the rules for keys.
        let signer = match (header.jwk, header.kid) {
            (Some(jwk), None) => Signer::Key(AccountKey::accept(&jwk)?),
            (None, Some(kid)) => Signer::Account(kid),
            (Some(_), Some(_)) => return Err(Problem::malformed("the protected header has both jwk and kid").into()),
            (None, None) => return Err(Problem::malformed("the protected header has neither jwk nor kid").into()),
        };
        let signed = [whole.protected.as_bytes(), b".", whole.payload.as_bytes()].concat();
        Ok(Self { algorithm, signer, url, nonce: header.nonce, signed, payload, signature })
    }
}

/// Reads JSON; serde_json itself limits the depth.
pub(crate) fn json<T: DeserializeOwned>(text: &[u8], what_is_wrong: &str) -> Result<T, Problem> {
    serde_json::from_slice(text).map_err(|error| Problem::malformed(format!("{what_is_wrong}: {error}")))
}

/// Reads base64url without padding (RFC 7515 section 2).
pub(crate) fn decode(text: &str, name: &str) -> Result<Vec<u8>, Problem> {
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Problem::malformed(format!("{name:?} is not base64url without padding")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Failure;

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        body: String,
        refused: Option<String>,
    }

    #[test]
    fn s19_requests_are_taken_apart_or_refused_as_the_vectors_say() {
        let vectors: Vec<Vector> =
            serde_json::from_str(include_str!("../../../testvectors/acme/requests.json")).unwrap();
        assert!(vectors.len() > 10);
        for vector in vectors {
            let problem = match Jws::parse(vector.body.as_bytes()) {
                Ok(_) => None,
                Err(Failure::Problem(problem)) => Some(problem.kind.name().to_owned()),
                Err(other) => panic!("{}: {other:?}", vector.name),
            };
            assert_eq!(problem, vector.refused, "{}", vector.name);
        }
    }

    #[test]
    fn s20_deep_and_long_json_is_refused() {
        let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
        let header = BASE64_URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"ES256\",\"x\":{deep}}}"));
        let nested = format!("{{\"protected\":\"{header}\",\"payload\":\"\",\"signature\":\"\"}}");
        for body in [
            deep.as_str(),
            &nested,
            &format!("{{\"protected\":\"{}\",\"payload\":\"\",\"signature\":\"\"}}", "A".repeat(9000)),
        ] {
            assert!(
                matches!(Jws::parse(body.as_bytes()), Err(Failure::Problem(problem)) if problem.kind == ProblemType::Malformed)
            );
        }
    }
}
