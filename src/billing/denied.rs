//! [`Denied`]: the reason why a billing route shows or does nothing.

use axum::{
    Json,
    body::Body,
    extract::rejection::FormRejection,
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
        request::Parts,
    },
    response::{IntoResponse, Response},
};

use crate::{
    CreditMeter,
    identify::IdentifyError,
    rejection::{DenialStyle, Rejection},
};

/// The reason why a billing route shows or does nothing.
pub(super) enum Denied {
    /// One that metered requests have, too.
    Rejected(Rejection),
    /// One that only the billing routes have.
    Other { status: StatusCode, title: &'static str, detail: String },
}

impl From<Rejection> for Denied {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<IdentifyError> for Denied {
    fn from(error: IdentifyError) -> Self {
        Self::Rejected(error.into())
    }
}

impl Denied {
    pub(super) fn other(status: StatusCode, title: &'static str, detail: &str) -> Self {
        Self::Other { status, title, detail: detail.to_owned() }
    }

    /// A form that cannot be read. `field` is the one that it needs.
    pub(super) fn unreadable_form(error: &FormRejection, field: &str) -> Self {
        let detail = format!(
            "The form cannot be read: {}. Send `{field}` as application/x-www-form-urlencoded.",
            error.body_text()
        );
        Self::other(error.status(), "Invalid form", &detail)
    }

    /// Returns the response for programs: a problem (RFC 9457), or the denial that the meter would
    /// send.
    pub(super) fn into_response(self, meter: &CreditMeter, asked: &Parts) -> Response {
        let style =
            DenialStyle { grpc: false, grpc_web: false, ..meter.denial_style(asked.into()) };
        match self {
            Self::Rejected(rejection) => rejection.into_styled_response(style).map(Body::from),
            Self::Other { status, title, detail } => {
                let problem = serde_json::json!({
                    "title": title,
                    "status": status.as_u16(),
                    "error": detail,
                    "detail": detail,
                });
                let mut response = no_store((status, Json(problem)));
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static(style.format.content_type()));
                response
            }
        }
    }

    /// Returns the status, the title and the text for people.
    pub(super) fn texts(&self, meter: &CreditMeter) -> (StatusCode, String, String) {
        match self {
            Self::Rejected(rejection) => (
                rejection.status_or(meter.unavailable_status()),
                rejection.title().to_owned(),
                rejection.to_string(),
            ),
            Self::Other { status, title, detail } => (*status, (*title).to_owned(), detail.clone()),
        }
    }
}

/// Returns a response that no cache stores.
pub(super) fn no_store(response: impl IntoResponse) -> Response {
    ([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], response).into_response()
}
