//! The task that reads a response body ahead: as fast as the service produces, whatever the
//! client's speed.
//!
//! It measures the service, closes the charge when the service has ended, and cuts the response off
//! when its credits end, each at the moment when that happens. While the [queue](super::queue) is
//! full it holds the service back.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::time::{Instant, sleep_until};

use super::{
    charge::Charge,
    cut_off::{CutOffFrame, Stalled, UsageTrailers},
    queue::{EndOfFrames, ReaderGone, Writer},
    upstream_time::UpstreamTimeReader,
    usage_headers,
};
use crate::{
    BoxError,
    metering::{End, Pace},
    rejection::grpc_status_of,
};

/// After so many frames that were ready, other tasks have their turn.
const FRAMES_PER_TURN: u32 = 16;

/// The slowest client that is not stalled, in bytes a second: so large frames get a longer timeout.
const MIN_CLIENT_RATE: usize = 16 << 10;

/// Reads a body ahead.
pub(super) struct Pump {
    charge: Charge,
    writer: Writer,
    rest: Rest,
    /// The time for which the client may take nothing.
    stall_timeout: Duration,
}

/// The rest of a body, after its first frames.
pub(super) struct Rest {
    pub(super) pace: Pace,
    pub(super) cut_off: CutOffFrame,
    pub(super) trailers: UsageTrailers,
    /// Bytes of the announced length that are still to come.
    pub(super) announced: Option<u64>,
    /// `true` if the queue takes another frame.
    pub(super) has_room: bool,
    /// `Some` if the body had ended when its head was there: with this frame, if there is one.
    pub(super) ended: Option<(Option<Frame<Bytes>>, EndOfFrames)>,
    /// Reads the compute time that the body says.
    pub(super) upstream: Option<UpstreamTimeReader>,
}

/// The result of polling the body.
enum Event {
    Frame(Frame<Bytes>),
    Failed(BoxError),
    Ended,
    CutOff,
    ReaderGone(ReaderGone),
}

/// The reason why reading ended.
enum Stop {
    /// The body was complete, with this last frame, if there is one.
    Complete(Option<Frame<Bytes>>, EndOfFrames),
    Failed(BoxError),
    CutOff,
    ReaderGone(ReaderGone),
    Stalled,
}

impl Pump {
    pub(super) fn new(mut charge: Charge, writer: Writer, rest: Rest) -> Self {
        let stall_timeout = charge.stall_timeout();
        charge.set_streaming();
        Self { charge, writer, rest, stall_timeout }
    }

    /// Reads until the body ends, the credits end, or the client goes away.
    pub(super) async fn run<B>(mut self, body: B)
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let mut body = pin!(Some(body));
        let stop = match self.rest.ended.take() {
            Some((last, end)) => Stop::Complete(last, end),
            None => self.read(body.as_mut()).await,
        };
        if matches!(stop, Stop::Complete(..)) {
            self.charge.report_upstream(&mut self.rest.upstream);
        }
        let at = if let Stop::ReaderGone(ReaderGone(at)) = &stop { *at } else { self.charge.now() };
        self.charge.end_compute(at);
        // The service must not compute on for nothing.
        body.set(None);
        match stop {
            Stop::Complete(last, end) => self.complete(last, end).await,
            Stop::Failed(error) => {
                self.pay().await;
                self.charge.close(End::Failed);
                self.writer.fail(error, EndOfFrames::AfterLast);
            }
            Stop::CutOff => {
                match self.rest.cut_off.make(&self.charge.cut_off(), self.charge.billed()) {
                    Ok(frame)
                        if frame.is_data()
                            && matches!(self.rest.trailers, UsageTrailers::Added) =>
                    {
                        if self.writer.push(frame, true).is_ok() {
                            self.writer.end(Some(self.usage()), EndOfFrames::WithLast);
                        }
                    }
                    Ok(frame) => self.writer.end(Some(frame), EndOfFrames::WithLast),
                    Err(error) => self.writer.fail(error, EndOfFrames::WithLast),
                }
            }
            Stop::ReaderGone(_) => drop(self.charge.close_at(End::Dropped, at)),
            Stop::Stalled => {
                self.charge.close(End::Stalled);
                self.writer.abandon(Stalled.into());
            }
        }
    }

    async fn read<B>(&mut self, mut body: Pin<&mut Option<B>>) -> Stop
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        if self.rest.announced == Some(0) {
            self.pass_length().await;
        }
        let mut at_once = 0;
        loop {
            if !self.rest.has_room
                && let Err(stop) = self.wait_for_room().await
            {
                return stop;
            }
            let frame = match poll_fn(|cx| self.poll(body.as_mut(), cx)).await {
                Event::Frame(frame) => frame,
                Event::Failed(error) => return Stop::Failed(error),
                Event::Ended => return Stop::Complete(None, EndOfFrames::AfterLast),
                Event::CutOff => return Stop::CutOff,
                Event::ReaderGone(gone) => return Stop::ReaderGone(gone),
            };
            let is_last = body.as_ref().as_pin_ref().is_none_or(|body| body.is_end_stream());
            if frame.is_trailers() {
                let end = if is_last { EndOfFrames::WithLast } else { EndOfFrames::AfterLast };
                return Stop::Complete(Some(frame), end);
            }
            if let (Some(reader), Some(data)) = (&mut self.rest.upstream, frame.data_ref()) {
                reader.pass(data);
            }
            let now = self.charge.now();
            let computed = self.rest.pace.frame(now.compute);
            if !computed.is_zero() {
                self.charge.bill_held_back(computed);
            }
            if is_last {
                return Stop::Complete(Some(frame), EndOfFrames::WithLast);
            }
            if passes_last(&mut self.rest.announced, &frame) {
                self.pass_length().await;
            } else if self.charge.is_check_due(now.compute) && self.is_over().await {
                return Stop::CutOff;
            }
            self.rest.cut_off.pass(&frame);
            self.rest.has_room = match self.writer.push(frame, self.is_paced()) {
                Ok(has_room) => has_room,
                Err(gone) => return Stop::ReaderGone(gone),
            };
            at_once += 1;
            if at_once >= FRAMES_PER_TURN || !computed.is_zero() {
                at_once = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    fn poll<B>(&mut self, body: Pin<&mut Option<B>>, cx: &mut Context<'_>) -> Poll<Event>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let Some(body) = body.as_pin_mut() else { return Poll::Ready(Event::Ended) };
        match body.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Event::Frame(frame)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Failed(error.into())),
            Poll::Ready(None) => return Poll::Ready(Event::Ended),
            Poll::Pending => {}
        }
        if let Poll::Ready(gone) = self.writer.poll_gone(cx) {
            return Poll::Ready(Event::ReaderGone(gone));
        }
        if self.charge.is_closed() {
            return Poll::Pending;
        }
        self.rest.pace.waits(|| self.charge.now().compute);
        if self.charge.is_watch_armed() {
            return Poll::Pending;
        }
        self.charge.poll_over(cx).map(|()| Event::CutOff)
    }

    fn is_paced(&self) -> bool {
        self.rest.pace.is_known()
    }

    /// `true` if the request ends here, with a frame in hand. While the ledger is asked, the
    /// service is held back.
    async fn is_over(&mut self) -> bool {
        if let Poll::Ready(is_over) = poll_fn(|cx| Poll::Ready(self.charge.poll_is_over(cx))).await
        {
            return is_over;
        }
        self.charge.hold_back();
        let is_over = poll_fn(|cx| self.charge.poll_is_over(cx)).await;
        self.rest.pace.held_back(self.charge.resume());
        is_over
    }

    /// Holds the service back until the client has taken enough.
    async fn wait_for_room(&mut self) -> Result<(), Stop> {
        let is_paced = self.is_paced();
        self.charge.hold_back();
        let began = Instant::now();
        loop {
            let taken = self.writer.taken();
            let since = taken.0.map_or(began, |at| at.max(began));
            let extra = Duration::from_secs((taken.1 / MIN_CLIENT_RATE) as u64);
            let timeout = self.stall_timeout.saturating_add(extra);
            let mut timer = pin!(since.checked_add(timeout).map(sleep_until));
            let room = poll_fn(|cx| {
                if let Poll::Ready(room) = self.writer.poll_room(is_paced, cx) {
                    return Poll::Ready(room.map_err(Stop::ReaderGone));
                }
                // A service that measures itself may use up its credits meanwhile.
                if !self.charge.is_closed() && self.charge.poll_over(cx).is_ready() {
                    return Poll::Ready(Err(Stop::CutOff));
                }
                let timer = timer.as_mut().as_pin_mut();
                timer.map_or(Poll::Pending, |timer| timer.poll(cx)).map(|()| Err(Stop::Stalled))
            });
            match room.await {
                Err(Stop::Stalled) if self.writer.taken() != taken => {}
                Err(stop) => return Err(stop),
                Ok(()) => break,
            }
        }
        self.rest.pace.held_back(self.charge.resume());
        Ok(())
    }

    /// Waits until the request can be billed: if it used more than it has on hold, the ledger says
    /// how much of that can be paid.
    async fn pay(&mut self) {
        poll_fn(|cx| self.charge.poll_payable(cx)).await;
    }

    /// Closes the charge once the announced length has passed: servers do not poll on for the end.
    async fn pass_length(&mut self) {
        self.charge.report_upstream(&mut self.rest.upstream);
        self.charge.end_compute(self.charge.now());
        self.pay().await;
        self.charge.close(End::Complete);
    }

    /// Returns the trailers that say what was billed.
    fn usage(&self) -> Frame<Bytes> {
        let mut fields = HeaderMap::with_capacity(2);
        usage_headers::add_to_trailers(&mut fields, self.charge.billed());
        Frame::trailers(fields)
    }

    async fn complete(mut self, last: Option<Frame<Bytes>>, end: EndOfFrames) {
        if matches!(self.rest.trailers, UsageTrailers::Amended)
            && let Some(trailers) = last.as_ref().and_then(Frame::trailers_ref)
        {
            self.charge.set_grpc_status(grpc_status_of(trailers));
        }
        self.pay().await;
        self.charge.close(End::Complete);
        match last.map(Frame::into_trailers) {
            Some(Ok(mut fields)) => {
                if !matches!(self.rest.trailers, UsageTrailers::None) {
                    usage_headers::add_to_trailers(&mut fields, self.charge.billed());
                }
                self.writer.end(Some(Frame::trailers(fields)), end);
            }
            Some(Err(frame)) if matches!(self.rest.trailers, UsageTrailers::Added) => {
                if self.writer.push(frame, true).is_ok() {
                    self.writer.end(Some(self.usage()), EndOfFrames::WithLast);
                }
            }
            Some(Err(frame)) => self.writer.end(Some(frame), end),
            None if matches!(self.rest.trailers, UsageTrailers::Added) => {
                self.writer.end(Some(self.usage()), EndOfFrames::WithLast);
            }
            None => self.writer.end(None, end),
        }
    }
}

/// Subtracts a frame from the announced length. Returns `true` if that has passed.
pub(super) fn passes_last(announced: &mut Option<u64>, frame: &Frame<Bytes>) -> bool {
    let size = frame.data_ref().map_or(0, Bytes::len) as u64;
    announced.as_mut().is_some_and(|left| {
        *left = left.saturating_sub(size);
        *left == 0
    })
}
