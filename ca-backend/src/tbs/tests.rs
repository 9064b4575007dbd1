//! Every profile's certificates, read back by OpenSSL; what lint catches; the vectors of the encodings.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::algorithm::KeyAlgorithm;
use crate::clock::{SystemRng, Time};
use crate::error::{Error, Reason};
use crate::extension::{GrantedExtensions, RequestedExtensions, resolve};
use crate::lint::{LintContext, lint};
use crate::name::{AlternativeName, DistinguishedName};
use crate::profile::{ExtendedKeyUsageRule, Profile, ProfileKind, RequestExtension, purpose};
use crate::serial::Serial;
use crate::subject_key::SubjectKey;
use crate::tbs::{self, CertificateDraft, IssuerFacts};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use const_oid::ObjectIdentifier;

/// 2026-01-08T00:00:00Z
const NOW_S: u64 = 1_767_830_400;
const YEAR_S: u64 = 365 * 86_400;

fn now() -> Time {
    Time::from_unix(NOW_S)
}

fn oid(dotted: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(dotted)
}

/// A root that signs with a throw-away key.
struct Root {
    key: EcdsaKeyPair,
    facts: IssuerFacts,
    certificate: Vec<u8>,
}

fn p256() -> (EcdsaKeyPair, SubjectKey) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let key = SubjectKey::accept(spki.as_ref()).unwrap();
    (pair, key)
}

fn rsa() -> SubjectKey {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    SubjectKey::accept(spki.as_ref()).unwrap()
}

fn root() -> Root {
    let (pair, key) = p256();
    let name = DistinguishedName::parse("cn=ABC First Root,o=ABC,c=DE").unwrap();
    let profile = Profile::find("basic-ca-root").unwrap();
    let facts = IssuerFacts::self_signed(name.clone(), &key, KeyAlgorithm::EcP256, now(), now().plus_s(20 * YEAR_S));
    let draft = CertificateDraft {
        serial: Serial::generate(now(), &SystemRng),
        issuer: &facts,
        profile,
        subject: &name,
        alternative_names: &[],
        extensions: &GrantedExtensions::default(),
        key: &key,
        not_before: facts.not_before,
        not_after: facts.not_after,
    };
    let tbs = draft.encode().unwrap();
    lint(&tbs, &LintContext { profile, issuer: &facts, key: &key, now: now(), operator_purposes: &[] }).unwrap();
    let certificate = sign(&pair, &tbs);
    let mut facts = IssuerFacts::from_chain(&[&certificate], KeyAlgorithm::EcP256).unwrap();
    facts.crl_url = Some("http://pki.example/crl/abc.crl".to_owned());
    facts.ocsp_url = Some("http://pki.example/ocsp/abc".to_owned());
    facts.ca_issuers_url = Some("http://pki.example/ca/abc.cer".to_owned());
    Root { key: pair, facts, certificate }
}

fn sign(pair: &EcdsaKeyPair, tbs: &[u8]) -> Vec<u8> {
    let signature = pair.sign(&SystemRandom::new(), tbs).unwrap();
    tbs::assemble_certificate(tbs, KeyAlgorithm::EcP256, signature.as_ref()).unwrap()
}

/// Runs OpenSSL with `input` on its standard input.
fn openssl(arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tests need the OpenSSL command");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The extensions in OpenSSL's text: the heading, and the lines below it joined.
fn extensions(text: &str) -> Vec<(String, String)> {
    let (_, text) = text.split_once("X509v3 extensions:\n").expect("there are extensions");
    let mut found: Vec<(String, String)> = Vec::new();
    for line in text.lines().take_while(|line| !line.trim_start().starts_with("Signature Algorithm")) {
        if line.trim().is_empty() {
            continue;
        }
        let depth = line.len() - line.trim_start().len();
        match found.last_mut() {
            Some((_, value)) if depth != 12 => {
                value.push_str(line.trim());
                value.push(' ');
            }
            _ => found.push((line.trim().to_owned(), String::new())),
        }
    }
    found.into_iter().map(|(heading, value)| (heading, value.trim().to_owned())).collect()
}

/// A row of the reference: profile, key usage, extended key usage.
struct Row(&'static str, &'static str, Purposes);

enum Purposes {
    Fixed(&'static str),
    Critical(&'static str),
    FromRequest,
    Never,
}
use Purposes::{Critical, Fixed, FromRequest, Never};

const DS: &str = "Digital Signature";
const DS_KE: &str = "Digital Signature, Key Encipherment";
const DS_NR: &str = "Digital Signature, Non Repudiation";
const KE: &str = "Key Encipherment";
const NR: &str = "Non Repudiation";
const AUTHORITY: &str = "Digital Signature, Certificate Sign, CRL Sign";
const CLIENT: &str = "TLS Web Client Authentication";
const SERVER: &str = "TLS Web Server Authentication";
const EMAIL: &str = "E-mail Protection";

/// Built-in profiles for our own needs, which the appendix does not have.
const OURS: [&str; 1] = ["basic-ra"];

/// The appendix "Certificate profile reference", row by row. basic-ocsp has the one documented deviation in its key usage.
const APPENDIX: &[Row] = &[
    Row("basic-ca-root", AUTHORITY, Never),
    Row("basic-ca-subord", AUTHORITY, Never),
    Row("basic-ocsp", DS, Critical("OCSP Signing")),
    Row("smime-digital-signature-key-encipherment", DS_KE, Fixed("TLS Web Client Authentication, E-mail Protection")),
    Row("smime-key-encipherment", KE, Fixed(EMAIL)),
    Row("smime-non-repudiation", DS_NR, Fixed(EMAIL)),
    Row("smartcard-card-authentication", DS, FromRequest),
    Row("smartcard-digital-signature", DS_NR, FromRequest),
    Row("smartcard-domain-controller", DS_KE, Fixed("TLS Web Server Authentication, TLS Web Client Authentication")),
    Row("smartcard-key-management", KE, FromRequest),
    Row(
        "smartcard-piv-authentication",
        DS,
        Fixed("Any Extended Key Usage, Microsoft Smartcard Login, TLS Web Client Authentication"),
    ),
    Row("smartcard-piv-content-signing", DS_NR, FromRequest),
    Row("codesigning-digital-signature", DS, Fixed("Code Signing")),
    Row("intune-digital-signature", DS, FromRequest),
    Row("intune-key-encipherment", KE, FromRequest),
    Row("intune-non-repudiation", NR, FromRequest),
    Row("intune-signature-key-encipherment", DS_KE, FromRequest),
    Row("privatessl-tls-client", DS_KE, Fixed(CLIENT)),
    Row("privatessl-tls-client-server", DS_KE, Fixed("TLS Web Server Authentication, TLS Web Client Authentication")),
    Row("privatessl-tls-server", DS_KE, Fixed(SERVER)),
    Row("wstep-digital-signature", DS, FromRequest),
    Row("wstep-key-encipherment", KE, FromRequest),
    Row("wstep-non-repudiation", NR, FromRequest),
    Row("wstep-signature-key-encipherment", DS_KE, FromRequest),
    Row("scep-digital-signature", DS, FromRequest),
    Row("scep-key-encipherment", KE, FromRequest),
    Row("scep-non-repudiation", NR, FromRequest),
    Row("scep-signature-key-encipherment", DS_KE, FromRequest),
    Row("mdmws-digital-signature", DS, FromRequest),
    Row("mdmws-key-encipherment", KE, FromRequest),
    Row("mdmws-non-repudiation", NR, FromRequest),
    Row("mdmws-signature-key-encipherment", DS_KE, FromRequest),
    Row("cmp-digital-signature", DS, FromRequest),
    Row("cmp-key-encipherment", KE, FromRequest),
    Row("cmp-non-repudiation", NR, FromRequest),
    Row("cmp-signature-key-encipherment", DS_KE, FromRequest),
    Row("est-digital-signature", DS, FromRequest),
    Row("est-key-encipherment", KE, FromRequest),
    Row("est-non-repudiation", NR, FromRequest),
    Row("est-signature-key-encipherment", DS_KE, FromRequest),
    Row("v2g-supply-equipment", "Digital Signature, Key Agreement", Fixed(SERVER)),
    Row("v2g-user-identity", DS_NR, Never),
];

/// What every library lets a request bring.
fn requestable(profile: &Profile) -> &'static [&'static str] {
    const FIVE: [&str; 5] =
        ["2.5.29.32", "1.3.6.1.4.1.311.21.10", "1.2.840.113549.1.9.15", "1.3.6.1.4.1.311.21.7", "1.3.6.1.4.1.311.20.2"];
    const SIX: [&str; 6] = [FIVE[0], FIVE[1], FIVE[2], FIVE[3], FIVE[4], "1.3.6.1.4.1.311.25.2"];
    match profile.library.as_str() {
        "privatessl" => &["2.5.29.32", "1.3.6.1.4.1.311.21.10"],
        "cmp" | "est" => &FIVE,
        "intune" | "wstep" | "scep" | "mdmws" => &SIX,
        _ => &[],
    }
}

fn validity_s(id: &str) -> (u64, Option<u64>) {
    match id {
        "basic-ca-root" => (20 * YEAR_S, Some(20 * YEAR_S)),
        "basic-ca-subord" => (10 * YEAR_S, Some(10 * YEAR_S)),
        "basic-ocsp" => (30 * 86_400, Some(30 * 86_400)),
        "v2g-supply-equipment" => (YEAR_S, Some(YEAR_S)),
        "v2g-user-identity" => (2 * YEAR_S, Some(2 * YEAR_S)),
        _ => (3 * YEAR_S, None),
    }
}

fn request_for(profile: &Profile) -> RequestedExtensions {
    let mut request = RequestedExtensions::default();
    if profile.extended_key_usage.rule == ExtendedKeyUsageRule::FromRequest {
        request = request.with_purpose(purpose::parse("client-auth").unwrap());
    }
    let own = profile.extended_key_usage.values.first().copied();
    let application = request.extended_key_usage.first().copied().or(own);
    for extension in &profile.request_extensions {
        request = match extension {
            RequestExtension::CertificatePolicies => request.with_certificate_policies(&[oid("1.3.6.1.4.1.55555.1")]),
            RequestExtension::ApplicationPolicies => request.with_application_policies(&[application.unwrap()]),
            RequestExtension::SmimeCapabilities => request.with_smime_capabilities(&[oid("2.16.840.1.101.3.4.1.42")]),
            RequestExtension::MicrosoftTemplate => request.with_template(oid("1.3.6.1.4.1.311.21.8.1.2.3"), 106, 0),
            RequestExtension::MicrosoftTemplateName => request.with_template_name("User"),
            RequestExtension::SecurityIdentifier => request.with_security_identifier("S-1-5-21-1-2-3-1105"),
        }
        .unwrap();
    }
    request
}

#[test]
fn every_row_of_the_appendix_holds_in_certificates_read_back_by_openssl() {
    let listed = Profile::built_in().iter().filter(|profile| !OURS.contains(&profile.id.as_str()));
    assert_eq!(APPENDIX.len(), listed.count());
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path();
    let root = root();
    std::fs::write(directory.join("root.der"), &root.certificate).unwrap();
    let rsa = rsa();
    let (_, ec) = p256();
    for Row(id, key_usage, purposes) in APPENDIX {
        let profile = Profile::find(id).unwrap_or_else(|| panic!("{id} is missing"));
        let (default_s, max_s) = validity_s(id);
        assert_eq!((profile.validity.default_s, profile.validity.max_s), (default_s, max_s), "{id}");
        let allowed: Vec<String> =
            profile.request_extensions.iter().map(|extension| extension.oid().to_string()).collect();
        assert_eq!(allowed, requestable(profile), "{id}");
        for (label, key, key_usage) in [
            ("rsa", &rsa, key_usage.replace("Key Agreement", "Key Encipherment")),
            ("p256", &ec, key_usage.replace("Key Encipherment", "Key Agreement")),
        ] {
            let operator = [purpose::parse("client-auth").unwrap()];
            let granted = resolve(profile, &request_for(profile), &operator).unwrap();
            let self_signed;
            let subject = DistinguishedName::parse(if profile.kind == ProfileKind::EndEntity {
                "cn=www.example.org,o=ABC,c=DE"
            } else {
                "cn=ABC,o=ABC,c=DE"
            })
            .unwrap();
            let issuer = if profile.kind == ProfileKind::Root {
                self_signed = IssuerFacts::self_signed(
                    subject.clone(),
                    key,
                    KeyAlgorithm::EcP256,
                    now(),
                    now().plus_s(default_s),
                );
                &self_signed
            } else {
                &root.facts
            };
            let names = [AlternativeName::parse("dns:www.example.org").unwrap()];
            let draft = CertificateDraft {
                serial: Serial::generate(now(), &SystemRng),
                issuer,
                profile,
                subject: &subject,
                alternative_names: if profile.alternative_names { &names } else { &[] },
                extensions: &granted,
                key,
                not_before: now().minus_s(300),
                not_after: now().plus_s(default_s),
            };
            let tbs = draft.encode().unwrap();
            lint(&tbs, &LintContext { profile, issuer, key, now: now(), operator_purposes: &operator })
                .unwrap_or_else(|error| panic!("{id} {label}: {error:?}"));
            let certificate = sign(&root.key, &tbs);
            std::fs::write(directory.join(format!("{id}-{label}.der")), &certificate).unwrap();
            let text = openssl(&["x509", "-inform", "DER", "-noout", "-text"], &certificate);

            let identifier =
                |bytes: &[u8]| bytes.iter().map(|octet| format!("{octet:02X}")).collect::<Vec<_>>().join(":");
            let mut expected = vec![
                (
                    "X509v3 Basic Constraints: critical".to_owned(),
                    match *id {
                        "basic-ca-root" => "CA:TRUE".to_owned(),
                        "basic-ca-subord" => "CA:TRUE, pathlen:0".to_owned(),
                        _ => "CA:FALSE".to_owned(),
                    },
                ),
                ("X509v3 Key Usage: critical".to_owned(), key_usage),
            ];
            match purposes {
                Fixed(purposes) => expected.push(("X509v3 Extended Key Usage:".to_owned(), (*purposes).to_owned())),
                Critical(purposes) => {
                    expected.push(("X509v3 Extended Key Usage: critical".to_owned(), (*purposes).to_owned()))
                }
                FromRequest => expected.push(("X509v3 Extended Key Usage:".to_owned(), CLIENT.to_owned())),
                Never => {}
            }
            expected.push(("X509v3 Subject Key Identifier:".to_owned(), identifier(&key.key_identifier())));
            if profile.kind != ProfileKind::Root {
                expected.push(("X509v3 Authority Key Identifier:".to_owned(), identifier(&root.facts.key_identifier)));
            }
            if profile.kind == ProfileKind::EndEntity {
                expected.push(("X509v3 Subject Alternative Name:".to_owned(), "DNS:www.example.org".to_owned()));
            }
            if profile.kind != ProfileKind::Root {
                expected.push((
                    "X509v3 CRL Distribution Points:".to_owned(),
                    "Full Name: URI:http://pki.example/crl/abc.crl".to_owned(),
                ));
                let access = "OCSP - URI:http://pki.example/ocsp/abc CA Issuers - URI:http://pki.example/ca/abc.cer";
                expected.push(("Authority Information Access:".to_owned(), access.to_owned()));
            }
            if *id == "basic-ocsp" {
                expected.push(("OCSP No Check:".to_owned(), String::new()));
            }
            let found = extensions(&text);
            assert_eq!(found.get(..expected.len()).unwrap_or_default(), expected, "{id} {label}\n{text}");
            // What the request brought, and nothing else.
            assert_eq!(found.len(), expected.len() + requestable(profile).len(), "{id} {label}\n{text}");
            assert!(
                found.iter().skip(expected.len()).all(|(heading, _)| !heading.contains("critical")),
                "{id} {label}"
            );
        }
    }
}

fn draft_for<'a>(
    root: &'a Root,
    profile: &'a Profile,
    key: &'a SubjectKey,
    granted: &'a GrantedExtensions,
    parts: &'a Parts,
) -> CertificateDraft<'a> {
    CertificateDraft {
        serial: parts.serial,
        issuer: &root.facts,
        profile,
        subject: &parts.subject,
        alternative_names: &parts.names,
        extensions: granted,
        key,
        not_before: now().minus_s(300),
        not_after: now().plus_s(YEAR_S),
    }
}

struct Parts {
    serial: Serial,
    subject: DistinguishedName,
    names: Vec<AlternativeName>,
}

fn parts() -> Parts {
    Parts {
        serial: Serial::generate(now(), &SystemRng),
        subject: DistinguishedName::parse("cn=www.example.org").unwrap(),
        names: vec![AlternativeName::parse("dns:www.example.org").unwrap()],
    }
}

/// The bytes with every occurrence of a pattern (hexadecimal) replaced; there must be one.
fn patched(der: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = hex::encode(der);
    assert!(text.contains(from), "{from} is not there");
    hex::decode(text.replace(from, to)).unwrap()
}

#[test]
fn s34_lint_stops_every_certificate_that_is_not_what_it_should_be() {
    let root = root();
    let (_, key) = p256();
    let (_, other_key) = p256();
    let profile = Profile::find("privatessl-tls-server").unwrap();
    let client = Profile::find("privatessl-tls-client").unwrap();
    let parts = parts();
    let granted = resolve(profile, &RequestedExtensions::default(), &[]).unwrap();
    let as_client = resolve(client, &RequestedExtensions::default(), &[]).unwrap();
    let with_template = resolve(
        Profile::find("scep-digital-signature").unwrap(),
        &RequestedExtensions::default().with_template_name("User").unwrap(),
        &[],
    )
    .unwrap();
    let context = LintContext { profile, issuer: &root.facts, key: &key, now: now(), operator_purposes: &[] };
    let draft = draft_for(&root, profile, &key, &granted, &parts);
    let good = draft.encode().unwrap();
    lint(&good, &context).unwrap();

    let mut wrong_issuer = root.facts.clone();
    wrong_issuer.name = DistinguishedName::parse("cn=ABC First Rood,o=ABC,c=DE").unwrap();
    let mut wrong_identifier = root.facts.clone();
    wrong_identifier.key_identifier = vec![1; 20];
    let mut wrong_algorithm = root.facts.clone();
    wrong_algorithm.algorithm = KeyAlgorithm::EcP384;
    let mut wrong_crl = root.facts.clone();
    wrong_crl.crl_url = Some("http://pki.example/crl/abd.crl".to_owned());
    let mut ca = profile.clone();
    ca.kind = ProfileKind::Subordinate;
    let mut signer = profile.clone();
    signer.key_usage = Profile::find("basic-ca-root").unwrap().key_usage.clone();
    let mut no_crl = profile.clone();
    no_crl.crl_distribution_points = crate::profile::Presence::Never;
    let mut critical_purposes = profile.clone();
    critical_purposes.extended_key_usage.critical = true;
    let mut no_check = profile.clone();
    no_check.ocsp_no_check = true;
    let other_host = [AlternativeName::parse("dns:other.example.org").unwrap()];
    let bad_host =
        [AlternativeName::Dns("www.example.org".to_owned()), AlternativeName::Dns("under_score.example".to_owned())];
    let twice = [parts.names[0].clone(), parts.names[0].clone()];
    let mapped = [parts.names[0].clone(), AlternativeName::Ip("::ffff:10.0.0.1".parse().unwrap())];
    let empty = DistinguishedName::empty();
    let encode = |draft: CertificateDraft<'_>| draft.encode().unwrap();

    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("issuer", encode(CertificateDraft { issuer: &wrong_issuer, ..draft.clone() })),
        ("authority key identifier", encode(CertificateDraft { issuer: &wrong_identifier, ..draft.clone() })),
        ("signature algorithm", encode(CertificateDraft { issuer: &wrong_algorithm, ..draft.clone() })),
        ("CRL distribution points", encode(CertificateDraft { issuer: &wrong_crl, ..draft.clone() })),
        ("public key", encode(CertificateDraft { key: &other_key, ..draft.clone() })),
        ("validity", encode(CertificateDraft { not_after: now().plus_s(21 * YEAR_S), ..draft.clone() })),
        ("validity", encode(CertificateDraft { not_after: now().minus_s(400), ..draft.clone() })),
        ("validity", encode(CertificateDraft { not_after: now().minus_s(1), ..draft.clone() })),
        ("validity", encode(CertificateDraft { not_before: now().minus_s(32 * 86_400), ..draft.clone() })),
        ("basic constraints", encode(CertificateDraft { profile: &ca, ..draft.clone() })),
        ("key usage", encode(CertificateDraft { profile: &signer, ..draft.clone() })),
        ("criticality", encode(CertificateDraft { profile: &critical_purposes, ..draft.clone() })),
        ("1.3.6.1.5.5.7.48.1.5", encode(CertificateDraft { profile: &no_check, ..draft.clone() })),
        ("2.5.29.31 is missing", encode(CertificateDraft { profile: &no_crl, ..draft.clone() })),
        ("extended key usage", encode(CertificateDraft { extensions: &as_client, ..draft.clone() })),
        (
            "2.5.29.37 is missing",
            encode(CertificateDraft { extensions: &GrantedExtensions::default(), ..draft.clone() }),
        ),
        ("extended key usage", encode(CertificateDraft { extensions: &with_template, ..draft.clone() })),
        ("common name", encode(CertificateDraft { alternative_names: &other_host, ..draft.clone() })),
        ("under_score", encode(CertificateDraft { alternative_names: &bad_host, ..draft.clone() })),
        ("mapped", encode(CertificateDraft { alternative_names: &mapped, ..draft.clone() })),
        ("alternative names", encode(CertificateDraft { alternative_names: &twice, ..draft.clone() })),
        ("subject", encode(CertificateDraft { subject: &empty, alternative_names: &[], ..draft.clone() })),
        ("subject", encode(CertificateDraft { subject: &root.facts.name, ..draft.clone() })),
        ("2.5.29.14 is missing", patched(&good, "0603551d0e", "0603551d0d")),
        ("twice", patched(&good, "0603551d0e", "0603551d23")),
        ("subject key identifier", patched(&good, &hex::encode(key.key_identifier()), &"11".repeat(20))),
        ("key usage", patched(&good, "03020388", "03020780")),
        ("key usage", patched(&good, "03020388", "03020188")),
        ("structure", [good.as_slice(), &[0]].concat()),
        ("structure", good[..good.len() - 1].to_vec()),
        ("version", patched(&good, "a003020102", "a003020101")),
        ("serial", patched(&good, &format!("0214{}", &parts.serial.to_string()[..2]), "0214ff")),
        ("criticality", patched(&good, "0603551d0f0101ff", "0603551d130101ff").to_vec()),
    ];
    for (number, (rule, tbs)) in cases.iter().enumerate() {
        let error = match lint(tbs, &context) {
            Ok(_) => panic!("case {number} ({rule}) passed"),
            Err(Error::Refused(refusal)) => refusal.private(),
            Err(Error::Fault(fault)) => fault.to_string(),
        };
        let expected = if number == cases.len() - 1 { "twice" } else { rule };
        assert!(error.contains(expected), "case {number} ({rule}): {error}");
    }
}

#[test]
fn s07_name_constraints_and_path_length_of_the_chain_hold() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path();
    let key = directory.join("constrained.key");
    let settings = concat!(
        "[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN=Constrained\n[ext]\n",
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n",
        "nameConstraints=critical,permitted;DNS:example.org,excluded;DNS:bad.example.org,permitted;IP:10.0.0.0/255.0.0.0,",
        "permitted;email:.example.org\n"
    );
    let config = directory.join("constrained.cnf");
    std::fs::write(&config, settings).unwrap();
    let arguments = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "30",
        "-outform",
        "DER",
    ];
    let output =
        Command::new("openssl").args(arguments).arg("-config").arg(&config).arg("-keyout").arg(&key).output().unwrap();
    let facts = IssuerFacts::from_chain(&[&output.stdout], KeyAlgorithm::EcP256).unwrap();
    assert_eq!(facts.constraints.path_len, Some(0));

    let subject = DistinguishedName::parse("o=ABC").unwrap();
    let host = DistinguishedName::parse("cn=www.example.com").unwrap();
    for (allowed, subject, name) in [
        (true, &subject, "dns:www.example.org"),
        (true, &subject, "dns:example.org"),
        (false, &subject, "dns:www.example.com"),
        (false, &subject, "dns:badexample.org"),
        (false, &subject, "dns:bad.example.org"),
        (false, &subject, "dns:x.bad.example.org"),
        (false, &subject, "dns:*.example.org"),
        (true, &subject, "ip:10.1.2.3"),
        (false, &subject, "ip:11.1.2.3"),
        (true, &subject, "email:ann@a.example.org"),
        (false, &subject, "email:ann@example.org"),
        (true, &subject, "upn:ann@anywhere.example"),
        (false, &host, "ip:10.1.2.3"),
    ] {
        let verdict = facts.constraints.check(subject, &[AlternativeName::parse(name).unwrap()]);
        assert_eq!(verdict.is_ok(), allowed, "{subject} {name}");
    }
    // Two such authorities in a row are one too many.
    let twice = IssuerFacts::from_chain(&[&output.stdout, &output.stdout], KeyAlgorithm::EcP256).unwrap_err();
    assert_eq!(twice.reason(), Reason::Malformed);
}

#[test]
fn an_authoritys_request_to_an_external_root_is_one_that_openssl_verifies() {
    let (pair, key) = p256();
    let name = DistinguishedName::parse("cn=ABC Issuing,o=ABC,c=DE").unwrap();
    let info = tbs::certification_request_info(&name, &key, Profile::find("basic-ca-subord").unwrap()).unwrap();
    let signature = pair.sign(&SystemRandom::new(), &info).unwrap();
    let request = tbs::assemble_certification_request(&info, KeyAlgorithm::EcP256, signature.as_ref()).unwrap();
    let text = openssl(&["req", "-inform", "DER", "-noout", "-verify", "-text"], &request);
    for expected in ["CA:TRUE, pathlen:0", "Digital Signature, Certificate Sign, CRL Sign", "Subject Key Identifier"] {
        assert!(text.contains(expected), "{text}");
    }
}
