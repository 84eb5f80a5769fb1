//! `GET /billing.json`: the statement for programs.

use std::time::Duration;

use axum::{
    Json,
    extract::{Request, State},
    response::Response,
};
use serde::Serialize;

use super::{
    bill::{self, Bill},
    denied::no_store,
};
use crate::{
    CreditMeter, Credits, Name,
    identify::Subject,
    ledger::{Reason, RefundId, StatementPart, StatementRefund, Usage},
    plan::Currency,
};

/// The body. Amounts are whole nano-dollars. The costs of the lines always add up to
/// `used_nano_usd`.
#[derive(Serialize)]
struct BillJson<'a> {
    account: &'a str,
    tier: &'a str,
    /// The factor by which the tier's prices are multiplied now, as a decimal.
    price_factor: String,
    period: String,
    resets_at: String,
    included_nano_usd: i64,
    included_used_nano_usd: i64,
    /// Included each day, in addition. They lapse at the end of the day, UTC.
    included_per_day_nano_usd: i64,
    /// The part of `included_nano_usd` that lapses at the end of today.
    included_left_today_nano_usd: i64,
    used_nano_usd: i64,
    held_nano_usd: i64,
    /// Charged on top of the credits, less refunds.
    pay_as_you_go_nano_usd: i64,
    refunded_nano_usd: i64,
    /// Usage over everything that the account may use; it is not charged.
    beyond_nano_usd: i64,
    purchased_used_nano_usd: i64,
    purchased_left_nano_usd: i64,
    /// Set by the owner; null if there is none.
    spending_limit_nano_usd: Option<i64>,
    /// The account's own limit for a day, as it was set; null if nobody set it.
    most_per_day_nano_usd: Option<i64>,
    /// Counted while the day has a limit.
    used_today_nano_usd: i64,
    seats: u32,
    /// `true` if the month is closed: its figures no longer change.
    closed: bool,
    requests: u64,
    compute_seconds: f64,
    /// The label of amounts, unless it is USD.
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<String>,
    lines: Vec<Line>,
    refunds: Vec<Refund>,
    /// Groups, members and keys, by path. Usage counts in each part along its path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<PartOfAccount>,
    /// Usage of each member, if the account is an organisation's.
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<Member>>,
}

/// Usage of all subjects for a day, model, hardware and feature.
#[derive(Serialize)]
struct Line {
    /// Null if it is not known.
    day: Option<String>,
    model: Name,
    hardware: Name,
    feature: Name,
    requests: u64,
    compute_seconds: f64,
    /// Compute time in the unit of the hardware, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    units: Option<Units>,
    cost_nano_usd: i64,
}

#[derive(Serialize)]
struct Units {
    name: Name,
    count: u64,
}

#[derive(Serialize)]
struct Refund {
    id: RefundId,
    amount_nano_usd: i64,
    reason: Reason,
}

#[derive(Serialize)]
struct PartOfAccount {
    part: String,
    used_nano_usd: i64,
    held_nano_usd: i64,
    used_today_nano_usd: i64,
    /// Null if nobody set it: the tier's counts then.
    limit_month_nano_usd: Option<i64>,
    limit_day_nano_usd: Option<i64>,
}

#[derive(Serialize)]
struct Member {
    /// Null if it is not known.
    subject: Option<Subject>,
    requests: u64,
    compute_seconds: f64,
    cost_nano_usd: i64,
}

pub(super) async fn show(State(meter): State<CreditMeter>, request: Request) -> Response {
    bill::answer(&meter, request, |bill| no_store(Json(BillJson::new(bill)))).await
}

impl<'a> BillJson<'a> {
    fn new(bill: &'a Bill) -> Self {
        let statement = &bill.statement;
        Self {
            account: statement.account.as_str(),
            tier: bill.identity.tier.as_str(),
            price_factor: bill.tier.price_factor.to_string(),
            period: statement.period.to_string(),
            resets_at: statement.period.resets_at(),
            included_nano_usd: statement.included.as_nano_usd(),
            included_used_nano_usd: statement.included_used().as_nano_usd(),
            included_per_day_nano_usd: statement.included_per_day.as_nano_usd(),
            included_left_today_nano_usd: statement.included_left_today.as_nano_usd(),
            used_nano_usd: statement.used.as_nano_usd(),
            held_nano_usd: statement.held.as_nano_usd(),
            pay_as_you_go_nano_usd: statement.pay_as_you_go.as_nano_usd(),
            beyond_nano_usd: statement.beyond().as_nano_usd(),
            refunded_nano_usd: statement.refunded.as_nano_usd(),
            purchased_used_nano_usd: statement.purchased_used.as_nano_usd(),
            purchased_left_nano_usd: statement.purchased_left.as_nano_usd(),
            spending_limit_nano_usd: statement.spending_limit.map(Credits::as_nano_usd),
            most_per_day_nano_usd: statement.most_per_day.map(Credits::as_nano_usd),
            used_today_nano_usd: statement.used_today.as_nano_usd(),
            seats: statement.seats.get(),
            closed: statement.closed,
            requests: statement.requests(),
            compute_seconds: statement.compute().as_secs_f64(),
            currency: Some(bill.plan.currency())
                .filter(|currency| *currency != Currency::USD)
                .map(|currency| currency.to_string()),
            lines: lines(bill),
            refunds: refunds(bill),
            parts: parts(bill),
            members: statement.account.organisation().map(|_| members(bill)),
        }
    }
}

fn lines(bill: &Bill) -> Vec<Line> {
    // Lines without a day come last.
    let merged = bill.usage_by(|line| {
        (
            line.day.is_none(),
            line.day,
            line.model.clone(),
            line.hardware.clone(),
            line.feature.clone(),
        )
    });
    let line = |((_, day, model, hardware, feature), usage): (_, Usage)| Line {
        day: Option::map(day, |day| bill.date(day)),
        units: bill.plan.unit(&hardware).map(|unit| Units {
            name: unit.name.clone(),
            count: unit.count(Duration::from_micros(usage.compute_micros)),
        }),
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
    let refund = |refund: &StatementRefund| Refund {
        id: refund.id.clone(),
        amount_nano_usd: refund.amount.as_nano_usd(),
        reason: refund.reason.clone(),
    };
    bill.statement.refunds.iter().map(refund).collect()
}

fn parts(bill: &Bill) -> Vec<PartOfAccount> {
    let part = |part: &StatementPart| PartOfAccount {
        part: part.part.to_string(),
        used_nano_usd: part.used.as_nano_usd(),
        held_nano_usd: part.held.as_nano_usd(),
        used_today_nano_usd: part.used_today.as_nano_usd(),
        limit_month_nano_usd: part.limits.per_month.map(Credits::as_nano_usd),
        limit_day_nano_usd: part.limits.per_day.map(Credits::as_nano_usd),
    };
    bill.statement.parts.iter().map(part).collect()
}

fn members(bill: &Bill) -> Vec<Member> {
    let member = |(subject, usage): (_, Usage)| Member {
        subject,
        requests: usage.requests,
        compute_seconds: seconds(usage),
        cost_nano_usd: usage.cost.as_nano_usd(),
    };
    bill.usage_by(|line| line.subject.clone()).into_iter().map(member).collect()
}

fn seconds(usage: Usage) -> f64 {
    Duration::from_micros(usage.compute_micros).as_secs_f64()
}
