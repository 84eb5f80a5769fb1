//! What account holders see: a page, and the same as JSON and CSV, for axum.
//!
//! | route | what |
//! |---|---|
//! | `GET /billing` | the page: credits used and left, by model, feature, day and member; the spending limit |
//! | `GET /billing.json`, `GET /billing.csv` | the same for programs and spreadsheets |
//! | `POST /billing/sign-in`, `/billing/sign-out` | for browsers, where tokens are [taken from a cookie](crate::BearerTokens::or_cookie) |
//! | `POST /billing/spending-limit` | sets or removes the owner's limit on pay-as-you-go spending |
//!
//! ```no_run
//! # fn example(meter: tower_credits::CreditMeter, app: axum::Router) -> axum::Router {
//! let app = app.layer(meter.clone()).merge(tower_credits::billing::router(&meter));
//! # app
//! # }
//! ```
//!
//! They take the credentials that metered requests take, and all show one [`Statement`]. With `?period=YYYY-MM` they show an earlier month (ledgers keep
//! 13), with `?organisation=<id>` an organisation's that the caller [may bill](crate::Identity::member_of); to everybody else it does not exist. The
//! routes authenticate by themselves and are not metered: merge them after the layer, not under it.
//!
//! The page needs no JavaScript and allows none (`Content-Security-Policy`). What changes something must come from a page of the same origin
//! (`Sec-Fetch-Site`, `Origin`) or carry an `Authorization` field, which no page of another site can make a browser send.

mod csv;
mod json;
mod page;
mod sign_in;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    http::{HeaderValue, Uri, header::CACHE_CONTROL, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;

use crate::{CreditMeter, Identity, Period, RequestHead, Statement, Tier, Usage, identify::IdentifyError, rejection::Rejection};

/// The billing routes; the [module](self) has them.
///
/// They deny as metered requests are denied; 400 where the period is no month. Of months that the ledger keeps no more there are zeros.
pub fn router(meter: &CreditMeter) -> Router {
    Router::new()
        .route("/billing", get(page::show))
        .route("/billing/style.css", get(page::style))
        .route("/billing/sign-in", post(sign_in::sign_in))
        .route("/billing/sign-out", post(sign_in::sign_out))
        .route("/billing/spending-limit", post(page::set_spending_limit))
        .route("/billing.json", get(json::show))
        .route("/billing.csv", get(csv::show))
        .with_state(meter.clone())
}

#[derive(Default, Deserialize)]
struct Asked {
    period: Option<String>,
    organisation: Option<String>,
}

/// What a caller may see.
struct Bill {
    /// Who asks, and whom it is about.
    identity: Arc<Identity>,
    /// The caller's own name for the organisations that it may look at.
    caller: Arc<Identity>,
    tier: Arc<Tier>,
    statement: Statement,
    is_current: bool,
}

impl Bill {
    /// The bill that a request asks for.
    async fn read(meter: &CreditMeter, parts: &Parts) -> Result<Self, Rejection> {
        let caller = meter.identify(RequestHead::from(parts)).await?;
        let asked = asked(&parts.uri)?;
        let identity = match &asked.organisation {
            Some(organisation) => caller.billed_to(organisation).ok_or(IdentifyError::NotAMember)?,
            None => Arc::clone(&caller),
        };
        let period = asked.period.as_deref().map(str::parse).transpose().map_err(|_| Rejection::NoSuchPeriod)?;
        Self::of(meter, caller, identity, period).await
    }

    async fn of(meter: &CreditMeter, caller: Arc<Identity>, identity: Arc<Identity>, period: Option<Period>) -> Result<Self, Rejection> {
        let Some(tier) = meter.plan().current().tier(identity.tier.as_str()).cloned() else { return Err(Rejection::UnknownTier) };
        let statement = meter.statement(&identity, period).await.map_err(|error| {
            tracing::warn!(target: "tower_credits", account = %identity.account, %error, "a statement could not be read");
            Rejection::LedgerUnreachable
        })?;
        let is_current = statement.period == meter.this_month();
        Ok(Self { identity, caller, tier, statement, is_current })
    }

    /// The lines, put together by whatever is told of each.
    fn by<K: Ord>(&self, key: impl Fn(&crate::StatementLine) -> K) -> BTreeMap<K, Usage> {
        let mut merged: BTreeMap<_, Usage> = BTreeMap::new();
        for line in &self.statement.lines {
            merged.entry(key(line)).or_default().add(line.usage);
        }
        merged
    }

    fn day(&self, day: u8) -> String {
        format!("{}-{day:02}", self.statement.period)
    }
}

fn asked(uri: &Uri) -> Result<Asked, Rejection> {
    Query::<Asked>::try_from_uri(uri).map(|Query(asked)| asked).map_err(|_| Rejection::NoSuchPeriod)
}

/// A denial, as metered requests are denied.
fn denied(meter: &CreditMeter, rejection: Rejection) -> Response {
    rejection.into_response(meter.denial_style()).map(Body::from)
}

fn no_store(answer: impl IntoResponse) -> Response {
    ([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], answer).into_response()
}

/// Reads the bill that is asked for, and shows it.
async fn shown(meter: &CreditMeter, request: Request, show: impl FnOnce(&Bill) -> Response) -> Response {
    let (parts, _) = request.into_parts();
    match Bill::read(meter, &parts).await {
        Ok(bill) => show(&bill),
        Err(rejection) => denied(meter, rejection),
    }
}

/// What handlers of this module are given.
type Meter = State<CreditMeter>;
