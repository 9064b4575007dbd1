//! Verified requests. A [`Call`] exists only after every check of a signed request was made, in the order of [`Site::open`].

use bytes::Bytes;
use ca_backend::{Reason, Refusal};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::account::{Account, usable};
use crate::error::{Attempt, Failure, Problem, ProblemType};
use crate::id::Id;
use crate::jwk::AccountKey;
use crate::jws::{Jws, Signer};
use crate::ledger::Held;
use crate::nonce::{Nonce, bad_nonce};
use crate::site::Site;

/// The most octets of a request body.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// A verified request.
pub(crate) enum Call {
    Account(AccountCall),
    Key(KeyCall),
}

/// A request of a valid account.
pub(crate) struct AccountCall {
    pub(crate) account: Held<Account>,
    pub(crate) payload: Vec<u8>,
    pub(crate) nonce: Nonce,
    url: String,
}

/// A request that is signed with a key alone.
pub(crate) struct KeyCall {
    pub(crate) key: AccountKey,
    pub(crate) payload: Vec<u8>,
    pub(crate) nonce: Nonce,
}

impl Site<'_> {
    /// Verifies a request to `url` (RFC 8555 sections 6.2 to 6.5). Steps 1 to 4 are [`Jws::parse`].
    pub(crate) fn open(&self, request: &http::Request<Bytes>, url: &str) -> Attempt<Call> {
        let content_type =
            request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/jose+json") {
            let problem = Problem::malformed("the content type of a request is application/jose+json");
            return Err(problem.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE).into());
        }
        if request.body().len() > BODY_BYTES_MAX {
            return Err(Problem::malformed("the request body is too long")
                .with_status(StatusCode::PAYLOAD_TOO_LARGE)
                .into());
        }
        let jws = Jws::parse(request.body())?;
        // 5 and 6. The account, and the signature by its key or by the key that came along. Nothing before this left a trace.
        let caller = match &jws.signer {
            Signer::Key(key) => {
                key.verify(jws.algorithm, &jws.signed, &jws.signature)?;
                Caller::Key(key.clone())
            }
            Signer::Account(kid) => {
                let account = self.account_at(kid)?;
                account.value.key.verify(jws.algorithm, &jws.signed, &jws.signature)?;
                usable(&account.value)?;
                Caller::Account(account)
            }
        };
        // 7. The nonce: ours, young, unused. It is used up in the commit of what the request does.
        let nonce = jws
            .nonce
            .as_deref()
            .ok_or_else(|| Problem::new(ProblemType::BadNonce, "the protected header has no nonce"))?;
        let nonce = self.nonces.open(nonce, self.now)?;
        if self.ledger.is_spent(&nonce)? || self.rejects_a_good_nonce() {
            return Err(bad_nonce().into());
        }
        // 8. The URL.
        if jws.url != url {
            return Err(
                Problem::unauthorized(format!("the url header is not the address of the request, {url:?}")).into()
            );
        }
        Ok(match caller {
            Caller::Key(key) => Call::Key(KeyCall { key, payload: jws.payload, nonce }),
            Caller::Account(account) => {
                Call::Account(AccountCall { account, payload: jws.payload, nonce, url: jws.url })
            }
        })
    }

    /// Whether the clients' way out of a bad nonce is tried on this request (`test_rejected_nonces_percent`).
    fn rejects_a_good_nonce(&self) -> bool {
        let percent = u64::from(self.options.test_rejected_nonces_percent);
        percent > 0 && u64::from_be_bytes(self.engine.random()) % 100 < percent
    }

    /// Puts a refusal that the engine does not see into the audit log: of a request that could not be verified, and of an order that
    /// was not made. A bad nonce is part of the protocol, and no refusal.
    pub(crate) fn recorded(&self, failure: Failure, path: &str) -> Failure {
        let Failure::Problem(problem) = &failure else { return failure };
        if problem.kind == ProblemType::BadNonce {
            return failure;
        }
        let reasons = [
            (ProblemType::AccountDoesNotExist, Reason::NotAuthenticated),
            (ProblemType::Unauthorized, Reason::NotAuthorized),
            (ProblemType::BadPublicKey, Reason::BadKey),
            (ProblemType::BadSignatureAlgorithm, Reason::BadAlgorithm),
            (ProblemType::InvalidProfile, Reason::UnknownProfile),
            (ProblemType::RateLimited, Reason::RateLimited),
            (ProblemType::RejectedIdentifier, Reason::NameNotAllowed),
        ];
        let reason = reasons.into_iter().find(|(kind, _)| *kind == problem.kind);
        let reason = reason.map_or(Reason::Malformed, |(_, reason)| reason);
        let mut why = problem.detail.clone();
        for subproblem in &problem.subproblems {
            why.push_str(&format!("; {}: {}", subproblem.identifier, subproblem.detail));
        }
        let refusal = Refusal::new(reason, why);
        match self.engine.refuse(&self.origin(path, [0; 32]), &refusal) {
            Ok(()) => failure,
            Err(error) => error.into(),
        }
    }

    fn account_at(&self, kid: &str) -> Attempt<Held<Account>> {
        let id = kid.strip_prefix(self.base_url).and_then(|rest| rest.strip_prefix("/account/")).and_then(Id::parse);
        let account = id.map(|id| self.ledger.account(&id)).transpose()?.flatten();
        let unknown =
            || Problem::new(ProblemType::AccountDoesNotExist, "there is no account at the kid header's address");
        Ok(account.ok_or_else(unknown)?)
    }
}

/// Who signed, the signature verified.
enum Caller {
    Account(Held<Account>),
    Key(AccountKey),
}

impl Call {
    /// The nonce, which is used up whatever becomes of the request.
    pub(crate) fn nonce(&self) -> &Nonce {
        match self {
            Self::Account(call) => &call.nonce,
            Self::Key(call) => &call.nonce,
        }
    }

    /// The request of an account; most resources take nothing else.
    pub(crate) fn by_account(&self) -> Result<&AccountCall, Problem> {
        match self {
            Self::Account(call) => Ok(call),
            Self::Key(_) => {
                Err(Problem::malformed("this request is signed by an account: use the kid header, not jwk"))
            }
        }
    }

    /// The request of a key.
    pub(crate) fn by_key(&self) -> Result<&KeyCall, Problem> {
        match self {
            Self::Key(call) => Ok(call),
            Self::Account(_) => Err(Problem::malformed("this request is signed by a key: use the jwk header, not kid")),
        }
    }
}

impl KeyCall {
    /// The payload, which must be a JSON object.
    pub(crate) fn object(&self) -> Result<&[u8], Problem> {
        object(&self.payload)
    }
}

impl AccountCall {
    /// The payload, which must be a JSON object.
    pub(crate) fn object(&self) -> Result<&[u8], Problem> {
        object(&self.payload)
    }

    /// The payload; `None` in a POST-as-GET (RFC 8555 section 6.3).
    pub(crate) fn optional_object(&self) -> Result<Option<&[u8]>, Problem> {
        if self.payload.is_empty() { Ok(None) } else { self.object().map(Some) }
    }

    /// Checks that the request is a POST-as-GET.
    pub(crate) fn no_payload(&self) -> Result<(), Problem> {
        if self.payload.is_empty() {
            Ok(())
        } else {
            Err(Problem::malformed("this resource is only read: the payload must be empty"))
        }
    }

    /// The key and the payload of a request within this request, signed by that key (RFC 8555 section 7.3.5).
    pub(crate) fn open_inner_by_key(&self) -> Attempt<(AccountKey, Vec<u8>)> {
        let jws = Jws::parse(&self.payload)?;
        let Signer::Key(key) = jws.signer else {
            return Err(
                Problem::malformed("the inner signature is made by the new key: use the jwk header, not kid").into()
            );
        };
        key.verify(jws.algorithm, &jws.signed, &jws.signature)?;
        if jws.nonce.is_some() || jws.url != self.url {
            return Err(Problem::malformed(
                "the inner signature has the same url header as the outer one, and no nonce",
            )
            .into());
        }
        Ok((key, jws.payload))
    }
}

fn object(payload: &[u8]) -> Result<&[u8], Problem> {
    match payload.trim_ascii_start().first() {
        Some(b'{') => Ok(payload),
        Some(_) | None => Err(Problem::malformed("the payload is not a JSON object")),
    }
}
