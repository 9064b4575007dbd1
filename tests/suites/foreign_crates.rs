//! What comes from elsewhere is what `.deny.toml` allows: the same lists that cargo-deny reads, held against what is built here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::{Table, Value};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(name: &str) -> Table {
    std::fs::read_to_string(root().join(name)).unwrap().parse().unwrap()
}

fn texts<'a>(list: &'a Value, key: &str) -> BTreeSet<&'a str> {
    let text = |entry: &'a Value| entry.get(key).unwrap_or(entry).as_str().unwrap();
    list.as_array().unwrap().iter().map(text).collect()
}

/// Every crate that is built for this machine, tests and build scripts too: name, version and licence.
fn built() -> BTreeSet<(String, String, String)> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--workspace", "--edges", "normal,build,dev"])
        .args(["--prefix", "none", "--format", "{p}|{l}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once('|'));
    lines
        // what has a path is ours
        .filter(|(package, _)| !package.contains("(/"))
        .map(|(package, licence)| {
            let mut words = package.split(' ');
            let name = words.next().unwrap().to_owned();
            let version = words.next().unwrap().trim_start_matches('v').to_owned();
            (name, version, licence.trim_end_matches(" (*)").to_owned())
        })
        .collect()
}

#[test]
fn no_crate_from_elsewhere_is_banned() {
    let deny = read(".deny.toml");
    let banned = texts(&deny["bans"]["deny"], "name");
    assert!(banned.contains("openssl") && banned.contains("ring"));
    for (name, version, _) in built() {
        assert!(!banned.contains(name.as_str()), "{name} {version} is built: see why not in .deny.toml");
    }
}

#[test]
fn two_versions_of_a_crate_have_a_reason_and_every_reason_is_needed() {
    let mut versions = BTreeMap::<_, BTreeSet<_>>::new();
    for (name, version, _) in built() {
        // what stands behind a plus says where a version comes from, and is no part of it
        versions.entry(name).or_default().insert(version.split('+').next().unwrap().to_owned());
    }
    let deny = read(".deny.toml");
    let mut excused = BTreeSet::new();
    for skip in deny["bans"]["skip"].as_array().unwrap() {
        let (name, version) =
            (skip["name"].as_str().unwrap(), skip["version"].as_str().unwrap().trim_start_matches('='));
        let found = versions.get_mut(name).filter(|found| found.len() > 1);
        assert!(
            found.is_some_and(|found| found.remove(version)),
            "{name} {version} is no second version any more: take it out of .deny.toml"
        );
        excused.insert(name.to_owned());
    }
    for (name, versions) in versions {
        assert_eq!(
            versions.len(),
            1,
            "{name} is built in several versions ({versions:?}; excused: {})",
            excused.contains(&name)
        );
    }
}

#[test]
fn every_crate_from_elsewhere_has_a_licence_that_is_allowed() {
    let deny = read(".deny.toml");
    let allowed: Vec<_> =
        texts(&deny["licenses"]["allow"], "name").into_iter().map(|id| spdx::license_id(id).unwrap()).collect();
    for (name, version, licence) in built() {
        let expression = spdx::Expression::parse_mode(&licence, spdx::ParseMode::LAX)
            .unwrap_or_else(|why| panic!("{name} {version}: {licence:?}: {why}"));
        let stands = expression.evaluate(|requirement| {
            requirement.addition.is_none() && requirement.license.id().is_some_and(|id| allowed.contains(&id))
        });
        assert!(stands, "{name} {version} has the licence {licence:?}");
    }
}

#[test]
fn every_crate_from_elsewhere_comes_from_the_registry_that_is_allowed() {
    let deny = read(".deny.toml");
    let registries = texts(&deny["sources"]["allow-registry"], "name");
    for package in read("Cargo.lock")["package"].as_array().unwrap() {
        // ours have no source
        if let Some(source) = package.get("source").and_then(Value::as_str) {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            assert!(registries.contains(registry), "{} comes from {source}", package["name"]);
        }
    }
}
