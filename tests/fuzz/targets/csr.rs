//! Certificate requests, DER and PEM.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    if let Ok(request) = ca_backend::CertificateRequest::from_pem_or_der(octets) {
        let _names = ca_backend::DistinguishedName::from_der(request.subject_der());
        for extension in request.extensions() {
            let _names = ca_backend::AlternativeName::decode_all(extension.extn_value.as_bytes());
        }
    }
});
