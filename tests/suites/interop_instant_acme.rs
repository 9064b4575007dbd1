//! instant-acme, a client that none of us wrote, at every resource of the real daemon over real TLS.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, ExternalAccountKey, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, RetryPolicy, RevocationReason, RevocationRequest,
};
use serde_json::{Value, json};
use tests::acme_client::{SubjectKeyPair, csr, dns, pem_blocks};
use tests::daemon::{Site, figure, free_port};
use tests::hosts::{TestHost, found};

const HOST: &str = "localhost";

/// What the web server of the host has at each path.
type Files = Arc<Mutex<HashMap<String, String>>>;

struct Stage {
    site: Site,
    files: Files,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    /// A site whose endpoint has these options beside the port of the web server.
    fn new() -> (Self, TestHost) {
        Self::with("")
    }

    /// The same with more settings of the daemon.
    fn with(more: &str) -> (Self, TestHost) {
        let files = Files::default();
        let served = files.clone();
        let host = TestHost::web(move |head| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            served.lock().unwrap().get(path).map_or_else(|| found(""), |body| found(body))
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        (Self { site: Site::new(more), files, runtime }, host)
    }

    fn set(&self, host: &TestHost, options: &[(&str, Value)]) {
        let mut endpoint = self.site.json(&["endpoint", "show", "starter"]);
        endpoint["options"]["http01_port"] = host.port.into();
        for (name, value) in options {
            endpoint["options"][*name] = value.clone();
        }
        let path = self.site.path("endpoint.json");
        std::fs::write(&path, endpoint.to_string()).unwrap();
        let _stored = self.site.json(&["endpoint", "put", path.to_str().unwrap()]);
    }

    fn builder(&self) -> instant_acme::AccountBuilder {
        Account::builder_with_root(self.site.path("state/root.pem")).unwrap()
    }

    fn directory(&self) -> String {
        format!("https://localhost:{}/acme/starter/directory", self.site.https_port)
    }

    async fn account(&self, external: Option<&ExternalAccountKey>) -> Result<Account, Error> {
        let new = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
        Ok(self.builder().create(&new, self.directory(), external).await?.0)
    }

    /// Shows control of what an order asks, and gets the certificate; its DER.
    async fn certificate(&self, order: &mut Order) -> Vec<u8> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.unwrap();
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let mut challenge = authorization.challenge(ChallengeType::Http01).unwrap();
            let path = format!("/.well-known/acme-challenge/{}", challenge.token);
            self.files.lock().unwrap().insert(path, challenge.key_authorization().as_str().to_owned());
            challenge.set_ready().await.unwrap();
        }
        assert_eq!(order.poll_ready(&RetryPolicy::default()).await.unwrap(), OrderStatus::Ready);
        let key = SubjectKeyPair::generate();
        order.finalize_csr(&csr(&key, "", &dns(&[HOST]))).await.unwrap();
        let chain = order.poll_certificate(&RetryPolicy::default()).await.unwrap();
        pem_blocks(chain.as_bytes()).remove(0)
    }
}

fn identifiers() -> [Identifier; 1] {
    [Identifier::Dns(HOST.to_owned())]
}

fn problem(error: Error) -> String {
    match error {
        Error::Api(problem) => problem.r#type.unwrap_or_default().rsplit(':').next().unwrap_or_default().to_owned(),
        other => panic!("{other:?}"),
    }
}

/// The name of a certificate in renewal information.
fn named(der: &[u8]) -> CertificateIdentifier<'static> {
    use der::Decode;
    let certificate = x509_cert::Certificate::from_der(der).unwrap();
    let certificate = certificate.tbs_certificate();
    let (_, extension) = certificate.get_extension::<x509_cert::ext::pkix::AuthorityKeyIdentifier>().unwrap().unwrap();
    let key_identifier = extension.key_identifier.unwrap();
    CertificateIdentifier::new(key_identifier.as_bytes().into(), certificate.serial_number().as_bytes().into())
        .into_owned()
}

#[test]
fn instant_acme_enrolls_changes_its_key_renews_revokes_and_leaves_though_good_nonces_are_rejected() {
    let (stage, host) = Stage::new();
    let _daemon = stage.site.start();
    stage.set(&host, &[("test_rejected_nonces_percent", json!(5))]);
    stage.runtime.block_on(async {
        let mut account = stage.account(None).await.unwrap();
        account.update_contacts(&["mailto:ann@example.org"]).await.unwrap();
        let offered: Vec<String> = account.profiles().map(|profile| profile.name.to_owned()).collect();
        assert!(!offered.is_empty());

        let mut order = account.new_order(&NewOrder::new(&identifiers()).profile(&offered[0])).await.unwrap();
        let first = stage.certificate(&mut order).await;
        let wrong = account.new_order(&NewOrder::new(&identifiers()).profile("no-such-profile")).await.err().unwrap();
        assert_eq!(problem(wrong), "invalidProfile");

        // The key changes; the account and its orders stay.
        let before = account.key_thumbprint().to_owned();
        let credentials = account.update_key().await.unwrap();
        assert_ne!(account.key_thumbprint(), before);
        let again = stage.builder().from_credentials(credentials).await.unwrap();
        assert_eq!(again.order(order.url().to_owned()).await.unwrap().state().status, OrderStatus::Valid);

        // Renewal information, and a renewal that says what it replaces.
        let (info, retry_after) = again.renewal_info(&named(&first)).await.unwrap();
        assert!(info.suggested_window.start < info.suggested_window.end);
        assert!(retry_after.as_secs() > 3000);
        let mut renewal = again.new_order(&NewOrder::new(&identifiers()).replaces(named(&first))).await.unwrap();
        let second = stage.certificate(&mut renewal).await;
        assert_ne!(first, second);
        let twice = again.new_order(&NewOrder::new(&identifiers()).replaces(named(&first))).await.err().unwrap();
        assert_eq!(problem(twice), "alreadyReplaced");

        // An authorization is given up, and its order with it.
        let mut given_up = again.new_order(&NewOrder::new(&identifiers())).await.unwrap();
        let mut authorizations = given_up.authorizations();
        authorizations.next().await.unwrap().unwrap().deactivate().await.unwrap();
        assert_eq!(given_up.refresh().await.unwrap().status, OrderStatus::Invalid);

        let revocation = RevocationRequest { certificate: &second.into(), reason: Some(RevocationReason::Superseded) };
        again.revoke(&revocation).await.unwrap();
        assert_eq!(problem(again.revoke(&revocation).await.err().unwrap()), "alreadyRevoked");
        again.deactivate().await.unwrap();
        let closed = account.new_order(&NewOrder::new(&identifiers())).await.err().unwrap();
        assert_eq!(problem(closed), "unauthorized");
    });
    let accounts = stage.site.json(&["acme", "account", "list", "starter"]);
    assert_eq!(accounts[0]["status"], "deactivated", "{accounts}");
}

#[test]
fn instant_acme_binds_its_account_to_a_credential_and_needs_no_challenge_for_what_that_grants() {
    let (stage, host) = Stage::new();
    let _daemon = stage.site.start();
    stage.set(&host, &[("external_account", json!("required"))]);
    let made = stage.site.json(&[
        "credential",
        "create",
        "--endpoint",
        "starter",
        "--purpose",
        "external-account",
        "--id",
        "printers",
        "--without-challenge",
        HOST,
    ]);
    let key = BASE64_URL_SAFE_NO_PAD.decode(made["secret"].as_str().unwrap_or_else(|| panic!("{made}"))).unwrap();
    stage.runtime.block_on(async {
        assert_eq!(problem(stage.account(None).await.err().unwrap()), "externalAccountRequired");
        let forged = ExternalAccountKey::new("printers".to_owned(), &[7; 32]);
        assert_eq!(problem(stage.account(Some(&forged)).await.err().unwrap()), "unauthorized");
        let right = ExternalAccountKey::new("printers".to_owned(), &key);
        let account = stage.account(Some(&right)).await.unwrap();
        assert_eq!(problem(stage.account(Some(&right)).await.err().unwrap()), "unauthorized", "one account only");
        let mut order = account.new_order(&NewOrder::new(&identifiers())).await.unwrap();
        assert_eq!(order.state().status, OrderStatus::Ready);
        stage.certificate(&mut order).await;
        assert!(stage.files.lock().unwrap().is_empty(), "nothing was shown");
    });
    let accounts = stage.site.json(&["acme", "account", "list", "starter"]);
    assert_eq!(accounts[0]["credential"], "printers", "{accounts}");
}

#[test]
fn s42_what_a_limit_stopped_is_counted_for_operators() {
    let metrics_port = free_port();
    let (stage, host) = Stage::with(&format!("[metrics]\nlisten = \"127.0.0.1:{metrics_port}\""));
    let _daemon = stage.site.start();
    stage.set(&host, &[("limits", json!({ "orders_per_account_per_h": 1 }))]);
    let labels = [("endpoint", "starter"), ("limit", "orders_per_account_per_h")];
    let limited = || figure(metrics_port, "certgate_acme_limited_total", &labels);
    stage.runtime.block_on(async {
        let account = stage.account(None).await.unwrap();
        account.new_order(&NewOrder::new(&identifiers())).await.unwrap();
        assert_eq!(limited(), 0);
        for times in 1..=2 {
            let stopped = account.new_order(&NewOrder::new(&identifiers())).await.err().unwrap();
            assert_eq!(problem(stopped), "rateLimited");
            assert_eq!(limited(), times);
        }
    });
}
