//! `POST /billing/spending-limit`: sets or removes the owner's limit.

use axum::{
    Form,
    extract::{FromRequest, Request, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    bill::Bill,
    denied::Denied,
    html,
    page::{self, InvalidEntries, InvalidEntry},
};
use crate::{
    CreditMeter, Credits,
    identify::{RequestHead, is_csrf_safe},
    rejection::Rejection,
};

#[derive(Deserialize)]
struct LimitForm {
    #[serde(default)]
    limit: String,
    /// `yes` to remove the limit.
    remove: Option<String>,
}

impl LimitForm {
    /// Returns the new limit, `None` to remove it, or the error that the form shows.
    fn parse(&self) -> Result<Option<Credits>, String> {
        match self.remove.as_deref() {
            Some("yes") => Ok(None),
            None | Some("") => {
                let amount = self.limit.trim().trim_start_matches('$');
                amount.parse().map(Some).map_err(|error| format!("The limit was not set: {error}."))
            }
            Some(_) => Err("The limit was not changed: write `yes` into the field `remove` to \
                remove the limit, or leave the field out."
                .to_owned()),
        }
    }
}

pub(super) async fn set(State(meter): State<CreditMeter>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bill = match bill_to_limit(&meter, &parts).await {
        Ok(bill) => bill,
        Err(denied) => return html::denial(&meter, &parts, denied),
    };
    let request = Request::from_parts(parts.clone(), body);
    let form = match Form::<LimitForm>::from_request(request, &()).await {
        Ok(Form(form)) => form,
        Err(error) => {
            return html::denial(&meter, &parts, Denied::unreadable_form(&error, "limit"));
        }
    };
    let limit = match form.parse() {
        Ok(limit) => limit,
        Err(error) => {
            let invalid = InvalidEntry { entered: form.limit, error };
            let invalid = InvalidEntries { spending_limit: Some(invalid), limits: None };
            return page::answer(&meter, &parts, invalid).await;
        }
    };
    match meter.accounts().set_spending_limit(&bill.identity.account, limit).await {
        Ok(_) => html::to_page().into_response(),
        Err(error) => {
            tracing::warn!(
                target: "tower_credits",
                account = %bill.identity.account,
                %error,
                "a spending limit could not be set"
            );
            html::denial(&meter, &parts, Rejection::LedgerUnreachable.into())
        }
    }
}

/// Returns the bill whose limit a request may set.
async fn bill_to_limit(meter: &CreditMeter, parts: &Parts) -> Result<Bill, Denied> {
    if !is_csrf_safe(RequestHead::from(parts)) {
        return Err(Rejection::CrossOrigin.into());
    }
    let bill = Bill::read(meter, parts).await?;
    let forbidden =
        |detail| Err(Denied::other(StatusCode::FORBIDDEN, "Spending limit not set", detail));
    if !bill.has_limit() {
        return forbidden("This tier has no pay-as-you-go, so there is no spending to limit.");
    }
    if !bill.is_owner() {
        return forbidden(
            "Members cannot set the spending limit of an organisation. Ask the operator of this \
             service to set it.",
        );
    }
    Ok(bill)
}
