//! A client that asks the same again and again on many connections, and looks at nothing but the length of the answer.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How often a server was asked, for how long, and what it spent.
#[derive(Clone, Copy, Default)]
pub(crate) struct Asked {
    times: u64,
    wall_s: f64,
    cpu_s: f64,
}

impl Asked {
    /// With another turn, for which the server spent `cpu_s` seconds of processor time.
    pub(crate) fn and(self, turn: Self, cpu_s: f64) -> Self {
        Self { times: self.times + turn.times, wall_s: self.wall_s + turn.wall_s, cpu_s: self.cpu_s + cpu_s }
    }

    /// Answers in a second.
    pub(crate) fn per_s(&self) -> f64 {
        self.times as f64 / self.wall_s
    }

    /// Microseconds of the server's processor time each.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu_s * 1e6 / self.times as f64
    }
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: pki.example.org\r\naccept: */*\r\n\r\n").into_bytes()
}

/// Asks once; the whole response in its octets.
pub(crate) async fn one(port: u16, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(&request(path)).await.unwrap();
    let mut response = Vec::new();
    // The first answer is signed, so it may take a while; nothing follows it.
    while timeout(Duration::from_secs(1), stream.read_buf(&mut response)).await.is_ok_and(|read| read.unwrap() > 0) {}
    assert!(response.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&response));
    response
}

/// Asks on this many connections for a time.
pub(crate) async fn ask(port: u16, path: &str, connections: usize, time: Duration) -> Asked {
    let length = one(port, path).await.len();
    let clock = ca_backend::Stopwatch::start();
    let mut asking = JoinSet::new();
    for _ in 0..connections {
        let request = request(path);
        asking.spawn(async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut response = vec![0; length];
            let mut times = 0;
            let clock = ca_backend::Stopwatch::start();
            while clock.elapsed() < time {
                stream.write_all(&request).await.unwrap();
                stream.read_exact(&mut response).await.unwrap();
                times += 1;
            }
            times
        });
    }
    let times = asking.join_all().await.iter().sum();
    Asked { times, wall_s: clock.elapsed().as_secs_f64(), cpu_s: 0.0 }
}
