//! The pace of a service: how long it computes for a frame, as far as that can be seen.
//!
//! While a service is held back by a full queue, its work cannot be seen. [`Pace`] estimates it:
//! each frame that is ready right after such a time is billed the time that a frame cost while the
//! service was not held back, and all of them together never more than the time that passed. So no
//! way of reading makes compute time free, and frames that were made before cost nothing to fetch
//! slowly.

use std::time::Duration;

use super::moment::{Moment, NEVER, moment, nanos};

/// The number of frames that must be waited for until the pace is known.
const MIN_WAITED_FRAMES: u32 = 3;

/// The number of batches over which the mean is taken; older ones count less and less.
const AVERAGED_BATCHES: f64 = 32.0;

/// A wait that is this many times shorter than the mean is no computation: a task that sends
/// through a channel took its turn.
const TURN_RATIO: f64 = 8.0;

/// The pace at which a service produces frames, seen while it was not held back: how long it
/// computes for a batch, and how many frames a batch has. Most services produce one frame at a
/// time; some compute for several at once. Frames that come together with the first one were made
/// before it, and say nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Decaying sums over the batches that were seen whole: nanoseconds, frames, and their number.
    time: f64,
    frames: f64,
    batches: f64,
    /// The batch that was waited for last: its nanoseconds and its frames so far. `None` if its
    /// rest cannot be seen any more.
    batch: Option<(u64, f64)>,
    /// Number of frames of the latest batch that have come, seen or not.
    position: f64,
    /// Number of frames that were waited for.
    waited: u32,
    /// Start of the next wait: the frame before it, or the moment from which it was waited for
    /// again.
    since: Moment,
    has_begun: bool,
    is_waiting: bool,
    /// Time for which the service was held back since it was last seen to compute, less the part
    /// that is billed.
    unseen: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            time: 0.0,
            frames: 0.0,
            batches: 0.0,
            batch: None,
            position: 0.0,
            waited: 0,
            since: NEVER,
            has_begun: false,
            is_waiting: false,
            unseen: 0,
        }
    }
}

impl Pace {
    /// `true` if enough frames were waited for to know the pace.
    pub(crate) const fn is_known(&self) -> bool {
        self.waited >= MIN_WAITED_FRAMES
    }

    /// Notes that no frame is ready.
    pub(crate) fn waits(&mut self, now: impl FnOnce() -> Duration) {
        self.is_waiting = self.has_begun;
        if self.since == NEVER && self.has_begun {
            self.since = moment(now());
        }
    }

    /// Notes that a frame is ready. Returns the part of the time held back that is billed for it.
    pub(crate) fn frame(&mut self, now: Duration) -> Duration {
        let now = moment(now);
        let since = std::mem::replace(&mut self.since, now);
        self.has_begun = true;
        let gap = if since == NEVER { 0 } else { now.saturating_sub(since) };
        if std::mem::take(&mut self.is_waiting) && gap as f64 * TURN_RATIO >= self.mean_time() {
            self.was_waited_for(gap);
            return Duration::ZERO;
        }
        self.position += 1.0;
        if self.unseen > 0 {
            return Duration::from_nanos(self.charge_unseen());
        }
        if let Some((time, frames)) = &mut self.batch {
            (*time, *frames) = (time.saturating_add(gap), *frames + 1.0);
        }
        Duration::ZERO
    }

    /// Notes that the service was held back for this long.
    pub(crate) fn held_back(&mut self, time: Duration) {
        // A batch that was cut short counts only if it is as long as the others, or the only one.
        if let Some((took, frames)) = self.batch.take()
            && frames * self.batches >= self.frames
        {
            self.count(took, frames);
        }
        self.since = NEVER;
        self.unseen = self.unseen.saturating_add(nanos(time));
    }

    /// Notes that the service was seen to compute. All that it made before has been taken.
    fn was_waited_for(&mut self, time: u64) {
        self.waited = self.waited.saturating_add(1);
        if let Some((took, frames)) = self.batch.take() {
            self.count(took, frames);
        }
        if time as f64 > self.mean_time() * TURN_RATIO {
            // The waits before were turns of tasks, not computation.
            (self.time, self.frames, self.batches) = (0.0, 0.0, 0.0);
        }
        (self.batch, self.position, self.unseen) = (Some((time, 1.0)), 1.0, 0);
    }

    /// Bills a frame that was ready after a time held back, if it is the first of a batch that was
    /// computed in that time; frames of the batch before are paid.
    fn charge_unseen(&mut self) -> u64 {
        if self.batches == 0.0 || self.position * self.batches <= self.frames {
            return 0;
        }
        self.position -= self.frames / self.batches;
        let cost = (self.mean_time() as u64).min(self.unseen);
        self.unseen -= cost;
        cost
    }

    fn count(&mut self, time: u64, frames: f64) {
        if self.batches >= AVERAGED_BATCHES {
            let decay = (AVERAGED_BATCHES - 1.0) / AVERAGED_BATCHES;
            (self.time, self.frames, self.batches) =
                (self.time * decay, self.frames * decay, self.batches * decay);
        }
        (self.time, self.frames, self.batches) =
            (self.time + time as f64, self.frames + frames, self.batches + 1.0);
    }

    /// Mean nanoseconds of a batch; 0 if unknown.
    fn mean_time(&self) -> f64 {
        if self.batches == 0.0 { 0.0 } else { self.time / self.batches }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn frames_after_a_time_held_back_cost_the_mean_and_together_at_most_that_time() {
        let mut pace = Pace::default();
        assert_eq!(pace.frame(s(10)), s(0), "the first frame has no gap");
        for at in [12, 16] {
            pace.waits(|| s(at - 1));
            assert_eq!(pace.frame(s(at)), s(0), "it is billed as it passes");
        }
        assert!(!pace.is_known(), "two gaps were waited for");
        // 2 s and 4 s; then nobody takes anything for 7 s.
        pace.held_back(s(7));
        let found: Vec<_> = (0..4).map(|_| pace.frame(s(23)).as_secs()).collect();
        assert_eq!(found, [3, 3, 1, 0]);
        pace.held_back(s(7));
        pace.waits(|| s(30));
        assert_eq!(pace.frame(s(31)), s(0), "nothing was ready: it was not computed meanwhile");
    }

    #[test]
    fn a_batch_is_paid_for_once() {
        let mut pace = Pace::default();
        pace.frame(s(0));
        for batch in 1..10 {
            pace.waits(|| s(10 * batch));
            assert!((0..4).all(|_| pace.frame(s(10 * batch)).is_zero()));
        }
        // Two of four come before nobody takes anything.
        pace.waits(|| s(100));
        assert!((0..2).all(|_| pace.frame(s(100)).is_zero()));
        pace.held_back(s(60));
        let found: Vec<_> = (0..10).map(|_| pace.frame(s(160)).as_secs()).collect();
        assert_eq!(found, [0, 0, 10, 0, 0, 0, 10, 0, 0, 0]);
        // A turn of the task that fills the channel is no computation.
        pace.waits(|| s(160));
        assert_eq!(pace.frame(s(160)), s(10));
    }

    #[test]
    fn what_comes_at_once_with_the_first_frame_is_no_gap_and_the_latest_gaps_count_most() {
        let mut pace = Pace::default();
        (0..8).for_each(|_| assert!(pace.frame(s(10)).is_zero()));
        for at in 11..14 {
            assert!(!pace.is_known());
            pace.waits(|| s(10));
            pace.frame(s(at));
        }
        assert!(pace.is_known());
        pace.held_back(s(100));
        assert_eq!(pace.frame(s(113)), s(1), "a second, and not three elevenths of one");
        pace.waits(|| s(113));
        for at in 0..200 {
            pace.waits(|| s(113));
            pace.frame(s(115 + 2 * at));
        }
        pace.held_back(s(100));
        let mean = pace.frame(s(1_000));
        assert!(mean > Duration::from_millis(1_990) && mean <= s(2), "{mean:?}");
    }

    #[test]
    fn what_was_made_before_costs_nothing_to_fetch_slowly() {
        let mut pace = Pace::default();
        assert!((0..10).all(|_| pace.frame(s(10)).is_zero()));
        pace.held_back(s(100));
        assert!((0..10).all(|_| pace.frame(s(110)).is_zero()));
    }
}
