//! Truths that hold whatever is lost: counted beside the leases and the ledger, from the requests.

use std::{iter::Sum, time::Duration};

use super::{Setting, request::Request};
use crate::{
    Credits,
    ledger::{Statement, StatementLine, StatementPart, Usage},
};

/// The sums of what the requests of one node were billed and used.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    debited: i64,
    debt: i64,
    lost: i64,
    /// Spent by nodes that were killed before their journals had it: it is debited, or not.
    unwritten: i64,
}

/// Usage of some of the nodes in all, beside what they might use.
#[derive(Default)]
pub(super) struct Oracle {
    overspent: i64,
    /// The most that might be used at any time so far, refunds included.
    limit: i64,
    /// The most that might be used on each day.
    days: [Credits; 2],
}

/// Bills of the nodes of a part of the account, beside what the ledger has.
#[derive(Debug)]
pub(super) struct PartOutcome {
    used: i64,
    held: i64,
    debited: i64,
    unwritten: i64,
    overspent: i64,
    /// Used of its children.
    children: i64,
}

impl Tally {
    /// A request was billed.
    pub(super) fn billed(&mut self, billed: Option<Usage>) {
        self.debited += billed.unwrap().cost.as_nano_usd();
    }

    /// A request ended.
    pub(super) fn ended(&mut self, request: &Request, now: Duration) {
        self.debt += request.debt(now);
    }

    /// A request was killed with its node, with this much settled: it is billed no more.
    pub(super) fn killed(&mut self, request: &Request, settled: Credits, now: Duration) {
        let settled = settled.as_nano_usd();
        self.debited += settled;
        self.debt += (settled - request.slice()).max(0) + request.owed();
        let used =
            if request.stop { request.cost(now).min(request.slice()) } else { request.cost(now) };
        if request.settles && !request.has_report() {
            self.lost = self.lost.max(used - settled);
        }
    }

    /// A node was killed before its journal had this much of what it had spent.
    pub(super) fn unwritten(&mut self, spent: Credits) {
        self.unwritten += spent.as_nano_usd();
    }

    fn add(self, other: Self) -> Self {
        Self {
            debited: self.debited + other.debited,
            debt: self.debt + other.debt,
            lost: self.lost.max(other.lost),
            unwritten: self.unwritten + other.unwritten,
        }
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), Self::add)
    }
}

impl Oracle {
    /// Notes that so much may be used on a day, of which the first is 1.
    pub(super) fn note_day(&mut self, day: u32, most: Credits) {
        let known = &mut self.days[day as usize - 1];
        *known = most.max(*known);
    }

    /// Returns the most that might be used on all days so far.
    pub(super) fn most_on_all_days(&self) -> Credits {
        self.days.iter().fold(Credits::ZERO, |sum, most| sum.saturating_add(*most))
    }

    /// Compares what is billed and what runs, debt apart, with what might be used.
    pub(super) fn audit<'a>(
        &mut self,
        allowed: Credits,
        tally: Tally,
        unbilled: impl Iterator<Item = &'a Request>,
        now: Duration,
    ) {
        self.limit = self.limit.max(allowed.as_nano_usd());
        let used: i64 =
            unbilled.map(|request| request.cost(now).min(request.slice()) - request.owed()).sum();
        // What the ledger never learns of, others may use again.
        let billed = tally.debited - tally.unwritten - tally.debt;
        self.overspent = self.overspent.max(billed + used - self.limit);
    }

    /// Compares with what the ledger has of a part at the end, and of its children.
    pub(super) fn part_outcome(
        self,
        tally: Tally,
        part: &StatementPart,
        children: Credits,
    ) -> PartOutcome {
        PartOutcome {
            used: part.used.as_nano_usd(),
            held: part.held.as_nano_usd(),
            debited: tally.debited,
            unwritten: tally.unwritten,
            overspent: self.overspent,
            children: children.as_nano_usd(),
        }
    }

    /// Compares with what stands on the statement at the end.
    pub(super) fn outcome(
        self,
        tally: Tally,
        statement: &Statement,
        leases: usize,
        parts: Vec<PartOutcome>,
    ) -> Outcome {
        let sum = |lines: &mut dyn Iterator<Item = &StatementLine>| {
            lines.map(|line| line.usage.cost.as_nano_usd()).sum()
        };
        let recovered = |line: &&StatementLine| line.model.as_str() == "recovered";
        Outcome {
            used: statement.used.as_nano_usd(),
            debited: tally.debited,
            unwritten: tally.unwritten,
            itemised: sum(&mut statement.lines.iter()),
            recovered: sum(&mut statement.lines.iter().filter(recovered)),
            held: statement.held.as_nano_usd(),
            leases,
            overspent: self.overspent,
            lost: tally.lost,
            parts,
        }
    }
}

/// The result of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The account's usage, as its statement says.
    used: i64,
    /// The sum of the requests' bills.
    debited: i64,
    /// The part of that which may not have reached the ledger.
    unwritten: i64,
    /// The sum of the statement's lines.
    itemised: i64,
    /// The part of that whose details a failover forgot.
    recovered: i64,
    held: i64,
    /// The number of leases that the ledger remembers.
    leases: usize,
    overspent: i64,
    /// The most that one request lost with its node.
    lost: i64,
    parts: Vec<PartOutcome>,
}

/// The results of all runs of a row.
#[derive(Default)]
pub(super) struct Outcomes {
    runs: u64,
    inexact: u64,
    worst_overspent: i64,
    most_lost: i64,
    /// Parts that were audited.
    parts: usize,
}

impl Outcomes {
    /// Every total and line is exact, nothing is held or remembered at the end.
    pub(super) fn add(&mut self, outcome: &Outcome, setting: &Setting, seed: u64) {
        let Outcome { used, debited, unwritten, itemised, recovered, held, leases, .. } = *outcome;
        let exact =
            used == itemised && (debited - unwritten..=debited).contains(&used) && held == 0;
        // Of a renewal whose answer was lost just before its lease was, nobody can tell any more if
        // it was debited.
        let exact = exact || (setting.storage_losses && setting.loss > 0.0 && held == 0);
        assert_eq!(itemised, used, "{setting:?}, seed {seed}");
        // A failover may forget a goodbye, a node may be killed before it, and a clock that steps
        // lets one come late: that entry, which holds nothing, stays until the period's leases
        // expire.
        let forgets = setting.failover || setting.storage_losses;
        let tidy = leases == 0 || forgets || setting.glitches || !setting.down.is_empty();
        // A batch of the journal may have reached the ledger with less than the journal has.
        let nothing_forgotten = recovered == 0 || forgets || setting.journal > 0;
        assert!(exact && tidy && nothing_forgotten, "{setting:?}, seed {seed}: {outcome:?}");
        for part in &outcome.parts {
            let PartOutcome { used, held, debited, unwritten, children, .. } = *part;
            let exact = (debited - unwritten..=debited).contains(&used) && children <= used;
            // The storage lost what parts used, or repaired the account without them.
            let exact = (exact || setting.storage_losses) && held == 0;
            assert!(exact, "{setting:?}, seed {seed}: {outcome:?}");
            self.parts += 1;
            self.worst_overspent = self.worst_overspent.max(part.overspent);
        }
        self.runs += 1;
        self.inexact += u64::from(used != debited);
        self.worst_overspent = self.worst_overspent.max(outcome.overspent);
        self.most_lost = self.most_lost.max(outcome.lost);
    }

    /// No overspending where the design promises none, and no more lost with a node than it says.
    pub(super) fn check(&self, setting: &Setting) {
        let Self { runs, inexact, worst_overspent, most_lost, parts } = self;
        if setting.loss == 0.0 && !setting.jolts {
            // Half a hold, and what it takes to ask and to be answered.
            let most = super::HOLD / 2 + 8;
            assert!(*most_lost <= most, "{setting:?}: a request lost {most_lost} with its node");
        }
        let silent_beyond_ttl = setting.down.contains(&300);
        // Whose holds are lost, or expire by a clock that was ahead, cannot be kept for them.
        let clock_steps = setting.glitches && setting.loss == 0.0;
        if !(setting.failover || silent_beyond_ttl || setting.storage_losses || clock_steps) {
            assert!(*worst_overspent <= 0, "{setting:?} overspent by {worst_overspent}");
        }
        let is_rare = inexact * 20 <= (*runs).max(20) || setting.journal > 0;
        assert!(is_rare, "{setting:?}: {inexact} of {runs} inexact");
        eprintln!(
            "{setting:?}: {runs} runs with {parts} parts, {inexact} not exact, \
             worst overspending {worst_overspent}, most lost by a request {most_lost}"
        );
    }
}
