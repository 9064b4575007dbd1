//! Secrets that lie outside of the store.

use std::os::unix::fs::PermissionsExt;

use gateway::outside_secret::read;
use mdm::SecretSource;

#[test]
fn a_secret_is_read_from_a_file_of_ours_alone_and_a_refusal_never_tells_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let source = SecretSource::File(path.clone());
    let put = |content: &[u8], mode: u32| {
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    assert!(read(&source).unwrap_err().public().contains("cannot be read"));
    put(b"hush now\r\n", 0o600);
    assert_eq!(read(&source).unwrap().as_str(), "hush now");
    for (content, mode, word) in [
        (b"hush".to_vec(), 0o640, "chmod 600"),
        (b"hush".to_vec(), 0o604, "chmod 600"),
        (b"\n".to_vec(), 0o600, "empty"),
        (b"hush\xff".to_vec(), 0o600, "cannot be read"),
        (b"hush".repeat(20_000), 0o600, "longer"),
    ] {
        put(&content, mode);
        let refused = read(&source).unwrap_err().private();
        assert!(refused.contains(word) && !refused.contains("hush"), "{refused}");
    }
}

#[test]
fn a_credential_is_a_name_that_systemd_knows_and_a_variable_one_that_is_set() {
    for name in ["", "..", "a/b", "no-such-credential"] {
        assert!(read(&SecretSource::Credential(name.to_owned())).is_err(), "{name:?}");
    }
    assert!(read(&SecretSource::Environment("TESTS_NO_SUCH_VARIABLE".to_owned())).is_err());
}
