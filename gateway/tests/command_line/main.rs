//! The command line as a user meets it: the program itself, with a daemon of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a failing test should be loud

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// A directory that vanishes with the test, and the program run in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        name.to_owned()
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(self.0.path()).env_remove("CERTGATE_SOCKET").env_remove("CERTGATE_CONFIG");
        command
    }

    fn certgate(&self, arguments: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_certgate")).args(arguments).output().unwrap()
    }

    /// Runs the program, expects `code`, and gives what it said: standard output if it was done, else standard error.
    fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.certgate(arguments);
        let said = if code == 0 { &output.stdout } else { &output.stderr };
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        String::from_utf8(said.clone()).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.expect(0, &[&["--json"], arguments].concat());
        serde_json::from_str(&said).unwrap_or_else(|why| panic!("{arguments:?}: {why}: {said}"))
    }

    fn csr(&self) -> String {
        let arguments = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -subj /CN=ignored -out host.csr";
        assert!(self.command("openssl").args(arguments.split(' ')).output().unwrap().status.success());
        "host.csr".to_owned()
    }
}

/// A starter daemon in the place; ended with the test.
struct Daemon<'a> {
    place: &'a Place,
    child: Child,
    /// Where it is reached.
    facts: Value,
}

impl<'a> Daemon<'a> {
    fn start(place: &'a Place) -> Self {
        Self::start_with(place, &["serve", "--starter"])
    }

    fn start_with(place: &'a Place, arguments: &[&str]) -> Self {
        let mut command = place.command(env!("CARGO_BIN_EXE_certgate"));
        command.arg("--json").args(arguments);
        Self::begin(place, command)
    }

    fn begin(place: &'a Place, mut command: Command) -> Self {
        let mut child = command
            .env("CERTGATE_HTTPS__LISTEN", "127.0.0.1:0")
            .env("CERTGATE_HTTP__LISTEN", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(place.path("daemon.log")).unwrap())
            .spawn()
            .unwrap();
        // It says where it is reached once everything is up.
        let mut text = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        while said.read_line(&mut text).unwrap() > 0 && !text.ends_with("}\n") {}
        let facts = serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text:?}"));
        Self { place, child, facts }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place.path("daemon.log")).unwrap()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.place.command("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

#[test]
fn wrong_arguments_are_told_as_json_where_that_is_asked_for() {
    let place = Place::new();
    for arguments in
        [&["certificate", "show", "zz"][..], &["request", "approve", "zz"], &["nonsense"], &["authority", "create"]]
    {
        let said = place.expect(2, &[&["--json"], arguments].concat());
        let failure: Value = serde_json::from_str(&said).unwrap_or_else(|why| panic!("{arguments:?}: {why}: {said}"));
        assert!(!failure["detail"].as_str().unwrap().is_empty() && failure["hint"].is_string(), "{failure}");
        assert!(place.expect(2, arguments).contains("--help"));
    }
    assert!(place.expect(0, &["--json", "--help"]).contains("Usage"));
    assert!(place.expect(0, &["--version"]).starts_with("certgate "));
}

/// `certgate serve --starter` with these limits of open files, and with 32 connections for each listener.
fn with_open_files(place: &Place, soft: u32, hard: u32) -> Command {
    let mut command = place.command("sh");
    let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" --json serve --starter");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_certgate")]).env("CERTGATE_LIMITS__CONNECTIONS_MAX", "32");
    command
}

/// How many of forty clients at once get an answer while all of them stay connected.
fn served_at_once(address: &str) -> (usize, Vec<TcpStream>) {
    let mut clients: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    let answered = clients.iter_mut().filter_map(|client| {
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // a client that is turned away may meet the closed connection at its first or second step
        client.write_all(b"GET /crl/root.crl HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
        client.read(&mut [0; 16]).ok().filter(|bytes| *bytes > 0)
    });
    (answered.count(), clients)
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_the_connections_need() {
    let place = Place::new();
    let daemon = Daemon::begin(&place, with_open_files(&place, 64, 4096));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    // two listeners with 32 connections each, and 256 files for all the rest
    assert_eq!(line.split_whitespace().collect::<Vec<_>>()[3..5], ["320", "4096"]);
    assert_eq!(served_at_once(daemon.facts["http"].as_str().unwrap()).0, 32);
    assert!(!daemon.log().contains("too few open files"), "{}", daemon.log());
}

#[test]
fn where_the_system_allows_too_few_open_files_fewer_connections_are_taken_and_the_daemon_works_on() {
    let place = Place::new();
    let daemon = Daemon::begin(&place, with_open_files(&place, 64, 296));
    assert!(daemon.log().contains("each listener takes 20 connections"), "{}", daemon.log());
    let (served, clients) = served_at_once(daemon.facts["http"].as_str().unwrap());
    assert_eq!(served, 20);
    // Writing needs files too.
    let csr = place.csr();
    let issue = ["certificate", "issue", "--csr", &csr, "--authority", "issuing", "--profile", "privatessl-tls-server"];
    place.expect(0, &[&issue[..], &["--san", "dns:host.example.org"]].concat());
    drop(clients);
}

#[test]
fn with_far_too_few_open_files_the_daemon_says_what_it_needs() {
    let place = Place::new();
    let output = with_open_files(&place, 64, 128).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("at least 272 are needed") && said.contains("LimitNOFILE=320"), "{said}");
}

#[test]
fn a_user_gets_finds_and_revokes_a_certificate_from_a_starter_that_nobody_configured() {
    let place = Place::new();
    let _daemon = Daemon::start(&place);
    assert!(place.expect(0, &["status"]).contains("crl:issuing"));
    assert!(place.expect(0, &["authority", "list"]).contains("issuing  issuing  active"));

    let csr = place.csr();
    let issue = ["certificate", "issue", "--csr", &csr, "--authority", "issuing", "--profile", "privatessl-tls-server"];
    let names =
        ["--subject", "CN=host.example.org", "--san", "dns:host.example.org", "--days", "10", "--out", "host.pem"];
    let issued = place.json(&[&issue[..], &names[..]].concat());
    place.expect(0, &["authority", "certificate", "root", "--out", "root.pem"]);
    let verify = ["verify", "-CAfile", "root.pem", "-untrusted", "host.pem", "host.pem"];
    assert!(place.command("openssl").args(verify).output().unwrap().status.success());

    let serial = issued["serial"].as_str().unwrap().to_owned();
    let found = place.json(&["certificate", "list", "--name", "*.example.org"]);
    assert_eq!(found["items"][0]["serial"], issued["serial"]);
    assert!(place.expect(0, &["certificate", "list", "--state", "normal"]).contains(&serial));

    let odd = format!("00:{}", serial.to_uppercase());
    place.expect(0, &["certificate", "hold", &odd]);
    place.expect(0, &["certificate", "unhold", &odd, "--comment", "found again"]);
    let revoke =
        ["certificate", "revoke", &odd, "--reason", "keycompromise", "--invalidity-date", "2026-01-08T00:00:00Z"];
    assert!(place.expect(0, &revoke).contains("revoked"));
    let refused = place.expect(1, &revoke);
    assert!(refused.contains("already") && refused.contains("what to do"), "{refused}");
    let refused = place.certgate(&[&["--json"], &revoke[..]].concat());
    let problem: Value = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!(problem["reason"], "already-revoked");

    assert!(place.expect(1, &["certificate", "show", "4f0a"]).contains("there is no certificate"));
    assert!(place.expect(1, &["authority", "delete", "root", "--yes-delete", "root"]).contains("issuing"));
    assert!(place.expect(0, &["audit", "verify"]).contains("unaltered"));
    assert_eq!(place.json(&["audit", "list", "--limit", "1"])["items"][0]["number"], 1);
    assert!(place.expect(0, &["certificate", "events"]).contains("revoked"));

    let create = ["credential", "create", "--endpoint", "starter", "--purpose", "external-account"];
    let bound =
        ["--id", "web", "--dns", ".example.org", "--without-challenge", "a.example.org", "--comment", "web team"];
    let made = place.json(&[&create[..], &bound[..]].concat());
    let secret = made["secret"].as_str().unwrap();
    assert_eq!(made["binding"]["names"]["dns"][0], ".example.org");
    assert!(place.expect(0, &["credential", "list", "--endpoint", "starter"]).contains("web team"));
    assert!(!place.expect(0, &["credential", "show", "web"]).contains(secret));
    assert!(place.expect(0, &["credential", "disable", "web", "--accounts"]).contains("no new accounts"));
    assert!(place.expect(0, &["credential", "disable", "web"]).contains("disabled"));
    place.expect(0, &["credential", "enable", "web", "--accounts"]);
    assert!(place.expect(0, &["credential", "enable", "web"]).contains("enabled"));
    place.put("chosen", "a challenge of my own\n");
    let challenge = ["credential", "create", "--endpoint", "starter", "--purpose", "challenge", "--uses", "1"];
    let chosen = place.expect(0, &[&challenge[..], &["--secret-file", "chosen"]].concat());
    assert!(chosen.contains("a challenge of my own") && chosen.contains("0 of 1"), "{chosen}");
    place.put("binding.toml", "rights = [\"list\"]\n[names]\nupn = [\"example.org\"]\n");
    let token = ["credential", "create", "--endpoint", "starter", "--purpose", "token", "--binding", "binding.toml"];
    assert_eq!(place.json(&token)["binding"]["names"]["upn"][0], "example.org");
    place.expect(0, &["credential", "remove", "web"]);
    assert!(place.expect(1, &["credential", "show", "web"]).contains("no credential web"));
    assert!(
        place.expect(2, &["credential", "create", "--endpoint", "a", "--purpose", "key"]).contains("external-account")
    );

    let shown = place.expect(0, &["endpoint", "show", "starter"]);
    let endpoint = place.put("endpoint.toml", &shown);
    place.expect(0, &["endpoint", "put", &endpoint]);
    assert_eq!(place.expect(0, &["endpoint", "show", "starter"]), shown);
    let unknown_option = place.put("wrong.toml", &shown.replace("http01_port", "http01_prot"));
    assert!(place.expect(1, &["endpoint", "put", &unknown_option]).contains("http01_prot"));
}

#[test]
fn records_are_exported_from_a_stopped_daemon_only_and_imported_into_another_engine() {
    let place = Place::new();
    let daemon = Daemon::start(&place);
    assert!(place.expect(4, &["export", "records"]).contains("stop"));
    drop(daemon);
    assert!(!place.path("certgate-starter/operator.sock").exists());
    let said = place.expect(3, &["status"]);
    assert!(said.contains("not running") && said.contains("certgate-starter/operator.sock"), "{said}");
    let exported = place.json(&["export", "records"]);
    assert!(exported["records"].as_u64().unwrap() > 10, "{exported}");
    assert!(place.expect(2, &["export", "records"]).contains("nothing is overwritten"));

    let config = place.put("other.toml", "state_dir = \"other\"\n[store]\nengine = \"redb\"\n");
    let imported = place.json(&["--config", &config, "import", "records"]);
    assert_eq!(imported["records"], exported["records"]);
    let said = place.expect(1, &["--config", &config, "import", "records"]);
    assert!(said.contains("not empty") && said.contains("--config"), "{said}");
    let damaged = place.put("damaged", "no export");
    let config = place.put("third.toml", "state_dir = \"third\"\n");
    assert!(place.expect(2, &["--config", &config, "import", &damaged]).contains("certgate export"));
}

#[test]
fn a_daemon_that_is_not_there_is_exit_code_3_with_advice() {
    let place = Place::new();
    let said = place.expect(3, &["--socket", "nowhere.sock", "authority", "list"]);
    assert!(said.contains("nowhere.sock") && said.contains("certgate serve"), "{said}");
}

#[test]
fn an_unknown_setting_is_named_with_the_nearest_right_one() {
    let place = Place::new();
    let config = place.put("certgate.toml", "[store]\nengin = \"redb\"\n");
    let said = place.expect(2, &["check-config", "--config", &config]);
    assert!(said.contains("store.engin") && said.contains("did you mean `store.engine`"), "{said}");
    assert!(said.contains("certgate.toml, line 2"), "{said}");
    let right = place.put("right.toml", "[store]\nengine = \"redb\"\n");
    assert_eq!(place.json(&["check-config", "--config", &right])["store"]["engine"], "redb");
    place.expect(2, &["check-config", "--config", "missing.toml"]);
}

/// `certgate certificate issue` with one more argument.
fn issue_with<'a>(csr: &'a str, argument: &'a str, value: &'a str) -> [&'a str; 10] {
    let profile = "privatessl-tls-server";
    ["certificate", "issue", "--csr", csr, "--authority", "issuing", "--profile", profile, argument, value]
}

#[test]
fn a_certificate_that_cannot_be_delivered_is_not_asked_for() {
    let place = Place::new();
    let daemon = Daemon::start(&place);
    let csr = place.csr();
    let issued = || place.json(&["certificate", "events", "--limit", "1000"])["items"].as_array().unwrap().len();
    let before = issued();
    place.expect(2, &[&issue_with(&csr, "--san", "dns:host.example.org")[..], &["--out", "missing/host.pem"]].concat());
    assert_eq!(issued(), before);
    place.expect(1, &[&issue_with(&csr, "--days", "99999")[..], &["--san", "dns:a.test", "--out", "new.pem"]].concat());
    assert!(!place.path("new.pem").exists());
    place.put("old.pem", "a certificate of before");
    place.expect(1, &[&issue_with(&csr, "--days", "99999")[..], &["--san", "dns:a.test", "--out", "old.pem"]].concat());
    assert_eq!(std::fs::read_to_string(place.path("old.pem")).unwrap(), "a certificate of before");

    let arguments = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -subj /CN=x -out named.csr \
                     -addext subjectAltName=DNS:in-request.example.org";
    assert!(place.command("openssl").args(arguments.split_whitespace()).output().unwrap().status.success());
    let output = place.certgate(&issue_with("named.csr", "--subject", "CN=Plain machine"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("CN=Plain machine") && said.contains("dns:in-request.example.org"), "{said}");
    assert!(output.status.success(), "{said}");

    let log = daemon.log();
    assert!(!log.contains('\u{1b}'), "{log}");
    for line in ["certgate is ready", "changed an authority", "published a CRL", "HTTPS shows a new certificate"] {
        assert!(log.contains(line), "{line:?} is not in\n{log}");
    }
    let told = |what: &str| log.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {log}"));
    let line = log
        .lines()
        .filter(|line| line.contains("issued a certificate"))
        .find(|line| line.contains("protocol=operator"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(
        line.contains("profile=privatessl-tls-server")
            && line.contains("serial=")
            && line.contains("requester=\"operator:"),
        "{line}"
    );
    assert!(told("refused a certificate").contains("reason=\"bad-time\""), "{log}");
    let secret = std::fs::read(place.path("certgate-starter/keystore.secret")).unwrap();
    assert!(!log.contains(String::from_utf8_lossy(&secret).trim()), "{log}");
}

#[test]
fn https_refuses_at_once_while_there_is_no_issuing_authority_and_status_says_so() {
    let place = Place::new();
    let config = place.put("certgate.toml", "state_dir = \"state\"\n");
    let daemon = Daemon::start_with(&place, &["serve", "--config", &config]);
    let status = place.certgate(&["status", "--config", &config]);
    assert_eq!(status.status.code(), Some(4));
    let said = String::from_utf8(status.stdout).unwrap();
    assert!(said.contains("https") && said.contains("certgate authority create"), "{said}");
    let address = daemon.facts["https"].as_str().unwrap();
    let handshake =
        place.command("openssl").args(["s_client", "-connect", address]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(handshake.stderr).unwrap();
    assert!(said.contains("access denied"), "{said}");
}

#[test]
fn a_taken_port_is_found_before_anything_is_made_and_names_the_setting() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = place
        .command(env!("CARGO_BIN_EXE_certgate"))
        .args(["serve", "--starter"])
        .env("CERTGATE_HTTPS__LISTEN", "127.0.0.1:0")
        .env("CERTGATE_HTTP__LISTEN", taken.local_addr().unwrap().to_string())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("`http.listen`") && said.contains("CERTGATE_HTTP__LISTEN"), "{said}");
    assert!(!place.path("certgate-starter").exists(), "{said}");
}

#[test]
fn wrong_arguments_are_exit_code_2_and_say_what_is_missing() {
    let place = Place::new();
    place.csr();
    place.put("text.csr", "this is no request");
    let cases: [(&[&str], &str); 17] = [
        (&[], "Usage"),
        (&["certificate", "revoke", "4f0a"], "--reason"),
        (&["certificate", "revoke", "4f0a", "--reason", "boredom"], "keyCompromise"),
        (&["certificate", "revoke", "xyz", "--reason", "superseded"], "hexadecimal"),
        (&["authority", "delete", "root"], "--yes-delete"),
        (&["authority", "create", "A B", "--subject", "CN=A"], "lower-case"),
        (&["authority", "create", "a", "--subject", "CN=A", "--algorithm", "rsa-1024"], "rsa-2048"),
        (&["certificate", "list", "--issued-from", "yesterday"], "2026-01-08T00:00:00Z"),
        (&["certificate", "list", "--subject", "CN=x*"], "*,O=Example"),
        (&["certificate", "revoke", "4f0a", "--reason", "certificateHold"], "certgate certificate hold"),
        (&["certificate", "block-key", "4f0a"], "64 hexadecimal"),
        (&["authority", "create", "a", "--subject", "Example"], "--subject"),
        (&issue_with("host.csr", "--san", "host.example.org"), "dns:host.example.org"),
        (&issue_with("host.csr", "--subject", "host.example.org"), "--subject"),
        (&issue_with("host.csr", "--eku", "everything"), "server-auth"),
        (&issue_with("host.csr", "--extension", "certificate-policies=xyz"), "hexadecimal"),
        (&issue_with("text.csr", "--san", "dns:host.example.org"), "--csr text.csr"),
    ];
    for (arguments, expected) in cases {
        let said = place.expect(2, arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    place.expect(2, &["--socket", "nowhere.sock", "endpoint", "put", "missing.toml"]);
}

#[test]
fn completions_and_help_need_no_daemon() {
    let place = Place::new();
    assert!(place.expect(0, &["completions", "bash"]).contains("check-config"));
    assert!(place.expect(0, &["--help"]).contains("Exit codes"));
}
