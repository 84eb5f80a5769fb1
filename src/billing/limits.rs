//! Limits of the parts of an account: `POST /billing/limits` sets them, the page shows them beside
//! what each part used, and `GET /billing/parts.csv` is the same as a table (RFC 4180).

use super::{
    bill::{self, Bill},
    csv,
    denied::{Denied, no_store},
    html,
    page::{self, InvalidEntries},
    parts::{LimitsForm, UNLIMITED},
};
use crate::{
    CreditMeter, Credits, Limits, Part, csv_field,
    identify::{RequestHead, is_csrf_safe},
    ledger::StatementPart,
    rejection::Rejection,
};
use axum::{
    Form,
    extract::{FromRequest, Request, State},
    http::{
        StatusCode,
        header::{CONTENT_DISPOSITION, CONTENT_TYPE},
        request::Parts,
    },
    response::{IntoResponse, Response},
};

/// Heads of the columns of the table for spreadsheets. Amounts are in dollars, and exact. Usage
/// counts in each part along its path. A limit is empty if nobody set it.
const HEAD: &str = "account,period,part,used_usd,held_usd,used_today_usd,limit_month_usd,\
                    limit_day_usd\r\n";

impl LimitsForm {
    /// Returns the part and its limits, or the error that the form shows.
    fn parse(&self) -> Result<(Option<Part>, Limits), String> {
        let part = match self.part.trim() {
            "" => None,
            path => Some(path.parse::<Part>().map_err(|error| {
                format!("The limits were not set: the part {path:?} is {error}.")
            })?),
        };
        let limit = |text: &str| match text.trim() {
            "" => Ok(None),
            UNLIMITED => Ok(Some(Credits::MAX)),
            amount => amount.trim_start_matches('$').parse().map(Some).map_err(|error| {
                format!(
                    "The limits were not set: {error}. Write an amount, nothing for the limit of \
                     your tier, or “{UNLIMITED}”."
                )
            }),
        };
        let limits = Limits { per_month: limit(&self.per_month)?, per_day: limit(&self.per_day)? };
        if part.is_none() && limits.per_month.is_some() {
            return Err("The limits were not set: name a group, a member or a key, or leave the \
                month empty. The account's own month has the spending limit."
                .to_owned());
        }
        Ok((part, limits))
    }
}

pub(super) async fn set(State(meter): State<CreditMeter>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bill = match bill_to_limit(&meter, &parts).await {
        Ok(bill) => bill,
        Err(denied) => return html::denial(&meter, &parts, denied),
    };
    let request = Request::from_parts(parts.clone(), body);
    let form = match Form::<LimitsForm>::from_request(request, &()).await {
        Ok(Form(form)) => form,
        Err(error) => {
            return html::denial(&meter, &parts, Denied::unreadable_form(&error, "part"));
        }
    };
    let (part, limits) = match form.parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            let invalid = InvalidEntries { limits: Some((form, error)), spending_limit: None };
            return page::answer(&meter, &parts, invalid).await;
        }
    };
    let account = &bill.identity.account;
    match meter.accounts().set_limits(account, part.as_ref(), limits).await {
        Ok(()) => html::to_page().into_response(),
        Err(error) => {
            tracing::warn!(target: "tower_credits", %account, %error, "limits could not be set");
            html::denial(&meter, &parts, Rejection::LedgerUnreachable.into())
        }
    }
}

/// Returns the bill whose limits a request may set.
async fn bill_to_limit(meter: &CreditMeter, parts: &Parts) -> Result<Bill, Denied> {
    if !is_csrf_safe(RequestHead::from(parts)) {
        return Err(Rejection::CrossOrigin.into());
    }
    let bill = Bill::read(meter, parts).await?;
    if bill.is_owner() {
        return Ok(bill);
    }
    let detail = "Only the account's owner can set limits of its groups, members and keys. Ask \
                  them, or the operator of this service.";
    Err(Denied::other(StatusCode::FORBIDDEN, "Limits not set", detail))
}

pub(super) async fn show(State(meter): State<CreditMeter>, request: Request) -> Response {
    bill::answer(&meter, request, |bill| {
        let name = format!("attachment; filename=\"parts-{}.csv\"", bill.statement.period);
        let fields = [
            (CONTENT_TYPE, "text/csv; charset=utf-8; header=present".to_owned()),
            (CONTENT_DISPOSITION, name),
        ];
        no_store((fields, table(bill)).into_response())
    })
    .await
}

fn table(bill: &Bill) -> String {
    let mut table = HEAD.to_owned();
    let period = bill.statement.period.to_string();
    for StatementPart { part, used, held, used_today, limits } in &bill.statement.parts {
        for name in [bill.statement.account.as_str(), &period, part.as_str()] {
            csv_field::write(&mut table, name);
            table.push(',');
        }
        let limit = |limit: Option<Credits>| match limit {
            None => String::new(),
            Some(Credits::MAX) => UNLIMITED.to_owned(),
            Some(limit) => csv::dollars(limit),
        };
        let amounts = [*used, *held, *used_today].map(csv::dollars);
        let limits = [limits.per_month, limits.per_day].map(limit);
        table.push_str(&[amounts.as_slice(), &limits].concat().join(","));
        table.push_str("\r\n");
    }
    table
}
