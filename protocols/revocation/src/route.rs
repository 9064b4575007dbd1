//! What a raw path asks for.

use http::Method;

/// A path, understood. The issuer is an opaque segment that the engine resolves, such as `issuing` or `issuing-2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// `request` is what follows the issuer: base64 with slashes, empty for a POST. The CertID within says whose certificate is
    /// meant, so the issuer in the path only makes URLs different.
    Ocsp {
        request: &'a str,
    },
    Crl {
        issuer: &'a str,
    },
    Certificate {
        issuer: &'a str,
    },
    Chain {
        issuer: &'a str,
    },
}

impl<'a> Route<'a> {
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix("/ocsp/") {
            let (issuer, request) = rest.split_once('/').unwrap_or((rest, ""));
            return (!issuer.is_empty()).then_some(Self::Ocsp { request });
        }
        let named = |prefix, suffix| {
            path.strip_prefix(prefix)
                .and_then(|rest: &str| rest.strip_suffix(suffix))
                .filter(|issuer| !issuer.is_empty() && !issuer.contains('/'))
        };
        named("/crl/", ".crl")
            .map(|issuer| Self::Crl { issuer })
            .or_else(|| named("/ca/", ".cer").map(|issuer| Self::Certificate { issuer }))
            .or_else(|| named("/ca/", ".pem").map(|issuer| Self::Chain { issuer }))
    }

    pub(crate) fn takes(self, method: &Method) -> bool {
        self.methods().split(", ").any(|taken| taken == method.as_str())
    }

    /// As the Allow header lists them.
    pub(crate) fn methods(self) -> &'static str {
        match self {
            Self::Ocsp { .. } => "GET, HEAD, POST",
            Self::Crl { .. } | Self::Certificate { .. } | Self::Chain { .. } => "GET, HEAD",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_at_the_issuer_and_kept_raw_behind_it() {
        for (path, route) in [
            ("/ocsp/issuing", Some(Route::Ocsp { request: "" })),
            ("/ocsp/issuing/", Some(Route::Ocsp { request: "" })),
            ("/ocsp/issuing-2//ME//k=", Some(Route::Ocsp { request: "/ME//k=" })),
            ("/ocsp/", None),
            ("/ocsp//MEk", None),
            ("/crl/issuing.crl", Some(Route::Crl { issuer: "issuing" })),
            ("/crl/issuing-2.crl", Some(Route::Crl { issuer: "issuing-2" })),
            ("/crl/.crl", None),
            ("/crl/issuing", None),
            ("/crl/a/b.crl", None),
            ("/ca/issuing.cer", Some(Route::Certificate { issuer: "issuing" })),
            ("/ca/issuing.pem", Some(Route::Chain { issuer: "issuing" })),
            ("/ca/issuing.key", None),
            ("/", None),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }

    #[test]
    fn only_ocsp_takes_post() {
        let ocsp = Route::Ocsp { request: "" };
        let crl = Route::Crl { issuer: "issuing" };
        assert!([Method::GET, Method::HEAD, Method::POST].iter().all(|method| ocsp.takes(method)));
        assert!([Method::GET, Method::HEAD].iter().all(|method| crl.takes(method)));
        assert!(!crl.takes(&Method::POST) && !ocsp.takes(&Method::PUT));
    }
}
