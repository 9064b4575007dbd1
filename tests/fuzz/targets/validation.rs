//! What hosts and name servers answer to validations: certificates, CAA records, persistent TXT records.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use acme::{CaaProperty, CaaSet, Found, Validation};
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use tests::acme_client::{AcmeBench, SubjectKeyPair, csr, dns, endpoint_settings};

/// One validation of each kind.
static VALIDATIONS: LazyLock<Vec<Validation>> = LazyLock::new(|| {
    let mut settings = endpoint_settings();
    settings["options"] = json!({
        "challenges": ["http-01", "dns-01", "tls-alpn-01", "dns-persist-01"], "caa": true, "caa_identities": ["ca.example"],
    });
    let bench = AcmeBench::with(&settings);
    let client = bench.client();
    for kind in ["tls-alpn-01", "dns-persist-01"] {
        let order = client.order(&bench, &["host.corp.example"]);
        client.post(&bench, &client.challenges(&bench, &order, kind)[0], &json!({}));
    }
    let mut validations = std::mem::take(&mut *bench.started.lock().expect("one thread"));
    let order = client.ready_order(&bench, &["host.corp.example"], "http-01");
    client.finalize(&bench, &order, &csr(&SubjectKeyPair::generate(), "", &dns(&["host.corp.example"])));
    validations.append(&mut *bench.started.lock().expect("one thread"));
    validations
});

fuzz_target!(|octets: &[u8]| {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let text = String::from_utf8_lossy(octets).into_owned();
    let properties = vec![CaaProperty { critical: false, tag: "issue".to_owned(), value: text.clone() }];
    let caa = Found::Caa(vec![CaaSet { found_at: "corp.example".to_owned(), properties }]);
    for validation in VALIDATIONS.iter() {
        let _shown = validation.shows(&Found::Certificate { der: octets.to_vec(), address });
        let _shown = validation.shows(&Found::Txt(vec![text.clone()]));
        let _shown = validation.shows(&caa);
    }
});
