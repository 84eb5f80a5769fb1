//! The first poll of a response's body, once its head is there.
//!
//! The body is polled once (a gRPC message twice, because its trailers come next). If it has then
//! ended, its charge is closed here: no task, no queue, and the head can say its compute time.
//! Otherwise a [`Pump`] reads it ahead.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRAILER},
    response::Parts,
};
use http_body::{Body, Frame, SizeHint};
use tokio::runtime::Handle;
use tracing::Instrument;

use super::{
    body::{MeterBody, Polled, Whole},
    call::Call,
    charge::Charge,
    cut_off::{CutOffFrame, EventBoundary, MessageBoundary, UsageTrailers},
    pump::{Pump, Rest, passes_last},
    queue::{EndOfFrames, Reader, Writer, queue},
    upstream_time::UpstreamTimeReader,
    usage_headers,
};
use crate::{
    BoxError, Credits,
    clock::Now,
    metering::{End, Pace},
    rejection::{grpc_status_of, is_grpc_message},
};

/// A response's head.
pub(super) struct Head<'a> {
    pub(super) call: &'a mut Call,
    pub(super) parts: &'a mut Parts,
    pub(super) charge: Charge,
    /// `true` if its compute time is known already.
    pub(super) is_known: bool,
    /// Reads the compute time that the body says.
    pub(super) upstream: Option<UpstreamTimeReader>,
}

/// A response that is metered.
pub(super) struct Metered<B> {
    pub(super) body: MeterBody<B>,
    /// Its compute time, if that is known and the head says it.
    pub(super) compute: Option<Duration>,
    /// Its cost, if it was billed already.
    pub(super) cost: Option<Credits>,
}

/// A body that goes on, and its first frames.
struct ToRead<B> {
    first: First,
    body: Polled<B>,
    hint: SizeHint,
    announced: Option<u64>,
    is_grpc: bool,
}

/// The first frames of a body.
#[derive(Default)]
struct First {
    data: Option<Bytes>,
    /// From the second poll.
    more: Option<Bytes>,
    /// In a box, as [`Whole`] has them.
    trailers: Option<Box<HeaderMap>>,
    error: Option<BoxError>,
    end: Option<EndOfFrames>,
    /// The announced length has passed: nothing that follows is billed.
    is_past_length: bool,
}

impl Head<'_> {
    pub(super) fn meter<B>(mut self, body: B, cx: &mut Context<'_>) -> Metered<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // The answer of a service that is not gRPC's has no reader for trailers.
        let is_grpc = self.call.style.grpc && is_grpc_message(&self.parts.headers);
        if is_grpc {
            self.charge.set_grpc_status(grpc_status_of(&self.parts.headers));
        }
        // Servers do not read these bodies (RFC 9110, sections 9.3.2, 15.3.5 and 15.4.5).
        let is_unread = self.call.is_head
            || matches!(self.parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if is_unread || body.is_end_stream() {
            let now = self.charge.now();
            let compute = self.close(End::Complete, now);
            if is_grpc {
                // A trailers-only response.
                usage_headers::add_to_trailers(&mut self.parts.headers, self.charge.billed());
            }
            return Metered { body: MeterBody::free(body), compute, cost: self.cost() };
        }
        if is_grpc {
            // A stream that is cut off gets its trailers early.
            self.parts.headers.remove(CONTENT_LENGTH);
        }
        let hint = body.size_hint();
        let mut announced = self
            .header(CONTENT_LENGTH)
            .and_then(|value| std::str::from_utf8(value.as_bytes()).ok()?.parse().ok());
        let (polling, mut body) = Polled::poll_first(body, cx);
        let mut first = First::default();
        first.take(polling, &body, &mut announced);
        if is_grpc && first.data.is_some() && first.end.is_none() {
            first.take(body.poll_again(cx), &body, &mut announced);
        }
        if let Some(fields) = first.trailers.as_ref().filter(|_| is_grpc) {
            self.charge.set_grpc_status(grpc_status_of(fields));
        }
        if let Some(reader) = &mut self.upstream {
            first.data.iter().chain(&first.more).for_each(|data| reader.pass(data));
        }
        if (first.end.is_some() && first.error.is_none()) || first.is_past_length {
            self.charge.report_upstream(&mut self.upstream);
        }
        let now = self.charge.now();
        let is_whole = (first.end.is_some() && first.more.is_none()) || first.is_past_length;
        let is_failed = first.error.is_some();
        let end = if is_failed { End::Failed } else { End::Complete };
        let mut compute = if is_whole { self.compute(now) } else { None };
        // If it used more than its slice, the ledger is asked before it is billed.
        let is_closed = is_whole && !is_failed && self.charge.close_if_paid(end, now);
        let ends_here = is_closed || (is_whole && is_failed);
        if !ends_here
            && let (Ok(runtime), Some((budget, time))) =
                (Handle::try_current(), self.charge.read_ahead())
        {
            return self.read_ahead(
                &runtime,
                queue(budget, time),
                ToRead { first, body, hint, announced, is_grpc },
                now,
            );
        }
        if !is_closed {
            compute = self.close(end, now);
        }
        // Without a queue, two messages are handed on as one frame.
        if let (Some(data), Some(more)) = (&first.data, &first.more) {
            first.data = Some(Bytes::from([&data[..], &more[..]].concat()));
        }
        if first.end.is_none() {
            let body = MeterBody::rest(first.data, body);
            return Metered { body, compute, cost: self.cost() };
        }
        if is_grpc && let Some(fields) = &mut first.trailers {
            usage_headers::add_to_trailers(fields, self.charge.billed());
        }
        let First { data, trailers, error, end, .. } = first;
        let says_end = end == Some(EndOfFrames::WithLast);
        let body = MeterBody::whole(Whole { data, trailers, error, hint, says_end });
        Metered { body, compute, cost: self.cost() }
    }

    fn read_ahead<B>(
        mut self,
        runtime: &Handle,
        (writer, reader): (Writer, Reader),
        to_read: ToRead<B>,
        now: Now,
    ) -> Metered<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let ToRead { first, body, hint, announced, is_grpc } = to_read;
        let compute = if self.is_known { self.compute(now) } else { None };
        let (mut cut_off, trailers) = self.body_ends(&hint, is_grpc);
        let mut pace = Pace::default();
        let mut has_room = true;
        for data in first.data.into_iter().chain(first.more) {
            pace.frame(now.compute);
            let frame = Frame::data(data);
            cut_off.pass(&frame);
            has_room = writer.push(frame, false).unwrap_or(true);
        }
        if first.end.is_some() || first.is_past_length {
            self.charge.end_compute(now);
        }
        let ended =
            first.end.map(|end| (first.trailers.map(|fields| Frame::trailers(*fields)), end));
        let pump = Pump::new(
            self.charge,
            writer,
            Rest { pace, cut_off, trailers, announced, has_room, ended, upstream: self.upstream },
        );
        runtime.spawn(pump.run(body).in_current_span());
        Metered { body: MeterBody::queued(reader, hint), compute, cost: None }
    }

    /// Returns how the body says that it was cut off, and where it says what it cost.
    fn body_ends(&mut self, hint: &SizeHint, is_grpc: bool) -> (CutOffFrame, UsageTrailers) {
        let content_type = self.header(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii().to_ascii_lowercase();
        let is_event_stream = essence == b"text/event-stream";
        // Its other form, text, has messages in Base64.
        let is_grpc_web =
            matches!(&*essence, b"application/grpc-web" | b"application/grpc-web+proto");
        let has_length = self.header(CONTENT_LENGTH).is_some() || hint.exact().is_some();
        let is_plain = self.header(CONTENT_ENCODING).is_none() && !has_length;
        let cut_off = match (is_event_stream, is_grpc_web) {
            _ if is_grpc => CutOffFrame::Trailers,
            (true, _) if is_plain => CutOffFrame::Event(EventBoundary::default(), self.call.style),
            (_, true) if is_plain => CutOffFrame::WebTrailers(MessageBoundary::default()),
            _ => CutOffFrame::Error,
        };
        let trailers = if is_grpc {
            UsageTrailers::Amended
        } else if self.call.accepts_trailers && !self.is_known && !has_length {
            for name in [usage_headers::COMPUTE_TIME, usage_headers::COST] {
                // HTTP/1.1 servers send only trailers that are announced.
                self.parts.headers.append(TRAILER, name.into());
            }
            UsageTrailers::Added
        } else {
            UsageTrailers::None
        };
        (cut_off, trailers)
    }

    fn header(&self, name: http::HeaderName) -> Option<&HeaderValue> {
        self.parts.headers.get(name)
    }

    /// Closes the charge. Returns the compute time, if the head says it.
    fn close(&mut self, end: End, now: Now) -> Option<Duration> {
        let compute = self.compute(now);
        self.charge.close_at(end, now);
        compute
    }

    /// Returns the cost, once the charge is closed: zero if the host's policy forgave it.
    fn cost(&self) -> Option<Credits> {
        self.charge.is_closed().then(|| self.charge.billed().unwrap_or_default().cost)
    }

    /// Returns the compute time so far, if the head says it.
    fn compute(&self, now: Now) -> Option<Duration> {
        if self.call.has_usage_headers() {
            self.charge.with_request(|request| request.compute_so_far(now.compute))
        } else {
            None
        }
    }
}

impl First {
    fn take<B>(
        &mut self,
        polling: Poll<Option<Result<Frame<Bytes>, BoxError>>>,
        body: &Polled<B>,
        announced: &mut Option<u64>,
    ) where
        B: Body<Data = Bytes>,
    {
        match polling {
            Poll::Pending => {}
            Poll::Ready(None) => self.end = Some(EndOfFrames::AfterLast),
            Poll::Ready(Some(Err(error))) => {
                (self.error, self.end) = (Some(error), Some(EndOfFrames::AfterLast));
            }
            Poll::Ready(Some(Ok(frame))) => {
                if body.is_end_stream() {
                    self.end = Some(EndOfFrames::WithLast);
                } else if frame.is_trailers() {
                    self.end = Some(EndOfFrames::AfterLast);
                } else {
                    // Servers do not poll on for the end of a body whose announced length has
                    // passed.
                    self.is_past_length = passes_last(announced, &frame);
                }
                match frame.into_data() {
                    Ok(data) if self.data.is_some() => self.more = Some(data),
                    Ok(data) => self.data = Some(data),
                    Err(frame) => self.trailers = frame.into_trailers().ok().map(Box::new),
                }
            }
        }
    }
}
