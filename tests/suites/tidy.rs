//! The shape of the tree: who may depend on whom, how files are named, and that documents point at what exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The crates of the workspace with what each depends on, tests left out.
fn dependencies() -> Vec<(String, PathBuf, BTreeSet<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter().map(|package| {
        let named =
            package["dependencies"].as_array().unwrap().iter().filter(|dependency| dependency["kind"].is_null());
        let directory = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned();
        let names = named.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect();
        (package["name"].as_str().unwrap().to_owned(), directory, names)
    });
    packages.collect()
}

/// Every file that is under version control or will be.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output();
    if let Some(output) = listed.ok().filter(|output| output.status.success()) {
        let names = output.stdout.split(|octet| *octet == 0).filter(|name| !name.is_empty());
        return names
            .map(|name| root().join(String::from_utf8_lossy(name).as_ref()))
            .filter(|path| path.is_file())
            .collect();
    }
    let mut found = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let skipped = path.file_name().is_some_and(|name| name == "target" || name == ".git");
            if path.is_dir() && !skipped {
                directories.push(path);
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    found
}

/// What a kind of crate must not depend on, and why.
const NOT_IN_PROTOCOLS: [(&str, &str); 11] = [
    ("gateway", "a protocol does not know who carries its bytes"),
    ("tokio", "protocols are synchronous: key stores and embedded databases block"),
    ("hyper", "the contract is `http` types, not a server"),
    ("axum", "the contract is `http` types, not a server"),
    ("rustls", "TLS ends in the gateway; a protocol sees a Peer"),
    ("hickory-resolver", "only egress asks the network"),
    ("sled", "records lie behind Engine::records"),
    ("redb", "records lie behind Engine::records"),
    ("cryptoki", "keys are sealed in ca-backend"),
    ("config", "the gateway hands settings over as values"),
    ("figment", "the gateway hands settings over as values"),
];

const NOT_IN_BACKEND: [(&str, &str); 7] = [
    ("gateway", "the gateway depends on the engine"),
    ("endpoint", "the engine knows no protocol"),
    ("http", "no HTTP type in the engine's API"),
    ("hyper", "no HTTP type in the engine's API"),
    ("tokio", "the engine is synchronous"),
    ("axum", "the engine serves nobody by itself"),
    ("openssl", "aws-lc-rs is the one cryptographic library"),
];

#[test]
fn dependencies_point_in_one_direction() {
    let crates = dependencies();
    let is_protocol = |directory: &Path| directory.parent().is_some_and(|parent| parent.ends_with("protocols"));
    let shared = ["endpoint", "pkcs7"];
    let protocols: BTreeSet<&str> = crates
        .iter()
        .filter(|(name, directory, _)| is_protocol(directory) && !shared.contains(&name.as_str()))
        .map(|(name, ..)| name.as_str())
        .collect();
    assert!(protocols.contains("acme") && protocols.contains("revocation"), "{protocols:?}");
    for (name, directory, depends_on) in &crates {
        let banned: &[(&str, &str)] = match name.as_str() {
            _ if is_protocol(directory) => &NOT_IN_PROTOCOLS,
            "ca-backend" => &NOT_IN_BACKEND,
            _ => &[],
        };
        for (ban, why) in banned {
            assert!(!depends_on.contains(*ban), "{name} depends on {ban}: {why}");
        }
        if is_protocol(directory) || name == "ca-backend" || name == "config" {
            let protocol = depends_on.iter().find(|other| protocols.contains(other.as_str()));
            assert_eq!(protocol, None, "{name} depends on a protocol; protocols meet in the gateway only");
        }
        if name == "endpoint" {
            assert_eq!(
                depends_on.iter().map(String::as_str).collect::<Vec<_>>(),
                ["bytes", "http"],
                "the contract stays small"
            );
        }
        for second in ["openssl", "ring", "native-tls", "openssl-sys"] {
            assert!(
                !depends_on.contains(second),
                "{name} depends on {second}: one cryptographic library, one TLS stack"
            );
        }
        assert!(directory.ends_with(name) || name == "tests", "{name} lies in {}", directory.display());
    }
}

/// What of the engine is for operators, and why a protocol must not reach for it.
const FOR_OPERATORS: [(&str, &str); 18] = [
    (".operator(", "it gives an operator's word, which no access rule binds"),
    ("Evidence::Operator", "it is an operator's word, which no access rule binds"),
    (".approve(", "a waiting request is released by an operator"),
    (".reject(", "a waiting request is turned down by an operator"),
    (".create_authority(", "operators make authorities"),
    (".change_authority(", "operators change authorities"),
    (".delete_authority(", "operators delete authorities"),
    (".install_certificate(", "operators install certificates of authorities"),
    (".import_external_root(", "operators say which roots are trusted"),
    (".put_profile(", "operators say what certificates hold"),
    (".delete_profile(", "operators say what certificates hold"),
    (".put_endpoint(", "operators say who may get what"),
    (".delete_endpoint(", "operators say who may get what"),
    (".block_key(", "operators block keys; a compromise is reported with a revocation"),
    (".publish_crl(", "operators ask for a CRL at once; else it comes by itself"),
    (".tls_identity(", "the daemon's own key"),
    (".export(", "every record leaves the daemon with it"),
    (".maintain(", "the daemon's timed work"),
];

#[test]
fn protocols_reach_for_nothing_that_is_for_operators() {
    // The engine is one type for the gateway and for protocols, so this is held by name.
    let sources = files().into_iter().filter(|path| {
        let relative = path.strip_prefix(root()).unwrap();
        relative.starts_with("protocols") && path.extension().is_some_and(|extension| extension == "rs")
    });
    let mut seen = 0;
    for path in sources {
        seen += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        // What stands behind the first test module may do as operators do.
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (name, why) in FOR_OPERATORS {
            assert!(!code.contains(name), "{} uses {name:?}: {why}", path.display());
        }
    }
    assert!(seen > 20, "the protocols lie elsewhere: {seen} files");
}

#[test]
fn only_the_tests_turn_on_what_is_for_tests() {
    for (name, directory, _) in dependencies().iter().filter(|(name, ..)| name != "tests") {
        let manifest = std::fs::read_to_string(directory.join("Cargo.toml")).unwrap();
        let (before, _) = manifest.split_once("[dev-dependencies]").unwrap_or((&manifest, ""));
        assert!(!before.contains("features = [\"testing\"]"), "{name} ships the fake clock and the faulty store");
    }
}

#[test]
fn every_crate_from_elsewhere_has_its_reason_beside_it() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, section) = manifest.split_once("[workspace.dependencies]").unwrap();
    let section = section.split("\n[").next().unwrap();
    let entries =
        section.lines().filter(|line| line.contains(" = ") && !line.starts_with('#') && !line.contains("path = "));
    let unexplained: Vec<_> =
        entries.filter(|line| line.rsplit_once('#').is_none_or(|(_, why)| why.trim().is_empty())).collect();
    assert!(unexplained.is_empty(), "{unexplained:#?}");
}

#[test]
fn files_are_named_after_what_is_in_them() {
    let vague = [
        "util", "utils", "common", "helper", "helpers", "manager", "handler", "handlers", "service", "core", "misc",
        "data", "info", "mod",
    ];
    for path in files().iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(!vague.contains(&name), "{} says nothing about its content", path.display());
    }
}

#[test]
fn nothing_is_left_to_do_and_nothing_points_at_a_developers_machine() {
    // Put together at run time, so that this file does not find itself.
    let traces = [
        ["/wo", "rk/"],
        ["/ho", "me/"],
        ["/ro", "ot/"],
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X:"],
        ["todo", "!("],
        ["unimpl", "emented!("],
    ];
    for path in files() {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for trace in traces.map(|parts| parts.concat()) {
            // A page on hardening may speak of systemd's ProtectHome and the like, never of such a path.
            assert!(!text.contains(&trace), "{} contains {trace:?}", path.display());
        }
    }
}

#[test]
fn links_in_documents_lead_somewhere() {
    for path in files().iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            assert!(
                path.parent().unwrap().join(file).exists(),
                "{} links to {file}, which does not exist",
                path.display()
            );
        }
    }
}

/// The keys that ACME options take, by the word of their reader: it names them all when it refuses one that it does not know.
fn acme_options(inside: Option<&str>) -> BTreeSet<String> {
    let unknown = serde_json::json!({ "?": 0 });
    let options = match inside {
        Some(option) => serde_json::json!({ option: unknown }),
        None => unknown,
    };
    let refusal = acme::Options::parse(&options).unwrap_err();
    let (_, expected) = refusal.public().split_once("expected").unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_manual_names_every_option_of_an_acme_endpoint() {
    let manual = std::fs::read_to_string(root().join("packaging/man/certgate.8")).unwrap();
    let (_, section) = manual.split_once("\n.Ss ACME\n").unwrap();
    let section = section.split("\n.Ss ").next().unwrap();
    let keys = section.lines().filter_map(|line| line.strip_prefix(".It Cm ").or_else(|| line.strip_prefix(".Cm ")));
    let named: BTreeSet<_> = keys.flat_map(str::split_whitespace).map(str::to_owned).collect();
    let nested = ["attestation_roots", "limits", "early_renewal"].map(|option| (option, acme_options(Some(option))));
    for (option, keys) in nested.into_iter().chain([("options", acme_options(None))]) {
        assert!(keys.len() > 2, "the reader names too few keys of {option}: {keys:?}");
        let missing: Vec<_> = keys.difference(&named).collect();
        assert!(missing.is_empty(), "certgate.8 says nothing of {missing:?} in {option}");
    }
}
