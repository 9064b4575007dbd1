//! What operators post as JSON: wishes for certificates.
#![no_main]

use gateway::admin::issuance::CertificateWish;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    if let Ok(wish) = serde_json::from_slice::<CertificateWish>(octets) {
        let _request = ca_backend::CertificateRequest::from_pem_or_der(wish.csr.as_bytes());
        let _subject = ca_backend::DistinguishedName::parse(&wish.subject);
        for name in &wish.alternative_names {
            if let Ok(name) = ca_backend::AlternativeName::parse(name) {
                let again = ca_backend::AlternativeName::parse(&name.to_string());
                assert_eq!(again.ok().as_ref(), Some(&name), "a name reads back as it was written");
            }
        }
    }
});
