//! `POST /billing/requests`: the costs of requests by their ids, in the form in which Hugging Face
//! asks the providers of its inference for them.

use std::collections::BTreeSet;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequest, Request, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    bill::account_of,
    denied::{Denied, no_store},
};
use crate::{
    CreditMeter, RequestId,
    ledger::{MAX_REQUEST_IDS, RequestCost},
    rejection::Rejection,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    request_ids: Vec<String>,
}

#[derive(Serialize)]
struct Found {
    requests: Vec<Cost>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    request_id: RequestId,
    cost_nano_usd: i64,
}

pub(super) async fn show(State(meter): State<CreditMeter>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    match find(&meter, &parts, body).await {
        Ok(found) => no_store(Json(found)),
        Err(denied) => denied.into_response(&meter, &parts).into_response(),
    }
}

async fn find(meter: &CreditMeter, parts: &Parts, body: Body) -> Result<Found, Denied> {
    let (_, identity) = account_of(meter, parts).await?;
    if !meter.keeps_costs() {
        let detail = "The costs of single requests are not kept on this server.";
        return Err(Denied::other(StatusCode::NOT_IMPLEMENTED, "Costs are not kept", detail));
    }
    let body = Bytes::from_request(Request::from_parts(parts.clone(), body), &()).await;
    let body = body.map_err(|error| {
        let detail = format!("The body cannot be read: {}.", error.body_text());
        Denied::other(error.status(), "Invalid body", &detail)
    })?;
    let Asked { request_ids } = serde_json::from_slice(&body).map_err(|error| {
        let detail = format!(
            "The body cannot be read: {error}. Write {{\"requestIds\": [\"<id>\", ...]}}, with at \
             most {MAX_REQUEST_IDS} ids."
        );
        Denied::other(StatusCode::BAD_REQUEST, "Invalid body", &detail)
    })?;
    if request_ids.len() > MAX_REQUEST_IDS {
        let detail = format!(
            "These are {} ids. Write at most {MAX_REQUEST_IDS}, and ask again for the others.",
            request_ids.len()
        );
        return Err(Denied::other(StatusCode::PAYLOAD_TOO_LARGE, "Too many ids", &detail));
    }
    // What cannot be an id is the id of no request.
    let ids: BTreeSet<RequestId> = request_ids.iter().filter_map(|id| id.parse().ok()).collect();
    let ids: Vec<_> = ids.into_iter().collect();
    let account = &identity.account;
    // Few at a time: the ledger admits everybody's requests, too.
    let Ok(_turn) = meter.cost_lookups().acquire().await else {
        return Err(Rejection::ShuttingDown.into());
    };
    let costs = meter.accounts().costs(account, &ids).await.map_err(|error| {
        tracing::warn!(target: "tower_credits", %account, %error, "costs could not be read");
        Rejection::LedgerUnreachable
    })?;
    let cost = |RequestCost { id, cost }: RequestCost| Cost {
        request_id: id,
        cost_nano_usd: cost.as_nano_usd(),
    };
    Ok(Found { requests: costs.into_iter().map(cost).collect() })
}
