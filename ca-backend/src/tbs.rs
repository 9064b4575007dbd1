//! The exact bytes that an issuer signs.

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{
    ID_AD_CA_ISSUERS, ID_AD_OCSP, ID_CE_AUTHORITY_KEY_IDENTIFIER, ID_CE_BASIC_CONSTRAINTS,
    ID_CE_CRL_DISTRIBUTION_POINTS, ID_CE_EXT_KEY_USAGE, ID_CE_KEY_USAGE, ID_CE_SUBJECT_ALT_NAME,
    ID_CE_SUBJECT_KEY_IDENTIFIER, ID_PE_AUTHORITY_INFO_ACCESS,
};
use const_oid::db::rfc5912::ID_EXTENSION_REQ;
use const_oid::db::rfc6960::ID_PKIX_OCSP_NOCHECK;
use der::asn1::{AnyRef, BitStringRef, Ia5StringRef, Null, OctetString, OctetStringRef, SetOfVec, UintRef};
use der::flagset::FlagSet;
use der::referenced::OwnedToRef;
use der::{Choice, Decode, Encode, Sequence, ValueOrd};
use spki::AlgorithmIdentifierRef;
use x509_cert::TbsCertificate;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages, SubjectKeyIdentifier};
use x509_cert::time::Validity;

use crate::algorithm::KeyAlgorithm;
use crate::clock::Time;
use crate::error::{Error, Fault, Reason, Refusal};
use crate::extension::GrantedExtensions;
use crate::name::{AlternativeName, DistinguishedName};
use crate::name_constraint::ChainConstraints;
use crate::profile::{KeyUsageBit, Presence, Profile, ProfileKind};
use crate::serial::Serial;
use crate::subject_key::SubjectKey;

/// What must be known about an issuer to make and to judge its certificates.
#[derive(Clone, Debug)]
pub(crate) struct IssuerFacts {
    /// Its subject, whose bytes every certificate repeats.
    pub name: DistinguishedName,
    /// The content of its subjectKeyIdentifier.
    pub key_identifier: Vec<u8>,
    /// Its SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// Its algorithm.
    pub algorithm: KeyAlgorithm,
    /// The beginning of its own certificate's validity.
    pub not_before: Time,
    /// The end of its own certificate's validity.
    pub not_after: Time,
    /// What its chain up to the root allows below it.
    pub constraints: ChainConstraints,
    /// Where its CRL is.
    pub crl_url: Option<String>,
    /// Where its OCSP responder is.
    pub ocsp_url: Option<String>,
    /// Where its own certificate is.
    pub ca_issuers_url: Option<String>,
}

impl IssuerFacts {
    /// The facts about an authority that signs its own certificate with `key`.
    #[must_use]
    pub(crate) fn self_signed(
        name: DistinguishedName,
        key: &SubjectKey,
        algorithm: KeyAlgorithm,
        not_before: Time,
        not_after: Time,
    ) -> Self {
        Self {
            name,
            key_identifier: key.key_identifier().to_vec(),
            public_key: key.spki_der().to_vec(),
            algorithm,
            not_before,
            not_after,
            constraints: ChainConstraints::default(),
            crl_url: None,
            ocsp_url: None,
            ca_issuers_url: None,
        }
    }

    /// The facts that the certificates of an issuer state: its own first, then those above it up to the root. Addresses are left
    /// empty.
    ///
    /// # Errors
    /// Refuses an empty chain, certificates that are not DER, and issuers without authority (basicConstraints, key usage).
    pub(crate) fn from_chain(chain: &[&[u8]], algorithm: KeyAlgorithm) -> Result<Self, Refusal> {
        let unfit = |why: &str| Refusal::new(Reason::Malformed, format!("the issuer's certificate {why}"));
        let undecodable = |_| unfit("is not valid DER");
        let certificates: Vec<x509_cert::Certificate> = chain
            .iter()
            .map(|der| x509_cert::Certificate::from_der(der).map_err(undecodable))
            .collect::<Result<_, _>>()?;
        let own = certificates.first().ok_or_else(|| unfit("is missing"))?.tbs_certificate();
        let (_, key_identifier) = own
            .get_extension::<SubjectKeyIdentifier>()
            .map_err(undecodable)?
            .ok_or_else(|| unfit("has no subject key identifier"))?;
        Ok(Self {
            name: DistinguishedName::from_der(&own.subject().to_der().map_err(undecodable)?)?,
            key_identifier: key_identifier.0.as_bytes().to_vec(),
            public_key: own.subject_public_key_info().to_der().map_err(undecodable)?,
            algorithm,
            not_before: own.validity().not_before.to_date_time().into(),
            not_after: own.validity().not_after.to_date_time().into(),
            constraints: ChainConstraints::of(
                &certificates.iter().map(|c| c.tbs_certificate()).collect::<Vec<&TbsCertificate>>(),
            )?,
            crl_url: None,
            ocsp_url: None,
            ca_issuers_url: None,
        })
    }
}

/// TBSCertificate (RFC 5280 section 4.1) over borrowed parts.
#[derive(Sequence)]
struct TbsParts<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: u8,
    serial: UintRef<'a>,
    signature: AlgorithmIdentifierRef<'a>,
    issuer: AnyRef<'a>,
    validity: Validity,
    subject: AnyRef<'a>,
    public_key: AnyRef<'a>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Vec<Extension>,
}

/// Version 3.
const V3: u8 = 2;

/// Extension (RFC 5280 section 4.1). Unlike the type of x509-cert it can be made without a name for its value's type.
#[derive(Sequence)]
struct Extension {
    oid: ObjectIdentifier,
    #[asn1(default = "Default::default")]
    critical: bool,
    value: OctetString,
}

impl Extension {
    fn new(oid: ObjectIdentifier, critical: bool, value: Vec<u8>) -> der::Result<Self> {
        Ok(Self { oid, critical, value: OctetString::new(value)? })
    }
}

/// AuthorityKeyIdentifier with the key identifier alone (RFC 5280 section 4.2.1.1).
#[derive(Sequence)]
struct AuthorityKeyIdentifier<'a> {
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    key_identifier: &'a OctetStringRef,
}

/// The one kind of GeneralName in addresses.
#[derive(Choice)]
enum Address<'a> {
    #[asn1(context_specific = "6", tag_mode = "IMPLICIT")]
    Uri(Ia5StringRef<'a>),
}

/// DistributionPoint with one full name (RFC 5280 section 4.2.1.13).
#[derive(Sequence)]
struct DistributionPoint<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    name: DistributionPointName<'a>,
}

#[derive(Choice)]
enum DistributionPointName<'a> {
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", constructed = "true")]
    Full(Vec<Address<'a>>),
}

/// AccessDescription (RFC 5280 section 4.2.2.1).
#[derive(Sequence)]
struct AccessDescription<'a> {
    method: ObjectIdentifier,
    location: Address<'a>,
}

/// A certificate before it is signed.
#[derive(Clone, Debug)]
pub(crate) struct CertificateDraft<'a> {
    /// Its serial.
    pub serial: Serial,
    /// Who signs it.
    pub issuer: &'a IssuerFacts,
    /// What it holds.
    pub profile: &'a Profile,
    /// Whose it is.
    pub subject: &'a DistinguishedName,
    /// The names in its subjectAltName; none leaves the extension out.
    pub alternative_names: &'a [AlternativeName],
    /// What the request brought and the profile allowed.
    pub extensions: &'a GrantedExtensions,
    /// The subject's key.
    pub key: &'a SubjectKey,
    /// The first moment of its validity.
    pub not_before: Time,
    /// The last moment of its validity.
    pub not_after: Time,
}

impl CertificateDraft<'_> {
    /// The TBSCertificate (RFC 5280 section 4.1), DER.
    ///
    /// # Errors
    /// Refuses keys that fit none of the profile's usages. Faults if the issuer lacks an address that the profile demands.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Error> {
        let key_usage = self.profile.key_usage_for(self.key.kind())?;
        let alternative_names = match self.alternative_names {
            [] => None,
            names => Some(AlternativeName::encode_all(names)?),
        };
        let crl_url = wanted(self.profile.crl_distribution_points, self.issuer.crl_url.as_deref(), "a CRL")?;
        let access = self.authority_access()?;
        Ok(self.encode_parts(&key_usage, alternative_names, crl_url, &access).map_err(Fault::from)?)
    }

    /// The addresses of authorityInfoAccess; none leaves the extension out.
    fn authority_access(&self) -> Result<Vec<(ObjectIdentifier, &str)>, Fault> {
        if self.profile.authority_information_access == Presence::Never {
            return Ok(Vec::new());
        }
        let ocsp = self.issuer.ocsp_url.as_deref().map(|url| (ID_AD_OCSP, url));
        let issuer = self.issuer.ca_issuers_url.as_deref().map(|url| (ID_AD_CA_ISSUERS, url));
        let access: Vec<_> = ocsp.into_iter().chain(issuer).collect();
        wanted(self.profile.authority_information_access, access.first().map(|(_, url)| *url), "issuer information")?;
        Ok(access)
    }

    fn encode_parts(
        &self,
        key_usage: &[KeyUsageBit],
        alternative_names: Option<Vec<u8>>,
        crl_url: Option<&str>,
        access: &[(ObjectIdentifier, &str)],
    ) -> der::Result<Vec<u8>> {
        let algorithm = self.issuer.algorithm.signature_algorithm();
        let mut extensions = Vec::with_capacity(10 + self.extensions.other.len());
        let mut add =
            |oid, critical, value| Extension::new(oid, critical, value).map(|extension| extensions.push(extension));

        add(ID_CE_BASIC_CONSTRAINTS, true, basic_constraints(self.profile)?)?;
        add(ID_CE_KEY_USAGE, true, key_usage_value(key_usage)?)?;
        let purposes = &self.extensions.extended_key_usage;
        if !purposes.is_empty() {
            add(ID_CE_EXT_KEY_USAGE, self.profile.extended_key_usage.critical, purposes.to_der()?)?;
        }
        add(ID_CE_SUBJECT_KEY_IDENTIFIER, false, OctetStringRef::new(&self.key.key_identifier())?.to_der()?)?;
        if self.profile.kind != ProfileKind::Root {
            let key_identifier = OctetStringRef::new(&self.issuer.key_identifier)?;
            add(ID_CE_AUTHORITY_KEY_IDENTIFIER, false, AuthorityKeyIdentifier { key_identifier }.to_der()?)?;
        }
        if let Some(names) = alternative_names {
            // RFC 5280 section 4.2.1.6
            add(ID_CE_SUBJECT_ALT_NAME, self.subject.is_empty(), names)?;
        }
        if let Some(url) = crl_url {
            let name = DistributionPointName::Full(vec![Address::Uri(Ia5StringRef::new(url)?)]);
            add(ID_CE_CRL_DISTRIBUTION_POINTS, false, vec![DistributionPoint { name }].to_der()?)?;
        }
        if !access.is_empty() {
            let mut descriptions = Vec::with_capacity(access.len());
            for (method, url) in access {
                descriptions
                    .push(AccessDescription { method: *method, location: Address::Uri(Ia5StringRef::new(*url)?) });
            }
            add(ID_PE_AUTHORITY_INFO_ACCESS, false, descriptions.to_der()?)?;
        }
        if self.profile.ocsp_no_check {
            add(ID_PKIX_OCSP_NOCHECK, false, Null.to_der()?)?;
        }
        for (oid, value) in &self.extensions.other {
            add(*oid, false, value.clone())?;
        }

        TbsParts {
            version: V3,
            serial: UintRef::new(self.serial.as_bytes())?,
            signature: algorithm.owned_to_ref(),
            issuer: AnyRef::from_der(self.issuer.name.as_der())?,
            validity: Validity::new(self.not_before.date_time().into(), self.not_after.date_time().into()),
            subject: AnyRef::from_der(self.subject.as_der())?,
            public_key: AnyRef::from_der(self.key.spki_der())?,
            extensions,
        }
        .to_der()
    }
}

/// The address to put into an extension, by the profile's rule.
fn wanted<'a>(presence: Presence, url: Option<&'a str>, what: &str) -> Result<Option<&'a str>, Fault> {
    match (presence, url) {
        (Presence::Never, _) => Ok(None),
        (Presence::Always, None) => {
            Err(Fault::Broken(format!("the issuer has no address of {what}, which the profile demands")))
        }
        (Presence::IfConfigured | Presence::Always, url) => Ok(url),
    }
}

fn basic_constraints(profile: &Profile) -> der::Result<Vec<u8>> {
    BasicConstraints { ca: profile.is_authority(), path_len_constraint: profile.path_len }.to_der()
}

fn key_usage_value(bits: &[KeyUsageBit]) -> der::Result<Vec<u8>> {
    let flag = |bit: &KeyUsageBit| FlagSet::from(bit.flag());
    KeyUsage(bits.iter().map(flag).fold(FlagSet::default(), |all, bit| all | bit)).to_der()
}

impl KeyUsageBit {
    /// The bit's place in the BIT STRING.
    pub(crate) fn flag(self) -> KeyUsages {
        match self {
            Self::DigitalSignature => KeyUsages::DigitalSignature,
            Self::NonRepudiation => KeyUsages::NonRepudiation,
            Self::KeyEncipherment => KeyUsages::KeyEncipherment,
            Self::DataEncipherment => KeyUsages::DataEncipherment,
            Self::KeyAgreement => KeyUsages::KeyAgreement,
            Self::KeyCertSign => KeyUsages::KeyCertSign,
            Self::CrlSign => KeyUsages::CRLSign,
        }
    }
}

/// What is signed, by which algorithm, and the signature: the outer form of certificates and of certification requests.
#[derive(Sequence)]
struct Signed<'a> {
    content: AnyRef<'a>,
    algorithm: AlgorithmIdentifierRef<'a>,
    signature: BitStringRef<'a>,
}

fn assemble(content_der: &[u8], algorithm: KeyAlgorithm, signature: &[u8]) -> der::Result<Vec<u8>> {
    let algorithm = algorithm.signature_algorithm();
    Signed {
        content: AnyRef::from_der(content_der)?,
        algorithm: algorithm.owned_to_ref(),
        signature: BitStringRef::from_bytes(signature)?,
    }
    .to_der()
}

/// The certificate of a TBSCertificate and its signature, DER.
///
/// # Errors
/// A fault if the parts cannot be encoded.
pub(crate) fn assemble_certificate(
    tbs_der: &[u8],
    algorithm: KeyAlgorithm,
    signature: &[u8],
) -> Result<Vec<u8>, Fault> {
    Ok(assemble(tbs_der, algorithm, signature)?)
}

/// CertificationRequestInfo (RFC 2986 section 4.1) over borrowed parts.
#[derive(Sequence)]
struct RequestParts<'a> {
    version: u8,
    subject: AnyRef<'a>,
    public_key: AnyRef<'a>,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", constructed = "true")]
    attributes: SetOfVec<RequestAttribute<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence, ValueOrd)]
struct RequestAttribute<'a> {
    oid: ObjectIdentifier,
    values: SetOfVec<AnyRef<'a>>,
}

/// The CertificationRequestInfo (RFC 2986 section 4.1), DER, with which an authority of `profile` asks an external root for its
/// certificate. basicConstraints, keyUsage and subjectKeyIdentifier stand in extensionRequest.
///
/// # Errors
/// Refuses keys that fit none of the profile's usages.
pub(crate) fn certification_request_info(
    subject: &DistinguishedName,
    key: &SubjectKey,
    profile: &Profile,
) -> Result<Vec<u8>, Error> {
    let key_usage = profile.key_usage_for(key.kind())?;
    let encode = || {
        let extensions = vec![
            Extension::new(ID_CE_BASIC_CONSTRAINTS, true, basic_constraints(profile)?)?,
            Extension::new(ID_CE_KEY_USAGE, true, key_usage_value(&key_usage)?)?,
            Extension::new(ID_CE_SUBJECT_KEY_IDENTIFIER, false, OctetStringRef::new(&key.key_identifier())?.to_der()?)?,
        ]
        .to_der()?;
        let values = SetOfVec::try_from(vec![AnyRef::from_der(&extensions)?])?;
        RequestParts {
            version: 0,
            subject: AnyRef::from_der(subject.as_der())?,
            public_key: AnyRef::from_der(key.spki_der())?,
            attributes: SetOfVec::try_from(vec![RequestAttribute { oid: ID_EXTENSION_REQ, values }])?,
        }
        .to_der()
    };
    Ok(encode().map_err(Fault::from)?)
}

/// The PKCS#10 request of a CertificationRequestInfo and its signature, DER.
///
/// # Errors
/// A fault if the parts cannot be encoded.
pub(crate) fn assemble_certification_request(
    info_der: &[u8],
    algorithm: KeyAlgorithm,
    signature: &[u8],
) -> Result<Vec<u8>, Fault> {
    Ok(assemble(info_der, algorithm, signature)?)
}

#[cfg(test)]
mod tests;
