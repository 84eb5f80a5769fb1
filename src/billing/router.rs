//! The routes.

use axum::{
    Router,
    response::Redirect,
    routing::{get, post},
};

use super::{costs, csv, html, json, limits, page, sign_in, spending_limit};
use crate::CreditMeter;

/// Returns the billing routes; see the [module](crate::billing) for what they serve.
///
/// They deny requests as the layer does. They answer 400 if the query cannot be read or `period` is
/// not a month, and zeros for months that the ledger no longer keeps.
pub fn router(meter: &CreditMeter) -> Router {
    Router::new()
        .route("/billing", get(page::show))
        .route("/billing/style.css", get(html::style))
        // A browser that reloads the answer to a form is sent back to the page.
        .route("/billing/sign-in", post(sign_in::sign_in).get(back))
        .route("/billing/sign-out", post(sign_in::sign_out).get(back))
        .route("/billing/spending-limit", post(spending_limit::set).get(back))
        .route("/billing/limits", post(limits::set).get(back))
        .route("/billing/requests", post(costs::show))
        .route("/billing/parts.csv", get(limits::show))
        .route("/billing.json", get(json::show))
        .route("/billing.csv", get(csv::show))
        .with_state(meter.clone())
}

async fn back() -> Redirect {
    html::to_page()
}
