//! Denials in HTTP: problem details (RFC 9457) with a machine `reason`, and `error` as a string,
//! which Hugging Face's clients print; or the error object that OpenAI's clients read.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;

use super::{Rejection, is_grpc_message};
use crate::Credits;

/// Read by OpenAI's clients: they retry some statuses on their own, and this is how they are told
/// not to.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// What the body of a denial looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DenialFormat {
    /// Problem details (RFC 9457), with `reason`, and with `error` as a string, which Hugging
    /// Face's clients print.
    #[default]
    Problem,
    /// `{"error": {"message", "type", "param", "code"}}`, which OpenAI's clients read.
    OpenAi,
}

/// How denials look here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DenialStyle {
    /// The status of denials that are this server's own fault.
    pub(crate) unavailable: StatusCode,
    pub(crate) format: DenialFormat,
    /// `true` if the caller speaks gRPC.
    pub(crate) grpc: bool,
}

impl DenialStyle {
    /// As a caller with these header fields reads it.
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
    /// The denial as a response.
    pub(crate) fn into_response(self, style: DenialStyle) -> Response<Bytes> {
        if style.grpc {
            return self.into_grpc_response();
        }
        let mut response = Response::new(self.body(style));
        *response.status_mut() = self.status(style.unavailable);
        let headers = response.headers_mut();
        let content_type = match style.format {
            DenialFormat::Problem => "application/problem+json",
            DenialFormat::OpenAi => "application/json",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        // Another caller's denial, or this one's of a minute ago, is nobody's answer.
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

    /// The denial as JSON, on one line.
    pub(crate) fn body(&self, style: DenialStyle) -> Bytes {
        let (reason, detail) = (self.reason(), self.detail());
        let status = self.status(style.unavailable);
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
