//! The certificate authority: one [`Engine`] and plain data.
//!
//! Everything that decides, signs or stores is private to this crate; a protocol can only ask the [`Engine`].

pub mod algorithm;
mod archived_key;
mod audit;
mod authority;
mod certificate;
mod clock;
mod credential;
mod crl;
pub mod csr;
mod device;
mod encoding;
mod endpoint;
mod engine;
mod error;
mod evidence;
mod extension;
pub mod figures;
mod foresee;
mod generated_key;
mod holder;
mod inventory;
mod issue;
mod key_inventory;
mod keys;
mod label;
mod lint;
mod maintain;
mod name;
mod name_constraint;
pub mod nesting;
mod ocsp;
mod open;
mod own_certificate;
mod pki;
mod policy;
pub mod profile;
mod rate;
mod record;
mod records;
mod refuse;
mod registration_authority;
mod registry;
mod request;
mod revoke;
mod serial;
mod status;
mod store;
pub mod subject_key;
mod tbs;
#[cfg(feature = "testing")]
pub mod testing;
mod ticket;
mod verify;
mod weak_key;

pub use algorithm::KeyAlgorithm;
pub use audit::{Action, AuditEntry, AuditRecord, AuditVerdict};
pub use authority::{Authority, AuthorityChange, AuthorityKind, AuthorityState, NewAuthority};
pub use clock::{Clock, Rng, Stopwatch, SystemClock, SystemRng, Time, random};
pub use credential::{
    Binding, Credential, CredentialChange, CredentialId, CredentialPurpose, CredentialQuery, MacAlgorithm,
    NewCredential, Right, SecretScope, SecretText, VerifiedSecret,
};
pub use csr::CertificateRequest;
pub use device::{DeviceClaim, DeviceVerifier, VerifiedDevice};
pub use endpoint::Endpoint;
pub use engine::{Engine, EngineSettings, IssuedCertificate, Outcome};
pub use error::{Error, Fault, KeyFault, Reason, Refusal, StoreFault};
pub use evidence::{
    Approval, Challenges, Evidence, EvidenceFacts, EvidenceKind, KeyAlone, ValidatedIdentifier, VerifiedCertificate,
};
pub use extension::RequestedExtensions;
pub use foresee::Foresight;
pub use generated_key::GeneratedKey;
pub use holder::{Holder, HolderName};
pub use inventory::{
    CertificateCount, CertificateEvent, CertificateEventKind, CertificateState, CertificateSummary, InventoryQuery,
    Page,
};
pub use key_inventory::ListedKey;
pub use keys::examination::{Ability, KeyStoreReport, SignRate};
pub use keys::pkcs11::{PinSource, TokenSettings};
pub use keys::secret::{KeyEncryptionSecret, Secret};
pub use keys::{DecryptionScheme, KeyHealth, KeyHomes};
pub use label::{AuthorityName, EndpointName, ProfileName, ProtocolName};
pub use name::{AlternativeName, DistinguishedName};
pub use open::EngineParts;
pub use own_certificate::{ServiceKey, TlsIdentity};
pub use policy::{AccessRule, AttributeRule, DnsRule, NameRules, RequesterRule, TextRule};
pub use profile::Profile;
pub use records::{RecordBatch, RecordError, RecordSpace, Records};
pub use registration_authority::RegistrationAuthority;
pub use request::{EnrollmentRequest, Origin, RequestedNames, RequestedValidity, RevocationRequest, StatusChange};
pub use revoke::Revocation;
pub use serial::Serial;
pub use status::{CertId, CertIdHash, CertStatus, OcspQuery, RevocationReason, SignedCrl, SignedOcsp};
pub use store::{Entry, StoreKind, StoreOptions, Version, Versioned};
pub use subject_key::{ProvenKey, SubjectKey, SubjectKeyKind};
pub use ticket::{Ticket, TicketDetails, TicketStanding, WaitingRequest};

/// SHA-256.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    digest
}

/// The bits in a SubjectPublicKeyInfo's subjectPublicKey.
fn public_key_bits(public_key: &[u8]) -> Result<&[u8], Fault> {
    use der::Decode;
    let info = spki::SubjectPublicKeyInfoRef::from_der(public_key)?;
    info.subject_public_key.as_bytes().ok_or_else(|| Fault::Broken("a public key is not whole octets".to_owned()))
}
