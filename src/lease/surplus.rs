//! The credits that a lease holds beyond the slices of its requests.

use std::time::Duration;

use super::rules::LeaseRules;
use crate::{Credits, compact_time::CompactTime, ledger::SURPLUS_DIVISOR};

/// The surplus of a lease: how large it is to be, and when it is filled up or given back.
///
/// It follows the [`HoldAhead`](crate::HoldAhead) of the rules while the lease is in use. Some time
/// after the last use it shrinks to its least, and then to nothing.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Surplus {
    burn: Burn,
    /// With less than this to spare, more is asked for before anybody has to wait.
    low: Credits,
    /// Last moment at which a request began or ended.
    used_at: CompactTime,
    /// Credits that the account had left when the ledger last answered under this name of the
    /// lease.
    left: Option<Credits>,
}

impl Surplus {
    pub(super) fn new(now: Duration) -> Self {
        Self { burn: Burn::new(now), low: Credits::ZERO, used_at: now.into(), left: None }
    }

    /// Notes that a request begins or ends.
    pub(super) fn used(&mut self, now: Duration) {
        self.used_at = now.into();
    }

    pub(super) fn used_at(&self) -> Duration {
        self.used_at.get()
    }

    /// Notes that a request wants this much on hold.
    pub(super) fn wants(&mut self, hold: Credits) {
        self.burn.wants(hold);
    }

    /// Notes what all requests that run or wait want on hold now.
    pub(super) fn sample(&mut self, holds: Credits, rules: &LeaseRules, now: Duration) {
        self.burn.sample(holds, rules.burn_span(), now);
    }

    /// Notes what the account has left, as the ledger answered.
    pub(super) fn note_left(&mut self, left: Credits) {
        self.left = Some(left);
    }

    /// (8) Begins anew, under a new name of the lease.
    pub(super) fn rename(&mut self) {
        self.left = None;
    }

    /// Returns the surplus to ask for, and to keep of the `spare` that is there. If a request
    /// waits, the lease is in use.
    ///
    /// It is at most a share of what the account has left, spare credits included. They are kept by
    /// right: if they were not counted, shares of the rest, asked for again and again, would add up
    /// to all of it.
    pub(super) fn target(
        &self,
        rules: &LeaseRules,
        has_waiting: bool,
        spare: Credits,
        now: Duration,
    ) -> Credits {
        let Some(ahead) = rules.ahead else { return Credits::ZERO };
        let unused_for =
            if has_waiting { Duration::ZERO } else { now.saturating_sub(self.used_at.get()) };
        let target = if unused_for < rules.burn_span() {
            ahead.surplus(self.burn.hold(), self.burn.together())
        } else if unused_for < rules.admit_for {
            ahead.least(self.burn.hold())
        } else {
            return Credits::ZERO;
        };
        self.left
            .map_or(target, |left| target.min(left.saturating_add(spare).part(SURPLUS_DIVISOR)))
    }

    /// Takes note of how much of the `target` an answer left to spare: the next is asked for when
    /// half of it is taken.
    pub(super) fn renewed(&mut self, spare: Credits, target: Credits) {
        let half = target.half();
        // If there was not even half of it to be had, there will not be at once.
        self.low = if spare < half { Credits::ZERO } else { half };
    }

    /// Returns `true` if so much of it is taken that more is to be asked for.
    pub(super) fn is_low(&self, spare: Credits) -> bool {
        spare < self.low
    }

    /// Returns when `spare` is more than is kept after the last use.
    pub(super) fn give_back_at(&self, spare: Credits, rules: &LeaseRules) -> Duration {
        let least = rules.ahead.map(|ahead| ahead.least(self.burn.hold()));
        let shrinks = least.is_some_and(|least| is_twice(spare, least));
        self.used_at.get() + if shrinks { rules.burn_span() } else { rules.admit_for }
    }
}

/// Returns `true` if `spare` is more than twice the `target`: so much that it is worth a renewal to
/// give it back.
pub(super) fn is_twice(spare: Credits, target: Credits) -> bool {
    spare > target.saturating_add(target)
}

/// The credits that an account's requests lately held at once, which they burn while a slice
/// lasts.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
struct Burn {
    /// The most since `since`.
    peak: Peak,
    /// The most in the span before that.
    before: Peak,
    since: CompactTime,
}

#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(test, derive(Hash))]
struct Peak {
    /// Of all requests together.
    together: Credits,
    /// Of one request.
    hold: Credits,
}

impl Burn {
    fn new(now: Duration) -> Self {
        Self { peak: Peak::default(), before: Peak::default(), since: now.into() }
    }

    /// One request wants this.
    fn wants(&mut self, hold: Credits) {
        self.peak.hold = self.peak.hold.max(hold);
    }

    /// All requests want this now. What is older than two spans in which a request came is
    /// forgotten.
    fn sample(&mut self, together: Credits, span: Duration, now: Duration) {
        self.peak.together = self.peak.together.max(together);
        if now >= self.since.get().saturating_add(span) && !self.peak.hold.is_zero() {
            *self = Self {
                peak: Peak { together, hold: Credits::ZERO },
                before: self.peak,
                since: now.into(),
            };
        }
    }

    /// Returns the most that requests lately held at once.
    fn together(&self) -> Credits {
        self.peak.together.max(self.before.together)
    }

    /// Returns the most that one of them held.
    fn hold(&self) -> Credits {
        self.peak.hold.max(self.before.hold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_remembered_for_two_spans_in_which_a_request_came() {
        let (span, s) = (Duration::from_secs(2), Duration::from_secs);
        let nanos = Credits::clamped;
        let mut burn = Burn::new(s(0));
        burn.wants(nanos(10));
        burn.sample(nanos(400), span, s(1));
        burn.sample(nanos(0), span, s(3));
        assert_eq!((burn.together(), burn.hold()), (nanos(400), nanos(10)));
        burn.sample(nanos(0), span, s(100));
        assert_eq!(burn.together(), nanos(400), "no request came since");
        burn.wants(nanos(5));
        burn.sample(nanos(5), span, s(100));
        assert_eq!((burn.together(), burn.hold()), (nanos(5), nanos(5)));
    }

    #[test]
    fn more_is_asked_for_when_half_is_taken_unless_not_even_half_was_granted() {
        let nanos = Credits::clamped;
        for (granted, spare, is_low) in
            [(49, 0, false), (50, 50, false), (50, 49, true), (100, 50, false), (100, 49, true)]
        {
            let mut surplus = Surplus::new(Duration::ZERO);
            surplus.renewed(nanos(granted), nanos(100));
            assert_eq!(surplus.is_low(nanos(spare)), is_low, "{spare} of {granted}");
        }
    }

    #[test]
    fn under_a_new_name_it_is_not_known_what_the_account_has_left() {
        let eight = crate::HoldAhead::slices(8.try_into().unwrap());
        let rules = LeaseRules { ahead: Some(eight), ..LeaseRules::default() };
        let mut surplus = Surplus::new(Duration::ZERO);
        surplus.wants(Credits::clamped(100));
        let target = |surplus: &Surplus| {
            surplus.target(&rules, true, Credits::ZERO, Duration::ZERO).as_nano_usd()
        };
        assert_eq!(target(&surplus), 800);
        surplus.note_left(Credits::clamped(40));
        assert_eq!(target(&surplus), 10, "a quarter of it");
        surplus.rename();
        assert_eq!(target(&surplus), 800);
    }
}
