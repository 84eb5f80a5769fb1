//! The credits that a lease may spend.

use std::time::Duration;

use super::{rules::LeaseRules, run::SliceRequest};
use crate::{Credits, compact_time::CompactTime};

/// The credits that the ledger has on hold for a lease, as far as the node may use them.
///
/// Always `spent + slices <= budget`, except for debt: usage of `finish` requests beyond their
/// slices, and slices that are [granted without the ledger](Self::grant_unbacked) while it does not
/// answer.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Hold {
    /// The credits that may be spent and sliced in all under this name of the lease.
    budget: Credits,
    /// (3) Requests are admitted until then.
    admit_until: CompactTime,
    /// The credits that were granted without the ledger, in all: bounded by an allowance.
    unbacked: Credits,
}

impl Hold {
    pub(super) fn new() -> Self {
        Self { budget: Credits::ZERO, admit_until: CompactTime::ZERO, unbacked: Credits::ZERO }
    }

    /// Returns the credits that can still be sliced.
    pub(super) fn spare(&self, spent: Credits, slices: Credits) -> Credits {
        self.budget.saturating_sub(spent).saturating_sub(slices)
    }

    /// (1) Gives up what is beyond `budget`. Only the answer to the renewal that says so raises it
    /// again.
    pub(super) fn lower_to(&mut self, budget: Credits) {
        self.budget = self.budget.min(budget);
    }

    /// Takes what the ledger has on hold. (3) Requests are admitted until `admit_until`, long
    /// before the ledger releases it.
    pub(super) fn renew(&mut self, budget: Credits, admit_until: Duration) {
        (self.budget, self.admit_until) = (budget, admit_until.into());
    }

    /// (8) Under a new name of the lease nothing is on hold yet: there is nothing beyond what is
    /// spent.
    pub(super) fn rename(&mut self, spent: Credits) {
        self.budget = spent;
    }

    /// Admits no request on what was granted before the process was suspended: the ledger may have
    /// released it since.
    pub(super) fn mark_suspended(&mut self, rules: &LeaseRules, woke_at: Duration) {
        if self.admit_until.get() < woke_at + rules.admit_for {
            self.admit_until = CompactTime::ZERO;
        }
    }

    /// Returns the slice that a request begins with, if there is enough of `spare` and (3) it can
    /// still be admitted.
    pub(super) fn slice_for(
        &self,
        want: SliceRequest,
        spare: Credits,
        now: Duration,
    ) -> Option<Credits> {
        let slice = spare.min(want.hold);
        (now < self.admit_until.get() && slice >= want.min_slice).then_some(slice)
    }

    /// Grants `hold` without the ledger, if all such grants stay within `allowance`.
    pub(super) fn grant_unbacked(&mut self, hold: Credits, allowance: Credits) -> bool {
        let unbacked = self.unbacked.saturating_add(hold);
        let is_within = unbacked <= allowance;
        if is_within && allowance < Credits::MAX {
            self.unbacked = unbacked;
        }
        is_within
    }

    /// Returns `true` if part of an allowance was granted.
    pub(super) fn has_granted_unbacked(&self) -> bool {
        !self.unbacked.is_zero()
    }

    /// Counts the allowance that the lease before this one granted.
    pub(super) fn continue_allowance(&mut self, before: &Self) {
        self.unbacked = before.unbacked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn nanos(nanos: i64) -> Credits {
        Credits::clamped(nanos)
    }

    const WANT: SliceRequest = SliceRequest {
        hold: nanos(100),
        min_slice: nanos(5),
        first_refill_after: Duration::from_secs(1),
        max_concurrent: None,
        rate: None,
        most_running: None,
    };

    #[test]
    fn what_is_given_up_comes_back_only_with_an_answer() {
        let mut hold = Hold::new();
        hold.renew(nanos(300), Duration::from_secs(10));
        assert_eq!(hold.spare(nanos(50), nanos(100)), nanos(150));
        hold.lower_to(nanos(200));
        hold.lower_to(nanos(250));
        assert_eq!(hold.spare(nanos(50), nanos(100)), nanos(50));
        assert_eq!(hold.spare(nanos(150), nanos(100)), nanos(0), "the rest is debt");
    }

    #[test]
    fn a_request_gets_what_there_is_if_that_is_enough_to_begin_and_in_time() {
        let (rules, s) = (LeaseRules::default(), Duration::from_secs);
        let mut hold = Hold::new();
        hold.renew(nanos(300), s(10));
        for (spare, slice) in [(300, Some(100)), (60, Some(60)), (5, Some(5)), (4, None)] {
            assert_eq!(hold.slice_for(WANT, nanos(spare), s(9)), slice.map(nanos));
        }
        assert_eq!(hold.slice_for(WANT, nanos(300), s(10)), None);
        hold.mark_suspended(&rules, s(0));
        assert!(hold.slice_for(WANT, nanos(300), s(9)).is_some(), "granted since it woke");
        hold.mark_suspended(&rules, s(1));
        assert!(hold.slice_for(WANT, nanos(300), s(9)).is_none());
    }

    #[test]
    fn without_an_upper_bound_no_allowance_is_counted() {
        let mut hold = Hold::new();
        assert!(hold.grant_unbacked(nanos(100), Credits::MAX) && !hold.has_granted_unbacked());
        assert!(hold.grant_unbacked(nanos(100), nanos(100)) && hold.has_granted_unbacked());
        assert!(!hold.grant_unbacked(nanos(1), nanos(100)));
    }

    #[test]
    fn under_a_new_name_nothing_is_on_hold_beyond_what_is_spent() {
        let mut hold = Hold::new();
        hold.renew(nanos(300), Duration::from_secs(10));
        hold.rename(nanos(50));
        assert_eq!(hold.spare(nanos(50), nanos(0)), nanos(0));
        assert_eq!(hold.spare(nanos(0), nanos(0)), nanos(50));
    }
}
