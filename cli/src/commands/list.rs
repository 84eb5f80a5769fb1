//! `credits list`.

use std::cmp::Reverse;

use serde_json::json;
use tower_credits::{Credits, ledger::AccountSummary};

use super::{all_accounts, this_month};
use crate::{
    arguments::{Global, List, Sort},
    failure::{Done, Failure},
    output,
    store::Store,
};

pub(crate) async fn run(global: &Global, list: List) -> Result<Done, Failure> {
    let accounts = Store::accounts(global).await?;
    let period = list.period.unwrap_or_else(this_month);
    let mut found = all_accounts(&accounts, period).await?;
    found.retain(|summary| {
        let has_text = list
            .filter
            .as_ref()
            .is_none_or(|text| summary.account.as_str().contains(text.as_str()));
        has_text && list.min_used.is_none_or(|least| summary.used >= least)
    });
    // They are in the order of their names.
    match list.sort {
        Sort::Account => {}
        Sort::Used => found.sort_by_key(|summary| Reverse(summary.used)),
        Sort::Held => found.sort_by_key(|summary| Reverse(summary.held)),
        Sort::Refunded => found.sort_by_key(|summary| Reverse(summary.refunded)),
    }
    if list.reverse {
        found.reverse();
    }
    if global.json {
        for summary in &found {
            output::json(&as_json(summary))?;
        }
        return Ok(Done::Well);
    }
    let (page, size) = (list.page.get() as usize, list.page_size.get() as usize);
    let first = (page - 1).saturating_mul(size);
    let shown = found.iter().skip(first).take(size);
    let mut table = output::table(&["Account", ">Used", ">Refunded", ">On hold", "Month"]);
    for summary in shown {
        table.add_row([
            output::printable(summary.account.as_str()),
            summary.used.to_string(),
            summary.refunded.to_string(),
            summary.held.to_string(),
            if summary.closed { "closed".to_owned() } else { "open".to_owned() },
        ]);
    }
    output::line(output::lines(&table))?;
    let used =
        found.iter().map(|summary| summary.used).fold(Credits::ZERO, Credits::saturating_add);
    let last = first.saturating_add(size).min(found.len());
    let mut text = format!("{} of {period}: {used} used", output::counted(found.len(), "account"));
    if found.len() > size || first > 0 {
        let shown =
            if first < last { format!("{} to {last}", first + 1) } else { "none".to_owned() };
        text = format!("{text}; shown: {shown}");
        if last < found.len() {
            text = format!("{text}; more: --page {}", page + 1);
        }
    }
    output::line(text)?;
    Ok(Done::Well)
}

fn as_json(summary: &AccountSummary) -> serde_json::Value {
    json!({
        "account": summary.account.as_str(),
        "used_nano_usd": summary.used.as_nano_usd(),
        "refunded_nano_usd": summary.refunded.as_nano_usd(),
        "held_nano_usd": summary.held.as_nano_usd(),
        "closed": summary.closed,
    })
}
