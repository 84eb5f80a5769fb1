//! Bodies that end in every way.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// A body of prepared frames; each takes its compute time off a clock when it is polled for.
pub struct Frames {
    frames: VecDeque<Result<Frame<Bytes>, &'static str>>,
    exact: bool,
    before_each: Box<dyn Fn() + Send>,
}

impl Frames {
    pub fn new(frames: impl IntoIterator<Item = Result<Frame<Bytes>, &'static str>>) -> Self {
        Self { frames: frames.into_iter().collect(), exact: false, before_each: Box::new(|| {}) }
    }

    pub fn text(frames: &[&'static str]) -> Self {
        Self::new(frames.iter().map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
    }

    pub fn of_exact_length(mut self) -> Self {
        self.exact = true;
        self
    }

    fn left(&self) -> u64 {
        self.frames
            .iter()
            .filter_map(|frame| frame.as_ref().ok()?.data_ref().map(|data| data.len() as u64))
            .sum()
    }

    pub fn with_trailers(mut self) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", http::HeaderValue::from_static("1"));
        self.frames.push_back(Ok(Frame::trailers(trailers)));
        self
    }

    pub fn computing(mut self, before_each: impl Fn() + Send + 'static) -> Self {
        self.before_each = Box::new(before_each);
        self
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let frame = self.frames.pop_front();
        if frame.is_some() {
            (self.before_each)();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.exact && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.exact { SizeHint::with_exact(self.left()) } else { SizeHint::default() }
    }
}

/// A body that is fed from outside.
pub struct Fed(pub mpsc::Receiver<Bytes>);

impl Fed {
    pub fn new() -> (mpsc::Sender<Bytes>, Self) {
        let (feed, fed) = mpsc::channel(64);
        (feed, Self(fed))
    }
}

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}
