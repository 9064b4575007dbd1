use config::{LogFormat, LogSettings};
use endpoint::Peer;
use gateway::telemetry::{self, Figures};

use crate::gate::{Answering, Gate, get, mount, settings, text};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_does_shows_in_its_figures() {
    let figures = Figures::install().unwrap();
    let answering = Answering(|_, _: &Peer| text("hello"));
    let gate = Gate::open(&settings(|_| ()), vec![mount("/counted", answering)]).await;
    get(gate.http, "/counted").await;
    get(gate.http, "/absent").await;
    let shown = figures.render();
    for line in [
        "# HELP certgate_request_seconds time to answer requests that needed a lane",
        "certgate_request_seconds_count{mount=\"/counted\",status=\"200\"} 1",
        "certgate_requests_refused_total{status=\"404\"} 1",
        "certgate_lane_busy_threads{lane=\"test\"} 0",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    assert!(Figures::install().is_err(), "figures are collected once");
}

#[test]
fn a_log_level_is_checked_before_it_is_used() {
    for level in ["info", "warn,acme=debug", "off"] {
        assert!(telemetry::check_level(level).is_ok(), "{level}");
    }
    let settings = LogSettings { level: "acme=loud".to_owned(), format: LogFormat::Text };
    let error = telemetry::start_logs(&settings).unwrap_err().to_string();
    assert!(error.contains("log.level"), "{error}");
}
