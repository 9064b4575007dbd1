//! Hosts on loopback that validations ask: web servers and TLS servers that answer as a test says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rcgen::{CertificateParams, CustomExtension, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A host. It runs until the test's process ends.
pub struct TestHost {
    /// Its port on loopback.
    pub port: u16,
}

impl TestHost {
    /// Hands each connection to a thread of its own.
    #[must_use]
    pub fn start(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), serve)
    }

    /// The same at an address on loopback.
    #[must_use]
    pub fn start_at(address: SocketAddr, serve: impl Fn(TcpStream) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, serve) = (stream.unwrap(), serve.clone());
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { port }
    }

    /// A web server: what it writes for the head of a request.
    #[must_use]
    pub fn web(reply: impl Fn(&str) -> String + Clone + Send + 'static) -> Self {
        Self::start(move |mut stream| {
            let head = head_of(&mut stream);
            let _gone_already = stream.write_all(reply(&head).as_bytes());
        })
    }

    /// A TLS server that agrees to these protocols and shows the certificate made for the server name that it is sent.
    #[must_use]
    pub fn tls(protocols: &[&str], certificate: impl Fn(&str) -> CertifiedKey + Send + Sync + 'static) -> Self {
        let config = tls_config(rustls::ALL_VERSIONS, protocols, certificate);
        Self::start(move |stream| shake_hands(&config, stream))
    }

    /// The same at an address on loopback.
    #[must_use]
    pub fn tls_at(
        address: SocketAddr,
        protocols: &[&str],
        certificate: impl Fn(&str) -> CertifiedKey + Send + Sync + 'static,
    ) -> Self {
        let config = tls_config(rustls::ALL_VERSIONS, protocols, certificate);
        Self::start_at(address, move |stream| shake_hands(&config, stream))
    }

    /// The same, with TLS 1.2 only.
    #[must_use]
    pub fn tls12(protocols: &[&str], certificate: impl Fn(&str) -> CertifiedKey + Send + Sync + 'static) -> Self {
        let config = tls_config(&[&rustls::version::TLS12], protocols, certificate);
        Self::start(move |stream| shake_hands(&config, stream))
    }
}

/// The head of a request, to its empty line.
pub fn head_of(stream: &mut impl Read) -> String {
    let (mut head, mut octet) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut octet).is_ok_and(|octets| octets > 0) {
        head.push(octet[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A reply with status 200.
#[must_use]
pub fn found(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A reply that leads elsewhere.
#[must_use]
pub fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

/// Reads until the other side is gone.
pub fn hang(mut stream: TcpStream) {
    let mut octets = [0; 1024];
    while stream.read(&mut octets).is_ok_and(|octets| octets > 0) {}
}

fn shake_hands(config: &Arc<ServerConfig>, stream: TcpStream) {
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream);
    let _gone_already = stream.flush();
    let mut octets = [0; 1024];
    while stream.read(&mut octets).is_ok_and(|octets| octets > 0) {}
}

/// Settings of a TLS server.
#[must_use]
pub fn tls_config(
    versions: &[&'static rustls::SupportedProtocolVersion],
    protocols: &[&str],
    certificate: impl Fn(&str) -> CertifiedKey + Send + Sync + 'static,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Certificates(Box::new(certificate))));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

struct Certificates(Box<dyn Fn(&str) -> CertifiedKey + Send + Sync>);

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::new((self.0)(hello.server_name().unwrap_or_default())))
    }
}

/// A self-signed certificate for these names and addresses with these extensions.
#[must_use]
pub fn certificate(names: &[&str], extensions: Vec<CustomExtension>) -> CertifiedKey {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        })
        .collect();
    params.custom_extensions = extensions;
    let key = KeyPair::generate().unwrap();
    let leaf = params.self_signed(&key).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    CertifiedKey::new(vec![leaf.der().clone()], key)
}

/// acmeIdentifier for a key authorization (RFC 8737 section 3).
#[must_use]
pub fn acme_identifier(key_authorization: &str) -> CustomExtension {
    CustomExtension::new_acme_identifier(&crate::acme_client::sha256(key_authorization.as_bytes()))
}
