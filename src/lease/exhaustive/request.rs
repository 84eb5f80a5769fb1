//! A request of the model: one tick of it costs one nano-dollar.

use std::time::Duration;

use super::{HOLD, TICK, nanos};
use crate::{
    Credits,
    lease::{RefillDenial, ReusesMemory, Run},
    ledger::{LineKey, Usage},
};

/// A request: it runs for `length` ticks.
#[derive(Clone, Debug, Hash)]
pub(in crate::lease) struct Request {
    stop: bool,
    length: i64,
    start: Option<Duration>,
    end: Option<Duration>,
    slice: i64,
    /// The part of its slice that is debt.
    owed: i64,
    denied: Option<RefillDenial>,
    /// Its slice is used up, and the ledger was asked since.
    is_overdue: bool,
    /// Since when it needs more.
    needs_since: Option<Duration>,
    /// It was cut, and the ledger had not been asked since it came to need more.
    pub(super) is_wronged: bool,
}

/// The way in which a request goes on.
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
    pub(in crate::lease) fn new(stop: bool, length: i64) -> Self {
        Self {
            stop,
            length,
            start: None,
            end: None,
            slice: 0,
            owed: 0,
            denied: None,
            is_overdue: false,
            needs_since: None,
            is_wronged: false,
        }
    }

    pub(super) fn cost(&self, now: Duration) -> i64 {
        let now = self.end.unwrap_or(now);
        let ticks = |start| now.saturating_sub(start).as_millis() / TICK.as_millis();
        self.start.map_or(0, |start| i64::try_from(ticks(start)).unwrap())
    }

    /// Returns what it used of the credits that it was granted, debt apart.
    pub(super) fn used_of_slice(&self, now: Duration) -> i64 {
        self.cost(now).min(self.slice) - self.owed
    }

    /// Returns what it used beyond its slice, if it is billed for that, and what of its slice is
    /// debt.
    pub(super) fn debt(&self, now: Duration) -> i64 {
        let beyond = if self.stop { 0 } else { (self.cost(now) - self.slice).max(0) };
        beyond + self.owed
    }

    /// Returns the debt of a request that is killed with `settled` of it settled.
    pub(super) fn debt_of_settled(&self, settled: Credits) -> i64 {
        (settled.as_nano_usd() - self.slice).max(0) + self.owed
    }

    /// Goes on as a charge does: one that stops at its slice ends there if the ledger was asked and
    /// has no more, and not before.
    pub(super) fn step(&mut self, now: Duration) -> Step {
        let cost = self.cost(now);
        if self.needs_since.is_none() && cost >= self.slice - HOLD / 2 {
            self.needs_since = Some(now);
        }
        let is_over = self.stop && cost >= self.slice;
        let denied = self.denied.filter(|_| self.is_overdue);
        if cost >= self.length || (is_over && denied.is_some()) {
            let asked_at = denied.filter(|_| is_over && cost < self.length);
            self.is_wronged |=
                asked_at.is_some_and(|denial| Some(denial.requested_at.get()) < self.needs_since);
            return Step::Ends { ask: denied.is_none() };
        }
        if is_over && !std::mem::replace(&mut self.is_overdue, true) {
            self.denied = None;
            return Step::AskNow;
        }
        Step::Runs
    }
}

impl ReusesMemory for Request {}

impl Run for Request {
    fn accrued(&self, now: Duration) -> Credits {
        nanos(self.cost(now))
    }

    fn time_until(&self, cost: Credits, now: Duration) -> Duration {
        TICK * u32::try_from((cost.as_nano_usd() - self.cost(now)).max(0)).unwrap()
    }

    fn granted(&mut self, slice: Credits, now: Duration) {
        self.start.get_or_insert(now);
        self.slice = slice.as_nano_usd();
        (self.denied, self.is_overdue) = (None, false);
        // One that got less than it asked for needs more from then on.
        let runway = self.slice - self.cost(now);
        if runway >= HOLD {
            self.needs_since = None;
        } else if runway <= HOLD / 2 {
            self.needs_since.get_or_insert(now);
        }
    }

    fn in_debt(&mut self, slice: Credits) {
        let slice = slice.as_nano_usd();
        self.owed += slice - std::mem::replace(&mut self.slice, slice);
    }

    fn denied(&mut self, denial: RefillDenial) {
        self.denied = Some(denial);
        self.needs_since = self.needs_since.or(Some(denial.requested_at.get()));
    }

    fn stops_at_slice(&self) -> bool {
        self.stop
    }

    fn settleable(&self, now: Duration) -> Option<Usage> {
        Some(self.usage(now))
    }

    fn end(&mut self, now: Duration) -> Option<Usage> {
        self.end.get_or_insert(now);
        Some(self.usage(now))
    }

    fn line(&self) -> LineKey {
        LineKey::Other
    }

    fn line_number(&self) -> u64 {
        0
    }
}

impl Request {
    fn usage(&self, now: Duration) -> Usage {
        let cost = self.cost(now);
        Usage { requests: 1, compute_micros: cost.unsigned_abs(), cost: nanos(cost) }
    }
}
