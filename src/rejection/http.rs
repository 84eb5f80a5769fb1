//! Denials in HTTP: problem details (RFC 9457) with a machine `reason`, and `error` as a string, which Hugging Face's clients print.

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;

use super::Rejection;

/// Read by OpenAI's clients: they retry some statuses on their own, and this is how they are told not to.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

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
}

impl Rejection {
    /// The denial as a response. `unavailable` is the status of those that are this server's own fault.
    pub(crate) fn into_response(self, unavailable: StatusCode) -> Response<Bytes> {
        let mut response = Response::new(self.problem(unavailable));
        *response.status_mut() = self.status(unavailable);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
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

    /// The problem details as JSON.
    pub(crate) fn problem(&self, unavailable: StatusCode) -> Bytes {
        let (reason, detail) = (self.reason(), self.detail());
        let problem = Problem {
            r#type: format!("urn:tower-credits:{}", reason.to_ascii_lowercase().replace('_', "-")),
            title: self.title(),
            status: self.status(unavailable).as_u16(),
            detail: &detail,
            reason,
            error: &detail,
            resets_at: self.resets_at(),
        };
        serde_json::to_vec(&problem).unwrap_or_default().into()
    }
}
