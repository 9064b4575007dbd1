//! CMS messages: BER, SignedData, EnvelopedData.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pkcs7::{Bag, CertificateView, Envelope, Legacy, SignedMessage};

fuzz_target!(|octets: &[u8]| {
    if let Ok(der) = pkcs7::der_of(octets) {
        assert_eq!(pkcs7::der_of(&der).expect("DER is BER"), der, "what was rewritten stays as it is");
    }
    let legacy = Legacy { sha1: true, triple_des: true, des: true };
    let _signed = SignedMessage::open(octets, legacy);
    let _bag = Bag::read(octets);
    let _certificate = CertificateView::of(octets);
    if let Ok(envelope) = Envelope::read(octets, legacy) {
        let _content = envelope.open(&vec![7; envelope.content_key_bytes()]);
    }
});
