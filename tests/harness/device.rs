//! Made-up makers of devices, and the attestations of their devices.

use ciborium::Value;
use const_oid::ObjectIdentifier;
use der::asn1::OctetStringRef;
use der::{Encode, Header, Length, Tag, TagNumber};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

use ca_backend::AlternativeName;

use crate::acme_client::{SubjectKeyPair, sha256};

/// A maker: a root and an authority below it.
pub struct Maker {
    root: Authority,
    below: Authority,
    leaf: Alter,
}

/// What is special about a certificate.
type Alter = Box<dyn Fn(&mut CertificateParams)>;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
    pem: String,
}

/// A key in a device, made elsewhere so that the test can sign with it.
pub struct DeviceKey {
    pair: KeyPair,
    /// The same for certificate requests.
    pub subject: SubjectKeyPair,
}

impl DeviceKey {
    /// A new key on P-256.
    #[must_use]
    pub fn generate() -> Self {
        let pair = KeyPair::generate().unwrap();
        let subject = SubjectKeyPair::from_pkcs8(&pair.serialize_der());
        Self { pair, subject }
    }
}

impl Default for Maker {
    fn default() -> Self {
        Self::with(|_| {}, |_| {})
    }
}

impl Authority {
    fn new(name: &str, above: Option<&Self>, alter: impl Fn(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name, Vec::new());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        alter(&mut params);
        let certificate = match above {
            Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        let (der, pem) = (certificate.der().to_vec(), certificate.pem());
        Self { issuer: Issuer::new(params, key), der, pem }
    }
}

fn params(name: &str, extensions: Vec<CustomExtension>) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.custom_extensions = extensions;
    params
}

impl Maker {
    /// With something special about the certificates of the authority below the root, and about those of devices.
    #[must_use]
    pub fn with(authority: impl Fn(&mut CertificateParams), leaf: impl Fn(&mut CertificateParams) + 'static) -> Self {
        let root = Authority::new("Maker Root", None, |_| {});
        let below = Authority::new("Maker Devices", Some(&root), authority);
        Self { root, below, leaf: Box::new(leaf) }
    }

    /// The root, PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root.pem
    }

    /// A certificate for a key, with the chain to the root, which is left out.
    fn chain(&self, mut params: CertificateParams, key: &impl rcgen::PublicKeyData) -> Vec<Value> {
        (self.leaf)(&mut params);
        let leaf = params.signed_by(key, &self.below.issuer).unwrap();
        vec![Value::Bytes(leaf.der().to_vec()), Value::Bytes(self.below.der.clone())]
    }

    /// The format `apple`: of this token, for a device with this serial number and UDID.
    #[must_use]
    pub fn apple(&self, key: &DeviceKey, token: &str, serial: &str, udid: &str) -> Vec<u8> {
        let extension = |arc: &[u64], value: &[u8]| {
            CustomExtension::from_oid_content(&[&[1, 2, 840, 113_635, 100, 8][..], arc].concat(), value.to_vec())
        };
        let mut extensions = vec![extension(&[11, 1], &sha256(token.as_bytes()))];
        for (arc, value) in [(&[9, 1], serial), (&[9, 2], udid)] {
            if !value.is_empty() {
                extensions.push(extension(arc, value.as_bytes()));
            }
        }
        let chain = self.chain(params("apple device", extensions), &key.pair);
        object("apple", vec![("x5c", Value::Array(chain))])
    }

    /// The format `android-key`.
    #[must_use]
    pub fn android(&self, key: &DeviceKey, key_authorization: &str, description: &KeyDescription) -> Vec<u8> {
        let arcs = [1, 3, 6, 1, 4, 1, 11129, 2, 1, 17];
        let extension =
            CustomExtension::from_oid_content(&arcs, description.der(&sha256(key_authorization.as_bytes())));
        let chain = self.chain(params("Android Keystore Key", vec![extension]), &key.pair);
        let signature = key.subject.sign(key_authorization.as_bytes());
        object(
            "android-key",
            vec![("alg", Value::Integer((-7).into())), ("sig", Value::Bytes(signature)), ("x5c", Value::Array(chain))],
        )
    }

    /// The format `tpm`, the structures made by hand; the attestation key's certificate holds these names.
    #[must_use]
    pub fn tpm(&self, key: &DeviceKey, key_authorization: &str, names: &[AlternativeName], attributes: u32) -> Vec<u8> {
        let public_area = tpm_public_area(&key.subject.point(), attributes);
        let certification = tpm_certification(&sha256(key_authorization.as_bytes()), &public_area);
        let attestation_key = DeviceKey::generate();
        let signature = attestation_key.subject.sign(&certification);
        self.tpm_with(
            &attestation_key.pair,
            names,
            TpmStatement { algorithm: -7, signature, certification, public_area },
        )
    }

    /// The format `tpm` with structures from elsewhere; `attestation_key` is the public key that certified.
    #[must_use]
    pub fn tpm_with(
        &self,
        attestation_key: &impl rcgen::PublicKeyData,
        names: &[AlternativeName],
        statement: TpmStatement,
    ) -> Vec<u8> {
        let mut san = CustomExtension::from_oid_content(&[2, 5, 29, 17], AlternativeName::encode_all(names).unwrap());
        san.set_criticality(true);
        let mut params = params("", vec![san]);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3])];
        let chain = self.chain(params, attestation_key);
        object(
            "tpm",
            vec![
                ("ver", Value::Text("2.0".to_owned())),
                ("alg", Value::Integer(statement.algorithm.into())),
                ("x5c", Value::Array(chain)),
                ("sig", Value::Bytes(statement.signature)),
                ("certInfo", Value::Bytes(statement.certification)),
                ("pubArea", Value::Bytes(statement.public_area)),
            ],
        )
    }
}

/// What a TPM says of a key.
pub struct TpmStatement {
    /// The COSE number of the signature.
    pub algorithm: i64,
    /// Bare, or a TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// TPMS_ATTEST.
    pub certification: Vec<u8>,
    /// TPMT_PUBLIC.
    pub public_area: Vec<u8>,
}

/// An attestation object.
#[must_use]
pub fn object(format: &str, statement: Vec<(&str, Value)>) -> Vec<u8> {
    let text = |text: &str| Value::Text(text.to_owned());
    let statement = statement.into_iter().map(|(name, value)| (text(name), value)).collect();
    let object = Value::Map(vec![(text("fmt"), text(format)), (text("attStmt"), Value::Map(statement))]);
    let mut octets = Vec::new();
    ciborium::into_writer(&object, &mut octets).unwrap();
    octets
}

/// What an Android device says of a key.
pub struct KeyDescription {
    /// 0 is software, 1 the trusted environment.
    pub level: u8,
    /// 0 is made in the device, 2 imported.
    pub origin: u8,
    /// 2 is signing.
    pub purpose: u8,
    /// Whether every application may use it.
    pub all_applications: bool,
    /// attestationIdSerial.
    pub serial: String,
}

impl KeyDescription {
    /// A good key of this device.
    #[must_use]
    pub fn of(serial: &str) -> Self {
        Self { level: 1, origin: 0, purpose: 2, all_applications: false, serial: serial.to_owned() }
    }

    fn der(&self, challenge: &[u8]) -> Vec<u8> {
        let number = |number: u8| number.to_der().unwrap();
        let level = value(Tag::Enumerated, &[self.level]);
        let octets = |octets: &[u8]| OctetStringRef::new(octets).unwrap().to_der().unwrap();
        let entry = |kind, contents: &[u8]| {
            value(Tag::ContextSpecific { constructed: true, number: TagNumber(kind) }, contents)
        };
        let mut hardware = entry(1, &value(Tag::Set, &number(self.purpose)));
        if self.all_applications {
            hardware.extend(entry(600, &value(Tag::Null, &[])));
        }
        hardware.extend(entry(702, &number(self.origin)));
        hardware.extend(entry(713, &octets(self.serial.as_bytes())));
        let fields = [
            number(4),
            level.clone(),
            number(41),
            level,
            octets(challenge),
            octets(&[]),
            value(Tag::Sequence, &entry(701, &number(7))),
            value(Tag::Sequence, &hardware),
        ];
        value(Tag::Sequence, &fields.concat())
    }
}

fn value(tag: Tag, contents: &[u8]) -> Vec<u8> {
    let header = Header::new(tag, Length::try_from(contents.len()).unwrap());
    [header.to_der().unwrap(), contents.to_vec()].concat()
}

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, sign.
pub const TPM_ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 18;

fn sized(octets: &[u8]) -> Vec<u8> {
    [&u16::try_from(octets.len()).unwrap().to_be_bytes()[..], octets].concat()
}

/// TPMT_PUBLIC of a signing key on P-256.
fn tpm_public_area(point: &[u8], attributes: u32) -> Vec<u8> {
    let head = [0x0023_u16, 0x000b].map(u16::to_be_bytes).concat();
    let parameters = [0x0010_u16, 0x0018, 0x000b, 0x0003, 0x0010].map(u16::to_be_bytes).concat();
    [head, attributes.to_be_bytes().to_vec(), sized(&[]), parameters, sized(&point[1..33]), sized(&point[33..])]
        .concat()
}

/// TPMS_ATTEST of TPM2_Certify.
fn tpm_certification(extra_data: &[u8], public_area: &[u8]) -> Vec<u8> {
    let name = [&0x000b_u16.to_be_bytes()[..], &sha256(public_area)].concat();
    let head = [&0xff54_4347_u32.to_be_bytes()[..], &0x8017_u16.to_be_bytes()].concat();
    [head, sized(&name), sized(extra_data), vec![0; 25], sized(&name), sized(&name)].concat()
}

/// A permanent identifier.
#[must_use]
pub fn permanent(value: &str) -> AlternativeName {
    AlternativeName::PermanentIdentifier { value: Some(value.to_owned()), assigner: None }
}

/// A secure module.
#[must_use]
pub fn module(hardware_type: &str, serial: &str) -> AlternativeName {
    AlternativeName::HardwareModule {
        hardware_type: ObjectIdentifier::new_unwrap(hardware_type),
        serial: serial.as_bytes().to_vec(),
    }
}
