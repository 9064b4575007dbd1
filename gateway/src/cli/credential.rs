//! `certgate credential`.

use std::path::PathBuf;

use ca_backend::{
    AlternativeName, Binding, CredentialId, CredentialPurpose, DistinguishedName, DnsRule, EndpointName, NameRules,
    ProfileName, Right, SubjectKeyKind,
};
use clap::{Args, Subcommand};
use http::Method;

use super::daemon::{Daemon, display, part, query};
use super::failure::Failure;
use super::output::{Output, read_text};
use super::table::{fields, or_dash, or_empty, table};
use crate::admin::Moment;
use crate::admin::credentials::{
    Credential, CredentialEdit, CredentialPage, CredentialWish, ListParameters, NewlyMade,
};

/// What to do with credentials.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a credential; its secret is shown this once
    Create(Box<CreateArguments>),
    /// List credentials by endpoint, purpose and name
    List(ListArguments),
    /// Show one credential, all but its secret
    Show {
        /// Its name
        id: CredentialId,
    },
    /// Let nothing be done with a credential, or make no new accounts with it
    Disable {
        /// Its name
        id: CredentialId,
        /// Make no new accounts with it; those that there are go on
        #[arg(long)]
        accounts: bool,
    },
    /// Undo `disable`
    Enable {
        /// Its name
        id: CredentialId,
        /// Let new accounts be made with it again
        #[arg(long)]
        accounts: bool,
    },
    /// Remove a credential; accounts made with it get nothing any more
    Remove {
        /// Its name
        id: CredentialId,
    },
}

/// `certgate credential create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// The endpoint that it is for
    #[arg(long, value_name = "NAME")]
    endpoint: EndpointName,
    /// What it is for: external-account (ACME), challenge (SCEP), token (web services)
    #[arg(long, value_name = "PURPOSE")]
    purpose: CredentialPurpose,
    /// Its name [default: a random one]
    #[arg(long, value_name = "NAME")]
    id: Option<CredentialId>,
    /// A remark for people
    #[arg(long, default_value = "", value_name = "TEXT")]
    comment: String,
    /// A file with a challenge of your own choice in its first line; - for standard input [default: a random secret]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The last moment at which it may be presented: 2027-01-08T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires: Option<Moment>,
    /// For how many certificates it is good; 1 makes a one-time challenge [default: any number]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    uses: Option<u32>,
    /// How many ACME accounts may be made with it [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    accounts: Option<u32>,
    /// Any number of ACME accounts may be made with it
    #[arg(long, conflicts_with = "accounts")]
    unlimited_accounts: bool,
    /// A DNS name that may stand: host.example.org (itself), .example.org (everything below it), * (all). Repeat for several
    #[arg(long, value_name = "NAME", value_parser = dns)]
    dns: Vec<DnsRule>,
    /// Let *.NAME stand where NAME or something below it may
    #[arg(long, requires = "dns")]
    wildcards: bool,
    /// An address range that may stand: 10.0.0.0/8. Repeat for several
    #[arg(long, value_name = "RANGE")]
    ip: Vec<ipnet::IpNet>,
    /// A DNS name, as for --dns, that needs no challenge (ACME). Repeat for several
    #[arg(long, value_name = "NAME", value_parser = dns)]
    without_challenge: Vec<DnsRule>,
    /// The one subject that a request may have: "CN=printer 7"
    #[arg(long, value_name = "DN", value_parser = subject)]
    subject: Option<DistinguishedName>,
    /// An alternative name that a request must have, with no others than those given: dns:host.example.org. Repeat for several
    #[arg(long = "san", value_name = "TYPE:NAME", value_parser = alternative_name)]
    alternative_names: Vec<AlternativeName>,
    /// A profile that may be used [default: those that the rules allow]. Repeat for several
    #[arg(long = "profile", value_name = "ID")]
    profiles: Vec<ProfileName>,
    /// A kind of key that may be used: ec-p256, rsa-3072, ... Repeat for several
    #[arg(long = "key", value_name = "KIND")]
    keys: Vec<SubjectKeyKind>,
    /// What the bearer of a token may do: issue, revoke, hold, list, create-challenges. Repeat for several
    #[arg(long = "right", value_name = "RIGHT")]
    rights: Vec<Right>,
    /// The whole binding, TOML or JSON, for what has no option here; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dns", "wildcards", "ip", "without_challenge", "subject", "alternative_names", "profiles", "keys", "rights", "accounts"])]
    binding: Option<PathBuf>,
}

/// Which credentials to list.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Those of this endpoint
    #[arg(long, value_name = "NAME")]
    endpoint: Option<EndpointName>,
    /// Those for this purpose
    #[arg(long, value_name = "PURPOSE")]
    purpose: Option<CredentialPurpose>,
    /// Go on where a page ended
    #[arg(long)]
    cursor: Option<String>,
    /// Most credentials to show, 1 to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

fn dns(text: &str) -> Result<DnsRule, String> {
    DnsRule::try_from(text.to_owned())
}

fn subject(text: &str) -> Result<DistinguishedName, String> {
    DistinguishedName::parse(text).map_err(|refusal| refusal.public().to_owned())
}

fn alternative_name(text: &str) -> Result<AlternativeName, String> {
    AlternativeName::parse(text).map_err(|refusal| refusal.public().to_owned())
}

pub(super) fn run(command: Command, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    match command {
        Command::Create(wish) => create(*wish, daemon, output),
        Command::List(asked) => {
            let asked = ListParameters {
                endpoint: asked.endpoint,
                purpose: asked.purpose,
                cursor: asked.cursor,
                limit: asked.limit.into(),
            };
            let page: CredentialPage = daemon.get(&format!("/v1/credentials{}", query(&asked)?))?;
            output.show(&page, list)
        }
        Command::Show { id } => {
            let shown: Credential = daemon.get(&path(&id))?;
            output.show(&shown, one)
        }
        Command::Disable { id, accounts } => switch(&id, accounts, true, daemon, output),
        Command::Enable { id, accounts } => switch(&id, accounts, false, daemon, output),
        Command::Remove { id } => {
            daemon.delete(&path(&id))?;
            output.done(&format!("removed {id}"))
        }
    }
}

fn path(id: &CredentialId) -> String {
    format!("/v1/credentials/{}", part(id.as_str()))
}

fn create(wish: CreateArguments, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    let secret = match &wish.secret_file {
        Some(file) => Some(read_text(file)?.lines().next().unwrap_or_default().to_owned()),
        None => None,
    };
    let wish = CredentialWish {
        id: wish.id.clone(),
        endpoint: wish.endpoint.clone(),
        purpose: wish.purpose,
        comment: wish.comment.clone(),
        secret,
        expires: wish.expires,
        uses_max: wish.uses,
        unlimited_accounts: wish.unlimited_accounts,
        binding: binding(wish)?,
    };
    let made: NewlyMade = daemon.ask(Method::POST, "/v1/credentials", &wish)?;
    output.show(&made, |made| format!("{}secret:  {}\n", one(&made.credential), made.secret))
}

fn binding(wish: CreateArguments) -> Result<Binding, Failure> {
    if let Some(file) = &wish.binding {
        let text = read_text(file)?;
        let unreadable = |why: String| {
            Failure::usage(
                format!("{} is no binding: {why}", display(file)),
                "see the chapter on credentials in the manual page",
            )
        };
        return if text.trim_start().starts_with('{') {
            serde_json::from_str(&text).map_err(|why| unreadable(why.to_string()))
        } else {
            toml::from_str(&text).map_err(|why| unreadable(why.to_string()))
        };
    }
    let some = |stated: bool, rules: NameRules| stated.then_some(rules);
    Ok(Binding {
        names: some(
            !wish.dns.is_empty() || !wish.ip.is_empty(),
            NameRules { dns: wish.dns, wildcards: wish.wildcards, ip: wish.ip, ..NameRules::default() },
        ),
        without_challenge: some(
            !wish.without_challenge.is_empty(),
            NameRules { dns: wish.without_challenge, wildcards: wish.wildcards, ..NameRules::default() },
        ),
        subject: wish.subject,
        alternative_names: if wish.alternative_names.is_empty() { None } else { Some(wish.alternative_names) },
        profiles: if wish.profiles.is_empty() { None } else { Some(wish.profiles) },
        keys: if wish.keys.is_empty() { None } else { Some(wish.keys) },
        accounts_max: wish.accounts,
        rights: wish.rights.into_iter().collect(),
    })
}

fn switch(id: &CredentialId, accounts: bool, off: bool, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    let edit = if accounts {
        CredentialEdit { accounts_disabled: Some(off), ..CredentialEdit::default() }
    } else {
        CredentialEdit { disabled: Some(off), ..CredentialEdit::default() }
    };
    let changed: Credential = daemon.ask(Method::PATCH, &path(id), &edit)?;
    output.show(&changed, one)
}

fn state(credential: &Credential) -> String {
    let spent = credential.uses_max.is_some_and(|max| credential.uses >= max);
    let text = match (credential.disabled, spent, credential.accounts_disabled) {
        (true, _, _) => "disabled",
        (false, true, _) => "spent",
        (false, false, true) => "no new accounts",
        (false, false, false) => "enabled",
    };
    text.to_owned()
}

fn uses(credential: &Credential) -> String {
    match credential.uses_max {
        Some(max) => format!("{} of {max}", credential.uses),
        None => String::new(),
    }
}

fn one(credential: &Credential) -> String {
    let binding = serde_json::to_string(&credential.binding).unwrap_or_default();
    fields([
        ("name", credential.id.clone()),
        ("endpoint", credential.endpoint.clone()),
        ("purpose", credential.purpose.to_string()),
        ("state", state(credential)),
        ("uses", uses(credential)),
        ("expires", or_empty(credential.expires.as_ref())),
        ("waiting", if credential.waiting == 0 { String::new() } else { credential.waiting.to_string() }),
        ("accounts", if credential.accounts == 0 { String::new() } else { credential.accounts.to_string() }),
        ("binding", if binding == "{}" { String::new() } else { binding }),
        ("comment", credential.comment.clone()),
        ("created", format!("{} by {}", credential.created, credential.created_by)),
    ])
}

fn list(page: &CredentialPage) -> String {
    let rows = page.items.iter().map(|credential| {
        [
            credential.id.clone(),
            credential.endpoint.clone(),
            credential.purpose.to_string(),
            state(credential),
            uses(credential),
            or_dash(credential.expires.as_ref()),
            credential.comment.clone(),
        ]
    });
    let text = table(["NAME", "ENDPOINT", "PURPOSE", "STATE", "USES", "EXPIRES", "COMMENT"], rows);
    match &page.cursor {
        Some(cursor) => format!("{text}\nthere may be more: --cursor {cursor}\n"),
        None => text,
    }
}
