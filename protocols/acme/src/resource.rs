//! The addresses of this protocol.

use ca_backend::Serial;

use crate::challenge::ChallengeType;
use crate::id::Id;

/// Everything that can be asked for, below the endpoint's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Directory,
    NewNonce,
    NewAccount,
    NewOrder,
    RevokeCertificate,
    KeyChange,
    NewAuthorization,
    /// The name of a certificate, as it stands in the address.
    RenewalInfo(String),
    Account(Id),
    Orders {
        account: Id,
        after: Option<Id>,
    },
    Order(Id),
    Finalize(Id),
    Authorization(Id),
    Challenge(Id, ChallengeType),
    /// A certificate with the chain of that number: 0 ends below the root, 1 with it.
    Certificate(Serial, u8),
}

impl Resource {
    /// The resource at a path and query below the endpoint's address; `None` if there is none.
    pub(crate) fn at(path: &str, query: Option<&str>) -> Option<Self> {
        let mut segments = path.strip_prefix('/')?.split('/');
        let resource = match (segments.next()?, segments.next(), segments.next()) {
            ("directory", None, _) => Self::Directory,
            ("new-nonce", None, _) => Self::NewNonce,
            ("new-account", None, _) => Self::NewAccount,
            ("new-order", None, _) => Self::NewOrder,
            ("revoke-cert", None, _) => Self::RevokeCertificate,
            ("key-change", None, _) => Self::KeyChange,
            ("new-authz", None, _) => Self::NewAuthorization,
            ("renewal-info", Some(certificate), None) => Self::RenewalInfo(certificate.to_owned()),
            ("account", Some(id), None) => Self::Account(Id::parse(id)?),
            ("account", Some(id), Some("orders")) => {
                let after = query.and_then(|query| query.strip_prefix("after=")).and_then(Id::parse);
                if query.is_some() && after.is_none() {
                    return None;
                }
                return segments.next().is_none().then_some(Self::Orders { account: Id::parse(id)?, after });
            }
            ("order", Some(id), None) => Self::Order(Id::parse(id)?),
            ("order", Some(id), Some("finalize")) => Self::Finalize(Id::parse(id)?),
            ("authorization", Some(id), None) => Self::Authorization(Id::parse(id)?),
            ("challenge", Some(id), Some(kind)) => Self::Challenge(Id::parse(id)?, ChallengeType::named(kind)?),
            // One certificate has one address: the serial's own spelling.
            ("certificate", Some(serial), chain) => {
                let serial = Serial::parse(serial).ok().filter(|parsed| parsed.to_string() == serial)?;
                match chain {
                    None => Self::Certificate(serial, 0),
                    Some("1") => Self::Certificate(serial, 1),
                    Some(_) => return None,
                }
            }
            _ => return None,
        };
        (segments.next().is_none() && query.is_none()).then_some(resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_one_spelling() {
        let id = Id([7; 16]);
        assert_eq!(Resource::at("/directory", None), Some(Resource::Directory));
        assert_eq!(Resource::at(&format!("/order/{id}/finalize"), None), Some(Resource::Finalize(id)));
        let page = Resource::at(&format!("/account/{id}/orders"), Some(&format!("after={id}")));
        assert_eq!(page, Some(Resource::Orders { account: id, after: Some(id) }));
        assert!(matches!(Resource::at("/certificate/4f0a", None), Some(Resource::Certificate(_, 0))));
        for path in [
            "",
            "/",
            "directory",
            "/directory/",
            "/Directory",
            "/order",
            "/order/",
            "/order/short",
            "/certificate/4F0A",
            "/certificate/4f0a/0",
            "/certificate/4f0a/2",
            "/certificate/004f0a",
            &format!("/order/{id}/"),
            &format!("/order/{id}/other"),
            &format!("/order/{id}="),
            &format!("/challenge/{id}/tls-sni-01"),
            &format!("/challenge/{id}/http-01/"),
            &format!("/account/{id}/orders/x"),
            "/../directory",
            "//directory",
        ] {
            assert_eq!(Resource::at(path, None), None, "{path}");
        }
        assert_eq!(Resource::at("/directory", Some("x=1")), None);
        assert_eq!(Resource::at(&format!("/account/{id}/orders"), Some("page=2")), None);
    }
}
