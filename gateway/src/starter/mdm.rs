//! The starter's web service for device management, its token, and how to get a certificate from it.

use std::collections::BTreeSet;
use std::path::Path;

use ca_backend::{AttributeRule, CredentialPurpose, DnsRule, Engine, EvidenceKind, NameRules, Right, TextRule};
use config::Settings;
use const_oid::db::rfc4519::CN;
use serde_json::json;

use super::endpoint::{StarterEndpoint, StarterSecret};
use super::{StarterError, scep};

/// The name of the endpoint.
pub(super) const ENDPOINT: &str = "starter-mdm";

/// The service that its profile belongs to.
pub(super) const SERVICE: &str = "mdmws";

const PROFILE: &str = "mdmws-digital-signature";

/// The file that keeps the token.
const TOKEN_FILE: &str = "mdm-token";

/// An endpoint for the bearer of a token that is kept in a file. It also makes one-time challenges for the SCEP endpoint.
pub(super) fn put_endpoint(engine: &Engine, settings: &Settings) -> Result<(), StarterError> {
    let endpoint = StarterEndpoint {
        name: ENDPOINT,
        protocol: "mdm",
        profiles: &[PROFILE],
        rules: &[("the bearer of the token", EvidenceKind::Secret)],
        allow: NameRules {
            dns: vec![DnsRule::Any],
            subject: vec![AttributeRule { attribute: CN, value: TextRule::Any }],
            ..NameRules::default()
        },
        options: json!({
            "configurations": [{
                "name": "device", "title": "A device by its serial number", "profile": PROFILE, "key": "rsa-2048",
                "subject": [{"attribute": "cn", "value": "{device.serial}"}],
            }],
            "challenges": {"scep_endpoint": scep::ENDPOINT, "ndes": true},
        }),
    };
    endpoint.put(engine)?;
    let token = StarterSecret {
        endpoint: ENDPOINT,
        purpose: CredentialPurpose::Token,
        rights: BTreeSet::from(Right::ALL),
        file: TOKEN_FILE,
    };
    token.keep(engine, settings)
}

/// How to get a certificate, as text for people; nothing if the endpoint or its token is gone.
pub(super) fn describe(engine: &Engine, settings: &Settings, directory: &Path, root: &Path) -> Option<String> {
    engine.endpoints().into_iter().find(|endpoint| endpoint.name.as_str() == ENDPOINT)?;
    let token = directory.join(TOKEN_FILE);
    if !token.is_file() {
        return None;
    }
    Some(format!(
        "\nA first certificate with its key from the web service for device management, with the token in {token} (mode 0600):\n\n  \
         curl --cacert {root} -H \"Authorization: Bearer $(cat {token})\" \\\n    \
         -d '{{\"configuration\": \"device\", \"device\": {{\"id\": \"d1\", \"serial\": \"C02X\"}}, \"pkcs12\": {{}}}}' \\\n    \
         {url}/mdm/{ENDPOINT}/certificates\n",
        token = token.display(),
        root = root.display(),
        url = settings.https.base_url,
    ))
}
