//! The clock of hardware that runs several requests at a time.
//!
//! An engine that batches works for all of its requests at once, and the wall time of each would
//! bill a second of the hardware once for every request in the batch. So requests that run at the
//! same time share its second: the clock is virtual, and advances by `dt / n` while `n` requests
//! run. A request costs the virtual time that passes while it runs, and all of them together cost
//! the time in which the hardware was busy.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dashmap::DashMap;

use super::moment::{Moment, moment};
use crate::Name;

/// The most hardware that has a clock. A plan has far less.
const MAX_CLOCKS: usize = 4_096;

/// The clock of one hardware of this node.
#[derive(Debug, Default)]
pub(crate) struct SharedClock(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: u64,
    /// The real moment up to which it has advanced.
    at: Moment,
    /// Virtual nanoseconds.
    time: u64,
    /// Real nanoseconds that were not divided yet.
    rest: u64,
}

/// A request that is counted among those that run on the hardware.
#[derive(Debug)]
pub(super) struct Counted(Arc<SharedClock>);

/// The time of one request on shared hardware.
#[derive(Debug)]
pub(super) struct SharedTime {
    clock: Arc<SharedClock>,
    counted: Option<Counted>,
    /// The real moment from which it is held back.
    held_back: Option<Duration>,
}

/// The clocks of all hardware that is shared.
#[derive(Debug, Default)]
pub(crate) struct SharedClocks(DashMap<Name, Arc<SharedClock>>);

impl SharedClocks {
    pub(super) fn of(&self, hardware: &Name) -> Arc<SharedClock> {
        if let Some(known) = self.0.get(hardware) {
            return Arc::clone(&known);
        }
        if self.0.len() >= MAX_CLOCKS {
            return Arc::default();
        }
        Arc::clone(&self.0.entry(hardware.clone()).or_default())
    }
}

impl SharedClock {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the virtual time at a real moment.
    fn at(&self, now: Duration) -> Duration {
        Duration::from_nanos(self.lock().advanced(moment(now)).0)
    }

    fn running(&self) -> u64 {
        self.lock().running
    }
}

impl State {
    /// Returns the virtual time at a real moment, and the rest. A moment before the last one counts
    /// as that one.
    fn advanced(&self, now: Moment) -> (u64, u64) {
        let passed = now.saturating_sub(self.at);
        match self.rest.saturating_add(passed) {
            sum if self.running > 0 => {
                (self.time.saturating_add(sum / self.running), sum % self.running)
            }
            _ => (self.time, self.rest),
        }
    }

    fn advance(&mut self, now: Moment) {
        (self.time, self.rest) = self.advanced(now);
        self.at = self.at.max(now);
    }
}

impl Drop for Counted {
    /// Without a moment: whoever knows it advances the clock first.
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running = state.running.saturating_sub(1);
    }
}

impl SharedTime {
    pub(super) fn new(clock: &Arc<SharedClock>) -> Self {
        Self { clock: Arc::clone(clock), counted: None, held_back: None }
    }

    /// Returns the virtual time at a real moment.
    pub(super) fn at(&self, now: Duration) -> Duration {
        self.clock.at(now)
    }

    /// Changes the request at a moment of virtual time, and counts it from then on among those that
    /// run, or no longer. `change` says if it runs.
    pub(super) fn change<T>(
        &mut self,
        now: Duration,
        change: impl FnOnce(Duration) -> (T, bool),
    ) -> T {
        let mut state = self.clock.lock();
        state.advance(moment(now));
        let (changed, is_running) = change(Duration::from_nanos(state.time));
        match (is_running, &self.counted) {
            (true, None) => {
                state.running += 1;
                self.counted = Some(Counted(Arc::clone(&self.clock)));
            }
            (false, Some(_)) => {
                drop(state);
                self.counted = None;
            }
            _ => {}
        }
        changed
    }

    /// Notes that the service is held back.
    pub(super) fn hold_back(&mut self, now: Duration) {
        self.held_back.get_or_insert(now);
    }

    /// Returns the real time for which the service was held back.
    pub(super) fn resume(&mut self, now: Duration) -> Duration {
        self.held_back.take().map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Returns the request's share of a time in which its service computed unseen.
    pub(super) fn share_of(&self, computed: Duration) -> Duration {
        computed / u32::try_from(self.clock.running().max(1)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn requests_that_run_together_share_the_time() {
        let clock = Arc::new(SharedClock::default());
        let mut one = SharedTime::new(&clock);
        let mut two = SharedTime::new(&clock);
        let set = |request: &mut SharedTime, is_running: bool, at: Duration| {
            request.change(at, |_| ((), is_running));
        };
        assert_eq!(one.at(s(5)), s(0), "nobody runs");
        set(&mut one, true, s(10));
        assert_eq!(one.at(s(12)), s(2));
        set(&mut two, true, s(12));
        assert_eq!((one.at(s(16)), two.at(s(16))), (s(4), s(4)));
        set(&mut one, false, s(16));
        set(&mut one, false, s(17));
        assert_eq!(two.at(s(18)), s(6));
        drop(two);
        assert_eq!(one.at(s(30)), s(5), "what was dropped without a moment ended at the last one");
    }

    proptest! {
        /// However requests begin, pause and end, what they cost adds up to the busy time.
        #[test]
        fn all_shares_add_up_to_the_time_in_which_anybody_ran(
            steps in proptest::collection::vec((0usize..16, 0u64..5_000_000_000), 1..200)
        ) {
            let clock = Arc::new(SharedClock::default());
            let mut requests: Vec<_> = (0..16).map(|_| (SharedTime::new(&clock), None)).collect();
            let (mut now, mut busy, mut billed) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
            let mut ends = 0u32;
            for (which, nanos) in steps {
                let passed = Duration::from_nanos(nanos);
                if requests.iter().any(|(_, since)| since.is_some()) {
                    busy += passed;
                }
                now += passed;
                let (request, since) = &mut requests[which];
                match since.take() {
                    None => {
                        *since = Some(request.change(now, |time| (time, true)));
                    }
                    Some(since) => {
                        billed += request.change(now, |time| (time, false)) - since;
                        ends += 1;
                    }
                }
            }
            for (request, since) in &mut requests {
                if let Some(since) = since.take() {
                    billed += request.change(now, |time| (time, false)) - since;
                    ends += 1;
                }
            }
            // Whole nanoseconds are billed.
            let off = busy.max(billed) - busy.min(billed);
            prop_assert!(off <= Duration::from_nanos(16 * u64::from(ends)), "{busy:?} {billed:?}");
        }
    }
}
