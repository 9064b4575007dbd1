//! A SCEP client that none of us wrote, the real daemon, and the stand-in of Intune between them.

use std::process::{Command, Output};

use ca_backend::testing::NOON_S;
use serde_json::json;
use tests::daemon::Site;
use tests::intune::{Mishap, SECRET, StandIn};

const SUBJECT: &str = "cn=pc1,ou=MDM,o=scep-client,c=US";

/// Enrolls with scepclient as a device that got this challenge from its profile.
fn scepclient(site: &Site, name: &str, challenge: &str) -> Output {
    let url = format!("http://127.0.0.1:{}/scep/intune", site.http_port);
    Command::new("scepclient")
        .args(["-server-url", &url, "-challenge", challenge, "-cn", "pc1", "-keySize", "2048"])
        .arg("-private-key")
        .arg(site.path(&format!("{name}.key")))
        .arg("-certificate")
        .arg(site.path(&format!("{name}.pem")))
        .current_dir(site.path(""))
        .output()
        .expect("scepclient is installed (tests/run installs it)")
}

#[test]
fn scepclient_gets_what_intune_vouches_for_and_nothing_else() {
    let stand_in = StandIn::start();
    let site = Site::new("");
    let _daemon = site.start();
    let secret = site.path("intune.secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let mut intune = stand_in.options();
    intune["secret"] = json!({"file": secret});
    let authority = site.json(&["authority", "list"]);
    let issuing = authority.to_string();
    assert!(issuing.contains("\"issuing\""), "{issuing}");
    let endpoint = json!({
        "name": "intune", "protocol": "scep", "authority": "issuing", "profiles": ["intune-digital-signature"],
        "options": {"intune": intune},
        "rules": [{"name": "devices", "requesters": [{"evidence": "device"}], "profiles": ["intune-digital-signature"],
            "allow": {"subject": ["cn", "ou", "o", "c"].map(|kind| json!({"attribute": kind, "value": "*"}))}}],
    });
    let file = site.path("intune.json");
    std::fs::write(&file, endpoint.to_string()).unwrap();
    let put = ["endpoint", "put", file.to_str().unwrap()];
    let _ = site.output(&[
        "authority",
        "change",
        "issuing",
        "--service",
        "privatessl",
        "--service",
        "scep",
        "--service",
        "intune",
    ]);

    // A secret that others may read keeps the endpoint from starting.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let _ = site.json(&put);

    let good = stand_in.challenge(SUBJECT, &[], NOON_S + 3_600);
    let enrolled = scepclient(&site, "first", &good);
    let said = format!("{}{}", String::from_utf8_lossy(&enrolled.stdout), String::from_utf8_lossy(&enrolled.stderr));
    assert!(site.path("first.pem").is_file(), "{said}\n{}", _daemon.log());
    assert_eq!(stand_in.seen().successes.len(), 1);

    let other = stand_in.challenge("cn=pc2,ou=MDM,o=scep-client,c=US", &[], NOON_S + 3_600);
    let refused = scepclient(&site, "second", &other);
    assert!(!site.path("second.pem").is_file(), "{refused:?}");

    stand_in.next("successNotification", Mishap::Code("Unknown"));
    let kept_back = scepclient(&site, "third", &good);
    assert!(!site.path("third.pem").is_file(), "{kept_back:?}");
    let revoked = site.json(&["certificate", "list", "--profile", "intune-digital-signature", "--state", "revoked"]);
    assert!(revoked.to_string().contains("pc1"), "{revoked}");
    assert!(!_daemon.log().contains(SECRET) && !_daemon.log().contains(&good), "a secret is in the log");
}
