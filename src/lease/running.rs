//! One request that runs on a lease: its slice, what of it is settled, and what more it needs.

use std::time::Duration;

use super::run::{RefillDenial, Run, SliceRequest};
use crate::{Credits, compact_time::CompactTime, ledger::Usage};

/// A running request and its slice.
///
/// The slice is all that the request was granted so far. What of it is settled already is spent;
/// the rest is *open*, and counts in the lease's [slices](super::slices::Slices).
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Running<R> {
    run: R,
    /// No other request of this account has it.
    serial: u64,
    state: State,
    slice: Credits,
    /// Part of its usage that is settled already, all of it within the slice.
    settled: Usage,
    /// Credits to which it is refilled beyond its use; zero once it needs nothing more.
    hold: Credits,
    /// The earliest next refill: later than now after a short grant.
    refill_from: CompactTime,
    /// Credits that the renewal in flight asks for.
    requested: Credits,
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(test, derive(Hash))]
enum State {
    Running,
    /// It ended with more used than its slice, and the ledger is asked for the rest. `is_claimed`
    /// if its owner has ended it, and not the end of its node.
    Pending {
        used: Usage,
        is_claimed: bool,
    },
    /// It was billed this before its owner ended it.
    Over(Option<Usage>),
}

impl<R: Run> Running<R> {
    /// Begins a request with a slice, of the `hold` that it wants.
    pub(super) fn new(
        serial: u64,
        slice: Credits,
        hold: Credits,
        mut run: R,
        now: Duration,
    ) -> Self {
        run.granted(slice, now);
        let is_short = slice < hold;
        // The ledger had less than was asked for, so it is not asked again at once.
        let refill_from = if is_short {
            now.saturating_add(run.time_until(slice.half(), now))
        } else {
            Duration::ZERO
        };
        Self {
            serial,
            state: State::Running,
            slice,
            settled: Usage::default(),
            hold: run.refilled_to(hold),
            run,
            refill_from: refill_from.into(),
            requested: Credits::ZERO,
        }
    }

    pub(super) fn run(&self) -> &R {
        &self.run
    }

    pub(super) fn run_mut(&mut self) -> &mut R {
        &mut self.run
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn hold(&self) -> Credits {
        self.hold
    }

    /// Returns what of its slice is not settled yet.
    pub(super) fn open(&self) -> Credits {
        self.slice.saturating_sub(self.settled.cost)
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running)
    }

    /// Returns `true` if it has ended and the ledger is asked for the rest of its cost.
    pub(super) fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending { .. })
    }

    /// Adds to its slice, and returns by how much the open part grew.
    pub(super) fn grant(&mut self, more: Credits, now: Duration) -> Credits {
        if more.is_zero() {
            return Credits::ZERO;
        }
        let open = self.open();
        self.slice = self.slice.saturating_add(more);
        self.run.granted(self.slice, now);
        self.open().saturating_sub(open)
    }

    /// Frees what it holds beyond what is settled: it needs nothing more.
    pub(super) fn release(&mut self) {
        self.slice = self.settled.cost;
        self.stop_refills();
    }

    fn stop_refills(&mut self) {
        (self.hold, self.requested) = (Credits::ZERO, Credits::ZERO);
    }

    /// Lets it ask for a refill now, though a short grant was to be followed by a pause.
    pub(super) fn refill_now(&mut self) {
        self.refill_from = CompactTime::ZERO;
    }

    /// Notes that its owner has ended it, and is told what it was billed once that is known.
    pub(super) fn claim(&mut self) {
        if let State::Pending { is_claimed, .. } = &mut self.state {
            *is_claimed = true;
        }
    }

    /// Returns what it used, if the ledger is asked for the rest of its cost, and `true` with it if
    /// its owner has ended it.
    pub(super) fn pending(&self) -> Option<(Usage, bool)> {
        match self.state {
            State::Pending { used, is_claimed } => Some((used, is_claimed)),
            State::Running | State::Over(_) => None,
        }
    }

    /// Returns what it was billed, once it is.
    pub(super) fn billed(&self) -> Option<Option<Usage>> {
        match self.state {
            State::Over(billed) => Some(billed),
            State::Running | State::Pending { .. } => None,
        }
    }

    /// Ends its use, and returns all of it. It is [settled](Self::settle) next, or
    /// [waits](Self::wait_for_rest) for the ledger.
    pub(super) fn end(&mut self, now: Duration) -> Option<Usage> {
        self.stop_refills();
        self.run.end(now)
    }

    /// Returns how much of `used` its slice does not cover, if it stops there; zero if it finishes.
    pub(super) fn uncovered(&self, used: Usage) -> Credits {
        if self.run.stops_at_slice() { used.cost.saturating_sub(self.slice) } else { Credits::ZERO }
    }

    /// Notes that it waits, having ended, for the ledger to say how much of `used` can be paid.
    pub(super) fn wait_for_rest(&mut self, used: Usage) {
        self.state = State::Pending { used, is_claimed: false };
    }

    /// Bills it for `used`, or for its slice if it stops there; never less than is settled already.
    /// Returns what is to be settled beyond that. Its slice is free.
    pub(super) fn settle(&mut self, used: Option<Usage>) -> Option<Usage> {
        let billed = used.map(|used| {
            let used = self.within_slice(used);
            Usage {
                compute_micros: used.compute_micros.max(self.settled.compute_micros),
                cost: used.cost.max(self.settled.cost),
                ..used
            }
        });
        self.slice = Credits::ZERO;
        self.state = State::Over(billed);
        billed.map(|billed| billed.less(self.settled))
    }

    /// (9) Settles what it has used so far, and returns how much more that is. It is not counted as
    /// a request before it ends.
    pub(super) fn settle_so_far(&mut self, now: Duration) -> Option<Usage> {
        let used = match self.state {
            State::Running => self.run.settleable(now)?,
            // It is billed this at least, as far as its slice goes.
            State::Pending { used, .. } => used,
            State::Over(_) => return None,
        };
        let more = Usage { requests: 0, ..self.within_slice(used).less(self.settled) };
        if more.cost.is_zero() {
            return None;
        }
        self.settled.add(more);
        if self.settled.cost > self.slice {
            self.slice = self.settled.cost;
            self.run.in_debt(self.slice);
        }
        Some(more)
    }

    fn within_slice(&self, used: Usage) -> Usage {
        if self.run.stops_at_slice() {
            Usage { cost: used.cost.min(self.slice), ..used }
        } else {
            used
        }
    }

    /// Returns how much it asks for in the renewal that is being composed.
    pub(super) fn request_refill(&mut self, now: Duration) -> Credits {
        self.requested = self.due_refill(now).unwrap_or(Credits::ZERO);
        self.requested
    }

    /// Returns how much the renewal in flight asked for, and forgets it.
    pub(super) fn take_request(&mut self) -> Credits {
        std::mem::take(&mut self.requested)
    }

    /// (10) Tells it that the ledger had less than it was asked for at `requested_at`, and lets it
    /// ask again after a pause: half of what its slice still lasts, if that is longer.
    pub(super) fn refuse_refill(&mut self, requested_at: Duration, pause: Duration, now: Duration) {
        self.run.denied(RefillDenial { requested_at: requested_at.into(), answered: true });
        let runway = self.run.time_until(self.slice, now);
        self.refill_from = (now + pause.max(runway / 2)).into();
    }

    /// Tells it that the ledger did not answer.
    pub(super) fn deny_unanswered(&mut self, requested_at: Duration) {
        self.run.denied(RefillDenial { requested_at: requested_at.into(), answered: false });
    }

    /// Returns what it needs now, if it is due for more.
    pub(super) fn due_refill(&self, now: Duration) -> Option<Credits> {
        self.is_due(now).then(|| self.missing(now))
    }

    /// Returns what it takes to give it a full hold or, once it has ended, to pay all of its cost.
    pub(super) fn missing(&self, now: Duration) -> Credits {
        match self.state {
            State::Running => {
                self.run.accrued(now).saturating_add(self.hold).saturating_sub(self.slice)
            }
            State::Pending { used, .. } => used.cost.saturating_sub(self.slice),
            State::Over(_) => Credits::ZERO,
        }
    }

    /// It needs more when only half of its hold is left.
    fn is_due(&self, now: Duration) -> bool {
        self.is_pending()
            || (now >= self.refill_from.get()
                && self.run.accrued(now) >= self.refill_level()
                && (!self.hold.is_zero() || self.run.accrued(now) > self.slice))
    }

    /// Returns the cost at which half of its hold is left.
    fn refill_level(&self) -> Credits {
        self.slice.saturating_sub(self.hold.half())
    }

    /// Returns when it needs a renewal: to be refilled, or (9) to be settled.
    pub(super) fn due_at(&self, now: Duration) -> Duration {
        if self.is_pending() {
            return now;
        }
        if self.hold.is_zero() {
            // It needs more only if it came to cost more, which nobody could foresee.
            let is_beyond = self.is_running() && self.run.accrued(now) > self.slice;
            return if is_beyond { now.max(self.refill_from.get()) } else { Duration::MAX };
        }
        let refill_at = now
            .saturating_add(self.run.time_until(self.refill_level(), now))
            .max(self.refill_from.get());
        let Some(used) = self.run.settleable(now).filter(|_| self.is_running()) else {
            return refill_at;
        };
        // However its slice was filled, half a hold is settled at the latest: that is the most that
        // a node that is killed loses of it.
        let settle_level =
            self.settled.cost.saturating_add(self.hold.half().max(Credits::SMALLEST));
        let is_beyond_slice = self.run.stops_at_slice() && settle_level > self.slice;
        let settle_in = self.run.time_until(settle_level, now);
        // What is beyond its slice, or beyond the most that it may cost, cannot be settled. It must
        // not keep the worker busy.
        if is_beyond_slice || (settle_in.is_zero() && used.cost < settle_level) {
            refill_at
        } else {
            refill_at.min(now.saturating_add(settle_in))
        }
    }

    /// Returns when a request that was just admitted with this `want` needs a renewal.
    pub(super) fn first_due_at(&self, want: SliceRequest, now: Duration) -> Duration {
        if self.slice >= want.hold {
            now.saturating_add(want.first_refill_after)
        } else {
            self.due_at(now)
        }
    }

    pub(super) fn into_run(self) -> R {
        self.run
    }

    #[cfg(test)]
    pub(super) fn slice(&self) -> Credits {
        self.slice
    }

    #[cfg(test)]
    pub(super) fn settled_cost(&self) -> Credits {
        self.settled.cost
    }
}
