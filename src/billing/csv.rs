//! `GET /billing.csv`: the statement as a table (RFC 4180).

use std::fmt::Write;

use axum::{
    extract::{Request, State},
    http::header::{CONTENT_DISPOSITION, CONTENT_TYPE},
    response::{IntoResponse, Response},
};

use super::{
    bill::{self, Bill},
    denied::no_store,
};
use crate::{CreditMeter, Credits, csv_field, ledger::Usage};

/// Heads of the columns. Compute time is in seconds, costs are in dollars; both are exact. A refund
/// is a row of its own with a negative cost, so that the column adds up to the cost of the month.
const HEAD: &str =
    "account,period,day,model,hardware,feature,subject,requests,compute_seconds,cost_usd,note\r\n";

pub(super) async fn show(State(meter): State<CreditMeter>, request: Request) -> Response {
    bill::answer(&meter, request, |bill| {
        let name = format!("attachment; filename=\"billing-{}.csv\"", bill.statement.period);
        no_store(
            (
                [
                    (CONTENT_TYPE, "text/csv; charset=utf-8; header=present".to_owned()),
                    (CONTENT_DISPOSITION, name),
                ],
                table(bill),
            )
                .into_response(),
        )
    })
    .await
}

/// Returns a row for each line of the statement and for each refund.
fn table(bill: &Bill) -> String {
    let mut table = HEAD.to_owned();
    let period = bill.statement.period.to_string();
    for line in &bill.statement.lines {
        let day = line.day.map(|day| bill.date(day)).unwrap_or_default();
        let subject = line.subject.as_ref().map_or("", |subject| subject.as_str());
        let names = [
            bill.statement.account.as_str(),
            &period,
            &day,
            line.model.as_str(),
            line.hardware.as_str(),
            line.feature.as_str(),
            subject,
        ];
        row(&mut table, &names, line.usage, "", "");
    }
    for refund in &bill.statement.refunds {
        let names =
            [bill.statement.account.as_str(), &period, "", "refund", "refund", "refund", ""];
        let usage = Usage { cost: refund.amount, ..Usage::default() };
        row(&mut table, &names, usage, "-", &format!("{}: {}", refund.id, refund.reason));
    }
    table
}

fn row(table: &mut String, names: &[&str], usage: Usage, sign: &str, note: &str) {
    for name in names {
        csv_field::write(table, name);
        table.push(',');
    }
    let (requests, micros, second) = (usage.requests, usage.compute_micros, 1_000_000);
    // Writing to a string cannot fail.
    let _ = write!(
        table,
        "{requests},{}.{:06},{sign}{},",
        micros / second,
        micros % second,
        dollars(usage.cost)
    );
    csv_field::write(table, note);
    table.push_str("\r\n");
}

/// Returns an amount in dollars, exactly.
pub(super) fn dollars(amount: Credits) -> String {
    let (nanos, dollar) = (amount.as_nano_usd(), 1_000_000_000);
    format!("{}.{:09}", nanos / dollar, nanos % dollar)
}
