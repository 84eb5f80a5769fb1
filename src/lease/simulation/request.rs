//! A request of the simulation: one tick of it costs one nano-dollar.

use std::{cell::Cell, rc::Rc, time::Duration};

use fastrand::Rng;

use super::{HOLD, at, nanos, ticks};
use crate::{
    Credits,
    lease::{RefillDenial, ReusesMemory, Run},
    ledger::{LineKey, Usage},
};

/// A request: it runs for `length` ticks.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) stop: bool,
    length: i64,
    /// `true` if it is settled as it goes.
    pub(super) settles: bool,
    start: Cell<Option<Duration>>,
    end: Cell<Option<Duration>>,
    /// The time that its service reported on top of what is measured.
    reported: Cell<i64>,
    slice: Cell<i64>,
    /// The part of its slice that is debt.
    owed: Cell<i64>,
    denied: Cell<Option<RefillDenial>>,
    /// Its slice is used up, and the ledger was asked since.
    overdue: Cell<bool>,
    /// The tick at which a report made it need more at once.
    needed_at: Cell<Duration>,
    /// Since when it needs more.
    needs_since: Cell<Option<Duration>>,
}

/// The way in which a request goes on at a tick.
pub(super) enum Step {
    Runs,
    /// It runs no further before the ledger has been asked.
    AskNow,
    /// It ends. With `ask`, the ledger is asked for what its slice does not cover.
    Ends {
        ask: bool,
    },
}

impl Request {
    pub(super) fn new(stop: bool, length: i64, settles: bool) -> Self {
        Self { stop, length, settles, ..Self::default() }
    }

    pub(super) fn cost(&self, now: Duration) -> i64 {
        let now = self.end.get().unwrap_or(now);
        self.start.get().map_or(0, |start| ticks(now.saturating_sub(start)) + self.reported.get())
    }

    pub(super) fn slice(&self) -> i64 {
        self.slice.get()
    }

    /// Returns how much of its slice is debt.
    pub(super) fn owed(&self) -> i64 {
        self.owed.get()
    }

    pub(super) fn has_report(&self) -> bool {
        self.reported.get() != 0
    }

    /// Returns what it used beyond its slice, if it is billed for that, and what of its slice is
    /// debt.
    pub(super) fn debt(&self, now: Duration) -> i64 {
        let beyond = if self.stop { 0 } else { (self.cost(now) - self.slice.get()).max(0) };
        beyond + self.owed.get()
    }

    fn is_over(&self, now: Duration) -> bool {
        self.cost(now) >= self.slice.get()
    }

    /// Its service reports what was not measured.
    pub(super) fn report(&self, rng: &mut Rng, now: Duration) {
        let was_over = self.is_over(now);
        self.reported.set(rng.i64(1..3 * HOLD));
        if !was_over && self.is_over(now) {
            self.needed_at.set(now);
            self.needs_since.set(None);
        }
    }

    /// Goes on as a charge does: one that stops at its slice ends there if the ledger was asked and
    /// has no more, and not before. The oracle: that question was sent after it came to need more.
    pub(super) fn step(&self, now: Duration) -> Step {
        let cost = self.cost(now);
        if self.needs_since.get().is_none() && cost >= self.slice.get() - HOLD / 2 {
            self.needs_since.set(Some(now));
        }
        let is_over = self.stop && cost >= self.slice.get();
        let in_time = cost - self.slice.get() <= 2;
        if self.denied.get().is_some_and(|denial| denial.requested_at.get() < self.needed_at.get())
        {
            self.denied.set(None);
            self.overdue.set(false);
        }
        let denied = self.denied.get().filter(|denial| {
            self.overdue.get() || (in_time && now <= denial.requested_at.get() + at(16))
        });
        if cost >= self.length || (is_over && denied.is_some()) {
            if let Some(denial) = denied.filter(|_| is_over && cost < self.length) {
                assert!(
                    denial.requested_at.get() >= self.needs_since.get().unwrap(),
                    "cut before the ledger was asked: {self:?}, {now:?}"
                );
            }
            return Step::Ends { ask: denied.is_none() };
        }
        if is_over && !self.overdue.replace(true) {
            self.denied.set(None);
            return Step::AskNow;
        }
        Step::Runs
    }
}

impl ReusesMemory for Rc<Request> {}

impl Run for Rc<Request> {
    fn accrued(&self, now: Duration) -> Credits {
        nanos(self.cost(now))
    }

    fn time_until(&self, cost: Credits, now: Duration) -> Duration {
        Duration::from_millis((cost.as_nano_usd() - self.cost(now)).max(0).unsigned_abs())
    }

    fn granted(&mut self, slice: Credits, now: Duration) {
        if self.start.get().is_none() {
            self.start.set(Some(now));
        }
        self.slice.set(slice.as_nano_usd());
        self.denied.set(None);
        self.overdue.set(false);
        // One that got less than it asked for needs more all the while.
        if self.slice.get() - self.cost(now) >= HOLD {
            self.needs_since.set(None);
        }
    }

    fn in_debt(&mut self, slice: Credits) {
        let slice = slice.as_nano_usd();
        self.owed.set(self.owed.get() + slice - self.slice.replace(slice));
    }

    fn denied(&mut self, denial: RefillDenial) {
        self.denied.set(Some(denial));
        // It asked because it needed more, and still does.
        self.needs_since.set(self.needs_since.get().or(Some(denial.requested_at.get())));
    }

    fn stops_at_slice(&self) -> bool {
        self.stop
    }

    fn settleable(&self, now: Duration) -> Option<Usage> {
        self.settles.then(|| Usage {
            requests: 1,
            compute_micros: self.cost(now).unsigned_abs(),
            cost: nanos(self.cost(now)),
        })
    }

    fn end(&mut self, now: Duration) -> Option<Usage> {
        self.end.set(Some(self.end.get().unwrap_or(now)));
        Some(Usage {
            requests: 1,
            compute_micros: self.cost(now).unsigned_abs(),
            cost: nanos(self.cost(now)),
        })
    }

    fn line(&self) -> LineKey {
        LineKey::Other
    }

    fn line_number(&self) -> u64 {
        0
    }
}
