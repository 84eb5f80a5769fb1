//! Denials in HTTP. The body is a problem (RFC 9457) with `reason`, for programs, and `error`: a
//! string, which Hugging Face's clients print, or the object that OpenAI's clients read.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE},
};
use serde::Serialize;

use super::{Rejection, is_grpc_message, is_grpc_web_message};
use crate::{Credits, DenialFormat, Part, limit::RateFields};

/// Tells the SDKs of OpenAI and Anthropic, which retry some statuses on their own, not to do so.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The most characters of a text in a header field.
const MAX_ERROR_MESSAGE: usize = 1_024;

/// The text that Hugging Face's Python client prints first.
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");

/// A meter's settings for its denials, and the protocol of the caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DenialStyle {
    /// Status of denials that say that the server cannot answer now.
    pub(crate) unavailable: StatusCode,
    pub(crate) format: DenialFormat,
    /// `true` if the caller speaks gRPC.
    pub(crate) grpc: bool,
    /// `true` if the caller speaks gRPC-Web, which no layer outside of this one has translated.
    pub(crate) grpc_web: bool,
}

impl DenialStyle {
    /// Returns the style for a caller with these header fields, as far as the protocol goes.
    pub(crate) fn for_protocol(self, headers: &HeaderMap) -> Self {
        Self { grpc: is_grpc_message(headers), ..self }
    }

    /// Returns the style for a caller with these header fields, who reads this format.
    pub(crate) fn for_caller(self, headers: &HeaderMap, format: DenialFormat) -> Self {
        let unavailable = match self.unavailable {
            // This client tries again at once and without end (seen: 400 times a second).
            StatusCode::SERVICE_UNAVAILABLE if is_huggingface_js(headers) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            status => status,
        };
        let (grpc, grpc_web) = (is_grpc_message(headers), is_grpc_web_message(headers));
        Self { grpc, grpc_web, format, unavailable }
    }
}

/// Problem details, and members for clients that read other names.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    /// For clients that print this member of any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    reason: &'a str,
    error: ErrorMember<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resets_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_nano_usd: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<LimitMember<'a>>,
}

/// The limit that was reached, of the account's day or of a part.
#[derive(Serialize)]
struct LimitMember<'a> {
    part: Option<&'a str>,
    span: &'static str,
    nano_usd: i64,
}

/// The member of which one family of clients wants a string, and the other an object.
#[derive(Serialize)]
#[serde(untagged)]
enum ErrorMember<'a> {
    Text(&'a str),
    Object { message: &'a str, r#type: &'static str, param: Option<&'a str>, code: String },
}

impl Rejection {
    /// Returns the HTTP response of this denial, as the layer sends it: with its status, its header
    /// fields (`WWW-Authenticate`, `Retry-After`, `RateLimit`, `Cache-Control: no-store`,
    /// `x-should-retry`, `x-error-message`), a JSON body in this format, and this `Rejection` in
    /// its extensions.
    ///
    /// The layer's own responses can differ in two points: 503 is replaced by the meter's
    /// [`unavailable_status`](crate::CreditMeterBuilder::unavailable_status), and for Hugging
    /// Face's JavaScript client by 504; and the ids are added (`Inference-Id`, `x-request-id`,
    /// `request-id`).
    pub fn into_http_response(self, format: DenialFormat) -> Response<Bytes> {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        self.into_styled_response(DenialStyle { unavailable, format, grpc: false, grpc_web: false })
    }

    /// Returns the response of this denial by a meter with this style.
    pub(crate) fn into_styled_response(self, style: DenialStyle) -> Response<Bytes> {
        if style.grpc {
            return self.into_grpc_response();
        }
        if style.grpc_web {
            return self.into_grpc_web_response();
        }
        let mut response = Response::new(self.body(style));
        *response.status_mut() = self.status_or(style.unavailable);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(style.format.content_type()));
        // A denial is for one caller at one moment.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(rate) = self.rate_state() {
            RateFields::from(rate).write(headers);
        }
        if !self.is_worth_an_automatic_retry() {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Ok(text) = HeaderValue::from_str(&in_ascii(&self.to_string())) {
            headers.insert(ERROR_MESSAGE, text);
        }
        if let Self::Unauthenticated { invalid, api_key_header } = &self {
            let challenge = if *invalid { r#"Bearer error="invalid_token""# } else { "Bearer" };
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            // No scheme is registered for API keys; each field is a challenge of its own.
            let other = api_key_header.as_ref().map(|name| format!("ApiKey header=\"{name}\""));
            if let Some(Ok(other)) = other.map(HeaderValue::try_from) {
                headers.append(WWW_AUTHENTICATE, other);
            }
        }
        response.extensions_mut().insert(self);
        response
    }

    /// Returns the denial as JSON on one line.
    pub(crate) fn body(&self, style: DenialStyle) -> Bytes {
        let (reason, detail) = (self.reason(), self.to_string());
        let status = self.status_or(style.unavailable);
        let error = match style.format {
            DenialFormat::Problem | DenialFormat::HuggingFace => ErrorMember::Text(&detail),
            DenialFormat::OpenAi => ErrorMember::Object {
                message: &detail,
                r#type: openai_type(status),
                param: self.parameter(),
                code: reason.to_ascii_lowercase(),
            },
        };
        let r#type = match style.format {
            // Anthropic's clients read this type.
            DenialFormat::OpenAi => "error".to_owned(),
            DenialFormat::Problem | DenialFormat::HuggingFace => {
                format!("urn:tower-credits:{}", reason.to_ascii_lowercase().replace('_', "-"))
            }
        };
        let body = Body {
            r#type,
            title: self.title(),
            status: status.as_u16(),
            detail: &detail,
            message: matches!(error, ErrorMember::Text(_)).then_some(&*detail),
            reason,
            error,
            resets_at: self.resets_at(),
            left_nano_usd: self.left().map(Credits::as_nano_usd),
            limit: self.budget().map(|(part, span, limit)| LimitMember {
                part: part.map(Part::as_str),
                span: span.as_str(),
                nano_usd: limit.as_nano_usd(),
            }),
        };
        serde_json::to_vec(&body).unwrap_or_default().into()
    }
}

fn is_huggingface_js(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
    agent.starts_with(b"@huggingface/inference")
}

/// Returns the kind of error that OpenAI's API names for a status.
const fn openai_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "insufficient_quota",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

/// Returns the beginning of a text, with `?` for what a header field cannot carry.
fn in_ascii(text: &str) -> String {
    let text = text.chars().take(MAX_ERROR_MESSAGE);
    text.map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

/// The response of [`into_http_response`](Rejection::into_http_response) with
/// [`DenialFormat::Problem`].
#[cfg(feature = "axum")]
impl axum::response::IntoResponse for Rejection {
    fn into_response(self) -> axum::response::Response {
        self.into_http_response(DenialFormat::Problem).map(axum::body::Body::from)
    }
}
