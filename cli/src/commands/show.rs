//! `credits show`.

use serde_json::json;
use tower_credits::{
    Credits,
    identify::Subject,
    ledger::{Statement, StatementLine},
};

use super::this_month;
use crate::{
    arguments::{Global, Show},
    failure::{Done, Failure},
    output,
    store::Store,
};

pub(crate) async fn run(global: &Global, show: Show) -> Result<Done, Failure> {
    let accounts = Store::accounts(global).await?;
    let period = show.period.unwrap_or_else(this_month);
    let statement = accounts.statement(&show.account, period).await?;
    if global.json {
        output::json(&as_json(&statement))?;
    } else {
        print(&statement)?;
    }
    Ok(Done::Well)
}

fn print(statement: &Statement) -> Result<(), Failure> {
    let Statement { account, period, .. } = statement;
    let state = if statement.closed { ", closed" } else { "" };
    output::line(output::printable(&format!("{account}, {}{state}", period.name())))?;
    output::line("")?;
    let mut facts = vec![
        ("Used", statement.used.to_string()),
        ("  of included credits", {
            let (used, included) = (statement.included_used(), output::amount(statement.included));
            format!("{used} of {included}")
        }),
        ("  of purchased credits", {
            format!("{}, {} left", statement.purchased_used, statement.purchased_left)
        }),
        ("  as pay-as-you-go", statement.pay_as_you_go.to_string()),
        ("Refunded", statement.refunded.to_string()),
        ("On hold", statement.held.to_string()),
        (
            "Left to use",
            if statement.limit == Credits::MAX {
                "no limit".to_owned()
            } else {
                statement.left().to_string()
            },
        ),
        ("Requests", statement.requests().to_string()),
        (
            "Compute time",
            output::seconds(u64::try_from(statement.compute().as_micros()).unwrap_or(u64::MAX)),
        ),
        ("Seats", statement.seats.to_string()),
        ("Spending limit", output::limit(statement.spending_limit)),
    ];
    if let Some(limit) = statement.most_per_day {
        let day = format!("{} of {}", statement.used_today, output::amount(limit));
        facts.push(("Used today", day));
    }
    if !statement.beyond().is_zero() {
        facts.push(("Paid by nobody", statement.beyond().to_string()));
    }
    output::line(output::lines(&output::facts(facts)))?;
    if !statement.lines.is_empty() {
        let mut table = output::table(&[
            "Day",
            "Model",
            "Hardware",
            "Feature",
            "Caller",
            ">Requests",
            ">Compute",
            ">Cost",
        ]);
        for line in &statement.lines {
            let StatementLine { day, model, hardware, feature, subject, usage, .. } = line;
            table.add_row([
                day.map(|day| format!("{period}-{day:02}")).unwrap_or_default(),
                output::printable(model.as_str()),
                output::printable(hardware.as_str()),
                output::printable(feature.as_str()),
                subject.as_ref().map(|name| output::printable(name.as_str())).unwrap_or_default(),
                usage.requests.to_string(),
                output::seconds(usage.compute_micros),
                usage.cost.to_string(),
            ]);
        }
        output::line(format!("\n{}", output::lines(&table)))?;
    }
    if !statement.parts.is_empty() {
        let mut table = output::table(&[
            "Part",
            ">Used",
            ">On hold",
            ">Month's limit",
            ">Used today",
            ">Day's limit",
        ]);
        for part in &statement.parts {
            table.add_row([
                output::printable(part.part.as_str()),
                part.used.to_string(),
                part.held.to_string(),
                output::limit(part.limits.per_month),
                part.used_today.to_string(),
                output::limit(part.limits.per_day),
            ]);
        }
        output::line(format!("\n{}", output::lines(&table)))?;
    }
    if !statement.refunds.is_empty() {
        let mut table = output::table(&["Refund", "Reason", ">Amount"]);
        for refund in &statement.refunds {
            table.add_row([
                output::printable(refund.id.as_str()),
                output::printable(refund.reason.as_str()),
                refund.amount.to_string(),
            ]);
        }
        output::line(format!("\n{}", output::lines(&table)))?;
    }
    Ok(())
}

/// Returns a statement as JSON. Amounts are nano-dollars; `null` stands for no limit.
fn as_json(statement: &Statement) -> serde_json::Value {
    let limited = |credits: Credits| (credits != Credits::MAX).then(|| credits.as_nano_usd());
    let limit = |credits: Option<Credits>| credits.and_then(limited);
    json!({
        "account": statement.account.as_str(),
        "period": statement.period.to_string(),
        "closed": statement.closed,
        "used_nano_usd": statement.used.as_nano_usd(),
        "refunded_nano_usd": statement.refunded.as_nano_usd(),
        "held_nano_usd": statement.held.as_nano_usd(),
        "included_nano_usd": limited(statement.included),
        "included_used_nano_usd": statement.included_used().as_nano_usd(),
        "purchased_used_nano_usd": statement.purchased_used.as_nano_usd(),
        "purchased_left_nano_usd": statement.purchased_left.as_nano_usd(),
        "pay_as_you_go_nano_usd": statement.pay_as_you_go.as_nano_usd(),
        "left_nano_usd": limited(statement.limit).map(|_| statement.left().as_nano_usd()),
        "spending_limit_nano_usd": limit(statement.spending_limit),
        "day_limit_nano_usd": limit(statement.most_per_day),
        "seats": statement.seats,
        "requests": statement.requests(),
        "compute_seconds": statement.compute().as_secs_f64(),
        "lines": statement.lines.iter().map(|line| json!({
            "day": line.day,
            "model": line.model.as_str(),
            "hardware": line.hardware.as_str(),
            "feature": line.feature.as_str(),
            "subject": line.subject.as_ref().map(Subject::as_str),
            "requests": line.usage.requests,
            "compute_microseconds": line.usage.compute_micros,
            "cost_nano_usd": line.usage.cost.as_nano_usd(),
        })).collect::<Vec<_>>(),
        "parts": statement.parts.iter().map(|part| json!({
            "part": part.part.as_str(),
            "used_nano_usd": part.used.as_nano_usd(),
            "held_nano_usd": part.held.as_nano_usd(),
            "used_today_nano_usd": part.used_today.as_nano_usd(),
            "month_limit_nano_usd": limit(part.limits.per_month),
            "day_limit_nano_usd": limit(part.limits.per_day),
        })).collect::<Vec<_>>(),
        "refunds": statement.refunds.iter().map(|refund| json!({
            "id": refund.id.as_str(),
            "amount_nano_usd": refund.amount.as_nano_usd(),
            "reason": refund.reason.as_str(),
        })).collect::<Vec<_>>(),
    })
}
