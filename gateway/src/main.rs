//! certgate.
fn main() {
    let settings = gateway::starter::settings();
    gateway::telemetry::start_logs(&settings.log).unwrap();
    gateway::run(&settings, gateway::RunOptions { starter: true }, |ready| println!("{}", ready.starter.clone().unwrap_or_default())).unwrap();
}
