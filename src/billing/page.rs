//! `GET /billing`: the page.

use askama::Template;
use axum::{
    extract::{Request, State},
    http::{StatusCode, header::AUTHORIZATION, request::Parts},
    response::Response,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    bill::{Bill, Sort},
    chart::Chart,
    html,
    parts::{self, LimitsForm, PartRow},
    tables::{Footnote, PriceRow, Table, footnotes, prices, tables},
};
use crate::{
    CreditMeter, Credits, Period,
    ledger::{Reason, RefundId, StatementRefund},
    metering::MIN_ADMITTED_TIME,
    plan::Amount,
};

/// Months that ledgers keep, the current one included.
const MONTHS_KEPT: usize = 13;

/// Characters that are percent-encoded in a query.
const ENCODED_IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

#[derive(Template)]
#[template(path = "billing.html")]
struct Page<'a> {
    account: &'a str,
    tier: &'a str,
    /// The share of prices that the tier pays, in percent, unless it is all.
    percent_of_prices: Option<String>,
    period: String,
    /// The end of the month: a timestamp, and the same for people.
    resets_at: String,
    resets: String,
    is_current: bool,
    /// Queries of the links to other months, and of this page.
    previous: Option<String>,
    next: Option<String>,
    current: Option<String>,
    this: String,
    notice: Option<String>,
    included: Amount,
    included_used: Amount,
    included_left: Amount,
    included_per_day: Amount,
    included_left_today: Amount,
    used: Amount,
    pay_as_you_go: Amount,
    beyond: Amount,
    held: Amount,
    purchased_left: Amount,
    purchased_used: Amount,
    seats: u32,
    requests: u64,
    compute: String,
    /// The cost of the month: what was used, less refunds.
    net: Amount,
    /// The largest pay-as-you-go amount that the tier allows in a month.
    tier_limit: Option<Amount>,
    shows_limit: bool,
    may_set_limit: bool,
    spending_limit: Option<Amount>,
    invalid_limit: Option<InvalidEntry>,
    /// Groups, members and keys, with what each used.
    parts: Vec<PartRow>,
    sort: Sort,
    shows_parts: bool,
    /// The limit of the account's day, and what is used of it.
    most_per_day: String,
    used_today: Amount,
    invalid_limits: Option<(LimitsForm, String)>,
    refunded: Amount,
    refunds: Vec<RefundRow<'a>>,
    closed: bool,
    chart: Chart,
    tables: Vec<Table>,
    /// Prices in force, of the current month.
    prices: Vec<PriceRow>,
    /// Code of the currency that a form takes amounts in.
    currency: String,
    footnotes: Vec<&'static Footnote>,
    accounts: Vec<AccountLink<'a>>,
    can_sign_out: bool,
}

/// A refund on the page.
struct RefundRow<'a> {
    id: &'a RefundId,
    reason: &'a Reason,
    amount: Amount,
}

impl<'a> RefundRow<'a> {
    fn new(bill: &Bill, refund: &'a StatementRefund) -> Self {
        Self { id: &refund.id, reason: &refund.reason, amount: bill.amount(refund.amount) }
    }
}

/// A link to an account that the caller may look at.
struct AccountLink<'a> {
    name: &'a str,
    query: String,
    is_this: bool,
}

/// Text that was entered as the spending limit, and the error that it caused.
pub(super) struct InvalidEntry {
    pub(super) entered: String,
    pub(super) error: String,
}

/// Entries that cannot be taken, and why.
#[derive(Default)]
pub(super) struct InvalidEntries {
    pub(super) spending_limit: Option<InvalidEntry>,
    pub(super) limits: Option<(LimitsForm, String)>,
}

pub(super) async fn show(State(meter): State<CreditMeter>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    answer(&meter, &parts, InvalidEntries::default()).await
}

/// Returns the page that a request asks for, or a denial. With an invalid entry it is a 422.
pub(super) async fn answer(
    meter: &CreditMeter,
    parts: &Parts,
    invalid: InvalidEntries,
) -> Response {
    let is_valid = invalid.spending_limit.is_none() && invalid.limits.is_none();
    let status = if is_valid { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    match Bill::read(meter, parts).await {
        Ok(bill) => html::page(status, Page::new(meter, parts, &bill, invalid).render()),
        Err(denied) => html::denial(meter, parts, denied),
    }
}

impl<'a> Page<'a> {
    fn new(meter: &CreditMeter, parts: &Parts, bill: &'a Bill, invalid: InvalidEntries) -> Self {
        let statement = &bill.statement;
        let (period, now) = (statement.period, meter.this_month());
        let organisation = bill.identity.account.organisation().filter(|_| !bill.is_own());
        let query_of = |period| query(organisation, (period != now).then_some(period));
        let included_used = statement.included_used();
        Self {
            account: statement.account.as_str(),
            tier: bill.identity.tier.as_str(),
            percent_of_prices: bill.tier.price_factor.percent(),
            period: period.name(),
            resets_at: period.resets_at(),
            resets: end_of(period),
            is_current: bill.is_current,
            previous: (is_kept(period.previous(), now) && period.previous() != period)
                .then(|| query_of(period.previous())),
            next: (period < now).then(|| query_of(period.next())),
            // Only from months that are more than a step away.
            current: (period != now && period.next() != now).then(|| query_of(now)),
            this: query(organisation, Some(period)),
            notice: notice(meter, bill),
            included: bill.amount(statement.included),
            included_used: bill.amount(included_used),
            included_left: bill.amount(statement.included.saturating_sub(included_used)),
            included_per_day: bill.amount(statement.included_per_day),
            included_left_today: bill.amount(statement.included_left_today),
            used: bill.amount(statement.used),
            pay_as_you_go: bill.amount(statement.pay_as_you_go),
            beyond: bill.amount(statement.beyond()),
            held: bill.amount(statement.held),
            purchased_left: bill.amount(statement.purchased_left),
            purchased_used: bill.amount(statement.purchased_used),
            seats: statement.seats.get(),
            requests: statement.requests(),
            compute: bill.computed(statement.lines.iter()),
            net: bill.amount(statement.net()),
            tier_limit: Some(bill.tier.terms().pay_as_you_go)
                .filter(|most| *most != Credits::MAX)
                .map(|most| bill.amount(most)),
            shows_limit: bill.has_limit() && bill.is_current,
            may_set_limit: bill.is_owner(),
            spending_limit: statement.spending_limit.map(|limit| bill.amount(limit)),
            invalid_limit: invalid.spending_limit,
            parts: parts::rows(bill),
            sort: bill.sort,
            shows_parts: bill.is_current
                && (!statement.parts.is_empty()
                    || statement.account.organisation().is_some()
                    || statement.most_per_day.is_some()
                    || bill.tier.most_per_day.is_some()),
            most_per_day: parts::shown(
                bill,
                lower(statement.most_per_day, bill.tier.most_per_day),
                None,
            ),
            used_today: bill.amount(statement.used_today),
            invalid_limits: invalid.limits,
            refunded: bill.amount(statement.refunded),
            refunds: statement.refunds.iter().map(|refund| RefundRow::new(bill, refund)).collect(),
            closed: statement.closed,
            chart: Chart::new(bill),
            tables: tables(bill),
            prices: if bill.is_current { prices(bill, meter.ledger_time()) } else { Vec::new() },
            currency: bill.plan.currency().to_string(),
            footnotes: footnotes(bill),
            accounts: accounts(bill),
            can_sign_out: meter.cookie().is_some() && !parts.headers.contains_key(AUTHORIZATION),
        }
    }
}

/// Returns the lower of two limits.
fn lower(own: Option<Credits>, tiers: Option<Credits>) -> Option<Credits> {
    own.into_iter().chain(tiers).min()
}

/// Returns the reason why requests are denied, if what is left does not pay for the shortest one.
fn notice(meter: &CreditMeter, bill: &Bill) -> Option<String> {
    let statement = &bill.statement;
    let least = meter
        .plan()
        .current()
        .lowest_cost(MIN_ADMITTED_TIME, bill.tier.price_factor, meter.ledger_time())
        .unwrap_or_default();
    if !bill.is_current || meter.is_shadow() || statement.left() >= least.max(Credits::SMALLEST) {
        return None;
    }
    let limited = statement.spending_limit.is_some_and(|own| own < bill.tier.terms().pay_as_you_go);
    let or_month_ends = if statement.included_per_day.is_zero() {
        format!(", or until the month ends on {}", end_of(statement.period))
    } else {
        ", or until midnight (UTC)".to_owned()
    };
    let (what, until, or) = match (limited, bill.is_own()) {
        (true, true) => ("You have reached your spending limit", "you raise it", &*or_month_ends),
        (true, false) => {
            ("The organisation has reached its spending limit", "it is raised", &*or_month_ends)
        }
        // The next month has none, either.
        (false, _) if statement.limit.is_zero() => {
            ("This account has no credits", "credits are added", "")
        }
        (false, _) => ("All credits are used up", "credits are added", &*or_month_ends),
    };
    let hint = bill.tier.hint.as_deref().map(|hint| format!(" {hint}")).unwrap_or_default();
    Some(format!("{what}. Requests are denied until {until}{or}.{hint}"))
}

/// Returns the accounts that the caller may look at; none if that is only the caller's own.
fn accounts(bill: &Bill) -> Vec<AccountLink<'_>> {
    let caller = &bill.caller;
    let links: Vec<_> = std::iter::once(&caller.account)
        .chain(caller.organisations().filter(|account| **account != caller.account))
        .map(|account| {
            let organisation =
                if *account == caller.account { None } else { account.organisation() };
            AccountLink {
                name: account.as_str(),
                query: query(organisation, None),
                is_this: *account == bill.identity.account,
            }
        })
        .collect();
    if links.len() == 1 { Vec::new() } else { links }
}

/// `true` if the ledger keeps this month.
fn is_kept(month: Period, now: Period) -> bool {
    std::iter::successors(Some(now), |month| Some(month.previous()))
        .take(MONTHS_KEPT)
        .any(|kept| kept == month)
}

fn query(organisation: Option<&str>, period: Option<Period>) -> String {
    let organisation = organisation
        .map(|id| format!("organisation={}", utf8_percent_encode(id, ENCODED_IN_QUERY)));
    let parts: Vec<_> =
        organisation.into_iter().chain(period.map(|period| format!("period={period}"))).collect();
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

/// Returns the end of a month for people: `1 December 2026, 00:00 UTC`.
fn end_of(period: Period) -> String {
    format!("1 {}, 00:00 UTC", period.next().name())
}
