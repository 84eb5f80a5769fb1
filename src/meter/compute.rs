//! Compute time: what of a request's latency is billed. Arithmetic only; `now` is a monotonic clock's.
//!
//! From the moment the inner service is called until the response body ends or is dropped, less the client's stalls. A stall is the gap between
//! handing something over and the next poll, when that poll finds the next frame ready: then the service was waiting for its reader. A gap that
//! ends in waiting was computation. At most [`MOST_STALLS`] of stalls count, so that a slow reader cannot keep hardware for nothing.
//!
//! A service that knows better says so: a stopwatch that it starts and pauses, or a time that it reports, take precedence.

use std::time::Duration;

/// The most time of a request that is not billed because its client stalled.
pub(crate) const MOST_STALLS: Duration = Duration::from_secs(30);

/// The longest compute time that a service is believed: a month's.
pub(crate) const MOST_REPORTED: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// A request's compute time as it grows. It is moved about with every request, so it is small: moments are whole nanoseconds, and what the service
/// says itself is kept elsewhere.
#[derive(Debug)]
pub(crate) struct Compute {
    began: Moment,
    ended: Moment,
    stalls: u64,
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
        Self { began: NEVER, ended: NEVER, stalls: 0, said: None }
    }
}

impl Compute {
    /// The inner service is called.
    pub(crate) fn begin(&mut self, now: Duration) {
        if !self.has_begun() {
            self.began = moment(now);
        }
    }

    pub(crate) const fn has_begun(&self) -> bool {
        self.began != NEVER
    }

    /// Whether the service said something itself.
    pub(crate) const fn is_told(&self) -> bool {
        self.said.is_some()
    }

    const fn has_ended(&self) -> bool {
        self.ended != NEVER
    }

    /// The reader was away for so long while the next frame was ready.
    pub(crate) fn stalled(&mut self, stall: Duration) {
        if !self.has_ended() {
            self.stalls = self.stalls.saturating_add(nanos(stall)).min(nanos(MOST_STALLS));
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
            self.said.get_or_insert_default().stopwatch.get_or_insert_default().since.get_or_insert(now);
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

    /// Compute time so far; a gap that has not ended yet counts.
    pub(crate) fn so_far(&self, now: Duration) -> Duration {
        if !self.has_begun() {
            return Duration::ZERO;
        }
        let now = if self.has_ended() { self.ended } else { moment(now) };
        let measured = || Duration::from_nanos(now.saturating_sub(self.began).saturating_sub(self.stalls));
        self.said.as_ref().map_or_else(measured, |said| match (said.reported, said.stopwatch) {
            (Some(reported), _) => reported,
            (None, Some(Stopwatch { total, since })) => {
                total.saturating_add(since.map_or(Duration::ZERO, |since| Duration::from_nanos(now).saturating_sub(since)))
            }
            (None, None) => measured(),
        })
    }
}

/// The gaps between handing something over and the reader's return.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gaps {
    handed_over: Moment,
    stall: u64,
}

impl Default for Gaps {
    fn default() -> Self {
        Self { handed_over: NEVER, stall: 0 }
    }
}

impl Gaps {
    /// The response's head or a frame of its body is handed over to whoever reads it.
    pub(crate) fn hand_over(&mut self, now: Duration) {
        self.handed_over = moment(now);
    }

    /// The reader came back at `now`, and found the next frame ready, or has to wait for it.
    pub(crate) fn polled(&mut self, ready: bool, now: Duration) {
        let since = std::mem::replace(&mut self.handed_over, NEVER);
        if ready && since != NEVER {
            self.stall = self.stall.saturating_add(moment(now).saturating_sub(since));
        }
    }

    /// What of them were stalls, since this was asked last.
    pub(crate) fn take_stall(&mut self) -> Duration {
        Duration::from_nanos(std::mem::take(&mut self.stall))
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
    fn a_gap_that_finds_the_next_frame_ready_was_the_clients() {
        let (mut compute, mut gaps) = (begun(), Gaps::default());
        gaps.hand_over(s(101));
        assert_eq!((compute.so_far(s(105)), gaps.take_stall()), (s(5), s(0)), "an open gap counts until it is known whose it is");
        gaps.polled(true, s(106));
        compute.stalled(gaps.take_stall());
        assert_eq!(compute.so_far(s(106)), s(1));
        gaps.hand_over(s(106));
        gaps.polled(false, s(109));
        gaps.polled(true, s(110));
        compute.stalled(gaps.take_stall());
        assert_eq!(compute.so_far(s(110)), s(5), "a gap that ends in waiting was computation");
    }

    #[test]
    fn stalls_are_forgiven_up_to_a_bound() {
        let (mut compute, mut gaps) = (begun(), Gaps::default());
        for round in 0..4 {
            gaps.hand_over(s(100 + 20 * round));
            gaps.polled(true, s(120 + 20 * round));
            compute.stalled(gaps.take_stall());
        }
        assert_eq!(compute.so_far(s(180)), s(80) - MOST_STALLS);
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
        let (mut compute, mut gaps) = (begun(), Gaps::default());
        gaps.hand_over(s(110));
        gaps.polled(true, s(90));
        compute.stalled(gaps.take_stall());
        assert_eq!(compute.so_far(s(90)), s(0));
        assert_eq!(compute.so_far(s(105)), s(5));
    }
}
