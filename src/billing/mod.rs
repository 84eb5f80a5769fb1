//! What account holders see: a page, and the same as JSON and CSV, for axum.
//!
//! | route | what |
//! |---|---|
//! | `GET /billing` | the page: credits used and left, by day, model, hardware, feature and member; refunds; the spending limit |
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
//! They take the credentials that metered requests take, and all show one [`Statement`]. With
//! `?period=YYYY-MM` they show an earlier month (ledgers keep 13), with `?organisation=<id>` an
//! organisation's that the caller [may bill](crate::Identity::member_of); to everybody else it does
//! not exist. The routes authenticate by themselves and are not metered: merge them after the
//! layer, not under it.
//!
//! The page needs no JavaScript and allows none (`Content-Security-Policy`). What changes something
//! must come from a page of the same origin (`Sec-Fetch-Site`, `Origin`) or carry a bearer token in
//! its `Authorization` field, which no page of another site can make a browser send.
//!
//! An account's own callers set its spending limit; members of an organisation see its limit and
//! cannot change it.

mod chart;
mod csv;
mod json;
mod page;
mod sign_in;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{Query, Request, State},
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
        request::Parts,
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;

use crate::{
    CreditMeter, Identity, Period,
    identify::{IdentifyError, RequestHead},
    ledger::{Statement, Usage},
    plan::Tier,
    rejection::Rejection,
};

/// The billing routes; the [module](self) has them.
///
/// They deny as metered requests are denied; 400 where the period is no month. Of months that the
/// ledger keeps no more there are zeros.
pub fn router(meter: &CreditMeter) -> Router {
    Router::new()
        .route("/billing", get(page::show))
        .route("/billing/style.css", get(page::style))
        // Who reloads what a form answered is sent back to the page.
        .route("/billing/sign-in", post(sign_in::sign_in).get(page::back))
        .route("/billing/sign-out", post(sign_in::sign_out).get(page::back))
        .route("/billing/spending-limit", post(page::set_spending_limit).get(page::back))
        .route("/billing.json", get(json::show))
        .route("/billing.csv", get(csv::show))
        .with_state(meter.clone())
}

#[derive(Deserialize)]
struct Asked {
    period: Option<String>,
    organisation: Option<String>,
}

/// What a caller may see.
struct Bill {
    /// Whom it is about.
    identity: Arc<Identity>,
    /// Who asks, by its own account.
    caller: Arc<Identity>,
    tier: Arc<Tier>,
    statement: Statement,
    is_current: bool,
}

impl Bill {
    /// The bill that a request asks for.
    async fn read(meter: &CreditMeter, parts: &Parts) -> Result<Self, Denied> {
        let head = RequestHead::from(parts);
        let caller = meter.caller(head).await?;
        let Ok(Query(asked)) = Query::<Asked>::try_from_uri(&parts.uri) else {
            let detail = "The query cannot be read: write `period=YYYY-MM` and `organisation=<id>`, each once or not at all.";
            return Err(Denied::Because(StatusCode::BAD_REQUEST, "Bad query", detail.to_owned()));
        };
        let organisation = match &asked.organisation {
            Some(organisation) => Some(organisation.as_str()),
            None => meter.bill_to(head)?,
        };
        let identity = match organisation {
            Some(organisation) => {
                caller.billed_to(organisation).ok_or(IdentifyError::NotAMember)?
            }
            None => Arc::clone(&caller),
        };
        let period = asked
            .period
            .as_deref()
            .map(str::parse::<Period>)
            .transpose()
            .map_err(|_| Rejection::NoSuchPeriod)?;
        let Some(tier) = meter.plan().current().tier(&identity.tier).cloned() else {
            return Err(Rejection::UnknownTier.into());
        };
        let statement = meter.statement(&identity, period).await.map_err(|error| {
            tracing::warn!(target: "tower_credits", account = %identity.account, %error, "a statement could not be read");
            Rejection::LedgerUnreachable
        })?;
        let is_current = statement.period == meter.this_month();
        Ok(Self { identity, caller, tier, statement, is_current })
    }

    /// The lines, put together by whatever is told of each.
    fn by<K: Ord>(&self, key: impl Fn(&crate::ledger::StatementLine) -> K) -> BTreeMap<K, Usage> {
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

/// Why nothing is shown or done.
enum Denied {
    /// As metered requests are denied.
    Rejected(Rejection),
    /// For what only these routes know: the status, a title, and what to do.
    Because(StatusCode, &'static str, String),
}

impl From<Rejection> for Denied {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<IdentifyError> for Denied {
    fn from(error: IdentifyError) -> Self {
        Self::Rejected(error.into())
    }
}

impl Denied {
    /// As a problem (RFC 9457), or as metered requests are denied.
    fn into_response(self, meter: &CreditMeter) -> Response {
        match self {
            Self::Rejected(rejection) => {
                rejection.into_response(meter.denial_style()).map(Body::from)
            }
            Self::Because(status, title, detail) => {
                let problem = serde_json::json!({ "title": title, "status": status.as_u16(), "error": detail, "detail": detail });
                let mut response = no_store((status, Json(problem)));
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
                response
            }
        }
    }

    fn words(&self, meter: &CreditMeter) -> (StatusCode, String, String) {
        match self {
            Self::Rejected(rejection) => (
                rejection.status(meter.denial_style().unavailable),
                rejection.title().to_owned(),
                rejection.detail(),
            ),
            Self::Because(status, title, detail) => (*status, (*title).to_owned(), detail.clone()),
        }
    }
}

fn no_store(answer: impl IntoResponse) -> Response {
    ([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], answer).into_response()
}

/// Reads the bill that is asked for, and shows it.
async fn shown(
    meter: &CreditMeter,
    request: Request,
    show: impl FnOnce(&Bill) -> Response,
) -> Response {
    let (parts, _) = request.into_parts();
    match Bill::read(meter, &parts).await {
        Ok(bill) => show(&bill),
        Err(denied) => denied.into_response(meter),
    }
}

/// What handlers of this module are given.
type Meter = State<CreditMeter>;
