//! Asking for status as relying parties do: OpenSSL writes the request and judges the answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ca_backend::{Engine, IssuedCertificate, Serial};
use endpoint::{Endpoint as _, Peer};
use http::{Request, Response};
use revocation::Revocation;

use crate::openssl::OpenSsl;

/// An OCSP client for one issuer.
pub struct OcspClient {
    /// Where its files lie.
    pub ssl: OpenSsl,
    engine: Engine,
    status: Revocation,
    issuer: String,
}

impl OcspClient {
    /// A client that trusts the root of this certificate and asks its issuer, whose path in the URLs is `issuer`.
    #[must_use]
    pub fn new(engine: &Engine, issuer: &str, certificate: &IssuedCertificate) -> Self {
        let ssl = OpenSsl::new();
        ssl.put_certificate("issuer.pem", certificate.chain.first().unwrap_or(&certificate.root));
        ssl.put_certificate("root.pem", &certificate.root);
        let status = Revocation::new(engine.clone());
        Self { ssl, engine: engine.clone(), status, issuer: issuer.to_owned() }
    }

    /// An OCSP request for these serials, DER; `options` go to `openssl ocsp`.
    #[must_use]
    pub fn request(&self, serials: &[Serial], options: &str) -> Vec<u8> {
        let serials: String = serials.iter().map(|serial| format!(" -serial 0x{serial}")).collect();
        self.ssl.run(&format!("ocsp -issuer issuer.pem {options}{serials} -reqout request.der"));
        self.ssl.take("request.der")
    }

    /// Posts a request; the answer's body.
    #[must_use]
    pub fn post(&self, request: &[u8]) -> Response<bytes::Bytes> {
        let request = Request::post(format!("/ocsp/{}", self.issuer))
            .header("content-type", "application/ocsp-request")
            .body(bytes::Bytes::copy_from_slice(request));
        self.answer(request.unwrap())
    }

    /// Asks with the request in the path.
    #[must_use]
    pub fn get(&self, request: &[u8]) -> Response<bytes::Bytes> {
        let text = BASE64_STANDARD.encode(request).replace('+', "%2B").replace('/', "%2F");
        self.answer(Request::get(format!("/ocsp/{}/{text}", self.issuer)).body(bytes::Bytes::new()).unwrap())
    }

    /// As the gateway does it: from memory if that can be, else in a lane.
    fn answer(&self, request: Request<bytes::Bytes>) -> Response<bytes::Bytes> {
        self.status.answer_from_memory(&request).unwrap_or_else(|| self.status.handle(request, &peer()))
    }

    /// Posts the request and lets OpenSSL verify the answer at the engine's present moment; what it says.
    #[must_use]
    pub fn judge(&self, serials: &[Serial], options: &str) -> String {
        let response = self.post(&self.request(serials, options));
        assert_eq!(response.status(), 200);
        self.ssl.put("response.der", response.body());
        self.verify(serials, options)
    }

    /// Lets OpenSSL verify the answer in `response.der` again.
    #[must_use]
    pub fn verify(&self, serials: &[Serial], options: &str) -> String {
        let digest =
            options.split_whitespace().filter(|option| option.starts_with("-sha")).collect::<Vec<_>>().join(" ");
        let asked: String = serials.iter().map(|serial| format!(" -serial 0x{serial}")).collect();
        // The engine's clock is not the machine's: the validity of the answer is judged with a wide period here, and by text.
        let said = self.ssl.run(&format!(
            "ocsp -respin response.der -issuer issuer.pem -CAfile root.pem -no_nonce -attime {} -validity_period 4000000000 -resp_text {digest}{asked}",
            self.engine.now().unix(),
        ));
        assert!(said.contains("Response verify OK"), "{said}");
        said
    }
}

/// Somebody on this machine.
#[must_use]
pub fn peer() -> Peer {
    Peer { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000), tls: None, request_id: "test".to_owned() }
}

/// GETs a path of the status protocol.
#[must_use]
pub fn fetch(engine: &Engine, path: &str) -> Response<bytes::Bytes> {
    Revocation::new(engine.clone()).handle(Request::get(path).body(bytes::Bytes::new()).unwrap(), &peer())
}
