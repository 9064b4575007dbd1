//! Software tokens, each in a directory of its own, behind a module that a test controls (`token/gate.c`).
//!
//! Modules read process-wide environment variables, which tests cannot set. So each token gets a module of its own, compiled for
//! it, which sets the variable before it passes the call on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ca_backend::{PinSource, TokenSettings};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::Session;
use tempfile::TempDir;

/// The PIN of every token here. No output may contain it.
pub const PIN: &str = "canary-pin-4711";

const GATE: &str = include_str!("token/gate.c");
const SOFTHSM: [&str; 3] =
    ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"];
const SOFTOKEN: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
    "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
    "/usr/lib64/libsoftokn3.so",
];

/// A token that the test made, and its module.
pub struct SoftToken {
    directory: TempDir,
    label: String,
}

impl SoftToken {
    /// A SoftHSM token of this label.
    #[must_use]
    pub fn softhsm(label: &str) -> Self {
        Self::softhsm_compiled(label, &[])
    }

    /// A SoftHSM token whose signatures take longer, as if it were reached by a network.
    #[must_use]
    pub fn softhsm_far_away(label: &str, sign_ms: u32) -> Self {
        Self::softhsm_compiled(label, &[("SIGN_MS", &sign_ms.to_string())])
    }

    fn softhsm_compiled(label: &str, definitions: &[(&str, &str)]) -> Self {
        let token = Self { directory: TempDir::new().unwrap(), label: label.to_owned() };
        let tokens = token.path("tokens");
        fs::create_dir(&tokens).unwrap();
        let settings =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        fs::write(token.path("softhsm2.conf"), settings).unwrap();
        token.initialize(label);
        // A library for each token, even in one process: SoftHSM has one store of tokens.
        let library = token.path("libsofthsm2.so");
        fs::copy(first_of(&SOFTHSM), &library).unwrap();
        let settings = token.path("softhsm2.conf");
        let variable = [("VARIABLE", "SOFTHSM2_CONF"), ("VALUE", settings.to_str().unwrap())];
        token.compile(&library, &[&variable, definitions].concat());
        token
    }

    /// The token of an NSS key database: an independent implementation.
    #[must_use]
    pub fn nss() -> Self {
        let token = Self { directory: TempDir::new().unwrap(), label: "NSS Certificate DB".to_owned() };
        let (database, pin) = (token.path("nss"), token.path("nss-pin"));
        fs::create_dir(&database).unwrap();
        fs::write(&pin, format!("{PIN}\n")).unwrap();
        let at = format!("sql:{}", database.display());
        run(Command::new("certutil").args(["-N", "-d", &at, "-f", pin.to_str().unwrap()]));
        let parameters =
            format!("configdir='{at}' tokenDescription='{}' updateTokenDescription='{}'", token.label, token.label);
        token.compile(&first_of(&SOFTOKEN), &[("PARAMETERS", &parameters)]);
        token
    }

    /// How the daemon uses it, with two sessions and little patience.
    #[must_use]
    pub fn settings(&self) -> TokenSettings {
        TokenSettings {
            name: "token".to_owned(),
            module_path: self.module(),
            token: self.label.clone(),
            pin: PinSource::File(self.pin_file(PIN)),
            sessions: 2,
            queue_max: 64,
            deadline: Duration::from_secs(20),
            generate_deadline: Duration::from_secs(60),
        }
    }

    /// The module that the daemon is to load.
    #[must_use]
    pub fn module(&self) -> PathBuf {
        self.path("gate.so")
    }

    /// A file of mode 0600 with a PIN.
    #[allow(clippy::must_use_candidate)] // to write it may be all that is wanted
    pub fn pin_file(&self, pin: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path("pin");
        fs::write(&path, format!("{pin}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Something happens to the token from now on; `token/gate.c` lists what can.
    pub fn happens(&self, what: &str) {
        // At once: the module must never read half of it.
        fs::write(self.path("control.next"), what).unwrap();
        fs::rename(self.path("control.next"), self.path("control")).unwrap();
    }

    /// Nothing happens any more.
    pub fn is_well(&self) {
        fs::remove_file(self.path("control")).unwrap();
    }

    /// How often somebody logged in, or tried to.
    #[must_use]
    pub fn logins(&self) -> usize {
        fs::read(self.path("logins")).map_or(0, |octets| octets.len())
    }

    /// How many of its sessions are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        let noted = fs::read_to_string(self.path("notes")).unwrap_or_default();
        noted.matches('+').count() - noted.matches('-').count()
    }

    /// How often the module noted that; `token/gate.c` lists what it notes.
    #[must_use]
    pub fn noted(&self, what: char) -> usize {
        let noted = fs::read_to_string(self.path("notes")).unwrap_or_default();
        noted.matches(what).count()
    }

    /// Another token of this label, behind the same module. Only a SoftHSM token has room beside it.
    #[must_use]
    pub fn another(&self, label: &str) -> TokenSettings {
        self.initialize(label);
        TokenSettings { token: label.to_owned(), ..self.settings() }
    }

    fn initialize(&self, label: &str) {
        let arguments = ["--init-token", "--free", "--label", label, "--so-pin", "so-pin-4711", "--pin", PIN];
        run(Command::new("softhsm2-util").args(arguments).env("SOFTHSM2_CONF", self.path("softhsm2.conf")));
    }

    /// Does something in a session of its own, behind the daemon's back. Somebody in this process must have logged in before.
    #[allow(clippy::missing_panics_doc)]
    pub fn behind_its_back<T>(&self, act: impl FnOnce(&Session) -> T) -> T {
        let module = Pkcs11::new(self.module()).unwrap();
        let _the_daemon_did = module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
        let slot = module.get_slots_with_initialized_token().unwrap().into_iter().next().unwrap();
        act(&module.open_rw_session(slot).unwrap())
    }

    /// A file of this token.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn compile(&self, library: &Path, definitions: &[(&str, &str)]) {
        fs::write(self.path("gate.c"), GATE).unwrap();
        let (control, logins, notes) = (self.path("control"), self.path("logins"), self.path("notes"));
        let own = [
            ("MODULE", library.to_str().unwrap()),
            ("CONTROL", control.to_str().unwrap()),
            ("LOGINS", logins.to_str().unwrap()),
            ("NOTES", notes.to_str().unwrap()),
        ];
        let defined = own.iter().chain(definitions).map(|(name, value)| format!("-D{name}=\"{value}\""));
        run(Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-w", "-o"])
            .arg(self.module())
            .args(defined)
            .arg(self.path("gate.c"))
            .arg("-ldl"));
    }
}

fn first_of(candidates: &[&str]) -> PathBuf {
    let found = candidates.iter().map(PathBuf::from).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("none of {candidates:?} is installed"))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
}
