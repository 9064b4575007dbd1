//! pkilint, a linter by DigiCert, as a judge of every structure that certgate signs.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// The programs of the Python environment that `tests/run` makes.
#[must_use]
pub fn venv_program(name: &str) -> PathBuf {
    let venv = std::env::var_os("TESTS_VENV")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/test-venv")), PathBuf::from);
    let program = venv.join("bin").join(name);
    assert!(program.exists(), "{} is missing; tests/run installs it", program.display());
    program
}

/// A finding of pkilint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its code: `pkix.crl_number_extension_value_too_large`.
    pub code: String,
    /// Where and why.
    pub text: String,
}

/// Runs a linter (`lint_pkix_cert`, `lint_crl`, `lint_ocsp_response`) and returns its findings of severity ERROR and FATAL.
#[must_use]
pub fn errors(linter: &str, options: &[&str], der: &[u8]) -> Vec<Finding> {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("judged.der");
    std::fs::write(&file, der).unwrap();
    let output = Command::new(venv_program(linter))
        .args(["lint", "--severity", "ERROR", "--format", "JSON", "--document-format", "DER"])
        .args(options)
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{linter}: {error}\n{text}\n{}", String::from_utf8_lossy(&output.stderr)));
    let results = report["results"].as_array().unwrap_or_else(|| panic!("{linter}: no results in {text}"));
    let findings = results.iter().flat_map(|result| {
        let node = result["node_path"].as_str().unwrap_or_default();
        let descriptions = result["finding_descriptions"].as_array().cloned().unwrap_or_default();
        descriptions.into_iter().map(move |description| Finding {
            code: description["code"].as_str().unwrap_or_default().to_owned(),
            text: format!("{node}: {} {}", description["severity"], description["message"]),
        })
    });
    findings.collect()
}
