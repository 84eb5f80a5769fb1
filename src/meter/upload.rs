//! The body of a request that is read before the service is called, because it says what the
//! request runs. Bounded in bytes and in time, for each request and for the node.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::Body;
use tokio::time::{Instant, Sleep};

use super::{
    buffered_body::{BufferedBody, ReadPart},
    settings::UploadSettings,
    upload_budget::{Reserved, UploadBudget},
};
use crate::plan::BodyProblem;

/// The slowest client that is waited for, in bytes a second: so large bodies get a longer timeout.
const MIN_CLIENT_RATE: usize = 16 << 10;

/// Reads a request's body.
pub(super) struct Upload<B> {
    /// `None` once it has ended.
    body: Option<Pin<Box<B>>>,
    read: ReadPart,
    bytes: usize,
    settings: UploadSettings,
    began: Instant,
    timer: Pin<Box<Sleep>>,
    /// The body is longer than it may be, by its own announcement.
    is_too_large: bool,
}

/// Reason why a body was not read to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    Problem(BodyProblem),
    /// This node has no memory left for bodies.
    NoMemory,
}

impl<B: Body> Upload<B> {
    pub(super) fn new(
        body: B,
        headers: &HeaderMap,
        settings: UploadSettings,
        budget: &Arc<UploadBudget>,
    ) -> Self {
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok())
            .or_else(|| usize::try_from(body.size_hint().lower()).ok())
            .unwrap_or_default();
        let began = Instant::now();
        Self {
            body: Some(Box::pin(body)),
            read: ReadPart { reserved: budget.reserve(0), ..ReadPart::default() },
            bytes: 0,
            settings,
            began,
            timer: Box::pin(tokio::time::sleep(settings.stall_timeout)),
            is_too_large: announced > settings.max_bytes,
        }
    }

    /// Ready once the body has ended or cannot be read on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Unread>> {
        loop {
            if self.is_too_large {
                let limit = self.settings.max_bytes;
                return Poll::Ready(Err(Unread::Problem(BodyProblem::TooLarge(limit))));
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(self.read.joined())) };
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(None) => self.body = None,
                Poll::Ready(Some(Err(_))) => {
                    self.body = None;
                    return Poll::Ready(Err(Unread::Problem(BodyProblem::Incomplete)));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let is_last = body.is_end_stream();
                    match frame.into_data() {
                        Ok(mut data) => self.push(data.copy_to_bytes(data.remaining()))?,
                        Err(frame) => self.read.trailers = frame.into_trailers().ok(),
                    }
                    if is_last {
                        self.body = None;
                    }
                }
                Poll::Pending => {
                    ready!(self.timer.as_mut().poll(cx));
                    return Poll::Ready(Err(Unread::Problem(BodyProblem::Stalled)));
                }
            }
        }
    }

    /// Takes a frame, even if it is too much: in shadow mode it is handed on.
    fn push(&mut self, data: Bytes) -> Result<(), Unread> {
        let length = data.len();
        self.bytes = self.bytes.saturating_add(length);
        self.is_too_large = self.bytes > self.settings.max_bytes;
        self.read.frames.push_back(data);
        let by_rate = Duration::from_secs((self.bytes / MIN_CLIENT_RATE) as u64);
        self.timer.as_mut().reset(self.began + self.settings.stall_timeout + by_rate);
        // A frame's own memory counts, too: there could be endlessly many empty ones.
        let has_memory = |reserved: &mut Reserved| reserved.grow(length + size_of::<Bytes>());
        if self.read.reserved.as_mut().is_some_and(has_memory) {
            Ok(())
        } else {
            Err(Unread::NoMemory)
        }
    }

    /// Returns the body, with all that was read.
    pub(super) fn into_body(self) -> BufferedBody<B> {
        BufferedBody::new(self.read, self.body)
    }

    /// Returns the rest of the body.
    pub(super) fn into_rest(self) -> Option<Pin<Box<B>>> {
        self.body
    }
}
