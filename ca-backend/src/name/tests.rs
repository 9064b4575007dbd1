//! Names as text and as DER, the extensions that requests bring, and operators' own profiles.

use crate::error::Reason;
use crate::extension::{RequestedExtensions, resolve};
use crate::name::{AlternativeName, DistinguishedName};
use crate::profile::{Profile, purpose};
use const_oid::ObjectIdentifier;

#[test]
fn a_name_is_encoded_from_general_to_specific_with_the_right_string_types() {
    let name = DistinguishedName::parse("cn=ABC,serialNumber=7,dc=example,c=DE").unwrap();
    let der = concat!(
        "3040",
        "310b3009060355040613024445",                         // C, PrintableString
        "31173015060a0992268993f22c64011916076578616d706c65", // DC, IA5String
        "310a3008060355040513",
        "0137",                         // serialNumber, PrintableString
        "310c300a06035504030c03414243"  // CN, UTF8String
    );
    assert_eq!(hex::encode(name.as_der()), der);
    assert_eq!(name.to_string(), "CN=ABC,serialNumber=7,DC=example,C=DE");
    assert_eq!(name.search_key(), "cn=abc,serialnumber=7,dc=example,c=de");
    assert_eq!(name.common_names(), ["ABC"]);
}

#[test]
fn s05_values_are_data_and_special_characters_survive() {
    let value = "a,b+c\"d\\e<f>g;h=i/j*#";
    let name = DistinguishedName::from_attributes([(const_oid::db::rfc4519::CN, value)]).unwrap();
    assert_eq!(name.common_names(), [value]);
    assert_eq!(DistinguishedName::parse(&name.to_string()).unwrap(), name);
    let nothing = DistinguishedName::parse("").unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn names_that_break_a_rule_are_refused() {
    for text in [
        "cn",
        "cn=",
        "nonsense=a",
        "c=de",
        "c=DEU",
        "cn=a\\00b",
        "cn=a\\0ab",
        "cn=a;b",
        "cn=a<b",
        "cn=a\\",
        "serialNumber=a@b",
        "emailAddress=\u{fc}@example.org",
        &format!("cn={}", "x".repeat(65)),
        &format!("cn={}", "x".repeat(9000)),
    ] {
        assert!(DistinguishedName::parse(text).is_err(), "{text}");
    }
    for der in ["", "30", "3000ff", "3180", "3002 3100", "300d310b300906035504030c020061"] {
        let bytes = hex::decode(der.replace(' ', "")).unwrap();
        assert!(DistinguishedName::from_der(&bytes).is_err(), "{der}");
    }
}

#[test]
fn legacy_string_types_are_read_and_turned_into_utf8_only_when_asked() {
    let bmp = hex::decode("300f310d300b06035504031e0400410042").unwrap();
    let name = DistinguishedName::from_der(&bmp).unwrap();
    assert_eq!((name.common_names(), name.as_der()), (vec!["AB".to_owned()], bmp.as_slice()));
    assert!(name.validate().is_err());
    let modern = name.with_utf8_strings().unwrap();
    assert_eq!(hex::encode(modern.as_der()), "300d310b300906035504030c024142");
}

#[test]
fn alternative_names_round_trip_through_text_and_der() {
    let texts = [
        "dns:*.example.org",
        "dns:xn--bcher-kva.example",
        "ip:192.0.2.1",
        "ip:2001:db8::1",
        "email:ann@example.org",
        "uri:https://example.org/a?b",
        "uri:tag:microsoft.com,2022-09-14:sid:S-1-5-21-1-2-3-4",
        "upn:ann@corp.example",
        "dn:CN=Ann,O=ABC",
        "rid:1.2.3",
        "permanent-identifier:X1@1.2.3",
        "hardware-module:1.2.3/0a0b",
        "other:1.2.3.4/0c0161",
    ];
    let names: Vec<AlternativeName> = texts.iter().map(|text| AlternativeName::parse(text).unwrap()).collect();
    let der = AlternativeName::encode_all(&names).unwrap();
    assert_eq!(AlternativeName::decode_all(&der).unwrap(), names);
    for (name, text) in names.iter().zip(texts) {
        assert_eq!(name.to_string(), text);
    }
    let upn = AlternativeName::encode_all(&[AlternativeName::parse("upn:ann@corp.example").unwrap()]).unwrap();
    assert_eq!(hex::encode(upn), "3022a020060a2b060104018237140203a0120c10616e6e40636f72702e6578616d706c65");
}

#[test]
fn s03_alternative_names_that_break_a_rule_are_refused() {
    for text in [
        "dns:",
        "dns:example.org.",
        "dns:a..b",
        "dns:a_b.example",
        "dns:-a.example",
        "dns:b\u{fc}cher.example",
        "dns:xn--\u{fc}.example",
        "dns:ab--cd.example",
        "dns:www.*.example",
        "dns:*",
        "dns:10.0.0.1",
        "dns:a b",
        &format!("dns:{}example", "a23456789.".repeat(30)),
        "ip:::ffff:10.0.0.1",
        "ip:10.0.0",
        "email:ann",
        "email:a@b@c.example",
        "email:a b@c.example",
        "email:ann@*.example",
        "uri:/relative",
        "uri:http://a b/",
        "uri:http:///nohost",
        "uri:https://device.example.org@evil.example/",
        "uri:https://example.org/a/../b",
        "uri:https://example.org/a/%2E%2e/b",
        "uri:https://example.org/a/.",
        "upn:ann",
        "upn:a@b@c",
        "dn:",
        "other:1.3.6.1.4.1.311.20.2.3/0c0161",
        "other:1.2.3/0c",
        "what:ever",
    ] {
        assert!(AlternativeName::parse(text).is_err(), "{text}");
    }
    for der in ["", "3000", "3003870110", "30028200ff"] {
        assert!(AlternativeName::decode_all(&hex::decode(der).unwrap()).is_err(), "{der}");
    }
}

fn oid(dotted: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(dotted)
}

#[test]
fn requested_extensions_have_the_encodings_of_their_specifications() {
    let value = |request: RequestedExtensions| hex::encode(&request.other[0].1);
    let none = RequestedExtensions::default;
    assert_eq!(value(none().with_template_name("User").unwrap()), "1e080055007300650072");
    let sid = "S-1-5-21-1-2-3-1105";
    let expected = format!("3025a023060a2b060104018237190201a0150413{}", hex::encode(sid));
    assert_eq!(value(none().with_security_identifier(sid).unwrap()), expected);
    let long = "S-1-5-21-1004336348-1177238915-682003330-51234";
    let expected = format!("3040a03e060a2b060104018237190201a030042e{}", hex::encode(long));
    assert_eq!(value(none().with_security_identifier(long).unwrap()), expected);
}

#[test]
fn s04_protected_purposes_never_come_from_a_request() {
    let scep = Profile::find("scep-digital-signature").unwrap();
    for protected in ["ocsp-signing", "time-stamping", "any", "enrollment-agent", "smart-card-logon", "pkinit-kdc"] {
        let protected = purpose::parse(protected).unwrap();
        let request = RequestedExtensions::default().with_purpose(protected);
        let refusal = resolve(scep, &request, &[protected]).unwrap_err();
        assert_eq!(refusal.reason(), Reason::NotAuthorized);
        let through_policies = RequestedExtensions::default().with_application_policies(&[protected]).unwrap();
        assert_eq!(resolve(scep, &through_policies, &[protected]).unwrap_err().reason(), Reason::NotAuthorized);
    }
    let code_signing = purpose::parse("code-signing").unwrap();
    let request = RequestedExtensions::default().with_purpose(code_signing);
    assert!(resolve(scep, &request, &[]).is_err());
    assert!(resolve(scep, &request, &[code_signing]).is_ok());
}

#[test]
fn s04_extensions_outside_the_list_or_of_a_wrong_form_are_refused() {
    let scep = Profile::find("scep-digital-signature").unwrap();
    let with = |oid, value: &str| RequestedExtensions {
        other: vec![(oid, hex::decode(value).unwrap())],
        ..Default::default()
    };
    for (oid, value) in [
        (oid("2.5.29.19"), "30030101ff"),
        (oid("2.5.29.30"), "3000"),
        (oid("2.5.29.32"), "3000"),
        (oid("2.5.29.32"), "0500"),
        (oid("1.3.6.1.4.1.311.20.2"), "0c0161"),
        (oid("1.3.6.1.4.1.311.21.7"), "3000"),
        (oid("1.2.840.113549.1.9.15"), "3000"),
        (oid("1.3.6.1.4.1.311.25.2"), "3000"),
    ] {
        assert!(resolve(scep, &with(oid, value), &[]).is_err(), "{oid} {value}");
    }
    for sid in ["S-1-5", "S-1-5-", "S-1-5-01", "S-1-5-4294967296", "S-2-5-21", "s-1-5-21", "S-1-5-21-1\u{0}"] {
        let request = RequestedExtensions::default().with_security_identifier(sid).unwrap();
        assert!(resolve(scep, &request, &[]).is_err(), "{sid:?}");
    }
    let est = Profile::find("est-digital-signature").unwrap();
    let request = RequestedExtensions::default().with_security_identifier("S-1-5-21-1").unwrap();
    assert!(resolve(scep, &request, &[]).is_ok() && resolve(est, &request, &[]).is_err());
}

const OWN: &str = r#"
id = "door"
title = "Doors"
library = "building"
key_usage = ["digital-signature"]
extended_key_usage = { rule = "fixed", values = ["client-auth", "1.2.3.4"] }
request_extensions = ["2.5.29.32"]
"#;

#[test]
fn an_operators_profile_is_read_written_and_named_by_its_content() {
    let profile = Profile::from_toml(OWN).unwrap();
    assert_eq!(Profile::from_toml(&profile.to_toml()).unwrap(), profile);
    assert_eq!(profile.snapshot_id().len(), 16);
    let other = Profile::from_toml(&OWN.replace("Doors", "Gates")).unwrap();
    assert_ne!(profile.snapshot_id(), other.snapshot_id());
}

#[test]
fn profiles_that_contradict_themselves_are_refused() {
    for (from, to) in [
        ("id = \"door\"", "id = \"scep-digital-signature\""),
        ("id = \"door\"", "id = \"Door\""),
        ("[\"digital-signature\"]", "[]"),
        ("[\"digital-signature\"]", "[\"digital-signature\", \"key-cert-sign\"]"),
        ("\"fixed\"", "\"never\""),
        (", values = [\"client-auth\", \"1.2.3.4\"]", ""),
        ("\"1.2.3.4\"", "\"ocsp-signing\""),
        ("\"1.2.3.4\"", "\"nonsense\""),
        ("\"1.2.3.4\"", "\"client-auth\""),
        ("2.5.29.32", "2.5.29.19"),
        ("title = \"Doors\"", "title = \"Doors\"\nkind = \"root\""),
        ("title = \"Doors\"", "title = \"Doors\"\nkind = \"responder\""),
        ("title = \"Doors\"", "title = \"Doors\"\npath_len = 0"),
        ("title = \"Doors\"", "title = \"Doors\"\nocsp_no_check = true"),
        ("title = \"Doors\"", "title = \"Doors\"\nsurprise = true"),
        ("title = \"Doors\"", "title = \"Doors\"\nvalidity = { default_s = 0 }"),
    ] {
        let text = OWN.replace(from, to);
        assert_ne!(text, OWN);
        assert!(Profile::from_toml(&text).is_err(), "{to}");
    }
}
