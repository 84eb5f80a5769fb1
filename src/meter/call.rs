//! A call that goes on: everything that its response is treated by.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, StatusCode};

use super::{
    admission::Rate, charge::Charge, compute_clock::WeakComputeClock, credit_meter::CreditMeter,
    settings::ResponseSettings,
};
use crate::{RequestId, plan::UpstreamTime, rejection::DenialStyle};

/// The field that names a response, for questions about its bill.
pub(super) const INFERENCE_ID: HeaderName = HeaderName::from_static("inference-id");

/// The same, as the SDKs of OpenAI and Anthropic read it.
const REQUEST_IDS: [HeaderName; 2] =
    [HeaderName::from_static("x-request-id"), HeaderName::from_static("request-id")];

/// A call that goes on.
pub(super) struct Call {
    /// `None` if it is free.
    pub(super) id: Option<RequestId>,
    /// `None` if it is free.
    pub(super) charge: Option<Charge>,
    /// The clock that the handler found in its request.
    pub(super) clock: Option<WeakComputeClock>,
    pub(super) is_head: bool,
    pub(super) is_connect: bool,
    /// `true` if the client asked for trailers, and the protocol has them.
    pub(super) accepts_trailers: bool,
    /// Compute time ends with the head.
    pub(super) compute_until_head: bool,
    /// The meter, if it is in shadow mode: nothing stops the call.
    pub(super) shadow: Option<CreditMeter>,
    pub(super) style: DenialStyle,
    pub(super) settings: ResponseSettings,
    pub(super) rate: Rate,
    /// The place where the service's answer says its compute time.
    pub(super) upstream_time: Option<Arc<UpstreamTime>>,
}

impl Call {
    /// `true` if the response's head says what the call cost.
    pub(super) const fn has_usage_headers(&self) -> bool {
        self.settings.usage_headers && !self.style.grpc
    }

    /// `true` if the connection or stream is no longer HTTP after this response: 101 (RFC 9110,
    /// section 15.2.2), or a CONNECT that succeeds (section 9.3.6; WebSockets over HTTP/2 come like
    /// this, RFC 8441).
    pub(super) fn switches_protocols(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self.is_connect && status.is_success())
    }
}

/// Adds the layer's own header fields.
pub(super) fn add_headers(
    headers: &mut HeaderMap,
    rate: Rate,
    id: Option<&RequestId>,
    settings: ResponseSettings,
) {
    if let Some(rate) = rate {
        rate.write(headers);
    }
    if !settings.inference_id {
        return;
    }
    // The service's own id is the response's.
    let own = headers.get(INFERENCE_ID).cloned();
    if let Some(id) = own.or_else(|| match id {
        Some(id) => id.to_header(),
        None => RequestId::now().to_header(),
    }) {
        // All three at once: the map grows no more than once.
        headers.reserve(REQUEST_IDS.len() + 1);
        for name in REQUEST_IDS {
            headers.entry(name).or_insert_with(|| id.clone());
        }
        headers.entry(INFERENCE_ID).or_insert(id);
    }
}
