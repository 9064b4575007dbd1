//! SCEP before authorities whose own keys never could read a message: the registration authority stands before each of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ca_backend::KeyAlgorithm;
use ca_backend::testing::Bench;
use serde_json::{Value, json};
use tests::daemon::Site;
use tests::openssl::OpenSsl;
use tests::pki::{ISSUING, Pki, ROOT, new_authority, settings};
use tests::scep_client::{Device, Message, ScepBench, is_registration_authority, rules};
use tests::token::{PIN, SoftToken};

const SUBJECT: &str = "cn=device-1";
const PROFILE: &str = "scep-signature-key-encipherment";

/// A PKI whose keys are of this kind.
fn pki(bench: Bench, algorithm: KeyAlgorithm) -> Pki {
    let pki = Pki::bare(bench, settings());
    for wanted in [new_authority(ROOT, None), new_authority(ISSUING, Some(ROOT))] {
        pki.engine.create_authority(&ca_backend::NewAuthority { algorithm, ..wanted }, "test").unwrap();
    }
    pki
}

/// Enrolls, renews and asks for certificate and CRL; the certificate and those above it, issuer first.
fn goes_round(bench: &ScepBench) -> Vec<Vec<u8>> {
    let device = Device::new(SUBJECT);
    let challenge = bench.challenge(Some(1), json!({}));
    let csr = device.csr(SUBJECT, Some(&challenge), &["device-1.example.org"]);
    let answer = device.ask(bench, &Message::pkcs_req("enroll", csr));
    assert_eq!(answer.word(), "SUCCESS");
    let holder = Device::holding(device.private_key(), answer.certificates[0].clone());
    let next = Device::new(SUBJECT);
    let renewed = holder.ask(bench, &Message::of("17", "renew", next.csr(SUBJECT, None, &[])));
    assert_eq!(renewed.word(), "SUCCESS");
    let view = pkcs7::CertificateView::of(&renewed.certificates[0]).unwrap();
    let wanted = der::asn1::Any::new(der::Tag::Sequence, [view.issuer, view.serial].concat()).unwrap();
    let wanted = der::Encode::to_der(&wanted).unwrap();
    bench.pki.engine.publish_crl(ISSUING).unwrap();
    assert_eq!(holder.ask(bench, &Message::of("21", "cert", wanted.clone())).certificates, renewed.certificates);
    assert_eq!(holder.ask(bench, &Message::of("22", "crl", wanted)).crls.len(), 1);
    let name = ca_backend::AuthorityName::new(ISSUING).unwrap();
    let ra = bench.pki.engine.registration_authorities(&name, KeyAlgorithm::Rsa2048).unwrap().remove(0);
    let above = ra.chain.iter().map(|der| der.to_vec());
    renewed.certificates.iter().cloned().chain(above).chain([ra.certificate.to_vec()]).collect()
}

/// OpenSSL's word on the certificate and on the registration authority's.
fn judge(certificates: &[Vec<u8>]) {
    let [leaf, issuing, root, ra] = certificates else { panic!("four certificates: {}", certificates.len()) };
    let ssl = OpenSsl::new();
    for (name, der) in [("leaf.pem", leaf), ("issuing.pem", issuing), ("root.pem", root), ("ra.pem", ra)] {
        ssl.put_certificate(name, der);
    }
    for name in ["leaf.pem", "ra.pem"] {
        // The certificates begin at the tests' noon.
        let at = ca_backend::testing::NOON_S + 60;
        ssl.run(&format!("verify -attime {at} -CAfile root.pem -untrusted issuing.pem {name}"));
    }
}

#[test]
fn authorities_of_every_kind_of_key_serve_scep_through_an_rsa_pair() {
    for algorithm in [KeyAlgorithm::Ed25519, KeyAlgorithm::EcP384, KeyAlgorithm::Rsa3072] {
        let bench = ScepBench::over(pki(Bench::in_memory().unwrap(), algorithm), rules(), Value::Null);
        judge(&goes_round(&bench));
    }
    // The system's OpenSSL may be too old to judge these; the suite post_quantum has another for what such authorities sign.
    for algorithm in [KeyAlgorithm::MlDsa44, KeyAlgorithm::MlDsa65, KeyAlgorithm::MlDsa87] {
        let bench = ScepBench::over(pki(Bench::in_memory().unwrap(), algorithm), rules(), Value::Null);
        goes_round(&bench);
    }
}

#[test]
fn authorities_whose_keys_lie_in_a_token_serve_scep_and_so_does_a_pair_in_the_token() {
    let token = SoftToken::softhsm("scep");
    let bench = Bench::in_memory().unwrap().with_token(token.settings()).unwrap();
    let bench = ScepBench::over(pki(bench, KeyAlgorithm::EcP384), rules(), Value::Null);
    judge(&goes_round(&bench));
}

/// The daemon, an authority of this kind, and a SCEP endpoint of its name.
struct Stage<'a> {
    site: &'a Site,
    algorithm: &'static str,
    challenge: String,
}

impl<'a> Stage<'a> {
    fn prepare(site: &'a Site, algorithm: &'static str) -> Self {
        let root = format!("{algorithm}-root");
        let subject = |name: &str| format!("CN=Test {name},O=Example");
        let root_subject = subject(&root);
        let _root = site.json(&["authority", "create", &root, "--subject", &root_subject, "--algorithm", algorithm]);
        let issuing_subject = subject(algorithm);
        let _issuing = site.json(&[
            "authority",
            "create",
            algorithm,
            "--parent",
            &root,
            "--subject",
            &issuing_subject,
            "--algorithm",
            algorithm,
            "--service",
            "scep",
        ]);
        let attributes: Vec<_> =
            ["cn", "o", "ou", "c"].map(|attribute| json!({"attribute": attribute, "value": "*"})).into();
        let rule = |name: &str, evidence: &str| {
            let allow = json!({"dns": [".example.org"], "subject": attributes});
            json!({"name": name, "requesters": [{"evidence": evidence}], "profiles": [PROFILE], "allow": allow})
        };
        let endpoint = json!({
            "name": algorithm, "protocol": "scep", "authority": algorithm, "profiles": [PROFILE],
            "rules": [rule("challenge", "secret"), rule("renewal", "renewal")],
            // scepclient knows SHA-1 and DES only.
            "options": {"allow_sha1": true, "allow_des": true},
        });
        let file = site.path("endpoint.json");
        std::fs::write(&file, endpoint.to_string()).unwrap();
        let _stored = site.json(&["endpoint", "put", file.to_str().unwrap()]);
        let made = site.json(&["credential", "create", "--endpoint", algorithm, "--purpose", "challenge"]);
        Self { site, algorithm, challenge: made["secret"].as_str().unwrap().to_owned() }
    }

    fn url(&self) -> String {
        format!("http://localhost:{}/scep/{}", self.site.http_port, self.algorithm)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let run = Command::new(program).args(arguments).current_dir(self.directory()).stdin(Stdio::null()).output();
        run.unwrap_or_else(|error| panic!("{program} (tests/run installs it): {error}"))
    }

    fn directory(&self) -> PathBuf {
        let directory = self.site.path(&format!("client-{}", self.algorithm));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    /// scepclient, told which registration authority to trust by its fingerprint.
    fn scepclient(&self) -> PathBuf {
        let url = self.url();
        let reply = self.run("curl", &["--silent", "--fail", &format!("{url}?operation=GetCACert")]);
        let bag = pkcs7::Bag::read(&reply.stdout).unwrap();
        let authority =
            bag.certificates.iter().find(|der| is_registration_authority(der)).expect("a registration authority");
        let fingerprint = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, authority));
        let arguments = [
            "-server-url",
            &url,
            "-challenge",
            &self.challenge,
            "-ca-fingerprint",
            &fingerprint,
            "-private-key",
            "client.key",
            "-certificate",
            "leaf.pem",
            "-cn",
            "device.example.org",
        ];
        succeeds(&self.run("scepclient", &arguments));
        self.directory().join("leaf.pem")
    }

    /// strongSwan's pki, with the authorities that it found by itself.
    fn pki(&self, more: &[&str]) -> PathBuf {
        let url = self.url();
        let got = ["--scepca", "--url", &url, "--caout", "ca.pem", "--raout", "ra.pem", "--outform", "pem"];
        succeeds(&self.run("pki", &got));
        succeeds(&self.run("openssl", &["genrsa", "-out", "pki.key", "2048"]));
        let fixed = ["--scep", "--url", &url, "--in", "pki.key", "--dn", "CN=device.example.org", "--outform", "pem"];
        let trusted =
            ["--cacert-enc", "ra.pem", "--cacert-sig", "ra.pem", "--cacert", "ca.pem", "--cacert", "ca-1.pem"];
        let output = self.run("pki", &[&fixed, &trusted[..], &["--password", &self.challenge], more].concat());
        succeeds(&output);
        let path = self.directory().join("pki.pem");
        std::fs::write(&path, &output.stdout).unwrap();
        path
    }

    fn judge(&self, leaf: &Path) {
        let ssl = OpenSsl::new();
        ssl.put("leaf.pem", std::fs::read(leaf).unwrap());
        for (name, of) in [("root.pem", format!("{}-root", self.algorithm)), ("issuing.pem", self.algorithm.to_owned())]
        {
            let out = self.site.path(name);
            let _written = self.site.output(&["authority", "certificate", &of, "--out", out.to_str().unwrap()]);
            ssl.put(name, std::fs::read(out).unwrap());
        }
        ssl.run("verify -CAfile root.pem -untrusted issuing.pem leaf.pem");
    }
}

#[track_caller]
fn succeeds(output: &Output) {
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

fn clients_enroll(site: &Site, algorithm: &'static str) {
    let stage = Stage::prepare(site, algorithm);
    stage.judge(&stage.scepclient());
    stage.judge(&stage.pki(&[]));
}

#[test]
fn clients_of_others_enroll_with_authorities_of_every_kind_of_key() {
    let site = Site::new("");
    let _daemon = site.start();
    for algorithm in ["ed25519", "ec-p384", "rsa-3072"] {
        clients_enroll(&site, algorithm);
    }
}

#[test]
fn clients_of_others_enroll_with_an_authority_whose_keys_lie_in_a_token() {
    let token = SoftToken::softhsm("scep");
    let site = Site::new("");
    let (module, pin) = (token.module(), token.pin_file(PIN));
    let store = format!("pkcs11:token=scep?module-path={}&pin-source={}", module.display(), pin.display());
    let _daemon = site.start_with(&["--key-store", &store]);
    clients_enroll(&site, "ec-p384");
}

/// scepclient does not look at what it cannot verify: the fingerprint is enough for it.
#[test]
fn scepclient_enrolls_with_an_ml_dsa_authority() {
    let site = Site::new("");
    let _daemon = site.start();
    let leaf = Stage::prepare(&site, "ml-dsa-65").scepclient();
    assert!(std::fs::read_to_string(leaf).unwrap().contains("BEGIN CERTIFICATE"));
}

#[test]
fn strongswan_pki_enrolls_with_pss_signatures() {
    let site = Site::new("");
    let _daemon = site.start();
    let stage = Stage::prepare(&site, "ec-p384");
    stage.judge(&stage.pki(&["--rsa-padding", "pss"]));
}
