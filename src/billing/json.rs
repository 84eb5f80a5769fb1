//! `GET /billing.json`.

use std::time::Duration;

use axum::{Json, extract::Request, response::Response};
use serde::Serialize;

use super::{Bill, Meter, no_store, shown};
use crate::{Credits, Name, identify::Subject, ledger::Usage};

/// Amounts are whole nano-dollars. The lines' costs add up to what was used, always.
#[derive(Serialize)]
struct Shown<'a> {
    account: &'a str,
    tier: &'a str,
    period: String,
    resets_at: String,
    included_nano_usd: i64,
    included_used_nano_usd: i64,
    used_nano_usd: i64,
    held_nano_usd: i64,
    /// Less refunds.
    pay_as_you_go_nano_usd: i64,
    refunded_nano_usd: i64,
    /// What nothing pays for.
    beyond_nano_usd: i64,
    purchased_used_nano_usd: i64,
    purchased_left_nano_usd: i64,
    /// The owner's; null where there is none.
    spending_limit_nano_usd: Option<i64>,
    seats: u32,
    /// `true` if nothing of it changes any more.
    closed: bool,
    requests: u64,
    compute_seconds: f64,
    lines: Vec<Line>,
    refunds: Vec<Refund>,
    /// What of it each member used, where an organisation pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<Member>>,
}

/// The subjects of each day, model, hardware and feature together.
#[derive(Serialize)]
struct Line {
    day: Option<String>,
    model: Name,
    hardware: Name,
    feature: Name,
    requests: u64,
    compute_seconds: f64,
    cost_nano_usd: i64,
}

#[derive(Serialize)]
struct Refund {
    id: Name,
    amount_nano_usd: i64,
    reason: Name,
}

#[derive(Serialize)]
struct Member {
    /// Null for what is not known of.
    subject: Option<Subject>,
    requests: u64,
    compute_seconds: f64,
    cost_nano_usd: i64,
}

pub(super) async fn show(meter: Meter, request: Request) -> Response {
    shown(&meter, request, |bill| no_store(Json(Shown::new(bill)))).await
}

impl<'a> Shown<'a> {
    fn new(bill: &'a Bill) -> Self {
        let statement = &bill.statement;
        Self {
            account: statement.account.as_str(),
            tier: bill.identity.tier.as_str(),
            period: statement.period.to_string(),
            resets_at: statement.period.resets_at(),
            included_nano_usd: statement.included.as_nano_usd(),
            included_used_nano_usd: statement.included_used().as_nano_usd(),
            used_nano_usd: statement.used.as_nano_usd(),
            held_nano_usd: statement.held.as_nano_usd(),
            pay_as_you_go_nano_usd: statement.pay_as_you_go.as_nano_usd(),
            beyond_nano_usd: statement.beyond().as_nano_usd(),
            refunded_nano_usd: statement.refunded.as_nano_usd(),
            purchased_used_nano_usd: statement.purchased_used.as_nano_usd(),
            purchased_left_nano_usd: statement.purchased_left.as_nano_usd(),
            spending_limit_nano_usd: statement.spending_limit.map(Credits::as_nano_usd),
            seats: statement.seats.get(),
            closed: statement.closed,
            requests: statement.requests(),
            compute_seconds: statement.compute().as_secs_f64(),
            lines: lines(bill),
            refunds: refunds(bill),
            members: statement.account.organisation().map(|_| members(bill)),
        }
    }
}

fn lines(bill: &Bill) -> Vec<Line> {
    // Lines without a day come last.
    let merged = bill.by(|line| {
        (
            line.day.is_none(),
            line.day,
            line.model.clone(),
            line.hardware.clone(),
            line.feature.clone(),
        )
    });
    let line = |((_, day, model, hardware, feature), usage): (_, Usage)| Line {
        day: Option::map(day, |day| bill.day(day)),
        model,
        hardware,
        feature,
        requests: usage.requests,
        compute_seconds: seconds(usage),
        cost_nano_usd: usage.cost.as_nano_usd(),
    };
    merged.into_iter().map(line).collect()
}

fn refunds(bill: &Bill) -> Vec<Refund> {
    let refund = |refund: &crate::ledger::StatementRefund| Refund {
        id: refund.id.clone(),
        amount_nano_usd: refund.amount.as_nano_usd(),
        reason: refund.reason.clone(),
    };
    bill.statement.refunds.iter().map(refund).collect()
}

fn members(bill: &Bill) -> Vec<Member> {
    let member = |(subject, usage): (_, Usage)| Member {
        subject,
        requests: usage.requests,
        compute_seconds: seconds(usage),
        cost_nano_usd: usage.cost.as_nano_usd(),
    };
    bill.by(|line| line.subject.clone()).into_iter().map(member).collect()
}

fn seconds(usage: Usage) -> f64 {
    Duration::from_micros(usage.compute_micros).as_secs_f64()
}
