//! The requests that wait to be admitted.

use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

use super::run::SliceRequest;
use crate::Credits;

/// The most times that the ledger is asked once more for a permit or a share.
const MAX_ASKED_AGAIN: u8 = 3;

/// The requests that wait, first come, first served.
///
/// The requests that the renewal in flight asks for are always at the front. A request that comes
/// later queues behind them, and the next renewal asks for it.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Queue<W, R> {
    waiting: VecDeque<Waiting<W, R>>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
struct Waiting<W, R> {
    want: SliceRequest,
    run: R,
    handle: W,
    /// `true` if a renewal that was sent asked for it.
    is_requested: bool,
    /// (14, 15) Times that its permit or its share was asked for once more, because an answer said
    /// nothing of it.
    asked_again: u8,
}

impl<W, R> Queue<W, R> {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the sum of what the requests want to have on hold.
    pub(super) fn holds(&self) -> Credits {
        self.waiting
            .iter()
            .fold(Credits::ZERO, |sum, waiting| sum.saturating_add(waiting.want.hold))
    }

    pub(super) fn push(&mut self, want: SliceRequest, run: R, handle: W) {
        if self.waiting.capacity() == 0 {
            // Most accounts have one request at a time.
            self.waiting.reserve_exact(1);
        }
        self.waiting.push_back(Waiting { want, run, handle, is_requested: false, asked_again: 0 });
    }

    /// Returns when the ledger is to be asked: now, if it has not been asked for a request.
    pub(super) fn due(&self, now: Duration) -> Duration {
        if self.waiting.iter().all(|waiting| waiting.is_requested) { Duration::MAX } else { now }
    }

    /// Notes that the renewal that is being composed asks for all, and returns the sum.
    pub(super) fn request_all(&mut self) -> Credits {
        self.waiting.iter_mut().for_each(|waiting| waiting.is_requested = true);
        self.holds()
    }

    /// Forgets that all were asked for: they are asked for again.
    pub(super) fn forget_requests(&mut self) {
        self.waiting.iter_mut().for_each(|waiting| waiting.is_requested = false);
    }

    /// (14) Returns `true` if a request needs a permit. Each new request asks this, so it looks no
    /// farther than the first that does.
    pub(super) fn needs_permits(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.want.rate.is_some())
    }

    /// (14) Returns how many requests need a permit.
    pub(super) fn permits_needed(&self) -> usize {
        self.waiting.iter().filter(|waiting| waiting.want.rate.is_some()).count()
    }

    /// (14, 15) Has the first request asked for once more. `false` if it was too often.
    pub(super) fn ask_again(&mut self) -> bool {
        let Some(first) = self.waiting.front_mut() else { return false };
        first.is_requested = false;
        first.asked_again += 1;
        first.asked_again <= MAX_ASKED_AGAIN
    }

    /// (15) Returns the limit of concurrent requests that the last request to come has.
    pub(super) fn most_running(&self) -> Option<NonZeroU32> {
        self.waiting.back()?.want.most_running
    }

    /// (15) Returns how many requests need a share of those that may run.
    pub(super) fn shares_needed(&self) -> usize {
        self.waiting.iter().filter(|waiting| waiting.want.most_running.is_some()).count()
    }

    /// Returns what the first request wants that has not left. With `requested`, only if the ledger
    /// was asked for it.
    pub(super) fn first(
        &mut self,
        requested: bool,
        is_gone: impl Fn(&W) -> bool,
    ) -> Option<SliceRequest> {
        while self.waiting.front().is_some_and(|waiting| is_gone(&waiting.handle)) {
            self.waiting.pop_front();
        }
        let first = self.waiting.front().filter(|waiting| waiting.is_requested || !requested)?;
        Some(first.want)
    }

    pub(super) fn pop(&mut self) -> Option<(W, R)> {
        self.waiting.pop_front().map(|waiting| (waiting.handle, waiting.run))
    }

    /// Removes all requests, and returns their handles.
    pub(super) fn drain_queue(&mut self) -> Vec<W> {
        self.waiting.drain(..).map(|waiting| waiting.handle).collect()
    }

    /// Removes requests that have left.
    pub(super) fn forget(&mut self, is_gone: impl Fn(&W) -> bool) {
        self.waiting.retain(|waiting| !is_gone(&waiting.handle));
    }

    /// Frees the memory of requests that waited; does nothing if one still waits.
    pub(super) fn free_memory(&mut self) {
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.waiting.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn queue(names: &[u8]) -> Queue<u8, ()> {
        let mut queue = Queue::new();
        for name in names {
            queue.push(want(10), (), *name);
        }
        queue
    }

    fn want(nanos: i64) -> SliceRequest {
        SliceRequest {
            hold: Credits::clamped(nanos),
            min_slice: Credits::ZERO,
            first_refill_after: NOW,
            max_concurrent: None,
            rate: None,
            most_running: None,
        }
    }

    #[test]
    fn it_is_due_until_all_are_asked_for() {
        let mut queue = queue(&[]);
        assert_eq!(queue.due(NOW), Duration::MAX);
        queue.push(want(10), (), 1);
        assert_eq!(queue.due(NOW), NOW);
        assert_eq!(queue.request_all(), Credits::clamped(10));
        assert_eq!(queue.due(NOW), Duration::MAX);
        queue.push(want(20), (), 2);
        assert_eq!(queue.due(NOW), NOW, "the ledger was not asked for the second");
        assert_eq!(queue.request_all(), Credits::clamped(30));
        queue.forget_requests();
        assert_eq!(queue.due(NOW), NOW);
    }

    #[test]
    fn requests_that_came_after_the_renewal_are_not_served_by_its_answer() {
        let mut queue = queue(&[1]);
        queue.request_all();
        queue.push(want(20), (), 2);
        assert!(queue.first(true, |_| false).is_some());
        assert_eq!(queue.pop(), Some((1, ())));
        assert!(queue.first(true, |_| false).is_none());
        assert!(queue.first(false, |_| false).is_some());
    }

    #[test]
    fn requests_that_left_are_passed_over() {
        let mut queue = queue(&[1, 2, 3]);
        assert!(queue.first(false, |name| *name < 3).is_some());
        assert_eq!((queue.len(), queue.pop()), (1, Some((3, ()))));
        queue.push(want(10), (), 4);
        queue.forget(|name| *name == 4);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_first_request_is_asked_for_once_more_three_times() {
        let mut queue = queue(&[1, 2]);
        for may_wait in [true, true, true, false, false] {
            queue.request_all();
            assert_eq!(queue.ask_again(), may_wait);
            assert_eq!(queue.due(NOW), NOW, "the next renewal asks for it");
        }
        queue.pop();
        assert!(queue.ask_again(), "the second has its own three times");
        queue.pop();
        assert!(!queue.ask_again(), "nobody waits");
    }
}
