//! Responses for browsers: pages with their security fields, the style sheet, the sign-in form, and
//! denials.

use askama::Template;
use axum::{
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{
            ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
        },
        request::Parts,
    },
    response::{Html, IntoResponse, Redirect, Response},
};

use super::denied::{Denied, no_store};
use crate::{CreditMeter, rejection::Rejection};

/// Forbids scripts, inline styles and frames; forms may be sent to this origin only.
const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

const STYLE: &str = include_str!("templates/style.css");

#[derive(Template)]
#[template(path = "sign-in.html")]
struct SignIn<'a> {
    error: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct Problem {
    title: String,
    detail: String,
}

/// Returns a rendered page.
pub(super) fn page(status: StatusCode, rendered: askama::Result<String>) -> Response {
    let Ok(page) = rendered else {
        // Strings, numbers and amounts can always be rendered.
        tracing::error!(target: "tower_credits", "a billing page could not be rendered");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let fields: [(HeaderName, HeaderValue); 3] = [
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        // Under `no-referrer`, browsers without `Sec-Fetch-Site` would hide `Origin`, too.
        (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    ];
    no_store((status, fields, Html(page)))
}

/// Returns the form that asks for a token, with the error of the last try.
pub(super) fn sign_in_form(error: Option<&str>) -> Response {
    let mut response = page(StatusCode::UNAUTHORIZED, SignIn { error }.render());
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Returns a denial: the sign-in form if the caller has to sign in, a page if the caller accepts
/// HTML, otherwise the response for programs.
pub(super) fn denial(meter: &CreditMeter, parts: &Parts, denied: Denied) -> Response {
    if let (Denied::Rejected(Rejection::Unauthenticated { invalid, .. }), Some(_)) =
        (&denied, meter.cookie())
    {
        return sign_in_form(invalid.then_some(
            "Your token is no longer valid, or your browser sent two cookies with a token. Sign \
             in again.",
        ));
    }
    let accepts_html = parts
        .headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if !accepts_html {
        return denied.into_response(meter, parts);
    }
    let (status, title, detail) = denied.texts(meter);
    let for_programs = denied.into_response(meter, parts);
    let mut response = page(status, Problem { title, detail }.render());
    for name in [RETRY_AFTER, WWW_AUTHENTICATE] {
        if let Some(value) = for_programs.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// Sends the browser to the billing page.
pub(super) fn to_page() -> Redirect {
    Redirect::to("/billing")
}

pub(super) async fn style() -> Response {
    let fields = [
        (CONTENT_TYPE, "text/css; charset=utf-8"),
        (CACHE_CONTROL, "max-age=3600"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (fields, STYLE).into_response()
}
