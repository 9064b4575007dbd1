//! The last look at the exact bytes before they are signed.
//!
//! The bytes are decoded anew, with other types than those that made them, and held against RFC 5280, the profile's own row and
//! the issuer's whole chain. Every message begins with the rule's name.

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{
    ID_AD_CA_ISSUERS, ID_AD_OCSP, ID_CE_AUTHORITY_KEY_IDENTIFIER, ID_CE_BASIC_CONSTRAINTS,
    ID_CE_CRL_DISTRIBUTION_POINTS, ID_CE_EXT_KEY_USAGE, ID_CE_KEY_USAGE, ID_CE_SUBJECT_ALT_NAME,
    ID_CE_SUBJECT_KEY_IDENTIFIER, ID_PE_AUTHORITY_INFO_ACCESS,
};
use const_oid::db::rfc6960::ID_PKIX_OCSP_NOCHECK;
use der::asn1::{AnyRef, IntRef, Null, OctetString, OctetStringRef};
use der::flagset::FlagSet;
use der::referenced::OwnedToRef;
use der::{Decode, Encode, Sequence};
use spki::AlgorithmIdentifierRef;
use x509_cert::certificate::Version;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};
use x509_cert::ext::pkix::{
    AuthorityInfoAccessSyntax, AuthorityKeyIdentifier, BasicConstraints, CrlDistributionPoints, ExtendedKeyUsage,
    KeyUsage,
};
use x509_cert::time::{Time as CertificateTime, Validity};

use crate::clock::Time;
use crate::error::{Error, Fault, Reason, Refusal};
use crate::extension;
use crate::name::{AlternativeName, DistinguishedName};
use crate::profile::{ExtendedKeyUsageRule, Presence, Profile, ProfileKind};
use crate::request::RequestedNames;
use crate::serial::Serial;
use crate::subject_key::SubjectKey;
use crate::tbs::IssuerFacts;

/// Octets of the longest TBSCertificate.
const TBS_BYTES_MAX: usize = 131_072;

/// How far a certificate's validity may begin in the past or the future, in seconds.
const START_DISTANCE_S_MAX: u64 = 31 * 86_400;

/// What a certificate is judged against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LintContext<'a> {
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

/// TBSCertificate (RFC 5280 section 4.1) as the checks read it, over the bytes to be signed. Certificates have no unique identifiers.
#[derive(Sequence)]
struct Tbs<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", default = "Default::default")]
    version: Version,
    serial: IntRef<'a>,
    signature: AlgorithmIdentifierRef<'a>,
    issuer: AnyRef<'a>,
    validity: Validity,
    subject: AnyRef<'a>,
    public_key: AnyRef<'a>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Vec<Extension<'a>>>,
}

/// Extension (RFC 5280 section 4.1).
#[derive(Sequence)]
struct Extension<'a> {
    oid: ObjectIdentifier,
    #[asn1(default = "Default::default")]
    critical: bool,
    value: &'a OctetStringRef,
}

/// Decodes a TBSCertificate anew and holds it against RFC 5280, the profile, and the issuer's whole chain. Returns the names in it.
///
/// # Errors
/// Refuses what names, key, extensions or times of the request made wrong; everything else that is wrong is a fault of ours.
pub(crate) fn lint(tbs_der: &[u8], context: &LintContext<'_>) -> Result<RequestedNames, Error> {
    if tbs_der.len() > TBS_BYTES_MAX {
        return Err(refusal(
            Reason::Malformed,
            "size",
            format!("the certificate would have more than {TBS_BYTES_MAX} octets"),
        ));
    }
    let tbs = Tbs::from_der(tbs_der).map_err(|error| fault("structure", error.to_string()))?;
    let subject = DistinguishedName::from_der(&encoding(&tbs.subject)?)?;
    if !tbs.to_der().is_ok_and(|again| again == tbs_der) || !subject.is_canonical() {
        return Err(fault("structure", "the bytes are not the canonical encoding of what they say"));
    }

    check_fields(&tbs, context)?;
    check_validity(&tbs, context)?;
    check_subject(&subject, context)?;
    let extensions = tbs.extensions.as_deref().unwrap_or_default();
    check_presence(extensions, context)?;
    check_authority(extensions, context)?;
    check_identifiers(extensions, context)?;
    check_key_usage(extensions, context)?;
    let purposes = check_extended_key_usage(extensions, context)?;
    check_addresses(extensions, context)?;
    check_requested(extensions, &purposes, context)?;
    let names = check_alternative_names(extensions, &subject)?;
    check_common_names(&subject, &names, &purposes)?;
    // S-07: what every authority of the chain allows.
    context.issuer.constraints.check(&subject, &names)?;
    Ok(RequestedNames { subject, alternative: names })
}

fn fault(rule: &str, what: impl Into<String>) -> Error {
    Error::Fault(Fault::Broken(format!("lint: {rule}: {}", what.into())))
}

fn refusal(reason: Reason, rule: &str, what: impl Into<String>) -> Error {
    Error::Refused(Refusal::new(reason, format!("{rule}: {}", what.into())))
}

fn encoding(value: &impl Encode) -> Result<Vec<u8>, Error> {
    value.to_der().map_err(|error| fault("structure", error.to_string()))
}

/// Version, serial, algorithm, issuer, key.
fn check_fields(tbs: &Tbs<'_>, context: &LintContext<'_>) -> Result<(), Error> {
    if tbs.version != Version::V3 {
        return Err(fault("version", "it is not 3"));
    }
    let serial = tbs.serial.as_bytes();
    if serial.len() > crate::serial::SERIAL_BYTES || Serial::from_integer(serial).is_err() {
        return Err(fault("serial", "it is not a positive integer of at most 20 octets"));
    }
    if tbs.signature != context.issuer.algorithm.signature_algorithm().owned_to_ref() {
        return Err(fault("signature algorithm", "it does not fit the issuer's key"));
    }
    if encoding(&tbs.issuer)? != context.issuer.name.as_der() {
        return Err(fault("issuer", "it is not the issuer's subject, octet by octet"));
    }
    if encoding(&tbs.public_key)? != context.key.spki_der() {
        return Err(fault("public key", "it is not the key whose possession was shown"));
    }
    Ok(())
}

fn check_validity(tbs: &Tbs<'_>, context: &LintContext<'_>) -> Result<(), Error> {
    let validity = &tbs.validity;
    for time in [&validity.not_before, &validity.not_after] {
        let general = matches!(time, CertificateTime::GeneralTime(_));
        if general != (time.to_date_time().year() >= 2050) {
            return Err(fault("validity", "times are UTCTime until 2049 and GeneralizedTime from 2050 on"));
        }
    }
    let (start, end) = (Time::from(validity.not_before.to_date_time()), Time::from(validity.not_after.to_date_time()));
    if end <= start {
        return Err(refusal(Reason::BadTime, "validity", "it ends before it begins"));
    }
    if end <= context.now {
        return Err(refusal(Reason::BadTime, "validity", "it has ended already"));
    }
    if start.since_s(context.now) > START_DISTANCE_S_MAX || context.now.since_s(start) > START_DISTANCE_S_MAX {
        return Err(refusal(Reason::BadTime, "validity", "it begins more than 31 days from now"));
    }
    if end > context.issuer.not_after {
        return Err(refusal(Reason::BadTime, "validity", "it ends after the issuer's own"));
    }
    if context.issuer.not_after <= context.now {
        return Err(refusal(Reason::BadTime, "validity", "the issuer's own has ended"));
    }
    // Both end seconds count. The skew by which the beginning is moved back is no part of what the profile bounds.
    let granted_s = end.since_s(start.max(context.now));
    if context.profile.validity.max_s.is_some_and(|max_s| granted_s > max_s) {
        return Err(refusal(Reason::BadTime, "validity", "it is longer than the profile allows"));
    }
    Ok(())
}

fn check_subject(subject: &DistinguishedName, context: &LintContext<'_>) -> Result<(), Error> {
    if subject.is_empty() && context.profile.kind != ProfileKind::EndEntity {
        return Err(refusal(Reason::NameNotAllowed, "subject", "authorities and responders need one"));
    }
    subject.validate()?;
    let own = *subject == context.issuer.name;
    if own != (context.profile.kind == ProfileKind::Root) {
        return Err(refusal(Reason::NameNotAllowed, "subject", "it equals the issuer's name exactly in roots"));
    }
    Ok(())
}

fn find<'a, 'd>(extensions: &'a [Extension<'d>], oid: &ObjectIdentifier) -> Option<&'a Extension<'d>> {
    extensions.iter().find(|extension| extension.oid == *oid)
}

/// The decoded value of an extension, whose encoding must be canonical.
fn decode<'a, T: Decode<'a> + Encode>(extension: &Extension<'a>, rule: &str) -> Result<T, Error> {
    let der = extension.value.as_bytes();
    let value = T::from_der(der).map_err(|_| fault(rule, "the extension cannot be decoded"))?;
    if value.to_der().is_ok_and(|again| again == der) {
        Ok(value)
    } else {
        Err(fault(rule, "the encoding is not canonical"))
    }
}

/// Each extension once, only those that the profile has, and each with the right criticality.
fn check_presence(extensions: &[Extension<'_>], context: &LintContext<'_>) -> Result<(), Error> {
    let profile = context.profile;
    for (index, extension) in extensions.iter().enumerate() {
        let oid = extension.oid;
        if extensions.iter().take(index).any(|earlier| earlier.oid == oid) {
            return Err(fault("extensions", format!("{oid} stands there twice")));
        }
        let (allowed, critical) = match oid {
            ID_CE_BASIC_CONSTRAINTS | ID_CE_KEY_USAGE => (true, true),
            ID_CE_SUBJECT_KEY_IDENTIFIER => (true, false),
            ID_CE_EXT_KEY_USAGE => {
                (profile.extended_key_usage.rule != ExtendedKeyUsageRule::Never, profile.extended_key_usage.critical)
            }
            ID_CE_AUTHORITY_KEY_IDENTIFIER => (profile.kind != ProfileKind::Root, false),
            // Its criticality hangs on the subject: see `check_alternative_names`.
            ID_CE_SUBJECT_ALT_NAME => (profile.alternative_names, extension.critical),
            ID_CE_CRL_DISTRIBUTION_POINTS => (profile.crl_distribution_points != Presence::Never, false),
            ID_PE_AUTHORITY_INFO_ACCESS => (profile.authority_information_access != Presence::Never, false),
            ID_PKIX_OCSP_NOCHECK => (profile.ocsp_no_check, false),
            // `check_requested` judges these.
            _ => (true, false),
        };
        if !allowed && oid == ID_CE_SUBJECT_ALT_NAME {
            return Err(refusal(
                Reason::NameNotAllowed,
                "extensions",
                format!("the profile {} has no alternative names", profile.id),
            ));
        }
        if !allowed {
            return Err(fault("extensions", format!("the profile {} has no {oid}", profile.id)));
        }
        if extension.critical != critical {
            return Err(fault("criticality", format!("that of {oid} is wrong")));
        }
    }
    let required = [
        (ID_CE_BASIC_CONSTRAINTS, true),
        (ID_CE_KEY_USAGE, true),
        (ID_CE_SUBJECT_KEY_IDENTIFIER, true),
        (ID_CE_AUTHORITY_KEY_IDENTIFIER, profile.kind != ProfileKind::Root),
        (ID_CE_EXT_KEY_USAGE, profile.extended_key_usage.rule != ExtendedKeyUsageRule::Never),
        (ID_CE_CRL_DISTRIBUTION_POINTS, profile.crl_distribution_points == Presence::Always),
        (ID_PE_AUTHORITY_INFO_ACCESS, profile.authority_information_access == Presence::Always),
        (ID_PKIX_OCSP_NOCHECK, profile.ocsp_no_check),
    ];
    match required.iter().find(|(oid, required)| *required && find(extensions, oid).is_none()) {
        Some((oid, _)) => Err(fault("extensions", format!("{oid} is missing"))),
        None => Ok(()),
    }
}

/// basicConstraints, and what the chain above leaves of pathLenConstraint.
fn check_authority(extensions: &[Extension<'_>], context: &LintContext<'_>) -> Result<(), Error> {
    let Some(extension) = find(extensions, &ID_CE_BASIC_CONSTRAINTS) else {
        return Ok(());
    };
    let basic: BasicConstraints = decode(extension, "basic constraints")?;
    if basic.ca != context.profile.is_authority() {
        return Err(fault("basic constraints", "cA does not fit the profile"));
    }
    if basic.path_len_constraint != context.profile.path_len {
        return Err(fault("basic constraints", "pathLenConstraint is not the profile's"));
    }
    if context.profile.kind != ProfileKind::Subordinate {
        return Ok(());
    }
    match (context.issuer.constraints.path_len, basic.path_len_constraint) {
        (Some(0), _) => Err(refusal(
            Reason::NotAuthorized,
            "path length",
            "the issuer's chain allows no further authority below the issuer",
        )),
        (Some(left), Some(own)) if own >= left => {
            Err(refusal(Reason::NotAuthorized, "path length", "it reaches further than the issuer's chain allows"))
        }
        (Some(_) | None, _) => Ok(()),
    }
}

fn check_identifiers(extensions: &[Extension<'_>], context: &LintContext<'_>) -> Result<(), Error> {
    if let Some(extension) = find(extensions, &ID_CE_SUBJECT_KEY_IDENTIFIER) {
        let identifier: OctetString = decode(extension, "subject key identifier")?;
        if identifier.as_bytes() != context.key.key_identifier() {
            return Err(fault("subject key identifier", "it is not the SHA-1 of the subject's key"));
        }
    }
    if let Some(extension) = find(extensions, &ID_CE_AUTHORITY_KEY_IDENTIFIER) {
        let identifier: AuthorityKeyIdentifier = decode(extension, "authority key identifier")?;
        let key = identifier.key_identifier.as_ref().map(OctetString::as_bytes);
        if key != Some(&context.issuer.key_identifier) {
            return Err(fault("authority key identifier", "it is not the issuer's subject key identifier"));
        }
        if identifier.authority_cert_issuer.is_some() || identifier.authority_cert_serial_number.is_some() {
            return Err(fault("authority key identifier", "it holds more than the key's identifier"));
        }
    }
    Ok(())
}

fn check_key_usage(extensions: &[Extension<'_>], context: &LintContext<'_>) -> Result<(), Error> {
    let Some(extension) = find(extensions, &ID_CE_KEY_USAGE) else {
        return Ok(());
    };
    let usage: KeyUsage = decode(extension, "key usage")?;
    let bits = context.profile.key_usage_for(context.key.kind())?;
    let expected = bits.iter().fold(FlagSet::default(), |all, bit| all | bit.flag());
    if usage.0 != expected {
        return Err(fault("key usage", "it is not the profile's for such a key"));
    }
    Ok(())
}

fn check_extended_key_usage(
    extensions: &[Extension<'_>],
    context: &LintContext<'_>,
) -> Result<Vec<ObjectIdentifier>, Error> {
    let Some(extension) = find(extensions, &ID_CE_EXT_KEY_USAGE) else {
        return Ok(Vec::new());
    };
    let ExtendedKeyUsage(purposes) = decode(extension, "extended key usage")?;
    if purposes.is_empty() {
        return Err(fault("extended key usage", "it is empty"));
    }
    if (1..purposes.len()).any(|index| purposes.iter().take(index).any(|earlier| Some(earlier) == purposes.get(index)))
    {
        return Err(fault("extended key usage", "it names a purpose twice"));
    }
    let own = &context.profile.extended_key_usage;
    if own.rule == ExtendedKeyUsageRule::Fixed && purposes != own.values {
        return Err(fault("extended key usage", "it is not the profile's"));
    }
    if let Some(beyond) =
        purposes.iter().find(|purpose| !extension::may_have(context.profile, purpose, context.operator_purposes))
    {
        return Err(refusal(
            Reason::NotAuthorized,
            "extended key usage",
            format!("the profile does not allow {beyond}"),
        ));
    }
    Ok(purposes)
}

/// cRLDistributionPoints and authorityInfoAccess: exactly the issuer's addresses.
fn check_addresses(extensions: &[Extension<'_>], context: &LintContext<'_>) -> Result<(), Error> {
    let uri = |name: &GeneralName| {
        if let GeneralName::UniformResourceIdentifier(uri) = name
            && is_status_url(uri.as_str())
        {
            return Some(uri.as_str().to_owned());
        }
        None
    };
    if let Some(extension) = find(extensions, &ID_CE_CRL_DISTRIBUTION_POINTS) {
        let CrlDistributionPoints(points) = decode(extension, "CRL distribution points")?;
        let url = match points.as_slice() {
            [point] if point.reasons.is_none() && point.crl_issuer.is_none() => match &point.distribution_point {
                Some(DistributionPointName::FullName(names)) => match names.as_slice() {
                    [name] => uri(name),
                    _ => None,
                },
                Some(DistributionPointName::NameRelativeToCRLIssuer(_)) | None => None,
            },
            _ => None,
        };
        if url.is_none() || url != context.issuer.crl_url {
            return Err(fault("CRL distribution points", "they are not the one http address of the issuer's CRL"));
        }
    }
    let access = match find(extensions, &ID_PE_AUTHORITY_INFO_ACCESS) {
        Some(extension) => decode::<AuthorityInfoAccessSyntax>(extension, "authority information access")?.0,
        None => Vec::new(),
    };
    if context.profile.authority_information_access == Presence::Never {
        return Ok(());
    }
    let found: Vec<_> =
        access.iter().map(|description| (description.access_method, uri(&description.access_location))).collect();
    let expected: Vec<_> = [(ID_AD_OCSP, &context.issuer.ocsp_url), (ID_AD_CA_ISSUERS, &context.issuer.ca_issuers_url)]
        .into_iter()
        .filter(|(_, url)| url.is_some())
        .map(|(method, url)| (method, url.clone()))
        .collect();
    if found != expected {
        return Err(fault("authority information access", "it does not hold the http addresses of the issuer"));
    }
    Ok(())
}

/// Plain http, so that fetching it needs no certificate in turn; only characters of URIs; a host.
fn is_status_url(url: &str) -> bool {
    url.starts_with("http://") && AlternativeName::Uri(url.to_owned()).validate().is_ok()
}

/// Every other extension: the profile lets a request bring it, and its value follows its type.
fn check_requested(
    extensions: &[Extension<'_>],
    purposes: &[ObjectIdentifier],
    context: &LintContext<'_>,
) -> Result<(), Error> {
    const OWN: [ObjectIdentifier; 8] = [
        ID_CE_BASIC_CONSTRAINTS,
        ID_CE_KEY_USAGE,
        ID_CE_EXT_KEY_USAGE,
        ID_CE_SUBJECT_KEY_IDENTIFIER,
        ID_CE_AUTHORITY_KEY_IDENTIFIER,
        ID_CE_SUBJECT_ALT_NAME,
        ID_CE_CRL_DISTRIBUTION_POINTS,
        ID_PE_AUTHORITY_INFO_ACCESS,
    ];
    for extension in extensions {
        let oid = extension.oid;
        if oid == ID_PKIX_OCSP_NOCHECK {
            decode::<Null>(extension, "OCSP no check")?;
        } else if !OWN.contains(&oid) {
            extension::check_value(context.profile, &oid, extension.value.as_bytes(), purposes)?;
        }
    }
    Ok(())
}

fn check_alternative_names(
    extensions: &[Extension<'_>],
    subject: &DistinguishedName,
) -> Result<Vec<AlternativeName>, Error> {
    let Some(extension) = find(extensions, &ID_CE_SUBJECT_ALT_NAME) else {
        if subject.is_empty() {
            return Err(refusal(
                Reason::NameNotAllowed,
                "subject",
                "there is neither a subject nor an alternative name",
            ));
        }
        return Ok(Vec::new());
    };
    if extension.critical != subject.is_empty() {
        return Err(fault("criticality", "subjectAltName is critical exactly if the subject is empty"));
    }
    let names = AlternativeName::decode_all(extension.value.as_bytes())?;
    names.iter().try_for_each(AlternativeName::validate)?;
    if (1..names.len()).any(|index| names.iter().take(index).any(|earlier| Some(earlier) == names.get(index))) {
        return Err(refusal(Reason::Malformed, "alternative names", "a name stands there twice"));
    }
    Ok(names)
}

/// In a TLS server's certificate a common name is one of the alternative names.
fn check_common_names(
    subject: &DistinguishedName,
    names: &[AlternativeName],
    purposes: &[ObjectIdentifier],
) -> Result<(), Error> {
    if !purposes.contains(&crate::profile::purpose::SERVER_AUTH) {
        return Ok(());
    }
    let stands_for = |common_name: &str, name: &AlternativeName| {
        matches!(name, AlternativeName::Dns(host) if host.eq_ignore_ascii_case(common_name))
            || matches!(name, AlternativeName::Ip(address) if common_name.parse() == Ok(*address))
    };
    for common_name in subject.common_names() {
        // A final dot makes no other host of it.
        let name = common_name.strip_suffix('.').unwrap_or(&common_name);
        let host = AlternativeName::Dns(name.to_owned()).validate().is_ok() && name.contains('.')
            || common_name.contains('*')
            || common_name.parse::<std::net::IpAddr>().is_ok();
        if host && !names.iter().any(|name| stands_for(&common_name, name)) {
            return Err(refusal(
                Reason::NameNotAllowed,
                "common name",
                format!("{common_name:?} is a host that is not among the alternative names"),
            ));
        }
    }
    Ok(())
}
