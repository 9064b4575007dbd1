//! The real daemon on a small disk of its own that gets full: it issues nothing then, serves what it has, and goes on by itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::daemon::{Site, field};
use tests::key::Key;
use tests::openssl::pem;

/// How much of the disk the daemon leaves free, and how long its journal's files are.
const SETTINGS: &str = "[store]\nreserve_bytes = 8388608\njournal_bytes = 16384";
/// Room for the starter PKI, and names for a few hundred files.
const DISK: &str = "size=96m,nr_inodes=400,mode=700";

/// A filesystem in memory; it is unmounted with this value.
struct Disk(PathBuf);

impl Disk {
    /// `None` where mounting is not allowed.
    fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(&path).output().unwrap();
        mounted.status.success().then_some(Self(path))
    }

    /// Makes empty files until there is no room for another name.
    fn use_up_names(&self) {
        let full = (0..).find_map(|number: u32| File::create(self.filler(number)).err());
        assert_eq!(full.unwrap().kind(), std::io::ErrorKind::StorageFull);
    }

    /// Takes all room but a mebibyte.
    fn use_up_room(&self) {
        let free = Command::new("stat").args(["--file-system", "--format", "%a %S"]).arg(&self.0).output().unwrap();
        let free = String::from_utf8(free.stdout).unwrap();
        let (blocks, octets) = free.trim().split_once(' ').unwrap();
        let free = blocks.parse::<usize>().unwrap() * octets.parse::<usize>().unwrap();
        fs::write(self.filler(0), vec![1; free - (1 << 20)]).unwrap();
    }

    fn make_room(&self) {
        (0..)
            .map(|number| self.filler(number))
            .take_while(|path| path.exists())
            .for_each(|path| fs::remove_file(path).unwrap());
    }

    fn filler(&self, number: u32) -> PathBuf {
        self.0.join(format!("filler {number}"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _reported_by_mount = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Issues a certificate: its serial, or what the command line said.
fn issue(site: &Site, csr: &Path, name: &str) -> Result<String, String> {
    let (csr, name) = (csr.to_str().unwrap(), format!("dns:{name}.example.org"));
    let asked = ["certificate", "issue", "--csr", csr, "--authority", "issuing", "--profile", "privatessl-tls-server"];
    let output = site.output(&[&asked[..], &["--san", &name, "--json"]].concat());
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    Ok(field(&answer, "serial").unwrap_or_else(|| panic!("no serial in {answer}")))
}

/// The HTTP status of the CRL of the issuing authority.
fn crl(site: &Site) -> String {
    let url = format!("http://localhost:{}/crl/issuing.crl", site.http_port);
    let asked = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", &url];
    String::from_utf8(Command::new("curl").args(asked).output().unwrap().stdout).unwrap()
}

#[test]
fn a_disk_without_room_or_names_stops_issuing_until_there_is_some() {
    let site = Site::new(SETTINGS);
    let Some(disk) = Disk::mount(site.path("state")) else {
        eprintln!("not tested: mounting takes root");
        return;
    };
    let csr = site.path("k.csr");
    fs::write(&csr, pem("CERTIFICATE REQUEST", &Key::ec().csr(""))).unwrap();
    let mut issued = Vec::new();
    let daemon = site.start();
    issued.push(issue(&site, &csr, "first").unwrap());

    for (round, use_up) in [Disk::use_up_names, Disk::use_up_room].into_iter().enumerate() {
        use_up(&disk);
        // What is begun may still be filled.
        let refused = (0..200).find_map(|number| match issue(&site, &csr, &format!("r{round}n{number}")) {
            Ok(serial) => {
                issued.push(serial);
                None
            }
            Err(said) => Some(said),
        });
        let refused = refused.expect("nothing was refused");
        assert!(refused.contains("make room"), "{refused}");
        assert_eq!(crl(&site), "200");
        for serial in &issued {
            drop(site.json(&["certificate", "show", serial]));
        }
        disk.make_room();
        issued.push(issue(&site, &csr, &format!("r{round}again")).unwrap());
    }

    daemon.kill();
    let _daemon = site.start();
    for serial in &issued {
        drop(site.json(&["certificate", "show", serial]));
    }
    assert!(site.output(&["audit", "verify"]).status.success());
}
