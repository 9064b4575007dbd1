//! `certgate acme`: who enrolls by ACME.

use ca_backend::EndpointName;
use clap::{Args, Subcommand};
use http::Method;

use super::daemon::{Daemon, part};
use super::failure::Failure;
use super::output::Output;
use super::table::{fields, or_empty, table};
use crate::admin::acme_accounts::{AcmeAccount, AcmeLimits};

/// What to do with ACME endpoints.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The accounts of an endpoint
    #[command(subcommand)]
    Account(AccountCommand),
}

/// What to do with accounts.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// List the accounts of an endpoint
    List {
        /// The endpoint
        endpoint: EndpointName,
        /// Go on after this account
        #[arg(long, value_name = "ACCOUNT")]
        after: Option<String>,
    },
    /// Show one account
    Show(Which),
    /// Close an account for good; its certificates stay
    Deactivate(Which),
    /// Set the limits of an account that are not those of its endpoint; those that are not given become the endpoint's again
    Override {
        /// Which one
        #[command(flatten)]
        which: Which,
        /// Its limits
        #[command(flatten)]
        limits: Limits,
    },
}

/// Names an account.
#[derive(Debug, Args)]
pub struct Which {
    /// The endpoint
    endpoint: EndpointName,
    /// The account, the last part of its address
    account: String,
}

/// Limits of an account; 0 sets no limit.
#[derive(Debug, Args)]
pub struct Limits {
    /// Orders and pre-authorizations in an hour
    #[arg(long, value_name = "COUNT")]
    orders_per_account_per_h: Option<u32>,
    /// Orders that name one identifier, in a day
    #[arg(long, value_name = "COUNT")]
    orders_per_name_per_day: Option<u32>,
    /// Certificates for exactly the same identifiers, in a week
    #[arg(long, value_name = "COUNT")]
    duplicates_per_week: Option<u32>,
    /// Failed validations of one identifier, in an hour
    #[arg(long, value_name = "COUNT")]
    failed_validations_per_h: Option<u32>,
    /// Authorizations that wait for an answer at the same time
    #[arg(long, value_name = "COUNT")]
    pending_authorizations_max: Option<u32>,
}

pub(super) fn run(command: Command, daemon: &Daemon, output: Output) -> Result<(), Failure> {
    let Command::Account(command) = command;
    let account: AcmeAccount = match command {
        AccountCommand::List { endpoint, after } => {
            let after = after.map(|account| format!("?after={}", part(&account))).unwrap_or_default();
            let accounts: Vec<AcmeAccount> =
                daemon.get(&format!("/v1/endpoints/{}/acme-accounts{after}", part(endpoint.as_str())))?;
            return output.show(&accounts, |accounts| list(accounts));
        }
        AccountCommand::Show(which) => daemon.get(&path(&which))?,
        AccountCommand::Deactivate(which) => {
            daemon.ask(Method::POST, &format!("{}/deactivate", path(&which)), &serde_json::json!({}))?
        }
        AccountCommand::Override { which, limits } => {
            let limits = AcmeLimits {
                orders_per_account_per_h: limits.orders_per_account_per_h,
                orders_per_name_per_day: limits.orders_per_name_per_day,
                duplicates_per_week: limits.duplicates_per_week,
                failed_validations_per_h: limits.failed_validations_per_h,
                pending_authorizations_max: limits.pending_authorizations_max,
            };
            daemon.ask(Method::PUT, &format!("{}/limits", path(&which)), &limits)?
        }
    };
    output.show(&account, one)
}

fn path(which: &Which) -> String {
    format!("/v1/endpoints/{}/acme-accounts/{}", part(which.endpoint.as_str()), part(&which.account))
}

fn list(accounts: &[AcmeAccount]) -> String {
    let rows = accounts.iter().map(|account| {
        [
            account.id.clone(),
            account.status.clone(),
            account.created.to_string(),
            or_empty(account.credential.as_ref()),
            account.contact.join(" "),
        ]
    });
    table(["ACCOUNT", "STATUS", "CREATED", "CREDENTIAL", "CONTACT"], rows)
}

fn one(account: &AcmeAccount) -> String {
    fields([
        ("account", account.id.clone()),
        ("status", account.status.clone()),
        ("created", account.created.to_string()),
        ("contact", account.contact.join(" ")),
        ("terms agreed", or_empty(account.terms_agreed.as_ref())),
        ("key", account.key.clone()),
        ("credential", or_empty(account.credential.as_ref())),
        ("orders per hour", or_empty(account.limits.orders_per_account_per_h.as_ref())),
        ("orders per name and day", or_empty(account.limits.orders_per_name_per_day.as_ref())),
        ("duplicates per week", or_empty(account.limits.duplicates_per_week.as_ref())),
        ("failed validations per hour", or_empty(account.limits.failed_validations_per_h.as_ref())),
        ("pending authorizations", or_empty(account.limits.pending_authorizations_max.as_ref())),
    ])
}
