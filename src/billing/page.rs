//! The page, as people read it.

use std::time::Duration;

use askama::Template;
use axum::{
    Form,
    extract::{FromRequest, Request, State},
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{
            AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
        },
        request::Parts,
    },
    response::{Html, IntoResponse, Redirect, Response},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{Bill, Meter, denied, no_store};
use crate::{Amendment, CreditMeter, Credits, RequestHead, Usage, WhenUsedUp, identify::is_own_origin, rejection::Rejection};

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
    /// The query of this very page.
    this: String,
    notice: Option<String>,
    included: Credits,
    included_used: Credits,
    included_left: Credits,
    used: Credits,
    pay_as_you_go: Credits,
    held: Credits,
    purchased_left: Credits,
    purchased_used: Credits,
    seats: u32,
    requests: u64,
    compute: String,
    shows_limit: bool,
    may_set_limit: bool,
    spending_limit: Option<Credits>,
    /// What was typed and could not be taken, and why.
    entered: String,
    error: Option<String>,
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
struct SignIn {
    wrong: bool,
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

async fn answer(meter: &CreditMeter, parts: &Parts, mistake: Mistake) -> Response {
    let status = if mistake.error.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    match Bill::read(meter, parts).await {
        Ok(bill) => html(status, Page::new(meter, parts, &bill, mistake).render()),
        Err(Rejection::Unauthenticated { invalid }) if meter.cookie().is_some() => sign_in(invalid),
        Err(rejection) => denied(meter, rejection),
    }
}

/// The form that asks for a token.
pub(super) fn sign_in(wrong: bool) -> Response {
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
    let fields = [(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, "max-age=3600"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
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
    if !may_change(&parts) {
        return denied(&meter, Rejection::CrossOrigin);
    }
    let bill = match Bill::read(&meter, &parts).await {
        Ok(bill) if bill.may_set_limit() => bill,
        // An organisation's limit is not its members' to set.
        Ok(_) => return denied(&meter, Rejection::NotAMember),
        Err(rejection) => return denied(&meter, rejection),
    };
    let Ok(Form(form)) = Form::<Limit>::from_request(Request::from_parts(parts.clone(), body), &()).await else {
        let error = Some("The form could not be read. Try again.".to_owned());
        return answer(&meter, &parts, Mistake { entered: String::new(), error }).await;
    };
    let typed = form.limit.trim().trim_start_matches('$');
    let limit = match typed.parse() {
        _ if form.remove.is_some() => None,
        Ok(limit) => Some(limit),
        Err(error) => {
            let error = Some(format!("This is no amount of dollars: {error}."));
            return answer(&meter, &parts, Mistake { entered: form.limit, error }).await;
        }
    };
    match meter.amend(&bill.identity.account, Amendment::SpendingLimit(limit)).await {
        Ok(_) => Redirect::to("/billing").into_response(),
        Err(error) => {
            tracing::warn!(target: "tower_credits", account = %bill.identity.account, %error, "a spending limit could not be set");
            denied(&meter, Rejection::LedgerUnreachable)
        }
    }
}

/// Whether a request that changes something was meant: pages of other sites can make a browser send forms and cookies, but neither this field nor
/// a word of being from here.
pub(super) fn may_change(parts: &Parts) -> bool {
    parts.headers.contains_key(AUTHORIZATION) || is_own_origin(RequestHead::from(parts))
}

impl Bill {
    fn has_limit(&self) -> bool {
        matches!(self.tier.when_used_up, WhenUsedUp::PayAsYouGo(_))
    }

    fn may_set_limit(&self) -> bool {
        self.has_limit() && self.identity.account.organisation().is_none()
    }

    /// What there is to say about what is left.
    fn notice(&self) -> Option<String> {
        let statement = &self.statement;
        if !self.is_current || !statement.is_used_up() {
            return None;
        }
        let until = day_of(&statement.period.resets_at());
        let why = if statement.spending_limit.is_some_and(|limit| statement.pay_as_you_go >= limit) && self.has_limit() {
            "Your spending limit is reached: requests are denied until you raise it"
        } else {
            "All credits are used up: requests are denied until you have more"
        };
        let hint = self.tier.hint.as_deref().map(|hint| format!(" {hint}")).unwrap_or_default();
        Some(format!("{why}, or until the month ends on {until}.{hint}"))
    }
}

impl<'a> Page<'a> {
    fn new(meter: &CreditMeter, parts: &Parts, bill: &'a Bill, mistake: Mistake) -> Self {
        let statement = &bill.statement;
        let (period, now) = (statement.period, meter.this_month());
        let organisation = (bill.identity.account != bill.caller.account).then(|| bill.identity.account.organisation()).flatten();
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
            previous: (period.previous() != period).then(|| at(period.previous())),
            next: (period < now).then(|| at(period.next())),
            this: query(organisation, Some(period)),
            notice: bill.notice(),
            included: statement.included,
            included_used,
            included_left: statement.included.saturating_sub(included_used),
            used: statement.used,
            pay_as_you_go: statement.pay_as_you_go,
            held: statement.held,
            purchased_left: statement.purchased_left,
            purchased_used: statement.purchased_used,
            seats: statement.seats.get(),
            requests: statement.requests(),
            compute: seconds(statement.compute()),
            shows_limit: bill.has_limit() && bill.is_current,
            may_set_limit: bill.may_set_limit(),
            spending_limit: statement.spending_limit,
            entered: mistake.entered,
            error: mistake.error,
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
    let by = |id, title, head, key: &dyn Fn(&crate::StatementLine) -> String| Table {
        id,
        title,
        head,
        rows: bill.by(key).into_iter().map(row).collect(),
    };
    let day = |line: &crate::StatementLine| line.day.map_or_else(|| line.model.to_string(), |day| bill.day(day));
    let member = |line: &crate::StatementLine| line.subject.as_ref().map_or_else(|| line.model.to_string(), ToString::to_string);
    let mut tables = vec![
        by("model", "By model", "Model and hardware", &|line| {
            if line.day.is_some() { format!("{} on {}", line.model, line.hardware) } else { line.model.to_string() }
        }),
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
        .chain(caller.organisations())
        .map(|account| {
            let organisation = if *account == caller.account { None } else { account.organisation() };
            Other { name: account.as_str(), query: query(organisation, None), is_this: *account == bill.identity.account }
        })
        .collect();
    if others.len() == 1 {
        others.clear();
    }
    others
}

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

fn query(organisation: Option<&str>, period: Option<crate::Period>) -> String {
    let organisation = organisation.map(|id| format!("organisation={}", utf8_percent_encode(id, RESERVED)));
    let parts: Vec<_> = organisation.into_iter().chain(period.map(|period| format!("period={period}"))).collect();
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

fn seconds(time: Duration) -> String {
    format!("{}.{:06} s", time.as_secs(), time.subsec_micros())
}

/// `1 December 2026, 00:00 UTC` of `2026-12-01T00:00:00Z`.
fn day_of(resets_at: &str) -> String {
    let month = resets_at.get(..7).and_then(|month| month.parse::<crate::Period>().ok());
    month.map(|month| format!("1 {}, 00:00 UTC", month.name())).unwrap_or_default()
}
