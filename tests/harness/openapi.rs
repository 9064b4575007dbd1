//! A validator of OpenAPI documents, as a judge of what certgate says of its own services.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::pkilint::venv_program;

/// Asserts that a description is OpenAPI, and that every reference in it leads somewhere.
#[track_caller]
pub fn assert_valid(document: &Value) {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("openapi.json");
    std::fs::write(&file, document.to_string()).unwrap();
    let output = Command::new(venv_program("openapi-spec-validator")).arg(&file).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}
