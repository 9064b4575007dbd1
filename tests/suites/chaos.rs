//! What is asked answers with malice, or not at all. Each attempt ends in the error that fits, and leaves nothing behind but its record.

use std::io::{Read, Write};
use std::net::TcpStream;

use config::{Settings, ValidationSettings};
use hickory_resolver::proto::rr::RecordType;
use rustls::{ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tests::hosts::{TestHost, certificate, found, hang, head_of, redirect, tls_config};
use tests::names::{Answer, NameServer, address, alias};

use crate::validation::Field;

/// What no reply may repeat.
const SECRET: &str = "SECRET OF THE INTRANET";

/// Impatient, since most of what is asked here never answers.
fn settings(names: &NameServer) -> ValidationSettings {
    ValidationSettings {
        resolvers: vec![names.address],
        timeout_s: 1,
        connect_timeout_s: 1,
        dns_timeout_s: 1,
        ..Settings::default().validation
    }
}

/// Everything but what a test says of itself is on loopback.
fn names(special: impl Fn(&str, RecordType, usize) -> Option<Answer> + Send + 'static) -> NameServer {
    NameServer::start(move |name, kind, times| {
        special(name, kind, times).unwrap_or_else(|| {
            Answer::Records(if kind == RecordType::A { vec![address("127.0.0.1")] } else { Vec::new() })
        })
    })
}

fn here() -> NameServer {
    names(|_, _, _| None)
}

/// Ends an attempt at `host.corp.example` by a challenge of this type; the last part of the problem's type, and its text.
fn refused(names: &NameServer, options: &Value, kind: &str) -> (String, String) {
    let field = Field::with(settings(names), options.clone());
    let client = field.bench.client();
    let (order, challenge) = field.attempt(&client, &json!({ "type": "dns", "value": "host.corp.example" }), kind);
    assert_eq!(challenge["status"], "invalid", "{challenge}");
    let shown = client.read(&field.bench, &order);
    assert_eq!(shown.text("status"), "invalid");
    assert!(!format!("{challenge}{}", shown.json()).contains(SECRET), "{challenge}");

    // No job is left, and the record leaves with its time.
    field.bench.bench.clock.advance_s(3600);
    assert!(field.bench.acme.due_validations(100).unwrap().is_empty());
    field.bench.bench.clock.advance_s(30 * 24 * 3600);
    while field.bench.acme.expire(100).unwrap() > 0 {}
    let _old_nonce = client.read(&field.bench, &order);
    assert_eq!(client.read(&field.bench, &order).problem(), (404, "malformed".to_owned()));

    let problem = challenge["error"]["type"].as_str().unwrap();
    let detail = challenge["error"]["detail"].as_str().unwrap().to_owned();
    (problem.strip_prefix("urn:ietf:params:acme:error:").unwrap().to_owned(), detail)
}

fn reaching(web: &TestHost) -> Value {
    json!({ "http01_port": web.port, "tls_alpn01_port": web.port, "https_port": web.port, "reachable_networks": ["127.0.0.0/8"] })
}

fn http(names: &NameServer, web: &TestHost) -> (String, String) {
    refused(names, &reaching(web), "http-01")
}

#[test]
fn s12_a_host_that_accepts_and_says_nothing_is_a_connection_error() {
    let web = TestHost::start(hang);
    for kind in ["http-01", "tls-alpn-01"] {
        let (problem, detail) = refused(&here(), &reaching(&web), kind);
        assert_eq!(problem, "connection", "{detail}");
        assert!(detail.contains("time ran out"), "{detail}");
    }
}

#[test]
fn s12_a_host_that_dribbles_is_a_connection_error() {
    let dribble = |mut stream: TcpStream, octets: &[u8]| {
        head_of(&mut stream);
        while stream.write_all(octets).is_ok() {
            // Each octet waits for the reader's patience to end, since nobody sends anything more.
            stream.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
            let _silence = stream.read(&mut [0]);
        }
    };
    let web = TestHost::start(move |stream| dribble(stream, b"H"));
    let (problem, detail) = http(&here(), &web);
    assert!(["connection", "incorrectResponse"].contains(&problem.as_str()), "{problem}: {detail}");
}

#[test]
fn s12_gigabytes_are_not_read() {
    for head in
        ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9000000000\r\n\r\n", "HTTP/1.1 200 OK\r\nX: "]
    {
        let web = TestHost::start(move |mut stream| {
            head_of(&mut stream);
            let _refused = stream.write_all(head.as_bytes());
            let flood = SECRET.repeat(1000);
            while stream.write_all(flood.as_bytes()).is_ok() {}
        });
        assert_eq!(http(&here(), &web).0, "incorrectResponse", "{head:?}");
    }
}

#[test]
fn s12_redirects_in_a_circle_or_without_an_end_are_not_followed_for_long() {
    let circle = TestHost::web(|head| if head.starts_with("GET /a ") { redirect("/b") } else { redirect("/a") });
    let (problem, detail) = http(&here(), &circle);
    assert_eq!((problem.as_str(), detail.contains("circle")), ("incorrectResponse", true), "{detail}");
    let endless = TestHost::web(|head| redirect(&format!("{}x", head.split(' ').nth(1).unwrap())));
    let (problem, detail) = http(&here(), &endless);
    assert_eq!((problem.as_str(), detail.contains("too many")), ("incorrectResponse", true), "{detail}");
}

#[test]
fn s12_what_is_found_in_place_of_the_token_is_not_repeated() {
    let web = TestHost::web(|_| found(SECRET));
    assert_eq!(http(&here(), &web).0, "incorrectResponse");
    let web = TestHost::web(|_| format!("HTTP/1.1 500 {SECRET}\r\nContent-Length: 22\r\n\r\n{SECRET}"));
    assert_eq!(http(&here(), &web).0, "incorrectResponse");
    let web = TestHost::web(|_| format!("{SECRET}\r\n\r\n"));
    assert_eq!(http(&here(), &web).0, "incorrectResponse");
    let web = TestHost::web(|_| redirect(&format!("https://{}.corp.example/", SECRET.replace(' ', "-"))));
    assert_eq!(http(&here(), &web).0, "incorrectResponse", "another port than that of validation");
}

#[test]
fn s13_a_name_that_changes_its_address_is_judged_at_each_dial() {
    for elsewhere in ["169.254.169.254", "10.0.0.1", "0.0.0.0"] {
        // The first look is honest. The redirect leads to the same host, which has moved meanwhile.
        let moving = names(move |name, kind, times| {
            let moved = name == "host.corp.example" && kind == RecordType::A && times > 0;
            moved.then(|| Answer::Records(vec![address(elsewhere)]))
        });
        let web = TestHost::web(|head| {
            let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
            redirect(&format!("http://{host}/again"))
        });
        let (problem, detail) = http(&moving, &web);
        assert_eq!(problem, "connection", "{detail}");
        assert!(detail.contains(&format!("{elsewhere} may not be reached")), "{detail}");
        assert_eq!(moving.asked("host.corp.example", RecordType::A), 2);
    }
}

#[test]
fn s13_private_and_special_addresses_are_not_reached_by_any_challenge() {
    let web = TestHost::web(|_| found(SECRET));
    for (record, unlisted) in
        [("10.1.2.3", "10.1.2.3"), ("::ffff:127.0.0.1", "::ffff:127.0.0.1"), ("fe80::1", "fe80::1")]
    {
        let private = names(move |_, kind, _| {
            let fits = matches!(kind, RecordType::A | RecordType::AAAA);
            let record = address(record);
            fits.then(|| Answer::Records(if record.record_type() == kind { vec![record] } else { Vec::new() }))
        });
        for kind in ["http-01", "tls-alpn-01"] {
            let (problem, detail) = refused(&private, &reaching(&web), kind);
            assert_eq!(problem, "connection", "{detail}");
            assert!(detail.contains(&format!("{unlisted} may not be reached")), "{detail}");
        }
    }
}

#[test]
fn s12_tls_that_is_none_behind_a_redirect_is_a_tls_error() {
    let web = TestHost::start(|mut stream: TcpStream| {
        let mut first = [0];
        if stream.peek(&mut first).is_ok() && first == *b"G" {
            head_of(&mut stream);
            let port = stream.local_addr().unwrap().port();
            stream.write_all(redirect(&format!("https://host.corp.example:{port}/")).as_bytes()).unwrap();
        } else {
            let _refused = stream.write_all(found(SECRET).as_bytes());
        }
    });
    assert_eq!(http(&here(), &web).0, "tls");
}

#[test]
fn s12_a_self_signed_certificate_behind_a_redirect_is_no_obstacle_and_no_proof() {
    let config = tls_config(rustls::ALL_VERSIONS, &[], |_| certificate(&["unknown.test"], Vec::new()));
    let web = TestHost::start(move |mut stream: TcpStream| {
        let mut first = [0];
        if stream.peek(&mut first).is_ok() && first == *b"G" {
            head_of(&mut stream);
            let port = stream.local_addr().unwrap().port();
            stream.write_all(redirect(&format!("https://host.corp.example:{port}/")).as_bytes()).unwrap();
            return;
        }
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        head_of(&mut stream);
        stream.write_all(found(SECRET).as_bytes()).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    assert_eq!(http(&here(), &web).0, "incorrectResponse");
}

#[test]
fn s15_name_servers_that_fail_are_silent_or_lead_in_circles_are_dns_errors() {
    let web = TestHost::web(|_| found(SECRET));
    let failing = names(|_, _, _| Some(Answer::Failure));
    let absent = names(|_, _, _| Some(Answer::NoSuchName));
    let circle = names(|name, _, _| Some(Answer::Records(vec![alias(name)])));
    let chain = names(|name, _, _| Some(Answer::Records(vec![alias(&format!("a.{name}"))])));
    for names in [failing, absent, circle, chain] {
        for kind in ["http-01", "dns-01"] {
            let (problem, detail) = refused(&names, &reaching(&web), kind);
            assert_eq!(problem, "dns", "{kind}: {detail}");
        }
    }
    let silent = names(|_, _, _| Some(Answer::Silence));
    let (problem, detail) = refused(&silent, &reaching(&web), "dns-01");
    assert!(["dns", "connection"].contains(&problem.as_str()), "{problem}: {detail}");
}
