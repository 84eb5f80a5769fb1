//! The body of a request that is read before the service is called, because it says what the
//! request runs. Bounded in bytes and in time, for each request and for the node.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, BytesMut};
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::Body;
use tokio::time::{Instant, Sleep};

use super::{
    buffered_body::{BufferedBody, ReadPart},
    settings::UploadSettings,
    upload_budget::{Share, UploadMemory},
};
use crate::{Account, plan::BodyProblem};

/// The slowest client that is waited for, in bytes a second: so large bodies get a longer timeout.
const MIN_CLIENT_RATE: usize = 16 << 10;

/// Reads a request's body.
pub(super) struct Upload<B> {
    /// `None` once it has ended.
    body: Option<Pin<Box<B>>>,
    /// All that was read, in memory of its own: a small frame may keep a large buffer alive.
    data: BytesMut,
    trailers: Option<HeaderMap>,
    /// Its shares of the node's memory for bodies: the account's, and the node's.
    reserved: Share,
    settings: UploadSettings,
    began: Instant,
    timer: Pin<Box<Sleep>>,
    /// The body is longer than it may be.
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
        memory: &UploadMemory,
        account: &Account,
    ) -> Self {
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok())
            .or_else(|| usize::try_from(body.size_hint().lower()).ok())
            .unwrap_or_default();
        Self {
            body: Some(Box::pin(body)),
            data: BytesMut::new(),
            trailers: None,
            reserved: memory.share_of(account),
            settings,
            began: Instant::now(),
            timer: Box::pin(tokio::time::sleep(settings.stall_timeout)),
            is_too_large: announced > settings.max_bytes,
        }
    }

    /// Ready once the body has ended or cannot be read on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unread>> {
        loop {
            if self.is_too_large {
                let limit = self.settings.max_bytes;
                return Poll::Ready(Err(Unread::Problem(BodyProblem::TooLarge(limit))));
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(None) => self.body = None,
                Poll::Ready(Some(Err(_))) => {
                    self.body = None;
                    return Poll::Ready(Err(Unread::Problem(BodyProblem::Incomplete)));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let is_last = body.is_end_stream();
                    match frame.into_data() {
                        Ok(data) => self.push(data)?,
                        Err(frame) => self.trailers = frame.into_trailers().ok(),
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
    fn push(&mut self, data: impl Buf) -> Result<(), Unread> {
        let before = self.data.capacity();
        self.data.put(data);
        self.is_too_large = self.data.len() > self.settings.max_bytes;
        let by_rate = Duration::from_secs((self.data.len() / MIN_CLIENT_RATE) as u64);
        let deadline = self.began + self.settings.stall_timeout + by_rate;
        if Instant::now() >= deadline {
            // Frames without a byte may come without end.
            return Err(Unread::Problem(BodyProblem::Stalled));
        }
        self.timer.as_mut().reset(deadline);
        let more = self.data.capacity() - before;
        if self.reserved.grow(more) { Ok(()) } else { Err(Unread::NoMemory) }
    }

    /// Returns the bytes that were read.
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    /// Returns the body, with all that was read.
    pub(super) fn into_body(self) -> BufferedBody<B> {
        let read = ReadPart {
            data: Some(self.data.freeze()).filter(|data| !data.is_empty()),
            trailers: self.trailers,
            _reserved: self.reserved,
        };
        BufferedBody::new(read, self.body)
    }

    /// Returns the rest of the body.
    pub(super) fn into_rest(self) -> Option<Pin<Box<B>>> {
        self.body
    }
}
