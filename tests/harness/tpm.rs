//! A real TPM 2.0 in software (swtpm), and what a device does with it by tpm2-tools: attestation keys, other keys, certifications.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use spki::SubjectPublicKeyInfoRef;
use tempfile::TempDir;

use crate::daemon::eventually;

/// Where persistent keys lie.
const HANDLE_FIRST: u32 = 0x8101_0001;

/// A TPM that ends with this value.
pub struct Tpm {
    directory: TempDir,
    child: Child,
    keys: std::cell::Cell<u32>,
}

/// A key in a TPM.
pub struct TpmKey<'a> {
    tpm: &'a Tpm,
    handle: u32,
    kind: KeyKind,
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    bits: Vec<u8>,
}

/// The kinds of keys that are made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256 with SHA-256.
    P256,
    /// RSA with 2048 bits, PKCS#1 v1.5 with SHA-256.
    Rsa,
}

impl KeyKind {
    /// Its COSE number.
    #[must_use]
    pub fn cose(self) -> i64 {
        match self {
            Self::P256 => -7,
            Self::Rsa => -257,
        }
    }

    fn scheme(self) -> &'static str {
        match self {
            Self::P256 => "ecdsa",
            Self::Rsa => "rsassa",
        }
    }

    /// As tpm2-tools name the family, and a key of it.
    fn names(self) -> [&'static str; 2] {
        match self {
            Self::P256 => ["ecc", "ecc256"],
            Self::Rsa => ["rsa", "rsa2048"],
        }
    }
}

impl Tpm {
    /// A TPM that was just made, with a storage key and an endorsement key.
    #[must_use]
    pub fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        std::fs::create_dir(path("state")).unwrap();
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
            .arg(format!("dir={}", path("state")))
            .args(["--server".to_owned(), format!("type=unixio,path={}", path("socket"))])
            .args(["--ctrl".to_owned(), format!("type=unixio,path={}", path("socket.ctrl"))])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm is installed (tests/run installs it)");
        let tpm = Self { directory, child, keys: std::cell::Cell::new(HANDLE_FIRST) };
        eventually(|| tpm.path("socket").exists() && tpm.path("socket.ctrl").exists());
        tpm.run("tpm2_createprimary -Q -C o -c storage.ctx");
        tpm.run("tpm2_createek -Q -G ecc -c endorsement.ctx");
        tpm
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn take(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Runs a program of tpm2-tools, which must succeed, and forgets what it loaded: nobody manages the few places of the TPM.
    fn run(&self, line: &str) {
        for line in [line, "tpm2_flushcontext -t"] {
            let mut words = line.split(' ');
            let output = Command::new(words.next().unwrap())
                .args(words)
                .env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.path("socket").display()))
                .current_dir(self.directory.path())
                .output()
                .expect("tpm2-tools are installed (tests/run installs them)");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// An attestation key: it signs nothing but what the TPM itself made.
    #[must_use]
    pub fn attestation_key(&self, kind: KeyKind) -> TpmKey<'_> {
        let ([family, _], scheme) = (kind.names(), kind.scheme());
        self.run(&format!(
            "tpm2_createak -Q -C endorsement.ctx -c key.ctx -G {family} -g sha256 -s {scheme} -u unused.pem -f pem"
        ));
        self.keep(kind)
    }

    /// A key for signing with these attributes, beside those that it needs to be used at all.
    #[must_use]
    pub fn key(&self, kind: KeyKind, attributes: &str) -> TpmKey<'_> {
        let [_, name] = kind.names();
        self.run(&format!(
            "tpm2_create -Q -C storage.ctx -G {name} -u key.pub -r key.priv -c key.ctx -a userwithauth|sign|{attributes}"
        ));
        self.keep(kind)
    }

    /// A key that was made elsewhere (PEM) and brought in.
    #[must_use]
    pub fn imported_key(&self, pem: &str) -> TpmKey<'_> {
        std::fs::write(self.path("outside.pem"), pem).unwrap();
        self.run("tpm2_import -Q -C storage.ctx -G ecc -i outside.pem -u key.pub -r key.priv");
        self.run("tpm2_load -Q -C storage.ctx -u key.pub -r key.priv -c key.ctx");
        self.keep(KeyKind::P256)
    }

    /// Keeps the key that was made last.
    fn keep(&self, kind: KeyKind) -> TpmKey<'_> {
        let handle = self.keys.replace(self.keys.get() + 1);
        self.run(&format!("tpm2_evictcontrol -Q -C o -c key.ctx {handle:#x}"));
        self.run(&format!("tpm2_readpublic -Q -c {handle:#x} -f der -o key.der"));
        let spki = self.take("key.der");
        let bits = SubjectPublicKeyInfoRef::try_from(spki.as_slice()).unwrap().subject_public_key.raw_bytes().to_vec();
        TpmKey { tpm: self, handle, kind, spki, bits }
    }

    /// TPM2_Certify: the structure and its signature, both as the TPM gives them. tpm2_certify cannot be told what to put in.
    #[must_use]
    pub fn certify(&self, key: &TpmKey<'_>, by: &TpmKey<'_>, extra_data: &[u8]) -> (Vec<u8>, Vec<u8>) {
        const TAG_SESSIONS: u16 = 0x8002;
        const CERTIFY: u32 = 0x0000_0148;
        const SCHEME_OF_THE_KEY: u16 = 0x0010;
        const HEADER: usize = 2 + 4 + 4;
        // An empty password: TPM_RS_PW, no nonce, no attributes, no HMAC.
        let password = [0x40, 0, 0, 9, 0, 0, 0, 0, 0];
        let mut body = [key.handle.to_be_bytes(), by.handle.to_be_bytes(), 18_u32.to_be_bytes()].concat();
        body.extend([password, password].concat());
        body.extend(u16::try_from(extra_data.len()).unwrap().to_be_bytes());
        body.extend(extra_data);
        body.extend(SCHEME_OF_THE_KEY.to_be_bytes());
        let size = u32::try_from(HEADER + body.len()).unwrap();
        let command = [&TAG_SESSIONS.to_be_bytes()[..], &size.to_be_bytes(), &CERTIFY.to_be_bytes(), &body].concat();
        std::fs::write(self.path("command"), command).unwrap();
        self.run("tpm2_send -o response command");
        let response = self.take("response");
        let number = |at: usize, octets: usize| {
            response[at..at + octets].iter().fold(0_usize, |number, octet| number << 8 | usize::from(*octet))
        };
        assert_eq!(number(6, 4), 0, "TPM2_Certify failed: {}", hex::encode(&response));
        let (parameters, structure) = (HEADER + 4, number(HEADER + 4, 2));
        let (begin, end) = (parameters + 2, parameters + number(HEADER, 4));
        (response[begin..begin + structure].to_vec(), response[begin + structure..end].to_vec())
    }

    /// TPM2_Quote: what the TPM says of its registers, signed by the same key in the same envelope.
    #[must_use]
    pub fn quote(&self, by: &TpmKey<'_>, extra_data: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let extra_data = hex::encode(extra_data);
        let handle = by.handle;
        self.run(&format!(
            "tpm2_quote -Q -c {handle:#x} -l sha256:0 -q {extra_data} -m quote -s quote.sig -f plain -g sha256"
        ));
        (self.take("quote"), self.take("quote.sig"))
    }
}

impl TpmKey<'_> {
    /// TPMT_PUBLIC.
    #[must_use]
    pub fn public_area(&self) -> Vec<u8> {
        self.tpm.run(&format!("tpm2_readpublic -Q -c {:#x} -f tss -o key.tss", self.handle));
        self.tpm.take("key.tss").split_off(2)
    }

    /// A PKCS#10 request without names, signed in the TPM.
    #[must_use]
    pub fn request(&self) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serialize_request(self).unwrap().der().to_vec()
    }
}

impl rcgen::PublicKeyData for TpmKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.kind {
            KeyKind::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::Rsa => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

impl rcgen::SigningKey for TpmKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        std::fs::write(self.tpm.path("message"), message).unwrap();
        let (handle, scheme) = (self.handle, self.kind.scheme());
        self.tpm.run(&format!("tpm2_sign -Q -c {handle:#x} -g sha256 -s {scheme} -f plain -o signature message"));
        Ok(self.tpm.take("signature"))
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}
