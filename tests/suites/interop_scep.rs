//! Real SCEP clients against the real daemon: scepclient, strongSwan's pki, and certmonger's scep-submit.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use der::asn1::Any;
use der::{Encode, Tag};
use pkcs7::CertificateView;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::daemon::Site;
use tests::openssl::OpenSsl;
use tests::scep_client::{Device, Message};

const ENDPOINT: &str = "starter-scep";
const HOST: &str = "device.example.org";

/// A client's directory, and the endpoint that it knows.
pub(crate) struct Client<'a> {
    site: &'a Site,
    directory: TempDir,
}

impl<'a> Client<'a> {
    pub(crate) fn new(site: &'a Site) -> Self {
        Self { site, directory: TempDir::new().unwrap() }
    }

    fn url(&self) -> String {
        format!("http://localhost:{}/scep/{ENDPOINT}", self.site.http_port)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let run =
            Command::new(program).args(arguments).current_dir(self.directory.path()).stdin(Stdio::null()).output();
        run.unwrap_or_else(|error| panic!("{program} (tests/run installs it): {error}"))
    }

    /// scepclient with a key and certificate of this name.
    pub(crate) fn scepclient(&self, name: &str, challenge: &str) -> Output {
        let fingerprint = self.fingerprint();
        // It keeps request and self-signed certificate beside the key, and takes what it finds there.
        std::fs::create_dir_all(self.path(name)).unwrap();
        let (key, certificate, url) = (format!("{name}/client.key"), format!("{name}.pem"), self.url());
        self.run(
            "scepclient",
            &[
                "-server-url",
                &url,
                "-challenge",
                challenge,
                "-ca-fingerprint",
                &fingerprint,
                "-private-key",
                &key,
                "-certificate",
                &certificate,
                "-cn",
                HOST,
            ],
        )
    }

    /// The registration authority's fingerprint, as the starter tells it.
    fn fingerprint(&self) -> String {
        let text = tests::daemon::text(&self.site.path("state/starter.txt"));
        let (_, rest) = text.split_once("-ca-fingerprint ").expect("the starter says how to enroll");
        rest.split_whitespace().next().unwrap().to_owned()
    }

    /// `pki --scep` with a new key of this name, into a certificate of this name.
    fn pki(&self, name: &str, more: &[&str]) -> Output {
        let (key, url) = (self.path(&format!("{name}.key")), self.url());
        if !key.is_file() {
            let made = self.run("openssl", &["genrsa", "-out", key.to_str().unwrap(), "2048"]);
            assert!(made.status.success());
        }
        let dn = format!("CN={HOST}, O=test");
        let fixed = [
            "--scep",
            "--url",
            &url,
            "--in",
            key.to_str().unwrap(),
            "--dn",
            &dn,
            "--san",
            HOST,
            "--outform",
            "pem",
            "--cacert-enc",
            "ra.pem",
            "--cacert-sig",
            "ra.pem",
            "--cacert",
            "ca.pem",
            "--cacert",
            "ca-1.pem",
        ];
        let output = self.run("pki", &[&fixed, more].concat());
        std::fs::write(self.path(&format!("{name}.pem")), &output.stdout).unwrap();
        output
    }

    pub(crate) fn judge(&self, name: &str) {
        let ssl = OpenSsl::new();
        let copy = |from: PathBuf, to: &str| ssl.put(to, std::fs::read(from).unwrap());
        copy(self.site.path("state/root.pem"), "root.pem");
        copy(self.path(&format!("{name}.pem")), "leaf.pem");
        let url = format!("http://localhost:{}/ca/issuing.pem", self.site.http_port);
        let chain = self.run("curl", &["--silent", "--fail", &url]);
        ssl.put("chain.pem", chain.stdout);
        ssl.run("verify -x509_strict -CAfile root.pem -untrusted chain.pem leaf.pem");
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
pub(crate) fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

#[track_caller]
fn fails_with(output: &Output, words: &str) {
    assert!(!output.status.success() && text(output).contains(words), "{}", text(output));
}

pub(crate) fn static_challenge(site: &Site) -> String {
    tests::daemon::text(&site.path("state/scep-challenge"))
}

fn one_time_challenge(site: &Site) -> String {
    let made = site.json(&["credential", "create", "--endpoint", ENDPOINT, "--purpose", "challenge", "--uses", "1"]);
    made["secret"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

fn change(site: &Site, change: impl FnOnce(&mut Value)) {
    let mut endpoint = site.json(&["endpoint", "show", ENDPOINT]);
    change(&mut endpoint);
    let path = site.path("endpoint.json");
    std::fs::write(&path, endpoint.to_string()).unwrap();
    let _stored = site.json(&["endpoint", "put", path.to_str().unwrap()]);
}

fn approve_the_one(site: &Site) {
    let waiting = site.json(&["request", "list"]);
    let list = waiting.as_array().or_else(|| waiting["requests"].as_array()).unwrap_or_else(|| panic!("{waiting}"));
    let ticket = list[0]["ticket"].as_str().unwrap();
    let _approved = site.json(&["request", "approve", ticket]);
}

#[test]
fn scepclient_enrolls_with_both_kinds_of_challenge_renews_and_waits_for_approval() {
    let site = Site::new("");
    let _daemon = site.start();
    let client = Client::new(&site);
    succeeds(&client.scepclient("static", &static_challenge(&site)));
    client.judge("static");
    fails_with(&client.scepclient("wrong", "00000000000000000000000000000000"), "badRequest");

    let challenge = one_time_challenge(&site);
    succeeds(&client.scepclient("once", &challenge));
    client.judge("once");
    fails_with(&client.scepclient("twice", &challenge), "badRequest");

    // With a certificate there, it sends a RenewalReq with the key and the request that it has.
    let before = std::fs::read(client.path("static.pem")).unwrap();
    succeeds(&client.scepclient("static", ""));
    client.judge("static");
    assert!(!before.is_empty());

    change(&site, |endpoint| endpoint["rules"] = json!([]));
    let name = "waits".to_owned();
    let waiting = std::thread::scope(|scope| {
        let polling = scope.spawn(|| client.scepclient(&name, ""));
        while site.json(&["request", "list"]).to_string().matches("ticket").count() == 0 {
            assert!(!polling.is_finished(), "{}", text(&client.scepclient(&name, "")));
            std::thread::yield_now();
        }
        approve_the_one(&site);
        polling.join().unwrap()
    });
    succeeds(&waiting);
    client.judge("waits");
}

#[test]
fn strongswan_pki_gets_the_authorities_enrolls_polls_and_renews() {
    let site = Site::new("");
    let _daemon = site.start();
    let client = Client::new(&site);
    let url = client.url();
    succeeds(
        &client.run("pki", &["--scepca", "--url", &url, "--caout", "ca.pem", "--raout", "ra.pem", "--outform", "pem"]),
    );

    succeeds(&client.pki("static", &["--password", &static_challenge(&site)]));
    client.judge("static");
    fails_with(&client.pki("wrong", &["--password", "00000000000000000000000000000000"]), "badRequest");
    let challenge = one_time_challenge(&site);
    succeeds(&client.pki("once", &["--password", &challenge, "--digest", "sha512"]));
    client.judge("once");
    fails_with(&client.pki("twice", &["--password", &challenge]), "badRequest");

    let (certificate, key) = (client.path("static.pem"), client.path("static.key"));
    succeeds(&client.pki("renewed", &["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()]));
    client.judge("renewed");

    change(&site, |endpoint| endpoint["rules"] = json!([]));
    let waiting = std::thread::scope(|scope| {
        let polling = scope.spawn(|| client.pki("waits", &["--interval", "1", "--maxpolltime", "60"]));
        while site.json(&["request", "list"]).to_string().matches("ticket").count() == 0 {
            assert!(!polling.is_finished(), "pki gave up");
            std::thread::yield_now();
        }
        approve_the_one(&site);
        polling.join().unwrap()
    });
    succeeds(&waiting);
    client.judge("waits");
}

/// scep-submit builds no messages itself: certmonger hands them over, and here the tests do.
#[test]
fn certmongers_scep_submit_gets_capabilities_authorities_and_a_certificate() {
    const SUBMIT: &str = "/usr/lib/certmonger/scep-submit";
    let site = Site::new("");
    let _daemon = site.start();
    let client = Client::new(&site);
    let url = client.url();
    let capabilities = client.run(SUBMIT, &["-u", &url, "-c"]);
    succeeds(&capabilities);
    assert!(text(&capabilities).contains("SCEPStandard"));
    let authorities = client.run(SUBMIT, &["-u", &url, "-C"]);
    succeeds(&authorities);
    let blocks: Vec<_> = text(&authorities).split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect();
    let ssl = OpenSsl::new();
    // It prints the registration authority first.
    let (authority, others) = blocks.split_first().unwrap();
    ssl.put("ra.pem", authority);
    ssl.run("x509 -in ra.pem -outform DER -out ra.der");
    std::fs::write(client.path("ra.pem"), authority).unwrap();
    std::fs::write(client.path("others.pem"), others.concat()).unwrap();
    let root = site.path("state/root.pem");

    let subject = format!("cn={HOST}");
    let device = Device::new(&subject);
    let send = |operation: &str, device: &Device, message: &Message| {
        let message = device.seal(message, &ssl.take("ra.der"));
        std::fs::write(client.path("message"), tests::openssl::pem("PKCS7", &message)).unwrap();
        let root = root.to_str().unwrap();
        let fixed = ["-r", "ra.pem", "-R", root, "-N", root, "-I", "others.pem", "message"];
        client.run(SUBMIT, &[&["-u", &url, operation], fixed.as_slice()].concat())
    };
    let submit = |challenge: &str, transaction: &str| {
        send("-p", &device, &Message::pkcs_req(transaction, device.csr(&subject, Some(challenge), &[HOST])))
    };
    let issued_to = |device: &Device| {
        let listed = site.json(&["certificate", "list", "--protocol", "scep"]);
        let found = listed["items"].as_array().unwrap().iter().find_map(|item| {
            let shown = site.output(&["certificate", "show", item["serial"].as_str().unwrap(), "--pem"]);
            let der = der::pem::decode_vec(&shown.stdout).unwrap().1;
            (CertificateView::of(&der).unwrap().public_key == device.public_key()).then_some(der)
        });
        found.unwrap_or_else(|| panic!("nothing was issued for the key: {listed}"))
    };
    let answered = submit(&static_challenge(&site), "one");
    succeeds(&answered);
    let answered = submit(&one_time_challenge(&site), "two");
    succeeds(&answered);
    let refused = submit("00000000000000000000000000000000", "three");
    // It understands the refusal: 2 is its word for "rejected".
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));

    let old = Device::holding(device.private_key(), issued_to(&device));
    let next = Device::new(&subject);
    succeeds(&send("-p", &old, &Message::of("17", "four", next.csr(&subject, None, &[HOST]))));
    let _renewed = issued_to(&next);

    // certmonger's word for "ask again later" is an exit code of 1.
    change(&site, |endpoint| endpoint["rules"] = json!([]));
    let last = Device::new(&subject);
    let waiting = send("-p", &last, &Message::pkcs_req("five", last.csr(&subject, None, &[HOST])));
    assert_eq!(waiting.status.code(), Some(1), "{}", text(&waiting));
    let issuer = CertificateView::of(&old.certificate).unwrap().issuer.to_vec();
    let names = [issuer.as_slice(), CertificateView::of(&last.certificate).unwrap().subject].concat();
    let poll = Message::of("20", "five", Any::new(Tag::Sequence, names).unwrap().to_der().unwrap());
    assert_eq!(send("-g", &last, &poll).status.code(), Some(1));
    approve_the_one(&site);
    succeeds(&send("-g", &last, &poll));
    let _approved = issued_to(&last);
}
