//! Values that would not work, found before anything starts.

use crate::{CertificateSource, Settings};

/// The longest time for a validation, in seconds.
const TIMEOUT_S_MAX: u64 = 15;

/// The longest time for the answer of a remote perspective, in seconds.
const PERSPECTIVE_TIMEOUT_S_MAX: u64 = 20;

/// A value that cannot be used.
pub(crate) struct Wrong {
    pub(crate) key: &'static str,
    pub(crate) why: String,
}

fn wrong(key: &'static str, why: impl Into<String>) -> Wrong {
    Wrong { key, why: why.into() }
}

pub(crate) fn check(settings: &Settings) -> Result<(), Wrong> {
    base_url("https.base_url", "https", &settings.https.base_url)?;
    base_url("http.base_url", "http", &settings.http.base_url)?;
    server_certificate(settings)?;
    metrics_stay_on_this_machine(settings)?;
    nothing_is_zero(settings)?;
    tokens(settings)?;
    bounds(settings)?;
    zones(settings)?;
    perspectives(settings)?;
    order(settings)
}

fn base_url(key: &'static str, scheme: &str, text: &str) -> Result<(), Wrong> {
    let url = url::Url::parse(text).map_err(|error| wrong(key, format!("no URL: {error}")))?;
    let bare = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if url.scheme() != scheme || !bare || text.ends_with('/') {
        return Err(wrong(key, format!("must look like {scheme}://pki.example or {scheme}://pki.example:1234")));
    }
    Ok(())
}

fn server_certificate(settings: &Settings) -> Result<(), Wrong> {
    let certificate = &settings.https.certificate;
    if certificate.source == CertificateSource::Own {
        return Ok(());
    }
    if certificate.certificate_path.is_none() {
        return Err(wrong("https.certificate.certificate_path", "must be set when source is \"files\""));
    }
    if certificate.key_path.is_none() {
        return Err(wrong("https.certificate.key_path", "must be set when source is \"files\""));
    }
    Ok(())
}

fn metrics_stay_on_this_machine(settings: &Settings) -> Result<(), Wrong> {
    match settings.metrics.listen {
        Some(address) if !address.ip().is_loopback() => {
            Err(wrong("metrics.listen", "must be a loopback address, since anyone who reaches it may read it"))
        }
        Some(_) | None => Ok(()),
    }
}

fn nothing_is_zero(settings: &Settings) -> Result<(), Wrong> {
    let limits = &settings.limits;
    let issuing = &settings.issuing;
    let validation = &settings.validation;
    let counts: [(&'static str, usize); 11] = [
        ("limits.connections_max", limits.connections_max),
        ("limits.connections_per_address_max", limits.connections_per_address_max),
        ("limits.enroll_threads", limits.enroll_threads),
        ("limits.enroll_queue_max", limits.enroll_queue_max),
        ("limits.status_threads", limits.status_threads),
        ("limits.status_queue_max", limits.status_queue_max),
        ("limits.remote_threads", limits.remote_threads),
        ("limits.remote_queue_max", limits.remote_queue_max),
        ("issuing.ocsp_cache_entries_max", issuing.ocsp_cache_entries_max),
        ("validation.concurrency_max", validation.concurrency_max),
        ("validation.connections_per_address_max", validation.connections_per_address_max),
    ];
    let seconds: [(&'static str, u64); 20] = [
        ("limits.header_read_timeout_s", limits.header_read_timeout_s),
        ("limits.body_read_timeout_s", limits.body_read_timeout_s),
        ("limits.idle_timeout_s", limits.idle_timeout_s),
        ("limits.handshake_timeout_s", limits.handshake_timeout_s),
        ("limits.http2_streams_max", limits.http2_streams_max.into()),
        ("limits.retry_after_s", limits.retry_after_s.into()),
        ("limits.issue_rate_per_requester_per_s", limits.issue_rate_per_requester_per_s.into()),
        ("limits.issue_burst_per_requester_max", limits.issue_burst_per_requester_max.into()),
        ("issuing.crl_publish_delay_s", issuing.crl_publish_delay_s),
        ("issuing.crl_renew_s", issuing.crl_renew_s),
        ("issuing.ocsp_validity_s", issuing.ocsp_validity_s),
        ("issuing.status_retention_days", issuing.status_retention_days.into()),
        ("issuing.ticket_waiting_days", issuing.ticket_waiting_days.into()),
        ("issuing.ticket_retention_days", issuing.ticket_retention_days.into()),
        ("validation.connect_timeout_s", validation.connect_timeout_s),
        ("validation.dns_timeout_s", validation.dns_timeout_s),
        ("validation.timeout_s", validation.timeout_s),
        ("validation.perspective_timeout_s", validation.perspective_timeout_s),
        ("store.cache_bytes", settings.store.cache_bytes),
        ("store.journal_bytes", settings.store.journal_bytes),
    ];
    let zero = counts
        .into_iter()
        .map(|(key, count)| (key, count == 0))
        .chain(seconds.into_iter().map(|(key, value)| (key, value == 0)))
        .find(|(_, zero)| *zero);
    match zero {
        Some((key, _)) => Err(wrong(key, "must be at least 1")),
        None => Ok(()),
    }
}

fn tokens(settings: &Settings) -> Result<(), Wrong> {
    let keys = &settings.keys;
    for (name, token) in &keys.pkcs11 {
        let wrong = |why: &str| Err(wrong("keys.pkcs11", format!("[keys.pkcs11.{name}]: {why}")));
        let plain = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
        if name.is_empty() || !name.bytes().all(plain) || name == FILES {
            return wrong("a key store's name has lower-case letters, digits and hyphens, and is not \"file\"");
        }
        if !token.module_path.is_absolute() {
            return wrong("module_path must be the full path of the PKCS#11 module");
        }
        if token.token.is_empty() {
            return wrong("token must be the token's label, or a PKCS#11 URI");
        }
        if token.pin_path.is_some() && token.pin_variable.is_some() {
            return wrong("the PIN comes from pin_path or from pin_variable, not from both");
        }
        if !(1..=256).contains(&token.sessions) || token.queue_max == 0 {
            return wrong("sessions must lie from 1 to 256, and queue_max be at least 1");
        }
        if !(1..=300).contains(&token.deadline_s) || !(1..=3600).contains(&token.generate_deadline_s) {
            return wrong("deadline_s must lie from 1 to 300, and generate_deadline_s from 1 to 3600");
        }
    }
    let homes = [
        ("keys.authorities", &keys.authorities),
        ("keys.responders", &keys.responders),
        ("keys.services", &keys.services),
    ];
    for (key, home) in homes {
        if let Some(home) = home
            && home != FILES
            && !keys.pkcs11.contains_key(home)
        {
            return Err(wrong(
                key,
                format!("there is no key store {home:?}: it is \"file\" or a name in [keys.pkcs11]"),
            ));
        }
    }
    Ok(())
}

/// The key store of encrypted files.
const FILES: &str = "file";

fn bounds(settings: &Settings) -> Result<(), Wrong> {
    let limits = &settings.limits;
    let bytes: [(&'static str, usize, usize, usize); 3] = [
        // hyper keeps one buffer of this size for each connection and refuses less than 8 KiB
        ("limits.header_bytes_max", limits.header_bytes_max, 8 << 10, 1 << 20),
        ("limits.body_bytes_max", limits.body_bytes_max, 4 << 10, 64 << 20),
        ("validation.body_bytes_max", settings.validation.body_bytes_max, 128, 64 << 10),
    ];
    for (key, value, least, most) in bytes {
        if !(least..=most).contains(&value) {
            return Err(wrong(key, format!("must lie from {least} to {most}")));
        }
    }
    if limits.bodies_bytes_max < limits.body_bytes_max {
        return Err(wrong("limits.bodies_bytes_max", "must be at least body_bytes_max"));
    }
    if settings.validation.redirects_max > 10 {
        return Err(wrong("validation.redirects_max", "must be at most 10"));
    }
    // A validation belongs to a node for 30 seconds; what waits and asks must be done by then.
    if settings.validation.timeout_s > TIMEOUT_S_MAX {
        return Err(wrong("validation.timeout_s", format!("must be at most {TIMEOUT_S_MAX}")));
    }
    if settings.validation.perspective_timeout_s > PERSPECTIVE_TIMEOUT_S_MAX {
        return Err(wrong("validation.perspective_timeout_s", format!("must be at most {PERSPECTIVE_TIMEOUT_S_MAX}")));
    }
    Ok(())
}

fn zones(settings: &Settings) -> Result<(), Wrong> {
    for zone in &settings.validation.zones {
        if zone.resolvers.is_empty() || zone.name.trim_matches('.').is_empty() || !zone.name.is_ascii() {
            return Err(wrong(
                "validation.zones",
                "each zone has a name in A-labels and at least one DNS server, such as { name = \"corp.example\", resolvers = [\"10.0.0.53:53\"] }",
            ));
        }
    }
    Ok(())
}

fn perspectives(settings: &Settings) -> Result<(), Wrong> {
    for (name, perspective) in &settings.validation.perspectives {
        let wrong =
            |why: &str| Err(wrong("validation.perspectives", format!("[validation.perspectives.{name}]: {why}")));
        let plain = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
        if name.is_empty() || !name.bytes().all(plain) {
            return wrong("a perspective's name has lower-case letters, digits and hyphens");
        }
        if base_url("url", "https", &perspective.url).is_err() {
            return wrong("url must look like https://perspective.example:8443");
        }
        let paths = [&perspective.roots_path, &perspective.certificate_path, &perspective.key_path];
        if paths.iter().any(|path| path.as_os_str().is_empty()) {
            return wrong("roots_path, certificate_path and key_path must be set");
        }
    }
    if settings.perspective.ports.is_empty() || settings.perspective.ports.contains(&0) {
        return Err(wrong("perspective.ports", "must name at least one port, and none that is 0"));
    }
    Ok(())
}

fn order(settings: &Settings) -> Result<(), Wrong> {
    let issuing = &settings.issuing;
    if issuing.crl_validity_s <= issuing.crl_renew_s {
        return Err(wrong(
            "issuing.crl_validity_s",
            "must be more than crl_renew_s, or clients would be left without a valid CRL",
        ));
    }
    Ok(())
}
