//! Compute time: the part of a request's latency that is billed. Arithmetic only; `now` is read
//! from a monotonic clock.
//!
//! It counts from the call of the inner service until the service has ended its response body. The
//! client's speed does not matter, because the body is read ahead of the client. Only while the
//! queue between them is full, the service is **held back**, and its work cannot be seen then: a
//! task that sends through a channel may compute one more frame, or may have finished long ago.
//! Time held back is not billed, except for the share that [`Pace`](super::Pace) estimates.
//!
//! A service that knows its own compute time takes precedence: it can run a stopwatch, or report a
//! total.

use std::time::Duration;

use super::moment::{Moment, NEVER, moment, nanos};

/// The longest compute time that a service can report: a month.
const MAX_REPORTED: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// A request's compute time as it grows. Every request moves it, so it is small: moments are whole
/// nanoseconds, and the service's own measurement is in a box.
#[derive(Debug)]
pub(crate) struct Compute {
    began: Moment,
    ended: Moment,
    /// Start of the time in which the service is held back now.
    held_back: Moment,
    /// Time in which it was held back before, less the estimate of its work in that time.
    unbilled: u64,
    own: Option<Box<OwnMeasurement>>,
}

/// The service's own measurement of its compute time.
#[derive(Clone, Copy, Debug, Default)]
struct OwnMeasurement {
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
        Self { began: NEVER, ended: NEVER, held_back: NEVER, unbilled: 0, own: None }
    }
}

impl Compute {
    /// The inner service is called.
    pub(crate) fn begin(&mut self, now: Duration) {
        if !self.has_begun() {
            self.began = moment(now);
        }
    }

    /// `true` if compute time stands still: the service is held back, and does not measure itself.
    pub(crate) fn is_frozen(&self) -> bool {
        self.held_back != NEVER && self.own.is_none()
    }

    /// `true` if the service computes, as far as that can be seen.
    pub(crate) fn is_running(&self) -> bool {
        let stopwatch = self.own.as_ref().and_then(|own| own.stopwatch);
        self.has_begun()
            && !self.has_ended()
            && stopwatch.map_or(self.held_back == NEVER, |stopwatch| stopwatch.since.is_some())
    }

    pub(crate) const fn has_begun(&self) -> bool {
        self.began != NEVER
    }

    /// `true` if the service measures itself.
    pub(crate) const fn is_reported(&self) -> bool {
        self.own.is_some()
    }

    pub(crate) const fn has_ended(&self) -> bool {
        self.ended != NEVER
    }

    /// Holds the service back: from now on its work cannot be seen.
    pub(crate) fn hold_back(&mut self, now: Duration) {
        if !self.has_ended() && self.held_back == NEVER {
            self.held_back = moment(now);
        }
    }

    /// Lets the service go on. Returns how long it was held back.
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

    /// Bills this much of the time in which it was held back.
    pub(crate) fn bill_held_back(&mut self, computed: Duration) {
        if !self.has_ended() {
            self.unbilled = self.unbilled.saturating_sub(nanos(computed));
        }
    }

    /// Ends compute time: nothing after this is billed.
    pub(crate) fn end(&mut self, now: Duration) {
        if !self.has_ended() {
            self.pause(now);
            self.ended = moment(now);
        }
    }

    /// Starts the service's own stopwatch, which counts in place of our measurement from now on.
    pub(crate) fn start(&mut self, now: Duration) {
        if !self.has_ended() {
            self.own
                .get_or_insert_default()
                .stopwatch
                .get_or_insert_default()
                .since
                .get_or_insert(now);
        }
    }

    /// Stops the service's own stopwatch.
    pub(crate) fn pause(&mut self, now: Duration) {
        if let Some(stopwatch) = self.own.as_mut().and_then(|own| own.stopwatch.as_mut())
            && let Some(since) = stopwatch.since.take()
        {
            stopwatch.total = stopwatch.total.saturating_add(now.saturating_sub(since));
        }
    }

    /// Sets the total that the service reports. Returns `false` if that is more than a month, and
    /// ignores it then.
    pub(crate) fn report(&mut self, total: Duration) -> bool {
        let is_plausible = total <= MAX_REPORTED;
        if is_plausible && !self.has_ended() {
            self.own.get_or_insert_default().reported = Some(total);
        }
        is_plausible
    }

    /// Returns the compute time so far.
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
        self.own.as_ref().map_or_else(measured, |own| match (own.reported, own.stopwatch) {
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
    fn compute_time_stands_still_while_the_service_is_held_back() {
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
    fn it_runs_between_its_begin_and_its_end_while_its_work_is_seen_or_measured() {
        let mut compute = Compute::default();
        let state = |compute: &Compute| (compute.is_running(), compute.is_frozen());
        assert_eq!(state(&compute), (false, false));
        compute.begin(s(100));
        assert_eq!(state(&compute), (true, false));
        compute.hold_back(s(101));
        assert_eq!(state(&compute), (false, true));
        compute.start(s(102));
        assert_eq!(state(&compute), (true, false), "it measures itself");
        compute.pause(s(103));
        assert_eq!(state(&compute), (false, false));
        compute.start(s(104));
        compute.resume(s(105));
        compute.end(s(106));
        assert_eq!(state(&compute), (false, false));
        let mut unmeasured = begun();
        unmeasured.hold_back(s(101));
        unmeasured.resume(s(102));
        assert_eq!(state(&unmeasured), (true, false));
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
    fn a_report_takes_precedence_and_one_beyond_a_month_is_ignored() {
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
