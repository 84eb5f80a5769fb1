//! Truths that hold whatever is lost: counted beside the leases and the ledger, from the requests.

use std::time::Duration;

use super::{Setting, request::Request};
use crate::{
    Credits,
    ledger::{Statement, StatementLine, Usage},
};

/// The sums of what the requests of a run were billed and used.
#[derive(Default)]
pub(super) struct Oracle {
    debited: i64,
    debt: i64,
    overspent: i64,
    lost: i64,
    /// Spent by nodes that were killed before their journals had it: it is debited, or not.
    unwritten: i64,
    /// The most that the account might use at any time so far, refunds included.
    limit: i64,
}

impl Oracle {
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

    /// Compares what is billed and what runs, debt apart, with what the account may use.
    pub(super) fn audit<'a>(
        &mut self,
        allowed: Credits,
        unbilled: impl Iterator<Item = &'a Request>,
        now: Duration,
    ) {
        self.limit = self.limit.max(allowed.as_nano_usd());
        let used: i64 =
            unbilled.map(|request| request.cost(now).min(request.slice()) - request.owed()).sum();
        // What the ledger never learns of, others may use again.
        let billed = self.debited - self.unwritten - self.debt;
        self.overspent = self.overspent.max(billed + used - self.limit);
    }

    /// Compares with what stands on the statement at the end.
    pub(super) fn outcome(self, statement: &Statement, leases: usize) -> Outcome {
        let sum = |lines: &mut dyn Iterator<Item = &StatementLine>| {
            lines.map(|line| line.usage.cost.as_nano_usd()).sum()
        };
        let recovered = |line: &&StatementLine| line.model.as_str() == "recovered";
        Outcome {
            used: statement.used.as_nano_usd(),
            debited: self.debited,
            unwritten: self.unwritten,
            itemised: sum(&mut statement.lines.iter()),
            recovered: sum(&mut statement.lines.iter().filter(recovered)),
            held: statement.held.as_nano_usd(),
            leases,
            overspent: self.overspent,
            lost: self.lost,
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
}

/// The results of all runs of a row.
#[derive(Default)]
pub(super) struct Outcomes {
    runs: u64,
    inexact: u64,
    worst_overspent: i64,
    most_lost: i64,
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
        self.runs += 1;
        self.inexact += u64::from(used != debited);
        self.worst_overspent = self.worst_overspent.max(outcome.overspent);
        self.most_lost = self.most_lost.max(outcome.lost);
    }

    /// No overspending where the design promises none, and no more lost with a node than it says.
    pub(super) fn check(&self, setting: &Setting) {
        let Self { runs, inexact, worst_overspent, most_lost } = self;
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
            "{setting:?}: {runs} runs, {inexact} not exact, \
             worst overspending {worst_overspent}, most lost by a request {most_lost}"
        );
    }
}
