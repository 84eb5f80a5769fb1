//! The body of a metered response.
//!
//! A body that has ended when its head is there (empty, one frame, a gRPC message and its trailers)
//! has its charge closed there. Any other is [read ahead](super::pump) by a task of its own, and
//! its frames, trailers and errors come from a queue in their order. `size_hint` and
//! `is_end_stream` say what those of the inner body would.

use std::{
    any::Any,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Empty, Full, combinators};
use pin_project_lite::pin_project;

use super::queue::Reader;
use crate::BoxError;

pin_project! {
    /// Body of a response that came through a [`CreditService`](super::CreditService).
    ///
    /// If a response is cut off because its credits end, its reader can tell: a gRPC stream gets
    /// its trailers; a `text/event-stream` at an event boundary gets one last `event: error` with
    /// the problem as data; everything else ends with the error
    /// [`CutOff`](crate::meter::CutOff), never with a clean end.
    pub struct MeterBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        /// The inner body, whose charge is closed or which is free. Data that was polled already
        /// comes first.
        Free { first: Option<Bytes>, #[pin] body: Polled<B> },
        /// A body that has ended.
        Whole { whole: Whole },
        /// A body that is read ahead.
        Queued { reader: Reader, left: SizeHint },
    }
}

/// A body that was whole when its head was there, a denial, or an empty body.
#[derive(Default)]
pub(super) struct Whole {
    pub(super) data: Option<Bytes>,
    /// In a box: every response moves this, and few have trailers.
    pub(super) trailers: Option<Box<HeaderMap>>,
    pub(super) error: Option<BoxError>,
    /// The length that the inner body said.
    pub(super) hint: SizeHint,
    /// `true` if the inner body knew its end before it was polled once more.
    pub(super) says_end: bool,
}

impl<B> MeterBody<B> {
    pub(super) fn free(body: B) -> Self {
        Self { kind: Kind::Free { first: None, body: Polled::Bare { body } } }
    }

    pub(super) fn rest(first: Option<Bytes>, body: Polled<B>) -> Self {
        Self { kind: Kind::Free { first, body } }
    }

    pub(super) fn whole(whole: Whole) -> Self {
        Self { kind: Kind::Whole { whole } }
    }

    pub(super) fn text(text: Bytes) -> Self {
        let hint = SizeHint::with_exact(text.len() as u64);
        Self::whole(Whole {
            data: Some(text).filter(|text| !text.is_empty()),
            hint,
            says_end: true,
            ..Whole::default()
        })
    }

    pub(super) fn queued(reader: Reader, left: SizeHint) -> Self {
        Self { kind: Kind::Queued { reader, left } }
    }
}

/// An empty body, for layers that answer without the service.
impl<B> Default for MeterBody<B> {
    fn default() -> Self {
        Self::text(Bytes::new())
    }
}

/// Subtracts a frame that is handed over from the length that is left.
fn subtract(left: &mut SizeHint, frame: Option<&Frame<Bytes>>) {
    let size = frame.and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
    if size > 0 {
        let (lower, upper) = (
            left.lower().saturating_sub(size),
            left.upper().map(|upper| upper.saturating_sub(size)),
        );
        let mut rest = SizeHint::new();
        rest.set_lower(lower);
        if let Some(upper) = upper {
            rest.set_upper(upper);
        }
        *left = rest;
    }
}

impl<B> Body for MeterBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProj::Free { first, body } => match first.take() {
                Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
                None => body.poll_frame(cx).map_err(Into::into),
            },
            KindProj::Whole { whole } => Poll::Ready(whole.next()),
            KindProj::Queued { reader, left } => {
                let polled = reader.poll_frame(cx);
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => subtract(left, Some(frame)),
                    // Nothing follows, whatever length was announced.
                    Poll::Ready(Some(Err(_))) if reader.is_end_stream() => {
                        *left = SizeHint::with_exact(0);
                    }
                    Poll::Ready(_) | Poll::Pending => {}
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Free { first, body } => first.is_none() && body.is_end_stream(),
            Kind::Whole { whole } => whole.says_end && whole.is_spent(),
            Kind::Queued { reader, .. } => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Free { first, body } => {
                let (mut hint, size) =
                    (body.size_hint(), first.as_ref().map_or(0, Bytes::len) as u64);
                if size > 0 {
                    let upper = hint.upper().map(|upper| upper.saturating_add(size));
                    let lower = hint.lower().saturating_add(size);
                    hint = SizeHint::new();
                    hint.set_lower(lower);
                    if let Some(upper) = upper {
                        hint.set_upper(upper);
                    }
                }
                hint
            }
            Kind::Whole { whole } => whole.hint,
            Kind::Queued { left, .. } => *left,
        }
    }
}

impl Whole {
    fn is_spent(&self) -> bool {
        self.data.is_none() && self.trailers.is_none() && self.error.is_none()
    }

    fn next(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        let trailers = |trailers: Box<HeaderMap>| Frame::trailers(*trailers);
        let frame = self.data.take().map(Frame::data);
        let frame = frame.or_else(|| self.trailers.take().map(trailers));
        subtract(&mut self.hint, frame.as_ref());
        match frame {
            Some(frame) => Some(Ok(frame)),
            None => self.error.take().map(Err),
        }
    }
}

impl<B> fmt::Debug for MeterBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeterBody").finish_non_exhaustive()
    }
}

pin_project! {
    /// A body that was polled once, and can still be moved.
    ///
    /// A body that was polled can be moved only if its type is `Unpin`, and that cannot be found
    /// out of a type parameter. So the body types of nearly all servers are listed by name, and any
    /// other body is put into a box before it is polled.
    #[project = PolledProj]
    pub(super) enum Polled<B> {
        Bare { #[pin] body: B },
        Boxed { body: Pin<Box<B>> },
    }
}

type Polling = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

impl<B> Polled<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// Polls a body for the first time.
    pub(super) fn poll_first(mut body: B, cx: &mut Context<'_>) -> (Polling, Self) {
        match poll_in_place(&mut body, cx) {
            Some(polling) => (polling, Self::Bare { body }),
            None => {
                let mut body = Box::pin(body);
                (body.as_mut().poll_frame(cx).map_err(Into::into), Self::Boxed { body })
            }
        }
    }

    /// Polls it again, before it is moved.
    pub(super) fn poll_again(&mut self, cx: &mut Context<'_>) -> Polling {
        match self {
            Self::Bare { body } => poll_in_place(body, cx).unwrap_or(Poll::Pending),
            Self::Boxed { body } => body.as_mut().poll_frame(cx).map_err(Into::into),
        }
    }
}

/// Polls a body whose type is known to be `Unpin`; `None` for another type.
fn poll_in_place<B: 'static>(body: &mut B, cx: &mut Context<'_>) -> Option<Polling> {
    fn poll<T>(body: &mut dyn Any, cx: &mut Context<'_>) -> Option<Polling>
    where
        T: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static,
    {
        body.downcast_mut::<T>().map(|body| Pin::new(body).poll_frame(cx).map_err(Into::into))
    }
    let body: &mut dyn Any = body;
    let polling = poll::<Full<Bytes>>(body, cx)
        .or_else(|| poll::<Empty<Bytes>>(body, cx))
        .or_else(|| poll::<combinators::BoxBody<Bytes, BoxError>>(body, cx))
        .or_else(|| poll::<combinators::BoxBody<Bytes, std::convert::Infallible>>(body, cx))
        .or_else(|| poll::<combinators::UnsyncBoxBody<Bytes, BoxError>>(body, cx))
        .or_else(|| poll::<combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>>(body, cx));
    #[cfg(feature = "axum")]
    let polling = polling.or_else(|| poll::<axum::body::Body>(body, cx));
    #[cfg(feature = "grpc-details")]
    let polling = polling.or_else(|| poll::<tonic::body::Body>(body, cx));
    polling
}

impl<B: Body<Data = Bytes>> Body for Polled<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project() {
            PolledProj::Bare { body } => body.poll_frame(cx),
            PolledProj::Boxed { body } => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Bare { body } => body.is_end_stream(),
            Self::Boxed { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Bare { body } => body.size_hint(),
            Self::Boxed { body } => body.size_hint(),
        }
    }
}
