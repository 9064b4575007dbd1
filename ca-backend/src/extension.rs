//! What a request may bring beside names and key, and what becomes of it.

mod value;

use const_oid::ObjectIdentifier;

use crate::error::{Fault, Reason, Refusal};
use crate::profile::{ExtendedKeyUsageRule, Profile, RequestExtension, purpose};

/// Purposes in the longest extended key usage that a request may ask for.
const PURPOSES_MAX: usize = 32;

/// The extensions that a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedExtensions {
    /// Purposes for the extended key usage; none leaves the choice to the profile.
    pub extended_key_usage: Vec<ObjectIdentifier>,
    /// Other extensions: type and the content of extnValue, DER.
    pub other: Vec<(ObjectIdentifier, Vec<u8>)>,
}

impl RequestedExtensions {
    /// Asks for a purpose as well.
    #[must_use]
    pub fn with_purpose(mut self, purpose: ObjectIdentifier) -> Self {
        self.extended_key_usage.push(purpose);
        self
    }

    /// Asks for certificatePolicies (RFC 5280 section 4.2.1.4) without qualifiers.
    ///
    /// # Errors
    /// A fault if the value cannot be encoded.
    pub fn with_certificate_policies(self, policies: &[ObjectIdentifier]) -> Result<Self, Fault> {
        Ok(self.with(RequestExtension::CertificatePolicies, value::encode_policies(policies)?))
    }

    /// Asks for Microsoft's application policies.
    ///
    /// # Errors
    /// A fault if the value cannot be encoded.
    pub fn with_application_policies(self, purposes: &[ObjectIdentifier]) -> Result<Self, Fault> {
        Ok(self.with(RequestExtension::ApplicationPolicies, value::encode_policies(purposes)?))
    }

    /// Asks for S/MIME capabilities (RFC 4262) without parameters, the strongest first.
    ///
    /// # Errors
    /// A fault if the value cannot be encoded.
    pub fn with_smime_capabilities(self, algorithms: &[ObjectIdentifier]) -> Result<Self, Fault> {
        Ok(self.with(RequestExtension::SmimeCapabilities, value::encode_capabilities(algorithms)?))
    }

    /// Asks for a Microsoft template by object identifier and version.
    ///
    /// # Errors
    /// A fault if the value cannot be encoded.
    pub fn with_template(self, template: ObjectIdentifier, major: u32, minor: u32) -> Result<Self, Fault> {
        Ok(self.with(RequestExtension::MicrosoftTemplate, value::encode_template(template, major, minor)?))
    }

    /// Asks for a Microsoft template by name.
    ///
    /// # Errors
    /// A fault if the value cannot be encoded.
    pub fn with_template_name(self, name: &str) -> Result<Self, Fault> {
        Ok(self.with(RequestExtension::MicrosoftTemplateName, value::encode_template_name(name)?))
    }

    /// Asks for the security identifier of an account, such as `S-1-5-21-1-2-3-1105`.
    ///
    /// # Errors
    /// A fault if the value cannot be encoded.
    pub fn with_security_identifier(self, sid: &str) -> Result<Self, Fault> {
        Ok(self.with(RequestExtension::SecurityIdentifier, value::encode_security_identifier(sid)?))
    }

    fn with(mut self, extension: RequestExtension, value: Vec<u8>) -> Self {
        self.other.push((extension.oid(), value));
        self
    }
}

/// The extensions that a certificate will hold beside those that follow from issuer, key and profile. Made by [`resolve`] only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GrantedExtensions {
    pub(crate) extended_key_usage: Vec<ObjectIdentifier>,
    pub(crate) other: Vec<(ObjectIdentifier, Vec<u8>)>,
}

/// Judges what a request asks for by the profile.
///
/// `operator_purposes` is the list from which requests may choose where the profile leaves the extended key usage to them;
/// protected purposes in it count only if the profile names them. The profile's own values may always be chosen.
///
/// # Errors
/// `NotAuthorized` for purposes and extensions that the profile does not allow, `Malformed` for extensions given twice or with a
/// value that does not follow its type.
pub(crate) fn resolve(
    profile: &Profile,
    requested: &RequestedExtensions,
    operator_purposes: &[ObjectIdentifier],
) -> Result<GrantedExtensions, Refusal> {
    let extended_key_usage = resolve_purposes(profile, &requested.extended_key_usage, operator_purposes)?;
    let mut other: Vec<(ObjectIdentifier, Vec<u8>)> = Vec::with_capacity(requested.other.len());
    for (oid, value) in &requested.other {
        if other.iter().any(|(earlier, _)| earlier == oid) {
            return Err(Refusal::new(Reason::Malformed, format!("the extension {oid} is requested twice")));
        }
        check_value(profile, oid, value, &extended_key_usage)?;
        other.push((*oid, value.clone()));
    }
    Ok(GrantedExtensions { extended_key_usage, other })
}

fn resolve_purposes(
    profile: &Profile,
    requested: &[ObjectIdentifier],
    operator_purposes: &[ObjectIdentifier],
) -> Result<Vec<ObjectIdentifier>, Refusal> {
    let own = &profile.extended_key_usage;
    if let Some(refused) = requested.iter().find(|purpose| !may_have(profile, purpose, operator_purposes)) {
        return Err(Refusal::new(
            Reason::NotAuthorized,
            format!("the profile {} does not allow the extended key usage {}", profile.id, purpose::name(refused)),
        ));
    }
    if requested.len() > PURPOSES_MAX {
        return Err(Refusal::new(
            Reason::Malformed,
            format!("more than {PURPOSES_MAX} extended key usages are requested"),
        ));
    }
    Ok(match own.rule {
        ExtendedKeyUsageRule::FromRequest if !requested.is_empty() => {
            let mut distinct = Vec::with_capacity(requested.len());
            for purpose in requested {
                if !distinct.contains(purpose) {
                    distinct.push(*purpose);
                }
            }
            distinct
        }
        // A request may confirm what the profile fixes, never narrow or widen it.
        ExtendedKeyUsageRule::FromRequest | ExtendedKeyUsageRule::Fixed | ExtendedKeyUsageRule::Never => {
            own.values.clone()
        }
    })
}

/// Whether a certificate of this profile may have this purpose.
pub(crate) fn may_have(profile: &Profile, purpose: &ObjectIdentifier, operator_purposes: &[ObjectIdentifier]) -> bool {
    let own = &profile.extended_key_usage;
    let chosen = own.rule == ExtendedKeyUsageRule::FromRequest
        && operator_purposes.contains(purpose)
        && !purpose::PROTECTED.contains(purpose);
    own.values.contains(purpose) || chosen
}

/// Whether the profile allows a request to bring this extension with this value, in a certificate with these purposes.
pub(crate) fn check_value(
    profile: &Profile,
    oid: &ObjectIdentifier,
    value: &[u8],
    extended_key_usage: &[ObjectIdentifier],
) -> Result<(), Refusal> {
    let Some(extension) = RequestExtension::of(oid).filter(|extension| profile.request_extensions.contains(extension))
    else {
        let reason = format!("the profile {} does not allow the extension {oid} in requests", profile.id);
        return Err(Refusal::new(Reason::NotAuthorized, reason));
    };
    value::check(extension, value).map_err(|why| {
        Refusal::new(Reason::Malformed, format!("the requested extension {} {why}", extension.name()))
    })?;
    // Windows prefers application policies over the extended key usage: they must not say more than it does.
    if extension == RequestExtension::ApplicationPolicies {
        let policies = value::policies(value).unwrap_or_default();
        if let Some(beyond) = policies.iter().find(|policy| !extended_key_usage.contains(policy)) {
            return Err(Refusal::new(
                Reason::NotAuthorized,
                format!(
                    "the application policy {} is not among the certificate's extended key usages",
                    purpose::name(beyond)
                ),
            ));
        }
    }
    Ok(())
}
