//! Denials in gRPC: a status in the head of a response without a body ("Trailers-Only", in gRPC
//! over HTTP/2), or in the trailers of a stream that was cut off. With the feature `grpc-details`,
//! the field `grpc-status-details-bin` has the reason as data, too (`google.rpc` error details).

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::Rejection;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Tells clients that retry by themselves (gRFC A6) after how many milliseconds to try again, or,
/// by a negative number, not to try.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Characters that are percent-encoded in a message (gRPC over HTTP/2, "Responses"): all but
/// visible ASCII and space, and the percent sign.
const ENCODED_IN_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// Canonical status codes of gRPC that denials use.
#[derive(Clone, Copy)]
enum Code {
    InvalidArgument = 3,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// `true` if a request is a gRPC call, or a response answers one: its content type is
/// `application/grpc`, alone or with `+` and an encoding or `;` and parameters.
pub(crate) fn is_message(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = content_type
        .split_at_checked(16)
        .filter(|(essence, _)| essence.eq_ignore_ascii_case(b"application/grpc"));
    rest.is_some_and(|(_, rest)| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// `true` if a request is a gRPC-Web call that has not been translated to gRPC.
pub(crate) fn is_web_message(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    content_type
        .split_at_checked(20)
        .is_some_and(|(start, _)| start.eq_ignore_ascii_case(b"application/grpc-web"))
}

/// Returns the status code in a response's head or trailers, if they have one.
pub(crate) fn status_of(headers: &HeaderMap) -> Option<u8> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

impl Rejection {
    /// Returns the response of this denial to a gRPC call, as the layer sends it: a head that has
    /// the gRPC status, no body, and this `Rejection` in its extensions. With the feature
    /// `grpc-details`, the status has `google.rpc` error details.
    ///
    /// ```
    /// use tower_credits::Rejection;
    ///
    /// let response = Rejection::NotAMember.into_grpc_response();
    /// assert_eq!(response.status(), 200);
    /// assert_eq!(response.headers()["grpc-status"], "7"); // PERMISSION_DENIED
    /// ```
    pub fn into_grpc_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.headers_mut() = self.trailers();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.extensions_mut().insert(self);
        response
    }

    /// Returns the response of this denial to a gRPC-Web call: the status is in the head, as in
    /// gRPC, and there is no message.
    pub(crate) fn into_grpc_web_response(self) -> Response<Bytes> {
        let mut response = self.into_grpc_response();
        let content_type = HeaderValue::from_static("application/grpc-web+proto");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }

    /// Returns the trailers of a gRPC stream that ends with this denial.
    pub(crate) fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(4);
        let message = self.to_string();
        trailers.insert(STATUS, HeaderValue::from(self.code() as u16));
        if let Ok(message) =
            HeaderValue::try_from(utf8_percent_encode(&message, ENCODED_IN_MESSAGE).to_string())
        {
            trailers.insert(MESSAGE, message);
        }
        let wait = self.retry_after().filter(|_| self.is_worth_an_automatic_retry());
        let pushback = wait
            .map(|seconds| i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX))
            .unwrap_or(-1);
        trailers.insert(PUSHBACK, HeaderValue::from(pushback));
        #[cfg(feature = "grpc-details")]
        self.add_details(&message, &mut trailers);
        trailers
    }

    const fn code(&self) -> Code {
        match self {
            Self::Unauthenticated { .. } => Code::Unauthenticated,
            Self::NotAMember
            | Self::CrossOrigin
            | Self::AccountErased
            | Self::ModelDenied { .. } => Code::PermissionDenied,
            Self::NotInPlan | Self::UnknownModel { .. } => Code::NotFound,
            Self::NoSuchPeriod
            | Self::ModelNotNamed { .. }
            | Self::InvalidCap { .. }
            | Self::InvalidBody { .. } => Code::InvalidArgument,
            Self::CreditsUsedUp { .. }
            | Self::LargestAmount { .. }
            | Self::CreditsOnHold { .. }
            | Self::SpendingLimit { .. }
            | Self::Budget { .. }
            | Self::RequestRate { .. }
            | Self::TooManyRunning { .. }
            | Self::RequestCap
            | Self::ClientCap => Code::ResourceExhausted,
            Self::LedgerUnreachable
            | Self::CredentialsUnchecked
            | Self::Busy
            | Self::ShuttingDown => Code::Unavailable,
            Self::Unclassified | Self::UnknownTier | Self::UnmeteredUpgrade => Code::Internal,
        }
    }

    #[cfg(feature = "grpc-details")]
    fn add_details(&self, message: &str, trailers: &mut HeaderMap) {
        use std::{collections::HashMap, time::Duration};

        use tonic_types::{ErrorDetails, StatusExt};

        let mut details = ErrorDetails::new();
        let mut metadata = HashMap::new();
        metadata.extend(
            self.left().map(|left| ("left_nano_usd".to_owned(), left.as_nano_usd().to_string())),
        );
        metadata.extend(self.resets_at().map(|at| ("resets_at".to_owned(), at)));
        if let Some((part, span, limit)) = self.budget() {
            metadata.extend(part.map(|part| ("limit_part".to_owned(), part.to_string())));
            metadata.insert("limit_span".to_owned(), span.as_str().to_owned());
            metadata.insert("limit_nano_usd".to_owned(), limit.as_nano_usd().to_string());
        }
        details.set_error_info(self.reason(), "tower-credits", metadata);
        let quota = match self {
            Self::CreditsUsedUp { .. }
            | Self::LargestAmount { .. }
            | Self::SpendingLimit { .. }
            | Self::Budget { .. } => Some("credits"),
            Self::RequestRate { .. } => Some("requests"),
            _ => None,
        };
        if let Some(quota) = quota {
            details.add_quota_failure_violation(quota, message);
        }
        if let Some(seconds) = self.retry_after() {
            details.set_retry_info(Some(Duration::from_secs(seconds)));
        }
        let status = tonic::Status::with_error_details(
            tonic::Code::from_i32(self.code() as i32),
            message,
            details,
        );
        let encoded = tonic::metadata::BinaryMetadataValue::from_bytes(status.details());
        if let Ok(value) = HeaderValue::from_bytes(encoded.as_encoded_bytes()) {
            trailers.insert(HeaderName::from_static("grpc-status-details-bin"), value);
        }
    }
}
