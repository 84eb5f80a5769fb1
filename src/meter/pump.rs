//! The task that reads a response body ahead: as fast as the service produces, whoever takes it at
//! the other end.
//!
//! It measures the service, closes the charge when the service has ended, and cuts the response
//! when its credits end, each at the moment when that happens. While the [queue](super::read_ahead)
//! is full it holds the service back.

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
    charge::{Charge, End},
    compute::Pace,
    last_words::{LastWords, Stalled, Trailers},
    read_ahead::{EndOfFrames, Gone, Writer},
    told,
};
use crate::{BoxError, rejection::grpc_status_of};

/// After so many frames that were ready at once, others have their turn.
const FRAMES_AT_ONCE: u32 = 16;

/// A client that takes large frames may need a second more for each of so many bytes of the one
/// that it took last.
const SLOWEST: usize = 16 << 10;

/// Reads a body ahead.
pub(super) struct Pump {
    charge: Charge,
    writer: Writer,
    rest: Rest,
    /// How long nothing may be taken.
    patience: Duration,
}

/// What is known of a body that goes on.
pub(super) struct Rest {
    pub(super) pace: Pace,
    pub(super) last_words: LastWords,
    pub(super) trailers: Trailers,
    /// How many bytes of the announced length are still to come.
    pub(super) announced: Option<u64>,
    /// `true` if the queue takes another frame.
    pub(super) has_room: bool,
    /// The body had ended when its head was there, with this frame, if there is one.
    pub(super) ended: Option<(Option<Frame<Bytes>>, EndOfFrames)>,
}

/// What came of polling the body.
enum Event {
    Frame(Frame<Bytes>),
    Failed(BoxError),
    Ended,
    CutOff,
    Gone(Gone),
}

/// How reading ended.
enum Stop {
    /// With this frame, if there is one.
    Complete(Option<Frame<Bytes>>, EndOfFrames),
    Failed(BoxError),
    CutOff,
    Gone(Gone),
    Stalled,
}

impl Pump {
    pub(super) fn new(mut charge: Charge, writer: Writer, rest: Rest) -> Self {
        let patience = charge.stalled_after();
        charge.streams();
        Self { charge, writer, rest, patience }
    }

    /// Reads until the body ends, the credits do, or nobody reads any more.
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
        let at = if let Stop::Gone(Gone(at)) = &stop { *at } else { self.charge.now() };
        self.charge.ends(at);
        // What it computes on would be for nothing.
        body.set(None);
        match stop {
            Stop::Complete(last, end) => self.complete(last, end).await,
            Stop::Failed(error) => {
                self.pay().await;
                self.charge.close(End::Failed);
                self.writer.fail(error, EndOfFrames::AfterLast);
            }
            Stop::CutOff => {
                match self.rest.last_words.cut(&self.charge.cut_off(), self.charge.billed()) {
                    Ok(frame) => self.writer.end(Some(frame), EndOfFrames::WithLast),
                    Err(error) => self.writer.fail(error, EndOfFrames::WithLast),
                }
            }
            Stop::Gone(_) => drop(self.charge.close_at(End::Dropped, at)),
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
                Event::Gone(gone) => return Stop::Gone(gone),
            };
            let is_last = body.as_ref().as_pin_ref().is_none_or(|body| body.is_end_stream());
            if frame.is_trailers() {
                let end = if is_last { EndOfFrames::WithLast } else { EndOfFrames::AfterLast };
                return Stop::Complete(Some(frame), end);
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
            } else if self.charge.looks_again(now.compute) && self.is_cut().await {
                return Stop::CutOff;
            }
            self.rest.last_words.pass(&frame);
            self.rest.has_room = match self.writer.push(frame, self.is_paced()) {
                Ok(has_room) => has_room,
                Err(gone) => return Stop::Gone(gone),
            };
            at_once += 1;
            if at_once >= FRAMES_AT_ONCE || !computed.is_zero() {
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
            return Poll::Ready(Event::Gone(gone));
        }
        if self.charge.is_closed() {
            return Poll::Pending;
        }
        self.rest.pace.waits(|| self.charge.now().compute);
        if self.charge.is_watched() {
            return Poll::Pending;
        }
        self.charge.poll_cut(cx).map(|()| Event::CutOff)
    }

    fn is_paced(&self) -> bool {
        self.rest.pace.is_known()
    }

    /// `true` if the request ends here, with a frame in hand. While the ledger is asked, the
    /// service is held back.
    async fn is_cut(&mut self) -> bool {
        if let Poll::Ready(is_cut) = poll_fn(|cx| Poll::Ready(self.charge.poll_verdict(cx))).await {
            return is_cut;
        }
        self.charge.hold_back();
        let is_cut = poll_fn(|cx| self.charge.poll_verdict(cx)).await;
        self.rest.pace.held_back(self.charge.resume());
        is_cut
    }

    /// Holds the service back until the reader takes something.
    async fn wait_for_room(&mut self) -> Result<(), Stop> {
        let is_paced = self.is_paced();
        self.charge.hold_back();
        let began = Instant::now();
        loop {
            let taken = self.writer.taken();
            let since = taken.0.map_or(began, |at| at.max(began));
            let patience =
                self.patience.saturating_add(Duration::from_secs((taken.1 / SLOWEST) as u64));
            let mut timer = pin!(since.checked_add(patience).map(sleep_until));
            let room = poll_fn(|cx| {
                if let Poll::Ready(room) = self.writer.poll_room(is_paced, cx) {
                    return Poll::Ready(room.map_err(Stop::Gone));
                }
                // A service that tells its own time may use up its credits meanwhile.
                if !self.charge.is_closed() && self.charge.poll_cut(cx).is_ready() {
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

    /// The service has ended. If it used more than is on hold for it, the ledger says first how
    /// much of that can be paid.
    async fn pay(&mut self) {
        poll_fn(|cx| self.charge.poll_paid(cx)).await;
    }

    /// The announced length has passed: servers do not poll on for the end.
    async fn pass_length(&mut self) {
        self.charge.ends(self.charge.now());
        self.pay().await;
        self.charge.close(End::Complete);
    }

    async fn complete(mut self, last: Option<Frame<Bytes>>, end: EndOfFrames) {
        if matches!(self.rest.trailers, Trailers::Amended)
            && let Some(trailers) = last.as_ref().and_then(Frame::trailers_ref)
        {
            self.charge.stated(grpc_status_of(trailers));
        }
        self.pay().await;
        self.charge.close(End::Complete);
        let usage = || {
            let mut fields = HeaderMap::with_capacity(2);
            told::in_trailers(&mut fields, self.charge.billed());
            Frame::trailers(fields)
        };
        match last.map(Frame::into_trailers) {
            Some(Ok(mut fields)) => {
                if !matches!(self.rest.trailers, Trailers::None) {
                    told::in_trailers(&mut fields, self.charge.billed());
                }
                self.writer.end(Some(Frame::trailers(fields)), end);
            }
            Some(Err(frame)) if matches!(self.rest.trailers, Trailers::Added) => {
                if self.writer.push(frame, true).is_ok() {
                    self.writer.end(Some(usage()), EndOfFrames::WithLast);
                }
            }
            Some(Err(frame)) => self.writer.end(Some(frame), end),
            None if matches!(self.rest.trailers, Trailers::Added) => {
                self.writer.end(Some(usage()), EndOfFrames::WithLast);
            }
            None => self.writer.end(None, end),
        }
    }
}

/// Counts a frame off the announced length, and says whether that was all.
pub(super) fn passes_last(announced: &mut Option<u64>, frame: &Frame<Bytes>) -> bool {
    let size = frame.data_ref().map_or(0, Bytes::len) as u64;
    announced.as_mut().is_some_and(|left| {
        *left = left.saturating_sub(size);
        *left == 0
    })
}
