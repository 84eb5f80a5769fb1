//! Denials in HTTP. The body is a problem (RFC 9457) with `reason`, for programs, and `error` as a
//! string, which Hugging Face's clients print; or the error object that OpenAI's clients read.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;

use super::{Rejection, is_grpc_message};
use crate::Credits;

/// Tells OpenAI's clients, which retry some statuses on their own, not to do so.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Format of a denial's body. gRPC calls are always denied with a gRPC status.
///
/// ```
/// use tower_credits::{CreditMeter, DenialFormat};
/// # use tower_credits::{BearerTokens, MemoryLedger, Plan, meter::ConfigError as Error};
/// # fn example(plan: Plan, ledger: MemoryLedger, tokens: BearerTokens) -> Result<(), Error> {
/// let meter = CreditMeter::builder(plan, ledger, tokens)
///     .denial_format(DenialFormat::OpenAi) // for OpenAI's client libraries
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DenialFormat {
    /// Problem details (RFC 9457) with two more members: `reason`, for programs, and `error`, the
    /// `detail` as a string, which Hugging Face's clients print. The default.
    #[default]
    Problem,
    /// `{"error": {"message", "type", "param", "code"}}`, which OpenAI's clients read.
    OpenAi,
}

/// A meter's settings for its denials, and the protocol of the caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DenialStyle {
    /// Status of denials that say that the server cannot answer now.
    pub(crate) unavailable: StatusCode,
    pub(crate) format: DenialFormat,
    /// `true` if the caller speaks gRPC.
    pub(crate) grpc: bool,
}

impl DenialStyle {
    /// Returns the style for a caller with these header fields.
    pub(crate) fn for_caller(self, headers: &HeaderMap) -> Self {
        Self { grpc: is_grpc_message(headers), ..self }
    }
}

#[derive(Serialize)]
struct OpenAi<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: String,
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    reason: &'a str,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resets_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_nano_usd: Option<i64>,
}

impl Rejection {
    /// Returns the HTTP response of this denial, as the layer sends it: with its status, its header
    /// fields (`WWW-Authenticate`, `Retry-After`, `RateLimit`, `Cache-Control: no-store`), a JSON
    /// body in this format, and this `Rejection` in its extensions.
    ///
    /// The layer's own responses can differ in two points: 503 is replaced by the meter's
    /// [`unavailable_status`](crate::CreditMeterBuilder::unavailable_status), and an
    /// `Inference-Id` is added.
    pub fn into_http_response(self, format: DenialFormat) -> Response<Bytes> {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        self.into_styled_response(DenialStyle { unavailable, format, grpc: false })
    }

    /// Returns the response of this denial by a meter with this style.
    pub(crate) fn into_styled_response(self, style: DenialStyle) -> Response<Bytes> {
        if style.grpc {
            return self.into_grpc_response();
        }
        let mut response = Response::new(self.body(style));
        *response.status_mut() = self.status_or(style.unavailable);
        let headers = response.headers_mut();
        let content_type = match style.format {
            DenialFormat::Problem => "application/problem+json",
            DenialFormat::OpenAi => "application/json",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        // A denial is for one caller at one moment.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(rate) = self.rate_state() {
            rate.write(headers);
        }
        match &self {
            Self::Unauthenticated { invalid } => {
                let challenge = if *invalid { r#"Bearer error="invalid_token""# } else { "Bearer" };
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Self::CreditsUsedUp { .. } | Self::RequestCap => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }

    /// Returns the denial as JSON on one line.
    pub(crate) fn body(&self, style: DenialStyle) -> Bytes {
        let (reason, detail) = (self.reason(), self.to_string());
        let status = self.status_or(style.unavailable);
        if style.format == DenialFormat::OpenAi {
            let r#type = match status.as_u16() {
                401 => "authentication_error",
                402 => "insufficient_quota",
                403 => "permission_error",
                404 => "not_found_error",
                429 => "rate_limit_error",
                500.. => "server_error",
                _ => "invalid_request_error",
            };
            let error = OpenAiError {
                message: &detail,
                r#type,
                param: None,
                code: reason.to_ascii_lowercase(),
            };
            return serde_json::to_vec(&OpenAi { error }).unwrap_or_default().into();
        }
        let problem = Problem {
            r#type: format!("urn:tower-credits:{}", reason.to_ascii_lowercase().replace('_', "-")),
            title: self.title(),
            status: status.as_u16(),
            detail: &detail,
            reason,
            error: &detail,
            resets_at: self.resets_at(),
            left_nano_usd: self.left().map(Credits::as_nano_usd),
        };
        serde_json::to_vec(&problem).unwrap_or_default().into()
    }
}

/// The response of [`into_http_response`](Rejection::into_http_response) with
/// [`DenialFormat::Problem`].
#[cfg(feature = "axum")]
impl axum::response::IntoResponse for Rejection {
    fn into_response(self) -> axum::response::Response {
        self.into_http_response(DenialFormat::Problem).map(axum::body::Body::from)
    }
}
