//! The servers that are measured: the daemon's listener with the status services behind it, and hyper with nothing behind it.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use config::Settings;
use gateway::listen::{Bounds, Listener, Mounts, Security};
use gateway::telemetry::Figures;
use gateway::wiring::{Lanes, Wiring};
use http::{HeaderName, HeaderValue, Response};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

fn runtime() -> Runtime {
    Builder::new_multi_thread().enable_all().build().unwrap()
}

/// Serves CRLs, OCSP and certificates of the engine that the settings describe; prints its port.
pub(crate) fn gateway(settings: &Settings) {
    let _figures = Figures::install().unwrap();
    let engine = gateway::open_engine(settings).unwrap();
    let lanes = Lanes::start(settings).unwrap();
    runtime().block_on(async {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let mounts = Mounts::default();
        let wiring = Wiring::new(engine, settings.clone(), mounts.clone(), lanes, Handle::current(), Vec::new());
        wiring.remount();
        println!("{}", listener.address().port());
        let (_stop, stopped) = watch::channel(false);
        listener.serve(Security::Plain, mounts, Bounds::new(settings), stopped).await;
    });
}

/// Sends the response in a file to every request; prints its port.
pub(crate) fn bare(response: &Path) {
    let octets = std::fs::read(response).unwrap();
    let end = octets.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap();
    let (head, body) = octets.split_at(end + 4);
    let mut template = Response::new(Full::new(Bytes::copy_from_slice(body)));
    for line in std::str::from_utf8(head).unwrap().lines().skip(1) {
        // hyper adds the date itself.
        if let Some((name, value)) = line.split_once(": ").filter(|(name, _)| *name != "date") {
            template.headers_mut().insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
    }
    let template = Arc::new(template);
    runtime().block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        println!("{}", listener.local_addr().unwrap().port());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let template = Arc::clone(&template);
            tokio::spawn(async move {
                let service = service_fn(move |_| {
                    let response = Response::clone(&template);
                    async move { Ok::<_, Infallible>(response) }
                });
                // A client that goes away is no error here.
                let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}
