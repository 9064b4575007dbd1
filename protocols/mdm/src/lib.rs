//! Device management: what Microsoft Intune and other management systems need of an authority.
//!
//! - [`Intune`] judges the requests of devices that enroll over SCEP, and says what to revoke.
//! - [`Webhook`] asks a service of the operator's own about such requests.
//! - [`Mdm`] is an endpoint of its own: certificates by CSR or with a key made here, their status, and one-time challenges for SCEP,
//!   over REST, as the page of NDES and as the webhook of Jamf Pro. [`openapi::description`] describes it.
//!
//! A request comes in at `Mdm::handle`; `web` finds the resource and the caller, `certificate` and `challenge` do the work. Nothing is
//! kept between requests but what lies in the store (`ledger`), and how many challenges were made in this minute.

mod archive;
mod caller;
mod certificate;
mod challenge;
mod intune;
mod ledger;
pub mod openapi;
mod options;
mod outbound;
mod page;
mod pkcs12;
mod problem;
mod template;
mod web;
mod webhook;

pub use archive::ArchiveOptions;
pub use intune::{ClientCredential, Intune, IntuneOptions, ResultCode};
pub use options::{
    AttributeTemplate, ChallengeOptions, Charset, ClientOptions, ConfigurationOptions, MdmOptions, NameSource,
    NameTemplate,
};
pub use outbound::{OutboundOptions, SecretSource};
pub use pkcs12::Pkcs12Encryption;
pub use problem::Problem;
pub use web::{BODY_BYTES_MAX, Mdm, NDES_PATH};
pub use webhook::{NotificationOptions, Webhook, WebhookOptions, WebhookProof};

/// SHA-256.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    digest
}
