//! `credits limit`.

use serde_json::json;
use tower_credits::{Account, Accounts, Credits, Limits, Part};

use super::this_month;
use crate::{
    arguments::{Global, Limit, Setting},
    failure::{Done, Failure},
    output,
    store::Store,
};

pub(crate) async fn run(global: &Global, limit: Limit) -> Result<Done, Failure> {
    let Limit { account, part, per_month, per_day } = limit;
    let accounts = Store::accounts(global).await?;
    let limits = match &part {
        Some(part) => of_part(&accounts, &account, part, per_month, per_day).await?,
        None => of_account(&accounts, &account, per_month, per_day).await?,
    };
    let Limits { per_month, per_day } = limits;
    if global.json {
        let nanos = |limit: Option<Credits>| {
            limit.filter(|limit| *limit != Credits::MAX).map(Credits::as_nano_usd)
        };
        output::json(&json!({
            "account": account.as_str(),
            "part": part.as_ref().map(Part::as_str),
            "month_limit_nano_usd": nanos(per_month),
            "day_limit_nano_usd": nanos(per_day),
        }))?;
    } else {
        let of = part.map_or_else(|| account.to_string(), |part| format!("{account}, {part}"));
        let shown = |limit: Option<Credits>| match limit {
            None => "not set".to_owned(),
            Some(limit) => output::amount(limit),
        };
        output::line(output::printable(&format!(
            "{of}: limit for a month: {}; for a day: {}",
            shown(per_month),
            shown(per_day)
        )))?;
    }
    Ok(Done::Well)
}

/// Sets limits of a part: a limit that is not named stays.
async fn of_part(
    accounts: &Accounts,
    account: &Account,
    part: &Part,
    per_month: Option<Setting>,
    per_day: Option<Setting>,
) -> Result<Limits, Failure> {
    let statement = accounts.statement(account, this_month()).await?;
    let now = statement.parts.iter().find(|found| found.part == *part);
    let now = now.map_or(Limits::NONE, |found| found.limits);
    let limits = Limits {
        per_month: per_month.map_or(now.per_month, |Setting(limit)| limit),
        per_day: per_day.map_or(now.per_day, |Setting(limit)| limit),
    };
    accounts.set_limits(account, Some(part), limits).await?;
    Ok(limits)
}

async fn of_account(
    accounts: &Accounts,
    account: &Account,
    per_month: Option<Setting>,
    per_day: Option<Setting>,
) -> Result<Limits, Failure> {
    if let Some(Setting(limit)) = per_month {
        // Of the account's month, no limit is none that is set.
        let limit = limit.filter(|limit| *limit != Credits::MAX);
        accounts.set_spending_limit(account, limit).await?;
    }
    if let Some(Setting(limit)) = per_day {
        let limits = Limits { per_month: None, per_day: limit };
        accounts.set_limits(account, None, limits).await?;
    }
    let statement = accounts.statement(account, this_month()).await?;
    Ok(Limits { per_month: statement.spending_limit, per_day: statement.most_per_day })
}
