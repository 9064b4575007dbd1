//! Subscribers that ask the engine for certificates, and many that are stored already.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use ca_backend::testing::load_certificates;
use ca_backend::{
    AlternativeName, CertificateRequest, Challenges, DistinguishedName, EndpointName, Engine, EnrollmentRequest,
    Evidence, IssuedCertificate, Origin, Outcome, ProfileName, ProtocolName, RequestedExtensions, RequestedNames,
    ValidatedIdentifier,
};
use tests::key::Key;
use tests::pki::{ISSUING, authority};

/// The starter's endpoint.
const ENDPOINT: &str = "starter";
/// CSRs of distinct keys. They are used again and again, each time for another name.
const CSRS: usize = 512;
/// Accounts that ask.
const ACCOUNTS: u64 = 1_000;

/// Whoever asks for certificates.
pub(crate) struct Subscribers<'a> {
    engine: &'a Engine,
    csrs: Vec<Vec<u8>>,
    asked: AtomicU64,
}

impl<'a> Subscribers<'a> {
    /// With new keys.
    pub(crate) fn of(engine: &'a Engine) -> Self {
        let csrs = (0..CSRS).map(|_| Key::ec().csr("")).collect();
        Self { engine, csrs, asked: AtomicU64::new(0) }
    }

    /// A certificate as an ACME client gets one: a CSR without subject, one host name.
    pub(crate) fn enroll(&self) -> IssuedCertificate {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let csr = CertificateRequest::open(&self.csrs[number as usize % CSRS]).unwrap();
        match self.engine.enroll(self.request(number, &csr)).unwrap() {
            Outcome::Issued(certificate) => certificate,
            Outcome::Pending { .. } => unreachable!("nothing here needs an approval"),
        }
    }

    /// Stores this many certificates, one for each second until now.
    pub(crate) fn load(&self, count: u64) {
        const LOADERS: u64 = 4;
        let issued = self.enroll();
        let csr = CertificateRequest::open(&self.csrs[0]).unwrap();
        let now = self.engine.now();
        let first = self.asked.fetch_add(count, Ordering::Relaxed);
        thread::scope(|scope| {
            for loader in 0..LOADERS {
                let (issued, csr) = (&issued, &csr);
                let numbers = (loader..count).step_by(LOADERS as usize);
                let requests =
                    numbers.map(move |number| (now.minus_s(count - number), self.request(first + number, csr)));
                scope.spawn(move || load_certificates(self.engine, issued, requests).unwrap());
            }
        });
    }

    fn request(&self, number: u64, csr: &CertificateRequest) -> EnrollmentRequest {
        let host = AlternativeName::parse(&format!("dns:host-{number}.example.org")).unwrap();
        let shown = ValidatedIdentifier {
            name: host.clone(),
            wildcard: false,
            method: "http-01".to_owned(),
            at: self.engine.now(),
            detail: "192.0.2.17".to_owned(),
        };
        EnrollmentRequest {
            authority: authority(ISSUING),
            profile: ProfileName::new("privatessl-tls-server").unwrap(),
            names: RequestedNames { subject: DistinguishedName::empty(), alternative: vec![host] },
            extensions: RequestedExtensions::default(),
            key: csr.key().clone(),
            validity: None,
            evidence: Evidence::Challenges(Challenges {
                account: format!("{:032x}", number % ACCOUNTS),
                identifiers: vec![shown],
                credential: None,
            }),
            holder: None,
            origin: Origin {
                protocol: ProtocolName::new("acme").unwrap(),
                endpoint: Some(EndpointName::new(ENDPOINT).unwrap()),
                transaction: format!("order-{number:016x}"),
                request_digest: csr.digest(),
                peer: Some([192, 0, 2, 17].into()),
                request_id: format!("{number:016x}"),
            },
        }
    }
}
