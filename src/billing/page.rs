//! The page, as people read it.

use std::time::Duration;

use askama::Template;
use axum::{
    Form,
    extract::{FromRequest, Request, State, rejection::FormRejection},
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{
            ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
            REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
        },
        request::Parts,
    },
    response::{Html, IntoResponse, Redirect, Response},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{Bill, Denied, Meter, chart::Chart, no_store};
use crate::{
    CreditMeter, Credits, Period,
    identify::{RequestHead, is_csrf_safe},
    ledger::{Amendment, StatementRefund, Usage},
    meter::LEAST,
    plan::WhenUsedUp,
    rejection::Rejection,
};

/// No script, no style in the page, no frame around it; forms go here and nowhere else.
const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("templates/style.css");

#[derive(Template)]
#[template(path = "billing.html")]
struct Page<'a> {
    account: &'a str,
    tier: &'a str,
    period: String,
    resets_at: String,
    resets: String,
    is_current: bool,
    previous: Option<String>,
    next: Option<String>,
    now: Option<String>,
    /// The query of this very page.
    this: String,
    notice: Option<String>,
    included: Credits,
    included_used: Credits,
    included_left: Credits,
    used: Credits,
    pay_as_you_go: Credits,
    beyond: Credits,
    held: Credits,
    purchased_left: Credits,
    purchased_used: Credits,
    seats: u32,
    requests: u64,
    compute: String,
    /// What the month costs.
    net: Credits,
    /// The most that the tier charges on top.
    capped: Option<Credits>,
    shows_limit: bool,
    may_set_limit: bool,
    spending_limit: Option<Credits>,
    /// What was typed and could not be taken, and why.
    entered: String,
    error: Option<String>,
    refunded: Credits,
    refunds: &'a [StatementRefund],
    closed: bool,
    chart: Chart,
    tables: Vec<Table>,
    others: Vec<Other<'a>>,
    signs_out: bool,
}

/// Another account that the caller may look at.
struct Other<'a> {
    name: &'a str,
    query: String,
    is_this: bool,
}

struct Table {
    id: &'static str,
    title: &'static str,
    head: &'static str,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    requests: u64,
    compute: String,
    cost: Credits,
}

#[derive(Template)]
#[template(path = "sign-in.html")]
struct SignIn<'a> {
    wrong: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct Problem {
    title: String,
    detail: String,
}

/// What was typed into the form, and why it was not taken.
#[derive(Default)]
struct Mistake {
    entered: String,
    error: Option<String>,
}

pub(super) async fn show(State(meter): Meter, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    answer(&meter, &parts, Mistake::default()).await
}

/// Who reloads what a form answered.
pub(super) async fn back() -> Redirect {
    Redirect::to("/billing")
}

async fn answer(meter: &CreditMeter, parts: &Parts, mistake: Mistake) -> Response {
    let status =
        if mistake.error.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    match Bill::read(meter, parts).await {
        Ok(bill) => html(status, Page::new(meter, parts, &bill, mistake).render()),
        Err(denied) => denial(meter, parts, denied),
    }
}

/// A denial: the form that asks for a token, a page where the caller reads pages, else as for
/// programs.
pub(super) fn denial(meter: &CreditMeter, parts: &Parts, denied: Denied) -> Response {
    if let (Denied::Rejected(Rejection::Unauthenticated { invalid }), Some(_)) =
        (&denied, meter.cookie())
    {
        return sign_in(invalid.then_some(
            "This token is not known any more, or two cookies of its name came. Sign in again.",
        ));
    }
    let reads_pages = parts
        .headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if !reads_pages {
        return denied.into_response(meter);
    }
    let (status, title, detail) = denied.words(meter);
    let told = denied.into_response(meter);
    let mut response = html(status, Problem { title, detail }.render());
    for name in [RETRY_AFTER, WWW_AUTHENTICATE] {
        if let Some(value) = told.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// The form that asks for a token.
pub(super) fn sign_in(wrong: Option<&str>) -> Response {
    let mut response = html(StatusCode::UNAUTHORIZED, SignIn { wrong }.render());
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn html(status: StatusCode, page: askama::Result<String>) -> Response {
    let Ok(page) = page else {
        // Strings, numbers and amounts are always written.
        tracing::error!(target: "tower_credits", "the billing page could not be written");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let fields: [(HeaderName, HeaderValue); 3] = [
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        // With less, browsers that say nothing but `Origin` would hide that too.
        (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    ];
    no_store((status, fields, Html(page)))
}

pub(super) async fn style() -> Response {
    let fields = [
        (CONTENT_TYPE, "text/css; charset=utf-8"),
        (CACHE_CONTROL, "max-age=3600"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (fields, STYLE).into_response()
}

#[derive(Deserialize)]
struct Limit {
    #[serde(default)]
    limit: String,
    remove: Option<String>,
}

pub(super) async fn set_spending_limit(State(meter): Meter, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bill = match bill_to_limit(&meter, &parts).await {
        Ok(bill) => bill,
        Err(denied) => return denial(&meter, &parts, denied),
    };
    let form =
        match Form::<Limit>::from_request(Request::from_parts(parts.clone(), body), &()).await {
            Ok(Form(form)) => form,
            Err(error) => return denial(&meter, &parts, unreadable(&error, "limit")),
        };
    let limit = match (form.remove.as_deref(), form.limit.trim().trim_start_matches('$').parse()) {
        (Some("yes"), _) => Ok(None),
        (None | Some(""), Ok(limit)) => Ok(Some(limit)),
        (None | Some(""), Err(error)) => Err(format!("This limit cannot be set: {error}.")),
        (Some(_), _) => {
            Err("The field `remove` is `yes` where the limit is to go, and else left out."
                .to_owned())
        }
    };
    let limit = match limit {
        Ok(limit) => limit,
        Err(error) => {
            return answer(&meter, &parts, Mistake { entered: form.limit, error: Some(error) })
                .await;
        }
    };
    match meter.amend(&bill.identity.account, Amendment::SpendingLimit(limit)).await {
        Ok(_) => back().await.into_response(),
        Err(error) => {
            tracing::warn!(target: "tower_credits", account = %bill.identity.account, %error, "a spending limit could not be set");
            denial(&meter, &parts, Rejection::LedgerUnreachable.into())
        }
    }
}

/// The bill whose limit a request may set.
async fn bill_to_limit(meter: &CreditMeter, parts: &Parts) -> Result<Bill, Denied> {
    if !is_csrf_safe(RequestHead::from(parts)) {
        return Err(Rejection::CrossOrigin.into());
    }
    let bill = Bill::read(meter, parts).await?;
    let because = |detail: &str| {
        Err(Denied::Because(StatusCode::FORBIDDEN, "No spending limit to set", detail.to_owned()))
    };
    if !bill.has_limit() {
        return because(
            "This tier charges nothing on top of its credits, so there is no spending to limit.",
        );
    }
    if !bill.is_own() {
        return because(
            "An organisation's spending limit is not set by its members: ask who runs this service.",
        );
    }
    Ok(bill)
}

/// A form that is none.
pub(super) fn unreadable(error: &FormRejection, field: &str) -> Denied {
    let detail = format!(
        "The form cannot be read: {}. Send `{field}` as application/x-www-form-urlencoded.",
        error.body_text()
    );
    Denied::Because(error.status(), "Bad form", detail)
}

impl Bill {
    fn has_limit(&self) -> bool {
        matches!(self.tier.when_used_up, WhenUsedUp::PayAsYouGo(_))
    }

    /// `true` if it is about the caller's own account.
    fn is_own(&self) -> bool {
        self.identity.account == self.caller.account
    }

    /// What there is to say about what is left, where not even the shortest request is.
    fn notice(&self, meter: &CreditMeter) -> Option<String> {
        let statement = &self.statement;
        let least = meter
            .plan()
            .current()
            .lowest_price()
            .map_or(Credits::ZERO, |price| price.cost_or_max(LEAST));
        if !self.is_current || meter.is_shadow() || statement.left() >= least.max(Credits::SMALLEST)
        {
            return None;
        }
        let until = day_of(&statement.period.resets_at());
        let limited =
            statement.spending_limit.is_some_and(|own| own < self.tier.terms().pay_as_you_go);
        let why = match (limited, self.is_own()) {
            (true, true) => {
                "Your spending limit is reached: requests are denied until you raise it"
            }
            (true, false) => {
                "The organisation's spending limit is reached: requests are denied until it is raised"
            }
            (false, _) if statement.limit.is_zero() => {
                "There are no credits: requests are denied until there are some"
            }
            (false, _) => "All credits are used up: requests are denied until there are more",
        };
        let hint = self.tier.hint.as_deref().map(|hint| format!(" {hint}")).unwrap_or_default();
        Some(format!("{why}, or until the month ends on {until}.{hint}"))
    }
}

impl<'a> Page<'a> {
    fn new(meter: &CreditMeter, parts: &Parts, bill: &'a Bill, mistake: Mistake) -> Self {
        let statement = &bill.statement;
        let (period, now) = (statement.period, meter.this_month());
        let organisation = bill.identity.account.organisation().filter(|_| !bill.is_own());
        let at = |period| query(organisation, (period != now).then_some(period));
        let resets_at = period.resets_at();
        let included_used = statement.included_used();
        Self {
            account: statement.account.as_str(),
            tier: bill.identity.tier.as_str(),
            period: period.name(),
            resets: day_of(&resets_at),
            resets_at,
            is_current: bill.is_current,
            previous: (kept_for(period.previous(), now) && period.previous() != period)
                .then(|| at(period.previous())),
            next: (period < now).then(|| at(period.next())),
            // From months that are too far away to get back by steps.
            now: (period != now && period.next() != now).then(|| at(now)),
            this: query(organisation, Some(period)),
            notice: bill.notice(meter),
            included: statement.included,
            included_used,
            included_left: statement.included.saturating_sub(included_used),
            used: statement.used,
            pay_as_you_go: statement.pay_as_you_go,
            beyond: statement.beyond(),
            held: statement.held,
            purchased_left: statement.purchased_left,
            purchased_used: statement.purchased_used,
            seats: statement.seats.get(),
            requests: statement.requests(),
            compute: seconds(statement.compute()),
            net: statement.net(),
            capped: Some(bill.tier.terms().pay_as_you_go).filter(|most| *most != Credits::MAX),
            shows_limit: bill.has_limit() && bill.is_current,
            may_set_limit: bill.is_own(),
            spending_limit: statement.spending_limit,
            entered: mistake.entered,
            error: mistake.error,
            refunded: statement.refunded,
            refunds: &statement.refunds,
            closed: statement.closed,
            chart: Chart::new(bill),
            tables: tables(bill),
            others: others(bill),
            signs_out: meter.cookie().is_some() && !parts.headers.contains_key(AUTHORIZATION),
        }
    }
}

fn tables(bill: &Bill) -> Vec<Table> {
    let row = |(name, usage): (String, Usage)| {
        let compute = seconds(Duration::from_micros(usage.compute_micros));
        Row { name, requests: usage.requests, compute, cost: usage.cost }
    };
    let by = |id, title, head, key: &dyn Fn(&crate::ledger::StatementLine) -> String| Table {
        id,
        title,
        head,
        rows: bill.by(key).into_iter().map(row).collect(),
    };
    let day = |line: &crate::ledger::StatementLine| {
        line.day.map_or_else(|| line.model.to_string(), |day| bill.day(day))
    };
    let member = |line: &crate::ledger::StatementLine| {
        line.subject.as_ref().map_or_else(|| line.model.to_string(), ToString::to_string)
    };
    let mut tables = vec![
        by("model", "By model", "Model", &|line| line.model.to_string()),
        by("hardware", "By hardware", "Hardware", &|line| line.hardware.to_string()),
        by("feature", "By feature", "Feature", &|line| line.feature.to_string()),
    ];
    if bill.identity.account.organisation().is_some() {
        tables.push(by("member", "By member", "Member", &member));
    }
    tables.push(by("day", "By day", "Day", &day));
    tables
}

fn others(bill: &Bill) -> Vec<Other<'_>> {
    let caller = &bill.caller;
    let mut others: Vec<_> = std::iter::once(&caller.account)
        .chain(caller.organisations().filter(|account| **account != caller.account))
        .map(|account| {
            let organisation =
                if *account == caller.account { None } else { account.organisation() };
            Other {
                name: account.as_str(),
                query: query(organisation, None),
                is_this: *account == bill.identity.account,
            }
        })
        .collect();
    if others.len() == 1 {
        others.clear();
    }
    others
}

/// `true` if the ledger may have something of a month: 13 of them are kept.
fn kept_for(month: Period, now: Period) -> bool {
    std::iter::successors(Some(now), |month| Some(month.previous()))
        .take(MONTHS)
        .any(|kept| kept == month)
}

const MONTHS: usize = 13;

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

fn query(organisation: Option<&str>, period: Option<Period>) -> String {
    let organisation =
        organisation.map(|id| format!("organisation={}", utf8_percent_encode(id, RESERVED)));
    let parts: Vec<_> =
        organisation.into_iter().chain(period.map(|period| format!("period={period}"))).collect();
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

fn seconds(time: Duration) -> String {
    format!("{}.{:06} s", time.as_secs(), time.subsec_micros())
}

/// `1 December 2026, 00:00 UTC` of `2026-12-01T00:00:00Z`.
fn day_of(resets_at: &str) -> String {
    let month = resets_at.get(..7).and_then(|month| month.parse::<Period>().ok());
    month.map(|month| format!("1 {}, 00:00 UTC", month.name())).unwrap_or_default()
}
