//! Billing for account holders, as axum routes: a page, and the same figures as JSON and CSV.
//!
//! * `GET /billing`: the page. It shows credits used and left, usage by day, model, hardware,
//!   feature and member, refunds, and the spending limit.
//! * `GET /billing.json` and `GET /billing.csv`: the same figures for programs and spreadsheets.
//! * `POST /billing/sign-in` and `POST /billing/sign-out`: for browsers, if tokens are
//!   [also taken from a cookie](crate::BearerTokens::or_cookie).
//! * `POST /billing/spending-limit`: sets or removes the owner's limit on pay-as-you-go spending.
//! * `POST /billing/limits`: sets or removes limits of the account's parts, and of its day.
//! * `POST /billing/requests`: the costs of requests by their ids, if they are
//!   [kept](crate::CreditMeterBuilder::keep_costs). The body is
//!   `{"requestIds": ["<id>", ...]}`, with 10 000 ids at most; the answer is
//!   `{"requests": [{"requestId": "<id>", "costNanoUsd": 2478}]}`, without ids that are not known.
//! * `GET /billing/parts.csv`: what each part used, and its limits.
//!
//! ```no_run
//! # fn example(meter: tower_credits::CreditMeter, app: axum::Router) -> axum::Router {
//! let app = app.layer(meter.clone()).merge(tower_credits::billing::router(&meter));
//! # app
//! # }
//! ```
//!
//! The routes authenticate their callers by themselves and are not metered: merge them after the
//! layer, not under it. They take the same credentials as metered requests. All of them show one
//! [`Statement`](crate::ledger::Statement), chosen by the query:
//!
//! * `?period=YYYY-MM`: an earlier month. Ledgers keep 13 months. Default: the current month.
//! * `?organisation=<id>`: an organisation that the caller
//!   [may bill](crate::Identity::member_of). Everybody else gets the same answer as for an
//!   organisation that does not exist. Default: the caller's own account.
//!
//! An account's own callers can set its spending limit and those of its [parts](crate::Part),
//! unless they are of a part themselves. Members of an organisation see its limits and cannot
//! change them.
//!
//! The page needs no JavaScript and allows none (`Content-Security-Policy`). A request that changes
//! something must come from a page of the same origin (`Sec-Fetch-Site`, `Origin`), or carry a
//! bearer token in its `Authorization` field, which another site's page cannot make a browser send.

mod bill;
mod chart;
mod costs;
mod csv;
mod denied;
mod html;
mod json;
mod limits;
mod page;
mod parts;
mod router;
mod sign_in;
mod spending_limit;
mod tables;

pub use self::router::router;
