//! The rest of a denied request's body: it is read before the answer is sent, so that a client that
//! is still sending reads the answer and not a broken pipe.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use http::{Request, header::EXPECT};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Sleep;

/// The most bytes that are read.
const MAX_DRAINED_BYTES: usize = 1 << 20;

/// The longest time for which the body is waited for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

pin_project! {
    /// Reads the rest of a request's body, up to a bound.
    pub(super) struct Drain<B> {
        #[pin]
        body: Option<B>,
        left: usize,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<B: Body> Drain<B> {
    /// Reads nothing.
    pub(super) const fn nothing() -> Self {
        Self { body: None, left: 0, timer: None }
    }

    pub(super) fn new(request: Request<B>) -> Self {
        // A client that expects 100-continue reads the answer first, unless its body is polled.
        let expects_continue = request
            .headers()
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let body = request.into_body();
        Self {
            body: (!expects_continue && !body.is_end_stream()).then_some(body),
            left: MAX_DRAINED_BYTES,
            timer: None,
        }
    }

    /// Ready once the body has ended, or a bound is reached.
    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(mut body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        loop {
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // An empty frame counts, too: there could be endlessly many.
                    let size = frame.data_ref().map_or(1, Buf::remaining).max(1);
                    match this.left.checked_sub(size) {
                        Some(left) => *this.left = left,
                        None => return Poll::Ready(()),
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    return this
                        .timer
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(DRAIN_TIMEOUT)))
                        .as_mut()
                        .poll(cx);
                }
            }
        }
    }
}
