//! Signing in: a token that is known becomes a cookie of the browser's.

use axum::{
    Form,
    extract::{FromRequest, Request, State},
    http::{
        HeaderValue,
        header::{AUTHORIZATION, HOST, SET_COOKIE},
        request::Parts,
    },
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    Meter, denied,
    page::{self, may_change},
};
use crate::{Name, RequestHead, identify::IdentifyError, rejection::Rejection};

#[derive(Deserialize)]
struct Credentials {
    token: String,
}

pub(super) async fn sign_in(State(meter): Meter, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(cookie) = meter.cookie() else { return denied(&meter, Rejection::NotInPlan) };
    if !may_change(&parts) {
        return denied(&meter, Rejection::CrossOrigin);
    }
    let form = Form::<Credentials>::from_request(Request::from_parts(parts.clone(), body), &()).await;
    let token = form.map(|Form(form)| form.token.trim().to_owned()).unwrap_or_default();
    let Some(bearer) = bearer(&token) else { return page::sign_in(true) };
    let mut asks = axum::http::Request::new(());
    asks.headers_mut().insert(AUTHORIZATION, bearer);
    match meter.identify(RequestHead::from(&asks)).await {
        Ok(_) => set(cookie, &token, &parts, ""),
        Err(error @ IdentifyError::Unavailable(_)) => denied(&meter, error.into()),
        Err(_) => page::sign_in(true),
    }
}

pub(super) async fn sign_out(State(meter): Meter, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let Some(cookie) = meter.cookie() else { return denied(&meter, Rejection::NotInPlan) };
    if !may_change(&parts) {
        return denied(&meter, Rejection::CrossOrigin);
    }
    set(cookie, "", &parts, "; Max-Age=0")
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

/// Sends the browser to the page with a cookie that only this site's own requests carry, and no script can read.
fn set(cookie: &Name, token: &str, parts: &Parts, more: &str) -> Response {
    // Without TLS, a browser keeps no secure cookie; on the loopback interface there need be none.
    let secure = if is_loopback(parts) { "" } else { "; Secure" };
    let Ok(value) = HeaderValue::try_from(format!("{cookie}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{more}")) else {
        return page::sign_in(true);
    };
    let mut response = Redirect::to("/billing").into_response();
    response.headers_mut().append(SET_COOKIE, value);
    response
}

fn is_loopback(parts: &Parts) -> bool {
    let host = parts.uri.host().or_else(|| {
        let host = parts.headers.get(HOST)?.to_str().ok()?;
        // An IPv6 address has colons of its own, in brackets.
        host.rsplit_once(':').map_or(Some(host), |(name, port)| Some(if port.ends_with(']') { host } else { name }))
    });
    host.is_some_and(|host| host == "localhost" || host == "[::1]" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback()))
}
