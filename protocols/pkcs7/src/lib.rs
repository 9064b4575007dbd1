//! CMS (RFC 5652, once PKCS#7) as enrollment protocols use it.
//!
//! | what | where |
//! |---|---|
//! | certificates and CRLs without content or signer ("degenerate") | [`certs_only`], [`Bag`] |
//! | a signed message: read and verified, or made | [`SignedMessage::open`], [`sign`] |
//! | an encrypted message: read, then opened with a key that somebody else decrypted, or made | [`Envelope`], [`seal`], [`seal_for_all`] |
//!
//! Nothing here keeps keys or asks the network. Private keys are used by the caller, since they may lie in a hardware module.
//!
//! What comes in is BER with limits on size and depth, rewritten as DER before anything else looks at it ([`der_of`]). Signatures
//! are verified over octets as received. The types of the `cms` crate are not used: they refuse serials of more than 20 octets,
//! which self-signed certificates of clients have, and sort signed attributes that were signed in another order.

mod algorithm;
mod ber;
mod certificate;
mod element;
mod enveloped;
mod error;
mod key_agreement;
mod signed;

pub use algorithm::{Cipher, Digest, KeyTransport, Legacy};
pub use ber::{DEPTH_MAX, MESSAGE_BYTES_MAX, der_of};
pub use certificate::CertificateView;
pub use element::{Element, elements, only_element};
pub use enveloped::{Envelope, Recipient, RecipientName, check_recipient, seal, seal_for_all};
pub use error::Error;
pub use signed::{Attribute, Bag, ReceivedMessage, SignedMessage, Signer, SigningIdentity, certs_only, sign};
