//! Content keys for recipients with keys on elliptic curves: ephemeral-static ECDH (RFC 5753 section 3.1).

use aws_lc_rs::agreement::{
    Algorithm, ECDH_P256, ECDH_P384, ECDH_P521, ParsedPublicKey, PrivateKey, UnparsedPublicKey, agree,
};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5753::{
    DH_SINGLE_PASS_STD_DH_SHA_256_KDF_SCHEME, DH_SINGLE_PASS_STD_DH_SHA_384_KDF_SCHEME,
    DH_SINGLE_PASS_STD_DH_SHA_512_KDF_SCHEME,
};
use const_oid::db::rfc5911::ID_AES_256_WRAP;
use const_oid::db::rfc5912::{ID_EC_PUBLIC_KEY, SECP_256_R_1, SECP_384_R_1, SECP_521_R_1};
use der::asn1::{AnyRef, BitStringRef, OctetStringRef};
use der::{Decode, Encode, Tag};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use zeroize::Zeroizing;

use crate::algorithm::Digest;
use crate::certificate::CertificateView;
use crate::element::constructed;
use crate::error::Error;
use crate::signed::{sequence, tagged};

/// Octets of the key that content keys are wrapped with.
const WRAPPING_KEY_BYTES: usize = 32;
/// Octets by which a wrapped key is longer (RFC 3394).
const WRAP_BYTES: usize = 8;

/// A recipient's key.
pub(crate) struct CurvePoint<'a> {
    curve: ObjectIdentifier,
    agreement: &'static Algorithm,
    scheme: ObjectIdentifier,
    digest: Digest,
    point: &'a [u8],
}

impl<'a> CurvePoint<'a> {
    /// The point that a SubjectPublicKeyInfo holds; `None` if its key is of another kind. Each curve has the digest of its strength
    /// (RFC 5753 section 7.1).
    ///
    /// # Errors
    /// [`Error::Algorithm`] for another curve.
    pub(crate) fn of(public_key: &'a [u8]) -> Result<Option<Self>, Error> {
        let key = SubjectPublicKeyInfoRef::from_der(public_key)?;
        if key.algorithm.oid != ID_EC_PUBLIC_KEY {
            return Ok(None);
        }
        let unfit = |what: String| Error::Algorithm(format!("the recipient's key is on {what}"));
        let parameters = key.algorithm.parameters.ok_or_else(|| unfit("no curve".to_owned()))?;
        let curve: ObjectIdentifier = parameters.decode_as()?;
        let (agreement, scheme, digest) = match curve {
            SECP_256_R_1 => (&ECDH_P256, DH_SINGLE_PASS_STD_DH_SHA_256_KDF_SCHEME, Digest::Sha256),
            SECP_384_R_1 => (&ECDH_P384, DH_SINGLE_PASS_STD_DH_SHA_384_KDF_SCHEME, Digest::Sha384),
            SECP_521_R_1 => (&ECDH_P521, DH_SINGLE_PASS_STD_DH_SHA_512_KDF_SCHEME, Digest::Sha512),
            other => return Err(unfit(format!("the curve {other}"))),
        };
        let point = key.subject_public_key.as_bytes().ok_or_else(|| Error::malformed("a key is not whole octets"))?;
        Ok(Some(Self { curve, agreement, scheme, digest, point }))
    }

    /// Whether it is a point of its curve.
    ///
    /// # Errors
    /// [`Error::Algorithm`] if not.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let point = UnparsedPublicKey::new(self.agreement, self.point);
        ParsedPublicKey::try_from(&point).map(drop).map_err(|_| no_point())
    }

    /// KeyAgreeRecipientInfo (RFC 5652 section 6.2.2) with `[1]`: a content key for the holder of this key's certificate.
    pub(crate) fn recipient(&self, content_key: &[u8], certificate: &CertificateView<'_>) -> Result<Vec<u8>, Error> {
        let (own_point, wrapped) = self.wrapped(content_key)?;
        let curve = AlgorithmIdentifierRef { oid: ID_EC_PUBLIC_KEY, parameters: Some(AnyRef::from(&self.curve)) };
        let key = [curve.to_der()?, BitStringRef::from_bytes(&own_point)?.to_der()?].concat();
        let wrap = wrap_algorithm()?;
        let agreement = AlgorithmIdentifierRef { oid: self.scheme, parameters: Some(AnyRef::from_der(&wrap)?) };
        let encrypted = sequence(&[&certificate.issuer_and_serial()?, &OctetStringRef::new(&wrapped)?.to_der()?])?;
        let fields = [
            3_u8.to_der()?,
            tagged(constructed(0), &tagged(constructed(1), &key)?)?,
            agreement.to_der()?,
            tagged(Tag::Sequence, &encrypted)?,
        ];
        tagged(constructed(1), &fields.concat())
    }

    /// The point of a new key, and the content key wrapped with what that key and this point agree on.
    fn wrapped(&self, content_key: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let failed = |_| Error::Library("wrap a key");
        let own = PrivateKey::generate(self.agreement).map_err(|_| Error::Library("make a key"))?;
        let own_point = own.compute_public_key().map_err(|_| Error::Library("make a key"))?.as_ref().to_vec();
        let theirs = UnparsedPublicKey::new(self.agreement, self.point);
        let wrapped = agree(&own, theirs, no_point(), |shared| {
            let key = self.wrapping_key(shared)?;
            let mut wrapped = vec![0; content_key.len() + WRAP_BYTES];
            let length = AesKek::new(&AES_256, &key)
                .and_then(|key| Ok(key.wrap(content_key, &mut wrapped)?.len()))
                .map_err(failed)?;
            wrapped.truncate(length);
            Ok(wrapped)
        })?;
        Ok((own_point, wrapped))
    }

    /// The key derivation of ANSI X9.63 (RFC 5753 section 7.2, SEC 1 section 3.6.1). Every digest here is as long as the key at
    /// least, so that its first round is all that it takes.
    fn wrapping_key(&self, shared: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        const ROUND: [u8; 4] = 1_u32.to_be_bytes();
        const KEY_BITS: [u8; 4] = 256_u32.to_be_bytes();
        let public = tagged(constructed(2), &OctetStringRef::new(&KEY_BITS)?.to_der()?)?;
        let info = sequence(&[&wrap_algorithm()?, &public])?;
        let input = Zeroizing::new([shared, &ROUND, &info].concat());
        let mut key = Zeroizing::new(self.digest.of_message(&input));
        key.truncate(WRAPPING_KEY_BYTES);
        Ok(key)
    }
}

fn no_point() -> Error {
    Error::Algorithm("the recipient's key is no point of its curve".to_owned())
}

/// id-aes256-wrap, without parameters (RFC 3565 section 2.3.2).
fn wrap_algorithm() -> Result<Vec<u8>, Error> {
    Ok(AlgorithmIdentifierRef { oid: ID_AES_256_WRAP, parameters: None }.to_der()?)
}
