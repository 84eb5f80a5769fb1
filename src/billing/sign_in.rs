//! Signing in: a token that is known becomes a cookie of the browser's.

use axum::{
    Form,
    extract::{FromRequest, Request, State},
    http::{
        HeaderValue, StatusCode, Uri,
        header::{AUTHORIZATION, ORIGIN, SET_COOKIE},
        request::Parts,
    },
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    Denied, Meter,
    page::{self, unreadable},
};
use crate::{
    CreditMeter, Name,
    identify::{IdentifyError, RequestHead, is_csrf_safe},
    rejection::Rejection,
};

#[derive(Deserialize)]
struct Credentials {
    token: String,
}

pub(super) async fn sign_in(State(meter): Meter, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let cookie = match cookie(&meter, &parts) {
        Ok(cookie) => cookie,
        Err(denied) => return page::denial(&meter, &parts, denied),
    };
    let token = match Form::<Credentials>::from_request(
        Request::from_parts(parts.clone(), body),
        &(),
    )
    .await
    {
        Ok(Form(form)) => form.token.trim().to_owned(),
        Err(error) => return page::denial(&meter, &parts, unreadable(&error, "token")),
    };
    let Some(bearer) = bearer(&token) else {
        return page::sign_in(Some(
            "This token cannot stand in a cookie: it has a character that is not allowed there.",
        ));
    };
    let mut asks = axum::http::Request::new(());
    asks.headers_mut().insert(AUTHORIZATION, bearer);
    match (meter.caller(RequestHead::from(&asks)).await, safety(&parts, cookie)) {
        (Ok(_), Safety::None) => page::sign_in(Some(
            "Over plain http a browser would send the token for all to read: open this page with https.",
        )),
        (Ok(_), safety) => set(cookie, &token, safety, ""),
        (Err(error @ IdentifyError::Unavailable(_)), _) => {
            page::denial(&meter, &parts, error.into())
        }
        (Err(_), _) => {
            page::sign_in(Some("This token is not known. Check that all of it was copied."))
        }
    }
}

pub(super) async fn sign_out(State(meter): Meter, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match cookie(&meter, &parts) {
        Ok(cookie) => set(cookie, "", safety(&parts, cookie), "; Max-Age=0"),
        Err(denied) => page::denial(&meter, &parts, denied),
    }
}

/// The cookie that is set, where the request was meant.
fn cookie<'a>(meter: &'a CreditMeter, parts: &Parts) -> Result<&'a Name, Denied> {
    let because =
        |status, detail: &str| Denied::Because(status, "No sign-in here", detail.to_owned());
    let cookie = meter.cookie().ok_or_else(|| {
        because(StatusCode::NOT_FOUND, "This server takes no token from a cookie.")
    })?;
    if !is_csrf_safe(RequestHead::from(parts)) {
        return Err(Rejection::CrossOrigin.into());
    }
    // A token of RFC 9110, section 5.6.2.
    let is_token = cookie
        .as_str()
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if !is_token {
        tracing::error!(target: "tower_credits", %cookie, "no browser keeps a cookie of this name: give `or_cookie` letters, digits and hyphens");
        return Err(because(
            StatusCode::INTERNAL_SERVER_ERROR,
            "This server's cookie has a name that no browser keeps.",
        ));
    }
    Ok(cookie)
}

/// A token as a request carries it, if it can stand in a cookie too (RFC 6265, section 4.1.1).
fn bearer(token: &str) -> Option<HeaderValue> {
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\');
    if token.is_empty() || !token.bytes().all(fits) {
        return None;
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// How a cookie is kept from being sent for all to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Safety {
    /// Only with TLS.
    Secure,
    /// It never leaves the machine.
    Loopback,
    /// Not at all: the browser itself came over plain http, and would keep no secure cookie.
    None,
}

/// What the browser itself says counts: behind a proxy, the host that a server sees may be its own.
fn safety(parts: &Parts, cookie: &Name) -> Safety {
    let origin =
        parts.headers.get(ORIGIN).and_then(|origin| origin.to_str().ok()?.parse::<Uri>().ok());
    let Some(origin) = origin.filter(|origin| origin.scheme_str() == Some("http")) else {
        return Safety::Secure;
    };
    match origin.host() {
        // Browsers refuse these without.
        _ if cookie.as_str().starts_with("__") => Safety::Secure,
        Some(host) if is_loopback(host) => Safety::Loopback,
        _ => Safety::None,
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host == "[::1]"
        || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// Sends the browser to the page with a cookie that only this site's own requests carry, and no
/// script can read.
fn set(cookie: &Name, token: &str, safety: Safety, more: &str) -> Response {
    let secure = if safety == Safety::Loopback { "" } else { "; Secure" };
    let mut response = Redirect::to("/billing").into_response();
    // Names and tokens that would not fit were refused.
    if let Ok(value) = HeaderValue::try_from(format!(
        "{cookie}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{more}"
    )) {
        response.headers_mut().append(SET_COOKIE, value);
    }
    response
}
