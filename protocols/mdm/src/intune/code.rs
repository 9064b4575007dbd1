//! What the validation service answers, and what becomes of it.

use ca_backend::{Reason, Refusal};

/// The codes of the validation service. Compared without regard to case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultCode {
    /// The request may be granted, or the notification was taken.
    Success,
    /// The service does not know either, or answered a code that is not in this list.
    Unknown,
    /// The request is no PKCS#10.
    CertificateRequestDecodingFailed,
    /// The request has no challenge.
    ChallengePasswordMissing,
    /// The challenge is not of Intune's form.
    ChallengeDeserializationError,
    /// The challenge was not encrypted for this service.
    ChallengeDecryptionError,
    /// The challenge is not of Intune's encoding.
    ChallengeDecodingError,
    /// The challenge is from the future.
    ChallengeInvalidTimestamp,
    /// The challenge is too old.
    ChallengeExpired,
    /// The request has no subject.
    SubjectNameMissing,
    /// The subject is not the one of the profile.
    SubjectNameMismatch,
    /// The request lacks the alternative names of the profile.
    SubjectAltNameMissing,
    /// The alternative names are not those of the profile.
    SubjectAltNameMismatch,
    /// The key usage is not that of the profile.
    KeyUsageMismatch,
    /// The key's length is not that of the profile.
    KeyLengthMismatch,
    /// The request lacks the extended key usage of the profile.
    EnhancedKeyUsageMissing,
    /// The extended key usage is not that of the profile.
    EnhancedKeyUsageMismatch,
    /// The challenge names no keys of the device.
    AadKeyIdentifierListMissing,
    /// The key is not the one that the device registered.
    RegisteredKeyMismatch,
    /// The certificate that signed the message is not the expected one.
    SigningCertThumbprintMismatch,
    /// The device shall not have this profile any more.
    ScepProfileNoLongerTargetedToTheClient,
    /// A signature does not verify.
    SignatureValidationFailed,
    /// The challenge belongs to another request.
    BadCertificateRequestIdInChallenge,
    /// The challenge belongs to another device.
    BadDeviceIdInChallenge,
    /// The challenge belongs to another user.
    BadUserIdInChallenge,
}

impl ResultCode {
    /// Every code.
    pub const ALL: [Self; 25] = [
        Self::Success,
        Self::Unknown,
        Self::CertificateRequestDecodingFailed,
        Self::ChallengePasswordMissing,
        Self::ChallengeDeserializationError,
        Self::ChallengeDecryptionError,
        Self::ChallengeDecodingError,
        Self::ChallengeInvalidTimestamp,
        Self::ChallengeExpired,
        Self::SubjectNameMissing,
        Self::SubjectNameMismatch,
        Self::SubjectAltNameMissing,
        Self::SubjectAltNameMismatch,
        Self::KeyUsageMismatch,
        Self::KeyLengthMismatch,
        Self::EnhancedKeyUsageMissing,
        Self::EnhancedKeyUsageMismatch,
        Self::AadKeyIdentifierListMissing,
        Self::RegisteredKeyMismatch,
        Self::SigningCertThumbprintMismatch,
        Self::ScepProfileNoLongerTargetedToTheClient,
        Self::SignatureValidationFailed,
        Self::BadCertificateRequestIdInChallenge,
        Self::BadDeviceIdInChallenge,
        Self::BadUserIdInChallenge,
    ];

    /// Reads a code; what is not known is [`ResultCode::Unknown`], never a success.
    #[must_use]
    pub fn read(text: &str) -> Self {
        // The name of a variant is the code.
        let named = |code: &Self| format!("{code:?}").eq_ignore_ascii_case(text.trim());
        Self::ALL.into_iter().find(named).unwrap_or(Self::Unknown)
    }

    /// The class of refusal; `None` for a success.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        Some(match self {
            Self::Success => return None,
            Self::CertificateRequestDecodingFailed => Reason::Malformed,
            Self::ChallengeInvalidTimestamp | Self::ChallengeExpired => Reason::BadTime,
            Self::SubjectNameMissing
            | Self::SubjectNameMismatch
            | Self::SubjectAltNameMissing
            | Self::SubjectAltNameMismatch => Reason::NameNotAllowed,
            Self::KeyLengthMismatch => Reason::BadKey,
            Self::SignatureValidationFailed => Reason::BadProof,
            Self::KeyUsageMismatch
            | Self::EnhancedKeyUsageMissing
            | Self::EnhancedKeyUsageMismatch
            | Self::ScepProfileNoLongerTargetedToTheClient => Reason::NotAuthorized,
            Self::Unknown
            | Self::ChallengePasswordMissing
            | Self::ChallengeDeserializationError
            | Self::ChallengeDecryptionError
            | Self::ChallengeDecodingError
            | Self::AadKeyIdentifierListMissing
            | Self::RegisteredKeyMismatch
            | Self::SigningCertThumbprintMismatch
            | Self::BadCertificateRequestIdInChallenge
            | Self::BadDeviceIdInChallenge
            | Self::BadUserIdInChallenge => Reason::NotAuthenticated,
        })
    }

    /// The refusal; `None` for a success. Only the log and the audit record say which code it was.
    #[must_use]
    pub fn refusal(self, answered: &str) -> Option<Refusal> {
        let reason = self.reason()?;
        let shown: String = answered.chars().take(CODE_CHARS_SHOWN).collect();
        Some(
            Refusal::new(reason, "the device management service does not vouch for this request")
                .with_private(format!("Intune answered {shown:?}")),
        )
    }
}

/// Characters of an unknown code that the log shows.
const CODE_CHARS_SHOWN: usize = 64;

/// The HRESULT that a refusal of ours is reported with.
pub(super) fn hresult(reason: Reason) -> i32 {
    const E_ACCESSDENIED: u32 = 0x8007_0005;
    const E_INVALIDARG: u32 = 0x8007_0057;
    const NTE_BAD_ALGID: u32 = 0x8009_0008;
    const NTE_BAD_KEY: u32 = 0x8009_0003;
    const NTE_BAD_SIGNATURE: u32 = 0x8009_0006;
    const CERTSRV_E_SUBJECT_DNS_REQUIRED: u32 = 0x8009_480F;
    const CERTSRV_E_UNSUPPORTED_CERT_TYPE: u32 = 0x8009_4800;
    const CERT_E_EXPIRED: u32 = 0x800B_0101;
    const RPC_S_SERVER_TOO_BUSY: u32 = 0x8007_06BB;
    const CRYPT_E_NOT_FOUND: u32 = 0x8009_2004;
    const CRYPT_E_REVOKED: u32 = 0x8009_2010;
    let code = match reason {
        Reason::AlreadyRevoked => CRYPT_E_REVOKED,
        Reason::BadAlgorithm => NTE_BAD_ALGID,
        Reason::BadKey => NTE_BAD_KEY,
        Reason::BadProof => NTE_BAD_SIGNATURE,
        Reason::BadTime => CERT_E_EXPIRED,
        Reason::NameNotAllowed => CERTSRV_E_SUBJECT_DNS_REQUIRED,
        Reason::Malformed => E_INVALIDARG,
        Reason::UnknownCertificate => CRYPT_E_NOT_FOUND,
        Reason::UnknownProfile | Reason::Unsupported => CERTSRV_E_UNSUPPORTED_CERT_TYPE,
        Reason::RateLimited | Reason::NotReady | Reason::Conflict => RPC_S_SERVER_TOO_BUSY,
        Reason::NotAuthenticated | Reason::NotAuthorized => E_ACCESSDENIED,
    };
    code.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_but_success_is_a_refusal() {
        for code in ResultCode::ALL {
            assert_eq!(ResultCode::read(&format!("{code:?}").to_uppercase()), code);
            assert_eq!(code.refusal("x").is_none(), code == ResultCode::Success, "{code:?}");
        }
        for odd in ["", "success!", "Erfolg", "SuccessfullyRefused"] {
            assert_eq!(ResultCode::read(odd), ResultCode::Unknown, "{odd:?}");
        }
    }

    #[test]
    fn an_hresult_is_a_failure_to_windows() {
        assert!(hresult(Reason::NotAuthorized) < 0);
        assert_eq!(hresult(Reason::NotAuthorized), -2_147_024_891);
    }
}
