//! Fills a store for the benchmarks, much faster than by issuing: the same records, many certificates to a commit, no signatures.

use crate::clock::Time;
use crate::engine::{Engine, IssuedCertificate};
use crate::error::{Error, Fault};
use crate::record::{CertificateForm, InFlightForm, Positional, RevokedForm};
use crate::request::EnrollmentRequest;
use crate::revoke::{revision_counter, revoked_key};
use crate::serial::Serial;
use crate::status::RevocationReason;
use crate::store::{Batch, CommitError, Space};

/// Certificates in one commit: it must stay below what the committer takes in one group.
const CERTIFICATES_PER_COMMIT: usize = 64;
/// The same for records of revoked certificates, which are short.
const REVOCATIONS_PER_COMMIT: u64 = 1_000;

/// Stores what [`Engine::enroll`] would store for each request, as if each had been answered `at` its moment with a copy of
/// `issued`, which was issued here, under a serial of its own.
///
/// # Errors
/// The store's fault.
pub fn load_certificates(
    engine: &Engine,
    issued: &IssuedCertificate,
    requests: impl Iterator<Item = (Time, EnrollmentRequest)>,
) -> Result<(), Error> {
    let form = engine.certificate_form(&issued.serial)?.ok_or_else(|| Fault::Broken("nothing to copy".to_owned()))?;
    let mut batch = Batch::new();
    let mut waiting = 0;
    for (at, request) in requests {
        let copy = certificate(engine, &issued.serial, &form, at, request)?;
        batch.writes.extend(copy.writes);
        batch.adds.extend(copy.adds);
        batch.appends.extend(copy.appends);
        waiting += 1;
        if waiting == CERTIFICATES_PER_COMMIT {
            commit(engine, std::mem::take(&mut batch))?;
            waiting = 0;
        }
    }
    commit(engine, batch)
}

/// The records that are left once a certificate is issued.
fn certificate(
    engine: &Engine,
    original: &Serial,
    form: &CertificateForm,
    at: Time,
    request: EnrollmentRequest,
) -> Result<Batch, Error> {
    let serial = Serial::generate(at, engine.inner.rng.as_ref());
    let facts = request.evidence.facts();
    let certificate = CertificateForm {
        requester: facts.requester.clone(),
        not_after: at.plus_s(form.not_after.since_s(original.issued_at())),
        der: with_serial(&form.der, original, &serial)?,
        ..form.clone()
    };
    let origin_key = engine.origin_key(&request.origin, &facts.requester, at);
    let in_flight = InFlightForm {
        at,
        certificate,
        facts: Positional(facts),
        origin: Positional(request.origin),
        authority: request.authority,
        origin_key,
    };
    let detail = format!("TBSCertificate SHA-256 {}", hex::encode(crate::sha256(&in_flight.certificate.der)));
    let batch = engine.reservation(&serial, &in_flight, detail)?;
    let mut batch = engine.completion(batch, &serial, &in_flight, &request.names)?;
    batch.checks.clear();
    batch.writes.retain(|(space, _, _)| *space != Space::InFlight);
    Ok(batch)
}

fn with_serial(der: &[u8], from: &Serial, to: &Serial) -> Result<Vec<u8>, Fault> {
    let wanted = from.as_bytes();
    let place = der.windows(wanted.len()).position(|octets| octets == wanted);
    let (before, rest) = place
        .and_then(|at| der.split_at_checked(at))
        .ok_or_else(|| Fault::Broken("a certificate without its serial".to_owned()))?;
    let after = rest.get(wanted.len()..).unwrap_or_default();
    Ok([before, to.as_bytes(), after].concat())
}

/// Puts `count` certificates on the list of those that the issuer at `path` revoked, one a second until now, without storing the
/// certificates themselves.
///
/// # Errors
/// The store's fault.
pub fn load_revocations(engine: &Engine, path: &str, count: u64) -> Result<(), Error> {
    let registry = engine.registry();
    let issuer = registry.issuer_at(path).ok_or_else(|| Fault::Broken(format!("there is no issuer {path}")))?.number;
    let now = engine.now();
    let mut batch = Batch::new();
    for left in (1..=count).rev() {
        let at = now.minus_s(left);
        let form = RevokedForm(at, RevocationReason::KeyCompromise, None, now.plus_s(left));
        let serial = Serial::generate(at, engine.inner.rng.as_ref());
        batch = batch.put(Space::Revoked, revoked_key(issuer, &serial), form.encode()).add(revision_counter(issuer), 1);
        if left % REVOCATIONS_PER_COMMIT == 1 {
            commit(engine, std::mem::take(&mut batch))?;
        }
    }
    commit(engine, batch)
}

fn commit(engine: &Engine, batch: Batch) -> Result<(), Error> {
    match engine.inner.store.commit(batch) {
        Ok(_) => Ok(()),
        Err(CommitError::Conflict) => Err(Fault::Broken("a load conflicts with something".to_owned()).into()),
        Err(CommitError::Fault(fault)) => Err(fault.into()),
    }
}
