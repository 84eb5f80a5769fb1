//! Request bodies: handed on as they came, or read by the layer first.
//!
//! If a plan's route takes its model from the body, the layer has to read it before it can decide.
//! The service then gets a [`BufferedBody`]: the bytes that came. Because this is another type of
//! body, only [`BufferBodies`](super::BufferBodies) does it. [`CreditMeter`](crate::CreditMeter)
//! as a layer hands bodies on as they are, whatever their type.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::upload_budget::Share;

/// The way in which a service gets its requests' bodies: [`AsIs`] or [`Buffered`].
pub trait BodyMode<B>: sealed::Sealed {
    /// The body that the inner service gets.
    type Body;

    #[doc(hidden)]
    const READS_BODIES: bool;

    #[doc(hidden)]
    fn unread(body: B) -> Self::Body;

    /// The request that the inner service gets: of a mode that leaves bodies as they are, itself.
    #[doc(hidden)]
    fn unread_request(request: Request<B>) -> Request<Self::Body> {
        request.map(Self::unread)
    }

    /// `None` if this mode reads no bodies.
    #[doc(hidden)]
    fn read(body: BufferedBody<B>) -> Option<Self::Body>;
}

/// The service gets the body that came, whatever its type.
#[derive(Clone, Copy, Debug)]
pub struct AsIs;

/// The service gets a [`BufferedBody`].
#[derive(Clone, Copy, Debug)]
pub struct Buffered;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::AsIs {}
    impl Sealed for super::Buffered {}
}

impl<B> BodyMode<B> for AsIs {
    type Body = B;

    const READS_BODIES: bool = false;

    fn unread(body: B) -> B {
        body
    }

    fn unread_request(request: Request<B>) -> Request<B> {
        request
    }

    fn read(_: BufferedBody<B>) -> Option<B> {
        None
    }
}

impl<B> BodyMode<B> for Buffered {
    type Body = BufferedBody<B>;

    const READS_BODIES: bool = true;

    fn unread(body: B) -> BufferedBody<B> {
        BufferedBody { read: None, rest: Rest::Unread { body } }
    }

    fn read(body: BufferedBody<B>) -> Option<BufferedBody<B>> {
        Some(body)
    }
}

pin_project! {
    /// Body of a request that passed [`BufferBodies`](super::BufferBodies): the bytes that came,
    /// read already or not.
    ///
    /// Services that take any body, as axum's and tonic's do, take this one as they are. A service
    /// that names its body's type names this one:
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::{BodyExt, Full};
    /// use tower_credits::meter::BufferedBody;
    ///
    /// async fn infer(
    ///     request: http::Request<BufferedBody<hyper::body::Incoming>>,
    /// ) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
    ///     let prompt = request.into_body().collect().await?.to_bytes();
    ///     Ok(http::Response::new(Full::new(prompt))) // and compute
    /// }
    /// ```
    pub struct BufferedBody<B> {
        read: Option<Box<ReadPart>>,
        #[pin]
        rest: Rest<B>,
    }
}

/// The part of a body that was read.
#[derive(Debug)]
pub(super) struct ReadPart {
    pub(super) data: Option<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    /// Its share of the node's memory for bodies.
    pub(super) _reserved: Share,
}

pin_project! {
    /// The part of a body that was not read.
    #[project = RestProj]
    enum Rest<B> {
        Unread { #[pin] body: B },
        Boxed { body: Pin<Box<B>> },
        None,
    }
}

impl<B> BufferedBody<B> {
    /// A body that was read, to its end or not.
    pub(super) fn new(read: ReadPart, rest: Option<Pin<Box<B>>>) -> Self {
        let rest = rest.map_or(Rest::None, |body| Rest::Boxed { body });
        Self { read: Some(Box::new(read)), rest }
    }
}

impl<B: Body<Data = Bytes>> Body for BufferedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(read) = this.read {
            if let Some(data) = read.data.take() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if let Some(trailers) = read.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
        *this.read = None;
        match this.rest.project() {
            RestProj::Unread { body } => body.poll_frame(cx),
            RestProj::Boxed { body } => body.as_mut().poll_frame(cx),
            RestProj::None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_taken =
            self.read.as_ref().is_none_or(|read| read.data.is_none() && read.trailers.is_none());
        is_taken
            && match &self.rest {
                Rest::Unread { body } => body.is_end_stream(),
                Rest::Boxed { body } => body.is_end_stream(),
                Rest::None => true,
            }
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match &self.rest {
            Rest::Unread { body } => body.size_hint(),
            Rest::Boxed { body } => body.size_hint(),
            Rest::None => SizeHint::with_exact(0),
        };
        let data = self.read.as_ref().and_then(|read| read.data.as_ref());
        let read = data.map_or(0, |data| data.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B> fmt::Debug for BufferedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferedBody").field("read", &self.read).finish_non_exhaustive()
    }
}
