//! The real daemon, remote perspectives as processes of their own with other views of the DNS, and instant-acme.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;
use instant_acme::{
    Account, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use serde_json::json;
use tests::acme_client::{SubjectKeyPair, csr, dns};
use tests::daemon::{Site, eventually, figure, free_port};
use tests::hosts::{TestHost, acme_identifier, certificate, found, head_of};
use tests::names::{Answer, NameServer, address, caa, text};
use tests::openssl::OpenSsl;
use tests::perspective::{Files, Perspective, issue};

/// What the DNS of one place says: who the host is, and who may issue for it. Where somebody else is the host, he is the one who
/// writes the TXT records too.
#[derive(Clone)]
struct View {
    host: &'static str,
    issuer: &'static str,
}

const RIGHT: View = View { host: "127.0.0.1", issuer: "ca.example.org" };
/// Where somebody else answers at the same port.
const ELSEWHERE: View = View { host: "127.0.0.2", ..RIGHT };
const OTHER_ISSUER: View = View { issuer: "other.example.org", ..RIGHT };

/// What the right host says of a challenge: its file, its TXT record, the key authorization of its certificate.
type Said = Arc<Mutex<HashMap<String, String>>>;

fn name_server(view: &Arc<Mutex<View>>, said: &Said) -> NameServer {
    let (view, said) = (Arc::clone(view), Arc::clone(said));
    NameServer::start(move |name, kind, _| match kind {
        RecordType::A => Answer::Records(vec![address(view.lock().unwrap().host)]),
        RecordType::CAA => Answer::Records(vec![caa(0, "issue", view.lock().unwrap().issuer)]),
        RecordType::TXT if view.lock().unwrap().host == RIGHT.host => {
            Answer::Records(said.lock().unwrap().get(name).map(|value| text(value)).into_iter().collect())
        }
        RecordType::TXT => Answer::Records(vec![text("the stranger's secret")]),
        _ => Answer::Records(Vec::new()),
    })
}

/// A host with a web server and a TLS server for challenges, and a stranger at another address with the same ports.
struct Host {
    said: Said,
    port: u16,
    tls_port: u16,
}

impl Host {
    fn start() -> Self {
        let said = Said::default();
        let served = Arc::clone(&said);
        let host = TestHost::web(move |head| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            served.lock().unwrap().get(path).map_or_else(|| found(""), |body| found(body))
        });
        let stranger = TcpListener::bind(("127.0.0.2", host.port)).unwrap();
        std::thread::spawn(move || {
            for stream in stranger.incoming() {
                let mut stream = stream.unwrap();
                head_of(&mut stream);
                let _gone_already = stream.write_all(found("the stranger's secret").as_bytes());
            }
        });
        let shown = Arc::clone(&said);
        let tls = TestHost::tls(&["acme-tls/1"], move |name| {
            let key_authorization = shown.lock().unwrap().get(name).cloned().unwrap_or_default();
            certificate(&[name], vec![acme_identifier(&key_authorization)])
        });
        let stranger = |name: &str| certificate(&[name], vec![acme_identifier("the stranger's secret")]);
        let _stranger = TestHost::tls_at(([127, 0, 0, 2], tls.port).into(), &["acme-tls/1"], stranger);
        Self { said, port: host.port, tls_port: tls.port }
    }
}

/// A site whose settings name perspectives, once they have certificates of its authorities.
struct Stage {
    site: Site,
    host: Host,
    metrics_port: u16,
    runtime: tokio::runtime::Runtime,
    _names: NameServer,
}

impl Stage {
    fn new() -> Self {
        let metrics_port = free_port();
        let host = Host::start();
        let names = name_server(&Arc::new(Mutex::new(RIGHT)), &host.said);
        let site = Site::new(&format!(
            "[metrics]\nlisten = \"127.0.0.1:{metrics_port}\"\n\n[validation]\nresolvers = [\"{}\"]",
            names.address
        ));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { site, host, metrics_port, runtime, _names: names }
    }

    /// The ports of other hosts that a perspective may ask.
    fn ports(&self) -> [u16; 3] {
        [self.host.port, self.host.tls_port, 443]
    }

    /// The perspectives of the settings, each at its port; what the daemon shows them is `files`.
    fn know(&self, perspectives: &[&Perspective<'_>], files: &Files) {
        let mut settings = std::fs::read_to_string(self.site.path("certgate.toml")).unwrap();
        for (place, perspective) in perspectives.iter().enumerate() {
            settings.push_str(&format!(
                "\n[validation.perspectives.p{place}]\nurl = \"https://127.0.0.1:{}\"\nroots_path = {:?}\n\
                 certificate_path = {:?}\nkey_path = {:?}\nreachable_networks = [\"127.0.0.0/8\"]\n",
                perspective.port,
                self.site.path("state/root.pem"),
                files.certificate,
                files.key,
            ));
        }
        std::fs::write(self.site.path("certgate.toml"), settings).unwrap();
    }

    /// Stores the endpoint with these perspectives; whether it was accepted, and what the command line said.
    fn put(&self, perspectives: &[&str]) -> (bool, String) {
        let mut endpoint = self.site.json(&["endpoint", "show", "starter"]);
        let options = &mut endpoint["options"];
        options["http01_port"] = self.host.port.into();
        options["tls_alpn01_port"] = self.host.tls_port.into();
        options["caa"] = true.into();
        options["caa_identities"] = json!(["ca.example.org"]);
        options["perspectives"] = json!(perspectives);
        let path = self.site.path("endpoint.json");
        std::fs::write(&path, endpoint.to_string()).unwrap();
        let output = self.site.output(&["endpoint", "put", path.to_str().unwrap()]);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn order(&self, name: &str, meanwhile: impl FnOnce()) -> (OrderStatus, Option<Problem>) {
        self.order_by(ChallengeType::Http01, name, meanwhile)
    }

    /// Orders a certificate for a name: its final status, and the problem if there is one.
    fn order_by(&self, kind: ChallengeType, name: &str, meanwhile: impl FnOnce()) -> (OrderStatus, Option<Problem>) {
        self.runtime.block_on(async {
            let new = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
            let directory = format!("https://localhost:{}/acme/starter/directory", self.site.https_port);
            let builder = Account::builder_with_root(self.site.path("state/root.pem")).unwrap();
            let account = builder.create(&new, directory, None).await.unwrap().0;
            let mut order = account.new_order(&NewOrder::new(&[Identifier::Dns(name.to_owned())])).await.unwrap();
            {
                let mut authorizations = order.authorizations();
                let mut authorization = authorizations.next().await.unwrap().unwrap();
                let mut challenge = authorization.challenge(kind.clone()).unwrap();
                let key_authorization = challenge.key_authorization();
                let (place, value) = match kind {
                    ChallengeType::Dns01 => (format!("_acme-challenge.{name}"), key_authorization.dns_value()),
                    ChallengeType::TlsAlpn01 => (name.to_owned(), key_authorization.as_str().to_owned()),
                    _ => {
                        let path = format!("/.well-known/acme-challenge/{}", challenge.token);
                        (path, key_authorization.as_str().to_owned())
                    }
                };
                self.host.said.lock().unwrap().insert(place, value);
                challenge.set_ready().await.unwrap();
            }
            meanwhile();
            let patience = RetryPolicy::default().timeout(Duration::from_secs(120));
            if !matches!(order.poll_ready(&patience).await, Ok(OrderStatus::Ready)) {
                return (OrderStatus::Invalid, problem(&mut order).await);
            }
            order.finalize_csr(&csr(&SubjectKeyPair::generate(), "", &dns(&[name]))).await.unwrap();
            let _issued = order.poll_certificate(&patience).await;
            match order.refresh().await {
                Ok(state) => (state.status, state.error.clone()),
                Err(Error::Api(problem)) => (OrderStatus::Invalid, Some(problem)),
                Err(error) => panic!("{error:?}"),
            }
        })
    }

    /// A figure of the daemon.
    fn looks(&self, perspective: &str, outcome: &str) -> u64 {
        let labels = [("perspective", perspective), ("outcome", outcome)];
        figure(self.metrics_port, "certgate_perspective_looks_total", &labels)
    }
}

/// What the failed challenge says.
async fn problem(order: &mut Order) -> Option<Problem> {
    let mut authorizations = order.authorizations();
    let authorization = authorizations.next().await?.unwrap();
    authorization.challenges.iter().find_map(|challenge| challenge.error.clone())
}

#[test]
fn s27_a_name_counts_as_shown_if_enough_perspectives_see_the_same() {
    let stage = Stage::new();
    let daemon = stage.site.start();
    let views: Vec<_> = (0..3).map(|_| Arc::new(Mutex::new(RIGHT))).collect();
    let names: Vec<_> = views.iter().map(|view| name_server(view, &stage.host.said)).collect();
    let mut perspectives: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(place, names)| {
            let name = format!("p{place}");
            let files = issue(&stage.site, &name, "privatessl-tls-server", "ip:127.0.0.1");
            Perspective::new(&stage.site, &name, &files, names.address, &stage.ports())
        })
        .collect();
    let shown = issue(&stage.site, "gateway", "privatessl-tls-client", "dns:gateway.example.org");
    let (accepted, said) = stage.put(&["p0", "p1", "p2"]);
    assert!(!accepted && said.contains("[validation.perspectives.p0]"), "{said}");
    drop(daemon);
    stage.know(&perspectives.iter().collect::<Vec<_>>(), &shown);
    perspectives.iter_mut().for_each(Perspective::start);
    let daemon = stage.site.start();
    let (accepted, said) = stage.put(&["p0", "p1", "p2"]);
    assert!(accepted, "{said}");

    let see = |seen: [&View; 3]| {
        for (view, seen) in views.iter().zip(seen) {
            *view.lock().unwrap() = seen.clone();
        }
    };
    let detail = |problem: Option<Problem>| {
        let problem = problem.unwrap();
        let kind = problem.r#type.unwrap_or_default().rsplit(':').next().unwrap_or_default().to_owned();
        (kind, problem.detail.unwrap_or_default())
    };

    // All see the same.
    let (status, problem) = stage.order("all.example.org", || {});
    assert_eq!(status, OrderStatus::Valid, "{problem:?}\n{}", daemon.log());
    let agreed: u64 = (0..3).map(|place| stage.looks(&format!("p{place}"), "agree")).sum();
    assert!(agreed >= 4, "two of three for the challenge and for CAA: {agreed}");
    assert!(perspectives.iter().any(|perspective| perspective.log().contains("http-01")));
    assert!(perspectives.iter().any(|perspective| perspective.log().contains("CN=gateway")));

    // One is led elsewhere: by the rules of the Baseline Requirements one of three may fail.
    see([&RIGHT, &ELSEWHERE, &RIGHT]);
    let (status, problem) = stage.order("one.example.org", || {});
    assert_eq!(status, OrderStatus::Valid, "{problem:?}");

    // Two are: no certificate, and the client learns how many, and nothing of what the stranger answered.
    see([&RIGHT, &ELSEWHERE, &ELSEWHERE]);
    let (status, problem) = stage.order("two.example.org", || {});
    let (kind, text) = detail(problem);
    assert_eq!((status, kind.as_str()), (OrderStatus::Invalid, "incorrectResponse"), "{text}");
    assert!(text.contains("2 of 3 remote perspectives did not confirm"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    assert!(stage.looks("p2", "disagree") > 0);

    // CAA records are looked at by all of them too.
    see([&OTHER_ISSUER, &RIGHT, &RIGHT]);
    let (status, problem) = stage.order("caa-one.example.org", || {});
    assert_eq!(status, OrderStatus::Valid, "{problem:?}");
    see([&OTHER_ISSUER, &RIGHT, &OTHER_ISSUER]);
    let (status, problem) = stage.order("caa-two.example.org", || {});
    let (kind, text) = detail(problem);
    assert_eq!((status, kind.as_str()), (OrderStatus::Invalid, "caa"), "{text}");
    assert!(text.contains("2 of 3 remote perspectives did not confirm"), "{text}");

    // One that is down counts as one that disagrees.
    see([&RIGHT, &RIGHT, &RIGHT]);
    perspectives[0].stop();
    let (status, problem) = stage.order("down-one.example.org", || {});
    assert_eq!(status, OrderStatus::Valid, "{problem:?}");
    // With a second one down it is tried again, until one is back.
    perspectives[1].stop();
    let back = &mut perspectives[1];
    let unreachable = || stage.looks("p1", "unreachable");
    let (status, problem) = stage.order("down-two.example.org", || {
        while unreachable() == 0 {
            std::thread::yield_now();
        }
        back.start();
    });
    assert_eq!(status, OrderStatus::Valid, "{problem:?}");
    assert!(daemon.log().contains("a remote perspective answers again"));
}

/// The status with which a perspective answers a question, asked by curl.
fn asked(port: u16, root: &Path, shown: Option<&Files>, question: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--http1.1",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        "--cacert",
    ])
    .arg(root);
    if let Some(files) = shown {
        curl.arg("--cert").arg(&files.certificate).arg("--key").arg(&files.key);
    }
    if !question.is_empty() {
        curl.args(["--data", question, "--header", "Content-Type: application/json"]);
    }
    let path = if question.is_empty() { "healthz" } else { "perspective/v1/look" };
    let output = curl.arg(format!("https://127.0.0.1:{port}/{path}")).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn s27_strangers_are_refused_on_both_sides() {
    let stage = Stage::new();
    let daemon = stage.site.start();
    let files = issue(&stage.site, "p0", "privatessl-tls-server", "ip:127.0.0.1");
    let gateway = issue(&stage.site, "gateway", "privatessl-tls-client", "dns:gateway.example.org");
    let namesake = issue(&stage.site, "other", "privatessl-tls-client", "dns:other.example.org");
    let server = issue(&stage.site, "server", "privatessl-tls-server", "dns:gateway.example.org");
    let ssl = OpenSsl::new();
    ssl.run(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=gateway \
         -addext subjectAltName=DNS:gateway.example.org,IP:127.0.0.1 -keyout stranger.key -out stranger.pem",
    );
    let stranger =
        Files { certificate: ssl.directory().join("stranger.pem"), key: ssl.directory().join("stranger.key") };
    let view = Arc::new(Mutex::new(RIGHT));
    let names = name_server(&view, &stage.host.said);
    let mut right = Perspective::new(&stage.site, "p0", &files, names.address, &stage.ports());
    right.start();

    let root = stage.site.path("state/root.pem");
    let question = |look: &str, port: u16| {
        format!("{{\"look\":{look},\"ports\":{{\"http01\":{port},\"https\":443,\"tls_alpn01\":443}}}}")
    };
    let caa = question(r#"{"caa":{"names":["host.example.org"]}}"#, 80);
    assert_eq!(asked(right.port, &root, None, ""), "200", "anybody may know that it lives");
    assert_eq!(asked(right.port, &root, Some(&gateway), &caa), "200", "{}", right.log());
    for (who, shown) in [
        ("nobody", None),
        ("a stranger", Some(&stranger)),
        ("another name", Some(&namesake)),
        ("a server's certificate", Some(&server)),
    ] {
        assert_eq!(asked(right.port, &root, shown, &caa), "403", "{who}");
    }
    // They do not fill the log: it speaks of the first, and then of their number now and then.
    for _ in 0..8 {
        assert_eq!(asked(right.port, &root, None, &caa), "403");
    }
    let lines = right.log().lines().filter(|line| line.contains("refused a stranger")).count();
    assert!((1..12).contains(&lines), "{}", right.log());
    let challenge = r#"{"http-01":{"target":{"dns":"host.example.org"},"path":"/.well-known/acme-challenge/x"}}"#;
    assert_eq!(asked(right.port, &root, Some(&gateway), &question(challenge, stage.host.port)), "200");
    assert_eq!(asked(right.port, &root, Some(&gateway), &question(challenge, 25)), "422", "no such port");
    let page = r#"{"http-01":{"target":{"dns":"host.example.org"},"path":"/admin"}}"#;
    assert_eq!(asked(right.port, &root, Some(&gateway), &question(page, stage.host.port)), "422", "no challenge");
    assert_eq!(asked(right.port, &root, Some(&gateway), "{"), "422");
    assert_eq!(asked(right.port, &root, Some(&gateway), &" ".repeat(70_000)), "413");

    // A perspective that shows a stranger's certificate is not asked, and so confirms nothing.
    drop(daemon);
    let mut wrong = Perspective::new(&stage.site, "p1", &stranger, names.address, &stage.ports());
    wrong.start();
    stage.know(&[&right, &wrong], &gateway);
    let daemon = stage.site.start();
    assert!(stage.put(&["p0"]).0);
    let (status, problem) = stage.order("right.example.org", || {});
    assert_eq!(status, OrderStatus::Valid, "{problem:?}\n{}", daemon.log());
    assert!(stage.put(&["p1"]).0);
    let (status, problem) = stage.order("wrong.example.org", || {});
    let text = problem.and_then(|problem| problem.detail).unwrap_or_default();
    assert_eq!(status, OrderStatus::Invalid);
    assert!(text.contains("1 of 1 remote perspectives did not confirm"), "{text}");
    assert!(!wrong.log().contains("looked"), "{}", wrong.log());
    assert!(stage.looks("p1", "unreachable") > 0 && stage.looks("p1", "agree") == 0);
}

#[test]
fn s27_tls_alpn_01_and_dns_01_are_seen_from_elsewhere_too() {
    let stage = Stage::new();
    let daemon = stage.site.start();
    let view = Arc::new(Mutex::new(RIGHT));
    let names = name_server(&view, &stage.host.said);
    let files = issue(&stage.site, "p0", "privatessl-tls-server", "ip:127.0.0.1");
    let gateway = issue(&stage.site, "gateway", "privatessl-tls-client", "dns:gateway.example.org");
    let mut perspective = Perspective::new(&stage.site, "p0", &files, names.address, &stage.ports());
    drop(daemon);
    stage.know(&[&perspective], &gateway);
    perspective.start();
    let daemon = stage.site.start();
    assert!(stage.put(&["p0"]).0);
    for (kind, label) in [(ChallengeType::TlsAlpn01, "tls"), (ChallengeType::Dns01, "dns")] {
        *view.lock().unwrap() = RIGHT;
        let (status, problem) = stage.order_by(kind.clone(), &format!("{label}.example.org"), || {});
        assert_eq!(status, OrderStatus::Valid, "{label}: {problem:?}\n{}", daemon.log());
        *view.lock().unwrap() = ELSEWHERE;
        let (status, problem) = stage.order_by(kind, &format!("{label}-elsewhere.example.org"), || {});
        let problem = problem.unwrap();
        let text = problem.detail.unwrap_or_default();
        assert_eq!(status, OrderStatus::Invalid, "{label}");
        assert!(text.contains("1 of 1 remote perspectives did not confirm"), "{label}: {text}");
        assert!(!text.contains("secret"), "{label}: {text}");
    }
    let log = perspective.log();
    assert!(log.contains("tls-alpn-01") && log.contains("txt"), "{log}");
}

#[test]
fn files_that_cannot_be_read_at_a_start_are_named_and_used_as_soon_as_they_can() {
    let stage = Stage::new();
    let daemon = stage.site.start();
    let names = name_server(&Arc::new(Mutex::new(RIGHT)), &stage.host.said);
    let files = issue(&stage.site, "p0", "privatessl-tls-server", "ip:127.0.0.1");
    let gateway = issue(&stage.site, "gateway", "privatessl-tls-client", "dns:gateway.example.org");
    let mut perspective = Perspective::new(&stage.site, "p0", &files, names.address, &stage.ports());
    let away = |path: &Path| std::fs::rename(path, path.with_extension("away")).unwrap();
    let back = |path: &Path| std::fs::rename(path.with_extension("away"), path).unwrap();

    // A perspective does not start without its files, and says which it misses.
    for path in [&files.key, &files.certificate, &stage.site.path("state/root.pem")] {
        away(path);
        let complaint = perspective.complaint();
        assert!(complaint.contains(path.to_str().unwrap()), "{complaint}");
        back(path);
    }
    perspective.start();

    // A daemon starts without those that it shows; the endpoint that needs them answers 503 until they are there.
    stage.know(&[&perspective], &gateway);
    drop(daemon);
    let daemon = stage.site.start();
    assert!(stage.put(&["p0"]).0);
    drop(daemon);
    away(&gateway.key);
    let _daemon = stage.site.start();
    let endpoints = || stage.site.json(&["endpoint", "list"]).to_string();
    assert!(endpoints().contains(gateway.key.to_str().unwrap()), "{}", endpoints());
    back(&gateway.key);
    eventually(|| !endpoints().contains("perspective p0"));
    let (status, problem) = stage.order("back.example.org", || {});
    assert_eq!(status, OrderStatus::Valid, "{problem:?}");
}
