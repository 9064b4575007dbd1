//! Certificate chains of attestation statements, up to a root that the operator named.

use ca_backend::Time;
use ca_backend::algorithm::verify_signature;
use ca_backend::nesting::check_nesting;
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{
    ID_CE_BASIC_CONSTRAINTS, ID_CE_CERTIFICATE_POLICIES, ID_CE_EXT_KEY_USAGE, ID_CE_KEY_USAGE, ID_CE_SUBJECT_ALT_NAME,
};
use der::asn1::{AnyRef, BitStringRef};
use der::{Decode, DecodePem, Encode, Sequence};
use serde_bytes::ByteBuf;
use spki::AlgorithmIdentifierOwned;
use x509_cert::Certificate;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};

use super::Refused;

/// Certificates of the longest chain. Known ones have three to five.
const CHAIN_MAX: usize = 6;

/// Octets of the longest certificate.
const CERTIFICATE_BYTES_MAX: usize = 16 << 10;

/// Extensions that may be critical, since they are looked at or restrict nothing here.
const UNDERSTOOD: [ObjectIdentifier; 5] =
    [ID_CE_BASIC_CONSTRAINTS, ID_CE_KEY_USAGE, ID_CE_EXT_KEY_USAGE, ID_CE_SUBJECT_ALT_NAME, ID_CE_CERTIFICATE_POLICIES];

/// Trusted roots.
#[derive(Clone, Debug, Default)]
pub struct Roots(Vec<Link>);

impl Roots {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads roots, each one certificate in PEM.
///
/// # Errors
/// Which of them is no certificate, counted from one.
pub fn read_roots(pem: &[String]) -> Result<Roots, usize> {
    let mut roots = Vec::with_capacity(pem.len());
    for (place, pem) in pem.iter().enumerate() {
        let certificate = Certificate::from_pem(pem.trim()).map_err(|_| place + 1)?;
        let der = certificate.to_der().map_err(|_| place + 1)?;
        roots.push(Link::read(&der).map_err(|_| place + 1)?);
    }
    Ok(Roots(roots))
}

/// A certificate of a chain.
#[derive(Clone, Debug)]
pub(super) struct Link {
    der: Vec<u8>,
    pub(super) certificate: Certificate,
}

/// Certificate (RFC 5280 section 4.1), its signed part as it came.
#[derive(Sequence)]
struct Signed<'a> {
    tbs: AnyRef<'a>,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitStringRef<'a>,
}

impl Link {
    fn read(der: &[u8]) -> Result<Self, Refused> {
        const UNREADABLE: Refused = "a certificate of the attestation cannot be read";
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err("a certificate of the attestation is too long");
        }
        check_nesting(der).map_err(|_| UNREADABLE)?;
        let certificate = Certificate::from_der(der).map_err(|_| UNREADABLE)?;
        let link = Self { der: der.to_vec(), certificate };
        let mut kinds: Vec<&ObjectIdentifier> = link.extensions().iter().map(|extension| &extension.extn_id).collect();
        let count = kinds.len();
        kinds.sort_unstable();
        kinds.dedup();
        if kinds.len() != count {
            return Err("a certificate of the attestation has an extension twice");
        }
        Ok(link)
    }

    pub(super) fn extensions(&self) -> &[Extension] {
        self.certificate.tbs_certificate().extensions().map_or(&[], Vec::as_slice)
    }

    pub(super) fn extension(&self, kind: &ObjectIdentifier) -> Option<&Extension> {
        self.extensions().iter().find(|extension| extension.extn_id == *kind)
    }

    /// The SubjectPublicKeyInfo, DER.
    pub(super) fn public_key(&self) -> Result<Vec<u8>, Refused> {
        let key = self.certificate.tbs_certificate().subject_public_key_info();
        key.to_der().map_err(|_| "a key of the attestation cannot be read")
    }

    pub(super) fn is_authority(&self) -> bool {
        self.basic_constraints().is_some_and(|constraints| constraints.ca)
    }

    fn basic_constraints(&self) -> Option<BasicConstraints> {
        BasicConstraints::from_der(self.extension(&ID_CE_BASIC_CONSTRAINTS)?.extn_value.as_bytes()).ok()
    }

    fn valid_at(&self, now: Time) -> bool {
        let validity = self.certificate.tbs_certificate().validity();
        let (from, to) = (validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration());
        (from.as_secs()..=to.as_secs()).contains(&now.unix())
    }

    /// Whether this authority may stand above `below` others that are authorities too.
    fn may_issue(&self, below: usize) -> bool {
        let Some(constraints) = self.basic_constraints().filter(|constraints| constraints.ca) else { return false };
        let signs = match self.extension(&ID_CE_KEY_USAGE) {
            Some(usage) => KeyUsage::from_der(usage.extn_value.as_bytes()).is_ok_and(|usage| usage.key_cert_sign()),
            None => true,
        };
        let long_enough = constraints.path_len_constraint.is_none_or(|most| below <= usize::from(most));
        signs && long_enough && self.is_understood()
    }

    fn is_understood(&self) -> bool {
        self.extensions().iter().all(|shown| !shown.critical || UNDERSTOOD.contains(&shown.extn_id))
    }

    /// Whether the key may sign what is no certificate.
    pub(super) fn may_sign(&self) -> bool {
        let Some(usage) = self.extension(&ID_CE_KEY_USAGE) else { return true };
        KeyUsage::from_der(usage.extn_value.as_bytes()).is_ok_and(|usage| usage.digital_signature())
    }

    /// What the certificate is for; `None` if it does not say.
    pub(super) fn purposes(&self) -> Option<Vec<ObjectIdentifier>> {
        let usage = self.extension(&ID_CE_EXT_KEY_USAGE)?;
        Some(ExtendedKeyUsage::from_der(usage.extn_value.as_bytes()).map(|usage| usage.0).unwrap_or_default())
    }

    fn issued(&self, other: &Self) -> bool {
        let names = self.certificate.tbs_certificate().subject() == other.certificate.tbs_certificate().issuer();
        names && self.public_key().is_ok_and(|key| other.is_signed_by(&key))
    }

    fn is_signed_by(&self, public_key: &[u8]) -> bool {
        let Ok(signed) = Signed::from_der(&self.der) else { return false };
        let (Ok(tbs), Some(signature)) = (signed.tbs.to_der(), signed.signature.as_bytes()) else { return false };
        signed.algorithm == *self.certificate.tbs_certificate().signature()
            && verify_signature(public_key, &signed.algorithm, &tbs, signature).is_ok()
    }
}

/// The chain's certificates, the device's own first, if they lead to one of the roots.
pub(super) fn verify(x5c: &[ByteBuf], roots: &Roots, now: Time) -> Result<Vec<Link>, Refused> {
    if x5c.is_empty() || x5c.len() > CHAIN_MAX {
        return Err("the attestation has no certificates, or too many");
    }
    let chain: Vec<Link> = x5c.iter().map(|der| Link::read(der)).collect::<Result<_, _>>()?;
    let (Some(leaf), Some(top)) = (chain.first(), chain.last()) else {
        return Err("the attestation has no certificates");
    };
    if chain.iter().any(|link| !link.valid_at(now)) {
        return Err("a certificate of the attestation is not valid now");
    }
    if leaf.is_authority() {
        return Err("the first certificate of the attestation is that of an authority");
    }
    if !leaf.is_understood() {
        return Err("a certificate of the attestation has a critical extension that this server does not know");
    }
    let links = chain.iter().zip(chain.iter().skip(1)).enumerate();
    for (below, (issued, issuer)) in links {
        if !issuer.may_issue(below) || !issuer.issued(issued) {
            return Err("the certificates of the attestation are no chain");
        }
    }
    let trusted = roots.0.iter().any(|root| {
        let is_top = root.der == top.der && chain.len() > 1;
        is_top || root.valid_at(now) && root.may_issue(chain.len() - 1) && root.issued(top)
    });
    if trusted { Ok(chain) } else { Err("the certificates of the attestation lead to no root that this server trusts") }
}
