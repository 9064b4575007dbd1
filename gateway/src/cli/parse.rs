//! Arguments with a form of their own, read before the daemon is asked: what is wrong with one is said with its name.

use ca_backend::profile::{RequestExtension, purpose};
use ca_backend::{AlternativeName, CertificateRequest, DistinguishedName, Refusal, RevocationReason, Serial, Ticket};

use super::failure::Failure;
use crate::admin::issuance::WantedExtension;

pub(super) fn serial(text: &str) -> Result<Serial, String> {
    Serial::parse(text).map_err(public)
}

pub(super) fn ticket(text: &str) -> Result<Ticket, String> {
    Ticket::parse(text)
        .map_err(|refusal| format!("{}; `certgate request list` shows those that wait", refusal.public()))
}

/// A distinguished name; handed on as it was written.
pub(super) fn subject(text: &str) -> Result<String, String> {
    DistinguishedName::parse(text)
        .map(|_| text.to_owned())
        .map_err(|refusal| format!("{}; write it like \"CN=host.example.org,O=Example,C=DE\"", refusal.public()))
}

/// An alternative name; handed on as it was written.
pub(super) fn alternative_name(text: &str) -> Result<String, String> {
    let forms = "write TYPE:NAME, such as dns:host.example.org, ip:192.0.2.1, email:ann@example.org, \
                 uri:https://example.org/x, upn:ann@example.org or dn:CN=Ann";
    AlternativeName::parse(text).map(|_| text.to_owned()).map_err(|refusal| format!("{}; {forms}", refusal.public()))
}

pub(super) fn extended_key_usage(text: &str) -> Result<String, String> {
    match purpose::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(
            "no extended key usage; write a name such as server-auth or client-auth, or an object identifier such as \
                     1.3.6.1.5.5.7.3.2"
                .to_owned(),
        ),
    }
}

pub(super) fn extension(text: &str) -> Result<WantedExtension, String> {
    let (kind, value_hex) =
        text.split_once('=').ok_or("write TYPE=HEX, such as certificate-policies=300806062a0304050607")?;
    RequestExtension::try_from(kind.to_owned())?;
    hex::decode(value_hex).map_err(|_| format!("the value of {kind} is not hexadecimal"))?;
    Ok(WantedExtension { kind: kind.to_owned(), value_hex: value_hex.to_owned() })
}

pub(super) fn fingerprint(text: &str) -> Result<String, String> {
    match hex::decode(text) {
        Ok(octets) if octets.len() == 32 => Ok(text.to_ascii_lowercase()),
        Ok(_) | Err(_) => Err("not 64 hexadecimal digits; --help says how to get them".to_owned()),
    }
}

/// The reasons that end a certificate for good.
const FINAL_REASONS: [RevocationReason; 7] = [
    RevocationReason::Unspecified,
    RevocationReason::KeyCompromise,
    RevocationReason::CaCompromise,
    RevocationReason::AffiliationChanged,
    RevocationReason::Superseded,
    RevocationReason::CessationOfOperation,
    RevocationReason::PrivilegeWithdrawn,
];

pub(super) fn final_reason(text: &str) -> Result<RevocationReason, String> {
    let known = FINAL_REASONS.into_iter().find(|reason| reason.name().eq_ignore_ascii_case(text));
    known.ok_or_else(|| {
        if text.eq_ignore_ascii_case(RevocationReason::CertificateHold.name()) {
            return "a hold can be lifted again; use `certgate certificate hold`".to_owned();
        }
        format!("the reasons are {}", FINAL_REASONS.map(RevocationReason::name).join(", "))
    })
}

/// A certificate request. One that can be read but does not hold water is the daemon's to refuse.
pub(super) fn csr(octets: &[u8], shown_as: &str) -> Result<Option<CertificateRequest>, Failure> {
    match CertificateRequest::from_pem_or_der(octets) {
        Ok(request) => Ok(Some(request)),
        Err(refusal) if refusal.reason() == ca_backend::Reason::Malformed => Err(Failure::usage(
            format!("--csr {shown_as}: {}", refusal.public()),
            "give a PKCS#10 request, PEM or DER, such as `openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
             -keyout host.key -subj / -out host.csr` makes",
        )),
        Err(_) => Ok(None),
    }
}

fn public(refusal: Refusal) -> String {
    refusal.public().to_owned()
}
