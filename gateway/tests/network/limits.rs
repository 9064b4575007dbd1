use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use config::Settings;
use endpoint::Peer;
use gateway::listen::{Mount, On};
use gateway::pool::Lane;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::gate::{
    Answering, Gate, PATIENCE, body, connect, exchange, get, mount, next_answer, rest, settings, status, text,
};

fn echo() -> Answering<impl Fn(Request<Bytes>, &Peer) -> Response<Bytes>> {
    Answering(|request: Request<Bytes>, _: &Peer| text(format!("{} octets", request.body().len())))
}

async fn open(change: impl FnOnce(&mut Settings)) -> Gate {
    Gate::open(&settings(change), vec![mount("/a", echo())]).await
}

/// An endpoint whose requests say when they begin, and wait until they are released.
struct Held {
    began: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
}

fn held(lane: Arc<Lane>) -> (Held, Mount) {
    let (begin, began) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let (begin, released) = (Mutex::new(begin), Mutex::new(released));
    let endpoint = Answering(move |_, _: &Peer| {
        begin.lock().unwrap().send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
        text("done")
    });
    (Held { began, release }, Mount::new(On::Both, "/held", Arc::new(endpoint), lane, 1000))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_lane_is_answered_with_try_later_before_anything_is_decoded() {
    let lane = Lane::start("small", 1, 1).unwrap();
    let (held, mounted) = held(lane);
    let gate = Gate::open(&settings(|settings| settings.limits.retry_after_s = 17), vec![mounted]).await;
    let request = "GET /held HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let first = tokio::spawn(exchange(gate.http, request));
    held.began.recv_timeout(PATIENCE).unwrap();
    // one runs and one may wait: of three more, one waits and two are refused
    let mut others: Vec<_> = (0..3).map(|_| tokio::spawn(exchange(gate.http, request))).collect();
    let mut refused = Vec::new();
    while refused.len() < 2 {
        let finished = loop {
            if let Some(at) = others.iter().position(tokio::task::JoinHandle::is_finished) {
                break others.remove(at);
            }
            tokio::task::yield_now().await;
        };
        refused.push(finished.await.unwrap());
    }
    for answer in refused {
        assert_eq!(status(&answer), "503", "{answer}");
        assert!(answer.to_lowercase().contains("retry-after: 17\r\n"), "{answer}");
    }
    held.release.send(()).unwrap();
    held.release.send(()).unwrap();
    assert_eq!(body(&first.await.unwrap()), "done");
    assert_eq!(body(&others.remove(0).await.unwrap()), "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn s16_the_body_limit_holds_however_the_body_is_framed() {
    let gate = open(|_| ()).await;
    let post = |headers: &str, body: &str| {
        format!("POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n\r\n{body}")
    };
    let chunk = |bytes: usize| format!("{bytes:x}\r\n{}\r\n", "x".repeat(bytes));
    let fits = post("Content-Length: 1000", &"x".repeat(1000));
    assert_eq!(body(&exchange(gate.http, &fits).await), "1000 octets");
    let chunks_fit = post("Transfer-Encoding: chunked", &format!("{}{}0\r\n\r\n", chunk(999), chunk(1)));
    assert_eq!(body(&exchange(gate.http, &chunks_fit).await), "1000 octets");
    let too_long = post("Content-Length: 1001", &"x".repeat(1001));
    assert_eq!(status(&exchange(gate.http, &too_long).await), "413");
    let chunks_too_long = post("Transfer-Encoding: chunked", &format!("{}{}0\r\n\r\n", chunk(999), chunk(2)));
    assert_eq!(status(&exchange(gate.http, &chunks_too_long).await), "413");
    let only_announced = post("Expect: 100-continue\r\nContent-Length: 99999999999", "");
    assert_eq!(status(&exchange(gate.http, &only_announced).await), "413");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_is_cut() {
    let gate = open(|_| ()).await;
    let mut stream = connect(gate.http).await;
    stream.write_all(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
    let sent = async { while stream.write_all(chunk.as_bytes()).await.is_ok() {} };
    timeout(PATIENCE, sent).await.expect("the server closes the connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bodies_of_all_requests_together_are_bounded() {
    let gate = open(|settings| settings.limits.bodies_bytes_max = 1500).await;
    let half =
        format!("POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(900));
    let whole =
        format!("POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 900\r\n\r\n{}", "x".repeat(900));
    // a body is counted as it arrives, so the second request may be the first one there: then both begin anew
    let refused = async {
        loop {
            let mut slow = connect(gate.http).await;
            slow.write_all(half.as_bytes()).await.unwrap();
            if status(&exchange(gate.http, &whole).await) == "503" {
                return slow;
            }
        }
    };
    let mut slow = timeout(PATIENCE, refused).await.expect("the memory for bodies is taken");
    slow.write_all("x".repeat(100).as_bytes()).await.unwrap();
    assert_eq!(body(&rest(&mut slow).await), "1000 octets");
    assert_eq!(body(&exchange(gate.http, &whole).await), "900 octets");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_drips_its_headers_is_cut() {
    let gate = open(|settings| settings.limits.header_read_timeout_s = 1).await;
    let stream = connect(gate.http).await;
    let (mut from, mut to) = stream.into_split();
    let dripping = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(50));
        to.write_all(b"GET /a HTTP/1.1\r\n").await.unwrap();
        while to.write_all(b"X-A: b\r\n").await.is_ok() {
            every.tick().await;
        }
    });
    timeout(PATIENCE, dripping).await.expect("the server closes the connection").unwrap();
    assert!(!matches!(from.read(&mut [0; 64]).await, Ok(1..)), "no answer is due");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_drips_its_headers_on_a_used_connection_is_cut() {
    let gate = open(|settings| settings.limits.header_read_timeout_s = 1).await;
    let mut stream = connect(gate.http).await;
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(status(&next_answer(&mut stream).await), "200");
    let mut every = tokio::time::interval(Duration::from_millis(50));
    let dripping = async {
        while stream.write_all(b"G").await.is_ok() {
            every.tick().await;
        }
    };
    timeout(PATIENCE, dripping).await.expect("the server closes the connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_too_long_are_refused() {
    let gate = open(|settings| settings.limits.header_bytes_max = 8192).await;
    let request = format!("GET /a HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\nConnection: close\r\n\r\n", "x".repeat(9000));
    assert_eq!(status(&exchange(gate.http, &request).await), "431");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_too_slowly_is_refused_and_holds_no_thread() {
    let lane = Lane::start("one", 1, 1).unwrap();
    let mounted = Mount::new(On::Both, "/a", Arc::new(echo()), lane, 1000);
    let gate = Gate::open(&settings(|settings| settings.limits.body_read_timeout_s = 1), vec![mounted]).await;
    let begun = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx";
    let mut slow = Vec::new();
    for _ in 0..5 {
        let mut stream = connect(gate.http).await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    assert_eq!(body(&get(gate.http, "/a").await), "0 octets");
    for mut stream in slow {
        assert_eq!(status(&rest(&mut stream).await), "408");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_a_working_one_is_not() {
    let (held, mounted) = held(Lane::start("idle", 1, 1).unwrap());
    let gate =
        Gate::open(&settings(|settings| settings.limits.idle_timeout_s = 1), vec![mount("/a", echo()), mounted]).await;
    let mut working = connect(gate.http).await;
    working.write_all(b"GET /held HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut idle = connect(gate.http).await;
    idle.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(status(&next_answer(&mut idle).await), "200");
    assert_eq!(rest(&mut idle).await, "");
    held.release.send(()).unwrap();
    assert_eq!(body(&rest(&mut working).await), "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_per_address_and_places_come_back() {
    let gate = open(|settings| settings.limits.connections_per_address_max = 2).await;
    connections_are_bounded_at_two(&gate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_altogether_and_places_come_back() {
    let gate = open(|settings| settings.limits.connections_max = 2).await;
    connections_are_bounded_at_two(&gate).await;
}

async fn answers(stream: &mut TcpStream) -> bool {
    let sent = stream.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut answer = [0; 16];
    sent.is_ok() && matches!(timeout(PATIENCE, stream.read(&mut answer)).await, Ok(Ok(1..)))
}

async fn connections_are_bounded_at_two(gate: &Gate) {
    let mut first = connect(gate.http).await;
    let mut second = connect(gate.http).await;
    assert!(answers(&mut first).await && answers(&mut second).await);
    assert!(!answers(&mut connect(gate.http).await).await);
    drop(first);
    let place = async { while !answers(&mut connect(gate.http).await).await {} };
    timeout(PATIENCE, place).await.expect("a place comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_what_runs_and_takes_nothing_new() {
    let (held, mounted) = held(Lane::start("ends", 1, 1).unwrap());
    let mut gate = Gate::open(&settings(|_| ()), vec![mount("/a", echo()), mounted]).await;
    let mut idle = connect(gate.http).await;
    idle.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(status(&next_answer(&mut idle).await), "200");
    let running = tokio::spawn(async move { get(gate.http, "/held").await });
    held.began.recv_timeout(PATIENCE).unwrap();
    gate.stop.send(true).unwrap();
    assert_eq!(rest(&mut idle).await, "");
    let closed = async { while TcpStream::connect(gate.http).await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("no new connection is taken");
    held.release.send(()).unwrap();
    assert_eq!(body(&running.await.unwrap()), "done");
    for served in gate.served.drain(..) {
        timeout(PATIENCE, served).await.expect("the listener ends").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_cuts_what_outlasts_the_grace_time() {
    let (held, mounted) = held(Lane::start("cut", 1, 1).unwrap());
    let mut gate = Gate::open(&settings(|settings| settings.limits.shutdown_grace_s = 1), vec![mounted]).await;
    let running = tokio::spawn(exchange(gate.http, "GET /held HTTP/1.1\r\nHost: a\r\n\r\n"));
    held.began.recv_timeout(PATIENCE).unwrap();
    gate.stop.send(true).unwrap();
    for served in gate.served.drain(..) {
        timeout(PATIENCE, served).await.expect("the listener ends").unwrap();
    }
    assert_eq!(running.await.unwrap(), "");
    held.release.send(()).unwrap();
}
