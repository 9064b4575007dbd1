use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use config::{Settings, ValidationSettings};
use gateway::egress::{Egress, EgressError, Host, NodeEgress, Reach, Refusal};
use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;

use crate::gate::certified;

/// The records of the tests' DNS server.
fn records(name: &str) -> Vec<RData> {
    let loopback = RData::A(A::from(Ipv4Addr::LOCALHOST));
    let text = |strings: &[&str]| RData::TXT(TXT::new(strings.iter().map(ToString::to_string).collect()));
    let alias = |name: String| RData::CNAME(CNAME(Name::from_ascii(name).unwrap()));
    match name {
        "web.test." => vec![loopback],
        "both.test." => vec![RData::AAAA(AAAA::new(0, 0, 0, 0, 0, 0, 0, 1)), loopback],
        "mapped.test." => vec![RData::AAAA(AAAA::from(Ipv4Addr::LOCALHOST.to_ipv6_mapped()))],
        "metadata.test." => vec![RData::A(A::new(169, 254, 169, 254))],
        "private.test." => vec![RData::A(A::new(10, 0, 0, 1))],
        "_acme-challenge.web.test." => vec![text(&["one ", "joined"]), text(&["two"])],
        "_acme-challenge.alias.test." => vec![alias("_acme-challenge.web.test.".to_owned())],
        "big.test." => (0..40).map(|number| text(&[&format!("{number}{}", "x".repeat(200))])).collect(),
        "circle.test." => vec![alias("circle.test.".to_owned())],
        "empty.test." => vec![loopback],
        _ => match name.strip_prefix("chain").and_then(|rest| rest.strip_suffix(".test.")) {
            Some(number) => vec![alias(format!("chain{}.test.", number.parse::<u32>().unwrap() + 1))],
            None => Vec::new(),
        },
    }
}

fn answer(question: &[u8], truncate: bool) -> Vec<u8> {
    let question = Message::from_vec(question).unwrap();
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    let query = question.queries[0].clone();
    let known = records(&query.name().to_string().to_lowercase());
    if known.is_empty() {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    for data in known {
        let fits = data.record_type() == query.query_type() || data.record_type() == RecordType::CNAME;
        if fits {
            answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
        }
    }
    answer.add_query(query);
    let whole = answer.to_vec().unwrap();
    if truncate && whole.len() > 1200 { answer.truncate().to_vec().unwrap() } else { whole }
}

/// A DNS server on loopback, UDP and TCP at one port. Counts the questions that came over TCP.
async fn dns_server() -> (SocketAddr, Arc<AtomicUsize>) {
    let (udp, tcp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let over_tcp = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        let mut question = [0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut question).await.unwrap();
            udp.send_to(&answer(&question[..length], true), from).await.unwrap();
        }
    });
    let counted = Arc::clone(&over_tcp);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut question = vec![0; length.into()];
                    stream.read_exact(&mut question).await.unwrap();
                    counted.fetch_add(1, Ordering::SeqCst);
                    let answer = answer(&question, false);
                    stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    (address, over_tcp)
}

/// A web server on loopback that answers each path as `reply` says, with `PORT` put in, and counts what it was asked.
struct Web {
    port: u16,
    asked: Arc<AtomicUsize>,
}

async fn head_of(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            break;
        }
    }
    String::from_utf8(head).unwrap()
}

impl Web {
    async fn start(reply: fn(&str) -> String) -> Self {
        Self::start_at("127.0.0.1:0", reply).await
    }

    async fn start_at(address: &str, reply: fn(&str) -> String) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let head = head_of(&mut stream).await;
                    counted.fetch_add(1, Ordering::SeqCst);
                    let answer = reply(&head).replace("PORT", &port.to_string());
                    stream.write_all(answer.as_bytes()).await.ok();
                    if head.contains("/endless") {
                        while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
                    }
                    if head.contains("/slow") {
                        head_of(&mut stream).await;
                    }
                });
            }
        });
        Self { port, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn found(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

fn reply(head: &str) -> String {
    let path = head.split(' ').nth(1).unwrap_or_default();
    if let Some(number) = path.strip_prefix("/hop/") {
        let number: u32 = number.parse().unwrap();
        return if number == 0 { found("arrived") } else { redirect(&format!("/hop/{}", number - 1)) };
    }
    match path {
        "/head" => found(head),
        "/circle" => redirect("/round"),
        "/round" => redirect("/circle"),
        "/named" => redirect("http://web.test:PORT/hop/0"),
        "/literal" => redirect("http://127.0.0.1:PORT/hop/0"),
        "/elsewhere" => redirect("http://10.0.0.1:PORT/"),
        "/metadata" => redirect("http://metadata.test:PORT/latest"),
        "/port" => redirect("http://web.test:1/"),
        "/user" => redirect("http://user@web.test:PORT/"),
        "/ftp" => redirect("ftp://web.test/"),
        "/nowhere" => "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "/see-other" => "HTTP/1.1 303 See Other\r\nLocation: /hop/0\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "/big" => found(&"x".repeat(4097)),
        "/endless" => "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
        "/slow" => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx".to_owned(),
        "/not-http" => "SSH-2.0-OpenSSH\r\n\r\n".to_owned(),
        "/gzip" => "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
        _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nsecret".to_owned(),
    }
}

/// Public addresses only.
fn nowhere() -> Reach {
    Reach { networks: Vec::new(), http_port: 80, https_port: 443 }
}

struct Site {
    web: Web,
    egress: Egress,
}

async fn site(change: impl FnOnce(&mut ValidationSettings, &mut Reach)) -> Site {
    let web = Web::start(reply).await;
    let mut settings = Settings::default().validation;
    settings.resolvers = vec![dns_server().await.0];
    let mut reach = Reach {
        networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        http_port: web.port,
        https_port: 443,
    };
    change(&mut settings, &mut reach);
    Site { egress: NodeEgress::new(&settings, Vec::new()).unwrap().within(reach), web }
}

impl Site {
    async fn fetch(&self, host: &str, path: &str) -> Result<String, EgressError> {
        let host = host.parse().map_or_else(|_| Host::Dns(host.to_owned()), Host::Ip);
        let fetched = self.egress.fetch_challenge(&host, self.web.port, path).await?;
        Ok(String::from_utf8(fetched.body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn a_challenge_is_fetched_from_a_name_and_from_an_address() {
    let site = site(|_, _| ()).await;
    for host in ["web.test", "WEB.test", "127.0.0.1", "localhost"] {
        assert_eq!(site.fetch(host, "/hop/0").await.as_deref(), Ok("arrived"), "{host}");
    }
}

#[tokio::test]
async fn the_request_names_host_and_port_and_nothing_of_ours() {
    let site = site(|_, _| ()).await;
    let head = site.fetch("web.test", "/head").await.unwrap();
    assert!(head.starts_with("GET /head HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: web.test:{}\r\n", site.web.port)), "{head}");
    for absent in ["cookie", "authorization", "accept-encoding", "proxy"] {
        assert!(!head.contains(absent), "{head}");
    }
}

#[tokio::test]
async fn ipv6_is_tried_first_and_ipv4_when_it_does_not_connect() {
    let site = site(|_, _| ()).await;
    assert_eq!(site.fetch("both.test", "/hop/0").await.as_deref(), Ok("arrived"));
    let v6 = Web::start_at("[::1]:0", |_| found("six")).await;
    let answered = site.egress.fetch_challenge(&Host::Dns("both.test".to_owned()), v6.port, "/").await.unwrap();
    assert!(answered.address.is_ipv6());
    let literal = site.egress.fetch_challenge(&Host::Ip("::1".parse().unwrap()), v6.port, "/").await.unwrap();
    assert_eq!(&literal.body[..], b"six");
}

#[tokio::test]
async fn s12_redirects_are_followed_to_ten_and_no_further() {
    let site = site(|_, _| ()).await;
    assert_eq!(site.fetch("web.test", "/hop/10").await.as_deref(), Ok("arrived"));
    let error = site.fetch("web.test", "/hop/11").await.unwrap_err();
    assert_eq!(error, EgressError::BadResponse("there are too many redirects".to_owned()));
    assert_eq!(site.fetch("web.test", "/named").await.as_deref(), Ok("arrived"));
    assert_eq!(site.fetch("web.test", "/literal").await.as_deref(), Ok("arrived"));
}

#[tokio::test]
async fn s12_a_circle_of_redirects_ends_at_its_first_return() {
    let site = site(|_, _| ()).await;
    let error = site.fetch("web.test", "/circle").await.unwrap_err();
    assert_eq!(error, EgressError::BadResponse("the redirects lead in a circle".to_owned()));
    assert_eq!(site.web.asked(), 2);
}

#[tokio::test]
async fn s12_redirects_lead_only_to_http_on_the_validation_ports() {
    let site = site(|_, _| ()).await;
    for path in ["/port", "/user", "/ftp", "/nowhere", "/see-other"] {
        let asked = site.web.asked();
        assert!(matches!(site.fetch("web.test", path).await, Err(EgressError::BadResponse(_))), "{path}");
        assert_eq!(site.web.asked(), asked + 1, "{path}");
    }
}

#[tokio::test]
async fn s12_what_the_host_sends_is_bounded_and_never_repeated() {
    let site = site(|_, _| ()).await;
    for path in ["/big", "/endless"] {
        let error = site.fetch("web.test", path).await.unwrap_err();
        assert_eq!(error, EgressError::BadResponse("the body is too long".to_owned()), "{path}");
    }
    let error = site.fetch("web.test", "/absent").await.unwrap_err();
    assert_eq!(error, EgressError::BadResponse("status 404".to_owned()));
    let error = site.fetch("web.test", "/not-http").await.unwrap_err();
    assert_eq!(error, EgressError::BadResponse("the answer is no HTTP".to_owned()));
    assert_eq!(site.fetch("web.test", "/gzip").await.as_deref(), Ok("abc"), "nothing is decompressed");
}

#[tokio::test]
async fn s12_the_whole_request_has_a_deadline() {
    let site = site(|settings, _| settings.timeout_s = 1).await;
    let error = site.fetch("web.test", "/slow").await.unwrap_err();
    assert_eq!(error, EgressError::Timeout("fetching the challenge"));
}

fn refused(address: &str, why: Refusal) -> EgressError {
    EgressError::RefusedAddress { address: address.parse::<IpAddr>().unwrap(), why }
}

#[tokio::test]
async fn s13_every_dial_is_judged_and_nothing_refused_is_asked() {
    let closed = site(|_, reach| reach.networks.clear()).await;
    for (host, address, why) in [
        ("web.test", "127.0.0.1", Refusal::NotListed),
        ("localhost", "127.0.0.1", Refusal::NotListed),
        ("127.0.0.1", "127.0.0.1", Refusal::NotListed),
        ("::1", "::1", Refusal::NotListed),
        ("mapped.test", "::ffff:127.0.0.1", Refusal::Special),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", Refusal::Special),
        ("metadata.test", "169.254.169.254", Refusal::Special),
        ("private.test", "10.0.0.1", Refusal::NotListed),
        ("0.0.0.0", "0.0.0.0", Refusal::Special),
    ] {
        assert_eq!(closed.fetch(host, "/hop/0").await, Err(refused(address, why)), "{host}");
    }
    assert_eq!(closed.web.asked(), 0);
}

#[tokio::test]
async fn s13_redirects_are_judged_like_the_first_request() {
    let open = site(|_, _| ()).await;
    assert_eq!(open.fetch("web.test", "/metadata").await, Err(refused("169.254.169.254", Refusal::Special)));
    assert_eq!(open.fetch("web.test", "/elsewhere").await, Err(refused("10.0.0.1", Refusal::LiteralInRedirect)));
}

#[tokio::test]
async fn s13_our_own_listeners_are_never_asked() {
    let web = Web::start(reply).await;
    let settings = Settings::default().validation;
    let reach = Reach { networks: vec!["127.0.0.0/8".parse().unwrap()], http_port: web.port, https_port: 443 };
    let own = vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), web.port)];
    let egress = NodeEgress::new(&settings, own).unwrap().within(reach);
    let asked = egress.fetch_challenge(&Host::Ip(Ipv4Addr::LOCALHOST.into()), web.port, "/hop/0").await;
    assert_eq!(asked, Err(refused("127.0.0.1", Refusal::Own)));
    assert_eq!(web.asked(), 0);
}

#[tokio::test]
async fn a_closed_port_is_a_connection_error() {
    let site = site(|_, _| ()).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = site.egress.fetch_challenge(&Host::Dns("web.test".to_owned()), closed, "/").await.unwrap_err();
    assert!(matches!(error, EgressError::Connection(_)), "{error}");
}

async fn serve_tls(mut stream: TcpStream) {
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified("unknown.test"))));
    let mut first = [0; 1];
    if stream.peek(&mut first).await.unwrap() == 0 {
        return;
    }
    if first == *b"G" {
        head_of(&mut stream).await;
        let port = stream.local_addr().unwrap().port();
        stream.write_all(redirect(&format!("https://web.test:{port}/secure")).as_bytes()).await.unwrap();
        return;
    }
    let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
    head_of(&mut stream).await;
    stream.write_all(found("over TLS").as_bytes()).await.unwrap();
    stream.shutdown().await.ok();
}

#[tokio::test]
async fn a_redirect_to_https_is_followed_whatever_its_certificate_says() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve_tls(stream));
        }
    });
    let site = site(|_, reach| reach.https_port = port).await;
    let fetched = site.egress.fetch_challenge(&Host::Dns("web.test".to_owned()), port, "/").await.unwrap();
    assert_eq!(&fetched.body[..], b"over TLS");
    assert_eq!(fetched.urls, [format!("http://web.test:{port}/"), format!("https://web.test:{port}/secure")]);
}

#[tokio::test]
async fn txt_records_are_found_joined_and_through_aliases() {
    let site = site(|_, _| ()).await;
    for name in ["_acme-challenge.web.test", "_acme-challenge.alias.test"] {
        let mut found = site.egress.lookup_txt(name).await.unwrap();
        found.sort();
        assert_eq!(found, ["one joined", "two"], "{name}");
    }
}

#[tokio::test]
async fn s15_a_truncated_answer_is_asked_for_again_over_tcp() {
    let (server, over_tcp) = dns_server().await;
    let mut settings = Settings::default().validation;
    settings.resolvers = vec![server];
    let egress = NodeEgress::new(&settings, Vec::new()).unwrap().within(nowhere());
    assert_eq!(egress.lookup_txt("big.test").await.unwrap().len(), 40);
    assert!(over_tcp.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn s15_names_that_lead_nowhere_are_dns_errors() {
    let site = site(|_, _| ()).await;
    for name in ["absent.test", "circle.test", "chain1.test", "empty.test", "a..b", ""] {
        let error = site.egress.lookup_txt(name).await.unwrap_err();
        assert!(matches!(error, EgressError::Dns(_)), "{name}: {error}");
        if name != "empty.test" {
            let error = site.fetch(name, "/").await.unwrap_err();
            assert!(matches!(error, EgressError::Dns(_) | EgressError::BadResponse(_)), "{name}: {error}");
        }
    }
}

#[tokio::test]
async fn a_dns_server_that_is_silent_is_a_timeout() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut settings = Settings::default().validation;
    settings.resolvers = vec![silent.local_addr().unwrap()];
    settings.timeout_s = 1;
    let egress = NodeEgress::new(&settings, Vec::new()).unwrap().within(nowhere());
    assert!(matches!(egress.lookup_txt("web.test").await, Err(EgressError::Timeout(_))));
}
