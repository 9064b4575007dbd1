//! What operators state for an endpoint of the protocol `mdm`.

use std::collections::BTreeSet;

use ca_backend::{
    DistinguishedName, Endpoint, EndpointName, KeyAlgorithm, ProfileName, Reason, Refusal, RequestedNames, Right,
    Serial,
};
use const_oid::ObjectIdentifier;
use serde::Deserialize;

use crate::archive::ArchiveOptions;
use crate::template::{NameKind, Template, Values, is_variable};

const CONFIGURATIONS_MAX: usize = 100;
const DAY_S: u64 = 86_400;

/// The options of an endpoint. Everything may be left out, but an endpoint without configurations and challenges does nothing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MdmOptions {
    /// What can be had.
    pub configurations: Vec<ConfigurationOptions>,
    /// Clients that show a certificate in place of a token.
    pub clients: Vec<ClientOptions>,
    /// One-time challenges for a SCEP endpoint; none are made if not stated.
    pub challenges: Option<ChallengeOptions>,
    /// For whom keys that are made here are archived; none are kept if not stated.
    pub archive: Option<ArchiveOptions>,
}

/// One kind of certificate, with templates for its names.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigurationOptions {
    /// Its name: letters, digits, `-` and `_`.
    pub name: String,
    /// A line for people.
    #[serde(default)]
    pub title: String,
    /// The profile, one of the endpoint's.
    pub profile: ProfileName,
    /// Where the names come from.
    #[serde(default)]
    pub names: NameSource,
    /// The subject, from general to specific.
    #[serde(default)]
    pub subject: Vec<AttributeTemplate>,
    /// The alternative names.
    #[serde(default)]
    pub alternative_names: Vec<NameTemplate>,
    /// The kind of key that is made here if a device makes none.
    #[serde(default = "rsa_2048")]
    pub key: KeyAlgorithm,
    /// The time of validity in seconds; the profile's if not stated.
    #[serde(default)]
    pub validity_s: Option<u64>,
}

/// Where the names of a certificate come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NameSource {
    /// From the templates; those in a CSR do not count.
    #[default]
    Templates,
    /// From the CSR, within the access rules.
    Request,
}

/// A subject attribute.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeTemplate {
    /// Its type: `cn`, `o`, `serialNumber`, or an object identifier.
    pub attribute: String,
    /// Its value, with places.
    pub value: String,
    /// Whether it is left out when a place has no value.
    #[serde(default)]
    pub optional: bool,
}

/// An alternative name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameTemplate {
    /// A type, a colon and a value with places: `dns:{device.name}.example.org`.
    pub value: String,
    /// Whether it is left out when a place has no value.
    #[serde(default)]
    pub optional: bool,
}

/// What the holder of a certificate may do.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientOptions {
    /// The serial of the certificate, hexadecimal.
    pub certificate: String,
    /// What its holder may do.
    pub rights: BTreeSet<Right>,
}

/// How challenges are made.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeOptions {
    /// The SCEP endpoint where they are presented.
    pub scep_endpoint: EndpointName,
    /// How long one may be presented, in seconds, unless it is asked for otherwise.
    #[serde(default = "hour_s")]
    pub lifetime_s: u64,
    /// The most challenges of one client that may wait to be used.
    #[serde(default = "thousand")]
    pub outstanding_max: usize,
    /// The most challenges in a minute.
    #[serde(default = "sixty")]
    pub per_minute_max: u32,
    /// Whether the page of NDES, `/certsrv/mscep_admin/`, leads here too. One endpoint of a node may have it.
    #[serde(default)]
    pub ndes: bool,
    /// The encoding of that page.
    #[serde(default)]
    pub ndes_charset: Charset,
}

/// An encoding of the NDES page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Charset {
    /// Little endian with a byte order mark, as Windows sends it.
    #[default]
    #[serde(rename = "utf-16le")]
    Utf16Le,
    /// For readers that know nothing else.
    #[serde(rename = "utf-8")]
    Utf8,
}

fn rsa_2048() -> KeyAlgorithm {
    KeyAlgorithm::Rsa2048
}

fn hour_s() -> u64 {
    3_600
}

fn thousand() -> usize {
    1_000
}

fn sixty() -> u32 {
    60
}

/// A configuration that was read.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) profile: ProfileName,
    pub(crate) source: NameSource,
    pub(crate) key: KeyAlgorithm,
    pub(crate) validity_s: Option<u64>,
    subject: Vec<(ObjectIdentifier, Template, bool)>,
    alternative: Vec<(NameKind, Template, bool)>,
}

impl Configuration {
    /// The variables that a request states, and whether each must be there.
    pub(crate) fn variables(&self) -> Vec<(String, bool)> {
        let subject = self.subject.iter().map(|(_, template, optional)| (template, *optional));
        let alternative = self.alternative.iter().map(|(_, template, optional)| (template, *optional));
        let mut required = BTreeSet::new();
        let mut all = BTreeSet::new();
        for (template, optional) in subject.chain(alternative) {
            for place in template.places() {
                all.insert(place.to_owned());
                if !optional {
                    required.insert(place.to_owned());
                }
            }
        }
        all.into_iter().map(|place| (place.clone(), required.contains(&place))).collect()
    }

    /// The names that these values make.
    ///
    /// # Errors
    /// A refusal that names the value that is missing or may not stand where it goes.
    pub(crate) fn names(&self, values: &Values) -> Result<RequestedNames, Refusal> {
        let mut attributes = Vec::new();
        for (kind, template, optional) in &self.subject {
            if !*optional || template.is_covered_by(values) {
                attributes.push((*kind, template.attribute(values)?));
            }
        }
        let mut alternative = Vec::new();
        for (kind, template, optional) in &self.alternative {
            if !*optional || template.is_covered_by(values) {
                alternative.push(template.alternative_name(*kind, values)?);
            }
        }
        let subject =
            DistinguishedName::from_attributes(attributes.iter().map(|(kind, value)| (*kind, value.as_str())))?;
        Ok(RequestedNames { subject, alternative })
    }
}

impl MdmOptions {
    /// Reads and checks the options of an endpoint.
    ///
    /// # Errors
    /// `Reason::Malformed` with what is wrong.
    pub fn parse(endpoint: &Endpoint) -> Result<Self, Refusal> {
        if endpoint.options.is_null() {
            return Ok(Self::default());
        }
        if !endpoint.options.is_object() {
            return Err(malformed("the options of an mdm endpoint are an object"));
        }
        let options = Self::deserialize(&endpoint.options)
            .map_err(|error| malformed(format!("the options of an mdm endpoint cannot be read: {error}")))?;
        options.read_configurations(endpoint)?;
        for client in &options.clients {
            Serial::parse(&client.certificate)
                .map_err(|_| malformed(format!("{:?} is no serial of a certificate", client.certificate)))?;
        }
        if let Some(archive) = &options.archive {
            archive.read()?;
        }
        if let Some(challenges) = &options.challenges {
            if !(60..=90 * DAY_S).contains(&challenges.lifetime_s) {
                return Err(malformed("challenges.lifetime_s is between 60 (a minute) and 7776000 (90 days)"));
            }
            if !(1..=10_000).contains(&challenges.outstanding_max) || challenges.per_minute_max == 0 {
                return Err(malformed("challenges.outstanding_max is 1 to 10000, per_minute_max at least 1"));
            }
        }
        Ok(options)
    }

    /// The configurations, read.
    pub(crate) fn read_configurations(&self, endpoint: &Endpoint) -> Result<Vec<Configuration>, Refusal> {
        let mut names = BTreeSet::new();
        if self.configurations.len() > CONFIGURATIONS_MAX {
            return Err(malformed(format!("an endpoint has at most {CONFIGURATIONS_MAX} configurations")));
        }
        let mut read = Vec::new();
        for stated in &self.configurations {
            let refuse = |why: &str| Err(malformed(format!("configuration {:?} {why}", stated.name)));
            if !is_variable(&stated.name) || !names.insert(&stated.name) {
                return refuse("is there twice, or is not named by letters, digits, - and _");
            }
            if !endpoint.profiles.contains(&stated.profile) {
                return refuse(&format!("has the profile {}, which the endpoint does not offer", stated.profile));
            }
            let templates = !stated.subject.is_empty() || !stated.alternative_names.is_empty();
            match stated.names {
                NameSource::Templates if !templates => return refuse("has no template for a name"),
                NameSource::Request if templates => return refuse("takes the names of requests and has templates too"),
                NameSource::Templates | NameSource::Request => {}
            }
            if stated.validity_s == Some(0) {
                return refuse("has no time of validity");
            }
            let mut subject = Vec::new();
            for template in &stated.subject {
                let kind = DistinguishedName::attribute_type(&template.attribute)
                    .ok_or_else(|| malformed(format!("{:?} is no attribute such as cn", template.attribute)))?;
                subject.push((kind, Template::parse(&template.value)?, template.optional));
            }
            let mut alternative = Vec::new();
            for template in &stated.alternative_names {
                let (kind, text) = NameKind::split(&template.value)?;
                alternative.push((kind, Template::parse(text)?, template.optional));
            }
            read.push(Configuration {
                name: stated.name.clone(),
                title: stated.title.clone(),
                profile: stated.profile.clone(),
                source: stated.names,
                key: stated.key,
                validity_s: stated.validity_s,
                subject,
                alternative,
            });
        }
        Ok(read)
    }
}

fn malformed(why: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Malformed, why)
}
