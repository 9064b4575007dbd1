//! The certificate of an order, as clients get it (RFC 8555 section 7.4.2).

use ca_backend::{Fault, IssuedCertificate, Serial};
use const_oid::db::rfc5280::ID_AD_CA_ISSUERS;
use der::Decode;
use der::pem::LineEnding;
use http::StatusCode;
use http::header::ACCEPT;
use x509_cert::Certificate;
use x509_cert::ext::pkix::AuthorityInfoAccessSyntax;
use x509_cert::ext::pkix::name::GeneralName;

use crate::call::AccountCall;
use crate::error::{Attempt, Problem};
use crate::reply::Reply;
use crate::site::Site;

impl Site<'_> {
    /// The certificate with its chain, without the root (RFC 8555 section 7.4.2).
    ///
    /// Chain 1 is the alternate one: with the root, for devices that are given nothing else.
    pub(crate) fn certificate(
        &self,
        call: &AccountCall,
        serial: &Serial,
        chain: u8,
        request: &http::HeaderMap,
    ) -> Attempt<Reply> {
        call.no_payload()?;
        if self.ledger.certificate_owner(serial)? != Some(call.account.value.id) {
            return Err(Problem::not_found().into());
        }
        let certificate = self.engine.issued_certificate(serial)?.ok_or_else(Problem::not_found)?;
        self.ledger.change().spend(&call.nonce).commit()?;
        let accept = request.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accept.contains("application/pkix-cert") && !accept.contains("application/pem-certificate-chain") {
            let above = ca_issuers_url(&certificate.der);
            let reply = Reply::body(StatusCode::OK, "application/pkix-cert", certificate.der);
            return Ok(match above {
                Some(url) => reply.link(&url, "up"),
                None => reply,
            });
        }
        let body = pem_chain(&certificate, chain == 1)?;
        let address = format!("{}/certificate/{serial}", self.base_url);
        let alternate = if chain == 1 { address } else { format!("{address}/1") };
        Ok(Reply::body(StatusCode::OK, "application/pem-certificate-chain", body).link(&alternate, "alternate"))
    }
}

/// Where a certificate says that its issuer's is.
fn ca_issuers_url(certificate: &[u8]) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let (_, access) = certificate.tbs_certificate().get_extension::<AuthorityInfoAccessSyntax>().ok()??;
    access.0.iter().find_map(|description| match &description.access_location {
        GeneralName::UniformResourceIdentifier(url) => {
            (description.access_method == ID_AD_CA_ISSUERS).then(|| url.to_string())
        }
        GeneralName::OtherName(_)
        | GeneralName::Rfc822Name(_)
        | GeneralName::DnsName(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::IpAddress(_)
        | GeneralName::RegisteredId(_) => None,
    })
}

fn pem_chain(certificate: &IssuedCertificate, with_root: bool) -> Result<String, Fault> {
    let pem = |der: &[u8]| {
        der::pem::encode_string("CERTIFICATE", LineEnding::LF, der)
            .map_err(|error| Fault::Broken(format!("a certificate cannot be written as PEM: {error}")))
    };
    let mut text = pem(&certificate.der)?;
    for above in &certificate.chain {
        text.push_str(&pem(above)?);
    }
    if with_root {
        text.push_str(&pem(&certificate.root)?);
    }
    Ok(text)
}
