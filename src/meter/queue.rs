//! The queue between the task that reads a response body ahead and the client's side, which takes
//! frames from it.
//!
//! It is bounded in bytes, by a limit of its own and by one for all queues of a meter together.
//! Each frame counts [`FRAME_OVERHEAD`] more than its data, so that endless empty frames are
//! bounded too. A queue takes at least [`MIN_FRAMES`], and more until the pace of the service is
//! known. Once full, it has room again when half of it was taken: so the service is seen at work
//! even if the client keeps the queue full.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Instant;

use super::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::{
    BoxError,
    clock::{Now, Time},
    metering::{ReadAheadBudget, ReadAheadLimits},
};

/// The bytes that a frame counts in addition to its data.
const FRAME_OVERHEAD: usize = 128;

/// The number of frames that a queue takes, however large they are.
const MIN_FRAMES: usize = 4;

/// Until the pace of the service is known, a queue takes its limit so many times.
const UNPACED_FACTOR: usize = 4;

/// Until the pace of the service is known, a queue takes this many bytes even if all queues
/// together are full.
const UNPACED_BYTES: usize = 64 << 10;

/// The task's end of a queue.
pub(super) struct Writer(Arc<Queue>);

/// The client's end of a queue.
pub(super) struct Reader {
    queue: Arc<Queue>,
    time: Time,
}

struct Queue {
    budget: Arc<ReadAheadBudget>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Frame<Bytes>>,
    bytes: usize,
    /// Comes after the frames.
    error: Option<BoxError>,
    ended: Option<EndOfFrames>,
    /// Last moment at which a frame was taken while the writer waited for room.
    taken_at: Option<Instant>,
    /// Bytes of the frame that was taken last.
    last_taken: usize,
    /// Moment at which the reader was dropped.
    gone: Option<Now>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// If the writer waits for room: `true` if it knows the pace of its service.
    waits_for_room: Option<bool>,
}

/// The way in which the end of a body becomes known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndOfFrames {
    /// With its last frame (`is_end_stream`).
    WithLast,
    /// By polling once more after its last frame.
    AfterLast,
}

/// The reader was dropped, at this moment.
#[derive(Debug)]
pub(super) struct ReaderGone(pub(super) Now);

/// Makes a queue that is bounded by a meter's budget.
pub(super) fn queue(budget: Arc<ReadAheadBudget>, time: Time) -> (Writer, Reader) {
    let queue = Arc::new(Queue { budget, state: Mutex::default() });
    (Writer(Arc::clone(&queue)), Reader { queue, time })
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `true` if another frame fits. `paced` says that the pace of the service is known.
    fn has_room(&self, state: &State, paced: bool) -> bool {
        let ReadAheadLimits { per_response, .. } = self.budget.limits;
        let held = state.frames.len();
        if held == 0 {
            return true;
        }
        if self.budget.is_exhausted() {
            return held < MIN_FRAMES && !paced && state.bytes < UNPACED_BYTES;
        }
        held < MIN_FRAMES
            || state.bytes
                < if paced { per_response } else { per_response.saturating_mul(UNPACED_FACTOR) }
    }

    /// `true` if a queue that was full has room again.
    fn has_room_again(&self, state: &State, paced: bool) -> bool {
        let is_half_empty = state.frames.len() <= MIN_FRAMES / 2
            || state.bytes <= self.budget.limits.per_response / 2;
        is_half_empty && self.has_room(state, paced)
    }

    fn clear(&self, state: &mut State) {
        self.budget.release(std::mem::take(&mut state.bytes));
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
    /// Adds a frame. Returns `true` if there is room for another one.
    pub(super) fn push(&self, frame: Frame<Bytes>, paced: bool) -> Result<bool, ReaderGone> {
        let mut state = self.0.lock();
        if let Some(gone) = state.gone {
            return Err(ReaderGone(gone));
        }
        let weight = weight(&frame);
        self.0.budget.take(weight);
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

    /// Ends the queue with `last`.
    pub(super) fn end(&self, last: Option<Frame<Bytes>>, end: EndOfFrames) {
        let mut state = self.0.lock();
        if let Some(frame) = last.filter(|_| state.gone.is_none()) {
            let weight = weight(&frame);
            self.0.budget.take(weight);
            state.bytes += weight;
            state.frames.push_back(frame);
        }
        self.finish(state, end);
    }

    /// Ends the queue with an error, after the frames that are in it.
    pub(super) fn fail(&self, error: BoxError, end: EndOfFrames) {
        let mut state = self.0.lock();
        state.error = Some(error);
        self.finish(state, end);
    }

    /// Ends the queue with an error, and drops the frames that are in it.
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

    /// Ready once there is room for a frame, or the reader was dropped.
    pub(super) fn poll_room(&self, paced: bool, cx: &Context<'_>) -> Poll<Result<(), ReaderGone>> {
        let mut state = self.0.lock();
        if let Some(gone) = state.gone {
            return Poll::Ready(Err(ReaderGone(gone)));
        }
        if self.0.has_room_again(&state, paced) {
            state.waits_for_room = None;
            return Poll::Ready(Ok(()));
        }
        register(&mut state.writer, cx);
        state.waits_for_room = Some(paced);
        Poll::Pending
    }

    /// Ready once the reader was dropped.
    pub(super) fn poll_gone(&self, cx: &Context<'_>) -> Poll<ReaderGone> {
        let mut state = self.0.lock();
        if let Some(gone) = state.gone {
            return Poll::Ready(ReaderGone(gone));
        }
        register(&mut state.writer, cx);
        Poll::Pending
    }

    /// Returns when a frame was last taken while this waited for room, and the bytes of the frame
    /// that was taken last.
    pub(super) fn taken(&self) -> (Option<Instant>, usize) {
        let state = self.0.lock();
        (state.taken_at, state.last_taken)
    }
}

/// Ends the queue if the task panicked, or its runtime ended.
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
            self.queue.budget.release(weight);
            state.bytes -= weight;
            state.last_taken = weight;
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
