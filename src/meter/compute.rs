//! Compute time: what of a request's latency is billed. Arithmetic only; `now` is a monotonic
//! clock's.
//!
//! From the moment the inner service is called until it has ended its response body, whoever reads
//! that and however slowly: the body is [read ahead](super::read_ahead). Only while the queue is
//! full the service is **held back**, and what it does then cannot be seen: a task that sends
//! through a channel may compute one frame further, or have been done long ago. [`Pace`] estimates
//! it: each frame that is found ready after such a time costs what it cost the service to make one
//! while it was not held back, and all of them together no more than the time that passed. So
//! nobody can read in a way that makes computing free, and what was made before costs nothing to
//! fetch slowly.
//!
//! A service that knows better says so: a stopwatch that it starts and pauses, or a time that it
//! reports, take precedence.

use std::time::Duration;

/// The longest compute time that a service is believed: a month's.
pub(crate) const MOST_REPORTED: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// A request's compute time as it grows. It is moved about with every request, so it is small:
/// moments are whole nanoseconds, and what the service says itself is kept elsewhere.
#[derive(Debug)]
pub(crate) struct Compute {
    began: Moment,
    ended: Moment,
    /// Since when the service is held back.
    held_back: Moment,
    /// For how long it was held back before that, less what it is thought to have computed
    /// meanwhile.
    unbilled: u64,
    said: Option<Box<Said>>,
}

/// Nanoseconds of the monotonic clock; [`NEVER`] where it did not happen.
type Moment = u64;

const NEVER: Moment = u64::MAX;

fn moment(time: Duration) -> Moment {
    nanos(time).min(NEVER - 1)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What the service says itself.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    stopwatch: Option<Stopwatch>,
    reported: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stopwatch {
    total: Duration,
    since: Option<Duration>,
}

impl Default for Compute {
    fn default() -> Self {
        Self { began: NEVER, ended: NEVER, held_back: NEVER, unbilled: 0, said: None }
    }
}

impl Compute {
    /// The inner service is called.
    pub(crate) fn begin(&mut self, now: Duration) {
        if !self.has_begun() {
            self.began = moment(now);
        }
    }

    /// `true` if the service is held back, and says nothing of its time itself.
    pub(crate) fn stands(&self) -> bool {
        self.held_back != NEVER && self.said.is_none()
    }

    pub(crate) const fn has_begun(&self) -> bool {
        self.began != NEVER
    }

    /// `true` if the service said something itself.
    pub(crate) const fn is_told(&self) -> bool {
        self.said.is_some()
    }

    pub(crate) const fn has_ended(&self) -> bool {
        self.ended != NEVER
    }

    /// Nobody takes what the service has made: from now on it is not known what it does.
    pub(crate) fn hold_back(&mut self, now: Duration) {
        if !self.has_ended() && self.held_back == NEVER {
            self.held_back = moment(now);
        }
    }

    /// There is room again. Answers for how long it was held back.
    pub(crate) fn resume(&mut self, now: Duration) -> Duration {
        if self.has_ended() {
            return Duration::ZERO;
        }
        let since = std::mem::replace(&mut self.held_back, NEVER);
        if since == NEVER {
            return Duration::ZERO;
        }
        let held_back = moment(now).saturating_sub(since);
        self.unbilled = self.unbilled.saturating_add(held_back);
        Duration::from_nanos(held_back)
    }

    /// So much of the time in which it was held back was computation after all.
    pub(crate) fn bill_held_back(&mut self, computed: Duration) {
        if !self.has_ended() {
            self.unbilled = self.unbilled.saturating_sub(nanos(computed));
        }
    }

    /// Nothing that comes after this is billed.
    pub(crate) fn end(&mut self, now: Duration) {
        if !self.has_ended() {
            self.pause(now);
            self.ended = moment(now);
        }
    }

    /// From now on the service's own stopwatch counts, and it runs.
    pub(crate) fn start(&mut self, now: Duration) {
        if !self.has_ended() {
            self.said
                .get_or_insert_default()
                .stopwatch
                .get_or_insert_default()
                .since
                .get_or_insert(now);
        }
    }

    /// The service's own stopwatch stands.
    pub(crate) fn pause(&mut self, now: Duration) {
        if let Some(stopwatch) = self.said.as_mut().and_then(|said| said.stopwatch.as_mut())
            && let Some(since) = stopwatch.since.take()
        {
            stopwatch.total = stopwatch.total.saturating_add(now.saturating_sub(since));
        }
    }

    /// The service says what it was. Answers whether it is believed.
    pub(crate) fn report(&mut self, total: Duration) -> bool {
        let believed = total <= MOST_REPORTED;
        if believed && !self.has_ended() {
            self.said.get_or_insert_default().reported = Some(total);
        }
        believed
    }

    /// Compute time so far.
    pub(crate) fn so_far(&self, now: Duration) -> Duration {
        if !self.has_begun() {
            return Duration::ZERO;
        }
        let now = if self.has_ended() { self.ended } else { moment(now) };
        let measured = || {
            Duration::from_nanos(
                now.min(self.held_back).saturating_sub(self.began).saturating_sub(self.unbilled),
            )
        };
        self.said.as_ref().map_or_else(measured, |said| match (said.reported, said.stopwatch) {
            (Some(reported), _) => reported,
            (None, Some(Stopwatch { total, since })) => {
                total.saturating_add(since.map_or(Duration::ZERO, |since| {
                    Duration::from_nanos(now).saturating_sub(since)
                }))
            }
            (None, None) => measured(),
        })
    }
}

/// So many frames that were waited for say what the pace of a service is.
const ENOUGH: u32 = 3;

/// So many of the latest batches count.
const RECENT: f64 = 32.0;

/// A wait that is so many times shorter than those before is none: a task that sends through a
/// channel had its turn.
const SHORTER: f64 = 8.0;

/// The pace at which a service produces frames, from what it did while it was not held back, lately
/// above all: how long it computes, and how many frames it has then at once. Most have one; some
/// compute for several. What comes at once with the first frame was made before, and tells nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Sums over the batches that were seen whole, those before count less and less: nanoseconds,
    /// frames, and their number.
    time: f64,
    frames: f64,
    batches: f64,
    /// The batch that was last waited for: how long it took, and its frames so far. `None` if what
    /// follows it cannot be seen any more.
    batch: Option<(u64, f64)>,
    /// How many frames of the latest batch have come, seen or not.
    position: f64,
    /// How many frames were waited for.
    waited: u32,
    /// From when the next wait counts: the frame before it, or the moment when it was waited for
    /// again.
    since: Moment,
    has_begun: bool,
    is_waiting: bool,
    /// For how long the service was held back since it was last seen to compute, less what of that
    /// is billed.
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
    /// `true` if enough frames were waited for.
    pub(crate) const fn is_known(&self) -> bool {
        self.waited >= ENOUGH
    }

    /// Nothing is ready.
    pub(crate) fn waits(&mut self, now: impl FnOnce() -> Duration) {
        self.is_waiting = self.has_begun;
        if self.since == NEVER && self.has_begun {
            self.since = moment(now());
        }
    }

    /// A frame is ready. Answers how much of the time in which the service was held back it is
    /// thought to have taken.
    pub(crate) fn frame(&mut self, now: Duration) -> Duration {
        let now = moment(now);
        let since = std::mem::replace(&mut self.since, now);
        self.has_begun = true;
        let gap = if since == NEVER { 0 } else { now.saturating_sub(since) };
        if std::mem::take(&mut self.is_waiting) && gap as f64 * SHORTER >= self.mean_time() {
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

    /// The service was held back for so long.
    pub(crate) fn held_back(&mut self, time: Duration) {
        // A batch that was cut short says something only where it is as long as others, or the only
        // one.
        if let Some((took, frames)) = self.batch.take()
            && frames * self.batches >= self.frames
        {
            self.count(took, frames);
        }
        self.since = NEVER;
        self.unseen = self.unseen.saturating_add(nanos(time));
    }

    /// It was seen to compute, and what it made before has all been taken.
    fn was_waited_for(&mut self, time: u64) {
        self.waited = self.waited.saturating_add(1);
        if let Some((took, frames)) = self.batch.take() {
            self.count(took, frames);
        }
        if time as f64 > self.mean_time() * SHORTER {
            // Those were turns of tasks, and not computation.
            (self.time, self.frames, self.batches) = (0.0, 0.0, 0.0);
        }
        (self.batch, self.position, self.unseen) = (Some((time, 1.0)), 1.0, 0);
    }

    /// A frame that was ready after a time held back: one of the batch that was under way, or the
    /// first of one that was computed meanwhile.
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
        if self.batches >= RECENT {
            let kept = (RECENT - 1.0) / RECENT;
            (self.time, self.frames, self.batches) =
                (self.time * kept, self.frames * kept, self.batches * kept);
        }
        (self.time, self.frames, self.batches) =
            (self.time + time as f64, self.frames + frames, self.batches + 1.0);
    }

    /// How long a batch takes; 0 where that is not known.
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

    fn begun() -> Compute {
        let mut compute = Compute::default();
        compute.begin(s(100));
        compute
    }

    #[test]
    fn nothing_is_billed_before_the_service_is_called_or_after_the_end() {
        let mut compute = Compute::default();
        assert_eq!(compute.so_far(s(50)), s(0));
        compute.begin(s(100));
        assert_eq!(compute.so_far(s(107)), s(7));
        compute.end(s(110));
        compute.end(s(120));
        assert_eq!(compute.so_far(s(200)), s(10));
    }

    #[test]
    fn while_nobody_takes_what_is_made_the_clock_stands() {
        let mut compute = begun();
        compute.hold_back(s(103));
        compute.hold_back(s(104));
        assert_eq!(compute.so_far(s(150)), s(3));
        assert_eq!(compute.resume(s(150)), s(47));
        assert_eq!(compute.so_far(s(151)), s(4));
        compute.bill_held_back(s(2));
        assert_eq!(compute.so_far(s(151)), s(6));
        assert_eq!(compute.resume(s(151)), s(0), "it is not held back");
        compute.hold_back(s(152));
        compute.end(s(160));
        assert_eq!(compute.so_far(s(200)), s(7), "nor is the time before its end");
    }

    #[test]
    fn a_frame_found_ready_after_a_time_held_back_costs_what_others_did_and_all_no_more_than_that_time()
     {
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

    /// What came of a batch before the service was held back is paid for, and so is the rest of it.
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

    /// A prelude that comes at once is no pace.
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

    #[test]
    fn the_services_own_stopwatch_counts_once_it_was_started() {
        let mut compute = begun();
        compute.pause(s(101));
        assert_eq!(compute.so_far(s(103)), s(3), "a pause alone says nothing");
        compute.start(s(103));
        compute.start(s(104));
        assert_eq!(compute.so_far(s(105)), s(2));
        compute.pause(s(106));
        assert_eq!(compute.so_far(s(150)), s(3));
        compute.start(s(160));
        compute.end(s(161));
        compute.start(s(170));
        assert_eq!(compute.so_far(s(200)), s(4));
    }

    #[test]
    fn a_report_takes_precedence_and_an_absurd_one_is_not_believed() {
        let mut compute = begun();
        compute.start(s(100));
        assert!(!compute.report(Duration::MAX));
        assert_eq!(compute.so_far(s(105)), s(5));
        assert!(compute.report(s(2)));
        assert_eq!(compute.so_far(s(105)), s(2));
        compute.end(s(110));
        compute.report(s(9));
        assert_eq!(compute.so_far(s(110)), s(2));
    }

    #[test]
    fn a_clock_that_goes_back_bills_nothing_twice() {
        let mut compute = begun();
        compute.hold_back(s(110));
        assert_eq!(compute.resume(s(90)), s(0));
        assert_eq!(compute.so_far(s(90)), s(0));
        assert_eq!(compute.so_far(s(105)), s(5));
    }
}
