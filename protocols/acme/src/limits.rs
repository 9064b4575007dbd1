//! Limits that stop broken clients and leave good ones alone.
//!
//! Each is a rate with a burst: so many in a period, all at once if one likes, and then one whenever its share of the period is
//! over (GCRA). What is kept of it is a single moment, the one at which the limit is wholly free again.

use ca_backend::Time;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::authorization::Authorization;
use crate::error::{Attempt, Problem, ProblemType, Subproblem};
use crate::id::Id;
use crate::identifier::Identifier;
use crate::ledger::{Change, Ledger};
use crate::options::Options;
use crate::order::Order;
use crate::site::Site;

/// Requests that a limit stopped; labels `endpoint`, `limit`.
pub const LIMITED: &str = "certgate_acme_limited_total";

/// How much may be asked for at an endpoint. Zero sets no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// New accounts from one address (IPv6: one /64) in an hour.
    pub accounts_per_address_per_h: u32,
    /// Changes of one account's contacts and key in an hour. Each is kept in the audit log for good.
    pub account_changes_per_h: u32,
    /// Orders and pre-authorizations of one account in an hour.
    pub orders_per_account_per_h: u32,
    /// Orders of one account that name one identifier, in a day. Not of all: a stranger's orders would use up those of its owner.
    pub orders_per_name_per_day: u32,
    /// Certificates for exactly the same set of identifiers in a week.
    pub duplicates_per_week: u32,
    /// Failed validations of one identifier by one account in an hour.
    pub failed_validations_per_h: u32,
    /// Authorizations of one account that wait for an answer at the same time.
    pub pending_authorizations_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            accounts_per_address_per_h: 100,
            account_changes_per_h: 20,
            orders_per_account_per_h: 1_000,
            orders_per_name_per_day: 100,
            duplicates_per_week: 50,
            failed_validations_per_h: 10,
            pending_authorizations_max: 500,
        }
    }
}

/// The limits of one account that are not those of its endpoint. Zero sets no limit; what is absent is as at the endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitOverrides {
    /// Instead of [`Limits::orders_per_account_per_h`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orders_per_account_per_h: Option<u32>,
    /// Instead of [`Limits::orders_per_name_per_day`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orders_per_name_per_day: Option<u32>,
    /// Instead of [`Limits::duplicates_per_week`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicates_per_week: Option<u32>,
    /// Instead of [`Limits::failed_validations_per_h`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_validations_per_h: Option<u32>,
    /// Instead of [`Limits::pending_authorizations_max`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_authorizations_max: Option<u32>,
}

impl LimitOverrides {
    /// Whether all limits are as at the endpoint.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Limits {
    /// The limits as they are for one account.
    pub(crate) fn of(&self, account: &Account) -> Self {
        let own = &account.limits;
        Self {
            accounts_per_address_per_h: self.accounts_per_address_per_h,
            account_changes_per_h: self.account_changes_per_h,
            orders_per_account_per_h: own.orders_per_account_per_h.unwrap_or(self.orders_per_account_per_h),
            orders_per_name_per_day: own.orders_per_name_per_day.unwrap_or(self.orders_per_name_per_day),
            duplicates_per_week: own.duplicates_per_week.unwrap_or(self.duplicates_per_week),
            failed_validations_per_h: own.failed_validations_per_h.unwrap_or(self.failed_validations_per_h),
            pending_authorizations_max: own.pending_authorizations_max.unwrap_or(self.pending_authorizations_max),
        }
    }
}

/// What is counted. The octets are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Accounts = 1,
    Orders = 2,
    Name = 3,
    Duplicates = 4,
    FailedValidations = 5,
    Changes = 6,
}

impl Limit {
    fn period_s(self) -> u64 {
        const HOUR_S: u64 = 3600;
        match self {
            Self::Accounts | Self::Orders | Self::FailedValidations | Self::Changes => HOUR_S,
            Self::Name => 24 * HOUR_S,
            Self::Duplicates => 7 * 24 * HOUR_S,
        }
    }

    /// The option that sets it.
    fn name(self) -> &'static str {
        match self {
            Self::Accounts => "accounts_per_address_per_h",
            Self::Orders => "orders_per_account_per_h",
            Self::Name => "orders_per_name_per_day",
            Self::Duplicates => "duplicates_per_week",
            Self::FailedValidations => "failed_validations_per_h",
            Self::Changes => "account_changes_per_h",
        }
    }

    fn of(self, limits: &Limits) -> u32 {
        match self {
            Self::Accounts => limits.accounts_per_address_per_h,
            Self::Orders => limits.orders_per_account_per_h,
            Self::Name => limits.orders_per_name_per_day,
            Self::Duplicates => limits.duplicates_per_week,
            Self::FailedValidations => limits.failed_validations_per_h,
            Self::Changes => limits.account_changes_per_h,
        }
    }
}

/// One more of something that is limited.
#[derive(Debug)]
pub(crate) struct Use {
    limit: Limit,
    subject: String,
    free_again_ms: u64,
}

impl Use {
    /// Counts it, in the commit of what it is.
    pub(crate) fn count(self, change: Change<'_>) -> Change<'_> {
        change.use_up(self.limit as u8, &self.subject, self.free_again_ms)
    }
}

/// One more, and whether it fits: `Err` with the seconds until it would. `None` where there is no limit.
pub(crate) fn one_more(
    ledger: &Ledger,
    now: Time,
    limits: &Limits,
    limit: Limit,
    subject: String,
) -> Attempt<Option<Result<Use, u32>>> {
    let max = u64::from(limit.of(limits));
    if max == 0 {
        return Ok(None);
    }
    let period_ms = limit.period_s() * 1000;
    let now_ms = now.unix().saturating_mul(1000);
    let free_again_ms = ledger.free_again_ms(limit as u8, &subject)?.max(now_ms).saturating_add(period_ms / max);
    let too_early_ms = free_again_ms.saturating_sub(now_ms.saturating_add(period_ms));
    Ok(Some(if too_early_ms == 0 {
        Ok(Use { limit, subject, free_again_ms })
    } else {
        Err(u32::try_from(too_early_ms.div_ceil(1000)).unwrap_or(u32::MAX))
    }))
}

/// The subject of what an account does about one identifier.
fn name_of(account: &Id, identifier: &Identifier) -> String {
    format!("{account} {identifier}")
}

/// The subject of duplicates: the identifiers in an order that does not depend on the request.
fn set_of(identifiers: &[Identifier]) -> String {
    let mut names: Vec<String> = identifiers.iter().map(Identifier::to_string).collect();
    names.sort();
    names.join(" ")
}

/// One more certificate for the same identifiers. It is there already, so that nothing can stop it any more.
pub(crate) fn certificate_issued(ledger: &Ledger, now: Time, options: &Options, order: &Order) -> Attempt<Option<Use>> {
    let limits = limits_of(ledger, options, &order.account)?;
    let more = one_more(ledger, now, &limits, Limit::Duplicates, set_of(&order.identifiers))?;
    Ok(more.and_then(Result::ok))
}

/// One more validation that failed.
pub(crate) fn validation_failed(
    ledger: &Ledger,
    now: Time,
    options: &Options,
    authorization: &Authorization,
) -> Attempt<Option<Use>> {
    let limits = limits_of(ledger, options, &authorization.account)?;
    let subject = name_of(&authorization.account, &authorization.identifier);
    Ok(one_more(ledger, now, &limits, Limit::FailedValidations, subject)?.and_then(Result::ok))
}

/// The limits of an account, by which its uses are counted as well: a use takes a share of the period.
fn limits_of(ledger: &Ledger, options: &Options, account: &Id) -> Attempt<Limits> {
    let account = ledger.account(account)?;
    Ok(account.map_or_else(|| options.limits.clone(), |account| options.limits.of(&account.value)))
}

impl Site<'_> {
    /// Whether another account may be made from this address.
    pub(crate) fn admit_account(&self) -> Attempt<Option<Use>> {
        let address = match self.peer.address.ip().to_canonical() {
            std::net::IpAddr::V4(v4) => v4.to_string(),
            std::net::IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
        };
        self.admit(&self.options.limits, Limit::Accounts, address)
    }

    /// Whether an account may be changed once more.
    pub(crate) fn admit_change(&self, account: &Account) -> Attempt<Option<Use>> {
        self.admit(&self.options.limits, Limit::Changes, account.id.to_string())
    }

    /// Whether an account may order these identifiers, and show control of those in `to_show` for it. A renewal within its window is
    /// never too much: it was asked for.
    pub(crate) fn admit_order(
        &self,
        account: &Account,
        identifiers: &[Identifier],
        to_show: &[Identifier],
        is_renewal: bool,
    ) -> Attempt<Vec<Use>> {
        let limits = self.options.limits.of(account);
        let mut blocked = Vec::new();
        let mut longest_s = 0;
        let above = to_show.iter().filter(|shown| !identifiers.contains(shown));
        for identifier in identifiers.iter().chain(above) {
            let subject = name_of(&account.id, identifier);
            if let Some(Err(after_s)) = one_more(self.ledger, self.now, &limits, Limit::FailedValidations, subject)? {
                longest_s = longest_s.max(after_s);
                let text = format!("too many validations failed; try again in {after_s} s");
                blocked.push(Subproblem {
                    identifier: identifier.document(),
                    kind: ProblemType::RateLimited,
                    detail: text,
                });
            }
        }
        if !blocked.is_empty() {
            let text = "too many validations of these identifiers failed; put the challenge's answer in place first";
            let problem = self.limited(Limit::FailedValidations.name(), text, longest_s);
            return Err(Problem { subproblems: blocked, ..problem }.into());
        }
        let max = limits.pending_authorizations_max as usize;
        let pending = to_show.len();
        if max > 0 && pending > 0 {
            let full = pending > max || self.ledger.has_pending(&account.id, max + 1 - pending, self.now)?;
            if full {
                let text = "too many authorizations wait for an answer; answer or deactivate some";
                return Err(self.limited("pending_authorizations_max", text, 60).into());
            }
        }
        if is_renewal {
            return Ok(Vec::new());
        }
        // Counted when the certificate is there: an order that came to nothing is no duplicate.
        let _duplicate = self.admit(&limits, Limit::Duplicates, set_of(identifiers))?;
        let mut uses = Vec::new();
        uses.extend(self.admit(&limits, Limit::Orders, account.id.to_string())?);
        for identifier in identifiers {
            uses.extend(self.admit(&limits, Limit::Name, name_of(&account.id, identifier))?);
        }
        Ok(uses)
    }

    fn admit(&self, limits: &Limits, limit: Limit, subject: String) -> Attempt<Option<Use>> {
        match one_more(self.ledger, self.now, limits, limit, subject)? {
            None => Ok(None),
            Some(Ok(more)) => Ok(Some(more)),
            Some(Err(after_s)) => {
                let text = match limit {
                    Limit::Accounts => "too many accounts were made from this address",
                    Limit::Orders => "this account made too many orders",
                    Limit::Name => "this account made too many orders for one of these identifiers",
                    Limit::Duplicates => {
                        "too many certificates were issued for exactly these identifiers; use the one you have"
                    }
                    Limit::FailedValidations => "too many validations failed",
                    Limit::Changes => "this account was changed too often",
                };
                Err(self.limited(limit.name(), text, after_s).into())
            }
        }
    }

    fn limited(&self, limit: &'static str, text: &str, after_s: u32) -> Problem {
        metrics::counter!(LIMITED, "endpoint" => self.settings.name.to_string(), "limit" => limit).increment(1);
        let mut problem = Problem::new(ProblemType::RateLimited, format!("{text}; try again in {after_s} s"));
        problem.retry_after_s = Some(after_s);
        problem
    }
}
