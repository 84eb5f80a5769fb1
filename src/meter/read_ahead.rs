//! The queue between the task that reads a response body ahead and the client's side, which takes
//! frames from it.
//!
//! It is bounded in bytes (each frame counts [`FRAME_OVERHEAD`] more than its data, so that endless
//! empty frames are bounded too), by a limit of its own and by one for all queues of a meter
//! together. It takes at least [`LEAST_FRAMES`], and more until the pace of the service is known.
//! Once full, it has room again when half of it was taken: so whoever keeps it full lets the
//! service be seen at work all the same.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Instant;

use crate::{
    BoxError,
    clock::{Now, Time},
};

/// What a frame takes beside its data.
const FRAME_OVERHEAD: usize = 128;

/// A queue takes so many frames, however large they are.
const LEAST_FRAMES: usize = 4;

/// Until the pace of the service is known, a queue takes so many times its bytes.
const UNPACED: usize = 4;

/// And so many, if all queues together are full.
const UNPACED_BYTES: usize = 64 << 10;

/// How far responses are read ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadAheadLimits {
    /// Bytes of one response. Default 256 KiB.
    pub(crate) each: usize,
    /// Bytes of all responses of a meter together; a queue that would pass it holds one frame.
    /// Default 256 MiB.
    pub(crate) total: usize,
    /// A response from which nothing was taken for so long, while its queue was full, is abandoned.
    /// Default 60 s.
    pub(crate) stalled_after: Duration,
}

impl Default for ReadAheadLimits {
    fn default() -> Self {
        Self { each: 256 << 10, total: 256 << 20, stalled_after: Duration::from_secs(60) }
    }
}

/// What all queues of a meter share.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    pub(super) limits: ReadAheadLimits,
    bytes: AtomicUsize,
}

/// The task's end of a queue.
pub(super) struct Writer(Arc<Queue>);

/// The client's end of a queue.
pub(super) struct Reader {
    queue: Arc<Queue>,
    time: Time,
}

struct Queue {
    shared: Arc<ReadAhead>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Frame<Bytes>>,
    bytes: usize,
    /// Comes after the frames.
    error: Option<BoxError>,
    ended: Option<EndOfFrames>,
    /// When a frame was taken last while the writer waited for room.
    taken_at: Option<Instant>,
    /// How many bytes the frame had that was taken last.
    taken: usize,
    /// When the reader went away.
    gone: Option<Now>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// `true` if the writer waits for room, and knows the pace of its service.
    waits_for_room: Option<bool>,
}

/// How it is known that nothing comes after the last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndOfFrames {
    /// The last frame was known to be the last (`is_end_stream`).
    WithLast,
    /// It is found out by polling once more.
    AfterLast,
}

/// The reader has gone, at this moment.
#[derive(Debug)]
pub(super) struct Gone(pub(super) Now);

impl ReadAhead {
    pub(crate) const fn new(limits: ReadAheadLimits) -> Self {
        Self { limits, bytes: AtomicUsize::new(0) }
    }

    pub(super) fn queue(self: Arc<Self>, time: Time) -> (Writer, Reader) {
        let queue = Arc::new(Queue { shared: self, state: Mutex::default() });
        (Writer(Arc::clone(&queue)), Reader { queue, time })
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `paced`: the pace of the service is known well enough.
    fn has_room(&self, state: &State, paced: bool) -> bool {
        let ReadAheadLimits { each, total, .. } = self.shared.limits;
        let held = state.frames.len();
        if held == 0 {
            return true;
        }
        if self.shared.bytes.load(Ordering::Relaxed) >= total {
            return held < LEAST_FRAMES && !paced && state.bytes < UNPACED_BYTES;
        }
        held < LEAST_FRAMES || state.bytes < if paced { each } else { each.saturating_mul(UNPACED) }
    }

    /// `true` if a queue that was full has room again.
    fn has_room_again(&self, state: &State, paced: bool) -> bool {
        let is_half_empty =
            state.frames.len() <= LEAST_FRAMES / 2 || state.bytes <= self.shared.limits.each / 2;
        is_half_empty && self.has_room(state, paced)
    }

    fn clear(&self, state: &mut State) {
        self.shared.bytes.fetch_sub(std::mem::take(&mut state.bytes), Ordering::Relaxed);
        state.frames = VecDeque::new();
    }
}

fn weight(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len) + FRAME_OVERHEAD
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}

impl Writer {
    /// Adds a frame; answers whether there is room for another one.
    pub(super) fn push(&self, frame: Frame<Bytes>, paced: bool) -> Result<bool, Gone> {
        let mut state = self.0.lock();
        if let Some(gone) = state.gone {
            return Err(Gone(gone));
        }
        let weight = weight(&frame);
        self.0.shared.bytes.fetch_add(weight, Ordering::Relaxed);
        state.bytes += weight;
        state.frames.push_back(frame);
        let has_room = self.0.has_room(&state, paced);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(has_room)
    }

    /// Nothing comes after `last`.
    pub(super) fn end(&self, last: Option<Frame<Bytes>>, end: EndOfFrames) {
        let mut state = self.0.lock();
        if let Some(frame) = last.filter(|_| state.gone.is_none()) {
            let weight = weight(&frame);
            self.0.shared.bytes.fetch_add(weight, Ordering::Relaxed);
            state.bytes += weight;
            state.frames.push_back(frame);
        }
        self.finish(state, end);
    }

    /// The error comes after what is there, and nothing after it.
    pub(super) fn fail(&self, error: BoxError, end: EndOfFrames) {
        let mut state = self.0.lock();
        state.error = Some(error);
        self.finish(state, end);
    }

    /// What is there is thrown away.
    pub(super) fn abandon(&self, error: BoxError) {
        self.0.clear(&mut self.0.lock());
        self.fail(error, EndOfFrames::WithLast);
    }

    fn finish(&self, mut state: MutexGuard<'_, State>, end: EndOfFrames) {
        state.ended = Some(end);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Ready once there is room for a frame, or the reader has gone.
    pub(super) fn poll_room(&self, paced: bool, cx: &Context<'_>) -> Poll<Result<(), Gone>> {
        let mut state = self.0.lock();
        if let Some(gone) = state.gone {
            return Poll::Ready(Err(Gone(gone)));
        }
        if self.0.has_room_again(&state, paced) {
            state.waits_for_room = None;
            return Poll::Ready(Ok(()));
        }
        register(&mut state.writer, cx);
        state.waits_for_room = Some(paced);
        Poll::Pending
    }

    /// Ready once the reader has gone.
    pub(super) fn poll_gone(&self, cx: &Context<'_>) -> Poll<Gone> {
        let mut state = self.0.lock();
        if let Some(gone) = state.gone {
            return Poll::Ready(Gone(gone));
        }
        register(&mut state.writer, cx);
        Poll::Pending
    }

    /// When a frame was taken last while this waited for room, and how many bytes the one had that
    /// was taken last.
    pub(super) fn taken(&self) -> (Option<Instant>, usize) {
        let state = self.0.lock();
        (state.taken_at, state.taken)
    }
}

/// A task that panicked, or whose runtime ended.
impl Drop for Writer {
    fn drop(&mut self) {
        let is_open = self.0.lock().ended.is_none();
        if is_open {
            self.fail(
                "the response ended early: its task panicked, or its runtime shut down".into(),
                EndOfFrames::WithLast,
            );
        }
    }
}

impl Reader {
    pub(super) fn poll_frame(
        &self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.queue.lock();
        if let Some(frame) = state.frames.pop_front() {
            let weight = weight(&frame);
            self.queue.shared.bytes.fetch_sub(weight, Ordering::Relaxed);
            state.bytes -= weight;
            state.taken = weight;
            if state.waits_for_room.is_some() {
                state.taken_at = Some(Instant::now());
            }
            let has_room =
                state.waits_for_room.is_some_and(|paced| self.queue.has_room_again(&state, paced));
            let writer = if has_room { state.writer.take() } else { None };
            drop(state);
            if let Some(writer) = writer {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        if state.ended.is_some() {
            return Poll::Ready(state.error.take().map(Err));
        }
        register(&mut state.reader, cx);
        Poll::Pending
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let state = self.queue.lock();
        state.frames.is_empty()
            && state.error.is_none()
            && state.ended == Some(EndOfFrames::WithLast)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        if state.ended.is_none() {
            state.gone = Some(self.time.now());
        }
        self.queue.clear(&mut state);
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}
