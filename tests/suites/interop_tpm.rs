//! device-attest-01 with a TPM that none of us wrote: swtpm, its keys and what it certifies, over instant-acme at the real daemon.

use instant_acme::{
    Account, ChallengeType, DeviceAttestation, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use serde_json::json;
use tests::acme_client::{pem_blocks, sha256};
use tests::daemon::{Daemon, Site};
use tests::device::{Maker, TpmStatement, module, permanent};
use tests::tpm::{KeyKind, Tpm, TpmKey};

const SERIAL: &str = "PF3XYZ12";
const PROFILE: &str = "privatessl-tls-client";

/// A key that never leaves the TPM that made it.
const KEPT: &str = "fixedtpm|fixedparent|sensitivedataorigin";

/// A daemon that believes a maker of devices, and one of them.
struct Stage {
    site: Site,
    maker: Maker,
    tpm: Tpm,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { site: Site::new(""), maker: Maker::default(), tpm: Tpm::start(), runtime }
    }

    fn start(&self) -> Daemon<'_> {
        let daemon = self.site.start();
        let mut endpoint = self.site.json(&["endpoint", "show", "starter"]);
        endpoint["profiles"] = json!([PROFILE]);
        endpoint["rules"] = json!([{
            "name": "devices", "requesters": [{ "evidence": "challenges" }], "profiles": [PROFILE],
            "allow": { "device": ["*"] },
        }]);
        endpoint["options"]["challenges"] = json!(["device-attest-01"]);
        endpoint["options"]["attestation_roots"] = json!({ "tpm": [self.maker.root_pem()] });
        let path = self.site.path("endpoint.json");
        std::fs::write(&path, endpoint.to_string()).unwrap();
        let _stored = self.site.json(&["endpoint", "put", path.to_str().unwrap()]);
        daemon
    }

    async fn account(&self) -> Account {
        let new = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
        let builder = Account::builder_with_root(self.site.path("state/root.pem")).unwrap();
        let directory = format!("https://localhost:{}/acme/starter/directory", self.site.https_port);
        builder.create(&new, directory, None).await.unwrap().0
    }

    /// What the TPM says of a key, in the envelope of its maker; `extra_data` is what it was asked to put in.
    fn statement(&self, attestation_key: &TpmKey<'_>, kind: KeyKind, key: &TpmKey<'_>, said: Said) -> Vec<u8> {
        let (certification, signature) = said;
        let statement =
            TpmStatement { algorithm: kind.cose(), signature, certification, public_area: key.public_area() };
        let names = [permanent(SERIAL), module("1.3.6.1.4.1.99999.1", "0042")];
        self.maker.tpm_with(attestation_key, &names, statement)
    }
}

/// A structure of a TPM and its signature.
type Said = (Vec<u8>, Vec<u8>);

/// Orders for a device and answers with what `attest` makes of the key authorization.
async fn ask(account: &Account, device: Identifier, attest: impl FnOnce(&str) -> Vec<u8>) -> Result<Order, Error> {
    let mut order = account.new_order(&NewOrder::new(&[device])).await?;
    let mut authorizations = order.authorizations();
    let mut authorization = authorizations.next().await.unwrap()?;
    let mut challenge = authorization.challenge(ChallengeType::DeviceAttest01).unwrap();
    let object = attest(challenge.key_authorization().as_str());
    challenge.send_device_attestation(&DeviceAttestation { att_obj: object.into() }).await?;
    Ok(order)
}

fn device() -> Identifier {
    Identifier::PermanentIdentifier(SERIAL.to_owned())
}

/// The problem's type and text.
fn problem(outcome: Result<Order, Error>) -> (String, String) {
    match outcome.err() {
        Some(Error::Api(problem)) => {
            let kind = problem.r#type.unwrap_or_default().rsplit(':').next().unwrap_or_default().to_owned();
            (kind, problem.detail.unwrap_or_default())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tpm_attests_its_keys_and_gets_certificates_for_the_device_and_the_module() {
    let stage = Stage::new();
    let _daemon = stage.start();
    let devices = [device(), Identifier::HardwareModule("0042/1.3.6.1.4.1.99999.1".to_owned())];
    let kinds = [(KeyKind::P256, KeyKind::P256), (KeyKind::Rsa, KeyKind::P256), (KeyKind::P256, KeyKind::Rsa)];
    stage.runtime.block_on(async {
        let account = stage.account().await;
        for (number, (by, kind)) in kinds.into_iter().enumerate() {
            let (attestation_key, key) = (stage.tpm.attestation_key(by), stage.tpm.key(kind, KEPT));
            let attest = |key_authorization: &str| {
                let said = stage.tpm.certify(&key, &attestation_key, &sha256(key_authorization.as_bytes()));
                stage.statement(&attestation_key, by, &key, said)
            };
            let mut order = ask(&account, devices[number % 2].clone(), attest).await.unwrap();
            assert_eq!(order.poll_ready(&RetryPolicy::default()).await.unwrap(), OrderStatus::Ready);
            // Another key of the very same TPM was not attested.
            let refused = order.finalize_csr(&stage.tpm.key(KeyKind::P256, KEPT).request()).await;
            assert!(
                matches!(refused, Err(Error::Api(problem)) if problem.r#type.as_deref().unwrap().ends_with("badCSR"))
            );
            order.finalize_csr(&key.request()).await.unwrap();
            let chain = order.poll_certificate(&RetryPolicy::default()).await.unwrap();
            let leaf = pem_blocks(chain.as_bytes()).remove(0);
            let holds = |octets: &[u8]| leaf.windows(octets.len()).any(|window| window == octets);
            assert!(holds(&key.spki), "{by:?} {kind:?}");
            assert!(holds(if number % 2 == 0 { SERIAL.as_bytes() } else { b"0042" }));
        }
    });
}

#[test]
fn s21_what_a_tpm_says_of_other_keys_and_other_things_counts_for_nothing() {
    let stage = Stage::new();
    let _daemon = stage.start();
    let tpm = &stage.tpm;
    let attestation_key = tpm.attestation_key(KeyKind::P256);
    let key = tpm.key(KeyKind::P256, KEPT);
    let certify = |key: &TpmKey<'_>, text: &str| {
        stage.statement(
            &attestation_key,
            KeyKind::P256,
            key,
            tpm.certify(key, &attestation_key, &sha256(text.as_bytes())),
        )
    };
    let outside = tpm.imported_key(&rcgen::KeyPair::generate().unwrap().serialize_pem());
    let may_leave = tpm.key(KeyKind::P256, "sensitivedataorigin");
    let unsealed = |attestation: &str| {
        // A key that signs whatever it is given: a look-alike of what only the TPM itself can say is signed as gladly.
        let (certification, _) = tpm.certify(&key, &attestation_key, &sha256(attestation.as_bytes()));
        let forger = rcgen::KeyPair::generate().unwrap();
        let signature = rcgen::SigningKey::sign(&forger, &certification).unwrap();
        stage.statement(&attestation_key, KeyKind::P256, &key, (certification, signature))
    };
    type Attest<'a> = Box<dyn Fn(&str) -> Vec<u8> + 'a>;
    let cases: Vec<(&str, Attest<'_>)> = vec![
        ("may leave it", Box::new(|text| certify(&outside, text))),
        ("may leave it", Box::new(|text| certify(&may_leave, text))),
        ("another challenge", Box::new(|_| certify(&key, "another"))),
        ("signature is wrong", Box::new(unsealed)),
        (
            "not what a TPM certifies",
            Box::new(|text| {
                let said = tpm.quote(&attestation_key, &sha256(text.as_bytes()));
                stage.statement(&attestation_key, KeyKind::P256, &key, said)
            }),
        ),
        (
            "another key",
            Box::new(|text| {
                let said = tpm.certify(&outside, &attestation_key, &sha256(text.as_bytes()));
                stage.statement(&attestation_key, KeyKind::P256, &key, said)
            }),
        ),
    ];
    stage.runtime.block_on(async {
        let account = stage.account().await;
        for (words, attest) in &cases {
            let (kind, text) = problem(ask(&account, device(), attest).await);
            assert_eq!(kind, "badAttestationStatement", "{words}: {text}");
            assert!(text.contains(words), "{words:?} is missing in {text:?}");
        }
        let other = Identifier::PermanentIdentifier("another".to_owned());
        let (_, text) = problem(ask(&account, other, |text| certify(&key, text)).await);
        assert!(text.contains("another device"), "{text}");
        ask(&account, device(), |text| certify(&key, text)).await.unwrap();
    });
}
