//! The question whether a request that has used up its slice ends: only after the ledger was asked
//! for more, and has not given it.

use std::time::Duration;

use crate::{compact_time::CompactTime, lease::RefillDenial};

/// A request that exceeds its slice by more than this was not polled in time.
const POLLED_LATE: Duration = Duration::from_millis(50);

/// The state of a request's refill once its slice is used up.
#[derive(Debug, Default)]
pub(super) struct Refill {
    /// The ledger had less than the request needed.
    denial: Option<RefillDenial>,
    /// Moment at which the need arose at once: by a report, or after the process stood still. An
    /// answer to an older renewal does not count.
    needed_at: CompactTime,
    /// The slice is used up, and the ledger was asked for more since.
    is_requested: bool,
}

/// The next step of a request whose slice is used up.
pub(super) enum Overdue {
    /// Ask the ledger.
    Ask,
    /// Wait for its answer.
    Wait,
    /// End: the ledger has no more.
    End,
}

impl Refill {
    /// The slice grew.
    pub(super) fn granted(&mut self) {
        (self.denial, self.is_requested) = (None, false);
    }

    /// The slice did not grow as far as it was asked for.
    pub(super) fn denied(&mut self, denial: RefillDenial) {
        self.denial = Some(denial);
    }

    /// The slice is not used up.
    pub(super) fn not_due(&mut self) {
        self.is_requested = false;
    }

    /// The need arose at this moment of the leases' time.
    pub(super) fn needed(&mut self, now: Duration) {
        self.needed_at = now.into();
    }

    pub(super) const fn denial(&self) -> Option<RefillDenial> {
        self.denial
    }

    /// Decides for a request that is `over` its slice by so much. A denial that was requested at
    /// most `fresh` ago counts if the request was polled in time.
    pub(super) fn decide(&mut self, over: Duration, fresh: Duration, now: Duration) -> Overdue {
        if self.denial.is_some_and(|denial| denial.requested_at < self.needed_at) {
            (self.denial, self.is_requested) = (None, false);
        }
        let in_time = over <= POLLED_LATE;
        let is_fresh = |denial: RefillDenial| {
            in_time && now <= denial.requested_at.get().saturating_add(fresh)
        };
        if self.denial.is_some_and(|denial| self.is_requested || is_fresh(denial)) {
            return Overdue::End;
        }
        if std::mem::replace(&mut self.is_requested, true) {
            return Overdue::Wait;
        }
        if !in_time {
            // A renewal that is under way was sent before the process stood still.
            self.needed_at = now.into();
        }
        self.denial = None;
        Overdue::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn denial(requested_at: u64) -> RefillDenial {
        RefillDenial { requested_at: ms(requested_at).into(), answered: true }
    }

    #[test]
    fn a_request_ends_only_on_an_answer_to_what_was_asked_after_the_need_arose() {
        let mut refill = Refill::default();
        refill.needed(ms(100));
        refill.denied(denial(99));
        assert!(matches!(refill.decide(ms(0), ms(500), ms(110)), Overdue::Ask));
        assert!(matches!(refill.decide(ms(0), ms(500), ms(111)), Overdue::Wait));
        refill.denied(denial(112));
        assert!(matches!(refill.decide(ms(0), ms(500), ms(113)), Overdue::End));
    }

    #[test]
    fn a_denial_counts_in_advance_while_it_is_fresh() {
        let mut refill = Refill::default();
        refill.denied(denial(100));
        assert!(matches!(refill.decide(ms(0), ms(50), ms(150)), Overdue::End));
        assert!(matches!(refill.decide(ms(0), ms(50), ms(151)), Overdue::Ask));
    }

    #[test]
    fn who_was_polled_late_has_the_ledger_asked_anew() {
        let mut refill = Refill::default();
        refill.denied(denial(100));
        assert!(matches!(refill.decide(ms(51), ms(500), ms(200)), Overdue::Ask));
        refill.denied(denial(199));
        assert!(matches!(refill.decide(ms(60), ms(500), ms(210)), Overdue::Ask), "sent before");
        refill.denied(denial(211));
        assert!(matches!(refill.decide(ms(70), ms(500), ms(220)), Overdue::End));
    }
}
