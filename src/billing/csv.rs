//! `GET /billing.csv`, as RFC 4180 has it.

use std::fmt::Write;

use axum::{
    extract::Request,
    http::header::{CONTENT_DISPOSITION, CONTENT_TYPE},
    response::{IntoResponse, Response},
};

use super::{Bill, Meter, no_store, shown};

/// The heads of its columns. Compute time is in seconds, costs in dollars; both are exact.
const HEAD: &str = "account,period,day,model,hardware,feature,subject,requests,compute_seconds,cost_usd\r\n";

pub(super) async fn show(meter: Meter, request: Request) -> Response {
    shown(&meter, request, |bill| {
        let name = format!("attachment; filename=\"billing-{}.csv\"", bill.statement.period);
        no_store(
            ([(CONTENT_TYPE, "text/csv; charset=utf-8; header=present".to_owned()), (CONTENT_DISPOSITION, name)], table(bill))
                .into_response(),
        )
    })
    .await
}

/// Each line of the statement, its subject included.
fn table(bill: &Bill) -> String {
    let mut table = HEAD.to_owned();
    let period = bill.statement.period.to_string();
    for line in &bill.statement.lines {
        let day = line.day.map(|day| bill.day(day)).unwrap_or_default();
        let subject = line.subject.as_ref().map_or("", |subject| subject.as_str());
        let names =
            [bill.statement.account.as_str(), &period, &day, line.model.as_str(), line.hardware.as_str(), line.feature.as_str(), subject];
        for name in names {
            field(&mut table, name);
            table.push(',');
        }
        let (usage, micros, nanos) = (line.usage, line.usage.compute_micros, line.usage.cost.as_nano_usd());
        let (second, dollar) = (1_000_000, 1_000_000_000);
        // Writing to a string does not fail.
        let _ = write!(table, "{},{}.{:06},{}.{:09}\r\n", usage.requests, micros / second, micros % second, nanos / dollar, nanos % dollar);
    }
    table
}

/// A text, quoted: some spreadsheets separate fields by semicolons. What they would take for a formula is made text of: names come from clients.
fn field(table: &mut String, text: &str) {
    table.push('"');
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠']) {
        table.push('\'');
    }
    table.push_str(&text.replace('"', "\"\""));
    table.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_and_never_formulas() {
        for (text, written) in [
            ("rnnoise", "\"rnnoise\""),
            ("a;=1+1", "\"a;=1+1\""),
            ("＝1+1", "\"'＝1+1\""),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=1+1", "\"'=1+1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("", "\"\""),
        ] {
            let mut table = String::new();
            field(&mut table, text);
            assert_eq!(table, written);
        }
    }
}
