//! `POST /billing/sign-in` and `POST /billing/sign-out`: a valid token becomes a cookie.

use axum::{
    Form,
    extract::{FromRequest, Request, State},
    http::{
        HeaderValue, StatusCode, Uri,
        header::{AUTHORIZATION, ORIGIN, SET_COOKIE},
        request::Parts,
    },
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{denied::Denied, html};
use crate::{
    CreditMeter, Name,
    identify::{IdentifyError, RequestHead, is_csrf_safe},
    rejection::Rejection,
};

#[derive(Deserialize)]
struct Credentials {
    token: String,
}

pub(super) async fn sign_in(State(meter): State<CreditMeter>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let cookie = match cookie(&meter, &parts) {
        Ok(cookie) => cookie,
        Err(denied) => return html::denial(&meter, &parts, denied),
    };
    let token = match Form::<Credentials>::from_request(
        Request::from_parts(parts.clone(), body),
        &(),
    )
    .await
    {
        Ok(Form(form)) => form.token.trim().to_owned(),
        Err(error) => {
            return html::denial(&meter, &parts, Denied::unreadable_form(&error, "token"));
        }
    };
    let Some(authorization) = bearer(&token) else {
        return html::sign_in_form(Some(
            "This token cannot be used here: it contains a character that is not allowed in a \
             cookie. Check that you copied only the token.",
        ));
    };
    let mut probe = axum::http::Request::new(());
    probe.headers_mut().insert(AUTHORIZATION, authorization);
    match (meter.caller(RequestHead::from(&probe)).await, transport(&parts, cookie)) {
        (Ok(_), Transport::Plain) => html::sign_in_form(Some(
            "Over plain HTTP your browser would send the token unencrypted. Open this page with \
             https:// and sign in again.",
        )),
        (Ok(_), transport) => set_cookie(cookie, &token, transport, ""),
        (Err(error @ IdentifyError::Unavailable(_)), _) => {
            html::denial(&meter, &parts, error.into())
        }
        (Err(_), _) => {
            html::sign_in_form(Some("This token is not valid. Check that you copied all of it."))
        }
    }
}

pub(super) async fn sign_out(State(meter): State<CreditMeter>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match cookie(&meter, &parts) {
        Ok(cookie) => set_cookie(cookie, "", transport(&parts, cookie), "; Max-Age=0"),
        Err(denied) => html::denial(&meter, &parts, denied),
    }
}

/// Returns the cookie to set, if the server has one and the request comes from its own pages.
fn cookie<'a>(meter: &'a CreditMeter, parts: &Parts) -> Result<&'a Name, Denied> {
    let unavailable = |status, detail| Denied::other(status, "Sign-in is not available", detail);
    let cookie = meter.cookie().ok_or_else(|| {
        let detail = "This server does not take tokens from cookies. Send your token with each \
            request: `Authorization: Bearer <token>`.";
        unavailable(StatusCode::NOT_FOUND, detail)
    })?;
    if !is_csrf_safe(RequestHead::from(parts)) {
        return Err(Rejection::CrossOrigin.into());
    }
    // A `token` (RFC 9110, section 5.6.2).
    let is_token = cookie
        .as_str()
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if !is_token {
        tracing::error!(
            target: "tower_credits",
            %cookie,
            "browsers reject a cookie of this name: give `or_cookie` a name of letters, digits and \
             hyphens"
        );
        return Err(unavailable(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The name of this server's cookie is not valid. Report this to the operator of this \
             service.",
        ));
    }
    Ok(cookie)
}

/// Returns a token's `Authorization` field, if the token is allowed in a cookie, too (RFC 6265,
/// section 4.1.1).
fn bearer(token: &str) -> Option<HeaderValue> {
    let is_allowed =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\');
    if token.is_empty() || !token.bytes().all(is_allowed) {
        return None;
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Transport by which a browser would send a cookie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// TLS: the cookie is `Secure`.
    Tls,
    /// Plain HTTP that does not leave the machine.
    Loopback,
    /// Plain HTTP: a browser would not store a `Secure` cookie, and would send another one
    /// unencrypted.
    Plain,
}

/// Reads the transport from `Origin`, which the browser sends: a server behind a proxy may see
/// another host and scheme.
fn transport(parts: &Parts, cookie: &Name) -> Transport {
    let origin =
        parts.headers.get(ORIGIN).and_then(|origin| origin.to_str().ok()?.parse::<Uri>().ok());
    let Some(origin) = origin.filter(|origin| origin.scheme_str() == Some("http")) else {
        return Transport::Tls;
    };
    match origin.host() {
        // Browsers reject these (`__Secure-`, `__Host-`) without `Secure`.
        _ if cookie.as_str().starts_with("__") => Transport::Tls,
        Some(host) if is_loopback(host) => Transport::Loopback,
        _ => Transport::Plain,
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host == "[::1]"
        || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// Sends the browser to the page with a cookie that is sent with this site's own requests only, and
/// that scripts cannot read.
fn set_cookie(cookie: &Name, token: &str, transport: Transport, attributes: &str) -> Response {
    let secure = if transport == Transport::Loopback { "" } else { "; Secure" };
    let mut response = html::to_page().into_response();
    // Names and tokens that are not allowed in a cookie were refused.
    if let Ok(value) = HeaderValue::try_from(format!(
        "{cookie}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{attributes}"
    )) {
        response.headers_mut().append(SET_COOKIE, value);
    }
    response
}
