use std::sync::Arc;

use bytes::Bytes;
use endpoint::{Endpoint, Peer};
use gateway::listen::{Mount, On};
use http::{Request, Response};
use tokio::io::AsyncWriteExt;

use crate::gate::{
    Answering, Gate, body, connect, exchange, get, lane, mount, next_answer, rest, settings, status, text,
};

fn named(name: &'static str) -> Answering<impl Fn(Request<Bytes>, &Peer) -> Response<Bytes>> {
    Answering(move |_, _: &Peer| text(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_prefix_on_a_segment_boundary_answers() {
    let mounts = vec![mount("/a", named("a")), mount("/a/b/", named("b")), mount("/ocsp", named("ocsp"))];
    let gate = Gate::open(&settings(|_| ()), mounts).await;
    for (path, answer) in [
        ("/a", "a"),
        ("/a/", "a"),
        ("/a/c?x=/a/b", "a"),
        ("/a/bc", "a"),
        ("/a/b", "b"),
        ("/a/b/c", "b"),
        ("/a%2Fb", "not found\n"),
        ("/ab", "not found\n"),
        ("/", "not found\n"),
        ("/A", "not found\n"),
    ] {
        assert_eq!(body(&get(gate.http, path).await), answer, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_mount_answers_every_path() {
    let gate = Gate::open(&settings(|_| ()), vec![mount("/", named("root"))]).await;
    assert_eq!(body(&get(gate.http, "/any/thing").await), "root");
    assert_eq!(body(&get(gate.http, "/").await), "root");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_target_is_handed_on_as_it_was_sent() {
    let echo = Answering(|request: Request<Bytes>, _: &Peer| text(request.uri().to_string()));
    let gate = Gate::open(&settings(|_| ()), vec![mount("/ocsp", echo)]).await;
    for target in ["/ocsp/MFQw//Aa+b/c=/..%2F/./x==", "/ocsp//", "/ocsp/%41%2f%3d?q=%20+"] {
        assert_eq!(body(&get(gate.http, target).await), target);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_gets_a_length_and_a_closed_connection() {
    let gate = Gate::open(&settings(|_| ()), vec![mount("/a", named("hello"))]).await;
    let answer = exchange(gate.http, "GET /a HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(answer.to_lowercase().contains("content-length: 5\r\n"), "{answer}");
    assert_eq!(body(&answer), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_half_still_gets_its_answer() {
    let gate = Gate::open(&settings(|_| ()), vec![mount("/a", named("hello"))]).await;
    let mut stream = connect(gate.http).await;
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(body(&rest(&mut stream).await), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_the_length_of_get_and_no_body() {
    let gate = Gate::open(&settings(|_| ()), vec![mount("/a", named("hello"))]).await;
    let answer = exchange(gate.http, "HEAD /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.to_lowercase().contains("content-length: 5\r\n"), "{answer}");
    assert_eq!(body(&answer), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_the_length_that_the_endpoint_states_if_it_sends_no_body_itself() {
    let stated = |length: Option<&'static str>| {
        Answering(move |_, _: &Peer| {
            let mut response = Response::new(Bytes::new());
            if let Some(length) = length {
                response.headers_mut().insert("content-length", length.parse().unwrap());
            }
            response
        })
    };
    let gate = Gate::open(&settings(|_| ()), vec![mount("/a", stated(Some("77"))), mount("/b", stated(None))]).await;
    for (path, expected) in [("/a", Some("77")), ("/b", None)] {
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = exchange(gate.http, &request).await.to_lowercase();
        let length = answer.lines().find_map(|line| line.strip_prefix("content-length: "));
        assert_eq!(length, expected, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_length_from_an_endpoint_is_put_right() {
    let wrong =
        Answering(|_, _: &Peer| Response::builder().header("content-length", "99").body("four".into()).unwrap());
    let gate = Gate::open(&settings(|_| ()), vec![mount("/a", wrong)]).await;
    let answer = get(gate.http, "/a").await;
    assert!(answer.to_lowercase().contains("content-length: 4\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_go_over_one_connection() {
    let echo = Answering(|request: Request<Bytes>, _: &Peer| Response::new(request.into_body()));
    let gate = Gate::open(&settings(|_| ()), vec![mount("/a", echo)]).await;
    let mut stream = connect(gate.http).await;
    for number in 0..5 {
        let request = format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n{number}");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(body(&next_answer(&mut stream).await), number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_swapped_under_a_living_connection() {
    let gate = Gate::open(&settings(|_| ()), vec![mount("/a", named("old"))]).await;
    let mut stream = connect(gate.http).await;
    let request = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(request).await.unwrap();
    assert_eq!(body(&next_answer(&mut stream).await), "old");
    gate.mounts.replace(vec![mount("/a", named("new"))]);
    stream.write_all(request).await.unwrap();
    assert_eq!(body(&next_answer(&mut stream).await), "new");
    gate.mounts.replace(Vec::new());
    stream.write_all(request).await.unwrap();
    assert_eq!(status(&next_answer(&mut stream).await), "404");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_for_tls_is_not_there_without_tls() {
    let mounts = vec![
        Mount::new(On::Tls, "/a", Arc::new(named("tls")), lane(), 1000),
        Mount::new(On::Plain, "/b", Arc::new(named("plain")), lane(), 1000),
    ];
    let gate = Gate::open(&settings(|_| ()), mounts).await;
    assert_eq!(status(&get(gate.http, "/a").await), "404");
    assert_eq!(body(&get(gate.http, "/b").await), "plain");
}

#[tokio::test(flavor = "multi_thread")]
async fn s50_forwarded_addresses_count_only_from_trusted_proxies() {
    let show = || Answering(|_, peer: &Peer| text(format!("{} {}", peer.address.ip(), peer.request_id.len())));
    let request = "GET /a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1, 198.51.100.7\r\nConnection: close\r\n\r\n";
    let stranger = Gate::open(&settings(|_| ()), vec![mount("/a", show())]).await;
    assert_eq!(body(&exchange(stranger.http, request).await), "127.0.0.1 16");
    let trusting = settings(|settings| settings.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]);
    let proxied = Gate::open(&trusting, vec![mount("/a", show())]).await;
    assert_eq!(body(&exchange(proxied.http, request).await), "198.51.100.7 16");
}

/// Answers GET from memory, and panics there on `/panic`; everything else needs the lane.
struct Cached;

impl Endpoint for Cached {
    fn handle(&self, request: Request<Bytes>, _peer: &Peer) -> Response<Bytes> {
        assert!(!request.uri().path().ends_with("fail"), "as asked for");
        text("made")
    }

    fn answer_from_memory(&self, request: &Request<Bytes>) -> Option<Response<Bytes>> {
        assert!(!request.uri().path().ends_with("panic"), "as asked for");
        let known = request.method() == "GET" || request.body() == "known";
        (known && !request.uri().path().ends_with("fail")).then(|| text("kept"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_memory_is_answered_while_every_thread_is_stuck() {
    let lane = gateway::pool::Lane::start("stuck", 1, 1).unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let stuck = lane.run(move || held.recv()).unwrap();
    let mounts = vec![Mount::new(On::Both, "/a", Arc::new(Cached), Arc::clone(&lane), 1000)];
    let gate = Gate::open(&settings(|_| ()), mounts).await;
    assert_eq!(body(&get(gate.http, "/a").await), "kept");
    let post = "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nknown";
    assert_eq!(body(&exchange(gate.http, post).await), "kept");
    release.send(()).unwrap();
    stuck.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s20_a_panic_ends_one_request_and_not_its_connection() {
    let gate = Gate::open(&settings(|_| ()), vec![mount("/a", Cached)]).await;
    let mut stream = connect(gate.http).await;
    for (path, expected) in
        [("/a/fail", "500"), ("/a/panic", "500"), ("/a", "200"), ("/a/fail", "500"), ("/a/fail", "500")]
    {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        let answer = next_answer(&mut stream).await;
        assert_eq!(status(&answer), expected, "{path}");
        assert!(!answer.contains("as asked for"), "a panic's text must not be shown");
    }
}
