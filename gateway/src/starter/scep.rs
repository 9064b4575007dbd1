//! The starter's SCEP endpoint, its challenge, and how to enroll with it.

use std::collections::BTreeSet;
use std::path::Path;

use ca_backend::{AttributeRule, CredentialPurpose, DnsRule, Engine, EvidenceKind, NameRules, TextRule};
use config::Settings;
use const_oid::ObjectIdentifier;
use const_oid::db::rfc4519::{C, CN, L, O, OU, SERIAL_NUMBER, ST};
use serde_json::json;

use super::StarterError;
use super::endpoint::{StarterEndpoint, StarterSecret};

/// The name of the endpoint.
pub(super) const ENDPOINT: &str = "starter-scep";

/// The service that its profile belongs to.
pub(super) const SERVICE: &str = "scep";

const PROFILE: &str = "scep-signature-key-encipherment";

/// The file that keeps the challenge.
const CHALLENGE_FILE: &str = "scep-challenge";

/// The subject attributes that clients put into requests.
const ATTRIBUTES: [ObjectIdentifier; 7] = [CN, SERIAL_NUMBER, O, OU, L, ST, C];

/// An endpoint for whoever knows the challenge, in force with a challenge that is kept in a file.
pub(super) fn put_endpoint(engine: &Engine, settings: &Settings) -> Result<(), StarterError> {
    let endpoint = StarterEndpoint {
        name: ENDPOINT,
        protocol: "scep",
        profiles: &[PROFILE],
        rules: &[
            ("whoever knows the challenge", EvidenceKind::Secret),
            ("whoever holds a certificate", EvidenceKind::Renewal),
        ],
        allow: NameRules {
            dns: vec![DnsRule::Any],
            subject: ATTRIBUTES.map(|attribute| AttributeRule { attribute, value: TextRule::Any }).to_vec(),
            ..NameRules::default()
        },
        // scepclient knows SHA-1 and DES only, whatever it is told, and renews with the key that it has. No harm on loopback.
        options: json!({ "ndes": true, "renewal_same_key": true, "allow_sha1": true, "allow_des": true }),
    };
    endpoint.put(engine)?;
    let challenge = StarterSecret {
        endpoint: ENDPOINT,
        purpose: CredentialPurpose::Challenge,
        rights: BTreeSet::new(),
        file: CHALLENGE_FILE,
    };
    challenge.keep(engine, settings)
}

/// How to enroll, as text for people; nothing if the endpoint or its challenge is gone.
pub(super) fn describe(engine: &Engine, settings: &Settings, directory: &Path) -> Option<String> {
    let endpoint = engine.endpoints().into_iter().find(|endpoint| endpoint.name.as_str() == ENDPOINT)?;
    let options = scep::Options::parse(&endpoint.options).ok()?;
    let challenge = directory.join(CHALLENGE_FILE);
    if !challenge.is_file() {
        return None;
    }
    // Made here, so that the text can name it; the endpoint finds it when it is mounted.
    engine.keep_registration_authority(&endpoint.authority, options.ra_key).ok()?;
    let authority = engine.registration_authorities(&endpoint.authority, options.ra_key).ok()?.into_iter().next()?;
    let url = format!("{}/scep/{ENDPOINT}", settings.http.base_url);
    Some(format!(
        "\nA first certificate by SCEP, with the challenge in {challenge} (mode 0600):\n\n  \
         mkdir -p {files} && cd {files} && scepclient -server-url {url} -challenge \"$(cat {challenge})\" \\\n    \
         -ca-fingerprint {fingerprint} \\\n    \
         -private-key client.key -certificate client.pem -cn device.example.org\n",
        challenge = challenge.display(),
        files = directory.join("scepclient").display(),
        fingerprint = authority.fingerprint(),
    ))
}
