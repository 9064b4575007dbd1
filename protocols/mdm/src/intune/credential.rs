//! How this authority shows the login service which application it is.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ca_backend::{Reason, Refusal, Time};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use zeroize::Zeroizing;

/// How long an assertion is valid, in seconds. The clocks of the login service and ours differ by some of it.
const ASSERTION_S: u64 = 600;

/// What proves the application's identity.
pub enum ClientCredential {
    /// A client secret.
    Secret(Zeroizing<String>),
    /// The key of a certificate that is registered with the application (`private_key_jwt`).
    Certificate {
        /// SHA-256 of the certificate, base64url.
        thumbprint: String,
        /// Its key.
        key: EncodingKey,
    },
}

/// Nothing of it may be printed.
impl fmt::Debug for ClientCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret(..)",
            Self::Certificate { .. } => "Certificate(..)",
        })
    }
}

/// RFC 7523 section 3.
#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    jti: &'a str,
    nbf: u64,
    iat: u64,
    exp: u64,
}

impl ClientCredential {
    /// A certificate and its RSA key, both PEM.
    ///
    /// # Errors
    /// `Reason::Malformed` if the one is no certificate or the other no RSA key; no word of the key is in it.
    pub fn certificate(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Self, Refusal> {
        let malformed = |why: &str| Refusal::new(Reason::Malformed, why);
        let (label, der) = der::pem::decode_vec(certificate_pem)
            .map_err(|_| malformed("the certificate of intune is not PEM; it must be one certificate"))?;
        if label != "CERTIFICATE" {
            return Err(malformed("the certificate of intune is PEM of something else"));
        }
        let key = EncodingKey::from_rsa_pem(key_pem)
            .map_err(|_| malformed("the key of intune is no RSA private key in PEM"))?;
        Ok(Self::Certificate { thumbprint: URL_SAFE_NO_PAD.encode(digest(&SHA256, &der)), key })
    }

    /// What a token request adds to say who asks: the fields of a form.
    pub(super) fn fields(
        &self,
        client_id: &str,
        token_url: &str,
        now: Time,
        id: &str,
    ) -> Result<Vec<(&'static str, Zeroizing<String>)>, String> {
        match self {
            Self::Secret(secret) => Ok(vec![("client_secret", secret.clone())]),
            Self::Certificate { thumbprint, key } => {
                let mut header = Header::new(Algorithm::PS256);
                header.x5t_s256 = Some(thumbprint.clone());
                let claims = Claims {
                    aud: token_url,
                    iss: client_id,
                    sub: client_id,
                    jti: id,
                    nbf: now.minus_s(ASSERTION_S / 2).unix(),
                    iat: now.unix(),
                    exp: now.plus_s(ASSERTION_S / 2).unix(),
                };
                let assertion = jsonwebtoken::encode(&header, &claims, key)
                    .map_err(|error| format!("the key of the application does not sign: {error}"))?;
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned();
                Ok(vec![
                    ("client_assertion_type", Zeroizing::new(kind)),
                    ("client_assertion", Zeroizing::new(assertion)),
                ])
            }
        }
    }
}
