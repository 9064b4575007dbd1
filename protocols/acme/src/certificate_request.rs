//! What a CSR may say in an order: exactly the ordered names, in its own way (RFC 8555 section 7.4).

use ca_backend::{AlternativeName, CertificateRequest, DistinguishedName, RequestedNames};
use const_oid::db::rfc4519::CN;
use const_oid::db::rfc5280::ID_CE_SUBJECT_ALT_NAME;

use crate::error::{Problem, ProblemType};
use crate::identifier::Identifier;

/// Octets of the longest commonName (RFC 5280 appendix A.1, ub-common-name).
const COMMON_NAME_BYTES_MAX: usize = 64;

/// The names of the certificate, if the CSR asks for the ordered identifiers, for all of them, and for nothing else.
///
/// The alternative names are those of the order; a CSR may leave devices out (draft-ietf-acme-device-attest sections 3.2 and 4.2), the
/// certificate names them. The subject is the CSR's first common name if that is an ordered identifier that
/// fits; every other subject attribute is ignored, since nobody vouches for it.
pub(crate) fn names_of(request: &CertificateRequest, ordered: &[Identifier]) -> Result<RequestedNames, Problem> {
    let ordered: Vec<AlternativeName> = ordered.iter().map(Identifier::alternative_name).collect();
    let subject = DistinguishedName::from_der(request.subject_der()).map_err(|refusal| bad_csr(refusal.public()))?;
    let common_names = subject.common_names();
    let asked = alternative_names(request)?;

    let extra = asked.iter().find(|name| !ordered.contains(name));
    if let Some(extra) = extra {
        return Err(bad_csr(format!("the CSR asks for {extra}, which the order does not name")));
    }
    let by_common_name =
        |name: &AlternativeName| asked.is_empty() && common_names.iter().any(|common| stands_for(common, name));
    if let Some(missing) =
        ordered.iter().find(|name| !asked.contains(name) && !by_common_name(name) && !is_device(name))
    {
        return Err(bad_csr(format!("the CSR does not ask for {missing}, which the order names")));
    }
    if let Some(stranger) = common_names.iter().find(|common| !ordered.iter().any(|name| stands_for(common, name))) {
        return Err(bad_csr(format!("the CSR's common name {stranger:?} is not an identifier of the order")));
    }

    let fitting = common_names
        .first()
        .filter(|common| common.len() <= COMMON_NAME_BYTES_MAX)
        .map(|common| if names_device(common, &ordered) { common.clone() } else { common.to_ascii_lowercase() });
    let subject = match fitting {
        Some(common) => {
            DistinguishedName::from_attributes([(CN, common.as_str())]).map_err(|refusal| bad_csr(refusal.public()))?
        }
        None => DistinguishedName::empty(),
    };
    Ok(RequestedNames { subject, alternative: ordered })
}

/// Whether a common name is a device's, whose letter case counts.
fn names_device(common_name: &str, ordered: &[AlternativeName]) -> bool {
    ordered.iter().any(|name| is_device(name) && stands_for(common_name, name))
}

fn is_device(name: &AlternativeName) -> bool {
    matches!(name, AlternativeName::PermanentIdentifier { .. } | AlternativeName::HardwareModule { .. })
}

fn stands_for(common_name: &str, name: &AlternativeName) -> bool {
    let value = match name {
        AlternativeName::Dns(dns) => dns.clone(),
        AlternativeName::Ip(address) => address.to_string(),
        AlternativeName::PermanentIdentifier { value, .. } => return value.as_deref() == Some(common_name),
        AlternativeName::HardwareModule { serial, .. } => return serial == common_name.as_bytes(),
        AlternativeName::Email(_)
        | AlternativeName::Uri(_)
        | AlternativeName::Upn(_)
        | AlternativeName::DirectoryName(_)
        | AlternativeName::RegisteredId(_)
        | AlternativeName::Other { .. } => return false,
    };
    common_name.eq_ignore_ascii_case(&value)
}

/// The names in the requested subjectAltName, DNS names in lower case.
fn alternative_names(request: &CertificateRequest) -> Result<Vec<AlternativeName>, Problem> {
    let Some(extension) = request.extensions().iter().find(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME)
    else {
        return Ok(Vec::new());
    };
    let mut names =
        AlternativeName::decode_all(extension.extn_value.as_bytes()).map_err(|refusal| bad_csr(refusal.public()))?;
    for name in &mut names {
        if let AlternativeName::Dns(dns) = name {
            dns.make_ascii_lowercase();
        }
    }
    Ok(names)
}

pub(crate) fn bad_csr(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemType::BadCsr, detail)
}
