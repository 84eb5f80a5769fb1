//! The rest of a denied request's body: it is read before the answer is sent, so that a client that
//! is still sending reads the answer and not a broken pipe.
//!
//! A short upload is always read on. A long one is read on while bytes keep coming, and as long as
//! not too many others are.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use http_body::Body;
use tokio::time::{Instant, Sleep};

use super::upload_budget::{Reserved, UploadBudget};

/// The bytes, and the time, after which an upload is long.
const SHORT_BYTES: usize = 1 << 20;
const SHORT_TIME: Duration = Duration::from_secs(1);

/// The most bytes that are read.
const MAX_BYTES: usize = 64 << 20;

/// The longest time that is read for.
const MAX_TIME: Duration = Duration::from_secs(60);

/// The longest time without a byte.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The most long uploads of a node that are read on at a time.
pub(super) const MAX_LONG_DRAINS: usize = 256;

/// Reads the rest of a request's body, up to its bounds.
pub(super) struct Drain<B> {
    body: Option<Pin<Box<B>>>,
    bytes: usize,
    began: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    /// One unit for each long upload.
    budget: Arc<UploadBudget>,
    long: Option<Reserved>,
}

impl<B: Body> Drain<B> {
    /// Reads this body; nothing if it is `None`.
    pub(super) fn new(body: Option<Pin<Box<B>>>, budget: &Arc<UploadBudget>) -> Self {
        Self {
            body: body.filter(|body| !body.is_end_stream()),
            bytes: 0,
            began: Instant::now(),
            timer: None,
            budget: Arc::clone(budget),
            long: None,
        }
    }

    /// Ready once the body has ended, or a bound is reached.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(()) };
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // An empty frame counts, too: there could be endlessly many.
                    let size = frame.data_ref().map_or(1, Buf::remaining).max(1);
                    self.bytes = self.bytes.saturating_add(size);
                    let now = Instant::now();
                    if !self.may_go_on(now) {
                        return Poll::Ready(());
                    }
                    if let Some(timer) = &mut self.timer {
                        timer.as_mut().reset((now + MAX_PAUSE).min(self.began + MAX_TIME));
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let pause = || Box::pin(tokio::time::sleep(MAX_PAUSE));
                    return self.timer.get_or_insert_with(pause).as_mut().poll(cx);
                }
            }
        }
    }

    fn may_go_on(&mut self, now: Instant) -> bool {
        if self.bytes > MAX_BYTES || now >= self.began + MAX_TIME {
            return false;
        }
        let is_long = self.bytes > SHORT_BYTES || now >= self.began + SHORT_TIME;
        if is_long && self.long.is_none() {
            self.long = self.budget.reserve(1);
        }
        !is_long || self.long.is_some()
    }
}
