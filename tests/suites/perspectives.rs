//! The real daemon, remote perspectives as processes of their own with other views of the DNS, and instant-acme.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
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
use tests::daemon::{Site, free_port};
use tests::hosts::{TestHost, found, head_of};
use tests::names::{Answer, NameServer, address, caa};
use tests::openssl::OpenSsl;
use tests::perspective::{Files, Perspective, issue};

/// What the DNS of one place says: who the host is, and who may issue for it.
#[derive(Clone)]
struct View {
    host: &'static str,
    issuer: &'static str,
}

const RIGHT: View = View { host: "127.0.0.1", issuer: "ca.example.org" };
/// Where somebody else answers at the same port.
const ELSEWHERE: View = View { host: "127.0.0.2", ..RIGHT };
const OTHER_ISSUER: View = View { issuer: "other.example.org", ..RIGHT };

fn name_server(view: &Arc<Mutex<View>>) -> NameServer {
    let view = Arc::clone(view);
    NameServer::start(move |_, kind, _| match kind {
        RecordType::A => Answer::Records(vec![address(view.lock().unwrap().host)]),
        RecordType::CAA => Answer::Records(vec![caa(0, "issue", view.lock().unwrap().issuer)]),
        _ => Answer::Records(Vec::new()),
    })
}

/// A host with a web server for challenges, and a stranger at another address with the same port.
struct Host {
    files: Arc<Mutex<HashMap<String, String>>>,
    port: u16,
}

impl Host {
    fn start() -> Self {
        let files = Arc::<Mutex<HashMap<String, String>>>::default();
        let served = Arc::clone(&files);
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
        Self { files, port: host.port }
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
        let names = name_server(&Arc::new(Mutex::new(RIGHT)));
        let site = Site::new(&format!(
            "[metrics]\nlisten = \"127.0.0.1:{metrics_port}\"\n\n[validation]\nresolvers = [\"{}\"]",
            names.address
        ));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { site, host: Host::start(), metrics_port, runtime, _names: names }
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
        options["caa"] = true.into();
        options["caa_identities"] = json!(["ca.example.org"]);
        options["perspectives"] = json!(perspectives);
        let path = self.site.path("endpoint.json");
        std::fs::write(&path, endpoint.to_string()).unwrap();
        let output = self.site.output(&["endpoint", "put", path.to_str().unwrap()]);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Orders a certificate for a name: its final status, and the problem if there is one.
    fn order(&self, name: &str, meanwhile: impl FnOnce()) -> (OrderStatus, Option<Problem>) {
        self.runtime.block_on(async {
            let new = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
            let directory = format!("https://localhost:{}/acme/starter/directory", self.site.https_port);
            let builder = Account::builder_with_root(self.site.path("state/root.pem")).unwrap();
            let account = builder.create(&new, directory, None).await.unwrap().0;
            let mut order = account.new_order(&NewOrder::new(&[Identifier::Dns(name.to_owned())])).await.unwrap();
            {
                let mut authorizations = order.authorizations();
                let mut authorization = authorizations.next().await.unwrap().unwrap();
                let mut challenge = authorization.challenge(ChallengeType::Http01).unwrap();
                let path = format!("/.well-known/acme-challenge/{}", challenge.token);
                self.host.files.lock().unwrap().insert(path, challenge.key_authorization().as_str().to_owned());
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
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics_port)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let labels = [format!("perspective=\"{perspective}\""), format!("outcome=\"{outcome}\"")];
        let line = text.lines().find(|line| {
            line.starts_with("certgate_perspective_looks_total") && labels.iter().all(|label| line.contains(label))
        });
        line.and_then(|line| line.rsplit(' ').next()).map_or(0, |count| count.parse().unwrap())
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
    let names: Vec<_> = views.iter().map(name_server).collect();
    let mut perspectives: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(place, names)| {
            let name = format!("p{place}");
            let files = issue(&stage.site, &name, "privatessl-tls-server", "ip:127.0.0.1");
            Perspective::new(&stage.site, &name, &files, names.address, stage.host.port)
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
    let names = name_server(&view);
    let mut right = Perspective::new(&stage.site, "p0", &files, names.address, stage.host.port);
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
    let challenge = r#"{"http-01":{"target":{"dns":"host.example.org"},"path":"/.well-known/acme-challenge/x"}}"#;
    assert_eq!(asked(right.port, &root, Some(&gateway), &question(challenge, stage.host.port)), "200");
    assert_eq!(asked(right.port, &root, Some(&gateway), &question(challenge, 25)), "422", "no such port");
    let page = r#"{"http-01":{"target":{"dns":"host.example.org"},"path":"/admin"}}"#;
    assert_eq!(asked(right.port, &root, Some(&gateway), &question(page, stage.host.port)), "422", "no challenge");
    assert_eq!(asked(right.port, &root, Some(&gateway), "{"), "422");
    assert_eq!(asked(right.port, &root, Some(&gateway), &" ".repeat(70_000)), "413");

    // A perspective that shows a stranger's certificate is not asked, and so confirms nothing.
    drop(daemon);
    let mut wrong = Perspective::new(&stage.site, "p1", &stranger, names.address, stage.host.port);
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
