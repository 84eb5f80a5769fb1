//! A response whose head is there: its body is metered, or the protocol is switched.

use std::{sync::Arc, task::Context};

use bytes::Bytes;
use http::Response;
use http_body::Body;

use super::{
    body::MeterBody,
    call::{Call, INFERENCE_ID, add_headers},
    charge::Charge,
    compute_clock::{ComputeClock, ComputeTime},
    denied::{Denied, Whose},
    head::Head,
    upstream_time::{self, UpstreamTimeReader},
    usage_headers,
};
use crate::{
    BoxError, RequestId,
    metering::{End, RunningRequest},
    rejection::Rejection,
};

/// Turns the service's response into the client's.
pub(super) fn respond<R>(
    call: &mut Call,
    response: Response<R>,
    cx: &mut Context<'_>,
) -> Response<MeterBody<R>>
where
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let Some(mut charge) = call.charge.take() else { return response.map(MeterBody::free) };
    let (mut parts, body) = response.into_parts();
    charge.set_head(&parts);
    if let Some(id) = parts.headers.get(INFERENCE_ID).and_then(RequestId::of_header) {
        charge.with_request(|request| request.set_service_id(id));
    }
    let reported = parts.extensions.remove();
    if let Some(ComputeTime(total)) = reported {
        ComputeClock::new(&charge).report(total);
    }
    let (mut in_head, mut in_body) = (None, None);
    if let Some(place) = call.upstream_time.take() {
        in_head = upstream_time::in_head(&place, &parts.headers);
        // Nothing that comes after the head is billed then.
        if !call.compute_until_head {
            in_body = UpstreamTimeReader::new(&place, &parts.headers);
        }
        if let Some(total) = in_head {
            ComputeClock::new(&charge).report(total);
        }
        if in_body.is_none() {
            charge.with_request(RunningRequest::await_no_report);
        }
    }
    if call.compute_until_head {
        charge.end_compute(charge.now());
    }
    if call.shadow.is_none() && charge.is_beyond_client_caps() {
        // The response stays here: what its client does not get, it does not pay beyond its cap.
        let mut response = charge.cut_off().into_styled_response(call.style).map(MeterBody::text);
        if call.style.grpc {
            usage_headers::add_to_trailers(response.headers_mut(), charge.billed());
        }
        add_headers(response.headers_mut(), None, call.id.as_ref(), call.settings);
        return response;
    }
    let mut response = if call.switches_protocols(parts.status) {
        switch(call, Response::from_parts(parts, body), charge)
    } else {
        let has_usage_headers = call.has_usage_headers();
        let left = if has_usage_headers { charge.credits_left() } else { None };
        let is_known = reported.is_some() || in_head.is_some() || call.compute_until_head;
        let metered =
            Head { call, parts: &mut parts, charge, is_known, upstream: in_body }.meter(body, cx);
        if has_usage_headers {
            usage_headers::add_to_head(&mut parts.headers, left, metered.compute, metered.cost);
        }
        Response::from_parts(parts, metered.body)
    };
    add_headers(response.headers_mut(), call.rate.take(), call.id.as_ref(), call.settings);
    response
}

/// Leaves the charge with the handler's clock: only the handler knows when the new protocol has
/// ended.
fn switch<R>(call: &mut Call, response: Response<R>, mut charge: Charge) -> Response<MeterBody<R>> {
    charge.set_upgraded();
    // Without request extensions no handler has a clock.
    let unparked = match call.clock.take() {
        Some(clock) => clock.park(charge),
        None => Some(charge),
    };
    let Some(mut charge) = unparked else { return response.map(MeterBody::free) };
    if let Some(meter) = &call.shadow {
        if let Some((context, origin)) =
            charge.with_request(|request| (Arc::clone(&request.context), request.origin.clone()))
        {
            let rejection = Rejection::UnmeteredUpgrade;
            meter.would_deny(&Denied { rejection, whose: Whose::Request(context) }, &origin);
        }
        charge.close(End::Complete);
        return response.map(MeterBody::free);
    }
    charge.close(End::Failed);
    // Only a denial for the rate says what is left of it.
    call.rate = None;
    tracing::error!(
        target: "tower_credits",
        "a handler switched protocols and kept no ComputeClock: keep a clone for as long as \
         the connection is to be charged"
    );
    Rejection::UnmeteredUpgrade.into_styled_response(call.style).map(MeterBody::text)
}
