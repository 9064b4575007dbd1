//! ACME clients other than certbot against the real daemon: uacme and dehydrated by http-01, and two web servers that enroll by
//! themselves, Caddy and Apache, by tls-alpn-01. Each gets a certificate, and renews and revokes it as far as it can.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use tests::daemon::{Daemon, Site, eventually, free_port, text};
use tests::dns::DnsServer;
use tests::openssl::OpenSsl;

const HOST: &str = "client.example.org";
/// How long a client may take for what it does in the background, on a machine that is busy with other things.
const WITHIN: Duration = Duration::from_secs(120);

/// A daemon whose ACME endpoint validates [`HOST`] on ports that are free here, and asks a DNS server of its own where that is.
struct Setting {
    site: Site,
    _dns: DnsServer,
    http_port: u16,
    tls_port: u16,
}

impl Setting {
    fn new() -> Self {
        let dns = DnsServer::start();
        std::fs::write(dns.zone(), format!("{HOST}. 127.0.0.1\n")).unwrap();
        let site = Site::new(&format!("[validation]\nresolvers = [\"{}\"]", dns.address));
        Self { site, _dns: dns, http_port: free_port(), tls_port: free_port() }
    }

    fn start(&self, validity_max_s: Option<u64>) -> Daemon<'_> {
        let daemon = self.site.start();
        let mut endpoint = self.site.json(&["endpoint", "show", "starter"]);
        endpoint["options"]["http01_port"] = self.http_port.into();
        endpoint["options"]["tls_alpn01_port"] = self.tls_port.into();
        if let Some(seconds) = validity_max_s {
            endpoint["rules"][0]["validity_max_s"] = seconds.into();
        }
        let path = self.write("endpoint.json", &endpoint.to_string());
        let _stored = self.site.json(&["endpoint", "put", path.to_str().unwrap()]);
        daemon
    }

    fn directory_url(&self) -> String {
        format!("https://localhost:{}/acme/starter/directory", self.site.https_port)
    }

    fn root(&self) -> PathBuf {
        self.site.path("state/root.pem")
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.site.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A web server for the answers to http-01, and the directory that they are put into.
    fn serve_challenges(&self) -> (Running, PathBuf) {
        let answers = self.site.path("web/.well-known/acme-challenge");
        std::fs::create_dir_all(&answers).unwrap();
        let mut command = Command::new("python3");
        command.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory"]);
        command.arg(self.site.path("web")).arg(self.http_port.to_string());
        let server = Running::start(command);
        server.wait_for("Serving HTTP");
        (server, answers)
    }

    /// OpenSSL accepts the certificate for [`HOST`], and OCSP calls it good; its serial.
    fn judge(&self, chain: &[u8]) -> String {
        let ssl = OpenSsl::new();
        ssl.put("root.pem", std::fs::read(self.root()).unwrap());
        ssl.put("chain.pem", chain);
        ssl.run(&format!(
            "verify -x509_strict -verify_hostname {HOST} -CAfile root.pem -untrusted chain.pem chain.pem"
        ));
        ssl.run("x509 -in chain.pem -noout -serial").trim().trim_start_matches("serial=").to_lowercase()
    }

    /// The chain that a web server shows, PEM. A server may say that it has a certificate a moment before it shows it.
    fn shown_by(&self, port: u16) -> Vec<u8> {
        let asked = || {
            let mut command = Command::new("openssl");
            command.args(["s_client", "-showcerts", "-servername", HOST, "-connect"]).arg(format!("127.0.0.1:{port}"));
            command.arg("-CAfile").arg(self.root()).stdin(Stdio::null()).output().unwrap()
        };
        eventually(|| String::from_utf8_lossy(&asked().stdout).contains("BEGIN CERTIFICATE"));
        let output = asked();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("Verify return code: 0"), "{said}{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn state(&self, serial: &str) -> String {
        self.site.json(&["certificate", "show", serial])["state"].as_str().unwrap().to_owned()
    }

    fn revoke(&self, serial: &str) {
        let _revoked = self.site.json(&["certificate", "revoke", serial, "--reason", "superseded"]);
    }

    /// Runs a client that must succeed; what it said.
    fn run(&self, mut command: Command) -> String {
        let output = command.current_dir(self.site.path(".")).stdin(Stdio::null()).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}\n{said}\n{}", text(&self.site.path("daemon.log")));
        said
    }
}

/// A program that runs until this value goes.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|why| panic!("{command:?}: {why}; tests/run installs what is missing"));
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            // The thread ends with the program, and keeps its output flowing until then.
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _nobody_waits_any_more = sender.send(line);
                }
            });
        }
        Self { child, lines }
    }

    /// Waits until the program says `what`.
    fn wait_for(&self, what: &str) {
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(WITHIN) {
                Ok(line) if line.contains(what) => return,
                Ok(line) => said.push(line),
                Err(_) => panic!("it did not say {what:?}:\n{}", said.join("\n")),
            }
        }
    }

    fn signal(&self, name: &str) {
        let _it_may_have_ended = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A server with children of its own ends them when it is asked to end.
        self.signal("TERM");
        let _reaped_already = self.child.wait();
    }
}

fn executable(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn uacme_gets_renews_and_revokes_a_certificate() {
    let setting = Setting::new();
    let _daemon = setting.start(None);
    let (_web, answers) = setting.serve_challenges();
    let hook = format!(
        "#!/bin/sh\n[ \"$2\" = http-01 ] || exit 1\ncase $1 in begin) printf %s \"$5\" >'{0}'/\"$4\" ;; *) rm -f '{0}'/\"$4\" ;; esac\n",
        answers.display()
    );
    let hook = setting.write("hook.sh", &hook);
    executable(&hook);
    let uacme = |arguments: &[&str]| {
        // Its TLS library reads the trusted roots from one place only: in a mount namespace of its own, they are ours.
        let bundle = "/etc/ssl/certs/ca-certificates.crt";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c"]);
        command.arg(format!("mount --bind \"$0\" {bundle} && exec \"$@\"")).arg(setting.root());
        command.args(["uacme", "--verbose", "--yes", "--acme-url", &setting.directory_url(), "--confdir"]);
        command.arg(setting.site.path("uacme")).arg("--hook").arg(&hook).args(arguments);
        setting.run(command)
    };
    let chain = || std::fs::read(setting.site.path("uacme").join(HOST).join("cert.pem")).unwrap();
    std::fs::create_dir(setting.site.path("uacme")).unwrap();

    // It keeps the certificate before under a name that has the second in it, and fails if there is one already.
    let forget_backups = || {
        for entry in std::fs::read_dir(setting.site.path("uacme").join(HOST)).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("cert-") {
                std::fs::remove_file(path).unwrap();
            }
        }
    };

    uacme(&["new"]);
    uacme(&["--type", "EC", "issue", HOST]);
    let first = setting.judge(&chain());
    // It asks OCSP whether it needs another one.
    setting.revoke(&first);
    uacme(&["--type", "EC", "issue", HOST]);
    let second = setting.judge(&chain());
    assert_ne!(first, second);
    forget_backups();
    uacme(&["--type", "RSA", "--force", "issue", HOST]);
    let third = setting.judge(&chain());
    assert_ne!(second, third);
    let file = setting.site.path("uacme").join(HOST).join("cert.pem");
    uacme(&["--reason", "4", "revoke", file.to_str().unwrap()]);
    assert_eq!([setting.state(&second), setting.state(&third)], ["normal", "revoked"]);
    uacme(&["newkey"]);
    uacme(&["deactivate"]);
}

#[test]
fn dehydrated_gets_renews_and_revokes_a_certificate() {
    let setting = Setting::new();
    let _daemon = setting.start(None);
    let (_web, answers) = setting.serve_challenges();
    let base = setting.site.path("dehydrated");
    let config = format!(
        "CA={}\nBASEDIR={}\nWELLKNOWN={}\nCURL_OPTS=\"--cacert {}\"\nCHALLENGETYPE=http-01\n",
        setting.directory_url(),
        base.display(),
        answers.display(),
        setting.root().display()
    );
    let config = setting.write("dehydrated/config", &config);
    setting.write("dehydrated/domains.txt", HOST);
    let dehydrated = |arguments: &[&str]| {
        let mut command = Command::new("dehydrated");
        command.arg("--config").arg(&config).args(arguments);
        setting.run(command)
    };
    let chain = || std::fs::read(base.join("certs").join(HOST).join("fullchain.pem")).unwrap();

    dehydrated(&["--register", "--accept-terms"]);
    dehydrated(&["--cron"]);
    let first = setting.judge(&chain());
    dehydrated(&["--cron"]);
    assert_eq!(setting.judge(&chain()), first, "it renewed what is young");
    dehydrated(&["--cron", "--force"]);
    let second = setting.judge(&chain());
    assert_ne!(first, second);
    let file = base.join("certs").join(HOST).join("cert.pem");
    dehydrated(&["--revoke", file.to_str().unwrap()]);
    assert_eq!([setting.state(&first), setting.state(&second)], ["normal", "revoked"]);
    dehydrated(&["--account"]);
}

#[test]
fn caddy_enrolls_by_tls_alpn_01_and_replaces_a_revoked_certificate() {
    let setting = Setting::new();
    let _daemon = setting.start(None);
    let config = format!(
        "{{\n admin off\n skip_install_trust\n acme_ca {url}\n acme_ca_root {root}\n http_port {http}\n https_port {tls}\n \
         default_bind 127.0.0.1\n storage file_system {storage}\n}}\n\
         {HOST} {{\n tls {{\n  issuer acme {{\n   disable_http_challenge\n  }}\n }}\n respond \"served\"\n}}\n",
        url = setting.directory_url(),
        root = setting.root().display(),
        http = setting.http_port,
        tls = setting.tls_port,
        storage = setting.site.path("caddy/storage").display(),
    );
    let config = setting.write("caddy/Caddyfile", &config);
    let caddy = || {
        let mut command = Command::new("caddy");
        let home = setting.site.path("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&config);
        command.env("HOME", &home).env("XDG_DATA_HOME", home.join("data")).env("XDG_CONFIG_HOME", home.join("config"));
        Running::start(command)
    };

    let server = caddy();
    server.wait_for("certificate obtained successfully");
    let first = setting.judge(&setting.shown_by(setting.tls_port));
    drop(server);
    // It keeps what it has; and it asks OCSP, and replaces what is revoked.
    let server = caddy();
    server.wait_for("serving initial configuration");
    assert_eq!(setting.judge(&setting.shown_by(setting.tls_port)), first);
    drop(server);
    setting.revoke(&first);
    let _unstapled = std::fs::remove_dir_all(setting.site.path("caddy/storage/ocsp"));
    let server = caddy();
    server.wait_for("replaced certificate in cache");
    let second = setting.judge(&setting.shown_by(setting.tls_port));
    assert_ne!(first, second);
}

#[test]
fn apache_enrolls_by_tls_alpn_01_and_renews() {
    let setting = Setting::new();
    let _daemon = setting.start(Some(4 * 3_600));
    let base = setting.site.path("apache");
    std::fs::create_dir(&base).unwrap();
    // Its children run as another user if it is started by root.
    for directory in [setting.site.path("."), base.clone()] {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let root = setting.write("apache/root.pem", &text(&setting.root()));
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o644)).unwrap();
    let modules = ["mpm_event", "authz_core", "watchdog", "socache_shmcb", "md", "ssl"].into_iter();
    let modules: String = modules
        .map(|name| (name, format!("/usr/lib/apache2/modules/mod_{name}.so")))
        .filter(|(_, path)| Path::new(path).exists()) // some are built in
        .map(|(name, path)| format!("LoadModule {name}_module {path}\n"))
        .collect();
    let config = format!(
        "{modules}ServerRoot {base}\nDefaultRuntimeDir {base}\nPidFile {base}/pid\nErrorLog /proc/self/fd/2\nLogLevel info md:debug\n\
         User nobody\nGroup nogroup\nServerName {HOST}\nListen 127.0.0.1:{http}\nListen 127.0.0.1:{tls} https\n\
         Protocols acme-tls/1 http/1.1\nMDStoreDir {base}/md\nMDCertificateAuthority {url}\nMDCACertificateFile {root}\n\
         MDCertificateAgreement accepted\nMDContactEmail admin@example.org\nMDCAChallenges tls-alpn-01\n\
         MDPortMap http:{http} https:{tls}\nMDRenewWindow {window}\nMDomain {HOST}\n\
         <VirtualHost 127.0.0.1:{tls}>\nServerName {HOST}\nSSLEngine on\n</VirtualHost>\n",
        base = base.display(),
        http = setting.http_port,
        tls = setting.tls_port,
        url = setting.directory_url(),
        root = root.display(),
        window = "33%",
    );
    let file = setting.write("apache/httpd.conf", &config);
    let mut command = Command::new("apache2");
    command.arg("-DFOREGROUND").arg("-f").arg(&file);
    let server = Running::start(command);
    server.wait_for("changes will be activated on next");
    server.signal("USR1");
    server.wait_for("resuming normal operations");
    let first = setting.judge(&setting.shown_by(setting.tls_port));

    // The certificate began five minutes ago, for clients with slow clocks: with a window of almost its whole life it is time.
    setting.write("apache/httpd.conf", &config.replace("33%", "99%"));
    server.signal("USR1");
    server.wait_for("changes will be activated on next");
    server.signal("USR1");
    server.wait_for("resuming normal operations");
    let second = setting.judge(&setting.shown_by(setting.tls_port));
    assert_ne!(first, second);
}
