//! The values of the extensions that requests may bring: encoding, and a check by type.

use const_oid::ObjectIdentifier;
use der::asn1::{AnyRef, BmpString, Ia5StringRef, OctetStringRef};
use der::{Decode, Encode, Sequence};
use x509_cert::ext::pkix::CertificatePolicies;
use x509_cert::ext::pkix::certpolicy::PolicyInformation;

use crate::profile::RequestExtension;

/// Octets of the longest value.
const VALUE_BYTES_MAX: usize = 4096;
/// Policies, capabilities in the longest list.
const ENTRIES_MAX: usize = 32;
/// Octets of the longest CPS address.
const CPS_BYTES_MAX: usize = 512;
/// Characters of the longest template name.
const TEMPLATE_CHARS_MAX: usize = 64;
/// Sub-authorities of the longest security identifier (SID_MAX_SUB_AUTHORITIES).
const SUB_AUTHORITIES_MAX: usize = 15;

/// id-qt-cps (RFC 5280 section 4.2.1.4).
const CPS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.2.1");
/// szOID_NTDS_OBJECTSID.
const OBJECT_SID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.25.2.1");

/// An SMIMECapability (RFC 8551 section 2.5.2).
#[derive(Sequence)]
struct Capability<'a> {
    algorithm: ObjectIdentifier,
    #[asn1(optional = "true")]
    parameters: Option<AnyRef<'a>>,
}

/// CertificateTemplateOID (MS-WCCE section 2.2.2.7.7.2).
#[derive(Sequence)]
struct Template {
    template: ObjectIdentifier,
    #[asn1(optional = "true")]
    major: Option<u32>,
    #[asn1(optional = "true")]
    minor: Option<u32>,
}

/// The one otherName of the security identifier extension (MS-WCCE section 2.2.2.7.7.4), which GeneralNames would hold as `[0]`.
#[derive(Sequence)]
struct SecurityIdentifier<'a> {
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", constructed = "true")]
    object: ObjectSid<'a>,
}

#[derive(Sequence)]
struct ObjectSid<'a> {
    type_id: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    sid: &'a OctetStringRef,
}

pub(super) fn encode_policies(policies: &[ObjectIdentifier]) -> der::Result<Vec<u8>> {
    let information = |oid: &ObjectIdentifier| PolicyInformation { policy_identifier: *oid, policy_qualifiers: None };
    CertificatePolicies(policies.iter().map(information).collect()).to_der()
}

pub(super) fn encode_capabilities(algorithms: &[ObjectIdentifier]) -> der::Result<Vec<u8>> {
    algorithms.iter().map(|oid| Capability { algorithm: *oid, parameters: None }).collect::<Vec<_>>().to_der()
}

pub(super) fn encode_template(template: ObjectIdentifier, major: u32, minor: u32) -> der::Result<Vec<u8>> {
    Template { template, major: Some(major), minor: Some(minor) }.to_der()
}

pub(super) fn encode_template_name(name: &str) -> der::Result<Vec<u8>> {
    BmpString::from_utf8(name)?.to_der()
}

pub(super) fn encode_security_identifier(sid: &str) -> der::Result<Vec<u8>> {
    let object = ObjectSid { type_id: OBJECT_SID, sid: OctetStringRef::new(sid.as_bytes())? };
    SecurityIdentifier { object }.to_der()
}

/// The identifiers in certificatePolicies or application policies.
pub(super) fn policies(der: &[u8]) -> Option<Vec<ObjectIdentifier>> {
    let policies = CertificatePolicies::from_der(der).ok()?;
    Some(policies.0.iter().map(|policy| policy.policy_identifier).collect())
}

type Checked = Result<(), String>;

/// Whether the content of an extnValue follows the extension's type, in DER and within bounds.
pub(super) fn check(extension: RequestExtension, der: &[u8]) -> Checked {
    if der.len() > VALUE_BYTES_MAX {
        return Err(format!("has more than {VALUE_BYTES_MAX} octets"));
    }
    match extension {
        RequestExtension::CertificatePolicies => check_policies(der, true),
        RequestExtension::ApplicationPolicies => check_policies(der, false),
        RequestExtension::SmimeCapabilities => check_capabilities(der),
        RequestExtension::MicrosoftTemplate => decode::<Template>(der).map(|_| ()),
        RequestExtension::MicrosoftTemplateName => check_template_name(der),
        RequestExtension::SecurityIdentifier => check_security_identifier(der),
    }
}

/// Decodes, and shows that encoding gives the same octets.
fn decode<'a, T: Decode<'a> + Encode>(der: &'a [u8]) -> Result<T, String> {
    let value = T::from_der(der).map_err(|_| "does not follow its type".to_owned())?;
    if value.to_der().is_ok_and(|again| again == der) {
        Ok(value)
    } else {
        Err("is not in its canonical encoding".to_owned())
    }
}

fn check_policies(der: &[u8], qualifiers: bool) -> Checked {
    let policies: CertificatePolicies = decode(der)?;
    if policies.0.is_empty() || policies.0.len() > ENTRIES_MAX {
        return Err(format!("holds no policy or more than {ENTRIES_MAX}"));
    }
    for (index, policy) in policies.0.iter().enumerate() {
        let repeated =
            policies.0.iter().take(index).any(|earlier| earlier.policy_identifier == policy.policy_identifier);
        if repeated {
            return Err(format!("holds the policy {} twice", policy.policy_identifier));
        }
        let Some(given) = &policy.policy_qualifiers else {
            continue;
        };
        let cps_fits = |value: AnyRef<'_>| {
            value.decode_as::<Ia5StringRef<'_>>().is_ok_and(|uri| {
                let text = uri.as_str();
                let scheme = text.starts_with("http://") || text.starts_with("https://");
                scheme && text.len() <= CPS_BYTES_MAX && text.bytes().all(|octet| octet.is_ascii_graphic())
            })
        };
        let fits = given.len() == 1
            && given.iter().all(|qualifier| {
                qualifier.policy_qualifier_id == CPS
                    && qualifier.qualifier.as_ref().is_some_and(|value| cps_fits(value.into()))
            });
        if !qualifiers || !fits {
            return Err("holds a policy qualifier other than one address of a practice statement (CPS)".to_owned());
        }
    }
    Ok(())
}

fn check_capabilities(der: &[u8]) -> Checked {
    let capabilities: Vec<Capability<'_>> = decode(der)?;
    if capabilities.is_empty() || capabilities.len() > ENTRIES_MAX {
        return Err(format!("holds no capability or more than {ENTRIES_MAX}"));
    }
    Ok(())
}

fn check_template_name(der: &[u8]) -> Checked {
    let name = decode::<BmpString>(der)?.to_string();
    if name.is_empty() || name.chars().count() > TEMPLATE_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(format!("is empty, longer than {TEMPLATE_CHARS_MAX} characters, or holds a control character"));
    }
    Ok(())
}

fn check_security_identifier(der: &[u8]) -> Checked {
    let SecurityIdentifier { object } = decode(der)?;
    let text = std::str::from_utf8(object.sid.as_bytes()).unwrap_or_default();
    if object.type_id == OBJECT_SID && is_security_identifier(text) {
        return Ok(());
    }
    Err("holds no security identifier such as S-1-5-21-1-2-3-1105".to_owned())
}

/// The text form of a security identifier (MS-DTYP section 2.4.2.1) with a decimal authority.
fn is_security_identifier(text: &str) -> bool {
    const AUTHORITY_MAX: u64 = (1 << 48) - 1;
    let number = |part: &str, greatest: u64| {
        let canonical = part == "0" || !part.starts_with('0');
        let digits = part.bytes().all(|octet| octet.is_ascii_digit());
        digits && canonical && part.parse::<u64>().is_ok_and(|value| value <= greatest)
    };
    let Some(rest) = text.strip_prefix("S-1-") else {
        return false;
    };
    let mut parts = rest.split('-');
    let authority = parts.next().is_some_and(|part| number(part, AUTHORITY_MAX));
    let sub_authorities: Vec<&str> = parts.take(SUB_AUTHORITIES_MAX + 1).collect();
    authority
        && (1..=SUB_AUTHORITIES_MAX).contains(&sub_authorities.len())
        && sub_authorities.iter().all(|part| number(part, u64::from(u32::MAX)))
}
