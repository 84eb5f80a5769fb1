//! The body of a metered response.
//!
//! Every end has a name: complete, failed, dropped, cut off. Frames, trailers, `size_hint` and `is_end_stream` are the inner body's own; a body
//! that is never polled to its end (HEAD, empty, of exact length) closes its charge as soon as it says that it has ended, or when it is dropped.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRAILER},
    response::Parts,
};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    charge::{Charge, End},
    told,
};
use crate::{
    BoxError, Rejection,
    clock::Now,
    rejection::{DenialStyle, grpc_status_of, is_grpc_message},
};

pin_project! {
    /// The body of a response that came through a [`CreditService`](super::CreditService).
    ///
    /// Where a request is stopped in mid-body because its credits end, a gRPC stream gets its trailers, a `text/event-stream` at an event boundary
    /// gets one last `event: error` with the problem as data, and everything else ends with the error [`CutOff`], never as a clean end.
    pub struct MeterBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        /// Nothing is charged for it any more.
        Free { #[pin] body: B },
        Metered { #[pin] body: B, charge: Charge, ending: Ending, announced: Option<u64>, trailers: Trailers },
        /// A denial, or the last words of a response that was cut off.
        Text { text: Option<Bytes> },
    }
}

/// How a body says that it was cut off.
enum Ending {
    Error,
    Event(EventBoundary, DenialStyle),
    Trailers,
}

/// Where a body says what it cost.
enum Trailers {
    /// Nowhere.
    None,
    /// In the trailers that it has, if it has any: a gRPC stream.
    Amended,
    /// In trailers of this layer's own.
    Added,
    /// The same, once the inner body has ended; its charge is closed.
    Owed(Box<HeaderMap>),
}

impl<B: Body<Data = Bytes>> MeterBody<B> {
    pub(super) fn free(body: B) -> Self {
        Self { kind: Kind::Free { body } }
    }

    pub(super) fn text(text: Bytes) -> Self {
        Self { kind: Kind::Text { text: Some(text).filter(|text| !text.is_empty()) } }
    }

    pub(super) fn metered(body: B, parts: &mut Parts, mut charge: Charge, now: Now, style: DenialStyle, adds_trailers: bool) -> Self {
        // A service that answers a gRPC call with something else has no reader for trailers.
        let is_grpc = style.grpc && is_grpc_message(&parts.headers);
        if is_grpc {
            charge.stated(grpc_status_of(&parts.headers));
        }
        if body.is_end_stream() {
            charge.close_at(End::Complete, now);
            if is_grpc {
                // The head is the trailers.
                told::in_trailers(&mut parts.headers, charge.billed());
            }
            return Self::free(body);
        }
        if is_grpc {
            // Its end is its trailers, which a stream that is cut off gets early.
            parts.headers.remove(CONTENT_LENGTH);
        }
        let header = |name| parts.headers.get(name).map(http::HeaderValue::as_bytes);
        let is_event_stream = header(CONTENT_TYPE).is_some_and(|value| {
            let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
            essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
        });
        let has_length = header(CONTENT_LENGTH).is_some() || body.size_hint().exact().is_some();
        let is_plain = header(CONTENT_ENCODING).is_none() && !has_length;
        let ending = match is_event_stream && is_plain {
            _ if is_grpc => Ending::Trailers,
            true => Ending::Event(EventBoundary::default(), style),
            false => Ending::Error,
        };
        // Servers do not poll on for the end of a body whose announced length has passed.
        let announced = header(CONTENT_LENGTH).and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        let trailers = if is_grpc {
            Trailers::Amended
        } else if adds_trailers && !has_length {
            for name in [told::COMPUTE_TIME, told::COST] {
                // HTTP/1.1 servers send only those that are announced.
                parts.headers.append(TRAILER, name.into());
            }
            Trailers::Added
        } else {
            Trailers::None
        };
        Self { kind: Kind::Metered { body, charge, ending, announced, trailers } }
    }
}

/// Nothing more to say, as layers want it that answer in a service's place.
impl<B> Default for MeterBody<B> {
    fn default() -> Self {
        Self { kind: Kind::Text { text: None } }
    }
}

/// Takes what a body's trailers say, and says in them what it cost.
fn amend(frame: Frame<Bytes>, charge: &Charge, trailers: &Trailers) -> Frame<Bytes> {
    if matches!(trailers, Trailers::None) {
        return frame;
    }
    match frame.into_trailers() {
        Ok(mut fields) => {
            told::in_trailers(&mut fields, charge.billed());
            Frame::trailers(fields)
        }
        Err(frame) => frame,
    }
}

/// Counts a frame off the announced length, and says whether that was all.
fn passes_last(announced: &mut Option<u64>, frame: &Frame<Bytes>) -> bool {
    let size = frame.data_ref().map_or(0, Bytes::len) as u64;
    announced.as_mut().is_some_and(|left| {
        *left = left.saturating_sub(size);
        *left == 0
    })
}

fn usage(charge: &Charge) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(2);
    told::in_trailers(&mut fields, charge.billed());
    fields
}

/// What comes of polling a metered body.
enum Step<E> {
    Frame(Option<Result<Frame<Bytes>, E>>),
    /// The charge is closed; the body goes on by itself.
    Closed(Option<Result<Frame<Bytes>, E>>),
    CutOff,
}

impl<B> Body for MeterBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        match this.kind.as_mut().project() {
            KindProj::Free { body } => body.poll_frame(cx).map_err(Into::into),
            KindProj::Text { text } => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            KindProj::Metered { mut body, charge, ending, announced, trailers } => {
                if charge.is_closed() {
                    let polled = ready!(body.poll_frame(cx));
                    if let (None, Trailers::Owed(fields)) = (&polled, &mut *trailers) {
                        let fields = std::mem::take(&mut **fields);
                        // The inner body must not be polled after its end.
                        this.kind.set(Kind::Text { text: None });
                        return Poll::Ready(Some(Ok(Frame::trailers(fields))));
                    }
                    return Poll::Ready(polled.map(|frame| frame.map_err(Into::into)));
                }
                // The reader's gap ends here: what the body computes while it is polled is computation.
                let came_back = charge.now();
                let polled = body.as_mut().poll_frame(cx);
                charge.polled(polled.is_ready(), came_back);
                let step = match polled {
                    Poll::Pending if charge.poll_exhausted(cx).is_pending() => return Poll::Pending,
                    Poll::Pending => Step::CutOff,
                    Poll::Ready(None) => {
                        charge.close(End::Complete);
                        if matches!(trailers, Trailers::Added) {
                            let last_words = Frame::trailers(usage(charge));
                            this.kind.set(Kind::Text { text: None });
                            return Poll::Ready(Some(Ok(last_words)));
                        }
                        Step::Closed(None)
                    }
                    Poll::Ready(Some(Err(error))) => {
                        charge.close(End::Failed);
                        *trailers = Trailers::None;
                        Step::Closed(Some(Err(error)))
                    }
                    // The last frame is there: nothing is won by withholding it.
                    Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => {
                        if matches!(trailers, Trailers::Amended) {
                            charge.stated(frame.trailers_ref().and_then(grpc_status_of));
                        }
                        charge.close(End::Complete);
                        let frame = amend(frame, charge, trailers);
                        *trailers = Trailers::None;
                        Step::Closed(Some(Ok(frame)))
                    }
                    Poll::Ready(Some(Ok(frame))) if passes_last(announced, &frame) || body.is_end_stream() => {
                        charge.close(End::Complete);
                        if matches!(trailers, Trailers::Added) {
                            *trailers = Trailers::Owed(Box::new(usage(charge)));
                        }
                        Step::Closed(Some(Ok(frame)))
                    }
                    Poll::Ready(Some(Ok(_))) if charge.frame() => Step::CutOff,
                    Poll::Ready(Some(Ok(frame))) => {
                        if let (Ending::Event(boundary, _), Some(data)) = (ending as &mut Ending, frame.data_ref()) {
                            boundary.pass(data);
                        }
                        Step::Frame(Some(Ok(frame)))
                    }
                };
                match step {
                    Step::Frame(frame) | Step::Closed(frame) => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
                    Step::CutOff => {
                        let rejection = charge.cut_off();
                        let last_words = match ending {
                            Ending::Event(boundary, style) if boundary.is_at() => Ok(Frame::data(error_event(&rejection, *style))),
                            Ending::Trailers => {
                                let mut fields = rejection.trailers();
                                told::in_trailers(&mut fields, charge.billed());
                                Ok(Frame::trailers(fields))
                            }
                            _ => Err(CutOff { rejection }.into()),
                        };
                        // What the service computes on would be for nothing.
                        this.kind.set(Kind::Text { text: None });
                        Poll::Ready(Some(last_words))
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Metered { trailers: Trailers::Added | Trailers::Owed(_), .. } => false,
            Kind::Free { body } | Kind::Metered { body, .. } => body.is_end_stream(),
            Kind::Text { text } => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Free { body } | Kind::Metered { body, .. } => body.size_hint(),
            Kind::Text { text } => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}

impl<B> fmt::Debug for MeterBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeterBody").finish_non_exhaustive()
    }
}

/// The error with which a body ends whose credits ended in its middle.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cut off: {}", .rejection.detail())]
pub struct CutOff {
    rejection: Rejection,
}

impl CutOff {
    /// Why.
    pub fn rejection(&self) -> &Rejection {
        &self.rejection
    }
}

/// Whether the bytes that passed end between two events (WHATWG HTML, section 9.2.6: a blank line, of any of three line ends).
struct EventBoundary {
    at_line_start: bool,
    after_carriage_return: bool,
    between_events: bool,
}

impl Default for EventBoundary {
    fn default() -> Self {
        Self { at_line_start: true, after_carriage_return: false, between_events: true }
    }
}

impl EventBoundary {
    fn pass(&mut self, data: &[u8]) {
        for byte in data {
            let ends_pair = std::mem::replace(&mut self.after_carriage_return, *byte == b'\r') && *byte == b'\n';
            if ends_pair {
                continue;
            }
            if matches!(byte, b'\r' | b'\n') {
                self.between_events |= self.at_line_start;
                self.at_line_start = true;
            } else {
                self.at_line_start = false;
                self.between_events = false;
            }
        }
    }

    /// A lone carriage return may be half of a line end.
    fn is_at(&self) -> bool {
        self.between_events && !self.after_carriage_return
    }
}

fn error_event(rejection: &Rejection, style: DenialStyle) -> Bytes {
    let problem = rejection.body(style);
    let mut event = BytesMut::with_capacity(problem.len() + 32);
    event.put_slice(b"event: error\ndata: ");
    event.put_slice(&problem);
    event.put_slice(b"\n\n");
    event.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_a_blank_line_of_any_kind() {
        for (stream, at) in [
            ("", true),
            ("data: 1\n\n", true),
            ("data: 1\r\n\r\n", true),
            ("data: 1\n\ndata", false),
            ("data: 1\n", false),
            ("data: 1\r\n", false),
            ("data: 1\r\r", false),
            ("data: 1\n\n\n", true),
            (": comment\n\n", true),
        ] {
            for cut in 0..=stream.len() {
                let mut boundary = EventBoundary::default();
                boundary.pass(&stream.as_bytes()[..cut]);
                boundary.pass(&stream.as_bytes()[cut..]);
                assert_eq!(boundary.is_at(), at, "{stream:?} cut at {cut}");
            }
        }
    }
}
