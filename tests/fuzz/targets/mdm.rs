//! What management systems send to the web service, the page of NDES and the webhook: method and path on the first line, then the
//! body. The caller holds a token with every right.
#![no_main]

use std::cell::OnceCell;
use std::net::SocketAddr;

use ca_backend::{Binding, CredentialPurpose, EndpointName, NewCredential};
use endpoint::{Endpoint, Peer};
use libfuzzer_sys::fuzz_target;
use mdm::Mdm;
use tests::pki::{ISSUING, OPERATOR, Pki};

thread_local! {
    static SITE: OnceCell<(Mdm, String)> = const { OnceCell::new() };
}

/// An endpoint with configurations and challenges, and a token for it.
fn site() -> (Mdm, String) {
    let pki = Pki::start();
    let profile = "mdmws-digital-signature";
    let options = serde_json::json!({
        "configurations": [
            {"name": "wifi", "profile": profile, "key": "ec-p256", "subject": [{"attribute": "cn", "value": "{device.serial}"}],
             "alternative_names": [{"value": "dns:{device.serial}.example.org", "optional": true}]},
            {"name": "own", "profile": profile, "names": "request"}],
        "challenges": {"scep_endpoint": "devices", "ndes": true, "per_minute_max": 1_000_000, "outstanding_max": 10},
    });
    for (name, protocol, options) in [("devices", "scep", serde_json::json!({})), ("fleet", "mdm", options)] {
        let settings = serde_json::json!({"name": name, "protocol": protocol, "authority": ISSUING, "profiles": [profile], "options": options,
            "rules": [{"name": "all", "requesters": [{"evidence": "secret"}], "profiles": [profile], "allow": {"dns": ["*"], "subject": [{"attribute": "cn", "value": "*"}]}}]});
        pki.engine.put_endpoint(&serde_json::from_value(settings).unwrap(), OPERATOR).unwrap();
    }
    let endpoint = EndpointName::new("fleet").unwrap();
    let binding: Binding =
        serde_json::from_value(serde_json::json!({"rights": ["issue", "revoke", "hold", "list", "create-challenges"]})).unwrap();
    let wish = NewCredential {
        id: None,
        endpoint: endpoint.clone(),
        purpose: CredentialPurpose::Token,
        comment: String::new(),
        holder: None,
        secret: None,
        expires: None,
        uses_max: None,
        binding,
    };
    let (_, secret) = pki.engine.create_credential(&wish, OPERATOR).unwrap();
    let mdm = Mdm::mount(pki.engine.clone(), endpoint, "https://ca.example/mdm/fleet").unwrap();
    (mdm, secret.reveal().to_owned())
}

fuzz_target!(|octets: &[u8]| {
    let split = octets.iter().position(|octet| *octet == b'\n').unwrap_or(octets.len());
    let (line, body) = octets.split_at(split);
    let Some((method, path)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(' ')) else { return };
    SITE.with(|known| {
        let (mdm, token) = known.get_or_init(site);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .body(bytes::Bytes::copy_from_slice(body.get(1..).unwrap_or_default()));
        let Ok(request) = request else { return };
        let peer = Peer { address: SocketAddr::from(([192, 0, 2, 1], 1)), tls: None, request_id: "fuzz".to_owned() };
        let status = mdm.handle(request, &peer).status();
        assert!(status.as_u16() < 500, "{status}");
    });
});
