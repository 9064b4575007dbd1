//! What a module's return codes mean for what to do next.

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

use crate::error::KeyFault;

/// Why a call on the module brought no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The session is closed, and so nothing was done in it. Its handle is void: it must not be closed again, since it may be
    /// another session's by now.
    Closed(String),
    /// The login or a handle is gone, and so nothing was done: a new session finds them again.
    Lost(String),
    /// The token stumbled, or nobody knows: a new session may do better.
    Stumbled(String),
    /// The token is away.
    Token(String),
    /// The module forgot everything: it must be begun anew.
    Module(String),
    /// The token gives no more sessions.
    Full {
        /// How many are open here, for others to work in.
        open: usize,
        why: String,
    },
    /// Trying again would bring the same, or do harm.
    Final(KeyFault),
}

impl Failure {
    /// What the caller learns when trying again did not help.
    pub(crate) fn into_fault(self) -> KeyFault {
        match self {
            Self::Closed(why)
            | Self::Lost(why)
            | Self::Stumbled(why)
            | Self::Token(why)
            | Self::Module(why)
            | Self::Full { why, .. } => KeyFault::Unavailable(why),
            Self::Final(fault) => fault,
        }
    }
}

impl From<KeyFault> for Failure {
    fn from(fault: KeyFault) -> Self {
        Self::Final(fault)
    }
}

/// Texts of the library name the function and the return code, never its arguments.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(&error)
    }
}

impl Failure {
    /// What an error means.
    pub(crate) fn of(error: &Error) -> Self {
        let why = error.to_string();
        match error {
            Error::Pkcs11(code, _) => of_code(code, why),
            Error::NullFunctionPointer | Error::NotSupported | Error::MissingSymbol(_) => {
                Self::Final(KeyFault::Unsupported(why))
            }
            Error::LibraryLoading(_) => Self::Token(why),
            Error::TryFromInt(_)
            | Error::TryFromSlice(_)
            | Error::ParseInt(_)
            | Error::Utf8(_)
            | Error::NulError(_)
            | Error::InvalidValue
            | Error::PinNotSet => Self::Final(KeyFault::Unusable(why)),
        }
    }
}

#[allow(clippy::wildcard_enum_match_arm)] // there are a hundred codes, and vendors add to them
fn of_code(code: &RvError, why: String) -> Failure {
    match code {
        RvError::SessionHandleInvalid | RvError::SessionClosed => Failure::Closed(why),
        RvError::UserNotLoggedIn | RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid => Failure::Lost(why),
        RvError::CryptokiNotInitialized => Failure::Module(why),
        RvError::DeviceRemoved | RvError::TokenNotPresent | RvError::TokenNotRecognized | RvError::SlotIdInvalid => {
            Failure::Token(why)
        }
        RvError::SessionCount => Failure::Full { open: 0, why },
        RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::FunctionNotSupported
        | RvError::KeyFunctionNotPermitted
        | RvError::KeyTypeInconsistent
        | RvError::KeySizeRange
        | RvError::AttributeTypeInvalid
        | RvError::AttributeValueInvalid
        | RvError::AttributeReadOnly
        | RvError::AttributeSensitive
        | RvError::TemplateIncomplete
        | RvError::TemplateInconsistent
        | RvError::DomainParamsInvalid
        | RvError::CurveNotSupported
        | RvError::TokenWriteProtected
        | RvError::SessionReadOnly
        | RvError::ActionProhibited => Failure::Final(KeyFault::Unsupported(why)),
        // Somebody said no, or the token counts a PIN that it wants for each use of a key: asking again may do harm.
        RvError::FunctionRejected
        | RvError::FunctionCanceled
        | RvError::Cancel
        | RvError::PinIncorrect
        | RvError::PinInvalid
        | RvError::PinLenRange
        | RvError::PinExpired
        | RvError::PinLocked
        | RvError::PinTooWeak
        | RvError::UserPinNotInitialized => Failure::Final(KeyFault::Unusable(why)),
        // A device that stumbles, and whatever a vendor made up: worth a new session, once.
        _ => Failure::Stumbled(why),
    }
}

/// Whether an error in a session that still lives may say that a ciphertext is bad. Modules say that with about any code, some
/// with one that their vendor made up: of those that came while decrypting, all do that speak of nothing else.
pub(crate) fn may_mean_bad_ciphertext(error: &Error) -> bool {
    let Error::Pkcs11(code, function) = error else { return false };
    let speaks_of_something_else = matches!(
        code,
        RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::UserNotLoggedIn
            | RvError::KeyHandleInvalid
            | RvError::ObjectHandleInvalid
            | RvError::OperationNotInitialized
            | RvError::HostMemory
            | RvError::DeviceMemory
            | RvError::CryptokiNotInitialized
            | RvError::DeviceRemoved
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::SlotIdInvalid
    );
    if matches!(function, Function::Decrypt) {
        return !speaks_of_something_else;
    }
    // Some look at the way of padding only when they begin, and have no word for it either.
    matches!(
        code,
        RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::DataInvalid
            | RvError::DataLenRange
            | RvError::GeneralError
            | RvError::FunctionFailed
            | RvError::DeviceError
            | RvError::ArgumentsBad
    )
}
