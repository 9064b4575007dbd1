//! What operators may set for a SCEP endpoint beside what every endpoint has.

use ca_backend::{AuthorityName, KeyAlgorithm, Reason, Refusal};
use pkcs7::Legacy;
use serde::Deserialize;

const DAY_S: u64 = 86_400;

/// The `options` of a SCEP endpoint. Everything has a default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Whether the paths of NDES, `/certsrv/mscep/...`, lead here too. One endpoint of a node may have it.
    pub ndes: bool,
    /// The RSA key of the registration authority that clients encrypt for.
    pub ra_key: KeyAlgorithm,
    /// What GetCACert answers.
    pub ca_certificates: CaCertificates,
    /// Whether clients are told that they may POST. Old ones that cannot are told nothing worse by it.
    pub post: bool,
    /// Whether a certificate of this endpoint's authority may be renewed with its own key.
    pub renewal: bool,
    /// Whether a renewal may keep the key.
    pub renewal_same_key: bool,
    /// How long before its end a certificate may be renewed, in seconds; at any time if not stated.
    pub renewal_before_expiry_s: Option<u64>,
    /// How long after its end a certificate may still be renewed, in seconds.
    pub renewal_after_expiry_s: u64,
    /// Whether a reply holds the issuing authorities beside the certificate. Clients of Apple take the first certificate, whichever.
    pub reply_with_chain: bool,
    /// Whether SHA-1 is taken in signatures of clients.
    pub allow_sha1: bool,
    /// Whether 3DES is taken, and used where the client did.
    pub allow_triple_des: bool,
    /// Whether DES is taken, and used where the client did. Whoever listens can read such a message with the challenge in it.
    pub allow_des: bool,
    /// How long a client may poll for a request that waits for approval, in seconds. Once it heard the outcome, it may ask again as
    /// long as any request may be repeated.
    pub pending_max_s: u64,
    /// The most requests that may wait for approval at this endpoint.
    pub pending_max: usize,
    /// Octets of the longest CRL that GetCRL answers with. Longer ones are fetched from their distribution point.
    pub crl_bytes_max: usize,
    /// The most answers with a CRL that are made at once: anybody may ask for one, and each is encrypted anew.
    pub crls_at_once_max: usize,
    /// The authority that will follow this endpoint's one: what GetNextCACert tells.
    pub next_authority: Option<AuthorityName>,
    /// Intune as the judge of devices. Read by whoever mounts the endpoint, which hands over the verifier.
    pub intune: Option<serde_json::Value>,
    /// A webhook that is asked about requests. Read by whoever mounts the endpoint, as `intune` is.
    pub webhook: Option<serde_json::Value>,
}

/// What GetCACert answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaCertificates {
    /// The registration authority's certificate and those above it, up to the root, as certs-only message.
    Chain,
    /// The registration authority's certificate alone, for clients that take one certificate only.
    RegistrationAuthority,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ndes: false,
            ra_key: KeyAlgorithm::Rsa2048,
            ca_certificates: CaCertificates::Chain,
            post: true,
            renewal: true,
            renewal_same_key: false,
            renewal_before_expiry_s: None,
            renewal_after_expiry_s: 0,
            reply_with_chain: false,
            allow_sha1: false,
            allow_triple_des: false,
            allow_des: false,
            pending_max_s: 7 * DAY_S,
            pending_max: 1_000,
            crl_bytes_max: 1 << 20,
            crls_at_once_max: 2,
            next_authority: None,
            intune: None,
            webhook: None,
        }
    }
}

impl Options {
    /// Reads and checks the options of an endpoint; `null` means the defaults.
    ///
    /// # Errors
    /// `Reason::Malformed` with what is wrong.
    pub fn parse(options: &serde_json::Value) -> Result<Self, Refusal> {
        const PENDING_S: std::ops::RangeInclusive<u64> = 60..=90 * DAY_S;
        const AFTER_EXPIRY_S_MAX: u64 = 366 * DAY_S;
        let refuse = |text: String| Err(Refusal::new(Reason::Malformed, text));
        if options.is_null() {
            return Ok(Self::default());
        }
        // A list would fill the members in order.
        if !options.is_object() {
            return refuse("the options of a SCEP endpoint are an object".to_owned());
        }
        let options = match Self::deserialize(options) {
            Ok(options) => options,
            Err(error) => return refuse(format!("the options of a SCEP endpoint cannot be read: {error}")),
        };
        if !options.ra_key.is_rsa() {
            return refuse("ra_key must be rsa-2048, rsa-3072 or rsa-4096: clients encrypt for it".to_owned());
        }
        if !PENDING_S.contains(&options.pending_max_s) {
            return refuse("pending_max_s must be between 60 (a minute) and 7776000 (90 days)".to_owned());
        }
        if options.crls_at_once_max == 0 {
            return refuse("crls_at_once_max must be at least 1".to_owned());
        }
        if options.renewal_after_expiry_s > AFTER_EXPIRY_S_MAX {
            return refuse(format!("renewal_after_expiry_s must be at most {AFTER_EXPIRY_S_MAX} (366 days)"));
        }
        Ok(options)
    }

    /// What is taken though it is weak.
    #[must_use]
    pub(crate) fn legacy(&self) -> Legacy {
        Legacy { sha1: self.allow_sha1, triple_des: self.allow_triple_des, des: self.allow_des }
    }

    /// GetCACaps (RFC 8894 section 3.5.2): a keyword on each line. Apple's clients split lines at LF and compare them whole; sscep
    /// minds the letter case.
    pub(crate) fn capabilities(&self) -> String {
        let keywords = [
            ("POSTPKIOperation", self.post),
            ("Renewal", self.renewal),
            ("SHA-512", true),
            (quirk_strongswan_looks_for_sha384(), true),
            ("SHA-256", true),
            ("SHA-1", self.allow_sha1),
            ("AES", true),
            ("DES3", self.allow_triple_des),
            // It says AES, POSTPKIOperation and SHA-256 in one word.
            ("SCEPStandard", self.post),
            ("GetNextCACert", self.next_authority.is_some()),
        ];
        keywords.iter().filter(|(_, announced)| *announced).map(|(keyword, _)| format!("{keyword}\n")).collect()
    }
}

/// RFC 8894 has no such keyword, though SHA-384 is taken. strongSwan's pki before 5.9.9 mistakes the numbers of keywords for masks, and
/// so finds AES, SCEPStandard and Renewal only where this one stands.
const fn quirk_strongswan_looks_for_sha384() -> &'static str {
    "SHA-384"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_stated_means_the_defaults() {
        assert_eq!(Options::parse(&json!(null)).unwrap(), Options::default());
        assert_eq!(Options::parse(&json!({})).unwrap(), Options::default());
    }

    #[test]
    fn an_unknown_or_senseless_option_is_refused() {
        for options in [
            json!({ "challenge": "secret" }),
            json!({ "ra_key": "ec-p256" }),
            json!({ "pending_max_s": 1 }),
            json!({ "crls_at_once_max": 0 }),
            json!({ "renewal_after_expiry_s": 99_999_999 }),
            json!({ "ca_certificates": "all" }),
            json!([]),
        ] {
            assert_eq!(Options::parse(&options).unwrap_err().reason(), Reason::Malformed, "{options}");
        }
    }

    #[test]
    fn s09_weak_algorithms_are_announced_only_where_they_are_allowed() {
        assert_eq!(
            Options::default().capabilities(),
            "POSTPKIOperation\nRenewal\nSHA-512\nSHA-384\nSHA-256\nAES\nSCEPStandard\n"
        );
        let legacy = Options { allow_sha1: true, allow_triple_des: true, post: false, ..Options::default() };
        assert_eq!(legacy.capabilities(), "Renewal\nSHA-512\nSHA-384\nSHA-256\nSHA-1\nAES\nDES3\n");
    }
}
