//! Billing routes for axum.
//!
//! `GET /billing.json` shows an account's [`Statement`] to whoever has the account's credentials:
//!
//! ```no_run
//! # fn example(meter: tower_credits::CreditMeter, app: axum::Router) -> axum::Router {
//! let app = app.layer(meter.clone()).merge(tower_credits::billing::router(&meter));
//! # app
//! # }
//! ```
//!
//! The routes authenticate by themselves and are not metered: merge them after the layer, not under it.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    http::{HeaderValue, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};

use crate::{CreditMeter, Identity, Name, Period, RequestHead, Statement, Usage, rejection::Rejection};

/// The billing routes: `GET /billing.json`, with `?period=YYYY-MM` for an earlier month.
///
/// It takes the credentials that metered requests take, and denies as they are denied; 400 where the period is no month. Ledgers keep 13 months:
/// of earlier ones there are zeros.
pub fn router(meter: &CreditMeter) -> Router {
    Router::new().route("/billing.json", get(billing_json)).with_state(meter.clone())
}

#[derive(Deserialize)]
struct Asked {
    period: Option<String>,
}

/// The answer of `GET /billing.json`. Amounts are whole nano-dollars.
#[derive(Serialize)]
struct Bill<'a> {
    account: &'a str,
    tier: &'a str,
    period: String,
    resets_at: String,
    included_nano_usd: i64,
    used_nano_usd: i64,
    held_nano_usd: i64,
    pay_as_you_go_nano_usd: i64,
    requests: u64,
    compute_seconds: f64,
    lines: Vec<BillLine>,
}

#[derive(Serialize)]
struct BillLine {
    day: Option<String>,
    model: Name,
    hardware: Name,
    feature: Name,
    requests: u64,
    compute_seconds: f64,
    cost_nano_usd: i64,
}

async fn billing_json(State(meter): State<CreditMeter>, request: Request) -> Response {
    let style = meter.denial_style();
    let denied = |rejection: Rejection| rejection.into_response(style).map(axum::body::Body::from);
    let (parts, _) = request.into_parts();
    let identity = match meter.identify(RequestHead::from(&parts)).await {
        Ok(identity) => identity,
        Err(error) => return denied(error.into()),
    };
    let asked = Query::<Asked>::try_from_uri(&parts.uri).ok();
    let Some(Ok(period)) = asked.map(|Query(asked)| asked.period.as_deref().map(str::parse::<Period>).transpose()) else {
        return denied(Rejection::NoSuchPeriod);
    };
    if meter.plan().current().tier(identity.tier.as_str()).is_none() {
        return denied(Rejection::UnknownTier);
    }
    match meter.statement(&identity, period).await {
        Ok(statement) => ([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(Bill::new(&identity, &statement))).into_response(),
        Err(error) => {
            tracing::warn!(target: "tower_credits", account = %identity.account, %error, "a statement could not be read");
            denied(Rejection::LedgerUnreachable)
        }
    }
}

impl<'a> Bill<'a> {
    fn new(identity: &'a Identity, statement: &'a Statement) -> Self {
        Self {
            account: statement.account.as_str(),
            tier: identity.tier.as_str(),
            period: statement.period.to_string(),
            resets_at: statement.period.resets_at(),
            included_nano_usd: statement.included.as_nano_usd(),
            used_nano_usd: statement.used.as_nano_usd(),
            held_nano_usd: statement.held.as_nano_usd(),
            pay_as_you_go_nano_usd: statement.pay_as_you_go.as_nano_usd(),
            requests: statement.requests(),
            compute_seconds: statement.compute().as_secs_f64(),
            lines: lines(statement),
        }
    }
}

/// The statement's lines, the subjects of each day, model, hardware and feature together.
fn lines(statement: &Statement) -> Vec<BillLine> {
    let mut merged: BTreeMap<_, Usage> = BTreeMap::new();
    for line in &statement.lines {
        // Lines without a day come last.
        let key = (line.day.is_none(), line.day, line.model.clone(), line.hardware.clone(), line.feature.clone());
        merged.entry(key).or_default().add(line.usage);
    }
    merged
        .into_iter()
        .map(|((_, day, model, hardware, feature), usage)| BillLine {
            day: day.map(|day| format!("{}-{day:02}", statement.period)),
            model,
            hardware,
            feature,
            requests: usage.requests,
            compute_seconds: Duration::from_micros(usage.compute_micros).as_secs_f64(),
            cost_nano_usd: usage.cost.as_nano_usd(),
        })
        .collect()
}
