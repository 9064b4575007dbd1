//! Device management: what Microsoft Intune and other management systems need of an authority.
//!
//! - [`Intune`] judges the requests of devices that enroll over SCEP.

mod intune;
mod pkcs12;
mod template;

pub use intune::{ClientCredential, Intune, IntuneOptions, ResultCode, SecretSource};
pub use pkcs12::Pkcs12Encryption;
