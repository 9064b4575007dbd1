//! What operators may set for an ACME endpoint beside what every endpoint has.

use std::collections::BTreeMap;

use ca_backend::{ProfileName, Reason, Refusal};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::json;

use crate::attestation::{self, TrustedMakers};
use crate::challenge::ChallengeType;
use crate::corroboration::Quorum;
use crate::eab::ExternalAccount;
use crate::identifier::Identifier;
use crate::limits::Limits;
use crate::renewal_info::EarlyRenewal;

/// The `options` of an ACME endpoint. Everything has a default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// URL of the terms that a new account must agree to.
    pub terms_of_service: Option<String>,
    /// URL of a page about this server.
    pub website: Option<String>,
    /// The issuer domain names that CAA records may name.
    pub caa_identities: Vec<String>,
    /// Whether CAA records are asked for before a certificate is issued.
    pub caa: bool,
    /// What the directory says about each profile; a profile without a text is described by its name.
    pub profile_descriptions: BTreeMap<ProfileName, String>,
    /// The ways to show control of an identifier.
    pub challenges: Vec<ChallengeType>,
    /// The makers of devices whose attestations are believed.
    pub attestation_roots: AttestationRoots,
    /// How long an order and its authorizations may be used.
    pub order_lifetime_s: u64,
    /// The most identifiers in one order.
    pub identifiers_max: usize,
    /// The port that http-01 asks.
    pub http01_port: u16,
    /// The port that redirects to `https` may lead to.
    pub https_port: u16,
    /// How long ago an account may have shown control of an identifier for another order to rest on it; zero: each order asks anew.
    /// Above zero, control may be shown before there is an order (newAuthz).
    pub authorization_reuse_s: u64,
    /// The domains within which an account may show control of a domain by DNS instead of every single host name below it (RFC 9444).
    /// Wildcards are shown each by itself.
    pub ancestor_domains: Vec<String>,
    /// Whether accounts are bound to credentials: `off`, `optional`, `required`.
    pub external_account: ExternalAccount,
    /// How much an account, an address or a name may ask for.
    pub limits: Limits,
    /// A page that says why certificates should be renewed (RFC 9773 section 4.2).
    pub renewal_explanation_url: Option<String>,
    /// How long clients wait before they ask for renewal information again.
    pub renewal_retry_after_s: u32,
    /// Certificates that are to be renewed before their time.
    pub early_renewal: Option<EarlyRenewal>,
    /// How many of 100 good nonces are rejected all the same, to test clients. Zero, unless you test clients.
    pub test_rejected_nonces_percent: u8,
    /// The port that tls-alpn-01 asks.
    pub tls_alpn01_port: u16,
    /// The private and loopback address ranges that validation may reach. Public addresses it always may, others never.
    pub reachable_networks: Vec<IpNet>,
    /// The remote perspectives that must see what the node itself sees, by the names that the node's settings give them.
    pub perspectives: Vec<String>,
    /// How many of them may fail to; if not stated, as many as the Baseline Requirements' section 3.2.2.9 lets.
    pub perspective_failures_max: Option<usize>,
}

/// Root certificates of the makers of devices, each in PEM. A format without roots is not accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttestationRoots {
    /// Of the format `apple`.
    pub apple: Vec<String>,
    /// Of the format `tpm`.
    pub tpm: Vec<String>,
    /// Of the format `android-key`.
    pub android: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            terms_of_service: None,
            website: None,
            caa_identities: Vec::new(),
            caa: false,
            profile_descriptions: BTreeMap::new(),
            challenges: vec![ChallengeType::Http01, ChallengeType::Dns01, ChallengeType::TlsAlpn01],
            attestation_roots: AttestationRoots::default(),
            order_lifetime_s: 7 * 24 * 3600,
            identifiers_max: 100,
            http01_port: 80,
            https_port: 443,
            tls_alpn01_port: 443,
            reachable_networks: Vec::new(),
            perspectives: Vec::new(),
            perspective_failures_max: None,
            authorization_reuse_s: 0,
            ancestor_domains: Vec::new(),
            external_account: ExternalAccount::Off,
            limits: Limits::default(),
            renewal_explanation_url: None,
            renewal_retry_after_s: 6 * 3600,
            early_renewal: None,
            test_rejected_nonces_percent: 0,
        }
    }
}

impl Options {
    /// The remote perspectives that are asked, and how many may fail.
    pub(crate) fn quorum(&self) -> Quorum {
        Quorum::new(self.perspectives.clone(), self.perspective_failures_max)
    }

    /// The makers of devices that are believed.
    ///
    /// # Errors
    /// `Reason::Malformed` if a root is no certificate.
    pub(crate) fn trusted_makers(&self) -> Result<TrustedMakers, Refusal> {
        let read = |format: &str, pem: &[String]| {
            attestation::read_roots(pem).map_err(|place| {
                let text = format!("attestation_roots.{format}: number {place} is not one certificate in PEM");
                Refusal::new(Reason::Malformed, text)
            })
        };
        let roots = &self.attestation_roots;
        Ok(TrustedMakers {
            apple: read("apple", &roots.apple)?,
            tpm: read("tpm", &roots.tpm)?,
            android: read("android", &roots.android)?,
        })
    }

    /// Whether control of this domain may stand for the host names below it.
    pub(crate) fn permits_ancestor(&self, domain: &Identifier) -> bool {
        let is_listed = |listed: &String| domain.document() == json!({ "type": "dns", "value": listed });
        self.ancestor_domains.iter().any(|listed| is_listed(listed) || domain.is_host_below(listed))
    }

    /// Reads and checks the options of an endpoint; `null` means the defaults.
    ///
    /// # Errors
    /// `Reason::Malformed` with what is wrong.
    pub fn parse(options: &serde_json::Value) -> Result<Self, Refusal> {
        const AUTHORIZATION_REUSE_S_MAX: u64 = 365 * 24 * 3600;
        const TEST_REJECTED_NONCES_PERCENT_MAX: u8 = 90;
        const ORDER_LIFETIME_S: std::ops::RangeInclusive<u64> = 60..=90 * 24 * 3600;
        let refuse = |text: String| Err(Refusal::new(Reason::Malformed, text));
        if options.is_null() {
            return Ok(Self::default());
        }
        // A list would fill the members in order.
        if !options.is_object() {
            return refuse("the options of an ACME endpoint are an object".to_owned());
        }
        let options = match Self::deserialize(options) {
            Ok(options) => options,
            Err(error) => return refuse(format!("the options of an ACME endpoint cannot be read: {error}")),
        };
        if options.challenges.is_empty() {
            return refuse("challenges must name at least one way to show control".to_owned());
        }
        if !ORDER_LIFETIME_S.contains(&options.order_lifetime_s) {
            return refuse("order_lifetime_s must be between 60 (a minute) and 7776000 (90 days)".to_owned());
        }
        if options.caa && options.caa_identities.is_empty() {
            return refuse(
                "caa needs caa_identities, the domain names by which CAA records may name this authority".to_owned(),
            );
        }
        const PERSISTENT_ISSUERS_MAX: usize = 10;
        let issuers = 1..=PERSISTENT_ISSUERS_MAX;
        if options.challenges.contains(&ChallengeType::DnsPersist01) && !issuers.contains(&options.caa_identities.len())
        {
            return refuse(
                "dns-persist-01 needs 1 to 10 caa_identities, the domain names that a TXT record may name".to_owned(),
            );
        }
        options.quorum().check()?;
        for domain in &options.ancestor_domains {
            match Identifier::parse("dns", domain) {
                Ok(read) if read.to_string() == *domain && !read.is_wildcard() => {}
                Ok(_) | Err(_) => {
                    return refuse(format!(
                        "ancestor_domains: {domain:?} is not a domain name in lower case, without a wildcard"
                    ));
                }
            }
        }
        let shows_subdomains = options.challenges.iter().any(|kind| kind.can_show_subdomains());
        if !options.ancestor_domains.is_empty() && !shows_subdomains {
            return refuse(
                "ancestor_domains needs dns-01, dns-account-01 or dns-persist-01 among the challenges".to_owned(),
            );
        }
        options.trusted_makers()?;
        let roots = &options.attestation_roots;
        let believes_nobody = roots.apple.is_empty() && roots.tpm.is_empty() && roots.android.is_empty();
        if options.challenges.contains(&ChallengeType::DeviceAttest01) && believes_nobody {
            return refuse(
                "device-attest-01 needs attestation_roots: the makers whose attestations are believed".to_owned(),
            );
        }
        if options.identifiers_max == 0 {
            return refuse("identifiers_max must be greater than zero".to_owned());
        }
        if [options.http01_port, options.https_port, options.tls_alpn01_port].contains(&0) {
            return refuse("http01_port, https_port and tls_alpn01_port must be greater than zero".to_owned());
        }
        if options.authorization_reuse_s > AUTHORIZATION_REUSE_S_MAX {
            return refuse("authorization_reuse_s must be at most 31536000 (a year)".to_owned());
        }
        if options.renewal_retry_after_s == 0 {
            return refuse("renewal_retry_after_s must be greater than zero".to_owned());
        }
        if options.test_rejected_nonces_percent > TEST_REJECTED_NONCES_PERCENT_MAX {
            return refuse("test_rejected_nonces_percent must be at most 90".to_owned());
        }
        if options.early_renewal.as_ref().is_some_and(|renewal| renewal.end <= renewal.start) {
            return refuse("early_renewal must end after its start".to_owned());
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stated_means_the_defaults() {
        assert_eq!(Options::parse(&json!(null)).unwrap(), Options::default());
        assert_eq!(Options::parse(&json!({})).unwrap(), Options::default());
    }

    #[test]
    fn an_unknown_or_senseless_option_is_refused() {
        for options in [
            json!({ "http_port": 80 }),
            json!({ "challenges": [] }),
            json!({ "challenges": ["dns-02"] }),
            json!({ "order_lifetime_s": 1 }),
            json!({ "identifiers_max": 0 }),
            json!({ "caa": true }),
            json!({ "challenges": ["device-attest-01"] }),
            json!({ "challenges": ["dns-persist-01"] }),
            json!({ "ancestor_domains": ["*.corp.example"] }),
            json!({ "ancestor_domains": ["Corp.example"] }),
            json!({ "ancestor_domains": [".corp.example"] }),
            json!({ "ancestor_domains": ["corp.example"], "challenges": ["http-01", "tls-alpn-01"] }),
            json!({ "attestation_roots": { "apple": ["no certificate"] } }),
            json!({ "attestation_roots": { "acme": [] } }),
            json!({ "http01_port": 0 }),
            json!({ "perspectives": ["oslo", "oslo"] }),
            json!({ "perspectives": ["oslo"], "perspective_failures_max": 1 }),
            json!({ "perspective_failures_max": 0 }),
            json!({ "https_port": 0 }),
            json!({ "tls_alpn01_port": 0 }),
            json!({ "reachable_networks": ["10.0.0.0"] }),
            json!({ "authorization_reuse_s": 31_536_001 }),
            json!({ "renewal_retry_after_s": 0 }),
            json!({ "test_rejected_nonces_percent": 91 }),
            json!({ "limits": { "orders": 1 } }),
            json!({ "early_renewal": { "issued_before": "2026-01-01T00:00:00Z", "start": "2026-01-02T00:00:00Z", "end": "2026-01-02T00:00:00Z" } }),
            json!({ "early_renewal": { "issued_before": "soon", "start": "2026-01-02T00:00:00Z", "end": "2026-01-03T00:00:00Z" } }),
            json!([]),
        ] {
            assert_eq!(Options::parse(&options).unwrap_err().reason(), Reason::Malformed, "{options}");
        }
    }
}
