//! The times of the lease protocol.

use std::time::Duration;

use super::hold_ahead::HoldAhead;

/// (7) How long after its deadline a renewal may still act, by the ledger's clock, at most.
pub(crate) const MAX_RENEWAL_DELAY: Duration = Duration::from_millis(100);

/// (7) The unit of the ledger's clock: what may act until a millisecond may act in all of it.
pub(crate) const LEDGER_CLOCK_UNIT: Duration = Duration::from_millis(1);

/// The most by which a report that may wait is early, to be sent with others. It is short, so that
/// what a node sends at once is little: a request that waits for the ledger comes behind it.
const MAX_EARLY: Duration = Duration::from_millis(10);

/// The same as a part of `report_within`, as a divisor.
const EARLY_DIVISOR: u32 = 64;

/// The times of the lease protocol. The defaults fit a ledger in the same data centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRules {
    /// Time that a call to the ledger may take, and that a request waits for its admission,
    /// counted from its arrival. Default 250 ms.
    pub(crate) deadline: Duration,
    /// Time for which spending may stay unreported where that matters to others: little is left, a
    /// threshold is near, or permits are counted. Default 100 ms, or `report_within` if that is
    /// shorter.
    pub(crate) report_soon: Duration,
    /// Time for which spending may stay unreported otherwise. Default 1 s.
    pub(crate) report_within: Duration,
    /// The most by which a report that may wait is early, to be sent with others. Default 10 ms, or
    /// a sixty-fourth of `report_within` if that is shorter.
    pub(crate) early: Duration,
    /// (3) How long after sending a renewal requests are admitted on its answer. Default 10 s, or
    /// twice `report_within` if that is longer.
    pub(crate) admit_for: Duration,
    /// Time for which the ledger keeps a hold without a renewal of the lease. Default 10 min.
    pub(crate) ttl: Duration,
    /// The surplus that leases hold beyond what running requests own. Default none.
    pub(crate) ahead: Option<HoldAhead>,
    /// `true` if the leases of a node that ends say goodbye once they are settled. Default `true`.
    pub(crate) farewell: bool,
}

impl Default for LeaseRules {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(250),
            report_soon: Duration::from_millis(100),
            report_within: Duration::from_secs(1),
            early: MAX_EARLY,
            admit_for: Duration::from_secs(10),
            ttl: Duration::from_secs(600),
            ahead: None,
            farewell: true,
        }
    }
}

impl LeaseRules {
    /// Sets how long spending may stay unreported, and `admit_for` with it: a lease must not cease
    /// to admit between two reports.
    pub(crate) fn set_report_within(&mut self, within: Duration) {
        let default = Self::default();
        self.report_within = within;
        self.report_soon = default.report_soon.min(within);
        self.early = MAX_EARLY.min(within / EARLY_DIVISOR);
        self.admit_for = default.admit_for.max(within.saturating_mul(2));
    }

    /// (6) Returns how long after its last use and its last news a lease speaks once more, to be
    /// quiet then until it says goodbye: a third of the `ttl`. This is longer than what a failover
    /// of the ledger can forget, also if a second follows closely: replicas lag by seconds, not by
    /// minutes.
    pub(crate) fn quiet_after(&self) -> Duration {
        self.ttl / 3
    }

    /// Returns how long work that is not urgent may wait for other work to come with it. It is
    /// short against the time that a slice lasts, which is at least four deadlines.
    pub(crate) fn batching_delay(&self) -> Duration {
        (self.report_soon / 20).min(self.deadline / 8)
    }

    /// Returns when to report what was spent since a moment, if that may wait for `report_within`:
    /// a little before that time is over, at one of the moments at which all leases of a node
    /// report. Calls that are sent together take fewer system calls of the node and of the ledger's
    /// server, and wake each of them once.
    pub(super) fn report_with_others(&self, since: Duration) -> Duration {
        let latest = since.saturating_add(self.report_within);
        match (u64::try_from(latest.as_nanos()), self.early.as_nanos().checked_ilog2()) {
            // To a power of two: this is done at the end of each request.
            (Ok(nanos), Some(interval)) => Duration::from_nanos(nanos >> interval << interval),
            _ => latest,
        }
    }

    /// Returns how long after a failure or a short grant the ledger is asked again.
    pub(crate) fn retry_delay(&self) -> Duration {
        self.report_soon
    }

    /// Returns the span over which the most that was held at once is remembered. A surplus shrinks
    /// to its least so long after the last use, too.
    pub(crate) fn burn_span(&self) -> Duration {
        self.admit_for / 4
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Reports that may wait are early by at most a sixty-fourth and 10 ms, never late, and at
        /// moments that leases share.
        #[test]
        fn reports_that_may_wait_are_sent_together(
            within in 0..=u64::from(u32::MAX) * 16,
            since in 0..=1_u64 << 60,
        ) {
            let (within, since) = (Duration::from_nanos(within), Duration::from_nanos(since));
            let mut rules = LeaseRules::default();
            rules.set_report_within(within);
            let at = rules.report_with_others(since);
            prop_assert!(at <= since + within);
            prop_assert!(at + (within / 64).min(Duration::from_millis(10)) >= since + within);
            // Of those that fall due in the time between two moments, all come at the first.
            prop_assert_eq!(rules.report_with_others(at.saturating_sub(within)), at);
        }
    }

    #[test]
    fn one_that_may_wait_for_ever_does() {
        let mut rules = LeaseRules::default();
        rules.set_report_within(Duration::MAX);
        assert_eq!(rules.report_with_others(Duration::from_secs(1)), Duration::MAX);
    }

    #[test]
    fn work_that_is_not_urgent_waits_a_short_time_for_other_work() {
        let ms = Duration::from_millis;
        for (within, deadline, delay) in
            [(1_000, 250, 5), (10_000, 250, 5), (20, 250, 1), (100, 8, 1)]
        {
            let (within, deadline) = (ms(within), ms(deadline));
            let mut rules = LeaseRules { deadline, ..LeaseRules::default() };
            rules.set_report_within(within);
            assert_eq!(rules.batching_delay(), ms(delay), "{within:?}, {deadline:?}");
        }
    }
}
