//! The body of a metered response.
//!
//! Every end has a name: complete, failed, dropped, cut off. Frames, trailers, `size_hint` and `is_end_stream` are the inner body's own; a body
//! that is never polled to its end (HEAD, empty, of exact length) closes its charge as soon as it says that it has ended, or when it is dropped.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
    response::Parts,
};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    charge::{Charge, End},
    compute::Compute,
};
use crate::{BoxError, Rejection, rejection::DenialStyle};

pin_project! {
    /// The body of a response that came through a [`CreditService`](super::CreditService).
    ///
    /// Where a request is stopped in mid-body because its credits end, a `text/event-stream` at an event boundary gets one last `event: error`
    /// with the problem as data, and everything else ends with the error [`CutOff`], never as a clean end.
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
        Metered { #[pin] body: B, charge: Charge, ending: Ending, announced: Option<u64> },
        /// A denial, or the last words of a response that was cut off.
        Text { text: Option<Bytes> },
    }
}

/// How a body says that it was cut off.
enum Ending {
    Error,
    Event(EventBoundary, DenialStyle),
}

impl<B: Body<Data = Bytes>> MeterBody<B> {
    pub(super) fn free(body: B) -> Self {
        Self { kind: Kind::Free { body } }
    }

    pub(super) fn text(text: Bytes) -> Self {
        Self { kind: Kind::Text { text: Some(text).filter(|text| !text.is_empty()) } }
    }

    pub(super) fn metered(body: B, parts: &Parts, mut charge: Charge, style: DenialStyle) -> Self {
        if body.is_end_stream() {
            charge.close(End::Complete);
            return Self::free(body);
        }
        let header = |name| parts.headers.get(name).map(http::HeaderValue::as_bytes);
        let is_event_stream = header(CONTENT_TYPE).is_some_and(|value| {
            let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
            essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
        });
        let has_length = header(CONTENT_LENGTH).is_some() || body.size_hint().exact().is_some();
        let is_plain = header(CONTENT_ENCODING).is_none() && !has_length;
        let ending = if is_event_stream && is_plain { Ending::Event(EventBoundary::default(), style) } else { Ending::Error };
        // Servers do not poll on for the end of a body whose announced length has passed.
        let announced = header(CONTENT_LENGTH).and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        Self { kind: Kind::Metered { body, charge, ending, announced } }
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
            KindProj::Metered { mut body, charge, ending, announced } => {
                if charge.is_closed() {
                    return body.poll_frame(cx).map_err(Into::into);
                }
                // The reader's gap ends here: what the body computes while it is polled is computation.
                let came_back = charge.metering().now();
                let polled = body.as_mut().poll_frame(cx);
                charge.metering().with(|compute, _| compute.polled(polled.is_ready(), came_back));
                let step = match polled {
                    Poll::Pending if charge.poll_exhausted(cx).is_pending() => return Poll::Pending,
                    Poll::Pending => Step::CutOff,
                    Poll::Ready(None) => {
                        charge.close(End::Complete);
                        Step::Closed(None)
                    }
                    Poll::Ready(Some(Err(error))) => {
                        charge.close(End::Failed);
                        Step::Closed(Some(Err(error)))
                    }
                    // The last frame is there: nothing is won by withholding it.
                    Poll::Ready(Some(Ok(frame))) if frame.is_trailers() || passes_last(announced, &frame) || body.is_end_stream() => {
                        charge.close(End::Complete);
                        Step::Closed(Some(Ok(frame)))
                    }
                    Poll::Ready(Some(Ok(_))) if charge.is_exhausted() => Step::CutOff,
                    Poll::Ready(Some(Ok(frame))) => {
                        if let (Ending::Event(boundary, _), Some(data)) = (ending as &mut Ending, frame.data_ref()) {
                            boundary.pass(data);
                        }
                        charge.metering().with(Compute::hand_over);
                        Step::Frame(Some(Ok(frame)))
                    }
                };
                match step {
                    Step::Frame(frame) | Step::Closed(frame) => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
                    Step::CutOff => {
                        let rejection = charge.cut_off();
                        let last_words = match ending {
                            Ending::Event(boundary, style) if boundary.is_at() => Ok(Frame::data(error_event(&rejection, *style))),
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
