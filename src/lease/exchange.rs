//! The renewals of a lease: their numbers, the one in flight, retries after failures.

use std::time::Duration;

use super::rules::{LEDGER_CLOCK_UNIT, LeaseRules, MAX_RENEWAL_DELAY};
use crate::{Credits, compact_time::CompactTime};

/// Renewals in a row without an answer, after which no request waits for the next.
const FAILING_AFTER: u32 = 3;

/// The messages between a lease and the ledger.
///
/// * At most one renewal is in flight. Its number, `seq`, is larger than any before under this name
///   of the lease; only the answer to this number counts.
/// * (7) A renewal that was given up, or a copy of one that was answered, may still act until
///   [`acts_until`](Self::acts_until).
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Exchange {
    seq: u64,
    /// In a box: most leases wait for no answer.
    in_flight: Option<Box<Flight>>,
    /// The earliest next try: later than now after a failure.
    retry_at: CompactTime,
    /// Failures in a row.
    failures: u32,
    acts_until: CompactTime,
}

/// A renewal in flight, with what its answer is read with.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Flight {
    pub(super) sent_at: CompactTime,
    /// The number of the batch that it carries.
    pub(super) batch: u64,
    /// The lease's running total with this batch.
    pub(super) settled: Credits,
    /// `true` if it says goodbye.
    pub(super) is_goodbye: bool,
    /// `true` if it was sent while its node closes its leases.
    pub(super) is_of_closing: bool,
    /// `true` if the process was suspended since it was sent: no request is admitted on its answer.
    pub(super) overslept: bool,
}

impl Exchange {
    pub(super) fn new() -> Self {
        Self {
            seq: 0,
            in_flight: None,
            retry_at: CompactTime::ZERO,
            failures: 0,
            acts_until: CompactTime::ZERO,
        }
    }

    /// Goes on from another process's renewal of this number.
    #[cfg(any(test, feature = "journal"))]
    pub(super) fn continued(seq: u64) -> Self {
        Self { seq, ..Self::new() }
    }

    /// Returns the number of the last renewal.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Returns `true` if a renewal was sent under this name of the lease: the ledger may know it.
    pub(super) fn has_spoken(&self) -> bool {
        self.seq > 0
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    pub(super) fn retry_at(&self) -> Duration {
        self.retry_at.get()
    }

    /// (7) Returns until when a renewal that was sent may still act.
    pub(super) fn acts_until(&self) -> Duration {
        self.acts_until.get()
    }

    /// Returns `true` if the last renewal failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Returns `true` if the ledger has not answered for a while: no request need wait to learn
    /// that.
    pub(super) fn is_failing(&self) -> bool {
        self.failures >= FAILING_AFTER
    }

    /// Notes that a renewal is sent, and returns its number.
    pub(super) fn send(&mut self, flight: Flight) -> u64 {
        self.seq += 1;
        self.in_flight = Some(Box::new(flight));
        self.seq
    }

    /// Returns the renewal of this number if it is in flight. It is no longer. An answer to an
    /// older renewal says nothing.
    pub(super) fn land(&mut self, seq: u64) -> Option<Flight> {
        self.in_flight.take_if(|_| seq == self.seq).map(|flight| *flight)
    }

    /// (7) Notes that a renewal has landed of which copies may still arrive, sent as late as now
    /// perhaps.
    pub(super) fn may_act_again(&mut self, rules: &LeaseRules, now: Duration) {
        self.acts_until = (now + rules.deadline + MAX_RENEWAL_DELAY + LEDGER_CLOCK_UNIT).into();
    }

    /// Notes an answer that counts.
    pub(super) fn succeeded(&mut self) {
        self.forget_failures();
    }

    /// Notes a failure. The next try comes after a pause that doubles, up to a second.
    pub(super) fn failed(&mut self, rules: &LeaseRules, now: Duration) {
        let pause = rules.retry_delay() / 4 * 2_u32.saturating_pow(self.failures.min(8));
        let longest = Duration::from_secs(1).min(rules.ttl / 60);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = (now + pause.min(longest)).into();
    }

    /// Forgets earlier failures: the next renewal is sent without a pause.
    pub(super) fn forget_failures(&mut self) {
        self.failures = 0;
        self.retry_at = CompactTime::ZERO;
    }

    /// Notes that the process was suspended until `woke_at`.
    pub(super) fn mark_suspended(&mut self, woke_at: Duration) {
        if let Some(flight) = &mut self.in_flight
            && flight.sent_at.get() < woke_at
        {
            flight.overslept = true;
        }
    }

    /// (8) Begins anew, under a new name of the lease.
    pub(super) fn rename(&mut self) {
        self.seq = 0;
        self.in_flight = None;
        self.retry_at = CompactTime::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(sent_at: Duration) -> Flight {
        Flight {
            sent_at: sent_at.into(),
            batch: 1,
            settled: Credits::ZERO,
            is_goodbye: false,
            is_of_closing: false,
            overslept: false,
        }
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn only_the_newest_renewal_lands_and_only_once() {
        let mut exchange = Exchange::new();
        assert_eq!(exchange.send(flight(s(1))), 1);
        assert!(exchange.land(1).is_some());
        assert_eq!(exchange.send(flight(s(2))), 2);
        assert!(exchange.land(1).is_none() && exchange.is_in_flight());
        assert!(exchange.land(2).is_some_and(|flight| flight.sent_at.get() == s(2)));
        assert!(exchange.land(2).is_none() && !exchange.is_in_flight());
    }

    #[test]
    fn pauses_double_and_an_answer_ends_them() {
        let (mut exchange, rules) = (Exchange::new(), LeaseRules::default());
        for (failures, pause) in [(1, 25), (2, 50), (3, 100), (4, 200)] {
            assert!(!exchange.is_failing() || failures > 3);
            exchange.failed(&rules, s(1));
            assert_eq!(exchange.retry_at() - s(1), Duration::from_millis(pause));
        }
        assert!(exchange.is_failing());
        exchange.succeeded();
        assert!(!exchange.has_failed() && exchange.retry_at().is_zero());
    }

    #[test]
    fn a_pause_is_at_most_a_second_and_a_sixtieth_of_the_ttl() {
        for (ttl, longest) in [(600, 1_000), (60, 1_000), (6, 100)] {
            let rules = LeaseRules { ttl: s(ttl), ..LeaseRules::default() };
            let mut exchange = Exchange::new();
            for _ in 0..20 {
                exchange.failed(&rules, s(1));
            }
            assert_eq!(exchange.retry_at() - s(1), Duration::from_millis(longest), "{ttl} s");
        }
    }

    #[test]
    fn under_a_new_name_nothing_was_sent_yet() {
        let (mut exchange, rules) = (Exchange::new(), LeaseRules::default());
        exchange.send(flight(s(1)));
        exchange.failed(&rules, s(1));
        assert_eq!(exchange.send(flight(s(2))), 2);
        assert!(exchange.seq() == 2 && exchange.has_spoken() && exchange.has_failed());
        exchange.rename();
        assert!(exchange.seq() == 0 && !exchange.has_spoken());
        assert!(!exchange.is_in_flight() && exchange.retry_at().is_zero());
        assert_eq!(exchange.send(flight(s(3))), 1);
    }

    #[test]
    fn only_what_was_sent_before_the_suspension_is_distrusted() {
        for (sent_at, overslept) in [(1, true), (2, false)] {
            let mut exchange = Exchange::new();
            exchange.send(flight(s(sent_at)));
            exchange.mark_suspended(s(2));
            assert_eq!(exchange.land(1).map(|flight| flight.overslept), Some(overslept));
        }
    }
}
